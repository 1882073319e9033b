/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * command.h: the commands. Each begins with a look, asks whether it may, and does it or (`try`) says what it would do; each may be
 * repeated after a crash.
 *
 * Threads: the work's.
 */
#ifndef VS_VM_COMMAND_COMMAND_H
#define VS_VM_COMMAND_COMMAND_H

#include "vm/command/context.h"

int vm_op_create(struct vm_work *w, const struct vm_command *c, struct vs_err *err);
int vm_op_delete(struct vm_work *w, char *const *names, size_t n, struct vs_err *err);
int vm_op_commit(struct vm_work *w, const char *first, const char *last, struct vs_err *err);
int vm_op_pull(struct vm_work *w, const char *name, struct vs_err *err);
int vm_op_revert(struct vm_work *w, const struct vm_command *c, struct vs_err *err);
int vm_op_hold(struct vm_work *w, const char *name, bool hold, struct vs_err *err);
int vm_op_policy(struct vm_work *w, const char *line, struct vs_err *err);
/* Drops what the policy drops. *dropped: how many. */
int vm_op_prune(struct vm_work *w, size_t *dropped, struct vs_err *err);
/* After a mount: finishes records, ends a guest that we had started. Merges and removes nothing. */
int vm_op_repair(struct vm_work *w, struct vs_err *err);

#endif
