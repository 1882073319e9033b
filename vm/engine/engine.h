/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * engine.h: who may command which domain when, and the threads that do it. See engine.c.
 *
 * Threads: any, except as said.
 */
#ifndef VS_VM_ENGINE_ENGINE_H
#define VS_VM_ENGINE_ENGINE_H

#include "vm/command/context.h"
#include "vm/language/retain.h"

struct vm_engine;
struct vm_request;
struct vm_now;

/* Borrows @refresher and @store; copies what it keeps of @options. Begins nothing yet. */
struct vm_engine *vm_engine_new(struct vm_refresher *refresher, struct vm_store *store, const struct vm_options *options);
/* Cancels what runs and waits for it, some seconds at most. 0; -EBUSY: a command hangs in libvirt, and everything it uses
 * has to be left behind. */
int vm_engine_stop(struct vm_engine *engine);
void vm_engine_free(struct vm_engine *engine); /* after a stop that returned 0 */

/* From the refresher, with every new inventory: snapshots that have appeared make retention run; domains that have appeared, come
 * up paused, or whose last request lost libvirt, are repaired. */
void vm_engine_notice(struct vm_engine *engine, const struct vm_inventory *inv);
/* From the refresher, with every look: what a request has left is looked after, though nothing else is new; and what is seen and has been so
 * for a while is noted where a command was ever given. */
void vm_engine_look(struct vm_engine *engine, const struct vm_inventory *inv);
/* Before the stop: the same at once, and waits for it, some seconds at most. */
void vm_engine_note_all(struct vm_engine *engine);

/* Before that: backup jobs of now/ end, some seconds at most are waited for them, and no more are begun. */
void vm_engine_now_end_all(struct vm_engine *engine);

/* Who has something open, as plans ask for it. */
struct vm_readers vm_engine_readers(struct vm_engine *engine);

/* ---------------------------------------------------------------- the doors of vm.h */

int vm_engine_request(struct vm_engine *engine, const char *uuid, enum vm_door door, const char *text, size_t len,
		      vm_done_fn done, void *opaque, struct vm_request **out);
int vm_engine_space(struct vm_engine *engine, const char *uuid, vm_done_fn done, void *opaque, struct vm_request **out);
struct vm_space *vm_engine_request_space(struct vm_request *q);
int vm_engine_count_plan(struct vm_engine *engine, const char *uuid, const char *policy, vm_done_fn done, void *opaque, struct vm_request **out);
char *vm_engine_request_plan(struct vm_request *q);
void vm_engine_request_cancel(struct vm_request *q);
void vm_engine_request_put(struct vm_request *q);
void vm_engine_ctl_text(struct vm_engine *engine, const char *uuid, char **text, size_t *len, int64_t *changed_ns);
void vm_engine_retain_text(struct vm_engine *engine, const char *uuid, char **text, size_t *len, int64_t *changed_ns);
void vm_engine_jobs_text(struct vm_engine *engine, const char *uuid, char **text, size_t *len, int64_t *changed_ns);
int vm_engine_plan_text(struct vm_engine *engine, const char *uuid, const char *policy, char **text, size_t *len,
			struct vs_err *err);
void vm_engine_tallies(struct vm_engine *engine, const char *uuid, struct vm_tally tallies[VM_TALLIES], int64_t *created_ns);
void vm_engine_reading(struct vm_engine *engine, const char *uuid, uint64_t disk_ino, int delta);
int vm_engine_now_open(struct vm_engine *engine, const char *uuid, struct vm_now **out, struct vs_err *err);
int vm_engine_now_wait(struct vm_now *now, unsigned ms, struct vs_err *err);
const char *vm_engine_now_socket(const struct vm_now *now);
int64_t vm_engine_now_begun(struct vm_engine *engine, const char *uuid);
void vm_engine_now_close(struct vm_now *now);

#endif
