/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "cache.h"

#include <assert.h>
#include <string.h>

struct q2_cache *q2_cache_new(size_t table_bytes, size_t cluster_bytes)
{
	struct q2_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->table_limit = table_bytes;
	c->cluster_limit = cluster_bytes;
	pthread_mutex_init(&c->lock, NULL);
	return c;
}

static void unlist(struct q2_cache *c, struct q2_cluster *cl)
{
	if (cl->prev)
		cl->prev->next = cl->next;
	else
		c->head = cl->next;
	if (cl->next)
		cl->next->prev = cl->prev;
	else
		c->tail = cl->prev;
	cl->prev = cl->next = NULL;
}

static void push_front(struct q2_cache *c, struct q2_cluster *cl)
{
	cl->prev = NULL;
	cl->next = c->head;
	if (c->head)
		c->head->prev = cl;
	else
		c->tail = cl;
	c->head = cl;
}

static void put_locked(struct q2_cluster *cl)
{
	if (--cl->refs == 0)
		free(cl);
}

static void evict_locked(struct q2_cache *c, struct q2_cluster *cl)
{
	unlist(c, cl);
	HASH_DEL(c->clusters, cl);
	c->cluster_bytes -= cl->len;
	cl->listed = false;
	put_locked(cl);
}

void q2_cache_free(struct q2_cache *c)
{
	if (!c)
		return;
	assert(!c->maps && !c->tables);
	while (c->tail)
		evict_locked(c, c->tail);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void q2_cache_stats(struct q2_cache *c, struct q2_cache_stats *out)
{
	pthread_mutex_lock(&c->lock);
	out->cluster_bytes = c->cluster_bytes;
	pthread_mutex_unlock(&c->lock);
	out->table_bytes = c->table_bytes;
	out->tables_loaded = c->tables_loaded;
	out->tables_shared = c->tables_shared;
	out->cluster_hits = c->cluster_hits;
	out->cluster_misses = c->cluster_misses;
}

bool q2_cache_charge(struct q2_cache *c, size_t bytes)
{
	size_t held = atomic_load(&c->table_bytes);

	do {
		if (bytes > c->table_limit || held > c->table_limit - bytes)
			return false;
	} while (!atomic_compare_exchange_weak(&c->table_bytes, &held, held + bytes));
	return true;
}

void q2_cache_uncharge(struct q2_cache *c, size_t bytes)
{
	atomic_fetch_sub(&c->table_bytes, bytes);
}

struct q2_cluster *q2_cluster_get(struct q2_cache *c, uint64_t map_serial, uint64_t cluster_idx)
{
	struct q2_cluster_key key = { map_serial, cluster_idx };
	struct q2_cluster *cl;

	pthread_mutex_lock(&c->lock);
	HASH_FIND(hh, c->clusters, &key, sizeof(key), cl);
	if (cl) {
		cl->refs++;
		unlist(c, cl);
		push_front(c, cl);
	}
	pthread_mutex_unlock(&c->lock);
	atomic_fetch_add(cl ? &c->cluster_hits : &c->cluster_misses, 1);
	return cl;
}

struct q2_cluster *q2_cluster_new(uint64_t map_serial, uint64_t cluster_idx, size_t len)
{
	struct q2_cluster *cl = malloc(sizeof(*cl) + len);

	if (!cl)
		return NULL;
	memset(cl, 0, sizeof(*cl));
	cl->key = (struct q2_cluster_key){ map_serial, cluster_idx };
	cl->refs = 1;
	cl->len = len;
	return cl;
}

void q2_cluster_offer(struct q2_cache *c, struct q2_cluster *cl)
{
	struct q2_cluster *there;

	if (cl->len > c->cluster_limit)
		return;
	pthread_mutex_lock(&c->lock);
	HASH_FIND(hh, c->clusters, &cl->key, sizeof(cl->key), there);
	if (!there) {
		while (c->tail && c->cluster_bytes + cl->len > c->cluster_limit)
			evict_locked(c, c->tail);
		HASH_ADD(hh, c->clusters, key, sizeof(cl->key), cl);
		push_front(c, cl);
		c->cluster_bytes += cl->len;
		cl->listed = true;
		cl->refs++;
	}
	pthread_mutex_unlock(&c->lock);
}

void q2_cluster_put(struct q2_cache *c, struct q2_cluster *cl)
{
	pthread_mutex_lock(&c->lock);
	put_locked(cl);
	pthread_mutex_unlock(&c->lock);
}
