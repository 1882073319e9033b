/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A view is one disk at one moment: a stack of layers, asked from the top until one has an answer.
 *
 *   guest_off ──► layer 0 (the snapshot, or the frozen image) ── unallocated ──► layer 1 ── ... ──► zeros
 *
 * Every read is optimistic: find, copy, and then check that what the answer came from is still what was opened (layer.c
 * says why afterwards is the right time). Only the layers that a read touched are checked: those whose bytes were copied
 * and those whose tables nobody has vouched for yet; what a map said earlier, when its layer was known to be right, stays true
 * of the moment the view shows. Errors of decoding count only after that check: a table or stream of a snapshot that is
 * being deleted under the reader is not a damaged image.
 *
 * Walks (a read of many clusters, lseek, counting) ask each layer once for each of its own holes: `clear` remembers how far a
 * layer has nothing, and until then the next ones are asked without it. So a chain of two hundred sparse layers costs the
 * sum of what they have and not the product. Readers ask for one place after the other, in any order: for them each view remembers how many
 * layers have nothing where (depths.h), once all of them have been vouched for. What was asked for is answered in one go, or until struct q2_work says that it has
 * cost enough, and then lseek has to answer something that is true all the same:
 *
 *	SEEK_DATA	the place where it stands. That is right: what lies before it was found to be a hole, and data may read as
 *			zeros. The caller asks on from there, and gets on, because a call always takes one step.
 *	SEEK_HOLE	the end of the disk: no place between can be called a hole without having looked.
 *
 * What SEEK_DATA has called data for that reason stays data for the SEEK_HOLE that follows it, for 64 KiB at most: callers
 * take it for granted that a stretch of data is not empty.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "decode.h"
#include "file.h"
#include "layer.h"
#include "map.h"
#include "view.h"
#include "work.h"

#define PRESUMED_LEN 65536u
#define NEAR         (4u << 20) /* a question that does not go further is one of a reader, and no walk */

/* The layers an answer depends on. */
struct touched {
	uint64_t bits[(Q2_MAX_DEPTH + 64) / 64];
};

static void touch(struct touched *t, size_t layer)
{
	t->bits[layer / 64] |= UINT64_C(1) << (layer % 64);
}

/* ---------------------------------------------------------------- checking */

static int check_touched(struct q2_view *v, const struct touched *t, struct q2_work *work, struct vs_err *err)
{
	struct vs_err why = { 0 }; /* @err may hold the reason of something else by now */
	size_t i;
	int rc;

	for (i = 0; i < v->n_layers && i < v->watched; i++) {
		if (!(t->bits[i / 64] >> (i % 64) & 1))
			continue;
		rc = q2_work_spend(work, Q2_WORK_STAT);
		if (!rc)
			rc = q2_layer_check(v->layers[i], work, &why);
		if (rc) {
			if (err)
				*err = why;
			return rc;
		}
	}
	return 0;
}

int q2_view_check(struct q2_view *v, struct q2_work *work, struct vs_err *err)
{
	struct touched all;

	memset(&all, 0xff, sizeof(all));
	return check_touched(v, &all, work, err);
}

/* ---------------------------------------------------------------- judging */

/* What came of a question, once it is known whether it was asked of what was opened. Of one that nobody waits for any more
 * nothing needs to be known. */
static int judge(struct q2_view *v, const struct touched *t, struct q2_work *work, int rc, struct vs_err *err)
{
	int changed = rc == -EINTR ? 0 : check_touched(v, t, work, err);

	return changed ? changed : rc;
}

/* ---------------------------------------------------------------- the question */

/* Holes that the file system knows of, for data that would otherwise be read as zeros from the file. */
static void look_for_host_hole(struct q2_layer *l, struct q2_extent *x)
{
	uint64_t file_len = 0, whole = x->len, tail;
	off_t data, hole;

	if (!l->host_holes || x->file->fd < 0)
		return;
	if (!x->file->ops->size(x->file, &file_len) && x->host_off >= file_len) {
		x->kind = Q2_ZERO;
		return;
	}
	data = lseek(x->file->fd, (off_t)x->host_off, SEEK_DATA);
	if (data < 0 && errno == ENXIO) {
		x->kind = Q2_ZERO;
		return;
	}
	if (data < 0)
		return;
	if ((uint64_t)data > x->host_off) {
		x->kind = Q2_ZERO;
		x->len = (uint64_t)data - x->host_off < x->len ? (uint64_t)data - x->host_off : x->len;
		return;
	}
	hole = lseek(x->file->fd, (off_t)x->host_off, SEEK_HOLE);
	if (hole > data && (uint64_t)hole - x->host_off < x->len)
		x->len = (uint64_t)hole - x->host_off;
	/* the tail of a last sector that the file does not reach belongs to the data */
	tail = -(x->host_off + x->len) & 511;
	if (x->host_off + x->len == file_len)
		x->len += tail < whole - x->len ? tail : whole - x->len;
}

