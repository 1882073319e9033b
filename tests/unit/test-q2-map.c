/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>

#include "q2-image.h"
#include "qcow2/map.h"

#define C 512u            /* cluster size; an L2 table has 64 entries and covers 32 KiB */
#define TABLE_SPAN 32768u

/* An image in memory with a cache over it. */
struct bench {
	struct ti_image img;
	struct ti_file tf;
	struct q2_cache *cache;
};

static void bench_init(struct bench *b, uint64_t size, size_t table_bytes)
{
	ti_init(&b->img, 9, size);
	ti_file_init(&b->tf, &b->img);
	b->cache = q2_cache_new(table_bytes, 0);
	cr_assert_not_null(b->cache);
}

static void bench_fini(struct bench *b)
{
	q2_cache_free(b->cache); /* asserts that no map is left */
	ti_fini(&b->img);
}

static struct q2_map *map_of(struct bench *b, uint64_t l1_cluster, uint32_t l1_entries, const struct q2_snapshot *s)
{
	struct q2_map_spec spec = { .geometry = { .cluster_bits = b->img.bits, .v3 = true }, .l1_off = ti_off(&b->img, l1_cluster),
				    .l1_entries = l1_entries, .image_size = (uint64_t)l1_entries * TABLE_SPAN, .snapshot = s };

	b->tf.f.ops->identity(&b->tf.f, &spec.stamp);
	return q2_map_get(b->cache, &spec);
}

static int ask(struct bench *b, struct q2_map *m, uint64_t off, uint64_t len, struct q2_piece *p)
{
	struct vs_err err = { 0 };
	int rc = q2_map_lookup(b->cache, m, &b->tf.f, off, len, p, &err);

	if (rc)
		cr_expect_eq(err.code, rc, "an error without a message: %d", rc);
	return rc;
}

static void expect(struct bench *b, struct q2_map *m, uint64_t off, enum q2_run_kind kind, uint64_t host_off, uint64_t len)
{
	struct q2_piece p;
	int rc = ask(b, m, off, UINT64_C(1) << 40, &p);

	cr_assert_eq(rc, 0, "at %#lx: %d", (unsigned long)off, rc);
	cr_expect_eq(p.kind, kind, "at %#lx: kind %d, not %d", (unsigned long)off, (int)p.kind, (int)kind);
	cr_expect_eq(p.host_off, host_off, "at %#lx: from %#lx", (unsigned long)off, (unsigned long)p.host_off);
	cr_expect_eq(p.len, len, "at %#lx: %lu bytes, not %lu", (unsigned long)off, (unsigned long)p.len, (unsigned long)len);
}

static struct q2_cache_stats stats(struct bench *b)
{
	struct q2_cache_stats s;

	q2_cache_stats(b->cache, &s);
	return s;
}

/* ---------------------------------------------------------------- one map */

