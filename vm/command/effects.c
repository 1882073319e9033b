/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/effects.h"

#include <errno.h>
#include <string.h>

#include "vm/command/growth.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define WORK (UINT64_C(1) << 31) /* some 40 seconds, or the tables of 200 snapshots of a TiB that have nothing in common */

/* ---------------------------------------------------------------- collecting */

void vm_effects_fini(struct vm_effects *e)
{
	for (size_t i = 0; i < e->n_merges; i++)
		free(e->merges[i].gone);
	free(e->merges);
	free(e->entries);
	free(e->stays);
	*e = (struct vm_effects){ 0 };
}

void vm_effects_entries(struct vm_context *cx, const struct vm_snapshot *s)
{
	struct vm_effects *e = cx->effects;

	vm_effects_gone(cx, 1);
	for (size_t i = 0; e && i < s->n_disks; i++) {
		const struct vm_disk *disk = &s->disks[i];
		int layer = disk->snapshot && disk->chain && disk->chain[0] ? vm_context_layer(cx, disk->chain[0]) : -1;

		if (layer < 0)
			continue;
		XGROW(e->entries, e->n_entries, e->entries_room);
		e->entries[e->n_entries++] = (struct vm_effect_entry){ layer, disk->snapshot };
	}
}

void vm_effects_merge(struct vm_context *cx, int base, const struct vm_doomed_file *gone, size_t n)
{
	struct vm_effects *e = cx->effects;
	struct vm_effect_merge *m;

	if (!e || base < 0)
		return;
	XGROW(e->merges, e->n_merges, e->merges_room);
	m = &e->merges[e->n_merges++];
	*m = (struct vm_effect_merge){ .base = base, .gone = xcalloc(n, sizeof(*m->gone)) };
	for (size_t i = 0; i < n; i++) {
		int layer = vm_context_layer(cx, gone[i].path);

		if (layer >= 0)
			m->gone[m->n_gone++] = layer;
	}
}

void vm_effects_file(struct vm_context *cx, const char *path)
{
	int layer = vm_context_layer(cx, path);

	if (cx->effects && layer >= 0)
		cx->effects->files += vm_context_allocated(cx, layer);
}

void vm_effects_stays(struct vm_context *cx, const char *why)
{
	if (cx->effects && !cx->effects->stays)
		cx->effects->stays = xstrdup(why);
}

void vm_effects_gone(struct vm_context *cx, size_t snapshots)
{
	if (cx->effects)
		cx->effects->n_snapshots += snapshots;
}

/* ---------------------------------------------------------------- counting */

static bool is_cancelled(void *opaque)
{
	return vm_context_cancelled(opaque, NULL) < 0;
}

void vm_effects_count_init(struct vm_effects_count *count, struct vm_context *cx)
{
	*count = (struct vm_effects_count){ .usages = cx->usages, .since_ns = vm_steady_ns(),
					    .work = { .limit = WORK, .stop = is_cancelled, .opaque = cx } };
}

bool vm_effects_is_live(const struct vm_context *cx, int layer)
{
	return cx->running && cx->d->layers[layer].active;
}

/* ---------------------------------------------------------------- snapshots inside images */

int vm_effects_usage(const struct vm_context *cx, int layer, const struct vm_effects *e, struct vm_effects_count *count, struct vm_usage **out,
		     struct vs_err *err)
{
	vs_autofree const struct q2_snapshot **set = xcalloc(e ? e->n_entries : 0, sizeof(*set));
	struct vm_usages_ask ask = { .path = cx->d->layers[layer].path, .set = set, .live = vm_effects_is_live(cx, layer),
				     .since_ns = count->since_ns, .work = &count->work };

	for (size_t i = 0; e && i < e->n_entries; i++)
		if (e->entries[i].layer == layer)
			set[ask.n_set++] = e->entries[i].snapshot;
	return vm_usages_get(count->usages, &ask, out, err);
}

