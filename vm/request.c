/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request from its text to `done`. The outcome is a line "ok: COMMAND: what was done" or "failed: COMMAND: why (errno)", said
 * in `ctl` and in the log before `done` is called; and before that the picture is one that was begun after the change.
 */
#include "vm/engine-priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/clock.h"
#include "vm/log.h"
#include "vm/utf8.h"
#include "vm/virterr.h"

#define REFRESH_MS 30000
#define LOCK_PAUSE_US 50000

/* ---------------------------------------------------------------- life */

void vm_request_put(struct vm_request *q)
{
	if (!q || atomic_fetch_sub(&q->refs, 1) != 1)
		return;
	vm_commands_fini(&q->commands);
	vm_log_unref(q->log);
	free(q->policy);
	free(q);
}

void vm_request_cancel(struct vm_request *q)
{
	atomic_store(&q->cancel, true);
	pthread_mutex_lock(&q->engine->lock);
	if (q->work)
		atomic_store(&q->work->watch.cancel, true);
	pthread_cond_broadcast(&q->engine->idle);
	pthread_mutex_unlock(&q->engine->lock);
}

/* ---------------------------------------------------------------- words */

static void report(struct vm_request *q, const char *command, int r, const char *said, const struct vs_err *err)
{
	vs_autofree char *line = NULL;
	int n;

	if (r < 0)
		n = asprintf(&line, "failed: %s: %s (%s)", command, vs_err_text(err, r), strerrorname_np(-r) ? strerrorname_np(-r) : "?");
	else
		n = asprintf(&line, "ok: %s%s%s", command, said && said[0] ? ": " : "", said ? said : "");
	if (n < 0) {
		line = NULL;
		return;
	}
	if (q->origin == VM_BY_WRITER)
		vm_desk_outcome(q->engine, q->desk, line);
	vm_log(q->log, "%s", line);
}

/* ---------------------------------------------------------------- one command */

struct at_work {
	struct vm_work work; /* first: what `opaque` of the watch points to */
	struct vm_request *q;
	struct vm_run *job;  /* or NULL */
	virConnectPtr conn;
};

static void on_progress(void *opaque, uint64_t cur, uint64_t end, uint64_t speed)
{
	struct at_work *at = opaque;

	if (!at->job)
		return;
	pthread_mutex_lock(&at->q->engine->lock);
	at->job->cur = cur;
	at->job->end = end;
	at->job->speed = speed;
	pthread_mutex_unlock(&at->q->engine->lock);
	vm_desk_tell(at->q->engine, at->q->desk, true);
}

static void on_step(void *opaque, const char *step)
{
	struct at_work *at = opaque;

	vm_log(at->q->log, "%s: %s", at->work.command, step);
}

static void begin(struct at_work *at, struct vm_request *q, virConnectPtr conn, const char *command, bool try_only)
{
	struct vm_engine *e = q->engine;
	char *shown = vm_utf8_escape(command, strlen(command), false);

	memset(at, 0, sizeof(*at));
	at->q = q;
	at->conn = conn;
	at->work.engine = e;
	at->work.vm = e->vm;
	at->work.store = e->store;
	at->work.options = &e->options;
	at->work.uuid = q->desk->uuid;
	at->work.conn = conn;
	at->work.log = q->log;
	at->work.command = command;
	at->work.try_only = try_only;
	at->work.watch.progress = on_progress;
	at->work.watch.step = on_step;
	at->work.watch.opaque = at;
	pthread_mutex_lock(&e->lock);
	atomic_store(&at->work.watch.cancel, atomic_load(&q->cancel));
	q->work = &at->work;
	if (!try_only)
		at->job = vm_job_add(&q->desk->jobs, ++e->next_job, vs_steal(shown));
	pthread_mutex_unlock(&e->lock);
	free(shown);
	vm_desk_tell(e, q->desk, false);
}

