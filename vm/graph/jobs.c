/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What the facts say together about jobs that run or ran, which none of them says alone:
 *
 *   commits   that were seen, plus what <snapshotDeleteInProgress/> means: a commit of the deleted snapshot's overlay
 *             into its point-in-time image that did not end;
 *   repoints  overlays whose header stands on something else than their snapshot's record says;
 *   running   commits in progress, with base and top. libvirt tells only that one runs. QEMU's lock bytes tell the rest:
 *             the base is held for writing (byte 101), every layer from above it up to the top of the job forbids
 *             consistent reads (byte 200). Observed with QEMU 7.2: a commit C -> A in A <- B <- C <- D shows 101 on A and
 *             200 on B and C. An active commit D -> A shows the same, so libvirt's word decides between the two.
 */
#include "vm/graph/graph-priv.h"

#include <limits.h>
#include <string.h>

#include "vm/util/mem.h"

/* ---------------------------------------------------------------- unfinished deletes */

/* The entry of the parent snapshot for the same target; NULL: none. */
static const struct vm_fact_snapdisk *parent_disk(const struct vm_graph *g, const struct vm_graph_snap *s)
{
	const struct vm_fact_domain *domain = &g->facts->domains[s->domain];
	const struct vm_fact_snapshot *parent;
	int index = domain->snapshots[s->snapshot].parent;

	if (index < 0 || (size_t)index >= domain->n_snapshots)
		return NULL;
	parent = &domain->snapshots[index];
	for (size_t i = 0; i < parent->n_disks; i++)
		if (!strcmp(parent->disks[i].target, vm_graph_snapdisk(g, s)->target))
			return &parent->disks[i];
	return NULL;
}

/* Is @s a child for which the parent's <snapshotDeleteInProgress/> may be meant? Deletes happen in the active chain, so
 * with several children those whose overlay lies there are meant, if there are any. */
static bool delete_unfinished(const struct vm_graph *g, const struct vm_graph_snap *s)
{
	const struct vm_fact_snapdisk *parent = parent_disk(g, s);

	if (!parent || !parent->deleting || vm_graph_snapdisk(g, s)->mode != VM_MODE_EXTERNAL)
		return false;
	if (vm_graph_alive(g, s->domain, vm_graph_snapdisk(g, s)->overlay))
		return true;
	for (size_t i = 0; i < g->n_snaps; i++) {
		const struct vm_graph_snap *other = &g->snaps[i];

		if (other->domain == s->domain && parent_disk(g, other) == parent &&
		    vm_graph_alive(g, s->domain, vm_graph_snapdisk(g, other)->overlay))
			return false;
	}
	return true;
}

static void collect_commits(struct vm_graph *g)
{
	const struct vm_facts *facts = g->facts;
	size_t room = facts->n_commits + g->n_snaps;

	g->commits = xcalloc(room, sizeof(*g->commits));
	vm_links_new(&g->commit_bases, facts->n_files, room);
	for (size_t i = 0; i < facts->n_commits; i++) {
		const struct vm_fact_commit *c = &facts->commits[i];

		g->commits[g->n_commits++] = (struct vm_graph_commit){c->base, c->top, c->at, false, c->ours, c->above, c->left_ns};
	}
	for (size_t i = 0; i < g->n_snaps; i++) {
		const struct vm_fact_snapdisk *disk = vm_graph_snapdisk(g, &g->snaps[i]);

		if (delete_unfinished(g, &g->snaps[i]))
			g->commits[g->n_commits++] = (struct vm_graph_commit){disk->pit, disk->overlay, UINT_MAX, true, false, 0, 0};
	}
	for (size_t i = g->n_commits; i-- > 0;)
		vm_links_add(g, &g->commit_bases, g->commits[i].base, i);
}

/* ---------------------------------------------------------------- overlays that moved */

