/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "q2-image.h"

#define C 512u /* cluster size of most images here: one L2 table covers 64 of them */

/* A directory, a cache, and a gate that allows what lies in the directory. */
struct room {
	char *dir;
	struct q2_cache *cache;
	struct q2_gate *gate;
};

static struct room room_new(size_t table_bytes, size_t cluster_bytes)
{
	struct room r = { ti_mkdir(), q2_cache_new(table_bytes, cluster_bytes), q2_gate_new() };

	cr_assert(r.cache && r.gate);
	cr_assert_eq(q2_gate_allow_dir(r.gate, r.dir), 0);
	return r;
}

static void room_free(struct room *r)
{
	q2_cache_free(r->cache);
	q2_gate_unref(r->gate);
	ti_rmdir(r->dir);
}

/* Saves @img under @name and frees it; gives the path. */
static char *put_image(struct room *r, const char *name, struct ti_image *img)
{
	char *path = ti_path(r->dir, name);

	ti_save(img, path);
	ti_fini(img);
	return path;
}

static int try_open(struct room *r, const char *path, enum q2_format format, const struct q2_snapshot *snapshot,
		    struct q2_view **out, struct vs_err *err)
{
	struct q2_view_spec spec = { .path = path, .format = format, .snapshot = snapshot, .gate = r->gate };

	return q2_view_open(r->cache, &spec, out, err);
}

static struct q2_view *view(struct room *r, const char *path, enum q2_format format, const struct q2_snapshot *snapshot)
{
	struct vs_err err = { 0 };
	struct q2_view *v = NULL;
	int rc = try_open(r, path, format, snapshot, &v, &err);

	cr_assert_eq(rc, 0, "%s", vs_err_text(&err, rc));
	return v;
}

static void expect_bytes(struct q2_view *v, uint64_t off, size_t len, uint8_t byte)
{
	vs_autofree uint8_t *buf = malloc(len);
	struct vs_err err = { 0 };
	ssize_t n;

	memset(buf, ~byte, len);
	n = q2_view_read(v, buf, len, off, NULL, &err);
	cr_expect_eq(n, (ssize_t)len, "read of %zu at %#lx: %zd (%s)", len, (unsigned long)off, n, err.msg);
	if (n == (ssize_t)len)
		cr_expect(ti_all(buf, len, byte), "bytes at %#lx are not all %#x: %#x", (unsigned long)off, byte, buf[0]);
}

static void expect_error(struct q2_view *v, uint64_t off, size_t len, int rc)
{
	vs_autofree uint8_t *buf = malloc(len);
	struct vs_err err = { 0 };
	ssize_t n = q2_view_read(v, buf, len, off, NULL, &err);

	cr_expect_eq(n, rc, "read of %zu at %#lx: %zd, not %d (%s)", len, (unsigned long)off, n, rc, err.msg);
	if (n < 0 && n == rc)
		cr_expect_eq(err.code, rc, "the message is of another error: %s", err.msg);
}

/* ---------------------------------------------------------------- reads between two looks of the reader */

/*
 * A hook in the file of an open view: every pread of it passes through here. The file is borrowed from an extent; the
 * view does not notice, except that it is no longer known to be a posix file.
 */
struct spy {
	struct q2_file_ops ops;
	const struct q2_file_ops *real;
	struct q2_file *file;
	void (*before)(struct spy *spy, uint64_t off, size_t len), (*after)(struct spy *spy, uint64_t off, size_t len);
	const char *path;
	void *opaque;
	unsigned preads, fail_at;
};

static struct spy *the_spy; /* one test runs in a process */

static ssize_t spy_pread(struct q2_file *f, void *buf, size_t len, uint64_t off)
{
	ssize_t n;

	the_spy->preads++;
	if (the_spy->before)
		the_spy->before(the_spy, off, len);
	if (the_spy->preads == the_spy->fail_at)
		return -EIO;
	n = the_spy->real->pread(f, buf, len, off);
	if (the_spy->after)
		the_spy->after(the_spy, off, len);
	return n;
}

/* Gets at the file behind the data at @guest_off. */
static void spy_on(struct spy *spy, struct q2_view *v, uint64_t guest_off)
{
	struct q2_extent e;

	cr_assert_eq(q2_view_extent(v, guest_off, 1, NULL, &e, NULL), 0);
	cr_assert_not_null(e.file);
	spy->file = e.file;
	spy->real = e.file->ops;
	spy->ops = *e.file->ops;
	spy->ops.pread = spy_pread;
	e.file->ops = &spy->ops;
	the_spy = spy;
}

/* ---------------------------------------------------------------- the shape of a disk */

Test(q2_view, what_no_layer_has_reads_zero)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct ti_image img;
	struct q2_view *v;
	vs_autofree char *path = NULL;

	ti_init(&img, 9, 64 * C);
	path = put_image(&r, "a.qcow2", &img);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	expect_bytes(v, 0, 64 * C, 0);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, reads_end_at_the_end_of_the_disk)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct ti_image img;
	struct q2_extent e;
	struct q2_view *v;
	vs_autofree char *path = NULL;
	uint8_t buf[2 * C];

	ti_init(&img, 9, 3 * C + 100); /* rounded down */
	path = put_image(&r, "a.qcow2", &img);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	cr_expect_eq(q2_view_size(v), 3 * C);
	cr_expect_eq(q2_view_read(v, buf, sizeof(buf), 2 * C, NULL, NULL), C);
	cr_expect_eq(q2_view_read(v, buf, sizeof(buf), 3 * C - 1, NULL, NULL), 1);
	cr_expect_eq(q2_view_read(v, buf, sizeof(buf), 3 * C, NULL, NULL), 0);
	cr_expect_eq(q2_view_read(v, buf, sizeof(buf), UINT64_MAX, NULL, NULL), 0);
	cr_expect_eq(q2_view_read(v, buf, 0, 0, NULL, NULL), 0);
	cr_expect_eq(q2_view_extent(v, 3 * C, 1, NULL, &e, NULL), -ENXIO);
	cr_expect_eq(q2_view_seek(v, 3 * C, SEEK_DATA, NULL, NULL), -ENXIO);
	cr_expect_eq(q2_view_seek(v, 3 * C, SEEK_HOLE, NULL, NULL), -ENXIO);
	cr_expect_eq(q2_view_seek(v, 0, SEEK_SET, NULL, NULL), -EINVAL);
	cr_expect_eq(q2_view_seek(v, 0, SEEK_DATA, NULL, NULL), -ENXIO);
	cr_expect_eq(q2_view_seek(v, 5, SEEK_HOLE, NULL, NULL), 5);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, an_empty_disk_is_empty)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct ti_image img;
	struct q2_view *v;
	vs_autofree char *path = NULL;
	uint64_t bytes;

	ti_init(&img, 9, 0);
	path = put_image(&r, "a.qcow2", &img);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	cr_expect_eq(q2_view_size(v), 0);
	cr_expect_eq(q2_view_read(v, &bytes, 1, 0, NULL, NULL), 0);
	cr_expect_eq(q2_view_allocated(v, NULL, &bytes, NULL), 0);
	cr_expect_eq(bytes, 0);
	q2_view_close(v);
	room_free(&r);
}

/* ---------------------------------------------------------------- chains */

