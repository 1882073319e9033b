/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* Who shares a map, and who shares a table: see map.c for why that is sound. */
#include <errno.h>
#include <string.h>

#include "map-priv.h"

/* ---------------------------------------------------------------- the registry */

static uint64_t hash_bytes(uint64_t h, const char *s)
{
	do
		h = (h ^ (uint8_t)*s) * UINT64_C(0x100000001b3);
	while (*s++);
	return h;
}

static void key_of(const struct q2_map_spec *spec, struct q2_map_key *key)
{
	const struct q2_snapshot *s = spec->snapshot;

	memset(key, 0, sizeof(*key));
	key->dev = spec->stamp.dev;
	key->ino = spec->stamp.ino;
	key->l1_off = spec->l1_off;
	key->l1_entries = spec->l1_entries;
	if (!s) {
		key->size = spec->stamp.size;
		key->mtime_ns = (uint64_t)spec->stamp.mtime_ns;
		return;
	}
	key->snapshot = 1;
	key->date = (uint64_t)s->date_sec << 32 | s->date_nsec;
	key->vm_clock = s->vm_clock_nsec;
	key->vm_state_size = s->vm_state_size;
	key->names = hash_bytes(hash_bytes(UINT64_C(0xcbf29ce484222325), s->id), s->name);
}

