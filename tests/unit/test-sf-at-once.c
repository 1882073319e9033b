/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "fs/at-once.h"

static int from[2], to[2];

static void setup(void)
{
	cr_assert_eq(pipe2(from, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(to, O_CLOEXEC), 0);
}

TestSuite(sf_at_once, .init = setup, .timeout = 60);

static int bytes_in(int fd)
{
	int n = -1;

	cr_assert_eq(ioctl(fd, FIONREAD, &n), 0);
	return n;
}

static void put(const char *text)
{
	cr_assert_eq(write(from[1], text, strlen(text)), (ssize_t)strlen(text));
}

static void nap_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* ---------------------------------------------------------------- soon, late */

Test(sf_at_once, what_is_soon_is_done)
{
	if (!sf_at_once_works())
		cr_skip_test("not on this machine");
	put("1234");
	cr_expect_eq(sf_at_once_splice(from[0], to[1], 4, sf_at_once_now()), 4);
	cr_expect_eq(bytes_in(to[0]), 4);
}

Test(sf_at_once, errors_are_the_calls_own)
{
	if (!sf_at_once_works())
		cr_skip_test("not on this machine");
	cr_expect_eq(sf_at_once_splice(-1, to[1], 4, sf_at_once_now()), -EBADF);
}

Test(sf_at_once, what_is_late_is_not_done)
{
	uint64_t since = sf_at_once_now();

	if (!sf_at_once_works())
		cr_skip_test("not on this machine");
	put("1234");
	nap_ms(200);
	cr_expect_eq(sf_at_once_splice(from[0], to[1], 4, since), -ECANCELED);
	cr_expect_eq(sf_at_once_splice(from[0], to[1], 4, sf_at_once_now() + 1000000000), -ECANCELED, "a moment that has not come yet");
	cr_expect_eq(bytes_in(from[0]), 4);
	cr_expect_eq(bytes_in(to[0]), 0);
}

/* ---------------------------------------------------------------- interrupted */

#ifdef __x86_64__
static volatile sig_atomic_t traps;

static void on_trap(int signo)
{
	(void)signo;
	traps++;
}

/* The processor traps after each instruction, and a signal comes: no moment within is left out. */
static ssize_t step_through(uint64_t since)
{
	ssize_t n;

	__asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq" : : : "memory", "cc");
	n = sf_at_once_splice(from[0], to[1], 4, since);
	__asm__ volatile("pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq" : : : "memory", "cc");
	return n;
}

Test(sf_at_once, who_is_interrupted_at_every_instruction_does_nothing)
{
	const struct sigaction trap = {.sa_handler = on_trap};

	if (!sf_at_once_works())
		cr_skip_test("not on this machine");
	sigaction(SIGTRAP, &trap, NULL);
	put("1234");
	for (int i = 0; i < 20; i++)
		cr_expect_eq(step_through(sf_at_once_now()), -ECANCELED);
	cr_expect_gt(traps, 200);
	cr_expect_eq(bytes_in(from[0]), 4);
	cr_expect_eq(bytes_in(to[0]), 0);
}
#endif

static void on_alarm(int signo)
{
	(void)signo;
}

/* By a timer, anywhere: it is done or not, and never half. */
Test(sf_at_once, a_million_interrupted_calls_are_done_or_not)
{
	const struct sigaction alarm = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	const struct itimerval often = {.it_interval.tv_usec = 50, .it_value.tv_usec = 50}, never = {0};
	long done = 0, cancelled = 0;
	char buf[8];

	if (!sf_at_once_works())
		cr_skip_test("not on this machine");
	sigaction(SIGALRM, &alarm, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	put("1234");
	for (long i = 0; i < 1000000; i++) {
		ssize_t n = sf_at_once_splice(from[0], to[1], 4, sf_at_once_now());

		if (n == -ECANCELED) {
			cancelled++;
			continue;
		}
		cr_assert_eq(n, 4);
		done++;
		cr_assert_eq(splice(to[0], NULL, from[1], NULL, 4, 0), 4);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	cr_expect_eq(done + cancelled, 1000000);
	cr_expect_gt(done, 900000);
	cr_expect_eq(read(from[0], buf, sizeof(buf)), 4);
	cr_expect_eq(bytes_in(to[0]), 0);
}
