/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "q2-image.h"

/*
 * A directory of images and one of secrets:
 *	images/base.raw  images/sub/deep.raw  images/out -> ../secret/key  images/in -> base.raw
 *	secret/key  linked -> images
 */
struct scene {
	char *dir, *images, *secret;
	struct q2_gate *gate;
};

static void file(const char *dir, const char *name)
{
	vs_autofree char *path = ti_path(dir, name);

	ti_save_bytes(path, name, strlen(name));
}

static void link_to(const char *dir, const char *name, const char *target)
{
	vs_autofree char *path = ti_path(dir, name);

	cr_assert_eq(symlink(target, path), 0);
}

static char *directory(const char *dir, const char *name)
{
	char *path = ti_path(dir, name);

	cr_assert_eq(mkdir(path, 0700), 0);
	return path;
}

static struct scene scene_new(void)
{
	struct scene s = { .dir = ti_mkdir(), .gate = q2_gate_new() };
	vs_autofree char *sub = NULL;

	s.images = directory(s.dir, "images");
	s.secret = directory(s.dir, "secret");
	sub = directory(s.images, "sub");
	file(s.images, "base.raw");
	file(sub, "deep.raw");
	file(s.secret, "key");
	link_to(s.images, "out", "../secret/key");
	link_to(s.images, "in", "base.raw");
	link_to(s.dir, "linked", "images");
	return s;
}

static void scene_free(struct scene *s)
{
	q2_gate_unref(s->gate);
	free(s->images);
	free(s->secret);
	ti_rmdir(s->dir);
}

static int try_open(const struct scene *s, const char *name, const char *format, enum q2_format *out)
{
	vs_autofree char *from = ti_path(s->images, "top.qcow2");
	struct q2_file *f = NULL;
	struct vs_err err = { 0 };
	enum q2_format fmt = Q2_FORMAT_NONE;
	int rc = q2_gate_open(s->gate, from, name, format, &f, &fmt, &err);

	if (rc)
		cr_expect_eq(err.code, rc, "'%s': no message", name);
	else
		cr_expect_neq(fmt, Q2_FORMAT_NONE);
	q2_file_close(f);
	if (out)
		*out = fmt;
	return rc;
}

static void expect(const struct scene *s, const char *dir, const char *name, int rc)
{
	vs_autofree char *path = dir ? ti_path(dir, name) : strdup(name);
	int got = try_open(s, path, "raw", NULL);

	cr_expect_eq(got, rc, "'%s': %d, not %d", path, got, rc);
}

Test(q2_gate, nothing_is_allowed_until_somebody_says_so)
{
	struct scene s = scene_new();

	expect(&s, NULL, "base.raw", -EPERM);
	expect(&s, s.images, "base.raw", -EPERM);
	scene_free(&s);
}

Test(q2_gate, no_gate_allows_nothing)
{
	struct scene s = scene_new();

	q2_gate_unref(s.gate);
	s.gate = NULL;
	expect(&s, NULL, "base.raw", -EPERM);
	scene_free(&s);
}

Test(q2_gate, what_is_below_a_directory_is_decided_on_the_file_itself)
{
	struct scene s = scene_new();

	cr_assert_eq(q2_gate_allow_dir(s.gate, s.images), 0);
	expect(&s, NULL, "base.raw", 0);
	expect(&s, s.images, "base.raw", 0);
	expect(&s, NULL, "sub/deep.raw", 0);
	expect(&s, NULL, "in", 0);                       /* a link that stays inside */
	expect(&s, NULL, "out", -EPERM);                 /* a link that leads out */
	expect(&s, s.secret, "key", -EPERM);
	expect(&s, NULL, "../secret/key", -EPERM);
	expect(&s, NULL, "sub/../../secret/key", -EPERM);
	expect(&s, s.dir, "linked/base.raw", 0);         /* by another way to the same file */
	expect(&s, NULL, "/etc/shadow", -EPERM);
	expect(&s, NULL, "missing", -ENOENT);
	scene_free(&s);
}

Test(q2_gate, a_directory_whose_name_begins_alike_is_another)
{
	struct scene s = scene_new();
	vs_autofree char *other = directory(s.dir, "images-of-others");

	file(other, "x.raw");
	cr_assert_eq(q2_gate_allow_dir(s.gate, s.images), 0);
	expect(&s, other, "x.raw", -EPERM);
	scene_free(&s);
}

Test(q2_gate, a_linked_directory_allows_what_it_leads_to)
{
	struct scene s = scene_new();
	vs_autofree char *linked = ti_path(s.dir, "linked");

	cr_assert_eq(q2_gate_allow_dir(s.gate, linked), 0);
	expect(&s, s.images, "base.raw", 0);
	expect(&s, linked, "base.raw", 0);
	expect(&s, s.secret, "key", -EPERM);
	scene_free(&s);
}

Test(q2_gate, a_directory_that_is_not_there_allows_nothing)
{
	struct scene s = scene_new();
	vs_autofree char *gone = ti_path(s.dir, "gone");

	cr_assert_eq(q2_gate_allow_dir(s.gate, gone), 0);
	cr_assert_eq(q2_gate_allow_dir(s.gate, ""), 0);
	expect(&s, s.images, "base.raw", -EPERM);
	scene_free(&s);
}

Test(q2_gate, a_trusted_file_brings_its_directory)
{
	struct scene s = scene_new();
	vs_autofree char *base = ti_path(s.images, "base.raw");
	vs_autofree char *link = ti_path(s.images, "out");

	cr_assert_eq(q2_gate_allow_file(s.gate, base, Q2_FORMAT_NONE), 0);
	expect(&s, NULL, "sub/deep.raw", 0);
	expect(&s, NULL, "out", -EPERM);
	/* a trusted link: where it lies and where it leads */
	cr_assert_eq(q2_gate_allow_file(s.gate, link, Q2_FORMAT_NONE), 0);
	expect(&s, NULL, "out", 0);
	expect(&s, s.secret, "key", 0);
	scene_free(&s);
}