/* top: 0 data 0x11, 1 zero, rest open; mid (shorter): 0..3 0x22; base.raw (odd size): 0x33 everywhere */
static char *put_chain(struct room *r, uint64_t top_size, uint64_t mid_size, size_t raw_size)
{
	vs_autofree char *mid = NULL, *raw = ti_path(r->dir, "base.raw");
	vs_autofree uint8_t *bytes = malloc(raw_size + 1);
	struct ti_image img;
	unsigned i;

	memset(bytes, 0x33, raw_size);
	ti_save_bytes(raw, bytes, raw_size);
	ti_age(raw);
	ti_init(&img, 9, mid_size);
	ti_l1(&img, TI_L1, 0, 3);
	for (i = 0; i < 4; i++)
		ti_data(&img, 3, i, 10 + 2 * i, 0x22);
	ti_backing(&img, "base.raw", "raw");
	mid = put_image(r, "mid.qcow2", &img);
	ti_init(&img, 9, top_size);
	ti_l1(&img, TI_L1, 0, 3);
	ti_data(&img, 3, 0, 4, 0x11);
	ti_l2(&img, 3, 1, TI_ZERO);
	ti_backing(&img, "mid.qcow2", "qcow2");
	return put_image(r, "top.qcow2", &img);
}

/* Of a layer by itself: a table is there where it says zeros, and where it says nothing. */
Test(q2_view, where_a_layer_has_tables)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct q2_view_spec spec = { .format = Q2_FORMAT_QCOW2, .gate = r.gate, .alone = true };
	vs_autofree char *path = NULL;
	struct ti_image img;
	struct q2_view *v;
	struct q2_extent e;
	uint64_t span;

	ti_init(&img, 9, 256 * C);
	ti_l1(&img, TI_L1, 1, 3);
	ti_fill(&img, 3, 0);
	ti_l1(&img, TI_L1, 2, 4);
	for (unsigned i = 0; i < 64; i++)
		ti_l2(&img, 4, i, TI_ZERO);
	ti_backing(&img, "base.raw", "raw");
	spec.path = path = put_image(&r, "alone.qcow2", &img);
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	span = q2_view_table_span(v);
	cr_expect_eq(span, 64 * C);
	cr_assert_eq(q2_view_extent(v, 0, 256 * C, NULL, &e, NULL), 0);
	cr_expect(e.unallocated && !e.has_table && e.len == span);
	cr_assert_eq(q2_view_extent(v, span, 256 * C, NULL, &e, NULL), 0);
	cr_expect(e.unallocated && e.has_table && e.len == span);
	cr_assert_eq(q2_view_extent(v, 2 * span, 256 * C, NULL, &e, NULL), 0);
	cr_expect(e.kind == Q2_ZERO && !e.unallocated && e.has_table && e.len == span);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, the_uppermost_layer_that_has_it_answers)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 40 * C, 20 * C);
	struct q2_view *v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	struct q2_extent e;

	cr_expect_eq(q2_view_depth(v), 3);
	cr_expect_str_eq(strrchr(q2_view_path(v, 2), '/'), "/base.raw");
	expect_bytes(v, 0, C, 0x11);
	expect_bytes(v, C, C, 0);             /* a zero cluster hides what is below */
	expect_bytes(v, 2 * C, 2 * C, 0x22);
	expect_bytes(v, 4 * C, 16 * C, 0x33);
	expect_bytes(v, 20 * C, 40 * C, 0);   /* past the end of the raw file, and of the middle */
	cr_assert_eq(q2_view_extent(v, 2 * C, 60 * C, NULL, &e, NULL), 0);
	cr_expect(e.kind == Q2_DATA && e.depth == 1 && e.host_off == 14 * C && e.len == C);
	cr_assert_eq(q2_view_extent(v, 4 * C, 60 * C, NULL, &e, NULL), 0);
	cr_expect(e.kind == Q2_DATA && e.depth == 2 && e.host_off == 4 * C && e.len == 16 * C);
	cr_assert_eq(q2_view_extent(v, C, 60 * C, NULL, &e, NULL), 0);
	cr_expect(e.kind == Q2_ZERO && e.depth == 0 && !e.file && e.len == C);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, a_shorter_backing_file_reads_as_zeros_and_not_as_what_is_below_it)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 6 * C, 60 * C); /* the raw file is longer than the middle */
	struct q2_view *v = view(&r, path, Q2_FORMAT_QCOW2, NULL);

	expect_bytes(v, 4 * C, 2 * C, 0x33);
	expect_bytes(v, 6 * C, 54 * C, 0);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, a_raw_file_of_odd_size_ends_in_zeros)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 60 * C, 10 * C + 100);
	vs_autofree char *raw = ti_path(r.dir, "base.raw");
	struct q2_view *v = view(&r, path, Q2_FORMAT_QCOW2, NULL);

	expect_bytes(v, 10 * C, 100, 0x33);
	expect_bytes(v, 10 * C + 100, 412, 0);
	expect_bytes(v, 11 * C, C, 0);
	q2_view_close(v);
	v = view(&r, raw, Q2_FORMAT_RAW, NULL);
	cr_expect_eq(q2_view_size(v), 11 * C); /* as QEMU rounds it */
	expect_bytes(v, 10 * C, 100, 0x33);
	expect_bytes(v, 10 * C + 100, 412, 0);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, chains_that_go_wrong_are_refused)
{
	static const struct { const char *what, *name, *format; int rc; } cases[] = {
		{ "itself", "top.qcow2", "qcow2", -ELOOP },
		{ "itself by another name", "./top.qcow2", "qcow2", -ELOOP },
		{ "missing", "nowhere.qcow2", "qcow2", -ENOENT },
		{ "outside", "/etc/passwd", "raw", -EPERM },
		{ "no format", "base.raw", NULL, -EPERM },
		{ "another format than it is", "base.raw", "qcow2", -EINVAL },
		{ "a format nobody reads", "base.raw", "vmdk", -ENOTSUP },
		{ "the network", "nbd://localhost/x", "raw", -EPERM },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct room r = room_new(1 << 20, 1 << 20);
		vs_autofree char *raw = ti_path(r.dir, "base.raw");
		struct vs_err err = { 0 };
		struct q2_view *v = NULL;
		struct ti_image img;
		char *path;
		int rc;

		ti_save_bytes(raw, raw, 5);
		ti_init(&img, 9, 64 * C);
		ti_backing(&img, cases[i].name, cases[i].format);
		path = put_image(&r, "top.qcow2", &img);
		rc = try_open(&r, path, Q2_FORMAT_QCOW2, NULL, &v, &err);
		cr_expect_eq(rc, cases[i].rc, "%s: %d, not %d (%s)", cases[i].what, rc, cases[i].rc, err.msg);
		cr_expect_eq(err.code, rc);
		cr_expect_null(v);
		free(path);
		room_free(&r);
	}
}

Test(q2_view, a_chain_of_200_is_read_and_201_is_not)
{
	struct room r = room_new(16 << 20, 1 << 20);
	struct vs_err err = { 0 };
	struct q2_view *v;
	char *path = NULL, name[32], below[32];
	struct ti_image img;
	unsigned i;

	for (i = 0; i < 201; i++) {
		snprintf(name, sizeof(name), "%u.qcow2", i);
		snprintf(below, sizeof(below), "%u.qcow2", i - 1);
		ti_init(&img, 9, 64 * C);
		if (i)
			ti_backing(&img, below, "qcow2");
		ti_l1(&img, TI_L1, 0, 3);
		ti_data(&img, 3, i % 64, 4, (uint8_t)i);
		free(path);
		path = put_image(&r, name, &img);
		if (i < 199)
			continue;
		v = NULL;
		cr_expect_eq(try_open(&r, path, Q2_FORMAT_QCOW2, NULL, &v, &err), i == 199 ? 0 : -ELOOP, "%u: %s", i + 1, err.msg);
		if (v) {
			expect_bytes(v, 0, C, 192);
			expect_bytes(v, 63 * C, C, 191);
		}
		q2_view_close(v);
	}
	free(path);
	room_free(&r);
}

