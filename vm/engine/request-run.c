/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What a request does once it has the domain. The outcome of each command is a line "ok: COMMAND: what was done" or "failed:
 * COMMAND: why (errno)"; before it is said, the inventory is one that was begun after the change.
 */
#include "vm/command/command.h"
#include "vm/engine/engine-priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vm/command/guest.h"
#include "vm/command/space.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"
#include "vm/util/utf8.h"

#define REFRESH_MS 30000

/* ---------------------------------------------------------------- words */

void vm_request_report(struct vm_request *q, const char *command, int r, const char *said, const struct vs_err *err)
{
	vs_autofree char *line = NULL;
	bool tries = !strncmp(command, "try ", strlen("try "));

	if (r < 0)
		line = xasprintf("failed: %s: %s (%s)", command, vs_err_text(err, r), strerrorname_np(-r) ? strerrorname_np(-r) : "?");
	else
		line = xasprintf("ok: %s%s%s", command, said && said[0] ? ": " : "", said ? said : "");
	if (q->origin == VM_BY_WRITER) {
		free(q->outcome);
		q->outcome = vm_utf8_escape(line, strlen(line), "");
		vm_slot_outcome(q->engine, q->slot, q->outcome);
	}
	(r < 0 && !tries && r != -ECANCELED ? vm_log_warn : vm_log)(q->log, "%s", line);
}

/* ---------------------------------------------------------------- one command */

struct at_command {
	struct vm_context cx; /* first: what `opaque` of the watch points to */
	struct vm_request *q;
	struct vm_run *job;  /* or NULL */
	virConnectPtr conn;
};

static void on_progress(void *opaque, uint64_t cur, uint64_t end, uint64_t speed)
{
	struct at_command *at = opaque;

	if (!at->job)
		return;
	pthread_mutex_lock(&at->q->engine->lock);
	at->job->cur = cur;
	at->job->end = end;
	at->job->speed = speed;
	at->job->left = at->cx.left;
	pthread_mutex_unlock(&at->q->engine->lock);
	vm_slot_tell(at->q->engine, at->q->slot, true);
}

static void on_step(void *opaque, const char *step)
{
	struct at_command *at = opaque;

	vm_log(at->q->log, "%s: %s", at->cx.command, step);
}

static void begin(struct at_command *at, struct vm_request *q, virConnectPtr conn, const char *command, bool try_only)
{
	struct vm_engine *e = q->engine;

	memset(at, 0, sizeof(*at));
	at->q = q;
	at->conn = conn;
	at->cx.readers = vm_engine_readers(e);
	at->cx.refresher = e->refresher;
	at->cx.store = e->store;
	at->cx.usages = e->usages;
	at->cx.survey = q->origin == VM_BY_COUNT;
	at->cx.options = &e->options;
	at->cx.uuid = q->slot->uuid;
	at->cx.conn = conn;
	at->cx.log = q->log;
	at->cx.command = command;
	at->cx.journal = (struct vm_journal){ e->store, q->slot->uuid, command };
	at->cx.try_only = try_only;
	at->cx.now_read = conn && q->origin != VM_BY_NOW && q->origin != VM_BY_COUNT ? vm_lock_now_holder(q->slot->uuid) : NULL;
	q->met_now = at->cx.now_read != NULL;
	at->cx.watch.progress = on_progress;
	at->cx.watch.step = on_step;
	at->cx.watch.opaque = at;
	pthread_mutex_lock(&e->lock);
	atomic_store(&at->cx.watch.cancel, atomic_load(&q->cancel));
	q->cx = &at->cx;
	at->cx.beside = try_only && q->slot->running && q->slot->running != q;
	if (!try_only)
		at->job = vm_job_add(&q->slot->jobs, ++e->next_job, vm_utf8_escape(command, strlen(command), ""));
	pthread_mutex_unlock(&e->lock);
	if (!try_only && q->origin != VM_BY_WATCH)
		vm_log_set_quiet(q->log, true);
	if (q->origin != VM_BY_COUNT)
		vm_slot_tell(e, q->slot, false);
}

