/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "entry.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"

#define OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define COPIED      (UINT64_C(1) << 63)
#define COMPRESSED  (UINT64_C(1) << 62)
#define ZERO_FLAG   UINT64_C(1)

const char *q2_bad_text(enum q2_bad bad)
{
	switch (bad) {
	case Q2_BAD_MISALIGNED:
		return "points at an offset that is not aligned to a cluster";
	case Q2_BAD_ZERO_V2:
		return "has the zero flag, which version 2 does not know";
	case Q2_BAD_SUBCLUSTERS:
		return "has subclusters that are both allocated and zero, or allocated without a cluster";
	case Q2_BAD_COMPRESSED_DATA_FILE:
		return "is compressed in an image with an external data file";
	case Q2_BAD_DATA_FILE_OFFSET:
		return "points at another place of the external data file than the guest's own";
	}
	return "is invalid";
}

uint64_t q2_l1_decode(const struct q2_geometry *g, uint64_t l1_entry, bool *aligned)
{
	uint64_t off = l1_entry & OFFSET_MASK;

	*aligned = !(off & ((UINT64_C(1) << g->cluster_bits) - 1));
	return off;
}

/* Appends one run, or lengthens the last one where both say the same and (data) follow each other in the file. */
static int push(const struct q2_geometry *g, struct q2_runs *r, uint32_t unit, enum q2_run_kind kind, uint64_t host_off,
		uint32_t max_len)
{
	struct q2_run *last = r->n ? &r->v[r->n - 1] : NULL;

	if (last && last->kind == (unsigned)kind) {
		if (kind == Q2_RUN_UNALLOCATED || kind == Q2_RUN_ZERO)
			return 0;
		if (kind == Q2_RUN_DATA &&
		    last->host_off + ((uint64_t)(unit - last->first) << q2_unit_bits(g)) == host_off)
			return 0;
	}
	if (r->n == r->room) {
		size_t room = r->room ? r->room * 2 : 8;
		struct q2_run *v = realloc(r->v, room * sizeof(*v));

		if (!v)
			return -ENOMEM;
		r->v = v;
		r->room = room;
	}
	r->v[r->n++] = (struct q2_run){ .host_off = host_off, .first = unit, .kind = kind, .max_len = max_len };
	return 0;
}

static int push_bad(const struct q2_geometry *g, struct q2_runs *r, uint32_t unit, uint64_t entry, enum q2_bad why)
{
	return push(g, r, unit, Q2_RUN_BAD, entry, why);
}

static uint64_t stream_of(const struct q2_geometry *g, uint64_t entry, uint32_t *max_len)
{
	unsigned x = 62 - (g->cluster_bits - 8);
	uint64_t off = entry & ((UINT64_C(1) << x) - 1);
	uint64_t sectors = ((entry >> x) & ((UINT64_C(1) << (g->cluster_bits - 8)) - 1)) + 1;

	*max_len = (uint32_t)(sectors * 512 - (off & 511));
	return off;
}

static int push_compressed(const struct q2_geometry *g, struct q2_runs *r, uint32_t unit, uint64_t entry)
{
	uint32_t max_len;
	uint64_t off = stream_of(g, entry, &max_len);

	if (g->data_file)
		return push_bad(g, r, unit, entry, Q2_BAD_COMPRESSED_DATA_FILE);
	return push(g, r, unit, Q2_RUN_COMPRESSED, off, max_len);
}

void q2_l2_refers(const struct q2_geometry *g, uint64_t entry, uint64_t *host_off, uint64_t *len)
{
	uint32_t max_len;

	*host_off = *len = 0;
	if (g->data_file)
		return;
	if (entry & COMPRESSED) {
		*host_off = stream_of(g, entry, &max_len);
		*len = max_len;
	} else if (entry & OFFSET_MASK) {
		*host_off = entry & OFFSET_MASK;
		*len = UINT64_C(1) << g->cluster_bits;
	}
}

