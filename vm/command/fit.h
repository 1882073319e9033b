/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * fit.h: does everything that stays read as before when layers have been merged or pulled, and can the file that is written take it?
 * See the essay in fit.c.
 *
 * Errors: -EOPNOTSUPP, QEMU would not show the same, or cannot do it; -ENOSPC, a device is too small; -EROFS, -EPERM, the file cannot be
 * written. The sentence names the layers, their sizes, and what can be done instead. Threads: the work's.
 */
#ifndef VS_VM_COMMAND_FIT_H
#define VS_VM_COMMAND_FIT_H

#include "vm/command/context.h"

/* Of everything above @base up to @top going into @base. @begun: that may have happened in part already. Pure. */
int vm_fit_merge(const struct vm_context *cx, const char *target, int base, int top, bool begun, struct vs_err *err);

/* Of copying everything between @top, the active layer, and @base (-1: to the end) into @top. Pure. */
int vm_fit_pull(const struct vm_context *cx, const char *target, int base, int top, struct vs_err *err);

/* For `try`: what the file system of @path has free, in words to be put behind a number of bytes, if that is less than @bytes; else "". A
 * device's never is. Gives. */
char *vm_fit_free(const char *path, uint64_t bytes);

/* What only the files themselves tell of the same merge. @bytes: that it moves at most. */
int vm_fit_files(const struct vm_context *cx, const char *target, int base, int top, uint64_t bytes, struct vs_err *err);

#endif
