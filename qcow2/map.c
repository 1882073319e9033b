/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a map is held.
 *
 * The L1 table is read whole at the first question, and every L2 table that a question meets is compiled into runs
 * (entry.h) and published through one atomic pointer per L1 entry; from then on it is read without any lock and stays
 * until the map is dropped. There is no eviction: past the byte limit of the cache nothing more is published, and a
 * question reads just the 4 KiB slice of the L2 table it needs, which costs a pread of the page cache and is what
 * QEMU does all the time. So memory is bounded, and the readers of what is held need no lock and no reference count.
 *
 * Snapshots of one file share most of their L2 tables. A table is therefore also registered by (file, host offset), with
 * the map that loaded it as owner. Another map may share it only after the owner's snapshot has been found still in
 * the file: at that moment both snapshots exist and point at this table, so what it said then it says for both. Without
 * that check a freed cluster, now the table of a younger snapshot, would be answered from the dead one's memory. The
 * owner has the table in one of its slots for as long as it lives, so that it takes it off the list when it goes.
 *
 * A table that was read while its snapshot was being deleted, or while a frozen image was being changed, may be garbage,
 * and is published all the same: whoever read it validates before using the answer. Of a snapshot every answer is
 * validated, so that nobody believes this map again. Of a frozen image most are not, so there each table remembers how
 * many were read before it, and is unsure until somebody has found the file unchanged after that.
 */#include "map.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "file.h"
#include "map-priv.h"

#define SLICE 4096u

/* ---------------------------------------------------------------- L1 */

static int read_metadata(struct q2_file *f, void *buf, size_t len, uint64_t off, const char *what, struct vs_err *err)
{
	ssize_t n = f->ops->pread(f, buf, len, off);

	if (n < 0)
		return vs_err_set(err, (int)n, "'%s': cannot read the %s at offset %#" PRIx64 ": %s", f->path, what, off,
				  strerror((int)-n));
	if ((size_t)n < len)
		return vs_err_set(err, -EUCLEAN, "'%s': the %s at offset %#" PRIx64 " reaches past the end of the file",
				  f->path, what, off);
	return 0;
}

/* The L1 table whole, or *out = NULL when the budget does not have it. */
static int l1_load(struct q2_cache *c, struct q2_map *m, struct q2_file *f, struct q2_l1 **out, struct vs_err *err)
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
	rc = l1 && l1->slots ? read_metadata(f, l1->entries, n * 8, m->l1_off, "L1 table", err) : -ENOMEM;
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

static int l1_entry(struct q2_map *m, struct q2_file *f, struct q2_l1 *l1, uint64_t idx, uint64_t *entry, struct vs_err *err)
{
	uint8_t raw[8];
	int rc;

	if (l1) {
		*entry = l1->entries[idx];
		return 0;
	}
	rc = read_metadata(f, raw, sizeof(raw), m->l1_off + idx * 8, "L1 table", err);
	if (!rc)
		*entry = q2_be64(raw);
	return rc;
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
		      struct q2_table **out, struct vs_err *err)
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
	rc = read_metadata(f, buf, len, l2_off, "L2 table", err);
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
	t->key = (struct q2_table_key){ m->key.dev, m->key.ino, l2_off };
	atomic_fetch_add(&c->tables_loaded, 1);
	*out = t;
	return 0;
}

/* The compiled table of L1 entry @idx, published; *out = NULL past the budget. */
static int table_get(struct q2_cache *c, struct q2_map *m, struct q2_file *f, struct q2_l1 *l1, uint64_t idx, uint64_t l2_off,
		     struct q2_table **out, bool *loaded, struct vs_err *err)
{
	struct q2_table *t = atomic_load(&l1->slots[idx]), *there = NULL;
	bool shared;
	int rc;

	if (t) {
		*out = t;
		return 0;
	}
	*loaded = true;
	t = q2_table_share(c, m, f, l2_off);
	shared = t != NULL;
	if (!t) {
		rc = table_load(c, m, f, l2_off, idx << q2_l1_shift(&m->g), &t, err);
		if (rc || !t) {
			*out = NULL;
			return rc;
		}
	}
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
			     uint64_t in_table, uint64_t max_len, struct q2_piece *out, struct vs_err *err)
{
	uint32_t table_len = (uint32_t)1 << m->g.cluster_bits, slice = table_len < SLICE ? table_len : SLICE;
	unsigned entry_shift = m->g.extended_l2 ? 4 : 3;
	uint32_t entry = (uint32_t)(in_table >> m->g.cluster_bits);
	uint32_t start = (entry << entry_shift) & ~(slice - 1);
	uint32_t first = start >> entry_shift, count = slice >> entry_shift;
	struct q2_runs runs = { 0 };
	uint8_t buf[SLICE];
	int rc;

	rc = read_metadata(f, buf, slice, l2_off + start, "L2 table", err);
	if (!rc)
		rc = q2_l2_compile(&m->g, buf, first, count, table_guest_off, &runs);
	if (!rc)
		rc = answer(m, f, runs.v, runs.n, (uint64_t)(first + count) << (m->g.cluster_bits - q2_unit_bits(&m->g)),
			    in_table, table_guest_off + in_table, max_len, out, err);
	free(runs.v);
	return rc;
}

