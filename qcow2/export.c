/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Any bytes of the file, in any order: a request is cut where the parts of the layout meet (export.h), and each part knows how to
 * make its bytes. L2 tables, refcounts of streams and the order of the data need their slice spelled out, which costs a walk through that
 * slice's map; the last few are kept, so that who reads on does it once for the table and once for the data.
 *
 * A stream's room may be larger than the stream (the format counts sectors), and what lies behind its end in the source belongs to
 * somebody else, who may change it: here it is zeros. For that a stream is decoded when it is read, and one that cannot be decoded is an error
 * here and not in the file.
 */
#include "export.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "view.h"
#include "work.h"

int q2_export_new(const struct q2_export_spec *spec, struct q2_export **out, struct vs_err *err)
{
	struct q2_export *x = calloc(1, sizeof(*x));
	int rc;

	if (!x)
		return -ENOMEM;
	pthread_mutex_init(&x->lock, NULL);
	rc = q2_export_lay_out(x, spec, err);
	if (rc) {
		q2_export_free(x);
		return rc;
	}
	*out = x;
	return 0;
}

void q2_export_free(struct q2_export *x)
{
	size_t i;

	if (!x)
		return;
	for (i = 0; i < Q2_EXPORT_RECENT; i++)
		q2_detail_free(x->recent[i]);
	q2_export_uncharge(x->charged);
	free(x->slices);
	free(x->head);
	pthread_mutex_destroy(&x->lock);
	free(x);
}

uint64_t q2_export_size(const struct q2_export *x)
{
	return x->end << x->bits;
}

uint64_t q2_export_layout(const struct q2_export *x)
{
	return x->layout;
}

/* ---------------------------------------------------------------- slices that are spelled out */

struct read {
	struct q2_export *x;
	struct q2_view *view, *before;
	struct q2_work *work;
	struct vs_err *err;
};

/* The one at @i to the front. */
static void use_locked(struct q2_export *x, size_t i)
{
	struct q2_detail *d = x->recent[i];

	memmove(x->recent + 1, x->recent, i * sizeof(d));
	x->recent[0] = d;
}

static void unref_locked(struct q2_detail *d)
{
	if (d && !--d->refs)
		q2_detail_free(d);
}

static struct q2_detail *find_recent(struct q2_export *x, size_t slice)
{
	struct q2_detail *d = NULL;
	size_t i;

	pthread_mutex_lock(&x->lock);
	for (i = 0; i < Q2_EXPORT_RECENT && !d; i++) {
		if (!x->recent[i] || x->recent[i]->slice != slice)
			continue;
		d = x->recent[i];
		d->refs++;
		use_locked(x, i);
	}
	pthread_mutex_unlock(&x->lock);
	return d;
}

/* Bytes of it, or somewhat more. */
static size_t detail_bytes(const struct q2_export *x, const struct q2_detail *d)
{
	const struct q2_slice *s = &x->slices[d->slice];

	return q2_export_per_slice(x) * sizeof(*d->entries) + s->n_stored * sizeof(*d->stored) + d->room * sizeof(*d->streams) +
	       s->n_packed * sizeof(*d->packed_refs) + sizeof(*d);
}

/* If there is room for it among all that is kept. */
static void keep_recent(struct q2_export *x, struct q2_detail *d)
{
	size_t bytes = detail_bytes(x, d);

	if (!q2_export_charge(bytes, true))
		return;
	d->charged = bytes;
	pthread_mutex_lock(&x->lock);
	unref_locked(x->recent[Q2_EXPORT_RECENT - 1]);
	x->recent[Q2_EXPORT_RECENT - 1] = d;
	d->refs++;
	use_locked(x, Q2_EXPORT_RECENT - 1);
	pthread_mutex_unlock(&x->lock);
}

static int detail_get(const struct read *r, size_t slice, struct q2_detail **out)
{
	struct q2_export *x = r->x;
	struct q2_detail *d = find_recent(x, slice);
	int rc;

	if (!d) {
		rc = q2_export_spell(x, slice, r->view, r->before, r->work, &d, r->err);
		if (rc)
			return rc;
		keep_recent(x, d);
	}
	*out = d;
	return 0;
}

