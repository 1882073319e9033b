/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * remove.h: the one door through which a file is unlinked, be it a layer, an overlay that came to nothing or a snapshot's memory, and
 * the one question of who needs a file.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_REMOVE_H
#define VS_VM_COMMAND_REMOVE_H

#include "vm/command/context.h"

/* Is a layer needed? */
enum vm_need { VM_NEED_NOT, VM_NEED_BY, VM_NEED_UNKNOWN };

/* Snapshots that go with what is asked about: their need does not count. */
struct vm_leaving {
	const char *const *names; /* raw */
	size_t n;
	bool begun; /* by a command that was begun before */
};
bool vm_leaving_has(const struct vm_leaving *leaving, const char *name);

/*
 * Who needs this layer of the domain besides what stands on it here, and is that known? Of the last look: other domains, snapshots,
 * volumes, whoever stands on a file of a mount, and the domain's other snapshots that froze it. Pure.
 * BY: @err is -EPERM, "'PATH' must stay as it is: who needs it"; UNKNOWN: -EPERM or -EACCES, with what is not known and why.
 * @frozen_too: what a snapshot outside of @leaving froze is needed by it (not of a top, which that snapshot will find in the base).
 */
enum vm_need vm_need(const struct vm_context *cx, int layer, const struct vm_leaving *leaving, bool frozen_too,
		     struct vs_err *err);

/* What proves that it is ours to remove? */
enum vm_doomed_as {
	VM_DOOMED_LAYER,  /* a record says that a snapshot made it, or our metadata that a command did */
	VM_DOOMED_BEGUN,  /* the caller has read it in a note of what a command was making */
	VM_DOOMED_MEMORY, /* libvirt reads in it that it saved this domain's memory there, not before the snapshot was taken */
};

/* A file that may be removed, as it was when that was planned. */
struct vm_doomed_file {
	char *path;
	struct q2_stamp stamp;
	enum vm_doomed_as as;
	int64_t since_s; /* MEMORY: when the snapshot was taken */
};

/*
 * Removes it, if by a look that is made for this it is that very file (device, inode, size, mtime), it is ours to remove, nothing stands
 * on it, nobody needs it nor may, and no QEMU has it open. 0; 1: it is gone already; negative: it stays, and why.
 */
int vm_remove(struct vm_context *cx, const struct vm_doomed_file *file, const struct vm_leaving *leaving, struct vs_err *err);

/* Tells that @path was unlinked, or (`try`) would be; and that an external data file of it stays. */
void vm_remove_say(struct vm_context *cx, const char *path);
/* The same question to the last look, without removing it. 0: it would go. */
int vm_may_remove(const struct vm_context *cx, const struct vm_doomed_file *file, const struct vm_leaving *leaving,
		  struct vs_err *err);
/* Could what lies there be removed at all? A symbolic link and a device are never. 0, also where nothing is there. */
int vm_is_removable(const char *path, struct vs_err *err);

/* What QEMU's image locks on this file say. */
int vm_locks_on(const char *path, struct q2_locks *out, struct vs_err *err);
/* Do the image locks say that no QEMU has it open, and with @reading nobody reads it? 0; -EBUSY and other errors: it may be. */
int vm_nobody_has_it(const char *path, bool reading, struct vs_err *err);

/* Is this file a snapshot's making or ours, by a record or by our notes? */
bool vm_made(const struct vm_context *cx, int layer);

#endif
