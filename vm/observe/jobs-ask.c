/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/jobs-ask.h"

#include <pthread.h>
#include <string.h>

#include "vm/libvirt/conn.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define WAITING_MAX 4

struct vm_jobs_asker {
	/* immutable */
	char *uri;
	bool read_only;

	pthread_mutex_t lock; /* guards the rest */
	unsigned refs;        /* of the owner and of every thread */
	bool closed;          /* the owner has gone: nothing is kept any more */
	virConnectPtr idle;   /* NULL: none */
};

struct vm_jobs_ask {
	/* immutable */
	struct vm_jobs_asker *asker;
	char *uuid;
	size_t n;

	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t cond;  /* done */
	bool done;
	unsigned refs;        /* of the caller and of the thread */
	struct vm_jobs_answer *answers; /* the thread's alone until `done`, immutable after that */
};

/* ---------------------------------------------------------------- who asks */

struct vm_jobs_asker *vm_jobs_asker_new(const char *uri, bool read_only)
{
	struct vm_jobs_asker *asker = xcalloc(1, sizeof(*asker));

	asker->uri = xstrdup_or_null(uri);
	asker->read_only = read_only;
	asker->refs = 1;
	pthread_mutex_init(&asker->lock, NULL);
	return asker;
}

static void asker_unref(struct vm_jobs_asker *asker)
{
	bool last;

	pthread_mutex_lock(&asker->lock);
	last = --asker->refs == 0;
	pthread_mutex_unlock(&asker->lock);
	if (!last)
		return;
	pthread_mutex_destroy(&asker->lock);
	free(asker->uri);
	free(asker);
}

void vm_jobs_asker_free(struct vm_jobs_asker *asker)
{
	virConnectPtr idle;

	if (!asker)
		return;
	pthread_mutex_lock(&asker->lock);
	asker->closed = true;
	idle = vs_steal(asker->idle);
	pthread_mutex_unlock(&asker->lock);
	if (idle)
		virConnectClose(idle);
	asker_unref(asker);
}

/* A connection for one thread alone; NULL: none can be had. */
static virConnectPtr take_conn(struct vm_jobs_asker *asker)
{
	virConnectPtr conn;

	pthread_mutex_lock(&asker->lock);
	conn = vs_steal(asker->idle);
	pthread_mutex_unlock(&asker->lock);
	if (conn && virConnectIsAlive(conn) == 1)
		return conn;
	if (conn)
		virConnectClose(conn);
	return vm_conn_plain(asker->uri, asker->read_only);
}

static void give_conn(struct vm_jobs_asker *asker, virConnectPtr conn)
{
	pthread_mutex_lock(&asker->lock);
	if (!asker->idle && !asker->closed)
		asker->idle = vs_steal(conn);
	pthread_mutex_unlock(&asker->lock);
	if (conn)
		virConnectClose(conn);
}

/* ---------------------------------------------------------------- one question */

static void drop(struct vm_jobs_ask *ask)
{
	bool last;

	pthread_mutex_lock(&ask->lock);
	last = --ask->refs == 0;
	pthread_mutex_unlock(&ask->lock);
	if (!last)
		return;
	for (size_t i = 0; i < ask->n; i++)
		free(ask->answers[i].target);
	free(ask->answers);
	free(ask->uuid);
	asker_unref(ask->asker);
	pthread_cond_destroy(&ask->cond);
	pthread_mutex_destroy(&ask->lock);
	free(ask);
}

static void ask_all(struct vm_jobs_ask *ask, virConnectPtr conn)
{
	virDomainPtr dom = virDomainLookupByUUIDString(conn, ask->uuid);

	for (size_t i = 0; dom && i < ask->n; i++)
		ask->answers[i].found = virDomainGetBlockJobInfo(dom, ask->answers[i].target, &ask->answers[i].info, 0);
	if (dom)
		virDomainFree(dom);
}

static void *run(void *arg)
{
	struct vm_jobs_ask *ask = arg;
	virConnectPtr conn = take_conn(ask->asker);

	if (conn) {
		ask_all(ask, conn);
		give_conn(ask->asker, conn);
	}
	pthread_mutex_lock(&ask->lock);
	ask->done = true;
	pthread_cond_signal(&ask->cond);
	pthread_mutex_unlock(&ask->lock);
	drop(ask);
	return NULL;
}

static void fill_in(struct vm_jobs_ask *ask, const char *uuid, const char *const *targets, size_t n)
{
	ask->uuid = xstrdup(uuid);
	ask->answers = xcalloc(n, sizeof(*ask->answers));
	ask->n = n;
	for (size_t i = 0; i < n; i++)
		ask->answers[i] = (struct vm_jobs_answer){ .target = xstrdup(targets[i]), .found = -1 };
}

/* Counts one more thread, where there may be one more. */
static bool enter(struct vm_jobs_asker *asker)
{
	bool may;

	pthread_mutex_lock(&asker->lock);
	may = asker->refs <= WAITING_MAX;
	if (may)
		asker->refs++;
	pthread_mutex_unlock(&asker->lock);
	return may;
}

static struct vm_jobs_ask *ask_alloc(struct vm_jobs_asker *asker)
{
	struct vm_jobs_ask *ask;
	pthread_condattr_t steady;

	if (!enter(asker))
		return NULL;
	ask = xcalloc(1, sizeof(*ask));
	pthread_mutex_init(&ask->lock, NULL);
	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(&ask->cond, &steady);
	pthread_condattr_destroy(&steady);
	ask->asker = asker;
	ask->refs = 2;
	return ask;
}

struct vm_jobs_ask *vm_jobs_ask_new(struct vm_jobs_asker *asker, const char *uuid, const char *const *targets, size_t n)
{
	struct vm_jobs_ask *ask = ask_alloc(asker);
	pthread_t thread;

	if (!ask)
		return NULL;
	fill_in(ask, uuid, targets, n);
	if (pthread_create(&thread, NULL, run, ask) == 0) {
		pthread_detach(thread);
		return ask;
	}
	drop(ask);
	drop(ask);
	return NULL;
}

const struct vm_jobs_answer *vm_jobs_ask_wait(struct vm_jobs_ask *ask, unsigned timeout_ms, size_t *n)
{
	struct timespec until = vm_ns_timespec(vm_steady_ns() + timeout_ms * VM_NS_PER_MS);
	bool done;

	pthread_mutex_lock(&ask->lock);
	while (!ask->done && pthread_cond_timedwait(&ask->cond, &ask->lock, &until) == 0)
		;
	done = ask->done;
	pthread_mutex_unlock(&ask->lock);
	*n = ask->n;
	return done ? ask->answers : NULL;
}

void vm_jobs_ask_free(struct vm_jobs_ask *ask)
{
	if (ask)
		drop(ask);
}
