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

/* When what it stores was last written, as far as is known. */
static int64_t written_ns(const struct vm_fact_file *f)
{
	return f->content_ns ? f->content_ns : f->stamp.mtime_ns;
}

/* Has a merge of ours that is under way made it stand on its base? */
static bool moved_by_us(const struct vm_graph *g, int file)
{
	int below = vm_graph_file(g, file)->below;

	for (int c = below == VM_NO_FILE ? -1 : g->commit_bases.head[g->node[below]]; c >= 0; c = g->commit_bases.next[c])
		if (g->commits[c].ours)
			return true;
	return false;
}

/* Noted for good, before a merge changed the files and with them all that speaks for or against it: it was not right any more. A stamp of
 * nothing; in which file it is now does not matter. */
static bool is_spoilt(const struct vm_hearing *h, int file)
{
	const struct vm_fact_note *noted = h->disk->froze;

	return file == h->chain.files[0] && noted && noted->stamp.ino && !noted->stamp.size && !noted->stamp.mtime_ns;
}

bool vm_hearing_attested(const struct vm_hearing *h, int file)
{
	const struct vm_fact_file *f = vm_graph_file(h->g, file);
	const struct q2_stamp *s = &f->stamp;
	bool named = false;

	if (!vm_graph_exists(h->g, file) || s->block || is_spoilt(h, file))
		return false;
	for (size_t i = 0; i < h->disk->n_attested; i++) {
		const struct q2_stamp *then = &h->disk->attested[i];

		if (then->ino == s->ino && then->size == s->size && (then->mtime_ns == s->mtime_ns || then->mtime_ns == written_ns(f)))
			return true;
		named = named || then->ino == s->ino;
	}
	return named && moved_by_us(h->g, file);
}

bool vm_hearing_unwritten(const struct vm_hearing *h, int file)
{
	const struct vm_fact_file *f = vm_graph_file(h->g, file);

	if (vm_hearing_attested(h, file))
		return true;
	return vm_graph_exists(h->g, file) && !f->stamp.block &&
	       (written_ns(f) < h->from_ns || (h->born_ns && written_ns(f) <= h->born_ns));
}

/* May its header have been changed to stand on something else since it was frozen? Whatever a block job re-points is the
 * overlay of a snapshot, or of a revert of ours. */
static bool may_be_repointed(const struct vm_hearing *h, int file)
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
	const struct vm_fact_file *f = vm_graph_file(h->g, file);

	return !f->stamp.block && f->stamp.btime_ns != 0 && f->stamp.btime_ns <= h->upto_ns + SLACK && written_ns(f) > h->upto_ns + SLACK;
}

/* qemu-img commit empties the overlay that it merged down: header, refcount table, one refcount block and the L1 table
 * remain, each in whole clusters. A fresh image ends behind the last L1 entry: where that fills its cluster nobody knows. */
static bool emptied(const struct vm_fact_file *f)
{
	uint64_t cluster, per_l2, l1_bytes;

	if (!f->info || f->info->version < 3 || f->info->n_snapshots || f->info->cluster_bits < 9 || f->info->cluster_bits > 21)
		return false;
	cluster = UINT64_C(1) << f->info->cluster_bits;
	per_l2 = cluster / (f->info->extended_l2 ? 16 : 8) * cluster;
	l1_bytes = (f->info->size / per_l2 + (f->info->size % per_l2 != 0)) * 8;
	return l1_bytes % cluster != 0 && f->stamp.size == (3 + l1_bytes / cluster + 1) * cluster;
}

/* It stands on what it stood on when that was noted, or on nothing as then: so no job has re-pointed it since. Who moved the images has, but
 * where only the header was changed by that its time is not late. */
static bool stands_as(const struct vm_graph *g, int file, const struct vm_fact_note *noted)
{
	const struct vm_fact_file *f = vm_graph_file(g, file);

	if (noted->alone)
		return f->info && !f->info->backing_name;
	return noted->below && f->below != VM_NO_FILE && vm_graph_exists(g, f->below) &&
	       vm_graph_file(g, f->below)->stamp.ino == noted->below;
}

/* P is still the file of which we noted, after the snapshot was taken and nothing spoke against it, that it was frozen; its time then was
 * another one, or it would be attested. So virsh's delete does not explain this: after that P would be another file. */
static bool noted_and_written(const struct vm_hearing *h, int file)
{
	const struct vm_fact_note *noted = h->disk->froze;
	const struct vm_fact_file *f = vm_graph_file(h->g, file);

	return noted && !f->stamp.block && f->stamp.ino == noted->stamp.ino && written_ns(f) > noted->stamp.mtime_ns &&
	       written_ns(f) >= h->from_ns && f->stamp.btime_ns != 0 && f->stamp.btime_ns <= h->upto_ns + SLACK &&
	       (stands_as(h->g, file, noted) || !may_be_repointed(h, file));
}

