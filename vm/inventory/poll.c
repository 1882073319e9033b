/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * One look.
 *
 * libvirt's records and the files' headers are two witnesses, and they change together: a snapshot that is being deleted
 * is first merged, then re-pointed, then forgotten. Heard one after the other, with a job ending in between, they
 * would contradict each other, and a snapshot would seem stale that was merely deleted or is perfectly fine. So libvirt
 * is heard, then the files, then libvirt again; if it says something else than before, all is heard anew, a few
 * times at most. Then the facts go to the graph.
 *
 * Mostly nothing has happened. Where libvirt says what it said, no job runs, and no file has been touched that was
 * looked at last time, the domains of the inventory before are those of the next one, and nothing is opened or built.
 */
#include "vm/inventory/poll.h"

#include <errno.h>
#include <string.h>

#include "vm/inventory/build.h"
#include "vm/model/inventory.h"
#include "vm/observe/dirs.h"
#include "vm/observe/observe.h"
#include "vm/observe/pools.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define TRIES 4

struct vm_poll {
	struct vm_store *store;
	struct vm_headers *files;
	struct vm_history *memory;
	struct vm_log_shelf *shelf;
	struct vm_jobs_asker *asker;
	struct vm_observed observed;
	struct vm_dirs dirs;
	struct vm_pools pools;
	struct vm_build_cache cache;
	struct vm_arena arena; /* for allow_paths */
	char **allow_paths;
	size_t n_allow_paths;
	uint64_t journals; /* vm_store_journals() before the last pass */
	unsigned number;   /* of the last look that came to its end */
	bool unfinished; /* something changed that has not made it into an inventory */
	bool looked;     /* there was a look before: what is new now has appeared */
};

/* ---------------------------------------------------------------- life */

void vm_poll_free(struct vm_poll *poll)
{
	if (!poll)
		return;
	vm_build_cache_fini(&poll->cache);
	vm_observe_fini(&poll->observed);
	vm_pools_fini(&poll->pools);
	vm_dirs_fini(&poll->dirs);
	vm_headers_free(poll->files);
	vm_history_free(poll->memory);
	vm_log_shelf_free(poll->shelf);
	vm_jobs_asker_free(poll->asker);
	vm_arena_fini(&poll->arena);
	free(poll);
}

struct vm_poll *vm_poll_new(const struct vm_options *options, struct vm_store *store)
{
	struct vm_poll *poll = xcalloc(1, sizeof(*poll));

	poll->store = poll->dirs.store = store;
	poll->files = poll->dirs.files = vm_headers_new();
	poll->memory = vm_history_new();
	poll->shelf = vm_log_shelf_new(options->to_stderr);
	poll->asker = vm_jobs_asker_new(options->uri, options->read_only);
	vm_observe_init(&poll->observed, poll->shelf, poll->asker);
	vm_arena_init(&poll->arena);
	poll->allow_paths = vm_strings_copy(&poll->arena, options->allow_paths, options->n_allow_paths);
	poll->n_allow_paths = options->n_allow_paths;
	return poll;
}

void vm_poll_say(struct vm_poll *poll, const char *text)
{
	for (size_t i = 0; i < poll->observed.n_domains; i++)
		vm_log(poll->observed.domains[i]->log, "%s", text);
}

/* ---------------------------------------------------------------- a look */

struct pass {
	struct vm_poll *poll;
	struct vm_conn *conn;
	const struct vm_inventory *prev;
	struct vs_err *err;
	struct vm_hints hints;
	bool changed;   /* libvirt says something else than at the last look */
	bool closely;   /* nothing is taken on trust */
	bool ask_all;   /* libvirt has not been asked yet for every domain, as it is to be */
	bool making;    /* something is not shown yet because it is being made */
	uint64_t round;
};

static int observe_libvirt(struct pass *pass)
{
	struct vm_observed *observed = &pass->poll->observed;
	int r;

	observed->poll = pass->poll->number + 1;
	observed->closely = pass->ask_all;
	r = vm_observe_poll(observed, pass->conn, &pass->hints, pass->err);
	if (r < 0)
		return r;
	pass->hints = (struct vm_hints){0};
	pass->ask_all = false; /* in this look all were asked */
	pass->changed = observed->changed;
	if (pass->changed)
		pass->poll->unfinished = true;
	return 0;
}

