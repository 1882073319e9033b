/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What retention is told: readers, the snapshots as they are, and when one has appeared. */
#include "vm/engine/engine-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- readers */

void vm_engine_reading(struct vm_engine *e, const char *uuid, uint64_t ino, int delta)
{
	struct vm_desk *desk;
	size_t i = 0;

	pthread_mutex_lock(&e->lock);
	desk = vm_desk_locked(e, uuid);
	while (desk && i < desk->n_readers && desk->readers[i].ino != ino)
		i++;
	if (desk && i == desk->n_readers) {
		desk->readers = xreallocarray(desk->readers, desk->n_readers + 1, sizeof(*desk->readers));
		desk->readers[desk->n_readers++] = (struct vm_reader){ .ino = ino };
	}
	if (desk && i < desk->n_readers) {
		desk->readers[i].count += delta;
		if (desk->readers[i].count <= 0)
			desk->readers[i] = desk->readers[--desk->n_readers];
	}
	pthread_mutex_unlock(&e->lock);
}

static bool is_open_locked(const struct vm_desk *desk, const struct vm_snapshot *s)
{
	for (size_t i = 0; desk && i < s->n_disks; i++)
		for (size_t k = 0; k < desk->n_readers; k++)
			if (desk->readers[k].ino == s->disks[i].ino)
				return true;
	return false;
}

/* ---------------------------------------------------------------- the plan */

/* It is marked, and reads so. */
static void set_begun(struct vm_retain_snapshot *snap, const struct vm_own *own, const struct vm_snapshot *s)
{
	const struct q2_snapshot *entry = s->n_disks ? s->disks[0].snapshot : NULL;
	struct vm_own_id id = { s->name, s->created_ns - (s->recorded ? s->created_ns % VM_NS_PER_S : 0), s->kind };
	const struct vm_own_snapshot *said;

	if (!s->recorded && entry)
		id.created_ns = entry->date_sec * VM_NS_PER_S + entry->date_nsec;
	said = own && s->state == VM_STALE ? vm_own_find(own, &id) : NULL;
	snap->begun = said && said->mark;
	snap->unreadable = !snap->begun && (s->state == VM_STALE || (s->state == VM_UNSUPPORTED && !s->n_disks));
	snap->by_delete = snap->begun && !said->mark->is_void && !strncmp(said->mark->command, "delete ", strlen("delete "));
}

static size_t fill(struct vm_engine *e, const struct vm_domain *d, struct vm_retain_snapshot *snaps)
{
	struct vm_own *own = vm_store_best(e->store, d->uuid, NULL);
	const struct vm_desk *desk;
	size_t n = 0;

	pthread_mutex_lock(&e->lock);
	desk = vm_strmap_get(&e->desks, d->uuid);
	for (size_t i = 0; i < d->n_snapshots; i++) {
		const struct vm_snapshot *s = &d->snapshots[i];

		if (s->present)
			continue;
		snaps[n] = (struct vm_retain_snapshot){
			.shown = s->shown, .raw = s->name, .created_ns = s->created_ns, .order = i, .recorded = s->recorded,
			.ours = s->ours, .held = s->held, .open = is_open_locked(desk, s),
		};
		set_begun(&snaps[n], own, s);
		n++;
	}
	pthread_mutex_unlock(&e->lock);
	vm_own_free(own);
	return n;
}

int vm_engine_plan(struct vm_engine *e, const struct vm_domain *d, const char *policy,
		   struct vm_retain_snapshot **snaps, struct vm_retain_verdict **verdicts, size_t *n, struct vs_err *err)
{
	const char *line = policy ? policy : "off";
	struct vm_retain parsed = {0};
	int r = vm_retain_parse(line, strlen(line), &parsed, err);

	if (r < 0)
		return r;
	*snaps = calloc(d->n_snapshots + 1, sizeof(**snaps));
	*verdicts = calloc(d->n_snapshots + 1, sizeof(**verdicts));
	if (!*snaps || !*verdicts) {
		r = -ENOMEM;
	} else {
		*n = fill(e, d, *snaps);
		r = vm_retain_plan(&parsed, *snaps, *n, vm_now_ns(), *verdicts);
	}
	vm_retain_fini(&parsed);
	return r < 0 ? vs_err_set(err, r, "the plan cannot be made: %s", strerror(-r)) : 0;
}

