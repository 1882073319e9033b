/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* The copies of our metadata: what is believed, what is written when, and who waits for a disk. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/meta/pull.h"
#include "vm/meta/store.h"

#define WEB "157e73a9-0485-4f6d-b90f-ffd63001d0e2"
#define DB "38b3cb12-c601-4c28-9681-1b22c5fdcfd7"

static char dir[] = "/tmp/test-vm-store.XXXXXX";

static void make_dir(void)
{
	cr_assert_not_null(mkdtemp(dir));
	setenv("STATE_DIRECTORY", dir, 1);
}

/* How many files there are whose names end so. Gives the path of the last in @path, which has 512 bytes. */
static int files(const char *end, char *path)
{
	DIR *d = opendir(dir);
	const struct dirent *e;
	int n = 0;

	while ((e = readdir(d))) {
		size_t len = strlen(e->d_name);

		if (len < strlen(end) || strcmp(e->d_name + len - strlen(end), end) != 0)
			continue;
		if (path)
			snprintf(path, 512, "%s/%s", dir, e->d_name);
		n++;
	}
	closedir(d);
	return n;
}

static void remove_dir(void)
{
	char path[512];

	while (files("facts", path) || files("note", path))
		unlink(path);
	rmdir(dir);
}

static struct vm_meta *meta_of(uint64_t serial, const char *policy)
{
	struct vm_meta *meta = vm_meta_new();

	vm_meta_set_policy(meta, policy);
	meta->serial = serial;
	return meta;
}

static void believes(struct vm_store *s, const char *uuid, const struct vm_meta *found, const char *policy)
{
	struct vm_meta *best = vm_store_best(s, uuid, found);

	cr_assert_not_null(best);
	cr_expect_str_eq(best->policy, policy);
	vm_meta_free(best);
}

TestSuite(vm_store, .init = make_dir, .fini = remove_dir);
TestSuite(vm_pull, .init = make_dir, .fini = remove_dir);

Test(vm_store, what_is_newer_counts_and_is_there_after_another_start)
{
	struct vm_store *s = vm_store_new();
	struct vm_meta *old = meta_of(1, "1d"), *new = meta_of(2, "2d");

	cr_expect_null(vm_store_best(s, WEB, NULL));
	cr_assert_eq(vm_store_remember(s, WEB, new, NULL), 0);
	believes(s, WEB, old, "2d");
	vm_store_free(s);
	s = vm_store_new();
	believes(s, WEB, old, "2d");
	believes(s, WEB, NULL, "2d");
	cr_expect_null(vm_store_best(s, DB, NULL));
	vm_store_free(s);
	vm_meta_free(old);
	vm_meta_free(new);
}

Test(vm_store, what_is_found_at_the_domains_is_written_when_there_is_time)
{
	struct vm_store *s = vm_store_new();
	struct vm_meta *found = meta_of(3, "3d");

	believes(s, WEB, found, "3d");
	believes(s, DB, found, "3d");
	cr_expect_eq(files("facts", NULL), 0, "a look waits for no disk");
	cr_expect(vm_store_save_one(s));
	cr_expect_eq(files("facts", NULL), 1);
	cr_expect(vm_store_save_one(s));
	cr_expect_not(vm_store_save_one(s));
	cr_expect_eq(files("facts", NULL), 2);
	believes(s, WEB, found, "3d");
	cr_expect_not(vm_store_save_one(s), "nothing is new");
	vm_store_free(s);
	s = vm_store_new();
	believes(s, WEB, NULL, "3d");
	believes(s, DB, NULL, "3d");
	vm_store_free(s);
	vm_meta_free(found);
}

