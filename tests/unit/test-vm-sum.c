/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "q2-image.h"
#include "vm/observe/sum.h"
#include "vm/util/clock.h"

#define BITS 12
#define CLUSTER (UINT64_C(1) << BITS)
#define SIZE (CLUSTER * 1000)
#define L2 3

static uint64_t sum_of(const char *path, enum q2_format format)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	return vm_sum(path, &(struct vm_sum_file){ st.st_ino, (uint64_t)st.st_size, vm_timespec_ns(st.st_mtim) }, format);
}

/* Data in clusters 0, 1 and 7 of the disk, zeros in 5. */
static void fill(struct ti_image *img)
{
	ti_init(img, BITS, SIZE);
	ti_l1(img, TI_L1, 0, L2);
	ti_data(img, L2, 0, 4, 'a');
	ti_data(img, L2, 1, 5, 'b');
	ti_l2(img, L2, 5, TI_ZERO);
	ti_data(img, L2, 7, 6, 'c');
}

static uint64_t sum_image(const struct ti_image *img)
{
	char *dir = ti_mkdir(), *path = ti_path(dir, "image");
	uint64_t sum;

	ti_save(img, path);
	sum = sum_of(path, Q2_FORMAT_QCOW2);
	free(path);
	ti_rmdir(dir);
	return sum;
}

/* What @change makes of an image is seen by a guest, or is not. */
static void compare(const char *what, bool seen, void (*change)(struct ti_image *))
{
	struct ti_image img;
	uint64_t before, after;

	fill(&img);
	before = sum_image(&img);
	change(&img);
	after = sum_image(&img);
	cr_expect_neq(before, 0u, "%s", what);
	cr_expect_neq(after, 0u, "%s", what);
	cr_expect_eq(before != after, seen, "%s", what);
	ti_fini(&img);
}

static void rename_base(struct ti_image *img) { ti_backing(img, "/another/base", "raw"); }
static void move(struct ti_image *img) { ti_data(img, L2, 0, 9, 'a'); }
static void store_zeros(struct ti_image *img) { ti_data(img, L2, 5, 9, 0); }
static void note_zeros(struct ti_image *img) { ti_l2(img, L2, 6, TI_ZERO); }
static void forget(struct ti_image *img) { ti_l2(img, L2, 5, 0); }
static void forget_data(struct ti_image *img) { ti_l2(img, L2, 7, 0); }
static void swap(struct ti_image *img)
{
	ti_data(img, L2, 0, 4, 'b');
	ti_data(img, L2, 1, 5, 'a');
}
static void shift(struct ti_image *img)
{
	ti_l2(img, L2, 7, 0);
	ti_data(img, L2, 8, 6, 'c');
}
static void one_byte(struct ti_image *img) { ti_put(img, ti_off(img, 6) + CLUSTER - 1, "d", 1); }
static void resize(struct ti_image *img) { ti_put64(img, 24, SIZE + 512); }
static void take_snapshot(struct ti_image *img)
{
	const struct ti_snap snap = { .id = "1", .name = "now", .l1 = 12, .l1_entries = 1, .date_sec = 1, .disk_size = SIZE };

	ti_fill(img, 12, 0);
	ti_table(img, 13, &snap, 1);
	ti_switch(img, 13, 1);
}

Test(vm_sum, it_is_that_of_what_a_guest_sees)
{
	compare("another name of what it stands on", false, rename_base);
	compare("data that lies elsewhere", false, move);
	compare("zeros that are stored", false, store_zeros);
	compare("an internal snapshot", false, take_snapshot);
	compare("zeros where nothing was", true, note_zeros);
	compare("nothing where zeros were", true, forget);
	compare("nothing where data was", true, forget_data);
	compare("data that has changed places", true, swap);
	compare("data at another place of the disk", true, shift);
	compare("the last byte of a cluster", true, one_byte);
	compare("a larger disk", true, resize);
}

Test(vm_sum, of_a_raw_image_it_is_that_of_its_bytes)
{
	char *dir = ti_mkdir(), *path = ti_path(dir, "raw");
	char data[700001];
	uint64_t sum;
	struct stat st;

	memset(data, 'x', sizeof(data));
	ti_save_bytes(path, data, sizeof(data));
	sum = sum_of(path, Q2_FORMAT_RAW);
	cr_assert_neq(sum, 0u);
	for (const uint64_t *off = (const uint64_t[]){ 0, 511, 262144, 700000, UINT64_MAX }; *off != UINT64_MAX; off++) {
		ti_patch(path, *off, "y", 1);
		cr_expect_neq(sum_of(path, Q2_FORMAT_RAW), sum, "byte %llu", (unsigned long long)*off);
		ti_patch(path, *off, "x", 1);
		cr_expect_eq(sum_of(path, Q2_FORMAT_RAW), sum);
	}
	cr_expect_eq(sum_of(path, Q2_FORMAT_QCOW2), 0u, "no header");
	cr_expect_eq(sum_of(path, Q2_FORMAT_NONE), 0u);
	cr_assert_eq(stat(path, &st), 0);
	cr_expect_eq(vm_sum(path, &(struct vm_sum_file){ st.st_ino, (uint64_t)st.st_size, vm_timespec_ns(st.st_mtim) + 1 }, Q2_FORMAT_RAW), 0u, "written since");
	cr_expect_eq(vm_sum(path, &(struct vm_sum_file){ st.st_ino + 1, (uint64_t)st.st_size, vm_timespec_ns(st.st_mtim) }, Q2_FORMAT_RAW), 0u, "another one");
	cr_assert_eq(truncate(path, (off_t)VM_SUM_MAX), 0);
	cr_expect_neq(sum_of(path, Q2_FORMAT_RAW), 0u);
	cr_assert_eq(truncate(path, (off_t)VM_SUM_MAX + 1), 0);
	cr_expect_eq(sum_of(path, Q2_FORMAT_RAW), 0u, "too large");
	free(path);
	ti_rmdir(dir);
}

/* 2 MiB of data as a thousand entries of L1 tell of them: a few kilobytes that store 2 GiB. */
Test(vm_sum, what_costs_too_much_has_none)
{
	struct ti_image img;

	ti_init(&img, BITS, CLUSTER * 512 * 500);
	for (uint64_t i = 0; i < 500; i++)
		ti_l1(&img, TI_L1, i, L2);
	for (uint64_t i = 0; i < 512; i++)
		ti_data(&img, L2, i, 4, 'a');
	cr_expect_eq(sum_image(&img), 0u);
	ti_fini(&img);
}
