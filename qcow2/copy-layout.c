/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What of an image its snapshots and its present content use, counted in two passes:
 *
 *	L1 tables	how many of their entries lead to each L2 table
 *	L2 tables	each once, however many snapshots have it: each of its clusters is used as often as the table is
 *
 * These counts are the refcounts of the copy. A table that says nothing is no table there, a cluster that reads as zeros is none, and of a
 * cluster with streams, or with subclusters, it is known which sectors are in use: what else is in it was freed, or is somebody's who
 * still writes there.
 */
#include "copy.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "export.h"
#include "file.h"
#include "hash.h"
#include "image.h"
#include "view.h"
#include "work.h"

#define MOST (128u << 20) /* bytes of each census: 3 TiB of clusters of 64 KiB that are in use */
#define EXTRA 16u /* bytes of a snapshot's extra data that version 3 wants */

struct laying {
	struct q2_copy *c;
	struct q2_file *file;
	struct q2_work *work;
	struct vs_err *err;
	/* of the walk through the snapshots */
	uint64_t active_off, active_entries, active_size;
	size_t l1_room, table_room, newest;
	uint64_t newest_s, newest_ns, newest_size;
	bool streams;
};

/* ---------------------------------------------------------------- the snapshot table */

static int grow(struct q2_copy *c, void **v, size_t *room, size_t need, size_t each)
{
	size_t bigger = *room;
	void *p;

	if (need <= *room)
		return 0;
	while (bigger < need)
		bigger = bigger ? bigger * 2 : 64;
	if (!q2_export_charge((bigger - *room) * each, false))
		return -ENOBUFS;
	c->charged += (bigger - *room) * each;
	p = reallocarray(*v, bigger, each);
	if (!p)
		return -ENOMEM;
	*v = p;
	*room = bigger;
	return 0;
}

static int add_l1(struct laying *l, uint64_t host_off, uint64_t entries, uint64_t in_source)
{
	struct q2_copy *c = l->c;
	int rc = grow(c, (void **)&c->l1, &l->l1_room, c->n_l1 + 1, sizeof(*c->l1));

	if (rc)
		return rc;
	c->l1[c->n_l1++] = (struct q2_copy_l1){ .host_off = host_off, .entries = (uint32_t)entries,
						.in_source = (uint32_t)(in_source < entries ? in_source : entries) };
	return 0;
}

static int begin(void *opaque, const struct q2_header *h)
{
	struct laying *l = opaque;

	l->c->n_l1 = l->c->table_len = 0;
	l->newest = 0;
	l->active_off = h->l1_off;
	l->active_entries = h->l1_entries;
	l->active_size = h->size;
	return add_l1(l, 0, 0, 0); /* decided when all snapshots are known */
}

static int check_snapshot(struct laying *l, const struct q2_snap_entry *e)
{
	const char *path = l->file->path;

	if (e->s.disk_size & 511 || e->s.disk_size > INT64_MAX)
		return vs_err_set(l->err, -EUCLEAN, "'%s': snapshot '%.*s' has an impossible disk size of %" PRIu64 " bytes", path,
				  (int)e->name_len, e->name, e->s.disk_size);
	if ((uint64_t)e->s.l1_entries * 8 > Q2_MAX_L1_BYTES)
		return vs_err_set(l->err, -EFBIG, "'%s': the L1 table of snapshot '%.*s' is too large", path, (int)e->name_len, e->name);
	if (e->s.l1_off & ((UINT64_C(1) << l->c->g.cluster_bits) - 1) || e->s.l1_off > INT64_MAX - Q2_MAX_L1_BYTES)
		return vs_err_set(l->err, -EUCLEAN, "'%s': the L1 table of snapshot '%.*s' is at the invalid offset %#" PRIx64, path,
				  (int)e->name_len, e->name, e->s.l1_off);
	return q2_table_inside(l->file, "L1 table of a snapshot", e->s.l1_off, (uint64_t)e->s.l1_entries * 8, l->err);
}

/* As it is, but for the place of its L1 table, which is the source's until all places are known. Old ones get what version 3 asks for. */
static int copy_entry(struct laying *l, const struct q2_snap_entry *e)
{
	struct q2_copy *c = l->c;
	size_t strings = e->raw_len - Q2_SNAP_FIXED - e->extra_len, extra = e->extra_len < EXTRA ? EXTRA : e->extra_len;
	size_t len = (Q2_SNAP_FIXED + extra + strings + 7) & ~(size_t)7;
	int rc = grow(c, (void **)&c->table, &l->table_room, c->table_len + len, 1);
	uint8_t *p = rc ? NULL : c->table + c->table_len;

	if (rc)
		return rc;
	memset(p, 0, len);
	memcpy(p, e->raw, Q2_SNAP_FIXED + e->extra_len);
	memcpy(p + Q2_SNAP_FIXED + extra, e->raw + Q2_SNAP_FIXED + e->extra_len, strings);
	if (e->extra_len < EXTRA) {
		q2_put32(p + 36, EXTRA);
		q2_put64(p + 40, e->s.vm_state_size);
		q2_put64(p + 48, e->s.disk_size);
	}
	c->table_len += len;
	return 0;
}

