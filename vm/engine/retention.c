/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What each new inventory means for a domain: has a snapshot appeared (retention), is there something to repair, or to note; and who reads. */
#include "vm/engine/engine-priv.h"

#include <string.h>

#include "vm/command/now.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- readers */

void vm_engine_reading(struct vm_engine *e, const char *uuid, uint64_t ino, int delta)
{
	struct vm_slot *slot;
	size_t i = 0;

	pthread_mutex_lock(&e->lock);
	slot = vm_slot_locked(e, uuid);
	while (i < slot->n_readers && slot->readers[i].ino != ino)
		i++;
	if (i == slot->n_readers) {
		slot->readers = xreallocarray(slot->readers, slot->n_readers + 1, sizeof(*slot->readers));
		slot->readers[slot->n_readers++] = (struct vm_reader){ .ino = ino };
	}
	slot->readers[i].count += delta;
	if (slot->readers[i].count <= 0)
		slot->readers[i] = slot->readers[--slot->n_readers];
	pthread_mutex_unlock(&e->lock);
}

static bool is_open(void *opaque, const char *uuid, const struct vm_snapshot *s)
{
	struct vm_engine *e = opaque;
	const struct vm_slot *slot;
	bool open = false;

	pthread_mutex_lock(&e->lock);
	slot = vm_strmap_get(&e->slots, uuid);
	for (size_t i = 0; slot && i < s->n_disks; i++)
		for (size_t k = 0; k < slot->n_readers; k++)
			open |= slot->readers[k].ino == s->disks[i].ino;
	pthread_mutex_unlock(&e->lock);
	return open;
}

struct vm_readers vm_engine_readers(struct vm_engine *e)
{
	return (struct vm_readers){ is_open, e };
}

/* ---------------------------------------------------------------- what has appeared */

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Remembers the snapshots of @d; true: one is new. */
static bool new_ones_locked(struct vm_slot *slot, const struct vm_domain *d)
{
	uint64_t *now;
	size_t n = 0;
	bool fresh = false;

	if (d->unread) /* when they were taken is known soon; what was there at the mount has not appeared since */
		return false;
	if (slot->greeted && slot->seen_ns == d->changed_ns)
		return false; /* it is as it was */
	slot->seen_ns = d->changed_ns;
	now = xcalloc(d->n_snapshots + 1, sizeof(*now));
	for (size_t i = 0; i < d->n_snapshots; i++) {
		const struct vm_snapshot *s = &d->snapshots[i];

		if (s->present || !s->recorded)
			continue;
		now[n] = vm_ino((uint64_t)s->created_ns, s->name);
		fresh |= slot->greeted && (!slot->n_seen || !bsearch(&now[n], slot->seen, slot->n_seen, sizeof(*now), by_number));
		n++;
	}
	qsort(now, n, sizeof(*now), by_number);
	free(slot->seen);
	slot->seen = now;
	slot->n_seen = n;
	slot->greeted = true;
	return fresh;
}

/* Is there something that an interrupted command may have left? */
static bool needs_repair(struct vm_engine *e, const struct vm_domain *d)
{
	struct vm_meta *meta = vm_store_best(e->store, d->uuid, NULL);
	vs_autofree char *journal = NULL;
	bool needs = vm_store_journal_get(e->store, d->uuid, &journal, NULL) < 0 || journal || !strcmp(d->state, "paused") ||
		     vm_now_job_is_noted(e->store, d->uuid);

	for (size_t i = 0; meta && i < meta->n_snapshots; i++)
		needs |= meta->snapshots[i].mark != NULL;
	vm_meta_free(meta);
	return needs;
}

static bool has_policy(struct vm_engine *e, const char *uuid)
{
	struct vm_meta *meta = vm_store_best(e->store, uuid, NULL);
	bool has = meta && meta->policy && strcmp(meta->policy, "off") != 0;

	vm_meta_free(meta);
	return has;
}

void vm_engine_repair_later(struct vm_engine *e, struct vm_slot *slot, bool prune)
{
	pthread_mutex_lock(&e->lock);
	slot->repaired = false;
	slot->prune_due |= prune;
	pthread_mutex_unlock(&e->lock);
}

/* Has it come up paused since nobody of ours is at work? A libvirt that went away while it started a guest for us may do so long after. Or has it gone off? What
 * a command has left can be put right then, before it is started again. */
static enum vm_rest rest_of(const struct vm_domain *d)
{
	return !strcmp(d->state, "paused") ? VM_REST_PAUSED : !strcmp(d->state, "shut off") || !strcmp(d->state, "crashed") ? VM_REST_OFF : VM_REST_NONE;
}

static bool came_to_rest_locked(struct vm_slot *slot, const struct vm_domain *d)
{
	enum vm_rest before = slot->rest;

	if (slot->running)
		return false;
	slot->rest = rest_of(d);
	return slot->rest && slot->rest != before;
}

void vm_engine_prune(struct vm_engine *e, struct vm_slot *slot, const struct vm_domain *d)
{
	if (has_policy(e, d->uuid)) {
		vm_request_self(e, d, VM_BY_RETENTION);
		return;
	}
	pthread_mutex_lock(&e->lock);
	slot->prune_due = false; /* a policy that comes later looks at all there is */
	pthread_mutex_unlock(&e->lock);
}

