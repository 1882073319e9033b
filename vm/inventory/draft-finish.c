/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The finish: from the drafts, what is remembered (observe/history.h) and the lock bytes to struct vm_facts; the graph; vm_freeze_domain();
 * vm_changes_say().
 */
#include "vm/inventory/draft.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/inventory/changes.h"
#include "vm/model/inventory.h"
#include "vm/observe/sum.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- facts */

struct node {
	uint64_t dev, ino;
};

static int by_node(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct node));
}

static bool node_of(const struct vm_chains *c, int file, struct node *out)
{
	if (file == VM_NO_FILE)
		return false;
	*out = (struct node){ c->fact[file].stamp.dev, c->fact[file].stamp.ino };
	return out->dev || out->ino;
}

static size_t add_active(const struct vm_chains *c, const struct vm_fact_disk *disk, struct node *nodes)
{
	size_t n = 0;

	if (disk->writable && node_of(c, disk->top, &nodes[n]))
		n++;
	if (node_of(c, disk->mirror, &nodes[n]))
		n++;
	return n;
}

/* The files that somebody may write by right, sorted. */
static struct node *active_nodes(const struct vm_drafts *set, const struct vm_fact_domain *domains, size_t n_domains,
				 size_t *n)
{
	size_t room = 1;
	struct node *nodes;

	for (size_t i = 0; i < n_domains; i++)
		room += domains[i].n_disks * 2;
	nodes = vm_arena_calloc(set->arena, room, sizeof(*nodes));
	*n = 0;
	for (size_t i = 0; i < n_domains; i++)
		for (size_t k = 0; k < domains[i].n_disks && !domains[i].image; k++)
			*n += add_active(set->chains, &domains[i].disks[k], nodes + *n);
	qsort(nodes, *n, sizeof(*nodes), by_node);
	return nodes;
}

/* A pull that is over was completed if what it wrote into stands on something else than when it began. */
static void note_pulls(const struct vm_drafts *set)
{
	for (size_t i = 0; i < set->n; i++) {
		for (size_t k = 0; k < set->drafts[i].n_disks; k++) {
			const struct vm_draft_now *disk = &set->drafts[i].disks[k];
			struct vm_fact_file *top = disk->fact.top == VM_NO_FILE ? NULL : &set->chains->fact[disk->fact.top];

			if (!disk->pull_since || !top || top->repointed_at < disk->pull_since)
				continue;
			top->pulled_at = vm_history_pulled(set->memory, &top->stamp);
		}
	}
}

/* Lock bytes are asked for where something may be going on: a file that should be frozen was just written, was found locked before, or was no
 * frozen one until now (QEMU keeps the base of an aborted commit open). */
static void add_locks(const struct vm_drafts *set, int i)
{
	struct vm_header *f = set->chains->file[i];
	uint64_t round = set->chains->number;

	if (!f->info)
		return;
	if (set->ask_locks || f->touched + 3 >= round || f->live || f->locks.writer || f->locks.no_read || f->locks_code)
		vm_headers_locks(set->chains->files, f);
	set->chains->fact[i].writer = f->locks.writer;
	set->chains->fact[i].no_read = f->locks.no_read;
	set->chains->fact[i].locks_error = f->locks_code;
}

static void add_memories(const struct vm_drafts *set, const struct vm_fact_domain *domains, size_t n_domains)
{
	struct vm_chains *c = set->chains;
	struct node *active, node;
	size_t n_active;

	active = active_nodes(set, domains, n_domains, &n_active);
	for (size_t i = 0; i < c->n; i++) {
		bool frozen = !node_of(c, (int)i, &node) || !bsearch(&node, active, n_active, sizeof(node), by_node);

		vm_history_file(set->memory, &c->fact[i], frozen);
		if (frozen)
			add_locks(set, (int)i);
		c->file[i]->live = !frozen;
	}
	note_pulls(set);
}

