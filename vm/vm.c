/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The facade: opens the rooms in order, closes them in the opposite one, and hands out what they have.
 *
 * NOTES ON THREADS
 * ----------------
 *	callers     those of fs/. They take a reference to the inventory, ask for texts, hand in what was written, and wait for a poll
 *	            (bounded, vm_refresh()); they never wait for libvirt, nor, but for a copy that was never read yet, for a disk.
 *	refresher   one (inventory/refresher.c): the only one that observes, but for the first look, which vm_open()'s caller makes. Owns what is remembered from one poll to the next (observe/),
 *	            swaps the inventory, and writes out the copies of metadata when it has nothing else to do. It tells fs/ and the
 *	            engine of each new inventory (vm.c, on_inventory). Joined by vm_close().
 *	requests    one for each write that is at work or waits for its domain, one for each vm_space() and vm_count_plan(), and one of our own where retention, a repair or a note is due
 *	            (engine/request.c). Has a connection to libvirt of its own (with qemu:///embed the one that all share); at most one at a
 *	            time has a domain (its slot). Waits for the refresher to poll, never the other way round. vm_close() cancels
 *	            who has a domain or waits for one, and waits a while; one that libvirt holds is left, and the process ends without touching what it uses.
 *	now         one for each domain whose now/ is read while it runs (engine/now.c), from the first open to what its backup job left being gone. Has a
 *	            connection of its own; begins as a request does, with the domain. vm_close() ends its job, and waits a while.
 *	askers      short-lived, one call of libvirt each that may never come back, with a connection of its own: observe/ask.c (is a
 *	            job there? what is a running domain's definition?), libvirt/fsfreeze.c (an agent; the end of the process waits for a thaw). And libvirt/delete.c: one call
 *	            that cannot be cancelled; the request waits for it, and asks how far it is over another connection.
 *	event loop  one for the process (libvirt/events.c): libvirt's events and timers, libvirt/blockjob-pulse.c. Sets flags and pokes the refresher.
 *
 * LOCKS, in rank order: who holds one may take only later ones
 * ------------------------------------------------------------
 *	1  flock of a file a domain, and a socket's name (util/lock.c) between mounts: held while a request has the domain; of
 *	                              its now/, a second one: while there is a backup job for it, or what one has left is cleared away
 *	2  vm_engine.lock             slots, requests, jobs, outcomes
 *	3  the event loop's           (libvirt/events.c) its users; held while its thread is started and joined
 *	4  a connection's             (libvirt/conn.c) what libvirt has hinted at; the refresher is poked under it, so that none is after close
 *	5  vm_refresher.lock          the current inventory; which poll was asked for, has begun, is done
 *	6  vm_store.files             files of metadata: held across write and fsync, so by who wants a text only until the
 *	                              copy was read once
 *	7  vm_store.lock              what is remembered of them
 *	8  leaves                     vm_log.lock, vm_usages.lock, that of the one connection to qemu:///embed, an asker's own, a pulse's, the count of freezing threads, the fault points'
 *
 * No lock but 1, 3 and 6 is held while somebody is waited for: libvirt, a disk, another thread. Inventories, records and headers that
 * others hold are immutable and counted.
 */
#include "vm/vm.h"

#include <errno.h>

#include "vm/engine/engine.h"
#include "vm/inventory/refresher.h"
#include "vm/util/mem.h"

struct vm {
	struct vm_store *store;
	struct vm_refresher *refresher;
	struct vm_engine *engine;
	void (*changed)(void *opaque);
	void *opaque;
};

/* ---------------------------------------------------------------- open and close */

static void on_inventory(void *opaque, const struct vm_inventory *inv, enum vm_look look)
{
	struct vm *vm = opaque;

	if (look == VM_LOOK_NEWS && vm->changed)
		vm->changed(vm->opaque);
	if (look != VM_LOOK_SAME)
		vm_engine_notice(vm->engine, inv);
	vm_engine_look(vm->engine, inv);
}

static void vm_free(struct vm *vm)
{
	vm_engine_free(vm->engine);
	vm_refresher_free(vm->refresher);
	vm_store_free(vm->store);
	free(vm);
}

static int open_rooms(struct vm *vm, const struct vm_options *options, struct vs_err *err)
{
	int r;

	vm->store = vm_store_new();
	if (!vm->store)
		return vs_err_set(err, -ENOMEM, "out of memory");
	r = vm_refresher_open(options, vm->store, &vm->refresher, err);
	if (r < 0)
		return r;
	vm->engine = vm_engine_new(vm->refresher, vm->store, options);
	return vm_refresher_start(vm->refresher, on_inventory, vm);
}

int vm_open(const struct vm_options *options, struct vm **out, struct vs_err *err)
{
	struct vm *vm;
	int r;

	if (!(options->refresh_s > 0 && options->refresh_s < 1e9))
		return vs_err_set(err, -EINVAL, "the refresh period must be more than 0 seconds");
	vm = xcalloc(1, sizeof(*vm));
	vm->changed = options->changed;
	vm->opaque = options->opaque;
	r = open_rooms(vm, options, err);
	if (r < 0) {
		vm_free(vm);
		return r;
	}
	*out = vm;
	return 0;
}

int vm_close(struct vm *vm)
{
	bool stopped, ended;

	if (!vm)
		return 0;
	vm_engine_now_end_all(vm->engine);
	vm_engine_note_all(vm->engine);
	stopped = vm_engine_stop(vm->engine) == 0;
	ended = vm_refresher_stop(vm->refresher);
	if (!stopped || !ended)
		return -EBUSY;
	vm_free(vm);
	return 0;
}

/* ---------------------------------------------------------------- what there is: see inventory/refresher.h */

struct vm_inventory *vm_inventory_get(struct vm *vm)
{
	return vm_refresher_inventory(vm->refresher);
}

int vm_refresh(struct vm *vm, unsigned timeout_ms)
{
	return vm_refresher_poll(vm->refresher, timeout_ms);
}

int vm_read_records(struct vm *vm, const char *uuid, unsigned timeout_ms, unsigned *asked)
{
	return vm_refresher_read(vm->refresher, uuid, timeout_ms, asked);
}

/* ---------------------------------------------------------------- commands: see engine/engine.h */

int vm_request(struct vm *vm, const char *uuid, enum vm_door door, const char *text, size_t len, vm_done_fn done,
	       void *opaque, struct vm_request **out)
{
	return vm_engine_request(vm->engine, uuid, door, text, len, done, opaque, out);
}

void vm_request_cancel(struct vm_request *request)
{
	vm_engine_request_cancel(request);
}

void vm_request_put(struct vm_request *request)
{
	vm_engine_request_put(request);
}

int vm_space(struct vm *vm, const char *uuid, vm_done_fn done, void *opaque, struct vm_request **out)
{
	return vm_engine_space(vm->engine, uuid, done, opaque, out);
}

struct vm_space *vm_request_space(struct vm_request *request)
{
	return vm_engine_request_space(request);
}

int vm_count_plan(struct vm *vm, const char *uuid, const char *policy, vm_done_fn done, void *opaque, struct vm_request **out)
{
	return vm_engine_count_plan(vm->engine, uuid, policy, done, opaque, out);
}

char *vm_request_plan(struct vm_request *request)
{
	return vm_engine_request_plan(request);
}

void vm_ctl_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	vm_engine_ctl_text(vm->engine, uuid, text, len, changed_ns);
}

void vm_retain_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	vm_engine_retain_text(vm->engine, uuid, text, len, changed_ns);
}

