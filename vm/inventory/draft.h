/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * draft.h: from what a source knows of its domains to finished vm_domains.
 *
 * A source (libvirt, image files) writes a draft of every domain: its disks as they are now, its snapshots in any order
 * with parents before children, image files as indexes of a collection. In order.c, draft-finish.c and freeze.c they get their order, shown names and
 * inode numbers; the graph is asked what each snapshot's disks are worth; and the vm_domains come out, the old ones
 * where nothing has changed. Both kinds of source thereby show the same things in the same way.
 *
 * Everything in a draft is borrowed until the drafts are finished. Threads: one, the refresher.
 */
#ifndef VS_VM_INVENTORY_DRAFT_H
#define VS_VM_INVENTORY_DRAFT_H

#include "vm/graph/graph.h"
#include "vm/observe/chains.h"
#include "vm/observe/history.h"
#include "vm/util/arena.h"
#include "vm/model/types.h"
#include "vm/xml/xml.h"

struct vm_draft_disk {
	struct vm_fact_snapdisk fact;    /* `since` is filled in here */
	const struct q2_snapshot *entry; /* INTERNAL: the entry it means; NULL: none found. Also where fact.entry is NULL */
};

struct vm_draft_snapshot {
	const char *name;    /* raw */
	enum vm_kind kind;
	int parent;          /* index in the draft's snapshots, smaller than its own; -1: none */
	int64_t created_ns;  /* as its source says; entries of internal disks say it better */
	bool recorded, lost, memory, external_memory, current, held, ours;
	bool present;        /* image source: the file's present content */
	bool in_making;      /* it may not be complete yet: if it is new and looks stale, it is not shown at all */
	struct vm_fact_beside *beside; /* files that it has beside its images */
	size_t n_beside, beside_room;
	struct vm_draft_nv { /* copies that were made with it */
		const char *what;
		int file;
		bool right;      /* it is what was noted */
	} *nv;
	size_t n_nv;
	const char *problem; /* NULL, or why its disks are not known */
	const char *xml;     /* kept alive by `keep` */
	size_t xml_len;
	struct vm_xml_snapshot *keep; /* then: what the finished domain holds on to for its sake */
	struct vm_draft_disk *disks;
	size_t n_disks;

	/* filled in here */
	char *shown;
	int64_t order_ns;    /* what it is sorted by */
	int rank;            /* its place in the order shown */
};

struct vm_draft_now {
	struct vm_fact_disk fact;
	const char *source, *note, *doubt, *job; /* for vm_disk_now */
	uint64_t job_done, job_total;
	bool transient;
	bool contradicted;   /* a definition names with <backingStore> another chain than the headers, and QEMU goes by that */
	unsigned pull_since; /* a pull into it that was first seen at this poll is over now; 0: none */
};

/* A merge of ours that was begun and may not have ended. */
struct vm_draft_merge {
	const char *base, *top; /* paths; top may be NULL */
	uint64_t above;         /* inode number of what will stand on the base; 0: nothing does, or all is proven to be in it */
	int64_t left_ns;        /* the base's time when no job of ours wrote to it any more; 0: not known */
	bool is_void;           /* it cannot be finished any more */
};

struct vm_draft {
	const char *name, *uuid, *dir, *state;
	bool running, image;
	bool unread;                /* not all of its records have been read yet */
	const char *untold;         /* NULL, or what libvirt did not tell of it at the last look */
	bool commanded;             /* a command was given to it once: there are metadata of ours */
	const char *nv_paths[3];    /* variables of its firmware, by its definitions; NULL: none */
	char *const *checkpoints;   /* names, NULL-terminated; may be NULL */
	struct vm_log *log;
	struct q2_gate *gate;
	struct vm_draft_now *disks;
	size_t n_disks;
	struct vm_draft_snapshot *snapshots;
	size_t n_snapshots;
	struct vm_draft_merge *merges;
	size_t n_merges;
	bool at_work;               /* it has some, and somebody is at work on it (util/lock.h) */
	int *own_made;              /* files (indexes) that commands of ours made for it */
	size_t n_own_made;
	int *begun;                 /* files that a command which has not ended has made, and may not have come to use */
	size_t n_begun;
	struct vm_fact_beside *beside; /* what it keeps beside its disks, by its definitions */
	size_t n_beside, beside_room;
	int *others;                /* files that were its disks at some snapshot which they took no part in */
	size_t n_others, others_room;

