/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * write.h: writes to `ctl` and `retain`, each answered when its command is done.
 *
 * The life of a write, and who takes it a step further:
 *
 *	running   the request thread has handed it to vm/ and is gone      done() of vm/, from a thread of vm/
 *	done      what came of it is known                                 the notifier, once it has told the kernel what
 *	                                                                   changed up to now (notify.c)
 *	answered
 *
 * or answered while it runs, since the writer's process ends; or, at the end of the session, *abandoned* while it runs: the
 * writer gets ECONNABORTED from the kernel. In both cases done() finds nobody any more.
 *
 * Threads: as the functions say. One thread of its own, the *watcher*, looks after writers that a signal interrupted.
 */
#ifndef VS_WRITE_H
#define VS_WRITE_H

#include "handle.h"
#include "notices.h"
#include "plan.h"
#include "reply.h"

struct sf_writes;
struct sf_write;

/* Gives the table. What it borrows is there for as long as vm/ may call. */
struct sf_writes *sf_writes_new(struct vm *vm, struct sf_handles *handles, struct sf_plans *plans, struct sf_notices *notices);
/* The caller's reference; done() may still come for what was abandoned. */
void sf_writes_put(struct sf_writes *writes);

/* Starts the watcher: before the first request. */
int sf_writes_start(struct sf_writes *writes);

/* A request thread: hands the text, written at @off, to vm/, through the door that @handle has open. 0: the request is answered later; or a
 * negative errno, and it is still the caller's. -ECANCELED: the session ends. */
int sf_writes_begin(struct sf_writes *writes, struct sf_req *r, struct sf_handle *handle, const char *text, size_t len,
		    uint64_t off);

/* The notifier: the writes that are done now, to be answered once the kernel knows what is new. NULL: none. */
struct sf_write *sf_writes_take_done(struct sf_writes *writes);
void sf_writes_answer(struct sf_writes *writes, struct sf_write *done);

/* Main: asks all that run to stop, lets no other one begin, and waits until they are answered, but not for ever. Requests
 * and notifier must still be there. */
void sf_writes_stop(struct sf_writes *writes);
/* Main, when requests and notifier have ended, but not the session: lets go of those that are left. Ends the watcher. */
void sf_writes_abandon(struct sf_writes *writes);

#endif
