/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "now.h"

#include <errno.h>
#include <string.h>

#include "show.h"
#include "vm/util/mem.h"

#define WAIT_MS 100
#define REFRESH_MS 4000
#define TRIES 3 /* the domain may start, or stop, while it is opened */

struct sf_now {
	atomic_uint refs; /* the open file, and what is lent */
	/* immutable */
	struct sf_world *world;
	struct sf_views *views;
	struct sf_key key;
	char *uuid, *target;
	struct vm_log *log; /* of the domain */
	/* one of these two, once it has begun */
	struct vm_now *job;
	struct sf_view *view;
	struct nb_file *file;    /* of the job */
	_Atomic int complained;  /* the error last logged */
};

struct sf_now *sf_now_open(struct sf_world *world, struct sf_views *views, const struct sf_place *place)
{
	struct sf_now *now = xcalloc(1, sizeof(*now));

	atomic_init(&now->refs, 1);
	now->world = world;
	now->views = views;
	now->key = sf_place_key(place);
	now->uuid = xstrdup(place->dir->domain->uuid);
	now->target = xstrdup(place->now->target);
	now->log = vm_log_ref(place->dir->domain->log);
	return now;
}

static void let_go(struct sf_now *now)
{
	if (now->file)
		nb_file_close(vs_steal(now->file));
	if (now->job)
		vm_now_close(vs_steal(now->job));
	sf_view_put(vs_steal(now->view));
}

void sf_now_close(struct sf_now *now)
{
	if (!now || atomic_fetch_sub(&now->refs, 1) != 1)
		return;
	let_go(now);
	vm_log_unref(now->log);
	free(now->target);
	free(now->uuid);
	free(now);
}

static bool is_told(int rc)
{
	return rc == -EINTR || rc == -ENOTCONN || rc == -ENXIO;
}

/* Once for each kind of error: who reads on after one gets it again and again. Returns what to answer. */
static int complain(struct sf_now *now, struct sf_waiter *waiter, const char *doing, int rc, const struct vs_err *err)
{
	if (!is_told(rc) && atomic_exchange(&now->complained, rc) != rc) {
		vs_autofree char *why = sf_show_dup(vs_err_text(err, rc), false);

		vm_log_warn(now->log, "cannot %s now/%s.img: %s", doing, now->target, why);
	}
	return sf_waiter_errno(waiter, rc);
}

static bool is_gone(void *opaque)
{
	return sf_waiter_gone(opaque);
}

/* ---------------------------------------------------------------- shut off */

/* Is the domain shut off, as far as is known? */
static bool is_off(const struct vm_domain *d)
{
	return !strcmp(d->state, "shut off");
}

static int open_off(struct sf_now *now, const struct sf_place *place, struct sf_waiter *waiter, struct vs_err *err)
{
	const struct vm_domain *d = place->dir->domain;
	const struct vm_layer *top = vm_now_layer(d, place->now);
	char *chain[] = {top->path, NULL};
	const struct vm_disk disk = {.chain = chain, .format = top->format, .gate = d->gate};

	return sf_view_open(now->views, now->uuid, &disk, &waiter->work, &now->view, err);
}

/* A domain that is being started may not have written yet: then the inventory knows it first. */
static int check_off(struct sf_now *now, struct vs_err *err)
{
	struct sf_tree *tree = sf_world_get(now->world);
	struct sf_place place;
	int rc = sf_place_find(tree, &now->key, &place);

	if (rc < 0 || !is_off(place.dir->domain))
		rc = vs_err_set(err, -ESTALE, "the domain is not shut off any more");
	sf_world_put(now->world, tree);
	return rc;
}

static int64_t of_view(int64_t rc, struct vs_err *err)
{
	return rc == -EAGAIN ? vs_err_set(err, -ESTALE, "the image is being written to") : rc;
}

