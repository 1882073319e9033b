/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * An image is copied while it may be written. Snapshots hold still, as long as they are there: so after everything that was read the state
 * of the file is asked for, and what was read counts only if it is that of the layout. The state is the snapshot table, entry by entry;
 * and where the present content is copied, too, which it is only where nobody writes, the file's times (layer.c says why afterwards is
 * the right time, for both).
 */
#include "copy.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "export.h"
#include "file.h"
#include "hash.h"
#include "image.h"
#include "view.h"
#include "work.h"

#define TRIES 5

/* ---------------------------------------------------------------- state */

struct looking {
	uint64_t hash;
	int64_t newest_ns;
};

static int look_begin(void *opaque, const struct q2_header *h)
{
	const char *below = h->backing_name ? h->backing_name : "";

	*(struct looking *)opaque = (struct looking){ .hash = q2_mix_bytes(q2_mix(1, h->cluster_bits), below, strlen(below)) };
	return 0;
}

static int look_entry(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len)
{
	struct looking *l = opaque;
	int64_t taken_ns = e->s.date_sec * INT64_C(1000000000) + e->s.date_nsec;

	(void)host_off;
	(void)len;
	l->hash = q2_mix_bytes(l->hash, e->raw, e->raw_len);
	if (taken_ns > l->newest_ns)
		l->newest_ns = taken_ns;
	return 0;
}

static bool is_written(struct q2_file *file)
{
	struct q2_locks locks;

	return q2_file_locks(file, &locks) || locks.writer;
}

int q2_copy_look(struct q2_view *view, bool present, struct q2_work *work, struct q2_copy_state *out, struct vs_err *err)
{
	struct q2_file *file = view->layers[0]->file;
	struct q2_copy_state state = { .present = present && !is_written(file) };
	struct looking l;
	struct q2_walk walk = { &l, look_begin, look_entry };
	struct q2_stamp stamp = { 0 };
	int rc = 0;

	if (state.present)
		rc = q2_stamp_quiet(file, &stamp, err);
	if (stamp.block)
		state.present = false; /* it does not tell when it was written */
	if (!rc)
		rc = q2_walk_snapshots(file, &walk, work, err);
	if (rc)
		return rc;
	state.content = q2_mix(l.hash, state.present);
	state.changed_ns = l.newest_ns;
	if (state.present) {
		state.content = q2_mix(q2_mix(q2_mix(q2_mix(state.content, stamp.dev), stamp.ino), stamp.size), (uint64_t)stamp.mtime_ns);
		state.changed_ns = stamp.mtime_ns;
	}
	if (view->n_layers > 1)
		state.content = q2_mix_bytes(state.content, view->layers[1]->file->path, strlen(view->layers[1]->file->path));
	if (!state.content)
		state.content = 1;
	*out = state;
	return 0;
}

/* Has it that state still? 0, -ESTALE, or the error of looking. */
static int check_state(struct q2_copy *c, struct q2_view *view, struct q2_work *work, struct vs_err *err)
{
	struct q2_file *file = view->layers[0]->file;
	int64_t when = q2_now_ns();
	struct q2_copy_state now;
	struct q2_stamp stamp;
	int rc = file->ops->identity(file, &stamp);

	if (rc || q2_settled_still(&c->settled, file, &stamp))
		return rc;
	rc = q2_copy_look(view, c->state.present, work, &now, err);
	if (!rc && now.content == c->state.content)
		q2_settled_remember(&c->settled, &stamp, when);
	else if (!rc)
		rc = vs_err_set(err, -ESTALE, "'%s' has other snapshots by now, or was written to", q2_view_path(view, 0));
	return rc;
}

/* ---------------------------------------------------------------- making */

static int copy_try(struct q2_copy *c, const struct q2_copy_spec *spec, struct vs_err *err)
{
	int rc = q2_copy_look(spec->view, spec->present, spec->work, &c->state, err), changed;
	struct vs_err why = { 0 };

	if (rc)
		return rc;
	c->present = c->state.present;
	c->g = *q2_map_geometry(spec->view->layers[0]->map);
	rc = q2_copy_lay_out(c, spec->view, spec->work, err);
	changed = rc == -EINTR ? 0 : check_state(c, spec->view, spec->work, &why);
	if (changed && err)
		*err = why;
	return changed ? changed : rc;
}

int q2_copy_new(const struct q2_copy_spec *spec, struct q2_copy **out, struct vs_err *err)
{
	struct q2_copy *c = NULL;
	int rc = -ESTALE;

	if (!spec->view->layers[0]->map)
		return vs_err_set(err, -EINVAL, "'%s' is no qcow2 image", q2_view_path(spec->view, 0));
	for (unsigned i = 0; i < TRIES && rc == -ESTALE; i++) {
		q2_copy_free(c);
		c = calloc(1, sizeof(*c));
		if (!c)
			return -ENOMEM;
		q2_settled_init(&c->settled);
		rc = copy_try(c, spec, err);
	}
	if (rc) {
		q2_copy_free(c);
		return rc;
	}
	*out = c;
	return 0;
}

