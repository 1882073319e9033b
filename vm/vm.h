/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * vm.h: what exists, who stands on what.
 *
 * A `struct vm` watches one source: a libvirt connection, or plain qcow2 files. Its refresher thread builds an immutable,
 * reference-counted picture and swaps a pointer; everybody else only ever reads pictures. Nothing here blocks except
 * vm_open(), vm_close() and vm_refresh(), and no libvirt pointer leaves this folder.
 *
 * Units: `_ns` is nanoseconds since 1970, sizes are bytes. Strings are raw bytes as libvirt or the image gave them, unless
 * the field says *shown*: those are escaped as the contract's "The tree" says and safe to print and to use as file names.
 * Ownership: everything reached from a picture is borrowed from it, valid until vm_picture_put().
 */
#ifndef VS_VM_H
#define VS_VM_H

#include "qcow2/qcow2.h"

/* ---------------------------------------------------------------- the picture */

enum vm_kind { VM_INTERNAL, VM_EXTERNAL };

/* In rising order of concern; a snapshot has the worst state of its disks. */
enum vm_state {
	VM_OK,          /* readable, beneath (or in) the active disk */
	VM_DETACHED,    /* readable, no longer under the active disk */
	VM_UNSUPPORTED, /* encrypted, remote, no format recorded, ...: see reason */
	VM_BUSY,        /* a job is writing beneath it: reads give EBUSY */
	VM_STALE,       /* its data is gone */
};
const char *vm_state_name(enum vm_state state); /* "ok", "detached", ... */
const char *vm_kind_name(enum vm_kind kind);    /* "internal", "external" */

/* One disk of one snapshot. It has a file in the tree iff `file` is not NULL (ok, detached and busy ones). */
struct vm_disk {
	char *target;      /* "vda"; "disk" for an image source */
	char *file;        /* shown: "monday.vda.img", or NULL */
	enum vm_state state;
	char *reason;      /* NULL for ok; one sentence */
	uint64_t size;     /* virtual size at the snapshot; 0 where unknown */
	int64_t created_ns;
	uint64_t ino;      /* stable over mounts; never 0 or 1 */
	char **chain;      /* paths, the point-in-time image first, base last; NULL-terminated; empty where unknown */
	enum q2_format format;               /* of chain[0]; Q2_FORMAT_NONE where unknown */
	const struct q2_snapshot *snapshot;  /* the entry in chain[0]; NULL for external ones and for `current` */
	struct q2_gate *gate;
	bool guard, guard_top;               /* for q2_view_spec, as is: */
	size_t watched;
	const struct q2_stamp *stamps;       /* of each file of the chain, as it was when `state` was decided */
	size_t n_stamps;
};

struct vm_snapshot {
	char *name;        /* raw */
	char *shown;       /* unique in its domain */
	enum vm_kind kind;
	enum vm_state state;
	char *reason;      /* NULL for ok; of the worst disk, with the disk's target in it */
	bool memory;       /* has saved memory */
	bool held, ours;   /* from the domain's metadata */
	bool recorded;     /* libvirt knows it; for an image source: true */
	bool current;      /* libvirt's current snapshot */
	bool present;      /* image source: the file's present content (`current`), not a snapshot: not in the tables */
	int64_t created_ns;
	char *parent;      /* shown name of the parent, or NULL */
	char **users;      /* who stands on its files in a virt-snapfs mount, each a phrase; NULL-terminated */
	char *xml_file;    /* shown: "monday.xml", or NULL where no definition was recorded */
	char *xml;         /* the domain definition recorded with it, without secrets; NULL likewise */
	size_t xml_len;
	struct vm_disk *disks;
	size_t n_disks;
};

