/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * checks.h: may a command be carried out, by the look? Nothing is changed here.
 *
 * Threads: the work's.
 */
#ifndef VS_VM_COMMAND_CHECKS_H
#define VS_VM_COMMAND_CHECKS_H

#include "vm/command/context.h"

/* -EBUSY: somebody else's job runs; -EPERM: somebody's unfinished delete. */
int vm_work_idle(struct vm_work *w, struct vs_err *err);

/* For what moves data: -EPERM, the domain is shut off and has a managed save, which the start for it would use up. */
int vm_work_startable(const struct vm_work *w, struct vs_err *err);

/* Is the chain that this disk writes through whole, by the look? -EPERM, -EACCES: a layer is missing or cannot be read, and what can be
 * done. */
int vm_work_whole(const struct vm_work *w, const char *target, struct vs_err *err);
/* Is the chain from this layer down, of the disk or of a snapshot of it, whole, and was no file of it cut off? Reads their tables. */
int vm_work_uncut(const struct vm_work *w, const char *target, int layer, struct vs_err *err);
/* Bytes that a merge of everything above @base up to @top moves at most: what these layers store, and the zeros that they note, which
 * some QEMUs write out. */
uint64_t vm_work_cost(const struct vm_work *w, int base, int top);

#endif
