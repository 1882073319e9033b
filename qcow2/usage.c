/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Whose is each cluster of the file? Two bytes for each say: nobody's, one owner's, or several ones'. An owner is a snapshot, or the present
 * content. First the L1 tables are read: an L2 table belongs to all whose L1 tables lead to it. Then every L2 table is read once, in the order
 * of the file, and what it refers to belongs to whoever the table belongs to. A cluster with one owner is what a delete of that one frees:
 * its refcount is the number of ways that lead to it, and all of them begin there.
 *
 * Of a set of snapshots that go together two of the set may share what nobody else has. That takes one bit more: can the cluster be
 * reached from anyone who stays?
 *
 * What a snapshot holds is a sum over its tables. For that the tables are kept in a list with what each refers to, and the L1 tables are
 * read again. Only streams of compressed clusters share clusters of the file within one snapshot; they are counted by their length.
 *
 * The table of snapshots is written anew by every delete, and may need fewer clusters then.
 *
 * The file may be written meanwhile. While a snapshot is there its tables do not change, so the figures are right if the snapshots are the
 * same ones at the end. The present content's tables do change; a place that was allocated after the file's length was asked for can
 * only be the present content's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "bytes.h"
#include "entry.h"
#include "export.h"
#include "image.h"
#include "file.h"
#include "work.h"

#define NOBODY  0u
#define PRESENT 1u
#define FIRST   2u /* the first snapshot */
#define SEVERAL 0xffffu
#define SLICE   65536u
#define WORK_ENTRY 4 /* to find an L2 table among all that there are */
#define MOST    (256u << 20) /* bytes, for all that are made at a time */
#define REFCOUNT_BYTES 2u    /* in a compact copy */

struct l1 {
	uint64_t off, n;
	size_t stored_len, written_len; /* of its entry in the table of snapshots */
	bool stays;
};

/* An L2 table. */
struct l2 {
	uint64_t off;
	uint64_t bytes; /* that it refers to */
};

struct count {
	struct q2_file *file;
	const struct q2_usage_spec *spec;
	struct q2_geometry g;
	uint64_t snapshots_off;
	uint64_t n_clusters; /* of the file */
	struct l1 *l1;       /* [0]: the present content's; then one for each snapshot */
	size_t n_l1;
	uint16_t *owner;     /* of each cluster */
	uint64_t *stays;     /* a bit for each */
	struct l2 *l2;       /* by place */
	size_t n_l2, room, charged;
	uint8_t *buf;
	struct q2_usage *usage;
	struct vs_err *err;
};

static uint64_t clusters_of(const struct count *c, uint64_t len)
{
	return q2_clusters_for(c->g.cluster_bits, len);
}

static size_t n_snapshots(const struct count *c)
{
	return c->spec->info->n_snapshots;
}

static int spend(struct count *c, uint64_t units)
{
	if (q2_work_done(c->spec->work))
		return vs_err_set(c->err, -EFBIG, "'%s' takes too long to be counted", c->file->path);
	return q2_work_spend(c->spec->work, units);
}

/* ---------------------------------------------------------------- memory */

static atomic_size_t taken;

bool q2_usage_charge(size_t bytes)
{
	bool fits = atomic_fetch_add(&taken, bytes) + bytes <= MOST;

	if (!fits)
		atomic_fetch_sub(&taken, bytes);
	return fits;
}

void q2_usage_uncharge(size_t bytes)
{
	atomic_fetch_sub(&taken, bytes);
}

static int charge(struct count *c, size_t bytes)
{
	if (bytes > MOST - c->charged)
		return vs_err_set(c->err, -EFBIG, "'%s' has too many clusters to be counted in %u MiB", c->file->path, MOST >> 20);
	if (!q2_usage_charge(bytes))
		return vs_err_set(c->err, -ENOBUFS, "'%s' cannot be counted: what others hold leaves too little memory", c->file->path);
	c->charged += bytes;
	return 0;
}

static void count_fini(struct count *c)
{
	free(c->l1);
	free(c->owner);
	free(c->stays);
	free(c->l2);
	free(c->buf);
	q2_usage_uncharge(c->charged);
}

