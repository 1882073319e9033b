/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A request from its text to `done`: who may have the domain, and when. What it does with it: request-run.c.
 */
#include "vm/engine/engine-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/libvirt/conn.h"
#include "vm/libvirt/virterr.h"
#include "vm/model/inventory.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define LOCK_PAUSE_US 50000
#define REFRESH_MS 30000

/* ---------------------------------------------------------------- life */

void vm_engine_request_put(struct vm_request *q)
{
	if (!q || atomic_fetch_sub(&q->refs, 1) != 1)
		return;
	vm_commands_fini(&q->commands);
	vm_log_unref(q->log);
	free(q->outcome);
	free(q->policy);
	vm_space_free(q->space);
	free(q->plan);
	free(q);
}

void vm_engine_request_cancel(struct vm_request *q)
{
	atomic_store(&q->cancel, true);
	pthread_mutex_lock(&q->engine->lock);
	if (q->cx)
		atomic_store(&q->cx->watch.cancel, true);
	pthread_cond_broadcast(&q->engine->idle);
	pthread_mutex_unlock(&q->engine->lock);
}

/* ---------------------------------------------------------------- taking the domain */

const char *vm_origin_text(enum vm_origin origin)
{
	return origin == VM_BY_MOUNT ? "repair" : origin == VM_BY_WATCH ? "note" : origin == VM_BY_COUNT ? "space" : origin == VM_BY_NOW ? "now" : "prune";
}

bool vm_origin_tells(enum vm_origin origin, int r)
{
	if ((origin == VM_BY_WATCH || origin == VM_BY_COUNT) && (r == -EHOSTDOWN || r == -ETIMEDOUT || r == -EINTR || r == -ECANCELED))
		return false;
	return origin == VM_BY_WRITER || r != -EBUSY;
}

/* None of it has run: said of the first command. */
static int refuse(struct vm_request *q, int r, const struct vs_err *err)
{
	vs_autofree char *text = NULL;

	if (q->origin == VM_BY_NOW)
		return vs_err_set(&q->begun->why, r, "%s", vs_err_text(err, r));
	if (!vm_origin_tells(q->origin, r))
		return r;
	if (q->origin != VM_BY_WRITER)
		text = xstrdup(vm_origin_text(q->origin));
	else if (q->door == VM_DOOR_CTL)
		text = vm_command_text(&q->commands.v[0]);
	else
		text = xasprintf("retain %s", q->policy);
	vm_request_report(q, text, r, NULL, err);
	return r;
}

static int refuse_busy(struct vm_request *q)
{
	const struct vs_err err = { .code = -EBUSY, .msg = "another command is at work on this domain, see 'jobs'" };

	return refuse(q, -EBUSY, &err);
}

/* Waits while retention has the slot. */
static int take_slot(struct vm_request *q)
{
	struct vm_engine *e = q->engine;
	int r = 0;

	pthread_mutex_lock(&e->lock);
	while (q->slot->running && q->slot->running != q && q->slot->running->origin != VM_BY_WRITER && !atomic_load(&q->cancel) &&
	       !e->stop)
		pthread_cond_wait(&e->idle, &e->lock);
	if (atomic_load(&q->cancel) || e->stop)
		r = -ECANCELED;
	else if (q->slot->running && q->slot->running != q)
		r = -EBUSY;
	else
		q->slot->running = q;
	pthread_mutex_unlock(&e->lock);
	return r;
}

static bool leave_slot(struct vm_request *q)
{
	struct vm_engine *e = q->engine;
	bool due;

	pthread_mutex_lock(&e->lock);
	if (q->slot->running == q)
		q->slot->running = NULL;
	due = q->slot->prune_due && !q->slot->prune_later.at_ns && !q->slot->running && !e->stop;
	pthread_cond_broadcast(&e->idle);
	pthread_mutex_unlock(&e->lock);
	return due;
}

/* Another mount may have it: waited for while that only prunes. */
static int take_lock(struct vm_request *q, struct vm_lock **lock, struct vs_err *err)
{
	bool pruning = false;
	int r;

	while ((r = vm_lock_take(q->slot->uuid, q->origin != VM_BY_WRITER, lock, &pruning, err)) == -EBUSY && pruning &&
	       !atomic_load(&q->cancel)) {
		usleep(LOCK_PAUSE_US);
		pruning = false;
	}
	return r;
}

static int open_connection(struct vm_request *q, virConnectPtr *conn, struct vs_err *err)
{
	int r;

	*conn = NULL;
	if (q->engine->options.n_images)
		return 0;
	r = vm_refresher_poll(q->engine->refresher, REFRESH_MS); /* a libvirt that hangs would keep virConnectOpen() for ever */
	if (r == -ETIMEDOUT || r == -EHOSTDOWN)
		return vs_err_set(err, r, r == -EHOSTDOWN ? "libvirt is away, or has not answered for long" : "libvirt does not answer");
	*conn = vm_conn_plain(q->engine->options.uri, q->origin == VM_BY_COUNT && q->engine->options.read_only);
	if (!*conn) {
		r = vm_virterr_set(err, "libvirt cannot be reached");
		return r == -ETIMEDOUT ? r : -EHOSTDOWN; /* the errno of its socket says nothing about snapshots */
	}
	return 0;
}

