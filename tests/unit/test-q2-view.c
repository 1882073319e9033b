/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
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
	n = q2_view_read(v, buf, len, off, &err);
	cr_expect_eq(n, (ssize_t)len, "read of %zu at %#lx: %zd (%s)", len, (unsigned long)off, n, err.msg);
	if (n == (ssize_t)len)
		cr_expect(ti_all(buf, len, byte), "bytes at %#lx are not all %#x: %#x", (unsigned long)off, byte, buf[0]);
}

static void expect_error(struct q2_view *v, uint64_t off, size_t len, int rc)
{
	vs_autofree uint8_t *buf = malloc(len);
	struct vs_err err = { 0 };
	ssize_t n = q2_view_read(v, buf, len, off, &err);

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

	cr_assert_eq(q2_view_extent(v, guest_off, 1, &e, NULL), 0);
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
