/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * delete.h: what other commands need of delete.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_DELETE_H
#define VS_VM_COMMAND_DELETE_H

#include "vm/command/context.h"

/* Of what @keys name (see vm_context_find_key) the first, with those that can go in one merge with it: they are moved to the
 * front.
 * *done: how many of them went; with a failure it is the next one's. After a look. */
int vm_delete_some(struct vm_context *cx, char **keys, size_t n, size_t *done, struct vs_err *err);
/* Finishes the delete @begun that was begun; which of @keys (NULL: none were asked for) it had to do with is taken from there. */
int vm_delete_begun(struct vm_context *cx, const char *begun, char **keys, size_t *n, struct vs_err *err);
/* Internal ones: -EPERM, its name is another one's id; -EOPNOTSUPP, it is not in the active layers. */
int vm_delete_check_name(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err);
int vm_delete_check_active(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err);

#endif