Test(vm_store, a_copy_that_cannot_be_read_is_kept)
{
	struct vm_store *s = vm_store_new();
	struct vm_meta *meta = meta_of(1, "1d");
	struct vs_err err = {0};
	char path[512];
	FILE *f;

	cr_assert_eq(vm_store_remember(s, WEB, meta, NULL), 0);
	vm_store_free(s);
	cr_assert_eq(files("facts", path), 1);
	f = fopen(path, "w");
	cr_assert_not_null(f);
	fputs("<facts version=\"2\" serial=\"9\"", f);
	fclose(f);
	s = vm_store_new();
	cr_expect_lt(vm_store_legible(s, WEB, &err), 0);
	cr_expect_not_null(strstr(err.msg, path), "%s", err.msg);
	cr_expect_lt(vm_store_remember(s, WEB, meta, &err), 0);
	believes(s, WEB, meta, "1d"); /* from the domain */
	vm_store_save_one(s);
	f = fopen(path, "r");
	cr_assert_not_null(f);
	cr_expect_eq(getc(f), '<');
	fseek(f, 0, SEEK_END);
	cr_expect_eq(ftell(f), 29, "it is as it was");
	fclose(f);
	cr_expect_eq(vm_store_legible(s, DB, &err), 0);
	vm_store_free(s);
	vm_meta_free(meta);
}

/* ---------------------------------------------------------------- a slow disk */

struct writer {
	struct vm_store *store;
	struct vm_meta *meta;
	int r;
};

static void *write_copy(void *arg)
{
	struct writer *w = arg;

	w->r = vm_store_remember(w->store, WEB, w->meta, NULL);
	return NULL;
}

/* A disk that does not answer: what is to be written becomes a pipe that nobody reads. */
Test(vm_store, who_looks_waits_for_no_disk, .timeout = 20)
{
	struct vm_store *s = vm_store_new();
	struct writer w = {.store = s, .meta = meta_of(2, "2d"), .r = 1};
	struct vm_meta *first = meta_of(1, "1d");
	char path[512], fresh[540], bytes[4096];
	pthread_t thread;
	int fd, n = 0;

	cr_assert_eq(vm_store_remember(s, WEB, first, NULL), 0);
	cr_expect_null(vm_store_best(s, DB, NULL));
	cr_assert_eq(files("facts", path), 1);
	snprintf(fresh, sizeof(fresh), "%s.%d", path, (int)getpid());
	cr_assert_eq(mkfifo(fresh, 0600), 0);
	cr_assert_eq(pthread_create(&thread, NULL, write_copy, &w), 0);
	usleep(200000);
	believes(s, WEB, NULL, "1d"); /* neither this one's */
	believes(s, WEB, first, "1d");
	believes(s, DB, first, "1d"); /* ... nor that of others */
	cr_expect_eq(vm_store_legible(s, WEB, NULL), 0);
	cr_expect_eq(w.r, 1, "it was not blocked");
	fd = open(fresh, O_RDONLY);
	cr_assert_geq(fd, 0);
	while (read(fd, bytes, sizeof(bytes)) > 0)
		n++;
	close(fd);
	pthread_join(thread, NULL);
	cr_expect_gt(n, 0);
	cr_expect_lt(w.r, 0, "a pipe cannot be written out");
	believes(s, WEB, NULL, "1d"); /* on failure nothing has changed */
	vm_store_free(s);
	vm_meta_free(first);
	vm_meta_free(w.meta);
}

/* ---------------------------------------------------------------- the journal */

static void count_noted(const char *uuid, void *opaque)
{
	cr_expect_str_eq(uuid, WEB);
	(*(int *)opaque)++;
}

static int noted(struct vm_store *s)
{
	int n = 0;

	vm_store_noted(s, count_noted, &n);
	return n;
}

Test(vm_store, who_is_told_that_something_was_noted_reads_it)
{
	struct vm_store *s = vm_store_new();
	char *text = NULL;

	cr_expect_eq(noted(s), 0);

	cr_assert_eq(vm_store_journal_get(s, WEB, &text, NULL), 0);
	cr_expect_null(text);
	cr_assert_eq(vm_store_journal_put(s, WEB, "make /i/a", NULL), 0);
	cr_assert_eq(vm_store_journal_put(s, WEB, "make /i/a", NULL), 0);
	cr_expect_eq(noted(s), 1, "each is told once");
	cr_expect_eq(noted(s), 0);
	cr_assert_eq(vm_store_journal_get(s, WEB, &text, NULL), 0);
	cr_assert_not_null(text);
	cr_expect_str_eq(text, "make /i/a");
	free(text);
	cr_assert_eq(vm_store_journal_put(s, WEB, NULL, NULL), 0);
	cr_expect_eq(noted(s), 1, "also that it is gone");
	cr_assert_eq(vm_store_journal_get(s, WEB, &text, NULL), 0);
	cr_expect_null(text);
	vm_store_free(s);
}

