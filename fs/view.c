/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Dropping guards
 * ---------------
 * When sf_views_unguard() returns, a command begins to write to files that readers may have open. Reads that copy and then
 * validate are safe from that. Two things are not, and it waits for them:
 *
 *	a reply that was promised settled files and is on its way     `lent`, raised before q2_view_settled() is asked:
 *	                                                              either it sees that the guards are gone, or it is seen
 *	a view that is being opened, and takes its locks, or closed   in the list with refs 0 meanwhile. One that comes
 *	                                                              too late to be seen finds its domain unguarded
 *
 * Both last as long as a disk takes to read some blocks. If one hangs, the command is let go on after some seconds: then it
 * meets a lock and fails, or the reply is one whose reader waits for a disk that does not answer.
 */
#include "view.h"

#include <string.h>

#include "clock.h"
#include "vm/util/mem.h"

/* For all open images together. The clusters are inflated ones: 512 of the default size, enough for some readers. */
#define TABLE_BYTES (64u << 20)
#define CLUSTER_BYTES (32u << 20)
#define LOOK_WORK (1u << 18)  /* units of q2_work, for compressed clusters: a few ms */
#define PATIENCE_NS 5000000000
#define NAP_NS 1000000

struct sf_unguarded {
	LIST_ENTRY(sf_unguarded) link;
	unsigned n; /* calls that were not taken back */
	char uuid[];
};

void sf_views_init(struct sf_views *views, bool leases)
{
	*views = (struct sf_views){.cache = q2_cache_new(TABLE_BYTES, CLUSTER_BYTES)};
	if (!views->cache)
		xoom();
	pthread_mutex_init(&views->lock, NULL);
	sf_leases_init(&views->leases, leases);
}

void sf_views_fini(struct sf_views *views)
{
	struct sf_unguarded *domain;

	sf_leases_fini(&views->leases);
	while ((domain = LIST_FIRST(&views->unguarded))) {
		LIST_REMOVE(domain, link);
		free(domain);
	}
	q2_cache_free(views->cache);
	pthread_mutex_destroy(&views->lock);
}

/* ---------------------------------------------------------------- which domains */

static struct sf_unguarded *find_locked(struct sf_views *views, const char *uuid)
{
	struct sf_unguarded *domain;

	LIST_FOREACH(domain, &views->unguarded, link)
		if (!strcmp(domain->uuid, uuid))
			break;
	return domain;
}

static bool is_unguarded(struct sf_views *views, const char *uuid)
{
	bool unguarded;

	pthread_mutex_lock(&views->lock);
	unguarded = find_locked(views, uuid) != NULL;
	pthread_mutex_unlock(&views->lock);
	return unguarded;
}

static void note_domain(struct sf_views *views, const char *uuid)
{
	struct sf_unguarded *domain;

	pthread_mutex_lock(&views->lock);
	domain = find_locked(views, uuid);
	if (!domain) {
		domain = xcalloc(1, sizeof(*domain) + strlen(uuid) + 1);
		strcpy(domain->uuid, uuid);
		LIST_INSERT_HEAD(&views->unguarded, domain, link);
	}
	domain->n++;
	pthread_mutex_unlock(&views->lock);
}

void sf_views_reguard(struct sf_views *views, const char *uuid)
{
	struct sf_unguarded *domain;

	pthread_mutex_lock(&views->lock);
	domain = find_locked(views, uuid);
	if (domain && !--domain->n) {
		LIST_REMOVE(domain, link);
		free(domain);
	}
	pthread_mutex_unlock(&views->lock);
}

/* ---------------------------------------------------------------- opening and closing */

static void view_free(struct sf_view *view)
{
	struct sf_views *views = view->owner;

	if (view->q2) {
		sf_lease_close(&views->leases, &view->lease);
		q2_view_close(view->q2);
	}
	pthread_mutex_lock(&views->lock);
	LIST_REMOVE(view, link);
	pthread_mutex_unlock(&views->lock);
	free(view->uuid);
	free(view);
}

static struct sf_view *view_new(struct sf_views *views, const char *uuid)
{
	struct sf_view *view = xcalloc(1, sizeof(*view));

	view->owner = views;
	view->uuid = xstrdup(uuid);
	pthread_mutex_lock(&views->lock);
	LIST_INSERT_HEAD(&views->all, view, link);
	pthread_mutex_unlock(&views->lock);
	return view;
}

