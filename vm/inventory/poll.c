/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * One look.
 *
 * libvirt's records and the files' headers are two witnesses, and they change together: a snapshot that is being deleted
 * is first merged, then re-pointed, then forgotten. Heard one after the other, with a job ending in between, they
 * would contradict each other, and a snapshot would seem stale that was merely deleted or is perfectly fine. So libvirt
 * is heard, then the files, then libvirt again; if it says something else than before, all is heard anew, a few
 * times at most, and more often while a merge of ours is under way: what is drawn of it half-way would take a snapshot from its readers that only
 * moves. Then the facts go to the graph.
 *
 * Mostly nothing has happened. Where libvirt says what it said, no job runs, and no file has been touched that was
 * looked at last time, the domains of the inventory before are those of the next one, and nothing is opened or built.
 *
 * Some domains alone
 * ------------------
 * Or something has happened to one domain of a thousand. Domains that share no file have nothing to do with one another, as a rule: so they are
 * kept in *groups*, of those that came to the same file when all were drawn last (chains.h). Every file has the group as its owner, and what has
 * happened belongs to one: libvirt says something else about a domain, a file has stirred, something was noted. Then those groups are
 * drawn alone, and the other domains stay as they are in the inventory before. All are drawn
 *
 *   - where there is anything by which domains may have to do with one another that share no file (vm_drafts.simple);
 *   - when a domain has come, gone or got another name, a job runs, a pool has changed, or what happened belongs to no group;
 *   - when a file of another group is met, a snapshot is gone, or what was drawn is not simple any more: that is found while they
 *     are drawn, and then it is begun anew;
 *   - when somebody is about to write to or to remove something: a close look at all is one of all, unless the inventory before was and
 *     nothing has happened since.
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
#include "vm/util/lock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define TRIES 4
#define TRIES_MOVING 24 /* while a merge of ours is under way, whose steps follow one another within milliseconds */
#define FIRST_RECORDS 2000 /* so many a mount waits for, some 0.3 s, before it shows names */

struct vm_poll {
	struct vm_store *store;
	struct vm_headers *files;
	struct vm_history *memory;
	struct vm_log_shelf *shelf;
	struct vm_asker *asker;
	struct vm_observed observed;
	struct vm_dirs dirs;
	struct vm_pools pools;
	struct vm_build_cache cache;
	struct vm_arena arena; /* for allow_paths */
	char **allow_paths;
	size_t n_allow_paths;
	unsigned number;   /* of the last look that came to its end */
	bool unfinished; /* something changed that has not made it into an inventory, and that is not said of one domain (observe.h, dirty) */
	bool looked;     /* there was a look before: what is new now has appeared */
	bool simple;     /* as all were drawn last: some domains can be drawn alone */
	bool partial;    /* since then some were */
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
	vm_asker_free(poll->asker);
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
	poll->asker = vm_asker_new(options->uri, options->read_only);
	vm_observe_init(&poll->observed, poll->shelf, poll->asker);
	vm_arena_init(&poll->arena);
	poll->allow_paths = vm_strings_copy(&poll->arena, options->allow_paths, options->n_allow_paths);
	poll->n_allow_paths = options->n_allow_paths;
	return poll;
}

bool vm_poll_is_behind(const struct vm_poll *poll)
{
	return poll->observed.n_unread > 0;
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
	bool all;       /* all domains are drawn */
	const char *about; /* the UUID of one about which nothing is taken on trust; NULL: none */
	bool heard; /* libvirt was asked in this look, and records were put off */
	const struct vm_wish *wish;
	uint64_t round;
};

/* What is drawn. */
struct part {
	bool *some, *owners; /* see struct vm_build; NULL: everything */
	uint64_t round;
};

/* Those who wait for one domain after the other, as find(1) does, wait for few looks: each reads as many records as were known before. */
static void put_off(const struct pass *pass, struct vm_observed *observed)
{
	size_t known = observed->n_snapshots - observed->n_unread;

	observed->hurry = pass->prev ? pass->wish->hurry : NULL;
	observed->asked = pass->wish->asked;
	observed->first = pass->wish->first;
	observed->at_most = known > FIRST_RECORDS ? known : FIRST_RECORDS;
	if (pass->prev && (pass->wish->closely || pass->wish->about || !pass->wish->hurry))
		observed->at_most = SIZE_MAX; /* who takes a name, or adds anything, must know them all */
	if (!pass->heard)
		return;
	observed->hurry = NULL; /* the second time nothing more is read */
	observed->at_most = 0;
}