/* ---------------------------------------------------------------- holes */

Test(q2_view, holes_and_data_alternate_for_lseek)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 6 * C, 5 * C);
	struct q2_view *v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	uint64_t bytes = 0;

	cr_expect_eq(q2_view_allocated(v, &(struct q2_work){ .limit = 1 }, &bytes, NULL), -E2BIG);
	cr_expect_eq(q2_view_seek(v, 0, SEEK_HOLE, NULL, NULL), C);
	cr_expect_eq(q2_view_seek(v, C, SEEK_DATA, NULL, NULL), 2 * C);
	cr_expect_eq(q2_view_seek(v, 2 * C + 7, SEEK_DATA, NULL, NULL), 2 * C + 7);
	cr_expect_eq(q2_view_seek(v, 2 * C + 7, SEEK_HOLE, NULL, NULL), 5 * C);
	cr_expect_eq(q2_view_seek(v, 5 * C, SEEK_DATA, NULL, NULL), -ENXIO);
	cr_expect_eq(q2_view_allocated(v, NULL, &bytes, NULL), 0);
	cr_expect_eq(bytes, 4 * C);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, lseek_in_a_raw_file_of_odd_size_from_every_offset)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *raw = ti_path(r.dir, "odd.raw");
	struct q2_view *v;
	uint64_t off;

	ti_save_bytes(raw, "123456789", 9);
	cr_assert_eq(truncate(raw, 20000), 0); /* data in the first block, a hole, and an odd end */
	ti_patch(raw, 16000, memset((char[4000]){ 0 }, 1, 4000), 4000);
	ti_age(raw);
	v = view(&r, raw, Q2_FORMAT_RAW, NULL);
	cr_expect_eq(q2_view_size(v), 20480);
	for (off = 0; off < 20480; off++) {
		int64_t data = q2_view_seek(v, off, SEEK_DATA, NULL, NULL), hole = q2_view_seek(v, off, SEEK_HOLE, NULL, NULL);

		if (off >= 16000 && off < 20000) {
			cr_assert_eq(data, (int64_t)off, "%lu: %ld", (unsigned long)off, (long)data);
			cr_assert_eq(hole, 20480, "%lu: %ld", (unsigned long)off, (long)hole);
		}
		cr_assert(data == -ENXIO || (data >= (int64_t)off && data < 20480));
		cr_assert(hole >= (int64_t)off && hole <= 20480);
		cr_assert(data != hole || data != (int64_t)off);
	}
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, clusters_that_are_holes_in_the_file_are_holes)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct ti_image img;
	struct q2_view *v;
	vs_autofree char *path = NULL;
	unsigned i;

	/* preallocated metadata: every cluster of 64 KiB has a place, and one of them has data */
	ti_init(&img, 16, 32 << 16);
	ti_l1(&img, TI_L1, 0, 3);
	for (i = 0; i < 32; i++)
		ti_l2(&img, 3, i, ti_off(&img, 4 + i));
	path = put_image(&r, "a.qcow2", &img);
	cr_assert_eq(truncate(path, 36 << 16), 0);
	ti_patch(path, 14 << 16, memset((char[65536]){ 0 }, 7, 65536), 65536);
	ti_age(path);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	cr_expect_eq(q2_view_seek(v, 0, SEEK_DATA, NULL, NULL), 10 << 16);
	cr_expect_eq(q2_view_seek(v, 10 << 16, SEEK_HOLE, NULL, NULL), 11 << 16);
	expect_bytes(v, 0, 10 << 16, 0);
	expect_bytes(v, 10 << 16, 1 << 16, 7);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, data_past_the_end_of_the_file_reads_zero) /* a sparse tail: QEMU leaves it so */
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct ti_image img;
	struct q2_view *v;
	vs_autofree char *path = NULL;

	ti_init(&img, 9, 64 * C);
	ti_l1(&img, TI_L1, 0, 3);
	ti_l2(&img, 3, 0, ti_off(&img, 1000));
	ti_l2(&img, 3, 1, ti_off(&img, 4));
	ti_put(&img, 4 * C, memset((char[100]){ 0 }, 1, 100), 100); /* the file ends within the cluster */
	path = put_image(&r, "a.qcow2", &img);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	expect_bytes(v, 0, C, 0);
	expect_bytes(v, C, 100, 1);
	expect_bytes(v, C + 100, C - 100, 0);
	q2_view_close(v);
	room_free(&r);
}

/* ---------------------------------------------------------------- compressed clusters */

static size_t deflate_into(struct ti_image *img, uint64_t off, const void *in, size_t len)
{
	uint8_t out[4096];
	z_stream z = { .next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)len, .next_out = out, .avail_out = sizeof(out) };

	cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
	cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	ti_put(img, off, out, sizeof(out) - z.avail_out);
	return sizeof(out) - z.avail_out;
}

/* Guest clusters 0 and 1 compressed, one behind the other; 2 plain; 3 compressed garbage. */
static void fill_compressed(struct ti_image *img, unsigned l2)
{
	uint8_t in[C];
	uint64_t off = ti_off(img, 40) + 3;

	off += deflate_into(img, off, memset(in, 0x61, C), C);
	ti_l2(img, l2, 0, TI_COMPRESSED | (ti_off(img, 40) + 3));
	ti_l2(img, l2, 1, TI_COMPRESSED | off);
	off += deflate_into(img, off, memset(in, 0x62, C), C);
	ti_data(img, l2, 2, 50, 0x63);
	ti_fill(img, 60, 0xff);
	ti_l2(img, l2, 3, TI_COMPRESSED | ti_off(img, 60));
}

Test(q2_view, compressed_clusters_in_every_cut)
{
	static const size_t cache[] = { 0, C - 1, C, 10 * C };
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cache); i++) {
		struct room r = room_new(1 << 20, cache[i]);
		struct q2_cache_stats stats;
		struct ti_image img;
		struct q2_view *v;
		vs_autofree char *path = NULL;
		unsigned k;

		ti_init(&img, 9, 64 * C);
		ti_l1(&img, TI_L1, 0, 3);
		fill_compressed(&img, 3);
		path = put_image(&r, "a.qcow2", &img);
		v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
		expect_bytes(v, 0, C, 0x61);
		for (k = 0; k < 3; k++) { /* again, from the cache where there is one */
			expect_bytes(v, 100, 1, 0x61);
			expect_bytes(v, 0, C - 1, 0x61);
			expect_bytes(v, C + 511, 1, 0x62);
			expect_bytes(v, C, C, 0x62);
			expect_bytes(v, 2 * C, C, 0x63);
		}
		expect_error(v, 3 * C, 1, -EIO);
		expect_error(v, 2 * C, 2 * C, -EIO); /* one bad cluster fails what has a part in it */
		expect_error(v, 3 * C + 5, 100, -EIO);
		q2_cache_stats(r.cache, &stats);
		cr_expect_leq(stats.cluster_bytes, cache[i]);
		cr_expect_eq(stats.cluster_hits > 0, cache[i] >= C);
		cr_expect_eq(q2_view_has_compressed(v, NULL, NULL), 1);
		q2_view_close(v);
		room_free(&r);
	}
}