static void detail_put(const struct read *r, struct q2_detail *d)
{
	pthread_mutex_lock(&r->x->lock);
	unref_locked(d);
	pthread_mutex_unlock(&r->x->lock);
}

/* The slice that has the host cluster of data; there is one. */
static size_t slice_of(const struct q2_export *x, uint64_t host)
{
	size_t low = 0, high = x->n_slices, mid;

	while (high - low > 1) {
		mid = low + (high - low) / 2;
		if (x->slices[mid].first <= host)
			low = mid;
		else
			high = mid;
	}
	/* those that have only zeros to tell have no cluster, and begin where the next one does: the last of them is meant */
	return low;
}

/* ---------------------------------------------------------------- tables */

void q2_export_numbers(uint8_t *buf, size_t len, uint64_t into, unsigned width, q2_number_at *value, const void *opaque)
{
	uint8_t number[8];
	size_t n;

	while (len) {
		uint64_t idx = into / width, skip = into % width;

		if (width == 8)
			q2_put64(number, value(opaque, idx));
		else if (width == 4)
			q2_put32(number, (uint32_t)value(opaque, idx));
		else
			q2_put16(number, (uint16_t)value(opaque, idx));
		n = width - skip < len ? (size_t)(width - skip) : len;
		memcpy(buf, number + skip, n);
		buf += n;
		into += n;
		len -= n;
	}
}

static uint64_t reftable_entry(const void *opaque, uint64_t idx)
{
	const struct q2_export *x = opaque;

	return x->rb_first + idx < x->l1_first ? (x->rb_first + idx) << x->bits : 0;
}

static uint64_t l1_entry(const void *opaque, uint64_t idx)
{
	const struct q2_export *x = opaque;
	size_t low = 0, high = x->n_slices, mid;

	while (low < high) {
		mid = low + (high - low) / 2;
		if (x->slices[mid].idx < idx)
			low = mid + 1;
		else
			high = mid;
	}
	return low < x->n_slices && x->slices[low].idx == idx ? (x->l2_first + low) << x->bits | Q2_ENTRY_COPIED : 0;
}

static uint64_t l2_entry(const void *opaque, uint64_t idx)
{
	return ((const uint64_t *)opaque)[idx];
}

static int fill_l2(const struct read *r, uint8_t *buf, size_t len, uint64_t host, uint64_t into)
{
	struct q2_detail *d;
	int rc = detail_get(r, host - r->x->l2_first, &d);

	if (rc)
		return rc;
	q2_export_numbers(buf, len, into, 8, l2_entry, d->entries);
	detail_put(r, d);
	return 0;
}

struct refcounts {
	const struct q2_export *x;
	uint64_t first, n;       /* host clusters of streams, */
	const uint16_t *streams; /* and how many each of them has */
};

static uint64_t refcount_of(const void *opaque, uint64_t host)
{
	const struct refcounts *c = opaque;

	if (host >= c->first && host - c->first < c->n)
		return c->streams[host - c->first];
	return host < c->x->end;
}

/* @off: of the first refcount block's first byte. Goes as far as the counts of one slice's streams, or of none. */
static int fill_refcounts(const struct read *r, uint8_t *buf, size_t *len, uint64_t off)
{
	struct q2_export *x = r->x;
	struct refcounts c = { .x = x };
	uint64_t host = off / 2, stop = (off + *len + 1) / 2;
	const struct q2_slice *s;
	struct q2_detail *d = NULL;
	size_t i = x->n_slices && host >= x->data_first && host < x->end ? slice_of(x, host) : 0;
	int rc;

	while (i < x->n_slices && x->slices[i].first < stop &&
	       (!x->slices[i].n_packed || x->slices[i].first + x->slices[i].n_stored + x->slices[i].n_packed <= host))
		i++;
	s = i < x->n_slices && x->slices[i].n_packed ? &x->slices[i] : NULL;
	if (s && s->first + s->n_stored < stop) {
		rc = detail_get(r, i, &d);
		if (rc)
			return rc;
		c.first = s->first + s->n_stored;
		c.n = s->n_packed;
		c.streams = d->packed_refs;
		if (stop > c.first + c.n && (c.first + c.n) * 2 > off)
			*len = (size_t)((c.first + c.n) * 2 - off);
	}
	q2_export_numbers(buf, *len, off, 2, refcount_of, &c);
	if (d)
		detail_put(r, d);
	return 0;
}

