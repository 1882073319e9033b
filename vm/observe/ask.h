/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * ask.h: asking libvirt about a domain without waiting for an answer that may take minutes.
 *
 * Some answers come once QEMU's monitor is free: not while a guest's memory is being saved into a snapshot, not while QEMU
 * hangs on a dead NFS server. Others come once nobody else waits for that: since libvirt 10 or 11 a definition is one of them (11.3: it takes a
 * job, for which it waits half a minute). One such domain must not keep the others from being looked at. So the question is asked on
 * a thread of its own, which is left alone when the answer does not come; at most a few of them wait at a time.
 *
 * And over a connection of its own: when two threads call through one connection, libvirt 9.0 can lose the wake-up of one
 * of them for as long as the other waits (its clients' event loop is asked to quit before it runs).
 *
 * Threads: one caller, the refresher.
 */
#ifndef VS_VM_OBSERVE_ASK_H
#define VS_VM_OBSERVE_ASK_H

#include <libvirt/libvirt.h>

#include "qcow2/qcow2.h"

/* Who asks: where to connect to, and a connection that is kept for the next question. */
struct vm_asker;
/* @uri may be NULL: libvirt's default. */
struct vm_asker *vm_asker_new(const char *uri, bool read_only);
/* Questions that are still waiting go on by themselves. NULL is fine. */
void vm_asker_free(struct vm_asker *asker);

/* @answer: the caller's, who gives it away with the question. */
struct vm_question {
	unsigned patience_ms; /* how long one who is asked for the first time is waited for */
	void (*ask)(virDomainPtr dom, void *answer);     /* on the thread. NULL: there is no such domain or no connection; the last error says why */
	void (*take)(void *opaque, const void *answer);  /* on the caller's */
	void (*free)(void *answer);
};

struct vm_ask;

/* Takes what is answered. *ask: a question that was not answered in time, or NULL; who has not answered is not waited for again, unless @again, and
 * when he has, he is asked anew, for his answer is old. Takes @answer.
 * 0; -ETIMEDOUT: no answer yet, or an old one was taken; -EAGAIN: it cannot be asked, for too many are waiting already. */
int vm_ask(struct vm_ask **ask, struct vm_asker *asker, const char *uuid, const struct vm_question *question, bool again, void *answer, void *opaque);
/* Lets go of it, also while it is waiting. NULL is fine. */
void vm_ask_free(struct vm_ask *ask);

#endif
