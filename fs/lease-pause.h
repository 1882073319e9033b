/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * lease-pause.h: for how long a file is left alone after somebody wanted to write to it: no lease is taken on it then, by no view.
 *
 * Who opens a file with O_NONBLOCK does not wait for a lease's end but is refused, and tries again when he thinks fit; so does a server that
 * opens it for its clients. If the lease were there again by then he would never get in. So the first pause takes two seconds, and each further one twice
 * as long, up to a minute: who tries again in less than a minute gets in, after six refusals at most. When nobody wanted to write for two minutes after a
 * pause, it is forgotten.
 *
 * A file is a device and an inode, as in struct q2_stamp. Times are those of sf_clock_ns(), and the caller's. Threads: any; the lock is last in rank order.
 */
#ifndef VS_LEASE_PAUSE_H
#define VS_LEASE_PAUSE_H

#include <pthread.h>
#include <stdint.h>
#include <sys/queue.h>

struct sf_pauses {
	int64_t first_ns, most_ns; /* immutable while they are used */
	pthread_mutex_t lock;
	/* guarded by lock */
	LIST_HEAD(, sf_pause) all; /* that are not forgotten */
};

void sf_pauses_init(struct sf_pauses *pauses);
void sf_pauses_fini(struct sf_pauses *pauses);

/* Somebody wants to write to it. Where there is a pause already this is still the same one. */
void sf_pauses_begin(struct sf_pauses *pauses, uint64_t dev, uint64_t ino, int64_t now_ns);
/* When its last pause ends, or has ended; 0: it had none. */
int64_t sf_pauses_end(struct sf_pauses *pauses, uint64_t dev, uint64_t ino);

#endif
