/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* Whose each cluster is, on images that QEMU does not make. Those that it makes, and what it frees: space.sh. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "q2-image.h"

#define BITS 16
#define CLUSTER (INT64_C(1) << BITS)
#define TABLE 3  /* of snapshots */
#define L1_A 4
#define L1_B 5
#define L2_OF_A 6  /* of the first snapshot alone */
#define L2_OF_AB 7 /* of both */
#define DATA 8     /* of which 8 is A's, 9 of A and B by one table, 10 of A and B by two, 11 B's */
#define L2_OF_B 12
#define PRESENT_L2 13
#define PRESENT_DATA 14
#define PAST 40

struct bench {
	struct ti_image img;
	struct ti_file tf;
	struct ti_snap snaps[2];
	struct q2_snapshot listed[2];
	struct q2_info info;
	bool goes[2];
	struct q2_usage *usage;
};

static void bench_init(struct bench *b)
{
	*b = (struct bench){ 0 };
	ti_init(&b->img, BITS, 3u << 29);
	ti_file_init(&b->tf, &b->img);
	ti_fill(&b->img, L1_A, 0);
	ti_fill(&b->img, L1_B, 0);
	ti_l1(&b->img, L1_A, 0, L2_OF_A);
	ti_l1(&b->img, L1_A, 1, L2_OF_AB);
	ti_l1(&b->img, L1_B, 1, L2_OF_AB);
	ti_l1(&b->img, L1_B, 0, L2_OF_B);
	ti_l1(&b->img, TI_L1, 0, PRESENT_L2);
	ti_data(&b->img, L2_OF_A, 0, DATA, 1);
	ti_data(&b->img, L2_OF_AB, 5, DATA + 1, 2);
	ti_data(&b->img, L2_OF_A, 1, DATA + 2, 3);
	ti_data(&b->img, L2_OF_B, 1, DATA + 2, 3);
	ti_data(&b->img, L2_OF_B, 2, DATA + 3, 4);
	ti_data(&b->img, PRESENT_L2, 0, PRESENT_DATA, 5);
	for (unsigned i = 0; i < 2; i++) {
		b->snaps[i] = (struct ti_snap){ .id = i ? "2" : "1", .name = i ? "b" : "a", .l1 = i ? L1_B : L1_A, .l1_entries = 3,
						.disk_size = 3u << 29 };
		b->listed[i] = ti_snapshot(&b->img, &b->snaps[i]);
	}
	ti_table(&b->img, TABLE, b->snaps, 2);
	ti_switch(&b->img, TABLE, 2);
	b->info = (struct q2_info){ .snapshots = b->listed, .n_snapshots = 2 };
}

static int count(struct bench *b, bool live, struct q2_work *work)
{
	struct q2_usage_spec spec = { .info = &b->info, .goes = b->goes, .live = live, .work = work };

	return q2_usage_read(&b->tf.f, &spec, &b->usage, NULL);
}

static void bench_fini(struct bench *b)
{
	free(b->usage);
	ti_fini(&b->img);
}

Test(q2_usage, a_cluster_is_somebodys_if_all_tables_that_lead_to_it_are)
{
	struct bench b;

	bench_init(&b);
	cr_assert_eq(count(&b, false, NULL), 0);
	cr_expect_eq(b.usage->snapshots[0].holds, 6 * CLUSTER, "L1, two L2, three of data");
	cr_expect_eq(b.usage->snapshots[0].only, 3 * CLUSTER, "L1, L2, data");
	cr_expect_eq(b.usage->snapshots[0].frees, 3 * CLUSTER, "the table of snapshots takes one as before");
	cr_expect_eq(b.usage->snapshots[1].only, 3 * CLUSTER);
	cr_expect_eq(b.usage->present.only, 3 * CLUSTER);
	cr_expect_eq(b.usage->present.frees, 0);
	cr_expect_eq(b.usage->used, 12 * CLUSTER);
	cr_expect_eq(b.usage->together, 0, "none go");
	bench_fini(&b);
}

