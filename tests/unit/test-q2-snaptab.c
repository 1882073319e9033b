/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "q2-image.h"
#include "qcow2/snaptab.h"

/* An entry of exactly @len bytes on the heap, so that a byte too far is seen. */
static uint8_t *entry(uint32_t extra, uint16_t id_len, uint16_t name_len, size_t len)
{
	struct ti_image img = { .bits = 9 };
	uint8_t *buf = calloc(1, len ? len : 1);
	size_t i;

	ti_put64(&img, 0, 0x50000);
	ti_put32(&img, 8, 3);
	ti_put16(&img, 12, id_len);
	ti_put16(&img, 14, name_len);
	ti_put32(&img, 16, 0xffffffff);
	ti_put32(&img, 20, 999999999);
	ti_put64(&img, 24, 0x1122334455667788);
	ti_put32(&img, 32, 77);
	ti_put32(&img, 36, extra);
	for (i = 0; i < extra && i < 2048; i++)
		ti_put(&img, 40 + i, &(uint8_t){ (uint8_t)(i < 8 ? 0x10 : i < 16 ? 0x20 : 0x30) }, 1);
	for (i = 0; i < id_len; i++)
		ti_put(&img, 40 + extra + i, "i", 1);
	for (i = 0; i < name_len; i++)
		ti_put(&img, 40 + extra + id_len + i, "n", 1);
	memcpy(buf, img.bytes, len < img.len ? len : img.len);
	ti_fini(&img);
	return buf;
}

Test(q2_snaptab, entries_of_every_shape)
{
	static const struct { const char *what; uint32_t extra; uint16_t id, name; int64_t step; uint64_t vm, disk; bool has; } cases[] = {
		{ "version 2: no extra data", 0, 1, 3, 48, 77, 4096, false },
		{ "extra data too short for its first field", 7, 1, 3, 56, 77, 4096, false },
		{ "only the VM state's size", 8, 1, 3, 56, 0x1010101010101010, 4096, false },
		{ "one byte short of a disk size", 15, 1, 3, 64, 0x1010101010101010, 4096, false },
		{ "as QEMU writes them", 16, 1, 3, 64, 0x1010101010101010, 0x2020202020202020, true },
		{ "with an instruction count", 24, 1, 3, 72, 0x1010101010101010, 0x2020202020202020, true },
		{ "most extra data", 1024, 1, 3, 1072, 0x1010101010101010, 0x2020202020202020, true },
		{ "no id, no name", 16, 0, 0, 56, 0x1010101010101010, 0x2020202020202020, true },
		{ "longest strings", 1024, 65535, 65535, 40 + 1024 + 131072 - 2 + 2, 0x1010101010101010, 0x2020202020202020, true },
		{ "already a multiple of 8", 16, 4, 4, 64, 0x1010101010101010, 0x2020202020202020, true },
		{ "one byte more", 16, 4, 5, 72, 0x1010101010101010, 0x2020202020202020, true },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		size_t len = 40 + cases[i].extra + cases[i].id + cases[i].name, need = 0;
		vs_autofree uint8_t *buf = entry(cases[i].extra, cases[i].id, cases[i].name, len);
		struct q2_snap_entry e;
		int64_t step = q2_snaptab_entry(buf, len, 0, 4096, "i", &e, &need, NULL);

		cr_assert_eq(step, cases[i].step, "%s: %ld", cases[i].what, (long)step);
		cr_expect_eq(e.s.l1_off, 0x50000);
		cr_expect_eq(e.s.l1_entries, 3);
		cr_expect_eq(e.s.date_sec, 0xffffffff);
		cr_expect_eq(e.s.date_nsec, 999999999);
		cr_expect_eq(e.s.vm_clock_nsec, 0x1122334455667788);
		cr_expect_eq(e.s.vm_state_size, cases[i].vm, "%s", cases[i].what);
		cr_expect_eq(e.s.disk_size, cases[i].disk, "%s", cases[i].what);
		cr_expect_eq(e.s.has_disk_size, cases[i].has, "%s", cases[i].what);
		cr_expect_eq(e.id_len, cases[i].id);
		cr_expect_eq(e.name_len, cases[i].name);
	}
}

