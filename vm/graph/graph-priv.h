/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * graph-priv.h: the graph as its own parts see it. Private to this folder.
 *
 * A *file* is an index into the facts, a *node* the smallest file index of those that are one image; comparisons are
 * between nodes, walking is along files, because a relative backing name means what it means to the path it was read by.
 */
#ifndef VS_VM_GRAPH_GRAPH_PRIV_H
#define VS_VM_GRAPH_GRAPH_PRIV_H

#include "vm/graph/graph.h"
#include "vm/util/strmap.h"

/* For every node a list of the things that point at it: head[node], next[thing], -1 ends. */
struct vm_links {
	int *head, *next;
};

/* A disk of a domain, with its layers as they are now. */
struct vm_graph_disk {
	size_t domain, disk;
	int *chain; /* files, active layer first */
	size_t n_chain;
};

/* A disk of a snapshot. */
struct vm_graph_snap {
	size_t domain, snapshot, disk;
};

/* A commit: facts.commits, or what an unfinished delete means. */
struct vm_graph_commit {
	int base, top; /* files; top may be VM_NO_FILE */
	unsigned at;
	bool unfinished_delete, ours;
	uint64_t above; /* as in the facts, like the next one */
	int64_t left_ns;
};

/* An overlay that does not stand on what its snapshot froze any more: it went from `top` down to `base`. */
struct vm_graph_repoint {
	int overlay;  /* file */
	int top;      /* file: the recorded point-in-time image */
	int base;     /* file, or VM_NO_FILE: it stands alone now */
	int *removed; /* files from `top` (included) down to `base` (excluded), as far as they can be told */
	size_t n_removed;
	bool elsewhere; /* `base` never lay beneath `top`: no job did this */
};

/* A commit that runs now. */
struct vm_graph_running {
	int base, top;  /* files; top: VM_NO_FILE where nothing survives */
	bool certain;   /* false: the base is a guess, one of several */
};

/* Somebody who needs a file: a disk with it in its chain (index in disks[]), a snapshot that has it where its domain's disks
 * do not (snaps[]), a volume standing on it that belongs to no domain (facts->volumes), any other file that stands on it (facts->files: what a command or a snapshot
 * has left, be it somebody's one day), a snapshot that has it beside its images (besides[]). */
enum vm_graph_user_kind { VM_USER_DISK, VM_USER_SNAPSHOT, VM_USER_VOLUME, VM_USER_LEFT, VM_USER_BESIDE };

/* A snapshot, or a domain, with such a file. */
#define VM_NO_SNAPSHOT SIZE_MAX
struct vm_graph_beside {
	size_t domain, snapshot;
	const char *what;
};

struct vm_graph_user {
	enum vm_graph_user_kind kind;
	size_t index;
	int file;
	bool unseen; /* by a way that an inventory of layers, one beneath the other, does not show: a window, a data file */
};

/* Which snapshots' disks does the file with that inode number show in a virt-snapfs mount? One, two of a difference, or all that the disk has;
 * 0: none of these. Gives *snaps, where it is not NULL; of none NULL. */
size_t vm_graph_exposed(const struct vm_graph *g, uint64_t ino, size_t **snaps);

/* The same, for who stands on a file of a virt-snapfs mount. */
struct vm_graph_viewer {
	enum vm_graph_user_kind kind;
	size_t index;
	size_t snap; /* snaps[] */
};

/* Somebody of whom it is not known what he stands on: see doubts.c. */
struct vm_graph_doubt {
	const char *who; /* who needs `file`, or NULL where `file` says it */
	const char *why; /* what is wrong; NULL: what is wrong with `file` */
	int code;        /* -EACCES or -EPERM */
	int file;        /* the one at which knowledge ends; VM_NO_FILE */
	bool raw;        /* `file` is a raw image that is missing: it stands on nothing, and may be any file */
	bool by_name;    /* ... but only one of its name: it is a medium, or a device */
	const char *name; /* without `file`: likewise, of this name; NULL: any */
	size_t domain;   /* whose snapshots alone make it one, because they froze `file`; VM_NO_DOMAIN: it is one whoever goes */
};
#define VM_NO_DOMAIN SIZE_MAX

struct vm_graph {
	const struct vm_facts *facts;
	int *node;    /* of a file */
	int *alias;   /* of a file: the next one of its node, which is the first; VM_NO_FILE ends */
	int *refused; /* of a file: what it stands on although the gate refuses to open that for it, or VM_NO_FILE */

