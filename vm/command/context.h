/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * context.h: one command at work on one domain.
 *
 * A work begins with a look (vm_work_look): a new picture, libvirt's records, our own facts, each asked for now, under the domain's
 * lock. Every guard is a question to that look. A command looks again before what cannot be undone.
 *
 * With `try_only` the same functions run, and instead of acting they say what they would do: vm_work_would().
 *
 * Errors: the contract's. The sentence names who needs what; names in it are raw and escaped by who prints it.
 * Threads: one; only `watch.cancel` is set by others.
 */
#ifndef VS_VM_COMMAND_CONTEXT_H
#define VS_VM_COMMAND_CONTEXT_H

#include <libvirt/libvirt.h>

#include "vm/language/command.h"
#include "vm/libvirt/act.h"
#include "vm/meta/meta.h"
#include "vm/meta/store.h"
#include "vm/util/fault.h"

/* libvirt's record of one snapshot. */
struct vm_work_record {
	char *name;
	char *text; /* with passwords */
	struct vm_xml_snapshot *xml;
};

struct vm_engine;

struct vm_work {
	/* set by who makes it; borrowed */
	struct vm_engine *engine;
	struct vm *vm;
	struct vm_store *store;
	const struct vm_options *options;
	const char *uuid;
	virConnectPtr conn; /* NULL for an image source */
	struct vm_log *log;
	const char *command; /* canonical text */
	bool try_only;
	bool beside;         /* with `try`: a command was at work on the domain when this began, which shares no lock with it */
	bool pruning;        /* retention works, and nobody asked for this very delete */
	struct vm_act_watch watch;

	/* of the last look */
	virDomainPtr dom;   /* NULL for an image source */
	struct vm_picture *pic;
	const struct vm_domain *d;
	struct vm_own *own; /* never NULL */
	bool behind;        /* the domain's own copy of it is older */
	char *known;        /* what was last found or written there */
	const uint64_t *moving; /* inode numbers of layers that are going to be re-pointed: they are vouched for in any case */
	size_t n_moving;
	struct vm_work_record *records;
	size_t n_records;
	bool running;

	/* of the whole work */
	struct vm_act_guest guest; /* a paused start of ours, if guest_up: ended by vm_work_guest_end() */
	bool guest_up;
	struct q2_stamp *removed;  /* files that it has removed */
	size_t n_removed;
	char *said;         /* what was done, or would be: phrases, with "; " between */
	size_t left;        /* of a pruning: how many are to go still */
	bool guarded;       /* vm_options.unguard was called with @hold */
};

/* Looks at everything anew. -ENOENT: the domain is gone; -EINVAL, -E2BIG: what its metadata say of ours cannot be read, and is kept
 * as it is. */
int vm_work_look(struct vm_work *w, struct vs_err *err);
/* A second look at the files and who needs them, beside the one that @w has: *now borrows everything else from @w. */
int vm_work_glance(const struct vm_work *w, struct vm_work *now, struct vs_err *err);
void vm_work_glance_done(struct vm_work *now);
void vm_work_fini(struct vm_work *w);

/* -EBUSY: somebody else's job runs; -EPERM: somebody's unfinished delete. */
int vm_work_idle(struct vm_work *w, struct vs_err *err);

/* For what moves data: -EPERM, the domain is shut off and has a managed save, which the start for it would use up. */
int vm_work_startable(const struct vm_work *w, struct vs_err *err);

/* The domain runs after this: it did, or it is started paused, for the rest of the work. Looks again if it was. */
int vm_work_guest(struct vm_work *w, struct vs_err *err);
/* Notes that a pivot is about to be asked for on this disk, and of which QEMU. */
int vm_work_note_pivot(struct vm_work *w, const char *target, struct vs_err *err);
/* own-jobs.c: notes that this block job is about to be asked for by @command. */
int vm_work_note_job(struct vm_work *w, const struct vm_act_job_spec *spec, const char *command, struct vs_err *err);
/* Gives up the block jobs that an interrupted run of @command has left and that are proven to be its own: how many. */
int vm_work_reclaim(struct vm_work *w, const char *command, struct vs_err *err);
/* Forgets the notes of those that are proven to be over. */
int vm_work_settle_jobs(struct vm_work *w, struct vs_err *err);
/* Who ends a guest that is ours gives up the jobs in it that are ours; those of others are waited for. */
void vm_work_abort_own(struct vm_work *w);
/* After a death in a pivot: where the very QEMU that was asked has the base as its active layer now, the pivot has happened, for nothing
 * else does that to a running QEMU. Notes so in w->own, and stores it. */
