/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "fs/diff.h"
#include "sf-domain.h"

/* ---------------------------------------------------------------- two domains */

static struct vm_disk monday_disks[2], tuesday_disks[1];
static struct vm_snapshot web_snapshots[2];
static struct vm_domain web, db;

static void setup(void)
{
	monday_disks[0] = sf_test_disk("vda", "monday.vda.img", 1001);
	monday_disks[1] = sf_test_disk("vdb", NULL, 1002);
	tuesday_disks[0] = sf_test_disk("vda", "tuesday.vda.img", 1003);
	web_snapshots[0] = (struct vm_snapshot){.name = S("monday"), .shown = S("monday"), .xml_file = S("monday.xml"),
		.xml = S("<domain/>"), .xml_len = 9, .disks = monday_disks, .n_disks = 2};
	web_snapshots[1] = (struct vm_snapshot){.name = S("tuesday"), .shown = S("tuesday"), .disks = tuesday_disks, .n_disks = 1};
	web = (struct vm_domain){.name = S("web"), .dir = S("web"), .uuid = S("u-web"), .ino = 50, .changed_ns = 5,
		.snapshots = web_snapshots, .n_snapshots = 2};
	db = (struct vm_domain){.name = S("db"), .dir = S("db"), .uuid = S("u-db"), .ino = 90, .changed_ns = 6};
}

TestSuite(sf_tree, .init = setup);
TestSuite(sf_diff, .init = setup);

static struct sf_tree *tree_of(struct vm_inventory *inventory, struct sf_tree *before)
{
	return sf_tree_new(inventory, sf_test_put, before, true);
}

static struct vm_inventory both(void)
{
	static struct vm_domain *domains[] = {&db, &web};

	return (struct vm_inventory){.serial = 1, .built_ns = 1, .domains = domains, .n_domains = 2};
}

static struct sf_place place_of(struct sf_tree *tree, const char *dir, const char *name)
{
	struct sf_place place = {0};

	cr_assert_eq(sf_place_child(tree, &place, dir, &place), 0, "%s", dir);
	if (name)
		cr_assert_eq(sf_place_child(tree, &place, name, &place), 0, "%s", name);
	return place;
}

Test(sf_tree, domains_are_found_by_name_and_by_number)
{
	struct vm_inventory inventory = both();
	struct sf_tree *tree = tree_of(&inventory, NULL);

	cr_expect_eq(sf_tree_dir(tree, "web")->domain, &web);
	cr_expect_eq(sf_tree_dir_by_ino(tree, 90)->domain, &db);
	cr_expect_null(sf_tree_dir(tree, "we"));
	cr_expect_null(sf_tree_dir(tree, "webs"));
	cr_expect_null(sf_tree_dir_by_ino(tree, 51));
	sf_tree_free(tree);
}

static void expect_names(struct sf_tree *tree, const char *const *names, size_t n_names)
{
	size_t n;
	const struct sf_entry *entries = sf_dir_list(sf_tree_dir(tree, "web"), &n);

	cr_assert_eq(n, n_names);
	for (size_t i = 0; i < n; i++)
		cr_expect_str_eq(entries[i].name, names[i]);
}

Test(sf_tree, a_directory_lists_texts_images_and_definitions_by_name)
{
	static const char *const names[] = {"chain", "ctl", "jobs", "log", "monday.vda.img", "monday.xml", "retain",
		"retain.plan", "snapshots", "snapshots.json", "space", "space.json", "tuesday.vda.img"};
	struct vm_inventory inventory = both();
	struct sf_tree *tree = tree_of(&inventory, NULL);

	expect_names(tree, names, VS_ARRAY_LEN(names));
	sf_tree_free(tree);
}

