/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "census.h"

#include <errno.h>
#include <string.h>

#include "export.h"
#include "hash.h"

#define CHUNK_BITS 12u
#define CHUNK (1u << CHUNK_BITS)
#define WORDS (CHUNK / 64)

struct q2_census_chunk {
	uint64_t place, rank;         /* CHUNK of clusters before it; how many that are in use */
	uint16_t before[WORDS];       /* of its own, how many before each word */
	uint64_t used[WORDS], whole[WORDS];
	uint8_t *sectors;             /* NULL, or a bit for each of all clusters */
	uint32_t counts[];            /* CHUNK of @width bytes */
};

static size_t chunk_bytes(const struct q2_census *c)
{
	return sizeof(struct q2_census_chunk) + (size_t)CHUNK * c->width;
}

static size_t sector_bytes(const struct q2_census *c)
{
	return (size_t)CHUNK << (c->cluster_bits - 9) >> 3;
}

void q2_census_fini(struct q2_census *c)
{
	for (size_t i = 0; i < c->n; i++) {
		free(c->v[i]->sectors);
		free(c->v[i]);
	}
	free(c->v);
	q2_export_uncharge(c->charged);
	c->v = NULL;
	c->n = c->room = c->charged = 0;
}

static void *charged_alloc(struct q2_census *c, size_t bytes, int *rc)
{
	void *p = NULL;

	*rc = 0;
	if (c->charged + bytes > c->most)
		*rc = -EFBIG;
	else if (!q2_export_charge(bytes, false))
		*rc = -ENOBUFS;
	else if (!(p = calloc(1, bytes)))
		*rc = -ENOMEM;
	if (*rc == -ENOMEM)
		q2_export_uncharge(bytes);
	if (p)
		c->charged += bytes;
	return p;
}

/* ---------------------------------------------------------------- chunks */

