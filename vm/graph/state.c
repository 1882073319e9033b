/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Is a snapshot's disk still what it was?
 *
 * libvirt records for an external snapshot which file it froze (the point-in-time image, P) and which file took the writes
 * from then on (its overlay, O). It never looks at these records again when somebody runs a block job, and says nothing
 * when a frozen file is written. So the record is a claim, and the files are the witnesses. Two promises pull at every
 * rule here: never other bytes than the snapshot had, and never refuse what is readable.
 *
 * What can happen to a chain B <- L1 <- ... <- Lk <- X, where each file but B is the overlay of the snapshot that froze
 * the one beneath it:
 *
 *   commit of L1..Lk into B   X then stands on B. B's content changed, and whoever sees B without seeing Lk above it reads
 *                             other bytes: the snapshots that froze B and L1..L(k-1). The one that froze Lk ("the top")
 *                             reads right, throughout and for ever, because all that was written to B lies above it;
 *                             and whatever stands on X still reads right through X. Cancelled half-way: the same, except
 *                             that X still stands on Lk.
 *   active commit             X itself goes into B, and B is the active layer afterwards: nothing above B survives.
 *   pull of L1..Lk into X     X then stands on B. Nothing is lost, L1..Lk are merely no longer beneath the active layer.
 *                             But snapshots *inside* X (internal ones) lose what they saw through Lk.
 *   delete by libvirt         a commit of O into P, after which the records of later snapshots name P where they named O.
 *   a write                   somebody booted, or qemu-img committed into, a frozen file.
 *
 * The header chain is the truth about who stands on whom now. A commit and a pull leave the same chain behind: they are
 * told apart by evidence, in the order of its weight: what the inventory saw while it watched; the lock bytes and
 * libvirt's jobs while it runs; time stamps. Where the chain contradicts the records and the evidence does not decide,
 * the answer is stale. Where nothing contradicts anything, the absence of evidence is no evidence: ok.
 *
 * Each rule asks about a layer L at position i of the snapshot's chain (0 = P; for an internal snapshot position 0 is
 * exempt, its clusters are not written in place), and the layer above it, U (position i - 1; for 0 it is O):
 *
 *   covered     a commit into L does no harm if its top is in the chain above L, or if U is the overlay that was re-pointed
 *               from the top to L: then U completes what L lost.
 *   unwritten   L's mtime lies before the second of the snapshot's creation, or before O was created (if O is the file that
 *               this snapshot created and not a copy, i.e. its birth fits the creation time): proof of innocence,
 *               against every suspicion that does not come from having watched.
 *   written     L was born before the snapshot, its header cannot have been re-pointed (jobs re-point overlays; no snapshot's
 *               record and no note of ours calls L one), and its mtime is later than the snapshot: L was written since. That is guilt
 *               only if a commit that it survives cannot explain it. After virsh deleted the snapshot before this one, P
 *               is the same file that its commit wrote into, and everything is in order: but then O was re-pointed
 *               afterwards, so its mtime is not earlier than L's. Hence: written, and U not touched since. (If U was
 *               emptied, which shows by its exact size, qemu-img commit did it, and O went down into P.)
 *   attested    when a command of ours was done, the snapshot was right, and L had the stamp that it still has. That takes the
 *               place of "unwritten", also against what was watched before: our own merges write to frozen files, and the
 *               records and overlays that explain it may go later. While a merge of ours is under way L may also have another
 *               stamp, if it is the layer above the top, in whose header QEMU then writes that it stands on the base.
 *   in use      L is a domain's active layer: stale, unless that domain is shut off and L is unwritten.
 *   reopened    a later snapshot froze L again: then L was an active layer in between.
 *
 *   noted       a command of ours has noted which files the snapshot was made of, and how they were: see noted.c.
 *
 *   spoilt      noted when a command found it wrong: it stays so until all is as it was noted. A merge changes the files, and so what speaks
 *               against it.
 *
 *   shown       a sum of all that it showed when it was right was noted, too, where that is not too much. It says more than all the rest: whatever
 *               has become of the files, the snapshot is right if it shows the same, and is not if it does not.
 *
 * Time stamps have a price. A copy restored in place, over the inode that the snapshot froze, looks written: stale. So does what had a time
 * ahead of the clock when it was frozen, unless we froze it, which is noted then (command/taken.c). A
 * qemu-img commit behind libvirt's back, followed by a start of the domain before anybody looked, looks like virsh's
 * delete: ok, and wrong, unless P was noted. Files alone cannot tell these apart; while mounted the watch does.
 *
 * *Redirection.* In three cases the record names the wrong file and the right one is known: libvirt 9.0 rewrites P to a
 * file further down when the record (only) of an earlier snapshot is deleted, though the old P is there still, as it was when we
 * noted that it was frozen; or though O still stands on the old P, be it that this, or what it stands on, is missing now or cannot be
 * read; and after a commit that we saw, which deleted its top P, the content of P is what O stands on now.
 *
 * Decided elsewhere: that a mark of ours dooms it (inventory/draft-meta.c), that a gate refuses it or that it is still being made
 * (inventory/freeze.c).
 */
