/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The files of a snapshot against those that were noted.
 *
 * The note says which files the snapshot was made of when it was right, from what it froze down to the one that stands on nothing, and
 * with which stamps. Whatever happens to them by libvirt's doing shows in *which* files there are: a commit takes away the layer that went
 * into the one beneath, and changes the header of the one above. So, from the top down:
 *
 *   the same      stamp as noted; or not, but the same sum (a guest sees the same: the images were moved, a bitmap or an internal snapshot came or went); or another file of the same
 *                 size with the same time (a copy that was put in its place), as far as the tool that made it keeps times.
 *   written       it has another stamp, and the layers above and beneath it are those that were there: no job has done that. (Only another header,
 *                 and no more than that, may have been seen, or have come with the job. A large one has no sum, so its size must tell.)
 *   lost          a layer that stored something does not lie there any more, and the one beneath has not been written to since: its data is
 *                 nowhere. (qemu-img rebase -u onto something else.) Where that one stores the same, but was written to, a job that found nothing
 *                 to change took the layer away, if it is gone.
 *   another file  one that was not noted: libvirt puts nothing beneath a frozen image.
 *   older, or of another format: likewise.
 *
 * Where layers are gone, or empty, and the one beneath them was written to, as by virsh's delete, or where the note ends, time stamps decide
 * (evidence.c).
 * If everything is the same, nothing can speak against it.
 *
 * A snapshot of which there is no note yet may stand on what was noted of another one: what was written to there since this one was taken is
 * told of it, too.
 */
#include "vm/graph/graph-priv.h"

#define SECOND INT64_C(1000000000)
#define EMPTYING_NS (2 * SECOND) /* qemu-img commit empties what it has moved at its end, and a clock may tick */

/* Has a merge of ours that is under way made it stand on its base? */
bool vm_graph_moved_by_us(const struct vm_graph *g, int file)
{
	int below = vm_graph_file(g, file)->below;

	for (int c = below == VM_NO_FILE ? -1 : g->commit_bases.head[g->node[below]]; c >= 0; c = g->commit_bases.next[c])
		if (g->commits[c].ours && !vm_graph_same(g, g->commits[c].top, file)) /* that is only read */
			return true;
	return false;
}

/* Or writes into it? */
static bool merged_by_us(const struct vm_graph *g, int file)
{
	for (int c = g->commit_bases.head[g->node[file]]; c >= 0; c = g->commit_bases.next[c])
		if (g->commits[c].ours)
			return true;
	return false;
}

static bool has_sum(const struct vm_graph *g, int file, const struct vm_fact_note *noted)
{
	return noted->sum && g->facts->sum && g->facts->sum(g->facts->opaque, file) == noted->sum;
}

/* A copy with the time of what was noted, which some tools cut off, or that itself. A copy may have its number. */
bool vm_noted_has_time(const struct vm_graph *g, int file, const struct vm_fact_note *noted)
{
	const struct q2_stamp now = vm_graph_stamp(g, file), *s = &now, *then = &noted->stamp;

	if (s->size != then->size)
		return false;
	if (s->ino == then->ino && s->btime_ns <= then->mtime_ns)
		return s->mtime_ns == then->mtime_ns;
	for (int64_t unit = 1; unit <= SECOND; unit *= 10)
		if (s->mtime_ns == then->mtime_ns - then->mtime_ns % unit)
			return true;
	return false;
}

/* What it stores is for certain something else than what was noted, whatever its header says now. By its size, where there is no sum: another
 * header makes no image larger. */
static bool has_other_data(const struct vm_graph *g, int file, const struct vm_fact_note *noted)
{
	uint64_t sum = noted->sum && g->facts->sum ? g->facts->sum(g->facts->opaque, file) : 0;

	return sum ? sum != noted->sum : vm_graph_stamp(g, file).size != noted->stamp.size;
}

static bool is_same(const struct vm_graph *g, int file, const struct vm_fact_note *noted)
{
	return vm_noted_has_time(g, file, noted) || has_sum(g, file, noted);
}

struct walk {
	struct vm_hearing *h;
	const struct vm_fact_note *at; /* what is expected next */
	size_t skipped;                /* layers that were noted and are not there, directly above */
	bool stored;                   /* one of them stored something... */
	bool left;                     /* ... and is there still, somewhere else */
	bool borrowed;                 /* it is the note of another snapshot... */
	size_t from;                   /* ... for what this one is read from from here on */
};

static void accuse(const struct walk *w, size_t i, enum vm_hearing_fault fault)
{
	w->h->fault = fault;
	w->h->faulty = w->h->chain.files[i];
}

