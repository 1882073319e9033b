/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * An event is a reason to look now rather than at the next poll, and nothing more: events are lost with a connection, are not
 * repeated after it, and may come before the call that causes them returns. Callbacks can be on their way while they are
 * deregistered, so what they are given is reference-counted.
 */
#include "vm/libvirt/blockjob-pulse.h"

#include <pthread.h>
#include <stdatomic.h>

#include "qcow2/base.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

struct vm_blockjob_pulse {
	atomic_uint refs;
	virDomainPtr dom;
	int ids[2]; /* -1: not registered */

	pthread_mutex_t lock; /* guards beaten */
	pthread_cond_t beat;  /* beaten became true */
	bool beaten;
};

static void unref(void *opaque)
{
	struct vm_blockjob_pulse *p = opaque;

	if (atomic_fetch_sub(&p->refs, 1) != 1)
		return;
	pthread_cond_destroy(&p->beat);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static void beat(struct vm_blockjob_pulse *p)
{
	pthread_mutex_lock(&p->lock);
	p->beaten = true;
	pthread_cond_signal(&p->beat);
	pthread_mutex_unlock(&p->lock);
}

static void on_block_job(virConnectPtr conn, virDomainPtr dom, const char *disk, int type, int status, void *opaque)
{
	(void)conn;
	(void)dom;
	(void)disk;
	(void)type;
	(void)status;
	beat(opaque);
}

static int on_lifecycle(virConnectPtr conn, virDomainPtr dom, int event, int detail, void *opaque)
{
	(void)conn;
	(void)dom;
	(void)event;
	(void)detail;
	beat(opaque);
	return 0;
}

static int hear(struct vm_blockjob_pulse *p, int event, virConnectDomainEventGenericCallback callback)
{
	int id;

	atomic_fetch_add(&p->refs, 1);
	id = virConnectDomainEventRegisterAny(virDomainGetConnect(p->dom), p->dom, event, callback, p, unref);
	if (id < 0)
		unref(p);
	return id;
}

struct vm_blockjob_pulse *vm_blockjob_pulse_new(virDomainPtr dom)
{
	struct vm_blockjob_pulse *p = xcalloc(1, sizeof(*p));

	atomic_init(&p->refs, 1);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->beat, NULL);
	p->dom = dom;
	p->ids[0] = hear(p, VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, VIR_DOMAIN_EVENT_CALLBACK(on_block_job));
	p->ids[1] = hear(p, VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle));
	return p;
}

void vm_blockjob_pulse_free(struct vm_blockjob_pulse *p)
{
	for (size_t i = 0; i < VS_ARRAY_LEN(p->ids); i++)
		if (p->ids[i] >= 0)
			virConnectDomainEventDeregisterAny(virDomainGetConnect(p->dom), p->ids[i]);
	unref(p);
}

void vm_blockjob_pulse_wait(struct vm_blockjob_pulse *p, unsigned ms)
{
	struct timespec until = vm_ns_timespec(vm_steady_ns() + ms * VM_NS_PER_MS);

	pthread_mutex_lock(&p->lock);
	while (!p->beaten && pthread_cond_clockwait(&p->beat, &p->lock, CLOCK_MONOTONIC, &until) == 0)
		;
	p->beaten = false;
	pthread_mutex_unlock(&p->lock);
}