/* A guest that was started for it is ended before the outcome is told. What a failure has left is looked at then. */
static int end_guest(struct at_command *at, int r, struct vs_err *err)
{
	struct vs_err why = {0};
	bool was_up = at->cx.guest_up;
	int ended = vm_guest_end(&at->cx, &why);

	if (r < 0 && was_up && !at->cx.guest_up)
		vm_command_look_back(&at->cx);

	return r < 0 || ended == 0 ? r : vs_err_set(err, ended, "%s", why.msg);
}

static void end(struct at_command *at)
{
	struct vm_engine *e = at->q->engine;

	pthread_mutex_lock(&e->lock);
	at->q->cx = NULL;
	if (at->job) {
		vm_job_remove(&at->q->slot->jobs, at->job);
		vm_log_set_quiet(at->q->log, false);
	}
	pthread_mutex_unlock(&e->lock);
	vm_context_fini(&at->cx);
	free(at->cx.now_read);
	if (at->q->origin != VM_BY_COUNT)
		vm_slot_tell(e, at->q->slot, false);
}

static int cancel_job(struct vm_request *q, const struct vm_command *c, struct vs_err *err)
{
	uint64_t id = c->job;

	if ((c->try_only ? vm_slot_has_job : vm_slot_cancel)(q->engine, q->slot, id))
		return 0;
	return vs_err_set(err, -ENOENT, "there is no job %" PRIu64 " of ours", id);
}

/* Work on an image that nobody waits for any more ends so; to who asked for the command it is the cancelling. */
static int not_interrupted(int r, struct vs_err *err)
{
	return r == -EINTR ? vs_err_set(err, -ECANCELED, "cancelled") : r;
}

/* libvirt calls "not valid" what it cannot do because QEMU was killed meanwhile. There is nothing wrong with the line. */
static int not_stopped(const struct at_command *at, enum vm_verb verb, int r, struct vs_err *err)
{
	if ((r != -EINVAL && r != -EIO) || verb == VM_REVERT || !at->cx.running || !at->cx.dom || vm_dom_active(at->cx.dom, NULL) != 0)
		return r;
	vs_err_prefix(err, "the guest has stopped");
	return -EIO;
}

/* Was what the command's failure left seen too? In any case nobody is told "done" before the inventory is a new one. */
static void see(struct vm_request *q)
{
	vm_log_set_quiet(q->log, false);
	vm_refresher_poll(q->engine->refresher, REFRESH_MS);
}

static void count(struct vm_request *q, enum vm_verb verb, int r)
{
	struct vm_tally *tally = &q->slot->tallies[verb];

	pthread_mutex_lock(&q->engine->lock);
	(*(r < 0 ? &tally->failed : &tally->ok))++;
	if (verb == VM_CREATE && r >= 0)
		q->slot->created_ns = vm_now_ns();
	pthread_mutex_unlock(&q->engine->lock);
}

int vm_request_command(struct vm_request *q, virConnectPtr conn, const struct vm_command *c)
{
	vs_autofree char *text = vm_command_text(c);
	struct vs_err err = {0};
	struct at_command at;
	int r;

	if (c->verb == VM_CANCEL) {
		r = cancel_job(q, c, &err);
		vm_request_report(q, text, r, c->try_only ? "would ask it to stop" : NULL, &err);
		return r;
	}
	begin(&at, q, conn, text, c->try_only);
	r = vm_context_cancelled(&at.cx, &err);
	if (r == 0)
		r = vm_command_run(&at.cx, c, &err);
	r = not_interrupted(r, &err);
	r = not_stopped(&at, c->verb, r, &err);
	r = end_guest(&at, r, &err);
	if (!c->try_only) {
		see(q);
		count(q, c->verb, r);
	}
	vm_request_report(q, text, r, at.cx.said, &err);
	end(&at);
	return r;
}

static void tell_policy(struct vm_context *cx, const char *policy, size_t dropped)
{
	if (dropped)
		vm_context_say(cx, "stored; dropped %zu snapshot%s", dropped, vm_context_plural(dropped));
	else
		vm_context_say(cx, strcmp(policy,
					  "off") != 0 ? "stored; nothing to drop" : "stored; nothing is dropped any more");
}

