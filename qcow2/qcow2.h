/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * qcow2.h: where does a guest byte live, and is it still the same image?
 *
 * A read-only qcow2/raw reader for images that a running QEMU may be writing. It knows bytes and files: no FUSE, no
 * libvirt, no logging. Source of the format: QEMU's docs/interop/qcow2.txt and the behaviour of QEMU 7.2.
 *
 * Units: every `_off` and `_len` is in bytes; `guest_off` counts in the virtual disk, `host_off` in a file.
 * Errors that a caller may branch on:
 *   -ESTALE      the snapshot or a file beneath it is not what was opened any more: open it anew, or it is gone
 *   -EUCLEAN     the image's metadata contradicts itself at this place (the rest stays readable)
 *   -EIO         a compressed cluster cannot be decoded, or the file below fails
 *   -EINVAL      not a qcow2 image, or a header that breaks a rule
 *   -ENOTSUP     valid, but a feature that is not read here (encryption, an unknown incompatible feature)
 *   -EFBIG       a table is larger than QEMU's limits
 *   -EPERM       the gate refuses a file that an image names
 *   -ELOOP       a backing chain that loops or is deeper than 200
 *   -EINTR       the caller's struct q2_work said that nobody waits for the answer any more
 * Threads: a q2_file, q2_gate, q2_cache and q2_view may be used from many threads at once; close once, last.
 */
#ifndef VS_QCOW2_H
#define VS_QCOW2_H

#include <stdatomic.h>
#include <sys/types.h>

#include "base.h"

/* ---------------------------------------------------------------- work */

/*
 * What an answer may cost, and whether somebody still waits for it. An image can be made that takes any time one likes: a
 * million L1 entries share one table, two hundred layers have tables that no cache holds. So whatever walks a map counts its
 * work, in units of some 20 ns (4 KiB of a table read and understood are 320), asks now and then whether to go on, and ends at
 * a limit. Zero-initialise; one struct is for one request, in one thread, and for as many calls as
 * belong to it. NULL instead: no limit, no end but its own.
 */
struct q2_work {
	uint64_t limit;              /* units; 0: none. What happens there each function says */
	bool (*stop)(void *opaque);  /* may be NULL. True: the call ends with -EINTR. Asked some thousand times a second */
	void *opaque;
	uint64_t spent;              /* so far */
	uint64_t asked;              /* private */
};

/* ---------------------------------------------------------------- files */

/* What stat(2) says about a file; times in ns since 1970. `block`: a block device, whose mtime means nothing. */
struct q2_stamp {
	uint64_t dev, ino;
	uint64_t size;      /* bytes; for block devices the device's size */
	uint64_t allocated; /* bytes on disk (st_blocks * 512) */
	int64_t mtime_ns, ctime_ns;
	int64_t btime_ns; /* creation, 0 where the file system does not know */
	uint32_t mode, uid, gid;
	bool block;
};

struct q2_file;

struct q2_file_ops {
	int (*size)(struct q2_file *f, uint64_t *len);
	/* Full count, or less only at end of file; negative errno. */
	ssize_t (*pread)(struct q2_file *f, void *buf, size_t len, uint64_t host_off);
	int (*identity)(struct q2_file *f, struct q2_stamp *stamp);
	void (*close)(struct q2_file *f);
};

/* An open file. Tests put their own implementation behind it; `fd` is -1 then (no splice, no locks). */
struct q2_file {
	const struct q2_file_ops *ops;
	int fd;
	char *path; /* as opened, for messages; owned by the file */
};

/* Opens a regular file or block device read-only, never blocking on or touching anything else (FIFOs, sockets and
 * character devices are refused before they are opened). Gives *out. */
int q2_file_open(const char *path, struct q2_file **out, struct vs_err *err);
void q2_file_close(struct q2_file *f);

/* QEMU's image locks, found without taking any (byte 101 or 103: somebody writes; byte 200: inside a commit). */
struct q2_locks {
	bool writer;    /* a process holds WRITE or RESIZE */
	bool no_read;   /* a process forbids consistent reads: the image is an intermediate layer of a running commit */
	bool frozen;    /* a process forbids writing */
};
int q2_file_locks(struct q2_file *f, struct q2_locks *out);