static void end(struct at_work *at)
{
	struct vm_engine *e = at->q->engine;

	pthread_mutex_lock(&e->lock);
	at->q->work = NULL;
	if (at->job)
		vm_job_remove(&at->q->desk->jobs, at->job);
	pthread_mutex_unlock(&e->lock);
	vm_work_fini(&at->work);
	vm_desk_tell(e, at->q->desk, false);
}

static int cancel_job(struct vm_request *q, uint64_t id, struct vs_err *err)
{
	if (vm_desk_cancel(q->engine, q->desk, id))
		return 0;
	return vs_err_set(err, -ENOENT, "there is no job %" PRIu64 " of ours", id);
}

static int run_deletes(struct vm_work *w, const struct vm_command *c, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->n_names; i++) {
		r = vm_op_delete(w, c->names[i], err);
		if (r < 0 && c->n_names > 1)
			vs_err_prefix(err, "'%s'", c->names[i]);
	}
	return r;
}

static int run_prune(struct vm_work *w, struct vs_err *err)
{
	size_t dropped = 0;
	int r = vm_op_prune(w, &dropped, err);

	if (r == 0 && !w->try_only)
		vm_work_say(w, "%zu snapshots dropped", dropped);
	return r;
}

/* The snapshot is there whatever comes of the pruning, so that only shows in the sentence. */
static int run_create(struct vm_work *w, const struct vm_command *c, struct vs_err *err)
{
	struct vs_err why = {0};
	size_t dropped = 0;
	int r = vm_op_create(w, c, err);

	if (r < 0 || w->try_only)
		return r;
	if (!w->own || !w->own->policy || !strcmp(w->own->policy, "off"))
		return 0;
	r = vm_op_prune(w, &dropped, &why);
	if (r < 0)
		vm_work_say(w, "but retention failed: %s", vs_err_text(&why, r));
	else if (dropped)
		vm_work_say(w, "retention dropped %zu", dropped);
	return 0;
}

static int dispatch(struct vm_request *q, struct vm_work *w, const struct vm_command *c, struct vs_err *err)
{
	switch (c->verb) {
	case VM_CREATE: return run_create(w, c, err);
	case VM_DELETE: return run_deletes(w, c, err);
	case VM_COMMIT: return vm_op_commit(w, c->names[0], c->n_names > 1 ? c->names[1] : NULL, err);
	case VM_PULL: return vm_op_pull(w, c->n_names ? c->names[0] : NULL, err);
	case VM_REVERT: return vm_op_revert(w, c, err);
	case VM_HOLD: return vm_op_hold(w, c->names[0], true, err);
	case VM_RELEASE: return vm_op_hold(w, c->names[0], false, err);
	case VM_PRUNE: return run_prune(w, err);
	case VM_CANCEL: return cancel_job(q, c->job, err);
	}
	return vs_err_set(err, -EINVAL, "unknown command");
}

/* Was what the command's failure left seen too? In any case nobody is told "done" before the picture is a new one. */
static void see(struct vm_request *q)
{
	vm_refresh(q->engine->vm, REFRESH_MS);
}

static int run_command(struct vm_request *q, virConnectPtr conn, const struct vm_command *c)
{
	vs_autofree char *text = vm_command_text(c);
	struct vs_err err = {0};
	struct at_work at;
	int r;

	if (!text)
		return -ENOMEM;
	if (c->verb == VM_CANCEL) {
		r = c->try_only ? 0 : cancel_job(q, c->job, &err);
		report(q, text, r, NULL, &err);
		return r;
	}
	begin(&at, q, conn, text, c->try_only);
	r = vm_work_cancelled(&at.work, &err);
	if (r == 0)
		r = dispatch(q, &at.work, c, &err);
	if (!c->try_only)
		see(q);
	report(q, text, r, at.work.said, &err);
	end(&at);
	return r;
}