Test(q2_view, a_stream_at_the_very_end_of_the_file_is_read_with_zeros_behind)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct ti_image img;
	struct q2_view *v;
	vs_autofree char *path = NULL;
	uint8_t in[C];

	ti_init(&img, 9, 64 * C);
	ti_l1(&img, TI_L1, 0, 3);
	ti_l2(&img, 3, 0, TI_COMPRESSED | UINT64_C(1) << 61 | (ti_off(&img, 10) + 100)); /* two sectors, of which few bytes are there */
	deflate_into(&img, ti_off(&img, 10) + 100, memset(in, 0x44, C), C);
	path = put_image(&r, "a.qcow2", &img);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	expect_bytes(v, 0, C, 0x44);
	q2_view_close(v);
	room_free(&r);
}

/* ---------------------------------------------------------------- budgets */

Test(q2_view, whatever_the_caches_may_hold_the_bytes_are_the_same)
{
	static const size_t tables[] = { 0, 1, 200, 2000, 1 << 20 };
	struct ti_image img;
	size_t i;
	unsigned k;

	for (i = 0; i < VS_ARRAY_LEN(tables); i++) {
		struct room r = room_new(tables[i], tables[i]);
		struct q2_view *v;
		vs_autofree char *path = NULL;

		ti_init(&img, 9, 640 * C);
		for (k = 0; k < 10; k += 2)
			ti_l1(&img, TI_L1, k, 10 + k);
		for (k = 0; k < 640; k++)
			if (k / 64 % 2 == 0 && k % 3)
				ti_data(&img, 10 + k / 64, k % 64, 2000 - k, (uint8_t)(k | 1));
		path = put_image(&r, "a.qcow2", &img);
		v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
		for (k = 0; k < 640; k++)
			expect_bytes(v, k * C, C, k / 64 % 2 == 0 && k % 3 ? (uint8_t)(k | 1) : 0);
		q2_view_close(v);
		room_free(&r);
	}
}

/* ---------------------------------------------------------------- work */

/* A disk of 16 tables with 0 to 3 stretches of data in each; wild enough that a walk takes many steps. */
static char *put_ragged(struct room *r)
{
	struct ti_image img;
	unsigned i, k;

	ti_init(&img, 9, 16 * 64 * C);
	for (i = 0; i < 16; i++) {
		if (i % 5 == 4)
			continue;
		ti_l1(&img, TI_L1, i, 3 + i);
		for (k = 0; k < 64; k++) {
			if (i % 4 && k / 7 % 2 == i % 2)
				ti_data(&img, 3 + i, k, 100 + 64 * i + k, 0x51);
			else if (k % 3 == 0)
				ti_l2(&img, 3 + i, k, TI_ZERO);
		}
	}
	return put_image(r, "ragged.qcow2", &img);
}

/* Marks what lseek calls data, each call with that limit. Says how often it was called. */
static unsigned mark_data(struct q2_view *v, uint64_t limit, bool *data)
{
	uint64_t off = 0, size = q2_view_size(v);
	unsigned calls = 0;

	while (off < size && calls < 100000) {
		struct q2_work a = { .limit = limit }, b = { .limit = limit };
		int64_t from = q2_view_seek(v, off, SEEK_DATA, &a, NULL), to;

		calls++;
		if (from == -ENXIO)
			break;
		cr_assert_geq(from, (int64_t)off);
		to = q2_view_seek(v, (uint64_t)from, SEEK_HOLE, &b, NULL);
		cr_assert_gt(to, from, "a stretch of data that is empty, at %ld", (long)from);
		for (off = (uint64_t)from; off < (uint64_t)to; off += C)
			data[off / C] = true;
	}
	return calls;
}

Test(q2_view, lseek_that_may_not_finish_never_calls_data_a_hole)
{
	static const uint64_t limits[] = { 1, 50, 300, 2000, 0 };
	struct room r = room_new(1000, 1 << 20); /* not everything is held */
	vs_autofree char *path = put_ragged(&r);
	struct q2_view *v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	bool exact[16 * 64] = { false };
	size_t i, k;

	mark_data(v, 0, exact);
	for (i = 0; i < VS_ARRAY_LEN(limits); i++) {
		bool said[16 * 64] = { false };
		size_t more = 0;

		mark_data(v, limits[i], said);
		for (k = 0; k < VS_ARRAY_LEN(said); k++) {
			cr_expect(said[k] || !exact[k], "limit %lu: cluster %zu has data", (unsigned long)limits[i], k);
			more += said[k] && !exact[k];
		}
		cr_expect(limits[i] == 1 ? more : limits[i] || !more, "limit %lu: %zu holes are data", (unsigned long)limits[i], more);
	}
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, lseek_that_may_not_finish_gets_on_all_the_same)
{
	struct room r = room_new(0, 0);
	struct q2_work once = { .limit = 500 }, work = once, again = once;
	struct ti_image img;
	struct q2_view *v;
	vs_autofree char *path = NULL;
	uint64_t size = UINT64_C(20000) * 64 * C;
	int64_t at;

	ti_init(&img, 9, size); /* a hole; of its L1 table 512 entries are seen at once */
	path = put_image(&r, "hole.qcow2", &img);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	at = q2_view_seek(v, 0, SEEK_DATA, &work, NULL);
	cr_expect_eq(at, 2 * 512 * 64 * C);
	cr_expect_eq(q2_view_seek(v, (uint64_t)at, SEEK_HOLE, &again, NULL), at + 65536); /* what was called data is data */
	cr_expect_eq(q2_view_seek(v, (uint64_t)at + 1, SEEK_HOLE, NULL, NULL), at + 1);
	cr_expect_eq(q2_view_seek(v, 0, SEEK_HOLE, NULL, NULL), 0);
	cr_expect_eq(q2_view_seek(v, 0, SEEK_DATA, &work, NULL), 512 * 64 * C); /* a spent limit allows one step */
	cr_expect_eq(q2_view_seek(v, 0, SEEK_DATA, NULL, NULL), -ENXIO);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, lseek_for_a_hole_that_may_not_finish_ends_at_the_end)
{
	struct room r = room_new(0, 0);
	struct q2_work work = { .limit = 1 };
	struct ti_image img;
	struct q2_view *v;
	vs_autofree char *path = NULL;
	unsigned i;

	ti_init(&img, 9, 64 * C);
	ti_l1(&img, TI_L1, 0, 3);
	for (i = 0; i < 40; i++)
		ti_data(&img, 3, i, 200 - 2 * i, 1);
	path = put_image(&r, "data.qcow2", &img);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	cr_expect_eq(q2_view_seek(v, 0, SEEK_HOLE, &work, NULL), 64 * C);
	cr_expect_eq(q2_view_seek(v, 0, SEEK_HOLE, NULL, NULL), 40 * C);
	q2_view_close(v);
	room_free(&r);
}

static bool at_once(void *opaque)
{
	++*(unsigned *)opaque;
	return true;
}

