/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>

#include "qcow2/census.h"

static struct q2_census census(unsigned width)
{
	return (struct q2_census){ .cluster_bits = 16, .width = width, .most = 8u << 20 };
}

Test(q2_census, ranks_follow_the_order_of_the_file_whatever_the_order_of_counting)
{
	static const uint64_t clusters[] = { 4096, 0, 70000, 63, 64, 1, 4095, UINT64_C(1) << 40, 128 };
	static const uint64_t sorted[] = { 0, 1, 63, 64, 128, 4095, 4096, 70000, UINT64_C(1) << 40 };
	struct q2_census c = census(2);
	uint64_t rank, n;

	for (size_t i = 0; i < VS_ARRAY_LEN(clusters); i++)
		cr_assert_eq(q2_census_count(&c, clusters[i], i + 1), 0);
	q2_census_seal(&c);
	cr_assert_eq(q2_census_total(&c), VS_ARRAY_LEN(sorted));
	for (size_t i = 0; i < VS_ARRAY_LEN(sorted); i++) {
		cr_assert(q2_census_rank(&c, sorted[i], &rank, &n));
		cr_expect_eq(rank, i);
		cr_expect_eq(q2_census_at(&c, i, &n), sorted[i]);
	}
	cr_expect_not(q2_census_rank(&c, 2, &rank, &n));
	cr_expect_not(q2_census_rank(&c, UINT64_C(1) << 30, &rank, &n));
	cr_expect_eq(q2_census_largest(&c), VS_ARRAY_LEN(clusters));
	q2_census_fini(&c);
}

Test(q2_census, every_cluster_of_some_chunks_comes_back)
{
	struct q2_census c = census(4);
	uint64_t n, rank;

	for (uint64_t cluster = 0; cluster < 3 * 4096; cluster += 1 + cluster % 3)
		cr_assert_eq(q2_census_count(&c, cluster, cluster + 1), 0);
	q2_census_seal(&c);
	for (uint64_t i = 0, cluster = 0; cluster < 3 * 4096; cluster += 1 + cluster % 3, i++) {
		cr_assert_eq(q2_census_at(&c, i, &n), cluster);
		cr_assert_eq(n, cluster + 1);
		cr_assert(q2_census_rank(&c, cluster, &rank, &n));
		cr_assert_eq(rank, i);
	}
	q2_census_fini(&c);
}

Test(q2_census, what_is_dropped_has_no_rank)
{
	struct q2_census c = census(2);
	uint64_t n, rank;

	for (uint64_t cluster = 10; cluster < 13; cluster++)
		cr_assert_eq(q2_census_count(&c, cluster, 1), 0);
	q2_census_drop(&c, 11);
	cr_expect_eq(q2_census_next(&c, 11, &n), 12);
	cr_expect_eq(q2_census_next(&c, 13, &n), UINT64_MAX);
	q2_census_seal(&c);
	cr_expect_eq(q2_census_total(&c), 2);
	cr_expect_not(q2_census_rank(&c, 11, &rank, &n));
	cr_expect_eq(q2_census_at(&c, 1, &n), 12);
	q2_census_fini(&c);
}

Test(q2_census, sectors_of_a_part_and_of_a_whole_cluster)
{
	struct q2_census c = census(2);
	uint64_t n, rank;

	cr_assert_eq(q2_census_count_part(&c, 5, 1, 700, 400), 0); /* sectors 1 and 2 */
	cr_assert_eq(q2_census_count_part(&c, 5, 1, 65535, 1), 0);
	cr_assert_eq(q2_census_count(&c, 6, 1), 0);
	q2_census_seal(&c);
	for (unsigned s = 0; s < 128; s++) {
		cr_expect_eq(q2_census_sector(&c, 5, s), s == 1 || s == 2 || s == 127, "sector %u", s);
		cr_expect(q2_census_sector(&c, 6, s));
	}
	cr_expect_not(q2_census_whole(&c, 5));
	cr_expect(q2_census_whole(&c, 6));
	cr_assert(q2_census_rank(&c, 5, &rank, &n));
	cr_expect_eq(n, 2);
	q2_census_fini(&c);
}

Test(q2_census, counts_that_do_not_fit)
{
	struct q2_census narrow = census(2), wide = census(4);

	cr_expect_eq(q2_census_count(&narrow, 1, UINT16_MAX), 0);
	cr_expect_eq(q2_census_count(&narrow, 1, 1), -ERANGE);
	cr_expect_eq(q2_census_count(&wide, 1, UINT32_MAX), 0);
	cr_expect_eq(q2_census_count(&wide, 1, 1), -ERANGE);
	cr_expect_eq(q2_census_count(&wide, 2, UINT64_MAX), -ERANGE);
	q2_census_fini(&narrow);
	q2_census_fini(&wide);
}

Test(q2_census, memory_is_bounded_and_given_back)
{
	for (int turn = 0; turn < 40; turn++) { /* more than there is for all, were it not given back */
		struct q2_census c = census(2);
		uint64_t cluster = 0;
		int rc = 0;

		while (!rc)
			rc = q2_census_count(&c, cluster += 4096, 1);
		cr_assert_eq(rc, -EFBIG, "turn %d: %d", turn, rc);
		cr_assert_gt(cluster >> 12, 500);
		q2_census_fini(&c);
	}
}

/* Of two that were counted alike it is the same, of others another one. */
Test(q2_census, its_number_tells_them_apart)
{
	struct q2_census a = census(2), b = census(2);

	cr_assert_eq(q2_census_count(&a, 7, 1), 0);
	cr_assert_eq(q2_census_count(&b, 7, 1), 0);
	cr_expect_eq(q2_census_hash(&a, 1), q2_census_hash(&b, 1));
	cr_assert_eq(q2_census_count(&b, 7, 1), 0);
	cr_expect_neq(q2_census_hash(&a, 1), q2_census_hash(&b, 1));
	q2_census_fini(&a);
	q2_census_fini(&b);
}
