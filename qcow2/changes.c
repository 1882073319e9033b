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

/* An extent, by what tells it apart. */
struct q2_part {
	uint64_t off, len;
	enum q2_kind kind;
	uint64_t dev, ino, host_off; /* of data: of `off`; of a compressed cluster: of its stream */
	uint32_t max_len;
	bool whole;                  /* a compressed cluster as it is wanted */
};

struct collect {
	const struct q2_changes *c;
	struct q2_parts *to;
	uint64_t size;
};

static struct q2_part *add(struct q2_parts *p)
{
	struct q2_part *v;

	if (p->n == p->room) {
		v = realloc(p->v, (p->room * 2 + 64) * sizeof(*v));
		if (!v)
			return NULL;
		p->v = v;
		p->room = p->room * 2 + 64;
	}
	return &p->v[p->n++];
}

static bool is_whole(const struct collect *to, const struct q2_found *found)
{
	uint64_t cluster = UINT64_C(1) << to->c->bits, left = to->size - found->x.guest_off;
	const struct q2_geometry *g;

	if (found->x.kind != Q2_COMPRESSED)
		return false;
	g = q2_map_geometry(found->layer->map);
	return g->cluster_bits == to->c->bits && g->zstd == to->c->zstd && !(found->x.guest_off & (cluster - 1)) &&
	       found->x.len == (left < cluster ? left : cluster);
}

static int collect_one(void *opaque, const struct q2_found *found)
{
	struct collect *to = opaque;
	struct q2_part *p, *last = to->to->n ? &to->to->v[to->to->n - 1] : NULL;
	const struct q2_stamp *stamp;

	if (found->x.kind == Q2_ZERO && last && last->kind == Q2_ZERO) {
		last->len += found->x.len;
		return 0;
	}
	p = add(to->to);
	if (!p)
		return -ENOMEM;
	*p = (struct q2_part){ .off = found->x.guest_off, .len = found->x.len, .kind = found->x.kind };
	if (found->x.kind == Q2_ZERO)
		return 0;
	stamp = found->x.file == found->layer->data_file ? &found->layer->data_stamp : &found->layer->stamp;
	p->dev = stamp->dev;
	p->ino = stamp->ino;
	p->host_off = found->x.host_off;
	p->max_len = found->x.max_len;
	p->whole = is_whole(to, found);
	return 0;
}

static int collect(struct q2_changes *c, struct q2_view *v, struct q2_parts *pieces, uint64_t off, uint64_t len, struct q2_work *work,
		   struct vs_err *err)
{
	struct collect to = { .c = c, .to = pieces, .size = v->size };

	pieces->n = 0;
	if (off >= v->size)
		return 0;
	return q2_view_walk(v, off, len < v->size - off ? len : v->size - off, work, collect_one, &to, err);
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

/* Where the view before has come to its end it goes on as zeros. */
static int compare(struct q2_changes *c, q2_change_fn *each, void *opaque)
{
	const struct q2_part *b, *a;
	size_t i, k = 0;
	int rc = 0;

	for (i = 0; i < c->now.n && !rc; i++) {
		uint64_t off, end;

		b = &c->now.v[i];
		for (off = b->off; off < b->off + b->len && !rc; off = end) {
			while (k < c->was.n && c->was.v[k].off + c->was.v[k].len <= off)
				k++;
			a = k < c->was.n ? &c->was.v[k] : NULL;
			end = b->off + b->len;
			if (a && a->off + a->len < end)
				end = a->off + a->len;
			rc = tell(b, off, end - off, a ? !is_same(a, b, off) : b->kind != Q2_ZERO, each, opaque);
		}
	}
	return rc;
}

int q2_changes_walk(struct q2_changes *c, uint64_t guest_off, uint64_t len, struct q2_work *work, q2_change_fn *each, void *opaque,
		    struct vs_err *err)
{
	int rc = collect(c, c->view, &c->now, guest_off, len, work, err);

	c->was.n = 0;
	if (!rc && c->before)
		rc = collect(c, c->before, &c->was, guest_off, len, work, err);
	return rc ? rc : compare(c, each, opaque);
}

void q2_changes_fini(struct q2_changes *c)
{
	free(c->now.v);
	free(c->was.v);
	memset(&c->now, 0, sizeof(c->now));
	memset(&c->was, 0, sizeof(c->was));
}