	/* filled in here */
	uint64_t ino;
	struct vm_draft_snapshot **order;
	bool unfinished;            /* something was left out because it is in the making, or is to be told later */
};

/* A file that a definition names without saying what for: draft->beside[@beside] as a plain file, until it is known to be an image. Or a directory
 * that QEMU makes a disk of; or neither, for it is not there. */
struct vm_draft_mention {
	const char *path;
	const char *what; /* vm_fact_beside.what */
	struct vm_draft *draft;
	size_t beside;    /* VM_NO_BESIDE: none */
	int code;         /* 0, or why it cannot be looked at */
	bool dir;
	bool drive;       /* QEMU has it as a disk: a guest writes there what it likes */
	bool by_name;     /* then: it may be any file of that name */
};
#define VM_NO_BESIDE SIZE_MAX

struct vm_drafts {
	struct vm_draft *drafts;
	size_t n;
	const struct vm_fact_domain *extra; /* more users of images, which are not shown */
	size_t n_extra;
	const struct vm_fact_volume *volumes;
	size_t n_volumes;
	struct vm_draft_mention *mentions;
	size_t n_mentions, mentions_room;
	bool mentions_stand;        /* written: one of them is an image, which may stand on another's */
	struct vm_fact_unknown *unknowns; /* vm_drafts_unknown() */
	size_t n_unknowns, unknowns_room;
	bool partial;               /* there are more domains, which have nothing to do with these: they stay as they are in the inventory before */
	bool simple;                /* written: domains have to do with one another by the files that they share, and in no other way */
	bool ask_locks;             /* ask for every frozen file's lock bytes, not only of those that were just written */
	struct vm_arena *arena;     /* lives as long as the drafts */
	struct vm_chains *chains;
	struct vm_history *memory;
};

/* The domains of a look, in the order of the drafts; those that did not change are the objects of @prev (may be NULL).
 * Gives the next inventory. NULL: `partial` was too little, for it takes all of them to tell what these are. */
struct vm_inventory *vm_drafts_finish(struct vm_drafts *set, const struct vm_inventory *prev);

/* Notes that something is not known which may stand on any file: see vm_fact_unknown. Borrows nothing. Gives what it has noted, borrowed until the
 * next one. */
struct vm_fact_unknown *vm_drafts_unknown(struct vm_drafts *set, int code, const char *why, const char *who_fmt, ...) __attribute__((format(printf, 4, 5)));

struct vm_meta;
struct vm_store;
/* The domain (or image) has no metadata of ours, as far as is known for certain, and @best is our copy: is it of this one? One of its
 * snapshots says so, and else a policy is not for it: it is forgotten, here and in the store. */
void vm_draft_disown(const struct vm_draft *d, const struct vm_chains *chains, struct vm_meta *best, struct vm_store *store);
/* Holds, ours, what is attested, what was frozen, and the marks of doomed snapshots. Takes @meta, of which the draft borrows. */
void vm_draft_meta(struct vm_draft *d, struct vm_meta *meta, struct vm_arena *arena);
/* The copies that were made with its snapshots, where @may says that a file may be served, after that. */
void vm_draft_nv(struct vm_draft *d, const struct vm_meta *meta, struct vm_chains *chains, struct vm_arena *arena,
		 bool (*may)(const void *opaque, const struct vm_draft_snapshot *s, const char *path), const void *opaque);

/* ---------------------------------------------------------------- between order.c, draft-finish.c and freeze.c */

/* Order, names and numbers. */
void vm_order_settle(struct vm_draft *d, struct vm_arena *arena);
/* The stable inode number of a snapshot's disk. */
uint64_t vm_order_disk_ino(const struct vm_draft *d, const struct vm_draft_snapshot *s, const struct vm_draft_disk *disk);
/* That of a copy which was made with it. */
uint64_t vm_order_nv_ino(const struct vm_draft *d, const struct vm_draft_snapshot *s, const char *what);
int64_t vm_order_disk_created(const struct vm_draft_snapshot *s, const struct vm_draft_disk *disk);
/* The finished domain for the @index'th one of the graph. @before: the same domain in the inventory before, or NULL. Sets
 * *unfinished where something was left out that is in the making. Gives. */
struct vm_domain *vm_freeze_domain(const struct vm_draft *from, const struct vm_graph *graph, size_t index,
				   struct vm_chains *chains, const struct vm_domain *before, bool *unfinished);

#endif