/* ---------------------------------------------------------------- names inside images, and the one gate */

enum q2_format { Q2_FORMAT_NONE, Q2_FORMAT_RAW, Q2_FORMAT_QCOW2 };

/* "raw", "qcow2" (and libvirt's spelling of them); Q2_FORMAT_NONE for anything else or NULL. */
enum q2_format q2_format_from_name(const char *name);
const char *q2_format_name(enum q2_format format);

/* Turns a backing or data-file name as recorded in the image @from into a path and a format. Pure. Relative names are
 * relative to the directory of @from as opened. `json:` is accepted for raw/qcow2 over file/host_device and nothing
 * else; URLs and protocols are -EPERM. @format: the recorded backing format or NULL; *format_out may be
 * Q2_FORMAT_NONE (none recorded). Gives *path. */
int q2_name_resolve(const char *from, const char *name, const char *format, char **path, enum q2_format *format_out,
		    struct vs_err *err);

/*
 * The gate decides which files an image may name. It is immutable data once built: directories (canonical, with
 * everything below them), single files (for devices in /dev), and formats that a trusted source gave for a path. What many
 * gates have in common is one that they include. Reference-counted.
 */
struct q2_gate;
struct q2_gate *q2_gate_new(void); /* NULL: no memory */
struct q2_gate *q2_gate_ref(struct q2_gate *gate);
void q2_gate_unref(struct q2_gate *gate);
/* Everything below @dir; it is resolved with realpath(3) and silently left out where it does not exist. */
int q2_gate_allow_dir(struct q2_gate *gate, const char *dir);
/* A file that a trusted source names: itself, and (not for /dev, /dev/mapper, /dev/disk/...) its directory, both as
 * written and as resolved. @format: Q2_FORMAT_NONE where the source gives none. */
int q2_gate_allow_file(struct q2_gate *gate, const char *path, enum q2_format format);

/* All that @also allows, too, and its formats after its own; a reference is kept. Once for a gate. NULL: nothing. */
void q2_gate_include(struct q2_gate *gate, struct q2_gate *also);

/* Opens what an image names, or says who forbids it. Gives *file; *format is never Q2_FORMAT_NONE (-EPERM: "no format
 * recorded": formats are never probed). @name as recorded in @from. */
int q2_gate_open(const struct q2_gate *gate, const char *from, const char *name, const char *format,
		 struct q2_file **file, enum q2_format *format_out, struct vs_err *err);

/* ---------------------------------------------------------------- what a header says */

/* One snapshot as its table entry says; the strings end at the first NUL as QEMU's do. */
struct q2_snapshot {
	char *id, *name;
	uint64_t l1_off;
	uint32_t l1_entries;
	uint32_t date_sec, date_nsec;
	bool has_disk_size;
	uint64_t vm_clock_nsec;
	uint64_t vm_state_size;
	uint64_t disk_size;  /* bytes, a multiple of 512; the image's own size where the entry has none */
};

/* Are these two entries the same snapshot, at different moments of the file? */
bool q2_snapshot_same(const struct q2_snapshot *a, const struct q2_snapshot *b);
/* Deep copy; gives. NULL: no memory. */
struct q2_snapshot *q2_snapshot_dup(const struct q2_snapshot *s);
void q2_snapshot_free(struct q2_snapshot *s);

struct q2_info {
	struct q2_stamp stamp; /* of the file before the header was read */
	enum q2_format format;
	uint64_t size;      /* virtual size, bytes, a multiple of 512 */
	/* the rest is zero for raw */
	unsigned version, cluster_bits;
	uint32_t crypt_method;
	uint64_t incompatible, compatible, autoclear;
	bool zstd, extended_l2, data_file_raw, dirty, corrupt;
	char *backing_name, *backing_format; /* NULL where there is none */
	char *data_file;                     /* recorded name of the external data file, NULL where there is none */
	char **bitmaps;                      /* names of persistent bitmaps, 16 at most; NULL-terminated, NULL: none */
	char *unsupported;                   /* NULL, or why its contents cannot be read here ("encrypted (LUKS)") */
	struct q2_snapshot *snapshots;
	size_t n_snapshots;
	/* private */
	char *strings;  /* what their ids and names point into */
	size_t charged;
	atomic_uint refs;
};

