/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * From the changes that a walk tells, byte by byte, to clusters of the made file:
 *
 *	nothing of it changed            no entry: what lies beneath, or zeros
 *	changed, and all of it zero      "reads as zeros" (an overlay only: else zero is no change)
 *	one whole compressed cluster     its stream, as it is
 *	anything else                    a cluster of data, from the view
 *
 * The layout keeps of each slice only how much there is of each, and a hash of what was where; which cluster is which is
 * found out again when somebody reads there. Both come from the same walk, one counts and one writes down, and what has another hash by then
 * is another layout, of which nothing is shown.
 *
 * Streams lie behind each other without a gap, byte by byte. Each has room for what the map says it takes at most, so that the place of
 * each follows from the map. At least a 4096th of a cluster, because a host cluster's refcount, which counts the streams in it, has 16 bits.
 */
#include "export.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "bytes.h"
#include "hash.h"
#include "map.h"
#include "view.h"

#define RAW_BITS 16
#define MOST_LAYOUTS (256u << 20)
#define NO_CHANGE UINT64_C(1) /* a slice's hash */

/* ---------------------------------------------------------------- memory */

static atomic_size_t charged;

bool q2_export_charge(size_t bytes, bool spare)
{
	bool fits = atomic_fetch_add(&charged, bytes) + bytes <= (spare ? MOST_LAYOUTS / 2 : MOST_LAYOUTS);

	if (!fits)
		atomic_fetch_sub(&charged, bytes);
	return fits;
}

void q2_export_uncharge(size_t bytes)
{
	atomic_fetch_sub(&charged, bytes);
}

/* ---------------------------------------------------------------- from bytes to clusters */

enum kind { ABSENT, ZERO, STORED, PACKED };

/* One slice in the making. */
struct sorting {
	const struct q2_export *x;
	uint64_t guest_off;      /* of the slice */
	uint64_t end;            /* of it, or of the disk */
	/* the cluster that is not complete yet */
	uint64_t filled;
	bool changed, data;
	/* the last run, which may go on: it is in the hash when it has ended */
	enum kind run;
	uint32_t run_first, run_n;
	/* so far */
	uint32_t n_stored;
	uint64_t streams_len;
	uint64_t hash;
	struct q2_detail *detail; /* NULL: only count */
};

static uint64_t stream_room(const struct q2_export *x, uint32_t len)
{
	uint64_t least = (UINT64_C(1) << x->bits) >> 12;

	return len > least ? len : least ? least : 1;
}

static uint64_t sectors_more(uint64_t at, uint32_t len)
{
	return ((at + len - 1) >> 9) - (at >> 9);
}

/* Where the next one begins, if the last one's room ends at @at. */
static uint64_t stream_place(const struct q2_export *x, uint64_t at, uint32_t len)
{
	return sectors_more(at, len) >> (x->bits - 8) ? (at + 511) & ~UINT64_C(511) : at;
}

static void end_run(struct sorting *s)
{
	if (s->run_n)
		s->hash = q2_mix(q2_mix(q2_mix(s->hash, s->run), s->run_first), s->run_n);
	s->run_n = 0;
}

/* However the map cuts it, what is the same has the same hash. */
static void hash_run(struct sorting *s, enum kind kind, uint32_t guest, uint32_t n, uint32_t len)
{
	if (kind != PACKED && s->run_n && s->run == kind && s->run_first + s->run_n == guest) {
		s->run_n += n;
		return;
	}
	end_run(s);
	if (kind == PACKED) {
		s->hash = q2_mix(q2_mix(q2_mix(s->hash, kind), guest), len);
		return;
	}
	s->run = kind;
	s->run_first = guest;
	s->run_n = n;
}

/* In a descriptor, where the number of sectors begins and the host offset ends. */
static unsigned stream_shift(const struct q2_export *x)
{
	return 62 - (x->bits - 8);
}