Test(q2_map, no_l1_entry_is_unallocated_up_to_the_next_that_has_one)
{
	struct bench b;
	struct q2_map *m;

	bench_init(&b, 4 * TABLE_SPAN, 1 << 20);
	ti_l1(&b.img, TI_L1, 2, 3);
	m = map_of(&b, TI_L1, 4, NULL);
	expect(&b, m, 0, Q2_RUN_UNALLOCATED, 0, 2 * TABLE_SPAN);
	expect(&b, m, 1000, Q2_RUN_UNALLOCATED, 0, 2 * TABLE_SPAN - 1000);
	expect(&b, m, 2 * TABLE_SPAN, Q2_RUN_UNALLOCATED, 0, TABLE_SPAN); /* a table that says so */
	expect(&b, m, 3 * TABLE_SPAN, Q2_RUN_UNALLOCATED, 0, TABLE_SPAN);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, past_the_l1_table_is_unallocated)
{
	struct bench b;
	struct q2_piece p;
	struct q2_map *m;

	bench_init(&b, TABLE_SPAN, 1 << 20);
	m = map_of(&b, TI_L1, 1, NULL);
	cr_assert_eq(ask(&b, m, 5 * TABLE_SPAN, 777, &p), 0);
	cr_expect_eq(p.kind, Q2_RUN_UNALLOCATED);
	cr_expect_eq(p.len, 777);
	cr_assert_eq(ask(&b, m, UINT64_MAX / 2, 1, &p), 0);
	cr_expect_eq(b.tf.preads, 0);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, answers_start_and_end_where_they_must)
{
	struct bench b;
	struct q2_piece p;
	struct q2_map *m;

	bench_init(&b, 2 * TABLE_SPAN, 1 << 20);
	ti_l1(&b.img, TI_L1, 0, 3);
	ti_l1(&b.img, TI_L1, 1, 4);
	ti_data(&b.img, 3, 1, 20, 1);
	ti_data(&b.img, 3, 2, 21, 2);                         /* follows in the file */
	ti_l2(&b.img, 3, 3, TI_ZERO);
	ti_l2(&b.img, 3, 4, TI_COMPRESSED | ti_off(&b.img, 30));
	ti_l2(&b.img, 3, 63, ti_off(&b.img, 40));
	ti_l2(&b.img, 4, 0, ti_off(&b.img, 41));              /* contiguous, but of another table */
	m = map_of(&b, TI_L1, 2, NULL);
	expect(&b, m, 0, Q2_RUN_UNALLOCATED, 0, C);
	expect(&b, m, C - 1, Q2_RUN_UNALLOCATED, 0, 1);
	expect(&b, m, C, Q2_RUN_DATA, 20 * C, 2 * C);
	expect(&b, m, C + 100, Q2_RUN_DATA, 20 * C + 100, 2 * C - 100);
	expect(&b, m, 3 * C - 1, Q2_RUN_DATA, 22 * C - 1, 1);
	expect(&b, m, 3 * C, Q2_RUN_ZERO, 0, C);
	expect(&b, m, 4 * C, Q2_RUN_COMPRESSED, 30 * C, C);
	expect(&b, m, 4 * C + 7, Q2_RUN_COMPRESSED, 30 * C, C - 7); /* the stream's start, whatever is asked for */
	expect(&b, m, 5 * C, Q2_RUN_UNALLOCATED, 0, 58 * C);
	expect(&b, m, 63 * C, Q2_RUN_DATA, 40 * C, C);
	expect(&b, m, 64 * C, Q2_RUN_DATA, 41 * C, C);
	cr_assert_eq(ask(&b, m, C, 10, &p), 0);
	cr_expect_eq(p.len, 10);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, a_disk_smaller_than_its_own_metadata_is_read) /* host offsets have nothing to do with the guest's size */
{
	struct bench b;
	struct q2_map *m;

	bench_init(&b, C, 1 << 20);
	ti_l1(&b.img, TI_L1, 0, 5000);
	ti_data(&b.img, 5000, 0, 9000, 1);
	m = map_of(&b, TI_L1, 1, NULL);
	expect(&b, m, 0, Q2_RUN_DATA, 9000 * C, C);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, a_bad_entry_spoils_its_cluster_and_no_other)
{
	static const struct { const char *what; uint64_t entry; } cases[] = {
		{ "not aligned", 0x4100 + 0x100 },
		{ "zero and not aligned", 0x4301 },
	};
	struct bench b;
	struct q2_piece p;
	size_t i;

	/* 1 KiB clusters, so that a multiple of 512 can be misaligned */
	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct q2_map *m;

		ti_init(&b.img, 10, 1 << 17);
		ti_file_init(&b.tf, &b.img);
		b.cache = q2_cache_new(1 << 20, 0);
		ti_l1(&b.img, TI_L1, 0, 3);
		ti_l2(&b.img, 3, 1, cases[i].entry);
		m = map_of(&b, TI_L1, 1, NULL);
		cr_expect_eq(ask(&b, m, 1024, 1, &p), -EUCLEAN, "%s", cases[i].what);
		cr_expect_eq(ask(&b, m, 2047, 1, &p), -EUCLEAN, "%s", cases[i].what);
		cr_expect_eq(ask(&b, m, 0, 1024, &p), 0);
		cr_expect_eq(ask(&b, m, 2048, 1024, &p), 0);
		q2_map_put(b.cache, m);
		bench_fini(&b);
	}
}

