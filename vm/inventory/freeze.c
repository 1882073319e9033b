/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * From a draft and the graph's verdicts to the vm_domain that everybody reads. Everything is copied into the domain's
 * arena; the few things that are shared (the gate, the log, libvirt's record with the definition) are held on to.
 */
#include <assert.h>
#include <string.h>

#include "vm/inventory/draft.h"
#include "vm/model/inventory.h"
#include "vm/model/names.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

const char *vm_state_name(enum vm_state state)
{
	static const char *const names[] = { "ok", "detached", "unsupported", "busy", "stale" };

	return (size_t)state < VS_ARRAY_LEN(names) ? names[state] : "unsupported";
}

const char *vm_kind_name(enum vm_kind kind)
{
	return kind == VM_INTERNAL ? "internal" : "external";
}

/* What a disk was in the snapshot after this one. */
struct later {
	const struct vm_disk *disk;
	struct vm_verdict verdict;
};

struct work {
	const struct vm_draft *draft;
	const struct vm_graph *graph;
	size_t index;
	struct vm_chains *chains;
	struct vm_domain *domain;
	struct vm_arena *arena;
	struct later *later;         /* of each target that was met */
	size_t n_later, later_room;
	char **shown;                /* by place in the draft: the name that a snapshot has in the domain, NULL: none yet */
	const struct vm_xml_snapshot *kept; /* what was held on to last for a definition, */
	const struct q2_info *info;         /* and for an entry */
	struct q2_gate *gate; /* held on to by the domain */
	const struct vm_domain *before;
	bool unfinished;
};

static void drop_gate(void *thing)
{
	q2_gate_unref(thing);
}

static void drop_record(void *thing)
{
	vm_xml_snapshot_free(thing);
}

static void drop_log(void *thing)
{
	vm_log_unref(thing);
}

static void drop_info(void *thing)
{
	q2_info_free(thing);
}

/* Holds on to the header that it is in: of a hundred snapshots all are in the same, mostly. */
static const struct q2_snapshot *own_entry(struct work *w, const struct vm_verdict *v)
{
	const struct q2_info *info = v->entry ? w->chains->fact[v->layers[0]].info : NULL;

	assert(!info || (v->entry >= info->snapshots && v->entry < info->snapshots + info->n_snapshots));
	if (info && info != w->info)
		vm_arena_own(w->arena, q2_info_ref(info), drop_info);
	if (info)
		w->info = info;
	return v->entry;
}

static char *shown_name(struct work *w, size_t place)
{
	if (!w->shown[place])
		w->shown[place] = vm_arena_strdup(w->arena, w->draft->snapshots[place].shown);
	return w->shown[place];
}

/* Most are disks that the domain has still. */
static char *own_target(const struct work *w, const char *target)
{
	for (size_t i = 0; i < w->domain->n_disks; i++)
		if (!strcmp(w->domain->disks[i].target, target))
			return w->domain->disks[i].target;
	return vm_arena_strdup(w->arena, target);
}

static char **chain_paths(const struct work *w, const int *layers, size_t n)
{
	char **paths = vm_arena_calloc(w->arena, n + 1, sizeof(*paths));

	for (size_t i = 0; i < n; i++)
		paths[i] = vm_arena_strdup(w->arena, w->chains->fact[layers[i]].path);
	return paths;
}

/* ---------------------------------------------------------------- chains and stamps: a hundred snapshots have most of theirs in common */

static void keep_chain(struct work *w, const struct vm_verdict *v, struct vm_disk *disk)
{
	struct q2_stamp *stamps = vm_arena_calloc(w->arena, v->n_layers + 1, sizeof(*stamps));
	struct q2_stamp *marks = vm_arena_calloc(w->arena, v->n_layers + 1, sizeof(*marks));
	uint64_t *survived = vm_arena_calloc(w->arena, v->n_layers + 1, sizeof(*survived));

	for (size_t i = 0; i < v->n_layers; i++) {
		stamps[i] = w->chains->fact[v->layers[i]].stamp;
		marks[i] = vm_graph_stamp(w->graph, v->layers[i]);
		survived[i] = v->survived[i];
	}
	disk->chain = chain_paths(w, v->layers, v->n_layers);
	disk->stamps = stamps;
	disk->marks = marks;
	disk->survived = survived;
}

static struct later *later_of(const struct work *w, const char *target)
{
	for (size_t i = 0; i < w->n_later; i++)
		if (!strcmp(w->later[i].disk->target, target))
			return &w->later[i];
	return NULL;
}

/* Does the chain of @of end with that of @v? */
static bool is_end_of(const struct vm_verdict *of, const struct vm_verdict *v)
{
	size_t above = of->n_layers - v->n_layers;

	return of->n_layers >= v->n_layers && v->n_layers && !memcmp(of->layers + above, v->layers, v->n_layers * sizeof(*v->layers)) &&
	       !memcmp(of->survived + above, v->survived, v->n_layers * sizeof(*v->survived));
}

static void set_chain(struct work *w, const struct vm_verdict *v, struct vm_disk *disk)
{
	const struct later *later = later_of(w, disk->target);
	size_t above;

	disk->n_stamps = v->n_layers;
	if (!later || !is_end_of(&later->verdict, v)) {
		keep_chain(w, v, disk);
		return;
	}
	above = later->disk->n_stamps - v->n_layers;
	disk->chain = later->disk->chain + above;
	disk->stamps = later->disk->stamps + above;
	disk->marks = later->disk->marks + above;
	disk->survived = later->disk->survived + above;
}

/* Takes what @v has. */
static void remember_later(struct work *w, const struct vm_disk *disk, struct vm_verdict *v)
{
	struct later *later = later_of(w, disk->target);

	if (!later) {
		XGROW(w->later, w->n_later, w->later_room);
		later = &w->later[w->n_later++];
		*later = (struct later){0};
	}
	vm_verdict_fini(&later->verdict);
	*later = (struct later){ disk, *v };
}

static void forget_later(struct work *w)
{
	for (size_t i = 0; i < w->n_later; i++)
		vm_verdict_fini(&w->later[i].verdict);
	free(w->later);
}

/* ---------------------------------------------------------------- disks of snapshots */

static uint64_t virtual_size(const struct vm_chains *c, int file)
{
	const struct vm_header *f = c->file[file];

	return f->info ? f->info->size : f->format == Q2_FORMAT_RAW ? f->stamp.size : 0;
}

static bool readable(enum vm_state state)
{
	return state == VM_OK || state == VM_DETACHED || state == VM_BUSY;
}

/* The graph does not know of gates, nor which files hold what we cannot decode. */
static void worsen(struct vm_disk *disk, struct work *w, enum vm_state state, const char *reason)
{
	disk->state = state;
	disk->reason = vm_arena_strdup(w->arena, reason);
}

static void apply_verdict(struct work *w, const struct vm_draft_disk *from, const struct vm_verdict *v, struct vm_disk *disk)
{
	bool internal = from->fact.mode == VM_MODE_INTERNAL;
	struct vs_err err = {0};

	disk->state = v->state;
	disk->brief = v->brief;
	disk->written = v->written;
	disk->differs = v->differs;
	disk->misses = v->misses;
	disk->reason = vm_arena_strdup(w->arena, v->reason);
	set_chain(w, v, disk);
	disk->format = v->n_layers ? v->format : Q2_FORMAT_NONE;
	disk->snapshot = internal ? own_entry(w, v) : NULL;
	disk->guard = v->guard;
	disk->watched = v->watched;
	disk->guard_top = internal ? v->guard_top : v->guard;
	if (internal && v->entry)
		disk->size = v->entry->disk_size;
	else if (!internal && v->n_layers)
		disk->size = virtual_size(w->chains, v->layers[0]);
	if (readable(disk->state) &&
	    vm_chains_allowed(w->chains, v->layers, v->n_layers, v->n_layers && v->layers[0] == from->fact.pit, w->gate,
			      &err) < 0)
		worsen(disk, w, VM_UNSUPPORTED, err.msg);
}

/* Is it read through a layer that a merge of ours has in its hands? See is_merging() in command/attest.c. */
static bool is_merging(const struct work *w, const struct vm_verdict *v)
{
	for (size_t i = 0; i < w->draft->n_merges; i++)
		for (size_t k = 0; !w->draft->merges[i].is_void && w->draft->merges[i].top && k < v->n_layers; k++)
			if (!strcmp(w->chains->fact[v->layers[k]].path, w->draft->merges[i].top))
				return true;
	return false;
}

/* Is there something to be noted of it (command/attest.c)? While a merge of ours is under way only what is wrong. */
static bool is_unnoted(const struct work *w, const struct vm_draft_disk *from, const struct vm_verdict *v, const struct vm_disk *disk)
{
	if (v->written)
		return !from->fact.spoilt;
	return (disk->state == VM_OK || disk->state == VM_DETACHED) && (from->fact.spoilt || (!from->fact.shows && !v->watched) || (!v->noted && !v->watched && !is_merging(w, v)));
}

static bool has_layer(const struct vm_domain *d, int top, const char *path)
{
	for (int l = top, n = 0; path && l >= 0 && n < VM_CHAIN_MAX; l = d->layers[l].below, n++)
		if (!strcmp(d->layers[l].path, path))
			return true;
	return false;
}

/* QEMU writes the header first, and libvirt the definition a moment later: while a command of ours merges what that disk stands on nothing can be concluded
 * from the two. */
static bool is_being_merged(const struct work *w, int top)
{
	const struct vm_draft *draft = w->draft;

	for (size_t i = 0; draft->running && draft->at_work && i < draft->n_merges; i++)
		if (!draft->merges[i].is_void && (has_layer(w->domain, top, draft->merges[i].base) || has_layer(w->domain, top, draft->merges[i].top)))
			return true;
	return false;
}

/* Is it read through a layer of a disk of which a definition says that it stands on something else? */
static bool is_contradicted(const struct work *w, const char *target, const struct vm_verdict *v)
{
	const struct vm_domain *d = w->domain;

	for (size_t i = 0; i < d->n_disks; i++) {
		const struct vm_disk_now *disk = &d->disks[i];

		if (!disk->contradicted || strcmp(disk->target, target) != 0 || is_being_merged(w, disk->top))
			continue;
		for (size_t k = 0; k < v->n_layers; k++)
			if (has_layer(d, disk->top, w->chains->fact[v->layers[k]].path))
				return true;
	}
	return false;
}

static void compose_disk(struct work *w, const struct vm_draft_snapshot *s, size_t k, struct vm_disk *disk)
{
	const struct vm_draft_disk *from = &s->disks[k];
	struct vm_verdict verdict;

	vm_graph_state(w->graph, w->index, (size_t)s->rank, k, &verdict);
	disk->target = own_target(w, from->fact.target);
	disk->created_ns = vm_order_disk_created(s, from);
	disk->ino = vm_order_disk_ino(w->draft, s, from);
	disk->gate = w->gate;
	apply_verdict(w, from, &verdict, disk);
	if (readable(disk->state) && is_contradicted(w, from->fact.target, &verdict))
		worsen(disk, w, VM_UNSUPPORTED, "the <backingStore> or <dataStore> in the domain's definition names another chain than the headers of the images do, and QEMU goes by "
						"that: put one of them right");
	w->domain->unnoted |= w->draft->commanded && !s->present && is_unnoted(w, from, &verdict, disk);
	if (readable(disk->state))
		disk->file = vm_arena_take(w->arena, vm_name_image_file(s->shown, disk->target));
	remember_later(w, disk, &verdict);
}

/* A copy is a raw image that nobody writes to. */
static void compose_nv(struct work *w, const struct vm_draft_snapshot *s, const struct vm_draft_nv *from, struct vm_disk *disk)
{
	const struct vm_fact_file *f = &w->chains->fact[from->file];
	struct q2_stamp *stamp = vm_arena_calloc(w->arena, 1, sizeof(*stamp));

	*stamp = f->stamp;
	*disk = (struct vm_disk){
		.state = from->right ? VM_OK : VM_STALE, .size = f->stamp.size, .created_ns = s->created_ns, .format = Q2_FORMAT_RAW, .gate = w->gate,
		.ino = vm_order_nv_ino(w->draft, s, from->what), .chain = chain_paths(w, &from->file, 1), .stamps = stamp, .marks = stamp,
		.survived = vm_arena_calloc(w->arena, 1, sizeof(*disk->survived)), .n_stamps = 1,
	};
	disk->target = vm_arena_strdup(w->arena, from->what);
	if (from->right)
		disk->file = vm_arena_take(w->arena, vm_name_nv_file(s->shown, from->what));
	else
		disk->reason = vm_arena_printf(w->arena, "'%s' is not what it was when it was made", f->path);
}

/* ---------------------------------------------------------------- snapshots */

static void take_worst(struct work *w, struct vm_snapshot *out)
{
	for (size_t i = 0; i < out->n_disks; i++) {
		const struct vm_disk *disk = &out->disks[i];

		if (disk->state <= out->state)
			continue;
		out->state = disk->state;
		out->reason = vm_arena_printf(w->arena, "%s: %s", disk->target, disk->reason ? disk->reason :
					      vm_state_name(disk->state));
	}
}

static void compose_record(struct work *w, const struct vm_draft_snapshot *s, struct vm_snapshot *out)
{
	*out = (struct vm_snapshot){
		.kind = s->kind, .memory = s->memory, .recorded = s->recorded || w->draft->image, .lost = s->lost, .current = s->current,
		.present = s->present, .created_ns = s->created_ns,
	};
	out->shown = shown_name(w, (size_t)(s - w->draft->snapshots));
	out->name = !strcmp(s->name, s->shown) ? out->shown : vm_arena_strdup(w->arena, s->name);
	out->held = s->held;
	out->ours = s->ours;
	if (s->parent >= 0)
		out->parent = shown_name(w, (size_t)s->parent);
	if (!s->xml)
		return;
	if (s->keep != w->kept)
		vm_arena_own(w->arena, vm_xml_snapshot_ref(s->keep), drop_record);
	w->kept = s->keep;
	out->xml = (char *)s->xml;
	out->xml_len = s->xml_len;
	out->xml_file = vm_arena_take(w->arena, vm_name_xml_file(s->shown));
}

static void compose_snapshot(struct work *w, const struct vm_draft_snapshot *s, struct vm_snapshot *out)
{
	compose_record(w, s, out);
	out->users = vm_graph_viewers(w->graph, w->index, (size_t)s->rank, w->arena);
	if (s->problem) {
		out->state = VM_UNSUPPORTED;
		out->reason = vm_arena_strdup(w->arena, s->problem);
		return;
	}
	out->disks = vm_arena_calloc(w->arena, s->n_disks, sizeof(*out->disks));
	for (size_t k = 0; k < s->n_disks; k++)
		compose_disk(w, s, k, &out->disks[k]);
	out->n_disks = s->n_disks;
	out->nv = vm_arena_calloc(w->arena, s->n_nv, sizeof(*out->nv));
	for (; out->n_nv < s->n_nv; out->n_nv++)
		compose_nv(w, s, &s->nv[out->n_nv], &out->nv[out->n_nv]);
	take_worst(w, out);
}

/* The present content of an image is there while nobody writes it. And what appears in libvirt's list while it is still
 * being taken has not lost its data, it does not have it yet. */
static bool is_shown(struct work *w, const struct vm_draft_snapshot *s, const struct vm_snapshot *snap)
{
	if (s->present && snap->state != VM_OK && snap->n_disks && w->domain->n_disks && !w->domain->disks[0].note)
		w->domain->disks[0].note = vm_arena_printf(w->arena, "its present content is not shown: %s",
							   snap->disks[0].reason ? snap->disks[0].reason : vm_state_name(snap->state));
	if (s->present)
		return snap->state == VM_OK;
	if (!s->in_making || snap->state != VM_STALE || !w->before || vm_domain_shown(w->before, s->shown))
		return true;
	w->unfinished = true;
	return false;
}

/* From the last to the first, for what a later one stands on an earlier one does mostly, too. */
static void compose_snapshots(struct work *w)
{
	struct vm_domain *d = w->domain;
	size_t n = w->draft->n_snapshots, first = n;

	d->snapshots = vm_arena_calloc(w->arena, n, sizeof(*d->snapshots));
	for (size_t i = n; i-- > 0;) {
		const struct vm_draft_snapshot *s = w->draft->order[i];
		struct vm_snapshot *out = &d->snapshots[first - 1];

		compose_snapshot(w, s, out);
		first -= is_shown(w, s, out);
	}
	d->snapshots += first;
	d->n_snapshots = n - first;
	forget_later(w);
}

/* ---------------------------------------------------------------- layers and disks as they are now */

static void copy_disks(struct work *w, const int *tops)
{
	size_t n = w->draft->n_disks;
	struct vm_disk_now *to = vm_arena_calloc(w->arena, n, sizeof(*to));

	for (size_t i = 0; i < n; i++) {
		const struct vm_draft_now *from = &w->draft->disks[i];

		to[i] = (struct vm_disk_now){
			.target = vm_arena_strdup(w->arena, from->fact.target), .top = tops[i],
			.source = vm_arena_strdup(w->arena, from->source), .note = vm_arena_strdup(w->arena, from->note),
			.doubt = vm_arena_strdup(w->arena, from->doubt), .job = vm_arena_strdup(w->arena, from->job),
			.transient = from->transient, .contradicted = from->contradicted, .job_done = from->job_done, .job_total = from->job_total,
		};
	}
	w->domain->disks = to;
	w->domain->n_disks = n;
}

#define UNKNOWNS_SHOWN 16

static void list_unknowns(struct work *w)
{
	const struct vm_domain *d = w->domain;
	struct vm_strings list = {0};

	for (size_t i = 0; i < d->n_layers && list.n < UNKNOWNS_SHOWN; i++)
		if (d->layers[i].unknown && !vm_strings_has(&list, d->layers[i].unknown))
			vm_strings_add(w->arena, &list, d->layers[i].unknown);
	for (size_t i = 0; i < d->n_doubts && list.n < UNKNOWNS_SHOWN; i++)
		if (!vm_strings_has(&list, d->doubts[i].phrase))
			vm_strings_add(w->arena, &list, d->doubts[i].phrase);
	w->domain->unknowns = vm_strings_done(&list);
}

static void list_checkpoints(struct work *w)
{
	struct vm_strings list = {0};

	for (char *const *name = w->draft->checkpoints; name && *name; name++)
		vm_strings_take(w->arena, &list, vm_name_printable(*name));
	w->domain->checkpoints = vm_strings_done(&list);
}

static void list_nv_paths(struct work *w)
{
	struct vm_strings list = {0};

	for (size_t i = 0; i < VS_ARRAY_LEN(w->draft->nv_paths); i++)
		if (w->draft->nv_paths[i] && !vm_strings_has(&list, w->draft->nv_paths[i]))
			vm_strings_add(w->arena, &list, w->draft->nv_paths[i]);
	w->domain->nv_paths = vm_strings_done(&list);
}

static void compose_layers(struct work *w)
{
	struct vm_domain *d = w->domain;
	int *tops;

	vm_graph_layers(w->graph, w->index, w->arena, &d->layers, &d->n_layers, &tops);
	vm_graph_doubts(w->graph, w->index, w->arena, &d->doubts, &d->n_doubts);
	copy_disks(w, tops);
	list_unknowns(w);
}

struct vm_domain *vm_freeze_domain(const struct vm_draft *from, const struct vm_graph *graph, size_t index,
				   struct vm_chains *chains, const struct vm_domain *before, bool *unfinished)
{
	struct vm_domain *d = vm_domain_new();
	struct vm_arena *arena = vm_domain_arena(d);
	struct work w = { .draft = from, .graph = graph, .index = index, .chains = chains, .before = before, .domain = d, .arena = arena };

	d->name = vm_arena_strdup(arena, from->name);
	d->dir = vm_arena_strdup(arena, from->dir);
	d->uuid = vm_arena_strdup(arena, from->uuid);
	d->state = vm_arena_strdup(arena, from->state);
	d->ino = from->ino;
	d->unread = from->unread;
	d->untold = from->untold ? vm_arena_strdup(arena, from->untold) : NULL;
	d->log = vm_arena_own(arena, vm_log_ref(from->log), drop_log);
	d->gate = w.gate = vm_arena_own(arena, q2_gate_ref(from->gate), drop_gate);
	w.shown = xcalloc(from->n_snapshots, sizeof(*w.shown));
	list_checkpoints(&w);
	list_nv_paths(&w);
	compose_layers(&w);
	compose_snapshots(&w);
	free(w.shown);
	for (size_t i = 0; i < from->n_merges; i++)
		d->unnoted |= !from->running && !from->merges[i].left_ns;
	*unfinished |= w.unfinished;
	return d;
}
