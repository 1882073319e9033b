/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * graph.h: image files, who stands on whom, who needs each, and what that means for a snapshot.
 *
 * Facts come in as plain structs that the inventory fills (from libvirt's XML, stat, headers, lock bytes, jobs); answers
 * come out. No I/O, no libvirt, no clock: the same facts give the same answers. The rules and the reasons for them are the
 * essay on top of state.c.
 *
 * Words: the *point-in-time image* (pit) is the file that a snapshot froze; its *overlay* is the file that took the writes
 * from then on. A file index is a position in vm_facts.files, VM_NO_FILE for none. Two entries with one (dev, ino) are one
 * node of the graph, whatever paths led to them; entries that do not exist are one node if their paths are equal.
 * A *poll* is the number of the inventory's look around, counted from 1; 0 = never.
 *
 * Order of looking: locks and stat of the files after libvirt's records. A job ends before libvirt rewrites the records, so
 * what a record names has then been written for the last time.
 *
 * Ownership: facts are borrowed by a graph until vm_graph_free(); answers are given and own nothing of the graph, except
 * `entry`. Threads: a graph is immutable; any thread. Errors: -ENOMEM only. What contradicts itself in the facts is an
 * answer, never an error. Gates are not asked here: what a gate refuses comes in as `below_why`, with the file that it keeps shut as
 * `refused_dev` and `refused_ino`; or the caller worsens the answer afterwards.
 */
#ifndef VS_VM_GRAPH_GRAPH_H
#define VS_VM_GRAPH_GRAPH_H

#include "vm/vm.h"
#include "vm/xml/xml.h"

#define VM_NO_FILE (-1)
#define VM_CHAIN_MAX 200 /* layers, as libvirt */

/* ---------------------------------------------------------------- facts: files */

struct vm_fact_file {
	const char *path;       /* as it is to be opened and shown */
	int error;              /* 0, or why it or its header cannot be read: -ENOENT, -EACCES, -EINVAL, ... */
	const char *why;        /* sentence for `error`, with the path in it; may be NULL */
	struct q2_stamp stamp;  /* all zero if it does not exist */
	enum q2_format format;  /* as which it was looked at */
	const struct q2_info *info; /* its header; NULL for raw and where it cannot be read */

	/* What the header names. NULL below_why and VM_NO_FILE: nothing beneath. */
	int below;
	enum q2_format below_format; /* Q2_FORMAT_NONE: no format recorded anywhere we trust */
	const char *below_why;  /* NULL, or why what is beneath cannot be followed (a URL, the gate refuses it) */
	uint64_t refused_dev, refused_ino; /* then the file that the name leads to: not to be read, but needed. 0: unknown */
	int data;               /* external data file */
	int shows;              /* a loop device: the file that it shows. VM_NO_FILE: it is none */
	uint64_t exposes;       /* a file of some virt-snapfs mount, which is never opened: the inode number of the snapshot's disk
	                         * (vm_fact_snapdisk.ino) that it shows. 0: it is none */
	const char *hidden;     /* NULL, or why nobody can tell which file it shows: "is a loop device on a file that was removed" */
	const char *opaque;     /* NULL, or why nobody can tell what it stands on, although it may be readable as @format */

	bool writer, no_read;   /* of struct q2_locks */
	int locks_error;        /* 0, or why nobody can tell: negative errno */

	/* What the inventory remembers, see struct vm_watch. */
	unsigned written_at;    /* last poll that found it changed although nobody should have written it */
	unsigned repointed_at;  /* last poll that found its header standing on something else than before */
	unsigned pulled_at;     /* last poll at which a pull into it was known to have completed */
};

/*
 * The inventory's memory of one file, by (dev, ino). Feed every poll's look to vm_watch_step(); copy the two answers into
 * vm_fact_file. Zero-initialise; pure.
 */
struct vm_watch {
	uint64_t dev, ino, size;
	int64_t mtime_ns;
	uint64_t backing_hash;
	unsigned seen_at;       /* poll of the last look */
	bool frozen;            /* at the last look */
	unsigned written_at, repointed_at;
};

/* @backing: the header's backing name, NULL for none. @frozen: no domain, running or shut off, has it as its active layer.
 * Another (dev, ino) starts anew. Block devices are never seen to change. */
void vm_watch_step(struct vm_watch *watch, const struct q2_stamp *stamp, const char *backing, bool frozen, unsigned poll);

/* ---------------------------------------------------------------- facts: domains */

enum vm_job { VM_JOB_NONE, VM_JOB_PULL, VM_JOB_COPY, VM_JOB_COMMIT, VM_JOB_ACTIVE_COMMIT, VM_JOB_OTHER };

/* A disk as the domain has it now. */
struct vm_fact_disk {
	const char *target;
	int top;                /* its active layer; VM_NO_FILE: remote, empty */
	enum q2_format format;
	bool writable;          /* false for CD-ROM and <readonly/> */
	const int *chain;       /* running domains: the live XML's chain, top first; NULL: go by headers */
	size_t n_chain;
	enum vm_job job;        /* what libvirt says is running on it */
	unsigned job_since;     /* the poll that saw it first; 0: not known */
	int mirror;             /* the destination of a copy, the base of an active commit; else VM_NO_FILE */
};

/* A disk as a snapshot has it. Leave out disks that are not exposed and those with VM_MODE_NO. */
struct vm_fact_snapdisk {
	const char *target;
	enum vm_xml_mode mode;  /* INTERNAL, EXTERNAL or MANUAL; NO: an image source's present content (`current`) */
	int pit;                /* source in the snapshot's recorded <domain> */
	enum q2_format format;  /* of pit, as recorded; NONE: not recorded */
	const char *unsupported; /* NULL, or what the XML says against it (remote, encrypted, a format we do not know) */
	int overlay;            /* EXTERNAL only; else VM_NO_FILE */
	bool deleting;          /* <snapshotDeleteInProgress/> stands HERE: a delete of one of its children is unfinished */
	bool below_known;       /* INTERNAL: the record says what pit stood on at the snapshot: */
	int below;              /*   this, VM_NO_FILE = nothing */
	const struct q2_snapshot *entry; /* INTERNAL: the entry where the caller knows it (not recorded); NULL: find by name */
	unsigned since;         /* first poll that saw this snapshot with this pit; reset it when libvirt names another pit */
	const char *doomed;     /* NULL, or why its content is known to be gone (a mark, a job seen) */
	const struct q2_stamp *vouched; /* it was right when files beneath it had these stamps (ino, size, mtime) */
	size_t n_vouched;
	uint64_t ino;           /* of its file in the tree */
	const struct q2_stamp *froze; /* NULL, or the image as it was when we took or first recorded it (ino, size, mtime) */
};

struct vm_fact_snapshot {
	const char *name;       /* raw */
	const char *shown;      /* for reasons */
	int parent;             /* index in the domain's snapshots, -1 = none */
	int64_t created_s;
	bool recorded;          /* libvirt knows it */
	bool external_memory;
	const int *memory;      /* the file that its memory is saved in; NULL: none, or not a path that we have */
	const struct vm_fact_snapdisk *disks;
	size_t n_disks;
};

struct vm_fact_domain {
	const char *name;       /* shown */
	bool running;           /* QEMU has its disks open (running or paused) */
	bool image;             /* an image source: the file's present content is not anybody's active disk */
	const struct vm_fact_disk *disks;
	size_t n_disks;
	const struct vm_fact_snapshot *snapshots;
	size_t n_snapshots;
	const int *made;        /* files that a command of ours made for it and that it may not use any more */
	size_t n_made;
	const int *begun;       /* the same, by a command that has not ended: files that it may not have come to use yet */
	size_t n_begun;
};

/* An image in a storage pool; or, with pool NULL and its path as name, one that was found in a directory. */
struct vm_fact_volume {
	const char *pool, *name; /* shown */
	int file;
};

/* Something that is not known, and that may therefore stand on any file: a record or a definition that cannot be read, a
 * directory that cannot be listed, an image that is not a file of this host. */
struct vm_fact_unknown {
	const char *who; /* "snapshot 'x' of domain 'y'" */
	const char *why; /* "its record cannot be read: ..." */
	int code;        /* -EACCES or -EPERM */
};

/* A commit of all layers above `base` up to `top` into `base` that is known to have run, to its end or not. Remember the
 * top by its path as well: it is often deleted at the end, and then names a file that does not exist. */
struct vm_fact_commit {
	int base;
	int top;                /* its content survives in its own chain; VM_NO_FILE: an active commit, or not known */
	unsigned at;            /* last poll that saw it */
	bool ours;              /* a merge of ours that was begun, and has no rival above its top */
};

struct vm_facts {
	const struct vm_fact_file *files;
	size_t n_files;
	const struct vm_fact_domain *domains;
	size_t n_domains;
	const struct vm_fact_volume *volumes;
	size_t n_volumes;
	const struct vm_fact_commit *commits;
	size_t n_commits;
	const struct vm_fact_unknown *unknowns;
	size_t n_unknowns;
};

/* ---------------------------------------------------------------- the graph and its answers */

struct vm_graph;

/* Gives *out. */
int vm_graph_new(const struct vm_facts *facts, struct vm_graph **out);
void vm_graph_free(struct vm_graph *graph);

struct vm_verdict {
	enum vm_state state;
	char *reason;           /* NULL for ok; else one sentence: lower case, no full stop, names escaped */
	int *layers;            /* file indexes, what is to be read first, base last; as far as it is known */
	size_t n_layers;        /* layers[0] may be another file than the recorded pit: see state.c, "redirection" */
	enum q2_format format;  /* of layers[0] */
	const struct q2_snapshot *entry; /* INTERNAL: in the facts' info of layers[0]; NULL: external or not found */
	bool guard, guard_top;  /* may QEMU's guard lock be held: on the layers that are read as a whole; on layers[0] of an
	                         * internal snapshot as well. False where a domain has one of them as its active layer */
	size_t watched;         /* for q2_view_spec: 0, or how many layers from the top a running commit leaves as they are */
};
void vm_verdict_fini(struct vm_verdict *verdict);

/* What is to be thought of one disk of one snapshot. Fills *out (to be given to vm_verdict_fini) on success. */
int vm_graph_state(const struct vm_graph *graph, size_t domain, size_t snapshot, size_t disk, struct vm_verdict *out);

/* The commits that run now, as far as locks and libvirt tell base and top: to be remembered as vm_facts.commits (by dev and
 * ino) for as long as the files exist. Gives *out (free()) and its length; `at` is 0. */
int vm_graph_commits(const struct vm_graph *graph, struct vm_fact_commit **out, size_t *n);

/*
 * The layers of a domain for the `chain` picture: of its disks from the top down, then of its snapshots, each node once;
 * `tops[i]` is the layer of disks[i] (-1 where there is none). `users` names everybody else who needs the layer,
 * `snapshots` the shown names frozen or stored in it, `note` what is odd: left over, being committed, missing.
 * Gives *layers and *tops.
 */
int vm_graph_layers(const struct vm_graph *graph, size_t domain, struct vm_layer **layers, size_t *n_layers, int **tops);
void vm_layers_free(struct vm_layer *layers, size_t n);

/* What is not known because of nothing but snapshots of @domain: what `unknown` of its layers leaves out. Gives *out. */
void vm_graph_doubts(const struct vm_graph *graph, size_t domain, struct vm_doubt **out, size_t *n);
void vm_doubts_free(struct vm_doubt *doubts, size_t n);

/* Who stands on the file that shows this snapshot in a virt-snapfs mount, each a phrase as in vm_layer.users. Gives *out, a
 * NULL-terminated list (free each, and the list). */
int vm_graph_viewers(const struct vm_graph *graph, size_t domain, size_t snapshot, char ***out);

/* ---------------------------------------------------------------- entries in tables that nobody recorded */

/* The entry that a recorded internal snapshot means: by NAME only (an id never counts), the one whose date is closest to
 * @created_s, the first of equal ones. NULL: none. Borrowed from @info. */
const struct q2_snapshot *vm_entry_find(const struct q2_info *info, const char *name, int64_t created_s);

/* One image whose table is looked at. */
struct vm_table {
	const char *target;
	int file;
	const struct q2_info *info;
	const bool *taken; /* n_snapshots flags: claimed by a recorded snapshot; NULL: none is */
};

/* One snapshot made of unclaimed entries, at most one per table. */
struct vm_stray {
	const char *name, *id;  /* borrowed: of the first table's entry */
	uint32_t date_sec, date_nsec;
	bool memory;            /* some entry has a VM state */
	struct vm_stray_disk {
		size_t table;
		const struct q2_snapshot *entry; /* borrowed from the table's info */
	} *disks;               /* in the order of the tables */
	size_t n_disks;
};

/* Groups what is unclaimed: entries of one name belong together where no table has that name twice, else those of one name
 * and id (the k-th of each table with the k-th). In the order of the first table that has them. Gives *out. */
int vm_stray_group(const struct vm_table *tables, size_t n_tables, struct vm_stray **out, size_t *n_out);
void vm_stray_free(struct vm_stray *strays, size_t n);

#endif
