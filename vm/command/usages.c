/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/usages.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "vm/model/types.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define REMEMBERED 32
#define ANY_SET 0
#define TRIES 3
#define QUIET_NS VM_NS_PER_S /* a file that was written so shortly before may be written again without another mtime */

struct vm_usages {
	pthread_mutex_t lock;
	struct vm_usage *last[REMEMBERED]; /* guarded by lock: most recently used first */
};

struct vm_usages *vm_usages_new(void)
{
	struct vm_usages *usages = xcalloc(1, sizeof(*usages));

	pthread_mutex_init(&usages->lock, NULL);
	return usages;
}

static void put_locked(struct vm_usage *u)
{
	if (!u || --u->refs)
		return;
	free(u->ids);
	free(u->usage);
	free(u);
}

void vm_usage_put(struct vm_usages *usages, struct vm_usage *u)
{
	pthread_mutex_lock(&usages->lock);
	put_locked(u);
	pthread_mutex_unlock(&usages->lock);
}

void vm_usages_free(struct vm_usages *usages)
{
	for (size_t i = 0; usages && i < REMEMBERED; i++)
		put_locked(usages->last[i]);
	if (usages)
		pthread_mutex_destroy(&usages->lock);
	free(usages);
}

/* ---------------------------------------------------------------- snapshots */

/* Listings have a budget of their own, and are not held here. */
static uint64_t id_of(const struct q2_snapshot *s)
{
	return vm_ino(vm_ino(s->l1_off ^ (uint64_t)s->date_sec << 32 ^ s->date_nsec, s->id), s->name);
}

static uint64_t *ids_of(const struct q2_info *info)
{
	uint64_t *ids = xcalloc(info->n_snapshots, sizeof(*ids));

	for (size_t i = 0; i < info->n_snapshots; i++)
		ids[i] = id_of(&info->snapshots[i]);
	return ids;
}

const struct q2_usage_snapshot *vm_usage_of(const struct vm_usage *u, const struct q2_snapshot *s)
{
	uint64_t id = id_of(s);

	for (size_t i = 0; i < u->usage->n_snapshots; i++)
		if (u->ids[i] == id)
			return &u->usage->snapshots[i];
	return NULL;
}

/* ---------------------------------------------------------------- the memory */

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* A number for the set; gives of each snapshot whether it is in. */
static uint64_t set_of(const struct vm_usages_ask *ask, const struct q2_info *info, bool **goes)
{
	vs_autofree uint64_t *set = xcalloc(ask->n_set, sizeof(*set));
	uint64_t hash = UINT64_C(14695981039346656037);

	for (size_t i = 0; i < ask->n_set; i++)
		set[i] = id_of(ask->set[i]);
	qsort(set, ask->n_set, sizeof(*set), by_number);
	*goes = xcalloc(info->n_snapshots, sizeof(**goes));
	for (size_t i = 0; i < info->n_snapshots; i++) {
		uint64_t id = id_of(&info->snapshots[i]);

		(*goes)[i] = bsearch(&id, set, ask->n_set, sizeof(*set), by_number) != NULL;
		if ((*goes)[i])
			hash = (hash ^ id) * UINT64_C(1099511628211);
	}
	return ask->n_set ? hash | 1 : ANY_SET;
}

static bool is_unchanged(const struct vm_usage *u, const struct q2_stamp *now)
{
	const struct q2_stamp *then = &u->stamp;

	return u->settled && !now->block && then->size == now->size && then->mtime_ns == now->mtime_ns && then->ctime_ns == now->ctime_ns;
}

/* Has it the snapshots that the file has now? One that came since changes what the others free. */
static bool has_same(const struct vm_usage *u, const struct q2_info *info, const uint64_t *ids)
{
	size_t n = info->n_snapshots;

	return u->usage->n_snapshots == n && (!n || !memcmp(u->ids, ids, n * sizeof(*ids)));
}

static bool fits(const struct vm_usage *u, const struct vm_usages_ask *ask, const struct q2_info *info, const uint64_t *ids, uint64_t set)
{
	const struct q2_stamp *now = &info->stamp;

	return u && u->stamp.dev == now->dev && u->stamp.ino == now->ino && (set == ANY_SET || u->set == set) &&
	       (u->read_ns >= ask->since_ns || is_unchanged(u, now)) && has_same(u, info, ids);
}

static struct vm_usage *find(struct vm_usages *usages, const struct vm_usages_ask *ask, const struct q2_info *info, uint64_t set)
{
	vs_autofree uint64_t *ids = ids_of(info);
	struct vm_usage *u = NULL;

	pthread_mutex_lock(&usages->lock);
	for (size_t i = 0; i < REMEMBERED && !u; i++) {
		if (!fits(usages->last[i], ask, info, ids, set))
			continue;
		u = usages->last[i];
		memmove(usages->last + 1, usages->last, i * sizeof(struct vm_usage *));
		usages->last[0] = u;
		u->refs++;
	}
	pthread_mutex_unlock(&usages->lock);
	return u;
}

static void remember(struct vm_usages *usages, struct vm_usage *u)
{
	pthread_mutex_lock(&usages->lock);
	put_locked(usages->last[REMEMBERED - 1]);
	memmove(usages->last + 1, usages->last, (REMEMBERED - 1) * sizeof(struct vm_usage *));
	usages->last[0] = u;
	u->refs++;
	pthread_mutex_unlock(&usages->lock);
}

/* ---------------------------------------------------------------- counting */

static int count(struct vm_usages *usages, struct q2_file *f, const struct vm_usages_ask *ask, const struct q2_info *info,
		 struct vm_usage **out, struct vs_err *err)
{
	struct q2_usage_spec spec = { .info = info, .live = ask->live, .work = ask->work };
	struct vm_usage *u = xcalloc(1, sizeof(*u));
	vs_autofree bool *goes = NULL;
	int r;

	u->set = set_of(ask, info, &goes);
	u->refs = 1;
	u->stamp = info->stamp;
	u->ids = ids_of(info);
	u->read_ns = vm_steady_ns();
	u->settled = vm_now_ns() - info->stamp.mtime_ns > QUIET_NS;
	spec.goes = goes;
	r = q2_usage_read(f, &spec, &u->usage, err);
	if (r < 0) {
		vm_usage_put(usages, u);
		return r;
	}
	remember(usages, u);
	*out = u;
	return 0;
}

static int get_once(struct vm_usages *usages, struct q2_file *f, const struct vm_usages_ask *ask, struct vm_usage **out, struct vs_err *err)
{
	vs_autofree bool *goes = NULL;
	struct q2_info *info = NULL;
	int r = q2_info_read(f, Q2_FORMAT_QCOW2, &info, err);

	if (r < 0)
		return r;
	*out = find(usages, ask, info, set_of(ask, info, &goes));
	if (!*out)
		r = count(usages, f, ask, info, out, err);
	q2_info_free(info);
	return r;
}

int vm_usages_get(struct vm_usages *usages, const struct vm_usages_ask *ask, struct vm_usage **out, struct vs_err *err)
{
	struct q2_file *f;
	int r = q2_file_open(ask->path, &f, err);

	if (r < 0)
		return r;
	r = -ESTALE;
	for (int try = 0; r == -ESTALE && try < TRIES; try++) /* a snapshot came or went meanwhile */
		r = get_once(usages, f, ask, out, err);
	q2_file_close(f);
	return r;
}
