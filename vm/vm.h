/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * vm.h: what exists, who stands on what.
 *
 * A `struct vm` watches one source: a libvirt connection, or plain qcow2 files. Its refresher thread builds an immutable,
 * reference-counted inventory and swaps a pointer; everybody else only ever reads inventories. Nothing here blocks except
 * vm_open(), vm_close(), vm_refresh() and vm_read_records(), and no libvirt pointer leaves this folder.
 *
 * What an inventory has in it: model/types.h.
 *
 * Words: a *look* is once around everything, from libvirt's answers to an inventory; its number is called a *poll* (observe/history.h). It has
 * one to four *rounds* (observe/headers.h), in each of which every file is looked at once, and libvirt asked before and after. What a look
 * finds are *facts* (model/facts.h), what is concluded from them *verdicts* (graph/), what is stored of them in the domain's metadata *notes*
 * (meta/): the element there is called "facts" for historical reasons. A *mark* is the note of a command that was begun, which is its
 * *intent*; a *request* is a write to `ctl` or `retain`, a *command* one line of it.
 */
#ifndef VS_VM_H
#define VS_VM_H

#include "vm/model/space.h"
#include "vm/model/types.h"
#include "vm/util/log.h"

/* ---------------------------------------------------------------- the source */

struct vm;

/* Connects and builds the first inventory. Errors name the source. Gives *out. Starts threads: fork before. */
int vm_open(const struct vm_options *options, struct vm **out, struct vs_err *err);
/* Stops the threads. Inventories still held stay valid. 0; -EBUSY: a thread hangs in libvirt and may still call back: whatever
 * it uses,
 * the options' opaque included, has to stay until the process ends, which should be by _exit(2). */
int vm_close(struct vm *vm);

/* Gives the current inventory; never NULL, never blocks. */
struct vm_inventory *vm_inventory_get(struct vm *vm);

/* Asks for a new look and waits until an inventory is in place that was begun after this call.
 * 0, or -ETIMEDOUT, or -EHOSTDOWN while libvirt is away, or what else that look failed with. */
int vm_refresh(struct vm *vm, unsigned timeout_ms);

/* Waits until the records of that domain's snapshots have been read, where that was put off (vm_domain.unread): they come first now. 0; -ETIMEDOUT: not
 * yet; else what a look failed with, as -EHOSTDOWN. *asked: how many records were read so far, of all: while that rises it gets on. */
int vm_read_records(struct vm *vm, const char *uuid, unsigned timeout_ms, unsigned *asked);

/* ---------------------------------------------------------------- commands: the doors behind ctl, retain and jobs */

/*
 * A write to `ctl` or `retain` becomes a *request*: it is parsed whole before anything runs, then its commands run one
 * after the other on a thread of vm/, and `done` is called exactly once, from that thread (or from vm_request() itself when
 * the answer is known at once). @rc: 0 or the negative errno of README.md's table under "ctl"; the sentence is in vm_ctl_text() and
 * the log before `done` is called (another request may have said something since, so @outcome is this one's own, as
 * vm_ctl_text() has it, borrowed; NULL: it has not said anything), and what the commands changed is in the current inventory
 * (and `changed` was called).
 * A domain runs one request at a time: another one gets -EBUSY at once, except that it waits for pruning which retention
 * started by itself. `cancel`, `try` (its checks only read) and reading never wait.
 */
struct vm_request;
/* @uuid: vm_domain.uuid. @text: one write, any bytes. Gives *out (also when already done): vm_request_put() it, any time.
 * Returns 0 when `done` was or will be called; a negative errno (done is not called) for an unknown domain. */
int vm_request(struct vm *vm, const char *uuid, enum vm_door door, const char *text, size_t len, vm_done_fn done,
	       void *opaque, struct vm_request **out);
/* Asks it to stop at the next safe place. Harmless when it is done. Never blocks. */
void vm_request_cancel(struct vm_request *request);
void vm_request_put(struct vm_request *request);

/* Counts what the snapshots of a domain take and what deleting them would free, beside whoever is at work, on a thread of vm/; it only reads,
 * also of a mount that is read-only. As vm_request(), but for `ctl`, which says nothing of it. Returns 0 when `done` will be called. */
int vm_space(struct vm *vm, const char *uuid, vm_done_fn done, void *opaque, struct vm_request **out);
/* From `done` on, if that was told 0: gives what was counted, once. */
struct vm_space *vm_request_space(struct vm_request *request);
/* Likewise what vm_plan_text() says, with what each of those that would be dropped would free, and all together. */
int vm_count_plan(struct vm *vm, const char *uuid, const char *policy, vm_done_fn done, void *opaque, struct vm_request **out);
/* Likewise gives that text. */
char *vm_request_plan(struct vm_request *request);

/* Texts as read from the files. Each gives *text (not NULL) and its length, *changed_ns where not NULL; none blocks. */
void vm_ctl_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns); /* outcome, usage */
void vm_retain_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns); /* canonical policy */
void vm_jobs_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns);
/* What @policy (one line; NULL: the stored one) would keep and drop, and why. -EINVAL with a sentence: not a policy. */
int vm_plan_text(struct vm *vm, const char *uuid, const char *policy, char **text, size_t *len, struct vs_err *err);

/*
 * This instant of a running domain: a backup job of libvirt's, of all its disks at one point in time, which everybody shares who reads at that
 * time. The first one begins it, the last one's close ends it, and so does vm_close(); what is left of a mount that was killed is cleared
 * away by the next one. None of these waits but vm_now_wait().
 */
struct vm_now;
/* Gives *out: vm_now_close() it. -EROFS: a read-only mount. */
int vm_now_open(struct vm *vm, const char *uuid, struct vm_now **out, struct vs_err *err);
/* 1: it has begun, and goes on; 0: after so long it has not. Else how it has come to its end: -ESTALE: the domain does not run; -EBUSY: another
 * job is there, or a command is at work; -ENOSPC: there is no room for what the guest writes over; -EIO: it was ended. */
int vm_now_wait(struct vm_now *now, unsigned ms, struct vs_err *err);
/* Of one that has begun: the unix socket of an NBD server, with an export for each disk, by its target. Borrowed. */
const char *vm_now_socket(const struct vm_now *now);
void vm_now_close(struct vm_now *now);
/* Which instant is to be read of that domain: that of the job that goes on, else the present one. */
int64_t vm_now_time(struct vm *vm, const char *uuid);

/* How often each command was given, and when the last snapshot was taken here (0: none since this was mounted). Does not block. */
void vm_tallies(struct vm *vm, const char *uuid, struct vm_tally tallies[VM_TALLIES], int64_t *created_ns);

/* Readers, for retention (an open snapshot counts as held): @delta +1 at open, -1 at release of an image file. */
void vm_reading(struct vm *vm, const char *uuid, uint64_t disk_ino, int delta);

#endif
