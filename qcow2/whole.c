/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A file that was cut off: QEMU opens it, for it reads zeros past the end. An L1 or L2 table of zeros means "look below", so what was
 * written to the image seems never to have been; a cluster of zeros is data; and whoever merges the image makes that true. So before
 * that all of them are looked for.
 *
 * QEMU enters a cluster in a refcount block before it enters it in a table, and keeps it there while it is in use. So if nothing is
 * counted at or past the end of the file, then nothing is missing, and that is seen in a moment, however large the image is. Otherwise
 * nobody knows: a cluster may be counted that was never written (a QEMU that is at work or was killed), and an image that is marked dirty
 * may use what it does not count. Then all L2 tables are read.
 *
 * What QEMU itself leaves behind is whole: a file may end within its last cluster (the end of the disk, a compressed one). Nothing can be
 * told of a cut within that one.
 *
 * The file may be written meanwhile. QEMU writes data before the table is entered that points at it: the size is asked for after the
 * entries were read. A table that was freed and used otherwise in between is garbage, so damage is believed when it is seen twice.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "entry.h"
#include "file.h"
#include "header.h"
#include "image.h"
#include "work.h"

#define SLICE      65536
#define LIST_MAX   (1u << 20) /* L2 tables at a time: a quarter of a PiB of disk at least */

static int file_size(struct q2_file *f, uint64_t *size, struct vs_err *err)
{
	int rc = f->ops->size(f, size);

	return rc < 0 ? vs_err_set(err, rc, "cannot stat '%s': %s", f->path, strerror(-rc)) : 0;
}

int q2_table_inside(struct q2_file *f, const char *what, uint64_t off, uint64_t len, struct vs_err *err)
{
	uint64_t size;
	int rc = len ? file_size(f, &size, err) : 0;

	if (rc || !len || (off <= size && len <= size - off))
		return rc;
	return vs_err_set(err, -EUCLEAN, "'%s' was cut off: its %s at %#" PRIx64 " lies past its end at %#" PRIx64, f->path, what, off, size);
}

/* ---------------------------------------------------------------- L1 tables */

/* Where L2 tables are. */
struct list {
	uint64_t *v;
	size_t n, room;
	bool full; /* some were left out */
};

