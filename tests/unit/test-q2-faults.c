/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Listing an image whose file fails, is cut short, or is rewritten between any two reads, as QEMU does it: a new table
 * first, then the twelve bytes of the header that point at it, and only then may the old table be something else.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "q2-image.h"

#define BITS      16
#define TABLE     8 /* clusters of the two tables that take turns */
#define NEW_TABLE 9

static const struct ti_snap two[] = {
	{.id = "1", .name = "monday", .l1 = 3, .l1_entries = 1, .date_sec = 100, .date_nsec = 5, .disk_size = 1 << 20},
	{.id = "2", .name = "tuesday", .l1 = 4, .l1_entries = 1, .date_sec = 200, .date_nsec = 6, .disk_size = 1 << 20},
};
static const struct ti_snap three[] = {
	{.id = "2", .name = "tuesday", .l1 = 4, .l1_entries = 1, .date_sec = 200, .date_nsec = 6, .disk_size = 1 << 20},
	{.id = "3", .name = "wednesday", .l1 = 5, .l1_entries = 1, .date_sec = 300, .date_nsec = 7, .disk_size = 1 << 20},
	{.id = "4", .name = "thursday", .l1 = 6, .l1_entries = 1, .date_sec = 400, .date_nsec = 8, .disk_size = 1 << 20},
};

static struct ti_image img;
static struct ti_file file;

static void setup(void)
{
	ti_init(&img, BITS, 1 << 20);
	ti_table(&img, TABLE, two, 2);
	ti_switch(&img, TABLE, 2);
	ti_fill(&img, 10, 0); /* nothing below is at the end of the file */
	ti_file_init(&file, &img);
}

static void teardown(void)
{
	ti_fini(&img);
}

TestSuite(q2_faults, .init = setup, .fini = teardown, .timeout = 60);

static int list(struct q2_info **info, struct vs_err *err)
{
	*info = NULL;
	return q2_info_read(&file.f, Q2_FORMAT_QCOW2, info, err);
}

static void expect_names(const char *first, size_t n)
{
	struct vs_err err = {0};
	struct q2_info *info;
	int rc = list(&info, &err);

	cr_assert_eq(rc, 0, "%s", vs_err_text(&err, rc));
	cr_expect_eq(info->n_snapshots, n);
	cr_expect_str_eq(info->snapshots[0].name, first);
	q2_info_free(info);
}

/* ---------------------------------------------------------------- faults */

Test(q2_faults, a_quiet_file_is_listed)
{
	expect_names("monday", 2);
}

Test(q2_faults, an_error_at_any_read_comes_through_with_the_files_name)
{
	unsigned total;

	expect_names("monday", 2);
	total = file.preads;
	for (unsigned at = 1; at <= total; at++) {
		struct vs_err err = {0};
		struct q2_info *info;

		ti_file_init(&file, &img);
		file.fail_at = at;
		file.fail_rc = -EIO;
		cr_expect_eq(list(&info, &err), -EIO, "read %u of %u", at, total);
		cr_expect_null(info);
		cr_expect_not_null(strstr(err.msg, file.f.path), "read %u says '%s'", at, err.msg);
	}
}

Test(q2_faults, the_error_of_below_is_passed_on_unchanged)
{
	static const int errors[] = {-EIO, -ENOSPC, -EACCES, -ENOMEM, -EINTR, -ENODEV};

	for (size_t i = 0; i < VS_ARRAY_LEN(errors); i++) {
		struct q2_info *info;

		ti_file_init(&file, &img);
		file.fail_at = 1;
		file.fail_rc = errors[i];
		cr_expect_eq(list(&info, NULL), errors[i]);
	}
}

static int no_identity(struct q2_file *f, struct q2_stamp *stamp)
{
	(void)f;
	(void)stamp;
	return -EIO;
}

Test(q2_faults, a_file_that_cannot_be_stat_is_an_error)
{
	struct q2_file_ops ops = *file.f.ops;
	struct vs_err err = {0};
	struct q2_info *info;

	ops.identity = no_identity;
	file.f.ops = &ops;
	cr_expect_eq(list(&info, &err), -EIO);
	cr_expect_not_null(strstr(err.msg, file.f.path));
}

Test(q2_faults, a_file_cut_off_anywhere_is_an_error_or_an_empty_looking_table)
{
	size_t whole = img.len;

	for (size_t len = 0; len < whole; len += len < 200 || (len >= TABLE << BITS && len < (TABLE << BITS) + 200) ? 1 : 997) {
		struct vs_err err = {0};
		struct q2_info *info;
		int rc;

		img.len = len;
		rc = list(&info, &err);
		if (len < 72)
			cr_expect_neq(rc, 0, "cut off at %zu", len);
		if (rc)
			cr_expect(err.msg[0], "cut off at %zu: no reason given", len);
		else
			cr_expect_leq(info->n_snapshots, 2);
		q2_info_free(info);
	}
	img.len = whole;
}

/* ---------------------------------------------------------------- races */

