/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * types.h: what there is: inventories, domains, snapshots, disks and layers; and what a mount is asked to do.
 *
 * Units: `_ns` is nanoseconds since 1970, sizes are bytes. Strings are raw bytes as libvirt or the image gave them, unless
 * the field says *shown*: those are escaped as README.md's "The tree" says and safe to print and to use as file names.
 * A new field is filled in by inventory/freeze.c, compared in model/inventory.c (or nobody is told that it changed), and shown by fs/table.c
 * and fs/json.c.
 * Ownership: everything reached from an inventory is borrowed from it, valid until vm_inventory_put().
 */
#ifndef VS_VM_MODEL_TYPES_H
#define VS_VM_MODEL_TYPES_H

#include "qcow2/qcow2.h"

/* ---------------------------------------------------------------- the inventory */

#define VM_CHAIN_MAX 200 /* layers, as libvirt */
#define VM_META_URI "https://virt-snapfs.org/xmlns/domain/1.0" /* name space of our element in a domain's metadata */

enum vm_kind { VM_INTERNAL, VM_EXTERNAL };

/* In rising order of concern; a snapshot has the worst state of its disks. */
enum vm_state {
	VM_OK,          /* readable, beneath (or in) the active disk */
	VM_DETACHED,    /* readable, no longer under the active disk */
	VM_UNSUPPORTED, /* encrypted, remote, no format recorded, ...: see reason */
	VM_BUSY,        /* a job is writing beneath it: reads give EBUSY */
	VM_STALE,       /* its data is gone, or nobody can tell that it is there */
};
const char *vm_state_name(enum vm_state state); /* "ok", "detached", ... */
const char *vm_kind_name(enum vm_kind kind);    /* "internal", "external" */

/* What libvirt says is running on a disk. */
enum vm_job { VM_JOB_NONE, VM_JOB_PULL, VM_JOB_COPY, VM_JOB_COMMIT, VM_JOB_ACTIVE_COMMIT, VM_JOB_BACKUP, VM_JOB_OTHER };

/* How a disk takes part in a snapshot. */
enum vm_xml_mode { VM_MODE_NO, VM_MODE_INTERNAL, VM_MODE_EXTERNAL, VM_MODE_MANUAL };

/* One disk of one snapshot. It has a file in the tree iff `file` is not NULL (ok, detached and busy ones). */
struct vm_disk {
	char *target;      /* "vda"; "disk" for an image source */
	char *file;        /* shown: "monday.vda.img", or NULL */
	char *reason;      /* NULL for ok; one sentence */
	enum vm_state state;
	enum q2_format format; /* of chain[0]; Q2_FORMAT_NONE where unknown */
	bool differs, misses; /* see struct vm_verdict */
	bool written;      /* stale: a file of it was written to; until all is as it was noted */
	bool brief;        /* busy, most likely for moments only: who reads may wait for it */
	bool guard, guard_top; /* for q2_view_spec, as is, with `watched` */
	uint64_t size;     /* virtual size at the snapshot; 0 where unknown */
	int64_t created_ns;
	uint64_t ino;      /* stable over mounts; never 0 or 1 */
	char **chain;      /* paths, the point-in-time image first, base last; NULL-terminated; empty where unknown */
	const struct q2_snapshot *snapshot;  /* the entry in chain[0]; NULL for external ones and for `current` */
	struct q2_gate *gate;
	unsigned watched, n_stamps;
	const struct q2_stamp *stamps;       /* of each file of the chain, as it was when `state` was decided */
	const struct q2_stamp *marks;        /* by what they are known again: vm_mark() */
	const uint64_t *survived;            /* see struct vm_verdict */
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
	bool lost;         /* libvirt has a file of its record and does not list it (libvirt/untold.h): what is here may be old */
	bool current;      /* libvirt's current snapshot */
	bool present;      /* image source: the file's present content (`current`), not a snapshot: not in the tables */
	int64_t created_ns;
	char *parent;      /* shown name of the parent, or NULL */
	char **users;      /* who stands on its files in a virt-snapfs mount, each a phrase; NULL-terminated */
	char *xml_file;    /* shown: "monday.xml", or NULL where no definition was recorded */
	char *xml;         /* the domain definition recorded with it, without secrets; NULL likewise */
	size_t xml_len;
	struct vm_disk *disks;
	struct vm_disk *nv; /* the same of copies that were made with it, see command/nv.h: "nvram", "tpm" */
	unsigned n_disks, n_nv;
};

