/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "fs/clock.h"
#include "fs/lease.h"

/* Where leases are to be had, if anywhere. */
static char path[] = "/dev/shm/test-sf-lease-XXXXXX";
static struct q2_cache *cache;
static struct q2_gate *gate;
static struct sf_leases leases;
static struct sf_lease lease;

static void open_view(struct q2_view **out)
{
	struct q2_view_spec spec = {.path = path, .format = Q2_FORMAT_RAW, .gate = gate};
	struct vs_err err = {0};

	cr_assert_eq(q2_view_open(cache, &spec, out, &err), 0, "%s", err.msg);
}

static void setup(void)
{
	int fd = mkstemp(path);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, 1 << 20), 0);
	close(fd);
	cache = q2_cache_new(1 << 20, 1 << 20);
	gate = q2_gate_new();
	sf_leases_init(&leases, true);
	lease = (struct sf_lease){0};
	open_view(&lease.q2);
}

static void teardown(void)
{
	sf_lease_close(&leases, &lease);
	q2_view_close(lease.q2);
	sf_leases_fini(&leases);
	q2_gate_unref(gate);
	q2_cache_free(cache);
	unlink(path);
}

TestSuite(sf_lease, .init = setup, .fini = teardown, .timeout = 60);

static bool begin(void)
{
	return sf_lease_begin(&leases, &lease, NULL);
}

static atomic_bool over, writing;

/* How long it takes, in ns. */
static int64_t open_to_write(int flags)
{
	int64_t begun = sf_clock_ns();
	int fd = open(path, O_RDWR | O_CLOEXEC | flags);
	int64_t took = sf_clock_ns() - begun;

	if (fd < 0)
		return -errno;
	atomic_store(&writing, true);
	sf_clock_nap(100000);
	atomic_store(&writing, false);
	close(fd);
	return took;
}

static void need_one(void)
{
	if (!begin())
		cr_skip_test("no leases to be had here");
}

/* ---------------------------------------------------------------- one reader */

Test(sf_lease, a_writer_waits_until_the_last_reply_has_gone)
{
	need_one();
	cr_expect(sf_lease_good(&lease));
	cr_expect_eq(open_to_write(O_NONBLOCK), -EWOULDBLOCK);
	sf_clock_nap(20000000);
	cr_expect(!sf_lease_good(&lease), "somebody has waited");
	cr_expect(!begin(), "nobody begins any more");
	cr_expect_eq(open_to_write(O_NONBLOCK), -EWOULDBLOCK, "one reply is on its way still");
	sf_lease_end(&leases, &lease);
	cr_expect_geq(open_to_write(O_NONBLOCK), 0);
	cr_expect_geq(atomic_load(&leases.breaks), 1);
}

Test(sf_lease, nobody_waits_for_one_that_is_not_used_at_the_moment)
{
	need_one();
	sf_lease_end(&leases, &lease);
	cr_expect_eq(atomic_load(&leases.held), 1);
	cr_expect_lt(open_to_write(0), 400000000, "the look twice a second is not what found it");
	cr_expect_eq(atomic_load(&leases.held), 0);
}

Test(sf_lease, who_comes_when_it_is_given_up_already_is_counted)
{
	need_one();
	sf_lease_give_up(&leases, &lease);
	cr_expect_eq(open_to_write(O_NONBLOCK), -EWOULDBLOCK, "one reply is on its way still");
	sf_lease_end(&leases, &lease);
	cr_expect_eq(atomic_load(&leases.breaks), 1);
	cr_expect_geq(open_to_write(O_NONBLOCK), 0);
	cr_expect_eq(atomic_load(&leases.breaks), 1);
}

Test(sf_lease, one_that_nobody_uses_goes)
{
	need_one();
	sf_lease_end(&leases, &lease);
	sf_clock_nap(1500000000);
	cr_expect_eq(atomic_load(&leases.held), 0);
	cr_expect_geq(open_to_write(O_NONBLOCK), 0);
	cr_expect_eq(atomic_load(&leases.breaks), 0);
	cr_expect(begin(), "and comes again");
	sf_lease_end(&leases, &lease);
}

