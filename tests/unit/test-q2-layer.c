/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "q2-image.h"
#include "qcow2/layer.h"

#define C 512u
#define SPAN 32768u

/* A file in memory with two snapshots (L1 tables in 10 and 11, records in 60), standing on "base.qcow2". */
struct bench {
	struct ti_image img;
	struct ti_file tf;
	struct q2_cache *cache;
	struct q2_layer l;
};

static struct ti_snap snaps[] = {
	{ .id = "1", .name = "one", .l1 = 10, .l1_entries = 1, .date_sec = 1, .date_nsec = 1, .disk_size = SPAN },
	{ .id = "2", .name = "two", .l1 = 11, .l1_entries = 1, .date_sec = 1, .date_nsec = 2, .disk_size = SPAN },
};

static void bench_init(struct bench *b)
{
	memset(b, 0, sizeof(*b));
	ti_init(&b->img, 9, SPAN);
	ti_l1(&b->img, 10, 0, 20);
	ti_l1(&b->img, 11, 0, 20);
	ti_data(&b->img, 20, 0, 30, 0xaa);
	ti_table(&b->img, 60, snaps, 2);
	ti_switch(&b->img, 60, 2);
	ti_backing(&b->img, "base.qcow2", "qcow2");
	ti_file_init(&b->tf, &b->img);
	b->cache = q2_cache_new(1 << 20, 0);
}

static int open_layer(struct bench *b, const struct ti_snap *snap, struct vs_err *err)
{
	struct q2_snapshot s;

	if (snap)
		s = ti_snapshot(&b->img, snap);
	return q2_layer_init(&b->l, b->cache, &b->tf.f, Q2_FORMAT_QCOW2, snap ? &s : NULL, NULL, false, err);
}

static void bench_open(struct bench *b, const struct ti_snap *snap)
{
	struct vs_err err = { 0 };

	bench_init(b);
	cr_assert_eq(open_layer(b, snap, &err), 0, "%s", err.msg);
}

static void bench_fini(struct bench *b)
{
	if (b->l.file)
		q2_layer_fini(&b->l, b->cache);
	cr_expect_eq(b->tf.closes, 1, "closed %u times", b->tf.closes);
	q2_cache_free(b->cache);
	ti_fini(&b->img);
}

static void written(struct bench *b)
{
	b->tf.stamp.mtime_ns += 1000000000;
	b->tf.stamp.ctime_ns += 1000000000;
}

static void expect_check(struct bench *b, int rc, const char *what)
{
	struct vs_err err = { 0 };
	int got = q2_layer_check(&b->l, &err);

	cr_expect_eq(got, rc, "%s: %d, not %d (%s)", what, got, rc, err.msg);
	if (rc && got == rc)
		cr_expect_eq(err.code, rc, "%s: no message", what);
}

/* ---------------------------------------------------------------- a snapshot in a file that is written */

Test(q2_layer, what_a_running_guest_writes_is_no_concern_of_a_snapshot)
{
	struct bench b;

	bench_open(&b, &snaps[0]);
	ti_put64(&b.img, 24, SPAN / 2);          /* resized */
	ti_put32(&b.img, 36, 4);                 /* its L1 table grew */
	ti_put64(&b.img, 40, ti_off(&b.img, 80)); /* and moved */
	ti_put64(&b.img, 48, ti_off(&b.img, 81)); /* as did the refcounts */
	ti_put64(&b.img, 72, 3);                 /* dirty, corrupt */
	ti_put64(&b.img, 80, 1);                 /* lazy refcounts */
	ti_put64(&b.img, 88, 1);                 /* bitmaps */
	ti_put32(&b.img, 96, 6);
	ti_fill(&b.img, 90, 1);
	written(&b);
	expect_check(&b, 0, "a busy guest");
	bench_fini(&b);
}

