/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>

#include "fs/clock.h"
#include "fs/lease-pause.h"
#include "qcow2/qcow2.h"

#define S SF_NS_PER_S

static struct sf_pauses pauses;

static void setup(void)
{
	sf_pauses_init(&pauses);
}

static void teardown(void)
{
	sf_pauses_fini(&pauses);
}

TestSuite(sf_lease_pause, .init = setup, .fini = teardown);

/* Begins one at @now_ns; when it is over. */
static int64_t begin(uint64_t ino, int64_t now_ns)
{
	sf_pauses_begin(&pauses, 1, ino, now_ns);
	return sf_pauses_end(&pauses, 1, ino);
}

Test(sf_lease_pause, each_takes_twice_as_long_as_the_last_up_to_a_minute)
{
	static const int64_t lens[] = {2, 4, 8, 16, 32, 60, 60, 60};
	int64_t now_ns = 1000 * S;

	for (size_t i = 0; i < VS_ARRAY_LEN(lens); i++) {
		int64_t end_ns = begin(5, now_ns);

		cr_expect_eq(end_ns - now_ns, lens[i] * S, "%zu", i);
		now_ns = end_ns + i % 2 * S;
	}
}

Test(sf_lease_pause, many_views_have_one)
{
	int64_t end_ns = begin(5, 1000 * S);

	for (int i = 1; i < 20; i++)
		cr_expect_eq(begin(5, 1000 * S + i), end_ns);
	cr_expect_eq(begin(5, end_ns), end_ns + 4 * S);
}

Test(sf_lease_pause, it_is_one_files_alone)
{
	int64_t end_ns = begin(5, 1000 * S);

	cr_expect_eq(sf_pauses_end(&pauses, 1, 6), 0);
	cr_expect_eq(sf_pauses_end(&pauses, 2, 5), 0);
	cr_expect_eq(begin(6, 1001 * S), 1003 * S);
	cr_expect_eq(sf_pauses_end(&pauses, 1, 5), end_ns);
}

Test(sf_lease_pause, it_is_forgotten_when_nobody_came_for_two_minutes)
{
	int64_t end_ns = begin(5, begin(5, 1000 * S));

	begin(6, end_ns + 120 * S);
	cr_expect_eq(sf_pauses_end(&pauses, 1, 5), end_ns);
	begin(6, end_ns + 120 * S + 1);
	cr_expect_eq(sf_pauses_end(&pauses, 1, 5), 0);
	cr_expect_eq(begin(5, end_ns + 200 * S), end_ns + 202 * S, "the first one again");
}

/* While somebody reads all the time, and has the lease as soon as it can be had. */
Test(sf_lease_pause, who_tries_again_gets_in)
{
	static const int64_t every[] = {1, 5, 30, 59};

	for (size_t i = 0; i < VS_ARRAY_LEN(every); i++) {
		int64_t now_ns = (int64_t)(i + 1) * 10000 * S;
		int refused = 0;

		for (; sf_pauses_end(&pauses, 1, 5) <= now_ns; now_ns += every[i] * S, refused++)
			begin(5, now_ns);
		cr_expect_leq(refused, 6, "every %d s", (int)every[i]);
	}
}