	struct vm_graph_disk *disks;
	size_t n_disks;
	size_t *first_disk; /* of a domain, in disks[] */
	struct vm_links tops; /* disks[] by their active layer */

	struct vm_graph_snap *snaps;
	size_t n_snaps;
	struct vm_links pits, overlays; /* snaps[] by what they froze and created */

	struct vm_graph_beside *besides;
	size_t n_besides, besides_room;
	struct vm_graph_user *users;
	size_t n_users, users_room;
	struct vm_links users_of; /* users[] by the layer that they need */
	struct vm_graph_viewer *viewers;
	size_t n_viewers, viewers_room;

	struct vm_graph_doubt *doubts; /* those with a name are the last */
	size_t n_doubts, n_nameless;
	struct vm_strmap named; /* of those with a name one each */
	bool *live_end;   /* of a node: a running domain's chain ends here */
	int *live_below;  /* of a node: what stands beneath it in a running domain's chain, VM_NO_FILE: not known from there */

	struct vm_graph_commit *commits;
	size_t n_commits;
	struct vm_links commit_bases; /* commits[] by their base */
	struct vm_graph_repoint *repoints;
	size_t n_repoints;
	struct vm_links repoint_bases; /* repoints[] by their base */
	struct vm_graph_running *running;
	size_t n_running;
};

static inline const struct vm_fact_file *vm_graph_file(const struct vm_graph *g, int file)
{
	return &g->facts->files[file];
}

static inline bool vm_graph_same(const struct vm_graph *g, int a, int b)
{
	return a == b || (a != VM_NO_FILE && b != VM_NO_FILE && g->node[a] == g->node[b]);
}

static inline bool vm_graph_exists(const struct vm_graph *g, int file)
{
	return file != VM_NO_FILE && vm_graph_file(g, file)->error == 0;
}

static inline const struct vm_fact_disk *vm_graph_disk(const struct vm_graph *g, const struct vm_graph_disk *d)
{
	return &g->facts->domains[d->domain].disks[d->disk];
}

static inline const struct vm_fact_snapshot *vm_graph_snapshot(const struct vm_graph *g, const struct vm_graph_snap *s)
{
	return &g->facts->domains[s->domain].snapshots[s->snapshot];
}

static inline const struct vm_fact_snapdisk *vm_graph_snapdisk(const struct vm_graph *g, const struct vm_graph_snap *s)
{
	return &vm_graph_snapshot(g, s)->disks[s->disk];
}

/* Add from the last thing to the first, and lists are in order. */
void vm_links_new(struct vm_links *links, size_t n_nodes, size_t n_things);
void vm_links_add(const struct vm_graph *g, struct vm_links *links, int file, size_t thing);

/* jobs.c: fills commits, repoints and running. */
void vm_graph_find_jobs(struct vm_graph *g);

/* users.c: fills users, viewers, and what running domains tell. */
void vm_graph_find_users(struct vm_graph *g);
/* "domain 'db' (disk vda)". Gives. */
char *vm_graph_user_phrase(const struct vm_graph *g, enum vm_graph_user_kind kind, size_t index);
bool vm_graph_user_is_own(const struct vm_graph *g, enum vm_graph_user_kind kind, size_t index, size_t domain);

/* doubts.c: fills doubts, after the users. */
void vm_graph_find_doubts(struct vm_graph *g);
/* The first doubt because of which @file may be needed, but for those that only snapshots of @domain make; NULL: none. */
const struct vm_graph_doubt *vm_graph_doubt(const struct vm_graph *g, int file, size_t domain);
/* "domain 'db' (disk vda) may need it, as '/x' is missing". Gives. */
char *vm_graph_doubt_phrase(const struct vm_graph *g, const struct vm_graph_doubt *doubt);

/* A chain as headers tell it, from some file down. */
struct vm_chain {
	int files[VM_CHAIN_MAX];
	size_t n;
	enum vm_state state; /* VM_OK, or why it ends early: STALE, BUSY or UNSUPPORTED */
	int culprit;         /* the file at which it ends early */
	const char *why;     /* the part of the sentence behind "'PATH' "; NULL: the file's own `why` says it all */
};