static bool settles(const char *text, void *opaque)
{
	const struct vm_journal *j = opaque;

	cr_assert_eq(vm_journal_add(j, "back", text, NULL), 0);
	return !strcmp(text, "b");
}

Test(vm_store, who_settles_a_line_may_add_another_one)
{
	struct vm_store *s = vm_store_new();
	struct vm_journal j = {s, WEB, "pull"};

	for (const char *text = "a"; text; text = *text == 'a' ? "b" : *text == 'b' ? "c" : NULL)
		cr_assert_eq(vm_journal_add(&j, "pull", text, NULL), 0);
	vm_journal_settle(&j, "pull", settles, &j);
	cr_expect(vm_journal_has(&j, "pull", "a") && !vm_journal_has(&j, "pull", "b") && vm_journal_has(&j, "pull", "c"));
	cr_expect(vm_journal_has(&j, "back", "a") && vm_journal_has(&j, "back", "b") && vm_journal_has(&j, "back", "c"));
	vm_journal_drop(&j, "back");
	vm_journal_done(&j, "pull");
	vm_store_free(s);
}

/* ---------------------------------------------------------------- notes of pulls */

Test(vm_pull, is_read_as_it_was_written_or_not_written)
{
	struct vm_pull_file files[] = {{1, 2, Q2_FORMAT_QCOW2, (char *)"/i/a b"}, {3, 4, Q2_FORMAT_RAW, (char *)"/i/%0A"}};
	struct vm_pull p = {.pid = 77, .began = 88, .files = files, .n_files = 2, .target = (char *)"vda"}, again;
	vs_autofree char *text = vm_pull_text(&p);

	cr_assert(text && vm_pull_parse(text, &again));
	cr_expect(again.pid == 77 && again.began == 88 && again.n_files == 2 && again.files[1].ino == 4 && again.files[1].format == Q2_FORMAT_RAW);
	cr_expect_str_eq(again.files[0].path, "/i/a b");
	cr_expect_str_eq(again.target, "vda");
	vm_pull_fini(&again);
	files[1].path = (char *)"/i/a\nb";
	cr_expect_null(vm_pull_text(&p));
	files[1].path = (char *)"i/a";
	cr_expect_null(vm_pull_text(&p));
}

Test(vm_pull, one_that_cannot_be_read_is_not_overlooked)
{
	static const char *const bad[] = {"", "vda", "77 88 2\nvda\n1 2 2 /a", "77 88 2\nvda\n1 2 2 /a\n1 2 9 /b", "77 88 2\nvda\n1 2 2 /a\n1 2 2 b",
					  "77 88 2\nvda\n1 2 2 /a\n1 2 2 /b\n1 2 2 /c"};
	struct vm_store *s = vm_store_new();
	const struct vm_journal j = {s, WEB, "pull"};
	struct vm_pulls *pulls = NULL;
	struct vs_err err = {0};

	for (size_t i = 0; i < VS_ARRAY_LEN(bad); i++) {
		cr_assert_eq(vm_journal_add(&j, "pull", bad[i], NULL), 0);
		cr_expect_eq(vm_pulls_read(&j, &pulls, &err), -EPERM, "'%s'", bad[i]);
		cr_expect_not_null(strstr(err.msg, "no command runs"));
		vm_journal_done(&j, "pull");
	}
	cr_assert_eq(vm_store_journal_put(s, WEB, "pull\tpull\t%zz\n", NULL), 0);
	cr_expect_lt(vm_pulls_read(&j, &pulls, NULL), 0);
	cr_assert_eq(vm_store_journal_put(s, WEB, NULL, NULL), 0);
	cr_assert_eq(vm_pulls_read(&j, &pulls, NULL), 0);
	cr_expect_eq(pulls->n, 0u);
	vm_pulls_free(pulls);
	vm_store_free(s);
}
