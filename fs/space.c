/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "space.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "clock.h"
#include "vm/util/mem.h"

#define LOOK_NS (SF_NS_PER_S / 20) /* how often it is asked whether somebody waits still */

/* Between who waits and vm/, whose thread may come after he has gone. */
struct asked {
	pthread_mutex_t lock;
	pthread_cond_t answered; /* `done` */
	/* guarded by lock */
	unsigned refs;
	bool done;
	int rc;
};

static struct asked *asked_new(void)
{
	struct asked *asked = xcalloc(1, sizeof(*asked));

	pthread_mutex_init(&asked->lock, NULL);
	sf_clock_cond_init(&asked->answered);
	asked->refs = 2;
	return asked;
}

static void asked_put(struct asked *asked)
{
	bool last;

	pthread_mutex_lock(&asked->lock);
	last = --asked->refs == 0;
	pthread_mutex_unlock(&asked->lock);
	if (!last)
		return;
	pthread_cond_destroy(&asked->answered);
	pthread_mutex_destroy(&asked->lock);
	free(asked);
}

static void on_done(void *opaque, int rc, const char *outcome)
{
	struct asked *asked = opaque;

	(void)outcome;
	pthread_mutex_lock(&asked->lock);
	asked->done = true;
	asked->rc = rc;
	pthread_cond_signal(&asked->answered);
	pthread_mutex_unlock(&asked->lock);
	asked_put(asked);
}

static int wait_for(struct asked *asked, struct sf_waiter *waiter)
{
	bool gone = false;
	int rc;

	pthread_mutex_lock(&asked->lock);
	while (!asked->done && !gone) {
		sf_clock_wait(&asked->answered, &asked->lock, sf_clock_ns() + LOOK_NS);
		gone = !asked->done && sf_waiter_gone(waiter);
	}
	rc = gone ? -EINTR : asked->rc;
	pthread_mutex_unlock(&asked->lock);
	return sf_waiter_errno(waiter, rc);
}

/* After what has begun the @request has said @rc; waits for what comes of it. Gives *out, unless it failed. */
static int follow(struct asked *asked, struct sf_waiter *waiter, int rc, struct vm_request *request, struct vm_request **out)
{
	if (rc < 0) {
		asked_put(asked);
	} else {
		rc = wait_for(asked, waiter);
		if (rc < 0) {
			vm_request_cancel(request);
			vm_request_put(request);
		} else {
			*out = request;
		}
	}
	asked_put(asked);
	return rc;
}

int sf_space_make(struct vm *vm, struct sf_dir *dir, enum sf_kind kind, struct sf_waiter *waiter, struct sf_text **out)
{
	vs_autofree char *data = NULL;
	struct asked *asked = asked_new();
	struct vm_request *request = NULL;
	struct vm_space *space;
	size_t len;
	FILE *stream;
	int rc = vm_space(vm, dir->domain->uuid, on_done, asked, &request);

	rc = follow(asked, waiter, rc, request, &request);
	if (rc < 0)
		return rc;
	space = vm_request_space(request);
	vm_request_put(request);
	stream = xmemopen(&data, &len);
	if (kind == SF_SPACE)
		sf_space_render(stream, space);
	else
		sf_space_json_render(stream, dir->domain, space);
	xmemclose(stream);
	vm_space_free(space);
	*out = sf_text_counted(dir, kind, data, len);
	return 0;
}

/* ---------------------------------------------------------------- retain.plan */

static bool drops(const struct sf_text *plan)
{
	static const char word[] = "\ndrop ";

	return plan->len && (!strncmp(plan->data, word + 1, strlen(word + 1)) || memmem(plan->data, plan->len, word, strlen(word)));
}

int sf_space_plan(struct vm *vm, const char *uuid, const char *policy, struct sf_text *plain, struct sf_waiter *waiter, struct sf_text **out)
{
	struct vm_request *request = NULL;
	struct asked *asked;
	int rc = 0;

	*out = plain;
	if (!drops(plain))
		return 0;
	asked = asked_new();
	rc = vm_count_plan(vm, uuid, policy, on_done, asked, &request);
	rc = follow(asked, waiter, rc, request, &request);
	if (rc == 0) {
		vs_autofree char *text = vm_request_plan(request);

		*out = sf_text_new(text, strlen(text), plain->changed_ns);
		vm_request_put(request);
	}
	if (rc == 0 || rc == -EINTR || rc == -ENOTCONN)
		sf_text_unref(plain);
	return rc == -EINTR || rc == -ENOTCONN ? rc : 0;
}
