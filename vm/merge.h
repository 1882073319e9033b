/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * merge.h: what delete and commit have in common: a line of snapshots goes, and its overlays go down into the image that the
 * first of them froze. See merge.c.
 *
 * Threads: the work's.
 */
#ifndef VS_VM_MERGE_H
#define VS_VM_MERGE_H

#include "vm/work.h"

enum vm_merge_what {
	VM_MERGE_KEEP,  /* the files stay, the records go */
	VM_MERGE_DOWN,  /* the layers above `base` up to `top` go into it */
	VM_MERGE_DONE,  /* that has happened already, in an earlier run that was interrupted */
	VM_MERGE_DROP,  /* nobody needs `base`, which a snapshot created: it is removed */
};

struct vm_merge_disk {
	enum vm_merge_what what;
	char *target, *base, *top; /* paths; `top` NULL for KEEP and DROP */
	char **gone;               /* DOWN, DONE: the layers that are in `base` afterwards, and go; DROP: what stays beneath it for
	                            * nobody else */
	size_t n_gone;
	enum q2_format format;     /* of base */
	bool block;                /* base is a device */
	uint64_t bytes;            /* that would be moved at most */
	const char *why;           /* KEEP: static text, */
	char *who;                 /* or who needs it, where that is known */
};

struct vm_merge {
	struct vm_work *w;
	char *command;             /* repeating it finishes what was begun */
	char **names;              /* of the snapshots that go, ancestors first; raw */
	size_t n_names;
	struct vm_merge_disk *disks;
	size_t n_disks;
	uint64_t *moving;          /* inode numbers of what stands on the tops */
	bool strict;               /* commit: what cannot be merged is refused, not kept */
};

/* Fills *m for the snapshots in @names (copied), which follow one another. Takes @command. All guards are asked. On
 * success and failure to be ended with vm_merge_fini(). */
int vm_merge_plan(struct vm_merge *m, struct vm_work *w, const char *const *names, size_t n, bool strict, char *command,
		  struct vs_err *err);
void vm_merge_fini(struct vm_merge *m);

/* Does it, or says what it would do. */
int vm_merge_run(struct vm_merge *m, struct vs_err *err);

/* After a run that was interrupted before a byte was written: takes the marks away. When all data had been moved: corrects
 * the records of those that stay; those that go stay marked, for the command to be repeated. 1: one or the other was the
 * case; 0: it was not. */
int vm_merge_repair(struct vm_merge *m, struct vs_err *err);

/* ---------------------------------------------------------------- between merge.c and merge-files.c */

static inline size_t vm_merge_count(const struct vm_merge *m, enum vm_merge_what what)
{
	size_t n = 0;

	for (size_t i = 0; i < m->n_disks; i++)
		n += m->disks[i].what == what;
	return n;
}

/* Is its data in the base now, or will be? */
static inline bool vm_merge_moved(const struct vm_merge_disk *d)
{
	return d->what == VM_MERGE_DOWN || d->what == VM_MERGE_DONE;
}

/* Removes what was merged, what nobody needs, and saved memory. */
int vm_merge_remove_files(struct vm_merge *m, struct vs_err *err);

#endif
