/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Entries in snapshot tables. The ones that libvirt made are found by name and never by id: libvirt passes the name to
 * QEMU, whose own look-up takes ids first, and a snapshot named "2" must not become somebody else's.
 *
 * What is left over nobody recorded (qemu-img snapshot -c, an image source). One snapshot of a machine with two disks is two
 * entries; they are put together again by name, or where a table has a name twice, by name and id, the k-th with the
 * k-th. A table may be hostile and hold 65,536 equal entries, so this sorts instead of searching.
 */
#include "vm/graph/graph.h"

#include <string.h>

#include "vm/util/mem.h"

const struct q2_snapshot *vm_entry_find(const struct q2_info *info, const char *name, int64_t created_s)
{
	const struct q2_snapshot *best = NULL;
	int64_t best_distance = 0;

	for (size_t i = 0; i < info->n_snapshots; i++) {
		const struct q2_snapshot *entry = &info->snapshots[i];
		int64_t distance = (int64_t)entry->date_sec - (created_s < 0 || created_s > UINT32_MAX ? 0 : created_s);

		if (distance < 0)
			distance = -distance;
		if (strcmp(entry->name, name) || (best && distance >= best_distance))
			continue;
		best = entry;
		best_distance = distance;
	}
	return best;
}

struct item {
	const struct q2_snapshot *entry;
	size_t table, index; /* where it is: also the order in which groups come out */
	size_t copy;         /* how many equal ones its table has before it */
	bool by_id;          /* some table has its name twice */
};

static int compare_name_place(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	int order = strcmp(x->entry->name, y->entry->name);

	if (order)
		return order;
	if (x->table != y->table)
		return x->table < y->table ? -1 : 1;
	return (x->index > y->index) - (x->index < y->index);
}

static int compare_id_place(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	int order = strcmp(x->entry->name, y->entry->name);

	if (order == 0)
		order = strcmp(x->entry->id, y->entry->id);
	return order ? order : compare_name_place(a, b);
}

/* Members of a group end up side by side, in the order of their tables. */
static int compare_group(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	int order = strcmp(x->entry->name, y->entry->name);

	if (order == 0 && x->by_id)
		order = strcmp(x->entry->id, y->entry->id);
	if (order == 0 && x->copy != y->copy)
		order = x->copy < y->copy ? -1 : 1;
	return order ? order : compare_name_place(a, b);
}

static bool one_group(const struct item *x, const struct item *y)
{
	return !strcmp(x->entry->name, y->entry->name) && x->copy == y->copy &&
	       (!x->by_id || !strcmp(x->entry->id, y->entry->id));
}

/* Sets by_id. */
static void find_shared_names(struct item *items, size_t n)
{
	qsort(items, n, sizeof(*items), compare_name_place);
	for (size_t i = 0, end; i < n; i = end) {
		bool twice = false;

		for (end = i + 1; end < n && !strcmp(items[i].entry->name, items[end].entry->name); end++)
			twice |= items[end].table == items[end - 1].table;
		for (size_t k = i; k < end; k++)
			items[k].by_id = twice;
	}
}

/* Sets copy. */
static void count_copies(struct item *items, size_t n)
{
	qsort(items, n, sizeof(*items), compare_id_place);
	for (size_t i = 1; i < n; i++) {
		const struct item *before = &items[i - 1];

		if (items[i].by_id && before->table == items[i].table && !strcmp(before->entry->name, items[i].entry->name) &&
		    !strcmp(before->entry->id, items[i].entry->id))
			items[i].copy = before->copy + 1;
	}
}

static size_t count_entries(const struct vm_table *tables, size_t n_tables)
{
	size_t n = 0;

	for (size_t t = 0; t < n_tables; t++)
		n += tables[t].info ? tables[t].info->n_snapshots : 0;
	return n;
}

static size_t collect_items(const struct vm_table *tables, size_t n_tables, struct item *items)
{
	size_t n = 0;

	for (size_t t = 0; t < n_tables; t++)
		for (size_t i = 0; tables[t].info && i < tables[t].info->n_snapshots; i++)
			if (!tables[t].taken || !tables[t].taken[i])
				items[n++] = (struct item){.entry = &tables[t].info->snapshots[i], .table = t, .index = i};
	return n;
}

/* @items: the members of one group. */
static void make_stray(const struct item *items, size_t n, struct vm_stray *stray)
{
	const struct q2_snapshot *first = items[0].entry;

	*stray = (struct vm_stray){.name = first->name, .id = first->id, .date_sec = first->date_sec,
				   .date_nsec = first->date_nsec};
	stray->disks = xcalloc(n, sizeof(*stray->disks));
	stray->n_disks = n;
	for (size_t i = 0; i < n; i++) {
		stray->disks[i] = (struct vm_stray_disk){items[i].table, items[i].entry};
		stray->memory |= items[i].entry->vm_state_size != 0;
	}
}

/* By the place of their first entry: addresses within one table rise with the index. */
static int compare_strays(const void *a, const void *b)
{
	const struct vm_stray *x = a, *y = b;

	if (x->disks[0].table != y->disks[0].table)
		return x->disks[0].table < y->disks[0].table ? -1 : 1;
	return (x->disks[0].entry > y->disks[0].entry) - (x->disks[0].entry < y->disks[0].entry);
}

void vm_stray_group(const struct vm_table *tables, size_t n_tables, struct vm_stray **out, size_t *n_out)
{
	size_t room = count_entries(tables, n_tables), n, n_strays = 0;
	vs_autofree struct item *items = xcalloc(room, sizeof(*items)); /* QEMU and q2_info have 65,536 entries in a table at most */
	struct vm_stray *strays = xcalloc(room, sizeof(*strays));

	n = collect_items(tables, n_tables, items);
	find_shared_names(items, n);
	count_copies(items, n);
	qsort(items, n, sizeof(*items), compare_group);
	for (size_t i = 0, end; i < n; i = end) {
		for (end = i + 1; end < n && one_group(&items[i], &items[end]); end++)
			;
		make_stray(&items[i], end - i, &strays[n_strays++]);
	}
	qsort(strays, n_strays, sizeof(*strays), compare_strays);
	*out = strays;
	*n_out = n_strays;
}

void vm_stray_free(struct vm_stray *strays, size_t n)
{
	for (size_t i = 0; strays && i < n; i++)
		free(strays[i].disks);
	free(strays);
}
