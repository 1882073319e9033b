/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Signals
 * -------
 * The kernel tells once that a signal has come for a writer, of whatever kind, and from then on only a fatal one would
 * wake it, without another word to us. So a write that was interrupted is *watched*: several times a second the
 * watcher asks /proc what became of the writer (mortal.h). If one of the signals is pending that cancel a command, the writer waits
 * for our answer all the same, and gets what the command's end says: ECANCELED, or success where it was too late. If something else
 * ends its process the command goes on, and the write is answered at once: the process could not end before, and could not be killed
 * either, and what the answer is nobody will see. Such a writer is *gone*; so is one whose command, though cancelled, does not end for
 * STUCK_S: it hangs in a libvirt that waits for a QEMU which does not answer.
 *
 * Races
 * -----
 * libfuse may call on_interrupt() for a request that is being answered in this moment. It keeps the request's memory for as
 * long as that takes, but nothing else: so the callback gets the table and not the write, and looks the write up by its
 * request. Each write is in the table until the one thread that answers it takes it out.
 *
 * done() may come before vm_request() has returned, or after the session's end. A write has one reference for the
 * thread that begins it and one that done() passes on to the notifier; the table has one for each write and one for the
 * file system, so what done() touches is there even if nothing else is.
 */
#include "write.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/queue.h>

#include "clock.h"
#include "mortal.h"
#include "text.h"
#include "vm/util/mem.h"

#define LOOK_NS 200000000   /* between looks at a writer that was interrupted */
#define PATIENCE_S 15       /* for commands to stop, when the session ends */
#define STUCK_S 20          /* that a writer waits for a command that it has cancelled */

enum state { RUNNING, DONE, ABANDONED };

struct sf_write {
	/* immutable */
	struct sf_writes *owner;
	struct sf_req req;
	struct sf_handle *handle; /* not once it was answered or is abandoned */
	char *uuid;               /* of its domain */
	enum sf_kind kind;        /* of its file */
	size_t len;
	uint64_t off;
	pid_t tid; /* of the writing thread */
	/* guarded by the table's lock */
	unsigned refs;
	enum state state;
	struct vm_request *request; /* NULL until vm_request() has returned; set once */
	bool interrupted, cancelled;
	int64_t cancelled_ns;       /* when: it was by a signal */
	bool gone;                  /* answered while it runs */
	uint64_t looked;            /* the watcher's round */
	LIST_ENTRY(sf_write) running;
	STAILQ_ENTRY(sf_write) done;
	int rc;
	struct sf_text *text;       /* what the file says when it is done */
};

struct sf_writes {
	/* borrowed */
	struct vm *vm;
	struct sf_handles *handles;
	struct sf_plans *plans;
	struct sf_notices *notices;
	pthread_t watcher;
	bool watching;    /* main's own: the watcher runs */
	pthread_mutex_t lock;
	pthread_cond_t wake; /* a write was interrupted || ended */
	pthread_cond_t idle; /* !n_open */
	/* guarded by lock */
	unsigned refs;
	LIST_HEAD(, sf_write) running;
	STAILQ_HEAD(, sf_write) done; /* in the order in which they were done */
	size_t n_open;                /* running, done, or being answered */
	bool stopping;                /* no new ones */
	bool ended;                   /* nobody answers any more */
	uint64_t round;
};

/* ---------------------------------------------------------------- references */

static void writes_free(struct sf_writes *writes)
{
	pthread_cond_destroy(&writes->wake);
	pthread_cond_destroy(&writes->idle);
	pthread_mutex_destroy(&writes->lock);
	free(writes);
}

void sf_writes_put(struct sf_writes *writes)
{
	bool last;

	pthread_mutex_lock(&writes->lock);
	last = --writes->refs == 0;
	pthread_mutex_unlock(&writes->lock);
	if (last)
		writes_free(writes);
}

static void write_free(struct sf_write *write)
{
	sf_text_unref(write->text);
	free(write->uuid);
	free(write);
}

static void write_put(struct sf_write *write)
{
	struct sf_writes *writes = write->owner;
	bool last;

	pthread_mutex_lock(&writes->lock);
	last = --write->refs == 0;
	pthread_mutex_unlock(&writes->lock);
	if (!last)
		return;
	if (write->request)
		vm_request_put(write->request);
	write_free(write);
	sf_writes_put(writes);
}

