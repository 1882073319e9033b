/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * pulls.h: pulls of which it is not proven that all is where it was to go. See pulls.c.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_PULLS_H
#define VS_VM_COMMAND_PULLS_H

#include "vm/command/context.h"

/* A pull into this disk is about to be asked for: what its active layer stands on is noted. */
int vm_pulls_journal(struct vm_context *cx, const char *target, struct vs_err *err);
/* The job is done: its QEMU, the very one, writes out what it has. -EIO: it has ended before. */
int vm_pulls_write_out(struct vm_context *cx, const char *target, struct vs_err *err);
/* All of it is there, and written out. */
void vm_pulls_done(struct vm_context *cx, const char *target);

/* Forgets those that are proven, and those that never happened. Of a domain that is shut off the header is put back where data is missing.
 * True: a header was. */
bool vm_pulls_settle(struct vm_context *cx);
/* -EBUSY, or why nobody can tell, of a pull into this disk. Where what it stood on is gone nobody ever will: a guest that runs on what there is
 * goes on, and if another pull is asked for (@pulls) it is said, and then the note is forgotten, too. */
int vm_pulls_check(struct vm_context *cx, const char *target, bool pulls, struct vs_err *err);

/* Is this file beneath a layer that such a pull went into? -EPERM. */
int vm_pulls_need(const struct vm_context *cx, const struct vm_layer *layer, struct vs_err *err);

#endif