static int count_init(struct count *c)
{
	uint64_t size, words;
	int r = c->file->ops->size(c->file, &size);

	if (r < 0)
		return vs_err_set(c->err, r, "cannot stat '%s': %s", c->file->path, strerror(-r));
	c->n_clusters = clusters_of(c, size);
	words = c->n_clusters / 64 + 1;
	if (c->n_clusters > MOST)
		return charge(c, SIZE_MAX);
	r = charge(c, c->n_clusters * sizeof(*c->owner) + words * sizeof(*c->stays));
	if (r < 0)
		return r;
	c->owner = calloc(c->n_clusters + 1, sizeof(*c->owner));
	c->stays = calloc(words, sizeof(*c->stays));
	c->buf = malloc(c->g.cluster_bits > 16 ? UINT64_C(1) << c->g.cluster_bits : SLICE);
	return c->owner && c->stays && c->buf ? 0 : -ENOMEM;
}

/* ---------------------------------------------------------------- clusters */

static bool is_kept(const struct count *c, uint64_t cluster)
{
	return c->stays[cluster / 64] >> (cluster % 64) & 1;
}

static void mark_cluster(struct count *c, uint64_t cluster, uint16_t owner, bool stays)
{
	uint16_t *at = &c->owner[cluster];

	*at = *at == NOBODY || *at == owner ? owner : SEVERAL;
	if (stays)
		c->stays[cluster / 64] |= UINT64_C(1) << (cluster % 64);
}

static int mark(struct count *c, uint64_t off, uint64_t len, uint16_t owner, bool stays)
{
	uint64_t first = off >> c->g.cluster_bits, last = (off + len - 1) >> c->g.cluster_bits;

	if (last >= c->n_clusters && c->spec->live && owner == PRESENT)
		return 0;
	if (last >= c->n_clusters)
		return vs_err_set(c->err, -EUCLEAN, "'%s': a table refers to %#" PRIx64 ", past the end of the file", c->file->path, off);
	for (; first <= last; first++)
		mark_cluster(c, first, owner, stays);
	return 0;
}

/* ---------------------------------------------------------------- the snapshots */

static int begin(void *opaque, const struct q2_header *h)
{
	struct count *c = opaque;

	c->g = (struct q2_geometry){ .cluster_bits = h->cluster_bits, .v3 = h->version >= 3,
				     .extended_l2 = h->incompatible & Q2_INCOMPAT_EXTL2, .data_file = h->incompatible & Q2_INCOMPAT_DATA_FILE };
	c->l1[0] = (struct l1){ .off = h->l1_off, .n = h->l1_entries, .stays = true };
	c->snapshots_off = h->snapshots_off;
	c->n_l1 = 1;
	return 0;
}

static int other_snapshots(struct count *c)
{
	return vs_err_set(c->err, -ESTALE, "the snapshots in '%s' changed while they were counted", c->file->path);
}

static int entry(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len)
{
	struct count *c = opaque;
	size_t i = c->n_l1 - 1;

	(void)host_off;
	(void)len;
	if (i >= n_snapshots(c) || !q2_snap_entry_is(e, &c->spec->info->snapshots[i]))
		return other_snapshots(c);
	c->l1[c->n_l1++] = (struct l1){ .off = e->s.l1_off, .n = e->s.l1_entries, .stored_len = e->raw_len, .written_len = e->written_len,
					.stays = !c->spec->goes || !c->spec->goes[i] };
	return 0;
}

/* Where all L1 tables are. */
static int find_l1(struct count *c)
{
	struct q2_walk walk = { c, begin, entry };
	int r;

	if (n_snapshots(c) > SEVERAL - FIRST)
		return vs_err_set(c->err, -EFBIG, "'%s' has more than %u snapshots, too many to be counted", c->file->path, SEVERAL - FIRST);
	c->l1 = calloc(n_snapshots(c) + 1, sizeof(*c->l1));
	r = c->l1 ? q2_walk_snapshots(c->file, &walk, c->spec->work, c->err) : -ENOMEM;
	return r == 0 && c->n_l1 != n_snapshots(c) + 1 ? other_snapshots(c) : r;
}

/* Are they the same ones still, at the same place? A table that was written anew may belong to others of the same names. */
static int check_l1(struct count *c)
{
	struct l1 present = c->l1[0];
	uint64_t snapshots_off = c->snapshots_off;
	struct q2_walk walk = { c, begin, entry };
	int r = q2_walk_snapshots(c->file, &walk, c->spec->work, c->err);

	if (r == 0 && (c->n_l1 != n_snapshots(c) + 1 || c->snapshots_off != snapshots_off || c->l1[0].off != present.off || c->l1[0].n != present.n))
		return other_snapshots(c);
	return r;
}