/* Lists the layers that the overlay left out, and finds out whether its new base lay beneath them at all. */
static void find_removed(const struct vm_graph *g, struct vm_graph_repoint *r)
{
	bool all_there = true;
	int file = r->top;

	r->removed = xcalloc(VM_CHAIN_MAX, sizeof(*r->removed));
	while (file != VM_NO_FILE && !vm_graph_same(g, file, r->base) && r->n_removed < VM_CHAIN_MAX) {
		all_there = all_there && vm_graph_exists(g, file);
		r->removed[r->n_removed++] = file;
		file = vm_graph_stands_on(g, file);
	}
	r->elsewhere = r->base != VM_NO_FILE && !vm_graph_same(g, file, r->base) && all_there;
}

static bool record_holds(const struct vm_graph *g, int overlay)
{
	for (int i = g->overlays.head[g->node[overlay]]; i >= 0; i = g->overlays.next[i])
		if (vm_graph_same(g, vm_graph_snapdisk(g, &g->snaps[i])->pit, vm_graph_file(g, overlay)->below))
			return true;
	return false;
}

static void collect_repoints(struct vm_graph *g)
{
	g->repoints = xcalloc(g->n_snaps + 1, sizeof(*g->repoints));
	vm_links_new(&g->repoint_bases, g->facts->n_files, g->n_snaps);
	for (size_t i = 0; i < g->n_snaps; i++) {
		const struct vm_fact_snapdisk *disk = vm_graph_snapdisk(g, &g->snaps[i]);
		struct vm_graph_repoint *r = &g->repoints[g->n_repoints];

		if (disk->mode != VM_MODE_EXTERNAL || disk->pit == VM_NO_FILE || !vm_graph_exists(g, disk->overlay) ||
		    !vm_graph_file(g, disk->overlay)->info || vm_graph_file(g, disk->overlay)->below_why ||
		    record_holds(g, disk->overlay))
			continue;
		*r = (struct vm_graph_repoint){disk->overlay, disk->pit, vm_graph_file(g, disk->overlay)->below};
		g->n_repoints++;
		find_removed(g, r);
	}
	for (size_t i = g->n_repoints; i-- > 0;)
		vm_links_add(g, &g->repoint_bases, g->repoints[i].base, i);
}

/* ---------------------------------------------------------------- running commits */

/* The layer beneath the active one that a job writes: the mirror's destination, else the deepest that is locked so. */
static int find_base(const struct vm_graph *g, const struct vm_graph_disk *disk)
{
	const struct vm_fact_disk *fact = vm_graph_disk(g, disk);

	if (fact->job == VM_JOB_ACTIVE_COMMIT) {
		int i = vm_chain_index(g, disk->chain, disk->n_chain, fact->mirror);

		if (i > 0)
			return i;
	}
	for (size_t i = disk->n_chain; i-- > 1;)
		if (vm_graph_file(g, disk->chain[i])->writer)
			return (int)i;
	return -1;
}

/* The uppermost layer of the job above chain[base]; VM_NO_FILE where the locks do not show it. */
static int find_top(const struct vm_graph *g, const struct vm_graph_disk *disk, int base)
{
	int top = VM_NO_FILE;

	if (vm_graph_disk(g, disk)->job != VM_JOB_COMMIT)
		return VM_NO_FILE;
	for (int i = base - 1; i > 0 && vm_graph_file(g, disk->chain[i])->no_read; i--)
		top = disk->chain[i];
	return top;
}

/* In its last moments a job is still listed and holds no lock any more: what an earlier look saw of it is what it did. */
static bool seen_before(const struct vm_graph *g, const struct vm_graph_disk *disk, struct vm_graph_running *out)
{
	unsigned since = vm_graph_disk(g, disk)->job_since;
	const struct vm_graph_commit *last = NULL;

	for (size_t i = 0; since && i < g->n_commits; i++) {
		const struct vm_graph_commit *c = &g->commits[i];

		if (!c->unfinished_delete && c->at >= since && (!last || c->at > last->at) &&
		    vm_chain_index(g, disk->chain, disk->n_chain, c->base) > 0)
			last = c;
	}
	if (last)
		*out = (struct vm_graph_running){last->base, last->top, false};
	return last;
}