static int entry(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len)
{
	struct laying *l = opaque;
	int rc = check_snapshot(l, e);

	(void)host_off;
	(void)len;
	if (!rc)
		rc = copy_entry(l, e);
	if (!rc)
		rc = add_l1(l, e->s.l1_off, e->s.l1_entries, e->s.l1_entries);
	if (rc)
		return rc;
	if (l->newest && (e->s.date_sec < l->newest_s || (e->s.date_sec == l->newest_s && e->s.date_nsec < l->newest_ns)))
		return 0;
	l->newest = l->c->n_l1 - 1;
	l->newest_s = e->s.date_sec;
	l->newest_ns = e->s.date_nsec;
	l->newest_size = e->s.disk_size;
	return 0;
}

/* What is opened without asking for a snapshot. Of its tables only what maps the disk: behind that are the remains of VM states. */
static int choose_present(struct laying *l)
{
	struct q2_copy *c = l->c;
	uint64_t off = l->active_off, there = l->active_entries, entries;

	if (!l->newest)
		return vs_err_set(l->err, -ESTALE, "there are no snapshots in '%s'", l->file->path);
	c->size = l->active_size;
	if (!c->present) {
		c->size = l->newest_size;
		off = c->l1[l->newest].host_off;
		there = c->l1[l->newest].entries;
	}
	entries = q2_l1_entries_for(c->size, c->g.cluster_bits, c->g.extended_l2);
	if (entries * 8 > Q2_MAX_L1_BYTES)
		return vs_err_set(l->err, -EFBIG, "QEMU would not open an image of %u-byte clusters for so large a disk", 1u << c->g.cluster_bits);
	c->l1[0] = (struct q2_copy_l1){ .host_off = off, .entries = (uint32_t)entries,
					.in_source = (uint32_t)(there < entries ? there : entries) };
	return 0;
}

/* ---------------------------------------------------------------- counting */

static int read_table(struct laying *l, uint8_t *buf, size_t len, uint64_t host_off)
{
	ssize_t n = q2_pread_zeros(l->file, buf, len, host_off);

	if (n < 0)
		return vs_err_set(l->err, (int)n, "cannot read '%s' at %#" PRIx64 ": %s", l->file->path, host_off, strerror((int)-n));
	if (q2_work_done(l->work))
		return vs_err_set(l->err, -EFBIG, "'%s' takes too long to walk through", l->file->path);
	return q2_work_spend(l->work, q2_work_read(len));
}

static int count_l1(struct laying *l, const struct q2_copy_l1 *l1, uint8_t *buf)
{
	size_t len = (size_t)l1->in_source * 8, n;
	bool aligned;
	int rc = 0;

	for (size_t at = 0; at < len && !rc; at += n) {
		n = len - at < Q2_COPY_TABLE ? len - at : Q2_COPY_TABLE;
		rc = read_table(l, buf, n, l1->host_off + at);
		for (size_t i = 0; i < n && !rc; i += 8) {
			uint64_t off = q2_l1_decode(&l->c->g, q2_be64(buf + i), &aligned);

			if (!aligned)
				rc = vs_err_set(l->err, -EUCLEAN, "'%s': the L1 entry at %#" PRIx64 " points at an L2 table that is not aligned to "
						"a cluster", l->file->path, l1->host_off + at + i);
			else if (off)
				rc = q2_census_count(&l->c->l2, off >> l->c->g.cluster_bits, 1);
		}
	}
	return rc;
}

static int count_span(struct laying *l, uint64_t host_off, uint64_t len, uint64_t n)
{
	uint64_t cluster = UINT64_C(1) << l->c->g.cluster_bits, end = host_off + len, some;
	int rc = 0;

	for (; host_off < end && !rc; host_off += some) {
		uint64_t into = host_off & (cluster - 1);

		some = cluster - into < end - host_off ? cluster - into : end - host_off;
		rc = q2_census_count_part(&l->c->data, host_off >> l->c->g.cluster_bits, n, into, some);
	}
	return rc;
}

/* One cluster, of which only these subclusters are in use. */
static int count_subclusters(struct laying *l, const struct q2_entry *e, uint64_t n)
{
	uint64_t len = UINT64_C(1) << q2_unit_bits(&l->c->g);
	int rc = 0;

	for (unsigned i = 0; i < 32 && !rc; i++) {
		if (!(e->stored >> i & 1))
			continue;
		rc = q2_census_count_part(&l->c->data, e->host_off >> l->c->g.cluster_bits, n, i * len, len);
		n = 0; /* once */
	}
	return rc;
}