static int run_policy(struct vm_request *q, virConnectPtr conn)
{
	vs_autofree char *text = NULL;
	struct vs_err err = {0};
	struct at_work at;
	size_t dropped = 0;
	int r;

	if (asprintf(&text, "retain %s", q->policy) < 0) {
		text = NULL;
		return -ENOMEM;
	}
	begin(&at, q, conn, text, false);
	r = vm_op_policy(&at.work, q->policy, &err);
	if (r == 0) {
		pthread_mutex_lock(&q->engine->lock);
		q->desk->retain_ns = vm_now_ns();
		pthread_mutex_unlock(&q->engine->lock);
		r = vm_op_prune(&at.work, &dropped, &err);
		if (r < 0)
			vs_err_prefix(&err, "the policy is stored, but");
		else
			vm_work_say(&at.work, "stored; %zu snapshots dropped", dropped);
	}
	see(q);
	report(q, text, r, at.work.said, &err);
	end(&at);
	return r;
}

static int run_self(struct vm_request *q, virConnectPtr conn)
{
	const char *text = q->origin == VM_BY_MOUNT ? "repair" : "prune";
	struct vs_err err = {0};
	struct at_work at;
	size_t dropped = 0;
	int r;

	begin(&at, q, conn, text, false);
	r = q->origin == VM_BY_MOUNT ? vm_op_repair(&at.work, &err) : vm_op_prune(&at.work, &dropped, &err);
	see(q);
	if (r < 0 || dropped)
		report(q, text, r, at.work.said, &err);
	end(&at);
	return r;
}

/* ---------------------------------------------------------------- taking the domain */

static int refuse_busy(struct vm_request *q)
{
	const struct vs_err err = { .code = -EBUSY, .msg = "another command is at work on this domain" };

	report(q, "the command", -EBUSY, NULL, &err);
	return -EBUSY;
}

/* Waits while retention has the desk. */
static int take_desk(struct vm_request *q)
{
	struct vm_engine *e = q->engine;
	int r = 0;

	pthread_mutex_lock(&e->lock);
	while (q->desk->running && q->desk->running != q && q->desk->running->origin != VM_BY_WRITER && !atomic_load(&q->cancel) &&
	       !e->stop)
		pthread_cond_wait(&e->idle, &e->lock);
	if (atomic_load(&q->cancel) || e->stop)
		r = -ECANCELED;
	else if (q->desk->running && q->desk->running != q)
		r = -EBUSY;
	else
		q->desk->running = q;
	pthread_mutex_unlock(&e->lock);
	return r;
}

static bool leave_desk(struct vm_request *q)
{
	struct vm_engine *e = q->engine;
	bool due;

	pthread_mutex_lock(&e->lock);
	if (q->desk->running == q)
		q->desk->running = NULL;
	due = q->desk->prune_due && q->origin == VM_BY_WRITER && !q->desk->running && !e->stop;
	if (q->origin == VM_BY_RETENTION || due)
		q->desk->prune_due = false;
	pthread_cond_broadcast(&e->idle);
	pthread_mutex_unlock(&e->lock);
	return due;
}

/* Another mount may have it: waited for while that only prunes. */
static int take_lock(struct vm_request *q, struct vm_lock **lock, struct vs_err *err)
{
	bool pruning = false;
	int r;

	while ((r = vm_lock_take(q->desk->uuid, q->origin != VM_BY_WRITER, lock, &pruning, err)) == -EBUSY && pruning &&
	       !atomic_load(&q->cancel)) {
		usleep(LOCK_PAUSE_US);
		pruning = false;
	}
	return r;
}

static int open_connection(struct vm_request *q, virConnectPtr *conn, struct vs_err *err)
{
	*conn = NULL;
	if (q->engine->options.n_images)
		return 0;
	*conn = virConnectOpen(q->engine->options.uri);
	if (!*conn) {
		int r = vm_virterr_set(err, "libvirt");

		return r == -EIO || r == -EACCES ? vs_err_set(err, -EHOSTDOWN, "libvirt cannot be reached") : r;
	}
	virConnectSetKeepAlive(*conn, 5, 3);
	return 0;
}

static int run_all(struct vm_request *q, virConnectPtr conn)
{
	int r = 0;

	if (q->origin != VM_BY_WRITER)
		return run_self(q, conn);
	if (q->door == VM_DOOR_RETAIN)
		return run_policy(q, conn);
	for (size_t i = 0; r == 0 && i < q->commands.n; i++)
		r = run_command(q, conn, &q->commands.v[i]);
	return r;
}