/* Does something to the image before the pread with number @at, or before every one from then on. */
struct meddler {
	void (*act)(struct meddler *m);
	unsigned at, acts;
	bool always;
};

static void meddle(struct ti_file *tf, void *opaque, uint64_t off, size_t len)
{
	struct meddler *m = opaque;

	(void)off;
	(void)len;
	if (tf->preads == m->at || (m->always && tf->preads > m->at)) {
		m->acts++;
		m->act(m);
	}
}

/* What QEMU does when a snapshot is taken or deleted; the old table's place is given to something else. */
static void replace_table(struct meddler *m)
{
	(void)m;
	ti_table(&img, NEW_TABLE, three, 3);
	ti_switch(&img, NEW_TABLE, 3);
	ti_fill(&img, TABLE, 0xff);
}

/* The same, and the old place is punched: it reads as entries of zeros, which look like entries. */
static void punch_table(struct meddler *m)
{
	replace_table(m);
	ti_fill(&img, TABLE, 0);
}

static void expect_replaced(void (*act)(struct meddler *), unsigned at)
{
	struct meddler m = {.act = act, .at = at};

	teardown();
	setup();
	file.before = meddle;
	file.opaque = &m;
	expect_names("tuesday", 3);
	cr_expect_eq(m.acts, 1);
}

Test(q2_faults, a_table_replaced_at_any_moment_is_read_anew)
{
	unsigned total;

	expect_names("monday", 2);
	total = file.preads;
	cr_assert_geq(total, 3, "header, table, header again");
	for (unsigned at = 1; at <= total; at++) {
		expect_replaced(replace_table, at);
		expect_replaced(punch_table, at);
	}
}

Test(q2_faults, a_garbled_table_counts_only_if_nothing_moved)
{
	struct vs_err err = {0};
	struct q2_info *info;

	ti_fill(&img, TABLE, 0xff); /* 4 GiB of extra data in each entry */
	cr_expect_eq(list(&info, &err), -EFBIG, "%s", err.msg);
}

static void count_up(struct meddler *m)
{
	ti_put32(&img, 60, m->acts % 3);
}

Test(q2_faults, a_header_that_never_holds_still_ends_in_eagain)
{
	struct meddler m = {.act = count_up, .at = 0, .always = true};
	struct vs_err err = {0};
	struct q2_info *info;

	file.before = meddle;
	file.opaque = &m;
	cr_expect_eq(list(&info, &err), -EAGAIN, "%s", err.msg);
	cr_expect_not_null(strstr(err.msg, file.f.path));
}

/* ---------------------------------------------------------------- tables of all shapes */

Test(q2_faults, a_table_that_is_read_in_many_pieces_is_whole)
{
	enum { N = 3000 };
	struct ti_snap *snaps = calloc(N, sizeof(*snaps));
	char *name = calloc(1, 4001);
	struct q2_info *info;

	cr_assert(snaps && name);
	memset(name, 'n', 4000);
	for (unsigned i = 0; i < N; i++) {
		/* lengths that put the borders of pieces everywhere */
		snaps[i] = (struct ti_snap){.id = name + 4000 - i % 9, .name = name + (i * 7919) % 4001, .l1 = 3,
					    .l1_entries = i, .date_sec = i, .disk_size = 1 << 20, .no_extra = i % 5 == 0};
	}
	ti_table(&img, 20, snaps, N);
	ti_switch(&img, 20, N);
	q2_info_limit(64 << 20); /* names like these are not for one image among many */
	cr_assert_eq(list(&info, NULL), 0);
	cr_assert_eq(info->n_snapshots, N);
	for (unsigned i = 0; i < N; i++) {
		cr_expect_eq(info->snapshots[i].date_sec, i);
		cr_expect_str_eq(info->snapshots[i].name, snaps[i].name);
		cr_expect_str_eq(info->snapshots[i].id, snaps[i].id);
		cr_expect_eq(info->snapshots[i].has_disk_size, i % 5 != 0);
	}
	q2_info_free(info);
	free(snaps);
	free(name);
}

/* ---------------------------------------------------------------- what all listings hold together */

/* Makes the table one of @n entries, each of which takes about 80 bytes in a listing, and the file another one. */
static void other_file(uint64_t ino, unsigned n)
{
	struct ti_snap *snaps = calloc(n, sizeof(*snaps));

	for (unsigned i = 0; i < n; i++)
		snaps[i] = (struct ti_snap){.id = "12345", .name = "2026-11-16", .l1 = 3, .l1_entries = 1, .date_sec = i, .disk_size = 1 << 20};
	ti_table(&img, 20, snaps, n);
	ti_switch(&img, 20, n);
	file.stamp.ino = ino;
	free(snaps);
}

