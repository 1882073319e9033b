/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Two maps of bits, one bit for each cluster of the base: what is stored there, and what is written over it. A third has a bit for each of its
 * L2 tables, also for one that says of all its clusters that they are zeros: that one is used as well.
 *
 * Of a disk with more than MOST_BITS clusters a bit stands for several. Then all that is written is taken for growth.
 */
#include "vm/command/growth.h"

#include <errno.h>
#include <string.h>

#include "vm/util/mem.h"

#define TABLE_BYTES (16u << 20)
#define RAW_BITS 12 /* what file systems allocate */
#define MOST_BITS (UINT64_C(1) << 28)
#define SCAN_WORDS 65536u
#define WORDS_PER_UNIT 32u /* of work: some 20 ns */

/* ---------------------------------------------------------------- bits */

struct bits {
	uint64_t n;
	uint64_t *v;
};

static size_t words(uint64_t n)
{
	return n / 64 + 1;
}

static bool get(const struct bits *b, uint64_t i)
{
	return i < b->n && b->v[i / 64] >> (i % 64) & 1;
}

/* Of the word with bit @first, those from it on, but none behind @last. */
static uint64_t mask(uint64_t first, uint64_t last)
{
	uint64_t from = ~UINT64_C(0) << (first % 64);

	return first / 64 == last / 64 ? from & (~UINT64_C(0) >> (63 - last % 64)) : from;
}

static void set(struct bits *b, uint64_t first, uint64_t last)
{
	last = last < b->n ? last : b->n - 1;
	for (uint64_t i = first; i <= last; i = (i / 64 + 1) * 64)
		b->v[i / 64] |= mask(i, last);
}

static bool any(const struct bits *b, uint64_t first, uint64_t last)
{
	uint64_t found = 0;

	last = last < b->n ? last : b->n - 1;
	for (uint64_t i = first; i <= last && !found; i = (i / 64 + 1) * 64)
		found = b->v[i / 64] & mask(i, last);
	return found;
}

/* ---------------------------------------------------------------- the maps */

struct maps {
	const struct vm_context *cx;
	const struct vm_layer *base;
	struct q2_work *work;
	struct vs_err *err;
	unsigned bits;       /* of a bit's clusters, as a shift */
	bool rough;
	uint64_t span;       /* bytes of the disk that an L2 table of the base maps; 0: it has none */
	struct bits below, above, tables;
	size_t charged;
	uint64_t packed;     /* streams of compressed clusters that are written over. Each takes a new cluster then */
	bool zeros;          /* something is written where the base says zeros */
};

static int spend(struct maps *m, uint64_t n_words)
{
	struct q2_work *work = m->work;

	work->spent += n_words / WORDS_PER_UNIT;
	if (work->limit && work->spent >= work->limit)
		return vs_err_set(m->err, -EFBIG, "'%s' takes too long to be counted", m->base->path);
	return n_words >= SCAN_WORDS && work->stop && work->stop(work->opaque) ? -EINTR : 0;
}

static int bits_init(struct maps *m, struct bits *b, uint64_t n)
{
	size_t bytes = words(n) * sizeof(*b->v);

	if (!q2_usage_charge(bytes))
		return vs_err_set(m->err, -ENOBUFS, "'%s' cannot be counted: what others hold leaves too little memory", m->base->path);
	m->charged += bytes;
	b->n = n;
	b->v = xcalloc(words(n), sizeof(*b->v));
	return 0;
}

static int maps_init(struct maps *m, uint64_t size)
{
	int r;

	m->bits = m->base->format == Q2_FORMAT_QCOW2 ? m->base->cluster_bits : RAW_BITS;
	for (; size >> m->bits >= MOST_BITS; m->bits++)
		m->rough = true;
	r = bits_init(m, &m->below, (size >> m->bits) + 1);
	return r < 0 ? r : bits_init(m, &m->above, (size >> m->bits) + 1);
}

static void maps_fini(struct maps *m)
{
	free(m->below.v);
	free(m->above.v);
	free(m->tables.v);
	q2_usage_uncharge(m->charged);
}

/* ---------------------------------------------------------------- walks */

struct walk {
	struct maps *maps;
	bool is_base;
	uint64_t bytes; /* of a layer: that a merge writes */
	uint64_t data;  /* of that not zeros */
};

static void note_above(struct walk *w, const struct q2_extent *e, uint64_t first, uint64_t last)
{
	if (e->kind == Q2_ZERO && e->unallocated)
		return;
	w->bytes += e->len; /* a merge writes zeros, too */
	w->data += e->kind == Q2_ZERO ? 0 : e->len;
	set(&w->maps->above, first, last);
}

static void note_below(struct walk *w, const struct q2_extent *e, uint64_t first, uint64_t last)
{
	struct maps *m = w->maps;

	if (m->span && e->has_table)
		set(&m->tables, e->guest_off / m->span, (e->guest_off + e->len - 1) / m->span);
	if (e->kind == Q2_COMPRESSED)
		m->packed += any(&m->above, first, last) ? e->max_len : 0;
	else if (e->kind == Q2_DATA)
		set(&m->below, first, last);
	else if (!e->unallocated)
		m->zeros |= any(&m->above, first, last);
}

