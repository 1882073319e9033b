/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * remove.h: the one door through which a command unlinks a file that was a layer, and the one question of who needs a layer.
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

/* A file that may be removed, as it was when that was planned. */
struct vm_doomed_file {
	char *path;
	struct q2_stamp stamp;
};

/*
 * Removes it, if by the last look, which has to be a fresh one, it is that very file (device, inode, size, mtime), a snapshot or a
 * command of ours made it, nobody needs it nor may, and no QEMU has it open. 0; 1: it is gone already; negative: it stays, and why.
 */
int vm_remove(struct vm_context *cx, const struct vm_doomed_file *file, const struct vm_leaving *leaving, struct vs_err *err);

/* Do the image locks say that no QEMU has it open, and nobody reads it? 0; -EBUSY and other errors: it may be. */
int vm_nobody_has_it(const char *path, struct vs_err *err);

/* Is this file a snapshot's making or ours, by a record or by our notes? */
bool vm_made(const struct vm_context *cx, int layer);

#endif
