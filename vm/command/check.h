/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * check.h: may a command be carried out, by the look? Nothing is changed here.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_CHECK_H
#define VS_VM_COMMAND_CHECK_H

#include "vm/command/context.h"

/* -EBUSY: a job runs that this command has not begun; -EPERM: somebody's unfinished delete. */
int vm_check_idle(struct vm_context *cx, struct vs_err *err);

/* For what moves data, freezes disks or puts others in their place: -EPERM, the domain is shut off and has a managed save, which belongs to
 * the disks as they are; and the start for it would use it up. */
int vm_check_startable(const struct vm_context *cx, struct vs_err *err);
/* Of a domain that does not run: does nobody write to this disk (NULL: to any of them) all the same? -EBUSY. */
int vm_check_at_rest(const struct vm_context *cx, const char *target, struct vs_err *err);

/* For what makes layers in which nothing is recorded for the checkpoints that the domain has: -EOPNOTSUPP, which libvirt would say later. @runs: were it
 * running, it would be. */
int vm_check_checkpoints(const struct vm_context *cx, bool runs, struct vs_err *err);

/* May a snapshot be called that? -EINVAL, -EEXIST. */
int vm_check_new_name(const struct vm_context *cx, const char *name, enum vm_kind kind, struct vs_err *err);

/* Is the chain that this disk writes through whole, by the look? -EPERM, -EACCES: a layer is missing or cannot be read, or the domain's
 * definition contradicts the headers, and what can be done. */
int vm_check_whole(const struct vm_context *cx, const char *target, struct vs_err *err);
/* Is the chain from this layer down, of the disk or of a snapshot of it, whole, and was no file of it cut off? Reads their tables. */
int vm_check_uncut(const struct vm_context *cx, const char *target, int layer, struct vs_err *err);
/* Is the layer, by a record, a disk only in a part of it? A merge would not heed that, wherever it goes down to or from. */
int vm_check_slice(const struct vm_context *cx, const char *target, int layer, struct vs_err *err);
/* Has it other names (hard links) through which somebody would find it changed? -EPERM. Nobody says who uses those. */
int vm_check_links(const struct vm_context *cx, const char *target, int layer, struct vs_err *err);
/* Is there a persistent bitmap in what stands on @base up to @top, that would be lost with its file? @recording: also one that records, which
 * a merge would carry on. -EPERM. */
int vm_check_bitmaps(const struct vm_context *cx, const char *target, int base, int top, bool recording, struct vs_err *err);
/* Bytes that a merge of everything above @base up to @top moves at most: what these layers store, and the zeros that they note, which
 * some QEMUs write out. */
uint64_t vm_check_cost(const struct vm_context *cx, int base, int top);

#endif