/* Runs of one kind, in the guest's order. -ESTALE: there is more than was counted. */
static int put(struct sorting *s, enum kind kind, uint32_t guest, uint32_t n, uint32_t len)
{
	struct q2_detail *d = s->detail;
	const struct q2_slice *slice = d ? &s->x->slices[d->slice] : NULL;
	uint64_t at = kind == PACKED ? stream_place(s->x, s->streams_len, len) : 0;
	uint32_t i;

	if (kind == ABSENT)
		return 0;
	hash_run(s, kind, guest, n, len);
	if (d && kind == STORED && s->n_stored + n > slice->n_stored)
		return -ESTALE;
	if (d && kind == PACKED && (d->n_streams == d->room || at + stream_room(s->x, len) > (uint64_t)slice->n_packed << s->x->bits))
		return -ESTALE;
	for (i = 0; d && kind == ZERO && i < n; i++)
		d->entries[guest + i] = Q2_ENTRY_ZERO;
	for (i = 0; d && kind == STORED && i < n; i++) {
		d->entries[guest + i] = (slice->first + s->n_stored + i) << s->x->bits | Q2_ENTRY_COPIED;
		d->stored[s->n_stored + i] = guest + i;
	}
	if (d && kind == PACKED)
		d->streams[d->n_streams++] = (struct q2_stream){ .at = at, .guest = guest, .len = len };
	if (kind == STORED)
		s->n_stored += n;
	if (kind == PACKED)
		s->streams_len = at + stream_room(s->x, len);
	return 0;
}

static uint32_t guest_cluster(const struct sorting *s, uint64_t off)
{
	return (uint32_t)((off - s->guest_off) >> s->x->bits);
}

static enum kind kind_of(bool changed, bool data)
{
	return !changed ? ABSENT : data ? STORED : ZERO;
}

/* Part of a cluster, or its rest. */
static int sort_part(struct sorting *s, const struct q2_change *c, uint64_t off, uint64_t len)
{
	uint64_t cluster = UINT64_C(1) << s->x->bits;
	int rc = 0;

	s->filled += len;
	s->changed |= c->changed;
	s->data |= !c->zero;
	if (!((off + len) & (cluster - 1)) || off + len == s->end) {
		if (c->changed && c->stream)
			rc = put(s, PACKED, guest_cluster(s, off), 1, c->stream);
		else
			rc = put(s, kind_of(s->changed, s->data), guest_cluster(s, off), 1, 0);
		s->filled = 0;
		s->changed = s->data = false;
	}
	return rc;
}

static int sort_change(void *opaque, const struct q2_change *c)
{
	struct sorting *s = opaque;
	uint64_t cluster = UINT64_C(1) << s->x->bits, off = c->guest_off, end = c->guest_off + c->len, n;
	int rc = 0;

	while (off < end && !rc) {
		if (!s->filled && !c->stream && end - off >= cluster) {
			n = (end - off) >> s->x->bits;
			rc = put(s, kind_of(c->changed, !c->zero), guest_cluster(s, off), (uint32_t)n, 0);
			off += n << s->x->bits;
			continue;
		}
		n = cluster - (off & (cluster - 1));
		n = n < end - off ? n : end - off;
		rc = sort_part(s, c, off, n);
		off += n;
	}
	return rc;
}

static int sort_slice(struct sorting *s, struct q2_changes *changes, uint32_t idx, struct q2_work *work, struct vs_err *err)
{
	int rc;

	s->guest_off = (uint64_t)idx << q2_export_slice_shift(s->x);
	s->end = s->guest_off + (UINT64_C(1) << q2_export_slice_shift(s->x));
	if (s->end > s->x->size)
		s->end = s->x->size;
	rc = q2_changes_walk(changes, s->guest_off, s->end - s->guest_off, work, sort_change, s, err);
	end_run(s);
	return rc;
}

/* ---------------------------------------------------------------- the layout */

static uint64_t clusters_for(const struct q2_export *x, uint64_t bytes)
{
	return q2_clusters_for(x->bits, bytes);
}

