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
 */
#include "map.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "file.h"
#include "image.h"

#define SLICE   4096u
#define MAX_WAY (1u << 20) /* longer ways to a record are walked piece by piece */

struct table_key {
	uint64_t dev, ino, host_off;
};

struct q2_table {
	struct table_key key;
	/* guarded by the cache's lock */
	unsigned refs;
	bool listed;
	struct q2_map *owner; /* borrowed; NULL once that map is gone */
	UT_hash_handle hh;
	/* immutable */
	size_t bytes, n_runs;
	uint64_t serial; /* frozen: which read of its map this was, from 1 */
	struct q2_run *runs;
};

struct l1 {
	size_t bytes;
	uint64_t serial;
	_Atomic(struct q2_table *) *slots;
	uint64_t entries[];
};

/* Where the snapshot's record was seen last. */
struct place {
	bool known;
	uint32_t nb;
	uint64_t table_off, entry_off;
	size_t entry_len;
};

struct q2_map {
	struct q2_map_key key;
	UT_hash_handle hh;
	unsigned refs; /* guarded by the cache's lock */
	/* immutable */
	uint64_t serial;
	struct q2_geometry g;
	uint64_t l1_off;
	uint32_t l1_entries;
	uint64_t image_size;
	struct q2_snapshot *snapshot; /* owned, NULL: frozen */
	/* atomic */
	_Atomic(struct l1 *) l1;
	atomic_uint_fast64_t reads, vouched;
	/* guarded by lock */
	pthread_mutex_t lock;
	struct place place;
};

/* ---------------------------------------------------------------- the registry */

static uint64_t hash_bytes(uint64_t h, const char *s)
{
	do
		h = (h ^ (uint8_t)*s) * UINT64_C(0x100000001b3);
	while (*s++);
	return h;
}

static void key_of(const struct q2_map_spec *spec, struct q2_map_key *key)
{
	const struct q2_snapshot *s = spec->snapshot;

	memset(key, 0, sizeof(*key));
	key->dev = spec->stamp.dev;
	key->ino = spec->stamp.ino;
	key->l1_off = spec->l1_off;
	key->l1_entries = spec->l1_entries;
	if (!s) {
		key->size = spec->stamp.size;
		key->mtime_ns = (uint64_t)spec->stamp.mtime_ns;
		return;
	}
	key->snapshot = 1;
	key->date = (uint64_t)s->date_sec << 32 | s->date_nsec;
	key->vm_clock = s->vm_clock_nsec;
	key->vm_state_size = s->vm_state_size;
	key->names = hash_bytes(hash_bytes(UINT64_C(0xcbf29ce484222325), s->id), s->name);
}