/* One image file in the picture of a disk's layers. */
struct vm_layer {
	char *path;
	enum q2_format format;
	uint64_t virtual_size;  /* 0 where unknown */
	uint64_t allocated;     /* bytes on disk */
	int below;              /* index (in the domain's layers) of the layer it stands on, -1 = none */
	bool active;            /* a disk of this domain writes here */
	bool memory;            /* no image, and not shown: a snapshot's memory is in it, by its record */
	int error;              /* 0, or why it or its header cannot be read: -ENOENT, -EACCES, ...; see note */
	char **paths;           /* every other path by which it was met; NULL-terminated */
	struct q2_stamp stamp;  /* of the file behind the path, as it was looked at; all zero where it is not there */
	char *ends;             /* NULL, or why what it stands on could not be followed, although it stands on something */
	char **users;           /* who else needs it, each a phrase: "domain 'db' (disk vda)"; NULL-terminated */
	char *unknown;          /* NULL, or why nobody knows who needs it: a phrase, "domain 'db' (disk vda) may need it: ...";
	                         * see vm_domain.doubts, too */
	int unknown_code;       /* then: -EACCES or -EPERM */
	char *rival;            /* NULL, or which other disk writes here too: a phrase */
	char **snapshots;       /* shown names frozen in it (external) or stored in it (internal); NULL-terminated */
	char *internal;         /* NULL, or an entry in its snapshot table, also one that is none of this domain's snapshots */
	char *note;             /* NULL, or what is odd ("left over: no snapshot or disk of web01 uses it") */
};

/* What is not known, of all layers but `path` itself, while one of these snapshots of the domain is there: what they froze is missing. */
struct vm_doubt {
	char *path;
	char *phrase; /* "snapshot 'a' of domain 'db' (disk vda) may need it: ..." */
	int code;     /* -EACCES or -EPERM */
	char **snapshots; /* raw; NULL-terminated */
};

/* One disk of the domain as it is now. */
struct vm_disk_now {
	char *target;
	char *source;       /* the path, or a description such as "network disk (rbd pool/image)" */
	int top;            /* index of its active layer, -1 where it has no layers we can see */
	char *note;         /* NULL, or why it cannot be served */
	bool transient;     /* what is written to it goes when the domain stops */
	char *job;          /* NULL, or "commit 47%" of whoever's job */
	uint64_t job_done, job_total; /* of it, bytes */
};

struct vm_log;

struct vm_domain {
	char *name;         /* raw */
	char *dir;          /* shown, unique: its directory */
	char *uuid;         /* text form; for an image source the canonical path */
	char *state;        /* "running", "paused", "shut off", ... as virsh domstate says; "image" for an image source */
	uint64_t ino;       /* stable, of the directory; that of a text file is vm_ino(ino, its name) */
	int64_t changed_ns; /* when its picture last changed */
	struct vm_snapshot *snapshots; /* oldest first: by created_ns, then by the snapshot tree */
	size_t n_snapshots;
	struct vm_layer *layers;
	size_t n_layers;
	struct vm_disk_now *disks;
	size_t n_disks;
	struct vm_doubt *doubts;
	size_t n_doubts;
	char **unknowns;    /* why nobody knows who needs some layers: the phrases of `unknown` and `doubts`, each once; NULL-terminated */
	struct vm_log *log; /* outlives the picture's readers; shared by all pictures of this domain */
};

struct vm_picture {
	uint64_t serial;    /* rises with every change */
	int64_t built_ns;
	struct vm_domain **domains; /* sorted by `dir` (strcmp); unchanged ones are shared between pictures */
	size_t n_domains;
};

/* NULL where there is none of that name. */
const struct vm_domain *vm_picture_domain(const struct vm_picture *pic, const char *dir);

/* A stable number for a named thing below another one: never 0 or 1. Pure. */
uint64_t vm_ino(uint64_t parent, const char *name);

/* ---------------------------------------------------------------- names in tables */

/* A shown name as tables print it: spaces as %20 too, so that columns stay columns. Gives; NULL: no memory. Pure. */
char *vm_name_for_table(const char *shown);

/* ---------------------------------------------------------------- the source */

struct vm;

struct vm_options {
	const char *uri;            /* libvirt URI; NULL with n_images = 0: libvirt's default */
	const char *const *images;  /* plain images instead of a connection */
	size_t n_images;
	bool read_only;             /* a read-only connection suffices; no guard locks are skipped because of it */
	double refresh_s;           /* > 0 */
	const char *const *allow_paths;
	size_t n_allow_paths;
	bool to_stderr;             /* log lines also to stderr (foreground) instead of syslog */
	/* Called from the refresher thread after a new picture is in place. May not block for long. */
	void (*changed)(void *opaque);
	/* Called from a thread of vm/ before a command merges or unlinks files of this domain: drop the guard locks of every
	 * open view of it (q2_view_unguard), now and for views opened until the matching call with @hold false. Readers go on;
	 * what moved is found again by them, what was deleted gives ESTALE. May not block for long. */
	void (*unguard)(void *opaque, const char *uuid, bool hold);
	/* Called after the content of `jobs` or of the commands' outcome changed (at most some times a second). */
	void (*jobs_changed)(void *opaque, const char *uuid);
	double bandwidth_mib; /* limit of block jobs in MiB/s; 0: none */
	void *opaque;
};