/* What goes with all entries of that layer. */
static int add_layer(const struct vm_context *cx, const struct vm_effects *e, size_t first, struct vm_effects_count *count,
		     struct vm_space_figures *out, struct vs_err *err)
{
	const struct vm_effect_entry *entry = &e->entries[first];
	const struct q2_usage_snapshot *one;
	struct vm_usage *u;
	size_t n = 0;
	int r;

	for (size_t i = first; i < e->n_entries; i++)
		n += e->entries[i].layer == entry->layer;
	r = vm_effects_usage(cx, entry->layer, n > 1 ? e : NULL, count, &u, err);
	if (r < 0)
		return r;
	one = n > 1 ? NULL : vm_usage_of(u, entry->snapshot);
	if (n == 1 && !one)
		r = vs_err_set(err, -ESTALE, "'%s' has no such snapshot any more", cx->d->layers[entry->layer].path);
	else {
		out->only += one ? (int64_t)one->only : u->usage->together;
		out->frees += one ? one->frees : u->usage->together;
		out->at_least |= vm_effects_is_live(cx, entry->layer);
	}
	vm_usage_put(count->usages, u);
	return r;
}

static bool is_first(const struct vm_effects *e, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (e->entries[k].layer == e->entries[i].layer)
			return false;
	return true;
}

/* ---------------------------------------------------------------- merges */

static int add_merge(const struct vm_context *cx, const struct vm_effect_merge *m, struct vm_effects_count *count, struct vm_space_figures *out,
		     struct vs_err *err)
{
	struct vm_growth g;
	int r = vm_growth_count(cx, m->base, m->gone, m->n_gone, &count->work, &g, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < m->n_gone; i++)
		out->at_least |= vm_effects_is_live(cx, m->gone[i]);
	out->at_least |= g.at_most;
	out->only += (int64_t)g.over;
	out->frees += (int64_t)g.gone - (int64_t)g.growth;
	out->moves += (int64_t)g.moved;
	return 0;
}

/* ---------------------------------------------------------------- all */

int vm_effects_figures(const struct vm_context *cx, const struct vm_effects *e, struct vm_effects_count *count, struct vm_space_figures *out,
		       struct vs_err *err)
{
	struct vm_space_figures sum = { .holds = VM_SPACE_UNKNOWN, .only = (int64_t)e->files, .frees = (int64_t)e->files };
	int r = 0;

	*out = (struct vm_space_figures){ VM_SPACE_UNKNOWN, VM_SPACE_UNKNOWN, VM_SPACE_UNKNOWN, VM_SPACE_UNKNOWN, false };
	for (size_t i = 0; r == 0 && i < e->n_entries; i++)
		if (is_first(e, i))
			r = add_layer(cx, e, i, count, &sum, err);
	for (size_t i = 0; r == 0 && i < e->n_merges; i++)
		r = add_merge(cx, &e->merges[i], count, &sum, err);
	if (r < 0)
		return r;
	if (e->stays && !e->n_entries && !e->n_merges)
		sum.only = VM_SPACE_UNKNOWN;
	*out = sum;
	return 0;
}

/* ---------------------------------------------------------------- words */

char *vm_effects_words(const struct vm_effects *e, const struct vm_space_figures *f)
{
	bool inside = e->n_entries && !e->n_merges && !e->files;
	double mib = (double)f->frees / 1048576;

	if (f->frees < 0)
		return xasprintf("would take %s%.1f MiB more than it frees", f->at_least ? "at most " : "", -mib);
	return xasprintf("would free %s%.1f MiB%s", f->at_least ? "at least " : "", mib, inside ? " within the image" : "");
}

void vm_effects_say(struct vm_context *cx)
{
	struct vm_effects *e = vs_steal(cx->effects);
	struct vm_space_figures f;
	struct vm_effects_count count;
	vs_autofree char *words = NULL;
	struct vs_err err = {0};
	int r;

	if (!e->n_snapshots)
		return;
	vm_effects_count_init(&count, cx);
	r = vm_effects_figures(cx, e, &count, &f, &err);
	words = r < 0 ? xasprintf("what that would free is not known: %s", vs_err_text(&err, r)) : vm_effects_words(e, &f);
	vm_context_say(cx, "%s", words);
}