Test(sf_tree, without_doors_it_lists_nothing_that_is_written)
{
	static const char *const names[] = {
		"chain", "jobs", "log", "monday.vda.img", "monday.xml", "snapshots", "snapshots.json", "space", "space.json",
		"tuesday.vda.img"};
	struct vm_inventory inventory = both();
	struct sf_tree *tree = sf_tree_new(&inventory, sf_test_put, NULL, false);

	expect_names(tree, names, VS_ARRAY_LEN(names));
	sf_tree_free(tree);
}

Test(sf_tree, a_disk_without_a_file_has_a_number_but_no_place)
{
	struct vm_inventory inventory = both();
	struct sf_tree *tree = tree_of(&inventory, NULL);
	struct sf_key key = {.domain = 50, .ino = 1002, .kind = SF_IMAGE};
	const struct sf_entry *entry = sf_dir_find_ino(sf_tree_dir(tree, "web"), SF_IMAGE, 1002);
	struct sf_place place;

	cr_assert_not_null(entry);
	cr_expect_eq(entry->disk, &monday_disks[1]);
	cr_expect_eq(sf_place_find(tree, &key, &place), -ESTALE);
	sf_tree_free(tree);
}

Test(sf_tree, every_place_is_found_again_by_its_key)
{
	static const char *const names[] = {NULL, "chain", "ctl", "monday.vda.img", "monday.xml", "retain.plan", "snapshots.json"};
	struct vm_inventory inventory = both();
	struct sf_tree *tree = tree_of(&inventory, NULL);

	for (size_t i = 0; i < VS_ARRAY_LEN(names); i++) {
		struct sf_place place = place_of(tree, "web", names[i]), again;
		struct sf_key key = sf_place_key(&place);

		cr_assert_eq(sf_place_find(tree, &key, &again), 0);
		cr_expect_eq(again.dir, place.dir);
		cr_expect_eq(again.entry, place.entry);
	}
	sf_tree_free(tree);
}

Test(sf_tree, names_that_are_not_there_and_files_as_directories)
{
	struct vm_inventory inventory = both();
	struct sf_tree *tree = tree_of(&inventory, NULL);
	struct sf_place file = place_of(tree, "web", "chain"), dir = place_of(tree, "web", NULL), root = {0}, out;

	cr_expect_eq(sf_place_child(tree, &root, "wob", &out), -ENOENT);
	cr_expect_eq(sf_place_child(tree, &dir, "monday.vdb.img", &out), -ENOENT);
	cr_expect_eq(sf_place_child(tree, &file, "x", &out), -ENOTDIR);
	sf_tree_free(tree);
}

Test(sf_tree, colliding_numbers_are_told_apart)
{
	struct vm_disk disks[3];
	struct vm_snapshot snapshot = {.name = S("s"), .shown = S("s"), .disks = disks, .n_disks = 3};
	struct vm_domain one = {.name = S("one"), .dir = S("one"), .ino = 50, .snapshots = &snapshot, .n_snapshots = 1};
	struct vm_inventory inventory = {.domains = (struct vm_domain *[]){&one}, .n_domains = 1};
	struct sf_tree *tree;

	disks[0] = sf_test_disk("vda", "s.vda.img", 77);
	disks[1] = sf_test_disk("vdb", "s.vdb.img", 77);
	disks[2] = sf_test_disk("vdc", "s.vdc.img", 77);
	tree = tree_of(&inventory, NULL);
	for (size_t i = 0; i < 3; i++) {
		struct sf_place place = place_of(tree, "one", disks[i].file), again;
		struct sf_key key = sf_place_key(&place);

		cr_assert_eq(sf_place_find(tree, &key, &again), 0);
		cr_expect_eq(again.entry->disk, &disks[i]);
	}
	sf_tree_free(tree);
}