Test(q2_layer, what_makes_a_snapshot_another_is_noticed)
{
	static const struct { const char *what; unsigned off, bytes; uint64_t value; } cases[] = {
		{ "version", 4, 4, 2 },
		{ "cluster size", 20, 4, 10 },
		{ "encryption", 32, 4, 1 },
		{ "extended L2", 72, 8, 16 },
		{ "data file", 72, 8, 4 },
		{ "no backing file any more", 8, 8, 0 },
		{ "a backing name cut shorter", 16, 4, 4 },
		{ "another image altogether", 0, 4, 0 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct bench b;

		bench_open(&b, &snaps[0]);
		if (cases[i].bytes == 8)
			ti_put64(&b.img, cases[i].off, cases[i].value);
		else
			ti_put32(&b.img, cases[i].off, (uint32_t)cases[i].value);
		written(&b);
		expect_check(&b, -ESTALE, cases[i].what);
		bench_fini(&b);
	}
}

Test(q2_layer, another_backing_file_is_noticed)
{
	struct bench b;
	char *name;

	bench_open(&b, &snaps[0]);
	name = memmem(b.img.bytes, 512, "base.qcow2", 10);
	name[0] = 'c';
	written(&b);
	expect_check(&b, -ESTALE, "another name");
	name[0] = 'b';
	written(&b);
	expect_check(&b, 0, "the old name");
	name = memmem(b.img.bytes, 512, "qcow2", 5); /* the format extension comes first */
	memcpy(name, "qcow3", 5);
	written(&b);
	expect_check(&b, -ESTALE, "another format");
	bench_fini(&b);
}

Test(q2_layer, a_backing_name_that_only_moved_is_the_same)
{
	struct bench b;

	bench_open(&b, &snaps[0]);
	ti_put(&b.img, 300, "base.qcow2", 10); /* as when QEMU puts an extension in front of it */
	ti_put64(&b.img, 8, 300);
	ti_put64(&b.img, 128, 0);
	written(&b);
	expect_check(&b, 0, "moved");
	bench_fini(&b);
}

Test(q2_layer, a_deleted_snapshot_is_stale_and_its_sibling_is_not)
{
	struct bench b;

	bench_open(&b, &snaps[0]);
	ti_table(&b.img, 70, snaps + 1, 1);
	ti_switch(&b.img, 70, 1);
	written(&b);
	expect_check(&b, -ESTALE, "deleted");
	bench_fini(&b);

	bench_open(&b, &snaps[1]);
	ti_table(&b.img, 70, snaps + 1, 1);
	ti_switch(&b.img, 70, 1);
	written(&b);
	expect_check(&b, 0, "moved");
	bench_fini(&b);
}

/* The header changes its backing name after the reader has parsed it, and keeps its size. */
static void rebase(struct ti_file *tf, void *opaque, uint64_t off, size_t len)
{
	unsigned *reads = opaque;
	char *name;

	(void)off;
	(void)len;
	if (++*reads != 2) /* 1 is the header's first read */
		return;
	name = memmem(tf->img->bytes, 512, "base.qcow2", 10);
	cr_assert_not_null(name);
	name[0] = 'c';
	tf->stamp.mtime_ns++;
}

Test(q2_layer, a_header_that_changes_while_it_is_opened_is_noticed)
{
	unsigned reads = 0;
	struct bench b;

	bench_init(&b);
	b.tf.before = rebase;
	b.tf.opaque = &reads;
	cr_assert_eq(open_layer(&b, &snaps[0], NULL), 0);
	b.tf.before = NULL;
	/* what was parsed is the old name: nothing read through it may be believed */
	cr_expect_str_eq(b.l.header.backing_name, "base.qcow2");
	expect_check(&b, -ESTALE, "rebased");
	bench_fini(&b);
}

Test(q2_layer, a_quiet_file_is_not_asked_again_and_a_written_one_is)
{
	struct bench b;
	unsigned before;

	bench_open(&b, &snaps[0]);
	expect_check(&b, 0, "first");
	before = b.tf.preads;
	expect_check(&b, 0, "settled");
	cr_expect_eq(b.tf.preads, before);
	written(&b);
	expect_check(&b, 0, "written");
	cr_expect_gt(b.tf.preads, before);
	before = b.tf.preads;
	b.tf.stamp.ctime_ns++; /* an mtime set back leaves a ctime */
	expect_check(&b, 0, "touched");
	cr_expect_gt(b.tf.preads, before);
	bench_fini(&b);
}

Test(q2_layer, a_file_written_just_now_is_asked_every_time)
{
	struct timespec ts;
	struct bench b;
	unsigned before;
	int i;

	bench_open(&b, &snaps[0]);
	clock_gettime(CLOCK_REALTIME, &ts);
	b.tf.stamp.mtime_ns = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec + 3600 * INT64_C(1000000000); /* "just": still to come */
	for (i = 0; i < 3; i++) {
		before = b.tf.preads;
		expect_check(&b, 0, "busy");
		cr_expect_gt(b.tf.preads, before);
	}
	bench_fini(&b);
}

Test(q2_layer, a_block_device_is_asked_every_time)
{
	struct bench b;
	unsigned before;
	int i;

	bench_init(&b);
	b.tf.stamp.block = true;
	cr_assert_eq(open_layer(&b, &snaps[0], NULL), 0);
	for (i = 0; i < 3; i++) {
		before = b.tf.preads;
		expect_check(&b, 0, "device");
		cr_expect_gt(b.tf.preads, before);
	}
	bench_fini(&b);
}

Test(q2_layer, reads_that_fail_are_errors_and_no_verdict)
{
	struct bench b;
	unsigned n, total;

	bench_open(&b, &snaps[0]);
	total = b.tf.preads;
	written(&b);
	expect_check(&b, 0, "all is well");
	written(&b);
	total = b.tf.preads;
	expect_check(&b, 0, "all is well");
	total = b.tf.preads - total;
	cr_assert_geq(total, 2);
	for (n = 1; n <= total; n++) {
		written(&b);
		b.tf.preads = 0;
		b.tf.fail_at = n;
		b.tf.fail_rc = -EIO;
		expect_check(&b, -EIO, "read fails");
	}
	b.tf.fail_at = 0;
	written(&b);
	expect_check(&b, 0, "and works again");
	bench_fini(&b);
}

/* ---------------------------------------------------------------- opening */

Test(q2_layer, snapshots_that_cannot_be_are_refused_and_hide_no_other)
{
	static const struct { const char *what; struct ti_snap s; int rc; } cases[] = {
		{ "not in the table", { .id = "9", .name = "nine", .l1 = 10, .l1_entries = 1, .disk_size = SPAN }, -ESTALE },
		{ "disk size no multiple of 512", { .id = "3", .name = "x", .l1 = 10, .l1_entries = 1, .disk_size = SPAN + 1 }, -EUCLEAN },
		{ "disk size 2^64-512", { .id = "3", .name = "x", .l1 = 10, .l1_entries = 1, .disk_size = UINT64_MAX & ~UINT64_C(511) },
		  -EUCLEAN },
		{ "disk size that needs more than 32 MiB of L1", { .id = "3", .name = "x", .l1 = 10, .l1_entries = 1,
		  .disk_size = (UINT64_C(4) << 20) * SPAN + 512 }, -EFBIG },
		{ "L1 table of more than 32 MiB", { .id = "3", .name = "x", .l1 = 10, .l1_entries = (4 << 20) + 1, .disk_size = SPAN },
		  -EFBIG },
		{ "L1 table past 2^63", { .id = "3", .name = "x", .l1 = UINT64_C(1) << 54, .l1_entries = 1, .disk_size = SPAN },
		  -EUCLEAN },
		{ "L1 table shorter than the disk: the rest is unallocated", { .id = "3", .name = "x", .l1 = 10, .l1_entries = 0,
		  .disk_size = SPAN }, 0 },
		{ "L1 table longer than the disk: VM state", { .id = "3", .name = "x", .l1 = 10, .l1_entries = 60, .disk_size = SPAN }, 0 },
		{ "no disk at all", { .id = "3", .name = "x", .l1 = 10, .l1_entries = 0, .disk_size = 0 }, 0 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct ti_snap three[3] = { snaps[0], cases[i].s, snaps[1] };
		struct vs_err err = { 0 };
		struct bench b;
		int rc;

		bench_init(&b);
		if (i)
			ti_table(&b.img, 60, three, 3), ti_switch(&b.img, 60, 3);
		rc = open_layer(&b, &cases[i].s, &err);
		cr_expect_eq(rc, cases[i].rc, "%s: %d, not %d (%s)", cases[i].what, rc, cases[i].rc, err.msg);
		if (rc)
			cr_expect_eq(err.code, rc);
		bench_fini(&b);

		bench_init(&b);
		if (i)
			ti_table(&b.img, 60, three, 3), ti_switch(&b.img, 60, 3);
		cr_expect_eq(open_layer(&b, &snaps[1], NULL), 0, "%s hides another", cases[i].what);
		bench_fini(&b);
	}
}

Test(q2_layer, a_misaligned_l1_table_is_an_error_of_its_snapshot)
{
	struct q2_snapshot s;
	struct bench b;

	bench_init(&b);
	ti_put64(&b.img, ti_off(&b.img, 60), 10 * C + 8);
	s = ti_snapshot(&b.img, &snaps[0]);
	s.l1_off += 8;
	cr_expect_eq(q2_layer_init(&b.l, b.cache, &b.tf.f, Q2_FORMAT_QCOW2, &s, NULL, false, NULL), -EUCLEAN);
	bench_fini(&b);
}

Test(q2_layer, what_is_not_read_here_is_refused)
{
	static const struct { const char *what; unsigned off; uint32_t value; bool snapshot; int rc; } cases[] = {
		{ "AES", 32, 1, false, -ENOTSUP },
		{ "LUKS", 32, 2, true, -ENOTSUP },
		{ "a data file without a name", 76, 4, false, -EINVAL },
		{ "snapshots over a data file: nothing freezes it", 76, 4, true, -ENOTSUP },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct bench b;

		bench_init(&b);
		ti_put32(&b.img, cases[i].off, cases[i].value);
		cr_expect_eq(open_layer(&b, cases[i].snapshot ? &snaps[0] : NULL, NULL), cases[i].rc, "%s", cases[i].what);
		bench_fini(&b);
	}
}

Test(q2_layer, a_raw_image_has_no_snapshots)
{
	struct q2_snapshot s;
	struct bench b;

	bench_init(&b);
	s = ti_snapshot(&b.img, &snaps[0]);
	cr_expect_eq(q2_layer_init(&b.l, b.cache, &b.tf.f, Q2_FORMAT_RAW, &s, NULL, false, NULL), -ESTALE);
	bench_fini(&b);
}

Test(q2_layer, every_read_that_fails_while_opening_is_reported_and_leaks_nothing)
{
	unsigned n;

	for (n = 1; n <= 10; n++) {
		struct vs_err err = { 0 };
		struct bench b;
		int rc;

		bench_init(&b);
		b.tf.fail_at = n;
		b.tf.fail_rc = -EIO;
		rc = open_layer(&b, &snaps[0], &err);
		cr_expect_eq(rc, n <= b.tf.preads ? -EIO : 0, "read %u: %d", n, rc);
		bench_fini(&b);
	}
}

/* ---------------------------------------------------------------- frozen */

Test(q2_layer, a_frozen_file_is_its_size_and_mtime)
{
	struct bench b;

	bench_open(&b, NULL);
	expect_check(&b, 0, "nothing happened");
	b.tf.stamp.ctime_ns++;
	b.tf.stamp.mode ^= 0200;
	b.tf.stamp.uid++;
	expect_check(&b, 0, "libvirt changed its owner");
	b.tf.stamp.mtime_ns++;
	expect_check(&b, -ESTALE, "written");
	expect_check(&b, -ESTALE, "and it stays so");
	bench_fini(&b);

	bench_open(&b, NULL);
	ti_fill(&b.img, 500, 0);
	expect_check(&b, -ESTALE, "longer");
	bench_fini(&b);
}

static void write_always(struct ti_file *tf, void *opaque, uint64_t off, size_t len)
{
	(void)opaque;
	(void)off;
	(void)len;
	tf->stamp.mtime_ns++;
}

Test(q2_layer, a_file_that_does_not_hold_still_is_not_frozen, .timeout = 10)
{
	struct bench b;

	bench_init(&b);
	b.tf.before = write_always;
	cr_expect_eq(open_layer(&b, NULL, NULL), -EAGAIN);
	bench_fini(&b);
}

Test(q2_layer, a_file_written_this_instant_is_stamped_a_little_later, .timeout = 10)
{
	struct timespec ts, then;
	struct bench b;

	bench_init(&b);
	clock_gettime(CLOCK_REALTIME, &ts);
	b.tf.stamp.mtime_ns = (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
	cr_assert_eq(open_layer(&b, NULL, NULL), 0);
	clock_gettime(CLOCK_REALTIME, &then); /* a second write in the same tick of the clock could not be told from the first */
	cr_expect_gt((then.tv_sec - ts.tv_sec) * 1000000000 + then.tv_nsec - ts.tv_nsec, 20000000);
	bench_fini(&b);
}