static int open_q2(struct sf_view *view, const struct vm_disk *disk, struct q2_work *work, struct vs_err *err)
{
	const bool unguarded = is_unguarded(view->owner, view->uuid);
	const struct q2_view_spec spec = {
		.path = disk->chain[0],
		.format = disk->format,
		.snapshot = disk->snapshot,
		.gate = disk->gate,
		.guard = disk->guard && !unguarded,
		.guard_top = disk->guard_top && !unguarded,
		.watched = disk->watched,
		.expected = disk->stamps,
		.n_expected = disk->n_stamps,
		.work = work,
	};

	atomic_store(&view->unguarded, unguarded);
	return q2_view_open(view->owner->cache, &spec, &view->q2, err);
}

/* From here on sf_views_unguard() finds it; or it had come before, and then it is here to be found. */
static void publish(struct sf_view *view)
{
	struct sf_views *views = view->owner;
	bool late;

	pthread_mutex_lock(&views->lock);
	late = !atomic_load(&view->unguarded) && find_locked(views, view->uuid);
	if (!late)
		atomic_store(&view->refs, 1);
	pthread_mutex_unlock(&views->lock);
	if (!late)
		return;
	q2_view_unguard(view->q2);
	atomic_store(&view->unguarded, true);
	atomic_store(&view->refs, 1);
}

/* What is not found out within some time counts as not compressed: then the kernel caches nothing. */
static bool looks_compressed(struct sf_view *view, const struct q2_work *whose)
{
	struct q2_work work = {.limit = LOOK_WORK};

	if (whose) {
		work.stop = whose->stop;
		work.opaque = whose->opaque;
	}
	return q2_view_has_compressed(view->q2, &work, NULL) > 0;
}

int sf_view_open(struct sf_views *views, const char *uuid, const struct vm_disk *disk, struct q2_work *work, struct sf_view **out,
		 struct vs_err *err)
{
	struct sf_view *view = view_new(views, uuid);
	int rc = open_q2(view, disk, work, err);

	if (rc < 0) {
		view_free(view);
		return rc;
	}
	view->lease.q2 = view->q2;
	view->size = q2_view_size(view->q2);
	if (disk->format == Q2_FORMAT_RAW && disk->size < view->size && view->size - disk->size < 512)
		view->size = disk->size; /* a disk ends with a whole sector, and what a TPM keeps does not */
	view->content = q2_view_content(view->q2);
	view->compressed = looks_compressed(view, work);
	publish(view);
	*out = view;
	return 0;
}

void sf_view_ref(struct sf_view *view)
{
	atomic_fetch_add(&view->refs, 1);
}

void sf_view_put(struct sf_view *view)
{
	if (view && atomic_fetch_sub(&view->refs, 1) == 1)
		view_free(view);
}

bool sf_view_outdated(struct sf_view *view)
{
	return atomic_load(&view->unguarded) && !is_unguarded(view->owner, view->uuid);
}

/* ---------------------------------------------------------------- dropping guards */

void sf_view_lend(struct sf_view *view)
{
	atomic_fetch_add(&view->lent, 1);
}

void sf_view_return(struct sf_view *view)
{
	atomic_fetch_sub(&view->lent, 1);
}

bool sf_view_may_lease(struct sf_view *view)
{
	return !atomic_load(&view->unguarded) && sf_lease_is_near(&view->owner->leases, &view->lease);
}

/* A reference, unless the last one is gone. */
static bool view_ref_live(struct sf_view *view)
{
	unsigned refs = atomic_load(&view->refs);

	while (refs && !atomic_compare_exchange_weak(&view->refs, &refs, refs + 1))
		;
	return refs != 0;
}

/* A view of that domain that has its guards, with a reference. *busy: one is being opened, closed or lent. */
static struct sf_view *next_guarded(struct sf_views *views, const char *uuid, bool *busy)
{
	struct sf_view *view;

	*busy = false;
	pthread_mutex_lock(&views->lock);
	LIST_FOREACH(view, &views->all, link) {
		if (strcmp(view->uuid, uuid) != 0)
			continue;
		if (!atomic_load(&view->unguarded) && view_ref_live(view))
			break;
		*busy |= atomic_load(&view->lent) || !atomic_load(&view->refs);
	}
	pthread_mutex_unlock(&views->lock);
	return view;
}

static bool drop_guards(struct sf_views *views, const char *uuid)
{
	struct sf_view *view;
	bool busy;

	while ((view = next_guarded(views, uuid, &busy))) {
		q2_view_unguard(view->q2);
		atomic_store(&view->unguarded, true);
		sf_lease_give_up(&views->leases, &view->lease);
		sf_view_put(view);
	}
	return busy;
}

void sf_views_unguard(struct sf_views *views, const char *uuid)
{
	int64_t end_ns = sf_clock_ns() + PATIENCE_NS;

	note_domain(views, uuid);
	while (drop_guards(views, uuid) && sf_clock_ns() < end_ns)
		sf_clock_nap(NAP_NS);
}
