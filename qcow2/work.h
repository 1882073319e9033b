/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * work.h: counting what a question costs; what a caller sees of it is struct q2_work in qcow2.h.
 *
 * A unit is some 20 ns. What is counted is what was done, not what was found: an image of some kilobytes can
 * ask for the same table a million times, and a hole of a terabyte costs one look.
 */
#ifndef Q2_WORK_H
#define Q2_WORK_H

#include <errno.h>

#include "qcow2.h"

#define Q2_WORK_ASK   1    /* a layer, for one place */
#define Q2_WORK_STAT  16   /* a system call that moves nothing */
#define Q2_WORK_EVERY 4096 /* how often the caller is asked: a tenth of a millisecond, or a dozen reads from a slow disk */

/* @len bytes read and looked at. They may well have to be made first: from a disk, or as the zeros of a hole. */
static inline uint64_t q2_work_read(uint64_t len)
{
	return 64 + len / 16;
}

/* So many of something that is looked at one after the other in memory. */
static inline uint64_t q2_work_scan(uint64_t n)
{
	return n / 32;
}

/* Does somebody wait still? 0, -EINTR. */
int q2_work_ask(struct q2_work *work);

/* Counts. -EINTR: nobody waits any more. @work may be NULL. */
static inline int q2_work_spend(struct q2_work *work, uint64_t units)
{
	if (!work)
		return 0;
	work->spent += units;
	return work->spent - work->asked < Q2_WORK_EVERY || !work->stop ? 0 : q2_work_ask(work);
}

/* Has it cost as much as it may? */
static inline bool q2_work_done(const struct q2_work *work)
{
	return work && work->limit && work->spent >= work->limit;
}

#endif
