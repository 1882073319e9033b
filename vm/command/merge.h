/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * merge.h: what delete and commit have in common: a line of snapshots goes, and its overlays go down into the image that the
 * first of them froze. Planned once by merge-plan.c, which only looks; carried out by merge-run.c, with
 * merge-records.c and merge-files.c.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_MERGE_H
#define VS_VM_COMMAND_MERGE_H

#include "vm/command/held.h"
#include "vm/command/remove.h"

enum vm_merge_what {
	VM_MERGE_KEEP,  /* the files stay, the records go */
	VM_MERGE_DOWN,  /* the layers above `base` up to `top` go into it */
	VM_MERGE_DONE,  /* that has happened already, in an earlier run that was interrupted: see intent.h */
	VM_MERGE_DROP,  /* nobody needs `base`, which a snapshot created: it is removed */
};

struct vm_merge_disk {
	enum vm_merge_what what;
	char *target, *base, *top; /* paths, `top` NULL for KEEP and DROP */
	struct q2_stamp base_stamp, top_stamp;
	uint64_t above_ino;        /* of what stands on the top; 0: it is the active layer */
	bool unproven;             /* DONE: the merged files stay, for nobody can tell whether all of them was merged */
	struct vm_doomed_file *gone; /* DOWN, DONE: the merged layers, the top first; DROP: the base and what stays beneath it for
	                            * nobody else */
	size_t n_gone;
	enum q2_format format;     /* of base */
	bool block;                /* base is a device */
	uint64_t bytes;            /* that would be moved at most */
	char *why;                 /* KEEP: who needs it, or what else is in the way */
	struct vm_held held;       /* what the job writes to */
};

/* How strict: what cannot be merged is kept (delete), or refused (commit, and a line of several that is tried as one). */
enum vm_merge_mode { VM_MERGE_DELETE, VM_MERGE_COMMIT };

struct vm_merge {
	struct vm_context *cx;
	char *command;             /* repeating it finishes what was begun */
	char **names;              /* of the snapshots that go, ancestors first; raw */
	size_t n_names;
	struct vm_merge_disk *disks;
	size_t n_disks;
	enum vm_merge_mode mode;
	bool resumed;              /* it had been begun before */
	char *is_void;             /* NULL, or why it can never be finished: others have changed its files */
	uint64_t *moving;          /* inode numbers of what stands on the tops */
};

/*
 * Fills *m for the snapshots in @names (copied), which follow one another on one branch. Takes @command. Every guard is asked. On
 * success and failure to be ended with vm_merge_fini(). Pure: a question to the last look of @cx.
 *   -EPERM, -EACCES  somebody needs what would change, or it is not known who does: the sentence names it
 *   -EOPNOTSUPP      COMMIT: the layers are not where they would have to be
 *   -ENOENT          no such record
 */
int vm_merge_plan(struct vm_merge *m, struct vm_context *cx, const char *const *names, size_t n, enum vm_merge_mode mode,
		  char *command,
		  struct vs_err *err);
void vm_merge_fini(struct vm_merge *m);

/* Does it, or says what it would do. */
int vm_merge_run(struct vm_merge *m, struct vs_err *err);

/* After a mount: where all data had been moved, corrects the records of those that stay; those that go stay marked, for the command
 * to be repeated. Merges and removes nothing. */
int vm_merge_repair(struct vm_merge *m, struct vs_err *err);

/* ---------------------------------------------------------------- between merge-*.c */

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

static inline struct vm_leaving vm_merge_leaving(const struct vm_merge *m)
{
	return (struct vm_leaving){ (const char *const *)m->names, m->n_names, m->resumed };
}

/* merge-records.c: every record that stays and names a merged layer gets the base instead, and children of those that go their
 * parent. How many were changed; with `try` they are only told. */
int vm_merge_records(struct vm_merge *m, struct vs_err *err);
/* The records of those that go, the last one first. */
int vm_merge_forget(struct vm_merge *m, struct vs_err *err);


/* merge-files.c. What the job of @d is going to write to is held open from here on, for QEMU is told of an error when it flushes, and says nothing... */
int vm_merge_hold(struct vm_merge *m, struct vm_merge_disk *d, struct vs_err *err);
/* ... and this tells whether all of that has reached the disk. */
int vm_merge_reaches_disk(const struct vm_merge_disk *d, struct vs_err *err);
/* What holds by now what the files of @d held is on the disk, before they go. *told: it is the disk that has failed, and others may not be told. */
int vm_merge_write_out(const struct vm_merge *m, const struct vm_merge_disk *d, bool *told, struct vs_err *err);
/* What stays by these is a file too many, which `chain` shows: it is told, and no failure. */
void vm_merge_remove_files(struct vm_merge *m);
void vm_merge_remove_memory(struct vm_merge *m);
/* What those two, and vm_nv_remove(), would do. */
void vm_merge_tell_files(struct vm_merge *m);

#endif
