/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * First all that would be deleted is tried, as `try delete` and `try prune` do, against one look; what each would do is noted (effects.h).
 * Then it is counted: what the policy drops together comes first, for what is counted of an image for a set tells of each snapshot as well.
 */
#include "vm/command/space.h"

#include <errno.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/command.h"
#include "vm/command/delete.h"
#include "vm/command/effects.h"
#include "vm/command/plan.h"
#include "vm/util/mem.h"
#include "vm/util/utf8.h"

static const struct vm_space_figures nothing_known = { VM_SPACE_UNKNOWN, VM_SPACE_UNKNOWN, VM_SPACE_UNKNOWN, VM_SPACE_UNKNOWN, false };

/* ---------------------------------------------------------------- what would be done */

/* 0, or why it would not be deleted. */
static int try_one(struct vm_context *cx, const struct vm_snapshot *s, struct vm_effects *e, struct vs_err *why)
{
	char *key = xstrdup(vm_context_key(cx, s));
	size_t done = 0;
	int r;

	cx->effects = e;
	if (s->held)
		r = vs_err_set(why, -EPERM, "it is held");
	else
		r = vm_delete_some(cx, &key, 1, &done, why);
	cx->effects = NULL;
	free(key);
	return r;
}

/* ---------------------------------------------------------------- one snapshot */

static int64_t known_sum(int64_t a, int64_t b)
{
	return a == VM_SPACE_UNKNOWN || b == VM_SPACE_UNKNOWN ? VM_SPACE_UNKNOWN : a + b;
}

/* What is in the image itself, of an internal one. */
static int add_inside(const struct vm_context *cx, int layer, const struct q2_snapshot *s, struct vm_effects_count *count,
		      struct vm_space_figures *f, struct vs_err *err)
{
	const struct q2_usage_snapshot *inside;
	struct vm_usage *u;
	int r = vm_effects_usage(cx, layer, NULL, count, &u, err);

	if (r < 0)
		return r;
	inside = vm_usage_of(u, s);
	f->holds = inside ? known_sum(f->holds, (int64_t)inside->holds) : VM_SPACE_UNKNOWN;
	f->only = inside ? known_sum(f->only, (int64_t)inside->only) : VM_SPACE_UNKNOWN;
	f->at_least |= vm_effects_is_live(cx, layer);
	vm_usage_put(count->usages, u);
	return 0;
}

static void add_file(const struct vm_context *cx, const char *path, struct vm_space_figures *f)
{
	int layer = vm_context_layer(cx, path);

	f->holds = layer < 0 ? VM_SPACE_UNKNOWN : known_sum(f->holds, (int64_t)vm_context_allocated(cx, layer));
}

/* What its data takes, and, of what is inside images, what nothing else needs. */
static int add_disk(const struct vm_context *cx, const struct vm_disk *disk, struct vm_effects_count *count, struct vm_space_figures *f,
		    struct vs_err *err)
{
	int r = 0;

	if (!disk->chain || !disk->chain[0])
		f->holds = VM_SPACE_UNKNOWN;
	for (size_t i = 0; r == 0 && disk->chain && disk->chain[i]; i++) {
		int layer = vm_context_layer(cx, disk->chain[i]);

		if (layer >= 0 && i == 0 && disk->snapshot)
			r = add_inside(cx, layer, disk->snapshot, count, f, err);
		else
			add_file(cx, disk->chain[i], f);
	}
	return r;
}

/* What its memory takes, and copies that were made with it (nv.h). */
static void add_beside(const struct vm_context *cx, const struct vm_snapshot *s, struct vm_space_figures *f)
{
	const struct vm_context_record *record = vm_context_record(cx, s->name);
	struct vm_meta_id id = vm_context_id(cx, s);
	const struct vm_meta_snapshot *said = vm_meta_find(cx->meta, &id);

	if (record && record->xml->memory_file)
		add_file(cx, record->xml->memory_file, f);
	for (size_t i = 0; said && i < said->n_nv; i++)
		add_file(cx, said->nv[i].path, f);
}

static int count_held(const struct vm_context *cx, const struct vm_snapshot *s, struct vm_effects_count *count, struct vm_space_figures *f,
		      struct vs_err *err)
{
	int r = s->state == VM_STALE || !s->n_disks ? -ENODATA : 0;

