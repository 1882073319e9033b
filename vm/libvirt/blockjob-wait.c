/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Waiting for a block job. The one question that is always answered truly is virDomainGetBlockJobInfo: is there a job, and
 * how far is it. It is asked in short intervals at first, then ten times a second, and at once when an event hints.
 *
 *     the job is gone        it completed, failed, was cancelled by somebody, or QEMU was replaced by another one: the caller
 *                            looks at the chain, which alone says what came of it
 *     cur == end             an active commit may be ready. Only <mirror ready='yes'/> says so
 *     the domain is not up   QEMU ended. So did the job; there is no event for that
 *     the connection is dead the job may be going on, or may have ended
 *
 * When QEMU dies, libvirt notices a moment after us: calls fail for odd reasons while the domain still counts as running.
 * Strange errors are therefore asked again, some ten times, before they are believed.
 */
#include "vm/libvirt/blockjob-wait.h"

#include <errno.h>
#include <libvirt/virterror.h>
#include <string.h>
#include <sys/statvfs.h>

#include "vm/libvirt/blockjob-chain.h"
#include "vm/libvirt/blockjob-pulse.h"
#include "vm/libvirt/blockjob.h"
#include "vm/libvirt/domain.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/clock.h"
#include "vm/util/fault.h"

#define PAUSE_MIN_MS 4
#define PAUSE_MAX_MS 100
#define STRANGE_MAX 10
#define FULL_BYTES (1u << 20) /* a file system with less is called full: QEMU needs whole clusters */

/* ---------------------------------------------------------------- why it cannot go on */

int vm_act_job_adrift(const struct vm_act_wait *wait, struct vs_err *err)
{
	return vs_err_set(err, -EHOSTDOWN, "libvirt went away during the %s of disk '%s', which may be going on", wait->what,
			  wait->target);
}

static int qemu_ended(const struct vm_act_wait *wait, struct vs_err *err)
{
	return vs_err_set(err, -EIO, "QEMU ended during the %s of disk '%s'", wait->what, wait->target);
}

int vm_act_job_lost(const struct vm_act_wait *wait, bool *over, struct vs_err *err)
{
	int r = vm_act_virterr(wait->dom, err, "the %s of disk '%s'", wait->what, wait->target), active;

	active = r == -EHOSTDOWN ? -1 : virDomainIsActive(wait->dom);
	*over = active != 1;
	if (active == 1)
		return r;
	if (active < 0 && (r == -EHOSTDOWN || vm_act_lost(wait->dom)))
		return vm_act_job_adrift(wait, err);
	return qemu_ended(wait, err);
}

