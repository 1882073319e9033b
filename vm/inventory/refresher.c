/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The refresher: one thread that looks, and a pointer that it swaps.
 *
 *   asked   rises with every request for a look: a hint from libvirt, vm_refresher_poll()
 *   begun   the value of `asked` when the look that is running (or the last one) began
 *   done    the value of `begun` of the last look that ended, in an inventory or in an error
 *
 * A caller of vm_refresher_poll() raises `asked` to its own number and waits until `done` has reached it: the look that did so
 * began after the call. Without requests a look begins every refresh period. Hints come in bursts (one block job is
 * a dozen events), so they wait a little for company. Whatever the period, a look that takes long is followed by a rest
 * twice as long: the refresher never uses more than a third of a core, unless somebody waits for it.
 *
 * The way of a look: source-libvirt.c -> poll.c -> observe/ (struct vm_observed) -> build*.c, draft-meta.c (struct vm_drafts) -> order.c (struct
 * vm_facts, graph/, struct vm_verdict) -> freeze.c (struct vm_domain) -> struct vm_inventory; source-images.c takes the place of the first four.
 * vm.c then tells fs/ and the engine. A look has one to four rounds (observe/headers.h), in each of which every file is looked at once; what
 * is called a poll number is the number of a look.
 *
 * The lock is held to move numbers and swap pointers, nothing else; so vm_refresher_inventory() does not block however long a
 * look takes. A look can hang in libvirt for as long as libvirtd does. vm_refresher_stop() waits a few seconds for it; then
 * the thread is left behind with everything it uses, which is right for a process that is about to end: there is no
 * safe way to pull it out.
 */
#include "vm/inventory/refresher.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <string.h>

#include "vm/inventory/source.h"
#include "vm/meta/store.h"
#include "vm/model/invariants.h"
#include "vm/model/inventory.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define HINT_PAUSE_NS (50 * VM_NS_PER_MS)
#define LONG_NS (VM_NS_PER_S / 4)
#define TRIMS 3
#define TRIM_LOOKS 16
#define CLOSE_PATIENCE_NS (5 * VM_NS_PER_S)

struct patience {
	int64_t until_ns; /* steady clock; 0: it has not begun */
	unsigned asked;   /* vm_source.asked, as it was when it began */
};

struct vm_refresher {
	/* immutable after open */
	struct vm_source *source;
	struct vm_store *store;
	int64_t period_ns;
	/* immutable after start */
	vm_on_inventory_fn on_inventory;
	void *opaque;
	pthread_t thread;

	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t wake;  /* the refresher waits: stop, or asked > begun with its time come, or the period over */
	pthread_cond_t ended; /* others wait: done has risen, or the thread is gone */
	struct vm_inventory *inventory;
	uint64_t asked, begun, done;
	uint64_t n_ended;   /* looks */
	bool looking;       /* one goes on */
	bool urgent;        /* somebody waits in vm_refresher_poll(): no pause for company */
	bool closely;       /* somebody waits in vm_refresher_poll_closely() */
	char *about;        /* somebody waits in vm_refresher_poll_about(), for that one; NULL: nobody does */
	char *first;        /* somebody waits in vm_refresher_read(), for that one; NULL: nobody does */
	char *reading;      /* likewise, and the look that goes on is for him */
	bool stop, gone;
	unsigned trims;     /* looks after which memory is given back; the refresher's own */
	int result;         /* of the last look that ended */
	int64_t began_ns, took_ns; /* of the last look, steady clock */
	int64_t wish_ns;           /* the source's own idea of the next one; 0 = none */
};

/* ---------------------------------------------------------------- the thread */

/* When the next look is due, by the steady clock. */
static int64_t due_ns_locked(const struct vm_refresher *re)
{
	int64_t breath = re->began_ns + re->took_ns * 3;
	int64_t period = re->began_ns + re->period_ns;

	if (re->asked != re->begun && re->urgent)
		return 0;
	if (re->wish_ns)
		return re->wish_ns;
	if (re->asked != re->begun && breath + HINT_PAUSE_NS < period)
		return breath + HINT_PAUSE_NS;
	return breath > period ? breath : period;
}

static void wait_until_locked(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t when_ns)
{
	struct timespec when = vm_ns_timespec(when_ns);

	pthread_cond_timedwait(cond, lock, &when);
}

/* Waits for the next look's time. False: stop. */
static bool await_turn_locked(struct vm_refresher *re)
{
	while (!re->stop) {
		int64_t due = due_ns_locked(re);

		if (due <= vm_steady_ns())
			return true;
		wait_until_locked(&re->wake, &re->lock, due);
	}
	return false;
}

/* Puts @next (may be NULL: the look failed) in place. Returns whether a user can see a difference. */
static bool finish_locked(struct vm_refresher *re, struct vm_inventory *next, int result, struct vm_inventory **old)
{
	bool news = next && (!re->inventory || next->serial != re->inventory->serial);

	*old = NULL;
	if (next) {
		*old = re->inventory;
		re->inventory = next;
	}
	re->done = re->begun;
	re->n_ended++;
	re->result = result;
	re->wish_ns = re->source->due_ns;
	re->took_ns = re->source->caught_up ? 0 : vm_steady_ns() - re->began_ns;
	pthread_cond_broadcast(&re->ended);
	return news && !re->stop;
}

