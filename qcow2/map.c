/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * How a map is held.
 *
 * The L1 table is read whole at the first question, and every L2 table that a question meets is compiled into runs
 * (entry.h) and published through one atomic pointer per L1 entry; from then on it is read without any lock and stays
 * until the map is dropped. There is no eviction: past the byte limit of the cache nothing more is published, and a
 * question reads just the 4 KiB slices of the L1 and L2 tables it needs, which costs a pread of the page cache and is what
 * QEMU does all the time. So memory is bounded, and the readers of what is held need no lock and no reference count.
 * Which of the two it is depends on what else is open, so nothing that is answered may: a table that reaches past the end of
 * the file is damaged, also where the slice does not.
 *
 * One table, several owners of an entry. Snapshots of one file share most of their L2 tables, and an image that was made to
 * cost has one in all its L1 entries. A table is therefore also registered by (file, host offset), with the map that loaded
 * it as owner, and is loaded once. Another snapshot's map may share it only if the owner's snapshot was found in the
 * file at a time when the other one was there too, and after the table was read: then both point at this table, so what it
 * said then it says for both. Without that a freed cluster, now the table of a younger snapshot, would be answered from the
 * dead one's memory. Times are those of a clock of the cache's own, which ticks when a map is made and when a look at a
 * snapshot begins; usually the owner has been looked at by its own readers, else it is here. The owner has the table in one
 * of its slots for as long as it lives, so that it takes it off the list when it goes. A frozen map shares with itself alone.
 *
 * Work. An answer covers as much as one look can tell: L1 entries without a table are passed over together, and so are
 * entries with one and the same table, if all of that is a hole.
 *
 * A table that was read while its snapshot was being deleted, or while a frozen image was being changed, may be garbage,
 * and is published all the same: whoever read it validates before using the answer. Of a snapshot every answer is
 * validated, so that nobody believes this map again. Of a frozen image most are not, so there each table remembers how
 * many were read before it, and is unsure until somebody has found the file unchanged after that.
 */
#include "map.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "file.h"
#include "map-priv.h"
#include "work.h"

#define SLICE 4096u

/* ---------------------------------------------------------------- L1 */

static int cut_off(const struct q2_file *f, uint64_t off, const char *what, struct vs_err *err)
{
	return vs_err_set(err, -EUCLEAN, "'%s': the %s at offset %#" PRIx64 " reaches past the end of the file", f->path, what,
			  off);
}

/* @len bytes of the @what that begins at @table_off and is @table_len long. */
static int read_metadata(struct q2_file *f, void *buf, size_t len, uint64_t off, uint64_t table_off, uint64_t table_len,
			 const char *what, struct q2_work *work, struct vs_err *err)
{
	uint64_t file_len = UINT64_MAX;
	ssize_t n;
	int rc;

	rc = q2_work_spend(work, q2_work_read(len));
	if (rc)
		return rc;
	n = f->ops->pread(f, buf, len, off);
	if (n < 0)
		return vs_err_set(err, (int)n, "'%s': cannot read the %s at offset %#" PRIx64 ": %s", f->path, what, table_off,
				  strerror((int)-n));
	if ((size_t)n < len)
		return cut_off(f, table_off, what, err);
	if (off + len < table_off + table_len) /* a slice: is the rest there? */
		rc = f->ops->size(f, &file_len);
	if (rc)
		return vs_err_set(err, rc, "cannot tell the size of '%s': %s", f->path, strerror(-rc));
	return table_off + table_len > file_len ? cut_off(f, table_off, what, err) : 0;
}

/* The L1 table whole, or *out = NULL when the budget does not have it. */
static int l1_load(struct q2_cache *c, struct q2_map *m, struct q2_file *f, struct q2_work *work, struct q2_l1 **out,
		   struct vs_err *err)
{
	size_t n = m->l1_entries, bytes = sizeof(struct q2_l1) + n * (8 + sizeof(void *));
	struct q2_l1 *l1, *there = NULL;
	size_t i;
	int rc;

	*out = NULL;
	if (!q2_cache_charge(c, bytes))
		return 0;
	l1 = malloc(sizeof(*l1) + n * 8);
	if (l1)
		l1->slots = calloc(n ? n : 1, sizeof(*l1->slots));
	rc = l1 && l1->slots ? read_metadata(f, l1->entries, n * 8, m->l1_off, m->l1_off, n * 8, "L1 table", work, err) :
			       -ENOMEM;
	if (!rc) {
		l1->bytes = bytes;
		l1->serial = atomic_fetch_add(&m->reads, 1) + 1;
		for (i = 0; i < n; i++)
			l1->entries[i] = q2_be64((uint8_t *)&l1->entries[i]);
		if (atomic_compare_exchange_strong(&m->l1, &there, l1)) {
			*out = l1;
			return 0;
		}
		*out = there;
	}
	q2_cache_uncharge(c, bytes);
	if (l1)
		free(l1->slots);
	free(l1);
	return rc;
}