Test(sf_tree, an_unchanged_domain_is_shared_with_the_tree_before)
{
	struct vm_domain changed = web;
	struct vm_inventory first = both();
	struct vm_inventory second = {.serial = 2, .built_ns = 2, .domains = (struct vm_domain *[]){&db, &changed},
				      .n_domains = 2};
	struct sf_tree *before = tree_of(&first, NULL), *after = tree_of(&second, before);

	cr_expect_eq(sf_tree_dir(after, "db"), sf_tree_dir(before, "db"));
	cr_expect_neq(sf_tree_dir(after, "web"), sf_tree_dir(before, "web"));
	cr_expect_eq(after->changed_ns, before->changed_ns, "the list of domains is the same");
	sf_tree_free(before);
	cr_expect_eq(sf_tree_dir(after, "db")->domain, &db);
	sf_tree_free(after);
}

/* ---------------------------------------------------------------- differences */

static char told[512];

static void note(void *opaque, const struct sf_change *c)
{
	static const char *const what[] = {"gone", "moved", "attr", "data"};
	size_t len = strlen(told);

	(void)opaque;
	snprintf(told + len, sizeof(told) - len, "%s %s%s%d:%llu; ", what[c->what], c->name ? c->name : "", c->name ? " " : "",
		 (int)c->thing.kind, (unsigned long long)c->thing.ino);
}

/* Somebody asks for the files of all its directories. */
static void ask(struct sf_tree *tree)
{
	size_t n;

	for (size_t i = 0; i < tree->n_dirs; i++)
		sf_dir_list(tree->dirs[i], &n);
}

static void expect_diff(struct vm_inventory *first, struct vm_inventory *second, const char *changes)
{
	struct sf_tree *before = tree_of(first, NULL), *after = tree_of(second, before);

	ask(before);
	told[0] = '\0';
	sf_tree_diff(before, after, note, NULL);
	cr_expect_str_eq(told, changes, "told '%s'", told);
	sf_tree_free(before);
	sf_tree_free(after);
}



static const char *with_texts(const char *middle)
{
	static char line[512];
	unsigned long long chain = vm_ino(50, "chain"), log = vm_ino(50, "log");
	unsigned long long table = vm_ino(50, "snapshots"), json = vm_ino(50, "snapshots.json");

	snprintf(line, sizeof(line), "data %d:%llu; data %d:%llu; %sdata %d:%llu; data %d:%llu; ", SF_CHAIN, chain, SF_LOG, log,
		 middle, SF_SNAPSHOTS, table, SF_JSON, json);
	return line;
}

Test(sf_diff, nothing_changed_nothing_said)
{
	struct vm_inventory first = both(), second = both();

	expect_diff(&first, &second, "");
}

Test(sf_diff, a_domain_that_went)
{
	struct vm_inventory first = both();
	struct vm_inventory second = {.serial = 2, .built_ns = 2, .domains = (struct vm_domain *[]){&db}, .n_domains = 1};

	expect_diff(&first, &second, "gone web 1:50; attr 0:1; ");
}

Test(sf_diff, a_domain_that_came_changes_the_root)
{
	struct vm_inventory first = {.serial = 1, .built_ns = 1, .domains = (struct vm_domain *[]){&db}, .n_domains = 1};
	struct vm_inventory second = both();

	second.built_ns = 2;
	expect_diff(&first, &second, "attr 0:1; ");
}

Test(sf_diff, a_renamed_domain_is_not_a_deleted_one)
{
	struct vm_domain renamed = web;
	struct vm_inventory first = both();
	struct vm_inventory second = {.serial = 2, .built_ns = 2, .domains = (struct vm_domain *[]){&db, &renamed},
				      .n_domains = 2};
	char wanted[600];

	renamed.dir = S("www");
	snprintf(wanted, sizeof(wanted), "%sattr 1:50; moved web 1:50; attr 0:1; ", with_texts(""));
	expect_diff(&first, &second, wanted);
}