/* Walks down from @file, read as @format. */
void vm_chain_walk(const struct vm_graph *g, int file, enum q2_format format, struct vm_chain *chain);
/* Position of @file's node among the first @n layers, -1 if it is not there. */
int vm_chain_index(const struct vm_graph *g, const int *files, size_t n, int file);
/* Is it a layer of one of the domain's disks now? */
bool vm_graph_alive(const struct vm_graph *g, size_t domain, int file);
/* What @file stands on: by its header while it exists, else by the record of the snapshot that created it. */
int vm_graph_stands_on(const struct vm_graph *g, int file);
/* The disk of a (running, if there is one) domain that has it as its writable active layer; NULL: none. */
const struct vm_graph_disk *vm_graph_writer(const struct vm_graph *g, int file);

/* state.c: the image that this disk of a snapshot is read from, and its format: layers[0] of the verdict, whatever the record names. */
int vm_graph_image(const struct vm_graph *g, const struct vm_graph_snap *snap, enum q2_format *format);

/* ---------------------------------------------------------------- judging one disk of one snapshot */

/* What is not as it was noted: see noted.c. */
enum vm_hearing_fault { VM_FAULT_NONE, VM_FAULT_WRITTEN, VM_FAULT_LOST, VM_FAULT_ALONE, VM_FAULT_OTHER, VM_FAULT_OLDER, VM_FAULT_FORMAT };

/* One disk of one snapshot before its judge. */
struct vm_hearing {
	const struct vm_graph *g;
	size_t domain, snapshot;
	const struct vm_fact_snapshot *snap;
	const struct vm_fact_snapdisk *disk;
	int pit;              /* after redirection */
	int gone_top;         /* the recorded pit where it was redirected because of a commit: counts as part of the chain */
	struct vm_chain chain;
	size_t first;         /* the layers from here on must not have changed */
	int64_t from_ns;      /* what was last written before this was there before the snapshot */
	int64_t upto_ns;      /* the snapshot was complete by then */
	int64_t born_ns;      /* creation of the file that took the writes from then on; 0: unknown, or a copy */
	bool same[VM_CHAIN_MAX]; /* that layer is as it was noted */
	bool unchanged;       /* and so are all, and all that were noted are there */
	enum vm_hearing_fault fault;
	int faulty;           /* then: which file */
	struct vm_verdict verdict;
};

static inline const struct vm_fact_file *vm_hearing_layer(const struct vm_hearing *h, size_t i)
{
	return vm_graph_file(h->g, h->chain.files[i]);
}

static inline bool vm_hearing_internal(const struct vm_hearing *h)
{
	return h->disk->mode == VM_MODE_INTERNAL;
}

/* noted.c: fills same, unchanged, fault. After the chain. */
void vm_hearing_compare(struct vm_hearing *h);
/* Is it noted just as it is? */
bool vm_hearing_noted(const struct vm_hearing *h);
/* Has it the time of what was noted, as a copy of that may? */
bool vm_noted_has_time(const struct vm_graph *g, int file, const struct vm_fact_note *noted);
bool vm_graph_moved_by_us(const struct vm_graph *g, int file);

/* state.c: is a commit known that has changed layer @i (since that was noted so, if @noted is not NULL), and that this snapshot survives? */
bool vm_hearing_committed(const struct vm_hearing *h, size_t i, const struct vm_fact_note *noted);
/* See struct vm_verdict. */
uint64_t vm_hearing_survived(const struct vm_hearing *h, size_t i);

/* evidence.c: fills from_ns, upto_ns, born_ns. */
void vm_hearing_find_moment(struct vm_hearing *h);
/* The file directly above layer @i, VM_NO_FILE where there is none that we know. */
int vm_hearing_file_above(const struct vm_hearing *h, size_t i);
/* Is @file in the chain above layer @i? */
bool vm_hearing_covers(const struct vm_hearing *h, int file, size_t i);
/* Was the snapshot right when this file was as it is now, whatever had been written to it by then? */
bool vm_hearing_attested(const struct vm_hearing *h, int file);
/* Is it proven that this file was not written since? That layer @i was, and not by a delete of libvirt's? */
bool vm_hearing_unwritten(const struct vm_hearing *h, int file);
bool vm_hearing_written(const struct vm_hearing *h, size_t i);
/* It was found wrong once, which files that have changed since do not show any more; only if all is as it was noted is it right again. */
bool vm_hearing_spoilt(const struct vm_hearing *h);
/* Has qemu-img commit merged it down, and left it with nothing in it? */
bool vm_hearing_emptied(const struct vm_fact_file *f);
/* May its header have been changed to stand on something else since it was frozen? */
bool vm_hearing_may_be_repointed(const struct vm_hearing *h, int file);

#endif