/* The first one at or behind @place. */
static size_t chunk_from(const struct q2_census *c, uint64_t place)
{
	size_t low = 0, high = c->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (c->v[mid]->place < place)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct q2_census_chunk *chunk_of(const struct q2_census *c, uint64_t cluster)
{
	size_t i = chunk_from(c, cluster >> CHUNK_BITS);

	return i < c->n && c->v[i]->place == cluster >> CHUNK_BITS ? c->v[i] : NULL;
}

static int chunk_insert(struct q2_census *c, size_t i, uint64_t place)
{
	struct q2_census_chunk *chunk;
	int rc;

	if (c->n == c->room) {
		size_t room = c->room ? c->room * 2 : 16;
		struct q2_census_chunk **v = reallocarray(c->v, room, sizeof(*v));

		if (!v)
			return -ENOMEM;
		c->v = v;
		c->room = room;
	}
	chunk = charged_alloc(c, chunk_bytes(c), &rc);
	if (!chunk)
		return rc;
	chunk->place = place;
	memmove(c->v + i + 1, c->v + i, (c->n - i) * sizeof(*c->v));
	c->v[i] = chunk;
	c->n++;
	return 0;
}

/* What is counted comes in order mostly: the last one again. */
static int chunk_make(struct q2_census *c, uint64_t cluster, struct q2_census_chunk **out)
{
	uint64_t place = cluster >> CHUNK_BITS;
	int rc = 0;

	if (c->last >= c->n || c->v[c->last]->place != place) {
		c->last = chunk_from(c, place);
		if (c->last == c->n || c->v[c->last]->place != place)
			rc = chunk_insert(c, c->last, place);
	}
	if (!rc)
		*out = c->v[c->last];
	return rc;
}

static bool has_bit(const uint64_t *words, unsigned i)
{
	return words[i / 64] >> (i % 64) & 1;
}

static void set_bit(uint64_t *words, unsigned i)
{
	words[i / 64] |= UINT64_C(1) << (i % 64);
}

static uint64_t count_in(const struct q2_census *c, const struct q2_census_chunk *chunk, unsigned i)
{
	return c->width == 4 ? chunk->counts[i] : ((const uint16_t *)chunk->counts)[i];
}

/* ---------------------------------------------------------------- counting */

static int count(struct q2_census *c, uint64_t cluster, uint64_t n, struct q2_census_chunk **chunk)
{
	unsigned i = cluster & (CHUNK - 1);
	uint64_t now, most = c->width == 4 ? UINT32_MAX : UINT16_MAX;
	int rc = chunk_make(c, cluster, chunk);

	if (rc)
		return rc;
	now = count_in(c, *chunk, i);
	if (n > most - now)
		return -ERANGE;
	now += n;
	if (c->width == 4)
		(*chunk)->counts[i] = (uint32_t)now;
	else
		((uint16_t *)(*chunk)->counts)[i] = (uint16_t)now;
	if (!has_bit((*chunk)->used, i))
		c->total++;
	set_bit((*chunk)->used, i);
	if (now > c->largest)
		c->largest = now;
	return 0;
}

int q2_census_count(struct q2_census *c, uint64_t cluster, uint64_t n)
{
	struct q2_census_chunk *chunk;
	int rc = count(c, cluster, n, &chunk);

	if (!rc)
		set_bit(chunk->whole, cluster & (CHUNK - 1));
	return rc;
}

int q2_census_count_part(struct q2_census *c, uint64_t cluster, uint64_t n, uint64_t into, uint64_t len)
{
	unsigned per = 1u << (c->cluster_bits - 9), i = cluster & (CHUNK - 1);
	struct q2_census_chunk *chunk;
	int rc = count(c, cluster, n, &chunk);

	if (!rc && !chunk->sectors)
		chunk->sectors = charged_alloc(c, sector_bytes(c), &rc);
	for (uint64_t s = into >> 9; !rc && s <= (into + len - 1) >> 9; s++)
		chunk->sectors[(i * per + s) / 8] |= (uint8_t)(1u << ((i * per + s) % 8));
	return rc;
}

void q2_census_drop(struct q2_census *c, uint64_t cluster)
{
	struct q2_census_chunk *chunk = chunk_of(c, cluster);
	unsigned i = cluster & (CHUNK - 1);

	chunk->used[i / 64] &= ~(UINT64_C(1) << (i % 64));
	c->total--;
}

uint64_t q2_census_next(const struct q2_census *c, uint64_t cluster, uint64_t *n)
{
	for (size_t i = chunk_from(c, cluster >> CHUNK_BITS); i < c->n; i++) {
		uint64_t start = c->v[i]->place << CHUNK_BITS;
		unsigned k = cluster > start ? (unsigned)(cluster - start) : 0;

		for (; k < CHUNK; k++) {
			uint64_t rest = c->v[i]->used[k / 64] >> (k % 64);

			if (!rest) {
				k |= 63;
				continue;
			}
			k += (unsigned)__builtin_ctzll(rest);
			*n = count_in(c, c->v[i], k);
			return start + k;
		}
	}
	return UINT64_MAX;
}

/* ---------------------------------------------------------------- ranks */

static unsigned used_before(const struct q2_census_chunk *chunk, unsigned i)
{
	return chunk->before[i / 64] + (i % 64 ? (unsigned)__builtin_popcountll(chunk->used[i / 64] << (64 - i % 64)) : 0);
}

void q2_census_seal(struct q2_census *c)
{
	uint64_t rank = 0;

	for (size_t i = 0; i < c->n; i++) {
		struct q2_census_chunk *chunk = c->v[i];
		unsigned n = 0;

		for (unsigned w = 0; w < WORDS; w++) {
			chunk->before[w] = (uint16_t)n;
			n += (unsigned)__builtin_popcountll(chunk->used[w]);
		}
		chunk->rank = rank;
		rank += n;
	}
}

bool q2_census_rank(const struct q2_census *c, uint64_t cluster, uint64_t *rank, uint64_t *n)
{
	const struct q2_census_chunk *chunk = chunk_of(c, cluster);
	unsigned i = cluster & (CHUNK - 1);

	if (!chunk || !has_bit(chunk->used, i))
		return false;
	*rank = chunk->rank + used_before(chunk, i);
	*n = count_in(c, chunk, i);
	return true;
}

uint64_t q2_census_at(const struct q2_census *c, uint64_t rank, uint64_t *n)
{
	size_t low = 0, high = c->n;
	const struct q2_census_chunk *chunk;
	unsigned left, i, w = 0;
	uint64_t bits;

	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (c->v[mid]->rank <= rank)
			low = mid;
		else
			high = mid;
	}
	chunk = c->v[low];
	left = (unsigned)(rank - chunk->rank);
	for (unsigned step = WORDS / 2; step; step /= 2)
		if (chunk->before[w + step] <= left)
			w += step;
	left -= chunk->before[w];
	for (bits = chunk->used[w]; left; left--)
		bits &= bits - 1;
	i = w * 64 + (unsigned)__builtin_ctzll(bits);
	*n = count_in(c, chunk, i);
	return (chunk->place << CHUNK_BITS) + i;
}

bool q2_census_whole(const struct q2_census *c, uint64_t cluster)
{
	const struct q2_census_chunk *chunk = chunk_of(c, cluster);

	return chunk && has_bit(chunk->whole, cluster & (CHUNK - 1));
}

bool q2_census_sector(const struct q2_census *c, uint64_t cluster, unsigned sector)
{
	const struct q2_census_chunk *chunk = chunk_of(c, cluster);
	unsigned at = ((cluster & (CHUNK - 1)) << (c->cluster_bits - 9)) + sector;

	return chunk && (has_bit(chunk->whole, cluster & (CHUNK - 1)) || (chunk->sectors && chunk->sectors[at / 8] >> (at % 8) & 1));
}

/* ---------------------------------------------------------------- */

static uint64_t hash_words(uint64_t h, const void *words, size_t len)
{
	for (size_t at = 0; at < len; at += 8) {
		uint64_t word;

		memcpy(&word, (const uint8_t *)words + at, 8);
		h = q2_mix(h, word);
	}
	return h;
}

uint64_t q2_census_hash(const struct q2_census *c, uint64_t seed)
{
	for (size_t i = 0; i < c->n; i++) {
		const struct q2_census_chunk *chunk = c->v[i];

		seed = q2_mix(seed, chunk->place);
		seed = hash_words(seed, chunk->used, sizeof(chunk->used));
		seed = hash_words(seed, chunk->whole, sizeof(chunk->whole));
		seed = hash_words(seed, chunk->counts, (size_t)CHUNK * c->width);
		if (chunk->sectors)
			seed = hash_words(seed, chunk->sectors, sector_bytes(c));
	}
	return q2_mix(seed, c->total);
}
