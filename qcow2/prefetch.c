/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What a reader asks for in one go may lie in many places. Of a file that is read along, the kernel fetches the next part while this one is
 * copied; of places here and there it fetches one after the other, and the disk is idle half of the time. So where a disk is needed at all, all
 * pieces of a request are asked for at once, and those of the next ones, too:
 *
 *	off             off + len           off + AHEAD len
 *	 ├─ this request ──┼── the next ones ──┤
 *	 └ asked for when the first of its pieces is not in the page cache: the next ones, too, of who reads along. From then on each request asks
 *	   for what lies behind `fetched`, until that is in the page cache already
 *
 * Nothing depends on it: what is copied is found and checked as ever.
 */
#include "file.h"
#include "view.h"

#define LEAST 65536u /* who reads less at a time does not read along */
#define AHEAD 4 /* requests */

/* The next piece of data at or behind *off, before @end. */
static bool next_piece(struct q2_view *v, uint64_t *off, uint64_t end, struct q2_work *work, struct q2_extent *e)
{
	while (*off < end && *off < v->size) {
		if (q2_view_extent(v, *off, end - *off, work, e, NULL) < 0)
			return false;
		*off += e->len;
		if (e->kind == Q2_DATA)
			return true;
	}
	return false;
}

/* Are there several pieces, the first of which has to come from a disk? */
static bool is_cold(struct q2_view *v, uint64_t off, uint64_t end, struct q2_work *work)
{
	struct q2_extent e;

	return next_piece(v, &off, end, work, &e) && off < end && !q2_file_resident(e.file, e.host_off);
}

/* Of who has read up to @off; NULL: nobody whom we remember. */
static struct q2_reader *reader_at(struct q2_view *v, uint64_t off)
{
	for (size_t i = 0; off && i < Q2_READERS; i++)
		if (atomic_load(&v->readers[i].next) == off)
			return &v->readers[i];
	return NULL;
}

void q2_view_prefetch(struct q2_view *v, uint64_t off, size_t len, struct q2_work *work)
{
	struct q2_reader *reader = reader_at(v, off);
	uint64_t fetched = reader ? atomic_load(&reader->fetched) : 0, end = off + (reader || !off ? AHEAD : 1) * (uint64_t)len;
	uint64_t from = fetched > off && fetched < end ? fetched : off;
	struct q2_extent e;

	if (len < LEAST)
		return;
	if (!reader)
		reader = &v->readers[atomic_fetch_add(&v->n_readers, 1) % Q2_READERS];
	atomic_store(&reader->next, off + len);
	if (!is_cold(v, from, from == off ? off + len : end, work)) {
		atomic_store(&reader->fetched, 0);
		return;
	}
	while (next_piece(v, &from, end, work, &e))
		q2_file_fetch(e.file, e.host_off, e.len);
	atomic_store(&reader->fetched, end);
}