void vm_jobs_text(struct vm *vm, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	vm_engine_jobs_text(vm->engine, uuid, text, len, changed_ns);
}

int vm_plan_text(struct vm *vm, const char *uuid, const char *policy, char **text, size_t *len, struct vs_err *err)
{
	return vm_engine_plan_text(vm->engine, uuid, policy, text, len, err);
}

void vm_tallies(struct vm *vm, const char *uuid, struct vm_tally tallies[VM_TALLIES], int64_t *created_ns)
{
	vm_engine_tallies(vm->engine, uuid, tallies, created_ns);
}

void vm_reading(struct vm *vm, const char *uuid, uint64_t disk_ino, int delta)
{
	vm_engine_reading(vm->engine, uuid, disk_ino, delta);
}

int vm_now_open(struct vm *vm, const char *uuid, struct vm_now **out, struct vs_err *err)
{
	return vm_engine_now_open(vm->engine, uuid, out, err);
}

int vm_now_wait(struct vm_now *now, unsigned ms, struct vs_err *err)
{
	return vm_engine_now_wait(now, ms, err);
}

const char *vm_now_socket(const struct vm_now *now)
{
	return vm_engine_now_socket(now);
}

void vm_now_close(struct vm_now *now)
{
	vm_engine_now_close(now);
}

int64_t vm_now_time(struct vm *vm, const char *uuid)
{
	return vm_engine_now_begun(vm->engine, uuid);
}