static bool prunes(const struct vm_request *q)
{
	return q->origin == VM_BY_RETENTION || (q->origin == VM_BY_WRITER && q->door == VM_DOOR_RETAIN);
}

/* Retention that a backup job of now/ is in the way of has its turn when that has ended; of another mount's nobody tells us the end. */
static void wait_for_now(struct vm_request *q)
{
	pthread_mutex_lock(&q->engine->lock);
	q->slot->prune_waits |= q->slot->now_job;
	if (q->met_now && !q->slot->now_job) {
		q->slot->prune_due = true;
		vm_later_again(&q->slot->prune_later);
	}
	pthread_mutex_unlock(&q->engine->lock);
}

static void waits_no_more(struct vm_request *q)
{
	pthread_mutex_lock(&q->engine->lock);
	q->slot->prune_later = (struct vm_later){0};
	pthread_mutex_unlock(&q->engine->lock);
}

static int run(struct vm_request *q)
{
	struct vm_lock *lock = NULL;
	virConnectPtr conn = NULL;
	struct vs_err err = {0};
	int r = q->aside ? 0 : take_slot(q);
	bool busy;

	if (r == -EBUSY)
		return refuse_busy(q);
	if (r < 0)
		return r;
	if (!q->aside)
		r = take_lock(q, &lock, &err);
	if (r == 0)
		r = open_connection(q, &conn, &err);
	busy = r == -EBUSY && q->origin == VM_BY_RETENTION; /* another mount is at work */
	if (r == 0 && conn && !q->aside && q->origin != VM_BY_NOW)
		vm_engine_now_settle(q->engine, q->slot, conn, q->log);
	if (r < 0)
		refuse(q, r, &err);
	else
		r = vm_request_do(q, conn);
	if (r == -EBUSY && prunes(q))
		wait_for_now(q);
	else if (prunes(q))
		waits_no_more(q);
	if (conn)
		virConnectClose(conn);
	vm_lock_release(lock);
	if (r == -EHOSTDOWN || r == -ETIMEDOUT || busy) /* whatever it was doing has stayed as it is, a guest that it had started included */
		vm_engine_repair_later(q->engine, q->slot, q->origin == VM_BY_RETENTION);
	return r;
}

static void prune_slot(struct vm_engine *e, struct vm_slot *slot)
{
	struct vm_inventory *inv = vm_refresher_inventory(e->refresher);
	const struct vm_domain *d = vm_inventory_by_uuid(inv, slot->uuid);

	if (d)
		vm_engine_prune(e, slot, d);
	vm_inventory_put(inv);
}

int vm_request_run(struct vm_request *q)
{
	int r = run(q);
	bool due = !q->aside && leave_slot(q);

	if (q->done)
		q->done(q->opaque, r, q->outcome);
	if (due)
		prune_slot(q->engine, q->slot);
	return r;
}

static void *request_thread(void *arg)
{
	struct vm_request *q = arg;
	struct vm_engine *e = q->engine;

	vm_request_run(q);
	vm_engine_request_put(q);
	pthread_mutex_lock(&e->lock);
	e->threads--;
	pthread_cond_broadcast(&e->idle);
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

/* Counts the thread before it is there. On failure the reference that it would have had is the caller's still. */
static int start_locked(struct vm_request *q)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	atomic_fetch_add(&q->refs, 1);
	q->engine->threads++;
	r = -pthread_create(&thread, &attr, request_thread, q);
	pthread_attr_destroy(&attr);
	if (r < 0) {
		q->engine->threads--;
		atomic_fetch_sub(&q->refs, 1);
	}
	return r;
}

/* ---------------------------------------------------------------- making one */

/* NULL: there is no such domain. */
static struct vm_request *request_new(struct vm_engine *e, const char *uuid, enum vm_origin origin)
{
	struct vm_inventory *inv = vm_refresher_inventory(e->refresher);
	const struct vm_domain *d = vm_inventory_by_uuid(inv, uuid);
	struct vm_log *log = d ? vm_log_ref(d->log) : NULL;
	struct vm_request *q;

	vm_inventory_put(inv);
	if (!log)
		return NULL;
	q = xcalloc(1, sizeof(*q));
	atomic_init(&q->refs, 1);
	q->engine = e;
	q->origin = origin;
	q->log = log;
	vm_arena_init(&q->commands.arena);
	pthread_mutex_lock(&e->lock);
	q->slot = vm_slot_locked(e, uuid);
	pthread_mutex_unlock(&e->lock);
	return q;
}

struct vm_request *vm_request_begin_now(struct vm_engine *e, const char *uuid, struct vm_now_begun *begun)
{
	struct vm_request *q = request_new(e, uuid, VM_BY_NOW);

	if (q)
		q->begun = begun;
	return q;
}

