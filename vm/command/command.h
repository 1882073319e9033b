/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * command.h: the commands. Each asks whether it may, and does it or (`try`) says what it would do; each may be repeated after a crash.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_COMMAND_H
#define VS_VM_COMMAND_COMMAND_H

#include "vm/command/context.h"

/* A line of `ctl`, but `cancel`: a look, and the command. A policy then drops what it drops when one more is there. */
int vm_command_run(struct vm_context *cx, const struct vm_command *c, struct vs_err *err);

/* After a look. */
int vm_command_create(struct vm_context *cx, const struct vm_command *c, struct vs_err *err);
int vm_command_delete(struct vm_context *cx, char *const *names, size_t n, struct vs_err *err);
int vm_command_commit(struct vm_context *cx, const char *first, const char *last, struct vs_err *err);
int vm_command_pull(struct vm_context *cx, const char *name, struct vs_err *err);
int vm_command_revert(struct vm_context *cx, const struct vm_command *c, struct vs_err *err);
int vm_command_adopt(struct vm_context *cx, const struct vm_command *c, struct vs_err *err);
int vm_command_hold(struct vm_context *cx, const char *name, bool hold, struct vs_err *err);

/* With a look. Stores the policy. */
int vm_command_policy(struct vm_context *cx, const char *line, struct vs_err *err);
/* Drops what the policy drops. *dropped: how many. */
int vm_command_prune(struct vm_context *cx, size_t *dropped, struct vs_err *err);
/* Says what @policy (NULL: off) would drop, @coming (NULL: none) being taken before. */
int vm_command_try_prune(struct vm_context *cx, const char *policy, const char *coming, struct vs_err *err);
/* When something was seen that is not noted yet, as attest.c notes it. 1: it is now. */
int vm_command_note(struct vm_context *cx, struct vs_err *err);
/* After a mount, when a domain comes up paused, and where libvirt went away from a request: finishes records, ends a guest that we had
 * started. Merges and removes nothing. */
int vm_command_repair(struct vm_context *cx, struct vs_err *err);
/* After a command that has failed, when the guest that was started for it is off again: what a header says that is not so is put right before anybody starts
 * the domain. */
void vm_command_look_back(struct vm_context *cx);

#endif
