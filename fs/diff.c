/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Both trees are sorted by name, so one walk along both finds what is only in the old one. What is only in the
 * new one needs no telling (the kernel remembers no name that it did not find), but its directory's times do.
 */
#include "diff.h"

#include <errno.h>
#include <string.h>

struct diff {
	const struct sf_tree *before, *after;
	void (*emit)(void *opaque, const struct sf_change *change);
	void *opaque;
};

static void emit_thing(const struct diff *d, enum sf_what what, const struct sf_place *place)
{
	const struct sf_change change = {.what = what, .thing = sf_place_key(place)};

	d->emit(d->opaque, &change);
}

/* The old name of @place is gone. Is the thing? */
static void emit_name(const struct diff *d, const struct sf_place *place)
{
	const struct sf_place parent = sf_place_parent(place);
	struct sf_place now;
	struct sf_change change = {
		.what = SF_NAME_MOVED,
		.parent = sf_place_key(&parent),
		.name = place->entry ? place->entry->name : place->dir->domain->dir,
		.thing = sf_place_key(place),
	};

	if (sf_place_find(d->after, &change.thing, &now) == -ESTALE)
		change.what = SF_NAME_GONE;
	d->emit(d->opaque, &change);
}

/* Do the two name the same files, as they were then? What may be written to where the image does not look is no difference, nor
 * is what a guest writes beside an internal snapshot. */
static bool same_files(const struct vm_disk *a, const struct vm_disk *b)
{
	size_t n = a->n_stamps;

	if (b->n_stamps != n)
		return false;
	for (size_t i = 0; i < n; i++) {
		const struct q2_stamp *was = &a->stamps[i], *is = &b->stamps[i];
		bool quiet = (i || !a->snapshot) && (!a->watched || i < a->watched) && (!b->watched || i < b->watched);

		if (was->dev != is->dev || was->ino != is->ino)
			return false;
		if (quiet && (was->size != is->size || was->mtime_ns != is->mtime_ns))
			return false;
	}
	return true;
}

/* The same name for the same thing: what does stat say differently? And could it read differently? */
static void diff_entry(const struct diff *d, const struct sf_place *old, const struct sf_place *new)
{
	const struct vm_disk *was = old->entry->disk, *is = new->entry->disk;
	const struct vm_snapshot *then = old->entry->snapshot, *now = new->entry->snapshot;

	switch (new->entry->kind) {
	case SF_IMAGE:
		if (was->size != is->size || was->created_ns != is->created_ns || !same_files(was, is))
			emit_thing(d, SF_DATA_CHANGED, new);
		return;
	case SF_XML:
		if (then->xml_len != now->xml_len || memcmp(then->xml, now->xml, now->xml_len) != 0)
			emit_thing(d, SF_DATA_CHANGED, new);
		return;
	case SF_CTL:
	case SF_RETAIN:
	case SF_PLAN:
	case SF_JOBS:
	case SF_SPACE:
	case SF_SPACE_JSON:
		return; /* of these the kernel keeps nothing */
	default:
		emit_thing(d, SF_DATA_CHANGED, new);
	}
}

static void diff_names(const struct diff *d, struct sf_dir *old, struct sf_dir *new)
{
	size_t n_a, n_b, i = 0, j = 0;
	const struct sf_entry *a = sf_dir_list(old, &n_a), *b = sf_dir_list(new, &n_b);

	while (i < n_a) {
		const struct sf_place was = {.dir = old, .entry = &a[i]}, is = {.dir = new, .entry = j < n_b ? &b[j] : NULL};
		int order = j < n_b ? strcmp(a[i].name, b[j].name) : -1;

		if (order > 0) {
			j++;
			continue;
		}
		if (order < 0 || a[i].kind != b[j].kind || a[i].ino != b[j].ino)
			emit_name(d, &was);
		else
			diff_entry(d, &was, &is);
		i++;
		j += order == 0;
	}
}

static void diff_dirs(const struct diff *d, struct sf_dir *old, struct sf_dir *new)
{
	if (old == new)
		return;
	if (sf_dir_was_asked(old)) /* then both are, so that whoever knows a name is told of it step by step */
		diff_names(d, old, new);
	emit_thing(d, SF_ATTR_CHANGED, &(struct sf_place){.dir = new});
}

void sf_tree_diff(const struct sf_tree *before, const struct sf_tree *after,
		  void (*emit)(void *opaque, const struct sf_change *change), void *opaque)
{
	const struct diff d = {before, after, emit, opaque};

	for (size_t i = 0; i < before->n_dirs; i++) {
		struct sf_dir *old = before->dirs[i], *new = sf_tree_dir(after, old->domain->dir);
		struct sf_dir *same = new && new->domain->ino == old->domain->ino
					      ? new
					      : sf_tree_dir_by_ino(after, old->domain->ino);

		if (same)
			diff_dirs(&d, old, same);
		if (same != new || !new)
			emit_name(&d, &(struct sf_place){.dir = old});
	}
	if (before->changed_ns != after->changed_ns || before->n_dirs != after->n_dirs)
		emit_thing(&d, SF_ATTR_CHANGED, &(struct sf_place){0});
}
