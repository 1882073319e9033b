/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * facts.h: image files, domains and snapshots as they were found: what the graph draws its conclusions from.
 *
 * Plain structs that whoever looks fills in (from libvirt's XML, stat, headers, lock bytes, jobs). What the words mean is in
 * graph/graph.h.
 */
#ifndef VS_VM_MODEL_FACTS_H
#define VS_VM_MODEL_FACTS_H

#include "vm/model/types.h"

#define VM_NO_FILE (-1)

/* ---------------------------------------------------------------- facts: files */

struct vm_watch_time {
	uint64_t size;
	int64_t mtime_ns;
};

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

	/* What is remembered of it, see observe/watch.h. */
	unsigned written_at;    /* last poll that found it changed although nobody should have written it */
	unsigned repointed_at;  /* last poll that found its header standing on something else than before */
	const struct vm_watch_time *renamed; /* what it was before, as long as nothing else than such a header was changed; the last ones */
	size_t n_renamed;
	unsigned pulled_at;     /* last poll at which a pull into it was known to have completed */
};

/* ---------------------------------------------------------------- facts: domains */

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

/* An image that some snapshot froze, or that such a one stood on, as it was when nothing spoke against it. */
struct vm_fact_note {
	struct q2_stamp stamp;  /* ino, size, mtime */
	const struct vm_fact_note *beneath; /* what it stood on; NULL: not known, or on nothing: */
	bool alone;             /*   that */
	bool raw, empty;        /* it was read as raw; it stored nothing of its own */
	uint64_t sum;           /* as vm_facts.sum would have given it; 0: not known */
	uint64_t survived;      /* as its verdict said then, see graph/graph.h */
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
	const struct q2_stamp *attested; /* it was right when files beneath it had these stamps (ino, size, mtime) */
	size_t n_attested;
	uint64_t ino;           /* of its file in the tree */
	uint64_t whole;         /* of the file there that has all the disk's internal snapshots: vm_ino_whole() */
	const struct vm_fact_note *froze; /* NULL, or the image as it was when we took or first recorded it; INTERNAL: what pit stood on */
	bool spoilt;            /* it was found wrong since */
	uint64_t shows;         /* as vm_facts.shows would have given it when it was right; 0: not known; 1: it is too much */
};

/* A file that a snapshot or a domain has beside its images. */
struct vm_fact_beside {
	int file;
	const char *what;       /* "its memory", "its firmware variables" */
};

struct vm_fact_snapshot {
	const char *name;       /* raw */
	const char *shown;      /* for reasons */
	int parent;             /* index in the domain's snapshots, -1 = none */
	int64_t created_s;
	bool recorded;          /* libvirt knows it */
	bool external_memory;
	const struct vm_fact_beside *beside; /* what its memory is saved in, where we have a path; copies that we made with it */
	size_t n_beside;
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
	const struct vm_fact_beside *beside; /* what it keeps beside its disks, by its definitions */
	size_t n_beside;
	const int *others;      /* disks of it at some snapshot that they took no part in: a revert may attach them again */
	size_t n_others;
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
	const char *name; /* it may be any file of that name alone; NULL: see above */
};

/* A commit of all layers above `base` up to `top` into `base` that is known to have run, to its end or not. Remember the
 * top by its path as well: it is often deleted at the end, and then names a file that does not exist. */
struct vm_fact_commit {
	int base;
	int top;                /* its content survives in its own chain; VM_NO_FILE: an active commit, or not known */
	unsigned at;            /* last poll that saw it */
	bool ours;              /* a merge of ours that was begun, and has no rival above its top */
	uint64_t above;         /* ours: inode number of what will stand on the base, which proves nothing yet; 0: there is none, or all is proven */
	int64_t left_ns;        /* ours: the base's time when no job wrote to it any more; 0: not known */
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
	int64_t now_ns; /* by the clock when the files were looked at: for sentences, no verdict goes by it. 0: not known */

	/* A sum of what a guest sees of that file alone; 0: not known. Takes a while. May be NULL. */
	uint64_t (*sum)(void *opaque, int file);
	/* A sum of what that disk of a snapshot shows, read from @files, the first of which has the format and, of an internal one, the entry. 0: not known.
	 * Takes a while. May be NULL. */
	uint64_t (*shows)(void *opaque, size_t domain, const struct vm_fact_snapdisk *disk, const int *files, size_t n, enum q2_format format,
			  const struct q2_snapshot *entry);
	void *opaque;
};

#endif