int vm_act_job_failed(const struct vm_act_wait *wait, const char *path, struct vs_err *err)
{
	struct statvfs fs;

	if (virDomainIsActive(wait->dom) != 1)
		return vm_act_lost(wait->dom) ? vm_act_job_adrift(wait, err) : qemu_ended(wait, err);
	if (path && statvfs(path, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < FULL_BYTES)
		return vs_err_set(err, -ENOSPC, "the %s of disk '%s' failed: the file system of '%s' is full", wait->what,
				  wait->target, path);
	return vs_err_set(err, -EIO, "the %s of disk '%s' ended without having done its work; QEMU's log has the reason",
			  wait->what, wait->target);
}

/* ---------------------------------------------------------------- one look */

/* Smoothed over the last few looks. */
static void tell(struct vm_act_wait *w, uint64_t cur, uint64_t end)
{
	int64_t now = vm_steady_ns(), passed = now - w->last_ns;

	if (w->last_ns && passed > 0 && cur >= w->last_cur) {
		uint64_t speed = (uint64_t)((double)(cur - w->last_cur) * VM_NS_PER_S / passed);

		w->speed = w->speed ? (3 * w->speed + speed) / 4 : speed;
	}
	w->last_ns = now;
	w->last_cur = cur;
	if (w->watch && w->watch->progress)
		w->watch->progress(w->watch->opaque, cur, end, w->speed);
}

/* An answer that cannot be had is no answer: the next look will tell why. */
static bool is_ready(const struct vm_act_wait *w)
{
	struct vm_act_chain chain;
	bool ready;

	if (vm_act_chain_read(w->dom, w->target, &chain, NULL) < 0)
		return false;
	ready = chain.mirror && chain.ready;
	vm_act_chain_fini(&chain);
	return ready;
}

static int strange(struct vm_act_wait *w, struct vs_err *err)
{
	struct vs_err why = {0};
	bool over;
	int r = vm_act_job_lost(w, &over, &why);

	if (!over && (r == -ETIMEDOUT || ++w->strange < STRANGE_MAX))
		return -EAGAIN;
	return vs_err_set(err, r, "%s", why.msg);
}

/* An enum vm_act_event, -EAGAIN: nothing yet, or another negative errno. */
static int look(struct vm_act_wait *w, struct vs_err *err)
{
	virDomainBlockJobInfo info;
	int r = virDomainGetBlockJobInfo(w->dom, w->target, &info, VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES);

	if (r == 0)
		return VM_ACT_GONE;
	if (r < 0)
		return strange(w, err);
	w->strange = 0;
	tell(w, info.cur, info.end);
	return w->until_ready && info.cur >= info.end && is_ready(w) ? VM_ACT_READY : -EAGAIN;
}

int vm_act_job_wait(struct vm_act_wait *w, struct vs_err *err)
{
	w->pause_ms = PAUSE_MIN_MS;
	for (;;) {
		int r = look(w, err);

		if (r != -EAGAIN)
			return r;
		if (vm_act_cancelled(w->watch))
			return VM_ACT_CANCEL;
		vm_act_pulse_wait(w->pulse, w->pause_ms);
		if (w->pause_ms < PAUSE_MAX_MS)
			w->pause_ms *= 2;
	}
}

/* ---------------------------------------------------------------- everybody's jobs */

static enum vm_job job_type(int type)
{
	switch (type) {
	case VIR_DOMAIN_BLOCK_JOB_TYPE_PULL:
		return VM_JOB_PULL;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_COPY:
		return VM_JOB_COPY;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT:
		return VM_JOB_COMMIT;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT:
		return VM_JOB_ACTIVE_COMMIT;
	default:
		return VM_JOB_OTHER;
	}
}

/* 1: there is one. A disk without a medium, or one that was unplugged meanwhile, has none. */
static int block_job(virDomainPtr dom, const char *target, struct vm_act_job *job, struct vs_err *err)
{
	virDomainBlockJobInfo info;
	int r = virDomainGetBlockJobInfo(dom, target, &info, VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES);

	if (r < 0) {
		r = vm_virterr_code();
		return r == -EINVAL ? 0 : vm_act_virterr(dom, err, "the job of disk '%s'", target);
	}
	if (r == 0)
		return 0;
	job->target = strdup(target);
	job->type = job_type(info.type);
	job->cur = info.cur;
	job->end = info.end;
	job->bandwidth = info.bandwidth;
	return job->target ? 1 : vm_act_oom(err);
}

/* A backup, a migration, a save, somebody's snapshot; not one of libvirt's that last an instant. */
static bool domain_job(virDomainPtr dom, struct vm_act_job *job)
{
	virDomainJobInfo info;

	if (virDomainGetJobInfo(dom, &info) < 0 || info.type == VIR_DOMAIN_JOB_NONE)
		return false;
	job->type = VM_JOB_OTHER;
	job->cur = info.dataProcessed;
	job->end = info.dataTotal;
	return true;
}

static int collect(virDomainPtr dom, const struct vm_xml_domain *domain, struct vm_act_job *jobs, size_t *n,
		   struct vs_err *err)
{
	for (size_t i = 0; i < domain->n_disks; i++) {
		int r = block_job(dom, domain->disks[i].target, &jobs[*n], err);

		if (r < 0)
			return r;
		*n += (size_t)r;
	}
	*n += domain_job(dom, &jobs[*n]);
	return 0;
}

int vm_act_jobs(virDomainPtr dom, struct vm_act_job **out, size_t *n_out, struct vs_err *err)
{
	vm_act_autodomain struct vm_xml_domain *domain = NULL;
	struct vm_act_job *jobs;
	size_t n = 0;
	int r = vm_act_domain_xml(dom, 0, &domain, err);

	if (r < 0)
		return r;
	jobs = calloc(domain->n_disks + 1, sizeof(*jobs));
	if (!jobs)
		return vm_act_oom(err);
	r = vm_act_active(dom, err);
	if (r > 0)
		r = collect(dom, domain, jobs, &n, err);
	if (r < 0) {
		vm_act_jobs_free(jobs, n);
		return r;
	}
	*out = jobs;
	*n_out = n;
	return 0;
}

void vm_act_jobs_free(struct vm_act_job *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(jobs[i].target);
	free(jobs);
}

int vm_act_job_abort(virDomainPtr dom, const char *target, struct vs_err *err)
{
	int r = virDomainBlockJobAbort(dom, target, 0);

	if (r < 0)
		r = vm_act_virterr(dom, err, "the job of disk '%s'", target);
	vm_fault();
	return r < 0 && vm_act_job_none(dom, target, NULL) == 0 ? 0 : r;
}

int vm_act_job_none(virDomainPtr dom, const char *target, struct vs_err *err)
{
	struct vm_act_job job = {0};
	int r = block_job(dom, target, &job, err);

	free(job.target);
	return r > 0 ? vs_err_set(err, -EBUSY, "a job is running on disk '%s'", target) : r;
}