/* Reads header and snapshot table of an image that may be written meanwhile (bounded retries; -EAGAIN when it never
 * held still). For raw only the size is asked. Gives *out. -EFBIG also where the tables of other images leave too little:
 * all that are held at a time have one limit, and one image gets a sixth of what the others leave. */
int q2_info_read(struct q2_file *f, enum q2_format format, struct q2_info **out, struct vs_err *err);
/* A qcow2 file that was cut off is opened by QEMU as if what was written past its end had never been. Do all its tables lie within it,
 * and does every cluster of data begin there? (QEMU itself lets a file end within its last cluster.) -EUCLEAN: no. -EFBIG: at the
 * limit of @work nobody knew. An external data file is not looked at. */
int q2_file_whole(struct q2_file *f, struct q2_work *work, struct vs_err *err);
/* A persistent bitmap of a qcow2 image that does not record what is written, but holds what was: nothing carries it on when the image is
 * merged into another one. @recording_too: also one that records. One that was in use when QEMU ended is void; @in_use_too: QEMU has the image
 * open. 1: gives *name; 0: none. */
int q2_file_bitmap(struct q2_file *f, bool recording_too, bool in_use_too, char **name, struct vs_err *err);
/* How many bytes of the file are in use, by the refcounts of a qcow2 image, which nobody may be writing to. */
int q2_file_counted(struct q2_file *f, uint64_t *bytes, struct vs_err *err);
/* One reference more, of which q2_info_free() drops one. */
struct q2_info *q2_info_ref(const struct q2_info *info);
void q2_info_free(struct q2_info *info);
/* For the whole process; in bytes, of which a snapshot takes about 80. It is 32 MiB unless something else is said. */
void q2_info_limit(size_t bytes);

/* ---------------------------------------------------------------- views: one disk at one snapshot */

/* Limits shared by all views: compiled mapping tables and decompressed clusters, both in bytes. */
struct q2_cache;
struct q2_cache *q2_cache_new(size_t table_bytes, size_t cluster_bytes);
void q2_cache_free(struct q2_cache *cache); /* after the last view is closed */
struct q2_cache_stats {
	uint64_t table_bytes, cluster_bytes;          /* held now */
	uint64_t tables_loaded, tables_shared;        /* since the start */
	uint64_t cluster_hits, cluster_misses;
};
void q2_cache_stats(struct q2_cache *cache, struct q2_cache_stats *out);

struct q2_view_spec {
	const char *path;                   /* the image, opened by the caller's trust (not through the gate) */
	enum q2_format format;
	const struct q2_snapshot *snapshot; /* NULL: the image's present content, which must be frozen */
	struct q2_gate *gate;               /* for everything beneath; a reference is taken */
	bool alone;                         /* the image without what it stands on: what is not in it is unallocated. It may be open for writing */
	bool direct;                        /* what the disk has, and not the page cache; -EOPNOTSUPP: some file system cannot. Slow */
	bool guard; /* hold QEMU's "nobody may write" lock (byte 201) on every layer that is frozen */
	bool guard_top; /* ... and on the image itself, also where a snapshot inside it is read */
	/* How many layers, from the top, may not change under the view; 0 = all of them. A commit whose top layer is in
	 * this chain changes the files beneath that layer, but only where this view does not look: the layers down to and
	 * including that top are watched then, and only they. */
	size_t watched;
	/* What the caller's judgement of the layers was based on: of layer i which file, its size and mtime, for i < n_expected.
	 * A frozen and watched layer that is another one or has been written since is -ESTALE. NULL: whatever is found is taken. */
	const struct q2_stamp *expected;
	size_t n_expected;
	struct q2_work *work; /* borrowed for the opening; no limit counts here */
};

struct q2_view;

/* Opens the image, everything it stands on, and finds the snapshot. Gives *out. -ESTALE: no such snapshot in it, or a layer
 * is not what was expected; -EAGAIN: a layer that should be frozen is open for writing somewhere. */
int q2_view_open(struct q2_cache *cache, const struct q2_view_spec *spec, struct q2_view **out, struct vs_err *err);
void q2_view_close(struct q2_view *view);
/* Drops the guard locks but leaves the view readable. */
void q2_view_unguard(struct q2_view *view);