/* ---------------------------------------------------------------- L1 tables */

typedef int l2_fn(struct count *c, size_t l1, uint64_t l2_off);

static int each_l2(struct count *c, size_t l1, l2_fn *each)
{
	const struct l1 *t = &c->l1[l1];
	bool aligned;
	int r = 0;

	for (uint64_t done = 0, some; r == 0 && done < t->n; done += some) {
		ssize_t got;

		some = t->n - done < SLICE / 8 ? t->n - done : SLICE / 8;
		got = q2_pread_zeros(c->file, c->buf, some * 8, t->off + done * 8);
		if (got < 0)
			return vs_err_set(c->err, (int)got, "cannot read an L1 table of '%s': %s", c->file->path, strerror((int)-got));
		r = spend(c, q2_work_read(some * 8) + some * WORK_ENTRY);
		for (uint64_t i = 0; r == 0 && i < some; i++) {
			uint64_t off = q2_l1_decode(&c->g, q2_be64(c->buf + i * 8), &aligned);

			if (off && !aligned)
				r = vs_err_set(c->err, -EUCLEAN, "'%s': an L1 entry points at %#" PRIx64 ", which is not aligned to a cluster", c->file->path, off);
			else if (off)
				r = each(c, l1, off);
		}
	}
	return r;
}

static int add_l2(struct count *c, uint64_t off)
{
	struct l2 *more;
	size_t room;
	int r;

	if (c->n_l2 == c->room) {
		room = c->room ? c->room * 2 : 64;
		r = charge(c, (room - c->room) * sizeof(*more));
		if (r < 0)
			return r;
		more = reallocarray(c->l2, room, sizeof(*more));
		if (!more)
			return -ENOMEM;
		c->l2 = more;
		c->room = room;
	}
	c->l2[c->n_l2++] = (struct l2){ .off = off };
	return 0;
}

static uint16_t owner_of(size_t l1)
{
	return (uint16_t)(l1 + PRESENT);
}

static int mark_l2(struct count *c, size_t l1, uint64_t l2_off)
{
	uint64_t cluster = l2_off >> c->g.cluster_bits;
	bool met = cluster < c->n_clusters && c->owner[cluster] != NOBODY;
	int r = mark(c, l2_off, UINT64_C(1) << c->g.cluster_bits, owner_of(l1), c->l1[l1].stays);

	return r < 0 || met || cluster >= c->n_clusters ? r : add_l2(c, l2_off);
}

static int mark_l1_tables(struct count *c)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->n_l1; i++)
		r = each_l2(c, i, mark_l2);
	for (size_t i = 0; r == 0 && i < c->n_l1; i++)
		if (c->l1[i].n)
			r = mark(c, c->l1[i].off, c->l1[i].n * 8, owner_of(i), c->l1[i].stays);
	return r;
}

/* ---------------------------------------------------------------- L2 tables */

static int by_place(const void *a, const void *b)
{
	uint64_t x = ((const struct l2 *)a)->off, y = ((const struct l2 *)b)->off;

	return (x > y) - (x < y);
}

static int count_l2(struct count *c, struct l2 *t)
{
	size_t cluster = (size_t)1 << c->g.cluster_bits, step = c->g.extended_l2 ? 16 : 8;
	uint64_t at = t->off >> c->g.cluster_bits, off, len;
	uint16_t owner = c->owner[at];
	bool stays = is_kept(c, at);
	ssize_t got = q2_pread_zeros(c->file, c->buf, cluster, t->off);
	int r = spend(c, q2_work_read(cluster));

	if (got < 0)
		return vs_err_set(c->err, (int)got, "cannot read an L2 table of '%s': %s", c->file->path, strerror((int)-got));
	for (size_t i = 0; r == 0 && i < cluster; i += step) {
		q2_l2_refers(&c->g, q2_be64(c->buf + i), &off, &len);
		t->bytes += len;
		if (len)
			r = mark(c, off, len, owner, stays);
	}
	return r;
}

static int count_l2_tables(struct count *c)
{
	int r = 0;

	if (c->n_l2)
		qsort(c->l2, c->n_l2, sizeof(*c->l2), by_place);
	for (size_t i = 0; r == 0 && i < c->n_l2; i++)
		r = count_l2(c, &c->l2[i]);
	return r;
}

/* ---------------------------------------------------------------- the figures */

static struct q2_usage_snapshot *figures_of(struct q2_usage *u, size_t l1)
{
	return l1 ? &u->snapshots[l1 - 1] : &u->present;
}