static struct sf_write *write_new(struct sf_writes *writes, const struct sf_req *r, struct sf_handle *handle, size_t len,
				  uint64_t off)
{
	struct sf_write *write = xcalloc(1, sizeof(*write));

	*write = (struct sf_write){
		.owner = writes,
		.req = *r,
		.handle = handle,
		.uuid = xstrdup(handle->uuid),
		.kind = handle->kind,
		.len = len,
		.off = off,
		.tid = fuse_req_ctx(r->req)->pid,
		.refs = 2, /* who begins it, and done() */
		.state = RUNNING,
	};
	return write;
}

struct sf_writes *sf_writes_new(struct vm *vm, struct sf_handles *handles, struct sf_plans *plans, struct sf_notices *notices)
{
	struct sf_writes *writes = xcalloc(1, sizeof(*writes));

	*writes = (struct sf_writes){.vm = vm, .handles = handles, .plans = plans, .notices = notices, .refs = 1};
	STAILQ_INIT(&writes->done);
	pthread_mutex_init(&writes->lock, NULL);
	sf_clock_cond_init(&writes->wake);
	sf_clock_cond_init(&writes->idle);
	return writes;
}

/* ---------------------------------------------------------------- the table */

static int enlist(struct sf_writes *writes, struct sf_write *write)
{
	bool stopping;

	pthread_mutex_lock(&writes->lock);
	stopping = writes->stopping;
	if (!stopping) {
		writes->refs++;
		writes->n_open++;
		LIST_INSERT_HEAD(&writes->running, write, running);
	}
	pthread_mutex_unlock(&writes->lock);
	return stopping ? -ECANCELED : 0;
}

static void close_locked(struct sf_writes *writes)
{
	assert(writes->n_open > 0);
	if (!--writes->n_open)
		pthread_cond_broadcast(&writes->idle);
}

/* vm_request() refused it: done() will not come, and the request is still the caller's. */
static void take_back(struct sf_writes *writes, struct sf_write *write)
{
	pthread_mutex_lock(&writes->lock);
	LIST_REMOVE(write, running);
	close_locked(writes);
	write->refs--;
	pthread_mutex_unlock(&writes->lock);
	write_put(write);
}

/* ---------------------------------------------------------------- begin, done, answer */

/* What the writer reads next through its own open file is what came of its own write, whatever others write after it: so it
 * is asked for here, as soon as it is there. The file system is still there, too: it stays if a write was abandoned. */
static struct sf_text *text_of(const struct sf_write *write, const char *outcome)
{
	if (write->kind == SF_CTL && outcome)
		return sf_text_outcome(write->owner->vm, write->uuid, outcome);
	return sf_text_live(write->owner->vm, write->uuid, write->kind);
}

/* The poke is within the lock: without it the write may be answered, and the last of all this be gone, before that. */
static void on_done(void *opaque, int rc, const char *outcome)
{
	struct sf_write *write = opaque;
	struct sf_writes *writes = write->owner;
	bool awaited;

	write->text = text_of(write, outcome);
	if (write->kind == SF_RETAIN && rc == 0) /* what somebody only wanted to see is of another time */
		free(sf_plans_take(writes->plans, write->uuid));
	pthread_mutex_lock(&writes->lock);
	write->rc = rc;
	awaited = write->state == RUNNING && !write->gone;
	if (write->state == RUNNING) {
		LIST_REMOVE(write, running);
		write->state = DONE;
		if (!awaited)
			close_locked(writes);
	}
	if (awaited) {
		STAILQ_INSERT_TAIL(&writes->done, write, done);
		sf_notices_poke(writes->notices);
	}
	pthread_mutex_unlock(&writes->lock);
	if (!awaited)
		write_put(write);
}

static void on_interrupt(fuse_req_t req, void *opaque)
{
	struct sf_writes *writes = opaque;
	struct sf_write *write;

	pthread_mutex_lock(&writes->lock);
	LIST_FOREACH(write, &writes->running, running)
		if (write->req.req == req && !write->gone)
			write->interrupted = true;
	pthread_cond_signal(&writes->wake);
	pthread_mutex_unlock(&writes->lock);
}