/* ---------------------------------------------------------------- data */

/* From the view, with zeros behind the disk's end. */
static int fill_guest(const struct read *r, uint8_t *buf, size_t len, uint64_t guest_off)
{
	ssize_t n = q2_view_read(r->view, buf, len, guest_off, r->work, r->err);

	if (n < 0)
		return (int)n;
	memset(buf + n, 0, len - (size_t)n);
	return 0;
}

/* Data that lies together in both, the file and the disk. */
static int fill_stored(const struct read *r, const struct q2_detail *d, uint8_t *buf, size_t *len, uint64_t host, uint64_t into)
{
	const struct q2_slice *s = &r->x->slices[d->slice];
	uint64_t nth = host - s->first, guest = d->stored[nth], cluster = UINT64_C(1) << r->x->bits, n = cluster - into;
	uint64_t guest_off = ((uint64_t)s->idx << q2_export_slice_shift(r->x)) + (guest << r->x->bits) + into;

	while (n < *len && nth + 1 < s->n_stored && d->stored[nth + 1] == d->stored[nth] + 1) {
		nth++;
		n += cluster;
	}
	if (n < *len)
		*len = (size_t)n;
	return fill_guest(r, buf, *len, guest_off);
}

/* Index of the last stream that begins at or before @at; the first one where there is none. */
static size_t stream_at(const struct q2_detail *d, uint64_t at)
{
	size_t low = 0, high = d->n_streams, mid;

	while (high - low > 1) {
		mid = low + (high - low) / 2;
		if (d->streams[mid].at <= at)
			low = mid;
		else
			high = mid;
	}
	return low;
}

static int fill_stream(const struct read *r, const struct q2_detail *d, const struct q2_stream *t, uint8_t *buf, size_t len, uint64_t at)
{
	const struct q2_slice *s = &r->x->slices[d->slice];
	uint64_t guest_off = ((uint64_t)s->idx << q2_export_slice_shift(r->x)) + ((uint64_t)t->guest << r->x->bits);
	uint64_t from = t->at > at ? t->at : at, to = t->at + t->len < at + len ? t->at + t->len : at + len;
	vs_autofree uint8_t *whole = NULL;
	ssize_t n;

	if (from >= to)
		return 0;
	if (to - from == t->len) {
		n = q2_view_stream(r->view, guest_off, buf + (from - at), t->len, r->work, r->err);
		return n < 0 ? (int)n : 0;
	}
	whole = malloc(t->len);
	if (!whole)
		return -ENOMEM;
	n = q2_view_stream(r->view, guest_off, whole, t->len, r->work, r->err);
	if (n < 0)
		return (int)n;
	memcpy(buf + (from - at), whole + (from - t->at), to - from);
	return 0;
}

static int fill_streams(const struct read *r, const struct q2_detail *d, uint8_t *buf, size_t *len, uint64_t host, uint64_t into)
{
	const struct q2_slice *s = &r->x->slices[d->slice];
	uint64_t at = ((host - s->first - s->n_stored) << r->x->bits) + into, end = (uint64_t)s->n_packed << r->x->bits;
	size_t i;
	int rc = 0;

	if (*len > end - at)
		*len = (size_t)(end - at);
	memset(buf, 0, *len);
	for (i = stream_at(d, at); i < d->n_streams && d->streams[i].at < at + *len && !rc; i++)
		rc = fill_stream(r, d, &d->streams[i], buf, *len, at);
	return rc;
}