static int walk_view(struct walk *w, struct q2_view *view)
{
	struct maps *m = w->maps;
	uint64_t off = 0, size = q2_view_size(view);
	struct q2_extent e;
	int r = 0;

	for (; r == 0 && off < size; off = e.guest_off + e.len) {
		uint64_t first, last;

		r = q2_view_extent(view, off, size - off, m->work, &e, m->err);
		if (r < 0)
			return r;
		first = e.guest_off >> m->bits;
		last = (e.guest_off + e.len - 1) >> m->bits;
		if (w->is_base)
			note_below(w, &e, first, last);
		else
			note_above(w, &e, first, last);
		r = spend(m, (last - first) / 64);
	}
	return r;
}

/* A raw file grows where it has holes, of which no map tells. */
static int walk_raw(struct walk *w, struct q2_view *view)
{
	struct maps *m = w->maps;
	int64_t off = 0, end;
	int r = 0;

	while (r == 0) {
		off = q2_view_seek(view, (uint64_t)off, SEEK_DATA, m->work, m->err);
		if (off < 0)
			return off == -ENXIO ? 0 : (int)off;
		end = q2_view_seek(view, (uint64_t)off, SEEK_HOLE, m->work, m->err);
		if (end < 0)
			return (int)end;
		set(&m->below, (uint64_t)off >> m->bits, ((uint64_t)end - 1) >> m->bits);
		r = spend(m, (uint64_t)(end - off) >> m->bits >> 6);
		off = end;
	}
	return r;
}

/* One layer, without what it stands on. */
static int walk_layer(struct walk *w, const struct vm_layer *l)
{
	struct maps *m = w->maps;
	struct q2_view_spec spec = { .path = l->path, .format = l->format, .gate = m->cx->d->gate, .alone = true, .work = m->work };
	struct q2_cache *cache = q2_cache_new(TABLE_BYTES, 0);
	struct q2_view *view;
	int r = cache ? q2_view_open(cache, &spec, &view, m->err) : -ENOMEM;

	if (r == 0 && w->is_base && (m->span = q2_view_table_span(view)) > 0)
		r = bits_init(m, &m->tables, (m->above.n << m->bits) / m->span + 1);
	if (r == 0) {
		r = w->is_base && l->format == Q2_FORMAT_RAW ? walk_raw(w, view) : walk_view(w, view);
		q2_view_close(view);
	}
	if (cache)
		q2_cache_free(cache);
	return r;
}

/* ---------------------------------------------------------------- the sum */

/* Tables that are not there for the bits of word @i, but for those up to *next. */
static uint64_t new_tables(const struct maps *m, uint64_t i, uint64_t *next)
{
	uint64_t n = 0, first, last;

	if (!m->span)
		return 0;
	first = (i * 64 << m->bits) / m->span;
	last = (((i + 1) * 64 << m->bits) - 1) / m->span;
	for (uint64_t t = first > *next ? first : *next; t <= last; t++)
		n += !get(&m->tables, t);
	*next = last + 1;
	return n;
}

static int add_up(struct maps *m, struct vm_growth *out)
{
	uint64_t both = 0, fresh = 0, tables = 0, next = 0;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < words(m->above.n); i++) {
		uint64_t a = m->above.v[i], b = m->below.v[i];

		if (a) {
			both += (uint64_t)__builtin_popcountll(a & b);
			fresh += (uint64_t)__builtin_popcountll(m->rough ? a : a & ~b);
			tables += new_tables(m, i, &next);
		}
		if (i % SCAN_WORDS == SCAN_WORDS - 1)
			r = spend(m, SCAN_WORDS);
	}
	out->over = (both << m->bits) + m->packed;
	out->growth = (fresh << m->bits) + (tables << m->base->cluster_bits);
	out->at_most |= m->rough || m->packed || m->zeros;
	return r;
}

static int count(struct maps *m, const int *gone, size_t n, struct vm_growth *out)
{
	struct walk base = { .maps = m, .is_base = true };
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++) {
		const struct vm_layer *l = &m->cx->d->layers[gone[i]];
		struct walk top = { .maps = m };
		uint64_t allocated = l->stamp.block ? 0 : vm_context_allocated(m->cx, gone[i]);

		r = walk_layer(&top, l);
		out->gone += allocated;
		out->moved += top.bytes + (allocated > top.data ? allocated - top.data : 0); /* and tables, as vm_check_cost() */
		out->at_most |= top.bytes > top.data;
	}
	if (r == 0)
		r = walk_layer(&base, m->base);
	return r < 0 ? r : add_up(m, out);
}

int vm_growth_count(const struct vm_context *cx, int base, const int *gone, size_t n, struct q2_work *work, struct vm_growth *out,
		    struct vs_err *err)
{
	struct maps m = { .cx = cx, .base = &cx->d->layers[base], .work = work, .err = err };
	struct vm_growth sum = { .gone = 0 };
	uint64_t size = m.base->virtual_size;
	int r;

	for (size_t i = 0; i < n; i++)
		if (cx->d->layers[gone[i]].virtual_size > size)
			size = cx->d->layers[gone[i]].virtual_size;
	r = maps_init(&m, size);
	if (r == 0)
		r = count(&m, gone, n, &sum);
	maps_fini(&m);
	if (r == 0)
		*out = sum;
	return r;
}