void q2_copy_free(struct q2_copy *c)
{
	if (!c)
		return;
	q2_copy_drop(c);
	q2_settled_fini(&c->settled);
	free(c);
}

uint64_t q2_copy_size(const struct q2_copy *c)
{
	return c->end << c->g.cluster_bits;
}

uint64_t q2_copy_layout(const struct q2_copy *c)
{
	return c->layout;
}

const struct q2_copy_state *q2_copy_state(const struct q2_copy *c)
{
	return &c->state;
}

/* ---------------------------------------------------------------- reading */

struct read {
	struct q2_copy *c;
	struct q2_file *file;
	struct q2_work *work;
	struct vs_err *err;
};

static int read_source(const struct read *r, void *buf, size_t len, uint64_t host_off)
{
	ssize_t n = q2_pread_zeros(r->file, buf, len, host_off);

	if (n < 0)
		return vs_err_set(r->err, (int)n, "cannot read '%s': %s", r->file->path, strerror((int)-n));
	return q2_work_spend(r->work, q2_work_read(len));
}

static void fill_bytes(const uint8_t *bytes, size_t bytes_len, uint8_t *buf, size_t len, uint64_t off)
{
	size_t n = off < bytes_len ? bytes_len - (size_t)off : 0;

	n = n < len ? n : len;
	if (n)
		memcpy(buf, bytes + off, n);
	memset(buf + n, 0, len - n);
}

static uint64_t reftable_entry(const void *opaque, uint64_t idx)
{
	const struct q2_copy *c = opaque;

	return c->rb_first + idx < c->tab_first ? (c->rb_first + idx) << c->g.cluster_bits : 0;
}

static uint64_t refcount_of(const void *opaque, uint64_t host)
{
	const struct q2_copy *c = opaque;
	uint64_t n = host < c->l2_first;

	if (host >= c->l2_first && host < c->data_first)
		q2_census_at(&c->l2, host - c->l2_first, &n);
	else if (host >= c->data_first && host < c->end)
		q2_census_at(&c->data, host - c->data_first, &n);
	return n;
}

/* The table that has the cluster; there is one. */
static size_t l1_of(const struct q2_copy *c, uint64_t host)
{
	size_t low = 0, high = c->n_l1;

	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (c->l1[mid].first <= host)
			low = mid;
		else
			high = mid;
	}
	return low; /* those without entries have no cluster, and begin where the next one does: the last of them is meant */
}

static uint64_t l1_entry(const struct q2_copy *c, uint64_t raw, bool active)
{
	bool aligned;
	uint64_t off = q2_l1_decode(&c->g, raw, &aligned), rank, n;

	if (!off || !q2_census_rank(&c->l2, off >> c->g.cluster_bits, &rank, &n))
		return 0; /* a table that says nothing */
	return (c->l2_first + rank) << c->g.cluster_bits | (active && n == 1 ? Q2_ENTRY_COPIED : 0);
}

/* @buf: of the source, whole entries from byte @at of the table on; becomes those of the copy. */
static void turn_l1(const struct q2_copy *c, size_t idx, uint8_t *buf, size_t len, uint64_t at)
{
	for (size_t i = 0; i < len; i += 8)
		q2_put64(buf + i, (at + i) / 8 < c->l1[idx].in_source ? l1_entry(c, q2_be64(buf + i), !idx) : 0);
}

static int turn_l2(const struct read *r, uint8_t *buf, size_t len)
{
	size_t width = q2_copy_width(r->c);
	int rc = 0;

	for (size_t i = 0; i < len && !rc; i += width) {
		uint64_t raw = q2_be64(buf + i), bitmap = width == 16 ? q2_be64(buf + i + 8) : 0;

		if (!raw && !bitmap)
			continue;
		rc = q2_copy_entry(r->c, &raw, &bitmap);
		q2_put64(buf + i, raw);
		if (width == 16)
			q2_put64(buf + i + 8, bitmap);
	}
	return rc ? vs_err_set(r->err, rc, "the map of '%s' is another one by now", r->file->path) : 0;
}

/* Some entries of the table that is at @host_off of the source, bytes [into, into + *len) of it. @l1: of which L1 table; NULL: of an L2 table. */
static int fill_table(const struct read *r, const size_t *l1, uint8_t *buf, size_t *len, uint64_t host_off, uint64_t into)
{
	size_t width = l1 ? 8 : q2_copy_width(r->c), skip = into % width, whole;
	vs_autofree uint8_t *table = malloc(Q2_COPY_TABLE);
	int rc;

	if (!table)
		return -ENOMEM;
	if (*len > Q2_COPY_TABLE - skip)
		*len = Q2_COPY_TABLE - skip;
	whole = (skip + *len + width - 1) / width * width;
	rc = read_source(r, table, whole, host_off + into - skip);
	if (!rc && l1)
		turn_l1(r->c, *l1, table, whole, into - skip);
	else if (!rc)
		rc = turn_l2(r, table, whole);
	memcpy(buf, table + skip, *len);
	return rc;
}