Test(q2_map, l1_entries_that_lead_nowhere_are_errors_of_their_part)
{
	static const struct { const char *what; uint64_t entry; } cases[] = {
		{ "not aligned", 0x4200 },
		{ "past the end", UINT64_C(1) << 40 },
		{ "far past the end", 0x00fffffffffffc00 },
		{ "half past the end", 0x8000 - 1024 + 1024 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct bench b;
		struct q2_piece p;
		struct q2_map *m;

		ti_init(&b.img, 10, 1 << 18);
		ti_file_init(&b.tf, &b.img);
		b.cache = q2_cache_new(1 << 20, 0);
		ti_put64(&b.img, ti_off(&b.img, TI_L1), cases[i].entry);
		ti_l1(&b.img, TI_L1, 1, 4);
		ti_data(&b.img, 4, 0, 6, 1);
		ti_put(&b.img, 0x8000 + 511, "x", 1);
		m = map_of(&b, TI_L1, 2, NULL);
		cr_expect_eq(ask(&b, m, 0, 1, &p), -EUCLEAN, "%s", cases[i].what);
		cr_expect_eq(ask(&b, m, 1 << 17, 1, &p), 0, "%s", cases[i].what);
		q2_map_put(b.cache, m);
		bench_fini(&b);
	}
}

Test(q2_map, an_l1_table_past_the_end_of_the_file_is_an_error)
{
	struct bench b;
	struct q2_piece p;
	struct q2_map *m;

	bench_init(&b, TABLE_SPAN, 1 << 20);
	m = map_of(&b, 1000, 1, NULL);
	cr_expect_eq(ask(&b, m, 0, 1, &p), -EUCLEAN);
	q2_map_put(b.cache, m);
	m = map_of(&b, TI_L1, 4000, NULL); /* starts inside, ends outside */
	cr_expect_eq(ask(&b, m, 0, 1, &p), -EUCLEAN);
	q2_map_put(b.cache, m);
	cr_expect_eq(stats(&b).table_bytes, 0); /* and gives back what it had taken */
	bench_fini(&b);
}

Test(q2_map, reads_each_table_once)
{
	struct bench b;
	struct q2_piece p;
	struct q2_map *m;
	unsigned i;

	bench_init(&b, TABLE_SPAN, 1 << 20);
	ti_l1(&b.img, TI_L1, 0, 3);
	m = map_of(&b, TI_L1, 1, NULL);
	for (i = 0; i < 64; i++) {
		cr_assert_eq(ask(&b, m, i * C, C, &p), 0);
		cr_expect_eq(p.loaded, i ? 0 : 8 + C);
	}
	cr_expect_eq(b.tf.preads, 2);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

/* ---------------------------------------------------------------- faults */

Test(q2_map, a_read_that_fails_says_so_and_is_tried_again)
{
	static const int codes[] = { -EIO, -ENOMEM, -EAGAIN };
	unsigned n;
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(codes); i++)
		for (n = 1; n <= 2; n++) { /* the L1 table, the L2 table */
			struct bench b;
			struct q2_piece p;
			struct q2_map *m;

			bench_init(&b, TABLE_SPAN, 1 << 20);
			ti_l1(&b.img, TI_L1, 0, 3);
			ti_data(&b.img, 3, 0, 4, 1);
			m = map_of(&b, TI_L1, 1, NULL);
			b.tf.fail_at = n;
			b.tf.fail_rc = codes[i];
			cr_expect_eq(ask(&b, m, 0, C, &p), codes[i], "read %u", n);
			expect(&b, m, 0, Q2_RUN_DATA, 4 * C, C);
			q2_map_put(b.cache, m);
			cr_expect_eq(stats(&b).table_bytes, 0);
			bench_fini(&b);
		}
}

Test(q2_map, a_short_read_is_an_error_and_not_half_a_table)
{
	unsigned n;

	for (n = 1; n <= 2; n++) {
		struct bench b;
		struct q2_piece p;
		struct q2_map *m;

		bench_init(&b, TABLE_SPAN, 1 << 20);
		ti_l1(&b.img, TI_L1, 0, 3);
		ti_data(&b.img, 3, 63, 4, 1);
		m = map_of(&b, TI_L1, 1, NULL);
		b.tf.short_at = n;
		cr_expect_eq(ask(&b, m, 0, C, &p), -EUCLEAN, "read %u", n);
		expect(&b, m, 63 * C, Q2_RUN_DATA, 4 * C, C);
		q2_map_put(b.cache, m);
		bench_fini(&b);
	}
}

/* ---------------------------------------------------------------- budgets */

/* Two L2 tables with a bit of everything. */
static void fill_mixed(struct ti_image *img, uint64_t span)
{
	unsigned entries = 1u << (img->bits - 3), i;
	uint64_t per = span >> img->bits;

	ti_l1(img, TI_L1, 0, 5);
	ti_l1(img, TI_L1, 1, 6);
	for (i = 0; i < entries; i++) {
		if (i % 7 < 3)
			ti_l2(img, 5, i, ti_off(img, 100 + i));
		else if (i % 7 == 3)
			ti_l2(img, 5, i, TI_ZERO);
		else if (i % 7 == 4)
			ti_l2(img, 5, i, TI_COMPRESSED | (ti_off(img, 100 + i) + 5));
		ti_l2(img, 6, i, i % 1000 < 500 ? ti_off(img, 200 + per + i) : 0);
	}
}

Test(q2_map, past_the_budget_slices_give_the_same_answers)
{
	static const size_t budgets[] = { 0, 1, 100, 1000, 3000, 200000, 8 << 20 };
	static const unsigned bits[] = { 9, 12, 16 };
	size_t i, k;

	for (k = 0; k < VS_ARRAY_LEN(bits); k++) {
		uint64_t span = UINT64_C(1) << (2 * bits[k] - 3);
		struct ti_image img;

		ti_init(&img, bits[k], 2 * span);
		fill_mixed(&img, span);
		for (i = 0; i < VS_ARRAY_LEN(budgets); i++) {
			struct bench big = { .img = img, .cache = q2_cache_new(SIZE_MAX, 0) };
			struct bench small = { .img = img, .cache = q2_cache_new(budgets[i], 0) };
			struct q2_map *a, *b;
			uint64_t off;

			ti_file_init(&big.tf, &big.img);
			ti_file_init(&small.tf, &small.img);
			a = map_of(&big, TI_L1, 2, NULL);
			b = map_of(&small, TI_L1, 2, NULL);
			for (off = 0; off < 2 * span; off += (UINT64_C(1) << bits[k]) * (bits[k] > 12 ? 13 : 1)) {
				struct q2_piece x, y;

				cr_assert_eq(ask(&big, a, off, 1 << 20, &x), 0);
				cr_assert_eq(ask(&small, b, off, 1 << 20, &y), 0);
				cr_assert(x.kind == y.kind && x.host_off == y.host_off && x.max_len == y.max_len,
					  "bits %u, budget %zu, at %#lx", bits[k], budgets[i], (unsigned long)off);
				cr_assert(y.len && y.len <= x.len); /* a slice may end sooner */
				cr_assert_leq(stats(&small).table_bytes, budgets[i]);
			}
			q2_map_put(big.cache, a);
			q2_map_put(small.cache, b);
			cr_expect_eq(stats(&small).table_bytes, 0);
			q2_cache_free(big.cache);
			q2_cache_free(small.cache);
		}
		ti_fini(&img);
	}
}

Test(q2_map, slices_of_extended_tables_give_the_same_answers)
{
	struct q2_map_spec spec = { .geometry = { .cluster_bits = 16, .v3 = true, .extended_l2 = true }, .l1_off = 2 << 16,
				    .l1_entries = 1 };
	struct q2_cache *big = q2_cache_new(SIZE_MAX, 0), *small = q2_cache_new(0, 0);
	struct ti_image img;
	struct ti_file tf;
	struct q2_map *a, *b;
	uint64_t off;
	unsigned i;

	ti_init(&img, 16, 1 << 28);
	ti_l1(&img, TI_L1, 0, 3);
	for (i = 0; i < 4096; i++) {
		ti_l2(&img, 3, 2 * i, i % 3 ? ti_off(&img, 10 + i) : 0);
		ti_l2(&img, 3, 2 * i + 1, i % 3 ? UINT64_C(0x00ff0000ff00f00f) >> i % 8 << i % 8 : UINT64_C(0xf0f0f0f0) << 32);
	}
	ti_file_init(&tf, &img);
	a = q2_map_get(big, &spec);
	b = q2_map_get(small, &spec);
	for (off = 0; off < 1 << 28; off += 31 * 2048) {
		struct q2_piece x, y;
		int rx = q2_map_lookup(big, a, &tf.f, off, 1 << 20, &x, NULL);
		int ry = q2_map_lookup(small, b, &tf.f, off, 1 << 20, &y, NULL);

		cr_assert_eq(rx, ry);
		cr_assert(rx || (x.kind == y.kind && x.host_off == y.host_off && y.len && y.len <= x.len), "at %#lx",
			  (unsigned long)off);
	}
	q2_map_put(big, a);
	q2_map_put(small, b);
	q2_cache_free(big);
	q2_cache_free(small);
	ti_fini(&img);
}

Test(q2_map, near_the_budget_no_table_is_read_in_vain)
{
	struct bench b;
	struct q2_piece p;
	struct q2_map *m;
	unsigned before;

	ti_init(&b.img, 16, 1 << 30);
	ti_file_init(&b.tf, &b.img);
	b.cache = q2_cache_new(1000, 0); /* the L1 table, and not a table of 64 KiB */
	ti_l1(&b.img, TI_L1, 0, 3);
	m = map_of(&b, TI_L1, 2, NULL);
	cr_assert_eq(ask(&b, m, 0, C, &p), 0);
	before = b.tf.preads;
	cr_assert_eq(ask(&b, m, 0, C, &p), 0);
	cr_expect_eq(b.tf.preads, before + 1);
	cr_expect_eq(p.loaded, 4096);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

/* ---------------------------------------------------------------- who shares a map */

Test(q2_map, one_map_for_one_state_of_a_frozen_file)
{
	struct bench b;
	struct q2_map *a, *same, *later;

	bench_init(&b, TABLE_SPAN, 1 << 20);
	a = map_of(&b, TI_L1, 1, NULL);
	same = map_of(&b, TI_L1, 1, NULL);
	cr_expect_eq(a, same);
	b.tf.stamp.mtime_ns++;
	later = map_of(&b, TI_L1, 1, NULL);
	cr_expect_neq(a, later);
	q2_map_put(b.cache, a);
	q2_map_put(b.cache, same);
	q2_map_put(b.cache, later);
	bench_fini(&b);
}

Test(q2_map, a_frozen_block_device_is_never_shared)
{
	struct bench b;
	struct q2_map *a, *other;

	bench_init(&b, TABLE_SPAN, 1 << 20);
	b.tf.stamp.block = true;
	a = map_of(&b, TI_L1, 1, NULL);
	other = map_of(&b, TI_L1, 1, NULL);
	cr_expect_neq(a, other);
	q2_map_put(b.cache, a);
	q2_map_put(b.cache, other);
	bench_fini(&b);
}

Test(q2_map, a_snapshot_is_one_map_whatever_the_file_does_beside_it)
{
	struct ti_snap one = { .id = "1", .name = "one", .l1 = 10, .l1_entries = 1, .disk_size = TABLE_SPAN };
	struct ti_snap other = one;
	struct bench b;
	struct q2_snapshot s, t;
	struct q2_map *a, *same, *c;

	bench_init(&b, TABLE_SPAN, 1 << 20);
	s = ti_snapshot(&b.img, &one);
	a = map_of(&b, 10, 1, &s);
	b.tf.stamp.mtime_ns = 99;
	ti_fill(&b.img, 50, 1);
	same = map_of(&b, 10, 1, &s);
	cr_expect_eq(a, same);
	other.disk_size += 512; /* is not part of the key, but of the identity */
	t = ti_snapshot(&b.img, &other);
	c = map_of(&b, 10, 1, &t);
	cr_expect_neq(a, c);
	q2_map_put(b.cache, a);
	q2_map_put(b.cache, same);
	q2_map_put(b.cache, c);
	bench_fini(&b);
}

/* ---------------------------------------------------------------- what nobody has vouched for */

Test(q2_map, a_frozen_answer_is_unsure_until_the_file_was_found_unchanged)
{
	struct bench b;
	struct q2_piece p;
	struct q2_map *m;
	uint64_t reads;

	bench_init(&b, 3 * TABLE_SPAN, 1 << 20);
	ti_l1(&b.img, TI_L1, 0, 3);
	ti_l1(&b.img, TI_L1, 2, 4);
	m = map_of(&b, TI_L1, 3, NULL);
	cr_assert_eq(ask(&b, m, TABLE_SPAN, C, &p), 0);
	cr_expect(p.unsure); /* the L1 table alone says so */
	cr_assert_eq(ask(&b, m, TABLE_SPAN, C, &p), 0);
	cr_expect(p.unsure && !p.loaded);
	cr_assert_eq(ask(&b, m, 0, C, &p), 0);
	cr_expect(p.unsure && p.loaded);
	cr_assert_eq(ask(&b, m, 0, C, &p), 0);
	cr_expect(p.unsure && !p.loaded);
	reads = q2_map_reads(m);
	cr_assert_eq(ask(&b, m, 2 * TABLE_SPAN, C, &p), 0); /* read after the look that vouches */
	q2_map_vouch(m, reads);
	q2_map_vouch(m, 0); /* an older look takes nothing back */
	cr_assert_eq(ask(&b, m, TABLE_SPAN, C, &p), 0);
	cr_expect(!p.unsure);
	cr_assert_eq(ask(&b, m, 0, C, &p), 0);
	cr_expect(!p.unsure);
	cr_assert_eq(ask(&b, m, 2 * TABLE_SPAN, C, &p), 0);
	cr_expect(p.unsure);
	q2_map_vouch(m, q2_map_reads(m));
	cr_assert_eq(ask(&b, m, 2 * TABLE_SPAN, C, &p), 0);
	cr_expect(!p.unsure);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, past_the_budget_every_frozen_answer_is_unsure)
{
	struct bench b;
	struct q2_piece p;
	struct q2_map *m;
	int i;

	bench_init(&b, 2 * TABLE_SPAN, 0);
	ti_l1(&b.img, TI_L1, 0, 3);
	m = map_of(&b, TI_L1, 2, NULL);
	for (i = 0; i < 3; i++) {
		cr_assert_eq(ask(&b, m, 0, C, &p), 0);
		cr_expect(p.unsure);
		cr_assert_eq(ask(&b, m, TABLE_SPAN, C, &p), 0);
		cr_expect(p.unsure);
		q2_map_vouch(m, q2_map_reads(m));
	}
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

/* ---------------------------------------------------------------- L2 tables of several snapshots */

/* Snapshots that stand on one L2 table (cluster 20): L1 tables in clusters 10, 11, ...; the table of records in 60. */
static struct ti_snap snaps[] = {
	{ .id = "1", .name = "one", .l1 = 10, .l1_entries = 1, .date_sec = 1, .date_nsec = 1, .disk_size = TABLE_SPAN },
	{ .id = "2", .name = "two", .l1 = 11, .l1_entries = 1, .date_sec = 1, .date_nsec = 2, .disk_size = TABLE_SPAN },
	{ .id = "3", .name = "three", .l1 = 12, .l1_entries = 1, .date_sec = 1, .date_nsec = 3, .disk_size = TABLE_SPAN },
};

static void family_init(struct bench *b)
{
	size_t i;

	bench_init(b, TABLE_SPAN, 1 << 20);
	for (i = 0; i < VS_ARRAY_LEN(snaps); i++)
		ti_l1(&b->img, snaps[i].l1, 0, 20);
	ti_data(&b->img, 20, 0, 30, 0xaa);
	ti_table(&b->img, 60, snaps, VS_ARRAY_LEN(snaps));
	ti_switch(&b->img, 60, VS_ARRAY_LEN(snaps));
}

static struct q2_map *snap_map(struct bench *b, size_t i)
{
	struct q2_snapshot s = ti_snapshot(&b->img, &snaps[i]);

	return map_of(b, snaps[i].l1, 1, &s);
}

Test(q2_map, snapshots_share_the_tables_they_have_in_common)
{
	struct bench b;
	struct q2_map *m[3];
	size_t i;

	family_init(&b);
	for (i = 0; i < 3; i++) {
		m[i] = snap_map(&b, i);
		expect(&b, m[i], 0, Q2_RUN_DATA, 30 * C, C);
	}
	cr_expect_eq(stats(&b).tables_loaded, 1);
	cr_expect_eq(stats(&b).tables_shared, 2);
	for (i = 0; i < 3; i++)
		q2_map_put(b.cache, m[i]);
	cr_expect_eq(stats(&b).table_bytes, 0);
	bench_fini(&b);
}

Test(q2_map, a_table_is_not_shared_after_its_owner_was_deleted)
{
	struct ti_snap young = { .id = "4", .name = "young", .l1 = 13, .l1_entries = 1, .date_sec = 2, .disk_size = TABLE_SPAN };
	struct q2_snapshot s;
	struct bench b;
	struct q2_map *old, *now;

	family_init(&b);
	old = snap_map(&b, 0);
	expect(&b, old, 0, Q2_RUN_DATA, 30 * C, C);
	/* all are deleted, and a new one gets the cluster of the L2 table for its own */
	ti_l1(&b.img, 13, 0, 20);
	ti_data(&b.img, 20, 0, 31, 0xbb);
	ti_table(&b.img, 70, &young, 1);
	ti_switch(&b.img, 70, 1);
	s = ti_snapshot(&b.img, &young);
	now = map_of(&b, 13, 1, &s);
	expect(&b, now, 0, Q2_RUN_DATA, 31 * C, C);
	cr_expect_eq(stats(&b).tables_shared, 0);
	q2_map_put(b.cache, old);
	q2_map_put(b.cache, now);
	bench_fini(&b);
}

Test(q2_map, tables_outlive_their_owner_in_those_who_share_them)
{
	struct bench b;
	struct q2_map *m[3];
	unsigned before;

	family_init(&b);
	m[0] = snap_map(&b, 0);
	m[1] = snap_map(&b, 1);
	expect(&b, m[0], 0, Q2_RUN_DATA, 30 * C, C);
	expect(&b, m[1], 0, Q2_RUN_DATA, 30 * C, C);
	q2_map_put(b.cache, m[0]);
	before = b.tf.preads;
	expect(&b, m[1], 0, Q2_RUN_DATA, 30 * C, C); /* still there, without a read */
	cr_expect_eq(b.tf.preads, before);
	m[2] = snap_map(&b, 2); /* nobody vouches for it any more: read anew */
	expect(&b, m[2], 0, Q2_RUN_DATA, 30 * C, C);
	cr_expect_eq(stats(&b).tables_loaded, 2);
	q2_map_put(b.cache, m[1]);
	q2_map_put(b.cache, m[2]);
	cr_expect_eq(stats(&b).table_bytes, 0);
	bench_fini(&b);
}

Test(q2_map, sharers_come_and_go_in_any_order)
{
	static const int orders[][6] = { /* open 0..2 as +1..+3, close as -1..-3 */
		{ 1, 2, -1, 3, -2, -3 }, { 1, 2, -2, 3, -1, -3 }, { 1, 2, 3, -3, -2, -1 }, { 1, 2, 3, -1, -2, -3 },
		{ 1, -1, 2, -2, 3, -3 }, { 1, 2, 3, -2, -1, -3 },
	};
	size_t i, k;

	for (i = 0; i < VS_ARRAY_LEN(orders); i++) {
		struct q2_map *m[3] = { NULL };
		struct bench b;

		family_init(&b);
		for (k = 0; k < 6; k++) {
			int which = abs(orders[i][k]) - 1;

			if (orders[i][k] > 0) {
				m[which] = snap_map(&b, (size_t)which);
				expect(&b, m[which], 0, Q2_RUN_DATA, 30 * C, C);
			} else {
				q2_map_put(b.cache, m[which]);
			}
		}
		cr_expect_eq(stats(&b).table_bytes, 0, "order %zu", i);
		bench_fini(&b);
	}
}

struct faster {
	struct bench *b;
	struct q2_map *m;
	bool done;
};

/*
 * While a thread of @m reads the L2 table, another thread of @m has loaded it too, and published and listed it. Here
 * both are one thread: inside the read of the table the whole question is asked once more.
 */
static void ask_inside(struct ti_file *tf, void *opaque, uint64_t off, size_t len)
{
	struct faster *f = opaque;

	(void)tf;
	(void)len;
	if (off != 20 * C || f->done)
		return;
	f->done = true;
	expect(f->b, f->m, 0, Q2_RUN_DATA, 30 * C, C);
}

Test(q2_map, who_comes_second_takes_what_the_first_has_published)
{
	struct bench b;
	struct faster f = { .b = &b };

	family_init(&b);
	f.m = snap_map(&b, 0);
	b.tf.before = ask_inside;
	b.tf.opaque = &f;
	expect(&b, f.m, 0, Q2_RUN_DATA, 30 * C, C);
	cr_expect(f.done);
	q2_map_put(b.cache, f.m);
	cr_expect_eq(stats(&b).table_bytes, 0);
	bench_fini(&b);
}

/*
 * Two threads of one map end up with two copies of a table: one has begun to read it before another snapshot listed its
 * own, the second finds that one in the list, and the first publishes while the second still makes sure. What the second
 * gives back must not be left with this map as its owner: the map goes, and the list would lead to freed memory.
 */
struct race {
	struct bench *b;
	struct q2_map *m;
	sem_t reading, go_on_reading, checking, go_on_checking;
};

static __thread enum { NOBODY, READER, CHECKER } role;

static void stop_at_my_place(struct ti_file *tf, void *opaque, uint64_t off, size_t len)
{
	struct race *r = opaque;

	(void)tf;
	(void)len;
	if (role == READER && off == 20 * C) {
		sem_post(&r->reading);
		sem_wait(&r->go_on_reading);
	} else if (role == CHECKER && off == 60 * C) {
		role = NOBODY;
		sem_post(&r->checking);
		sem_wait(&r->go_on_checking);
	}
}

static void *reader(void *opaque)
{
	struct race *r = opaque;

	role = READER;
	expect(r->b, r->m, 0, Q2_RUN_DATA, 30 * C, C);
	return NULL;
}

static void *checker(void *opaque)
{
	struct race *r = opaque;

	role = CHECKER;
	expect(r->b, r->m, 0, Q2_RUN_DATA, 30 * C, C);
	return NULL;
}

Test(q2_map, a_table_that_was_found_too_late_is_given_back_whole, .timeout = 10)
{
	struct bench b;
	struct race r = { .b = &b };
	struct q2_map *other, *third;
	pthread_t threads[2];

	family_init(&b);
	sem_init(&r.reading, 0, 0);
	sem_init(&r.go_on_reading, 0, 0);
	sem_init(&r.checking, 0, 0);
	sem_init(&r.go_on_checking, 0, 0);
	r.m = snap_map(&b, 0);
	other = snap_map(&b, 1);
	b.tf.before = stop_at_my_place;
	b.tf.opaque = &r;
	pthread_create(&threads[0], NULL, reader, &r);
	sem_wait(&r.reading);
	expect(&b, other, 0, Q2_RUN_DATA, 30 * C, C); /* listed */
	pthread_create(&threads[1], NULL, checker, &r);
	sem_wait(&r.checking);
	sem_post(&r.go_on_reading);
	pthread_join(threads[0], NULL); /* published */
	sem_post(&r.go_on_checking);
	pthread_join(threads[1], NULL); /* given back */
	q2_map_put(b.cache, r.m);
	third = snap_map(&b, 2);
	expect(&b, third, 0, Q2_RUN_DATA, 30 * C, C);
	q2_map_put(b.cache, other);
	q2_map_put(b.cache, third);
	cr_expect_eq(stats(&b).table_bytes, 0);
	bench_fini(&b);
}

/* ---------------------------------------------------------------- is it still there? */

static int identity(struct bench *b, struct q2_map *m)
{
	uint8_t raw[12];

	memcpy(raw, b->img.bytes + 60, 12);
	return q2_map_identity_check(m, &b->tf.f, (uint32_t)raw[2] << 8 | raw[3],
				     (uint64_t)raw[8] << 24 | (uint64_t)raw[9] << 16 | (uint64_t)raw[10] << 8 | raw[11], NULL);
}

Test(q2_map, an_unchanged_record_is_found_with_few_reads)
{
	struct bench b;
	struct q2_map *m;
	unsigned before;

	family_init(&b);
	m = snap_map(&b, 2);
	cr_expect_eq(identity(&b, m), 0);
	before = b.tf.preads;
	cr_expect_eq(identity(&b, m), 0);
	cr_expect_eq(b.tf.preads, before + 2); /* the table up to the record, and the header once more */
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, a_record_that_moved_is_found_again)
{
	struct bench b;
	struct q2_map *m;

	family_init(&b);
	m = snap_map(&b, 1);
	cr_expect_eq(identity(&b, m), 0);
	ti_table(&b.img, 70, snaps, 3); /* the table elsewhere */
	ti_fill(&b.img, 60, 0);
	ti_switch(&b.img, 70, 3);
	cr_expect_eq(identity(&b, m), 0);
	ti_table(&b.img, 60, snaps + 1, 2); /* and shorter: the record comes first */
	ti_switch(&b.img, 60, 2);
	cr_expect_eq(identity(&b, m), 0);
	ti_table(&b.img, 60, snaps + 1, 1); /* in place, at the same place */
	ti_switch(&b.img, 60, 1);
	cr_expect_eq(identity(&b, m), 0);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, delete_and_create_with_everything_equal_but_the_nanoseconds_is_another_snapshot)
{
	struct ti_snap again[3];
	struct bench b;
	struct q2_map *m;

	memcpy(again, snaps, sizeof(snaps));
	again[2].date_nsec++;
	family_init(&b);
	m = snap_map(&b, 2);
	cr_expect_eq(identity(&b, m), 0);
	ti_table(&b.img, 60, again, 3);
	cr_expect_eq(identity(&b, m), -ESTALE);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

/*
 * QEMU writes its tables into the same few clusters in turn, and does not clear what is behind their end. A record that
 * was last in a long table can be read there, whole, from behind a shorter one with the same number of entries.
 */
Test(q2_map, a_deleted_record_behind_the_end_of_a_shorter_table_is_not_found)
{
	static const char longer[] = "before-the-upgrade-of-everything-on-a-monday-in-winter-when-nobody-was-looking-at-it";
	struct ti_snap before[3], after[3];
	struct bench b;
	struct q2_map *m;
	size_t was, is;

	memcpy(before, snaps, sizeof(snaps));
	memcpy(after, snaps, sizeof(snaps));
	before[0].name = longer;
	after[0] = snaps[1];
	after[1].id = "4", after[2].id = "5"; /* two were deleted, two others taken */
	after[1].name = "d", after[2].name = "e";
	after[1].date_sec = after[2].date_sec = 2;
	family_init(&b);
	was = ti_table(&b.img, 60, before, 3);
	m = snap_map(&b, 2);
	cr_expect_eq(identity(&b, m), 0);
	is = ti_table(&b.img, 60, after, 3);
	cr_assert_lt(is, was - 64); /* all of the record is behind the end */
	cr_expect_eq(identity(&b, m), -ESTALE);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

/* The table is switched between the look at the header and the look at the record. */
static void switch_once(struct ti_file *tf, void *opaque, uint64_t off, size_t len)
{
	(void)len;
	if (off != 60 * C)
		return;
	tf->before = NULL;
	ti_table(tf->img, 70, opaque, 2);
	ti_switch(tf->img, 70, 2);
}

Test(q2_map, a_record_seen_in_a_table_that_is_no_longer_the_table_counts_for_nothing)
{
	struct bench b;
	struct q2_map *m;

	family_init(&b);
	m = snap_map(&b, 2);
	cr_expect_eq(identity(&b, m), 0);
	b.tf.before = switch_once;
	b.tf.opaque = snaps; /* one and two: three is gone; its old record is still in cluster 60 */
	cr_expect_eq(identity(&b, m), -ESTALE);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, a_record_far_down_a_long_table_is_found)
{
	static struct ti_snap many[3000];
	static char names[3000][16], big[2000];
	struct q2_snapshot s;
	struct bench b;
	struct q2_map *m;
	size_t i;

	memset(big, 'n', sizeof(big) - 1);
	for (i = 0; i < 3000; i++) {
		snprintf(names[i], sizeof(names[i]), "%zu", i);
		many[i] = snaps[0];
		many[i].id = names[i];
		many[i].name = i < 600 ? big : "n"; /* the first ones alone are longer than a megabyte */
	}
	family_init(&b);
	ti_table(&b.img, 100, many, 3000);
	ti_switch(&b.img, 100, 3000);
	s = ti_snapshot(&b.img, &many[2999]);
	m = map_of(&b, 10, 1, &s);
	cr_expect_eq(identity(&b, m), 0);
	cr_expect_eq(identity(&b, m), 0);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

Test(q2_map, a_look_that_fails_is_no_answer)
{
	unsigned n, total;
	struct bench b;
	struct q2_map *m;

	family_init(&b);
	m = snap_map(&b, 2);
	cr_expect_eq(identity(&b, m), 0);
	total = b.tf.preads;
	cr_expect_eq(identity(&b, m), 0);
	total = b.tf.preads - total;
	for (n = 1; n <= total; n++) {
		b.tf.preads = 0;
		b.tf.fail_at = n;
		b.tf.fail_rc = -EIO;
		cr_expect_eq(identity(&b, m), -EIO, "read %u", n);
	}
	b.tf.fail_at = 0;
	cr_expect_eq(identity(&b, m), 0);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}

/* ---------------------------------------------------------------- compressed clusters */

Test(q2_map, compressed_clusters_are_noticed)
{
	struct bench b;
	struct q2_map *m;

	bench_init(&b, 4 * TABLE_SPAN, 1 << 20);
	ti_l1(&b.img, TI_L1, 1, 3);
	ti_l1(&b.img, TI_L1, 3, 4);
	m = map_of(&b, TI_L1, 4, NULL);
	cr_expect_eq(q2_map_has_compressed(b.cache, m, &b.tf.f, 10, NULL), 0);
	q2_map_put(b.cache, m);
	ti_l2(&b.img, 4, 63, TI_COMPRESSED | 0x4000);
	b.tf.stamp.mtime_ns++;
	m = map_of(&b, TI_L1, 4, NULL);
	cr_expect_eq(q2_map_has_compressed(b.cache, m, &b.tf.f, 10, NULL), 1);
	q2_map_put(b.cache, m);
	bench_fini(&b);
}
