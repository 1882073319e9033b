/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* engine-priv.h: shared by engine.c (life, texts), slot.c (all about one domain), request.c (threads, whose turn it is),
 * request-run.c (commands) and retention.c. */
#ifndef VS_VM_ENGINE_ENGINE_PRIV_H
#define VS_VM_ENGINE_ENGINE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "vm/command/now.h"
#include "vm/engine/engine.h"
#include "vm/engine/jobs.h"
#include "vm/util/lock.h"
#include "vm/model/space.h"
#include "vm/util/strmap.h"

struct vm_reader {
	uint64_t ino;
	int count;
};

/* What is tried again, but not for ever at one pace. */
struct vm_later {
	int64_t at_ns;    /* steady; 0: not waited for */
	int64_t pause_ns; /* before it, the next one is longer */
};

/* All about one domain; lives as long as the engine. Guarded by the engine's lock, except uuid. */
struct vm_slot {
	char *uuid;
	struct vm_request *running; /* has the domain; NULL: nobody */
	struct vm_run *jobs;
	char *outcome;              /* the last one, a line; NULL: none */
	int64_t outcome_ns, jobs_ns, retain_ns, told_ns;
	struct vm_tally tallies[VM_TALLIES]; /* by verb; .command is not filled in */
	int64_t created_ns;         /* when the last `create` was done; 0: none */
	struct vm_reader *readers;
	size_t n_readers;
	uint64_t *seen;             /* identities of the snapshots that were there, sorted */
	size_t n_seen;
	int64_t seen_ns;            /* when the domain that they were of had changed */
	bool greeted;               /* seen is filled */
	bool repaired;
	enum vm_rest { VM_REST_NONE, VM_REST_PAUSED, VM_REST_OFF } rest; /* when it was last seen with nobody of ours at work */
	int64_t unnoted_ns;         /* steady: since when there is something to be noted, or it was tried; 0: there is nothing */
	int64_t note_pause_ns;      /* then: from there to the next try */
	struct vm_now *now;         /* that more readers may join; NULL: none */
	bool now_job;               /* one has its turn, until all that it left is gone */
	bool prune_waits;           /* for it, and is due then */
	struct vm_later prune_later; /* it is due, but not before: another mount reads now/ */
	bool now_left;              /* what is noted of now/ is of this mount */
	char *now_said;             /* why that is not cleared away, as the log has it; NULL: nothing */
	struct vm_later now_later;  /* it is tried again */
	bool prune_due;             /* a snapshot appeared that no pruning has looked at yet */
};

struct vm_engine {
	struct vm_refresher *refresher;
	struct vm_store *store;
	struct vm_usages *usages;
	struct vm_options options; /* strings are ours */
	pthread_mutex_t lock;
	pthread_cond_t idle;       /* a request has left its domain, or a thread has ended */
	struct vm_strmap slots;
	uint64_t next_job;
	unsigned threads, nows;    /* of the threads, those of now.c */
	bool stop, end_now;        /* end_now: no backup job is begun, and each one ends */
};

enum vm_origin { VM_BY_WRITER, VM_BY_RETENTION, VM_BY_MOUNT, VM_BY_WATCH, VM_BY_COUNT, VM_BY_NOW };
/* request.c: as `jobs` and the log call what was not written by anybody; and is its failure news? It is tried again where somebody else is at work, and a
 * note also where libvirt is away. */
const char *vm_origin_text(enum vm_origin origin);
bool vm_origin_tells(enum vm_origin origin, int r);

/* What comes of a request to begin a backup job for now/; on failure as far as it came. */
struct vm_now_begun {
	struct vm_now_job job;
	struct vm_lock *lock; /* of the domain's now/; NULL: it was not to be had, and nothing was done */
	virConnectPtr conn;   /* a reference, or NULL */
	struct vs_err why;    /* it failed */
};

struct vm_request {
	atomic_uint refs;
	struct vm_engine *engine;
	struct vm_slot *slot;
	enum vm_origin origin;
	enum vm_door door;
	struct vm_commands commands; /* CTL */
	char *policy;                /* RETAIN: canonical; BY_COUNT: of which there is to be a plan, as it was written, or NULL */
	bool plans;                  /* BY_COUNT: that plan is to be counted, and not the space */
	struct vm_space *space;      /* BY_COUNT: what was counted */
	char *plan;                  /* likewise */
	bool met_now;                /* somebody read now/ when it began */
	bool aside;                  /* only `try` and `cancel`, or a reader's: it does not take the domain */
	atomic_bool cancel;
	struct vm_context *cx;        /* while it works; guarded by the engine's lock */
	vm_done_fn done;
	void *opaque;
	char *outcome;               /* what was said of its last command; its own thread's */
	struct vm_now_begun *begun;  /* VM_BY_NOW; borrowed */
	struct vm_log *log;
};

/* ---------------------------------------------------------------- slot.c */

/* Made if there is none. */
struct vm_slot *vm_slot_locked(struct vm_engine *engine, const char *uuid);
/* @line: fit to be shown. */
void vm_slot_outcome(struct vm_engine *engine, struct vm_slot *slot, const char *line);
/* `jobs` or the outcome have changed; @often: at most some times a second. */
void vm_slot_tell(struct vm_engine *engine, struct vm_slot *slot, bool often);
/* By number; false: there is none. */
bool vm_slot_has_job(struct vm_engine *engine, struct vm_slot *slot, uint64_t job);
bool vm_slot_cancel(struct vm_engine *engine, struct vm_slot *slot, uint64_t job);

/* From now on, after a longer pause each time: one second to one minute. */
void vm_later_again(struct vm_later *later);
/* Has it come? Then it is not waited for any more. */
bool vm_later_take(struct vm_later *later);

/* For vm_strmap_clear() and vm_strmap_filter(). */
void vm_slot_free(void *slot);
/* Asks whoever has the domain to stop. Locked. */
bool vm_slot_cancel_running(void *slot, void *opaque);

/* ---------------------------------------------------------------- requests and retention */

/* request-run.c: all that was asked for, on the domain that the request has. @conn: NULL for an image source. */
int vm_request_do(struct vm_request *q, virConnectPtr conn);
/* One command, told in `ctl` and in the log. */
int vm_request_command(struct vm_request *q, virConnectPtr conn, const struct vm_command *c);
/* The outcome of @command: @said what was done, @err why it failed with @r; either may be NULL. */
void vm_request_report(struct vm_request *q, const char *command, int r, const char *said, const struct vs_err *err);
/* retention.c: the next inventory is to have the domain looked after as a mount does; @prune: and pruned. */
void vm_engine_repair_later(struct vm_engine *engine, struct vm_slot *slot, bool prune);
/* Retention is due: begins it, if there is a policy. */
void vm_engine_prune(struct vm_engine *engine, struct vm_slot *slot, const struct vm_domain *d);

/* request.c: of who opens a file of now/, for vm_request_run(). NULL: there is no such domain. Gives. */
struct vm_request *vm_request_begin_now(struct vm_engine *engine, const char *uuid, struct vm_now_begun *begun);
/* From taking the domain to leaving it, in this thread. */
int vm_request_run(struct vm_request *q);

/* now.c: what a mount that was killed has left is cleared away, by who has the domain. */
void vm_engine_now_settle(struct vm_engine *engine, struct vm_slot *slot, virConnectPtr conn, struct vm_log *log);

/* request.c: a request of our own. */
int vm_request_self(struct vm_engine *engine, const struct vm_domain *d, enum vm_origin origin);

#endif
