/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * makers.h: threads that answer what takes a walk through a map, so that the threads which take requests are free for all else.
 *
 * An image can be made that takes any time to walk. What is made of images waits here for its turn then, and nothing else does.
 * Threads: sf_makers_hand() from any that takes requests.
 */
#ifndef VS_MAKERS_H
#define VS_MAKERS_H

#include <pthread.h>
#include <sys/queue.h>

#include "reply.h"

#define SF_MAKERS 4

struct sf_makers {
	pthread_mutex_t lock;
	pthread_cond_t wake; /* there is something in the queue, or stopping */
	/* guarded by lock */
	STAILQ_HEAD(, sf_making) queue;
	pthread_t threads[SF_MAKERS];
	unsigned n_threads, n_idle, n_queued;
	bool stopping;
};

void sf_makers_init(struct sf_makers *makers);
void sf_makers_fini(struct sf_makers *makers);

/* What a request asks for, as the operation gets it. */
struct sf_asked {
	fuse_ino_t id;
	size_t size;
	off_t off;
	int whence;
	struct fuse_file_info fi; /* zeros where there is none */
};

/* An operation as reply.h says, in another thread, later. Returns 0: @r is answered there. */
typedef int sf_maker_op(struct sf_req *r, struct sf_asked *asked);
int sf_makers_hand(struct sf_makers *makers, struct sf_req *r, sf_maker_op *op, const struct sf_asked *asked);

/* After the last request was taken, with the session's end: what is in the queue is answered with its errors. */
void sf_makers_stop(struct sf_makers *makers);

#endif
