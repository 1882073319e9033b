/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * entry.h: L1 and L2 entries, as pure functions over bytes.
 *
 * An L2 table is compiled once into runs: neighbours of one kind (and, for data, contiguous in the file) become one
 * 16-byte run, found by binary search. The unit of a table is a cluster, or a subcluster (1/32 of one) with extended L2.
 *
 * Standard L2 entry: bit 63 copied (ignored: the one bit that may change while a snapshot exists), 62 compressed,
 * 9..55 host offset, 0 reads as zeros (v3). Compressed: x = 62 - (cluster_bits - 8); bits 0..x-1 byte offset, x..61
 * further 512-byte sectors. Extended L2: 16 bytes, descriptor and bitmap (0..31 allocated, 32..63 zero).
 */
#ifndef Q2_ENTRY_H
#define Q2_ENTRY_H

#include "base.h"

#define Q2_ENTRY_OFFSET     UINT64_C(0x00fffffffffffe00)
#define Q2_ENTRY_COPIED     (UINT64_C(1) << 63)
#define Q2_ENTRY_COMPRESSED (UINT64_C(1) << 62)
#define Q2_ENTRY_ZERO       UINT64_C(1)

enum q2_run_kind {
	Q2_RUN_UNALLOCATED, /* ask the layer below */
	Q2_RUN_ZERO,
	Q2_RUN_DATA,
	Q2_RUN_COMPRESSED, /* exactly one cluster */
	Q2_RUN_BAD,        /* exactly one cluster whose entry breaks a rule; max_len says which */
};

enum q2_bad {
	Q2_BAD_MISALIGNED,
	Q2_BAD_ZERO_V2,
	Q2_BAD_SUBCLUSTERS,
	Q2_BAD_COMPRESSED_DATA_FILE,
	Q2_BAD_DATA_FILE_OFFSET,
};
const char *q2_bad_text(enum q2_bad bad);

/* What decides the meaning of an entry; immutable while an image lives. */
struct q2_geometry {
	unsigned cluster_bits; /* 9..21 */
	bool v3, extended_l2, data_file, zstd;
};

struct q2_run {
	uint64_t host_off; /* data, compressed: where; bad: the raw entry */
	uint32_t first;    /* unit within the table */
	uint32_t kind : 4, max_len : 28; /* compressed: upper bound of the stream's bytes; bad: enum q2_bad */
};

struct q2_runs {
	struct q2_run *v;
	size_t n, room;
};

static inline unsigned q2_l2_bits(const struct q2_geometry *g)
{
	return g->cluster_bits - (g->extended_l2 ? 4 : 3);
}

static inline unsigned q2_unit_bits(const struct q2_geometry *g)
{
	return g->cluster_bits - (g->extended_l2 ? 5 : 0);
}

/* Bytes of guest disk that one L1 entry covers, as a shift; <= 42. */
static inline unsigned q2_l1_shift(const struct q2_geometry *g)
{
	return g->cluster_bits + q2_l2_bits(g);
}

/* The L2 table an L1 entry points at; 0 = none. *aligned: is it at a cluster boundary? */
uint64_t q2_l1_decode(const struct q2_geometry *g, uint64_t l1_entry, bool *aligned);

/* The host bytes that an L2 entry holds a count of, whether anything is read from them or not; *len 0: none. What lies in an external data
 * file has no counts. */
void q2_l2_refers(const struct q2_geometry *g, uint64_t entry, uint64_t *host_off, uint64_t *len);

/*
 * Appends the runs of @n_entries L2 entries at @buf, the first of which is entry @first of a table that covers the
 * guest from @guest_off on. -ENOMEM, else 0. Initialise @runs with zeros, free runs->v.
 */
int q2_l2_compile(const struct q2_geometry *g, const uint8_t *buf, uint32_t first, uint32_t n_entries, uint64_t guest_off,
		  struct q2_runs *runs);

/* One entry by itself: what it says of its cluster, and what it keeps in use of the file. @bitmap: 0 without extended L2. Of images without an
 * external data file. */
struct q2_entry {
	enum q2_run_kind kind; /* data: some or all of it is; zero: some of it may be unallocated */
	uint64_t host_off;     /* data: of the cluster; compressed: of the stream; bad: the raw entry */
	uint32_t len;          /* compressed: upper bound of the stream's bytes; bad: enum q2_bad */
	uint32_t stored;       /* data: which subclusters are; without extended L2 all */
};
struct q2_entry q2_entry_decode(const struct q2_geometry *g, uint64_t entry, uint64_t bitmap);

/* Index of the run that holds @unit; runs->n > 0 and runs->v[0].first <= unit. */
size_t q2_runs_find(const struct q2_run *v, size_t n, uint32_t unit);

#endif
