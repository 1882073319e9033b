/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/ask.h"

#include <errno.h>
#include <pthread.h>

#include "vm/libvirt/conn.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define WAITING_MAX 8 /* each keeps one of libvirtd's threads, of which there are 20 as a rule */

struct vm_asker {
	/* immutable */
	char *uri;
	bool read_only;

	pthread_mutex_t lock; /* guards the rest */
	unsigned refs;        /* of the owner and of every thread */
	bool closed;          /* the owner has gone: nothing is kept any more */
	virConnectPtr idle;   /* NULL: none */
};

struct vm_ask {
	/* immutable */
	struct vm_asker *asker;
	char *uuid;
	const struct vm_question *question;

	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t cond;  /* done */
	bool done;
	unsigned refs;        /* of the caller and of the thread */
	void *answer;         /* the thread's alone until `done`, immutable after that */
};

/* ---------------------------------------------------------------- who asks */

struct vm_asker *vm_asker_new(const char *uri, bool read_only)
{
	struct vm_asker *asker = xcalloc(1, sizeof(*asker));

	asker->uri = xstrdup_or_null(uri);
	asker->read_only = read_only;
	asker->refs = 1;
	pthread_mutex_init(&asker->lock, NULL);
	return asker;
}

static void asker_unref(struct vm_asker *asker)
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

void vm_asker_free(struct vm_asker *asker)
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
static virConnectPtr take_conn(struct vm_asker *asker)
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

static void give_conn(struct vm_asker *asker, virConnectPtr conn)
{
	pthread_mutex_lock(&asker->lock);
	if (!asker->idle && !asker->closed)
		asker->idle = vs_steal(conn);
	pthread_mutex_unlock(&asker->lock);
	if (conn)
		virConnectClose(conn);
}

/* ---------------------------------------------------------------- one question */

static void drop(struct vm_ask *ask)
{
	bool last;

	pthread_mutex_lock(&ask->lock);
	last = --ask->refs == 0;
	pthread_mutex_unlock(&ask->lock);
	if (!last)
		return;
	ask->question->free(ask->answer);
	free(ask->uuid);
	asker_unref(ask->asker);
	pthread_cond_destroy(&ask->cond);
	pthread_mutex_destroy(&ask->lock);
	free(ask);
}

static void *run(void *arg)
{
	struct vm_ask *ask = arg;
	virConnectPtr conn = take_conn(ask->asker);
	virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, ask->uuid) : NULL;

	ask->question->ask(dom, ask->answer);
	if (dom)
		virDomainFree(dom);
	if (conn)
		give_conn(ask->asker, conn);
	pthread_mutex_lock(&ask->lock);
	ask->done = true;
	pthread_cond_signal(&ask->cond);
	pthread_mutex_unlock(&ask->lock);
	drop(ask);
	return NULL;
}

/* Counts one more thread, where there may be one more. */
static bool enter(struct vm_asker *asker)
{
	bool may;

	pthread_mutex_lock(&asker->lock);
	may = asker->refs <= WAITING_MAX;
	if (may)
		asker->refs++;
	pthread_mutex_unlock(&asker->lock);
	return may;
}

/* Takes @answer. NULL: too many are waiting, or there is no thread to be had. */
static struct vm_ask *ask_new(struct vm_asker *asker, const char *uuid, const struct vm_question *question, void *answer)
{
	struct vm_ask *ask;
	pthread_condattr_t steady;
	pthread_t thread;

	if (!enter(asker)) {
		question->free(answer);
		return NULL;
	}
	ask = xcalloc(1, sizeof(*ask));
	pthread_mutex_init(&ask->lock, NULL);
	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(&ask->cond, &steady);
	pthread_condattr_destroy(&steady);
	ask->asker = asker;
	ask->uuid = xstrdup(uuid);
	ask->question = question;
	ask->answer = answer;
	ask->refs = 2;
	if (pthread_create(&thread, NULL, run, ask) == 0) {
		pthread_detach(thread);
		return ask;
	}
	drop(ask);
	drop(ask);
	return NULL;
}

/* False: there is no answer yet. */
static bool hear(struct vm_ask **ask, unsigned patience_ms, void *opaque)
{
	struct timespec until = vm_ns_timespec(vm_steady_ns() + patience_ms * VM_NS_PER_MS);
	bool done;

	pthread_mutex_lock(&(*ask)->lock);
	while (!(*ask)->done && pthread_cond_timedwait(&(*ask)->cond, &(*ask)->lock, &until) == 0)
		;
	done = (*ask)->done;
	pthread_mutex_unlock(&(*ask)->lock);
	if (!done)
		return false;
	(*ask)->question->take(opaque, (*ask)->answer);
	vm_ask_free(vs_steal(*ask));
	return true;
}

int vm_ask(struct vm_ask **ask, struct vm_asker *asker, const char *uuid, const struct vm_question *question, bool again, void *answer, void *opaque)
{
	if (*ask && !hear(ask, again ? question->patience_ms : 0, opaque)) {
		question->free(answer);
		return -ETIMEDOUT;
	}
	*ask = ask_new(asker, uuid, question, answer);
	if (!*ask)
		return -EAGAIN;
	return hear(ask, question->patience_ms, opaque) ? 0 : -ETIMEDOUT;
}

void vm_ask_free(struct vm_ask *ask)
{
	if (ask)
		drop(ask);
}
