/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* All about one domain, as long as the engine lives. What it is for: engine.c. */
#include "vm/engine/engine-priv.h"

#include <string.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define TELL_NS (300 * VM_NS_PER_MS)
#define LATER_MIN_NS VM_NS_PER_S
#define LATER_MAX_NS (60 * VM_NS_PER_S)

void vm_slot_free(void *thing)
{
	struct vm_slot *slot = thing;

	while (slot->jobs)
		vm_job_remove(&slot->jobs, slot->jobs);
	free(slot->readers);
	free(slot->seen);
	free(slot->outcome);
	free(slot->now_said);
	free(slot->uuid);
	free(slot);
}

bool vm_slot_cancel_running(void *thing, void *opaque)
{
	struct vm_slot *slot = thing;

	(void)opaque;
	if (slot->running) {
		atomic_store(&slot->running->cancel, true);
		if (slot->running->cx)
			atomic_store(&slot->running->cx->watch.cancel, true);
	}
	return true;
}

struct vm_slot *vm_slot_locked(struct vm_engine *e, const char *uuid)
{
	struct vm_slot *slot = vm_strmap_get(&e->slots, uuid);

	if (slot)
		return slot;
	slot = xcalloc(1, sizeof(*slot));
	slot->uuid = xstrdup(uuid);
	vm_strmap_put(&e->slots, uuid, slot);
	slot->outcome_ns = slot->jobs_ns = slot->retain_ns = vm_now_ns();
	return slot;
}

void vm_slot_tell(struct vm_engine *e, struct vm_slot *slot, bool often)
{
	int64_t now = vm_steady_ns();
	bool tell;

	pthread_mutex_lock(&e->lock);
	slot->jobs_ns = vm_now_ns();
	tell = !often || now - slot->told_ns >= TELL_NS;
	if (tell)
		slot->told_ns = now;
	pthread_mutex_unlock(&e->lock);
	if (tell && e->options.jobs_changed)
		e->options.jobs_changed(e->options.opaque, slot->uuid);
}

void vm_slot_outcome(struct vm_engine *e, struct vm_slot *slot, const char *line)
{
	pthread_mutex_lock(&e->lock);
	free(slot->outcome);
	slot->outcome = xstrdup(line);
	slot->outcome_ns = vm_now_ns();
	pthread_mutex_unlock(&e->lock);
}

bool vm_slot_has_job(struct vm_engine *e, struct vm_slot *slot, uint64_t id)
{
	bool found = false;

	pthread_mutex_lock(&e->lock);
	for (const struct vm_run *job = slot->jobs; job; job = job->next)
		found |= job->id == id && slot->running;
	pthread_mutex_unlock(&e->lock);
	return found;
}

bool vm_slot_cancel(struct vm_engine *e, struct vm_slot *slot, uint64_t id)
{
	bool found = false;

	pthread_mutex_lock(&e->lock);
	for (struct vm_run *job = slot->jobs; job; job = job->next)
		if (job->id == id && slot->running) {
			found = true;
			job->state = "cancelling";
			vm_slot_cancel_running(slot, NULL);
		}
	pthread_mutex_unlock(&e->lock);
	return found;
}

void vm_later_again(struct vm_later *later)
{
	later->pause_ns = !later->pause_ns ? LATER_MIN_NS : later->pause_ns > LATER_MAX_NS / 2 ? LATER_MAX_NS : later->pause_ns * 2;
	later->at_ns = vm_steady_ns() + later->pause_ns;
}

bool vm_later_take(struct vm_later *later)
{
	if (!later->at_ns || vm_steady_ns() < later->at_ns)
		return false;
	later->at_ns = 0;
	return true;
}
