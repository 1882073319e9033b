/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What was counted is remembered: for how long, and for whom. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "q2-image.h"
#include "vm/command/usages.h"
#include "vm/util/clock.h"

#define BITS 12
#define CLUSTER (INT64_C(1) << BITS)
#define SIZE (CLUSTER * 1000)
#define TABLE 3 /* of snapshots */
#define L1_A 4
#define L1_B 5
#define L2_A 6
#define L2_B 7
#define DATA 8

/* Snapshot a has one cluster of its own, b three. */
static struct ti_snap snaps[] = {
	{ .id = "1", .name = "a", .l1 = L1_A, .l1_entries = 2, .disk_size = SIZE },
	{ .id = "2", .name = "b", .l1 = L1_B, .l1_entries = 2, .disk_size = SIZE },
};

struct bench {
	char *dir, *path;
	struct vm_usages *usages;
	struct q2_snapshot a, b;
};

static void write_image(struct bench *b, size_t first, size_t n)
{
	struct ti_image img;

	ti_init(&img, BITS, SIZE);
	ti_fill(&img, L1_A, 0);
	ti_fill(&img, L1_B, 0);
	ti_l1(&img, L1_A, 0, L2_A);
	ti_l1(&img, L1_B, 0, L2_B);
	ti_data(&img, L2_A, 0, DATA, 1);
	for (unsigned i = 0; i < 3; i++)
		ti_data(&img, L2_B, i, DATA + 1 + i, 2);
	ti_table(&img, TABLE, snaps + first, n);
	ti_switch(&img, TABLE, (uint32_t)n);
	b->a = ti_snapshot(&img, &snaps[0]);
	b->b = ti_snapshot(&img, &snaps[1]);
	ti_save(&img, b->path);
	ti_fini(&img);
}

static void bench_init(struct bench *b, size_t first, size_t n)
{
	b->dir = ti_mkdir();
	b->path = ti_path(b->dir, "image");
	b->usages = vm_usages_new();
	write_image(b, first, n);
}

static void bench_fini(struct bench *b)
{
	vm_usages_free(b->usages);
	free(b->path);
	ti_rmdir(b->dir);
}

/* @gone: NULL, or what goes. What was counted at any time will do. */
static struct vm_usage *get(struct bench *b, const struct q2_snapshot *gone)
{
	struct q2_work work = { .limit = 0 };
	struct vm_usages_ask ask = { .path = b->path, .set = &gone, .n_set = gone != NULL, .work = &work };
	struct vm_usage *u;

	cr_assert_eq(vm_usages_get(b->usages, &ask, &u, NULL), 0);
	return u;
}

Test(vm_usages, is_counted_once)
{
	struct bench b;
	struct vm_usage *one, *two;

	bench_init(&b, 0, 2);
	one = get(&b, &b.a);
	two = get(&b, NULL);
	cr_expect_eq(one, two);
	cr_expect_eq(vm_usage_of(one, &b.b)->only, 5 * CLUSTER, "L1, L2, three of data");
	vm_usage_put(b.usages, one);
	vm_usage_put(b.usages, two);
	bench_fini(&b);
}

Test(vm_usages, one_set_is_not_taken_for_another_that_stands_at_its_place)
{
	struct bench b;
	struct vm_usage *u;

	bench_init(&b, 0, 2);
	u = get(&b, &b.a);
	cr_expect_eq(u->usage->together, 3 * CLUSTER);
	vm_usage_put(b.usages, u);
	write_image(&b, 1, 1);
	u = get(&b, &b.b);
	cr_expect_eq(u->usage->together, 6 * CLUSTER, "and the table of snapshots");
	vm_usage_put(b.usages, u);
	bench_fini(&b);
}

Test(vm_usages, a_snapshot_that_came_since_is_counted)
{
	struct bench b;
	struct vm_usage *u;

	bench_init(&b, 1, 1);
	u = get(&b, NULL);
	cr_expect_null(vm_usage_of(u, &b.a));
	vm_usage_put(b.usages, u);
	write_image(&b, 0, 2);
	u = get(&b, NULL);
	cr_expect_not_null(vm_usage_of(u, &b.a));
	vm_usage_put(b.usages, u);
	bench_fini(&b);
}
