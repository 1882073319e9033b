/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * attest.h: what we attest. See attest.c.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_ATTEST_H
#define VS_VM_COMMAND_ATTEST_H

#include "vm/command/context.h"

/* Notes in cx->meta which snapshots of @d (of an inventory) are right, with what beneath them; the next save stores it. */
void vm_attest_domain(struct vm_context *cx, const struct vm_domain *d);
/* vm_context_poll(), and does so with what it saw, unless it is a `try`. */
int vm_attest_poll(struct vm_context *cx, struct vs_err *err);
/* By what the image at @path is known again, as it is now. False: it is not there. A block device has only its number. */
bool vm_attest_now(const struct vm_context *cx, const char *path, struct vm_meta_file *now);
/* Of the last look: what was right and stands on @path (not: is frozen in it) is so with what that file is by now. */
void vm_attest_beneath(struct vm_context *cx, const char *path);
/* The same with a new inventory, after files have changed. */
void vm_attest_again(struct vm_context *cx);

/* Files are about to be changed, and with them what their times tell: who is not right now must not come to look right by that. Notes so in
 * cx->meta. True: that is news. */
bool vm_attest_spoilt(struct vm_context *cx);
/* The same of all that froze this layer, or stood on it when it was written to last. */
bool vm_attest_spoilt_in(struct vm_context *cx, int layer);
/* Notes in cx->meta what this disk of a snapshot froze and that stood on, if it is right. */
void vm_attest_frozen(struct vm_context *cx, const struct vm_meta_id *id, const struct vm_disk *disk);
/* That it froze these files, from the first down to the one that stands on nothing, with these stamps, whatever the look makes of them: who
 * calls knows. False: the look has another file there, or one that a merge has in its hands. */
bool vm_attest_stamps(struct vm_context *cx, const struct vm_meta_id *id, const char *target, char **chain, const struct q2_stamp *stamps, size_t n);

#endif