static void map_free(struct q2_map *m)
{
	q2_snapshot_free(m->snapshot);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static struct q2_map *map_new(struct q2_cache *c, const struct q2_map_spec *spec, const struct q2_map_key *key)
{
	struct q2_map *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	pthread_mutex_init(&m->lock, NULL);
	m->key = *key;
	m->refs = 1;
	m->serial = atomic_fetch_add(&c->next_serial, 1);
	m->g = spec->geometry;
	m->l1_off = spec->l1_off;
	m->l1_entries = spec->l1_entries;
	m->image_size = spec->image_size;
	if (spec->snapshot) {
		m->snapshot = q2_snapshot_dup(spec->snapshot);
		if (!m->snapshot) {
			map_free(m);
			return NULL;
		}
	}
	return m;
}

static bool same_geometry(const struct q2_geometry *a, const struct q2_geometry *b)
{
	return a->cluster_bits == b->cluster_bits && a->v3 == b->v3 && a->extended_l2 == b->extended_l2 &&
	       a->data_file == b->data_file && a->zstd == b->zstd;
}

struct q2_map *q2_map_get(struct q2_cache *c, const struct q2_map_spec *spec)
{
	struct q2_map *m, *fresh;
	struct q2_map_key key;

	key_of(spec, &key);
	fresh = map_new(c, spec, &key);
	if (!fresh)
		return NULL;
	pthread_mutex_lock(&c->lock);
	/* A block device has no mtime to tell a frozen map by: never shared. */
	if (spec->stamp.block && !spec->snapshot)
		m = NULL;
	else
		HASH_FIND(hh, c->maps, &key, sizeof(key), m);
	if (m && ((m->snapshot && !q2_snapshot_same(m->snapshot, spec->snapshot)) || !same_geometry(&m->g, &spec->geometry)))
		m = NULL;
	if (m) {
		m->refs++;
	} else {
		fresh->key = key;
		if (spec->stamp.block && !spec->snapshot)
			fresh->key.mtime_ns = fresh->serial + 1; /* unique */
		m = fresh;
		fresh = NULL;
		HASH_ADD(hh, c->maps, key, sizeof(m->key), m);
	}
	pthread_mutex_unlock(&c->lock);
	if (fresh)
		map_free(fresh);
	return m;
}

static void table_put_locked(struct q2_cache *c, struct q2_table *t)
{
	if (--t->refs)
		return;
	if (t->listed)
		HASH_DEL(c->tables, t);
	q2_cache_uncharge(c, t->bytes);
	free(t->runs);
	free(t);
}

/* Nobody can vouch for a table without an owner: it stays with those who have it and is not found any more. */
static void disown_locked(struct q2_cache *c, struct q2_table *t)
{
	t->owner = NULL;
	if (t->listed)
		HASH_DEL(c->tables, t);
	t->listed = false;
}

static void drop_l1_locked(struct q2_cache *c, struct q2_map *m, struct l1 *l1)
{
	uint32_t i;

	for (i = 0; i < m->l1_entries; i++) {
		struct q2_table *t;

		if (!l1->entries[i])
			continue;
		t = atomic_load(&l1->slots[i]);
		if (!t)
			continue;
		if (t->owner == m)
			disown_locked(c, t);
		table_put_locked(c, t);
	}
}

void q2_map_put(struct q2_cache *c, struct q2_map *m)
{
	struct l1 *l1;

	if (!m)
		return;
	pthread_mutex_lock(&c->lock);
	if (--m->refs) {
		pthread_mutex_unlock(&c->lock);
		return;
	}
	HASH_DEL(c->maps, m);
	l1 = atomic_load(&m->l1);
	if (l1)
		drop_l1_locked(c, m, l1);
	pthread_mutex_unlock(&c->lock);
	if (l1) {
		q2_cache_uncharge(c, l1->bytes);
		free(l1->slots);
		free(l1);
	}
	map_free(m);
}

uint64_t q2_map_serial(const struct q2_map *m)
{
	return m->serial;
}

const struct q2_geometry *q2_map_geometry(const struct q2_map *m)
{
	return &m->g;
}

uint64_t q2_map_reads(struct q2_map *m)
{
	return atomic_load(&m->reads);
}

void q2_map_vouch(struct q2_map *m, uint64_t reads)
{
	uint_fast64_t so_far = atomic_load(&m->vouched);

	while (so_far < reads && !atomic_compare_exchange_weak(&m->vouched, &so_far, reads))
		;
}

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
static int l1_load(struct q2_cache *c, struct q2_map *m, struct q2_file *f, struct l1 **out, struct vs_err *err)
{
	size_t n = m->l1_entries, bytes = sizeof(struct l1) + n * (8 + sizeof(void *));
	struct l1 *l1, *there = NULL;
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

static int l1_entry(struct q2_map *m, struct q2_file *f, struct l1 *l1, uint64_t idx, uint64_t *entry, struct vs_err *err)
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
	t->key = (struct table_key){ m->key.dev, m->key.ino, l2_off };
	atomic_fetch_add(&c->tables_loaded, 1);
	*out = t;
	return 0;
}

static int identity_recheck(struct q2_map *m, struct q2_file *f);

/* A table that another snapshot's map holds, if that snapshot is still there; NULL: load it. */
static struct q2_table *table_share(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t l2_off)
{
	struct table_key key = { m->key.dev, m->key.ino, l2_off };
	struct q2_map *owner = NULL;
	struct q2_table *t;
	bool good;

	if (!m->snapshot)
		return NULL;
	pthread_mutex_lock(&c->lock);
	HASH_FIND(hh, c->tables, &key, sizeof(key), t);
	if (t && !same_geometry(&t->owner->g, &m->g))
		t = NULL;
	if (t) {
		t->refs++;
		owner = t->owner;
		owner->refs++;
	}
	pthread_mutex_unlock(&c->lock);
	if (!t)
		return NULL;
	good = identity_recheck(owner, f) == 0;
	q2_map_put(c, owner);
	if (good) {
		atomic_fetch_add(&c->tables_shared, 1);
		return t;
	}
	pthread_mutex_lock(&c->lock);
	if (t->listed)
		disown_locked(c, t);
	table_put_locked(c, t);
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

static void table_register(struct q2_cache *c, struct q2_map *m, struct q2_table *t)
{
	struct q2_table *there;

	if (!m->snapshot)
		return;
	pthread_mutex_lock(&c->lock);
	HASH_FIND(hh, c->tables, &t->key, sizeof(t->key), there);
	if (!there) {
		t->owner = m;
		t->listed = true;
		HASH_ADD(hh, c->tables, key, sizeof(t->key), t);
	}
	pthread_mutex_unlock(&c->lock);
}

/* The compiled table of L1 entry @idx, published; *out = NULL past the budget. */
static int table_get(struct q2_cache *c, struct q2_map *m, struct q2_file *f, struct l1 *l1, uint64_t idx, uint64_t l2_off,
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
	t = table_share(c, m, f, l2_off);
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
			table_register(c, m, t);
		*out = t;
		return 0;
	}
	/* somebody was faster */
	if (shared) {
		pthread_mutex_lock(&c->lock);
		table_put_locked(c, t);
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
static int answer_empty(struct q2_map *m, struct l1 *l1, uint64_t idx, uint64_t in_table, uint64_t max_len,
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
static bool is_unsure(struct q2_map *m, const struct l1 *l1, const struct q2_table *t)
{
	uint64_t vouched = atomic_load(&m->vouched);

	return !m->snapshot && (!l1 || l1->serial > vouched || (t && t->serial > vouched));
}

int q2_map_lookup(struct q2_cache *c, struct q2_map *m, struct q2_file *f, uint64_t guest_off, uint64_t max_len,
		  struct q2_piece *out, struct vs_err *err)
{
	unsigned shift = q2_l1_shift(&m->g);
	uint64_t idx = guest_off >> shift, in_table = guest_off & ((UINT64_C(1) << shift) - 1), entry, l2_off;
	struct l1 *l1 = atomic_load(&m->l1);
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
	struct l1 *l1 = atomic_load(&m->l1);
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

/* ---------------------------------------------------------------- is it still there? */

struct search {
	struct q2_map *m;
	struct place place;
};

static int search_begin(void *opaque, const struct q2_header *h)
{
	struct search *s = opaque;

	s->place = (struct place){ .nb = h->nb_snapshots, .table_off = h->snapshots_off };
	return 0;
}

static int search_entry(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len)
{
	struct search *s = opaque;

	if (!s->place.known && q2_snap_entry_is(e, s->m->snapshot)) {
		s->place.known = true;
		s->place.entry_off = host_off;
		s->place.entry_len = len;
	}
	return 0;
}

/* Do the entries of a table lead to @target, and is our record there? */
static bool leads_to_record(struct q2_map *m, const uint8_t *buf, size_t len, uint32_t nb, size_t target)
{
	struct q2_snap_entry e;
	size_t at = 0, need;
	int64_t step;
	uint32_t i;

	for (i = 0; i < nb && at <= target; i++) {
		step = q2_snaptab_entry(buf, len, at, m->image_size, "", &e, &need, NULL);
		if (step < 0)
			return false;
		if (at == target)
			return q2_snap_entry_is(&e, m->snapshot);
		at += (size_t)step;
	}
	return false;
}

/*
 * Is the record where it was last? 1 yes, 0 no, negative errno. To look at its own bytes would not be enough: QEMU uses
 * the same few clusters for its tables again and again, and behind the end of a shorter one the entries of a longer one
 * are still there, with ours deleted. So the way to it is walked from the start of the table.
 */
static int same_at(struct q2_map *m, struct q2_file *f, const struct place *p)
{
	size_t target = (size_t)(p->entry_off - p->table_off), len = target + p->entry_len;
	uint8_t small[4096], *buf = small;
	ssize_t n;
	int rc;

	if (len > MAX_WAY)
		return 0;
	if (len > sizeof(small)) {
		buf = malloc(len);
		if (!buf)
			return -ENOMEM;
	}
	n = q2_pread_zeros(f, buf, len, p->table_off);
	rc = n < 0 ? (int)n : leads_to_record(m, buf, len, p->nb, target);
	if (buf != small)
		free(buf);
	return rc;
}

/* Which table does the header lead to now? */
static int table_of(struct q2_file *f, uint32_t *nb, uint64_t *table_off)
{
	uint8_t raw[12];
	ssize_t n = q2_pread_zeros(f, raw, sizeof(raw), 60);

	if (n < 0)
		return (int)n;
	*nb = q2_be32(raw);
	*table_off = q2_be64(raw + 4);
	return 0;
}

/* ... in the table that the header leads to before and after? */
static int unmoved(struct q2_map *m, struct q2_file *f, const struct place *p)
{
	uint64_t table_off;
	uint32_t nb;
	int rc = same_at(m, f, p);

	if (rc <= 0)
		return rc;
	rc = table_of(f, &nb, &table_off);
	return rc ? rc : nb == p->nb && table_off == p->table_off;
}

int q2_map_identity_check(struct q2_map *m, struct q2_file *f, uint32_t nb, uint64_t table_off, struct vs_err *err)
{
	struct search s = { .m = m };
	struct q2_walk walk = { &s, search_begin, search_entry };
	struct place p;
	int rc;

	pthread_mutex_lock(&m->lock);
	p = m->place;
	pthread_mutex_unlock(&m->lock);
	if (p.known && p.nb == nb && p.table_off == table_off) {
		rc = unmoved(m, f, &p);
		if (rc < 0)
			return vs_err_set(err, rc, "cannot read the snapshot table of '%s': %s", f->path, strerror(-rc));
		if (rc)
			return 0;
	}
	rc = q2_walk_snapshots(f, &walk, err);
	if (rc)
		return rc;
	if (!s.place.known)
		return vs_err_set(err, -ESTALE, "snapshot '%s' (id %s) is no longer in '%s'", m->snapshot->name,
				  m->snapshot->id, f->path);
	pthread_mutex_lock(&m->lock);
	m->place = s.place;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int identity_recheck(struct q2_map *m, struct q2_file *f)
{
	uint64_t table_off;
	uint32_t nb;
	int rc = table_of(f, &nb, &table_off);

	return rc ? rc : q2_map_identity_check(m, f, nb, table_off, NULL);
}