int vm_work_prove_pivots(struct vm_work *w, struct vs_err *err);
/* Is the domain a guest that an interrupted command of ours has started paused? 1: *out; 0: no, or nobody can tell. */
int vm_work_find_guest(struct vm_work *w, struct vm_act_guest *out);
/* Ends what vm_work_guest() started; 0 where it did not. */
int vm_work_guest_end(struct vm_work *w, struct vs_err *err);

/* One more phrase of what was done or would be done. */
void vm_work_say(struct vm_work *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* How such a phrase names a file: what is only announced with the whole path, what was done shortly; `chain` has the paths. */
const char *vm_work_file(const struct vm_work *w, const char *path);
/* "", or "s" where it is not one. */
const char *vm_work_plural(size_t n);

/* -ECANCELED, if it is to be cancelled. */
int vm_work_cancelled(const struct vm_work *w, struct vs_err *err);

/* The snapshot that a command means: by its shown name, else its raw one. -ENOENT; -EINVAL: several have it. */
int vm_work_find(const struct vm_work *w, const char *name, const struct vm_snapshot **out, struct vs_err *err);
/* The same snapshot in a later look: @key is the raw name of a recorded one, the shown name of another. -ENOENT. */
int vm_work_find_key(const struct vm_work *w, const char *key, const struct vm_snapshot **out, struct vs_err *err);
/* NULL: libvirt has no record of it. */
const struct vm_work_record *vm_work_record(const struct vm_work *w, const char *raw_name);
struct vm_own_id vm_work_id(const struct vm_work *w, const struct vm_snapshot *s);
/*
 * The image that this external snapshot's disk is in: what the look reads it from, which may be another file than its record names
 * (graph/state.c, "redirection"). Where the look has no image of it, what the record says: then it cannot be read either. No command
 * takes the record's word. *format (nullable): of that. Borrowed; NULL: it has no such disk, or not in a local file.
 */
const char *vm_work_image(const struct vm_work *w, const struct vm_work_record *record, const char *target, enum q2_format *format);

/* Stores w->own, raised by one, in the state directory and at the domain: what has happened, and is so whatever this returns. */
int vm_work_save(struct vm_work *w, struct vs_err *err);
/* The same for what is only asked for (a hold, a policy, what is about to be done): on failure it is not so, neither now nor later.
 * -EBUSY: a mount that shares no lock with us has changed it meanwhile. */
int vm_work_ask(struct vm_work *w, struct vs_err *err);

/* attest.c: notes in w->own which snapshots of @d (of a picture) are right, with what beneath them; the next save stores it.
 * vm_work_look() does so with what it saw. */
int vm_work_vouch(struct vm_work *w, const struct vm_domain *d, struct vs_err *err);
/* Of the last look: what was right and stands on @path (not: is frozen in it) is so with what that file is by now. */
int vm_work_vouch_beneath(struct vm_work *w, const char *path, struct vs_err *err);
/* The same with a new picture, after files have changed. */
int vm_work_vouch_again(struct vm_work *w, struct vs_err *err);

/* Does a record say that a snapshot made the file with this path, or do our own facts say that this very file is of our making? */
bool vm_work_made(const struct vm_work *w, const char *path, uint64_t ino);
/* For vm_own_sweep_made(): is that file there? */
bool vm_work_is_there(const char *path, uint64_t ino);
/* meta/journal.c: what only matters if we die. Adds the line, of this command, unless it is there; on disk when this returns 0. Else the
 * command fails, before it does what it could not note. */
int vm_work_note(struct vm_work *w, const char *word, const char *text, struct vs_err *err);
/* Is there such a line of this command? */
bool vm_work_noted(const struct vm_work *w, const char *word, const char *text);
/* Calls @use with the text of every such line, of whatever command. Returns how often it answered true. */
int vm_work_note_each(struct vm_work *w, const char *word, bool (*use)(struct vm_work *w, const char *text, void *opaque),
		      void *opaque);
/* The lines of this command with that word go. */
void vm_work_note_done(struct vm_work *w, const char *word);
/* Those lines with that word, of whatever command, of which @settled says that nothing is left to do. */
void vm_work_note_settle(struct vm_work *w, const char *word, bool (*settled)(struct vm_work *w, const char *text, void *opaque),
			 void *opaque);
/* ... and those of every other command. */
void vm_work_note_drop(struct vm_work *w, const char *word);

/* Notes in w->own what this disk of an external snapshot froze, if it is right. */
void vm_work_note_frozen(struct vm_work *w, const struct vm_own_id *id, const struct vm_disk *disk);

/* Guard locks of the mount on the domain's files: off, until the work ends. */
void vm_work_unguard(struct vm_work *w);

/* ---------------------------------------------------------------- the graph, as the picture has it */

/* Index of the layer in w->d->layers that this path leads to, as far as the look met it by that path; -1: none. Pure. */
int vm_work_layer(const struct vm_work *w, const char *path);
/* Bytes that it takes on disk now: a running guest has written since the picture was made. */
uint64_t vm_work_allocated(const struct vm_work *w, int layer);
/* Bytes that a merge of everything above @base up to @top moves at most: what these layers store, and the zeros that they note, which
 * some QEMUs write out. */
uint64_t vm_work_cost(const struct vm_work *w, int base, int top);
/* The active layer of that disk; -1: none. */
int vm_work_top(const struct vm_work *w, const char *target);
/* Is the chain that this disk writes through whole, by the look? -EPERM, -EACCES: a layer is missing or cannot be read, and what can be
 * done. */
int vm_work_whole(const struct vm_work *w, const char *target, struct vs_err *err);
/* Is the chain from this layer down, of the disk or of a snapshot of it, whole, and was no file of it cut off? Reads their tables. */
int vm_work_uncut(const struct vm_work *w, const char *target, int layer, struct vs_err *err);
/* How many of the domain's layers stand on it; *one is the (last) one. */
size_t vm_work_above(const struct vm_work *w, int layer, int *one);
/* The name of an internal snapshot that is stored in the layer, also where it is no snapshot of this domain's; or NULL. */
const char *vm_work_internal_in(const struct vm_work *w, int layer);

/* ---------------------------------------------------------------- commands. Each may be repeated after a crash */

int vm_op_create(struct vm_work *w, const struct vm_command *c, struct vs_err *err);
int vm_op_delete(struct vm_work *w, char *const *names, size_t n, struct vs_err *err);
int vm_op_commit(struct vm_work *w, const char *first, const char *last, struct vs_err *err);
int vm_op_pull(struct vm_work *w, const char *name, struct vs_err *err);
int vm_op_revert(struct vm_work *w, const struct vm_command *c, struct vs_err *err);
int vm_op_hold(struct vm_work *w, const char *name, bool hold, struct vs_err *err);
int vm_op_policy(struct vm_work *w, const char *line, struct vs_err *err);
/* Of what @keys name (see vm_work_find_key) the first, with those that can go in one merge with it: they are moved to the front.
 * *done: how many of them went; with a failure it is the next one's. After a look. */
int vm_op_delete_some(struct vm_work *w, char **keys, size_t n, size_t *done, struct vs_err *err);
/* Finishes the delete @begun that was begun; which of @keys (NULL: none were asked for) it had to do with is taken from there. */
int vm_op_delete_begun(struct vm_work *w, const char *begun, char **keys, size_t *n, struct vs_err *err);
/* Drops what the policy drops. *dropped: how many. */
int vm_op_prune(struct vm_work *w, size_t *dropped, struct vs_err *err);
/* After a mount: finishes records, ends a guest that we had started. Merges and removes nothing. */
int vm_op_repair(struct vm_work *w, struct vs_err *err);
/* Snapshots that an interrupted create has nevertheless taken count as taken here. After a look. */
int vm_op_settle(struct vm_work *w, struct vs_err *err);
/* How every command that changes something begins, after a look: what an interrupted run of it has left running is given up, what
 * other commands have begun and not ended is looked at (see command/intent.h), and nobody else may be at work. @create: it takes a
 * snapshot. */
int vm_op_begin(struct vm_work *w, const char *command, bool create, struct vs_err *err);
/* Internal ones: -EPERM, its name is another one's id; -EOPNOTSUPP, it is not in the active layers. */
int vm_op_check_id(const struct vm_work *w, const struct vm_snapshot *s, struct vs_err *err);
int vm_op_check_active(const struct vm_work *w, const struct vm_snapshot *s, struct vs_err *err);

/* create.c: what is about to be made is noted. */
int vm_op_making(void *work, const char *path, int fd, struct vs_err *err);
int vm_op_note_take(struct vm_work *w, const char *name, struct vs_err *err);
/* Before a command makes overlays, and when it has ended, after a look: what was made and nobody came to use is unlinked, what the domain
 * has come to use is remembered as of our making, and the notes of both go; a note that is not settled stays. */
int vm_op_settle_making(struct vm_work *w, struct vs_err *err);

/* image.c: the same on a plain image; w->conn is NULL. */
int vm_op_image_create(struct vm_work *w, const struct vm_command *c, struct vs_err *err);
int vm_op_image_delete(struct vm_work *w, const struct vm_snapshot *s, struct vs_err *err);
int vm_op_image_revert(struct vm_work *w, const struct vm_command *c, struct vs_err *err);

#endif
