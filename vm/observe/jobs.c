/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The block jobs of one domain. While nothing runs the question is cheap and libvirt answers by itself. Where a job was
 * known, or libvirt says that something is under way (as it does while memory is saved), the answer may have to come from
 * QEMU: then it is asked for aside, and what was known before stays until it is there.
 */
#include <string.h>

#include "vm/libvirt/blockjob-list.h"
#include "vm/observe/observe-priv.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define PATIENCE_MS 250

void vm_observed_jobs_free(struct vm_observed_job *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(jobs[i].target);
	free(jobs);
}

static const struct vm_observed_job *find_job(const struct vm_observed_domain *d, const char *target)
{
	for (size_t i = 0; i < d->n_jobs; i++)
		if (!strcmp(d->jobs[i].target, target))
			return &d->jobs[i];
	return NULL;
}

/* ---------------------------------------------------------------- asking */

/* Is libvirt itself at work on the domain (taking a snapshot, deleting one, ...), or QEMU with somebody's command? Only the
 * former says something about snapshots. */
static void ask_control(struct vm_observe *observe)
{
	virDomainControlInfo info;
	int64_t since_s = 0;

	observe->occupied = false;
	if (observe->d->running && virDomainGetControlInfo(observe->dom, &info, 0) == 0) {
		observe->occupied = info.state != VIR_DOMAIN_CONTROL_OK;
		if (info.state == VIR_DOMAIN_CONTROL_JOB)
			since_s = vm_now_ns() / VM_NS_PER_S - (int64_t)(info.stateTime / 1000);
	}
	if (!since_s != !observe->d->busy_since_s)
		observe->observed->changed = true;
	observe->d->busy_since_s = since_s;
}

static bool may_take_long(const struct vm_observe *observe)
{
	for (size_t i = 0; i < observe->d->n_jobs; i++)
		if (!observe->d->jobs[i].over)
			return true;
	return observe->occupied || observe->d->asking;
}

/* Fills in what @answers say of the same disks; the others stay unanswered. */
static void take_answers(struct vm_jobs_answer *out, size_t n, const struct vm_jobs_answer *answers, size_t n_answers)
{
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < n_answers; k++)
			if (!strcmp(out[i].target, answers[k].target)) {
				out[i].found = answers[k].found;
				out[i].info = answers[k].info;
			}
}

static void ask_aside(struct vm_observe *observe, const char *const *targets, struct vm_jobs_answer *out, size_t n)
{
	struct vm_observed_domain *d = observe->d;
	const struct vm_jobs_answer *answers;
	size_t n_answers;

	if (!d->asking)
		d->asking = vm_jobs_ask_new(observe->observed->asker, d->uuid, targets, n);
	if (!d->asking)
		return;
	answers = vm_jobs_ask_wait(d->asking, PATIENCE_MS, &n_answers);
	if (!answers)
		return;
	take_answers(out, n, answers, n_answers);
	vm_jobs_ask_free(vs_steal(d->asking));
}

static void ask_all(struct vm_observe *observe, const char *const *targets, struct vm_jobs_answer *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (struct vm_jobs_answer){ .target = (char *)targets[i], .found = -1 };
	if (!n) { /* it does not run: a late answer is about jobs that have gone with their QEMU */
		vm_jobs_ask_free(vs_steal(observe->d->asking));
		return;
	}
	if (may_take_long(observe)) {
		ask_aside(observe, targets, out, n);
		return;
	}
	for (size_t i = 0; i < n; i++)
		out[i].found = virDomainGetBlockJobInfo(observe->dom, targets[i], &out[i].info, 0);
}

/* ---------------------------------------------------------------- remembering */

/* Writes *job and returns true where there is something to say about this disk. No answer means: as before. */
static bool remember(struct vm_observe *observe, const struct vm_jobs_answer *answer, struct vm_observed_job *job)
{
	const struct vm_observed_job *before = find_job(observe->d, answer->target);

	if (answer->found <= 0 && (!before || before->over))
		return false;
	*job = before ? *before : (struct vm_observed_job){ .since = observe->observed->poll };
	job->over = answer->found == 0;
	if (answer->found > 0) {
		job->type = vm_blockjob_type(answer->info.type);
		job->done = answer->info.cur;
		job->total = answer->info.end;
	}
	if (!before || before->over != job->over || before->type != job->type)
		observe->observed->changed = true;
	job->target = xstrdup(answer->target);
	return true;
}

static size_t list_targets(const struct vm_observed_domain *d, const char **targets)
{
	size_t n = 0;

	for (size_t i = 0; d->running && d->now && i < d->now->n_disks; i++)
		if (vm_xml_disk_exposed(&d->now->disks[i]) && d->now->disks[i].source.type != VM_SOURCE_NONE)
			targets[n++] = d->now->disks[i].target;
	return n;
}

void vm_observe_jobs(struct vm_observe *observe)
{
	struct vm_observed_domain *d = observe->d;
	size_t room = (d->now ? d->now->n_disks : 0) + 1, n_targets, n = 0;
	const char **targets = xcalloc(room, sizeof(*targets));
	struct vm_jobs_answer *answers = xcalloc(room, sizeof(*answers));
	struct vm_observed_job *jobs = xcalloc(room, sizeof(*jobs));

	ask_control(observe);
	n_targets = list_targets(d, targets);
	ask_all(observe, targets, answers, n_targets);
	for (size_t i = 0; i < n_targets; i++)
		if (remember(observe, &answers[i], &jobs[n]))
			observe->observed->jobs |= !jobs[n++].over;
	observe->observed->changed |= n < d->n_jobs;
	vm_observed_jobs_free(d->jobs, d->n_jobs);
	d->jobs = jobs;
	d->n_jobs = n;
	free(targets);
	free(answers);
}
