/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * lease.h: read leases on the files of views (qcow2.h), for replies that hand on bytes as they lie there.
 *
 * Threads: any. Nothing here waits but for the files themselves, while a lease is taken; the lock is last in rank order.
 */
#ifndef VS_LEASE_H
#define VS_LEASE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "lease-pause.h"
#include "qcow2/qcow2.h"

/* Of one view. Zero-initialise, but for the view. */
struct sf_lease {
	struct q2_view *q2;         /* borrowed; immutable */
	/* atomic */
	atomic_uint word;           /* lease.c */
	atomic_bool used;           /* since it was last looked at */
	_Atomic int64_t retry_ns;   /* not before that */
	/* guarded by the lock of all */
	bool listed;
	LIST_ENTRY(sf_lease) link;
};

struct sf_leases {
	atomic_bool on;             /* they are wanted, and can be had here */
	atomic_uint held;           /* views */
	struct sf_pauses pauses;
	atomic_uint_fast64_t breaks; /* given up, for whatever reason, while somebody waited */
	pthread_mutex_t lock;
	/* guarded by lock */
	LIST_HEAD(, sf_lease) all;  /* that were ever held */
	bool started, stopping;
	pid_t tid;                  /* of the thread; 0: not yet */
	pthread_t thread;
	pthread_cond_t ready;       /* tid */
};

void sf_leases_init(struct sf_leases *leases, bool on);
/* Nothing is held any more. Ends the thread. */
void sf_leases_fini(struct sf_leases *leases);

/* It is held, or may be had. Costs nothing. */
bool sf_lease_is_near(struct sf_leases *leases, struct sf_lease *lease);

/*
 * Between these two the lease is not given up by us, and every byte that an extent had told of before is as it was told then, while
 * sf_lease_good(). False: there is none, and no second call. Takes it where it is not held, which may need some reads.
 */
bool sf_lease_begin(struct sf_leases *leases, struct sf_lease *lease, struct q2_work *work);
void sf_lease_end(struct sf_leases *leases, struct sf_lease *lease);
bool sf_lease_good(struct sf_lease *lease);

/* It is given up, by the last one who has begun. */
void sf_lease_give_up(struct sf_leases *leases, struct sf_lease *lease);
/* Before its view is closed: nobody has begun. */
void sf_lease_close(struct sf_leases *leases, struct sf_lease *lease);

#endif