/* Is it the file of that note, which may have been written to? Numbers of files are used again, so a time at its place says more than a
 * number elsewhere; and what two files store may be the same, so a number says more than a sum, but for that of a file which was born since. */
static bool is_of(const struct vm_graph *g, int file, const struct vm_fact_note *noted)
{
	const struct q2_stamp *now = &vm_graph_file(g, file)->stamp;

	if (vm_noted_has_time(g, file, noted))
		return true;
	for (const struct vm_fact_note *n = noted; n; n = n->beneath)
		if (n->stamp.ino == now->ino)
			return n == noted || (now->btime_ns > n->stamp.mtime_ns && has_sum(g, file, noted));
	return has_sum(g, file, noted);
}

static bool is_there(const struct vm_graph *g, const struct vm_fact_note *noted, uint64_t dev)
{
	for (size_t i = 0; i < g->facts->n_files; i++)
		if (vm_graph_file(g, (int)i)->stamp.ino == noted->stamp.ino && vm_graph_file(g, (int)i)->stamp.dev == dev)
			return true;
	return false;
}

/* Goes to the note of layer @i. False: there is none. */
static bool find(struct walk *w, size_t i)
{
	const struct vm_graph *g = w->h->g;
	int file = w->h->chain.files[i];
	const struct vm_fact_note *n = w->at;

	w->skipped = 0;
	w->stored = w->left = false;
	if (is_of(g, file, n))
		return true;
	for (; n && n->stamp.ino != vm_graph_file(g, file)->stamp.ino; n = n->beneath) {
		w->stored |= !n->empty;
		w->left |= !n->empty && is_there(g, n, vm_graph_file(g, file)->stamp.dev);
		w->skipped++;
	}
	if (n)
		w->at = n;
	return n != NULL;
}

/* Is where the notes end known to be the end? */
static bool ends(const struct vm_fact_note *n)
{
	while (n->beneath)
		n = n->beneath;
	return n->alone;
}

/* Does layer @i stand on something else than was noted? Then a job has changed its header, or somebody who moved the images. */
static bool is_repointed(const struct walk *w, size_t i)
{
	const struct vm_hearing *h = w->h;
	const struct vm_fact_note *beneath = w->at->beneath;

	if (w->at->raw)
		return false;
	if (!beneath && !w->at->alone)
		return vm_hearing_may_be_repointed(h, h->chain.files[i]);
	if (!beneath || i + 1 == h->chain.n)
		return beneath || i + 1 < h->chain.n;
	return !is_of(h->g, h->chain.files[i + 1], beneath);
}

/* It was seen as it was noted, and since then nothing but its header has been seen to change. */
static bool was_renamed(const struct walk *w, size_t i)
{
	const struct vm_fact_file *f = vm_hearing_layer(w->h, i);

	for (size_t k = 0; f->stamp.size == w->at->stamp.size && k < f->n_renamed; k++)
		if (f->renamed[k].size == w->at->stamp.size && f->renamed[k].mtime_ns == w->at->stamp.mtime_ns)
			return true;
	return false;
}

/* Has its header been changed, which changes no more than that? */
static bool has_other_header(const struct walk *w, size_t i)
{
	int file = w->h->chain.files[i];

	return !has_other_data(w->h->g, file, w->at) && (is_repointed(w, i) || was_renamed(w, i) || vm_graph_moved_by_us(w->h->g, file));
}

/* Was what layer @i stored, or the one above it, merged into the one beneath by qemu-img commit, which leaves an empty layer? */
static bool went_down(const struct walk *w, size_t i)
{
	const struct vm_hearing *h = w->h;

	if (i > h->first && !h->same[i - 1] && vm_hearing_emptied(vm_hearing_layer(h, i - 1)) &&
	    vm_graph_stamp(h->g, h->chain.files[i]).mtime_ns <= vm_hearing_layer(h, i - 1)->stamp.mtime_ns + EMPTYING_NS)
		return true;
	return !w->at->empty && w->at->beneath && i + 1 < h->chain.n && vm_hearing_emptied(vm_hearing_layer(h, i)) &&
	       !is_same(h->g, h->chain.files[i + 1], w->at->beneath);
}

/* Nothing explains that layer @i has another stamp. */
static bool is_written(const struct walk *w, size_t i)
{
	const struct vm_hearing *h = w->h;

	return !w->skipped && !went_down(w, i) && !has_other_header(w, i) && !vm_hearing_committed(h, i, w->at);
}

/* Of what stood on layer @i the note of another snapshot does not tell. If it has been merged down, what stands there now was touched after that. */
static bool may_be_merged(const struct vm_hearing *h, size_t i, int64_t written_ns)
{
	int upper = vm_hearing_file_above(h, i);

	return upper == VM_NO_FILE || vm_graph_file(h->g, upper)->stamp.block || vm_graph_file(h->g, upper)->stamp.mtime_ns + 2 * SECOND >= written_ns;
}

