/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "jobask.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "clock.h"

#define WAITING_MAX 3 /* libvirtd.conf: max_client_requests is 5 */

static atomic_uint waiting;

struct vm_job_ask {
	/* immutable */
	virDomainPtr dom;
	size_t n;

	pthread_mutex_t lock; /* guards the rest; the answers are the thread's until `done` */
	pthread_cond_t cond;  /* done */
	bool done;
	unsigned refs;        /* of the caller and of the thread */
	struct vm_job_answer *answers;
};

static void drop(struct vm_job_ask *ask)
{
	bool last;

	pthread_mutex_lock(&ask->lock);
	last = --ask->refs == 0;
	pthread_mutex_unlock(&ask->lock);
	if (!last)
		return;
	for (size_t i = 0; ask->answers && i < ask->n; i++)
		free(ask->answers[i].target);
	free(ask->answers);
	virDomainFree(ask->dom);
	pthread_cond_destroy(&ask->cond);
	pthread_mutex_destroy(&ask->lock);
	free(ask);
}

static void *run(void *arg)
{
	struct vm_job_ask *ask = arg;

	for (size_t i = 0; i < ask->n; i++)
		ask->answers[i].found = virDomainGetBlockJobInfo(ask->dom, ask->answers[i].target, &ask->answers[i].info, 0);
	pthread_mutex_lock(&ask->lock);
	ask->done = true;
	pthread_cond_signal(&ask->cond);
	pthread_mutex_unlock(&ask->lock);
	drop(ask);
	atomic_fetch_sub(&waiting, 1);
	return NULL;
}

static struct vm_job_ask *ask_alloc(virDomainPtr dom, const char *const *targets, size_t n)
{
	struct vm_job_ask *ask = calloc(1, sizeof(*ask));
	pthread_condattr_t steady;
	bool complete = true;

	if (!ask)
		return NULL;
	pthread_mutex_init(&ask->lock, NULL);
	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(&ask->cond, &steady);
	pthread_condattr_destroy(&steady);
	ask->refs = 1;
	ask->n = n;
	virDomainRef(dom);
	ask->dom = dom;
	ask->answers = calloc(n + 1, sizeof(*ask->answers));
	for (size_t i = 0; ask->answers && i < n; i++) {
		ask->answers[i].target = strdup(targets[i]);
		complete = complete && ask->answers[i].target;
	}
	if (ask->answers && complete)
		return ask;
	drop(ask);
	return NULL;
}

struct vm_job_ask *vm_job_ask_new(virDomainPtr dom, const char *const *targets, size_t n)
{
	struct vm_job_ask *ask;
	pthread_t thread;

	if (atomic_load(&waiting) >= WAITING_MAX)
		return NULL;
	ask = ask_alloc(dom, targets, n);
	if (!ask)
		return NULL;
	ask->refs = 2;
	atomic_fetch_add(&waiting, 1);
	if (pthread_create(&thread, NULL, run, ask) == 0) {
		pthread_detach(thread);
		return ask;
	}
	atomic_fetch_sub(&waiting, 1);
	ask->refs = 1;
	drop(ask);
	return NULL;
}

const struct vm_job_answer *vm_job_ask_wait(struct vm_job_ask *ask, unsigned timeout_ms, size_t *n)
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

void vm_job_ask_free(struct vm_job_ask *ask)
{
	if (ask)
		drop(ask);
}
