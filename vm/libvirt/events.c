/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * virEventRunDefaultImpl() blocks until something happens, for ever where nothing can: so there is one timeout of our
 * own, disabled, and stopping means letting it expire at once.
 */
#include "vm/libvirt/events.h"

#include <errno.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdatomic.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool registered; /* immutable after `once` */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards users, thread, wakeup; held while starting and stopping */
static unsigned users;
static pthread_t thread;
static int wakeup;
static atomic_bool stopping;

/* libvirt prints every error to stderr unless told not to; ours are told where they belong. */
static void silent(void *opaque, virErrorPtr error)
{
	(void)opaque;
	(void)error;
}

static void prepare(void)
{
	virSetErrorFunc(NULL, silent);
	registered = virInitialize() == 0 && virEventRegisterDefaultImpl() == 0;
}

static void expired(int timer, void *opaque)
{
	(void)opaque;
	virEventUpdateTimeout(timer, -1);
}

static void *turn(void *arg)
{
	(void)arg;
	while (!atomic_load(&stopping))
		virEventRunDefaultImpl();
	return NULL;
}

static int start_locked(struct vs_err *err)
{
	int r;

	wakeup = virEventAddTimeout(-1, expired, NULL, NULL);
	if (wakeup < 0)
		return vs_err_set(err, -EIO, "libvirt's event loop does not work");
	atomic_store(&stopping, false);
	r = -pthread_create(&thread, NULL, turn, NULL);
	if (r < 0) {
		virEventRemoveTimeout(wakeup);
		return vs_err_set(err, r, "no thread for libvirt's events");
	}
	return 0;
}

int vm_events_start(struct vs_err *err)
{
	int r = 0;

	pthread_once(&once, prepare);
	if (!registered)
		return vs_err_set(err, -EIO, "libvirt cannot be initialised");
	pthread_mutex_lock(&lock);
	if (!users)
		r = start_locked(err);
	if (r == 0)
		users++;
	pthread_mutex_unlock(&lock);
	return r;
}

void vm_events_stop(void)
{
	pthread_mutex_lock(&lock);
	if (--users == 0) {
		atomic_store(&stopping, true);
		virEventUpdateTimeout(wakeup, 0);
		pthread_join(thread, NULL);
		virEventRemoveTimeout(wakeup);
	}
	pthread_mutex_unlock(&lock);
}