static void notice_domain(struct vm_engine *e, const struct vm_domain *d)
{
	bool due, repair;
	struct vm_slot *slot;

	pthread_mutex_lock(&e->lock);
	slot = vm_slot_locked(e, d->uuid);
	slot->prune_due |= new_ones_locked(slot, d);
	repair = came_to_rest_locked(slot, d);
	repair |= vm_later_take(&slot->now_later) || !slot->repaired;
	slot->repaired = true;
	vm_later_take(&slot->prune_later);
	due = slot->prune_due && !slot->prune_later.at_ns && !slot->running && !e->stop;
	pthread_mutex_unlock(&e->lock);
	if (repair && needs_repair(e, d)) {
		if (vm_request_self(e, d, VM_BY_MOUNT) < 0)
			vm_engine_repair_later(e, slot, false);
	} else if (due) { /* else who has the slot, or had it a moment ago, sees to it */
		vm_engine_prune(e, slot, d);
	}
}

void vm_engine_notice(struct vm_engine *e, const struct vm_inventory *inv)
{
	if (e->options.read_only)
		return;
	for (size_t i = 0; i < inv->n_domains; i++)
		notice_domain(e, inv->domains[i]);
}

/* ---------------------------------------------------------------- what is to be noted */

#define NOTE_AFTER_NS (3 * VM_NS_PER_S)      /* what was seen may belong to something that is not over */
#define NOTE_PAUSE_MAX_NS (60 * VM_NS_PER_S) /* what cannot be noted is tried again, but not for ever at that pace */
#define NOTE_CLOSE_MS 3000

static bool is_at_work(const struct vm_domain *d)
{
	for (size_t i = 0; i < d->n_disks; i++)
		if (d->disks[i].job)
			return true;
	return false;
}

static bool note_due_locked(struct vm_slot *slot, const struct vm_domain *d, int64_t now)
{
	if (!d->unnoted) {
		slot->unnoted_ns = 0;
		return false;
	}
	if (!slot->unnoted_ns) {
		slot->unnoted_ns = now;
		slot->note_pause_ns = NOTE_AFTER_NS;
	}
	if (slot->running || now < slot->unnoted_ns + slot->note_pause_ns || is_at_work(d))
		return false;
	slot->unnoted_ns = now;
	slot->note_pause_ns = slot->note_pause_ns > NOTE_PAUSE_MAX_NS / 2 ? NOTE_PAUSE_MAX_NS : slot->note_pause_ns * 2;
	return true;
}

static bool has_come(const struct vm_later *later)
{
	return later->at_ns && vm_steady_ns() >= later->at_ns;
}

/* Has a request left the domain since, which was to be looked after then, or in which a guest came up paused or went off? Or has the time come for what
 * was put off? */
static bool left_locked(const struct vm_slot *slot, const struct vm_domain *d)
{
	return !slot->running && (!slot->repaired || has_come(&slot->now_later) || has_come(&slot->prune_later) ||
				   (rest_of(d) && rest_of(d) != slot->rest));
}

void vm_engine_look(struct vm_engine *e, const struct vm_inventory *inv)
{
	int64_t now = vm_steady_ns();

	for (size_t i = 0; i < inv->n_domains && !e->options.read_only; i++) {
		const struct vm_domain *d = inv->domains[i];
		bool due, left;
		struct vm_slot *slot;

		pthread_mutex_lock(&e->lock);
		slot = vm_strmap_get(&e->slots, d->uuid);
		left = slot && !e->stop && left_locked(slot, d);
		due = slot && !e->stop && !left && note_due_locked(slot, d, now);
		pthread_mutex_unlock(&e->lock);
		if (left)
			notice_domain(e, d);
		else if (due)
			vm_request_self(e, d, VM_BY_WATCH);
	}
}

static bool has_unnoted(const struct vm_inventory *inv)
{
	for (size_t i = 0; i < inv->n_domains; i++)
		if (inv->domains[i]->unnoted && !is_at_work(inv->domains[i]))
			return true;
	return false;
}

void vm_engine_note_all(struct vm_engine *e)
{
	struct timespec until = vm_ns_timespec(vm_steady_ns() + NOTE_CLOSE_MS * VM_NS_PER_MS);
	struct vm_inventory *inv = NULL;

	if (e->options.read_only || vm_refresher_poll(e->refresher, NOTE_CLOSE_MS) < 0)
		return; /* libvirt is away, or hangs */
	inv = vm_refresher_inventory(e->refresher);
	if (has_unnoted(inv)) {
		for (size_t i = 0; i < inv->n_domains; i++)
			if (inv->domains[i]->unnoted && !is_at_work(inv->domains[i]))
				vm_request_self(e, inv->domains[i], VM_BY_WATCH);
		pthread_mutex_lock(&e->lock);
		while (e->threads && pthread_cond_timedwait(&e->idle, &e->lock, &until) == 0)
			;
		pthread_mutex_unlock(&e->lock);
	}
	vm_inventory_put(inv);
}