static int64_t read_off(struct sf_now *now, struct sf_waiter *waiter, char *buf, size_t len, uint64_t off, struct vs_err *err)
{
	int64_t n = off < now->view->size ? of_view(q2_view_read(now->view->q2, buf, len, off, &waiter->work, err), err) : 0;
	int rc = n < 0 ? 0 : check_off(now, err);

	return rc < 0 ? rc : n;
}

static int64_t seek_off(struct sf_now *now, struct sf_waiter *waiter, uint64_t off, int whence, struct vs_err *err)
{
	return off < now->view->size ? of_view(q2_view_seek(now->view->q2, off, whence, &waiter->work, err), err) : -ENXIO;
}

/* ---------------------------------------------------------------- running */

static int open_job(struct sf_now *now, struct sf_waiter *waiter, struct vs_err *err)
{
	const struct nb_wait wait = {is_gone, waiter};
	int rc = vm_now_open(now->world->vm, now->uuid, &now->job, err);

	while (rc == 0) {
		if (sf_waiter_gone(waiter))
			return -EINTR;
		rc = vm_now_wait(now->job, WAIT_MS, err);
	}
	return rc < 0 ? rc : nb_file_open(vm_now_socket(now->job), now->target, &wait, &now->file, err);
}

/* What came between is what the job says, if it is over. */
static int64_t of_job(struct sf_now *now, int64_t rc, struct vs_err *err)
{
	struct vs_err why = {0};

	if (rc != -EIO || !now->job || vm_now_wait(now->job, 0, &why) >= 0)
		return rc;
	return vs_err_set(err, why.code, "%s", why.msg);
}

/* ---------------------------------------------------------------- both */

static int begin_once(struct sf_now *now, struct sf_waiter *waiter, struct vs_err *err)
{
	struct sf_tree *tree = sf_world_get(now->world);
	struct sf_place place;
	int rc = sf_place_find(tree, &now->key, &place);

	if (rc == 0 && is_off(place.dir->domain))
		rc = (int)of_view(open_off(now, &place, waiter, err), err);
	else if (rc == 0)
		rc = (int)of_job(now, open_job(now, waiter, err), err);
	sf_world_put(now->world, tree);
	return rc;
}

int sf_now_begin(struct sf_now *now, struct sf_waiter *waiter)
{
	struct vs_err err = {0};
	int rc = begin_once(now, waiter, &err);

	for (int try = 1; rc == -ESTALE && try < TRIES; try++) {
		let_go(now);
		vm_refresh(now->world->vm, REFRESH_MS);
		err = (struct vs_err){0};
		rc = begin_once(now, waiter, &err);
	}
	return rc < 0 ? complain(now, waiter, "open", rc, &err) : 0;
}

int64_t sf_now_read(struct sf_now *now, struct sf_waiter *waiter, char *buf, size_t len, uint64_t off)
{
	const struct nb_wait wait = {is_gone, waiter};
	struct vs_err err = {0};
	int64_t n;

	if (now->file)
		n = of_job(now, nb_file_read(now->file, buf, len, off, &wait, &err), &err);
	else
		n = read_off(now, waiter, buf, len, off, &err);
	return n < 0 ? complain(now, waiter, "read", (int)n, &err) : n;
}

int64_t sf_now_lend(struct sf_now *now, size_t len, uint64_t off, struct nb_span *span)
{
	int64_t n = now->file ? nb_file_lend(now->file, len, off, span) : -EAGAIN;

	if (n >= 0)
		atomic_fetch_add(&now->refs, 1);
	return n;
}

void sf_now_return(struct sf_now *now, const struct nb_span *span)
{
	nb_file_return(now->file, span);
	sf_now_close(now);
}

int64_t sf_now_seek(struct sf_now *now, struct sf_waiter *waiter, uint64_t off, int whence)
{
	const struct nb_wait wait = {is_gone, waiter};
	struct vs_err err = {0};
	int64_t found;

	if (now->file)
		found = of_job(now, nb_file_seek(now->file, off, whence, &wait, &err), &err);
	else
		found = seek_off(now, waiter, off, whence, &err);
	return found < 0 ? complain(now, waiter, "find holes of", (int)found, &err) : found;
}
