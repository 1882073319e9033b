/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Who reads now/ of a running domain has a part in one backup job. The job has a thread, from the first open to what is left of it being gone:
 *
 *     waits ───────► begins ─────────► watches ────────────► ends ───► gone
 *     for the one    as a command      until nobody reads     clears away
 *     before to be   does, with the    any more, or the job   what is noted
 *     gone           domain            comes to an end
 *
 * It is open to more readers until it ends; who comes later begins another one, which waits for this one to be gone. The slot, and the
 * lock between mounts that goes with it, are taken only to begin, so that no command is at work then. Commands that come later find
 * libvirt's job, and say whose it is (command/check.c): for what they are about to do libvirt would refuse while it runs. Another lock, of the
 * domain's now/, is held from before the first note to the last one's going: it tells other mounts, and the one after us, that
 * somebody still sees to what is noted.
 *
 * Locks: the engine's only, and never across a call of libvirt's.
 */
#include "vm/engine/engine-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/libvirt/backup.h"
#include "vm/libvirt/conn.h"
#include "vm/model/inventory.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define WATCH_NS (200 * VM_NS_PER_MS)
#define ASK_EVERY 5        /* times that it looks for room, libvirt is asked */
#define END_PATIENCE_S 15

struct vm_now {
	atomic_uint refs;  /* readers, and its thread */
	/* immutable */
	struct vm_engine *engine;
	struct vm_slot *slot;
	struct vm_log *log;
	/* its thread's; the socket and the time are everybody's once it is open */
	struct vm_now_begun begun;
	int64_t begun_ns;
	/* guarded by the engine's lock */
	pthread_cond_t changed; /* any of these */
	unsigned readers;
	struct vm_request *beginning; /* NULL: not, or no more */
	bool open;         /* it has begun */
	int r;             /* negative: it is over, or was never begun, and why */
	struct vs_err why;
};

static void now_put(struct vm_now *now)
{
	if (atomic_fetch_sub(&now->refs, 1) != 1)
		return;
	vm_now_job_fini(&now->begun.job);
	pthread_cond_destroy(&now->changed);
	vm_log_unref(now->log);
	free(now);
}

/* Of two reasons the first counts. From here on nobody joins. */
static void over_locked(struct vm_now *now, int r, const struct vs_err *why)
{
	if (now->r == 0) {
		now->r = r;
		now->why = *why;
	}
	if (now->slot->now == now)
		now->slot->now = NULL;
	pthread_cond_broadcast(&now->changed);
}

static bool is_wanted_locked(const struct vm_now *now)
{
	return now->readers && now->r == 0 && !now->engine->end_now;
}

/* ---------------------------------------------------------------- beginning */

/* False: nobody wants it any more. */
static bool take_turn(struct vm_now *now)
{
	struct vm_engine *e = now->engine;
	bool wanted;

	pthread_mutex_lock(&e->lock);
	while (now->slot->now_job && is_wanted_locked(now))
		pthread_cond_wait(&e->idle, &e->lock);
	wanted = is_wanted_locked(now);
	if (wanted)
		now->slot->now_job = true;
	else
		over_locked(now, -ECANCELED, &(struct vs_err){ .code = -ECANCELED, .msg = "cancelled" });
	pthread_mutex_unlock(&e->lock);
	return wanted;
}

static void leave_turn(struct vm_now *now)
{
	struct vm_engine *e = now->engine;

	pthread_mutex_lock(&e->lock);
	now->slot->now_job = false;
	now->slot->prune_due |= now->slot->prune_waits;
	if (now->slot->prune_waits)
		now->slot->repaired = false; /* the next look sees to it */
	now->slot->prune_waits = false;
	pthread_cond_broadcast(&e->idle);
	pthread_mutex_unlock(&e->lock);
}

static int begin(struct vm_now *now)
{
	struct vm_engine *e = now->engine;
	struct vm_request *q = vm_request_begin_now(e, now->slot->uuid, &now->begun);
	int r;

	if (!q)
		return vs_err_set(&now->begun.why, -ENOENT, "there is no such domain");
	pthread_mutex_lock(&e->lock);
	now->beginning = q;
	if (!is_wanted_locked(now))
		atomic_store(&q->cancel, true);
	pthread_mutex_unlock(&e->lock);
	r = vm_request_run(q);
	pthread_mutex_lock(&e->lock);
	now->beginning = NULL;
	pthread_mutex_unlock(&e->lock);
	vm_engine_request_put(q);
	return r;
}

static void tell_begun(struct vm_now *now, int r)
{
	pthread_mutex_lock(&now->engine->lock);
	now->begun_ns = vm_now_ns();
	now->open = r == 0;
	if (r < 0)
		over_locked(now, r, &now->begun.why);
	pthread_cond_broadcast(&now->changed);
	pthread_mutex_unlock(&now->engine->lock);
}

/* ---------------------------------------------------------------- watching */

