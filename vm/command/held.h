/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * held.h: the files that a job of QEMU's is about to write to, held open from before it: whether all of that reaches the disk QEMU may be told, and
 * nobody else later. See util/sync.h. And a note of where something did not, which only the content can prove right.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_HELD_H
#define VS_VM_COMMAND_HELD_H

#include "vm/command/context.h"

#define VM_HELD_MAX 4

struct vm_held {
	int fd[VM_HELD_MAX];
	size_t n;
};

/* The layer, and its data file. Negative: they cannot be opened. */
int vm_held_layer(struct vm_held *h, const struct vm_layer *l, struct vs_err *err);
/* 0 or -errno. */
int vm_held_reach_disk(const struct vm_held *h);
void vm_held_fini(struct vm_held *h);

/* Something of what was written there, nobody knows what, did not come to the disk. @where: the path of a base that was merged into; or the target of a disk,
 * of a pull, by whomever. */
void vm_held_note(struct vm_context *cx, const char *where);
bool vm_held_is_noted(const struct vm_context *cx, const char *where);
/* The content has shown that nothing is missing, or nobody goes by it any more. */
void vm_held_proven(struct vm_context *cx, const char *where);

#endif
