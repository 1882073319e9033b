/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * virDomainSnapshotDelete merges, re-points and forgets in one call that cannot be cancelled or slowed; while it runs, only
 * questions are answered. So it runs in a thread of its own, and the caller's thread asks how far its block jobs are: over a
 * connection of its own, because libvirt 9.0 can lose the wake-up of one of two threads that call through one connection.
 * It is used for internal snapshots only: see command/merge-run.c.
 */
#include "vm/libvirt/delete.h"

#include <errno.h>
#include <pthread.h>

#include "vm/libvirt/dom.h"
#include "vm/util/clock.h"
#include "vm/util/fault.h"

#define LOOK_MS 50

struct delete {
	virDomainPtr dom;
	virDomainSnapshotPtr snap;
	const struct vm_xml_snapshot *record;
	struct vm_dom_watch *watch;
	virDomainPtr asked; /* the domain over the other connection; NULL: nobody wants to know, or it cannot be had */
	int64_t last_ns;
	uint64_t last_cur, speed;

	/* the thread's, until it is joined */
	int result;
	struct vs_err why;

	pthread_mutex_t lock; /* guards over */
	pthread_cond_t ended; /* over became true */
	bool over;
};

static void *delete_thread(void *arg)
{
	struct delete *d = arg;

	if (virDomainSnapshotDelete(d->snap, 0) < 0)
		d->result = vm_dom_virterr(d->dom, &d->why, "snapshot '%s'", d->record->name);
	if (d->result == -EHOSTDOWN)
		vs_err_set(&d->why, -EHOSTDOWN, "libvirt went away while it deleted snapshot '%s', which may be going on",
			   d->record->name);
	pthread_mutex_lock(&d->lock);
	d->over = true;
	pthread_cond_signal(&d->ended);
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

static bool over_within(struct delete *d, unsigned ms)
{
	struct timespec until = vm_ns_timespec(vm_now_ns() + ms * VM_NS_PER_MS);
	bool over;

	pthread_mutex_lock(&d->lock);
	while (!d->over && pthread_cond_timedwait(&d->ended, &d->lock, &until) == 0)
		;
	over = d->over;
	pthread_mutex_unlock(&d->lock);
	return over;
}

/* Sums over the disks: libvirt does one after the other. */
static void tell(struct delete *d)
{
	uint64_t cur = 0, end = 0;
	int64_t now = vm_steady_ns();

	for (size_t i = 0; i < d->record->n_disks; i++) {
		virDomainBlockJobInfo info;

		if (virDomainGetBlockJobInfo(d->asked, d->record->disks[i].target, &info, 0) == 1) {
			cur += info.cur;
			end += info.end;
		}
	}
	if (end == 0)
		return;
	if (d->last_ns && cur >= d->last_cur && now > d->last_ns)
		d->speed = (uint64_t)((double)(cur - d->last_cur) * VM_NS_PER_S / (now - d->last_ns));
	d->last_ns = now;
	d->last_cur = cur;
	d->watch->progress(d->watch->opaque, cur, end, d->speed);
}

static int run_thread(struct delete *d)
{
	pthread_t thread;
	int r;

	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->ended, NULL);
	r = -pthread_create(&thread, NULL, delete_thread, d);
	if (r == 0) {
		while (!over_within(d, LOOK_MS))
			if (d->asked)
				tell(d);
		pthread_join(thread, NULL);
	}
	pthread_cond_destroy(&d->ended);
	pthread_mutex_destroy(&d->lock);
	return r;
}

static int run_delete(struct delete *d, struct vs_err *err)
{
	int r;

	if (d->watch && d->watch->progress)
		vm_dom_elsewhere(d->dom, &d->asked, NULL);
	r = run_thread(d);
	vm_fault();
	if (d->asked)
		virDomainFree(d->asked);
	if (r < 0)
		return vs_err_set(err, r, "no thread for deleting snapshot '%s'", d->record->name);
	return d->result < 0 ? vs_err_set(err, d->result, "%s", d->why.msg) : 0;
}

int vm_delete_internal(virDomainPtr dom, const char *name, struct vm_dom_watch *watch, struct vs_err *err)
{
	vm_dom_autosnapshot virDomainSnapshotPtr snap = NULL;
	vm_dom_autorecord struct vm_xml_snapshot *record = NULL;
	struct delete d = { .dom = dom, .watch = watch };
	int r = vm_dom_snapshot(dom, name, &snap, err);

	if (r == 0)
		r = vm_dom_snapshot_xml(dom, name, &record, err);
	if (r == 0 && record->kind == VM_EXTERNAL)
		r = vs_err_set(err, -EOPNOTSUPP, "snapshot '%s' is external: libvirt's own delete is not used for those", name);
	if (r < 0)
		return r;
	d.snap = snap;
	d.record = record;
	vm_dom_step(watch, "delete snapshot '%s'", name);
	return run_delete(&d, err);
}
