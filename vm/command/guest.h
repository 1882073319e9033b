/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * guest.h: a domain that is started, paused, for the work on its disks; and the pivots that are asked of a QEMU.
 *
 * Threads: the work's.
 */
#ifndef VS_VM_COMMAND_GUEST_H
#define VS_VM_COMMAND_GUEST_H

#include "vm/command/context.h"

/* The domain runs after this: it did, or it is started paused, for the rest of the work. Looks again if it was. */
int vm_work_guest(struct vm_work *w, struct vs_err *err);
/* Notes that a pivot is about to be asked for on this disk, and of which QEMU. */
int vm_work_note_pivot(struct vm_work *w, const char *target);
/* After a death in a pivot: where the very QEMU that was asked has the base as its active layer now, the pivot has happened, for nothing
 * else does that to a running QEMU. Notes so in w->own, and stores it. */
int vm_work_prove_pivots(struct vm_work *w, struct vs_err *err);
/* Is the domain a guest that an interrupted command of ours has started paused? 1: *out; 0: no, or nobody can tell. */
int vm_work_find_guest(struct vm_work *w, struct vm_paused_guest *out);
/* Ends what vm_work_guest() started; 0 where it did not. */
int vm_work_guest_end(struct vm_work *w, struct vs_err *err);

#endif
