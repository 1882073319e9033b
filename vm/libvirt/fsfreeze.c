/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Freezing a guest's file systems is asked of an agent inside it, which may answer late, or never. libvirt waits for ever unless it is
 * told how long; and even then a call that waits cannot be called back. So the calls are made by a thread over a connection of its own:
 * the command waits for the thread only as long as it may and as long as nobody cancels it. A thread that is not waited for any more
 * goes on by itself: should the agent freeze the guest after all, it is thawed at once.
 *
 *     waiting ── the call returns ──────────────► done: the command goes on, and thaws
 *        └────── cancelled, or too late ────────► left: the thread thaws what it has frozen, and ends
 */
#include "vm/libvirt/fsfreeze.h"

#include <errno.h>
#include <pthread.h>

#include "vm/libvirt/dom.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define THAW_TRIES 3
#define THAW_S 10     /* how long the agent may take to thaw */
#define SLACK_NS (5 * VM_NS_PER_S) /* libvirt's own time-out is to be the first */
#define LINGER_MOST_S 600 /* that a process without a mount waits for an agent */
#define LOOK_NS (100 * VM_NS_PER_MS)

struct vm_fsfreeze {
	virDomainPtr dom; /* over a connection of its own */
	unsigned seconds;
	bool only_ask;    /* whether the agent is there */

	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t ended;
	bool over, left;
	int result;
	struct vs_err why;
};

static pthread_mutex_t count_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t count_changed = PTHREAD_COND_INITIALIZER;
static unsigned count; /* threads that there are */
static int64_t latest_ns; /* of the steady clock: until then each of them has had its time, libvirt's time-outs granted */

static void set_timeout(const struct vm_fsfreeze *f, int seconds)
{
	virDomainAgentSetResponseTimeout(f->dom, seconds, 0); /* where it cannot be set, our own patience counts */
}

