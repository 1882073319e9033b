/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Every domain has a slot: who is at work on it, the jobs, the last outcome, its readers, what was there at the last look.
 *
 *      writer ── request ──► slot free ────────────────► thread: lock file, connection, commands, refresh, done
 *                        └─► slot taken by a command ──► EBUSY
 *                        └─► slot taken by retention ──► thread: waits for it, then as above
 *                        └─► only try and cancel ──────► thread (cancel: at once), beside whoever works
 *
 * A request is one thread; it holds no lock of ours while it works, so that texts, `cancel` and other domains never wait.
 * Retention takes a slot by itself when a snapshot has appeared; what appears while a request works is looked at when it ends.
 *
 * Locks: the engine's only. Callbacks to fs/ are made without it.
 */
#include "vm/engine/engine-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/command/usages.h"
#include "vm/libvirt/fsfreeze.h"
#include "vm/model/inventory.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define STOP_PATIENCE_S 10

/* ---------------------------------------------------------------- life */

struct vm_engine *vm_engine_new(struct vm_refresher *refresher, struct vm_store *store, const struct vm_options *options)
{
	struct vm_engine *e = xcalloc(1, sizeof(*e));
	pthread_condattr_t steady;

	e->refresher = refresher;
	e->store = store;
	e->usages = vm_usages_new();
	e->options = *options;
	e->options.uri = xstrdup_or_null(options->uri);
	pthread_mutex_init(&e->lock, NULL);
	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(&e->idle, &steady);
	pthread_condattr_destroy(&steady);
	return e;
}

int vm_engine_stop(struct vm_engine *e)
{
	struct timespec until = vm_ns_timespec(vm_steady_ns() + STOP_PATIENCE_S * VM_NS_PER_S);
	bool ended;

	pthread_mutex_lock(&e->lock);
	e->stop = true;
	vm_strmap_filter(&e->slots, vm_slot_cancel_running, NULL);
	pthread_cond_broadcast(&e->idle);
	while (e->threads && pthread_cond_timedwait(&e->idle, &e->lock, &until) == 0)
		;
	ended = !e->threads;
	pthread_mutex_unlock(&e->lock);
	vm_fsfreeze_await();
	return ended ? 0 : -EBUSY;
}

void vm_engine_free(struct vm_engine *e)
{
	if (!e)
		return;
	vm_strmap_clear(&e->slots, vm_slot_free);
	vm_usages_free(e->usages);
	pthread_cond_destroy(&e->idle);
	pthread_mutex_destroy(&e->lock);
	free((char *)e->options.uri);
	free(e);
}

/* ---------------------------------------------------------------- texts */

void vm_engine_ctl_text(struct vm_engine *e, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	vs_autofree char *usage = vm_command_usage();
	struct vm_slot *slot;

	pthread_mutex_lock(&e->lock);
	slot = vm_slot_locked(e, uuid);
	*text = xasprintf("%s\n\n%s", slot->outcome ? slot->outcome : "no command was given yet", usage);
	if (changed_ns)
		*changed_ns = slot->outcome_ns;
	pthread_mutex_unlock(&e->lock);
	*len = strlen(*text);
}

void vm_engine_retain_text(struct vm_engine *e, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	struct vm_meta *meta = vm_store_best(e->store, uuid, NULL);

	*text = xasprintf("%s\n", meta && meta->policy ? meta->policy : "off");
	*len = strlen(*text);
	vm_meta_free(meta);
	pthread_mutex_lock(&e->lock);
	if (changed_ns)
		*changed_ns = vm_slot_locked(e, uuid)->retain_ns;
	pthread_mutex_unlock(&e->lock);
}

/* One of ours works with libvirt's jobs, which are not foreign then. */
void vm_engine_jobs_text(struct vm_engine *e, const char *uuid, char **text, size_t *len, int64_t *changed_ns)
{
	struct vm_inventory *inv = vm_refresher_inventory(e->refresher);
	const struct vm_domain *d = vm_inventory_by_uuid(inv, uuid);
	struct vm_slot *slot;

	pthread_mutex_lock(&e->lock);
	slot = vm_slot_locked(e, uuid);
	vm_jobs_table(slot->jobs, slot->running ? NULL : d, text, len);
	if (changed_ns)
		*changed_ns = d && d->changed_ns > slot->jobs_ns ? d->changed_ns : slot->jobs_ns;
	pthread_mutex_unlock(&e->lock);
	vm_inventory_put(inv);
}

_Static_assert(VM_TALLIES == VM_CANCEL, "every verb that changes something comes before that");

void vm_engine_tallies(struct vm_engine *e, const char *uuid, struct vm_tally tallies[VM_TALLIES], int64_t *created_ns)
{
	struct vm_slot *slot;

	pthread_mutex_lock(&e->lock);
	slot = vm_slot_locked(e, uuid);
	memcpy(tallies, slot->tallies, sizeof(slot->tallies));
	*created_ns = slot->created_ns;
	pthread_mutex_unlock(&e->lock);
	for (int verb = 0; verb < VM_TALLIES; verb++)
		tallies[verb].command = vm_verb_word((enum vm_verb)verb);
}

int vm_engine_plan_text(struct vm_engine *e, const char *uuid, const char *policy, char **text, size_t *len, struct vs_err *err)
{
	struct vm_inventory *inv = vm_refresher_inventory(e->refresher);
	const struct vm_domain *d = vm_inventory_by_uuid(inv, uuid);
	const struct vm_readers readers = vm_engine_readers(e);
	struct vm_meta *meta = policy ? NULL : vm_store_best(e->store, uuid, NULL);
	struct vm_retain_snapshot *snaps = NULL;
	struct vm_retain_verdict *verdicts = NULL;
	size_t n = 0;
	int r = d ? 0 : vs_err_set(err, -ENOENT, "there is no such domain");

	if (r == 0)
		r = vm_plan_make(e->store, &readers, d, policy ? policy : meta ? meta->policy : NULL, NULL, &snaps, &verdicts, &n,
				 err);
	if (r == 0)
		vm_retain_plan_text(snaps, verdicts, n, NULL, text, len);
	if (r == -EINVAL && d && err)
		vm_log(d->log, "retain.plan: %s (EINVAL)", err->msg);
	free(snaps);
	free(verdicts);
	vm_meta_free(meta);
	vm_inventory_put(inv);
	return r;
}
