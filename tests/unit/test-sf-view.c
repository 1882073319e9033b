/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "fs/view.h"

/* ---------------------------------------------------------------- an image that is frozen and to be guarded */

static char path[] = "/tmp/test-sf-view-XXXXXX";
static char *chain[] = {path, NULL};
static struct vm_disk disk = {.chain = chain, .format = Q2_FORMAT_RAW, .guard = true, .guard_top = true};
static struct sf_views views;

static void setup(void)
{
	int fd = mkstemp(path);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, 1 << 20), 0);
	close(fd);
	disk.gate = q2_gate_new();
	sf_views_init(&views, true);
}

static void teardown(void)
{
	sf_views_fini(&views);
	q2_gate_unref(disk.gate);
	unlink(path);
}

TestSuite(sf_view, .init = setup, .fini = teardown);

static struct sf_view *open_one(const char *uuid)
{
	struct sf_view *view = NULL;
	struct vs_err err = {0};

	cr_assert_eq(sf_view_open(&views, uuid, &disk, NULL, &view, &err), 0, "%s", err.msg);
	return view;
}

/* Does anybody forbid writing to it? */
static bool is_guarded(void)
{
	struct q2_file *file;
	struct q2_locks locks;

	cr_assert_eq(q2_file_open(path, &file, NULL), 0);
	cr_assert_eq(q2_file_locks(file, &locks), 0);
	q2_file_close(file);
	return locks.frozen;
}

/* ---------------------------------------------------------------- what happens to it */

Test(sf_view, guards_last_as_long_as_a_view)
{
	struct sf_view *view = open_one("web");

	cr_expect(is_guarded());
	cr_expect(q2_view_settled(view->q2));
	sf_view_ref(view);
	sf_view_put(view);
	cr_expect(is_guarded());
	sf_view_put(view);
	cr_expect_not(is_guarded());
}

Test(sf_view, a_command_drops_the_guards_of_its_domain)
{
	struct sf_view *view = open_one("web");

	sf_views_unguard(&views, "web");
	cr_expect_not(is_guarded());
	cr_expect_not(q2_view_settled(view->q2));
	sf_views_reguard(&views, "web");
	sf_view_put(view);
}

Test(sf_view, and_of_no_other_one)
{
	struct sf_view *view = open_one("db");

	sf_views_unguard(&views, "web");
	cr_expect(is_guarded());
	sf_views_reguard(&views, "web");
	cr_expect_not(sf_view_outdated(view));
	sf_view_put(view);
}

Test(sf_view, one_that_is_opened_meanwhile_has_none)
{
	struct sf_view *view;

	sf_views_unguard(&views, "web");
	view = open_one("web");
	cr_expect_not(is_guarded());
	cr_expect_not(sf_view_outdated(view), "there is no better one yet");
	sf_views_reguard(&views, "web");
	cr_expect(sf_view_outdated(view));
	sf_view_put(view);
}

Test(sf_view, afterwards_another_one_has_them_again)
{
	struct sf_view *before = open_one("web"), *after;

	sf_views_unguard(&views, "web");
	cr_expect_not(sf_view_outdated(before));
	sf_views_reguard(&views, "web");
	cr_expect(sf_view_outdated(before));
	after = open_one("web");
	cr_expect(is_guarded());
	cr_expect_not(sf_view_outdated(after));
	sf_view_put(before);
	sf_view_put(after);
}

Test(sf_view, commands_within_commands)
{
	struct sf_view *view;

	sf_views_unguard(&views, "web");
	sf_views_unguard(&views, "web");
	sf_views_reguard(&views, "web");
	view = open_one("web");
	cr_expect_not(is_guarded());
	sf_view_put(view);
	sf_views_reguard(&views, "web");
	sf_views_reguard(&views, "web"); /* one too many is none */
	view = open_one("web");
	cr_expect(is_guarded());
	sf_view_put(view);
}

Test(sf_view, one_that_cannot_be_opened_leaves_nothing_to_wait_for)
{
	struct sf_view *view = NULL;
	struct timespec from, to;

	unlink(path);
	cr_expect_lt(sf_view_open(&views, "web", &disk, NULL, &view, NULL), 0);
	clock_gettime(CLOCK_MONOTONIC, &from);
	sf_views_unguard(&views, "web");
	clock_gettime(CLOCK_MONOTONIC, &to);
	cr_expect_lt(to.tv_sec - from.tv_sec, 2);
	sf_views_reguard(&views, "web");
}

static atomic_bool returned;

static void *return_later(void *opaque)
{
	nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
	atomic_store(&returned, true);
	sf_view_return(opaque);
	return NULL;
}

Test(sf_view, a_reply_that_is_on_its_way_is_waited_for)
{
	struct sf_view *view = open_one("web");
	pthread_t thread;

	sf_view_lend(view);
	cr_assert(q2_view_settled(view->q2));
	cr_assert_eq(pthread_create(&thread, NULL, return_later, view), 0);
	sf_views_unguard(&views, "web");
	cr_expect(atomic_load(&returned));
	pthread_join(thread, NULL);
	sf_views_reguard(&views, "web");
	sf_view_put(view);
}
