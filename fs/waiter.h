/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * waiter.h: who waits for an answer, and whether he still does.
 *
 * Whoever waits for us in the kernel cannot be ended before we have answered. So everything that may take long is done for a
 * waiter, and asks now and then: it ends when the waiting thread is being killed, and when the session is. Nobody has to tell:
 * FUSE's word that a signal came is read by the threads that may all be at work, so /proc is asked (mortal.h), some times a
 * second and by nobody who is done before.
 *
 * Threads: each waiter is one thread's, for one request.
 */
#ifndef VS_WAITER_H
#define VS_WAITER_H

#include <stdatomic.h>

#include "fuse_api.h"

#include "qcow2/qcow2.h"

struct sf_waiter {
	struct q2_work work; /* what it may cost: for the calls of qcow2.h */
	atomic_bool *ending; /* borrowed: the session's end */
	pid_t tid;           /* the waiting thread; 0: none, or one that cannot be seen from here */
	int64_t look_ns;     /* when to look at it next; 0: it was not asked for yet */
};

/* @req: NULL for work of our own. @limit: units of q2_work. */
void sf_waiter_init(struct sf_waiter *waiter, atomic_bool *ending, fuse_req_t req, uint64_t limit);

/* Is there nobody any more to answer? Cheap enough to be asked all the time. */
bool sf_waiter_gone(struct sf_waiter *waiter);

/* What to answer when a call ended with -EINTR; all other errors as they are. */
int sf_waiter_errno(const struct sf_waiter *waiter, int rc);

#endif