Test(q2_view, whatever_takes_long_ends_when_nobody_waits)
{
	enum { DEPTH = 60 };
	unsigned asked = 0, i;
	struct room r = room_new(0, 0);
	struct q2_work work;
	struct q2_view *v = NULL;
	char *path = NULL, name[32], below[32];
	struct q2_view_spec spec = { .format = Q2_FORMAT_QCOW2, .gate = r.gate };
	uint64_t bytes;
	vs_autofree uint8_t *buf = malloc(64 * C);
	struct q2_extent e;
	int rc = 0;

	for (i = 0; i < DEPTH; i++) {
		struct ti_image img;

		snprintf(name, sizeof(name), "%u.qcow2", i);
		snprintf(below, sizeof(below), "%u.qcow2", i - 1);
		ti_init(&img, 9, 64 * C);
		if (i)
			ti_backing(&img, below, "qcow2");
		ti_l1(&img, TI_L1, 0, 3);
		ti_data(&img, 3, i, 4, (uint8_t)i);
		free(path);
		path = put_image(&r, name, &img);
	}
	spec.path = path;
	work = (struct q2_work){ .stop = at_once, .opaque = &asked };
	spec.work = &work;
	cr_expect_eq(q2_view_open(r.cache, &spec, &v, NULL), -EINTR);
	cr_expect_null(v);
	spec.work = NULL;
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	work = (struct q2_work){ .stop = at_once, .opaque = &asked };
	cr_expect_eq(q2_view_read(v, buf, 64 * C, 0, &work, NULL), -EINTR);
	work = (struct q2_work){ .stop = at_once, .opaque = &asked };
	cr_expect_eq(q2_view_seek(v, 0, SEEK_HOLE, &work, NULL), -EINTR);
	work = (struct q2_work){ .stop = at_once, .opaque = &asked };
	cr_expect_eq(q2_view_allocated(v, &work, &bytes, NULL), -EINTR);
	work = (struct q2_work){ .stop = at_once, .opaque = &asked };
	for (i = 0; i < 1000 && !rc; i++)
		rc = q2_view_extent(v, 60 * C, C, &work, &e, NULL);
	cr_expect_eq(rc, -EINTR);
	cr_expect_geq(asked, 5);
	cr_expect_eq(q2_view_read(v, buf, 64 * C, 0, NULL, NULL), 64 * C);
	q2_view_close(v);
	free(path);
	room_free(&r);
}

/* Each layer has every second cluster of its own, and all but the lowest are asked for the rest. */
Test(q2_view, a_walk_through_many_layers_costs_their_sum_and_not_their_product)
{
	enum { DEPTH = 40, TABLES = 32 };
	struct room r = room_new(64 << 20, 0);
	struct q2_work work = { 0 };
	struct q2_view *v = NULL;
	char *path = NULL, name[32], below[32];
	uint64_t bytes = 0;
	unsigned i, k;

	for (i = 0; i < DEPTH; i++) {
		struct ti_image img;

		snprintf(name, sizeof(name), "%u.qcow2", i);
		snprintf(below, sizeof(below), "%u.qcow2", i - 1);
		ti_init(&img, 9, TABLES * 64 * C);
		if (i)
			ti_backing(&img, below, "qcow2");
		for (k = 0; k < TABLES; k++)
			ti_l1(&img, TI_L1, k, 10 + k);
		for (k = 0; k < 64 * TABLES && i == DEPTH - 1; k += 2) /* the top one: a piece for each cluster of the disk */
			ti_l2(&img, 10 + k / 64, k % 64, TI_ZERO);
		ti_data(&img, 10, 1, 100, 1);
		free(path);
		path = put_image(&r, name, &img);
	}
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	cr_assert_eq(q2_view_allocated(v, NULL, &bytes, NULL), 0); /* so that all tables are in memory */
	cr_expect_eq(bytes, C);
	cr_assert_eq(q2_view_allocated(v, &work, &bytes, NULL), 0);
	/* pieces, and each layer's tables; their product is 80,000 */
	cr_expect_lt(work.spent, 3 * 64 * TABLES + 3 * DEPTH * TABLES + 100 * DEPTH, "%lu units", (unsigned long)work.spent);
	q2_view_close(v);
	free(path);
	room_free(&r);
}

/* ---------------------------------------------------------------- frozen files that are written all the same */

Test(q2_view, a_frozen_file_that_changed_is_stale_at_every_read_and_not_only_the_first)
{
	static const struct { const char *what; uint64_t entry; } cases[] = {
		{ "a data cluster became zeros", TI_ZERO },
		{ "a data cluster went away", 0 },
		{ "a data cluster moved", 10 * C },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct room r = room_new(1 << 20, 1 << 20);
		struct ti_image img;
		struct q2_view *v, *other;
		vs_autofree char *path = NULL;
		uint8_t be[8];
		unsigned k;

		ti_init(&img, 9, 64 * C);
		ti_l1(&img, TI_L1, 0, 3);
		ti_data(&img, 3, 0, 4, 0xaa);
		ti_fill(&img, 10, 0xbb);
		path = put_image(&r, "a.qcow2", &img);
		v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
		other = view(&r, path, Q2_FORMAT_QCOW2, NULL); /* on the same map */
		for (k = 0; k < 8; k++)
			be[k] = (uint8_t)(cases[i].entry >> (56 - 8 * k));
		ti_patch(path, 3 * C, be, 8);
		expect_error(v, 0, C, -ESTALE); /* reads the table, and finds out */
		expect_error(v, 0, C, -ESTALE); /* has the table */
		expect_error(other, 0, C, -ESTALE);
		cr_expect_eq(q2_view_check(v, NULL, NULL), -ESTALE);
		cr_expect_eq(q2_view_seek(v, 0, SEEK_DATA, NULL, NULL), -ESTALE, "%s", cases[i].what);
		q2_view_close(v);
		q2_view_close(other);
		room_free(&r);
	}
}

Test(q2_view, what_was_known_before_a_lower_file_changed_stays_true)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 40 * C, 20 * C), *mid = ti_path(r.dir, "mid.qcow2");
	struct q2_view *v = view(&r, path, Q2_FORMAT_QCOW2, NULL);

	expect_bytes(v, 4 * C, 16 * C, 0x33); /* asks the middle, which has nothing there */
	ti_patch(mid, 90 * C, "x", 1);
	expect_bytes(v, 4 * C, 16 * C, 0x33); /* that it had nothing then is still so */
	expect_error(v, 2 * C, C, -ESTALE);   /* its own bytes are not */
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, only_watched_layers_may_not_change)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 40 * C, 20 * C), *raw = ti_path(r.dir, "base.raw");
	struct q2_view_spec spec = { .path = path, .format = Q2_FORMAT_QCOW2, .gate = r.gate, .watched = 2 };
	struct q2_view *all = view(&r, path, Q2_FORMAT_QCOW2, NULL), *two = NULL;

	cr_assert_eq(q2_view_open(r.cache, &spec, &two, NULL), 0);
	ti_patch(raw, 0, "changed where this view does not look", 8);
	expect_bytes(two, 4 * C, 16 * C, 0x33);
	expect_error(all, 4 * C, 16 * C, -ESTALE);
	cr_expect_eq(q2_view_check(two, NULL, NULL), 0);
	cr_expect_eq(q2_view_check(all, NULL, NULL), -ESTALE);
	expect_bytes(all, 0, C, 0x11); /* a read that does not depend on it */
	cr_expect_not(q2_view_settled(two));
	q2_view_close(all);
	q2_view_close(two);
	room_free(&r);
}

Test(q2_view, settled_means_frozen_guarded_and_nobody_writing)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 40 * C, 20 * C), *raw = ti_path(r.dir, "base.raw");
	struct q2_view_spec spec = { .path = path, .format = Q2_FORMAT_QCOW2, .gate = r.gate, .guard = true, .guard_top = true };
	struct flock write_byte = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };
	struct q2_view *v;
	int fd;

	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	cr_expect(q2_view_settled(v));
	q2_view_unguard(v);
	cr_expect_not(q2_view_settled(v));
	expect_bytes(v, 4 * C, C, 0x33);
	q2_view_close(v);

	spec.guard_top = false;
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	cr_expect_not(q2_view_settled(v));
	q2_view_close(v);

	spec.guard_top = true; /* as QEMU while it writes the base */
	fd = open(raw, O_RDWR | O_CLOEXEC);
	cr_assert_eq(fcntl(fd, F_OFD_SETLK, &write_byte), 0);
	cr_expect_eq(q2_view_open(r.cache, &spec, &v, NULL), -EAGAIN);
	spec.watched = 1; /* ... in a commit whose top is the image itself */
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	cr_expect_not(q2_view_settled(v));
	q2_view_close(v);
	close(fd);
	room_free(&r);
}