uint64_t q2_view_size(const struct q2_view *view);
uint64_t q2_view_table_span(const struct q2_view *view);          /* bytes of the disk that an L2 table of the top layer maps; 0: raw */
size_t q2_view_depth(const struct q2_view *view);                 /* layers, >= 1 */
const char *q2_view_path(const struct q2_view *view, size_t layer); /* 0 = top; borrowed, until close */

/* The files it has open, by number: all layers, and then their data files. *path is borrowed, until close; *stamp is that of
 * the opening. False: there is no such number. */
bool q2_view_file(const struct q2_view *view, size_t idx, const char **path, struct q2_stamp *stamp);

/* Does another file lie where one of them was opened? An open view goes on with the one that it has, as QEMU would. One that is
 * only gone from there was not replaced. */
bool q2_view_replaced(const struct q2_view *view);

/* A number that is another one if the bytes of the view may be: when one of its files is another file or was written, or
 * the snapshot is another one. Never 0. */
uint64_t q2_view_content(const struct q2_view *view);

enum q2_kind {
	Q2_DATA,       /* @len bytes at @host_off of @file (past its end: zeros) */
	Q2_ZERO,       /* reads as zeros; nothing stored */
	Q2_COMPRESSED, /* one cluster; the stream starts at @host_off and is at most @max_len long */
};

struct q2_extent {
	uint64_t guest_off, len;
	enum q2_kind kind;
	struct q2_file *file; /* borrowed, until the view is closed; NULL for Q2_ZERO */
	uint64_t host_off;
	uint32_t max_len;
	unsigned depth; /* the layer it comes from, 0 = top; for zeros: the layer that says so */
	bool unallocated; /* zeros that no layer says: none has anything there */
	bool has_table;   /* of a view of one layer: an L2 table is there for it, if only to say that it is unallocated */
};

/*
 * The whole layer in one question: what lies at @guest_off? The answer covers 1..@len bytes. It was true when asked; a
 * caller that goes on to use it on an image which may be written asks q2_view_check() afterwards.
 * -ENXIO at or past the end. Here, in reads and in checks no limit of @work counts: they are bounded by what is asked for.
 */
int q2_view_extent(struct q2_view *view, uint64_t guest_off, uint64_t len, struct q2_work *work, struct q2_extent *out,
		   struct vs_err *err);

/* Copies and validates: the bytes QEMU would show, or an error, never other bytes. Returns the count, short only at
 * the end of the disk. */
ssize_t q2_view_read(struct q2_view *view, void *buf, size_t len, uint64_t guest_off, struct q2_work *work,
		     struct vs_err *err);

/* Would a read give zeros, because nothing is stored there? Validated as a read is. False also where a part of it is stored, or on an error. */
bool q2_view_is_hole(struct q2_view *view, uint64_t guest_off, uint64_t len, struct q2_work *work);

/* Before a read of 64 KiB or more: if it has to come from a disk in many pieces, all of them are asked for at once, and, of who reads along the disk, those
 * of the next reads. */
void q2_view_prefetch(struct q2_view *view, uint64_t guest_off, size_t len, struct q2_work *work);

/* Is everything still what was opened? 0, -ESTALE, or the error of looking. */
int q2_view_check(struct q2_view *view, struct q2_work *work, struct vs_err *err);

/* May the bytes of an extent be handed on without a copy, i.e. can nobody change them between a q2_view_check() and
 * the moment they leave? True while every layer is frozen and guarded. */
bool q2_view_settled(struct q2_view *view);

/*
 * Leases. While this process has a read lease on a file nobody has it open for writing, and whoever opens it so is made to wait by the
 * kernel until the lease is given up. So the bytes of an extent may be handed on without a copy, too, if leases on all files of the view
 * were held all the time from a q2_view_check() that came after the extent was asked for until the bytes have left.
 *
 * When somebody waits, the thread @tid gets the signal @signo (or SIGIO), with the descriptor in si_fd; it is to see to it that the leases
 * are given up soon: after /proc/sys/fs/lease-break-time seconds the kernel takes them away. Closing the view gives them up.
 */
