/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* Is the snapshot that a map belongs to still in the file? */
#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "file.h"
#include "image.h"
#include "map-priv.h"
#include "work.h"

#define MAX_WAY (1u << 20) /* longer ways to a record are walked piece by piece */

struct search {
	struct q2_map *m;
	struct q2_place place;
};

static int search_begin(void *opaque, const struct q2_header *h)
{
	struct search *s = opaque;

	s->place = (struct q2_place){ .nb = h->nb_snapshots, .table_off = h->snapshots_off };
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
static int same_at(struct q2_map *m, struct q2_file *f, const struct q2_place *p)
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
static int unmoved(struct q2_map *m, struct q2_file *f, const struct q2_place *p)
{
	uint64_t table_off;
	uint32_t nb;
	int rc = same_at(m, f, p);

	if (rc <= 0)
		return rc;
	rc = table_of(f, &nb, &table_off);
	return rc ? rc : nb == p->nb && table_off == p->table_off;
}

/* Errors of what is read, and not of reading it: a file that was an image with this record is one no more. */
static bool is_of_content(int rc)
{
	return rc == -EINVAL || rc == -ENOTSUP || rc == -EFBIG;
}

/* Looks for the record in the whole table. */
static int find_record(struct q2_map *m, struct q2_file *f, struct q2_work *work, struct vs_err *err)
{
	struct search s = { .m = m };
	struct q2_walk walk = { &s, search_begin, search_entry };
	struct vs_err why = { 0 };
	int rc = q2_walk_snapshots(f, &walk, work, &why);

	if (rc && !is_of_content(rc)) {
		if (err)
			*err = why;
		return rc;
	}
	if (rc || !s.place.known)
		return vs_err_set(err, -ESTALE, "snapshot '%s' (id %s) is no longer in '%s'%s%s", m->snapshot->name,
				  m->snapshot->id, f->path, rc ? ": " : "", rc ? vs_err_text(&why, rc) : "");
	pthread_mutex_lock(&m->lock);
	m->place = s.place;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

int q2_map_identity_check(struct q2_map *m, struct q2_file *f, uint32_t nb, uint64_t table_off, struct q2_work *work,
			  struct vs_err *err)
{
	struct q2_place p;
	int rc;

	pthread_mutex_lock(&m->lock);
	p = m->place;
	pthread_mutex_unlock(&m->lock);
	if (p.known && p.nb == nb && p.table_off == table_off) {
		rc = q2_work_spend(work, q2_work_read(p.entry_off - p.table_off + p.entry_len));
		if (!rc)
			rc = unmoved(m, f, &p);
		if (rc < 0)
			return vs_err_set(err, rc, "cannot read the snapshot table of '%s': %s", f->path, strerror(-rc));
		if (rc)
			return 0;
	}
	return find_record(m, f, work, err);
}

int q2_map_identity_recheck(struct q2_map *m, struct q2_file *f, struct q2_work *work)
{
	struct q2_look look = q2_map_look(m);
	uint64_t table_off;
	uint32_t nb;
	int rc = table_of(f, &nb, &table_off);

	if (!rc)
		rc = q2_map_identity_check(m, f, nb, table_off, work, NULL);
	if (!rc)
		q2_map_vouch(m, &look);
	return rc;
}