/* This note shows that the file was written to since. @gone: the record is that told of it, so others may be that called it an overlay, which
 * jobs re-point: what has a header must stand where it stood. */
static bool tells_of(const struct vm_hearing *h, int file, const struct vm_fact_note *noted, bool gone)
{
	const struct vm_fact_file *f = vm_graph_file(h->g, file);

	return noted && noted->stamp.size && noted->stamp.ino == f->stamp.ino && written_ns(f) > noted->stamp.mtime_ns &&
	       (stands_as(h->g, file, noted) || (gone ? !f->info : !may_be_repointed(h, file)));
}

/* It is what another snapshot froze, which may be gone, and that one's note shows that it was written to since, later than this one was
 * taken. What stands on it was not touched afterwards, as it would be at the end of a commit. */
static bool noted_by_another(const struct vm_hearing *h, size_t i)
{
	const struct vm_graph *g = h->g;
	const struct vm_fact_domain *own = &g->facts->domains[h->domain];
	int file = h->chain.files[i], upper = vm_hearing_file_above(h, i);
	const struct vm_fact_file *f = vm_graph_file(g, file);
	bool told = false;

	if (upper == VM_NO_FILE || !vm_graph_exists(g, file) || f->stamp.block || vm_graph_file(g, upper)->stamp.block ||
	    written_ns(f) < h->from_ns || vm_graph_file(g, upper)->stamp.mtime_ns + SLACK >= written_ns(f))
		return false;
	for (int x = g->pits.head[g->node[file]]; !told && x >= 0; x = g->pits.next[x])
		told = tells_of(h, file, vm_graph_snapdisk(g, &g->snaps[x])->froze, false);
	for (size_t k = 0; !told && k < own->n_noted; k++)
		told = tells_of(h, file, &own->noted[k], true);
	return told;
}

/* ---------------------------------------------------------------- another file, or an older one */

static bool has_inode(const struct vm_graph *g, uint64_t ino)
{
	for (size_t i = 0; i < g->facts->n_files; i++)
		if (vm_graph_exists(g, (int)i) && !vm_graph_file(g, (int)i)->stamp.block && vm_graph_file(g, (int)i)->stamp.ino == ino)
			return true;
	return false;
}

/*
 * What some snapshot froze was noted, and this is older: a copy from before was put in its place, which no later time tells. A copy of the
 * very file, with its time, is as good as that (some copy whole seconds only). A file of another number is such a copy only if it was born
 * after that: else the snapshot is in what its image was merged into, which need not have been written to. Where the noted file lies
 * elsewhere the record is wrong.
 */
bool vm_hearing_replaced(const struct vm_hearing *h, size_t i)
{
	const struct vm_graph *g = h->g;
	int file = h->chain.files[i];
	const struct q2_stamp *s = &vm_graph_file(g, file)->stamp;
	bool older = false;

	if (!vm_graph_exists(g, file) || s->block)
		return false;
	for (int x = g->pits.head[g->node[file]]; x >= 0; x = g->pits.next[x]) {
		const struct vm_fact_note *noted = vm_graph_snapdisk(g, &g->snaps[x])->froze;
		const struct q2_stamp *then = noted ? &noted->stamp : NULL;

		if (!then || !then->size)
			continue;
		if (s->mtime_ns >= then->mtime_ns - (s->ino == then->ino ? 0 : SLACK))
			return false;
		older |= s->ino == then->ino || (s->btime_ns > then->mtime_ns && !has_inode(g, then->ino));
	}
	return older;
}

bool vm_hearing_written(const struct vm_hearing *h, size_t i)
{
	int file = h->chain.files[i], upper = vm_hearing_file_above(h, i);

	if (i == 0 && is_spoilt(h, file))
		return true;
	if (vm_hearing_attested(h, file))
		return false;
	if (i == 0 && noted_and_written(h, file))
		return true;
	if (i == 0 && upper != VM_NO_FILE && emptied(vm_graph_file(h->g, upper)))
		return !vm_hearing_unwritten(h, file);
	if (i > 0 && noted_by_another(h, i))
		return true;
	if (!touched_late(h, file))
		return false;
	if (upper == VM_NO_FILE) /* nothing stands on it as recorded: no delete by libvirt explains this */
		return !vm_graph_exists(h->g, h->disk->overlay) || !may_be_repointed(h, file);
	return !may_be_repointed(h, file) && !vm_graph_file(h->g, upper)->stamp.block &&
	       vm_graph_file(h->g, upper)->stamp.mtime_ns + SLACK < written_ns(vm_graph_file(h->g, file));
}