/* The same for facts: see is_of_another() in command/attest.c. What was said of the other one is not said of this. */
static void drop_notes_of_another(const struct vm_chains *chains, struct vm_fact_snapdisk *fact)
{
	const struct vm_fact_note *noted = fact->mode == VM_MODE_EXTERNAL ? fact->froze : NULL;
	int f = fact->pit;

	if (!noted || f == VM_NO_FILE || chains->fact[f].error || chains->fact[f].stamp.ino == noted->stamp.ino)
		return;
	for (size_t n = 0; f != VM_NO_FILE && n < VM_CHAIN_MAX; n++) {
		f = chains->fact[f].below;
		if (f != VM_NO_FILE && !chains->fact[f].error && chains->fact[f].stamp.ino == noted->stamp.ino) {
			fact->froze = NULL;
			fact->shows = fact->n_attested = 0;
			fact->spoilt = false;
			return;
		}
	}
}

static void snapshot_disks(const struct vm_drafts *set, const struct vm_draft *d, struct vm_draft_snapshot *s,
			   struct vm_fact_snapshot *out)
{
	struct vm_fact_snapdisk *disks = vm_arena_calloc(set->arena, s->n_disks, sizeof(*disks));

	for (size_t i = 0; i < s->n_disks; i++) {
		struct vm_draft_disk *disk = &s->disks[i];
		uint64_t ino = vm_order_disk_ino(d, s, disk);

		disk->fact.since = vm_history_since(set->memory, ino, disk->fact.pit == VM_NO_FILE ? "" :
						    set->chains->fact[disk->fact.pit].path);
		disk->fact.ino = ino;
		disk->fact.whole = vm_ino_whole(d->ino, disk->fact.target);
		if (!disk->fact.froze && s->kind == VM_EXTERNAL)
			disk->fact.froze = vm_history_frozen(set->memory, ino, set->arena); /* as an earlier look found it */
		drop_notes_of_another(set->chains, &disk->fact);
		disks[i] = disk->fact;
	}
	out->disks = disks;
	out->n_disks = s->n_disks;
}

/* A snapshot's place among the facts is its rank. */
static void snapshot_facts(const struct vm_drafts *set, const struct vm_draft *d, struct vm_fact_domain *out)
{
	struct vm_fact_snapshot *facts = vm_arena_calloc(set->arena, d->n_snapshots, sizeof(*facts));

	for (size_t i = 0; i < d->n_snapshots; i++) {
		struct vm_draft_snapshot *s = d->order[i];

		facts[i] = (struct vm_fact_snapshot){
			.name = s->name, .shown = s->shown, .parent = s->parent < 0 ? -1 : d->snapshots[s->parent].rank,
			.created_s = s->created_ns / VM_NS_PER_S, .recorded = s->recorded,
			.external_memory = s->external_memory, .beside = s->beside, .n_beside = s->n_beside,
		};
		snapshot_disks(set, d, s, &facts[i]);
	}
	out->snapshots = facts;
	out->n_snapshots = d->n_snapshots;
}

static void domain_facts(const struct vm_drafts *set, const struct vm_draft *d, struct vm_fact_domain *out)
{
	struct vm_fact_disk *disks = vm_arena_calloc(set->arena, d->n_disks, sizeof(*disks));

	for (size_t i = 0; i < d->n_disks; i++)
		disks[i] = d->disks[i].fact;
	*out = (struct vm_fact_domain){ .name = d->dir, .running = d->running, .image = d->image, .disks = disks,
					.n_disks = d->n_disks, .made = d->own_made, .n_made = d->n_own_made,
					.begun = d->begun, .n_begun = d->n_begun, .others = d->others, .n_others = d->n_others,
					.beside = d->beside, .n_beside = d->n_beside };
	snapshot_facts(set, d, out);
}

/* ---------------------------------------------------------------- the finish */

/* The same domain in the inventory before. */
static const struct vm_domain *find_before(const struct vm_inventory *prev, const struct vm_draft *d)
{
	const struct vm_domain *before = prev ? vm_inventory_domain(prev, d->dir) : NULL;

	if (prev && (!before || strcmp(before->uuid, d->uuid)))
		before = vm_inventory_by_uuid(prev, d->uuid);
	return before;
}

