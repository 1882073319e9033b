/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/blockjob-list.h"

#include <errno.h>

#include "vm/util/fault.h"
#include "vm/util/mem.h"

enum vm_job vm_blockjob_type(int type)
{
	switch (type) {
	case VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: return VM_JOB_PULL;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: return VM_JOB_COPY;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: return VM_JOB_COMMIT;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: return VM_JOB_ACTIVE_COMMIT;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: return VM_JOB_BACKUP;
	default: return VM_JOB_OTHER;
	}
}

/* 1: there is one. A disk without a medium, or one that was unplugged meanwhile, has none. */
static int block_job(virDomainPtr dom, const char *target, enum vm_job *type, struct vs_err *err)
{
	virDomainBlockJobInfo info;
	int r = virDomainGetBlockJobInfo(dom, target, &info, 0);

	if (r < 0) {
		struct vs_err why = {0};

		r = vm_dom_virterr(dom, &why, "the job of disk '%s'", target);
		if (r == -EINVAL && vm_dom_active(dom, NULL) == 1)
			return 0;
		return vs_err_set(err, r, "%s", why.msg);
	}
	if (r > 0)
		*type = vm_blockjob_type(info.type);
	return r;
}

/* 1: there is a backup, a migration, a save, somebody's snapshot; not one of libvirt's that last an instant. */
static int domain_job(virDomainPtr dom, struct vs_err *err)
{
	virDomainJobInfo info;

	if (virDomainGetJobInfo(dom, &info) < 0) {
		int r = vm_dom_virterr(dom, err, "the job of the domain");

		return vm_dom_active(dom, NULL) == 0 ? 0 : r;
	}
	return info.type != VIR_DOMAIN_JOB_NONE;
}

static int collect(virDomainPtr dom, const struct vm_xml_domain *domain, struct vm_blockjob *jobs, size_t *n,
		   struct vs_err *err)
{
	int r;

	for (size_t i = 0; i < domain->n_disks; i++) {
		r = block_job(dom, domain->disks[i].target, &jobs[*n].type, err);
		if (r < 0)
			return r;
		if (r > 0)
			jobs[(*n)++].target = xstrdup(domain->disks[i].target);
	}
	r = domain_job(dom, err);
	if (r > 0)
		jobs[(*n)++].type = VM_JOB_OTHER;
	return r < 0 ? r : 0;
}

int vm_blockjob_list(virDomainPtr dom, struct vm_blockjob **out, size_t *n_out, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *domain = NULL;
	struct vm_blockjob *jobs;
	size_t n = 0;
	int r = vm_dom_xml(dom, 0, &domain, err);

	if (r < 0)
		return r;
	jobs = xcalloc(domain->n_disks + 1, sizeof(*jobs));
	r = vm_dom_active(dom, err);
	if (r > 0)
		r = collect(dom, domain, jobs, &n, err);
	if (r < 0) {
		vm_blockjob_list_free(jobs, n);
		jobs = NULL;
		n = 0;
		if (vm_dom_active(dom, NULL) != 0)
			return r; /* one that has ended meanwhile has none */
	}
	*out = jobs;
	*n_out = n;
	return 0;
}

void vm_blockjob_list_free(struct vm_blockjob *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(jobs[i].target);
	free(jobs);
}

int vm_blockjob_abort(virDomainPtr dom, const char *target, struct vs_err *err)
{
	int r = virDomainBlockJobAbort(dom, target, 0);

	if (r < 0)
		r = vm_dom_virterr(dom, err, "the job of disk '%s'", target);
	vm_fault();
	return r < 0 && vm_blockjob_none(dom, target, NULL) == 0 ? 0 : r;
}

int vm_blockjob_none(virDomainPtr dom, const char *target, struct vs_err *err)
{
	enum vm_job type;
	int r = block_job(dom, target, &type, err);

	return r > 0 ? vs_err_set(err, -EBUSY, "a job is running on disk '%s'", target) : r;
}