	*f = (struct vm_space_figures){ 0 };
	for (size_t i = 0; r == 0 && i < s->n_disks; i++)
		r = add_disk(cx, &s->disks[i], count, f, err);
	if (r == 0)
		add_beside(cx, s, f);
	else
		*f = nothing_known;
	return r == -ENODATA ? 0 : r;
}

/* @refused: why it would not be deleted, or NULL. */
static void fill_row(const struct vm_context *cx, const struct vm_snapshot *s, const struct vm_effects *e, const char *refused,
		     struct vm_effects_count *count, struct vm_space_snapshot *row)
{
	struct vm_space_figures held, gone = nothing_known;
	struct vs_err err = {0};
	int r = count_held(cx, s, count, &held, &err);

	row->shown = xstrdup(s->shown);
	row->kind = s->kind;
	row->state = s->state;
	if (r == 0 && !refused)
		r = vm_effects_figures(cx, e, count, &gone, &err);
	row->figures = gone;
	row->figures.holds = held.holds;
	row->figures.at_least |= held.at_least;
	if (s->kind == VM_INTERNAL)
		row->figures.only = held.only;
	if (refused || r < 0 || e->stays)
		row->why = xstrdup(refused ? refused : r < 0 ? vs_err_text(&err, r) : e->stays);
	else if (s->state != VM_OK && s->reason)
		row->why = xstrdup(s->reason);
}

static int fill_rows(struct vm_context *cx, struct vm_effects_count *count, struct vm_space *space, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];
		struct vm_effects e vs_cleanup(vm_effects_fini) = { .n_entries = 0 };
		struct vs_err why = {0};

		if (s->present)
			continue;
		r = try_one(cx, s, &e, &why);
		fill_row(cx, s, &e, r < 0 ? vs_err_text(&why, r) : NULL, count, &space->snapshots[space->n_snapshots++]);
		r = vm_context_cancelled(cx, err);
	}
	return r;
}

/* ---------------------------------------------------------------- the policy, the disks */

static void fill_dropped(struct vm_context *cx, struct vm_effects_count *count, struct vm_space *space)
{
	struct vm_effects e vs_cleanup(vm_effects_fini) = { .n_entries = 0 };
	struct vs_err err = {0};
	int r;

	space->policy = xstrdup_or_null(cx->meta->policy);
	cx->effects = &e;
	r = vm_command_try_prune(cx, cx->meta->policy, NULL, &err);
	cx->effects = NULL;
	space->n_dropped = e.n_snapshots;
	space->dropped = nothing_known;
	if (r == 0)
		r = vm_effects_figures(cx, &e, count, &space->dropped, &err);
	if (r < 0)
		space->dropped_why = xstrdup(vs_err_text(&err, r));
}

static void fill_disk(const struct vm_context *cx, const struct vm_disk_now *now, struct vm_effects_count *count, struct vm_space_disk *disk)
{
	const struct vm_layer *l = &cx->d->layers[now->top];
	struct vs_err err = {0};
	struct vm_usage *u;
	int r;

	*disk = (struct vm_space_disk){ .target = xstrdup(now->target), .path = xstrdup(l->path), .file = vm_context_allocated(cx, now->top),
					.compact = VM_SPACE_UNKNOWN };
	if (l->error || l->format != Q2_FORMAT_QCOW2 || !l->internal)
		return;
	if (l->below >= 0) {
		disk->why = xasprintf("of '%s', on which it stands, nothing is counted", cx->d->layers[l->below].path);
		return;
	}
	r = vm_effects_usage(cx, now->top, NULL, count, &u, &err);
	if (r < 0) {
		disk->why = xstrdup(vs_err_text(&err, r));
		return;
	}
	disk->compact = (int64_t)u->usage->compact;
	disk->at_least = vm_effects_is_live(cx, now->top);
	vm_usage_put(count->usages, u);
}

int vm_command_space(struct vm_context *cx, struct vm_space **out, struct vs_err *err)
{
	struct vm_effects_count count;
	struct vm_space *space;
	int r = vm_attest_poll(cx, err);

	if (r < 0)
		return r;
	space = vm_space_new(cx->d->n_snapshots, cx->d->n_disks);
	vm_effects_count_init(&count, cx);
	fill_dropped(cx, &count, space);
	r = vm_context_cancelled(cx, err);
	if (r == 0)
		r = fill_rows(cx, &count, space, err);
	for (size_t i = 0; r == 0 && i < cx->d->n_disks; i++) {
		if (cx->d->disks[i].top >= 0)
			fill_disk(cx, &cx->d->disks[i], &count, &space->disks[space->n_disks++]);
		r = vm_context_cancelled(cx, err);
	}
	if (r == 0)
		*out = space;
	else
		vm_space_free(space);
	return r;
}

