/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What is remembered of the layers that have nothing: the memory alone, and chains that are read by many in any order. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "q2-image.h"
#include "qcow2/depths.h"

#define K UINT64_C(1024)

/* ---------------------------------------------------------------- the memory */

Test(q2_depths, only_whole_stretches_are_remembered)
{
	struct q2_depths d;
	uint64_t upto = 0;

	q2_depths_init(&d, 1024 * K);
	cr_expect_eq(q2_depths_get(&d, 0, 64 * K, &upto), -1);
	q2_depths_put(&d, 1, 128 * K - 1, 5); /* of neither all */
	cr_expect_eq(q2_depths_get(&d, 0, 64 * K, &upto), -1);
	cr_expect_eq(q2_depths_get(&d, 64 * K, 128 * K, &upto), -1);
	q2_depths_put(&d, 1, 193 * K, 5);
	cr_expect_eq(q2_depths_get(&d, 0, 64 * K, &upto), -1);
	cr_expect_eq(q2_depths_get(&d, 64 * K + 1, 1024 * K, &upto), 5);
	cr_expect_eq(upto, 192 * K);
	cr_expect_eq(q2_depths_get(&d, 64 * K, 65 * K, &upto), 5);
	cr_expect_eq(upto, 65 * K, "not beyond what was asked for");
	q2_depths_fini(&d);
}

Test(q2_depths, it_goes_on_while_no_fewer_have_nothing)
{
	struct q2_depths d;
	uint64_t upto = 0;

	q2_depths_init(&d, 1024 * K);
	q2_depths_put(&d, 0, 64 * K, 3);
	q2_depths_put(&d, 64 * K, 128 * K, 200);
	q2_depths_put(&d, 128 * K, 192 * K, 3);
	q2_depths_put(&d, 192 * K, 256 * K, 0);
	cr_expect_eq(q2_depths_get(&d, 0, 1024 * K, &upto), 3);
	cr_expect_eq(upto, 192 * K);
	cr_expect_eq(q2_depths_get(&d, 64 * K, 1024 * K, &upto), 200);
	cr_expect_eq(upto, 128 * K);
	cr_expect_eq(q2_depths_get(&d, 192 * K, 1024 * K, &upto), 0);
	cr_expect_eq(upto, 256 * K);
	q2_depths_fini(&d);
}

Test(q2_depths, the_last_stretch_ends_with_the_disk)
{
	struct q2_depths d;
	uint64_t from, to, upto = 0;

	q2_depths_init(&d, 100 * K);
	q2_depths_stretch(&d, 99 * K, &from, &to);
	cr_expect_eq(from, 64 * K);
	cr_expect_eq(to, 100 * K);
	q2_depths_put(&d, 0, 99 * K, 1);
	cr_expect_eq(q2_depths_get(&d, 64 * K, 100 * K, &upto), -1);
	q2_depths_put(&d, 64 * K, 100 * K, 1);
	cr_expect_eq(q2_depths_get(&d, 64 * K, 100 * K, &upto), 1);
	cr_expect_eq(upto, 100 * K);
	q2_depths_fini(&d);
}

Test(q2_depths, a_large_disk_takes_four_mib_at_most)
{
	static const uint64_t sizes[] = { UINT64_C(1) << 38, (UINT64_C(1) << 38) + 1, UINT64_C(1) << 40, (UINT64_C(1) << 50) + 512, INT64_MAX };
	struct q2_depths d;
	uint64_t from, to, upto = 0;

	for (size_t i = 0; i < VS_ARRAY_LEN(sizes); i++) {
		q2_depths_init(&d, sizes[i]);
		cr_expect_leq(d.n_pages, 1025);
		q2_depths_stretch(&d, sizes[i] - 1, &from, &to);
		cr_expect_eq(to, sizes[i]);
		q2_depths_put(&d, from, to, 7);
		cr_expect_eq(q2_depths_get(&d, sizes[i] - 1, sizes[i], &upto), 7);
		cr_expect_eq(upto, sizes[i]);
		q2_depths_fini(&d);
	}
}

/* ---------------------------------------------------------------- chains */

#define DEPTH 24

struct chain {
	char *dir, *path;
	uint8_t *bytes;  /* what the disk has */
	uint64_t size;
	struct q2_cache *cache;
	struct q2_gate *gate;
	struct q2_view *view;
	unsigned seed;
	unsigned wrong;
};

/* Every layer has some clusters of data and of zeros, each of its own size, and what is beneath shows where it has none. */
static void make_layer(struct chain *c, unsigned k, unsigned bits, uint64_t size, unsigned *seed)
{
	uint64_t cluster = UINT64_C(1) << bits, n = (size + cluster - 1) / cluster, per_table = cluster / 8;
	uint64_t next = TI_L1 + ((n + per_table - 1) / per_table * 8 + cluster - 1) / cluster; /* behind the L1 table */
	char name[32], below[32];
	struct ti_image img;
	uint64_t table = 0, i;

	snprintf(name, sizeof(name), "%u.qcow2", k);
	snprintf(below, sizeof(below), "%u.qcow2", k - 1);
	ti_init(&img, bits, size);
	if (k)
		ti_backing(&img, below, "qcow2");
	if (c->size < size) /* beyond the end of what is beneath */
		memset(c->bytes + c->size, 0, size - c->size);
	c->size = size;
	for (i = 0; i < n; i++) {
		unsigned what = (unsigned)rand_r(seed) % 100;
		uint64_t len = size - i * cluster < cluster ? size - i * cluster : cluster;

		if (i % per_table == 0)
			table = 0;
		if (what > 12)
			continue;
		if (!table) {
			table = next++;
			ti_l1(&img, TI_L1, i / per_table, table);
		}
		if (what < 3) {
			ti_l2(&img, table, i % per_table, TI_ZERO);
			memset(c->bytes + i * cluster, 0, len);
		} else {
			ti_data(&img, table, i % per_table, next++, (uint8_t)(1 + (k * 31 + i * 7) % 255));
			memset(c->bytes + i * cluster, (int)(1 + (k * 31 + i * 7) % 255), len);
		}
	}
	free(c->path);
	c->path = ti_path(c->dir, name);
	ti_save(&img, c->path);
	ti_age(c->path);
	ti_fini(&img);
}