Test(sf_diff, a_snapshot_that_went)
{
	struct vm_domain changed = web;
	struct vm_inventory first = both();
	struct vm_inventory second = {.serial = 2, .domains = (struct vm_domain *[]){&db, &changed},
				      .n_domains = 2};
	char wanted[600], middle[200];

	changed.snapshots = &web_snapshots[1];
	changed.n_snapshots = 1;
	snprintf(middle, sizeof(middle), "gone monday.vda.img 2:1001; gone monday.xml 3:%llu; ",
		 (unsigned long long)vm_ino(50, "monday.xml"));
	snprintf(wanted, sizeof(wanted), "%sattr 1:50; ", with_texts(middle));
	expect_diff(&first, &second, wanted);
}

Test(sf_diff, one_name_for_another_snapshot)
{
	struct vm_snapshot again = web_snapshots[1];
	struct vm_disk disk = sf_test_disk("vda", "tuesday.vda.img", 2003);
	struct vm_snapshot now[] = {web_snapshots[0], again};
	struct vm_domain changed = web;
	struct vm_inventory first = both();
	struct vm_inventory second = {.serial = 2, .domains = (struct vm_domain *[]){&db, &changed},
				      .n_domains = 2};
	char wanted[600];

	now[1].disks = &disk;
	changed.snapshots = now;
	snprintf(wanted, sizeof(wanted), "%sgone tuesday.vda.img 2:1003; attr 1:50; ", with_texts(""));
	expect_diff(&first, &second, wanted);
}

Test(sf_diff, one_snapshot_under_another_name_is_not_deleted)
{
	struct vm_disk disk = sf_test_disk("vda", "tuesday~2.vda.img", 1003);
	struct vm_snapshot now[] = {web_snapshots[0], web_snapshots[1]};
	struct vm_domain changed = web;
	struct vm_inventory first = both();
	struct vm_inventory second = {.serial = 2, .domains = (struct vm_domain *[]){&db, &changed},
				      .n_domains = 2};
	char wanted[600];

	now[1].disks = &disk;
	changed.snapshots = now;
	snprintf(wanted, sizeof(wanted), "%smoved tuesday.vda.img 2:1003; attr 1:50; ", with_texts(""));
	expect_diff(&first, &second, wanted);
}

/* Stamps of the files of tuesday's image, before and after: what is said? */
static void expect_files(const struct q2_stamp *was, size_t n_was, const struct q2_stamp *is, size_t n_is, size_t watched,
			 bool internal, bool data)
{
	static const struct q2_snapshot inside;
	struct vm_disk a = tuesday_disks[0], b = a;
	struct vm_snapshot then[] = {web_snapshots[0], web_snapshots[1]}, now[] = {web_snapshots[0], web_snapshots[1]};
	struct vm_domain before = web, after = web;
	struct vm_inventory first = {.serial = 1, .domains = (struct vm_domain *[]){&db, &before}, .n_domains = 2};
	struct vm_inventory second = {.serial = 2, .domains = (struct vm_domain *[]){&db, &after},
				      .n_domains = 2};
	char wanted[600];

	a.stamps = was, a.n_stamps = n_was;
	b.stamps = is, b.n_stamps = n_is;
	a.watched = b.watched = watched;
	a.snapshot = b.snapshot = internal ? &inside : NULL;
	then[1].disks = &a, now[1].disks = &b;
	before.snapshots = then, after.snapshots = now;
	snprintf(wanted, sizeof(wanted), "%s%sattr 1:50; ", with_texts(""), data ? "data 2:1003; " : "");
	expect_diff(&first, &second, wanted);
}