Test(q2_snaptab, too_much_extra_data_is_refused)
{
	static const uint32_t extras[] = { 1025, 65536, 0x7fffffff, 0xffffffff };
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(extras); i++) {
		vs_autofree uint8_t *buf = entry(extras[i] < 2048 ? extras[i] : 0, 1, 1, 4096);
		struct vs_err err = { 0 };
		struct q2_snap_entry e;
		size_t need = 0;

		buf[36] = (uint8_t)(extras[i] >> 24), buf[37] = (uint8_t)(extras[i] >> 16);
		buf[38] = (uint8_t)(extras[i] >> 8), buf[39] = (uint8_t)extras[i];
		cr_expect_eq(q2_snaptab_entry(buf, 4096, 0, 0, "i", &e, &need, &err), -EFBIG, "%u", extras[i]);
		cr_expect_eq(err.code, -EFBIG);
	}
}

Test(q2_snaptab, says_how_much_is_needed)
{
	size_t whole = 40 + 16 + 2 + 6, len;

	for (len = 0; len <= whole; len++) {
		vs_autofree uint8_t *buf = entry(16, 2, 6, len);
		struct q2_snap_entry e;
		size_t need = 0;
		int64_t step = q2_snaptab_entry(buf, len, 0, 0, "i", &e, &need, NULL);

		if (len == whole) {
			cr_expect_eq(step, 64);
		} else {
			cr_expect_eq(step, -EAGAIN);
			cr_expect_eq(need, len < 40 ? 40 : whole, "%zu bytes: %zu", len, need);
		}
	}
}

Test(q2_snaptab, a_position_past_the_buffer_asks_for_more)
{
	uint8_t buf[40] = { 0 };
	struct q2_snap_entry e;
	size_t need = 0;

	cr_expect_eq(q2_snaptab_entry(buf, sizeof(buf), 4000, 0, "i", &e, &need, NULL), -EAGAIN);
	cr_expect_eq(need, 4040);
}

Test(q2_snaptab, strings_end_at_their_first_nul)
{
	vs_autofree uint8_t *buf = entry(0, 4, 4, 48);
	struct q2_snap_entry e;
	size_t need;

	buf[40] = 0;     /* id: empty */
	buf[44 + 2] = 0; /* name: two bytes */
	cr_assert_eq(q2_snaptab_entry(buf, 48, 0, 0, "i", &e, &need, NULL), 48);
	cr_expect_eq(e.id_len, 0);
	cr_expect_eq(e.name_len, 2);
}

Test(q2_snaptab, every_part_of_the_identity_counts)
{
	static const struct q2_snapshot a = { .id = (char *)"1", .name = (char *)"monday", .l1_off = 65536, .l1_entries = 1,
					      .date_sec = 100, .date_nsec = 200, .vm_clock_nsec = 300, .vm_state_size = 400,
					      .disk_size = 512, .has_disk_size = true };
	struct q2_snapshot rows[12];
	bool same[12] = { true };
	size_t i, n = 0;

	for (i = 0; i < VS_ARRAY_LEN(rows); i++)
		rows[i] = a;
	n++; /* row 0: the same */
	rows[n++].id = (char *)"2";
	rows[n++].name = (char *)"Monday";
	rows[n++].name = (char *)"monda";
	rows[n++].l1_off = 0;
	rows[n++].l1_entries = 2;
	rows[n++].date_sec = 101;
	rows[n++].date_nsec = 201; /* all that differs after a quick delete and create */
	rows[n++].vm_clock_nsec = 301;
	rows[n++].vm_state_size = 401;
	rows[n++].disk_size = 1024;
	rows[n].has_disk_size = false; /* a table of version 2, before QEMU rewrote it */
	rows[n].disk_size = 9999;
	same[n++] = true;
	for (i = 0; i < n; i++) {
		struct q2_snap_entry e = { .s = rows[i], .id = rows[i].id, .name = rows[i].name, .id_len = strlen(rows[i].id),
					   .name_len = strlen(rows[i].name) };

		cr_expect_eq(q2_snapshot_same(&a, &rows[i]), same[i], "row %zu", i);
		cr_expect_eq(q2_snapshot_same(&rows[i], &a), same[i], "row %zu", i);
		cr_expect_eq(q2_snap_entry_is(&e, &a), same[i], "row %zu", i);
	}
}