static void freeze_free(struct vm_fsfreeze *f)
{
	if (f->dom) {
		set_timeout(f, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
		virDomainFree(f->dom);
	}
	pthread_cond_destroy(&f->ended);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static int thaw(const struct vm_fsfreeze *f, struct vs_err *err)
{
	set_timeout(f, THAW_S);
	for (int try = 1; virDomainFSThaw(f->dom, NULL, 0, 0) < 0; try++) {
		if (try == THAW_TRIES)
			return vm_dom_virterr(f->dom, err, "the guest's file systems may still be frozen, and cannot be thawed (try 'virsh "
					      "domfsthaw %s')", virDomainGetName(f->dom));
		sleep(1);
	}
	return 0;
}

static int call(struct vm_fsfreeze *f, struct vs_err *err)
{
	unsigned nsec;
	long long sec;
	int r;

	set_timeout(f, (int)f->seconds);
	/* its clock is the one thing that every agent tells */
	if (virDomainGetTime(f->dom, &sec, &nsec, 0) < 0)
		return vm_dom_virterr(f->dom, err, "the guest's file systems cannot be frozen");
	if (f->only_ask || virDomainFSFreeze(f->dom, NULL, 0, 0) >= 0)
		return 0;
	r = vm_dom_virterr(f->dom, err, "the guest's file systems cannot be frozen");
	thaw(f, NULL); /* those that were, before it failed, or will be when it comes to it */
	return r == -EINVAL ? vs_err_set(err, -EOPNOTSUPP, "the guest's file systems cannot be frozen while it is paused") : r;
}

static void *freeze_thread(void *arg)
{
	struct vm_fsfreeze *f = arg;
	struct vs_err why = {0};
	int r = call(f, &why);
	bool left;

	pthread_mutex_lock(&f->lock);
	f->result = r;
	f->why = why;
	f->over = true;
	left = f->left;
	pthread_cond_signal(&f->ended);
	pthread_mutex_unlock(&f->lock);
	if (left) {
		if (r == 0 && !f->only_ask)
			thaw(f, NULL);
		freeze_free(f);
	}
	pthread_mutex_lock(&count_lock);
	count--;
	pthread_cond_broadcast(&count_changed);
	pthread_mutex_unlock(&count_lock);
	return NULL;
}

/* Whether it is over in time; else it is left. */
static bool await_end(struct vm_fsfreeze *f, const struct vm_dom_watch *watch)
{
	int64_t patience = vm_steady_ns() + f->seconds * VM_NS_PER_S + SLACK_NS;
	bool over;

	pthread_mutex_lock(&f->lock);
	while (!f->over && vm_steady_ns() < patience && !vm_dom_cancelled(watch)) {
		struct timespec until = vm_ns_timespec(vm_steady_ns() + LOOK_NS);

		pthread_cond_clockwait(&f->ended, &f->lock, CLOCK_MONOTONIC, &until);
	}
	over = f->over;
	f->left = !over;
	pthread_mutex_unlock(&f->lock);
	return over;
}

static int begin(struct vm_fsfreeze *f, struct vs_err *err)
{
	unsigned patience = 2 * f->seconds + THAW_TRIES * (THAW_S + 1);
	int64_t until = vm_steady_ns() + (int64_t)(patience < LINGER_MOST_S ? patience : LINGER_MOST_S) * VM_NS_PER_S + SLACK_NS;
	pthread_t thread;
	int r;

	pthread_mutex_lock(&count_lock);
	count++;
	latest_ns = until > latest_ns ? until : latest_ns;
	pthread_mutex_unlock(&count_lock);
	r = -pthread_create(&thread, NULL, freeze_thread, f);
	if (r == 0) {
		pthread_detach(thread);
		return 0;
	}
	pthread_mutex_lock(&count_lock);
	count--;
	pthread_mutex_unlock(&count_lock);
	return vs_err_set(err, r, "no thread to freeze the guest with");
}

static int ask(virDomainPtr dom, unsigned seconds, bool only_ask, struct vm_dom_watch *watch, struct vm_fsfreeze **out, struct vs_err *err)
{
	struct vm_fsfreeze *f = xcalloc(1, sizeof(*f));
	int state = VIR_DOMAIN_NOSTATE, r;

	f->seconds = seconds;
	f->only_ask = only_ask;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->ended, NULL);
	if (virDomainGetState(dom, &state, NULL, 0) == 0 && state != VIR_DOMAIN_RUNNING)
		r = vs_err_set(err, -EOPNOTSUPP, "the guest's file systems can only be frozen while it runs");
	else
		r = vm_dom_elsewhere(dom, &f->dom, err);
	if (r == 0)
		r = begin(f, err);
	if (r < 0) {
		freeze_free(f);
		return r;
	}
	if (!await_end(f, watch)) /* the thread's from here on */
		return vm_dom_cancelled(watch) ?
			vs_err_set(err, -ECANCELED, "cancelled while the guest's agent was asked to freeze; should it do so yet, it is thawed") :
			vs_err_set(err, -ETIMEDOUT, "the guest's agent did not answer within %u s; should it freeze yet, it is thawed", seconds);
	r = f->result;
	if (r < 0)
		vs_err_set(err, r, "%s", f->why.msg);
	if (r == 0 && out) {
		*out = f;
		return 0;
	}
	freeze_free(f);
	return r;
}

int vm_fsfreeze_agent(virDomainPtr dom, unsigned seconds, struct vm_dom_watch *watch, struct vs_err *err)
{
	return ask(dom, seconds, true, watch, NULL, err);
}

int vm_fsfreeze(virDomainPtr dom, unsigned seconds, struct vm_dom_watch *watch, struct vm_fsfreeze **out, struct vs_err *err)
{
	return ask(dom, seconds, false, watch, out, err);
}

int vm_fsfreeze_thaw(struct vm_fsfreeze *f, struct vs_err *err)
{
	int r = thaw(f, err);

	freeze_free(f);
	return r;
}

void vm_fsfreeze_await(void)
{
	struct timespec until;

	pthread_mutex_lock(&count_lock);
	until = vm_ns_timespec(latest_ns);
	while (count && pthread_cond_clockwait(&count_changed, &count_lock, CLOCK_MONOTONIC, &until) == 0)
		;
	pthread_mutex_unlock(&count_lock);
}