/* One image file in the inventory of a disk's layers. */
struct vm_layer {
	char *path;
	enum q2_format format;
	uint64_t virtual_size;  /* 0 where unknown */
	unsigned version, cluster_bits; /* of a qcow2 header; 0 where there is none */
	uint64_t allocated;     /* bytes on disk */
	int below;              /* index (in the domain's layers) of the layer it stands on, -1 = none */
	char *data;             /* NULL, or the external data file that what it stores is in */
	bool active;            /* a disk of this domain writes here */
	bool beside;            /* no image, and not shown: a snapshot's memory is in it, by its record, or a copy that we made with it */
	int error;              /* 0, or why it or its header cannot be read: -ENOENT, -EACCES, ...; see note */
	char **paths;           /* every other path by which it was met; NULL-terminated */
	struct q2_stamp stamp;  /* of the file behind the path, as it was looked at; all zero where it is not there */
	char *ends;             /* NULL, or why what it stands on could not be followed, although it stands on something */
	char **users;           /* who else needs it, each a phrase: "domain 'db' (disk vda)"; NULL-terminated */
	char *snapshot_user;    /* NULL, or one of them that is a snapshot of another domain */
	char *unknown;          /* NULL, or why nobody knows who needs it: a phrase, "domain 'db' (disk vda) may need it: ...";
	                         * see vm_domain.doubts, too */
	int unknown_code;       /* then: -EACCES or -EPERM */
	char *rival;            /* NULL, or which other disk writes here too: a phrase */
	char **snapshots;       /* shown names frozen in it (external) or stored in it (internal); NULL-terminated */
	char **bitmaps;         /* persistent ones that are stored in it, as backup programs make them; NULL-terminated */
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
	char *doubt;        /* NULL, or why nobody can tell what it stands on: two witnesses contradict each other */
	bool contradicted;  /* a definition names another chain than the headers of its images, and QEMU goes by that */
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
	int64_t changed_ns; /* when its inventory last changed */
	struct vm_snapshot *snapshots; /* oldest first: by created_ns, then by the snapshot tree */
	size_t n_snapshots;
	struct vm_layer *layers;
	size_t n_layers;
	struct vm_disk_now *disks;
	size_t n_disks;
	struct vm_doubt *doubts;
	size_t n_doubts;
	char **nv_paths;    /* what it keeps beside its disks by any of its definitions (command/nv.h); NULL-terminated */
	char **checkpoints; /* libvirt's, parents first; NULL-terminated */
	char **unknowns;    /* why nobody knows who needs some layers: the phrases of `unknown` and `doubts`, each once; NULL-terminated */
	struct vm_log *log; /* outlives the inventory's readers; shared by all inventories of this domain */
	struct q2_gate *gate; /* what its images may name */
	bool unread;        /* not all of libvirt's records of its snapshots have been read yet: those are `unsupported` for the moment */
	const char *untold; /* NULL, or what libvirt did not tell of it at the last look: there may be snapshots that are not here */
	bool unnoted;       /* it has metadata of ours, which do not say what was seen: of what snapshots are made, or that one is wrong */
};

struct vm_inventory {
	uint64_t serial;    /* rises with every change */
	int64_t built_ns;
	struct vm_domain **domains; /* sorted by `dir` (strcmp); unchanged ones are shared between inventories */
	size_t n_domains;
};

struct vm_inventory *vm_inventory_ref(struct vm_inventory *inv);
void vm_inventory_put(struct vm_inventory *inv);
/* NULL where there is none of that name. */
const struct vm_domain *vm_inventory_domain(const struct vm_inventory *inv, const char *dir);

/* What now/ shows of a disk of a domain of libvirt's: its active layer; NULL: it does not show this one. */
const struct vm_layer *vm_now_layer(const struct vm_domain *d, const struct vm_disk_now *disk);

/* A stable number for a named thing below another one: never 0 or 1. Pure. */
uint64_t vm_ino(uint64_t parent, const char *name);
/* Of a file that is made of images while it is read: @image alone (@before 0), as "qcow2"; or what differs in it from @before, as "qcow2" or
 * "json". Pure. */
uint64_t vm_ino_made(uint64_t image, uint64_t before, const char *as);
/* Of the one that has all internal snapshots of a disk. @domain: vm_domain.ino. Pure. */
uint64_t vm_ino_whole(uint64_t domain, const char *target);

/* ---------------------------------------------------------------- what was asked for */

/* Of one command of `ctl` in one domain, since this was mounted; `prune` also as retention begins it. */
struct vm_tally {
	const char *command; /* static */
	uint64_t ok, failed;
};
#define VM_TALLIES 9 /* every command that changes something */

/* ---------------------------------------------------------------- names in tables */

/* A shown name as tables print it: spaces as %20 too, so that columns stay columns. Gives; NULL: no memory. Pure. */
char *vm_name_for_table(const char *shown);

/* ---------------------------------------------------------------- what a mount is asked to do */

struct vm_options {
	const char *uri;            /* libvirt URI; NULL with n_images = 0: libvirt's default */
	const char *const *images;  /* plain images instead of a connection */
	size_t n_images;
	bool read_only;             /* a read-only connection suffices; no guard locks are skipped because of it */
	double refresh_s;           /* > 0 */
	const char *const *allow_paths;
	size_t n_allow_paths;
	bool to_stderr;             /* log lines also to stderr (foreground) instead of syslog */
	/* Called from the refresher thread after a new inventory is in place. May not block for long. */
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

/* ---------------------------------------------------------------- commands */

enum vm_door { VM_DOOR_CTL, VM_DOOR_RETAIN };

/* See vm.h. */
typedef void (*vm_done_fn)(void *opaque, int rc, const char *outcome);

#endif