static void map_free(struct q2_map *m)
{
	q2_snapshot_free(m->snapshot);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static struct q2_map *map_new(struct q2_cache *c, const struct q2_map_spec *spec, const struct q2_map_key *key)
{
	struct q2_map *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	pthread_mutex_init(&m->lock, NULL);
	m->key = *key;
	m->refs = 1;
	m->serial = atomic_fetch_add(&c->next_serial, 1) + 1;
	m->born = atomic_fetch_add(&c->clock, 1) + 1;
	m->cache = c;
	m->g = spec->geometry;
	m->l1_off = spec->l1_off;
	m->l1_entries = spec->l1_entries;
	m->image_size = spec->image_size;
	if (spec->snapshot) {
		m->snapshot = q2_snapshot_dup(spec->snapshot);
		if (!m->snapshot) {
			map_free(m);
			return NULL;
		}
	}
	return m;
}

static bool same_geometry(const struct q2_geometry *a, const struct q2_geometry *b)
{
	return a->cluster_bits == b->cluster_bits && a->v3 == b->v3 && a->extended_l2 == b->extended_l2 &&
	       a->data_file == b->data_file && a->zstd == b->zstd;
}

struct q2_map *q2_map_get(struct q2_cache *c, const struct q2_map_spec *spec)
{
	struct q2_map *m, *fresh;
	struct q2_map_key key;

	key_of(spec, &key);
	fresh = map_new(c, spec, &key);
	if (!fresh)
		return NULL;
	pthread_mutex_lock(&c->lock);
	/* A block device has no mtime to tell a frozen map by: never shared. */
	if (spec->stamp.block && !spec->snapshot)
		m = NULL;
	else
		HASH_FIND(hh, c->maps, &key, sizeof(key), m);
	if (m && ((m->snapshot && !q2_snapshot_same(m->snapshot, spec->snapshot)) || !same_geometry(&m->g, &spec->geometry)))
		m = NULL;
	if (m) {
		m->refs++;
	} else {
		fresh->key = key;
		if (spec->stamp.block && !spec->snapshot)
			fresh->key.mtime_ns = fresh->serial; /* unique */
		m = fresh;
		fresh = NULL;
		HASH_ADD(hh, c->maps, key, sizeof(m->key), m);
	}
	pthread_mutex_unlock(&c->lock);
	if (fresh)
		map_free(fresh);
	return m;
}

void q2_table_put_locked(struct q2_cache *c, struct q2_table *t)
{
	if (--t->refs)
		return;
	if (t->listed)
		HASH_DEL(c->tables, t);
	q2_cache_uncharge(c, t->bytes);
	free(t->runs);
	free(t);
}

/* Nobody can vouch for a table without an owner: it stays with those who have it and is not found any more. */
static void disown_locked(struct q2_cache *c, struct q2_table *t)
{
	t->owner = NULL;
	if (t->listed)
		HASH_DEL(c->tables, t);
	t->listed = false;
}

static void drop_l1_locked(struct q2_cache *c, struct q2_map *m, struct q2_l1 *l1)
{
	uint32_t i;

	for (i = 0; i < m->l1_entries; i++) {
		struct q2_table *t;

		if (!l1->entries[i])
			continue;
		t = atomic_load(&l1->slots[i]);
		if (!t)
			continue;
		if (t->owner == m)
			disown_locked(c, t);
		q2_table_put_locked(c, t);
	}
}

void q2_map_put(struct q2_cache *c, struct q2_map *m)
{
	struct q2_l1 *l1;

	if (!m)
		return;
	pthread_mutex_lock(&c->lock);
	if (--m->refs) {
		pthread_mutex_unlock(&c->lock);
		return;
	}
	HASH_DEL(c->maps, m);
	l1 = atomic_load(&m->l1);
	if (l1)
		drop_l1_locked(c, m, l1);
	pthread_mutex_unlock(&c->lock);
	if (l1) {
		q2_cache_uncharge(c, l1->bytes);
		free(l1->slots);
		free(l1);
	}
	map_free(m);
}

uint64_t q2_map_serial(const struct q2_map *m)
{
	return m->serial;
}

const struct q2_geometry *q2_map_geometry(const struct q2_map *m)
{
	return &m->g;
}

const struct q2_snapshot *q2_map_snapshot(const struct q2_map *m)
{
	return m->snapshot;
}

struct q2_look q2_map_look(struct q2_map *m)
{
	return (struct q2_look){ .reads = atomic_load(&m->reads), .clock = atomic_fetch_add(&m->cache->clock, 1) + 1 };
}

static void rise(atomic_uint_fast64_t *number, uint64_t to)
{
	uint_fast64_t so_far = atomic_load(number);

	while (so_far < to && !atomic_compare_exchange_weak(number, &so_far, to))
		;
}

/* `seen` last: who reads it first finds no fewer reads vouched for than that look did. */
void q2_map_vouch(struct q2_map *m, const struct q2_look *look)
{
	rise(&m->vouched, look->reads);
	rise(&m->seen, look->clock);
}

/* ---------------------------------------------------------------- tables that several entries have */

struct q2_table_key q2_table_key(const struct q2_map *m, uint64_t l2_off)
{
	return (struct q2_table_key){ m->key.dev, m->key.ino, l2_off, m->snapshot ? 0 : m->serial };
}

/* In an image with an external data file a table is right at its own place of the disk only. */
static bool is_shareable(const struct q2_map *m)
{
	return !m->g.data_file;
}

/* A table of that place, with a reference, and its owner with one if that is somebody else. */
static struct q2_table *find_table(struct q2_cache *c, struct q2_map *m, uint64_t l2_off, struct q2_map **owner)
{
	struct q2_table_key key = q2_table_key(m, l2_off);
	struct q2_table *t;

	*owner = NULL;
	pthread_mutex_lock(&c->lock);
	HASH_FIND(hh, c->tables, &key, sizeof(key), t);
	if (t && !same_geometry(&t->owner->g, &m->g))
		t = NULL;
	if (t) {
		t->refs++;
		if (t->owner != m) {
			*owner = t->owner;
			t->owner->refs++;
		}
	}
	pthread_mutex_unlock(&c->lock);
	return t;
}

/* Was the owner's snapshot there together with @m's, and after it had read @t? */
static bool is_vouched_for(const struct q2_map *m, struct q2_map *owner, const struct q2_table *t)
{
	return atomic_load(&owner->seen) >= m->born && t->serial <= atomic_load(&owner->vouched);
}

/* 1 yes, 0 no, -EINTR. */
static int is_good(struct q2_map *m, struct q2_file *f, struct q2_map *owner, const struct q2_table *t, struct q2_work *work)
{
	int rc;

	if (!owner || is_vouched_for(m, owner, t))
		return 1;
	rc = q2_map_identity_recheck(owner, f, work);
	if (rc == -EINTR)
		return rc;
	return !rc && is_vouched_for(m, owner, t);
}

int q2_table_share(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t l2_off, struct q2_work *work,
		   struct q2_table **out)
{
	struct q2_map *owner;
	struct q2_table *t = is_shareable(m) ? find_table(c, m, l2_off, &owner) : NULL;
	int good;

	*out = t;
	if (!t)
		return 0;
	good = is_good(m, f, owner, t, work);
	q2_map_put(c, owner);
	if (good > 0) {
		atomic_fetch_add(&c->tables_shared, 1);
		return 0;
	}
	pthread_mutex_lock(&c->lock);
	if (!good && t->listed)
		disown_locked(c, t);
	q2_table_put_locked(c, t);
	pthread_mutex_unlock(&c->lock);
	*out = NULL;
	return good;
}

void q2_table_register(struct q2_cache *c, struct q2_map *m, struct q2_table *t)
{
	struct q2_table *there;

	if (!is_shareable(m))
		return;
	pthread_mutex_lock(&c->lock);
	HASH_FIND(hh, c->tables, &t->key, sizeof(t->key), there);
	if (!there) {
		t->owner = m;
		t->listed = true;
		HASH_ADD(hh, c->tables, key, sizeof(t->key), t);
	}
	pthread_mutex_unlock(&c->lock);
}
