/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What lies at the same place of the same file is the same for both views, because both are of moments that do not change: while
 * a snapshot refers to a cluster nobody writes there, and a frozen image is not written at all. What lies elsewhere may hold equal bytes,
 * and counts as changed: no data is read to find out.
 */
#include "changes.h"

#include <errno.h>
#include <string.h>

#include "map.h"
#include "view.h"
#include "work.h"

/* An extent, by what tells it apart. */
struct q2_part {
	uint64_t off, len;
	enum q2_kind kind;
	uint64_t dev, ino, host_off; /* of data: of `off`; of a compressed cluster: of its stream */
	uint32_t max_len;
	bool whole;                  /* a compressed cluster as it is wanted */
};

/* A window of the disk is as wide as so many parts of either view: more than a cluster of 2 MiB can have of 512 bytes each. */
#define MOST_PARTS 8192

struct collect {
	const struct q2_changes *c;
	struct q2_parts *to;
	uint64_t size;
};

static struct q2_part *add(struct q2_parts *p)
{
	if (!p->v)
		p->v = malloc(MOST_PARTS * sizeof(*p->v));
	return p->v ? &p->v[p->n++] : NULL;
}

/* The last cluster of a disk may be a part of one; what its stream has behind the disk's end was never part of it, unless its own image is
 * larger. */
static bool is_whole(const struct collect *to, const struct q2_found *found)
{
	uint64_t cluster = UINT64_C(1) << to->c->bits, left = to->size - found->x.guest_off;
	const struct q2_geometry *g;

	if (found->x.kind != Q2_COMPRESSED)
		return false;
	g = q2_map_geometry(found->layer->map);
	return g->cluster_bits == to->c->bits && g->zstd == to->c->zstd && !(found->x.guest_off & (cluster - 1)) &&
	       (found->x.len == cluster || (found->x.len == left && found->layer->size == to->size));
}

static const struct q2_stamp *stamp_of(const struct q2_found *found)
{
	return found->x.file == found->layer->data_file ? &found->layer->data_stamp : &found->layer->stamp;
}

/* However the file system has cut it, data of one file that lies together is one part. */
static bool goes_on(const struct q2_part *last, const struct q2_found *found)
{
	const struct q2_stamp *stamp = stamp_of(found);

	return last->kind == Q2_DATA && last->dev == stamp->dev && last->ino == stamp->ino && last->host_off + last->len == found->x.host_off;
}

static int collect_one(void *opaque, const struct q2_found *found)
{
	struct collect *to = opaque;
	struct q2_part *p, *last = to->to->n ? &to->to->v[to->to->n - 1] : NULL;

	if (found->x.kind == Q2_ZERO && last && last->kind == Q2_ZERO) {
		last->len += found->x.len;
		return 0;
	}
	if (found->x.kind == Q2_DATA && last && goes_on(last, found)) {
		last->len += found->x.len;
		return 0;
	}
	if (to->to->n == MOST_PARTS)
		return 1;
	p = add(to->to);
	if (!p)
		return -ENOMEM;
	*p = (struct q2_part){ .off = found->x.guest_off, .len = found->x.len, .kind = found->x.kind };
	if (found->x.kind == Q2_ZERO)
		return 0;
	p->dev = stamp_of(found)->dev;
	p->ino = stamp_of(found)->ino;
	p->host_off = found->x.host_off;
	p->max_len = found->x.max_len;
	p->whole = is_whole(to, found);
	return 0;
}

/* As far as the parts go: up to *end, which comes nearer. */
static int collect(struct q2_changes *c, struct q2_view *v, struct q2_parts *parts, uint64_t off, uint64_t *end, struct q2_work *work,
		   struct vs_err *err)
{
	struct collect to = { .c = c, .to = parts, .size = v->size };
	const struct q2_part *last;
	int rc;

	parts->n = 0;
	if (off >= v->size)
		return 0;
	rc = q2_view_walk(v, off, (*end < v->size ? *end : v->size) - off, work, collect_one, &to, err);
	if (rc != 1)
		return rc;
	last = &parts->v[parts->n - 1];
	if (last->off + last->len < *end)
		*end = last->off + last->len;
	return 0;
}