#include "vm/graph/graph-priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/model/names.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

static bool say(struct vm_hearing *h, enum vm_state state, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The verdict. Returns true: decided. */
static bool say(struct vm_hearing *h, enum vm_state state, const char *fmt, ...)
{
	vs_autofree char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = xvasprintf(fmt, ap);
	va_end(ap);
	h->verdict.state = state;
	h->verdict.reason = vm_name_printable(text);
	return true;
}

/* ---------------------------------------------------------------- before the chain */

static bool judge_record(struct vm_hearing *h)
{
	if (h->disk->doomed)
		return say(h, VM_STALE, "%s", h->disk->doomed);
	if (h->disk->unsupported)
		return say(h, VM_UNSUPPORTED, "%s", h->disk->unsupported);
	if (h->disk->mode == VM_MODE_MANUAL)
		return say(h, VM_UNSUPPORTED, "it was taken outside libvirt (manual), which does not say where its data is");
	if (h->disk->pit == VM_NO_FILE)
		return say(h, VM_UNSUPPORTED, "no image file is recorded for it");
	return false;
}

/* A commit of @top into @base that we saw? */
static bool commit_seen(const struct vm_graph *g, int base, int top)
{
	for (int i = g->commit_bases.head[g->node[base]]; i >= 0; i = g->commit_bases.next[i])
		if (!g->commits[i].unfinished_delete && vm_graph_same(g, g->commits[i].top, top))
			return true;
	return false;
}

static bool is_then(const struct vm_graph *g, int file, const struct q2_stamp *then)
{
	const struct q2_stamp s = vm_graph_stamp(g, file);

	return vm_graph_exists(g, file) && !s.block && s.ino == then->ino && s.size == then->size && s.mtime_ns == then->mtime_ns;
}

static bool is_numbered(const struct vm_graph *g, int file, const struct q2_stamp *then)
{
	return vm_graph_exists(g, file) && !vm_graph_file(g, file)->stamp.block && vm_graph_file(g, file)->stamp.ino == then->ino &&
	       vm_graph_file(g, file)->stamp.btime_ns <= then->mtime_ns;
}

/* The file that was noted as frozen, where the record names another one and it is there, as it was; else VM_NO_FILE. */
static int noted_pit(const struct vm_hearing *h)
{
	const struct q2_stamp *then = h->disk->froze ? &h->disk->froze->stamp : NULL;
	const struct vm_fact_file *pit = vm_graph_file(h->g, h->disk->pit);

	if (h->disk->mode != VM_MODE_EXTERNAL || !then || (!pit->error && pit->stamp.ino == then->ino))
		return VM_NO_FILE;
	if (vm_graph_exists(h->g, h->disk->overlay) && is_numbered(h->g, vm_graph_file(h->g, h->disk->overlay)->below, then))
		return vm_graph_file(h->g, h->disk->overlay)->below;
	for (size_t i = 0; i < h->g->facts->n_files; i++)
		if (is_then(h->g, (int)i, then))
			return (int)i;
	return VM_NO_FILE;
}

/* See "Redirection" above. Sets the image to read and its format. */
static void redirect(struct vm_hearing *h)
{
	const struct vm_fact_file *overlay;
	int noted = noted_pit(h);

	h->pit = noted == VM_NO_FILE ? h->disk->pit : noted;
	h->gone_top = VM_NO_FILE;
	h->verdict.format = noted == VM_NO_FILE ? h->disk->format : vm_graph_file(h->g, noted)->format;
	if (noted != VM_NO_FILE || h->disk->mode != VM_MODE_EXTERNAL || !vm_graph_exists(h->g, h->disk->overlay) ||
	    (h->disk->froze && is_then(h->g, h->disk->pit, &h->disk->froze->stamp)))
		return;
	overlay = vm_graph_file(h->g, h->disk->overlay);
	if (overlay->below == VM_NO_FILE || vm_graph_same(h->g, overlay->below, h->disk->pit))
		return;
	if (!vm_graph_exists(h->g, overlay->below)) { /* what it names froze there, and nobody can look at it */
		h->pit = overlay->below;
		h->verdict.format = overlay->below_format;
		return;
	}
	vm_chain_walk(h->g, overlay->below, overlay->below_format, &h->chain);
	if (vm_graph_file(h->g, h->disk->pit)->error == -ENOENT && commit_seen(h->g, overlay->below, h->disk->pit))
		h->gone_top = h->disk->pit;
	else if (vm_chain_index(h->g, h->chain.files, h->chain.n, h->disk->pit) < 1 && h->chain.state == VM_OK)
		return; /* where the chain is not known to its end, P may lie further down */
	h->pit = overlay->below;
	h->verdict.format = overlay->below_format;
}

/* Is it the file that was noted, changed since? Another one with its number was born later, or lies elsewhere. */
static bool is_noted(const struct vm_fact_file *f, const struct vm_fact_file *pit, const struct vm_fact_note *noted)
{
	return !f->error && !f->stamp.block && f->stamp.ino == noted->stamp.ino && f->stamp.btime_ns <= noted->stamp.mtime_ns &&
	       (pit->error || f->stamp.dev == pit->stamp.dev);
}

/* The record names one file, our note another one, which is there and is not what it was: nobody knows which of them has the data. */
static bool judge_note(struct vm_hearing *h)
{
	const struct vm_fact_note *noted = h->disk->froze;
	const struct vm_fact_file *pit = vm_graph_file(h->g, h->pit);

	if (h->disk->mode != VM_MODE_EXTERNAL || !noted || (!pit->error && (pit->stamp.ino == noted->stamp.ino || vm_noted_has_time(h->g, h->pit, noted))))
		return false;
	for (size_t i = 0; i < h->g->facts->n_files; i++)
		if (is_noted(vm_graph_file(h->g, (int)i), pit, noted))
			return say(h, VM_STALE, "it froze '%s', which was written since, and libvirt's record names '%s'",
				   vm_graph_file(h->g, (int)i)->path, pit->path);
	return false;
}

static bool judge_chain(struct vm_hearing *h)
{
	const struct vm_fact_file *culprit;

	vm_chain_walk(h->g, h->pit, h->verdict.format, &h->chain);
	if (h->chain.state == VM_OK)
		return false;
	h->verdict.broken = true;
	culprit = vm_graph_file(h->g, h->chain.culprit);
	if (!h->chain.why)
		return say(h, h->chain.state, "%s", culprit->why);
	return say(h, h->chain.state, "'%s' %s", culprit->path, h->chain.why);
}

static bool judge_entry(struct vm_hearing *h)
{
	const struct vm_fact_file *top = vm_hearing_layer(h, 0);

	if (h->verdict.format != Q2_FORMAT_QCOW2)
		return say(h, VM_UNSUPPORTED, "'%s' is not recorded as a qcow2 image", top->path);
	h->verdict.entry = h->disk->entry ? h->disk->entry :
					    vm_entry_find(top->info, h->snap->name, h->snap->created_s);
	if (!h->verdict.entry)
		return say(h, VM_STALE, "'%s' holds no snapshot of that name", top->path);
	return false;
}

/* ---------------------------------------------------------------- what is going on now */

static bool judge_running(struct vm_hearing *h)
{
	const struct vm_graph *g = h->g;

	for (size_t r = 0; r < g->n_running; r++) {
		int i = vm_chain_index(g, h->chain.files, h->chain.n, g->running[r].base);

		if (i >= (int)h->first && !vm_hearing_covers(h, g->running[r].top, (size_t)i))
			return h->verdict.written = g->running[r].certain, say(h, VM_BUSY, "a job is writing into '%s' beneath it", vm_hearing_layer(h, (size_t)i)->path);
	}
	return false;
}

/* Of a merge of ours that was begun, a header says already that it is done: see command/prove.c. */
static bool judge_unproven(struct vm_hearing *h)
{
	const struct vm_graph *g = h->g;

	for (size_t i = 0; i + 1 < h->chain.n; i++)
		for (int c = g->commit_bases.head[g->node[h->chain.files[i + 1]]]; c >= 0; c = g->commit_bases.next[c])
			if (g->commits[c].above && g->commits[c].above == vm_hearing_layer(h, i)->stamp.ino)
				return h->verdict.brief = true, say(h, VM_BUSY, "'%s' stands on '%s' already, and it is not proven yet that all that was to be merged into that is "
					   "there", vm_hearing_layer(h, i)->path, vm_hearing_layer(h, i + 1)->path);
	return false;
}

/* Is the lock on layer @i that of a running commit whose top is in the chain above? judge_running() saw all others. */
static bool explained_by_running(const struct vm_hearing *h, size_t i)
{
	const struct vm_graph *g = h->g;

	for (size_t r = 0; r < g->n_running; r++) {
		int base = vm_chain_index(g, h->chain.files, h->chain.n, g->running[r].base);

		if (base >= (int)i)
			return true;
	}
	return false;
}

static bool written_by_running_domain(const struct vm_hearing *h, size_t i)
{
	const struct vm_graph_disk *writer = vm_graph_writer(h->g, h->chain.files[i]);

	return writer && h->g->facts->domains[writer->domain].running;
}

static bool judge_locks(struct vm_hearing *h)
{
	for (size_t i = h->first; i < h->chain.n; i++) {
		if (written_by_running_domain(h, i) || explained_by_running(h, i))
			continue;
		if (vm_hearing_layer(h, i)->locks_error)
			return say(h, VM_UNSUPPORTED, "nobody can tell whether '%s' is open for writing: its locks cannot be read: %s",
				   vm_hearing_layer(h, i)->path, strerror(-vm_hearing_layer(h, i)->locks_error));
		if (vm_hearing_layer(h, i)->writer)
			return say(h, VM_BUSY, "'%s' is open for writing in some process", vm_hearing_layer(h, i)->path);
		if (vm_hearing_layer(h, i)->no_read)
			return say(h, VM_BUSY, "'%s' is being merged into what lies beneath it", vm_hearing_layer(h, i)->path);
	}
	return false;
}

/* A frozen layer that is some domain's disk. While that domain is shut off it may still be what it was (a template under its
 * clones, a domain put back on its old image and not started since), but that must be proven. */
static bool judge_writers(struct vm_hearing *h)
{
	for (size_t i = h->first; i < h->chain.n; i++) {
		const struct vm_graph_disk *writer = vm_graph_writer(h->g, h->chain.files[i]);
		const struct vm_fact_domain *domain = writer ? &h->g->facts->domains[writer->domain] : NULL;

		if (!writer)
			continue;
		if (domain->running)
			return say(h, VM_STALE, "'%s' is being written by domain '%s' (disk %s)", vm_hearing_layer(h, i)->path,
				   domain->name, vm_graph_disk(h->g, writer)->target);
		if (!vm_hearing_unwritten(h, h->chain.files[i]))
			return say(h, VM_STALE, "'%s' is the disk %s of domain '%s', which wrote to it or may have",
				   vm_hearing_layer(h, i)->path, vm_graph_disk(h->g, writer)->target, domain->name);
	}
	return false;
}

/* ---------------------------------------------------------------- what was seen happening */

#define LATE 4 /* looks that may pass before the header that a job has changed at its end is read: it may not hold still */

/* One look may see a job's end only half. */
static bool at_one_time(unsigned poll, unsigned other)
{
	return poll != 0 && poll + 1 >= other && other + LATE >= poll;
}

/* Was the layer above @i found re-pointed at that poll? 0: at any. */
static bool repointed_at(const struct vm_hearing *h, size_t i, unsigned poll)
{
	unsigned moved = i > 0 ? vm_hearing_layer(h, i - 1)->repointed_at : 0;

	return poll ? at_one_time(moved, poll) : moved != 0;
}

static bool judge_commits(struct vm_hearing *h)
{
	const struct vm_graph *g = h->g;

	for (size_t i = h->first; i < h->chain.n; i++) {
		int base = g->node[h->chain.files[i]];

		for (int c = g->commit_bases.head[base]; c >= 0; c = g->commit_bases.next[c]) {
			const struct vm_graph_commit *commit = &g->commits[c];

			if (commit->at <= h->disk->since || vm_hearing_covers(h, commit->top, i) ||
			    (!commit->unfinished_delete && vm_hearing_attested(h, h->chain.files[i])))
				continue;
			if (commit->unfinished_delete)
				return say(h, VM_STALE, "an unfinished delete has written into '%s'", vm_hearing_layer(h, i)->path);
			if (!repointed_at(h, i, commit->at))
				return h->verdict.written = !commit->ours && h->fault, say(h, VM_STALE, "layers above '%s' were committed into it", vm_hearing_layer(h, i)->path);
		}
	}
	return false;
}

/* The last poll that found it, or its data, written. */
static unsigned written_at(const struct vm_hearing *h, size_t i)
{
	const struct vm_fact_file *f = vm_hearing_layer(h, i);
	unsigned data = vm_graph_exists(h->g, f->data) ? vm_graph_file(h->g, f->data)->written_at : 0;

	return f->written_at > data ? f->written_at : data;
}

/* Which file of the image was written to last: that itself, or where it stores its data. */
static const char *written_path(const struct vm_graph *g, int file)
{
	const struct vm_fact_file *f = vm_graph_file(g, file), *data = vm_graph_exists(g, f->data) ? vm_graph_file(g, f->data) : NULL;

	return data && data->stamp.mtime_ns > f->stamp.mtime_ns ? data->path : f->path;
}

static uint64_t name_merge(const struct vm_graph *g, int overlay, int top)
{
	char name[2 * 20 + 2];

	snprintf(name, sizeof(name), "%" PRIu64 ":%" PRIu64, vm_graph_file(g, overlay)->stamp.ino, vm_graph_file(g, top)->stamp.ino);
	return vm_ino(1, name);
}

uint64_t vm_hearing_survived(const struct vm_hearing *h, size_t i)
{
	const struct vm_graph *g = h->g;
	int base = g->node[h->chain.files[i]];
	uint64_t all = 0;

	for (int c = g->commit_bases.head[base]; c >= 0; c = g->commit_bases.next[c])
		if (g->commits[c].unfinished_delete && vm_hearing_covers(h, g->commits[c].top, i))
			all += name_merge(g, g->commits[c].top, g->commits[c].top);
	for (int r = g->repoint_bases.head[base]; r >= 0; r = g->repoint_bases.next[r])
		if (vm_hearing_covers(h, g->repoints[r].top, i))
			all += name_merge(g, g->repoints[r].overlay, g->repoints[r].top);
	return all;
}

/* Has it gone on since layer @i was written to last, as far as that was seen? */
static bool explains_last(const struct vm_hearing *h, size_t i, const struct vm_graph_commit *commit)
{
	if (commit->ours)
		return !commit->left_ns || vm_hearing_layer(h, i)->stamp.mtime_ns == commit->left_ns;
	return written_at(h, i) <= commit->at || at_one_time(commit->at, written_at(h, i));
}

static bool moved_since(const struct vm_hearing *h, size_t i, const struct vm_graph_repoint *r)
{
	unsigned moved = vm_graph_file(h->g, r->overlay)->repointed_at, written = written_at(h, i);

	return !written || (moved && moved + 1 >= written);
}

bool vm_hearing_committed(const struct vm_hearing *h, size_t i, const struct vm_fact_note *noted)
{
	const struct vm_graph *g = h->g;
	int base = g->node[h->chain.files[i]];
	bool news = !noted || noted->survived != vm_hearing_survived(h, i);

	for (size_t r = 0; r < g->n_running; r++)
		if (vm_graph_same(g, g->running[r].base, base) && vm_hearing_covers(h, g->running[r].top, i))
			return true;
	for (int c = g->commit_bases.head[base]; c >= 0; c = g->commit_bases.next[c])
		if (vm_hearing_covers(h, g->commits[c].top, i) && (news || !g->commits[c].unfinished_delete) && explains_last(h, i, &g->commits[c]))
			return true;
	for (int r = g->repoint_bases.head[base]; news && r >= 0; r = g->repoint_bases.next[r])
		if (vm_hearing_covers(h, g->repoints[r].top, i) && moved_since(h, i, &g->repoints[r]))
			return true;
	return false;
}

/* A change of layer @i that was seen: is it that of a commit? */
static bool explained_by_commit(const struct vm_hearing *h, size_t i)
{
	return repointed_at(h, i, written_at(h, i)) || vm_hearing_committed(h, i, NULL);
}

static bool judge_watch(struct vm_hearing *h)
{
	for (size_t i = h->first; i < h->chain.n; i++)
		if (written_at(h, i) > h->disk->since && !h->same[i] && !explained_by_commit(h, i) &&
		    !vm_hearing_attested(h, h->chain.files[i]))
			return h->verdict.written = true, say(h, VM_STALE, "'%s' was written after the snapshot was taken", written_path(h->g, h->chain.files[i]));
	return false;
}

/* ---------------------------------------------------------------- what the records contradict */

/* Did we see that it was a pull? */
static bool pull_seen(const struct vm_hearing *h, const struct vm_graph_repoint *r)
{
	const struct vm_fact_file *overlay = vm_graph_file(h->g, r->overlay);
	const struct vm_fact_file *base = vm_graph_file(h->g, r->base);

	if (overlay->pulled_at && overlay->repointed_at <= overlay->pulled_at + 1)
		return true;
	return overlay->repointed_at && !base->stamp.block && !base->written_at;
}

/* The base is older than the last write to the overlay that stood on it, which had to end before any commit. */
static bool older_than_own_overlay(const struct vm_hearing *h, const struct vm_graph_repoint *r)
{
	const struct q2_stamp *base = &vm_graph_file(h->g, r->base)->stamp;

	return !vm_hearing_internal(h) && vm_graph_exists(h->g, h->disk->overlay) && !base->block &&
	       vm_chain_index(h->g, r->removed, r->n_removed, h->disk->overlay) >= 0 &&
	       base->mtime_ns <= vm_graph_file(h->g, h->disk->overlay)->stamp.mtime_ns;
}

static bool harmless(const struct vm_hearing *h, const struct vm_graph_repoint *r, size_t i)
{
	if (r->elsewhere || vm_hearing_covers(h, r->top, i) || vm_graph_same(h->g, vm_hearing_file_above(h, i), r->overlay))
		return true;
	return vm_hearing_unwritten(h, r->base) || pull_seen(h, r) || older_than_own_overlay(h, r);
}

static bool judge_repoints(struct vm_hearing *h)
{
	const struct vm_graph *g = h->g;

	for (size_t i = h->first; i < h->chain.n; i++) {
		int base = g->node[h->chain.files[i]];

		for (int r = g->repoint_bases.head[base]; r >= 0; r = g->repoint_bases.next[r])
			if (!harmless(h, &g->repoints[r], i))
				return say(h, VM_STALE, "layers above '%s' may have been committed into it, as '%s' now stands on it",
					   vm_hearing_layer(h, i)->path, vm_graph_file(g, g->repoints[r].overlay)->path);
	}
	return false;
}

static bool is_later(const struct vm_hearing *h, const struct vm_graph_snap *other)
{
	const struct vm_fact_domain *domain = &h->g->facts->domains[other->domain];
	int64_t created_s = vm_graph_snapshot(h->g, other)->created_s;
	int at = (int)other->snapshot;

	if (created_s != h->snap->created_s || other->domain != h->domain)
		return created_s > h->snap->created_s;
	for (size_t steps = 0; at >= 0 && (size_t)at < domain->n_snapshots && steps < domain->n_snapshots; steps++) {
		at = domain->snapshots[at].parent;
		if (at == (int)h->snapshot)
			return true;
	}
	return false;
}

static bool froze_again(const struct vm_hearing *h, const struct vm_graph_snap *other, size_t i)
{
	const struct vm_fact_snapdisk *disk = vm_graph_snapdisk(h->g, other);

	if (disk->mode != VM_MODE_EXTERNAL || !is_later(h, other) || vm_hearing_unwritten(h, h->chain.files[i]))
		return false;
	if (i == 0 && disk->overlay != VM_NO_FILE && vm_graph_same(h->g, disk->overlay, h->disk->overlay))
		return false; /* the same snapshot, imported twice */
	return i == 0 || !vm_graph_same(h->g, disk->overlay, h->chain.files[i - 1]);
}

static bool judge_reopened(struct vm_hearing *h)
{
	const struct vm_graph *g = h->g;

	for (size_t i = h->first; i < h->chain.n; i++)
		for (int s = g->pits.head[g->node[h->chain.files[i]]]; s >= 0; s = g->pits.next[s])
			if (froze_again(h, &g->snaps[s], i))
				return h->verdict.written = true, say(h, VM_STALE, "'%s' was in use again until snapshot '%s'", vm_hearing_layer(h, i)->path,
					   vm_graph_snapshot(g, &g->snaps[s])->shown);
	return false;
}

/* By its time, which is not that of a write where it lies ahead of the clock. */
static bool say_written(struct vm_hearing *h, int file, const char *witness)
{
	const struct vm_facts *facts = h->g->facts;

	h->verdict.written = true;
	if (facts->now_ns && vm_graph_stamp(h->g, file).mtime_ns > facts->now_ns)
		return say(h, VM_STALE, "'%s' may have been written after the snapshot was taken: its time lies ahead of the clock", written_path(h->g, file));
	return say(h, VM_STALE, "'%s' was written after the snapshot was taken%s", written_path(h->g, file), witness);
}

static bool judge_noted(struct vm_hearing *h)
{
	static const char *const what[] = {
		[VM_FAULT_LOST] = "does not have what was in a layer that is left out now",
		[VM_FAULT_ALONE] = "does not stand on what it stood on any more",
		[VM_FAULT_OTHER] = "is another file than the snapshot stood on",
		[VM_FAULT_OLDER] = "is older than what was frozen there: a copy from before was put in its place",
		[VM_FAULT_FORMAT] = "is read in another format than when the snapshot was right",
	};

	if (h->fault == VM_FAULT_WRITTEN)
		return say_written(h, h->faulty, "");
	if (h->fault)
		return h->verdict.written = true, say(h, VM_STALE, "'%s' %s", vm_graph_file(h->g, h->faulty)->path, what[h->fault]);
	if (vm_hearing_spoilt(h))
		return h->verdict.written = true, say(h, VM_STALE, "it was found wrong before, and its files have changed since");
	return false;
}

static bool judge_times(struct vm_hearing *h)
{
	for (size_t i = h->first; i < h->chain.n; i++)
		if (vm_hearing_written(h, i) && !explained_by_commit(h, i))
			return say_written(h, h->chain.files[i], ", as its time says");
	return false;
}

/* ---------------------------------------------------------------- internal snapshots and pulls */

/* The image stood on something else once; was that pulled into its active state, or committed into what it stands on? */
static bool lost_by_pull(const struct vm_hearing *h)
{
	const struct vm_fact_file *top = vm_hearing_layer(h, 0), *below;

	if (top->below == VM_NO_FILE)
		return true;
	below = vm_graph_file(h->g, top->below);
	if (top->pulled_at && top->repointed_at <= top->pulled_at + 1)
		return true;
	if (top->repointed_at && below->written_at)
		return false;
	return below->stamp.block || vm_hearing_unwritten(h, top->below) || top->repointed_at;
}

static bool changed_below(const struct vm_hearing *h)
{
	const struct vm_graph *g = h->g;
	int file = h->chain.files[0], below = vm_hearing_layer(h, 0)->below;
	int recorded = g->overlays.head[g->node[file]];

	if (h->disk->below_known && vm_graph_same(g, h->disk->below, below))
		return false;
	if (h->disk->below_known || vm_hearing_layer(h, 0)->repointed_at > h->disk->since)
		return true;
	if (recorded < 0)
		return false;
	for (; recorded >= 0; recorded = g->overlays.next[recorded])
		if (vm_graph_same(g, vm_graph_snapdisk(g, &g->snaps[recorded])->pit, below))
			return false;
	return true;
}

static bool judge_lost_below(struct vm_hearing *h)
{
	const struct vm_fact_file *top = vm_hearing_internal(h) ? vm_hearing_layer(h, 0) : NULL;

	if (!top || !changed_below(h) || !lost_by_pull(h))
		return false;
	if (top->pulled_at)
		return say(h, VM_STALE, "what '%s' stood on was pulled into its present content, and is missing in the snapshot", top->path);
	return say(h, VM_STALE, "'%s' stands on %s%s%s now: what it stood on was pulled into its present content, or exchanged, and the snapshot may miss it", top->path,
		   top->below == VM_NO_FILE ? "nothing" : "'", top->below == VM_NO_FILE ? "" : vm_graph_file(h->g, top->below)->path,
		   top->below == VM_NO_FILE ? "" : "'");
}

/* ---------------------------------------------------------------- the verdict */

static void judge_place(struct vm_hearing *h)
{
	if (h->g->facts->domains[h->domain].image || vm_graph_alive(h->g, h->domain, h->pit))
		return;
	say(h, VM_DETACHED, "'%s' is no longer beneath a disk of the domain", vm_graph_file(h->g, h->pit)->path);
}

/* By what has become of its files. */
static bool judge_past(struct vm_hearing *h)
{
	h->verdict.differs = h->fault != VM_FAULT_NONE;
	h->verdict.misses = h->fault == VM_FAULT_LOST || h->fault == VM_FAULT_ALONE || h->fault == VM_FAULT_OTHER || h->fault == VM_FAULT_FORMAT;
	return judge_writers(h) || judge_commits(h) || judge_watch(h) || judge_lost_below(h) || judge_repoints(h) || judge_reopened(h) ||
	       judge_noted(h) || judge_times(h);
}

/* It is busy: is it wrong besides, which shows only when that is over, if anything shows it then? */
static void look_behind(struct vm_hearing *h)
{
	struct vm_hearing behind = *h;

	behind.verdict = (struct vm_verdict){.written = h->verdict.written};
	judge_past(&behind);
	h->verdict.written = behind.verdict.written;
	h->verdict.differs = behind.verdict.differs;
	h->verdict.misses = behind.verdict.misses;
	free(behind.verdict.reason);
}

/* A job that runs beneath it changes the files all the time. */
static bool has_job_beneath(const struct vm_hearing *h)
{
	for (size_t r = 0; r < h->g->n_running; r++)
		if (vm_chain_index(h->g, h->chain.files, h->chain.n, h->g->running[r].base) >= 0)
			return true;
	return false;
}

/* What it shows is what it showed when it was right, or it is not: nobody needs to guess what has become of its files. */
enum shown { SHOWN_UNKNOWN, SHOWN_SAME, SHOWN_OTHER };

static enum shown compare_shown(const struct vm_hearing *h)
{
	const struct vm_facts *facts = h->g->facts;
	uint64_t now = h->disk->shows > 1 && facts->shows && !has_job_beneath(h) ?
		       facts->shows(facts->opaque, h->domain, h->disk, h->chain.files, h->chain.n, h->verdict.format, h->verdict.entry) : 0;

	return !now ? SHOWN_UNKNOWN : now == h->disk->shows ? SHOWN_SAME : SHOWN_OTHER;
}

/* May something have changed that it shows? What an internal one shows of its own image is not written in place. */
static bool may_show_other(const struct vm_hearing *h)
{
	return !h->unchanged && (h->first < h->chain.n || h->disk->spoilt);
}

static bool judge_shown(struct vm_hearing *h, enum shown shown)
{
	if (shown != SHOWN_OTHER)
		return false;
	h->verdict.differs = true;
	return h->verdict.written = true, say(h, VM_STALE, "it does not show any more what it showed when it was right: one of its files was written to, or is another one");
}

static void clear(struct vm_hearing *h)
{
	free(vs_steal(h->verdict.reason));
	h->verdict.state = VM_OK;
	h->verdict.written = h->verdict.differs = h->verdict.misses = false;
	judge_place(h);
}

/* By what has become of its files, if need be. */
static void judge_content(struct vm_hearing *h)
{
	bool asked = may_show_other(h);
	enum shown shown = asked ? compare_shown(h) : SHOWN_UNKNOWN;

	if (shown == SHOWN_SAME)
		clear(h);
	else if (!(h->disk->shows > 1 && judge_note(h)) && !judge_past(h) && !judge_shown(h, shown))
		judge_place(h);
	else if (!asked && compare_shown(h) == SHOWN_SAME)
		clear(h);
}

static void judge(struct vm_hearing *h)
{
	if (judge_record(h))
		return;
	redirect(h);
	if (h->disk->shows <= 1 && judge_note(h))
		return;
	vm_hearing_find_moment(h);
	if (judge_chain(h) || (vm_hearing_internal(h) && judge_entry(h)))
		return;
	vm_hearing_compare(h);
	if (judge_unproven(h) || judge_running(h) || judge_locks(h)) {
		if (h->disk->mode != VM_MODE_NO && h->verdict.state == VM_BUSY && !h->verdict.brief)
			look_behind(h);
		return;
	}
	if (h->disk->mode == VM_MODE_NO) /* present content: whatever it is, it is right */
		return;
	judge_content(h);
}

/* A commit that runs beneath its own top writes only what that top hides: the layers from there up are to be watched. */
static void find_watched(struct vm_hearing *h)
{
	const struct vm_graph *g = h->g;

	for (size_t r = 0; r < g->n_running; r++) {
		int top = vm_chain_index(g, h->chain.files, h->chain.n, g->running[r].top);

		if (top < 0 || vm_chain_index(g, h->chain.files, h->chain.n, g->running[r].base) <= top)
			continue;
		if (!h->verdict.watched || (size_t)top + 1 < h->verdict.watched)
			h->verdict.watched = (size_t)top + 1;
	}
}

static void allow_guard(struct vm_hearing *h)
{
	struct vm_verdict *v = &h->verdict;

	v->guard = !v->watched; /* the job's own locks are not to be disturbed */
	for (size_t i = h->first; i < h->chain.n; i++)
		if (vm_graph_writer(h->g, h->chain.files[i]))
			v->guard = false;
	if (!vm_hearing_internal(h))
		v->guard_top = v->guard;
	else
		v->guard_top = h->chain.n && !h->g->facts->domains[h->domain].image &&
			       !vm_graph_writer(h->g, h->chain.files[0]);
}

static struct vm_hearing hearing_of(const struct vm_graph *g, size_t domain, size_t snapshot, size_t disk)
{
	const struct vm_fact_snapshot *snap = &g->facts->domains[domain].snapshots[snapshot];

	return (struct vm_hearing){.g = g, .domain = domain, .snapshot = snapshot, .snap = snap, .disk = &snap->disks[disk],
				   .pit = VM_NO_FILE, .gone_top = VM_NO_FILE};
}

int vm_graph_image(const struct vm_graph *g, const struct vm_graph_snap *s, enum q2_format *format)
{
	struct vm_hearing h = hearing_of(g, s->domain, s->snapshot, s->disk);

	*format = h.disk->format;
	if (h.disk->pit == VM_NO_FILE)
		return VM_NO_FILE;
	redirect(&h);
	*format = h.verdict.format;
	return h.pit;
}

void vm_graph_state(const struct vm_graph *g, size_t domain, size_t snapshot, size_t disk, struct vm_verdict *out)
{
	struct vm_hearing h = hearing_of(g, domain, snapshot, disk);

	h.first = vm_hearing_internal(&h) ? 1 : 0;
	judge(&h);
	find_watched(&h);
	allow_guard(&h);
	h.verdict.layers = xcalloc(h.chain.n, sizeof(int));
	memcpy(h.verdict.layers, h.chain.files, h.chain.n * sizeof(int));
	h.verdict.n_layers = h.chain.n;
	h.verdict.survived = xcalloc(h.chain.n, sizeof(*h.verdict.survived));
	for (size_t i = h.first; i < h.chain.n; i++)
		h.verdict.survived[i] = vm_hearing_survived(&h, i);
	h.verdict.noted = vm_hearing_noted(&h);
	*out = h.verdict;
}

void vm_verdict_fini(struct vm_verdict *verdict)
{
	free(verdict->reason);
	free(verdict->layers);
	free(verdict->survived);
	*verdict = (struct vm_verdict){0};
}