static int observe_libvirt(struct pass *pass)
{
	struct vm_observed *observed = &pass->poll->observed;
	int r;

	observed->poll = pass->poll->number + 1;
	observed->closely = pass->ask_all;
	observed->about = pass->about;
	put_off(pass, observed);
	r = vm_observe_poll(observed, pass->conn, &pass->hints, pass->err);
	if (r < 0)
		return r;
	pass->heard |= observed->n_unread > 0;
	pass->hints = (struct vm_hints){0};
	pass->ask_all = false; /* in this look all were asked */
	pass->about = NULL;    /* so was it */
	pass->changed = observed->changed;
	pass->poll->unfinished |= observed->regrouped;
	for (size_t i = 0; i < observed->n_domains; i++)
		observed->domains[i]->dirty |= observed->domains[i]->changed;
	return 0;
}

static struct vm_observed_domain *find(const struct vm_poll *poll, const char *uuid)
{
	for (size_t i = 0; uuid && i < poll->observed.n_domains; i++)
		if (!strcmp(poll->observed.domains[i]->uuid, uuid))
			return poll->observed.domains[i];
	return NULL;
}

static void begin_round(struct pass *pass)
{
	struct vm_poll *poll = pass->poll;
	const struct vm_observed_domain *about = find(poll, pass->about);

	pass->round = vm_headers_round(poll->files);
	vm_dirs_round(&poll->dirs, pass->closely);
	if (pass->closely)
		vm_headers_distrust(poll->files, 0);
	else if (about)
		vm_headers_distrust(poll->files, about->group + 1);
	pass->closely = false; /* in further rounds of this look it was all seen just now */
}

static bool has_dirty(const struct vm_observed *observed)
{
	for (size_t i = 0; i < observed->n_domains; i++)
		if (observed->domains[i]->dirty)
			return true;
	return false;
}

/* All must be drawn, whatever the files say. */
static bool needs_all(const struct pass *pass)
{
	const struct vm_poll *poll = pass->poll;

	return !pass->prev || poll->observed.jobs || poll->unfinished || (pass->all && poll->partial) ||
	       (has_dirty(&poll->observed) && (pass->all || !poll->simple));
}

static bool quiet(struct pass *pass)
{
	struct vm_poll *poll = pass->poll;
	bool dirs_quiet, files_quiet;

	if (needs_all(pass))
		return false;
	dirs_quiet = vm_dirs_quiet(&poll->dirs);
	files_quiet = vm_backing_quiet(poll->files);
	return files_quiet && dirs_quiet && !has_dirty(&poll->observed);
}

/* ---------------------------------------------------------------- some domains alone */

static void part_fini(struct part *part)
{
	free(vs_steal(part->some));
	free(vs_steal(part->owners));
}

static void mark_stirred(struct vm_header *f, void *opaque)
{
	struct part *part = opaque;

	if (f->stirred == part->round)
		part->owners[f->owner] = true; /* of 0: nobody's */
}

/* After quiet(). False: all. */
static bool choose(struct pass *pass, struct part *part)
{
	struct vm_poll *poll = pass->poll;
	size_t n = poll->observed.n_domains, chosen = 0;

	if (needs_all(pass) || pass->all || !poll->simple)
		return false;
	part->round = pass->round;
	part->owners = xcalloc(n + 1, sizeof(bool));
	part->some = xcalloc(n + 1, sizeof(bool));
	for (size_t i = 0; i < n; i++)
		if (poll->observed.domains[i]->dirty)
			part->owners[poll->observed.domains[i]->group + 1] = true;
	vm_headers_each(poll->files, mark_stirred, part);
	for (size_t i = 0; i < n; i++)
		chosen += part->some[i] = part->owners[poll->observed.domains[i]->group + 1];
	if (!part->owners[0] && chosen <= n / 2)
		return true;
	part_fini(part);
	return false;
}

static void disown(struct vm_header *f, void *opaque)
{
	const struct part *part = opaque;

	if (!part->owners || part->owners[f->owner])
		f->owner = 0;
}

/* The groups of what was drawn. Those that were drawn alone become one. */
static void set_owners(struct vm_poll *poll, struct vm_build *build, struct part *part)
{
	const struct vm_chains *c = &build->chains;
	size_t head = SIZE_MAX;

	vm_headers_each(poll->files, disown, part);
	for (size_t i = 0; part->some && i < build->set.n; i++)
		if (poll->observed.domains[build->place[i]]->group < head)
			head = poll->observed.domains[build->place[i]]->group;
	for (size_t i = 0; i < build->set.n; i++)
		poll->observed.domains[build->place[i]]->group = part->some ? head : vm_chains_group(c, i);
	for (size_t i = 0; i < c->n; i++)
		if (c->asked_by[i] >= 0)
			c->file[i]->owner = poll->observed.domains[build->place[c->asked_by[i]]]->group + 1;
}

