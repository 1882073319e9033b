/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * intent.h: commands that were begun and are not done.
 *
 * Before a merge changes a byte, the snapshots that it dooms are marked in the domain's metadata with the command and, disk by disk,
 * with the files that it is about: their inode numbers, so that a file which merely has the name of one is not taken for it. That is
 * the intent. It owns these files until the command is repeated to its end, or has become void: see intent.c.
 *
 * Everything here but vm_intent_settle(), _settle_of(), _leave() and _void() is a pure question to the look of the command. Threads: the command's.
 */
#ifndef VS_VM_COMMAND_INTENT_H
#define VS_VM_COMMAND_INTENT_H

#include "vm/command/context.h"

enum vm_intent_state {
	VM_INTENT_DONE,     /* its data is in the base: noted, or shown by the very files */
	VM_INTENT_REDO,     /* the top stands on the base still, so to merge it (again) is right */
	VM_INTENT_UNKNOWN,  /* one of its files is missing or cannot be read */
	VM_INTENT_VOID,     /* others have changed its files: it can be neither finished nor undone */
};

/* What a command does, which decides beside which begun ones it may be done. */
enum vm_intent_beside {
	VM_BESIDE_CHANGE, /* it writes to or removes layers: beside none */
	VM_BESIDE_CREATE, /* it freezes the active layers: beside those that do not have these */
	VM_BESIDE_PULL,   /* it writes to the active layers alone what they show anyway, and then stands on nothing: beside all whose data is
			   * not moved yet. So it is the way out where one can never be finished: afterwards that has become void */
};

/* What became of one disk of a begun command. @why: a sentence, for UNKNOWN and VOID. *code: errno for UNKNOWN. */
enum vm_intent_state vm_intent_disk(const struct vm_context *cx, const struct vm_meta_doomed *disk, char why[VS_ERR_MAX],
				    int *code);

/* Does a header say that it is done, which is not proven? See prove.c. */
bool vm_intent_is_ahead(const struct vm_context *cx, const struct vm_meta_doomed *d);
/* Is the layer needed by what reads through such a header, of a command that has become void? -EPERM. */
int vm_intent_need(const struct vm_context *cx, int layer, struct vs_err *err);
/* The mark that a record's snapshot carries, NULL: none. Borrowed. */
const struct vm_meta_mark *vm_intent_mark(const struct vm_context *cx, const struct vm_context_record *record);
/* The disk of the mark, NULL: it says nothing of that. */
const struct vm_meta_doomed *vm_intent_of(const struct vm_meta_mark *mark, const char *target);

/* What to type to repeat it: any of its snapshots stands for all of a long line. Gives. */
char *vm_intent_repeat(const char *command);

/* Was nothing written yet? It was noted that nobody has been asked to, or the time stamps of the bases prove it. */
bool vm_intent_untouched(const struct vm_meta_mark *mark);

/* The names of the snapshots that @command has marked and libvirt still lists, ancestors first, borrowed, in @line, which has room
 * for all records. Returns how many. */
size_t vm_intent_line(const struct vm_context *cx, const char *command, const char **line);

/*
 * For every command but those that were begun: what was begun is looked at. Where nothing was written it is forgotten; where it has
 * become void that is written down; else its files are its own: -EPERM, "repeat it first", but for those that @beside lets be. With
 * `try` nothing is written.
 * @command: the one that is asked for, which is not refused because of itself.
 */
int vm_intent_settle(struct vm_context *cx, const char *command, enum vm_intent_beside beside, struct vs_err *err);

/* The same for the command alone that was to remove this snapshot, if there is one: once it has gone so far, nothing can keep what the snapshot
 * had. */
int vm_intent_settle_of(struct vm_context *cx, const struct vm_meta_id *id, struct vs_err *err);

/* Of a domain that is shut off: notes how the begun commands have left what they wrote to, and who has other bytes beneath him because others
 * wrote to it since. True: there is something to be saved. */
bool vm_intent_leave(struct vm_context *cx);

/* Writes down that this command is void, for the reason @why. */
int vm_intent_void(struct vm_context *cx, const char *command, const char *why, struct vs_err *err);

#endif
