/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/blockjob-spec.h"

#include <string.h>

#include "vm/libvirt/blockjob-chain.h"
#include "vm/libvirt/paused-guest.h"

/* libvirt shows the ends of copies and active commits only. The chain must still be one on which the job can run; and of what lies beneath
 * the active layer a QEMU has only that file open for writing into which it commits. */
static int has_ends(const struct vm_blockjob_chain *chain, const struct vm_blockjob_spec *spec, int64_t pid)
{
	int base = spec->base ? vm_blockjob_chain_find(chain, spec->base) : -1, top = spec->top ? vm_blockjob_chain_find(chain, spec->top) : 0;

	if ((spec->base && base < 0) || top < 0 || (spec->base && base <= top))
		return 0;
	if (spec->type == VM_JOB_ACTIVE_COMMIT)
		return top == 0 && vm_blockjob_chain_mirrors(chain, spec->base);
	return spec->type == VM_JOB_COMMIT ? vm_paused_guest_process_has(pid, spec->base, true) : spec->type == VM_JOB_PULL;
}

int vm_blockjob_is(virDomainPtr dom, const struct vm_blockjob *job, const struct vm_blockjob_spec *spec, int64_t pid,
		   struct vs_err *err)
{
	vm_blockjob_autochain struct vm_blockjob_chain chain = {0};
	int r;

	if (!job->target || strcmp(job->target, spec->target) != 0 || job->type != spec->type)
		return 0;
	r = vm_blockjob_chain_read(dom, spec->target, &chain, err);
	if (r < 0)
		return r;
	r = has_ends(&chain, spec, pid);
	return r < 0 ? vs_err_set(err, r, "the files of process %lld: %s", (long long)pid, strerror(-r)) : r;
}
