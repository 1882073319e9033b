/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* map-priv.h: how a map is held; shared by map.c (the question), map-registry.c and map-identity.c. */
#ifndef Q2_MAP_PRIV_H
#define Q2_MAP_PRIV_H

#include "map.h"

struct q2_table_key {
	uint64_t dev, ino, host_off;
	uint64_t frozen; /* of a frozen map: its serial, since nobody else may have it; of a snapshot's 0 */
};

struct q2_table {
	struct q2_table_key key;
	/* guarded by the cache's lock */
	unsigned refs;
	bool listed;
	struct q2_map *owner; /* borrowed; NULL once that map is gone */
	UT_hash_handle hh;
	/* immutable */
	size_t bytes, n_runs;
	uint64_t serial; /* which read of its owner this was, from 1 */
	struct q2_run *runs;
};

struct q2_l1 {
	size_t bytes;
	uint64_t serial;
	_Atomic(struct q2_table *) *slots;
	uint64_t entries[];
};

/* Where the snapshot's record was seen last. */
struct q2_place {
	bool known;
	uint32_t nb;
	uint64_t table_off, entry_off;
	size_t entry_len;
};

struct q2_map {
	struct q2_map_key key;
	UT_hash_handle hh;
	unsigned refs; /* guarded by the cache's lock */
	/* immutable */
	uint64_t serial;
	uint64_t born; /* by the cache's clock: from then on at the latest its snapshot was in the file */
	struct q2_cache *cache;
	struct q2_geometry g;
	uint64_t l1_off;
	uint32_t l1_entries;
	uint64_t image_size;
	struct q2_snapshot *snapshot; /* owned, NULL: frozen */
	/* atomic */
	_Atomic(struct q2_l1 *) l1;
	atomic_uint_fast64_t reads, vouched; /* vouched: so many of its reads came before a look that found all as it should be */
	atomic_uint_fast64_t seen;           /* snapshot: when the last such look began, by the cache's clock */
	/* guarded by lock */
	pthread_mutex_t lock;
	struct q2_place place;
};

/* Drops a slot's reference. The cache's lock is held. */
void q2_table_put_locked(struct q2_cache *c, struct q2_table *t);
/* What a table of this map is registered by. */
struct q2_table_key q2_table_key(const struct q2_map *m, uint64_t l2_off);
/* A table that this map or another snapshot's holds, if that snapshot is still there; *out = NULL: load it. -EINTR. */
int q2_table_share(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t l2_off, struct q2_work *work,
		   struct q2_table **out);
/* Lets @m's other entries and other snapshots' maps find a table that it has just published. */
void q2_table_register(struct q2_cache *c, struct q2_map *m, struct q2_table *t);

/* q2_map_identity_check() with the header read here. */
int q2_map_identity_recheck(struct q2_map *m, struct q2_file *f, struct q2_work *work);

#endif