Test(q2_view, a_layer_that_was_written_since_it_was_judged_is_not_opened)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 40 * C, 20 * C);
	struct q2_view_spec spec = { .path = path, .format = Q2_FORMAT_QCOW2, .gate = r.gate };
	struct q2_stamp judged[3] = { 0 };
	struct q2_file *f;
	struct q2_view *v;
	size_t i;

	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	for (i = 0; i < 3; i++) {
		cr_assert_eq(q2_file_open(q2_view_path(v, i), &f, NULL), 0);
		cr_assert_eq(f->ops->identity(f, &judged[i]), 0);
		q2_file_close(f);
	}
	q2_view_close(v);
	spec.expected = judged;
	spec.n_expected = 3;
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	q2_view_close(v);
	judged[2].mtime_ns--; /* the base, the last of them */
	cr_expect_eq(q2_view_open(r.cache, &spec, &v, NULL), -ESTALE);
	spec.watched = 2;
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	q2_view_close(v);
	room_free(&r);
}

Test(q2_view, a_layer_that_is_another_file_than_was_judged_is_not_opened)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 40 * C, 20 * C);
	struct q2_view_spec spec = { .path = path, .format = Q2_FORMAT_QCOW2, .gate = r.gate };
	struct q2_stamp judged[3] = { 0 };
	const char *name;
	struct q2_view *v;
	size_t i;

	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	for (i = 0; i < 3; i++)
		cr_assert(q2_view_file(v, i, &name, &judged[i]));
	cr_expect_not(q2_view_file(v, 3, &name, &judged[0]));
	q2_view_close(v);
	spec.expected = judged;
	spec.n_expected = 3;
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	q2_view_close(v);
	judged[2].ino++; /* of the same size and time */
	cr_expect_eq(q2_view_open(r.cache, &spec, &v, NULL), -ESTALE);
	room_free(&r);
}

/* Puts a copy of that file in its place, as old as it was. */
static void replace(struct room *r, const char *path)
{
	vs_autofree char *copy = ti_path(r->dir, "copy"), *command = NULL;

	cr_assert_gt(asprintf(&command, "cp -p '%s' '%s' && mv '%s' '%s'", path, copy, copy, path), 0);
	cr_assert_eq(system(command), 0);
}

Test(q2_view, a_view_goes_on_with_the_files_it_has_and_knows_that_others_lie_there)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 40 * C, 20 * C), *raw = ti_path(r.dir, "base.raw"), *mid = ti_path(r.dir, "mid.qcow2");
	struct q2_view *v = view(&r, path, Q2_FORMAT_QCOW2, NULL), *now;

	cr_expect_not(q2_view_replaced(v));
	replace(&r, raw);
	cr_expect(q2_view_replaced(v));
	expect_bytes(v, 4 * C, 16 * C, 0x33);
	now = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	cr_expect_not(q2_view_replaced(now));
	cr_expect_neq(q2_view_content(v), q2_view_content(now));
	q2_view_close(v);
	unlink(mid); /* gone, and not replaced: a commit has merged it away */
	cr_expect_not(q2_view_replaced(now));
	expect_bytes(now, 2 * C, 2 * C, 0x22);
	q2_view_close(now);
	room_free(&r);
}

Test(q2_view, the_number_of_a_content_says_whether_the_bytes_may_be_others)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = put_chain(&r, 60 * C, 40 * C, 20 * C), *raw = ti_path(r.dir, "base.raw");
	struct q2_view_spec two = { .path = path, .format = Q2_FORMAT_QCOW2, .gate = r.gate, .watched = 2 };
	struct q2_view *v = view(&r, path, Q2_FORMAT_QCOW2, NULL), *short_sighted;
	uint64_t content = q2_view_content(v), seen;

	q2_view_close(v);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	cr_expect_eq(q2_view_content(v), content);
	q2_view_close(v);
	cr_assert_eq(q2_view_open(r.cache, &two, &short_sighted, NULL), 0);
	seen = q2_view_content(short_sighted);
	q2_view_close(short_sighted);
	ti_patch(raw, 0, "x", 1);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	cr_expect_neq(q2_view_content(v), content);
	q2_view_close(v);
	cr_assert_eq(q2_view_open(r.cache, &two, &short_sighted, NULL), 0);
	cr_expect_eq(q2_view_content(short_sighted), seen);
	q2_view_close(short_sighted);
	room_free(&r);
}

Test(q2_view, a_data_file_that_somebody_writes_is_not_settled)
{
	struct room r = room_new(1 << 20, 1 << 20);
	vs_autofree char *path = NULL, *data = ti_path(r.dir, "data.raw");
	struct q2_view_spec spec = { .format = Q2_FORMAT_QCOW2, .gate = r.gate, .guard = true, .guard_top = true };
	struct flock write_byte = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };
	struct q2_stamp stamp;
	struct ti_image img;
	struct q2_view *v;
	uint8_t bytes[2 * C];
	const char *name;
	int fd;

	ti_save_bytes(data, memset(bytes, 0x77, sizeof(bytes)), sizeof(bytes));
	ti_age(data);
	ti_init(&img, 9, 64 * C);
	ti_put64(&img, 72, 4);
	ti_put32(&img, 112, 0x44415441);
	ti_put32(&img, 116, 8);
	ti_put(&img, 120, "data.raw", 8);
	ti_l1(&img, TI_L1, 0, 3);
	ti_l2(&img, 3, 0, TI_COPIED);     /* at 0: only the flag says that it is there */
	ti_l2(&img, 3, 1, TI_COPIED | C);
	ti_l2(&img, 3, 3, TI_COPIED | C); /* not where it must be */
	path = put_image(&r, "a.qcow2", &img);
	spec.path = path;
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	cr_expect(q2_view_file(v, 1, &name, &stamp) && !strcmp(name, data));
	cr_expect_not(q2_view_file(v, 2, &name, &stamp));
	cr_expect(q2_view_settled(v));
	expect_bytes(v, 0, 2 * C, 0x77);
	expect_bytes(v, 2 * C, C, 0);
	expect_error(v, 3 * C, C, -EUCLEAN);
	q2_view_close(v);

	fd = open(data, O_RDWR | O_CLOEXEC);
	cr_assert_eq(fcntl(fd, F_OFD_SETLK, &write_byte), 0);
	cr_assert_eq(q2_view_open(r.cache, &spec, &v, NULL), 0);
	cr_expect_not(q2_view_settled(v));
	cr_assert_eq(pwrite(fd, "x", 1, 0), 1);
	expect_error(v, 0, C, -ESTALE);
	q2_view_close(v);
	close(fd);
	room_free(&r);
}

/* ---------------------------------------------------------------- a live image */

/*
 * Two snapshots of one disk: 'one' (L1 in 10) has 0xaa at guest cluster 0 and compressed 0x61 at 1; 'two' (L1 in 11) has
 * 0xbb at 0. The table of records is in cluster 60.
 */
static struct ti_snap snaps[] = {
	{ .id = "1", .name = "one", .l1 = 10, .l1_entries = 1, .date_sec = 1, .date_nsec = 1, .disk_size = 64 * C },
	{ .id = "2", .name = "two", .l1 = 11, .l1_entries = 1, .date_sec = 1, .date_nsec = 2, .disk_size = 32 * C },
};

