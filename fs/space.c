/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "space.h"

#include <errno.h>
#include <pthread.h>

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

/* Gives *out. */
static int ask(struct vm *vm, const char *uuid, struct sf_waiter *waiter, struct vm_space **out)
{
	struct asked *asked = asked_new();
	struct vm_request *request;
	int rc = vm_space(vm, uuid, on_done, asked, &request);

	if (rc < 0) {
		asked_put(asked);
	} else {
		rc = wait_for(asked, waiter);
		if (rc < 0)
			vm_request_cancel(request);
		else
			*out = vm_request_space(request);
		vm_request_put(request);
	}
	asked_put(asked);
	return rc;
}

int sf_space_make(struct vm *vm, struct sf_dir *dir, enum sf_kind kind, struct sf_waiter *waiter, struct sf_text **out)
{
	vs_autofree char *data = NULL;
	struct vm_space *space = NULL;
	size_t len;
	FILE *stream;
	int rc = ask(vm, dir->domain->uuid, waiter, &space);

	if (rc < 0)
		return rc;
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
