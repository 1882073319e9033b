/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * clock.h: the two clocks, in nanoseconds: the calendar's (what a person reads) and the steady one (what waits).
 */
#ifndef VS_VM_UTIL_CLOCK_H
#define VS_VM_UTIL_CLOCK_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define VM_NS_PER_S INT64_C(1000000000)
#define VM_NS_PER_MS INT64_C(1000000)

static inline int64_t vm_timespec_ns(struct timespec t)
{
	return t.tv_sec * VM_NS_PER_S + t.tv_nsec;
}

static inline struct timespec vm_ns_timespec(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / VM_NS_PER_S, .tv_nsec = ns % VM_NS_PER_S };
}

static inline int64_t vm_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return vm_timespec_ns(t);
}

static inline int64_t vm_steady_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return vm_timespec_ns(t);
}

/* "2026-11-16T02:00:01+00:00", local time with its offset; @room of 32 suffices. */
void vm_time_text(int64_t ns, char *text, size_t room);

#endif
