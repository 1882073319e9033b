/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * graph.h: image files, who stands on whom, who needs each, and what that means for a snapshot.
 *
 * Facts come in as plain structs that the inventory fills (from libvirt's XML, stat, headers, lock bytes, jobs); answers
 * come out. No I/O, no libvirt, no clock but the facts' own: the same facts give the same answers. The rules and the reasons for them are the
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
 * Ownership: facts are borrowed by a graph until vm_graph_free(); answers own nothing of the graph, except `entry`: a verdict is
 * given, all others come from the arena of who asks. Threads: a graph is immutable; any thread. There are no errors. What
 * contradicts itself in the facts is an answer. Gates are not asked here: what a gate refuses comes in as `below_why`, with the file that it keeps shut as
 * `refused_dev` and `refused_ino`; or the caller worsens the answer afterwards.
 */
#ifndef VS_VM_GRAPH_GRAPH_H
#define VS_VM_GRAPH_GRAPH_H

#include "vm/model/facts.h"
#include "vm/util/arena.h"

/* ---------------------------------------------------------------- the graph and its answers */

struct vm_graph;

struct vm_graph *vm_graph_new(const struct vm_facts *facts); /* gives */
void vm_graph_free(struct vm_graph *graph);

struct vm_verdict {
	bool broken; /* the state is that of its chain, of which a layer is missing or cannot be read: it may come back */
	bool differs;           /* STALE, for its files are not as they were noted; also of one that is BUSY, like the next two */
	bool misses;            /* likewise: what it stood on when it was noted is not beneath it: it needs those files if it is to be right again */
	bool written; /* STALE, for a file was written to: no missing file that comes back mends that */
	bool noted;  /* it is noted just so, with all that it stands on */
	bool brief;  /* BUSY until a command of ours has noted what it has done; more than moments only where that died */
	enum vm_state state;
	char *reason;           /* NULL for ok; else one sentence: lower case, no full stop, names escaped */
	int *layers;            /* file indexes, what is to be read first, base last; as far as it is known */
	uint64_t *survived;     /* of each of them: 0, or a number for those merges into it that did this snapshot no harm, as records and headers
	                         * tell. They explain what was written to it by now, and nothing later */
	size_t n_layers;        /* layers[0] may be another file than the recorded pit: see state.c, "redirection" */
	enum q2_format format;  /* of layers[0] */
	const struct q2_snapshot *entry; /* INTERNAL: in the facts' info of layers[0]; NULL: external or not found */
	bool guard, guard_top;  /* may QEMU's guard lock be held: on the layers that are read as a whole; on layers[0] of an
	                         * internal snapshot as well. False where a domain has one of them as its active layer */
	size_t watched;         /* for q2_view_spec: 0, or how many layers from the top a running commit leaves as they are */
};
void vm_verdict_fini(struct vm_verdict *verdict);

/* By what a file is known again, see vm_mark(). */
struct q2_stamp vm_graph_stamp(const struct vm_graph *graph, int file);

/* What is to be thought of one disk of one snapshot. Fills *out (to be given to vm_verdict_fini). */
void vm_graph_state(const struct vm_graph *graph, size_t domain, size_t snapshot, size_t disk, struct vm_verdict *out);

/* The commits that run now, as far as locks and libvirt tell base and top: to be remembered as vm_facts.commits (by dev and
 * ino) for as long as the files exist. Gives *out (free()) and its length; `at` is 0. */
void vm_graph_commits(const struct vm_graph *graph, struct vm_fact_commit **out, size_t *n);

/*
 * The layers of a domain for the `chain` picture: of its disks from the top down, then of its snapshots, each node once;
 * `tops[i]` is the layer of disks[i] (-1 where there is none). `users` names everybody else who needs the layer,
 * `snapshots` the shown names frozen or stored in it, `note` what is odd: left over, being committed, missing.
 */
void vm_graph_layers(const struct vm_graph *graph, size_t domain, struct vm_arena *arena, struct vm_layer **layers, size_t *n_layers,
		     int **tops);

/* Is there anything that is not known, of whatever file? */
bool vm_graph_has_doubts(const struct vm_graph *graph);

/* What is not known because of nothing but snapshots of @domain: what `unknown` of its layers leaves out. */
void vm_graph_doubts(const struct vm_graph *graph, size_t domain, struct vm_arena *arena, struct vm_doubt **out, size_t *n);

/* Who stands on the file that shows this snapshot in a virt-snapfs mount, each a phrase as in vm_layer.users;
 * NULL-terminated. */
char **vm_graph_viewers(const struct vm_graph *graph, size_t domain, size_t snapshot, struct vm_arena *arena);

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
void vm_stray_group(const struct vm_table *tables, size_t n_tables, struct vm_stray **out, size_t *n_out);
void vm_stray_free(struct vm_stray *strays, size_t n);

#endif
