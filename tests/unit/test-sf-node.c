/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>

#include "fs/node.h"

static struct sf_nodes nodes;

static void setup(void)
{
	sf_nodes_init(&nodes);
}

static void teardown(void)
{
	sf_nodes_fini(&nodes);
}

TestSuite(sf_node, .init = setup, .fini = teardown);

static struct sf_key key_of(uint64_t ino)
{
	return (struct sf_key){.domain = 7, .ino = ino, .kind = SF_IMAGE};
}

static fuse_ino_t take(uint64_t ino)
{
	struct sf_key key = key_of(ino);

	return sf_node_take(&nodes, &key);
}

static bool is_known(fuse_ino_t id)
{
	struct sf_key key;

	return sf_node_key(&nodes, id, &key) == 0;
}

Test(sf_node, one_thing_has_one_id_for_as_long_as_it_is_known)
{
	fuse_ino_t id = take(100);

	cr_expect_gt(id, FUSE_ROOT_ID);
	cr_expect_eq(take(100), id);
	cr_expect_neq(take(101), id);
}

Test(sf_node, the_kind_is_part_of_what_a_thing_is)
{
	struct sf_key text = {.domain = 7, .ino = 100, .kind = SF_XML};

	cr_expect_neq(take(100), sf_node_take(&nodes, &text));
}

Test(sf_node, what_the_kernel_has_forgotten_is_found_again_by_its_number)
{
	fuse_ino_t id = take(100);

	take(100);
	sf_node_forget(&nodes, id, 2);
	cr_expect(is_known(id));
	cr_expect_eq(take(100), id);
	sf_node_forget(&nodes, id, 1);
	cr_expect(is_known(id));
	cr_expect_eq(nodes.n_nodes, 1);
}

Test(sf_node, a_retired_one_goes_when_all_lookups_are_taken_back)
{
	fuse_ino_t id = take(100), dormant = take(101);

	take(100);
	sf_node_retire(&nodes, id);
	sf_node_forget(&nodes, id, 1);
	cr_expect(is_known(id));
	sf_node_forget(&nodes, id, 1);
	cr_expect_not(is_known(id));
	sf_node_forget(&nodes, dormant, 1);
	sf_node_retire(&nodes, dormant);
	cr_expect_not(is_known(dormant));
	cr_expect_eq(nodes.n_nodes, 0);
}

Test(sf_node, an_id_never_comes_back)
{
	fuse_ino_t id = take(100);

	sf_node_retire(&nodes, id);
	sf_node_forget(&nodes, id, 1);
	cr_expect_gt(take(100), id);
	cr_expect_not(is_known(id));
}

Test(sf_node, a_domain_goes_with_all_that_was_in_it)
{
	struct sf_key other = {.domain = 8, .ino = 100, .kind = SF_IMAGE}, dir = {.domain = 7, .ino = 7, .kind = SF_DOMAIN};
	fuse_ino_t held = take(100), dormant = take(101), its, elsewhere;

	its = sf_node_take(&nodes, &dir);
	elsewhere = sf_node_take(&nodes, &other);
	sf_node_forget(&nodes, dormant, 1);
	sf_nodes_retire_domain(&nodes, 7);
	cr_expect_not(is_known(dormant));
	cr_expect(is_known(held));
	cr_expect(is_known(its));
	cr_expect_neq(take(100), held);
	sf_node_forget(&nodes, held, 1);
	cr_expect_not(is_known(held));
	cr_expect_eq(sf_node_id(&nodes, &other), elsewhere);
}

Test(sf_node, the_kernels_pages_are_kept_for_the_same_bytes_only)
{
	fuse_ino_t id = take(100);
	bool same;

	cr_expect_eq(sf_node_open(&nodes, id, 55, &same), 0);
	cr_expect_not(same);
	cr_expect_eq(sf_node_open(&nodes, id, 55, &same), 0);
	cr_expect(same);
	cr_expect_eq(sf_node_open(&nodes, id, 56, &same), 0);
	cr_expect_not(same);
	cr_expect_eq(sf_node_open(&nodes, id, 0, &same), 0); /* one that cannot be read at present */
	cr_expect_not(same);
	cr_expect_eq(sf_node_open(&nodes, id, 0, &same), 0);
	cr_expect_not(same);
	cr_expect_eq(sf_node_open(&nodes, id, 56, &same), 0);
	cr_expect_not(same);
	sf_node_retire(&nodes, id);
	cr_expect_eq(sf_node_open(&nodes, id, 56, &same), -ESTALE);
	cr_expect_eq(sf_node_open(&nodes, 12345, 56, &same), -ESTALE);
}

Test(sf_node, unknown_ids_are_stale_and_forgetting_them_does_nothing)
{
	struct sf_key key;

	cr_expect_eq(sf_node_key(&nodes, 12345, &key), -ESTALE);
	sf_node_forget(&nodes, 12345, 3);
	sf_node_forget(&nodes, FUSE_ROOT_ID, 3);
	cr_expect_eq(sf_node_key(&nodes, FUSE_ROOT_ID, &key), 0);
	cr_expect_eq(key.kind, SF_ROOT);
}

Test(sf_node, forgetting_too_much_is_forgetting_all)
{
	fuse_ino_t id = take(100);

	sf_node_forget(&nodes, id, UINT64_MAX);
	sf_node_retire(&nodes, id);
	cr_expect_not(is_known(id));
}

Test(sf_node, a_retired_one_answers_to_its_id_but_not_to_its_key)
{
	fuse_ino_t id = take(100), fresh;
	struct sf_key key = key_of(100);

	sf_node_retire(&nodes, id);
	cr_expect(is_known(id));
	cr_expect_eq(sf_node_id(&nodes, &key), 0);
	fresh = take(100);
	cr_expect_neq(fresh, id);
	sf_node_forget(&nodes, id, 1);
	cr_expect_eq(sf_node_id(&nodes, &key), fresh);
}

Test(sf_node, a_fresh_one_is_another_one_every_time_and_answers_to_its_id_alone)
{
	struct sf_key key = {.domain = 7, .ino = 100, .kind = SF_CTL}, got;
	fuse_ino_t first, second;

	first = sf_node_fresh(&nodes, &key);
	second = sf_node_fresh(&nodes, &key);
	cr_expect_neq(first, second);
	cr_assert_eq(sf_node_key(&nodes, second, &got), 0);
	cr_expect(sf_key_equal(&got, &key));
	cr_expect_eq(sf_node_id(&nodes, &key), 0);
	sf_node_forget(&nodes, first, 1);
	cr_expect_not(is_known(first));
	cr_expect(is_known(second));
	sf_node_forget(&nodes, second, 1);
	cr_expect_eq(nodes.n_nodes, 0);
}

Test(sf_node, many_are_found_again_while_the_table_grows)
{
	enum { MANY = 20000 };
	static fuse_ino_t ids[MANY];

	for (size_t i = 0; i < MANY; i++)
		ids[i] = take(i * 4096 + 2);
	for (size_t i = 0; i < MANY; i++) {
		struct sf_key key = key_of(i * 4096 + 2), got;

		cr_assert_eq(sf_node_id(&nodes, &key), ids[i]);
		cr_assert_eq(sf_node_key(&nodes, ids[i], &got), 0);
		cr_assert(sf_key_equal(&key, &got));
	}
	for (size_t i = 0; i < MANY; i++)
		sf_node_forget(&nodes, ids[i], 1);
	cr_expect_eq(nodes.n_nodes, MANY);
	sf_nodes_retire_domain(&nodes, 7);
	cr_expect_eq(nodes.n_nodes, 0);
}