int vm_request_self(struct vm_engine *e, const struct vm_domain *d, enum vm_origin origin)
{
	struct vm_request *q = request_new(e, d->uuid, origin);
	int r;

	if (!q)
		return -ENOENT;
	pthread_mutex_lock(&e->lock);
	r = q->slot->running || e->stop ? -EBUSY : 0;
	if (r == 0) {
		q->slot->running = q;
		r = start_locked(q);
		if (r < 0)
			q->slot->running = NULL;
		else if (origin == VM_BY_RETENTION)
			q->slot->prune_due = false; /* before its first look: what appears later is due again */
	}
	pthread_mutex_unlock(&e->lock);
	vm_engine_request_put(q);
	return r;
}

static int parse(struct vm_request *q, const char *text, size_t len, struct vs_err *err)
{
	struct vm_retain policy = {0};
	int r;

	if (q->engine->options.read_only)
		return vs_err_set(err, -EROFS, "this is a read-only mount");
	if (q->door == VM_DOOR_CTL) {
		r = vm_commands_parse(text, len, &q->commands, err);
		q->aside = r == 0;
		for (size_t i = 0; r == 0 && i < q->commands.n; i++)
			q->aside = q->aside && (q->commands.v[i].try_only || q->commands.v[i].verb == VM_CANCEL);
		return r;
	}
	r = vm_retain_parse(text, len, &policy, err);
	if (r == 0)
		q->policy = vm_retain_line(&policy);
	vm_retain_fini(&policy);
	return r;
}

static bool only_cancels(const struct vm_request *q)
{
	for (size_t i = 0; i < q->commands.n; i++)
		if (q->commands.v[i].verb != VM_CANCEL)
			return false;
	return q->door == VM_DOOR_CTL;
}

/* 1: a thread has it; else what came of it. */
static int submit(struct vm_request *q)
{
	struct vm_engine *e = q->engine;
	bool busy;
	int r;

	if (only_cancels(q)) {
		r = 0;
		if (!q->commands.n) /* or `ctl` would go on showing what came of an earlier write */
			vm_request_report(q, "there was no command in what was written", 0, NULL, NULL);
		for (size_t i = 0; r == 0 && i < q->commands.n; i++)
			r = vm_request_command(q, NULL, &q->commands.v[i]);
		return r;
	}
	pthread_mutex_lock(&e->lock);
	busy = !q->aside && q->slot->running && q->slot->running->origin == VM_BY_WRITER;
	if (!busy && !q->aside && !q->slot->running)
		q->slot->running = q;
	r = e->stop ? -ECANCELED : busy ? -EBUSY : start_locked(q);
	if (r < 0 && q->slot->running == q)
		q->slot->running = NULL;
	pthread_mutex_unlock(&e->lock);
	if (r == -EBUSY)
		return refuse_busy(q);
	return r < 0 ? r : 1;
}

int vm_engine_request(struct vm_engine *e, const char *uuid, enum vm_door door, const char *text, size_t len, vm_done_fn done,
		      void *opaque, struct vm_request **out)
{
	struct vm_request *q = request_new(e, uuid, VM_BY_WRITER);
	struct vs_err err = {0};
	int r;

	if (!q)
		return -ENOENT;
	q->door = door;
	q->done = done;
	q->opaque = opaque;
	r = parse(q, text, len, &err);
	if (r < 0)
		vm_request_report(q, door == VM_DOOR_CTL ? "the line" : "retain", r, NULL, &err);
	else
		r = submit(q);
	*out = q;
	if (r <= 0 && done)
		done(opaque, r, q->outcome);
	return 0;
}

/* @q: what is to be counted, or NULL; taken. */
static int count_aside(struct vm_engine *e, struct vm_request *q, vm_done_fn done, void *opaque, struct vm_request **out)
{
	int r;

	if (!q)
		return -ENOENT;
	q->done = done;
	q->opaque = opaque;
	q->aside = true;
	pthread_mutex_lock(&e->lock);
	r = e->stop ? -ECANCELED : start_locked(q);
	pthread_mutex_unlock(&e->lock);
	if (r == 0)
		*out = q;
	else
		vm_engine_request_put(q);
	return r;
}

int vm_engine_space(struct vm_engine *e, const char *uuid, vm_done_fn done, void *opaque, struct vm_request **out)
{
	return count_aside(e, request_new(e, uuid, VM_BY_COUNT), done, opaque, out);
}

struct vm_space *vm_engine_request_space(struct vm_request *q)
{
	return vs_steal(q->space);
}

int vm_engine_count_plan(struct vm_engine *e, const char *uuid, const char *policy, vm_done_fn done, void *opaque, struct vm_request **out)
{
	struct vm_request *q = request_new(e, uuid, VM_BY_COUNT);

	if (q) {
		q->plans = true;
		q->policy = xstrdup_or_null(policy);
	}
	return count_aside(e, q, done, opaque, out);
}

char *vm_engine_request_plan(struct vm_request *q)
{
	return vs_steal(q->plan);
}