static int count_entry(struct laying *l, uint64_t raw, uint64_t bitmap, uint64_t n)
{
	struct q2_entry e = q2_entry_decode(&l->c->g, raw, bitmap);

	switch (e.kind) {
	case Q2_RUN_BAD:
		return vs_err_set(l->err, -EUCLEAN, "'%s': the L2 entry %#" PRIx64 " %s", l->file->path, raw, q2_bad_text((enum q2_bad)e.len));
	case Q2_RUN_COMPRESSED:
		l->streams = true;
		return count_span(l, e.host_off, e.len, n);
	case Q2_RUN_DATA:
		return e.stored == UINT32_MAX ? q2_census_count(&l->c->data, e.host_off >> l->c->g.cluster_bits, n) : count_subclusters(l, &e, n);
	default:
		return 0;
	}
}

static int count_l2(struct laying *l, uint64_t table, uint64_t n, uint8_t *buf)
{
	uint64_t cluster = UINT64_C(1) << l->c->g.cluster_bits, off = table << l->c->g.cluster_bits;
	size_t width = q2_copy_width(l->c), len = cluster < Q2_COPY_TABLE ? cluster : Q2_COPY_TABLE;
	bool any = false;
	int rc = q2_table_inside(l->file, "L2 table", off, cluster, l->err);

	for (uint64_t at = 0; at < cluster && !rc; at += len) {
		rc = read_table(l, buf, len, off + at);
		for (size_t i = 0; i < len && !rc; i += width) {
			uint64_t raw = q2_be64(buf + i), bitmap = width == 16 ? q2_be64(buf + i + 8) : 0;

			if (!raw && !bitmap)
				continue;
			any = true;
			rc = count_entry(l, raw, bitmap, n);
		}
	}
	if (!rc && !any)
		q2_census_drop(&l->c->l2, table);
	return rc;
}

static int count_all(struct laying *l)
{
	vs_autofree uint8_t *buf = malloc(Q2_COPY_TABLE);
	uint64_t table, n = 0;
	int rc = buf ? 0 : -ENOMEM;

	for (size_t i = 0; i < l->c->n_l1 && !rc; i++)
		rc = count_l1(l, &l->c->l1[i], buf);
	for (table = 0; !rc && (table = q2_census_next(&l->c->l2, table, &n)) != UINT64_MAX; table++)
		rc = count_l2(l, table, n, buf);
	q2_census_seal(&l->c->l2);
	q2_census_seal(&l->c->data);
	return rc;
}

/* Two bytes for a count suffice for nearly all images; if not, once more. */
static int take_census(struct laying *l)
{
	struct q2_copy *c = l->c;
	int rc = -ERANGE;

	for (unsigned width = 2; width <= 4 && rc == -ERANGE; width += 2) {
		q2_census_fini(&c->l2);
		q2_census_fini(&c->data);
		c->l2 = (struct q2_census){ .cluster_bits = c->g.cluster_bits, .width = width, .most = MOST };
		c->data = (struct q2_census){ .cluster_bits = c->g.cluster_bits, .width = width, .most = MOST };
		l->streams = false;
		rc = count_all(l);
	}
	if (rc == -ERANGE)
		return vs_err_set(l->err, -EUCLEAN, "'%s': a cluster is used more often than can be counted", l->file->path);
	if (rc == -EFBIG || rc == -ENOBUFS)
		vs_err_set(l->err, rc, "the layout of a copy of '%s' would take too much memory", l->file->path);
	return rc;
}

/* ---------------------------------------------------------------- places */

static int place(struct laying *l)
{
	struct q2_copy *c = l->c;
	unsigned bits = c->g.cluster_bits, most_bits = l->streams ? 62 - (bits - 8) : 55;
	uint64_t per_block, table = 0, blocks = 0, need, next;
	uint64_t most = q2_census_largest(&c->l2) > q2_census_largest(&c->data) ? q2_census_largest(&c->l2) : q2_census_largest(&c->data);

	c->order = most > UINT16_MAX ? 5 : 4;
	per_block = UINT64_C(8) << bits >> c->order;
	c->rt_first = 1;
	for (;;) {
		c->rb_first = c->rt_first + table;
		c->tab_first = c->rb_first + blocks;
		next = c->tab_first + q2_clusters_for(bits, c->table_len);
		for (size_t i = 0; i < c->n_l1; i++) {
			c->l1[i].first = next;
			next += q2_clusters_for(bits, (uint64_t)c->l1[i].entries * 8);
		}
		c->l2_first = next;
		c->data_first = c->l2_first + q2_census_total(&c->l2);
		c->end = c->data_first + q2_census_total(&c->data);
		need = (c->end + per_block - 1) / per_block;
		if (need <= blocks && q2_clusters_for(bits, blocks * 8) <= table)
			break;
		blocks = need;
		table = q2_clusters_for(bits, blocks * 8);
	}
	if (table << bits > Q2_MAX_REFTABLE_BYTES || c->end > UINT64_C(1) << most_bits >> bits)
		return vs_err_set(l->err, -EFBIG, "QEMU would not open so large an image with clusters of %u bytes", 1u << bits);
	return 0;
}

