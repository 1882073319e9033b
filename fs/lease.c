/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A lease is in one of four states, in one word together with how many replies stand on it:
 *
 *	            take                        somebody waits, or nobody has used it
 *	  NONE ──────────► BUSY ──► HELD + n ─────────────────────────────────► LEAVING + n ── n is 0 ──► BUSY ──► NONE
 *	                    │ cannot be had                                                     given up
 *	                    └────────► NONE, and not again for some time                        (a pause: lease-pause.h)
 *
 * Who opens the file for writing waits in the kernel until NONE: that long as the replies take that have begun already, since from LEAVING on
 * none begins. Who takes the last one away gives it up, there and then. BUSY belongs to one thread.
 *
 * That somebody waits is told by a signal to a thread of our own. All that it does is to look at every lease that is held whether it is still good
 * (so no signal can be lost, and none is too many), and to start it on its way; it waits for nothing but the next signal. So a command of ours
 * that opens an image for writing, here or in a child, waits no longer than anybody else's. While anything is held the thread looks around twice a second as well,
 * and gives up what was not used for that long.
 *
 * What it does not help against is that this process is stopped: then nobody gives anything up, and after lease-break-time the kernel
 * takes it away. So before bytes go out that were found under the lease it is looked at once more, in such a way that there is no time
 * in between (at-once.h).
 */
#include "lease.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "at-once.h"
#include "clock.h"
#include "vm/util/mem.h"

#define HELD (1u << 31)
#define LEAVING (1u << 30)
#define BUSY (1u << 29)

#define LOOK_NS 500000000
#define AGAIN_NS 20000000         /* while somebody has it open for writing */
#define NEVER_NS (60 * SF_NS_PER_S) /* where it cannot be had */
#define BREAK_S 20                /* at-once.h, and the call that it makes, have to be much faster */

/* ---------------------------------------------------------------- giving up */

/* The last end of a pause of its files; 0: none has had one. */
static int64_t pauses_end(struct sf_leases *leases, const struct sf_lease *lease)
{
	struct q2_stamp stamp;
	int64_t last_ns = 0;
	const char *path;

	for (size_t i = 0; q2_view_file(lease->q2, i, &path, &stamp); i++) {
		int64_t end_ns = sf_pauses_end(&leases->pauses, stamp.dev, stamp.ino);

		last_ns = end_ns > last_ns ? end_ns : last_ns;
	}
	return last_ns;
}

/* Of those files that somebody waits for. */
static void begin_pauses(struct sf_leases *leases, const struct sf_lease *lease)
{
	struct q2_stamp stamp;
	const char *path;

	for (size_t i = 0; q2_view_file(lease->q2, i, &path, &stamp); i++)
		if (!q2_view_file_leased(lease->q2, i))
			sf_pauses_begin(&leases->pauses, stamp.dev, stamp.ino, sf_clock_ns());
}

/* Nobody tries for @least_ns, nor before the pauses of its files have ended. */
static void put_off(struct sf_leases *leases, struct sf_lease *lease, int64_t least_ns)
{
	int64_t end_ns = pauses_end(leases, lease), least = sf_clock_ns() + least_ns;

	atomic_store(&lease->retry_ns, end_ns > least ? end_ns : least);
}

/* Of one that is BUSY. Whatever the reason is, somebody may wait by now: then his pause has begun before another lease can be had on that file,
 * for the kernel grants none while somebody waits. */
static void let_go(struct sf_leases *leases, struct sf_lease *lease)
{
	if (!q2_view_leased(lease->q2)) {
		begin_pauses(leases, lease);
		put_off(leases, lease, 0);
		atomic_fetch_add(&leases->breaks, 1);
	}
	q2_view_unlease(lease->q2);
}

static void release(struct sf_leases *leases, struct sf_lease *lease)
{
	unsigned word = LEAVING;

	if (!atomic_compare_exchange_strong(&lease->word, &word, BUSY))
		return;
	let_go(leases, lease);
	atomic_fetch_sub(&leases->held, 1);
	atomic_store(&lease->word, 0);
}