/* Another one where libvirtd was started anew. NULL: libvirt is away. */
static virConnectPtr connection(struct vm_now *now)
{
	if (now->begun.conn && virConnectIsAlive(now->begun.conn) == 1)
		return now->begun.conn;
	if (now->begun.conn)
		virConnectClose(now->begun.conn);
	now->begun.conn = vm_conn_plain(now->engine->options.uri, false);
	return now->begun.conn;
}

/* Is the job there? What libvirt does not tell now it tells later. */
static int ask_libvirt(struct vm_now *now, struct vs_err *why)
{
	virConnectPtr conn = connection(now);
	virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, now->slot->uuid) : NULL;
	int r = dom ? vm_backup_is(dom, now->begun.job.socket, NULL) : 1;

	if (dom)
		virDomainFree(dom);
	return r ? 0 : vs_err_set(why, -EIO, "its backup job is there no more: the domain was shut off, or somebody has ended it");
}

static void watch(struct vm_now *now)
{
	struct vm_engine *e = now->engine;
	struct vs_err why = {0};
	int r = 0;

	pthread_mutex_lock(&e->lock);
	for (unsigned n = 1; is_wanted_locked(now); n++) {
		struct timespec until = vm_ns_timespec(vm_steady_ns() + WATCH_NS);

		pthread_cond_timedwait(&now->changed, &e->lock, &until);
		pthread_mutex_unlock(&e->lock);
		vm_lock_answer(now->begun.lock);
		r = vm_now_job_room(&now->begun.job, &why);
		if (r == 0 && n % ASK_EVERY == 0)
			r = ask_libvirt(now, &why);
		pthread_mutex_lock(&e->lock);
		if (r < 0)
			over_locked(now, r, &why);
	}
	over_locked(now, -EIO, &(struct vs_err){ .code = -EIO, .msg = "it was closed" });
	pthread_mutex_unlock(&e->lock);
	if (r < 0)
		vm_log_warn(now->log, "now/ is read no more: %s", why.msg);
}

/* ---------------------------------------------------------------- the end */

/* What is left, and why; NULL: nothing. True: the log does not say so yet. */
static bool left(struct vm_engine *e, struct vm_slot *slot, const char *why)
{
	bool news;

	pthread_mutex_lock(&e->lock);
	news = why && (!slot->now_said || strcmp(slot->now_said, why) != 0);
	free(slot->now_said);
	slot->now_said = xstrdup_or_null(why);
	slot->now_left &= why != NULL;
	if (why)
		vm_later_again(&slot->now_later);
	else
		slot->now_later = (struct vm_later){0};
	pthread_mutex_unlock(&e->lock);
	return news;
}

static void end(struct vm_now *now, bool begun)
{
	struct vs_err err = {0};
	int r = connection(now) ? vm_now_job_clear(now->begun.conn, now->engine->store, now->slot->uuid, now->log, &err) :
				  vs_err_set(&err, -EHOSTDOWN, "libvirt is away");
	bool all = r == 0 || r == 1;

	if (!all)
		vm_log_warn(now->log, "%s: %s", r < 0 ? "the backup job of now/ is not cleared away yet" :
						       "the backup job of now/ has ended, but not all of it is cleared away yet", err.msg);
	else if (begun)
		vm_log(now->log, "the backup job of now/ has ended");
	left(now->engine, now->slot, all ? NULL : err.msg);
	pthread_mutex_lock(&now->engine->lock);
	now->slot->now_left = !all;
	pthread_mutex_unlock(&now->engine->lock);
	if (now->begun.conn)
		virConnectClose(now->begun.conn);
	vm_lock_release(now->begun.lock);
	vm_engine_repair_later(now->engine, now->slot, false); /* what is left of it */
}

static void *now_thread(void *arg)
{
	struct vm_now *now = arg;
	struct vm_engine *e = now->engine;

	if (take_turn(now)) {
		int r = begin(now);

		tell_begun(now, r);
		if (r == 0)
			watch(now);
		if (now->begun.lock)
			end(now, r == 0);
		leave_turn(now);
	}
	pthread_mutex_lock(&e->lock);
	e->threads--;
	e->nows--;
	pthread_cond_broadcast(&e->idle);
	pthread_mutex_unlock(&e->lock);
	now_put(now);
	return NULL;
}

/* ---------------------------------------------------------------- readers */

/* NULL: there is no such domain. */
static struct vm_now *now_new(struct vm_engine *e, const char *uuid)
{
	struct vm_inventory *inv = vm_refresher_inventory(e->refresher);
	const struct vm_domain *d = vm_inventory_by_uuid(inv, uuid);
	struct vm_now *now = d ? xcalloc(1, sizeof(*now)) : NULL;
	pthread_condattr_t steady;

	if (now) {
		atomic_init(&now->refs, 1);
		now->engine = e;
		now->log = vm_log_ref(d->log);
		pthread_condattr_init(&steady);
		pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
		pthread_cond_init(&now->changed, &steady);
		pthread_condattr_destroy(&steady);
	}
	vm_inventory_put(inv);
	return now;
}

