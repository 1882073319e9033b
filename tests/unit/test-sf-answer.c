/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>

#include "fs/answer.h"

#define LEN 1500 /* of the text */

static struct sf_answer a;
static uint64_t pos; /* the kernel's */

static void setup(void)
{
	a = (struct sf_answer){0};
	pos = 0;
}

TestSuite(sf_answer, .init = setup);

/* write(2), as the kernel moves its position */
static void put(size_t n)
{
	sf_answer_wrote(&a, pos, n);
	pos += n;
}

static void expect_at(uint64_t off, size_t size, size_t wanted_at, size_t wanted_n, const char *what)
{
	size_t at, n = sf_answer_read(&a, off, size, LEN, &at);

	cr_expect(at == wanted_at && n == wanted_n, "%s: %zu bytes from %zu instead of %zu from %zu", what, n, at, wanted_n,
		  wanted_at);
}

/* read(2) */
static void expect_read(size_t size, size_t wanted_at, size_t wanted_n, const char *what)
{
	expect_at(pos, size, wanted_at, wanted_n, what);
	pos += wanted_n;
}

Test(sf_answer, without_a_write_offsets_are_the_texts_own)
{
	expect_read(100, 0, 100, "first");
	expect_read(100, 100, 100, "second");
	expect_at(1400, 4096, 1400, 100, "at the end");
	expect_at(1500, 10, 1500, 0, "the end");
	expect_at(9000, 10, 1500, 0, "past the end");
	expect_at(0, 10, 0, 10, "once more");
	cr_expect_eq(sf_answer_end(&a, LEN), LEN);
}

Test(sf_answer, begins_where_the_write_left_the_position)
{
	put(20);
	expect_read(4096, 0, LEN, "all");
	expect_read(4096, LEN, 0, "the end");
	cr_expect_eq(sf_answer_end(&a, LEN), LEN + 20);
}

Test(sf_answer, in_small_pieces)
{
	put(20);
	for (size_t i = 0; i < LEN; i += 5)
		expect_read(5, i, 5, "piece");
	expect_read(5, LEN, 0, "the end");
}

Test(sf_answer, each_of_several_writes_has_its_own)
{
	for (size_t i = 0; i < 5; i++) {
		put(10 + i);
		expect_read(60, 0, 60, "the first line");
		expect_read(7, 60, 7, "and some of the second");
	}
}

Test(sf_answer, two_writes_and_then_a_read)
{
	put(20);
	put(30);
	expect_read(100, 0, 100, "the second's");
}

Test(sf_answer, a_write_after_the_text_was_read)
{
	expect_read(4096, 0, LEN, "before it");
	put(20);
	expect_read(4096, 0, LEN, "after it");
}

Test(sf_answer, a_write_that_failed_did_not_move_the_position)
{
	put(20);
	expect_read(100, 0, 100, "before it");
	put(0);
	expect_read(100, 0, 100, "after it");
	expect_read(100, 100, 100, "further");
}

Test(sf_answer, who_reads_too_much_seeks_back_by_it)
{
	put(20);
	expect_read(512, 0, 512, "head");
	pos -= 512 - 60;
	expect_read(10, 60, 10, "the second line");
	pos = 20;
	expect_read(10, 0, 10, "back to the beginning");
}

Test(sf_answer, seeking_to_0_reads_the_text_from_its_beginning)
{
	put(20);
	pos = 0;
	for (size_t i = 0; i < LEN; i += 4)
		expect_read(4, i, 4, "a piece, also where the write had ended");
	expect_read(4, LEN, 0, "the end");
}

Test(sf_answer, seeking_to_0_after_reading_on)
{
	put(20);
	expect_read(100, 0, 100, "on");
	pos = 0;
	expect_read(120, 0, 120, "up to where reading on had come");
	expect_read(120, 120, 120, "and past it");
	put(20);
	expect_read(120, 0, 120, "after another write");
}

Test(sf_answer, pread_at_0_moves_no_position)
{
	put(20);
	expect_at(0, 700, 0, 700, "pread");
	expect_at(700, 4096, 700, 800, "pread, the rest");
	expect_read(100, 0, 100, "read");
	expect_read(100, 100, 100, "read, further");
}

Test(sf_answer, pwrite_moves_no_position)
{
	expect_read(100, 0, 100, "before it");
	sf_answer_wrote(&a, 0, 20);
	expect_read(50, 0, 50, "after it");
	expect_read(50, 50, 50, "further");
	sf_answer_wrote(&a, 0, 20);
	expect_read(50, 0, 50, "after another one");
}

Test(sf_answer, a_failed_write_in_append_mode_moves_no_position)
{
	expect_read(100, 0, 100, "before it");
	sf_answer_wrote(&a, LEN, 0);
	expect_read(50, 0, 50, "after it");
	sf_answer_wrote(&a, LEN, 20); /* one that succeeds does */
	pos = LEN + 20;
	expect_read(50, 0, 50, "after another one");
}

Test(sf_answer, tail_looks_for_the_end_and_reads_before_it)
{
	put(20);
	pos = sf_answer_end(&a, LEN);
	expect_at(pos - 100, 100, LEN - 100, 100, "the last bytes");
	expect_read(100, LEN, 0, "the end");
}

Test(sf_answer, offsets_at_the_limit)
{
	sf_answer_wrote(&a, INT64_MAX - 20, 20);
	expect_at(INT64_MAX, 10, 0, 10, "at the limit");
	expect_at(INT64_MAX - 1, 10, LEN, 0, "before it");
	expect_at(0, SIZE_MAX, 0, LEN, "all");
}