static int fill_data(const struct read *r, uint8_t *buf, size_t *len, uint64_t host, uint64_t into)
{
	size_t slice = slice_of(r->x, host);
	struct q2_detail *d;
	int rc = detail_get(r, slice, &d);

	if (rc)
		return rc;
	if (host - r->x->slices[slice].first < r->x->slices[slice].n_stored)
		rc = fill_stored(r, d, buf, len, host, into);
	else
		rc = fill_streams(r, d, buf, len, host, into);
	detail_put(r, d);
	return rc;
}

/* ---------------------------------------------------------------- the whole file */

static void fill_head(const struct q2_export *x, uint8_t *buf, size_t len, uint64_t off)
{
	size_t n = off < x->head_len ? x->head_len - (size_t)off : 0;

	n = n < len ? n : len;
	if (n)
		memcpy(buf, x->head + off, n);
	memset(buf + n, 0, len - n);
}

/* Some of it, in *len how much; at most what was asked for. */
static int fill(const struct read *r, uint8_t *buf, size_t *len, uint64_t off)
{
	const struct q2_export *x = r->x;
	uint64_t host = off >> x->bits, into = off & ((UINT64_C(1) << x->bits) - 1), rest = (UINT64_C(1) << x->bits) - into;

	if (host >= x->data_first)
		return fill_data(r, buf, len, host, into);
	if (*len > rest)
		*len = (size_t)rest;
	if (host < x->rt_first)
		fill_head(x, buf, *len, off);
	else if (host < x->rb_first)
		q2_export_numbers(buf, *len, off - (x->rt_first << x->bits), 8, reftable_entry, x);
	else if (host < x->l1_first)
		return fill_refcounts(r, buf, len, off - (x->rb_first << x->bits));
	else if (host < x->l2_first)
		q2_export_numbers(buf, *len, off - (x->l1_first << x->bits), 8, l1_entry, x);
	else
		return fill_l2(r, buf, *len, host, into);
	return 0;
}

ssize_t q2_export_read(struct q2_export *x, struct q2_view *view, struct q2_view *before, void *buf, size_t len, uint64_t off,
		       struct q2_work *work, struct vs_err *err)
{
	struct read r = { .x = x, .view = view, .before = before, .work = work, .err = err };
	uint64_t size = q2_export_size(x);
	size_t done = 0, n;
	int rc = 0;

	if (off >= size)
		return 0;
	if (len > size - off)
		len = (size_t)(size - off);
	for (; done < len && !rc; done += n) {
		n = len - done;
		rc = fill(&r, (uint8_t *)buf + done, &n, off + done);
		assert(n > 0 && n <= len - done);
		if (!rc)
			rc = q2_work_spend(work, q2_work_read(n));
	}
	return rc ? rc : (ssize_t)done;
}

/* ---------------------------------------------------------------- changes */

#define PART (UINT64_C(1) << 30) /* of the disk, at a time: what is remembered of it is bounded by its clusters */

struct together {
	q2_changed_fn *each;
	void *opaque;
	uint64_t off, len; /* not told yet; len 0: nothing */
	bool zero;
};

static int tell_changes(struct together *t)
{
	int rc = t->len ? t->each(t->opaque, t->off, t->len, t->zero) : 0;

	t->len = 0;
	return rc;
}

static int join(void *opaque, const struct q2_change *c)
{
	struct together *t = opaque;
	int rc;

	if (!c->changed)
		return 0;
	if (t->len && t->off + t->len == c->guest_off && t->zero == c->zero) {
		t->len += c->len;
		return 0;
	}
	rc = tell_changes(t);
	t->off = c->guest_off;
	t->len = c->len;
	t->zero = c->zero;
	return rc;
}

int q2_view_changes(struct q2_view *view, struct q2_view *before, struct q2_work *work, q2_changed_fn *each, void *opaque,
		    struct vs_err *err)
{
	struct q2_changes changes = { .view = view, .before = before };
	struct together t = { .each = each, .opaque = opaque };
	uint64_t off, n;
	int rc = 0;

	for (off = 0; off < view->size && !rc; off += n) {
		n = view->size - off < PART ? view->size - off : PART;
		rc = q2_changes_walk(&changes, off, n, work, join, &t, err);
	}
	q2_changes_fini(&changes);
	return rc ? rc : tell_changes(&t);
}
