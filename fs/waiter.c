/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "waiter.h"

#include <errno.h>

#include "clock.h"
#include "mortal.h"

#define LOOK_NS 100000000

static bool stop(void *opaque)
{
	return sf_waiter_gone(opaque);
}

void sf_waiter_init(struct sf_waiter *waiter, atomic_bool *ending, fuse_req_t req, uint64_t limit)
{
	*waiter = (struct sf_waiter){
		.work = {.limit = limit, .stop = stop, .opaque = waiter},
		.ending = ending,
		.tid = req ? fuse_req_ctx(req)->pid : 0,
	};
}

bool sf_waiter_gone(struct sf_waiter *waiter)
{
	int64_t now;
	bool due;

	if (atomic_load(waiter->ending))
		return true;
	if (!waiter->tid)
		return false;
	now = sf_clock_ns();
	if (now < waiter->look_ns)
		return false;
	due = waiter->look_ns != 0;
	waiter->look_ns = now + LOOK_NS;
	return due && sf_mortal_ask(waiter->tid);
}

/* The kernel says the same of a mount that has ended. */
int sf_waiter_errno(const struct sf_waiter *waiter, int rc)
{
	return rc == -EINTR && atomic_load(waiter->ending) ? -ENOTCONN : rc;
}
