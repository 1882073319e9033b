/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * lock.h: one command at a time on a domain, also between processes.
 *
 * A lock is flock(2) on a file of the domain in a fixed place (/run/virt-snapfs; users: /run/user/UID/virt-snapfs, else
 * /tmp/virt-snapfs-UID), and an abstract socket's name, which all users share: see lock.c. Both end with the process, whose death may leave the file. The file's first
 * byte says what the holder does: `p` pruning that retention started by itself, for which others wait; anything else: a command.
 *
 * Threads: any.
 */
#ifndef VS_VM_UTIL_LOCK_H
#define VS_VM_UTIL_LOCK_H

#include "qcow2/base.h"

struct vm_lock;

/* -EBUSY: somebody has it; *pruning (nullable) says whether that is only pruning. Gives *out. */
int vm_lock_take(const char *uuid, bool prune, struct vm_lock **out, bool *pruning, struct vs_err *err);
/* Has somebody the lock of commands? Takes nothing. True also where there is no socket to ask by; who is in another network namespace is not seen. */
bool vm_lock_is_taken(const char *uuid);
/* The lock of who has a backup job for the domain's now/, beside the other one and independent of it. -EBUSY: the sentence says who has it. */
int vm_lock_take_now(const char *uuid, struct vm_lock **out, struct vs_err *err);
/* Who has it, as a sentence, without taking it. Gives; NULL: nobody. */
char *vm_lock_now_holder(const char *uuid);
/* Those who have asked who has it leave the queue, in which there is room for some thousands. */
void vm_lock_answer(const struct vm_lock *lock);
/* NULL is fine. */
void vm_lock_release(struct vm_lock *lock);

#endif