/* Where the L1 tables are, in the snapshot table. */
static void enter_places(struct q2_copy *c)
{
	size_t at = 0;

	for (size_t i = 1; i < c->n_l1; i++) {
		uint8_t *p = c->table + at;

		q2_put64(p, c->l1[i].first << c->g.cluster_bits);
		at += Q2_SNAP_FIXED + q2_be32(p + 36) + q2_be16(p + 12) + q2_be16(p + 14);
		at = (at + 7) & ~(size_t)7;
	}
}

static int write_head(struct laying *l, const struct q2_view *view)
{
	struct q2_copy *c = l->c;
	const struct q2_layer *below = view->n_layers > 1 ? view->layers[1] : NULL;
	const struct q2_head head = {
		.bits = c->g.cluster_bits,
		.order = c->order,
		.zstd = c->g.zstd,
		.extended_l2 = c->g.extended_l2,
		.size = c->size,
		.l1_entries = c->l1[0].entries,
		.l1_first = c->l1[0].first,
		.rt_first = c->rt_first,
		.rt_clusters = (uint32_t)(c->rb_first - c->rt_first),
		.n_snapshots = (uint32_t)(c->n_l1 - 1),
		.snapshots_first = c->tab_first,
		.backing = below ? below->file->path : NULL,
		.backing_format = below ? below->format : Q2_FORMAT_NONE,
	};

	return q2_export_head(&head, &c->head, &c->head_len, l->err);
}

static uint64_t hash_layout(const struct q2_copy *c)
{
	uint64_t h = q2_mix_bytes(q2_mix(1, c->present), c->head, c->head_len);

	h = q2_mix_bytes(h, c->table, c->table_len);
	for (size_t i = 0; i < c->n_l1; i++)
		h = q2_mix(q2_mix(h, c->l1[i].host_off), c->l1[i].entries);
	h = q2_census_hash(&c->data, q2_census_hash(&c->l2, h));
	return h ? h : 1;
}

int q2_copy_lay_out(struct q2_copy *c, struct q2_view *view, struct q2_work *work, struct vs_err *err)
{
	struct laying l = { .c = c, .file = view->layers[0]->file, .work = work, .err = err };
	struct q2_walk walk = { &l, begin, entry };
	int rc = q2_walk_snapshots(l.file, &walk, work, err);

	if (!rc)
		rc = choose_present(&l);
	if (!rc)
		rc = take_census(&l);
	if (!rc)
		rc = place(&l);
	if (rc)
		return rc;
	enter_places(c);
	rc = write_head(&l, view);
	if (!rc)
		c->layout = hash_layout(c);
	return rc;
}

void q2_copy_drop(struct q2_copy *c)
{
	q2_census_fini(&c->l2);
	q2_census_fini(&c->data);
	q2_export_uncharge(c->charged);
	free(c->l1);
	free(c->table);
	free(c->head);
}

/* ---------------------------------------------------------------- entries */

int q2_copy_entry(const struct q2_copy *c, uint64_t *raw, uint64_t *bitmap)
{
	struct q2_entry e = q2_entry_decode(&c->g, *raw, *bitmap);
	unsigned bits = c->g.cluster_bits;
	uint64_t rank, n, into = e.host_off & ((UINT64_C(1) << bits) - 1), offset;

	if (e.kind != Q2_RUN_DATA && e.kind != Q2_RUN_COMPRESSED) {
		*raw = e.kind == Q2_RUN_ZERO && !c->g.extended_l2 ? Q2_ENTRY_ZERO : 0;
		return e.kind == Q2_RUN_BAD ? -ESTALE : 0;
	}
	if (!q2_census_rank(&c->data, e.host_off >> bits, &rank, &n))
		return -ESTALE;
	offset = ((c->data_first + rank) << bits) + into;
	if (e.kind == Q2_RUN_DATA)
		*raw = offset | (n == 1 ? Q2_ENTRY_COPIED : 0);
	else
		*raw = (*raw & ~((UINT64_C(1) << (62 - (bits - 8))) - 1) & ~Q2_ENTRY_COPIED) | offset;
	if (e.kind == Q2_RUN_COMPRESSED)
		*bitmap = 0; /* it says nothing there */
	return 0;
}
