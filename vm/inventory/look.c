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
 * looked at last time, the domains of the picture before are those of the next one, and nothing is opened or built.
 */
#include "vm/inventory/look.h"

#include <errno.h>
#include <string.h>

#include "vm/inventory/build.h"
#include "vm/model/inventory.h"
#include "vm/observe/dirs.h"
#include "vm/observe/observe.h"
#include "vm/observe/pools.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"

#define TRIES 4

struct vm_inventory {
	struct vm_store *store;
	struct vm_files *files;
	struct vm_memory *memory;
	struct vm_log_shelf *shelf;
	struct vm_job_asker *asker;
	struct vm_known known;
	struct vm_dirs dirs;
	struct vm_pools pools;
	struct vm_sketch_cache cache;
	char **allow_paths;
	size_t n_allow_paths;
	bool unfinished; /* something changed that has not made it into a picture */
	bool looked;     /* there was a look before: what is new now has appeared */
};

/* ---------------------------------------------------------------- life */

void vm_inventory_free(struct vm_inventory *inv)
{
	if (!inv)
		return;
	vm_sketch_cache_fini(&inv->cache);
	vm_known_fini(&inv->known);
	vm_pools_fini(&inv->pools);
	vm_dirs_fini(&inv->dirs);
	vm_files_free(inv->files);
	vm_memory_free(inv->memory);
	vm_log_shelf_free(inv->shelf);
	vm_job_asker_free(inv->asker);
	for (size_t i = 0; i < inv->n_allow_paths; i++)
		free(inv->allow_paths[i]);
	free(inv->allow_paths);
	free(inv);
}

static bool copy_paths(struct vm_inventory *inv, const struct vm_options *options)
{
	inv->allow_paths = calloc(options->n_allow_paths + 1, sizeof(*inv->allow_paths));
	for (size_t i = 0; inv->allow_paths && i < options->n_allow_paths; i++) {
		inv->allow_paths[i] = strdup(options->allow_paths[i]);
		if (!inv->allow_paths[i])
			return false;
		inv->n_allow_paths++;
	}
	return inv->allow_paths;
}

struct vm_inventory *vm_inventory_new(const struct vm_options *options, struct vm_store *store)
{
	struct vm_inventory *inv = calloc(1, sizeof(*inv));

	if (!inv)
		return NULL;
	inv->store = store;
	inv->files = vm_files_new();
	inv->memory = vm_memory_new();
	inv->shelf = vm_log_shelf_new(options->to_stderr);
	inv->asker = vm_job_asker_new(options->uri, options->read_only);
	vm_known_init(&inv->known, inv->shelf, inv->asker);
	if (inv->files && inv->memory && inv->shelf && inv->asker && copy_paths(inv, options))
		return inv;
	vm_inventory_free(inv);
	return NULL;
}

void vm_inventory_say(struct vm_inventory *inv, const char *text)
{
	for (size_t i = 0; i < inv->known.n_domains; i++)
		vm_log(inv->known.domains[i]->log, "%s", text);
}

/* ---------------------------------------------------------------- a look */

struct look {
	struct vm_inventory *inv;
	struct vm_conn *conn;
	const struct vm_picture *prev;
	struct vs_err *err;
	struct vm_hints hints;
	bool changed;   /* libvirt says something else than at the last look */
	bool making;    /* something is not shown yet because it is being made */
	uint64_t round;
};

static int hear_libvirt(struct look *look)
{
	struct vm_known *known = &look->inv->known;
	int r;

	known->poll = look->round;
	r = vm_known_look(known, look->conn, &look->hints, look->err);
	if (r < 0)
		return r;
	look->hints = (struct vm_hints){0};
	look->changed = known->changed;
	if (look->changed)
		look->inv->unfinished = true;
	return 0;
}

static void begin_round(struct look *look)
{
	struct vm_inventory *inv = look->inv;

	look->round = vm_files_round(inv->files);
	vm_dirs_round(&inv->dirs);
}

static bool quiet(struct look *look)
{
	struct vm_inventory *inv = look->inv;
	bool dirs_quiet;

	if (!look->prev || look->changed || inv->known.jobs || inv->unfinished)
		return false;
	dirs_quiet = vm_dirs_quiet(&inv->dirs);
	return vm_files_quiet(inv->files) && dirs_quiet;
}

