/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The block jobs of one domain. While nothing runs the question is cheap and libvirt answers by itself. Where a job was
 * known, or libvirt says that something is under way (as it does while memory is saved), the answer may have to come from
 * QEMU: then it is asked for aside, and what was known before stays until it is there.
 */
#include <string.h>

#include "vm/observe/observe-priv.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define PATIENCE_MS 250

void vm_known_jobs_free(struct vm_known_job *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(jobs[i].target);
	free(jobs);
}

static enum vm_job job_type(int type)
{
	switch (type) {
	case VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: return VM_JOB_PULL;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: return VM_JOB_COPY;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: return VM_JOB_COMMIT;
	case VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: return VM_JOB_ACTIVE_COMMIT;
	default: return VM_JOB_OTHER;
	}
}

static const struct vm_known_job *find_job(const struct vm_known_domain *d, const char *target)
{
	for (size_t i = 0; i < d->n_jobs; i++)
		if (!strcmp(d->jobs[i].target, target))
			return &d->jobs[i];
	return NULL;
}

/* ---------------------------------------------------------------- asking */

/* Is libvirt itself at work on the domain (taking a snapshot, deleting one, ...), or QEMU with somebody's command? Only the
 * former says something about snapshots. */
static void ask_control(struct vm_ask *ask)
{
	virDomainControlInfo info;
	int64_t since_s = 0;

	ask->occupied = false;
	if (ask->d->running && virDomainGetControlInfo(ask->dom, &info, 0) == 0) {
		ask->occupied = info.state != VIR_DOMAIN_CONTROL_OK;
		if (info.state == VIR_DOMAIN_CONTROL_JOB)
			since_s = vm_now_ns() / VM_NS_PER_S - (int64_t)(info.stateTime / 1000);
	}
	if (!since_s != !ask->d->busy_since_s)
		ask->known->changed = true;
	ask->d->busy_since_s = since_s;
}

static bool may_take_long(const struct vm_ask *ask)
{
	for (size_t i = 0; i < ask->d->n_jobs; i++)
		if (!ask->d->jobs[i].over)
			return true;
	return ask->occupied || ask->d->asking;
}

/* Fills in what @answers say of the same disks; the others stay unanswered. */
static void take_answers(struct vm_job_answer *out, size_t n, const struct vm_job_answer *answers, size_t n_answers)
{
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < n_answers; k++)
			if (!strcmp(out[i].target, answers[k].target)) {
				out[i].found = answers[k].found;
				out[i].info = answers[k].info;
			}
}

static void ask_aside(struct vm_ask *ask, const char *const *targets, struct vm_job_answer *out, size_t n)
{
	struct vm_known_domain *d = ask->d;
	const struct vm_job_answer *answers;
	size_t n_answers;

	if (!d->asking)
		d->asking = vm_job_ask_new(ask->known->asker, d->uuid, targets, n);
	if (!d->asking)
		return;
	answers = vm_job_ask_wait(d->asking, PATIENCE_MS, &n_answers);
	if (!answers)
		return;
	take_answers(out, n, answers, n_answers);
	vm_job_ask_free(vs_steal(d->asking));
}

static void ask_all(struct vm_ask *ask, const char *const *targets, struct vm_job_answer *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (struct vm_job_answer){ .target = (char *)targets[i], .found = -1 };
	if (!n) { /* it does not run: a late answer is about jobs that have gone with their QEMU */
		vm_job_ask_free(vs_steal(ask->d->asking));
		return;
	}
	if (may_take_long(ask)) {
		ask_aside(ask, targets, out, n);
		return;
	}
	for (size_t i = 0; i < n; i++)
		out[i].found = virDomainGetBlockJobInfo(ask->dom, targets[i], &out[i].info, 0);
}

/* ---------------------------------------------------------------- remembering */

/* Writes *job and returns true where there is something to say about this disk. No answer means: as before. */
static bool remember(struct vm_ask *ask, const struct vm_job_answer *answer, struct vm_known_job *job)
{
	const struct vm_known_job *before = find_job(ask->d, answer->target);

	if (answer->found <= 0 && (!before || before->over))
		return false;
	*job = before ? *before : (struct vm_known_job){ .since = ask->known->poll };
	job->over = answer->found == 0;
	if (answer->found > 0) {
		job->type = job_type(answer->info.type);
		job->done = answer->info.cur;
		job->total = answer->info.end;
	}
	if (!before || before->over != job->over || before->type != job->type)
		ask->known->changed = true;
	job->target = xstrdup(answer->target);
	return true;
}

static size_t list_targets(const struct vm_known_domain *d, const char **targets)
{
	size_t n = 0;

	for (size_t i = 0; d->running && d->now && i < d->now->n_disks; i++)
		if (vm_xml_disk_exposed(&d->now->disks[i]) && d->now->disks[i].source.type != VM_SOURCE_NONE)
			targets[n++] = d->now->disks[i].target;
	return n;
}

void vm_ask_jobs(struct vm_ask *ask)
{
	struct vm_known_domain *d = ask->d;
	size_t room = (d->now ? d->now->n_disks : 0) + 1, n_targets, n = 0;
	const char **targets = xcalloc(room, sizeof(*targets));
	struct vm_job_answer *answers = xcalloc(room, sizeof(*answers));
	struct vm_known_job *jobs = xcalloc(room, sizeof(*jobs));

	ask_control(ask);
	n_targets = list_targets(d, targets);
	ask_all(ask, targets, answers, n_targets);
	for (size_t i = 0; i < n_targets; i++)
		if (remember(ask, &answers[i], &jobs[n]))
			ask->known->jobs |= !jobs[n++].over;
	ask->known->changed |= n < d->n_jobs;
	vm_known_jobs_free(d->jobs, d->n_jobs);
	d->jobs = jobs;
	d->n_jobs = n;
	free(targets);
	free(answers);
}