static int run_policy(struct vm_request *q, virConnectPtr conn)
{
	vs_autofree char *text = xasprintf("retain %s", q->policy);
	struct vs_err err = {0};
	struct at_command at;
	size_t dropped = 0;
	int r;

	begin(&at, q, conn, text, false);
	r = vm_command_policy(&at.cx, q->policy, &err);
	if (r == 0) {
		pthread_mutex_lock(&q->engine->lock);
		q->slot->retain_ns = vm_now_ns();
		pthread_mutex_unlock(&q->engine->lock);
		r = not_interrupted(vm_command_prune(&at.cx, &dropped, &err), &err);
		if (r < 0)
			vs_err_prefix(&err, "the policy is stored, but");
		else
			tell_policy(&at.cx, q->policy, dropped);
	}
	r = end_guest(&at, r, &err);
	see(q);
	vm_request_report(q, text, r, at.cx.said, &err);
	end(&at);
	return r;
}

/* What could not be noted is tried again; that libvirt is away, or somebody else at work, is no news. */
static int run_note(struct vm_request *q, virConnectPtr conn)
{
	struct vs_err err = {0};
	struct at_command at;
	int r;

	begin(&at, q, conn, vm_origin_text(q->origin), false);
	r = vm_command_note(&at.cx, &err);
	if (r > 0)
		see(q);
	if (r < 0 && vm_origin_tells(q->origin, r))
		vm_request_report(q, vm_origin_text(q->origin), r, NULL, &err);
	end(&at);
	return r < 0 ? r : 0;
}

/* It is told to who waits for it, and by the log as far as anything was done. */
static int run_now(struct vm_request *q, virConnectPtr conn)
{
	struct vm_now_begun *begun = q->begun;
	struct at_command at;
	int r = vm_lock_take_now(q->slot->uuid, &begun->lock, &begun->why);

	if (r < 0)
		return r;
	if (virConnectRef(conn) == 0)
		begun->conn = conn;
	begin(&at, q, conn, vm_origin_text(q->origin), false);
	r = vm_now_job_begin(&at.cx, &begun->job, &begun->why);
	vm_log_set_quiet(q->log, false);
	end(&at);
	return r;
}

/* Another mount reads now/ still: it is no news. */
static bool waits_still(struct vm_request *q, int r)
{
	bool waits;

	pthread_mutex_lock(&q->engine->lock);
	waits = r == -EBUSY && q->origin == VM_BY_RETENTION && q->met_now && q->slot->prune_later.pause_ns;
	pthread_mutex_unlock(&q->engine->lock);
	return waits;
}

static int run_self(struct vm_request *q, virConnectPtr conn)
{
	const char *text = vm_origin_text(q->origin);
	struct vs_err err = {0};
	struct at_command at;
	size_t dropped = 0;
	bool news;
	int r;

	begin(&at, q, conn, text, false);
	r = q->origin == VM_BY_MOUNT ? vm_command_repair(&at.cx, &err) : vm_command_prune(&at.cx, &dropped, &err);
	r = not_interrupted(r, &err);
	r = end_guest(&at, r, &err);
	see(q);
	news = (r < 0 || dropped) && !waits_still(q, r);
	if (q->origin == VM_BY_RETENTION && news)
		count(q, VM_PRUNE, r);
	if (news)
		vm_request_report(q, text, r, at.cx.said, &err);
	end(&at);
	return r;
}

static int run_count(struct vm_request *q, virConnectPtr conn)
{
	const char *text = q->plans ? "retain.plan" : vm_origin_text(q->origin);
	struct vs_err err = {0};
	struct at_command at;
	int r;

	begin(&at, q, conn, text, true);
	r = q->plans ? vm_command_count_plan(&at.cx, q->policy, &q->plan, &err) : vm_command_space(&at.cx, &q->space, &err);
	r = not_interrupted(r, &err);
	if (r < 0 && vm_origin_tells(q->origin, r))
		vm_request_report(q, text, r, NULL, &err);
	end(&at);
	return r;
}

int vm_request_do(struct vm_request *q, virConnectPtr conn)
{
	int r = 0;

	if (q->origin == VM_BY_WATCH)
		return run_note(q, conn);
	if (q->origin == VM_BY_COUNT)
		return run_count(q, conn);
	if (q->origin == VM_BY_NOW)
		return run_now(q, conn);
	if (q->origin != VM_BY_WRITER)
		return run_self(q, conn);
	if (q->door == VM_DOOR_RETAIN)
		return run_policy(q, conn);
	for (size_t i = 0; r == 0 && i < q->commands.n; i++)
		r = vm_request_command(q, conn, &q->commands.v[i]);
	return r;
}
