/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The same is seen of an image whose clusters lie elsewhere, are compressed, or are stored zeros instead of noted ones. So what is summed up are runs:
 * of sectors that have data, and of such that are zeros, each as long as it can be, with the place where it begins. What is not in the image
 * ends a run and is nothing.
 */
#include "vm/observe/sum.h"

#include <string.h>

#include "vm/util/mem.h"

#define PIECE (256 * 1024)
#define SECTOR 512
#define TABLE_BYTES (4u << 20)
#define CLUSTER_BYTES (4u << 20) /* the largest is half of it */
#define DATA_MAX (4 * VM_SUM_MAX) /* a table that an image was made to use again and again, or well compressed */
#define WORK_MAX 100000000 /* some 2 s */

enum run { NOTHING, ZEROS, DATA };

struct state {
	struct q2_view *view;
	struct q2_work work;
	uint64_t sum, data;
	uint64_t most;      /* of data */
	enum run unallocated; /* what is in no layer is */
	enum run run;       /* what lies before this place */
	uint64_t run_off;   /* where it began */
	char *buffer;       /* a piece */
};

/* FNV-1a, but eight bytes at a time. */
static void add(struct state *s, uint64_t word)
{
	s->sum = (s->sum ^ word) * UINT64_C(0x100000001b3);
	s->sum ^= s->sum >> 29;
}

/* From @off on there is @run. Where zeros end, they are added. */
static void go_on(struct state *s, enum run run, uint64_t off)
{
	if (run == s->run)
		return;
	if (s->run == ZEROS) {
		add(s, off - s->run_off);
		add(s, s->run_off);
		add(s, ZEROS);
	}
	if (run == DATA) {
		add(s, off);
		add(s, DATA);
	}
	s->run = run;
	s->run_off = off;
}

static void add_sector(struct state *s, const char *data, uint64_t off)
{
	if (!data[0] && !memcmp(data, data + 1, SECTOR - 1)) {
		go_on(s, ZEROS, off);
		return;
	}
	go_on(s, DATA, off);
	for (size_t i = 0; i < SECTOR; i += sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, data + i, sizeof(word));
		add(s, word);
	}
}

/* False: it cannot be read, or is too much. */
static bool add_data(struct state *s, uint64_t off, uint64_t len)
{
	s->data += len;
	for (; len && s->data <= s->most; off += PIECE) { /* a disk ends with a whole sector */
		size_t some = len < PIECE ? (size_t)len : PIECE;

		if (q2_view_read(s->view, s->buffer, some, off, &s->work, NULL) != (ssize_t)some)
			return false;
		for (size_t at = 0; at < some; at += SECTOR)
			add_sector(s, s->buffer + at, off + at);
		len -= some;
	}
	return s->data <= s->most;
}

static bool add_all(struct state *s)
{
	uint64_t size = q2_view_size(s->view), off = 0;
	struct q2_extent x;

	add(s, size);
	for (; off < size; off += x.len) {
		if (q2_view_extent(s->view, off, size - off, &s->work, &x, NULL) < 0 || s->work.spent > WORK_MAX)
			return false;
		if (x.kind == Q2_ZERO)
			go_on(s, x.unallocated ? s->unallocated : ZEROS, off);
		else if (!add_data(s, off, x.len))
			return false;
	}
	go_on(s, NOTHING, size);
	return q2_view_check(s->view, &s->work, NULL) == 0;
}

static bool is_it(const struct q2_view *view, const struct vm_sum_file *expected)
{
	struct q2_stamp stamp;
	const char *path;

	return q2_view_file(view, 0, &path, &stamp) && !stamp.block && stamp.ino == expected->ino && stamp.size == expected->size &&
	       stamp.mtime_ns == expected->mtime_ns;
}

/* Opens, asks whether that is what is meant, sums up. 0: not. */
static uint64_t sum_up(struct state *s, const struct q2_view_spec *spec, const struct vm_sum_file *expected)
{
	struct q2_cache *cache = q2_cache_new(TABLE_BYTES, CLUSTER_BYTES);
	uint64_t sum = 0;

	if (!cache)
		xoom();
	s->sum = UINT64_C(0xcbf29ce484222325);
	if (q2_view_open(cache, spec, &s->view, NULL) == 0) {
		s->buffer = xcalloc(PIECE, 1);
		if ((!expected || is_it(s->view, expected)) && add_all(s))
			sum = s->sum > VM_SUM_NONE ? s->sum : VM_SUM_NONE + 1;
		free(s->buffer);
		q2_view_close(s->view);
	}
	q2_cache_free(cache);
	return sum;
}

uint64_t vm_sum(const char *path, const struct vm_sum_file *expected, enum q2_format format)
{
	struct state s = { .most = DATA_MAX, .unallocated = NOTHING };
	struct q2_gate *nothing;
	uint64_t sum;

	if (expected->size > VM_SUM_MAX || format == Q2_FORMAT_NONE)
		return 0;
	nothing = q2_gate_new();
	if (!nothing)
		xoom();
	sum = sum_up(&s, &(struct q2_view_spec){ .path = path, .format = format, .gate = nothing, .alone = true }, expected);
	q2_gate_unref(nothing);
	return sum;
}

uint64_t vm_sum_shown(const struct q2_view_spec *spec, uint64_t *bytes)
{
	struct state s = { .most = VM_SUM_SHOWN_MAX, .unallocated = ZEROS };
	uint64_t allocated = 0, sum;

	*bytes = 0;
	for (size_t i = 0; i < spec->n_expected; i++)
		allocated += spec->expected[i].allocated;
	if (allocated > VM_SUM_SHOWN_MAX)
		return VM_SUM_NONE;
	sum = sum_up(&s, spec, NULL);
	*bytes = s.data;
	return sum ? sum : s.data > s.most || s.work.spent > WORK_MAX ? VM_SUM_NONE : 0;
}