Test(sf_diff, an_image_that_stands_on_other_files_or_on_written_ones)
{
	static const struct q2_stamp same[] = {{.dev = 1, .ino = 1, .size = 9, .mtime_ns = 5}, {.dev = 1, .ino = 2, .size = 9, .mtime_ns = 5}};
	static const struct q2_stamp written[] = {{.dev = 1, .ino = 1, .size = 9, .mtime_ns = 5}, {.dev = 1, .ino = 2, .size = 9, .mtime_ns = 6}};
	static const struct q2_stamp cut[] = {{.dev = 1, .ino = 1, .size = 9, .mtime_ns = 5}, {.dev = 1, .ino = 2, .size = 8, .mtime_ns = 5}};
	static const struct q2_stamp other[] = {{.dev = 1, .ino = 1, .size = 9, .mtime_ns = 5}, {.dev = 1, .ino = 3, .size = 9, .mtime_ns = 5}};
	static const struct q2_stamp busy[] = {{.dev = 1, .ino = 1, .size = 10, .mtime_ns = 7}, {.dev = 1, .ino = 2, .size = 9, .mtime_ns = 5}};

	expect_files(same, 2, same, 2, 0, false, false);
	expect_files(same, 2, written, 2, 0, false, true);
	expect_files(same, 2, cut, 2, 0, false, true);
	expect_files(same, 2, other, 2, 0, false, true);
	expect_files(same, 2, same, 1, 0, false, true);
	expect_files(same, 2, written, 2, 1, false, false); /* where it does not look */
	expect_files(same, 2, other, 2, 1, false, true);
	expect_files(same, 2, busy, 2, 0, true, false);     /* a guest at work beside an internal snapshot */
	expect_files(same, 2, busy, 2, 0, false, true);
}

Test(sf_diff, an_image_that_grew)
{
	struct vm_disk disk = tuesday_disks[0];
	struct vm_snapshot now[] = {web_snapshots[0], web_snapshots[1]};
	struct vm_domain changed = web;
	struct vm_inventory first = both();
	struct vm_inventory second = {.serial = 2, .domains = (struct vm_domain *[]){&db, &changed},
				      .n_domains = 2};
	char wanted[600];

	disk.size *= 2;
	now[1].disks = &disk;
	changed.snapshots = now;
	snprintf(wanted, sizeof(wanted), "%sdata 2:1003; attr 1:50; ", with_texts(""));
	expect_diff(&first, &second, wanted);
}

Test(sf_diff, of_files_that_nobody_asked_for_nothing_is_said)
{
	struct vm_domain changed = web;
	struct vm_inventory first = both(), second = {.serial = 2, .domains = (struct vm_domain *[]){&db, &changed}, .n_domains = 2};
	struct sf_tree *before = tree_of(&first, NULL), *after = tree_of(&second, before);

	told[0] = '\0';
	sf_tree_diff(before, after, note, NULL);
	cr_expect_str_eq(told, "attr 1:50; ");
	cr_expect_not(sf_dir_was_asked(sf_tree_dir(after, "web")));
	ask(before);
	sf_tree_diff(before, after, note, NULL);
	cr_expect(sf_dir_was_asked(sf_tree_dir(after, "web")), "for whoever knows a name is told of it in the step after that, too");
	sf_tree_free(before);
	sf_tree_free(after);
}

/* AddressSanitizer ends the process itself, in its own way. */
#ifndef __SANITIZE_ADDRESS__
/* A diff that was broken off and passed over once left names with the kernel, for an hour, that led nowhere. */
Test(sf_diff, without_memory_the_process_ends_and_no_name_is_passed_over, .signal = SIGABRT)
{
	struct vm_snapshot many = {.name = S("many"), .shown = S("many"), .n_disks = 1 << 24};
	struct vm_domain changed = web;
	struct vm_inventory first = both();
	struct vm_inventory second = {.serial = 2, .domains = (struct vm_domain *[]){&db, &changed}, .n_domains = 2};
	struct sf_tree *before = tree_of(&first, NULL), *after = tree_of(&second, before);

	changed.snapshots = &many;
	changed.n_snapshots = 1;
	ask(before);
	cr_assert_eq(setrlimit(RLIMIT_AS, &(struct rlimit){128 << 20, RLIM_INFINITY}), 0);
	sf_tree_diff(before, after, note, NULL);
}
#endif