static int by_place(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Snapshots share most of their tables. */
static void list_unique(struct list *l)
{
	size_t n = 0;

	if (l->n)
		qsort(l->v, l->n, sizeof(*l->v), by_place);
	for (size_t i = 0; i < l->n; i++)
		if (!n || l->v[n - 1] != l->v[i])
			l->v[n++] = l->v[i];
	l->n = n;
}

static int list_add(struct list *l, uint64_t off)
{
	uint64_t *v;

	if (l->full || (l->n && l->v[l->n - 1] == off))
		return 0;
	if (l->n == LIST_MAX) {
		list_unique(l);
		l->full = l->n > LIST_MAX / 2;
	}
	if (l->n == l->room) {
		size_t room = l->room ? l->room * 2 : 64;

		v = reallocarray(l->v, room, sizeof(*v));
		if (!v)
			return -ENOMEM;
		l->v = v;
		l->room = room;
	}
	l->v[l->n++] = off;
	return 0;
}

static int check_slice(struct q2_file *f, const uint8_t *entries, size_t n, uint64_t cluster, struct list *list, struct vs_err *err)
{
	uint64_t last = 0;
	int rc = 0;

	for (size_t i = 0; !rc && i < n; i++) {
		uint64_t off = q2_be64(entries + i * 8) & Q2_ENTRY_OFFSET;

		if (off > last)
			last = off;
		if (off)
			rc = list_add(list, off);
	}
	return rc || !last ? rc : q2_table_inside(f, "table", last, cluster, err);
}

static int check_l1(struct q2_file *f, uint64_t off, uint64_t n, uint64_t cluster, struct list *list, struct q2_work *work,
		    struct vs_err *err)
{
	vs_autofree uint8_t *slice = malloc(SLICE);
	int rc = slice ? q2_table_inside(f, "L1 table", off, n * 8, err) : -ENOMEM;

	for (uint64_t done = 0; !rc && done < n && !q2_work_done(work); done += SLICE / 8) {
		size_t some = n - done < SLICE / 8 ? (size_t)(n - done) : SLICE / 8;
		ssize_t got = q2_pread_zeros(f, slice, some * 8, off + done * 8);

		if (got < 0)
			return vs_err_set(err, (int)got, "cannot read the L1 table of '%s': %s", f->path, strerror((int)-got));
		rc = q2_work_spend(work, q2_work_read(some * 8));
		if (!rc)
			rc = check_slice(f, slice, some, cluster, list, err);
	}
	return rc;
}

struct table {
	uint64_t off, n;
};

struct tables {
	struct table *v; /* [0]: of the present content */
	size_t n, room;
	unsigned cluster_bits, refcount_order, version;
	uint64_t incompatible, reftable_off, reftable_len;
	struct list l2;
};

static int begin(void *opaque, const struct q2_header *h)
{
	struct tables *t = opaque;

	if (!t->room) {
		t->v = malloc(sizeof(*t->v));
		if (!t->v)
			return -ENOMEM;
		t->room = 1;
	}
	t->cluster_bits = h->cluster_bits;
	t->refcount_order = h->refcount_order;
	t->version = h->version;
	t->incompatible = h->incompatible;
	t->reftable_off = h->reftable_off;
	t->reftable_len = h->reftable_len;
	t->v[0] = (struct table){ h->l1_off, h->l1_entries };
	t->n = 1;
	return 0;
}

static int entry(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len)
{
	struct tables *t = opaque;

	(void)host_off;
	(void)len;
	if (t->n == t->room) {
		struct table *bigger = reallocarray(t->v, t->room * 2, sizeof(*bigger));

		if (!bigger)
			return -ENOMEM;
		t->v = bigger;
		t->room *= 2;
	}
	t->v[t->n++] = (struct table){ e->s.l1_off, e->s.l1_entries };
	return 0;
}

/* ---------------------------------------------------------------- refcounts */

static bool all_zero(const uint8_t *p, size_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* Is nothing counted in this block from cluster @from on, which is one of its own? 1, 0, negative errno. */
static int block_is_empty(struct q2_file *f, const struct tables *t, uint64_t block, uint64_t from, uint8_t *slice, struct q2_work *work)
{
	uint64_t cluster = UINT64_C(1) << t->cluster_bits;
	uint64_t at = (from << t->refcount_order) / 8; /* with what shares its byte */

	for (; at < cluster; at += SLICE) {
		size_t len = cluster - at < SLICE ? (size_t)(cluster - at) : SLICE;
		ssize_t got = q2_pread_zeros(f, slice, len, block + at);
		int rc = got < 0 ? (int)got : q2_work_spend(work, q2_work_read(len));

		if (rc < 0)
			return rc;
		if (!all_zero(slice, len))
			return 0;
	}
	return 1;
}

/* Are there any refcounts at all? The header's own cluster is counted by whoever keeps them. */
static int header_is_counted(struct q2_file *f, const struct tables *t, uint64_t block)
{
	uint8_t count[8];
	size_t len = t->refcount_order > 3 ? (size_t)1 << (t->refcount_order - 3) : 1;
	ssize_t got = block ? q2_pread_zeros(f, count, len, block) : 0;

	if (got <= 0)
		return (int)got;
	if (t->refcount_order < 3)
		count[0] &= (uint8_t)((1 << (1 << t->refcount_order)) - 1);
	return !all_zero(count, len);
}

/* Do refcounts tell that nothing lies past the end? 1; 0: they do not; negative errno. */
static int refcounts_vouch(struct q2_file *f, const struct tables *t, struct q2_work *work, struct vs_err *err)
{
	vs_autofree uint8_t *table = malloc(t->reftable_len), *slice = malloc(SLICE);
	uint64_t size = 0, first, block_clusters = (UINT64_C(8) << t->cluster_bits) >> t->refcount_order;
	ssize_t got;
	int rc;

	if (!table || !slice)
		return -ENOMEM;
	if (t->incompatible & (Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT))
		return 0;
	rc = q2_table_inside(f, "refcount table", t->reftable_off, t->reftable_len, err);
	if (rc)
		return rc;
	got = q2_pread_zeros(f, table, t->reftable_len, t->reftable_off);
	rc = got < 0 ? (int)got : q2_work_spend(work, q2_work_read(t->reftable_len));
	if (!rc)
		rc = file_size(f, &size, err);
	first = (size + (UINT64_C(1) << t->cluster_bits) - 1) >> t->cluster_bits;
	if (!rc) {
		rc = header_is_counted(f, t, q2_be64(table) & Q2_ENTRY_OFFSET);
		if (rc <= 0)
			return rc;
		rc = 0;
	}
	for (uint64_t i = 0; !rc && i < t->reftable_len / 8; i++) {
		uint64_t block = q2_be64(table + i * 8) & Q2_ENTRY_OFFSET, start = i * block_clusters;

		if (!block)
			continue;
		rc = block < size ? 0 : q2_table_inside(f, "refcount block", block, 1, err); /* QEMU writes it before it is entered */
		if (rc)
			return rc;
		if (size - block < UINT64_C(1) << t->cluster_bits)
			return 0;
		if (start + block_clusters <= first)
			continue;
		rc = block_is_empty(f, t, block, first > start ? first - start : 0, slice, work);
		if (rc == 0)
			return 0;
		rc = rc < 0 ? rc : 0;
	}
	return rc < 0 ? rc : 1;
}

/* ---------------------------------------------------------------- L2 tables */

/* Where the data begins that this entry uses; 0: none. */
static uint64_t data_off(const struct tables *t, const uint8_t *p)
{
	uint64_t entry = q2_be64(p);

	if (entry & Q2_ENTRY_COMPRESSED)
		return entry & ((UINT64_C(1) << (62 - (t->cluster_bits - 8))) - 1);
	if (t->incompatible & Q2_INCOMPAT_EXTL2)
		return q2_be64(p + 8) & UINT32_MAX ? entry & Q2_ENTRY_OFFSET : 0;
	return entry & Q2_ENTRY_ZERO && t->version >= 3 ? 0 : entry & Q2_ENTRY_OFFSET;
}

static int check_l2(struct q2_file *f, const struct tables *t, uint64_t off, uint8_t *slice, struct q2_work *work, struct vs_err *err)
{
	uint64_t cluster = UINT64_C(1) << t->cluster_bits, last = 0, size;
	size_t entry_len = t->incompatible & Q2_INCOMPAT_EXTL2 ? 16 : 8;
	int rc = 0;

	for (uint64_t at = 0; at < cluster; at += SLICE) {
		size_t len = cluster - at < SLICE ? (size_t)(cluster - at) : SLICE;
		ssize_t got = q2_pread_zeros(f, slice, len, off + at);

		if (got < 0)
			return vs_err_set(err, (int)got, "cannot read a table of '%s': %s", f->path, strerror((int)-got));
		rc = q2_work_spend(work, q2_work_read(len));
		if (rc)
			return rc;
		for (size_t i = 0; i < len; i += entry_len) {
			uint64_t data = data_off(t, slice + i);

			last = data > last ? data : last;
		}
	}
	rc = last ? file_size(f, &size, err) : 0;
	if (rc || !last || last < size)
		return rc;
	return vs_err_set(err, -EUCLEAN, "'%s' was cut off: its data at %#" PRIx64 " lies past its end at %#" PRIx64, f->path, last, size);
}

static int check_all_l2(struct q2_file *f, struct tables *t, struct q2_work *work, struct vs_err *err)
{
	vs_autofree uint8_t *slice = malloc(SLICE);
	int rc = slice ? 0 : -ENOMEM;

	list_unique(&t->l2);
	for (size_t i = 0; !rc && i < t->l2.n && !q2_work_done(work); i++)
		rc = check_l2(f, t, t->l2.v[i], slice, work, err);
	return rc;
}

/* ---------------------------------------------------------------- all */

static int look_once(struct q2_file *f, struct tables *t, struct q2_work *work, struct vs_err *err)
{
	struct q2_walk walk = { t, begin, entry };
	int rc = q2_walk_snapshots(f, &walk, work, err);

	t->l2.n = 0;
	t->l2.full = false;
	for (size_t i = 0; !rc && i < t->n && !q2_work_done(work); i++)
		rc = check_l1(f, t->v[i].off, t->v[i].n, UINT64_C(1) << t->cluster_bits, &t->l2, work, err);
	if (rc)
		return rc;
	rc = refcounts_vouch(f, t, work, err);
	if (rc)
		return rc < 0 ? rc : 0;
	if (!(t->incompatible & Q2_INCOMPAT_DATA_FILE))
		rc = check_all_l2(f, t, work, err);
	if (!rc && (q2_work_done(work) || t->l2.full))
		return vs_err_set(err, -EFBIG, "'%s' is too large to find out in time whether it was cut off (qemu-img check tells)", f->path);
	return rc;
}

int q2_file_whole(struct q2_file *f, struct q2_work *work, struct vs_err *err)
{
	struct tables tables = { .v = NULL };
	struct vs_err first = { 0 };
	int rc = look_once(f, &tables, work, &first);

	if (rc == -EUCLEAN)
		rc = look_once(f, &tables, work, err);
	else if (rc && err)
		*err = first;
	free(tables.v);
	free(tables.l2.v);
	return rc;
}
