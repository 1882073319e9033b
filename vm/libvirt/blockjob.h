/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blockjob.h: commit and pull as a whole. See blockjob.c.
 */
#ifndef VS_VM_LIBVIRT_BLOCKJOB_H
#define VS_VM_LIBVIRT_BLOCKJOB_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/dom.h"

/* What came of a block job. Filled also on failure. */
struct vm_blockjob_outcome {
	bool touched; /* commit: the base may have been written to, so what it froze is lost unless it is finished */
	bool done;    /* the chain is the new one */
};

struct vm_blockjob_commit {
	const char *target;
	const char *base;    /* path of the layer that receives */
	const char *top;     /* path of the uppermost one that goes into it; the active layer: with a pivot at the end */
	uint64_t bandwidth;  /* 0: no limit */
	/* Called right before libvirt is asked for the job: until then nothing is written; when it has begun, so that nobody else gets at
	 * the disk; and (active layer) as the last chance before the pivot, when all data has been copied. A negative answer, with its
	 * sentence in @err, gives the job up. NULL: go on. */
	int (*asking)(void *opaque, enum vm_job type, struct vs_err *err);
	int (*begun)(void *opaque, struct vs_err *err);
	int (*check)(void *opaque, struct vs_err *err);
	void *opaque;
};

/* Merges base < layers <= top into base, on a running (or paused) domain. Cancelled or failed, the chain is what it was and
 * the guest's data right, but outcome->touched. A repetition finishes it. */
int vm_blockjob_commit(virDomainPtr dom, const struct vm_blockjob_commit *spec, struct vm_dom_watch *watch,
		       struct vm_blockjob_outcome *outcome, struct vs_err *err);

struct vm_blockjob_pull {
	const char *target;
	const char *base;   /* path of the layer that the active one is to stand on; NULL: on nothing */
	uint64_t bandwidth;
};

/* Copies what lies between into the active layer, on a running domain. No other file changes, and none is removed. Cancelled,
 * the chain is what it was. Nothing to do is success. */
int vm_blockjob_pull(virDomainPtr dom, const struct vm_blockjob_pull *spec, struct vm_dom_watch *watch,
		     struct vm_blockjob_outcome *outcome, struct vs_err *err);

#endif
