/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "entry.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"

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
	uint64_t off = l1_entry & Q2_ENTRY_OFFSET;

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

/* Where the stream is; gives the most bytes that it has. */
static uint32_t decode_stream(const struct q2_geometry *g, uint64_t entry, uint64_t *host_off)
{
	unsigned x = 62 - (g->cluster_bits - 8);
	uint64_t sectors = ((entry >> x) & ((UINT64_C(1) << (g->cluster_bits - 8)) - 1)) + 1;

	*host_off = entry & ((UINT64_C(1) << x) - 1);
	return (uint32_t)(sectors * 512 - (*host_off & 511));
}

static int push_compressed(const struct q2_geometry *g, struct q2_runs *r, uint32_t unit, uint64_t entry)
{
	uint64_t off;
	uint32_t len = decode_stream(g, entry, &off);

	if (g->data_file)
		return push_bad(g, r, unit, entry, Q2_BAD_COMPRESSED_DATA_FILE);
	return push(g, r, unit, Q2_RUN_COMPRESSED, off, len);
}

void q2_l2_refers(const struct q2_geometry *g, uint64_t entry, uint64_t *host_off, uint64_t *len)
{
	*host_off = *len = 0;
	if (g->data_file)
		return;
	if (entry & Q2_ENTRY_COMPRESSED) {
		*len = decode_stream(g, entry, host_off);
	} else if (entry & Q2_ENTRY_OFFSET) {
		*host_off = entry & Q2_ENTRY_OFFSET;
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
	uint64_t off = entry & Q2_ENTRY_OFFSET;
	enum q2_bad why;

	if (entry & Q2_ENTRY_COMPRESSED)
		return push_compressed(g, r, unit, entry);
	if (entry & Q2_ENTRY_ZERO) {
		if (!g->v3)
			return push_bad(g, r, unit, entry, Q2_BAD_ZERO_V2);
		if (off && check_offset(g, off, guest_off, &why))
			return push_bad(g, r, unit, entry, why);
		return push(g, r, unit, Q2_RUN_ZERO, 0, 0);
	}
	if (!off && !(g->data_file && (entry & Q2_ENTRY_COPIED)))
		return push(g, r, unit, Q2_RUN_UNALLOCATED, 0, 0);
	if (check_offset(g, off, guest_off, &why))
		return push_bad(g, r, unit, entry, why);
	return push(g, r, unit, Q2_RUN_DATA, off, 0);
}

static int compile_extended(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap, uint32_t unit,
			    uint64_t guest_off, struct q2_runs *r)
{
	uint64_t off = entry & Q2_ENTRY_OFFSET;
	uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
	bool has_cluster = off || (g->data_file && (entry & Q2_ENTRY_COPIED));
	enum q2_bad why;
	int rc = 0;
	unsigned i;

	if (entry & Q2_ENTRY_COMPRESSED)
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

static enum q2_run_kind bad(struct q2_entry *e, uint64_t entry, enum q2_bad why)
{
	e->host_off = entry;
	e->len = why;
	return Q2_RUN_BAD;
}

static enum q2_run_kind kind_standard(const struct q2_geometry *g, uint64_t entry, struct q2_entry *e)
{
	if (entry & Q2_ENTRY_ZERO && !g->v3)
		return bad(e, entry, Q2_BAD_ZERO_V2);
	if (e->host_off & ((UINT64_C(1) << g->cluster_bits) - 1))
		return bad(e, entry, Q2_BAD_MISALIGNED);
	e->stored = entry & Q2_ENTRY_ZERO || !e->host_off ? 0 : UINT32_MAX;
	return e->stored ? Q2_RUN_DATA : entry & Q2_ENTRY_ZERO ? Q2_RUN_ZERO : Q2_RUN_UNALLOCATED;
}

static enum q2_run_kind kind_extended(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap, struct q2_entry *e)
{
	uint32_t zero = (uint32_t)(bitmap >> 32);

	e->stored = (uint32_t)bitmap;
	if ((e->stored & zero) || (e->stored && !e->host_off))
		return bad(e, entry, Q2_BAD_SUBCLUSTERS);
	if (e->host_off & ((UINT64_C(1) << g->cluster_bits) - 1))
		return bad(e, entry, Q2_BAD_MISALIGNED);
	return e->stored ? Q2_RUN_DATA : zero ? Q2_RUN_ZERO : Q2_RUN_UNALLOCATED;
}

struct q2_entry q2_entry_decode(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap)
{
	struct q2_entry e = { .host_off = entry & Q2_ENTRY_OFFSET };

	if (entry & Q2_ENTRY_COMPRESSED) {
		e.kind = Q2_RUN_COMPRESSED;
		e.len = decode_stream(g, entry, &e.host_off);
	} else if (g->extended_l2) {
		e.kind = kind_extended(g, entry, bitmap, &e);
	} else {
		e.kind = kind_standard(g, entry, &e);
	}
	return e;
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