Test(q2_usage, what_two_share_goes_with_both)
{
	struct bench b;

	bench_init(&b);
	b.goes[0] = b.goes[1] = true;
	cr_assert_eq(count(&b, false, NULL), 0);
	cr_expect_eq(b.usage->together, (3 + 3 + 3 + 1) * CLUSTER, "each one's, the shared table and its data, the shared data, and the table of snapshots");
	bench_fini(&b);
}

Test(q2_usage, a_set_of_one_is_that_one)
{
	struct bench b;

	bench_init(&b);
	b.goes[1] = true;
	cr_assert_eq(count(&b, false, NULL), 0);
	cr_expect_eq(b.usage->together, b.usage->snapshots[1].frees);
	bench_fini(&b);
}

Test(q2_usage, a_snapshot_past_the_end_is_damage_and_a_running_guests_write_is_none)
{
	struct bench b;

	bench_init(&b);
	ti_l2(&b.img, PRESENT_L2, 9, (uint64_t)PAST << BITS | TI_COPIED);
	cr_expect_eq(count(&b, false, NULL), -EUCLEAN);
	cr_expect_eq(count(&b, true, NULL), 0);
	free(b.usage);
	b.usage = NULL;
	ti_l2(&b.img, L2_OF_AB, 9, (uint64_t)PAST << BITS);
	cr_expect_eq(count(&b, true, NULL), -EUCLEAN);
	bench_fini(&b);
}

Test(q2_usage, tables_that_are_none)
{
	struct bench b;

	bench_init(&b);
	ti_put64(&b.img, ti_off(&b.img, L1_B) + 16, 512 | TI_COPIED);
	cr_expect_eq(count(&b, false, NULL), -EUCLEAN, "not at a cluster's beginning");
	ti_put64(&b.img, ti_off(&b.img, L1_B) + 16, (uint64_t)PAST << BITS);
	cr_expect_eq(count(&b, false, NULL), -EUCLEAN, "past the end");
	bench_fini(&b);
}

Test(q2_usage, other_snapshots_than_those_in_the_listing)
{
	struct bench b;

	bench_init(&b);
	b.listed[1].date_sec++;
	cr_expect_eq(count(&b, false, NULL), -ESTALE);
	b.listed[1].date_sec--;
	b.info.n_snapshots = 1;
	cr_expect_eq(count(&b, false, NULL), -ESTALE, "one more");
	bench_fini(&b);
}

static bool never_mind(void *opaque)
{
	(void)opaque;
	return true;
}

Test(q2_usage, ends_at_the_limit_and_when_nobody_waits)
{
	struct q2_work work = { .limit = 10 }, stopped = { .stop = never_mind };
	struct bench b;

	bench_init(&b);
	cr_expect_eq(count(&b, false, &work), -EFBIG);
	cr_expect_eq(count(&b, false, &stopped), -EINTR);
	bench_fini(&b);
}

static int huge(struct q2_file *f, uint64_t *len)
{
	(void)f;
	*len = UINT64_C(1) << 50;
	return 0;
}

Test(q2_usage, a_hole_of_terabytes_is_too_many_clusters)
{
	struct q2_file_ops ops;
	struct bench b;

	bench_init(&b);
	ops = *b.tf.f.ops;
	ops.size = huge;
	b.tf.f.ops = &ops;
	cr_expect_eq(count(&b, false, NULL), -EFBIG);
	bench_fini(&b);
}

Test(q2_usage, who_counts_takes_of_what_there_is_for_counting)
{
	struct bench b;

	bench_init(&b);
	cr_assert(q2_usage_charge(256u << 20));
	cr_expect_eq(count(&b, false, NULL), -ENOBUFS);
	cr_expect(!q2_usage_charge(1));
	q2_usage_uncharge(256u << 20);
	cr_expect_eq(count(&b, false, NULL), 0);
	cr_expect(q2_usage_charge(256u << 20), "all of it was given back");
	q2_usage_uncharge(256u << 20);
	bench_fini(&b);
}