/* Tells what has changed, or remembers since when nothing was told. */
static void tell_changes(const struct vm_domain *before, struct vm_domain *now)
{
	const struct vm_domain *told = before ? vm_domain_told(before) : NULL;

	if (!told)
		told = before;
	if (now->unread)
		return; /* what there is to be told is known soon */
	if (told && told->unread)
		told = NULL;
	if (told && vm_log_is_quiet(now->log))
		vm_domain_set_told(now, vm_domain_ref((struct vm_domain *)told));
	else
		vm_changes_say(told, now);
}

/* Takes @now; gives what the inventory is to show: @now, or the same that was shown before. */
static struct vm_domain *settle_on(const struct vm_domain *before, struct vm_domain *now)
{
	bool same = before && vm_domain_equal(before, now);

	if (same && before->unnoted == now->unnoted && (!vm_domain_told(before) || vm_log_is_quiet(now->log))) {
		vm_domain_unref(now);
		return vm_domain_ref((struct vm_domain *)before);
	}
	now->changed_ns = same ? before->changed_ns : vm_now_ns();
	if (!same || vm_domain_told(before))
		tell_changes(before, now);
	return now;
}

static void remember_frozen(const struct vm_drafts *set, const struct vm_domain *d)
{
	for (size_t i = 0; i < d->n_snapshots; i++)
		for (size_t k = 0; d->snapshots[i].kind == VM_EXTERNAL && k < d->snapshots[i].n_disks; k++) {
			const struct vm_disk *disk = &d->snapshots[i].disks[k];

			if ((disk->state == VM_OK || disk->state == VM_DETACHED) && disk->n_stamps)
				vm_history_froze(set->memory, disk->ino, &disk->marks[0], disk->format == Q2_FORMAT_RAW);
		}
}

static int file_by_path(const struct vm_facts *facts, const char *path)
{
	for (size_t i = 0; path && i < facts->n_files; i++)
		if (!strcmp(facts->files[i].path, path))
			return (int)i;
	return VM_NO_FILE;
}

/* Merges of ours that were begun: what they wrote is explained to those whom it does not harm. Those whom it does are marked,
 * so it is no accusation (`at` is 0). */
static void add_merges(const struct vm_drafts *set, const struct vm_facts *facts, struct vm_fact_commit **commits, size_t *n)
{
	size_t room = *n;

	for (size_t i = 0; i < set->n; i++)
		for (size_t k = 0; k < set->drafts[i].n_merges; k++) {
			const struct vm_draft_merge *merge = &set->drafts[i].merges[k];
			int base = file_by_path(facts, merge->base);

			if (base == VM_NO_FILE)
				continue;
			XGROW(*commits, *n, room);
			(*commits)[(*n)++] = (struct vm_fact_commit){
				.base = base, .top = file_by_path(facts, merge->top), .ours = true, .above = merge->above, .left_ns = merge->left_ns,
			};
		}
}

static uint64_t sum_of(void *opaque, int file)
{
	const struct vm_drafts *set = opaque;

	return vm_headers_sum(set->chains->files, set->chains->file[file]);
}

static uint64_t add_state(uint64_t state, const struct q2_stamp *s, bool may_grow)
{
	char text[4 * 21];

	snprintf(text, sizeof(text), "%" PRIu64 ":%" PRIu64 ":%" PRIu64 ":%" PRId64, s->dev, s->ino, may_grow ? 0 : s->size, may_grow ? 0 : s->mtime_ns);
	return vm_ino(state, text);
}

/* Which files these are, and in which state. The image of an internal snapshot is written to while a guest runs, and not where that is. */
static uint64_t state_of(const struct vm_chains *chains, const int *files, size_t n, bool internal)
{
	uint64_t state = 1;

	for (size_t i = 0; i < n; i++) {
		const struct vm_fact_file *f = &chains->fact[files[i]];

		state = add_state(state, &f->stamp, !i && internal);
		if (f->data != VM_NO_FILE)
			state = add_state(state, &chains->fact[f->data].stamp, false);
	}
	return state;
}