/* Is this an image that a marked snapshot of the same disk froze? */
static bool marked_froze(const struct vm_graph *g, const struct vm_graph_disk *disk, int file)
{
	for (size_t i = 0; i < g->n_snaps; i++) {
		const struct vm_fact_snapdisk *s = vm_graph_snapdisk(g, &g->snaps[i]);

		if (g->snaps[i].domain == disk->domain && s->doomed && !strcmp(s->target, vm_graph_disk(g, disk)->target) &&
		    vm_graph_same(g, s->pit, file))
			return true;
	}
	return false;
}

/* One of ours is marked with what it does: it writes into what the first of the marked ones froze, and the last one's overlay is
 * its top. */
static bool as_marked(const struct vm_graph *g, const struct vm_graph_disk *disk, struct vm_graph_running *out)
{
	int deepest = 0;

	*out = (struct vm_graph_running){VM_NO_FILE, VM_NO_FILE, false};
	for (size_t i = 0; i < g->n_snaps; i++) {
		const struct vm_fact_snapdisk *s = vm_graph_snapdisk(g, &g->snaps[i]);
		int at;

		if (g->snaps[i].domain != disk->domain || !s->doomed || s->mode != VM_MODE_EXTERNAL ||
		    strcmp(s->target, vm_graph_disk(g, disk)->target) != 0)
			continue;
		at = vm_chain_index(g, disk->chain, disk->n_chain, s->pit);
		if (at > deepest) {
			deepest = at;
			out->base = s->pit;
		}
		if (!marked_froze(g, disk, s->overlay))
			out->top = s->overlay;
	}
	return deepest > 0;
}

static size_t room_for_running(const struct vm_graph *g)
{
	size_t n = 1;

	for (size_t i = 0; i < g->n_disks; i++)
		if (vm_graph_disk(g, &g->disks[i])->job >= VM_JOB_COMMIT)
			n += g->disks[i].n_chain;
	return n;
}

static void collect_running(struct vm_graph *g)
{
	g->running = xcalloc(room_for_running(g), sizeof(*g->running));
	for (size_t i = 0; i < g->n_disks; i++) {
		const struct vm_graph_disk *disk = &g->disks[i];
		enum vm_job job = vm_graph_disk(g, disk)->job;
		struct vm_graph_running known;
		int base;

		if (job != VM_JOB_COMMIT && job != VM_JOB_ACTIVE_COMMIT)
			continue;
		base = find_base(g, disk);
		if (base > 0) {
			int top = find_top(g, disk, base);

			if (job == VM_JOB_COMMIT && top == VM_NO_FILE && as_marked(g, disk, &known) &&
			    vm_graph_same(g, known.base, disk->chain[base]))
				top = known.top;
			/* it locks its base a moment before its top: not to be remembered as one without */
			g->running[g->n_running++] = (struct vm_graph_running){disk->chain[base], top,
									       job != VM_JOB_COMMIT || top != VM_NO_FILE};
			continue;
		}
		if (as_marked(g, disk, &known) || seen_before(g, disk, &known))
			g->running[g->n_running++] = known;
		else
			for (size_t k = 1; k < disk->n_chain; k++) /* any of them */
				g->running[g->n_running++] = (struct vm_graph_running){disk->chain[k], VM_NO_FILE, false};
	}
}

void vm_graph_commits(const struct vm_graph *g, struct vm_fact_commit **out, size_t *n)
{
	struct vm_fact_commit *list = xcalloc(g->n_running, sizeof(*list));
	size_t count = 0;

	for (size_t i = 0; i < g->n_running; i++)
		if (g->running[i].certain)
			list[count++] = (struct vm_fact_commit){.base = g->running[i].base, .top = g->running[i].top};
	*out = list;
	*n = count;
}

void vm_graph_find_jobs(struct vm_graph *g)
{
	collect_commits(g);
	collect_repoints(g);
	collect_running(g);
}
