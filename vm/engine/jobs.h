/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * jobs.h: the table of running commands of one domain, as `jobs` shows it.
 *
 * Threads: the caller's lock covers every call and every object, except that the text functions are pure.
 */
#ifndef VS_VM_ENGINE_JOBS_H
#define VS_VM_ENGINE_JOBS_H

#include "vm/model/types.h"

struct vm_run {
	uint64_t id;
	char *command;   /* canonical text, escaped */
	const char *state; /* "running", "cancelling" */
	uint64_t cur, end, speed; /* bytes, bytes per second; end 0: nothing to measure yet */
	size_t left;     /* of a pruning: how many snapshots are to go still; 0: it does not count */
	struct vm_run *next;
};

/* Adds a job with this id; takes @command. */
struct vm_run *vm_job_add(struct vm_run **list, uint64_t id, char *command);
void vm_job_remove(struct vm_run **list, struct vm_run *job);

/* The table: ours, then those of other tools on the disks of @d (NULL: ours only). Gives *text and its length. */
void vm_jobs_table(const struct vm_run *list, const struct vm_domain *d, char **text, size_t *len);

#endif
