/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/model/invariants.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/util/mem.h"

static int broken(const struct vm_domain *d, const char *what, const char *which, struct vs_err *err)
{
	return vs_err_set(err, -EINVAL, "domain '%s': %s '%s'", d->dir ? d->dir : "?", what, which ? which : "?");
}

/* ---------------------------------------------------------------- layers */

/* No number leads out of the list. A circle it may be: an image can say that it stands on itself. */
static int check_layers(const struct vm_domain *d, struct vs_err *err)
{
	for (size_t i = 0; i < d->n_layers; i++) {
		const struct vm_layer *l = &d->layers[i];

		if (!l->path || !l->paths || !l->users || !l->snapshots)
			return broken(d, "without a path or a list: layer", l->path, err);
		if (l->below < -1 || (l->below >= 0 && (size_t)l->below >= d->n_layers))
			return broken(d, "on what is not there: layer", l->path, err);
	}
	return 0;
}

static int check_disks(const struct vm_domain *d, struct vs_err *err)
{
	for (size_t i = 0; i < d->n_disks; i++) {
		const struct vm_disk_now *disk = &d->disks[i];

		if (!disk->target || !disk->source)
			return broken(d, "without a source: disk", disk->target, err);
		if (disk->top < -1 || (disk->top >= 0 && (size_t)disk->top >= d->n_layers))
			return broken(d, "on a layer that is not there: disk", disk->target, err);
	}
	return 0;
}

/* ---------------------------------------------------------------- snapshots */

static bool is_read(enum vm_state state)
{
	return state == VM_OK || state == VM_DETACHED || state == VM_BUSY;
}

static size_t length(char *const *list)
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

static int check_snapdisk(const struct vm_domain *d, const struct vm_snapshot *s, const struct vm_disk *disk, struct vs_err *err)
{
	if (!disk->target || disk->ino < 2)
		return broken(d, "without a target or a number: a disk of snapshot", s->shown, err);
	if ((disk->state == VM_OK) != !disk->reason)
		return broken(d, "with a reason and ok, or with none and not: a disk of snapshot", s->shown, err);
	if (disk->file && !is_read(disk->state))
		return broken(d, "with a file and not to be read: a disk of snapshot", s->shown, err);
	if (disk->file && (!disk->gate || !length(disk->chain) || disk->n_stamps > length(disk->chain)))
		return broken(d, "with a file and no chain: a disk of snapshot", s->shown, err);
	if (disk->file && !s->present && (s->kind == VM_INTERNAL) != !!disk->snapshot)
		return broken(d, "internal without an entry, or external with one: a disk of snapshot", s->shown, err);
	return 0;
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* An image may have 65,536. */
static int check_names(const struct vm_domain *d, struct vs_err *err)
{
	vs_autofree const char **names = xcalloc(d->n_snapshots, sizeof(*names));

	for (size_t i = 0; i < d->n_snapshots; i++)
		names[i] = d->snapshots[i].shown;
	qsort(names, d->n_snapshots, sizeof(*names), by_text);
	for (size_t i = 1; i < d->n_snapshots; i++)
		if (!strcmp(names[i - 1], names[i]))
			return broken(d, "shown twice: snapshot", names[i], err);
	return 0;
}

static int check_snapshots(const struct vm_domain *d, struct vs_err *err)
{
	for (size_t i = 0; i < d->n_snapshots; i++) {
		const struct vm_snapshot *s = &d->snapshots[i];

		if (!s->name || !s->shown || !s->users)
			return broken(d, "without a name or a list: snapshot", s->shown, err);
		if (!s->xml != !s->xml_file || (s->xml && strlen(s->xml) != s->xml_len))
			return broken(d, "with half a definition: snapshot", s->shown, err);
		for (size_t k = 0; k < s->n_disks; k++) {
			int r = check_snapdisk(d, s, &s->disks[k], err);

			if (r < 0)
				return r;
		}
	}
	return check_names(d, err);
}

/* ---------------------------------------------------------------- all */

int vm_invariants_of_inventory(const struct vm_inventory *inv, struct vs_err *err)
{
	int r;

	for (size_t i = 0; i < inv->n_domains; i++) {
		const struct vm_domain *d = inv->domains[i];

		if (!d->dir || !d->uuid || !d->state || !d->log || !d->unknowns || d->ino < 2)
			return broken(d, "something is missing:", d->uuid, err);
		if (i && strcmp(inv->domains[i - 1]->dir, d->dir) >= 0)
			return broken(d, "not in order, or there twice: after", inv->domains[i - 1]->dir, err);
		if ((r = check_layers(d, err)) < 0 || (r = check_disks(d, err)) < 0 || (r = check_snapshots(d, err)) < 0)
			return r;
	}
	return 0;
}

void vm_invariants_must_hold(int r, const struct vs_err *err)
{
	if (r == 0)
		return;
	fprintf(stderr, "virt-snapfs: Assertion 'the inventory holds together' failed: %s\n", err->msg);
	abort();
}