static void compare_layer(const struct walk *w, size_t i)
{
	struct vm_hearing *h = w->h;
	int file = h->chain.files[i];
	int64_t written_ns = vm_graph_stamp(h->g, file).mtime_ns;
	bool same = is_same(h->g, file, w->at);

	if (w->borrowed) {
		bool before = written_ns < h->from_ns || (h->born_ns && written_ns <= h->born_ns);

		if (!same && !before && is_written(w, i) && !(i == w->from && may_be_merged(h, i, written_ns)))
			accuse(w, i, VM_FAULT_WRITTEN);
		return;
	}
	h->same[i] = same;
	if (w->at->raw != (vm_graph_file(h->g, file)->format == Q2_FORMAT_RAW))
		accuse(w, i, VM_FAULT_FORMAT);
	else if (same && w->skipped && w->stored && (w->left || vm_noted_has_time(h->g, file, w->at)) && !merged_by_us(h->g, file))
		accuse(w, i, VM_FAULT_LOST);
	else if (!same && is_written(w, i))
		accuse(w, i, written_ns < w->at->stamp.mtime_ns && written_ns <= h->upto_ns ? VM_FAULT_OLDER : VM_FAULT_WRITTEN); /* a noted time may lie ahead */
}

/* From layer @i on, to where the note ends: gives the layer behind that. *all: everything is the same. */
static size_t compare_from(struct walk *w, size_t i, bool *all)
{
	struct vm_hearing *h = w->h;

	for (*all = true; i < h->chain.n; i++) {
		if (vm_hearing_layer(h, i)->stamp.block || !find(w, i)) {
			*all = false;
			if (!vm_hearing_layer(h, i)->stamp.block && !w->borrowed && ends(w->at))
				accuse(w, i, VM_FAULT_OTHER);
			return i + 1;
		}
		compare_layer(w, i);
		*all = *all && h->same[i] && !w->skipped;
		if (h->fault)
			return h->chain.n;
		if (!w->at->beneath) {
			*all = *all && w->at->alone;
			if (w->at->alone && !w->borrowed && i + 1 < h->chain.n)
				accuse(w, i + 1, VM_FAULT_OTHER);
			return i + 1;
		}
		if (i + 1 == h->chain.n && !w->borrowed)
			accuse(w, i, VM_FAULT_ALONE); /* no job pulls anything into a frozen image */
		w->at = w->at->beneath;
	}
	*all = *all && !h->fault;
	return i;
}

/* What another snapshot froze here. */
static const struct vm_fact_note *borrow(const struct vm_hearing *h, size_t i)
{
	const struct vm_graph *g = h->g;

	for (int x = g->pits.head[g->node[h->chain.files[i]]]; x >= 0; x = g->pits.next[x]) {
		const struct vm_fact_snapdisk *disk = vm_graph_snapdisk(g, &g->snaps[x]);

		if (disk->mode == VM_MODE_EXTERNAL && disk->froze &&
		    disk->froze->stamp.ino == vm_hearing_layer(h, i)->stamp.ino)
			return disk->froze;
	}
	return NULL;
}

void vm_hearing_compare(struct vm_hearing *h)
{
	struct walk w = { .h = h, .at = h->disk->froze };
	size_t i = vm_hearing_internal(h) ? h->first : h->first + 1;
	bool all;

	if (w.at && h->first < h->chain.n) {
		i = compare_from(&w, h->first, &all);
		h->unchanged = all && i >= h->chain.n;
	}
	for (w.borrowed = true; !h->fault && i < h->chain.n;) {
		w.at = borrow(h, i);
		w.from = i;
		i = w.at ? compare_from(&w, i, &all) : i + 1;
	}
}

bool vm_hearing_noted(const struct vm_hearing *h)
{
	const struct vm_fact_note *n = h->disk->froze;

	for (size_t i = h->first; i < h->chain.n; i++, n = n->beneath) {
		const struct q2_stamp now = vm_graph_stamp(h->g, h->chain.files[i]);
		bool last = i + 1 == h->chain.n || vm_hearing_layer(h, i + 1)->stamp.block;

		if (now.block)
			return true; /* nobody can know it again */
		if (!n || n->stamp.ino != now.ino || n->stamp.size != now.size || n->stamp.mtime_ns != now.mtime_ns ||
		    n->survived != vm_hearing_survived(h, i))
			return false;
		if (last)
			return n->alone || i + 1 < h->chain.n;
		if (!n->beneath)
			return false;
	}
	return true;
}
