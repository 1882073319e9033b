/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The refresher: one thread that looks, and a pointer that it swaps.
 *
 *   asked   rises with every request for a look: a hint from libvirt, vm_refresh()
 *   begun   the value of `asked` when the look that is running (or the last one) began
 *   done    the value of `begun` of the last look that ended, in a picture or in an error
 *
 * A caller of vm_refresh() raises `asked` to its own number and waits until `done` has reached it: the look that did so
 * began after the call. Without requests a look begins every refresh period. Hints come in bursts (one block job is
 * a dozen events), so they wait a little for company. Whatever the period, a look that takes long is followed by a rest
 * twice as long: the refresher never uses more than a third of a core, unless somebody waits for it.
 *
 * The lock is held to move numbers and swap pointers, nothing else; so vm_picture_get() does not block however long a
 * look takes. A look can hang in libvirt for as long as libvirtd does. vm_close() waits a few seconds for it; then
 * the thread is left behind with everything it uses, which is right for a process that is about to end: there is no
 * safe way to pull it out.
 */
#include "vm/vm.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "vm/engine/engine.h"
#include "vm/inventory/source.h"
#include "vm/model/inventory.h"
#include "vm/util/clock.h"

#define HINT_PAUSE_NS (50 * VM_NS_PER_MS)
#define CLOSE_PATIENCE_NS (5 * VM_NS_PER_S)

struct vm {
	/* immutable after open */
	struct vm_source *source;
	struct vm_store *store;
	struct vm_engine *engine;
	int64_t period_ns;
	void (*changed)(void *opaque);
	void *opaque;
	pthread_t thread;

	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t wake;  /* the refresher waits: stop, or asked > begun with its time come, or the period over */
	pthread_cond_t ended; /* others wait: done has risen, or the thread is gone */
	struct vm_picture *picture;
	uint64_t asked, begun, done;
	bool urgent;        /* somebody waits in vm_refresh(): no pause for company */
	bool closely;       /* somebody waits in vm_refresh_closely() */
	bool stop, gone;
	int result;         /* of the last look that ended */
	int64_t began_ns, took_ns; /* of the last look, steady clock */
	int64_t wish_ns;           /* the source's own idea of the next one; 0 = none */
};

/* ---------------------------------------------------------------- the thread */

/* When the next look is due, by the steady clock. */
static int64_t due_ns_locked(const struct vm *vm)
{
	int64_t breath = vm->began_ns + vm->took_ns * 3;
	int64_t period = vm->began_ns + vm->period_ns;

	if (vm->asked != vm->begun && vm->urgent)
		return 0;
	if (vm->wish_ns)
		return vm->wish_ns;
	if (vm->asked != vm->begun && breath + HINT_PAUSE_NS < period)
		return breath + HINT_PAUSE_NS;
	return breath > period ? breath : period;
}

static void wait_until_locked(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t when_ns)
{
	struct timespec when = vm_ns_timespec(when_ns);

	pthread_cond_timedwait(cond, lock, &when);
}

/* Waits for the next look's time. False: stop. */
static bool await_turn_locked(struct vm *vm)
{
	while (!vm->stop) {
		int64_t due = due_ns_locked(vm);

		if (due <= vm_steady_ns())
			return true;
		wait_until_locked(&vm->wake, &vm->lock, due);
	}
	return false;
}

/* Puts @next (may be NULL: the look failed) in place. Returns whether a user can see a difference. */
static bool finish_locked(struct vm *vm, struct vm_picture *next, int result, struct vm_picture **old)
{
	bool news = next && (!vm->picture || next->serial != vm->picture->serial);

	*old = NULL;
	if (next) {
		*old = vm->picture;
		vm->picture = next;
	}
	vm->done = vm->begun;
	vm->result = result;
	vm->wish_ns = vm->source->due_ns;
	vm->took_ns = vm_steady_ns() - vm->began_ns;
	pthread_cond_broadcast(&vm->ended);
	return news && !vm->stop;
}

/* Only the refresher replaces vm->picture, so it may read the present one without the lock. */
static void look_locked(struct vm *vm)
{
	struct vm_picture *next = NULL, *old;
	bool news;
	int r;

	vm->begun = vm->asked;
	vm->urgent = false;
	vm->source->closely = vm->closely;
	vm->closely = false;
	vm->began_ns = vm_steady_ns();
	pthread_mutex_unlock(&vm->lock);
	r = vm->source->ops->look(vm->source, vm->picture, &next, NULL);
	pthread_mutex_lock(&vm->lock);
	news = finish_locked(vm, r < 0 ? NULL : next, r, &old);
	pthread_mutex_unlock(&vm->lock);
	vm_picture_put(old);
	if (news && vm->changed)
		vm->changed(vm->opaque);
	if (news)
		vm_engine_notice(vm->engine, vm->picture);
	pthread_mutex_lock(&vm->lock);
}

static void *refresher(void *arg)
{
	struct vm *vm = arg;

	vm_engine_notice(vm->engine, vm->picture);
	pthread_mutex_lock(&vm->lock);
	while (await_turn_locked(vm))
		look_locked(vm);
	vm->gone = true;
	pthread_cond_broadcast(&vm->ended);
	pthread_mutex_unlock(&vm->lock);
	return NULL;
}

static void kick(void *opaque)
{
	struct vm *vm = opaque;

	pthread_mutex_lock(&vm->lock);
	vm->asked++;
	pthread_cond_signal(&vm->wake);
	pthread_mutex_unlock(&vm->lock);
}