Test(sf_lease, none_while_somebody_can_write)
{
	int fd;

	need_one();
	sf_lease_end(&leases, &lease);
	sf_lease_give_up(&leases, &lease);
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_expect(!begin());
	cr_expect(!sf_lease_is_near(&leases, &lease), "which is remembered");
	close(fd);
	sf_clock_nap(50000000);
	cr_expect(begin());
	sf_lease_end(&leases, &lease);
}

Test(sf_lease, none_of_what_was_written_since_it_was_opened)
{
	int fd;

	need_one();
	sf_lease_end(&leases, &lease);
	sf_lease_give_up(&leases, &lease);
	sf_clock_nap(50000000);
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, "x", 1, 0), 1);
	close(fd);
	cr_expect(!begin());
}

Test(sf_lease, none_where_they_are_not_wanted)
{
	atomic_store(&leases.on, false);
	cr_expect(!begin());
	cr_expect(!sf_lease_is_near(&leases, &lease));
}

/* ---------------------------------------------------------------- many readers, and somebody who writes all the time */

static atomic_ulong begun, spoiled;

static void *read_on(void *opaque)
{
	struct sf_lease *mine = opaque;

	while (!atomic_load(&over)) {
		if (!sf_lease_begin(&leases, mine, NULL))
			continue;
		atomic_fetch_add(&begun, 1);
		if (sf_lease_good(mine) && atomic_load(&writing) && sf_lease_good(mine))
			atomic_fetch_add(&spoiled, 1);
		sf_lease_end(&leases, mine);
	}
	return NULL;
}

Test(sf_lease, readers_and_writers_get_on)
{
	pthread_t readers[4];
	int64_t end, longest = 0;
	int writes = 0;

	need_one();
	sf_lease_end(&leases, &lease);
	leases.pauses.first_ns = leases.pauses.most_ns = 20000000;
	for (int i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&readers[i], NULL, read_on, &lease), 0);
	for (end = sf_clock_ns() + 3 * SF_NS_PER_S; sf_clock_ns() < end; writes++) {
		int64_t ns = open_to_write(0);

		cr_assert_geq(ns, 0);
		longest = ns > longest ? ns : longest;
		sf_clock_nap(5000000 * (writes % 8));
	}
	atomic_store(&over, true);
	for (int i = 0; i < 4; i++)
		pthread_join(readers[i], NULL);
	cr_expect_gt(atomic_load(&leases.breaks), 20);
	cr_expect_gt(atomic_load(&begun), 100);
	cr_expect_eq(atomic_load(&spoiled), 0);
	cr_expect_lt(longest, SF_NS_PER_S);
}

/* Two snapshots of an image are two views of one file. The first time comes when both are held. */
Test(sf_lease, who_does_not_wait_gets_in_when_he_tries_again)
{
	struct sf_lease other = {0};
	pthread_t readers[2];

	need_one();
	open_view(&other.q2);
	cr_assert(sf_lease_begin(&leases, &other, NULL));
	cr_assert_eq(pthread_create(&readers[0], NULL, read_on, &lease), 0);
	cr_assert_eq(pthread_create(&readers[1], NULL, read_on, &other), 0);
	cr_expect_eq(open_to_write(O_NONBLOCK), -EWOULDBLOCK);
	sf_lease_end(&leases, &lease);
	sf_lease_end(&leases, &other);
	for (int i = 0; i < 10; i++) {
		sf_clock_nap(100000000);
		cr_expect_geq(open_to_write(O_NONBLOCK), 0, "try %d", i);
	}
	for (int i = 0; i < 100 && !atomic_load(&leases.held); i++)
		sf_clock_nap(50000000);
	cr_expect(atomic_load(&leases.held), "it is there again");
	atomic_store(&over, true);
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	cr_expect_eq(atomic_load(&spoiled), 0);
	sf_lease_close(&leases, &other);
	q2_view_close(other.q2);
}