/* Connects and builds the first picture. Errors name the source. Gives *out. Starts threads: fork before. */
int vm_open(const struct vm_options *options, struct vm **out, struct vs_err *err);
/* Stops the threads. Pictures still held stay valid. 0; -EBUSY: a thread hangs in libvirt and may still call back: whatever it uses,
 * the options' opaque included, has to stay until the process ends, which should be by _exit(2). */
int vm_close(struct vm *vm);

/* Gives the current picture; never NULL, never blocks. */
struct vm_picture *vm_picture_get(struct vm *vm);
void vm_picture_put(struct vm_picture *pic);
struct vm_picture *vm_picture_ref(struct vm_picture *pic);

/* Asks for a new look and waits until a picture is in place that was begun after this call.
 * 0, or -ETIMEDOUT, or -EHOSTDOWN while libvirt is away, or what else that look failed with. */
int vm_refresh(struct vm *vm, unsigned timeout_ms);
/* The same for whoever is about to write or to remove something: directories are listed and headers read anew, whatever is remembered. */
int vm_refresh_closely(struct vm *vm, unsigned timeout_ms);

/* ---------------------------------------------------------------- commands: the doors behind ctl, retain and jobs */

/*
 * A write to `ctl` or `retain` becomes a *request*: it is parsed whole before anything runs, then its commands run one
 * after the other on a thread of vm/, and `done` is called exactly once, from that thread (or from vm_request() itself when
 * the answer is known at once). @rc: 0 or the negative errno of the contract's table; the sentence is in vm_ctl_text() and
 * the log before `done` is called (another request may have said something since, so @outcome is this one's own, as
 * vm_ctl_text() has it, borrowed; NULL: it has not said anything), and what the commands changed is in the current picture (and `changed` was called).
 * A domain runs one request at a time: another one gets -EBUSY at once, except that it waits for pruning which retention
 * started by itself. `cancel`, `try` (its checks only read) and reading never wait.
 */
struct vm_request;
typedef void (*vm_done_fn)(void *opaque, int rc, const char *outcome);

enum vm_door { VM_DOOR_CTL, VM_DOOR_RETAIN };

/* @uuid: vm_domain.uuid. @text: one write, any bytes. Gives *out (also when already done): vm_request_put() it, any time.
 * Returns 0 when `done` was or will be called; a negative errno (done is not called) for -ENOMEM and an unknown domain. */
int vm_request(struct vm *vm, const char *uuid, enum vm_door door, const char *text, size_t len, vm_done_fn done,
	       void *opaque, struct vm_request **out);
/* Asks it to stop at the next safe place. Harmless when it is done. Never blocks. */
void vm_request_cancel(struct vm_request *request);
void vm_request_put(struct vm_request *request);

/* Texts as read from the files. Each gives *text (not NULL) and its length, *changed_ns where not NULL; none blocks. */
int vm_ctl_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns); /* outcome, usage */
int vm_retain_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns); /* canonical policy */
int vm_jobs_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns);
/* What @policy (one line; NULL: the stored one) would keep and drop, and why. -EINVAL with a sentence: not a policy. */
int vm_plan_text(struct vm *vm, const char *uuid, const char *policy, char **text, size_t *len, struct vs_err *err);

/* Readers, for retention (an open snapshot counts as held): @delta +1 at open, -1 at release of an image file. */
void vm_reading(struct vm *vm, const char *uuid, uint64_t disk_ino, int delta);

/* ---------------------------------------------------------------- the log of a domain */

/* Adds one line (a sentence, shown names) to the domain's log and to syslog or stderr. Thread-safe. */
void vm_log(struct vm_log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The last 1,000 lines, oldest first, each "2026-11-16T02:00:01+00:00 text\n". Gives *text (not NULL), its length, and
 * the time of the last line. */
int vm_log_text(struct vm_log *log, char **text, size_t *len, int64_t *changed_ns);

#endif