/* L1 entries from one on: of the table that is held, or, past the budget, as many as a slice has. */
struct l1_view {
	const uint64_t *v;
	uint64_t n;
};

static int l1_entries(struct q2_map *m, struct q2_file *f, const struct q2_l1 *l1, uint64_t idx, uint64_t slice[SLICE / 8],
		      struct q2_work *work, struct l1_view *out, struct vs_err *err)
{
	uint64_t n = m->l1_entries - idx, i;
	int rc;

	if (l1) {
		*out = (struct l1_view){ l1->entries + idx, n };
		return 0;
	}
	if (n > SLICE / 8)
		n = SLICE / 8;
	rc = read_metadata(f, slice, n * 8, m->l1_off + idx * 8, m->l1_off, (uint64_t)m->l1_entries * 8, "L1 table", work, err);
	if (rc)
		return rc;
	for (i = 0; i < n; i++)
		slice[i] = q2_be64((uint8_t *)&slice[i]);
	*out = (struct l1_view){ slice, n };
	return 0;
}

/* ---------------------------------------------------------------- L2 */

static void table_free(struct q2_cache *c, struct q2_table *t)
{
	q2_cache_uncharge(c, t->bytes);
	free(t->runs);
	free(t);
}

/* Reads and compiles a whole table. *out = NULL when the budget does not have it. */
static int table_load(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t l2_off, uint64_t guest_off,
		      struct q2_work *work, struct q2_table **out, struct vs_err *err)
{
	size_t len = (size_t)1 << m->g.cluster_bits;
	struct q2_runs runs = { 0 };
	struct q2_table *t;
	uint8_t *buf;
	size_t bytes;
	int rc;

	*out = NULL;
	/* what a table without neighbours takes: near the limit, none is read and compiled in vain at every question */
	if (!q2_cache_charge(c, sizeof(*t) + 2 * len))
		return 0;
	buf = malloc(len);
	if (!buf) {
		q2_cache_uncharge(c, sizeof(*t) + 2 * len);
		return 0;
	}
	rc = read_metadata(f, buf, len, l2_off, l2_off, len, "L2 table", work, err);
	if (!rc)
		rc = q2_l2_compile(&m->g, buf, 0, (uint32_t)(len >> (m->g.extended_l2 ? 4 : 3)), guest_off, &runs);
	free(buf);
	q2_cache_uncharge(c, sizeof(*t) + 2 * len);
	bytes = sizeof(*t) + runs.n * sizeof(*runs.v);
	if (rc || !q2_cache_charge(c, bytes)) {
		free(runs.v);
		return rc;
	}
	t = calloc(1, sizeof(*t));
	if (!t) {
		q2_cache_uncharge(c, bytes);
		free(runs.v);
		return -ENOMEM;
	}
	t->runs = realloc(runs.v, runs.n * sizeof(*runs.v));
	if (!t->runs)
		t->runs = runs.v;
	t->n_runs = runs.n;
	t->bytes = bytes;
	t->refs = 1;
	t->serial = atomic_fetch_add(&m->reads, 1) + 1;
	t->key = q2_table_key(m, l2_off);
	atomic_fetch_add(&c->tables_loaded, 1);
	*out = t;
	return 0;
}

/* The compiled table of L1 entry @idx, published; *out = NULL past the budget. */
static int table_get(struct q2_cache *c, struct q2_map *m, struct q2_file *f, struct q2_l1 *l1, uint64_t idx, uint64_t l2_off,
		     struct q2_work *work, struct q2_table **out, struct vs_err *err)
{
	struct q2_table *t = atomic_load(&l1->slots[idx]), *there = NULL;
	bool shared;
	int rc;

	*out = t;
	if (t)
		return 0;
	rc = q2_table_share(c, m, f, l2_off, work, &t);
	shared = !rc && t;
	if (!rc && !t)
		rc = table_load(c, m, f, l2_off, idx << q2_l1_shift(&m->g), work, &t, err);
	if (rc || !t)
		return rc;
	if (atomic_compare_exchange_strong(&l1->slots[idx], &there, t)) {
		if (!shared)
			q2_table_register(c, m, t);
		*out = t;
		return 0;
	}
	/* somebody was faster */
	if (shared) {
		pthread_mutex_lock(&c->lock);
		q2_table_put_locked(c, t);
		pthread_mutex_unlock(&c->lock);
	} else {
		table_free(c, t);
	}
	*out = there;
	return 0;
}

