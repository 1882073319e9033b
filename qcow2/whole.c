/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A file that was cut off: QEMU opens it, for it reads zeros past the end, and an L1 or L2 table of zeros means "look below". So what was
 * written to the image seems never to have been, and whoever merges it makes that true. Before that, all tables are looked for.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "file.h"
#include "image.h"
#include "work.h"

#define L2_OFFSET UINT64_C(0x00fffffffffffe00)
#define SLICE     65536

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

/* The size is asked for after the entries were read: QEMU writes a table before it is entered. */
static int check_slice(struct q2_file *f, const uint8_t *entries, size_t n, uint64_t cluster, struct vs_err *err)
{
	uint64_t last = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t off = q2_be64(entries + i * 8) & L2_OFFSET;

		if (off > last)
			last = off;
	}
	return last ? q2_table_inside(f, "table", last, cluster, err) : 0;
}

static int check_l1(struct q2_file *f, uint64_t off, uint64_t n, uint64_t cluster, struct q2_work *work, struct vs_err *err)
{
	vs_autofree uint8_t *slice = malloc(SLICE);
	int rc = slice ? q2_table_inside(f, "L1 table", off, n * 8, err) : -ENOMEM;

	for (uint64_t done = 0; !rc && done < n; done += SLICE / 8) {
		size_t some = n - done < SLICE / 8 ? (size_t)(n - done) : SLICE / 8;
		ssize_t got = q2_pread_zeros(f, slice, some * 8, off + done * 8);

		if (got < 0)
			return vs_err_set(err, (int)got, "cannot read the L1 table of '%s': %s", f->path, strerror((int)-got));
		rc = q2_work_spend(work, q2_work_read(some * 8));
		if (!rc)
			rc = check_slice(f, slice, some, cluster, err);
	}
	return rc;
}

struct table {
	uint64_t off, n;
};

struct tables {
	struct table *v; /* [0]: of the present content */
	size_t n, room;
	unsigned cluster_bits;
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

int q2_file_whole(struct q2_file *f, struct q2_work *work, struct vs_err *err)
{
	struct tables tables = { .v = NULL };
	struct q2_walk walk = { &tables, begin, entry };
	int rc = q2_walk_snapshots(f, &walk, work, err);

	for (size_t i = 0; !rc && i < tables.n && !q2_work_done(work); i++)
		rc = check_l1(f, tables.v[i].off, tables.v[i].n, UINT64_C(1) << tables.cluster_bits, work, err);
	free(tables.v);
	return rc;
}