Test(q2_snaptab, a_copy_is_the_same_and_its_own)
{
	static const struct q2_snapshot a = { .id = (char *)"", .name = (char *)"n", .disk_size = 512, .has_disk_size = true };
	struct q2_snapshot *copy = q2_snapshot_dup(&a);

	cr_assert_not_null(copy);
	cr_expect(q2_snapshot_same(&a, copy));
	cr_expect_neq(copy->name, a.name);
	q2_snapshot_free(copy);
	q2_snapshot_free(NULL);
}

/* ---------------------------------------------------------------- the table in a file (see also test-q2-faults.c) */

static struct ti_snap many(size_t i, char *id, const char *name)
{
	snprintf(id, 16, "%zu", i);
	return (struct ti_snap){ .id = id, .name = name, .l1 = 5, .l1_entries = 1, .date_sec = (uint32_t)i, .disk_size = 4096 };
}

static struct q2_info *info_of(struct ti_image *img, struct ti_file *tf, int expect)
{
	struct q2_info *info = NULL;
	struct vs_err err = { 0 };
	int rc;

	ti_file_init(tf, img);
	rc = q2_info_read(&tf->f, Q2_FORMAT_QCOW2, &info, &err);
	cr_assert_eq(rc, expect, "%d: %s", rc, err.msg);
	return info;
}

Test(q2_snaptab, entries_that_cross_the_reading_window_are_whole)
{
	static char longest[65536], ids[40][16];
	struct ti_snap snaps[40];
	struct ti_image img;
	struct ti_file tf;
	struct q2_info *info;
	size_t i;

	memset(longest, 'n', 65535);
	for (i = 0; i < 40; i++)
		snaps[i] = many(i, ids[i], longest + 65535 - i * 1680);
	ti_init(&img, 9, 32 << 10);
	ti_table(&img, 10, snaps, 40);
	ti_switch(&img, 10, 40);
	info = info_of(&img, &tf, 0);
	cr_assert_eq(info->n_snapshots, 40);
	for (i = 0; i < 40; i++) {
		cr_expect_str_eq(info->snapshots[i].id, ids[i]);
		cr_expect_eq(strlen(info->snapshots[i].name), i * 1680, "snapshot %zu", i);
	}
	q2_info_free(info);
	ti_fini(&img);
}

Test(q2_snaptab, a_table_of_more_than_64_mib_is_refused)
{
	static char longest[65536], ids[600][16];
	static struct ti_snap snaps[600];
	struct ti_image img;
	struct ti_file tf;
	size_t i;

	memset(longest, 'n', 65535);
	for (i = 0; i < 600; i++) {
		snaps[i] = many(i, ids[i], longest);
		snaps[i].id = longest;
	}
	ti_init(&img, 9, 32 << 10);
	ti_table(&img, 10, snaps, 600);
	ti_switch(&img, 10, 600);
	info_of(&img, &tf, -EFBIG);
	ti_fini(&img);
}

Test(q2_snaptab, a_table_that_was_cut_off_is_damage)
{
	struct ti_image img;
	struct ti_file tf;

	ti_init(&img, 9, 32 << 10);
	ti_switch(&img, 1 << 20, 65536); /* QEMU opens it, with a list of empty entries */
	cr_expect_null(info_of(&img, &tf, -EUCLEAN));
	ti_fini(&img);
}