static char *put_live(struct room *r, struct q2_snapshot out[2])
{
	struct ti_image img;
	uint8_t in[C];

	ti_init(&img, 9, 64 * C);
	ti_l1(&img, 10, 0, 20);
	ti_l1(&img, 11, 0, 21);
	ti_data(&img, 20, 0, 30, 0xaa);
	ti_l2(&img, 20, 1, TI_COMPRESSED | ti_off(&img, 32));
	deflate_into(&img, ti_off(&img, 32), memset(in, 0x61, C), C);
	ti_data(&img, 21, 0, 31, 0xbb);
	ti_table(&img, 60, snaps, 2);
	ti_switch(&img, 60, 2);
	ti_fill(&img, 90, 0);
	out[0] = ti_snapshot(&img, &snaps[0]);
	out[1] = ti_snapshot(&img, &snaps[1]);
	return put_image(r, "live.qcow2", &img);
}

/* What QEMU does to delete @keep's sibling: a new table in 70, the header, and only then the clusters of the other. */
static void delete_sibling(const char *path, const struct ti_snap *keep, unsigned reused)
{
	struct ti_image img;
	uint8_t junk[C];

	ti_init(&img, 9, 64 * C);
	ti_table(&img, 70, keep, 1);
	ti_fill(&img, 80, 0);
	ti_patch(path, 70 * C, img.bytes + 70 * C, C);
	ti_switch(&img, 70, 1);
	ti_patch(path, 60, img.bytes + 60, 12);
	ti_patch(path, reused * C, memset(junk, 0xee, C), C);
	ti_fini(&img);
}

Test(q2_view, each_snapshot_has_its_own_bytes_and_size)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct q2_snapshot s[2];
	vs_autofree char *path = put_live(&r, s);
	struct q2_view *one = view(&r, path, Q2_FORMAT_QCOW2, &s[0]), *two = view(&r, path, Q2_FORMAT_QCOW2, &s[1]);

	cr_expect_eq(q2_view_size(one), 64 * C);
	cr_expect_eq(q2_view_size(two), 32 * C);
	expect_bytes(one, 0, C, 0xaa);
	expect_bytes(one, C, C, 0x61);
	expect_bytes(two, 0, C, 0xbb);
	expect_bytes(two, C, 31 * C, 0);
	cr_expect_not(q2_view_settled(one));
	q2_view_close(one);
	q2_view_close(two);
	room_free(&r);
}

static void delete_before_data(struct spy *spy, uint64_t off, size_t len)
{
	(void)len;
	if (off != 30 * C && off != 32 * C)
		return;
	spy->before = NULL;
	delete_sibling(spy->path, &snaps[1], (unsigned)(off / C));
}

static void delete_after_data(struct spy *spy, uint64_t off, size_t len)
{
	(void)len;
	if (off != 30 * C && off != 32 * C)
		return;
	spy->after = NULL;
	delete_sibling(spy->path, &snaps[1], (unsigned)(off / C));
}

Test(q2_view, a_snapshot_deleted_while_it_is_read_is_stale_and_its_sibling_is_not)
{
	static const struct { const char *what; bool before; uint64_t off; size_t len; } cases[] = {
		{ "before the data is copied", true, 0, C },
		{ "between the copy and the check", false, 0, C },
		{ "before a stream is read: garbage is no I/O error", true, C, C },
		{ "after a stream was read", false, C, C },
		{ "before a part of a cluster is decoded for the cache", true, C + 5, 10 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct room r = room_new(1 << 20, 1 << 20);
		struct q2_snapshot s[2];
		vs_autofree char *path = put_live(&r, s);
		struct q2_view *one = view(&r, path, Q2_FORMAT_QCOW2, &s[0]), *two = view(&r, path, Q2_FORMAT_QCOW2, &s[1]);
		struct spy spy = { .path = path };

		spy_on(&spy, one, 0);
		if (cases[i].before)
			spy.before = delete_before_data;
		else
			spy.after = delete_after_data;
		expect_error(one, cases[i].off, cases[i].len, -ESTALE);
		cr_expect(!spy.before && !spy.after, "%s: nothing happened", cases[i].what);
		expect_error(one, cases[i].off, cases[i].len, -ESTALE); /* for ever */
		expect_error(one, 40 * C, C, -ESTALE);                  /* holes too */
		cr_expect_eq(q2_view_seek(one, 0, SEEK_DATA, NULL, NULL), -ESTALE);
		expect_bytes(two, 0, C, 0xbb);
		q2_view_close(one);
		q2_view_close(two);
		room_free(&r);
	}
}

static void move_table(struct spy *spy, uint64_t off, size_t len)
{
	struct ti_image img;

	(void)len;
	if (off != 30 * C)
		return;
	spy->before = NULL;
	ti_init(&img, 9, 64 * C);
	ti_table(&img, 70, snaps, 2);
	ti_fill(&img, 80, 0);
	ti_patch(spy->path, 70 * C, img.bytes + 70 * C, C);
	ti_switch(&img, 70, 2);
	ti_patch(spy->path, 60, img.bytes + 60, 12);
	memset(img.bytes, 0, C);
	ti_patch(spy->path, 60 * C, img.bytes, C); /* the old one is punched */
	ti_fini(&img);
}

Test(q2_view, a_table_that_moves_under_a_read_is_followed)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct q2_snapshot s[2];
	vs_autofree char *path = put_live(&r, s);
	struct q2_view *one = view(&r, path, Q2_FORMAT_QCOW2, &s[0]);
	struct spy spy = { .path = path };

	expect_bytes(one, 0, C, 0xaa);
	spy_on(&spy, one, 0);
	spy.before = move_table;
	expect_bytes(one, 0, C, 0xaa);
	cr_expect_null(spy.before);
	expect_bytes(one, 0, C, 0xaa);
	q2_view_close(one);
	room_free(&r);
}

Test(q2_view, a_snapshot_made_anew_with_other_nanoseconds_is_not_the_old_one)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct q2_snapshot s[2];
	vs_autofree char *path = put_live(&r, s);
	struct q2_view *two = view(&r, path, Q2_FORMAT_QCOW2, &s[1]), *anew = NULL;
	struct ti_snap again[2] = { snaps[0], snaps[1] };
	struct q2_snapshot young;
	struct ti_image img;
	uint8_t junk[C];

	expect_bytes(two, 0, C, 0xbb);
	/* deleted and created: the table at the same place, as long, the id and the name, the L1 table: all as before */
	again[1].date_nsec++;
	ti_init(&img, 9, 64 * C);
	ti_table(&img, 60, again, 2);
	ti_fill(&img, 61, 0);
	ti_patch(path, 60 * C, img.bytes + 60 * C, C);
	ti_patch(path, 31 * C, memset(junk, 0xcc, C), C);
	expect_error(two, 0, C, -ESTALE);
	cr_expect_eq(try_open(&r, path, Q2_FORMAT_QCOW2, &s[1], &anew, NULL), -ESTALE);
	young = ti_snapshot(&img, &again[1]);
	anew = view(&r, path, Q2_FORMAT_QCOW2, &young);
	expect_bytes(anew, 0, C, 0xcc); /* and nothing of the dead one's memory */
	ti_fini(&img);
	q2_view_close(two);
	q2_view_close(anew);
	room_free(&r);
}

