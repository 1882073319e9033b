/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * cache.h: what views share, within two byte limits.
 *
 * Maps (map.h) are registered by what they are the map of, so that many handles of one snapshot, and many snapshots on
 * one chain, hold each table once. Decompressed clusters are kept in a list ordered by last use, keyed by (map, cluster):
 * never by a file offset, which another snapshot may own tomorrow.
 */
#ifndef Q2_CACHE_H
#define Q2_CACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

#include "qcow2.h"

struct q2_map;
struct q2_table;

struct q2_cluster_key {
	uint64_t map_serial, cluster_idx;
};

/* A decompressed cluster. Guarded by the cache's lock but for data, which never changes. */
struct q2_cluster {
	struct q2_cluster_key key;
	unsigned refs; /* one of the list's while it is in it */
	bool listed;
	size_t len;
	struct q2_cluster *prev, *next; /* list: head = most recently used */
	UT_hash_handle hh;
	uint8_t data[];
};

struct q2_cache {
	/* immutable */
	size_t table_limit, cluster_limit;
	/* atomic */
	atomic_size_t table_bytes;
	atomic_uint_fast64_t tables_loaded, tables_shared, cluster_hits, cluster_misses, next_serial;
	atomic_uint_fast64_t clock; /* ticks when a map is made and when a look at a snapshot begins: see map.c */
	/* guarded by lock; nothing slow happens while it is held */
	pthread_mutex_t lock;
	struct q2_map *maps;
	struct q2_table *tables;
	struct q2_cluster *clusters, *head, *tail;
	size_t cluster_bytes;
};

/* Takes @bytes of the table budget if they are there. */
bool q2_cache_charge(struct q2_cache *c, size_t bytes);
void q2_cache_uncharge(struct q2_cache *c, size_t bytes);

/* A reference to a cached cluster, or NULL. */
struct q2_cluster *q2_cluster_get(struct q2_cache *c, uint64_t map_serial, uint64_t cluster_idx);
/* An empty cluster to decode into; gives one reference. NULL: no memory. */
struct q2_cluster *q2_cluster_new(uint64_t map_serial, uint64_t cluster_idx, size_t len);
/* Offers a filled one to the cache; the caller keeps its reference. */
void q2_cluster_offer(struct q2_cache *c, struct q2_cluster *cl);
void q2_cluster_put(struct q2_cache *c, struct q2_cluster *cl);

#endif