/* Main may have come by to stop all while this one had no request yet. */
static void set_request(struct sf_writes *writes, struct sf_write *write, struct vm_request *request)
{
	bool cancel;

	pthread_mutex_lock(&writes->lock);
	write->request = request;
	cancel = writes->stopping && write->state == RUNNING && !write->cancelled;
	write->cancelled |= cancel;
	pthread_mutex_unlock(&writes->lock);
	if (cancel)
		vm_request_cancel(request);
}

int sf_writes_begin(struct sf_writes *writes, struct sf_req *r, struct sf_handle *handle, const char *text, size_t len,
		    uint64_t off)
{
	enum vm_door door = handle->kind == SF_RETAIN ? VM_DOOR_RETAIN : VM_DOOR_CTL;
	struct sf_write *write = write_new(writes, r, handle, len, off);
	struct vm_request *request;
	int rc = enlist(writes, write);

	if (rc < 0) {
		write_free(write);
		return rc;
	}
	fuse_req_interrupt_func(r->req, on_interrupt, writes);
	rc = vm_request(writes->vm, handle->uuid, door, text, len, on_done, write, &request);
	if (rc < 0) {
		take_back(writes, write);
		return rc;
	}
	sf_req_take(r); /* answer() has a copy */
	set_request(writes, write, request);
	write_put(write);
	return 0;
}

struct sf_write *sf_writes_take_done(struct sf_writes *writes)
{
	struct sf_write *done;

	pthread_mutex_lock(&writes->lock);
	done = STAILQ_FIRST(&writes->done);
	STAILQ_INIT(&writes->done);
	pthread_mutex_unlock(&writes->lock);
	return done;
}

/* The handle is there: the kernel releases no file that is being written to. */
static void answer(struct sf_write *write)
{
	struct sf_handles *handles = write->owner->handles;
	int rc = write->rc;

	if (rc < 0)
		sf_handle_fail(handles, write->handle, rc);
	sf_handle_answer(handles, write->handle, vs_steal(write->text), write->off, rc < 0 ? 0 : write->len);
	if (rc >= 0)
		fuse_reply_write(sf_req_take(&write->req), write->len);
	sf_req_end(&write->req, rc < 0 ? rc : 0);
}

void sf_writes_answer(struct sf_writes *writes, struct sf_write *done)
{
	while (done) {
		struct sf_write *write = done;

		done = STAILQ_NEXT(write, done);
		answer(write);
		pthread_mutex_lock(&writes->lock);
		close_locked(writes);
		pthread_mutex_unlock(&writes->lock);
		write_put(write);
	}
}

/* ---------------------------------------------------------------- the watcher */

/* One that this round has not looked at yet, with a reference. *any: there are some to be watched at all. */
static struct sf_write *next_to_look_locked(struct sf_writes *writes, bool *any)
{
	struct sf_write *write;

	*any = false;
	LIST_FOREACH(write, &writes->running, running) {
		if (!write->interrupted || (write->cancelled && !write->cancelled_ns) || write->gone)
			continue;
		*any = true;
		if (!write->request || write->looked == writes->round)
			continue;
		write->looked = writes->round;
		write->refs++;
		return write;
	}
	return NULL;
}

static bool claim_cancel(struct sf_writes *writes, struct sf_write *write)
{
	bool first;

	pthread_mutex_lock(&writes->lock);
	first = !write->cancelled;
	write->cancelled = true;
	if (first)
		write->cancelled_ns = sf_clock_ns();
	pthread_mutex_unlock(&writes->lock);
	return first;
}

/* The writer does not wait any more. Others may have the file open still. */
static void let_go(struct sf_writes *writes, struct sf_write *write, int rc)
{
	bool first;

	pthread_mutex_lock(&writes->lock);
	first = write->state == RUNNING && !write->gone;
	write->gone |= first;
	pthread_mutex_unlock(&writes->lock);
	if (!first)
		return;
	sf_handle_answer(writes->handles, write->handle, NULL, write->off, 0);
	sf_req_end(&write->req, rc);
}

