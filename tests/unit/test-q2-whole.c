/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What was cut off is found, what QEMU leaves behind is whole. Images that QEMU made: differential.sh. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "q2-image.h"

#define BITS 16
#define CLUSTER (UINT64_C(1) << BITS)
#define L2 3
#define DATA 4
#define COUNTS 5 /* refcount block */

struct bench {
	struct ti_image img;
	struct ti_file tf;
};

/* One cluster of data, the last but one of the file. */
static void bench_init(struct bench *b)
{
	*b = (struct bench){ 0 };
	ti_init(&b->img, BITS, 1 << 30);
	ti_file_init(&b->tf, &b->img);
	ti_l1(&b->img, TI_L1, 0, L2);
	ti_data(&b->img, L2, 7, DATA, 0x77);
	ti_fill(&b->img, COUNTS, 0);
}

static int whole(struct bench *b, uint64_t limit)
{
	struct q2_work work = { .limit = limit };

	return q2_file_whole(&b->tf.f, &work, NULL);
}

static void expect_whole(struct bench *b, int rc, const char *what)
{
	cr_expect_eq(whole(b, 0), rc, "%s: %d", what, whole(b, 0));
	ti_fini(&b->img);
}

Test(q2_whole, a_file_may_end_within_its_last_cluster_and_nowhere_before)
{
	static const struct { uint64_t len; int rc; } cases[] = {
		{ (DATA + 1) * CLUSTER, 0 }, { (DATA + 1) * CLUSTER - 1, 0 }, { DATA * CLUSTER + 1, 0 }, { DATA * CLUSTER, -EUCLEAN },
		{ DATA * CLUSTER - 1, -EUCLEAN }, { L2 * CLUSTER + 1, -EUCLEAN },
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct bench b;

		bench_init(&b);
		b.img.len = cases[i].len;
		expect_whole(&b, cases[i].rc, "its length");
	}
}

Test(q2_whole, what_an_entry_uses_decides)
{
	const uint64_t past = 40 * CLUSTER;
	const struct { uint64_t entry; int rc; const char *what; } cases[] = {
		{ past | TI_COPIED, -EUCLEAN, "data" },
		{ past, -EUCLEAN, "data that is shared" },
		{ past | TI_ZERO, 0, "zeros that have a cluster, which is not read" },
		{ TI_ZERO, 0, "zeros" },
		{ 0, 0, "nothing" },
		{ TI_COMPRESSED | (past + 77), -EUCLEAN, "compressed" },
		{ TI_COMPRESSED | (DATA * CLUSTER + 77) | UINT64_C(200) << 54, 0, "compressed, and long" },
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct bench b;

		bench_init(&b);
		ti_l2(&b.img, L2, 8191, cases[i].entry);
		expect_whole(&b, cases[i].rc, cases[i].what);
	}
}

Test(q2_whole, with_subclusters_the_bitmap_decides)
{
	const struct { uint64_t bitmap; int rc; const char *what; } cases[] = {
		{ 1u << 31, -EUCLEAN, "the last one is allocated" },
		{ UINT64_C(0xffffffff) << 32, 0, "all are zeros" },
		{ 0, 0, "none is allocated" },
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct bench b;

		bench_init(&b);
		ti_put64(&b.img, 72, UINT64_C(1) << 4);
		ti_put32(&b.img, 36, 4); /* an L2 table covers half as much */
		ti_fill(&b.img, L2, 0);
		ti_l2(&b.img, L2, 8190, 40 * CLUSTER | TI_COPIED);
		ti_l2(&b.img, L2, 8191, cases[i].bitmap);
		expect_whole(&b, cases[i].rc, cases[i].what);
	}
}

Test(q2_whole, a_snapshots_tables_count)
{
	const struct ti_snap snap = { .id = "1", .name = "s", .l1 = 6, .l1_entries = 1 };
	struct bench b;

	bench_init(&b);
	ti_fill(&b.img, 6, 0);
	ti_l1(&b.img, 6, 0, 7);
	ti_l2(&b.img, 7, 0, 40 * CLUSTER);
	ti_switch(&b.img, 8, 1);
	ti_table(&b.img, 8, &snap, 1);
	expect_whole(&b, -EUCLEAN, "a snapshot's");
}

Test(q2_whole, what_could_not_be_looked_at_in_time_is_not_whole)
{
	struct bench b;

	bench_init(&b);
	cr_expect_eq(whole(&b, 0), 0);
	cr_expect_eq(whole(&b, 1), -EFBIG);
	ti_fini(&b.img);
}

Test(q2_whole, where_nothing_is_counted_past_the_end_that_is_seen_at_once)
{
	struct bench b;

	bench_init(&b);
	ti_put64(&b.img, CLUSTER, COUNTS * CLUSTER);
	for (uint64_t i = 0; i <= COUNTS; i++)
		ti_put16(&b.img, COUNTS * CLUSTER + i * 2, 1);
	cr_expect_eq(whole(&b, 1), 0, "refcounts vouch for it");
	ti_put16(&b.img, COUNTS * CLUSTER + 2 * (COUNTS + 1), 1); /* counted, and not used: a QEMU was killed */
	cr_expect_eq(whole(&b, 1), -EFBIG, "they do not, and there is no time for more");
	cr_expect_eq(whole(&b, 0), 0, "the tables do");
	ti_put16(&b.img, COUNTS * CLUSTER + 2 * (COUNTS + 1), 0);
	ti_put64(&b.img, 72, 1);
	cr_expect_eq(whole(&b, 1), -EFBIG, "of an image that is marked dirty they say nothing");
	ti_put64(&b.img, 72, 0);
	ti_put64(&b.img, CLUSTER + 8, 99 * CLUSTER);
	cr_expect_eq(whole(&b, 0), -EUCLEAN, "a refcount block that is gone");
	ti_fini(&b.img);
}