struct q2_lease {
	int signo;
	pid_t tid;
};
/* Takes all of them. 0; -EAGAIN: a file is open for writing; -ENOTSUP: there are none to be had, on this file system (ext4, XFS, Btrfs, F2FS and
 * tmpfs have them), for this user or on a device: then none is held. One thread at a time, as is giving them up. What they mean is known when
 * q2_view_check_anew() has said 0: it checks everything, whatever is known from before, and ends with -EAGAIN as soon as it sees that somebody wants to write. */
int q2_view_lease(struct q2_view *view, const struct q2_lease *lease);
int q2_view_check_anew(struct q2_view *view, struct q2_work *work);
/* All are held at this moment, and nobody waits for one. */
bool q2_view_leased(struct q2_view *view);
/* The one on that file is, of which q2_view_file() knows. */
bool q2_view_file_leased(struct q2_view *view, size_t idx);
void q2_view_unlease(struct q2_view *view);

/*
 * lseek(2): @whence SEEK_DATA or SEEK_HOLE. Returns the offset; -ENXIO as lseek does. At the limit of @work an answer that is
 * right, if not exact: of SEEK_DATA the place that was reached, all before which is a hole; of SEEK_HOLE the end of the disk.
 */
int64_t q2_view_seek(struct q2_view *view, uint64_t guest_off, int whence, struct q2_work *work, struct vs_err *err);

/* Bytes of the virtual disk that are stored somewhere (data and compressed), validated. Walks the whole map. -E2BIG at the
 * limit of @work. */
int q2_view_allocated(struct q2_view *view, struct q2_work *work, uint64_t *bytes, struct vs_err *err);

/* Looks at some L2 tables here and there, of each layer some: are there compressed clusters? 1, 0 (none were met up to the
 * limit of @work) or negative errno. */
int q2_view_has_compressed(struct q2_view *view, struct q2_work *work, struct vs_err *err);

/* ---------------------------------------------------------------- what snapshots take */

/*
 * What the snapshots inside a qcow2 image take of its file: one walk through all L2 tables that there are, each once, however many
 * snapshots share it. Counted is what each table refers to, as QEMU's refcounts do: so `frees` is what QEMU frees, to the byte. Refcount
 * blocks are left out, which QEMU never frees. Nothing beneath the image counts, nor does an external data file.
 */
struct q2_usage_spec {
	const struct q2_info *info; /* of the file, just read; borrowed for the call */
	const bool *goes;           /* of each snapshot: is it one of those that go together? NULL: none is */
	bool live;                  /* it is open for writing: the present content is as the file says, so the true figures may be higher */
	struct q2_work *work;
};

/* All in bytes. */
struct q2_usage_snapshot {
	uint64_t holds; /* its disk, its saved memory and their tables, whoever else uses them: whole clusters, and of compressed ones the streams */
	uint64_t only;  /* clusters that nothing else uses */
	int64_t frees;  /* clusters that are free when it alone is deleted: those, and what the table of snapshots shrinks by */
};

struct q2_usage {
	struct q2_usage_snapshot present; /* the present content; nobody deletes it, `frees` is 0 */
	int64_t together;                 /* as `frees`, of all that go */
	uint64_t used;                    /* clusters that anything of these uses */
	uint64_t compact;                 /* an estimate of what a copy takes that has all of it, each cluster once, and nothing else */
	size_t n_snapshots;
	struct q2_usage_snapshot snapshots[]; /* as in the info */
};

/* Gives *out: free() it. -ESTALE: the snapshots are other ones than in the info; -EUCLEAN: a table lies outside of the file, or refers to
 * what does; -EFBIG: the file is too large for what memory there is for counting (two bytes and a bit for each cluster, of 256 MiB at most), or
 * the limit of the work was met; -ENOBUFS: what others hold leaves too little. */
int q2_usage_read(struct q2_file *f, const struct q2_usage_spec *spec, struct q2_usage **out, struct vs_err *err);

/* Of what counting may take, 256 MiB for the whole process: is there so much left? Then it is taken. q2_usage_read() does so itself. */
bool q2_usage_charge(size_t bytes);
void q2_usage_uncharge(size_t bytes);

/* ---------------------------------------------------------------- made images */