/* The part of @x that lies in one extent of the file system, or before one. Where it cannot tell, what lseek(2) says. */
static void look_for_lasting_hole(struct q2_layer *l, struct q2_extent *x)
{
	struct q2_host_extent e;
	uint64_t end = x->host_off + x->len, from, to;

	if (x->file->fd < 0)
		return;
	if (q2_file_extent(x->file, x->host_off, x->len, &e)) {
		look_for_host_hole(l, x);
		return;
	}
	from = e.host_off < end ? e.host_off : end;
	to = e.host_off + e.len < end ? e.host_off + e.len : end;
	if (from > x->host_off)
		x->len = from - x->host_off;
	else if (to > x->host_off)
		x->len = to - x->host_off;
	if (from > x->host_off || (e.unwritten && to > x->host_off))
		x->kind = Q2_ZERO;
}

/* One question, or many along the disk. */
struct walk {
	struct q2_view *view;
	struct q2_work *work;
	struct touched touched;
	enum holes { NO_HOLES, SEEN_HOLES, LASTING_HOLES } holes; /* also those that only the host's file system knows of */
	bool unsure; /* a table has answered that nobody has vouched for yet */
	uint64_t clear[Q2_MAX_DEPTH]; /* up to there, from where the walk is, layer i has nothing */
};

static void walk_begin(struct walk *w, struct q2_view *v, struct q2_work *work, enum holes holes)
{
	w->view = v;
	w->work = work;
	w->touched = (struct touched){ 0 };
	w->holes = holes;
	w->unsure = false;
	memset(w->clear, 0, v->n_layers * sizeof(w->clear[0]));
}

/* What layer @i says about the @len bytes at @off; *found = false: it has nothing there, up to clear[i]. */
static int ask_layer(struct walk *w, size_t i, uint64_t off, uint64_t len, bool *found, struct q2_found *out, struct vs_err *err)
{
	struct q2_layer *l = w->view->layers[i];
	struct q2_piece p;
	int rc;

	*found = true;
	out->layer = l;
	out->x = (struct q2_extent){ .guest_off = off, .len = len, .kind = Q2_ZERO, .depth = (unsigned)i };
	if (off >= l->size) /* a shorter backing file reads as zeros */
		return 0;
	if (len > l->size - off)
		out->x.len = len = l->size - off;
	if (l->format == Q2_FORMAT_RAW) {
		out->x.kind = Q2_DATA;
		out->x.file = l->file;
		out->x.host_off = off;
		touch(&w->touched, i);
		return 0;
	}
	rc = q2_map_lookup(w->view->cache, l->map, l->file, off, len, w->work, &p, err);
	/* An error is believed only after the check; and a deleted snapshot reads nowhere, not even its holes. */
	if (rc || p.unsure || l->role == Q2_SNAPSHOT)
		touch(&w->touched, i);
	if (rc)
		return rc;
	w->unsure |= p.unsure;
	out->x.len = p.len;
	out->x.has_table = p.has_table;
	if (p.kind == Q2_RUN_UNALLOCATED) {
		*found = false;
		w->clear[i] = off + p.len;
		return 0;
	}
	if (p.kind == Q2_RUN_ZERO)
		return 0;
	touch(&w->touched, i);
	out->x.kind = p.kind == Q2_RUN_DATA ? Q2_DATA : Q2_COMPRESSED;
	out->x.file = l->data_file ? l->data_file : l->file;
	out->x.host_off = p.host_off;
	out->x.max_len = p.max_len;
	return 0;
}