static int add_held(struct count *c, size_t l1, uint64_t l2_off)
{
	const struct l2 key = { .off = l2_off }, *t = c->n_l2 ? bsearch(&key, c->l2, c->n_l2, sizeof(key), by_place) : NULL;

	if (t)
		figures_of(c->usage, l1)->holds += t->bytes + (UINT64_C(1) << c->g.cluster_bits);
	return 0;
}

static int add_all_held(struct count *c)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->n_l1; i++) {
		figures_of(c->usage, i)->holds = clusters_of(c, c->l1[i].n * 8) << c->g.cluster_bits;
		r = each_l2(c, i, add_held);
	}
	return r;
}

static void add_clusters(struct count *c)
{
	uint64_t cluster = UINT64_C(1) << c->g.cluster_bits;

	for (uint64_t i = 0; i < c->n_clusters; i++) {
		uint16_t owner = c->owner[i];

		if (owner == NOBODY)
			continue;
		c->usage->used += cluster;
		if (owner != SEVERAL)
			figures_of(c->usage, owner - PRESENT)->only += cluster;
		if (!is_kept(c, i))
			c->usage->together += (int64_t)cluster;
	}
}

static uint64_t padded(uint64_t len)
{
	return (len + 7) & ~UINT64_C(7);
}

/* Bytes of the table of snapshots as it would be written without some; each entry but the last is padded. */
static uint64_t written_len(uint64_t all_padded, uint64_t without_padded, const struct l1 *last)
{
	return last ? all_padded - without_padded - (padded(last->written_len) - last->written_len) : 0;
}

static void add_table(struct count *c)
{
	size_t n = n_snapshots(c);
	const struct l1 *s = c->l1 + 1, *last = NULL;
	uint64_t stored = 0, written = 0, going = 0;
	unsigned bits = c->g.cluster_bits;

	for (size_t i = 0; i < n; i++) {
		stored += i + 1 < n ? padded(s[i].stored_len) : s[i].stored_len;
		written += padded(s[i].written_len);
		going += s[i].stays ? 0 : padded(s[i].written_len);
		last = s[i].stays ? &s[i] : last;
	}
	for (size_t i = 0; i < n; i++) {
		const struct l1 *end = i + 1 < n ? &s[n - 1] : i ? &s[i - 1] : NULL;
		uint64_t len = written_len(written, padded(s[i].written_len), end);

		c->usage->snapshots[i].frees = (int64_t)c->usage->snapshots[i].only +
					       (((int64_t)clusters_of(c, stored) - (int64_t)clusters_of(c, len)) << bits);
	}
	if (going)
		c->usage->together += ((int64_t)clusters_of(c, stored) - (int64_t)clusters_of(c, written_len(written, going, last))) << bits;
	c->usage->compact = clusters_of(c, written);
}

/* Header, the table of snapshots, what is in use, and counts of all that and of themselves. */
static void estimate_compact(struct count *c)
{
	uint64_t bare = 1 + c->usage->compact + (c->usage->used >> c->g.cluster_bits), all = bare, counts;

	do {
		counts = all;
		all = clusters_of(c, all * REFCOUNT_BYTES);
		all += bare + clusters_of(c, all * 8);
	} while (all != counts);
	c->usage->compact = all << c->g.cluster_bits;
}

/* ---------------------------------------------------------------- all */

static int count_all(struct count *c)
{
	int r = find_l1(c);

	if (r == 0)
		r = count_init(c);
	if (r == 0)
		r = mark_l1_tables(c);
	if (r == 0)
		r = count_l2_tables(c);
	if (r == 0)
		r = add_all_held(c);
	if (r < 0)
		return r;
	add_clusters(c);
	add_table(c);
	estimate_compact(c);
	return check_l1(c);
}

int q2_usage_read(struct q2_file *f, const struct q2_usage_spec *spec, struct q2_usage **out, struct vs_err *err)
{
	size_t n = spec->info->n_snapshots;
	vs_autofree struct q2_usage *usage = calloc(1, sizeof(*usage) + n * sizeof(*usage->snapshots));
	struct count c = { .file = f, .spec = spec, .usage = usage, .err = err };
	int r = usage ? count_all(&c) : -ENOMEM;

	count_fini(&c);
	if (r < 0)
		return r;
	usage->n_snapshots = n;
	*out = vs_steal(usage);
	return 0;
}
