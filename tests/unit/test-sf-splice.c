/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fs/splice.h"

#define LEN (512u << 10)
#define HEAD sizeof(struct fuse_out_header)

static int file, device[2]; /* what takes replies is a pipe here */
static char *want;

static void setup(void)
{
	char path[] = "/tmp/test-sf-splice-XXXXXX";

	want = malloc(LEN);
	cr_assert_not_null(want);
	for (size_t i = 0; i < LEN; i++)
		want[i] = (char)(i * 7 + i / 4096);
	file = mkstemp(path);
	cr_assert_geq(file, 0);
	unlink(path);
	cr_assert_eq(pwrite(file, want, LEN, 0), LEN);
	cr_assert_eq(pipe2(device, O_CLOEXEC), 0);
	cr_assert_geq(fcntl(device[1], F_SETPIPE_SZ, 1 << 20), 1 << 20);
}

static void teardown(void)
{
	close(file);
	close(device[0]);
	close(device[1]);
	free(want);
}

TestSuite(sf_splice, .init = setup, .fini = teardown);

static int asked, refuse_at; /* 0: never */

static bool ask(void *opaque)
{
	cr_assert_eq(opaque, &asked);
	return ++asked != refuse_at;
}

static bool fill(const struct sf_piece *pieces, size_t n, size_t len)
{
	asked = 0;
	return sf_splice_fill(7, pieces, n, len, ask, &asked);
}

static size_t in_device(void)
{
	int n = -1;

	cr_assert_eq(ioctl(device[0], FIONREAD, &n), 0);
	return (size_t)n;
}

/* The reply to request 7, and that the bytes are these. */
static void expect_reply(const struct sf_piece *pieces, size_t n, size_t len)
{
	struct fuse_out_header head;
	char *got = malloc(len);
	size_t at = 0;

	cr_assert(sf_splice_send(device[1], NULL, NULL));
	cr_assert_eq(in_device(), HEAD + len);
	cr_assert_eq(read(device[0], &head, HEAD), HEAD);
	cr_expect_eq(head.unique, 7);
	cr_expect_eq(head.len, HEAD + len);
	cr_expect_eq(head.error, 0);
	for (size_t done = 0; done < len;) {
		ssize_t some = read(device[0], got + done, len - done);

		cr_assert_gt(some, 0);
		done += (size_t)some;
	}
	for (size_t i = 0; i < n; at += pieces[i++].len)
		cr_expect_eq(memcmp(got + at, want + pieces[i].off, pieces[i].len), 0, "piece %zu", i);
	free(got);
}

Test(sf_splice, pieces_of_a_file_become_a_reply)
{
	const struct sf_piece pieces[] = {{file, 8192, 4096}, {file, 100, 70000}, {file, 131000, 1000}};

	cr_assert(fill(pieces, 3, 75096));
	expect_reply(pieces, 3, 75096);
}

Test(sf_splice, one_long_piece_is_many_questions)
{
	const struct sf_piece one = {file, 0, LEN}, crooked = {file, 5000, LEN - 10000};

	cr_assert(fill(&one, 1, LEN));
	cr_expect_eq(asked, 4);
	expect_reply(&one, 1, LEN);
	cr_assert(fill(&crooked, 1, LEN - 10000));
	cr_expect_eq(asked, 4);
	expect_reply(&crooked, 1, LEN - 10000);
}

Test(sf_splice, as_many_pieces_as_it_takes_lie_anywhere)
{
	struct sf_piece pieces[SF_SPLICE_PIECES];
	size_t each = LEN / SF_SPLICE_PIECES;

	for (size_t i = 0; i < SF_SPLICE_PIECES; i++)
		pieces[i] = (struct sf_piece){file, (off_t)((i * 37 % SF_SPLICE_PIECES) * each), each};
	cr_assert(fill(pieces, SF_SPLICE_PIECES, each * SF_SPLICE_PIECES));
	cr_expect_geq(asked, SF_SPLICE_PIECES);
	expect_reply(pieces, SF_SPLICE_PIECES, each * SF_SPLICE_PIECES);
}

Test(sf_splice, when_it_is_not_to_go_on_nothing_is_left_behind)
{
	const struct sf_piece pieces[] = {{file, 4096, 4096}, {file, 0, 4096}, {file, 0, LEN - 8192}}, next = {file, 300, 3000};

	for (refuse_at = 1; refuse_at <= 6; refuse_at++) {
		cr_expect_not(fill(pieces, 3, LEN));
		cr_expect_eq(asked, refuse_at);
	}
	cr_expect_eq(in_device(), 0);
	refuse_at = 0;
	cr_assert(fill(&next, 1, 3000));
	expect_reply(&next, 1, 3000);
}

Test(sf_splice, a_file_that_is_shorter_is_no_reply)
{
	const struct sf_piece past = {file, LEN - 4096, 8192};

	cr_expect_not(fill(&past, 1, 8192));
	cr_expect_eq(in_device(), 0);
}