/* Both at @off, which lies in both. */
static bool is_same(const struct q2_part *a, const struct q2_part *b, uint64_t off)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == Q2_ZERO)
		return true;
	if (a->dev != b->dev || a->ino != b->ino)
		return false;
	if (a->kind == Q2_COMPRESSED) /* the stream of one guest cluster; both stand at the same place within it */
		return a->host_off == b->host_off && a->max_len == b->max_len;
	return a->host_off + (off - a->off) == b->host_off + (off - b->off);
}

static int tell(const struct q2_part *p, uint64_t off, uint64_t len, bool changed, q2_change_fn *each, void *opaque)
{
	struct q2_change change = { .guest_off = off, .len = len, .changed = changed, .zero = p->kind == Q2_ZERO };

	if (p->whole && off == p->off && len == p->len)
		change.stream = p->max_len;
	return each(opaque, &change);
}

/* What @b is at @off against the view before, up to *to. @k: where that is, so far. Where it has come to its end it goes on as zeros. */
static bool is_changed(const struct q2_changes *c, const struct q2_part *b, size_t *k, uint64_t off, uint64_t *to)
{
	const struct q2_part *a;

	while (*k < c->was.n && c->was.v[*k].off + c->was.v[*k].len <= off)
		++*k;
	a = *k < c->was.n ? &c->was.v[*k] : NULL;
	if (a && a->off + a->len < *to)
		*to = a->off + a->len;
	return a ? !is_same(a, b, off) : b->kind != Q2_ZERO;
}

/* A compressed cluster is told as a whole, however what was there before is cut. */
static int compare_whole(struct q2_changes *c, const struct q2_part *b, size_t *k, q2_change_fn *each, void *opaque)
{
	uint64_t off, to, end = b->off + b->len;
	bool changed = false;

	for (off = b->off; off < end; off = to) {
		to = end;
		changed |= is_changed(c, b, k, off, &to);
	}
	return tell(b, b->off, b->len, changed, each, opaque);
}

/* Up to @end. */
static int compare(struct q2_changes *c, uint64_t end, q2_change_fn *each, void *opaque)
{
	const struct q2_part *b;
	size_t i, k = 0;
	int rc = 0;

	for (i = 0; i < c->now.n && c->now.v[i].off < end && !rc; i++) {
		uint64_t off, stop, to;

		b = &c->now.v[i];
		stop = b->off + b->len < end ? b->off + b->len : end;
		if (b->whole && stop == b->off + b->len) {
			rc = compare_whole(c, b, &k, each, opaque);
			continue;
		}
		for (off = b->off; off < stop && !rc; off = to) {
			bool changed;

			to = stop;
			changed = is_changed(c, b, &k, off, &to);
			rc = tell(b, off, to - off, changed, each, opaque);
		}
	}
	return rc;
}

/* A window does not end within a compressed cluster, which is told as a whole. One cluster has no more parts than a window. */
static uint64_t window_end(const struct q2_changes *c, uint64_t off, uint64_t end)
{
	size_t i;

	for (i = 0; i < c->now.n && c->now.v[i].off < end; i++)
		if (c->now.v[i].whole && c->now.v[i].off > off && c->now.v[i].off + c->now.v[i].len > end)
			return c->now.v[i].off;
	return end;
}

int q2_changes_walk(struct q2_changes *c, uint64_t guest_off, uint64_t len, struct q2_work *work, q2_change_fn *each, void *opaque,
		    struct vs_err *err)
{
	uint64_t off, end, stop = guest_off + len;
	int rc = 0;

	for (off = guest_off; off < stop && !rc; off = end) {
		end = stop;
		rc = collect(c, c->view, &c->now, off, &end, work, err);
		c->was.n = 0;
		if (!rc && c->before)
			rc = collect(c, c->before, &c->was, off, &end, work, err);
		if (rc)
			break;
		end = window_end(c, off, end);
		rc = compare(c, end, each, opaque);
		if (!rc && q2_work_done(work))
			rc = vs_err_set(err, -EFBIG, "the map of '%s' is too much to be walked through", q2_view_path(c->view, 0));
	}
	return rc;
}

void q2_changes_fini(struct q2_changes *c)
{
	free(c->now.v);
	free(c->was.v);
	memset(&c->now, 0, sizeof(c->now));
	memset(&c->was, 0, sizeof(c->was));
}