static uint64_t shown_of(void *opaque, size_t domain, const struct vm_fact_snapdisk *disk, const int *files, size_t n, enum q2_format format,
			 const struct q2_snapshot *entry)
{
	const struct vm_drafts *set = opaque;
	uint64_t state = state_of(set->chains, files, n, entry != NULL), sum = 0, bytes;
	vs_autofree struct q2_stamp *stamps = xcalloc(n, sizeof(*stamps));

	if (domain >= set->n || !n || vm_history_shown(set->memory, disk->ino, state, &sum))
		return sum;
	for (size_t i = 0; i < n; i++)
		stamps[i] = set->chains->fact[files[i]].stamp;
	sum = vm_sum_shown(&(struct q2_view_spec){ .path = set->chains->fact[files[0]].path, .format = format, .snapshot = entry,
						   .gate = set->drafts[domain].gate, .expected = stamps, .n_expected = n }, &bytes);
	if (sum)
		vm_history_shows(set->memory, disk->ino, state, sum == VM_SUM_NONE ? 0 : sum);
	return sum == VM_SUM_NONE ? 0 : sum;
}

/* ---------------------------------------------------------------- some of the domains alone */

/* Is there anything by which domains have to do with one another that share no file? What is not known may stand on any file; a window shows
 * another file; an image that belongs to nobody stands on somebody's; and commits are remembered by file. */