/* ---------------------------------------------------------------- building */

static void take_drafts(struct pass *pass, struct vm_build *build, struct part *part)
{
	struct vm_poll *poll = pass->poll;

	set_owners(poll, build, part);
	for (size_t i = 0; i < build->set.n; i++)
		poll->observed.domains[build->place[i]]->dirty = build->set.drafts[i].unfinished;
	if (!part->some)
		poll->simple = build->set.simple;
	poll->partial = part->some;
}

/* Hears the files, and libvirt again. 1: it says the same still, *out is the inventory; 0: it does not. The build borrows what
 * libvirt said, which hearing it anew may free: so the last try, which is finished whatever libvirt says, does not ask. */
static int build_part(struct pass *pass, struct part *part, bool last_try, struct vm_inventory **out)
{
	struct vm_poll *poll = pass->poll;
	struct vm_build build = {
		.observed = &poll->observed, .files = poll->files, .memory = poll->memory, .dirs = &poll->dirs,
		.pools = &poll->pools,
		.cache = &poll->cache, .conn = pass->conn, .allow_paths = poll->allow_paths,
		.n_allow_paths = poll->n_allow_paths, .round = pass->round, .store = poll->store,
		.some = part->some, .some_owners = part->owners,
	};
	int r = 0;

	vm_build_draw(&build);
	last_try |= poll->observed.n_unread && !pass->prev; /* for names alone, at once */
	if (last_try)
		pass->changed = true; /* as far as we know: look again soon */
	else
		r = observe_libvirt(pass);
	if (build.shared)
		pass->all = true;
	else if (r == 0 && (!pass->changed || last_try)) {
		build.set.partial = part->some;
		vm_history_poll(poll->memory, poll->number + 1, part->some);
		*out = vm_drafts_finish(&build.set, pass->prev);
		if (*out)
			take_drafts(pass, &build, part);
		pass->all |= !*out;
		r = *out ? 1 : 0;
	}
	vm_build_fini(&build);
	return r;
}

/* After quiet(). */
static int build(struct pass *pass, bool last_try, struct vm_inventory **out)
{
	struct part part = {0};
	int r;

	choose(pass, &part);
	r = build_part(pass, &part, last_try, out);
	part_fini(&part);
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

static bool is_moving(const struct vm_meta *meta)
{
	for (size_t i = 0; meta && i < meta->n_snapshots; i++)
		if (meta->snapshots[i].mark && !meta->snapshots[i].mark->is_void)
			return true;
	return false;
}

/* How often is libvirt heard, where it says something else each time? What an interrupted command has left moves nothing. */
static int tries_of(const struct vm_observed *observed)
{
	for (size_t i = 0; i < observed->n_domains; i++) {
		const struct vm_observed_domain *d = observed->domains[i];

		if ((is_moving(d->meta) || is_moving(d->config_meta)) && vm_lock_is_taken(d->uuid))
			return TRIES_MOVING;
	}
	return TRIES;
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
		bool last_try = try >= TRIES && try >= tries_of(&pass->poll->observed);

		pass->all |= last_try; /* it comes to its end */
		if (try > 1) {
			begin_round(pass);
			quiet(pass); /* to know what has stirred */
		}
		greet_new(pass->poll);
		r = build(pass, last_try, out);
	}
	if (r < 0)
		return r;
	pass->poll->unfinished = pass->changed || pass->poll->observed.n_unread;
	pass->poll->number++;
	return 0;
}

/* What is noted as being made is a layer. */
static void mark_noted(const char *uuid, void *opaque)
{
	struct vm_observed_domain *k = find(opaque, uuid);

	if (k)
		k->dirty = true;
}

int vm_poll_once(struct vm_poll *poll, struct vm_conn *conn, bool fresh, const struct vm_wish *wish, const struct vm_inventory *prev,
		 struct vm_inventory **out, struct vs_err *err)
{
	const bool closely = wish->closely;
	struct pass pass = { .poll = poll, .conn = conn, .closely = closely, .ask_all = closely, .all = closely, .about = wish->about, .wish = wish,
			     .prev = prev, .err = err };
	bool pools_changed = false;
	int r;

	vm_store_noted(poll->store, mark_noted, poll);
	if (fresh) {
		vs_autofree char *uri = vm_conn_identity(vm_conn_ptr(conn));

		vm_store_connection(poll->store, uri);
		vm_pools_connected(&poll->pools, vm_conn_ptr(conn));
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