/* No table here: unallocated, and so is everything up to the next L1 entry that has one. */
static int answer_empty(struct q2_map *m, struct q2_l1 *l1, uint64_t idx, uint64_t in_table, uint64_t max_len,
			struct q2_piece *out)
{
	unsigned shift = q2_l1_shift(&m->g);
	uint64_t end = idx + 1, len;

	if (idx >= m->l1_entries) {
		len = max_len;
	} else {
		while (l1 && end < m->l1_entries && !l1->entries[end] && ((end - idx) << shift) - in_table < max_len)
			end++;
		len = ((end - idx) << shift) - in_table;
	}
	out->kind = Q2_RUN_UNALLOCATED;
	out->len = len < max_len ? len : max_len;
	out->host_off = 0;
	out->max_len = 0;
	return 0;
}

/* Has nobody vouched for what an answer was taken from? @t: NULL where only the L1 table was. */
static bool is_unsure(struct q2_map *m, const struct q2_l1 *l1, const struct q2_table *t)
{
	uint64_t vouched = atomic_load(&m->vouched);

	return !m->snapshot && (!l1 || l1->serial > vouched || (t && t->serial > vouched));
}

int q2_map_lookup(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t guest_off, uint64_t max_len,
		  struct q2_piece *out, struct vs_err *err)
{
	unsigned shift = q2_l1_shift(&m->g);
	uint64_t idx = guest_off >> shift, in_table = guest_off & ((UINT64_C(1) << shift) - 1), entry, l2_off;
	struct q2_l1 *l1 = atomic_load(&m->l1);
	struct q2_table *t = NULL;
	bool aligned, loaded = false;
	int rc;

	out->loaded = 0;
	out->unsure = false;
	if (idx >= m->l1_entries)
		return answer_empty(m, NULL, idx, in_table, max_len, out);
	if (!l1) {
		rc = l1_load(c, m, f, &l1, err);
		if (rc)
			return rc;
		out->loaded = l1 ? m->l1_entries * 8 : 8;
	}
	rc = l1_entry(m, f, l1, idx, &entry, err);
	if (rc)
		return rc;
	l2_off = q2_l1_decode(&m->g, entry, &aligned);
	out->unsure = is_unsure(m, l1, NULL);
	if (!l2_off)
		return answer_empty(m, l1, idx, in_table, max_len, out);
	if (!aligned)
		return vs_err_set(err, -EUCLEAN, "'%s': L1 entry %" PRIu64 " (%#" PRIx64 ") points at an L2 table that is not "
				  "aligned to a cluster", f->path, idx, entry);
	if (l1) {
		rc = table_get(c, m, f, l1, idx, l2_off, &t, &loaded, err);
		if (rc)
			return rc;
		if (loaded && t)
			out->loaded += 1u << m->g.cluster_bits;
	}
	if (!t) {
		out->loaded += SLICE;
		out->unsure = true;
		return answer_from_slice(m, f, l2_off, idx << shift, in_table, max_len, out, err);
	}
	out->unsure = is_unsure(m, l1, t);
	return answer(m, f, t->runs, t->n_runs, UINT64_C(1) << (shift - q2_unit_bits(&m->g)), in_table, guest_off, max_len,
		      out, err);
}

static bool table_has_compressed(const struct q2_table *t)
{
	size_t i;

	for (i = 0; i < t->n_runs; i++)
		if (t->runs[i].kind == Q2_RUN_COMPRESSED)
			return true;
	return false;
}

int q2_map_has_compressed(struct q2_cache *c, struct q2_map *m, struct q2_file *f, size_t max_tables, struct vs_err *err)
{
	struct q2_l1 *l1 = atomic_load(&m->l1);
	uint64_t i, used = 0, stride, l2_off;
	struct q2_table *t;
	bool aligned, loaded;
	int rc;

	if (!l1 && (rc = l1_load(c, m, f, &l1, err)))
		return rc;
	if (!l1)
		return 0;
	for (i = 0; i < m->l1_entries; i++)
		used += l1->entries[i] != 0;
	stride = max_tables && used > max_tables ? used / max_tables : 1;
	for (i = 0, used = 0; i < m->l1_entries; i++) {
		l2_off = q2_l1_decode(&m->g, l1->entries[i], &aligned);
		if (!l2_off || !aligned || used++ % stride)
			continue;
		if (!table_get(c, m, f, l1, i, l2_off, &t, &loaded, NULL) && t && table_has_compressed(t))
			return 1;
	}
	return 0;
}
