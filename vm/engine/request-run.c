/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What a request does once it has the domain. The outcome of each command is a line "ok: COMMAND: what was done" or "failed:
 * COMMAND: why (errno)"; before it is said, the picture is one that was begun after the change.
 */
#include "vm/engine/engine-priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/utf8.h"

#define REFRESH_MS 30000

/* ---------------------------------------------------------------- words */

void vm_request_report(struct vm_request *q, const char *command, int r, const char *said, const struct vs_err *err)
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
	if (q->origin == VM_BY_WRITER) {
		free(q->outcome);
		q->outcome = vm_utf8_escape(line, strlen(line), false);
		if (q->outcome)
			vm_desk_outcome(q->engine, q->desk, q->outcome);
	}
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
	at->job->left = at->work.left;
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
	at->work.beside = try_only && q->desk->running && q->desk->running != q;
	if (!try_only)
		at->job = vm_job_add(&q->desk->jobs, ++e->next_job, vs_steal(shown));
	pthread_mutex_unlock(&e->lock);
	free(shown);
	vm_desk_tell(e, q->desk, false);
}

/* A guest that was started for it is ended before the outcome is told. */
static int end_guest(struct at_work *at, int r, struct vs_err *err)
{
	struct vs_err why = {0};
	int ended = vm_work_guest_end(&at->work, &why);

	return r < 0 || ended == 0 ? r : vs_err_set(err, ended, "%s", why.msg);
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

static int cancel_job(struct vm_request *q, const struct vm_command *c, struct vs_err *err)
{
	uint64_t id = c->job;

	if ((c->try_only ? vm_desk_has_job : vm_desk_cancel)(q->engine, q->desk, id))
		return 0;
	return vs_err_set(err, -ENOENT, "there is no job %" PRIu64 " of ours", id);
}

static int run_prune(struct vm_work *w, struct vs_err *err)
{
	size_t dropped = 0;
	int r = vm_op_prune(w, &dropped, err);

	if (r == 0 && !w->try_only && !dropped)
		vm_work_say(w, "nothing to drop");
	else if (r == 0 && !w->try_only)
		vm_work_say(w, "dropped %zu snapshot%s", dropped, vm_work_plural(dropped));
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
		vm_work_say(w, "retention dropped %zu snapshot%s", dropped, vm_work_plural(dropped));
	return 0;
}

static int dispatch(struct vm_request *q, struct vm_work *w, const struct vm_command *c, struct vs_err *err)
{
	switch (c->verb) {
	case VM_CREATE: return run_create(w, c, err);
	case VM_DELETE: return vm_op_delete(w, c->names, c->n_names, err);
	case VM_COMMIT: return vm_op_commit(w, c->names[0], c->n_names > 1 ? c->names[1] : NULL, err);
	case VM_PULL: return vm_op_pull(w, c->n_names ? c->names[0] : NULL, err);
	case VM_REVERT: return vm_op_revert(w, c, err);
	case VM_HOLD: return vm_op_hold(w, c->names[0], true, err);
	case VM_RELEASE: return vm_op_hold(w, c->names[0], false, err);
	case VM_PRUNE: return run_prune(w, err);
	case VM_CANCEL: return cancel_job(q, c, err);
	}
	return vs_err_set(err, -EINVAL, "unknown command");
}

/* Was what the command's failure left seen too? In any case nobody is told "done" before the picture is a new one. */
static void see(struct vm_request *q)
{
	vm_refresh(q->engine->vm, REFRESH_MS);
}

int vm_request_command(struct vm_request *q, virConnectPtr conn, const struct vm_command *c)
{
	vs_autofree char *text = vm_command_text(c);
	struct vs_err err = {0};
	struct at_work at;
	int r;

	if (!text)
		return -ENOMEM;
	if (c->verb == VM_CANCEL) {
		r = cancel_job(q, c, &err);
		vm_request_report(q, text, r, c->try_only ? "would ask it to stop" : NULL, &err);
		return r;
	}
	begin(&at, q, conn, text, c->try_only);
	r = vm_work_cancelled(&at.work, &err);
	if (r == 0)
		r = dispatch(q, &at.work, c, &err);
	r = end_guest(&at, r, &err);
	if (!c->try_only)
		see(q);
	vm_request_report(q, text, r, at.work.said, &err);
	end(&at);
	return r;
}

static void tell_policy(struct vm_work *w, const char *policy, size_t dropped)
{
	if (dropped)
		vm_work_say(w, "stored; dropped %zu snapshot%s", dropped, vm_work_plural(dropped));
	else
		vm_work_say(w, strcmp(policy, "off") != 0 ? "stored; nothing to drop" : "stored; nothing is dropped any more");
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
			tell_policy(&at.work, q->policy, dropped);
	}
	r = end_guest(&at, r, &err);
	see(q);
	vm_request_report(q, text, r, at.work.said, &err);
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
	r = end_guest(&at, r, &err);
	see(q);
	if (r < 0 || dropped)
		vm_request_report(q, text, r, at.work.said, &err);
	end(&at);
	return r;
}

int vm_request_do(struct vm_request *q, virConnectPtr conn)
{
	int r = 0;

	if (q->origin != VM_BY_WRITER)
		return run_self(q, conn);
	if (q->door == VM_DOOR_RETAIN)
		return run_policy(q, conn);
	for (size_t i = 0; r == 0 && i < q->commands.n; i++)
		r = vm_request_command(q, conn, &q->commands.v[i]);
	return r;
}