Test(q2_view, an_error_below_is_an_error_and_the_next_read_works)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct q2_snapshot s[2];
	vs_autofree char *path = put_live(&r, s);
	struct q2_view *one = view(&r, path, Q2_FORMAT_QCOW2, &s[0]);
	struct spy spy = { .path = path };
	unsigned n, total;

	spy_on(&spy, one, 0);
	expect_bytes(one, 0, C, 0xaa);
	ti_age(path);
	spy.preads = 0;
	expect_bytes(one, 0, C, 0xaa);
	total = spy.preads;
	cr_assert_geq(total, 3); /* data, header, record */
	for (n = 1; n <= total; n++) {
		ti_age(path); /* a new ctime: the check has to read again */
		spy.preads = 0;
		spy.fail_at = n;
		expect_error(one, 0, C, -EIO);
		spy.fail_at = 0;
		expect_bytes(one, 0, C, 0xaa);
	}
	q2_view_close(one);
	room_free(&r);
}

Test(q2_view, a_snapshot_is_found_in_the_file_or_not_opened)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct q2_snapshot s[2], none;
	vs_autofree char *path = put_live(&r, s);
	struct q2_view *v = NULL;
	struct vs_err err = { 0 };

	none = s[0];
	none.date_sec++;
	cr_expect_eq(try_open(&r, path, Q2_FORMAT_QCOW2, &none, &v, &err), -ESTALE);
	cr_expect_not_null(strstr(err.msg, "'one'"), "%s", err.msg);
	cr_expect_eq(try_open(&r, path, Q2_FORMAT_NONE, NULL, &v, &err), -EPERM);
	cr_expect_eq(try_open(&r, path, Q2_FORMAT_RAW, &s[0], &v, &err), -ESTALE);
	cr_expect_null(v);
	room_free(&r);
}

/* ---------------------------------------------------------------- leases */

static const struct q2_lease lease = { .signo = SIGIO };

/* 0, or what it says; nobody is told when it is to be given up, so nobody may wait for that. */
static int take_lease(struct q2_view *v)
{
	struct q2_lease mine = lease;
	int rc;

	signal(SIGIO, SIG_IGN);
	mine.tid = gettid();
	rc = q2_view_lease(v, &mine);
	if (rc == -ENOTSUP)
		cr_skip_test("no leases on this file system");
	return rc;
}

static int try_lease(struct q2_view *v)
{
	int rc = take_lease(v);

	if (rc)
		return rc;
	rc = q2_view_check_anew(v, NULL);
	if (rc)
		q2_view_unlease(v);
	return rc;
}

static bool can_write(const char *path)
{
	int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

Test(q2_view, while_a_lease_is_held_nobody_writes)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct q2_snapshot s[2];
	vs_autofree char *path = put_live(&r, s);
	struct q2_view *one = view(&r, path, Q2_FORMAT_QCOW2, &s[0]);
	int fd = open(path, O_RDWR | O_CLOEXEC);

	cr_expect_eq(try_lease(one), -EAGAIN, "it is open for writing");
	close(fd);
	cr_assert_eq(try_lease(one), 0);
	cr_expect(q2_view_leased(one));
	expect_bytes(one, 0, C, 0xaa);
	cr_expect(!can_write(path));
	cr_expect(!q2_view_leased(one), "somebody has asked for it");
	q2_view_unlease(one);
	cr_expect(can_write(path));
	cr_assert_eq(try_lease(one), 0);
	q2_view_close(one);
	cr_expect(can_write(path), "it goes with the view");
	room_free(&r);
}

Test(q2_view, no_lease_on_a_snapshot_that_went_after_its_tables_were_read)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct q2_snapshot s[2];
	vs_autofree char *path = put_live(&r, s);
	struct q2_view *one = view(&r, path, Q2_FORMAT_QCOW2, &s[0]), *two = view(&r, path, Q2_FORMAT_QCOW2, &s[1]);

	expect_bytes(one, 0, C, 0xaa);
	expect_bytes(two, 0, C, 0xbb);
	delete_sibling(path, &snaps[1], 30);
	cr_expect_eq(try_lease(one), -ESTALE);
	cr_expect(!q2_view_leased(one));
	cr_expect(can_write(path));
	cr_expect_eq(try_lease(two), 0, "its record has only moved");
	expect_bytes(two, 0, C, 0xbb);
	q2_view_close(one);
	q2_view_close(two);
	room_free(&r);
}

static unsigned table_reads;

static void open_at_header(struct spy *spy, uint64_t off, size_t len)
{
	(void)len;
	if (off == 0)
		cr_expect(!can_write(spy->path), "it has a lease");
	table_reads += off == 60 * C;
}

Test(q2_view, who_wants_to_write_does_not_wait_for_a_check)
{
	static const unsigned ns[] = { 2, 3000 }; /* snapshots: a table that is read in one go, and one before which it is asked */
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(ns); i++) {
		struct room r = room_new(1 << 20, 1 << 20);
		struct ti_snap *many = calloc(ns[i], sizeof(*many));
		struct ti_image img;
		struct q2_snapshot s;
		struct spy spy = { 0 };
		vs_autofree char *path = NULL;
		struct q2_view *v;
		unsigned k;

		ti_init(&img, 9, 64 * C);
		ti_l1(&img, 11, 0, 21);
		ti_data(&img, 21, 0, 31, 0xbb);
		for (k = 0; k < ns[i]; k++)
			many[k] = (struct ti_snap){ .id = "1", .name = "one", .l1 = 10, .l1_entries = 1, .date_sec = k, .disk_size = 64 * C };
		many[k - 1] = snaps[1];
		ti_table(&img, 60, many, ns[i]);
		ti_switch(&img, 60, ns[i]);
		s = ti_snapshot(&img, &snaps[1]);
		path = put_image(&r, "live.qcow2", &img);
		v = view(&r, path, Q2_FORMAT_QCOW2, &s);
		cr_assert_eq(take_lease(v), 0);
		spy_on(&spy, v, 0);
		spy.path = path;
		cr_expect_eq(q2_view_check_anew(v, NULL), 0, "nobody wants to");
		spy.before = open_at_header;
		table_reads = 0;
		cr_expect_eq(q2_view_check_anew(v, NULL), -EAGAIN);
		cr_expect_eq(table_reads, ns[i] == 2);
		q2_view_unlease(v);
		cr_expect(can_write(path));
		q2_view_close(v);
		free(many);
		room_free(&r);
	}
}

Test(q2_view, leases_are_on_all_of_a_chain_or_on_nothing)
{
	struct room r = room_new(1 << 20, 1 << 20);
	struct ti_image img;
	vs_autofree char *path = NULL, *base = NULL;
	struct q2_view *v;
	int fd;

	ti_init(&img, 9, 64 * C);
	ti_l1(&img, TI_L1, 0, 20);
	ti_data(&img, 20, 0, 30, 0xaa);
	base = put_image(&r, "base.qcow2", &img);
	ti_init(&img, 9, 64 * C);
	ti_backing(&img, "base.qcow2", "qcow2");
	path = put_image(&r, "top.qcow2", &img);
	v = view(&r, path, Q2_FORMAT_QCOW2, NULL);
	fd = open(base, O_RDWR | O_CLOEXEC);
	cr_expect_eq(try_lease(v), -EAGAIN);
	cr_expect(can_write(path), "the one on top was given up again");
	close(fd);
	cr_expect_eq(try_lease(v), 0);
	expect_bytes(v, 0, C, 0xaa);
	cr_expect(!can_write(base));
	cr_expect(!q2_view_leased(v));
	q2_view_unlease(v);
	cr_expect(can_write(base) && can_write(path));
	q2_view_close(v);
	room_free(&r);
}