void sf_lease_give_up(struct sf_leases *leases, struct sf_lease *lease)
{
	unsigned word = atomic_load(&lease->word);

	do {
		if (!(word & HELD))
			return;
	} while (!atomic_compare_exchange_weak(&lease->word, &word, (word & ~HELD) | LEAVING));
	release(leases, lease);
}

/* ---------------------------------------------------------------- the thread */

static int signo(void)
{
	return SIGRTMIN;
}

static bool is_held(const struct sf_lease *lease)
{
	return atomic_load(&lease->word) & HELD;
}

/* @idle: what has not been used since the last time goes as well. */
static void look_around(struct sf_leases *leases, bool idle)
{
	struct sf_lease *lease;

	pthread_mutex_lock(&leases->lock);
	LIST_FOREACH(lease, &leases->all, link) {
		if (is_held(lease) && (!q2_view_leased(lease->q2) || (idle && !atomic_exchange(&lease->used, false))))
			sf_lease_give_up(leases, lease);
	}
	pthread_mutex_unlock(&leases->lock);
}

static bool await_signal(struct sf_leases *leases, const sigset_t *set)
{
	const struct timespec look = {.tv_nsec = LOOK_NS};
	bool stopping;

	if (atomic_load(&leases->held))
		sigtimedwait(set, NULL, &look);
	else
		sigwaitinfo(set, NULL);
	pthread_mutex_lock(&leases->lock);
	stopping = leases->stopping;
	pthread_mutex_unlock(&leases->lock);
	return !stopping;
}

static void *serve_breaks(void *opaque)
{
	struct sf_leases *leases = opaque;
	int64_t next_ns = 0;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, signo());
	sigaddset(&set, SIGIO); /* where the kernel has no room for the other one */
	pthread_mutex_lock(&leases->lock);
	leases->tid = gettid();
	pthread_cond_broadcast(&leases->ready);
	pthread_mutex_unlock(&leases->lock);
	while (await_signal(leases, &set)) {
		bool idle = sf_clock_ns() >= next_ns;

		look_around(leases, idle);
		if (idle)
			next_ns = sf_clock_ns() + LOOK_NS;
	}
	return NULL;
}