static bool is_simple(const struct vm_drafts *set, const struct vm_facts *facts)
{
	if (set->n_unknowns || set->n_volumes || set->mentions_stand || facts->n_commits)
		return false;
	for (size_t i = 0; i < facts->n_files; i++) {
		const struct vm_fact_file *f = &facts->files[i];

		if (f->exposes || f->hidden || f->shows != VM_NO_FILE || f->refused_ino || f->stamp.block)
			return false;
	}
	for (size_t i = 0; i < set->n; i++)
		if (set->drafts[i].n_merges || set->drafts[i].image)
			return false;
	return true;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* One that is there no more: the history tells from gaps between looks at all whether another one has come in its place. */
static bool has_lost(const struct vm_drafts *set, const struct vm_domain *before, const struct vm_fact_domain *now)
{
	size_t n = 0, room = 1;
	uint64_t *inos;

	for (size_t i = 0; i < now->n_snapshots; i++)
		room += now->snapshots[i].n_disks;
	inos = vm_arena_calloc(set->arena, room, sizeof(*inos));
	for (size_t i = 0; i < now->n_snapshots; i++)
		for (size_t k = 0; k < now->snapshots[i].n_disks; k++)
			inos[n++] = now->snapshots[i].disks[k].ino;
	qsort(inos, n, sizeof(*inos), by_number);
	for (size_t i = 0; i < before->n_snapshots; i++)
		for (size_t k = 0; k < before->snapshots[i].n_disks; k++)
			if (!bsearch(&before->snapshots[i].disks[k].ino, inos, n, sizeof(*inos), by_number))
				return true;
	return false;
}

/* All that was there is still, and nothing has come that concerns others. */
static bool is_enough(const struct vm_drafts *set, const struct vm_facts *facts, const struct vm_inventory *prev)
{
	if (!is_simple(set, facts))
		return false;
	for (size_t i = 0; i < set->n; i++) {
		const struct vm_domain *before = vm_inventory_by_uuid(prev, set->drafts[i].uuid);

		if (!before || strcmp(before->dir, set->drafts[i].dir) != 0 || has_lost(set, before, &facts->domains[i]))
			return false;
	}
	return true;
}

static bool is_drafted(const struct vm_drafts *set, const char *uuid)
{
	for (size_t i = 0; i < set->n; i++)
		if (!strcmp(set->drafts[i].uuid, uuid))
			return true;
	return false;
}

/* Takes @domains, which are those of the drafts. */
static struct vm_inventory *with_others(const struct vm_drafts *set, struct vm_domain **domains, const struct vm_inventory *prev)
{
	struct vm_domain **all = vm_arena_calloc(set->arena, set->n + prev->n_domains, sizeof(struct vm_domain *));
	size_t n = set->n;

	memcpy(all, domains, n * sizeof(struct vm_domain *));
	for (size_t i = 0; i < prev->n_domains; i++)
		if (!is_drafted(set, prev->domains[i]->uuid))
			all[n++] = vm_domain_ref(prev->domains[i]);
	return vm_inventory_new(all, n, prev);
}

/* ---------------------------------------------------------------- the graph */

/* Gives references in @out. False: see vm_drafts_finish(). */
static bool ask_graph(struct vm_drafts *set, struct vm_facts *facts, const struct vm_inventory *prev, struct vm_domain **out)
{
	vs_autofree struct vm_fact_commit *commits = NULL, *running = NULL;
	struct vm_graph *graph;
	size_t n_running;

	vm_history_commits(set->memory, facts, &commits, &facts->n_commits);
	add_merges(set, facts, &commits, &facts->n_commits);
	facts->commits = commits;
	graph = vm_graph_new(facts);
	vm_graph_commits(graph, &running, &n_running);
	set->simple = is_simple(set, facts) && !n_running && !vm_graph_has_doubts(graph);
	if (set->partial && !set->simple) {
		vm_graph_free(graph);
		return false;
	}
	vm_history_commits_add(set->memory, facts, running, n_running);
	for (size_t i = 0; i < set->n; i++) {
		const struct vm_domain *before = find_before(prev, &set->drafts[i]);

		out[i] = settle_on(before, vm_freeze_domain(&set->drafts[i], graph, i, set->chains, before, &set->drafts[i].unfinished));
		set->drafts[i].unfinished |= vm_domain_told(out[i]) != NULL; /* which is told as soon as the command is over */
	}
	for (size_t i = 0; i < set->n; i++)
		remember_frozen(set, out[i]);
	vm_graph_free(graph);
	return true;
}

struct vm_fact_unknown *vm_drafts_unknown(struct vm_drafts *set, int code, const char *why, const char *who_fmt, ...)
{
	va_list ap;
	vs_autofree char *who = NULL;

	va_start(ap, who_fmt);
	who = xvasprintf(who_fmt, ap);
	va_end(ap);
	VM_ARENA_GROW(set->arena, set->unknowns, set->n_unknowns, set->unknowns_room);
	set->unknowns[set->n_unknowns++] = (struct vm_fact_unknown){
		.who = vm_arena_strdup(set->arena, who), .why = vm_arena_strdup(set->arena, why),
		.code = code == -EACCES ? -EACCES : -EPERM,
	};
	return &set->unknowns[set->n_unknowns - 1];
}

struct vm_inventory *vm_drafts_finish(struct vm_drafts *set, const struct vm_inventory *prev)
{
	size_t n_domains = set->n + set->n_extra;
	struct vm_fact_domain *facts_of = vm_arena_calloc(set->arena, n_domains, sizeof(*facts_of));
	struct vm_domain **domains = vm_arena_calloc(set->arena, set->n, sizeof(struct vm_domain *));
	struct vm_facts facts = { .domains = facts_of, .n_domains = n_domains, .volumes = set->volumes,
				  .n_volumes = set->n_volumes, .unknowns = set->unknowns, .n_unknowns = set->n_unknowns };

	for (size_t i = 0; i < set->n; i++) {
		vm_order_settle(&set->drafts[i], set->arena);
		domain_facts(set, &set->drafts[i], &facts_of[i]);
	}
	for (size_t i = 0; i < set->n_extra; i++)
		facts_of[set->n + i] = set->extra[i];
	facts.files = set->chains->fact;
	facts.n_files = set->chains->n;
	if (set->partial && !is_enough(set, &facts, prev))
		return NULL;
	add_memories(set, facts_of, n_domains);
	facts.now_ns = vm_now_ns();
	facts.sum = sum_of;
	facts.shows = shown_of;
	facts.opaque = set;
	if (!ask_graph(set, &facts, prev, domains))
		return NULL;
	return set->partial ? with_others(set, domains, prev) : vm_inventory_new(domains, set->n, prev);
}
