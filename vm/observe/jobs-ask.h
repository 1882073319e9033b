/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * jobs-ask.h: asking for a domain's block jobs without waiting for an answer that may take minutes.
 *
 * libvirt answers once QEMU's monitor is free: not while a guest's memory is being saved into a snapshot, not while QEMU
 * hangs on a dead NFS server. One such domain must not keep the others from being looked at. So the question is asked on
 * a thread of its own, which is left alone when the answer does not come; at most a few of them wait at a time.
 *
 * And over a connection of its own: when two threads call through one connection, libvirt 9.0 can lose the wake-up of one
 * of them for as long as the other waits (its clients' event loop is asked to quit before it runs).
 *
 * Threads: one caller, the refresher.
 */
#ifndef VS_VM_OBSERVE_JOBS_ASK_H
#define VS_VM_OBSERVE_JOBS_ASK_H

#include <libvirt/libvirt.h>

#include "qcow2/qcow2.h"

/* Who asks: where to connect to, and a connection that is kept for the next question. */
struct vm_jobs_asker;
/* @uri may be NULL: libvirt's default. */
struct vm_jobs_asker *vm_jobs_asker_new(const char *uri, bool read_only);
/* Questions that are still waiting go on by themselves. NULL is fine. */
void vm_jobs_asker_free(struct vm_jobs_asker *asker);

struct vm_jobs_answer {
	char *target;
	int found; /* as virDomainGetBlockJobInfo() returns: 1 a job, 0 none, -1 no answer */
	virDomainBlockJobInfo info;
};

struct vm_jobs_ask;

/* Begins to ask for the jobs of @n disks. NULL: too many are waiting already, or there is no thread to be had. */
struct vm_jobs_ask *vm_jobs_ask_new(struct vm_jobs_asker *asker, const char *uuid, const char *const *targets, size_t n);
/* Waits for at most @timeout_ms. NULL: no answer yet. Borrowed. */
const struct vm_jobs_answer *vm_jobs_ask_wait(struct vm_jobs_ask *ask, unsigned timeout_ms, size_t *n);
/* Lets go of it, also while it is waiting. NULL is fine. */
void vm_jobs_ask_free(struct vm_jobs_ask *ask);

#endif