/* How many layers have nothing in the stretch around @off, where all that they say has been vouched for. */
static void learn_depth(struct walk *w, uint64_t off)
{
	struct q2_view *v = w->view;
	uint64_t from, to;
	struct q2_piece p;
	size_t i;

	q2_depths_stretch(&v->depths, off, &from, &to);
	for (i = 0; i < v->n_layers; i++) {
		struct q2_layer *l = v->layers[i];

		if (l->format == Q2_FORMAT_RAW || to > l->size)
			break;
		if (q2_map_lookup(v->cache, l->map, l->file, from, to - from, w->work, &p, NULL) || p.unsure)
			return; /* whoever asks is told why */
		if (p.kind != Q2_RUN_UNALLOCATED || p.len < to - from)
			break;
	}
	q2_depths_put(&v->depths, from, to, (unsigned)i);
}

/* The layer to begin with: those above it have nothing at @off, up to *nothing. */
static size_t begin_at(struct walk *w, uint64_t off, uint64_t *nothing)
{
	struct q2_view *v = w->view;
	uint64_t upto;
	int n;

	if (!v->depths.n_pages || *nothing - off > NEAR)
		return 0;
	n = q2_depths_get(&v->depths, off, *nothing, &upto);
	if (n < 0 && (*nothing - off) >> v->depths.bits == 0) {
		learn_depth(w, off);
		n = q2_depths_get(&v->depths, off, *nothing, &upto);
	}
	if (n <= 0)
		return 0;
	if (v->layers[0]->role == Q2_SNAPSHOT)
		touch(&w->touched, 0); /* as in ask_layer() */
	*nothing = upto;
	return (size_t)n;
}

/* The extent at @off, at most @len long, of a walk that does not go beyond @end. @off < @end <= size. */
static int find(struct walk *w, uint64_t off, uint64_t end, struct q2_found *out, struct vs_err *err)
{
	struct q2_view *v = w->view;
	uint64_t nothing = end; /* so far no layer has anything up to here */
	bool found = false;
	size_t i;
	int rc = q2_work_spend(w->work, Q2_WORK_ASK + q2_work_scan(v->n_layers));

	out->x.has_table = false;
	for (i = begin_at(w, off, &nothing); i < v->n_layers && !found && !rc; i++) {
		if (off >= w->clear[i])
			rc = ask_layer(w, i, off, end - off, &found, out, err);
		if (!rc && !found && w->clear[i] < nothing)
			nothing = w->clear[i];
	}
	if (rc)
		return rc;
	if (!found) {
		out->layer = NULL;
		out->x = (struct q2_extent){ .guest_off = off, .len = nothing - off, .kind = Q2_ZERO,
					     .depth = (unsigned)v->n_layers - 1, .unallocated = true,
					     .has_table = v->n_layers == 1 && out->x.has_table };
	}
	if (out->x.len > nothing - off)
		out->x.len = nothing - off;
	if (v->depths.n_pages && !w->unsure && end - off <= NEAR)
		q2_depths_put(&v->depths, off, off + out->x.len, (unsigned)(found ? i - 1 : i));
	if (w->holes && out->x.kind == Q2_DATA) {
		rc = q2_work_spend(w->work, 2 * Q2_WORK_STAT);
		if (w->holes == SEEN_HOLES)
			look_for_host_hole(out->layer, &out->x);
		else if (out->layer->format == Q2_FORMAT_RAW)
			look_for_lasting_hole(out->layer, &out->x);
	}
	assert(out->x.len > 0 && out->x.len <= end - off);
	if (out->x.kind == Q2_ZERO)
		out->x.file = NULL;
	return rc;
}

int q2_view_extent(struct q2_view *v, uint64_t guest_off, uint64_t len, struct q2_work *work, struct q2_extent *out,
		   struct vs_err *err)
{
	struct q2_found p;
	struct walk w;
	int rc;

	if (guest_off >= v->size || !len)
		return -ENXIO;
	walk_begin(&w, v, work, NO_HOLES);
	rc = find(&w, guest_off, len < v->size - guest_off ? guest_off + len : v->size, &p, err);
	if (rc)
		return judge(v, &w.touched, work, rc, err);
	*out = p.x;
	return 0;
}

/* ---------------------------------------------------------------- reading */

static int copy_data(const struct q2_found *p, void *buf, size_t len, struct vs_err *err)
{
	struct q2_file *f = p->x.file;
	ssize_t n = q2_pread_zeros(f, buf, len, p->x.host_off);

	if (n < 0)
		return vs_err_set(err, (int)n, "cannot read '%s' at offset %#" PRIx64 ": %s", f->path, p->x.host_off,
				  strerror((int)-n));
	return 0;
}

/* Decodes the cluster of @p into @out, which has room for a whole one. The stream is left in scratch buffer 0, its length in @used,
 * which may be NULL. */
