/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * own-job.h: which block jobs are ours. See own-job.c.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_OWN_JOB_H
#define VS_VM_COMMAND_OWN_JOB_H

#include "vm/command/context.h"
#include "vm/libvirt/blockjob-spec.h"

/* Notes that this block job is about to be asked for by @command. */
int vm_own_job_journal(struct vm_context *cx, const struct vm_blockjob_spec *spec, const char *command, struct vs_err *err);
/* Gives up the block jobs that an interrupted run of @command has left and that are proven to be its own: how many. */
int vm_own_job_reclaim(struct vm_context *cx, const char *command, struct vs_err *err);
/* Forgets the notes of those that are proven to be over. */
int vm_own_job_settle(struct vm_context *cx, struct vs_err *err);
/* Who ends a guest that is ours gives up the jobs in it that are ours; those of others are waited for. */
void vm_own_job_abort(struct vm_context *cx);

#endif
