/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* All about one domain, as long as the engine lives. What it is for: engine.c. */
#include "vm/engine/engine-priv.h"

#include <string.h>

#include "vm/util/clock.h"

#define TELL_NS (300 * VM_NS_PER_MS)

void vm_desk_free(void *thing)
{
	struct vm_desk *desk = thing;

	while (desk->jobs)
		vm_job_remove(&desk->jobs, desk->jobs);
	free(desk->readers);
	free(desk->seen);
	free(desk->outcome);
	free(desk->uuid);
	free(desk);
}

bool vm_desk_cancel_running(void *thing, void *opaque)
{
	struct vm_desk *desk = thing;

	(void)opaque;
	if (desk->running) {
		atomic_store(&desk->running->cancel, true);
		if (desk->running->work)
			atomic_store(&desk->running->work->watch.cancel, true);
	}
	return true;
}

struct vm_desk *vm_desk_locked(struct vm_engine *e, const char *uuid)
{
	struct vm_desk *desk = vm_strmap_get(&e->desks, uuid);

	if (desk)
		return desk;
	desk = calloc(1, sizeof(*desk));
	if (!desk || !(desk->uuid = strdup(uuid)) || vm_strmap_put(&e->desks, uuid, desk) < 0) {
		if (desk)
			vm_desk_free(desk);
		return NULL;
	}
	desk->outcome_ns = desk->jobs_ns = desk->retain_ns = vm_now_ns();
	return desk;
}

void vm_desk_tell(struct vm_engine *e, struct vm_desk *desk, bool often)
{
	int64_t now = vm_steady_ns();
	bool tell;

	pthread_mutex_lock(&e->lock);
	desk->jobs_ns = vm_now_ns();
	tell = !often || now - desk->told_ns >= TELL_NS;
	if (tell)
		desk->told_ns = now;
	pthread_mutex_unlock(&e->lock);
	if (tell && e->options.jobs_changed)
		e->options.jobs_changed(e->options.opaque, desk->uuid);
}

void vm_desk_outcome(struct vm_engine *e, struct vm_desk *desk, const char *line)
{
	char *copy = strdup(line);

	if (!copy)
		return;
	pthread_mutex_lock(&e->lock);
	free(desk->outcome);
	desk->outcome = copy;
	desk->outcome_ns = vm_now_ns();
	pthread_mutex_unlock(&e->lock);
}

bool vm_desk_has_job(struct vm_engine *e, struct vm_desk *desk, uint64_t id)
{
	bool found = false;

	pthread_mutex_lock(&e->lock);
	for (const struct vm_run *job = desk->jobs; job; job = job->next)
		found |= job->id == id && desk->running;
	pthread_mutex_unlock(&e->lock);
	return found;
}

bool vm_desk_cancel(struct vm_engine *e, struct vm_desk *desk, uint64_t id)
{
	bool found = false;

	pthread_mutex_lock(&e->lock);
	for (struct vm_run *job = desk->jobs; job; job = job->next)
		if (job->id == id && desk->running) {
			found = true;
			job->state = "cancelling";
			vm_desk_cancel_running(desk, NULL);
		}
	pthread_mutex_unlock(&e->lock);
	return found;
}
