/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * now.h: the backup job behind now/: begun, and cleared away by its notes. See now.c.
 *
 * Errors: those of libvirt/backup.h; -ESTALE the domain does not run; -ENOSPC too little room for what is written over.
 * Threads: one at a time on one domain: who holds the lock of its now/ (util/lock.h).
 */
#ifndef VS_VM_COMMAND_NOW_H
#define VS_VM_COMMAND_NOW_H

#include "vm/command/context.h"

struct vm_now_job {
	char *socket;     /* each disk is an export there, by its target */
	char **scratch;   /* paths, of n_scratch */
	size_t n_scratch;
	uint64_t least;   /* bytes that are to be left where the scratch files are: with less the job is ended */
};
void vm_now_job_fini(struct vm_now_job *job);

/* Begins one of all disks that now/ shows. Whatever it returns, vm_now_job_clear() is due when it is over. */
int vm_now_job_begin(struct vm_context *cx, struct vm_now_job *job, struct vs_err *err);
/* -ENOSPC: less than `least` is left. */
int vm_now_job_room(const struct vm_now_job *job, struct vs_err *err);

/* Is there, or was there, a job of anybody's who has not cleared it away? */
bool vm_now_job_is_noted(struct vm_store *store, const char *uuid);
/* Ends it, unlinks its scratch files, and lets a guest go on that it has paused. 1; 0: none was noted; VM_NOW_LEFT: it is over, but of some file
 * it cannot be told now whether it is there, or it cannot be unlinked: *err says why. What is left then, or on failure, is noted still. */
#define VM_NOW_LEFT 2
int vm_now_job_clear(virConnectPtr conn, struct vm_store *store, const char *uuid, struct vm_log *log, struct vs_err *err);

#endif
