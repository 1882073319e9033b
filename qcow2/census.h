/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * census.h: which clusters of a file are in use, how often each, and the how-manieth it is.
 *
 * Kept in chunks of 4096 clusters, of which there are only those that have any: a file may be large and sparse. A cluster takes two bytes (or
 * four) and two bits, and one whose use is known by sectors a bit for each of these.
 *
 * First clusters are counted, then the census is sealed; only then they have ranks. Units: clusters are numbers of clusters in the file.
 * Errors: -EFBIG more than @most bytes; -ENOBUFS of what there is for all layouts (export.h) others have too much; -ERANGE a count that
 * needs more bytes than the census has for one. Threads: one while it is counted, any once it is sealed.
 */
#ifndef Q2_CENSUS_H
#define Q2_CENSUS_H

#include "base.h"

struct q2_census_chunk;

struct q2_census {
	/* set by the caller: zeros but for these */
	unsigned cluster_bits;
	unsigned width; /* of a count, bytes: 2 or 4 */
	size_t most;    /* bytes it may take */
	/* private */
	struct q2_census_chunk **v; /* by place */
	size_t n, room, last, charged;
	uint64_t total, largest;
};

void q2_census_fini(struct q2_census *c);

/* So many uses more of all of the cluster... */
int q2_census_count(struct q2_census *c, uint64_t cluster, uint64_t n);
/* ... or of @len bytes in it, at @into: whole sectors are noted. */
int q2_census_count_part(struct q2_census *c, uint64_t cluster, uint64_t n, uint64_t into, uint64_t len);
/* As if it had never been counted. */
void q2_census_drop(struct q2_census *c, uint64_t cluster);

void q2_census_seal(struct q2_census *c);
/* Before that: the first one that is counted at or behind @cluster; UINT64_MAX: none. */
uint64_t q2_census_next(const struct q2_census *c, uint64_t cluster, uint64_t *count);

static inline uint64_t q2_census_total(const struct q2_census *c)
{
	return c->total;
}

/* The most that one was counted. */
static inline uint64_t q2_census_largest(const struct q2_census *c)
{
	return c->largest;
}

/* Its rank from 0 on, and its count; false: it is not in use. */
bool q2_census_rank(const struct q2_census *c, uint64_t cluster, uint64_t *rank, uint64_t *count);
/* The cluster of that rank, which there is. */
uint64_t q2_census_at(const struct q2_census *c, uint64_t rank, uint64_t *count);
/* Is that sector of the cluster in use, which is? */
bool q2_census_sector(const struct q2_census *c, uint64_t cluster, unsigned sector);
/* Is all of it? */
bool q2_census_whole(const struct q2_census *c, uint64_t cluster);

/* A number of all that was counted. */
uint64_t q2_census_hash(const struct q2_census *c, uint64_t seed);

#endif