static int start_locked(struct vm_now *now)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	if (now->engine->stop || now->engine->end_now)
		return -ECANCELED;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = -pthread_create(&thread, &attr, now_thread, now);
	pthread_attr_destroy(&attr);
	if (r < 0)
		return r;
	atomic_fetch_add(&now->refs, 1);
	now->engine->threads++;
	now->engine->nows++;
	now->slot->now = now;
	return 0;
}

/* @fresh is one that nobody has yet. */
static int join_or_start(struct vm_engine *e, const char *uuid, struct vm_now *fresh, struct vm_now **out)
{
	struct vm_now *now;
	int r = 0;

	pthread_mutex_lock(&e->lock);
	fresh->slot = vm_slot_locked(e, uuid);
	now = fresh->slot->now ? fresh->slot->now : fresh;
	now->readers++;
	if (now == fresh)
		r = start_locked(now);
	if (r == 0) {
		atomic_fetch_add(&now->refs, 1);
		*out = now;
	}
	pthread_mutex_unlock(&e->lock);
	return r;
}

int vm_engine_now_open(struct vm_engine *e, const char *uuid, struct vm_now **out, struct vs_err *err)
{
	struct vm_now *fresh;
	int r;

	if (e->options.read_only)
		return vs_err_set(err, -EROFS, "the domain runs, and a read-only mount begins no backup job");
	fresh = now_new(e, uuid);
	if (!fresh)
		return vs_err_set(err, -ENOENT, "there is no such domain");
	r = join_or_start(e, uuid, fresh, out);
	now_put(fresh);
	return r < 0 ? vs_err_set(err, r, "no backup job can be begun: %s", strerror(-r)) : 0;
}

static int result_locked(const struct vm_now *now, struct vs_err *err)
{
	return now->r < 0 ? vs_err_set(err, now->r, "%s", vs_err_text(&now->why, now->r)) : now->open;
}

int vm_engine_now_wait(struct vm_now *now, unsigned ms, struct vs_err *err)
{
	struct timespec until = vm_ns_timespec(vm_steady_ns() + ms * VM_NS_PER_MS);
	int r;

	pthread_mutex_lock(&now->engine->lock);
	while (!now->open && now->r == 0 && pthread_cond_timedwait(&now->changed, &now->engine->lock, &until) == 0)
		;
	r = result_locked(now, err);
	pthread_mutex_unlock(&now->engine->lock);
	return r;
}

const char *vm_engine_now_socket(const struct vm_now *now)
{
	return now->begun.job.socket;
}

int64_t vm_engine_now_begun(struct vm_engine *e, const char *uuid)
{
	const struct vm_now *now;
	int64_t begun_ns;

	pthread_mutex_lock(&e->lock);
	now = vm_slot_locked(e, uuid)->now;
	begun_ns = now && now->open ? now->begun_ns : vm_now_ns();
	pthread_mutex_unlock(&e->lock);
	return begun_ns;
}

void vm_engine_now_close(struct vm_now *now)
{
	struct vm_engine *e = now->engine;

	pthread_mutex_lock(&e->lock);
	if (!--now->readers) {
		if (now->slot->now == now)
			now->slot->now = NULL;
		if (now->beginning) {
			atomic_store(&now->beginning->cancel, true);
			if (now->beginning->cx)
				atomic_store(&now->beginning->cx->watch.cancel, true);
		}
		pthread_cond_broadcast(&now->changed);
		pthread_cond_broadcast(&e->idle);
	}
	pthread_mutex_unlock(&e->lock);
	now_put(now);
}

/* ---------------------------------------------------------------- those of others */

void vm_engine_now_settle(struct vm_engine *e, struct vm_slot *slot, virConnectPtr conn, struct vm_log *log)
{
	struct vm_lock *lock = NULL;
	struct vs_err err = {0};
	const char *whose;
	int r;

	if (!vm_now_job_is_noted(e->store, slot->uuid) || vm_lock_take_now(slot->uuid, &lock, NULL) < 0)
		return;
	pthread_mutex_lock(&e->lock);
	whose = slot->now_left ? "what was left of now/" : "what a mount that was interrupted had left of now/";
	pthread_mutex_unlock(&e->lock);
	r = vm_now_job_clear(conn, e->store, slot->uuid, log, &err);
	vm_lock_release(lock);
	if (left(e, slot, r < 0 || r == VM_NOW_LEFT ? err.msg : NULL))
		vm_log_warn(log, "%s is not cleared away yet: %s", whose, err.msg);
	else if (r == 1)
		vm_log(log, "%s is cleared away: its backup job, its scratch files", whose);
}

void vm_engine_now_end_all(struct vm_engine *e)
{
	struct timespec until = vm_ns_timespec(vm_steady_ns() + END_PATIENCE_S * VM_NS_PER_S);

	pthread_mutex_lock(&e->lock);
	e->end_now = true;
	pthread_cond_broadcast(&e->idle);
	while (e->nows && pthread_cond_timedwait(&e->idle, &e->lock, &until) == 0)
		;
	pthread_mutex_unlock(&e->lock);
}
