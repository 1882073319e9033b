/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "makers.h"

#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "vm/util/mem.h"
#include "waiter.h"

#define LOOK_NS 100000000 /* at who waits in the queue */

struct sf_making {
	STAILQ_ENTRY(sf_making) link;
	struct sf_req r;
	struct sf_waiter waiter; /* while it is in the queue */
	sf_maker_op *op;
	struct sf_asked asked;
};

void sf_makers_init(struct sf_makers *makers, unsigned most, atomic_bool *ending)
{
	*makers = (struct sf_makers){.most = most, .ending = ending};
	STAILQ_INIT(&makers->queue);
	pthread_mutex_init(&makers->lock, NULL);
	pthread_cond_init(&makers->wake, NULL);
	sf_clock_cond_init(&makers->watch);
}

void sf_makers_fini(struct sf_makers *makers)
{
	pthread_cond_destroy(&makers->watch);
	pthread_cond_destroy(&makers->wake);
	pthread_mutex_destroy(&makers->lock);
}

/* The first in the queue; waits for one. NULL: it is over. */
static struct sf_making *next_locked(struct sf_makers *makers)
{
	struct sf_making *next;

	makers->n_idle++;
	while (STAILQ_EMPTY(&makers->queue) && !makers->stopping)
		pthread_cond_wait(&makers->wake, &makers->lock);
	makers->n_idle--;
	next = STAILQ_FIRST(&makers->queue);
	if (next) {
		STAILQ_REMOVE_HEAD(&makers->queue, link);
		makers->n_queued--;
	}
	return next;
}

static void end(struct sf_making *making, int rc)
{
	sf_req_end(&making->r, rc);
	free(making->asked.name);
	free(making);
}

static void run(struct sf_making *making)
{
	end(making, making->op(&making->r, &making->asked));
}

static void *maker_thread(void *opaque)
{
	struct sf_makers *makers = opaque;
	struct sf_making *making;

	pthread_mutex_lock(&makers->lock);
	while ((making = next_locked(makers))) {
		pthread_mutex_unlock(&makers->lock);
		run(making);
		pthread_mutex_lock(&makers->lock);
	}
	pthread_mutex_unlock(&makers->lock);
	return NULL;
}

/* ---------------------------------------------------------------- who waits no more */

/* Takes one whose caller has gone out of the queue; NULL: there is none. */
static struct sf_making *gone_locked(struct sf_makers *makers)
{
	struct sf_making *making;

	STAILQ_FOREACH(making, &makers->queue, link)
		if (sf_waiter_gone(&making->waiter))
			break;
	if (making) {
		STAILQ_REMOVE(&makers->queue, making, sf_making, link);
		makers->n_queued--;
	}
	return making;
}

static void *watcher_thread(void *opaque)
{
	struct sf_makers *makers = opaque;
	struct sf_making *making;

	pthread_mutex_lock(&makers->lock);
	while (!makers->stopping) {
		if (STAILQ_EMPTY(&makers->queue))
			pthread_cond_wait(&makers->watch, &makers->lock);
		else
			sf_clock_wait(&makers->watch, &makers->lock, sf_clock_ns() + LOOK_NS);
		while (!makers->stopping && (making = gone_locked(makers))) {
			pthread_mutex_unlock(&makers->lock);
			end(making, sf_waiter_errno(&making->waiter, -EINTR));
			pthread_mutex_lock(&makers->lock);
		}
	}
	pthread_mutex_unlock(&makers->lock);
	return NULL;
}

/* ---------------------------------------------------------------- */

int sf_makers_hand(struct sf_makers *makers, struct sf_req *r, sf_maker_op *op, const struct sf_asked *asked)
{
	struct sf_making *making = xcalloc(1, sizeof(*making));
	bool any;

	*making = (struct sf_making){.r = *r, .op = op, .asked = *asked};
	pthread_mutex_lock(&makers->lock);
	if (makers->n_queued >= makers->n_idle && makers->n_threads < makers->most &&
	    !pthread_create(&makers->threads[makers->n_threads], NULL, maker_thread, makers))
		makers->n_threads++;
	any = makers->n_threads > 0;
	if (any && !makers->watched)
		makers->watched = !pthread_create(&makers->watcher, NULL, watcher_thread, makers);
	if (any) {
		sf_waiter_init(&making->waiter, makers->ending, making->r.req, 0);
		STAILQ_INSERT_TAIL(&makers->queue, making, link);
		makers->n_queued++;
		pthread_cond_signal(&makers->wake);
		pthread_cond_signal(&makers->watch);
	}
	pthread_mutex_unlock(&makers->lock);
	if (!any) {
		free(asked->name);
		free(making);
		return -EAGAIN;
	}
	sf_req_take(r); /* run() has a copy */
	return 0;
}

void sf_makers_stop(struct sf_makers *makers)
{
	pthread_mutex_lock(&makers->lock);
	makers->stopping = true;
	pthread_cond_broadcast(&makers->wake);
	pthread_cond_signal(&makers->watch);
	pthread_mutex_unlock(&makers->lock);
	if (makers->watched)
		pthread_join(makers->watcher, NULL);
	for (unsigned i = 0; i < makers->n_threads; i++)
		pthread_join(makers->threads[i], NULL);
	makers->n_threads = 0;
}