/* ---------------------------------------------------------------- the question */

static int bad_entry(struct q2_map *m, struct q2_file *f, uint64_t guest_off, const struct q2_run *r, struct vs_err *err)
{
	(void)m;
	return vs_err_set(err, -EUCLEAN, "'%s': the L2 entry %#" PRIx64 " of guest offset %#" PRIx64 " %s", f->path,
			  r->host_off, guest_off, q2_bad_text((enum q2_bad)r->max_len));
}

/* Answers from compiled runs; @end_unit: where the last run ends; @in_table: the guest offset within the table. */
static int answer(struct q2_map *m, struct q2_file *f, const struct q2_run *v, size_t n, uint64_t end_unit,
		  uint64_t in_table, uint64_t guest_off, uint64_t max_len, struct q2_piece *out, struct vs_err *err)
{
	unsigned unit_bits = q2_unit_bits(&m->g);
	size_t i = q2_runs_find(v, n, (uint32_t)(in_table >> unit_bits));
	uint64_t end = (i + 1 < n ? v[i + 1].first : end_unit) << unit_bits;
	uint64_t into = in_table - ((uint64_t)v[i].first << unit_bits);

	if (v[i].kind == Q2_RUN_BAD)
		return bad_entry(m, f, guest_off, &v[i], err);
	out->kind = (enum q2_run_kind)v[i].kind;
	out->len = end - in_table < max_len ? end - in_table : max_len;
	out->host_off = v[i].host_off + (v[i].kind == Q2_RUN_DATA ? into : 0);
	out->max_len = v[i].max_len;
	return 0;
}

/* Past the budget: the slice of the L2 table that holds the entry, read and forgotten. */
static int answer_from_slice(struct q2_map *m, struct q2_file *f, uint64_t l2_off, uint64_t table_guest_off,
			     uint64_t in_table, uint64_t max_len, struct q2_work *work, struct q2_piece *out,
			     struct vs_err *err)
{
	uint32_t table_len = (uint32_t)1 << m->g.cluster_bits, slice = table_len < SLICE ? table_len : SLICE;
	unsigned entry_shift = m->g.extended_l2 ? 4 : 3;
	uint32_t entry = (uint32_t)(in_table >> m->g.cluster_bits);
	uint32_t start = (entry << entry_shift) & ~(slice - 1);
	uint32_t first = start >> entry_shift, count = slice >> entry_shift;
	struct q2_runs runs = { 0 };
	uint8_t buf[SLICE];
	int rc;

	rc = read_metadata(f, buf, slice, l2_off + start, l2_off, table_len, "L2 table", work, err);
	if (!rc)
		rc = q2_l2_compile(&m->g, buf, first, count, table_guest_off, &runs);
	if (!rc)
		rc = answer(m, f, runs.v, runs.n, (uint64_t)(first + count) << (m->g.cluster_bits - q2_unit_bits(&m->g)),
			    in_table, table_guest_off + in_table, max_len, out, err);
	free(runs.v);
	return rc;
}

/* The answer is a hole as long as @n_entries of the L1 table. */
static int answer_hole(struct q2_map *m, enum q2_run_kind kind, uint64_t n_entries, uint64_t in_table, uint64_t max_len,
		       struct q2_piece *out)
{
	uint64_t len = (n_entries << q2_l1_shift(&m->g)) - in_table;

	out->kind = kind;
	out->len = len < max_len ? len : max_len;
	out->host_off = 0;
	out->max_len = 0;
	return 0;
}

/* How many entries, of those that cover the @max_len bytes that are asked for, lead where the first one leads? */
static uint64_t count_equal(const struct q2_map *m, const struct l1_view *l1, uint64_t l2_off, uint64_t in_table, uint64_t max_len)
{
	unsigned shift = q2_l1_shift(&m->g);
	uint64_t n = 1;
	bool aligned;

	while (n < l1->n && (n << shift) - in_table < max_len && q2_l1_decode(&m->g, l1->v[n], &aligned) == l2_off)
		n++;
	return n;
}

/* Has nobody vouched for what an answer was taken from? @t: NULL where only the L1 table was. */
static bool is_unsure(struct q2_map *m, const struct q2_l1 *l1, const struct q2_table *t)
{
	uint64_t vouched = atomic_load(&m->vouched);

	return !m->snapshot && (!l1 || l1->serial > vouched || (t && t->serial > vouched));
}