static void check(const struct vm_inventory *next)
{
	struct vs_err err = {0};

	if (VM_CHECKS && next)
		vm_invariants_must_hold(vm_invariants_of_inventory(next, &err), &err);
}

/* A look at everything takes several times the memory of what comes of it. The inventory before it goes some moments later, with its last reader; and
 * readers have wants of their own. */
static void give_back(struct vm_refresher *re)
{
	if (re->source->caught_up || re->took_ns > LONG_NS)
		re->trims = TRIMS;
	else if (!re->trims && re->n_ended % TRIM_LOOKS == 0)
		re->trims = 1;
	if (!re->trims)
		return;
	re->trims--;
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

/* Only the refresher replaces re->inventory, so it may read the present one without the lock. */
static void poll_locked(struct vm_refresher *re)
{
	struct vm_inventory *next = NULL, *old;
	vs_autofree char *about = NULL;
	bool news;
	int r;

	re->begun = re->asked;
	re->urgent = false;
	re->source->closely = re->closely;
	re->closely = false;
	re->source->about = about = vs_steal(re->about);
	re->source->first = re->reading = vs_steal(re->first);
	atomic_store(&re->source->hurry, false);
	re->began_ns = vm_steady_ns();
	re->looking = true;
	pthread_mutex_unlock(&re->lock);
	r = re->source->ops->poll(re->source, re->inventory, &next, NULL);
	re->source->about = re->source->first = NULL;
	check(next);
	pthread_mutex_lock(&re->lock);
	free(vs_steal(re->reading));
	re->looking = false;
	news = finish_locked(re, r < 0 ? NULL : next, r, &old);
	pthread_mutex_unlock(&re->lock);
	vm_inventory_put(old);
	give_back(re);
	re->on_inventory(re->opaque, re->inventory, news ? VM_LOOK_NEWS : VM_LOOK_SAME);
	pthread_mutex_lock(&re->lock);
}

/* The copies of what was found at the domains: after the look, so that nobody waits for the disk; the next look comes first. */
static void save_copies_locked(struct vm_refresher *re)
{
	bool more = true;

	while (more && !re->stop && re->asked == re->begun) {
		pthread_mutex_unlock(&re->lock);
		more = vm_store_save_one(re->store);
		pthread_mutex_lock(&re->lock);
	}
}

static void *refresher(void *arg)
{
	struct vm_refresher *re = arg;

	re->on_inventory(re->opaque, re->inventory, VM_LOOK_FIRST);
	pthread_mutex_lock(&re->lock);
	save_copies_locked(re);
	while (await_turn_locked(re)) {
		poll_locked(re);
		save_copies_locked(re);
	}
	re->gone = true;
	pthread_cond_broadcast(&re->ended);
	pthread_mutex_unlock(&re->lock);
	return NULL;
}

static void kick(void *opaque)
{
	struct vm_refresher *re = opaque;

	pthread_mutex_lock(&re->lock);
	re->asked++;
	pthread_cond_signal(&re->wake);
	pthread_mutex_unlock(&re->lock);
}

/* ---------------------------------------------------------------- open and close */

void vm_refresher_free(struct vm_refresher *re)
{
	if (!re)
		return;
	if (re->source)
		re->source->ops->close(re->source);
	vm_inventory_put(re->inventory);
	free(re->about);
	free(re->first);
	pthread_cond_destroy(&re->wake);
	pthread_cond_destroy(&re->ended);
	pthread_mutex_destroy(&re->lock);
	free(re);
}

static struct vm_refresher *refresher_new(double refresh_s)
{
	struct vm_refresher *re = xcalloc(1, sizeof(*re));
	pthread_condattr_t steady;

	pthread_mutex_init(&re->lock, NULL);
	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(&re->wake, &steady);
	pthread_cond_init(&re->ended, &steady);
	pthread_condattr_destroy(&steady);
	re->period_ns = (int64_t)(refresh_s * 1e9);
	return re;
}

int vm_refresher_open(const struct vm_options *options, struct vm_store *store, struct vm_refresher **out, struct vs_err *err)
{
	struct vm_refresher *re = refresher_new(options->refresh_s);
	int r;

	re->store = store;
	if (options->n_images)
		r = vm_source_images(options, store, &re->source, err);
	else
		r = vm_source_libvirt(options, store, kick, re, &re->source, err);
	if (r >= 0) {
		re->began_ns = vm_steady_ns();
		r = re->source->ops->poll(re->source, NULL, &re->inventory, err);
		re->took_ns = vm_steady_ns() - re->began_ns;
		re->wish_ns = re->source->due_ns;
	}
	if (r < 0) {
		vm_refresher_free(re);
		return r;
	}
	*out = re;
	return 0;
}

int vm_refresher_start(struct vm_refresher *re, vm_on_inventory_fn on_inventory, void *opaque)
{
	re->on_inventory = on_inventory;
	re->opaque = opaque;
	return -pthread_create(&re->thread, NULL, refresher, re);
}

/* Waits for the refresher to leave. False: it hangs in a call. */
static bool await_end(struct vm_refresher *re)
{
	int64_t patience = vm_steady_ns() + CLOSE_PATIENCE_NS;
	bool gone;

	pthread_mutex_lock(&re->lock);
	re->stop = true;
	pthread_cond_broadcast(&re->wake);
	while (!re->gone && vm_steady_ns() < patience)
		wait_until_locked(&re->ended, &re->lock, patience);
	gone = re->gone;
	pthread_mutex_unlock(&re->lock);
	return gone;
}

bool vm_refresher_stop(struct vm_refresher *re)
{
	bool gone = await_end(re);

	if (gone)
		pthread_join(re->thread, NULL);
	else
		pthread_detach(re->thread);
	return gone;
}

/* ---------------------------------------------------------------- what others ask */

struct vm_inventory *vm_refresher_inventory(struct vm_refresher *re)
{
	struct vm_inventory *inv;

	pthread_mutex_lock(&re->lock);
	inv = vm_inventory_ref(re->inventory);
	pthread_mutex_unlock(&re->lock);
	return inv;
}

/* Two that wait for different domains have all looked at closely. */
static void want_locked(struct vm_refresher *re, bool closely, const char *about)
{
	re->closely |= closely || (about && re->about && strcmp(re->about, about) != 0);
	if (about && !re->about)
		re->about = xstrdup(about);
}

/* Waits for a look to end, a second at most. Patience begins anew while records are read: they may be a hundred thousand. False: it is at its end. */
static bool await_look_locked(struct vm_refresher *re, unsigned timeout_ms, struct patience *p)
{
	unsigned asked = atomic_load(&re->source->asked);
	int64_t now = vm_steady_ns(), second = now + VM_NS_PER_S;

	if (!p->until_ns || p->asked != asked)
		*p = (struct patience){ now + timeout_ms * VM_NS_PER_MS, asked };
	if (re->stop || now >= p->until_ns)
		return false;
	wait_until_locked(&re->ended, &re->lock, p->until_ns < second ? p->until_ns : second);
	return true;
}

/* The look that goes on puts off what it can. */
static int poll(struct vm_refresher *re, bool closely, const char *about, unsigned timeout_ms)
{
	struct patience patience = {0};
	uint64_t mine;
	int r;

	pthread_mutex_lock(&re->lock);
	mine = ++re->asked;
	re->urgent = true;
	want_locked(re, closely, about);
	atomic_store(&re->source->hurry, true);
	pthread_cond_signal(&re->wake);
	while (re->done < mine && await_look_locked(re, timeout_ms, &patience))
		;
	r = re->done >= mine ? re->result : -ETIMEDOUT;
	pthread_mutex_unlock(&re->lock);
	return r;
}

int vm_refresher_poll(struct vm_refresher *re, unsigned timeout_ms)
{
	return poll(re, false, NULL, timeout_ms);
}

int vm_refresher_poll_closely(struct vm_refresher *re, unsigned timeout_ms)
{
	return poll(re, true, NULL, timeout_ms);
}

int vm_refresher_poll_about(struct vm_refresher *re, const char *uuid, unsigned timeout_ms)
{
	return poll(re, false, uuid, timeout_ms);
}

/* ---------------------------------------------------------------- records that were put off */

static bool is_unread_locked(const struct vm_refresher *re, const char *uuid)
{
	const struct vm_domain *d = vm_inventory_by_uuid(re->inventory, uuid);

	return d && d->unread;
}

static bool is_it(const char *wanted, const char *uuid)
{
	return wanted && !strcmp(wanted, uuid);
}

/* The look that goes on is cut short for the next one. */
static void want_read_locked(struct vm_refresher *re, const char *uuid)
{
	if (is_it(re->first, uuid) || is_it(re->reading, uuid))
		return;
	free(re->first);
	re->first = xstrdup(uuid);
	atomic_store(&re->source->hurry, true);
}

int vm_refresher_read(struct vm_refresher *re, const char *uuid, unsigned timeout_ms, unsigned *asked)
{
	int64_t until = vm_steady_ns() + timeout_ms * VM_NS_PER_MS;
	uint64_t ended;
	int r = 0;

	pthread_mutex_lock(&re->lock);
	ended = re->n_ended;
	while (is_unread_locked(re, uuid) && r == 0) {
		want_read_locked(re, uuid);
		if (re->looking || re->result >= 0) /* else the next one may be far, for libvirt is away */
			wait_until_locked(&re->ended, &re->lock, until);
		if ((re->n_ended != ended || !re->looking) && re->result < 0)
			r = re->result;
		else if (re->stop || vm_steady_ns() >= until)
			r = -ETIMEDOUT;
	}
	if (!is_unread_locked(re, uuid))
		r = 0;
	*asked = atomic_load(&re->source->asked);
	pthread_mutex_unlock(&re->lock);
	return r;
}