/* Takes the references in @domains, but not the array. */
static int finish(struct look *look, struct vm_domain **domains, size_t n, struct vm_picture **out)
{
	struct vm_picture *pic = vm_picture_new(domains, n, look->prev);

	if (!pic)
		return -ENOMEM;
	*out = pic;
	return 0;
}

static int same_again(struct look *look, struct vm_picture **out)
{
	const struct vm_picture *prev = look->prev;

	for (size_t i = 0; i < prev->n_domains; i++)
		vm_domain_ref(prev->domains[i]);
	return finish(look, prev->domains, prev->n_domains, out);
}

/* Hears the files, and libvirt again. 1: it says the same still, *out is the picture; 0: it does not. The sketch borrows what
 * libvirt said, which hearing it anew may free: so the last try, which is finished whatever libvirt says, does not ask. */
static int build(struct look *look, bool last_try, struct vm_picture **out)
{
	struct vm_inventory *inv = look->inv;
	struct vm_sketch sketch = {
		.known = &inv->known, .files = inv->files, .memory = inv->memory, .dirs = &inv->dirs, .pools = &inv->pools,
		.cache = &inv->cache, .conn = look->conn, .allow_paths = inv->allow_paths,
		.n_allow_paths = inv->n_allow_paths, .round = look->round, .store = inv->store,
	};
	struct vm_domain **domains = NULL;
	size_t n = 0;
	int r = vm_sketch_draw(&sketch);

	if (last_try)
		look->changed = true; /* as far as we know: look again soon */
	else if (r == 0)
		r = hear_libvirt(look);
	if (r == 0 && (!look->changed || last_try)) {
		vm_memory_poll(inv->memory, (unsigned)look->round);
		r = vm_sketch_finish(&sketch, look->prev, &domains, &n);
		look->making = sketch.set.unfinished;
		if (r == 0)
			r = finish(look, domains, n, out);
		if (r == 0)
			r = 1;
	}
	free(domains);
	vm_sketch_fini(&sketch);
	return r;
}

static void greet_new(struct vm_inventory *inv)
{
	struct vm_known *known = &inv->known;

	for (size_t i = 0; i < known->n_domains; i++) {
		if (inv->looked && !known->domains[i]->greeted)
			vm_log(known->domains[i]->log, "the domain appeared");
		known->domains[i]->greeted = true;
	}
	inv->looked = true;
}

static int look_around(struct look *look, bool pools_changed, struct vm_picture **out)
{
	int r = 0;

	begin_round(look);
	r = hear_libvirt(look);
	if (r < 0)
		return r;
	look->inv->unfinished |= pools_changed;
	if (quiet(look))
		return same_again(look, out);
	r = 0;
	for (int try = 1; r == 0; try++) {
		if (try > 1)
			begin_round(look);
		greet_new(look->inv);
		r = build(look, try == TRIES, out);
	}
	if (r < 0)
		return r;
	look->inv->unfinished = look->changed || look->making;
	return 0;
}

int vm_inventory_look(struct vm_inventory *inv, struct vm_conn *conn, bool fresh, const struct vm_picture *prev,
		      struct vm_picture **out, struct vs_err *err)
{
	struct look look = { .inv = inv, .conn = conn, .prev = prev, .err = err };
	bool pools_changed = false;
	int r;

	if (fresh) {
		vs_autofree char *uri = virConnectGetURI(vm_conn_ptr(conn));

		vm_store_connection(inv->store, uri);
	}
	vm_conn_hints(conn, &look.hints);
	look.hints.all |= fresh;
	r = vm_pools_look(&inv->pools, vm_conn_ptr(conn), fresh || look.hints.pools, &pools_changed);
	if (r < 0 && !vm_conn_alive(conn))
		return vs_err_set(err, -EHOSTDOWN, "the connection to libvirt broke off");
	if (pools_changed)
		inv->cache.stale_ns = vm_steady_ns();
	r = look_around(&look, pools_changed, out);
	if (r < 0)
		inv->unfinished = true;
	return r;
}