static int decode_cluster(const struct q2_found *p, void *out, size_t *used, struct vs_err *err)
{
	const struct q2_geometry *g = q2_map_geometry(p->layer->map);
	size_t cluster = (size_t)1 << g->cluster_bits;
	void *in = q2_scratch(0, p->x.max_len);
	ssize_t n;
	int rc;

	if (!in)
		return -ENOMEM;
	n = q2_pread_zeros(p->x.file, in, p->x.max_len, p->x.host_off);
	if (n < 0)
		return vs_err_set(err, (int)n, "cannot read '%s' at offset %#" PRIx64 ": %s", p->x.file->path, p->x.host_off,
				  strerror((int)-n));
	rc = q2_decode(g->zstd, in, p->x.max_len, out, cluster, used);
	if (rc == -EIO)
		return vs_err_set(err, rc, "'%s': the compressed cluster of guest offset %#" PRIx64 " (at offset %#" PRIx64
				  ", at most %u bytes) cannot be decoded", p->x.file->path,
				  p->x.guest_off & ~(uint64_t)(cluster - 1), p->x.host_off, p->x.max_len);
	return rc;
}

/* @len bytes of a compressed cluster, straight into @buf where all of it is wanted, else through the cache. */
static int copy_compressed(struct q2_view *v, const struct q2_found *p, void *buf, size_t len, struct vs_err *err)
{
	unsigned bits = q2_map_geometry(p->layer->map)->cluster_bits;
	size_t cluster = (size_t)1 << bits, into = p->x.guest_off & (cluster - 1);
	uint64_t serial = q2_map_serial(p->layer->map), idx = p->x.guest_off >> bits;
	struct q2_cluster *cl = q2_cluster_get(v->cache, serial, idx);
	int rc = 0;

	if (!cl && !into && len == cluster)
		return decode_cluster(p, buf, NULL, err);
	if (!cl) {
		cl = q2_cluster_new(serial, idx, cluster);
		if (!cl)
			return -ENOMEM;
		rc = decode_cluster(p, cl->data, NULL, err);
		if (!rc)
			q2_cluster_offer(v->cache, cl);
	}
	if (!rc)
		memcpy(buf, cl->data + into, len);
	q2_cluster_put(v->cache, cl);
	return rc;
}

static int copy(struct walk *w, uint8_t *buf, size_t len, uint64_t off, struct vs_err *err)
{
	uint64_t end = off + len;
	struct q2_found p;
	size_t n;
	int rc;

	while (off < end) {
		rc = find(w, off, end, &p, err);
		if (rc)
			return rc;
		n = (size_t)p.x.len;
		switch (p.x.kind) {
		case Q2_ZERO:
			memset(buf, 0, n);
			break;
		case Q2_DATA:
			rc = copy_data(&p, buf, n, err);
			break;
		case Q2_COMPRESSED:
			rc = copy_compressed(w->view, &p, buf, n, err);
			break;
		}
		if (!rc)
			rc = q2_work_spend(w->work, q2_work_read(n));
		if (rc)
			return rc;
		buf += n;
		off += n;
	}
	return 0;
}

ssize_t q2_view_read(struct q2_view *v, void *buf, size_t len, uint64_t guest_off, struct q2_work *work, struct vs_err *err)
{
	struct walk w;
	int rc;

	if (guest_off >= v->size)
		return 0;
	if (len > v->size - guest_off)
		len = (size_t)(v->size - guest_off);
	if (len > SSIZE_MAX)
		len = SSIZE_MAX;
	walk_begin(&w, v, work, NO_HOLES);
	rc = copy(&w, buf, len, guest_off, err);
	rc = judge(v, &w.touched, work, rc, err);
	return rc ? rc : (ssize_t)len;
}

bool q2_view_is_hole(struct q2_view *v, uint64_t guest_off, uint64_t len, struct q2_work *work)
{
	struct q2_found p;
	struct walk w;

	walk_begin(&w, v, work, NO_HOLES);
	return len <= v->size && guest_off <= v->size - len && !find(&w, guest_off, guest_off + len, &p, NULL) && p.x.kind == Q2_ZERO &&
	       p.x.len == len && !judge(v, &w.touched, work, 0, NULL);
}