static int add_slice(struct q2_export *x, size_t *room, uint32_t idx, const struct sorting *s)
{
	size_t more = *room ? *room : 64;
	struct q2_slice *v;

	if (x->n_slices == *room) {
		if (x->charged + more * sizeof(*v) > Q2_EXPORT_MOST)
			return -EFBIG;
		if (!q2_export_charge(more * sizeof(*v), false))
			return -ENOBUFS;
		x->charged += more * sizeof(*v);
		v = realloc(x->slices, (*room + more) * sizeof(*v));
		if (!v)
			return -ENOMEM;
		x->slices = v;
		*room += more;
	}
	x->slices[x->n_slices++] = (struct q2_slice){
		.idx = idx, .n_stored = s->n_stored, .n_packed = (uint32_t)clusters_for(x, s->streams_len), .hash = s->hash };
	return 0;
}

static int count_slices(struct q2_export *x, struct q2_changes *changes, struct q2_work *work, struct vs_err *err)
{
	size_t room = 0;
	uint32_t idx;
	int rc = 0;

	for (idx = 0; idx < x->l1_entries && !rc; idx++) {
		struct sorting s = { .x = x, .hash = NO_CHANGE };

		rc = sort_slice(&s, changes, idx, work, err);
		if (rc || s.hash == NO_CHANGE)
			continue;
		x->layout = q2_mix(q2_mix(x->layout, idx), s.hash);
		rc = add_slice(x, &room, idx, &s);
		if (rc == -EFBIG || rc == -ENOBUFS)
			vs_err_set(err, rc, "the layout of an image of '%s' would take too much memory", q2_view_path(changes->view, 0));
	}
	return rc;
}

/* Everything has its place once the number of refcount blocks is known, which depends on itself. */
static int place(struct q2_export *x, struct vs_err *err)
{
	uint64_t data = 0, packed = 0, blocks = 0, table = 0, need, per_block = (UINT64_C(1) << x->bits) / 2;
	unsigned most_bits;
	size_t i;

	for (i = 0; i < x->n_slices; i++) {
		data += (uint64_t)x->slices[i].n_stored + x->slices[i].n_packed;
		packed += x->slices[i].n_packed;
	}
	x->rt_first = 1;
	for (;;) {
		x->rb_first = x->rt_first + table;
		x->l1_first = x->rb_first + blocks;
		x->l2_first = x->l1_first + clusters_for(x, (uint64_t)x->l1_entries * 8);
		x->data_first = x->l2_first + x->n_slices;
		x->end = x->data_first + data;
		need = (x->end + per_block - 1) / per_block;
		if (need <= blocks && clusters_for(x, blocks * 8) <= table)
			break;
		blocks = need;
		table = clusters_for(x, blocks * 8);
	}
	most_bits = packed ? stream_shift(x) : 55; /* of a host offset */
	if (table << x->bits > Q2_MAX_REFTABLE_BYTES || x->end > UINT64_C(1) << most_bits >> x->bits)
		return vs_err_set(err, -EFBIG, "QEMU would not open so large an image with clusters of %u bytes", 1u << x->bits);
	data = x->data_first;
	for (i = 0; i < x->n_slices; i++) {
		x->slices[i].first = data;
		data += (uint64_t)x->slices[i].n_stored + x->slices[i].n_packed;
	}
	return 0;
}

static int write_head(struct q2_export *x, const char *backing, struct vs_err *err)
{
	const struct q2_head head = {
		.bits = x->bits,
		.order = 4,
		.zstd = x->zstd,
		.size = x->size,
		.l1_entries = x->l1_entries,
		.l1_first = x->l1_first,
		.rt_first = x->rt_first,
		.rt_clusters = (uint32_t)(x->rb_first - x->rt_first),
		.backing = backing,
		.backing_format = Q2_FORMAT_RAW,
	};

	return q2_export_head(&head, &x->head, &x->head_len, err);
}