/* Is all of the table one hole? */
static bool is_hole(const struct q2_table *t)
{
	return t->n_runs == 1 && (t->runs[0].kind == Q2_RUN_UNALLOCATED || t->runs[0].kind == Q2_RUN_ZERO);
}

static int lookup_in(struct q2_cache *c, struct q2_map *m, struct q2_file *f, struct q2_l1 *held, uint64_t idx,
		     uint64_t in_table, uint64_t max_len, struct q2_work *work, struct q2_piece *out, struct vs_err *err)
{
	unsigned shift = q2_l1_shift(&m->g);
	uint64_t slice[SLICE / 8], l2_off, n = 1;
	struct q2_table *t = NULL;
	struct l1_view l1;
	bool aligned;
	int rc;

	rc = l1_entries(m, f, held, idx, slice, work, &l1, err);
	if (rc)
		return rc;
	l2_off = q2_l1_decode(&m->g, l1.v[0], &aligned);
	out->unsure = is_unsure(m, held, NULL);
	out->has_table = l2_off != 0;
	if (!aligned)
		return vs_err_set(err, -EUCLEAN, "'%s': L1 entry %" PRIu64 " (%#" PRIx64 ") points at an L2 table that is not "
				  "aligned to a cluster", f->path, idx, l1.v[0]);
	if (l2_off && held) {
		rc = table_get(c, m, f, held, idx, l2_off, work, &t, err);
		if (rc)
			return rc;
	}
	if (!l2_off || (t && is_hole(t))) {
		n = count_equal(m, &l1, l2_off, in_table, max_len);
		rc = q2_work_spend(work, q2_work_scan(n));
	}
	if (rc)
		return rc;
	if (!l2_off)
		return answer_hole(m, Q2_RUN_UNALLOCATED, n, in_table, max_len, out);
	out->unsure = !t || is_unsure(m, held, t);
	if (!t)
		return answer_from_slice(m, f, l2_off, idx << shift, in_table, max_len, work, out, err);
	if (n > 1)
		return answer_hole(m, (enum q2_run_kind)t->runs[0].kind, n, in_table, max_len, out);
	return answer(m, f, t->runs, t->n_runs, UINT64_C(1) << (shift - q2_unit_bits(&m->g)), in_table,
		      (idx << shift) + in_table, max_len, out, err);
}

int q2_map_lookup(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t guest_off, uint64_t max_len,
		  struct q2_work *work, struct q2_piece *out, struct vs_err *err)
{
	unsigned shift = q2_l1_shift(&m->g);
	uint64_t idx = guest_off >> shift, in_table = guest_off & ((UINT64_C(1) << shift) - 1);
	struct q2_l1 *l1 = atomic_load(&m->l1);
	int rc;

	out->unsure = false;
	rc = q2_work_spend(work, Q2_WORK_ASK);
	if (rc)
		return rc;
	if (idx >= m->l1_entries) {
		*out = (struct q2_piece){ .kind = Q2_RUN_UNALLOCATED, .len = max_len };
		return 0;
	}
	if (!l1) {
		rc = l1_load(c, m, f, work, &l1, err);
		if (rc)
			return rc;
	}
	return lookup_in(c, m, f, l1, idx, in_table, max_len, work, out, err);
}

static bool table_has_compressed(const struct q2_table *t)
{
	size_t i;

	for (i = 0; i < t->n_runs; i++)
		if (t->runs[i].kind == Q2_RUN_COMPRESSED)
			return true;
	return false;
}

int q2_map_has_compressed(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t units, struct q2_work *work,
			  struct vs_err *err)
{
	uint64_t table_units = q2_work_read(UINT64_C(1) << m->g.cluster_bits), i, used = 0, most, stride, l2_off;
	struct q2_l1 *l1 = atomic_load(&m->l1);
	struct q2_table *t;
	bool aligned;
	int rc;

	if (!l1 && (rc = l1_load(c, m, f, work, &l1, err)))
		return rc;
	if (!l1)
		return 0;
	for (i = 0; i < m->l1_entries; i++)
		used += l1->entries[i] != 0;
	most = units / table_units ? units / table_units : 1;
	stride = used > most ? used / most : 1;
	rc = q2_work_spend(work, q2_work_scan(m->l1_entries));
	for (i = 0, used = 0; i < m->l1_entries && rc != -EINTR && !q2_work_done(work); i++) {
		l2_off = q2_l1_decode(&m->g, l1->entries[i], &aligned);
		if (!l2_off || !aligned || used++ % stride)
			continue;
		rc = table_get(c, m, f, l1, i, l2_off, work, &t, NULL);
		if (!rc && t && table_has_compressed(t))
			return 1;
	}
	return rc == -EINTR ? rc : 0;
}
