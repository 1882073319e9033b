/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The block jobs of one domain. While none runs libvirt answers by itself, and at once; else the answer comes from QEMU, which may hang, or be
 * saving memory. Whether one runs is the very question: so it is always asked aside, and what was known before stays until the answer
 * is there. The locks on the files (graph/jobs.c) tell of a job that writes meanwhile. Who cannot even be asked is one of whom not all is known.
 */
#include <errno.h>
#include <string.h>

#include "vm/libvirt/blockjob-list.h"
#include "vm/observe/observe-priv.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

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

/* Is libvirt itself at work on the domain (taking a snapshot, deleting one, ...)? */
static void ask_control(struct vm_observe *observe)
{
	virDomainControlInfo info;
	int64_t since_s = 0;

	if (observe->d->running && virDomainGetControlInfo(observe->dom, &info, 0) == 0 && info.state == VIR_DOMAIN_CONTROL_JOB)
		since_s = vm_now_ns() / VM_NS_PER_S - (int64_t)(info.stateTime / 1000);
	if (!since_s != !observe->d->busy_since_s)
		observe->observed->changed = true;
	observe->d->busy_since_s = since_s;
}

struct answer {
	char *target;
	int found; /* as virDomainGetBlockJobInfo() returns: 1 a job, 0 none, -1 no answer */
	virDomainBlockJobInfo info;
};

struct answers {
	struct answer *list;
	size_t n;
};

static struct answers *answers_new(const char *const *targets, size_t n)
{
	struct answers *a = xcalloc(1, sizeof(*a));

	a->list = xcalloc(n + 1, sizeof(*a->list));
	a->n = n;
	for (size_t i = 0; i < n; i++)
		a->list[i] = (struct answer){ .target = xstrdup(targets[i]), .found = -1 };
	return a;
}

static void answers_free(void *opaque)
{
	struct answers *a = opaque;

	for (size_t i = 0; i < a->n; i++)
		free(a->list[i].target);
	free(a->list);
	free(a);
}

static void ask(virDomainPtr dom, void *opaque)
{
	struct answers *a = opaque;

	for (size_t i = 0; dom && i < a->n; i++)
		a->list[i].found = virDomainGetBlockJobInfo(dom, a->list[i].target, &a->list[i].info, 0);
}

/* What is said of the same disks; the others stay unanswered. */
static void take(void *opaque, const void *said)
{
	const struct answers *from = said;
	struct answers *to = opaque;

	for (size_t i = 0; i < to->n; i++)
		for (size_t k = 0; k < from->n; k++)
			if (!strcmp(to->list[i].target, from->list[k].target)) {
				to->list[i].found = from->list[k].found;
				to->list[i].info = from->list[k].info;
			}
}

static const struct vm_question question = { 500, ask, take, answers_free };

/* Gives. */
static struct answers *ask_all(struct vm_observe *observe, const char *const *targets, size_t n)
{
	struct vm_observed_domain *d = observe->d;
	struct answers *heard = answers_new(targets, n);

	if (!n) /* it does not run: a late answer is about jobs that have gone with their QEMU */
		vm_ask_free(vs_steal(d->asking_jobs));
	else if (vm_ask(&d->asking_jobs, observe->observed->asker, d->uuid, &question, false, answers_new(targets, n), heard) == -EAGAIN)
		vm_observe_unknown(observe, "libvirt is not asked for its block jobs: too many domains have not answered yet");
	return heard;
}

/* ---------------------------------------------------------------- remembering */

/* Writes *job and returns true where there is something to say about this disk. No answer means: as before. */
static bool remember(struct vm_observe *observe, const struct answer *answer, struct vm_observed_job *job)
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
	struct answers *heard;
	struct vm_observed_job *jobs = xcalloc(room, sizeof(*jobs));

	ask_control(observe);
	n_targets = list_targets(d, targets);
	heard = ask_all(observe, targets, n_targets);
	for (size_t i = 0; i < n_targets; i++)
		if (remember(observe, &heard->list[i], &jobs[n]))
			observe->observed->jobs |= !jobs[n++].over;
	observe->observed->changed |= n < d->n_jobs;
	vm_observed_jobs_free(d->jobs, d->n_jobs);
	d->jobs = jobs;
	d->n_jobs = n;
	free(targets);
	answers_free(heard);
}
