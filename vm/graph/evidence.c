/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What time stamps say about a snapshot's layers. The reasons are on top of state.c. */
#include "vm/graph/graph-priv.h"

#define SECOND INT64_C(1000000000)
#define SLACK (2 * SECOND)           /* between the creation of an overlay and the last write before it took over */
#define FRESH (600 * SECOND)         /* an overlay born so soon after the creation time is the original */
#define FRESH_MEMORY (3600 * SECOND) /* ... where the guest's memory was saved first */

/* The file directly above layer @i, VM_NO_FILE where there is none that we know. */
int vm_hearing_file_above(const struct vm_hearing *h, size_t i)
{
	const struct vm_graph *g = h->g;

	if (i > 0)
		return h->chain.files[i - 1];
	if (vm_graph_exists(g, h->disk->overlay) && vm_graph_same(g, vm_graph_file(g, h->disk->overlay)->below, h->pit))
		return h->disk->overlay;
	return VM_NO_FILE;
}

bool vm_hearing_covers(const struct vm_hearing *h, int file, size_t i)
{
	return vm_chain_index(h->g, h->chain.files, i, file) >= 0 ||
	       (file != VM_NO_FILE && vm_graph_same(h->g, file, h->gone_top));
}

/* ---------------------------------------------------------------- when the snapshot was taken */

static bool original(const struct vm_hearing *h, int overlay)
{
	const struct vm_fact_file *o;
	int64_t age;

	if (!vm_graph_exists(h->g, overlay))
		return false;
	o = vm_graph_file(h->g, overlay);
	age = o->stamp.btime_ns - h->from_ns;
	return o->stamp.btime_ns != 0 && age >= 0 && age <= (h->snap->external_memory ? FRESH_MEMORY : FRESH);
}

/* Overlays are created one after the other, and take over all at once: the latest birth counts. */
static void find_moment_external(struct vm_hearing *h)
{
	int64_t latest = 0;
	bool all = true;

	for (size_t i = 0; i < h->snap->n_disks; i++) {
		int overlay = h->snap->disks[i].overlay;

		if (h->snap->disks[i].mode != VM_MODE_EXTERNAL)
			continue;
		if (!original(h, overlay))
			all = false;
		else if (vm_graph_file(h->g, overlay)->stamp.btime_ns > latest)
			latest = vm_graph_file(h->g, overlay)->stamp.btime_ns;
	}
	if (all && latest)
		h->upto_ns = latest;
	else if (h->snap->external_memory)
		h->upto_ns += FRESH_MEMORY;
	if (original(h, h->disk->overlay))
		h->born_ns = vm_graph_file(h->g, h->disk->overlay)->stamp.btime_ns;
}

void vm_hearing_find_moment(struct vm_hearing *h)
{
	h->from_ns = h->snap->created_s < 0 ? 0 : h->snap->created_s > UINT32_MAX ? INT64_MAX / 2 : h->snap->created_s * SECOND;
	h->upto_ns = h->from_ns + SECOND;
	if (!vm_hearing_internal(h)) {
		find_moment_external(h);
	} else if (vm_graph_exists(h->g, h->pit)) {
		int64_t born = vm_graph_file(h->g, h->pit)->stamp.btime_ns;

		h->born_ns = born <= h->upto_ns ? born : 0;
	}
}

/* ---------------------------------------------------------------- the evidence of time stamps */

bool vm_hearing_spoilt(const struct vm_hearing *h)
{
	return h->disk->spoilt && !h->unchanged;
}

bool vm_hearing_attested(const struct vm_hearing *h, int file)
{
	const struct q2_stamp now = vm_graph_exists(h->g, file) ? vm_graph_stamp(h->g, file) : (struct q2_stamp){0}, *s = &now;
	bool named = false;

	if (!vm_graph_exists(h->g, file) || s->block || vm_hearing_spoilt(h))
		return false;
	for (size_t i = 0; i < h->disk->n_attested; i++) {
		const struct q2_stamp *then = &h->disk->attested[i];

		if (then->ino == s->ino && then->size == s->size && then->mtime_ns == s->mtime_ns)
			return true;
		named = named || then->ino == s->ino;
	}
	return named && vm_graph_moved_by_us(h->g, file);
}

bool vm_hearing_unwritten(const struct vm_hearing *h, int file)
{
	const struct q2_stamp now = vm_graph_exists(h->g, file) ? vm_graph_stamp(h->g, file) : (struct q2_stamp){0}, *s = &now;
	int i = vm_chain_index(h->g, h->chain.files, h->chain.n, file);

	if (vm_hearing_attested(h, file) || (i >= 0 && h->same[i]))
		return true;
	return vm_graph_exists(h->g, file) && !s->block &&
	       (s->mtime_ns < h->from_ns || (h->born_ns && s->mtime_ns <= h->born_ns));
}

/* Whatever a block job re-points is the overlay of a snapshot, or of a revert of ours. */
bool vm_hearing_may_be_repointed(const struct vm_hearing *h, int file)
{
	const struct vm_facts *facts = h->g->facts;

	if (h->g->overlays.head[h->g->node[file]] >= 0)
		return true;
	for (size_t d = 0; d < facts->n_domains; d++)
		for (size_t i = 0; i < facts->domains[d].n_made; i++)
			if (vm_graph_same(h->g, facts->domains[d].made[i], file))
				return true;
	return false;
}

static bool touched_late(const struct vm_hearing *h, int file)
{
	const struct q2_stamp now = vm_graph_stamp(h->g, file), *s = &now;

	return !s->block && s->btime_ns != 0 && s->btime_ns <= h->upto_ns + SLACK && s->mtime_ns > h->upto_ns + SLACK;
}

/* qemu-img commit empties the overlay that it merged down: header, refcount table, one refcount block and the L1 table
 * remain, each in whole clusters. A fresh image ends behind the last L1 entry: where that fills its cluster nobody knows. */
bool vm_hearing_emptied(const struct vm_fact_file *f)
{
	uint64_t cluster, per_l2, l1_bytes;

	if (!f->info || f->info->version < 3 || f->info->n_snapshots || f->info->cluster_bits < 9 || f->info->cluster_bits > 21)
		return false;
	cluster = UINT64_C(1) << f->info->cluster_bits;
	per_l2 = cluster / (f->info->extended_l2 ? 16 : 8) * cluster;
	l1_bytes = (f->info->size / per_l2 + (f->info->size % per_l2 != 0)) * 8;
	return l1_bytes % cluster != 0 && f->stamp.size == (3 + l1_bytes / cluster + 1) * cluster;
}

bool vm_hearing_written(const struct vm_hearing *h, size_t i)
{
	int file = h->chain.files[i], upper = vm_hearing_file_above(h, i);

	if (h->unchanged || vm_hearing_attested(h, file))
		return false;
	if (i == 0 && upper != VM_NO_FILE && vm_hearing_emptied(vm_graph_file(h->g, upper)))
		return !vm_hearing_unwritten(h, file);
	if (!touched_late(h, file))
		return false;
	if (upper == VM_NO_FILE) /* nothing stands on it as recorded: no delete by libvirt explains this */
		return !vm_graph_exists(h->g, h->disk->overlay) || !vm_hearing_may_be_repointed(h, file);
	return !vm_hearing_may_be_repointed(h, file) && !vm_graph_file(h->g, upper)->stamp.block &&
	       vm_graph_file(h->g, upper)->stamp.mtime_ns + SLACK < vm_graph_stamp(h->g, file).mtime_ns;
}
