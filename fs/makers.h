/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * makers.h: threads that answer what takes long, so that the threads which take requests are free for all else.
 *
 * An image can be made that takes any time to walk, and a QEMU that hangs answers nothing. What may take long waits in a queue for its turn, and
 * nothing else does; there is a queue for each kind (fs.h), so that what waits for QEMU keeps nobody from reading maps. Whoever is killed in
 * the queue is let go.
 * Threads: sf_makers_hand() from any that takes requests.
 */
#ifndef VS_MAKERS_H
#define VS_MAKERS_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "reply.h"

#define SF_MAKERS_MOST 16

struct sf_makers {
	/* immutable */
	unsigned most; /* threads */
	atomic_bool *ending; /* borrowed: the session is over */
	pthread_mutex_t lock;
	pthread_cond_t wake;  /* there is something in the queue, or stopping */
	pthread_cond_t watch; /* likewise, for the one who looks who in the queue waits still */
	/* guarded by lock */
	STAILQ_HEAD(, sf_making) queue;
	pthread_t threads[SF_MAKERS_MOST], watcher;
	unsigned n_threads, n_idle, n_queued;
	bool watched, stopping;
};

/* @most: threads, at most SF_MAKERS_MOST; each is made when it is needed. */
void sf_makers_init(struct sf_makers *makers, unsigned most, atomic_bool *ending);
void sf_makers_fini(struct sf_makers *makers);

/* What a request asks for, as the operation gets it. */
struct sf_asked {
	fuse_ino_t id;
	size_t size;
	off_t off;
	int whence;
	char *name; /* NULL where there is none */
	struct fuse_file_info fi; /* zeros where there is none */
};

/* An operation as reply.h says, in another thread, later. Takes @asked's name. Returns 0: @r is answered there. */
typedef int sf_maker_op(struct sf_req *r, struct sf_asked *asked);
int sf_makers_hand(struct sf_makers *makers, struct sf_req *r, sf_maker_op *op, const struct sf_asked *asked);

/* After the last request was taken, with the session's end: what is in the queue is answered with its errors. */
void sf_makers_stop(struct sf_makers *makers);

#endif