/* ---------------------------------------------------------------- retain.plan */

/* Gives what is to be said of it. */
static char *cost_of(struct vm_context *cx, const struct vm_snapshot *s, struct vm_effects_count *count)
{
	struct vm_effects e vs_cleanup(vm_effects_fini) = { .n_entries = 0 };
	struct vm_space_figures f;
	struct vs_err why = {0};
	vs_autofree char *words = NULL, *copies = NULL;
	int r = try_one(cx, s, &e, &why);

	if (r < 0)
		return xasprintf("would stay: %s", vs_err_text(&why, r));
	r = vm_effects_figures(cx, &e, count, &f, &why);
	if (r < 0)
		return xasprintf("what that would free is not known: %s", vs_err_text(&why, r));
	if (e.stays && !e.n_entries && !e.n_merges && !e.files)
		return xasprintf("would free nothing: %s", e.stays);
	words = vm_effects_words(&e, &f);
	copies = f.moves ? xasprintf(" and copy up to %.1f MiB", (double)f.moves / 1048576) : xstrdup("");
	return e.stays ? xasprintf("%s%s; a file of it stays: %s", words, copies, e.stays) : xasprintf("%s%s", words, copies);
}

/* Two can share what nobody else has. */
static char *cost_of_all(struct vm_context *cx, const char *policy, struct vm_effects_count *count)
{
	struct vm_effects e vs_cleanup(vm_effects_fini) = { .n_entries = 0 };
	struct vm_space_figures f;
	struct vs_err why = {0};
	vs_autofree char *words = NULL;
	int r;

	cx->effects = &e;
	r = vm_command_try_prune(cx, policy, NULL, &why);
	cx->effects = NULL;
	if (r == 0)
		r = vm_effects_figures(cx, &e, count, &f, &why);
	if (r < 0)
		return xasprintf("what all of them would free is not known: %s", vs_err_text(&why, r));
	words = vm_effects_words(&e, &f);
	return xasprintf("all %zu that would go, together, %s", e.n_snapshots, words);
}

/* On one line, whatever a path has in it. Takes both, gives. */
static char *joined(char *own, char *all)
{
	vs_autofree char *text = all ? xasprintf("%s; %s", own, all) : xstrdup(own);

	free(own);
	free(all);
	return vm_utf8_escape(text, strlen(text), "");
}

static int find_costs(struct vm_context *cx, const char *policy, const struct vm_retain_snapshot *snaps, const struct vm_retain_verdict *verdicts,
		      size_t n, char **costs, struct vs_err *err)
{
	struct vm_effects_count count;
	const struct vm_snapshot *s;
	size_t drops = 0, seen = 0;
	int r = vm_context_cancelled(cx, err);

	vm_effects_count_init(&count, cx);
	for (size_t i = 0; i < n; i++)
		drops += !verdicts[i].keep;
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (verdicts[i].keep || vm_context_find(cx, snaps[i].shown, &s, NULL) < 0)
			continue;
		seen++;
		costs[i] = joined(cost_of(cx, s, &count), seen > 1 && seen == drops ? cost_of_all(cx, policy, &count) : NULL);
		r = vm_context_cancelled(cx, err);
	}
	return r;
}

int vm_command_count_plan(struct vm_context *cx, const char *policy, char **text, struct vs_err *err)
{
	struct vm_retain_snapshot *snaps = NULL;
	struct vm_retain_verdict *verdicts = NULL;
	char **costs;
	size_t n = 0, len;
	int r = vm_attest_poll(cx, err);

	if (r < 0)
		return r;
	policy = policy ? policy : cx->meta->policy;
	r = vm_plan_make(cx->store, &cx->readers, cx->d, policy, NULL, &snaps, &verdicts, &n, err);
	costs = xcalloc(n, sizeof(*costs));
	if (r == 0)
		r = find_costs(cx, policy, snaps, verdicts, n, costs, err);
	if (r == 0)
		vm_retain_plan_text(snaps, verdicts, n, costs, text, &len);
	for (size_t i = 0; i < n; i++)
		free(costs[i]);
	free(costs);
	free(snaps);
	free(verdicts);
	return r;
}