Test(q2_gate, a_file_in_the_root_does_not_open_the_whole_system)
{
	struct scene s = scene_new();

	cr_assert_eq(q2_gate_allow_file(s.gate, "/disk.img", Q2_FORMAT_RAW), 0);
	expect(&s, s.secret, "key", -EPERM);
	/* who wants that says so */
	cr_assert_eq(q2_gate_allow_dir(s.gate, "/"), 0);
	expect(&s, s.secret, "key", 0);
	scene_free(&s);
}

Test(q2_gate, a_trusted_device_does_not_open_its_neighbours)
{
	struct scene s = scene_new();

	cr_assert_eq(q2_gate_allow_file(s.gate, "/dev/null", Q2_FORMAT_RAW), 0);
	cr_assert_eq(q2_gate_allow_file(s.gate, "/dev/mapper/x", Q2_FORMAT_RAW), 0);
	cr_assert_eq(q2_gate_allow_file(s.gate, "/dev/disk/by-id/x", Q2_FORMAT_RAW), 0);
	file("/dev/shm", "q2-unit-gate");
	expect(&s, NULL, "/dev/shm/q2-unit-gate", -EPERM);
	unlink("/dev/shm/q2-unit-gate");
	scene_free(&s);
}

Test(q2_gate, only_files_and_block_devices_are_opened_at_all, .timeout = 10)
{
	struct scene s = scene_new();
	vs_autofree char *fifo = ti_path(s.images, "fifo"), *sock = ti_path(s.images, "socket");
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	cr_assert_eq(q2_gate_allow_dir(s.gate, "/"), 0);
	cr_assert_eq(mkfifo(fifo, 0600), 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", sock);
	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	expect(&s, NULL, "fifo", -EPERM); /* an open that waits for a writer would hang here */
	expect(&s, NULL, "socket", -EPERM);
	expect(&s, NULL, "/dev/zero", -EPERM);
	expect(&s, NULL, "sub", -EISDIR);
	expect(&s, NULL, "base.raw/x", -ENOTDIR);
	close(fd);
	scene_free(&s);
}

Test(q2_gate, formats_come_from_the_image_then_from_who_is_trusted_and_are_never_probed)
{
	struct scene s = scene_new();
	vs_autofree char *base = ti_path(s.images, "base.raw"), *in = ti_path(s.images, "in");
	enum q2_format fmt;

	cr_assert_eq(q2_gate_allow_dir(s.gate, s.images), 0);
	cr_expect_eq(try_open(&s, "base.raw", NULL, NULL), -EPERM);
	cr_expect_eq(try_open(&s, "base.raw", "vdi", NULL), -ENOTSUP);
	cr_assert_eq(q2_gate_allow_file(s.gate, base, Q2_FORMAT_NONE), 0);
	cr_expect_eq(try_open(&s, "base.raw", NULL, NULL), -EPERM);
	cr_assert_eq(q2_gate_allow_file(s.gate, base, Q2_FORMAT_RAW), 0);
	cr_expect_eq(try_open(&s, "base.raw", NULL, &fmt), 0);
	cr_expect_eq(fmt, Q2_FORMAT_RAW);
	cr_expect_eq(try_open(&s, in, NULL, &fmt), 0); /* the same file by another name */
	cr_expect_eq(fmt, Q2_FORMAT_RAW);
	cr_expect_eq(try_open(&s, "base.raw", "qcow2", &fmt), 0); /* recorded wins */
	cr_expect_eq(fmt, Q2_FORMAT_QCOW2);
	scene_free(&s);
}

Test(q2_gate, what_another_one_allows_it_allows_too_and_its_own_formats_come_first)
{
	struct scene s = scene_new();
	struct q2_gate *also = q2_gate_new();
	vs_autofree char *base = ti_path(s.images, "base.raw");
	enum q2_format fmt;

	cr_assert_eq(q2_gate_allow_file(also, base, Q2_FORMAT_RAW), 0);
	cr_expect_eq(try_open(&s, "base.raw", "raw", NULL), -EPERM);
	q2_gate_include(s.gate, also);
	q2_gate_unref(also); /* it is held on to */
	cr_expect_eq(try_open(&s, "base.raw", NULL, &fmt), 0);
	cr_expect_eq(fmt, Q2_FORMAT_RAW);
	cr_assert_eq(q2_gate_allow_file(s.gate, base, Q2_FORMAT_QCOW2), 0);
	cr_expect_eq(try_open(&s, "base.raw", NULL, &fmt), 0);
	cr_expect_eq(fmt, Q2_FORMAT_QCOW2);
	scene_free(&s);
}

Test(q2_gate, protocols_are_refused_whatever_is_allowed)
{
	struct scene s = scene_new();

	cr_assert_eq(q2_gate_allow_dir(s.gate, "/"), 0);
	expect(&s, NULL, "nbd://localhost/x", -EPERM);
	expect(&s, NULL, "json:{\"driver\":\"nbd\"}", -EPERM);
	scene_free(&s);
}

Test(q2_gate, lives_until_its_last_reference)
{
	struct q2_gate *gate = q2_gate_new();

	cr_assert_eq(q2_gate_ref(gate), gate);
	q2_gate_unref(gate);
	cr_assert_eq(q2_gate_allow_dir(gate, "/"), 0);
	q2_gate_unref(gate);
	q2_gate_unref(NULL);
	cr_assert_null(q2_gate_ref(NULL));
}