/* It sees no signal but those that it asks for. */
static void start_locked(struct sf_leases *leases)
{
	sigset_t all, before;

	leases->started = true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&leases->thread, NULL, serve_breaks, leases)) {
		leases->started = false;
		atomic_store(&leases->on, false);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The thread's id; 0: there is none. */
static pid_t thread_get(struct sf_leases *leases)
{
	pid_t tid;

	pthread_mutex_lock(&leases->lock);
	if (!leases->started && atomic_load(&leases->on))
		start_locked(leases);
	while (leases->started && !leases->tid)
		pthread_cond_wait(&leases->ready, &leases->lock);
	tid = leases->tid;
	pthread_mutex_unlock(&leases->lock);
	return tid;
}

/* ---------------------------------------------------------------- taking */

/* Does the kernel wait long enough for us, and not for ever? That is 0: then who opens a file for writing would wait for as long as we are stopped. */
static bool kernel_is_patient(void)
{
	FILE *f = fopen("/proc/sys/fs/lease-break-time", "re");
	int seconds, n = f ? fscanf(f, "%d", &seconds) : 0;

	if (f)
		fclose(f);
	return n == 1 && seconds >= BREAK_S;
}

static void enlist(struct sf_leases *leases, struct sf_lease *lease)
{
	pthread_mutex_lock(&leases->lock);
	if (!lease->listed)
		LIST_INSERT_HEAD(&leases->all, lease, link);
	lease->listed = true;
	pthread_mutex_unlock(&leases->lock);
	if (!atomic_fetch_add(&leases->held, 1)) /* from now on it is to look around */
		pthread_kill(leases->thread, signo());
}

bool sf_lease_is_near(struct sf_leases *leases, struct sf_lease *lease)
{
	unsigned word = atomic_load(&lease->word);

	return atomic_load(&leases->on) && (word & HELD || (!word && sf_clock_ns() >= atomic_load(&lease->retry_ns)));
}

static bool is_paused(struct sf_leases *leases, const struct sf_lease *lease)
{
	return pauses_end(leases, lease) > sf_clock_ns();
}

static int take(struct sf_leases *leases, struct sf_lease *lease, struct q2_work *work)
{
	const struct q2_lease how = {.signo = signo(), .tid = thread_get(leases)};
	int rc;

	if (!how.tid || !sf_at_once_works() || !kernel_is_patient())
		return -ENOTSUP;
	if (is_paused(leases, lease))
		return -EAGAIN;
	rc = q2_view_lease(lease->q2, &how);
	if (rc < 0)
		return rc;
	/* another view may have been asked for the same file just before that, and have let it go */
	rc = is_paused(leases, lease) ? -EAGAIN : q2_view_check_anew(lease->q2, work);
	if (rc < 0)
		let_go(leases, lease);
	return rc;
}

static bool begin_new(struct sf_leases *leases, struct sf_lease *lease, struct q2_work *work)
{
	unsigned none = 0;
	int rc;

	if (!sf_lease_is_near(leases, lease) || !atomic_compare_exchange_strong(&lease->word, &none, BUSY))
		return false;
	rc = take(leases, lease, work);
	if (rc < 0) {
		if (rc != -EINTR)
			put_off(leases, lease, rc == -ENOTSUP ? NEVER_NS : AGAIN_NS);
		atomic_store(&lease->word, 0);
		return false;
	}
	enlist(leases, lease);
	atomic_store(&lease->used, true);
	atomic_store(&lease->word, HELD | 1);
	if (q2_view_leased(lease->q2))
		return true;
	sf_lease_give_up(leases, lease); /* the thread has passed by while it was busy */
	sf_lease_end(leases, lease);
	return false;
}

bool sf_lease_begin(struct sf_leases *leases, struct sf_lease *lease, struct q2_work *work)
{
	unsigned word = atomic_load(&lease->word);

	while (word & HELD)
		if (atomic_compare_exchange_weak(&lease->word, &word, word + 1)) {
			atomic_store(&lease->used, true);
			return true;
		}
	return !word && begin_new(leases, lease, work);
}

void sf_lease_end(struct sf_leases *leases, struct sf_lease *lease)
{
	if (atomic_fetch_sub(&lease->word, 1) == (LEAVING | 1))
		release(leases, lease);
}

bool sf_lease_good(struct sf_lease *lease)
{
	return q2_view_leased(lease->q2);
}

void sf_lease_close(struct sf_leases *leases, struct sf_lease *lease)
{
	pthread_mutex_lock(&leases->lock);
	if (lease->listed)
		LIST_REMOVE(lease, link);
	lease->listed = false;
	pthread_mutex_unlock(&leases->lock);
	sf_lease_give_up(leases, lease);
}

/* ---------------------------------------------------------------- beginning and end */

void sf_leases_init(struct sf_leases *leases, bool on)
{
	*leases = (struct sf_leases){.on = on};
	sf_pauses_init(&leases->pauses);
	pthread_mutex_init(&leases->lock, NULL);
	pthread_cond_init(&leases->ready, NULL);
}

void sf_leases_fini(struct sf_leases *leases)
{
	bool started;

	pthread_mutex_lock(&leases->lock);
	started = leases->started;
	leases->stopping = true;
	pthread_mutex_unlock(&leases->lock);
	if (started) {
		pthread_kill(leases->thread, signo());
		pthread_join(leases->thread, NULL);
	}
	sf_pauses_fini(&leases->pauses);
	pthread_cond_destroy(&leases->ready);
	pthread_mutex_destroy(&leases->lock);
}