/*
 * A view as a qcow2 file of its own (version 3), which is stored nowhere: a layout, computed from the map alone, says what lies at each
 * place of the file, and what is asked for is made then. The same content by the same map is the same file, whoever makes it and when.
 * Cluster size and method of compression are those of the view's image, 64 KiB and deflate where that is raw. Compressed clusters of that
 * size and method are handed on as they are.
 *
 * Whole: nothing beneath it, and only what is not zero by the map. Or what is not as in another view of the same disk (of what is the
 * same in both the map decides, and no data is read): an overlay on that one.
 *
 * Errors: those of the views; -EFBIG: a layout that would take too much memory (64 MiB), or a file that QEMU would not open; -ENOBUFS: the
 * layouts of others leave too little (of 256 MiB for all). Threads: any; a view is used by one thread or many as ever.
 */
struct q2_export;

struct q2_export_spec {
	struct q2_view *view;     /* what to export; borrowed for the call */
	struct q2_view *before;   /* NULL: whole; else the overlay's base; borrowed for the call */
	const char *backing_name; /* with `before`: how the file names it. Its format is raw */
	struct q2_work *work;     /* for the walk through the map; at its limit -EFBIG. NULL is fine */
};

/* Gives *out. */
int q2_export_new(const struct q2_export_spec *spec, struct q2_export **out, struct vs_err *err);
void q2_export_free(struct q2_export *x); /* NULL is fine */
/* Bytes of the file. */
uint64_t q2_export_size(const struct q2_export *x);
/* A number that is another one for another layout. Never 0. */
uint64_t q2_export_layout(const struct q2_export *x);
/* Any bytes of the file, from the views it was made of, or from those with equal q2_view_content(). Returns the count, short only at the
 * end of the file. -ESTALE also where the map of a view is another one than then. */
ssize_t q2_export_read(struct q2_export *x, struct q2_view *view, struct q2_view *before, void *buf, size_t len, uint64_t off,
		       struct q2_work *work, struct vs_err *err);

/*
 * A qcow2 image with all its internal snapshots, as a file of its own: names, ids, dates, clocks, sizes and VM states as they are, what
 * snapshots share stored once, and nothing that none of them has. Clusters are taken over as they are, in the source's order, so that
 * cluster size, subclusters and method of compression are the source's. What the image stands on is not in it: it is named by an absolute path.
 * Persistent bitmaps are left out.
 *
 * Opened without a snapshot it shows the source's present content, if that is asked for and nobody has the source open for writing, and else
 * the newest snapshot.
 *
 * Errors: as above; -ESTALE also where the source has other snapshots than the copy. Threads: any.
 */
struct q2_copy;

/* What a copy is a function of, beside the bytes of snapshots. */
struct q2_copy_state {
	uint64_t content;   /* a number that is another one if the copy may be. Never 0 */
	int64_t changed_ns; /* when it last became another one: the newest snapshot's time, or that of the last write */
	bool present;       /* it has the present content */
};

struct q2_copy_spec {
	struct q2_view *view; /* of one of the image's snapshots; borrowed for the call */
	bool present;         /* the present content, where nobody has the image open for writing */
	struct q2_work *work; /* as above */
};

/* Gives *out. */
int q2_copy_new(const struct q2_copy_spec *spec, struct q2_copy **out, struct vs_err *err);
void q2_copy_free(struct q2_copy *c); /* NULL is fine */
/* The state that a copy would be made in now, without making it. */
int q2_copy_look(struct q2_view *view, bool present, struct q2_work *work, struct q2_copy_state *out, struct vs_err *err);
const struct q2_copy_state *q2_copy_state(const struct q2_copy *c);
uint64_t q2_copy_size(const struct q2_copy *c);
uint64_t q2_copy_layout(const struct q2_copy *c);
/* As q2_export_read(). @view: as at the making, or opened anew. */
ssize_t q2_copy_read(struct q2_copy *c, struct q2_view *view, void *buf, size_t len, uint64_t off, struct q2_work *work, struct vs_err *err);

/* Calls @each for all that is not as in @before, in order, neighbours of one kind together, until it returns something else than 0.
 * What was told counts only if all of it returns 0. */
typedef int q2_changed_fn(void *opaque, uint64_t guest_off, uint64_t len, bool zero);
int q2_view_changes(struct q2_view *view, struct q2_view *before, struct q2_work *work, q2_changed_fn *each, void *opaque,
		    struct vs_err *err);

#endif
