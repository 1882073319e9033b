/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * clock.h: the steady clock, which waits are measured by. Any thread.
 */
#ifndef VS_CLOCK_H
#define VS_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define SF_NS_PER_S INT64_C(1000000000)

static inline int64_t sf_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SF_NS_PER_S + ts.tv_nsec;
}

static inline void sf_clock_nap(int64_t ns)
{
	nanosleep(&(struct timespec){.tv_sec = ns / SF_NS_PER_S, .tv_nsec = ns % SF_NS_PER_S}, NULL);
}

/* A condition that can be waited for with a limit. */
static inline void sf_clock_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t steady;

	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &steady);
	pthread_condattr_destroy(&steady);
}

/* Until it is signalled, or the clock shows @end_ns: then ETIMEDOUT. */
static inline int sf_clock_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t end_ns)
{
	return pthread_cond_timedwait(cond, lock, &(struct timespec){.tv_sec = end_ns / SF_NS_PER_S, .tv_nsec = end_ns % SF_NS_PER_S});
}

#endif
