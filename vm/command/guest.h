/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * guest.h: a domain that is started, paused, for the work on its disks; and the pivots that are asked of a QEMU.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_GUEST_H
#define VS_VM_COMMAND_GUEST_H

#include "vm/command/context.h"

/* The domain runs after this: it did, or it is started paused, for the rest of the work. Looks again if it was. */
int vm_guest_start(struct vm_context *cx, struct vs_err *err);
/* Notes that a pivot is about to be asked for on this disk, and of which QEMU. */
int vm_guest_journal_pivot(struct vm_context *cx, const char *target, struct vs_err *err);
/* After a death in a pivot: where the very QEMU that was asked has the base as its active layer now, the pivot has happened, for nothing
 * else does that to a running QEMU. Notes so in cx->meta, and stores it. */
int vm_guest_prove_pivots(struct vm_context *cx, struct vs_err *err);
/* Until no start that an interrupted command of ours has asked for can come any more: 0; -ECANCELED. */
int vm_guest_await(struct vm_context *cx, struct vs_err *err);
/* Is the domain a guest that an interrupted command of ours has started paused? 1: *out; 0: no, or nobody can tell. */
int vm_guest_find(struct vm_context *cx, struct vm_paused_guest *out);
/* Ends what vm_guest_start() started; 0 where it did not. */
int vm_guest_end(struct vm_context *cx, struct vs_err *err);

#endif