static void begin_round(struct pass *pass)
{
	struct vm_poll *poll = pass->poll;

	pass->round = vm_headers_round(poll->files);
	vm_dirs_round(&poll->dirs, pass->closely);
	if (pass->closely)
		vm_headers_distrust(poll->files);
	pass->closely = false; /* in further rounds of this look it was all seen just now */
}

static bool quiet(struct pass *pass)
{
	struct vm_poll *poll = pass->poll;
	bool dirs_quiet;

	if (!pass->prev || pass->changed || poll->observed.jobs || poll->unfinished)
		return false;
	dirs_quiet = vm_dirs_quiet(&poll->dirs);
	return vm_backing_quiet(poll->files) && dirs_quiet;
}

/* Hears the files, and libvirt again. 1: it says the same still, *out is the inventory; 0: it does not. The build borrows what
 * libvirt said, which hearing it anew may free: so the last try, which is finished whatever libvirt says, does not ask. */
static int build_all(struct pass *pass, bool last_try, struct vm_inventory **out)
{
	struct vm_poll *poll = pass->poll;
	struct vm_build build = {
		.observed = &poll->observed, .files = poll->files, .memory = poll->memory, .dirs = &poll->dirs,
		.pools = &poll->pools,
		.cache = &poll->cache, .conn = pass->conn, .allow_paths = poll->allow_paths,
		.n_allow_paths = poll->n_allow_paths, .round = pass->round, .store = poll->store,
	};
	int r = 0;

	vm_build_draw(&build);
	if (last_try)
		pass->changed = true; /* as far as we know: look again soon */
	else
		r = observe_libvirt(pass);
	if (r == 0 && (!pass->changed || last_try)) {
		vm_history_poll(poll->memory, poll->number + 1);
		*out = vm_drafts_finish(&build.set, pass->prev);
		pass->making = build.set.unfinished;
		r = 1;
	}
	vm_build_fini(&build);
	return r;
}

static void greet_new(struct vm_poll *poll)
{
	struct vm_observed *observed = &poll->observed;

	for (size_t i = 0; i < observed->n_domains; i++) {
		if (poll->looked && !observed->domains[i]->greeted)
			vm_log(observed->domains[i]->log, "the domain appeared");
		observed->domains[i]->greeted = true;
	}
	poll->looked = true;
}

static int poll_around(struct pass *pass, bool pools_changed, struct vm_inventory **out)
{
	int r;

	begin_round(pass);
	r = observe_libvirt(pass);
	if (r < 0)
		return r;
	pass->poll->unfinished |= pools_changed;
	if (quiet(pass)) {
		*out = vm_inventory_again(pass->prev);
		pass->poll->number++;
		return 0;
	}
	for (int try = 1; r == 0; try++) {
		if (try > 1)
			begin_round(pass);
		greet_new(pass->poll);
		r = build_all(pass, try == TRIES, out);
	}
	if (r < 0)
		return r;
	pass->poll->unfinished = pass->changed || pass->making;
	pass->poll->number++;
	return 0;
}

int vm_poll_once(struct vm_poll *poll, struct vm_conn *conn, bool fresh, bool closely, const struct vm_inventory *prev,
		 struct vm_inventory **out, struct vs_err *err)
{
	struct pass pass = { .poll = poll, .conn = conn, .closely = closely, .ask_all = closely, .prev = prev, .err = err };
	bool pools_changed = false;
	uint64_t journals = vm_store_journals(poll->store);
	int r;

	poll->unfinished |= journals != poll->journals; /* what is noted as being made is a layer */
	poll->journals = journals;
	if (fresh) {
		vs_autofree char *uri = vm_conn_identity(vm_conn_ptr(conn));

		vm_store_connection(poll->store, uri);
	}
	vm_conn_hints(conn, &pass.hints);
	pass.hints.all |= fresh;
	r = vm_pools_poll(&poll->pools, vm_conn_ptr(conn), fresh || closely || pass.hints.pools, &pools_changed);
	if (r < 0 && !vm_conn_alive(conn))
		return vs_err_set(err, -EHOSTDOWN, "the connection to libvirt broke off");
	if (pools_changed)
		poll->cache.stale_ns = vm_steady_ns();
	r = poll_around(&pass, pools_changed, out);
	if (r < 0)
		poll->unfinished = true;
	return r;
}
