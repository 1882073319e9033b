/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * recover.h: what an interrupted command has left: looked at, given up or finished before another one changes anything.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_RECOVER_H
#define VS_VM_COMMAND_RECOVER_H

#include "vm/command/intent.h"

/* Snapshots that an interrupted create has nevertheless taken count as taken here. After a look. */
int vm_recover_settle(struct vm_context *cx, struct vs_err *err);
/* How every command that works on a domain's images begins, after a look: what an interrupted run of it has left running is given up, what
 * other commands have begun and not ended is looked at (see command/intent.h), and nobody else may be at work. */
int vm_recover_begin(struct vm_context *cx, const char *command, enum vm_intent_beside beside, struct vs_err *err);
/* A guest that we have started and that nobody has come to use is ended; a word of ours in the configuration goes. */
int vm_recover_guest(struct vm_context *cx, struct vs_err *err);

/* For `try`, as vm_create.left_over: will that file be gone by then? */
bool vm_recover_left_over(void *cx, const char *path);
/* What is about to be made is noted. */
int vm_recover_making(void *cx, const char *path, int fd, struct vs_err *err);
int vm_recover_journal_take(struct vm_context *cx, const char *name, struct vs_err *err);
/* Before a command makes overlays, and when it has ended, after a look: what was made and nobody came to use is unlinked, what the domain
 * has come to use is remembered as of our making, and the notes of both go; a note that is not settled stays. */
int vm_recover_settle_making(struct vm_context *cx, struct vs_err *err);

#endif
