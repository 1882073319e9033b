/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * tree.h: an inventory of vm/, arranged as directories and files.
 *
 * A tree is immutable and belongs to one inventory. A directory (one domain) is shared between trees for as long as the
 * domain is the same object in both inventories, so that a change of one domain among thousands costs that domain only;
 * its index and the lengths of its texts are made when somebody first asks. Everything found in a tree is borrowed from it.
 *
 * The world holds the current tree. Requests pin it: see the essay in tree.c on why a pin is not a reference.
 *
 * Errors: -ENOENT no such name, -ENOTDIR, -ESTALE the thing is not in this tree.
 * Threads: everything may be called from any thread. Locks: see ops.c.
 */
#ifndef VS_TREE_H
#define VS_TREE_H

#include <pthread.h>
#include <stdatomic.h>

#include "vm/vm.h"

enum sf_kind {
	SF_ROOT,
	SF_DOMAIN,
	SF_IMAGE,
	SF_XML,
	SF_SNAPSHOTS,
	SF_JSON,
	SF_CHAIN,
	SF_LOG,
	SF_CTL,
	SF_RETAIN,
	SF_PLAN, /* retain.plan */
	SF_JOBS,
	SF_SPACE,
	SF_SPACE_JSON,
	/* made of images while they are read (made.h): found by name, and listed only where that was asked for */
	SF_QCOW2_DIR,
	SF_QCOW2,
	SF_WHOLE, /* in qcow2/, too: all internal snapshots of a disk */
	SF_DIFF_DIR,
	SF_DIFF,
	SF_DIFF_JSON,
	/* found by name likewise, and not made of images: what a domain's disks hold at this instant (now.h) */
	SF_NOW_DIR,
	SF_NOW,
	SF_METRICS, /* of the mount (metrics.h) */
	SF_KINDS,
};

static inline bool sf_kind_is_dir(enum sf_kind kind)
{
	return kind == SF_ROOT || kind == SF_DOMAIN || kind == SF_QCOW2_DIR || kind == SF_DIFF_DIR || kind == SF_NOW_DIR;
}

/* A file that is made of images. */
static inline bool sf_kind_is_made(enum sf_kind kind)
{
	return kind == SF_QCOW2 || kind == SF_WHOLE || kind == SF_DIFF || kind == SF_DIFF_JSON;
}

/* A text that is counted when it is opened, for as long as that takes. */
static inline bool sf_kind_is_counted(enum sf_kind kind)
{
	return kind == SF_SPACE || kind == SF_SPACE_JSON;
}

/* A file that is written: by the mounting user, and not with `-o ro`. */
static inline bool sf_kind_is_door(enum sf_kind kind)
{
	return kind == SF_CTL || kind == SF_RETAIN || kind == SF_PLAN;
}

/* What a thing is, whatever it is called at the moment: the numbers are the stable hashes of vm/. */
struct sf_key {
	uint64_t domain; /* 0: the root */
	uint64_t ino;    /* of what lies in the tree; of a made file: its image's, or (SF_WHOLE) its own; of one of now/: its own */
	uint64_t before; /* of a difference: the other image's; else 0 */
	enum sf_kind kind;
};

static inline bool sf_key_equal(const struct sf_key *a, const struct sf_key *b)
{
	return a->domain == b->domain && a->ino == b->ino && a->before == b->before && a->kind == b->kind;
}

#define SF_ROOT_INO 1
#define SF_ROOT_KEY ((struct sf_key){.domain = 0, .ino = SF_ROOT_INO, .kind = SF_ROOT})

/* `.metrics`, which no domain can be called. */
#define SF_METRICS_NAME ".metrics"
#define SF_METRICS_KEY ((struct sf_key){.domain = 0, .ino = vm_ino(0, SF_METRICS_NAME), .kind = SF_METRICS})

struct sf_entry {
	const char *name; /* NULL: a disk of a snapshot that has no file now (stale, unsupported) */
	enum sf_kind kind;
	uint64_t ino;
	const struct vm_snapshot *snapshot; /* SF_IMAGE, SF_XML */
	const struct vm_disk *disk;         /* SF_IMAGE */
};

