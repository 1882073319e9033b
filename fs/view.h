/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * view.h: the views of qcow2/ that are open, the cache they share, and whose guard locks are dropped for a command.
 *
 * A view belongs to a domain, known by its UUID. While a domain is *unguarded*, none of its views has a guard lock and no
 * reply hands on bytes without a copy; views that are opened then come without guards. One that lost its guards is not
 * used for long after that: who finds it outdated opens the image anew, as the domain's inventory describes it then.
 *
 * Errors: those of q2_view_open(). Threads: any.
 */
#ifndef VS_VIEW_H
#define VS_VIEW_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "lease.h"
#include "vm/vm.h"

struct sf_views;

/* One opened view; shared, reference-counted. */
struct sf_view {
	/* immutable once it is open */
	struct sf_views *owner;
	struct q2_view *q2;
	char *uuid;
	uint64_t size;
	uint64_t content; /* q2_view_content() */
	bool compressed;  /* has compressed clusters, as far as a look at some of its tables tells */
	unsigned edition; /* of the image whose view it is (image.h) */
	struct sf_lease lease;
	/* atomic */
	atomic_uint refs;      /* 0: it is being opened or closed */
	atomic_uint lent;      /* replies under way that point into its files */
	atomic_bool unguarded; /* its guards were dropped, or it never had them because they would have been */
	/* guarded by the list's lock */
	LIST_ENTRY(sf_view) link;
};

struct sf_views {
	struct q2_cache *cache; /* immutable */
	struct sf_leases leases;
	pthread_mutex_t lock;
	/* guarded by lock */
	LIST_HEAD(, sf_view) all;
	LIST_HEAD(, sf_unguarded) unguarded; /* domains */
};

void sf_views_init(struct sf_views *views, bool leases);
/* When the last view is put. */
void sf_views_fini(struct sf_views *views);

/* Opens the disk as its inventory describes it. @uuid: its domain's. @work may be NULL. Gives *out, with one reference. */
int sf_view_open(struct sf_views *views, const char *uuid, const struct vm_disk *disk, struct q2_work *work, struct sf_view **out,
		 struct vs_err *err);
void sf_view_ref(struct sf_view *view);
void sf_view_put(struct sf_view *view); /* NULL is fine */

/* It has no guards and could have them again: open another one. */
bool sf_view_outdated(struct sf_view *view);

/* Between these two, bytes may be handed on as they lie in the view's files if q2_view_settled() says so *after* the
 * first. */
void sf_view_lend(struct sf_view *view);
void sf_view_return(struct sf_view *view);

/* A lease is worth a try: it is held, or was not refused just now, and no command of ours is about to write to its files. */
bool sf_view_may_lease(struct sf_view *view);

/* Drops the guards of a domain, now and until the call that takes it back; calls nest. Waits, but not for ever, for what
 * is being opened, closed or lent. */
void sf_views_unguard(struct sf_views *views, const char *uuid);
void sf_views_reguard(struct sf_views *views, const char *uuid);

#endif