ssize_t q2_view_stream(struct q2_view *v, uint64_t guest_off, void *buf, size_t len, struct q2_work *work, struct vs_err *err)
{
	struct q2_found p;
	struct walk w;
	ssize_t n = 0;
	size_t used = 0, cluster;
	void *out;
	int rc;

	walk_begin(&w, v, work, NO_HOLES);
	rc = find(&w, guest_off, v->size, &p, err);
	if (!rc && (p.x.kind != Q2_COMPRESSED || p.x.max_len != len))
		rc = vs_err_set(err, -ESTALE, "the map of '%s' is another one by now", v->layers[0]->file->path);
	if (!rc) {
		cluster = (size_t)1 << q2_map_geometry(p.layer->map)->cluster_bits;
		out = q2_scratch(1, cluster);
		rc = out ? decode_cluster(&p, out, &used, err) : -ENOMEM;
	}
	if (!rc) {
		n = (ssize_t)used;
		memcpy(buf, q2_scratch(0, len), used);
		memset((uint8_t *)buf + used, 0, len - used);
		rc = q2_work_spend(work, q2_work_read(len));
	}
	rc = judge(v, &w.touched, work, rc, err);
	return rc ? rc : n;
}

/* ---------------------------------------------------------------- walking */

int q2_view_walk(struct q2_view *v, uint64_t guest_off, uint64_t len, struct q2_work *work, q2_view_each *each, void *opaque,
		 struct vs_err *err)
{
	uint64_t end = guest_off + len;
	struct q2_found p;
	struct walk w;
	int rc = 0;

	walk_begin(&w, v, work, LASTING_HOLES);
	while (guest_off < end && !rc) {
		rc = find(&w, guest_off, end, &p, err);
		if (!rc)
			rc = each(opaque, &p);
		guest_off += rc ? 0 : p.x.len;
	}
	return judge(v, &w.touched, work, rc, err);
}

static int64_t seek(struct walk *w, uint64_t off, bool want_data, struct vs_err *err)
{
	struct q2_view *v = w->view;
	bool presumed = !want_data && off == atomic_load(&v->presumed);
	struct q2_found p;
	int rc;

	while (off < v->size) {
		rc = find(w, off, v->size, &p, err);
		if (rc)
			return rc;
		if (presumed && p.x.kind == Q2_ZERO && p.x.len > PRESUMED_LEN)
			p.x.len = PRESUMED_LEN;
		if (!presumed && (p.x.kind != Q2_ZERO) == want_data)
			return (int64_t)off;
		presumed = false;
		off += p.x.len;
		if (!q2_work_done(w->work) || off >= v->size)
			continue;
		if (!want_data)
			return (int64_t)v->size;
		atomic_store(&v->presumed, off);
		return (int64_t)off;
	}
	return want_data ? -ENXIO : (int64_t)v->size;
}

int64_t q2_view_seek(struct q2_view *v, uint64_t guest_off, int whence, struct q2_work *work, struct vs_err *err)
{
	struct walk w;
	int64_t at;
	int rc;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	if (guest_off >= v->size)
		return -ENXIO;
	walk_begin(&w, v, work, SEEN_HOLES);
	at = seek(&w, guest_off, whence == SEEK_DATA, err);
	rc = judge(v, &w.touched, work, at < 0 ? (int)at : 0, err);
	return rc ? rc : at;
}

int q2_view_allocated(struct q2_view *v, struct q2_work *work, uint64_t *bytes, struct vs_err *err)
{
	uint64_t off = 0, sum = 0;
	struct q2_found p;
	struct walk w;
	int rc = 0;

	walk_begin(&w, v, work, SEEN_HOLES);
	while (off < v->size && !rc) {
		rc = find(&w, off, v->size, &p, err);
		if (rc)
			break;
		if (p.x.kind != Q2_ZERO)
			sum += p.x.len;
		off += p.x.len;
		if (q2_work_done(work) && off < v->size)
			rc = -E2BIG;
	}
	rc = judge(v, &w.touched, work, rc, err);
	if (!rc)
		*bytes = sum;
	return rc;
}

int q2_view_has_compressed(struct q2_view *v, struct q2_work *work, struct vs_err *err)
{
	uint64_t units = work && work->limit ? work->limit / v->n_layers : UINT64_MAX;
	size_t i;
	int rc;

	for (i = v->n_layers; i-- > 0 && !q2_work_done(work);) { /* usually the base is it */
		if (!v->layers[i]->map)
			continue;
		rc = q2_map_has_compressed(v->cache, v->layers[i]->map, v->layers[i]->file, units, work, err);
		if (rc)
			return rc;
	}
	return 0;
}
