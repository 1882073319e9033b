/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * export.h: the layout of a made image, shared by who computes it (export-layout.c) and who reads it (export.c).
 *
 *	cluster 0              header, with the name of what it stands on
 *	rt_first..             refcount table
 *	rb_first..             refcount blocks, 16 bits a cluster
 *	l1_first..             L1 table
 *	l2_first..             L2 tables, one for each slice that has anything to say
 *	slices[0].first..      of each slice its clusters of data in the guest's order, then its compressed streams, one behind the other
 *
 * A slice is what one L2 table maps. All host places below count clusters, all guest places in a slice too.
 */
#ifndef Q2_EXPORT_H
#define Q2_EXPORT_H

#include <pthread.h>

#include "changes.h"
#include "header.h"

#define Q2_EXPORT_MOST (64u << 20) /* bytes that one layout may take */
#define Q2_EXPORT_RECENT 4     /* slices that are kept spelled out */

struct q2_slice {
	uint32_t idx;      /* its entry in the L1 table */
	uint32_t n_stored; /* clusters of data */
	uint32_t n_packed; /* host clusters of compressed streams */
	uint64_t first;    /* the first of them */
	uint64_t hash;     /* of what is where in it */
};

struct q2_export {
	/* immutable */
	unsigned bits;
	bool zstd, overlay;
	uint64_t size; /* of the virtual disk, bytes */
	uint32_t l1_entries;
	uint64_t rt_first, rb_first, l1_first, l2_first, data_first, end;
	struct q2_slice *slices;
	size_t n_slices, charged;
	uint64_t layout;
	uint8_t *head; /* from the file's beginning; zeros follow */
	size_t head_len;
	/* guarded by lock: most recently used first */
	pthread_mutex_t lock;
	struct q2_detail *recent[Q2_EXPORT_RECENT];
};

/* One slice, spelled out. */
struct q2_detail {
	unsigned refs; /* guarded by the export's lock */
	size_t slice;
	uint64_t *entries; /* the L2 table */
	uint32_t *stored;  /* which guest cluster is the n-th of data */
	struct q2_stream {
		uint64_t at; /* byte, from the slice's first stream on */
		uint32_t guest, len;
	} *streams;
	size_t n_streams, room; /* for how many there is room */
	size_t charged;
	uint16_t *packed_refs; /* of each host cluster of streams: how many it holds or touches */
};

static inline uint32_t q2_export_per_slice(const struct q2_export *x)
{
	return (uint32_t)1 << (x->bits - 3);
}

static inline unsigned q2_export_slice_shift(const struct q2_export *x)
{
	return x->bits + x->bits - 3;
}

/* Computes all that is immutable. @x: zeros. */
int q2_export_lay_out(struct q2_export *x, const struct q2_export_spec *spec, struct vs_err *err);

/* Spells out a slice, from the same maps or equal ones. Gives *out. -ESTALE: they are other ones. */
int q2_export_spell(const struct q2_export *x, size_t slice, struct q2_view *view, struct q2_view *before, struct q2_work *work,
		    struct q2_detail **out, struct vs_err *err);
void q2_detail_free(struct q2_detail *d);

/* ---------------------------------------------------------------- for every made image, copies (copy.h) too */

static inline uint64_t q2_clusters_for(unsigned bits, uint64_t bytes)
{
	return (bytes + (UINT64_C(1) << bits) - 1) >> bits;
}

/* A header of version 3. Places count clusters. */
struct q2_head {
	unsigned bits, order; /* of a cluster; of a refcount */
	bool zstd, extended_l2;
	uint64_t size;        /* of the virtual disk, bytes */
	uint32_t l1_entries, rt_clusters, n_snapshots;
	uint64_t l1_first, rt_first, snapshots_first;
	const char *backing;  /* NULL: none */
	enum q2_format backing_format;
};
/* Gives *out, *len bytes: the file's first ones; zeros follow. -ENAMETOOLONG: of the backing file, for a cluster. */
int q2_export_head(const struct q2_head *head, uint8_t **out, size_t *len, struct vs_err *err);

/* Bytes [into, into + len) of a row of big-endian numbers of @width bytes, 2, 4 or 8, each from @value. */
typedef uint64_t q2_number_at(const void *opaque, uint64_t idx);
void q2_export_numbers(uint8_t *buf, size_t len, uint64_t into, unsigned width, q2_number_at *value, const void *opaque);

/* Of what layouts may take, for the whole process: is there so much left? Then it is taken. */
bool q2_export_charge(size_t bytes, bool spare); /* @spare: it is of use, and nothing depends on it: of one half only */
void q2_export_uncharge(size_t bytes);

#endif
