/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blockjob.h: the block jobs of a domain: whose there are, and commit and pull as a whole.
 */
#ifndef VS_VM_LIBVIRT_BLOCKJOB_H
#define VS_VM_LIBVIRT_BLOCKJOB_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/domain.h"
#include "vm/model/types.h"

struct vm_act_job {
	char *target;    /* NULL: a job of the domain as a whole (a backup, a migration, a snapshot being made) */
	enum vm_job type;
	uint64_t cur, end;
	uint64_t bandwidth; /* limit; 0: none */
};

/* Everybody's jobs; none while the domain is shut off. Gives *out and its length. */
int vm_act_jobs(virDomainPtr dom, struct vm_act_job **out, size_t *n, struct vs_err *err);
void vm_act_jobs_free(struct vm_act_job *jobs, size_t n);

/* Gives up the block job of a disk, without its result. 0 also where there is none. */
int vm_act_job_abort(virDomainPtr dom, const char *target, struct vs_err *err);

/* What came of a block job. Filled also on failure. */
struct vm_act_outcome {
	bool touched; /* commit: the base may have been written to, so what it froze is lost unless it is finished */
	bool done;    /* the chain is the new one */
};

struct vm_act_commit {
	const char *target;
	const char *base;    /* path of the layer that receives */
	const char *top;     /* path of the uppermost one that goes into it; the active layer: with a pivot at the end */
	uint64_t bandwidth;  /* 0: no limit */
	bool relative;       /* keep backing names relative; libvirt refuses where they are not */
	bool unlink;         /* libvirt removes the merged files */
	/* Called when the job has begun, so that nobody else gets at the disk; and (active layer) as the last chance before the
	 * pivot, when all data has been copied. A negative answer, with its sentence in @err, gives the job up. NULL: go on. */
	int (*begun)(void *opaque, struct vs_err *err);
	int (*check)(void *opaque, struct vs_err *err);
	void *opaque;
};

/* Merges base < layers <= top into base, on a running (or paused) domain. Cancelled or failed, the chain is what it was and
 * the guest's data right, but outcome->touched. A repetition finishes it. */
int vm_act_commit(virDomainPtr dom, const struct vm_act_commit *spec, struct vm_act_watch *watch,
		  struct vm_act_outcome *outcome, struct vs_err *err);

struct vm_act_pull {
	const char *target;
	const char *base;   /* path of the layer that the active one is to stand on; NULL: on nothing */
	uint64_t bandwidth;
	bool relative;
};

/* Copies what lies between into the active layer, on a running domain. No other file changes, and none is removed. Cancelled,
 * the chain is what it was. Nothing to do is success. */
int vm_act_pull(virDomainPtr dom, const struct vm_act_pull *spec, struct vm_act_watch *watch,
		struct vm_act_outcome *outcome, struct vs_err *err);

#endif