int vm_engine_try_prune(struct vm_engine *e, struct vm_work *w, struct vs_err *err)
{
	struct vm_retain_snapshot *snaps = NULL;
	struct vm_retain_verdict *verdicts = NULL;
	size_t n = 0, dropped = 0;
	int r = vm_engine_plan(e, w->d, w->own->policy, &snaps, &verdicts, &n, err);

	for (size_t i = 0; r == 0 && i < n; i++)
		if (!verdicts[i].keep) {
			vm_work_say(w, "would delete '%s' (%s)", snaps[i].shown, verdicts[i].reason);
			dropped++;
		}
	if (r == 0 && !dropped)
		vm_work_say(w, "nothing to drop");
	free(snaps);
	free(verdicts);
	return r;
}

/* ---------------------------------------------------------------- what has appeared */

static uint64_t identity(const struct vm_snapshot *s)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325) ^ (uint64_t)s->created_ns;

	for (const char *c = s->name; *c; c++)
		h = (h ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
	return h;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Remembers the snapshots of @d; true: one is new. */
static bool new_ones_locked(struct vm_desk *desk, const struct vm_domain *d)
{
	uint64_t *now = xcalloc(d->n_snapshots + 1, sizeof(*now));
	size_t n = 0;
	bool fresh = false;

	for (size_t i = 0; i < d->n_snapshots; i++) {
		const struct vm_snapshot *s = &d->snapshots[i];

		if (s->present || !s->recorded)
			continue;
		now[n] = identity(s);
		fresh |= desk->greeted && (!desk->n_seen || !bsearch(&now[n], desk->seen, desk->n_seen, sizeof(*now), by_number));
		n++;
	}
	qsort(now, n, sizeof(*now), by_number);
	free(desk->seen);
	desk->seen = now;
	desk->n_seen = n;
	desk->greeted = true;
	return fresh;
}

/* Is there something that an interrupted command may have left? */
static bool needs_repair(struct vm_engine *e, const struct vm_domain *d)
{
	struct vm_own *own = vm_store_best(e->store, d->uuid, NULL);
	vs_autofree char *note = NULL;
	bool needs = vm_store_note_get(e->store, d->uuid, &note, NULL) < 0 || note || !strcmp(d->state, "paused");

	for (size_t i = 0; own && i < own->n_snapshots; i++)
		needs |= own->snapshots[i].mark != NULL;
	vm_own_free(own);
	return needs;
}

static bool has_policy(struct vm_engine *e, const char *uuid)
{
	struct vm_own *own = vm_store_best(e->store, uuid, NULL);
	bool has = own && own->policy && strcmp(own->policy, "off") != 0;

	vm_own_free(own);
	return has;
}

void vm_engine_repair_later(struct vm_engine *e, struct vm_desk *desk, bool prune)
{
	pthread_mutex_lock(&e->lock);
	desk->repaired = false;
	desk->prune_due |= prune;
	pthread_mutex_unlock(&e->lock);
}

/* Has it come up paused since nobody of ours is at work? A libvirt that went away while it started a guest for us may do so long after. */
static bool came_up_locked(struct vm_desk *desk, const struct vm_domain *d)
{
	bool before = desk->paused;

	if (desk->running)
		return false;
	desk->paused = !strcmp(d->state, "paused");
	return desk->paused && !before;
}

/* A policy that comes later looks at all there is. */
static void nothing_due(struct vm_engine *e, struct vm_desk *desk)
{
	pthread_mutex_lock(&e->lock);
	desk->prune_due = false;
	pthread_mutex_unlock(&e->lock);
}

static void notice_domain(struct vm_engine *e, const struct vm_domain *d)
{
	bool due = false, repair = false;
	struct vm_desk *desk;

	pthread_mutex_lock(&e->lock);
	desk = vm_desk_locked(e, d->uuid);
	if (desk) {
		desk->prune_due |= new_ones_locked(desk, d);
		repair = came_up_locked(desk, d) || !desk->repaired;
		desk->repaired = true;
		due = desk->prune_due && !desk->running && !e->stop;
	}
	pthread_mutex_unlock(&e->lock);
	if (repair && needs_repair(e, d)) {
		if (vm_request_self(e, d, VM_BY_MOUNT) < 0)
			vm_engine_repair_later(e, desk, false);
	} else if (due) { /* else who has the desk, or had it a moment ago, sees to it */
		if (has_policy(e, d->uuid))
			vm_request_self(e, d, VM_BY_RETENTION);
		else
			nothing_due(e, desk);
	}
}

void vm_engine_notice(struct vm_engine *e, const struct vm_picture *pic)
{
	if (e->options.read_only)
		return;
	for (size_t i = 0; i < pic->n_domains; i++)
		notice_domain(e, pic->domains[i]);
}