static int run(struct vm_request *q)
{
	struct vm_lock *lock = NULL;
	virConnectPtr conn = NULL;
	struct vs_err err = {0};
	int r = q->aside ? 0 : take_desk(q);

	if (r == -EBUSY)
		return refuse_busy(q);
	if (r < 0)
		return r;
	if (!q->aside)
		r = take_lock(q, &lock, &err);
	if (r == 0)
		r = open_connection(q, &conn, &err);
	if (r < 0)
		report(q, "the command", r, NULL, &err);
	else
		r = run_all(q, conn);
	if (conn)
		virConnectClose(conn);
	vm_lock_release(lock);
	return r;
}

static void *request_thread(void *arg)
{
	struct vm_request *q = arg;
	struct vm_engine *e = q->engine;
	int r = run(q);
	struct vm_picture *pic = NULL;
	bool due = !q->aside && leave_desk(q);

	if (q->done)
		q->done(q->opaque, r);
	if (due) {
		pic = vm_picture_get(e->vm);
		for (size_t i = 0; i < pic->n_domains; i++)
			if (!strcmp(pic->domains[i]->uuid, q->desk->uuid))
				vm_request_self(e, pic->domains[i], VM_BY_RETENTION);
		vm_picture_put(pic);
	}
	vm_request_put(q);
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

static struct vm_request *request_new(struct vm_engine *e, const char *uuid, enum vm_origin origin)
{
	struct vm_request *q = calloc(1, sizeof(*q));
	struct vm_picture *pic;

	if (!q)
		return NULL;
	atomic_init(&q->refs, 1);
	q->engine = e;
	q->origin = origin;
	vm_arena_init(&q->commands.arena);
	pic = vm_picture_get(e->vm);
	for (size_t i = 0; i < pic->n_domains; i++)
		if (!strcmp(pic->domains[i]->uuid, uuid))
			q->log = vm_log_ref(pic->domains[i]->log);
	vm_picture_put(pic);
	pthread_mutex_lock(&e->lock);
	q->desk = q->log ? vm_desk_locked(e, uuid) : NULL;
	pthread_mutex_unlock(&e->lock);
	return q;
}

int vm_request_self(struct vm_engine *e, const struct vm_domain *d, enum vm_origin origin)
{
	struct vm_request *q = request_new(e, d->uuid, origin);
	int r = -ENOMEM;

	if (q && q->desk) {
		pthread_mutex_lock(&e->lock);
		r = q->desk->running || e->stop ? -EBUSY : 0;
		if (r == 0) {
			q->desk->running = q;
			r = start_locked(q);
			if (r < 0)
				q->desk->running = NULL;
		}
		pthread_mutex_unlock(&e->lock);
	}
	vm_request_put(q);
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
	return r < 0 || q->policy ? r : -ENOMEM;
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
		for (size_t i = 0; r == 0 && i < q->commands.n; i++)
			r = run_command(q, NULL, &q->commands.v[i]);
		return r;
	}
	pthread_mutex_lock(&e->lock);
	busy = !q->aside && q->desk->running && q->desk->running->origin == VM_BY_WRITER;
	if (!busy && !q->aside && !q->desk->running)
		q->desk->running = q;
	r = e->stop ? -ECANCELED : busy ? -EBUSY : start_locked(q);
	if (r < 0 && q->desk->running == q)
		q->desk->running = NULL;
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

	if (!q || !q->desk) {
		r = !q || q->log ? -ENOMEM : -ENOENT;
		vm_request_put(q);
		return r;
	}
	q->door = door;
	q->done = done;
	q->opaque = opaque;
	r = parse(q, text, len, &err);
	if (r < 0)
		report(q, door == VM_DOOR_CTL ? "the line" : "retain", r, NULL, &err);
	else
		r = submit(q);
	*out = q;
	if (r <= 0 && done)
		done(opaque, r);
	return 0;
}