Test(q2_faults, one_large_table_is_listed_and_no_second_one_beside_it)
{
	struct q2_info *large, *none, *small, *again;
	struct vs_err err = {0};

	q2_info_limit(540000); /* 90,000 for the first */
	other_file(1, 1000);
	cr_assert_eq(list(&large, NULL), 0);
	other_file(2, 1000);
	cr_expect_eq(list(&none, &err), -EFBIG);
	cr_expect_null(none);
	cr_expect_not_null(strstr(err.msg, "beside those of other images"), "%s", err.msg);
	cr_expect_not_null(strstr(err.msg, file.f.path), "%s", err.msg);
	other_file(3, 500);
	cr_expect_eq(list(&small, NULL), 0, "a small one has its place");
	other_file(1, 1000);
	cr_expect_eq(list(&again, NULL), 0, "the same file once more");
	q2_info_free(large);
	q2_info_free(again);
	other_file(2, 1000);
	cr_expect_eq(list(&large, NULL), 0, "the place is free");
	q2_info_free(large);
	q2_info_free(small);
}

Test(q2_faults, listings_of_one_file_have_a_limit_too)
{
	struct q2_info *held[100], *one;
	unsigned n = 0;

	q2_info_limit(540000);
	other_file(1, 1000);
	while (n < 100 && !list(&held[n], NULL)) /* 80,000 bytes each */
		n++;
	cr_expect_eq(n, 4, "%u", n);
	other_file(2, 300);
	cr_expect_eq(list(&one, NULL), 0, "and of others there is room for some");
	q2_info_free(one);
	while (n)
		q2_info_free(held[--n]);
}

Test(q2_faults, many_tables_of_all_sizes_never_take_everything)
{
	struct q2_info *held[2000], *one;
	unsigned n = 0, size = 2000;

	q2_info_limit(540000);
	while (n < 2000 && size > 20) { /* as large as it may be, again and again */
		other_file(10 + n, size);
		if (list(&held[n], NULL))
			size -= size / 10;
		else
			n++;
	}
	other_file(5000, 10);
	cr_expect_eq(list(&one, NULL), 0, "after %u others", n);
	q2_info_free(one);
	while (n)
		q2_info_free(held[--n]);
}

Test(q2_faults, raw_is_only_measured)
{
	struct q2_info *info;

	img.len = 1000;
	cr_assert_eq(q2_info_read(&file.f, Q2_FORMAT_RAW, &info, NULL), 0);
	cr_expect_eq(info->size, 1024, "whole sectors, as in QEMU");
	cr_expect_eq(info->n_snapshots, 0);
	cr_expect_eq(file.preads, 0);
	q2_info_free(info);
}

/* ---------------------------------------------------------------- the same snapshot? */

Test(q2_faults, every_field_of_an_entry_tells_snapshots_apart)
{
	struct ti_snap base = two[0];
	struct q2_snapshot a = ti_snapshot(&img, &base);
	const struct {
		const char *what;
		struct ti_snap other;
	} cases[] = {
		{"id", {.id = "7", .name = "monday", .l1 = 3, .l1_entries = 1, .date_sec = 100, .date_nsec = 5, .disk_size = 1 << 20}},
		{"name", {.id = "1", .name = "m", .l1 = 3, .l1_entries = 1, .date_sec = 100, .date_nsec = 5, .disk_size = 1 << 20}},
		{"L1", {.id = "1", .name = "monday", .l1 = 4, .l1_entries = 1, .date_sec = 100, .date_nsec = 5, .disk_size = 1 << 20}},
		{"L1 size", {.id = "1", .name = "monday", .l1 = 3, .l1_entries = 2, .date_sec = 100, .date_nsec = 5, .disk_size = 1 << 20}},
		{"seconds", {.id = "1", .name = "monday", .l1 = 3, .l1_entries = 1, .date_sec = 101, .date_nsec = 5, .disk_size = 1 << 20}},
		/* all that differs when the newest is deleted and taken again within a second */
		{"nanoseconds", {.id = "1", .name = "monday", .l1 = 3, .l1_entries = 1, .date_sec = 100, .date_nsec = 6, .disk_size = 1 << 20}},
		{"clock", {.id = "1", .name = "monday", .l1 = 3, .l1_entries = 1, .date_sec = 100, .date_nsec = 5, .clock = 1, .disk_size = 1 << 20}},
		{"VM state", {.id = "1", .name = "monday", .l1 = 3, .l1_entries = 1, .date_sec = 100, .date_nsec = 5, .vm_state = 1, .disk_size = 1 << 20}},
		{"disk size", {.id = "1", .name = "monday", .l1 = 3, .l1_entries = 1, .date_sec = 100, .date_nsec = 5, .disk_size = 2 << 20}},
	};

	cr_expect(q2_snapshot_same(&a, &a));
	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct q2_snapshot b = ti_snapshot(&img, &cases[i].other);

		cr_expect_not(q2_snapshot_same(&a, &b), "%s", cases[i].what);
	}
}

Test(q2_faults, an_old_entry_rewritten_with_its_disk_size_is_the_same_snapshot)
{
	struct ti_snap old = two[0];
	struct q2_snapshot a = ti_snapshot(&img, &two[0]), b;

	old.no_extra = true;
	b = ti_snapshot(&img, &old);
	cr_expect(q2_snapshot_same(&a, &b));
}