static void look_at(struct sf_writes *writes, struct sf_write *write)
{
	enum sf_fate fate;
	int64_t cancelled_ns;

	pthread_mutex_lock(&writes->lock);
	cancelled_ns = write->cancelled_ns;
	pthread_mutex_unlock(&writes->lock);
	if (cancelled_ns) {
		if (sf_clock_ns() - cancelled_ns > STUCK_S * SF_NS_PER_S)
			let_go(writes, write, -ECANCELED);
		return;
	}
	fate = sf_mortal_ask(write->tid);
	if (fate == SF_DIES)
		let_go(writes, write, -EINTR);
	else if (fate == SF_ENDED && claim_cancel(writes, write))
		vm_request_cancel(write->request);
}

/* One round. Says whether there is anything to look at again. */
static bool look_locked(struct sf_writes *writes)
{
	struct sf_write *write;
	bool any;

	writes->round++;
	while ((write = next_to_look_locked(writes, &any))) {
		pthread_mutex_unlock(&writes->lock);
		look_at(writes, write);
		write_put(write);
		pthread_mutex_lock(&writes->lock);
	}
	return any;
}

static void *watch(void *opaque)
{
	struct sf_writes *writes = opaque;

	pthread_mutex_lock(&writes->lock);
	while (!writes->ended) {
		if (look_locked(writes))
			sf_clock_wait(&writes->wake, &writes->lock, sf_clock_ns() + LOOK_NS);
		else if (!writes->ended)
			pthread_cond_wait(&writes->wake, &writes->lock);
	}
	pthread_mutex_unlock(&writes->lock);
	return NULL;
}

int sf_writes_start(struct sf_writes *writes)
{
	int rc = pthread_create(&writes->watcher, NULL, watch, writes);

	writes->watching = !rc;
	return -rc;
}

/* ---------------------------------------------------------------- the end */

/* One that runs and has not been asked to stop, with a reference. */
static struct sf_write *next_to_cancel_locked(struct sf_writes *writes)
{
	struct sf_write *write;

	LIST_FOREACH(write, &writes->running, running)
		if (write->request && !write->cancelled)
			break;
	if (write) {
		write->cancelled = true;
		write->refs++;
	}
	return write;
}

static void cancel_all_locked(struct sf_writes *writes)
{
	struct sf_write *write;

	while ((write = next_to_cancel_locked(writes))) {
		pthread_mutex_unlock(&writes->lock);
		vm_request_cancel(write->request);
		write_put(write);
		pthread_mutex_lock(&writes->lock);
	}
}

void sf_writes_stop(struct sf_writes *writes)
{
	int64_t end_ns = sf_clock_ns() + PATIENCE_S * SF_NS_PER_S;
	int rc = 0;

	pthread_mutex_lock(&writes->lock);
	writes->stopping = true;
	cancel_all_locked(writes);
	while (writes->n_open && rc != ETIMEDOUT)
		rc = sf_clock_wait(&writes->idle, &writes->lock, end_ns);
	pthread_mutex_unlock(&writes->lock);
}

/* The first one that still runs. done() will find it abandoned and put it. */
static struct sf_write *abandon_one_locked(struct sf_writes *writes)
{
	struct sf_write *write = LIST_FIRST(&writes->running);

	if (!write)
		return NULL;
	LIST_REMOVE(write, running);
	close_locked(writes);
	write->state = ABANDONED;
	write->refs++;
	return write;
}

void sf_writes_abandon(struct sf_writes *writes)
{
	struct sf_write *write;

	pthread_mutex_lock(&writes->lock);
	writes->ended = true;
	pthread_cond_signal(&writes->wake);
	while ((write = abandon_one_locked(writes))) {
		pthread_mutex_unlock(&writes->lock);
		if (!write->gone)
			fuse_reply_none(write->req.req);
		write_put(write);
		pthread_mutex_lock(&writes->lock);
	}
	pthread_mutex_unlock(&writes->lock);
	sf_writes_answer(writes, sf_writes_take_done(writes));
	if (writes->watching)
		pthread_join(writes->watcher, NULL);
	writes->watching = false;
}