static int fill_l1(const struct read *r, uint8_t *buf, size_t *len, uint64_t host, uint64_t into)
{
	const struct q2_copy *c = r->c;
	size_t idx = l1_of(c, host);
	uint64_t at = ((host - c->l1[idx].first) << c->g.cluster_bits) + into;

	return fill_table(r, &idx, buf, len, c->l1[idx].host_off, at);
}

static int fill_l2(const struct read *r, uint8_t *buf, size_t *len, uint64_t host, uint64_t into)
{
	uint64_t n, table = q2_census_at(&r->c->l2, host - r->c->l2_first, &n);

	return fill_table(r, NULL, buf, len, table << r->c->g.cluster_bits, into);
}

/* In clusters of which not all is in use, zeros where it is not. */
static void blank_unused(const struct q2_copy *c, uint8_t *buf, size_t len, uint64_t cluster, uint64_t into)
{
	uint64_t size = UINT64_C(1) << c->g.cluster_bits, n;

	for (; len; buf += n, len -= n, into += n) {
		if (into == size) {
			into = 0;
			cluster++;
		}
		n = size - into < len ? size - into : len;
		if (q2_census_whole(&c->data, cluster))
			continue;
		n = 512 - (into & 511) < n ? 512 - (into & 511) : n;
		if (!q2_census_sector(&c->data, cluster, (unsigned)(into >> 9)))
			memset(buf, 0, n);
	}
}

/* As much as lies together in the source as well. */
static int fill_data(const struct read *r, uint8_t *buf, size_t *len, uint64_t host, uint64_t into)
{
	const struct q2_copy *c = r->c;
	uint64_t count, cluster = q2_census_at(&c->data, host - c->data_first, &count), size = UINT64_C(1) << c->g.cluster_bits;
	uint64_t n = size - into, more = 1;
	int rc;

	while (n < *len && host + more < c->end && q2_census_at(&c->data, host + more - c->data_first, &count) == cluster + more) {
		more++;
		n += size;
	}
	if (n < *len)
		*len = (size_t)n;
	rc = read_source(r, buf, *len, (cluster << c->g.cluster_bits) + into);
	if (!rc)
		blank_unused(c, buf, *len, cluster, into);
	return rc;
}

/* Some of it, in *len how much; at most what was asked for. */
static int fill(const struct read *r, uint8_t *buf, size_t *len, uint64_t off)
{
	const struct q2_copy *c = r->c;
	unsigned bits = c->g.cluster_bits;
	uint64_t host = off >> bits, into = off & ((UINT64_C(1) << bits) - 1), rest = (UINT64_C(1) << bits) - into;

	if (host >= c->data_first)
		return fill_data(r, buf, len, host, into);
	if (*len > rest)
		*len = (size_t)rest;
	if (host >= c->l2_first)
		return fill_l2(r, buf, len, host, into);
	if (host >= c->l1[0].first)
		return fill_l1(r, buf, len, host, into);
	if (host < c->rt_first)
		fill_bytes(c->head, c->head_len, buf, *len, off);
	else if (host < c->rb_first)
		q2_export_numbers(buf, *len, off - (c->rt_first << bits), 8, reftable_entry, c);
	else if (host < c->tab_first)
		q2_export_numbers(buf, *len, off - (c->rb_first << bits), 1u << (c->order - 3), refcount_of, c);
	else
		fill_bytes(c->table, c->table_len, buf, *len, off - (c->tab_first << bits));
	return 0;
}

ssize_t q2_copy_read(struct q2_copy *c, struct q2_view *view, void *buf, size_t len, uint64_t off, struct q2_work *work, struct vs_err *err)
{
	struct read r = { .c = c, .file = view->layers[0]->file, .work = work, .err = err };
	uint64_t size = q2_copy_size(c);
	struct vs_err why = { 0 };
	size_t done = 0, n;
	int rc = 0, changed;

	if (off >= size)
		return 0;
	if (len > size - off)
		len = (size_t)(size - off);
	for (; done < len && !rc; done += n) {
		n = len - done;
		rc = fill(&r, (uint8_t *)buf + done, &n, off + done);
		assert(n > 0 && n <= len - done);
	}
	changed = rc == -EINTR ? 0 : check_state(c, view, work, &why);
	if (changed && err)
		*err = why;
	return changed ? changed : rc ? rc : (ssize_t)done;
}