struct sf_dir {
	const struct vm_domain *domain;
	bool doors;       /* has ctl, retain and retain.plan */
	atomic_uint refs; /* of trees */
	pthread_mutex_t lock;
	/* guarded by lock until `indexed`, immutable then */
	bool indexed;
	struct sf_entry *entries;  /* by name; those without one at the end */
	struct sf_entry **by_ino;  /* by kind and ino */
	size_t n_entries, n_named;
	/* guarded by lock */
	size_t text_len[SF_KINDS]; /* of texts that were rendered once; 0: not yet */
	char *plan_policy;         /* of which text_len[SF_PLAN] is */
	int64_t plan_s;            /* and of when: the second, by the wall clock */
	size_t plan_plain, plan_counted; /* its length without, and with what it frees; 0: nobody has counted that */
};

struct sf_tree {
	struct vm_inventory *inventory;
	void (*put)(struct vm_inventory *inventory);
	struct sf_dir **dirs;   /* as inventory->domains: by name */
	struct sf_dir **by_ino;
	size_t n_dirs;
	int64_t changed_ns;     /* when the list of domains last changed */
	uint64_t serial;        /* 1, 2, 3... in the order of the world */
	/* guarded by the world's lock */
	unsigned refs, pins;
	struct sf_tree *next;   /* its successor, a reference, until the notifier has gone there */
};

/* Takes @inventory; @put lets go of it. @before: the tree to share directories with, or NULL. @doors: directories have
 * files to write to. Gives the tree, with one reference. */
struct sf_tree *sf_tree_new(struct vm_inventory *inventory, void (*put)(struct vm_inventory *), struct sf_tree *before, bool doors);
/* For a tree that is in no world. */
void sf_tree_free(struct sf_tree *tree);

/* NULL where there is none. */
struct sf_dir *sf_tree_dir(const struct sf_tree *tree, const char *name);
struct sf_dir *sf_tree_dir_by_ino(const struct sf_tree *tree, uint64_t ino);

/* Has anybody asked for a file in it? Else nobody can know one. */
bool sf_dir_was_asked(struct sf_dir *dir);
/* The files of a directory, by name: *n of them. */
const struct sf_entry *sf_dir_list(struct sf_dir *dir, size_t *n);
/* NULL where there is none. */
const struct sf_entry *sf_dir_find(struct sf_dir *dir, const char *name);
/* Also finds disks that have no file now. NULL where there is none. */
const struct sf_entry *sf_dir_find_ino(struct sf_dir *dir, enum sf_kind kind, uint64_t ino);

/* ---------------------------------------------------------------- the world */

struct sf_world {
	struct vm *vm; /* borrowed */
	bool doors;    /* immutable: of its trees */
	pthread_mutex_t lock;
	pthread_cond_t unpinned;  /* a tree's pins came down to 0 */
	struct sf_tree *current;  /* guarded by lock */
	_Atomic uint64_t serial;  /* of the current tree */
};

void sf_world_init(struct sf_world *world, struct vm *vm, bool doors);
void sf_world_fini(struct sf_world *world);

/* The tree of the inventory that is current now, pinned: for the length of one request, until after its reply. */
struct sf_tree *sf_world_pin(struct sf_world *world);
void sf_world_unpin(struct sf_world *world, struct sf_tree *tree);
/* Pins a tree that the caller holds if it is still the current one; says whether it did. */
bool sf_world_pin_this(struct sf_world *world, struct sf_tree *tree);

/* The same tree as a reference, for as long as one likes. */
struct sf_tree *sf_world_get(struct sf_world *world);
struct sf_tree *sf_world_ref(struct sf_world *world, struct sf_tree *tree);
void sf_world_put(struct sf_world *world, struct sf_tree *tree);

/* For the notifier alone. Waits until no request uses @tree any more and gives its successor; NULL where there is none
 * yet. @tree loses its link to it. */
struct sf_tree *sf_world_next(struct sf_world *world, struct sf_tree *tree);

#endif