/* A host offset that is to be used must be aligned, and in an external data file it must be the guest's. */
static int check_offset(const struct q2_geometry *g, uint64_t off, uint64_t guest_off, enum q2_bad *why)
{
	if (off & ((UINT64_C(1) << g->cluster_bits) - 1)) {
		*why = Q2_BAD_MISALIGNED;
		return -EUCLEAN;
	}
	if (g->data_file && off != guest_off) {
		*why = Q2_BAD_DATA_FILE_OFFSET;
		return -EUCLEAN;
	}
	return 0;
}

static int compile_standard(const struct q2_geometry *g, uint64_t entry, uint32_t unit, uint64_t guest_off,
			    struct q2_runs *r)
{
	uint64_t off = entry & OFFSET_MASK;
	enum q2_bad why;

	if (entry & COMPRESSED)
		return push_compressed(g, r, unit, entry);
	if (entry & ZERO_FLAG) {
		if (!g->v3)
			return push_bad(g, r, unit, entry, Q2_BAD_ZERO_V2);
		if (off && check_offset(g, off, guest_off, &why))
			return push_bad(g, r, unit, entry, why);
		return push(g, r, unit, Q2_RUN_ZERO, 0, 0);
	}
	if (!off && !(g->data_file && (entry & COPIED)))
		return push(g, r, unit, Q2_RUN_UNALLOCATED, 0, 0);
	if (check_offset(g, off, guest_off, &why))
		return push_bad(g, r, unit, entry, why);
	return push(g, r, unit, Q2_RUN_DATA, off, 0);
}

static int compile_extended(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap, uint32_t unit,
			    uint64_t guest_off, struct q2_runs *r)
{
	uint64_t off = entry & OFFSET_MASK;
	uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
	bool has_cluster = off || (g->data_file && (entry & COPIED));
	enum q2_bad why;
	int rc = 0;
	unsigned i;

	if (entry & COMPRESSED)
		return push_compressed(g, r, unit, entry);
	if ((allocated & zero) || (allocated && !has_cluster))
		return push_bad(g, r, unit, entry, Q2_BAD_SUBCLUSTERS);
	if (has_cluster && check_offset(g, off, guest_off, &why))
		return push_bad(g, r, unit, entry, why);
	for (i = 0; i < 32 && !rc; i++) {
		if (zero >> i & 1)
			rc = push(g, r, unit + i, Q2_RUN_ZERO, 0, 0);
		else if (allocated >> i & 1)
			rc = push(g, r, unit + i, Q2_RUN_DATA, off + ((uint64_t)i << q2_unit_bits(g)), 0);
		else
			rc = push(g, r, unit + i, Q2_RUN_UNALLOCATED, 0, 0);
	}
	return rc;
}

/* How many entries from here on are all zeros? Most are, in most tables. */
static uint32_t count_empty(const uint8_t *buf, uint32_t most)
{
	uint64_t entry;
	uint32_t n;

	for (n = 0; n < most; n++) {
		memcpy(&entry, buf + (size_t)n * 8, 8);
		if (entry)
			break;
	}
	return n;
}

int q2_l2_compile(const struct q2_geometry *g, const uint8_t *buf, uint32_t first, uint32_t n_entries, uint64_t guest_off,
		  struct q2_runs *runs)
{
	uint32_t end = first + n_entries, i, empty;
	int rc = 0;

	for (i = first; i < end && !rc; i++) {
		uint64_t at = guest_off + ((uint64_t)i << g->cluster_bits);

		if (!g->extended_l2 && (empty = count_empty(buf, end - i))) {
			rc = push(g, runs, i, Q2_RUN_UNALLOCATED, 0, 0);
			i += empty - 1;
			buf += (size_t)empty * 8;
		} else if (g->extended_l2) {
			rc = compile_extended(g, q2_be64(buf), q2_be64(buf + 8), i * 32, at, runs);
			buf += 16;
		} else {
			rc = compile_standard(g, q2_be64(buf), i, at, runs);
			buf += 8;
		}
	}
	return rc;
}

size_t q2_runs_find(const struct q2_run *v, size_t n, uint32_t unit)
{
	size_t lo = 0, hi = n;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (v[mid].first <= unit)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}