/* ---------------------------------------------------------------- open and close */

static void vm_free(struct vm *vm)
{
	vm_engine_free(vm->engine);
	if (vm->source)
		vm->source->ops->close(vm->source);
	vm_store_free(vm->store);
	vm_picture_put(vm->picture);
	pthread_cond_destroy(&vm->wake);
	pthread_cond_destroy(&vm->ended);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

static struct vm *vm_alloc(const struct vm_options *options)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	pthread_condattr_t steady;

	if (!vm)
		return NULL;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->wake, &steady);
	pthread_cond_init(&vm->ended, &steady);
	pthread_condattr_destroy(&steady);
	vm->period_ns = (int64_t)(options->refresh_s * 1e9);
	vm->changed = options->changed;
	vm->opaque = options->opaque;
	vm->store = vm_store_new();
	vm->engine = vm->store ? vm_engine_new(vm, vm->store, options) : NULL;
	if (!vm->engine) {
		vm_free(vm);
		return NULL;
	}
	return vm;
}

static int open_source(struct vm *vm, const struct vm_options *options, struct vs_err *err)
{
	int r;

	if (options->n_images)
		r = vm_source_images(options, vm->store, &vm->source, err);
	else
		r = vm_source_libvirt(options, vm->store, kick, vm, &vm->source, err);
	if (r < 0)
		return r;
	vm->began_ns = vm_steady_ns();
	r = vm->source->ops->look(vm->source, NULL, &vm->picture, err);
	vm->took_ns = vm_steady_ns() - vm->began_ns;
	return r;
}

int vm_open(const struct vm_options *options, struct vm **out, struct vs_err *err)
{
	struct vm *vm;
	int r;

	if (!(options->refresh_s > 0 && options->refresh_s < 1e9))
		return vs_err_set(err, -EINVAL, "the refresh period must be more than 0 seconds");
	vm = vm_alloc(options);
	if (!vm)
		return vs_err_set(err, -ENOMEM, "out of memory");
	r = open_source(vm, options, err);
	if (r >= 0)
		r = -pthread_create(&vm->thread, NULL, refresher, vm);
	if (r < 0) {
		vm_free(vm);
		return r;
	}
	*out = vm;
	return 0;
}

/* Waits for the refresher to leave. False: it hangs in a call. */
static bool await_end(struct vm *vm)
{
	int64_t patience = vm_steady_ns() + CLOSE_PATIENCE_NS;
	bool gone;

	pthread_mutex_lock(&vm->lock);
	vm->stop = true;
	pthread_cond_broadcast(&vm->wake);
	while (!vm->gone && vm_steady_ns() < patience)
		wait_until_locked(&vm->ended, &vm->lock, patience);
	gone = vm->gone;
	pthread_mutex_unlock(&vm->lock);
	return gone;
}

int vm_close(struct vm *vm)
{
	bool stopped, ended;

	if (!vm)
		return 0;
	stopped = vm_engine_stop(vm->engine) == 0;
	ended = await_end(vm);
	if (!stopped || !ended) {
		pthread_detach(vm->thread);
		return -EBUSY;
	}
	pthread_join(vm->thread, NULL);
	vm_free(vm);
	return 0;
}

/* ---------------------------------------------------------------- what others ask */

struct vm_picture *vm_picture_get(struct vm *vm)
{
	struct vm_picture *pic;

	pthread_mutex_lock(&vm->lock);
	pic = vm_picture_ref(vm->picture);
	pthread_mutex_unlock(&vm->lock);
	return pic;
}

static int refresh(struct vm *vm, bool closely, unsigned timeout_ms)
{
	int64_t patience = vm_steady_ns() + timeout_ms * VM_NS_PER_MS;
	uint64_t mine;
	int r;

	pthread_mutex_lock(&vm->lock);
	mine = ++vm->asked;
	vm->urgent = true;
	vm->closely |= closely;
	pthread_cond_signal(&vm->wake);
	while (vm->done < mine && !vm->stop && vm_steady_ns() < patience)
		wait_until_locked(&vm->ended, &vm->lock, patience);
	r = vm->done >= mine ? vm->result : -ETIMEDOUT;
	pthread_mutex_unlock(&vm->lock);
	return r;
}

int vm_refresh(struct vm *vm, unsigned timeout_ms)
{
	return refresh(vm, false, timeout_ms);
}

int vm_refresh_closely(struct vm *vm, unsigned timeout_ms)
{
	return refresh(vm, true, timeout_ms);
}

/* ---------------------------------------------------------------- commands: see engine/engine.h */

int vm_request(struct vm *vm, const char *uuid, enum vm_door door, const char *text, size_t len, vm_done_fn done,
	       void *opaque, struct vm_request **out)
{
	return vm_engine_request(vm->engine, uuid, door, text, len, done, opaque, out);
}

int vm_ctl_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	return vm_engine_ctl_text(vm->engine, uuid, text, len, changed_ns);
}

int vm_retain_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	return vm_engine_retain_text(vm->engine, uuid, text, len, changed_ns);
}

int vm_jobs_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	return vm_engine_jobs_text(vm->engine, uuid, text, len, changed_ns);
}

int vm_plan_text(struct vm *vm, const char *uuid, const char *policy, char **text, size_t *len, struct vs_err *err)
{
	return vm_engine_plan_text(vm->engine, uuid, policy, text, len, err);
}

void vm_reading(struct vm *vm, const char *uuid, uint64_t disk_ino, int delta)
{
	vm_engine_reading(vm->engine, uuid, disk_ino, delta);
}