int q2_export_lay_out(struct q2_export *x, const struct q2_export_spec *spec, struct vs_err *err)
{
	const struct q2_map *map = spec->view->layers[0]->map;
	const struct q2_geometry *g = map ? q2_map_geometry(map) : NULL;
	struct q2_changes changes = { .view = spec->view, .before = spec->before };
	uint64_t entries;
	size_t i;
	int rc;

	x->bits = changes.bits = g ? g->cluster_bits : RAW_BITS;
	x->zstd = changes.zstd = g && g->zstd;
	x->overlay = spec->before != NULL;
	x->size = spec->view->size;
	entries = (x->size + (UINT64_C(1) << q2_export_slice_shift(x)) - 1) >> q2_export_slice_shift(x);
	if (entries * 8 > Q2_MAX_L1_BYTES)
		return vs_err_set(err, -EFBIG, "QEMU would not open an image of %u-byte clusters for so large a disk", 1u << x->bits);
	x->l1_entries = (uint32_t)entries;
	x->layout = q2_mix(q2_mix(q2_mix(1, x->bits), x->zstd), x->size);
	rc = count_slices(x, &changes, spec->work, err);
	q2_changes_fini(&changes);
	if (!rc)
		rc = place(x, err);
	if (!rc)
		rc = write_head(x, x->overlay ? spec->backing_name : NULL, err);
	if (rc)
		return rc;
	for (i = 0; i < x->head_len; i++)
		x->layout = q2_mix(x->layout, x->head[i]);
	if (!x->layout)
		x->layout = 1;
	return 0;
}

/* ---------------------------------------------------------------- one slice, spelled out */

void q2_detail_free(struct q2_detail *d)
{
	if (!d)
		return;
	q2_export_uncharge(d->charged);
	free(d->entries);
	free(d->stored);
	free(d->streams);
	free(d->packed_refs);
	free(d);
}

static struct q2_detail *detail_new(const struct q2_export *x, size_t slice)
{
	const struct q2_slice *s = &x->slices[slice];
	size_t per_slice = q2_export_per_slice(x), n_streams = s->n_packed ? per_slice - s->n_stored : 0;
	struct q2_detail *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->slice = slice;
	d->refs = 1;
	d->room = n_streams;
	d->entries = calloc(per_slice, sizeof(*d->entries));
	d->stored = calloc(s->n_stored + 1, sizeof(*d->stored));
	d->streams = calloc(n_streams + 1, sizeof(*d->streams));
	d->packed_refs = calloc(s->n_packed + 1, sizeof(*d->packed_refs));
	if (!d->entries || !d->stored || !d->streams || !d->packed_refs) {
		q2_detail_free(d);
		return NULL;
	}
	return d;
}

/* A descriptor counts 512-byte sectors beyond the first, and so does QEMU's refcount: whole sectors, which lie in whole clusters. */
static void describe_streams(const struct q2_export *x, struct q2_detail *d)
{
	const struct q2_slice *s = &x->slices[d->slice];
	uint64_t base = (s->first + s->n_stored) << x->bits;
	size_t i;

	for (i = 0; i < d->n_streams; i++) {
		const struct q2_stream *t = &d->streams[i];
		uint64_t host = base + t->at;
		uint64_t from = t->at >> x->bits, to = (t->at + t->len - 1) >> x->bits;

		d->entries[t->guest] = Q2_ENTRY_COMPRESSED | sectors_more(host, t->len) << stream_shift(x) | host;
		for (; from <= to; from++)
			d->packed_refs[from]++;
	}
}

int q2_export_spell(const struct q2_export *x, size_t slice, struct q2_view *view, struct q2_view *before, struct q2_work *work,
		    struct q2_detail **out, struct vs_err *err)
{
	struct q2_changes changes = { .view = view, .before = before, .bits = x->bits, .zstd = x->zstd };
	struct q2_detail *d = detail_new(x, slice);
	struct sorting s = { .x = x, .detail = d, .hash = NO_CHANGE };
	int rc = d ? sort_slice(&s, &changes, x->slices[slice].idx, work, err) : -ENOMEM;

	q2_changes_fini(&changes);
	if (!rc && s.hash != x->slices[slice].hash)
		rc = -ESTALE;
	if (rc) {
		q2_detail_free(d);
		return rc == -ESTALE ? vs_err_set(err, rc, "the map of '%s' is another one by now", q2_view_path(view, 0)) : rc;
	}
	describe_streams(x, d);
	*out = d;
	return 0;
}
