/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Order. Snapshots are shown oldest first, and of two with one time the parent first. An entry in an image knows its time
 * to the nanosecond, libvirt's record of an external snapshot to the second: so a child that seems to be older than its
 * parent, but within the same second, counts as just as old. And of those of one second libvirt's current one was taken last, if nothing was
 * taken after it: what was just taken is not what retention drops for the sake of another branch.
 *
 * Inode numbers. What identifies a snapshot must be the same at every mount and differ between two snapshots that were
 * ever on this disk: for an internal one that is what identifies its entry, since after delete and create name and id
 * are used again; for an external one its name and time.
 */
#include "vm/inventory/draft.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vm/model/inventory.h"
#include "vm/util/mem.h"
#include "vm/model/names.h"
#include "vm/util/clock.h"

/* ---------------------------------------------------------------- order and names */

static int64_t entry_ns(const struct q2_snapshot *entry)
{
	return entry->date_sec * VM_NS_PER_S + entry->date_nsec;
}

static const struct q2_snapshot *first_entry(const struct vm_draft_snapshot *s)
{
	for (size_t i = 0; i < s->n_disks; i++)
		if (s->disks[i].entry)
			return s->disks[i].entry;
	return NULL;
}

int64_t vm_order_disk_created(const struct vm_draft_snapshot *s, const struct vm_draft_disk *disk)
{
	return disk->entry ? entry_ns(disk->entry) : s->created_ns;
}

static bool has_child(const struct vm_draft *d, size_t i)
{
	for (size_t k = 0; k < d->n_snapshots; k++)
		if (d->snapshots[k].parent == (int)i)
			return true;
	return false;
}

static void set_times(struct vm_draft *d)
{
	for (size_t i = 0; i < d->n_snapshots; i++) {
		struct vm_draft_snapshot *s = &d->snapshots[i];
		const struct q2_snapshot *entry = first_entry(s);
		int64_t parent_ns;

		if (entry)
			s->created_ns = entry_ns(entry);
		s->order_ns = s->created_ns;
		if (s->parent < 0)
			continue;
		parent_ns = d->snapshots[s->parent].order_ns;
		if (s->order_ns < parent_ns && s->order_ns / VM_NS_PER_S == parent_ns / VM_NS_PER_S)
			s->order_ns = parent_ns;
	}
	for (size_t i = 0; i < d->n_snapshots; i++) {
		struct vm_draft_snapshot *s = &d->snapshots[i];

		if (s->current && s->kind == VM_EXTERNAL && !has_child(d, i))
			s->order_ns += VM_NS_PER_S - 1 - s->order_ns % VM_NS_PER_S;
	}
}

/* Parents come before children in a draft, so its own order settles what time leaves open. */
static int by_time(const void *a, const void *b)
{
	const struct vm_draft_snapshot *x = *(struct vm_draft_snapshot *const *)a;
	const struct vm_draft_snapshot *y = *(struct vm_draft_snapshot *const *)b;

	if (x->order_ns != y->order_ns)
		return x->order_ns < y->order_ns ? -1 : 1;
	return x < y ? -1 : x > y;
}

static void set_order(struct vm_draft *d, struct vm_arena *arena)
{
	d->order = vm_arena_calloc(arena, d->n_snapshots, sizeof(*d->order));
	for (size_t i = 0; i < d->n_snapshots; i++)
		d->order[i] = &d->snapshots[i];
	qsort(d->order, d->n_snapshots, sizeof(*d->order), by_time);
	for (size_t i = 0; i < d->n_snapshots; i++)
		d->order[i]->rank = (int)i;
}

static size_t suffix_len(const struct vm_draft *d)
{
	size_t longest = vm_name_suffix_len(NULL, 0);

	for (size_t i = 0; i < d->n_snapshots; i++) {
		for (size_t k = 0; k < d->snapshots[i].n_disks; k++) {
			size_t len = vm_name_suffix_len(&d->snapshots[i].disks[k].fact.target, 1);

			if (len > longest)
				longest = len;
		}
	}
	return longest;
}

/* The present content of an image is `current` and no snapshot is: it takes no part in this. */
static void set_names(struct vm_draft *d, struct vm_arena *arena)
{
	struct vm_name_in *in = vm_arena_calloc(arena, d->n_snapshots, sizeof(*in));
	struct vm_draft_snapshot **named = vm_arena_calloc(arena, d->n_snapshots, sizeof(*named));
	char **shown = vm_arena_calloc(arena, d->n_snapshots, sizeof(*shown));
	size_t suffix = suffix_len(d), n = 0;

	for (size_t i = 0; i < d->n_snapshots; i++) {
		struct vm_draft_snapshot *s = d->order[i];
		const struct q2_snapshot *entry = first_entry(s);

		if (s->present) {
			s->shown = vm_arena_strdup(arena, s->name);
			continue;
		}
		in[n] = (struct vm_name_in){ .name = s->name, .id = entry ? entry->id : NULL, .suffix_len = suffix,
					     .force_id = d->image && !strcmp(s->name, "current") };
		named[n++] = s;
	}
	vm_names_shown(in, n, shown);
	for (size_t i = 0; i < n; i++)
		named[i]->shown = vm_arena_take(arena, shown[i]);
}

void vm_order_settle(struct vm_draft *d, struct vm_arena *arena)
{
	d->ino = vm_ino(0, d->uuid);
	set_times(d);
	set_order(d, arena);
	set_names(d, arena);
}

uint64_t vm_order_disk_ino(const struct vm_draft *d, const struct vm_draft_snapshot *s, const struct vm_draft_disk *disk)
{
	const struct q2_snapshot *e = disk->entry;
	vs_autofree char *identity = NULL;

	if (s->present)
		identity = xstrdup("current");
	else if (e)
		identity = xasprintf("internal:%zu:%s:%zu:%s:%" PRIu32 ".%" PRIu32 ":%" PRIu64, strlen(e->id), e->id,
				     strlen(e->name), e->name, e->date_sec, e->date_nsec, e->vm_clock_nsec);
	else
		identity = xasprintf("%s:%zu:%s:%" PRId64, s->kind == VM_INTERNAL ? "gone" : "external", strlen(s->name),
				     s->name, s->created_ns);
	return vm_ino(vm_ino(d->ino, identity), disk->fact.target);
}

uint64_t vm_order_nv_ino(const struct vm_draft *d, const struct vm_draft_snapshot *s, const char *what)
{
	vs_autofree char *identity = xasprintf("beside:%zu:%s:%" PRId64, strlen(s->name), s->name, s->created_ns);

	return vm_ino(vm_ino(d->ino, identity), what);
}