static void chain_open(struct chain *c)
{
	struct q2_view_spec spec = { .path = c->path, .format = Q2_FORMAT_QCOW2, .gate = c->gate };
	struct vs_err err = { 0 };

	cr_assert_eq(q2_view_open(c->cache, &spec, &c->view, &err), 0, "%s", err.msg);
}

static void chain_init(struct chain *c, unsigned seed)
{
	static const unsigned bits[] = { 9, 12, 16, 16, 17, 21 };
	unsigned widest = bits[seed % VS_ARRAY_LEN(bits)], k;

	*c = (struct chain){ .dir = ti_mkdir(), .bytes = calloc(1, 8 << 20), .seed = seed, .cache = q2_cache_new(64 << 10, 0), .gate = q2_gate_new() };
	cr_assert_eq(q2_gate_allow_dir(c->gate, c->dir), 0);
	for (k = 0; k < DEPTH; k++) {
		uint64_t size = (UINT64_C(2) << 20) + (uint64_t)(rand_r(&seed) % 3000) * 512;
		unsigned own = rand_r(&seed) % 3 ? widest : bits[(unsigned)rand_r(&seed) % VS_ARRAY_LEN(bits)];

		make_layer(c, k, own, size, &seed);
	}
	chain_open(c);
}

static void chain_fini(struct chain *c)
{
	q2_view_close(c->view);
	q2_cache_free(c->cache);
	q2_gate_unref(c->gate);
	ti_rmdir(c->dir);
	free(c->path);
	free(c->bytes);
}

struct reader {
	struct chain *chain;
	unsigned seed, wrong;
	pthread_t thread;
};

static void *read_about(void *opaque)
{
	static const size_t lens[] = { 1, 512, 4096, 4096, 65536, 100000, 524288, 1 << 20 };
	struct reader *r = opaque;
	uint8_t *buf = malloc(1 << 20);

	for (unsigned i = 0; i < 1000; i++) {
		size_t len = lens[(unsigned)rand_r(&r->seed) % VS_ARRAY_LEN(lens)];
		uint64_t off = (uint64_t)rand_r(&r->seed) % r->chain->size;
		size_t there = len < r->chain->size - off ? len : (size_t)(r->chain->size - off);
		ssize_t n = q2_view_read(r->chain->view, buf, len, off, NULL, NULL);

		r->wrong += n != (ssize_t)there || memcmp(buf, r->chain->bytes + off, there) != 0;
	}
	free(buf);
	return NULL;
}

Test(q2_depths, chains_of_any_shape_read_by_many_in_any_order, .timeout = 110)
{
	for (unsigned seed = 1; seed <= 12; seed++) {
		struct reader readers[3];
		struct chain c;

		chain_init(&c, seed);
		for (unsigned i = 0; i < VS_ARRAY_LEN(readers); i++) {
			readers[i] = (struct reader){ .chain = &c, .seed = seed * 100 + i };
			cr_assert_eq(pthread_create(&readers[i].thread, NULL, read_about, &readers[i]), 0);
		}
		for (unsigned i = 0; i < VS_ARRAY_LEN(readers); i++) {
			pthread_join(readers[i].thread, NULL);
			cr_expect_eq(readers[i].wrong, 0, "seed %u: %u reads are wrong", seed, readers[i].wrong);
		}
		chain_fini(&c);
	}
}

/* Units of work of a read in the middle, once all is known. */
static uint64_t cost_of(struct chain *c, uint64_t off)
{
	struct q2_work work = { 0 };
	uint8_t buf[512];

	for (int i = 0; i < 3; i++) /* read, vouched for, learnt */
		cr_assert_eq(q2_view_read(c->view, buf, sizeof(buf), off, NULL, NULL), 512);
	cr_assert_eq(q2_view_read(c->view, buf, sizeof(buf), off, &work, NULL), 512);
	return work.spent;
}

Test(q2_depths, what_is_known_is_not_asked_again)
{
	struct chain c = { .dir = ti_mkdir(), .cache = q2_cache_new(64 << 20, 0), .gate = q2_gate_new() };
	uint64_t one, many;
	char name[32], below[32];

	cr_assert_eq(q2_gate_allow_dir(c.gate, c.dir), 0);
	for (unsigned k = 0; k < 150; k++) {
		struct ti_image img;

		snprintf(name, sizeof(name), "%u.qcow2", k);
		snprintf(below, sizeof(below), "%u.qcow2", k - 1);
		ti_init(&img, 16, 4 << 20);
		if (k)
			ti_backing(&img, below, "qcow2");
		ti_l1(&img, TI_L1, 0, 3);
		ti_data(&img, 3, k == 0 ? 10 : 1, 4, (uint8_t)(k + 1));
		free(c.path);
		c.path = ti_path(c.dir, name);
		ti_save(&img, c.path);
		ti_age(c.path);
		ti_fini(&img);
	}
	chain_open(&c);
	one = cost_of(&c, 65536);
	many = cost_of(&c, 10 * 65536);
	cr_expect_leq(many, one + 2, "%lu units through 150 layers, %lu at the first", (unsigned long)many, (unsigned long)one);
	chain_fini(&c);
}
