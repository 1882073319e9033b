/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Pins and references
 * -------------------
 * The kernel remembers names and attributes for an hour because we promise to tell it what changed. The promise has a
 * gap that a reference count does not close:
 *
 *	request thread                     notifier
 *	finds "monday.vda.img" in tree 7
 *	                                   tree 8 has no such file: "forget that name" (the kernel: what name?)
 *	replies: here it is, for an hour
 *
 * So a request *pins* the tree it answers from until its reply has been sent, and the notifier begins to announce the
 * step from tree 7 to tree 8 when nobody has 7 pinned any more. (After the reply has been sent the kernel still holds
 * the directory's lock until the name is in its cache, and the announcement waits for that lock: no gap is left.)
 * Trees in between may have been pinned too, so the notifier goes through all of them, one after the other, along
 * `next`. Pins are short: nothing that is done under one blocks. A directory handle that is open for days holds a
 * reference, which hinders nobody; what it lists from a tree that is no longer current is not left in the cache.
 *
 * Numbers that collide
 * --------------------
 * Two files of one directory with the same number would be one file for the kernel. The numbers are 64-bit hashes of
 * identities, and parts of an identity (a snapshot's name) come from images, so a collision can be made on purpose. The
 * second bearer is then hashed once more with its name. Nothing else relies on hashes being unique.
 */
#include "tree.h"

#include <errno.h>
#include <string.h>

#include "vm/util/mem.h"

/* ---------------------------------------------------------------- one directory */

static struct sf_dir *dir_new(const struct vm_domain *domain, bool doors)
{
	struct sf_dir *dir = xcalloc(1, sizeof(*dir));

	dir->domain = domain;
	dir->doors = doors;
	atomic_init(&dir->refs, 1);
	pthread_mutex_init(&dir->lock, NULL);
	return dir;
}

static void dir_unref(struct sf_dir *dir)
{
	if (!dir || atomic_fetch_sub(&dir->refs, 1) != 1)
		return;
	free(dir->entries);
	free(dir->by_ino);
	free(dir->plan_policy);
	pthread_mutex_destroy(&dir->lock);
	free(dir);
}

static int by_name(const void *left, const void *right)
{
	const struct sf_entry *a = left, *b = right;

	if (!a->name || !b->name)
		return !a->name - !b->name;
	return strcmp(a->name, b->name);
}

static int compare_ino(enum sf_kind kind, uint64_t ino, const struct sf_entry *e)
{
	if (kind != e->kind)
		return kind < e->kind ? -1 : 1;
	return ino == e->ino ? 0 : ino < e->ino ? -1 : 1;
}

static int by_ino(const void *left, const void *right)
{
	const struct sf_entry *a = *(struct sf_entry *const *)left, *b = *(struct sf_entry *const *)right;
	int order = compare_ino(a->kind, a->ino, b);

	return order ? order : a < b ? -1 : a > b;
}

static const struct {
	const char *name;
	enum sf_kind kind;
} texts[] = {
	{"chain", SF_CHAIN},
	{"ctl", SF_CTL},
	{"jobs", SF_JOBS},
	{"log", SF_LOG},
	{"retain", SF_RETAIN},
	{"retain.plan", SF_PLAN},
	{"snapshots", SF_SNAPSHOTS},
	{"snapshots.json", SF_JSON},
	{"space", SF_SPACE},
	{"space.json", SF_SPACE_JSON},
};

static size_t count_entries(const struct vm_domain *d)
{
	size_t n = VS_ARRAY_LEN(texts);

	for (size_t i = 0; i < d->n_snapshots; i++)
		n += d->snapshots[i].n_disks + d->snapshots[i].n_nv + (d->snapshots[i].xml_file != NULL);
	return n;
}

static size_t add_texts(struct sf_entry *e, const struct vm_domain *d, bool doors)
{
	size_t n = 0;

	for (size_t i = 0; i < VS_ARRAY_LEN(texts); i++)
		if (doors || !sf_kind_is_door(texts[i].kind))
			e[n++] = (struct sf_entry){
				.name = texts[i].name, .kind = texts[i].kind, .ino = vm_ino(d->ino, texts[i].name)};
	return n;
}

static struct sf_entry image_entry(const struct vm_snapshot *s, const struct vm_disk *disk)
{
	return (struct sf_entry){.name = disk->file, .kind = SF_IMAGE, .ino = disk->ino, .snapshot = s, .disk = disk};
}

static size_t add_snapshot(struct sf_entry *e, const struct vm_domain *d, const struct vm_snapshot *s)
{
	size_t n = 0;

	if (s->xml_file)
		e[n++] = (struct sf_entry){
			.name = s->xml_file, .kind = SF_XML, .ino = vm_ino(d->ino, s->xml_file), .snapshot = s};
	for (size_t i = 0; i < s->n_disks; i++)
		e[n++] = image_entry(s, &s->disks[i]);
	for (size_t i = 0; i < s->n_nv; i++)
		e[n++] = image_entry(s, &s->nv[i]);
	return n;
}

/* One round: says whether it changed anything, which may collide anew. */
static bool tell_apart_once(struct sf_entry **sorted, size_t n)
{
	struct sf_entry bearer = *sorted[0];
	bool changed = false;

	for (size_t i = 1; i < n; i++) {
		if (compare_ino(bearer.kind, bearer.ino, sorted[i])) {
			bearer = *sorted[i];
			continue;
		}
		sorted[i]->ino = vm_ino(sorted[i]->ino, sorted[i]->name ? sorted[i]->name : "");
		changed = true;
	}
	return changed;
}

static void tell_apart(struct sf_entry **sorted, size_t n)
{
	int rounds = 8;

	do
		qsort(sorted, n, sizeof(*sorted), by_ino);
	while (tell_apart_once(sorted, n) && --rounds);
}

static void dir_index_locked(struct sf_dir *dir)
{
	const struct vm_domain *d = dir->domain;
	size_t n = count_entries(d);
	struct sf_entry *entries = xcalloc(n, sizeof(*entries));
	struct sf_entry **sorted = xcalloc(n, sizeof(struct sf_entry *));

	n = add_texts(entries, d, dir->doors);
	for (size_t i = 0; i < d->n_snapshots; i++)
		n += add_snapshot(entries + n, d, &d->snapshots[i]);
	qsort(entries, n, sizeof(*entries), by_name);
	for (size_t i = 0; i < n; i++) {
		sorted[i] = &entries[i];
		dir->n_named += entries[i].name != NULL;
	}
	tell_apart(sorted, n);
	dir->entries = entries;
	dir->by_ino = sorted;
	dir->n_entries = n;
	dir->indexed = true;
}

static void dir_index(struct sf_dir *dir)
{
	pthread_mutex_lock(&dir->lock);
	if (!dir->indexed)
		dir_index_locked(dir);
	pthread_mutex_unlock(&dir->lock);
}

bool sf_dir_was_asked(struct sf_dir *dir)
{
	bool indexed;

	pthread_mutex_lock(&dir->lock);
	indexed = dir->indexed;
	pthread_mutex_unlock(&dir->lock);
	return indexed;
}

const struct sf_entry *sf_dir_list(struct sf_dir *dir, size_t *n)
{
	dir_index(dir);
	*n = dir->n_named;
	return dir->entries;
}

const struct sf_entry *sf_dir_find(struct sf_dir *dir, const char *name)
{
	const struct sf_entry wanted = {.name = name};

	dir_index(dir);
	return bsearch(&wanted, dir->entries, dir->n_named, sizeof(wanted), by_name);
}

static int is_wanted(const void *wanted, const void *entry)
{
	const struct sf_entry *w = wanted;

	return compare_ino(w->kind, w->ino, *(struct sf_entry *const *)entry);
}

const struct sf_entry *sf_dir_find_ino(struct sf_dir *dir, enum sf_kind kind, uint64_t ino)
{
	const struct sf_entry wanted = {.kind = kind, .ino = ino};
	struct sf_entry **found;

	dir_index(dir);
	found = bsearch(&wanted, dir->by_ino, dir->n_entries, sizeof(*found), is_wanted);
	return found ? *found : NULL;
}

/* ---------------------------------------------------------------- one tree */

static int dir_by_ino(const void *left, const void *right)
{
	uint64_t a = (*(struct sf_dir *const *)left)->domain->ino, b = (*(struct sf_dir *const *)right)->domain->ino;

	return a < b ? -1 : a > b;
}

/* The directory that @before has for this very object, with a reference more, or a new one. */
static struct sf_dir *share_dir(struct sf_tree *before, const struct vm_domain *domain, bool doors)
{
	struct sf_dir *dir = before ? sf_tree_dir(before, domain->dir) : NULL;

	if (!dir || dir->domain != domain)
		return dir_new(domain, doors);
	atomic_fetch_add(&dir->refs, 1);
	return dir;
}

static bool same_names(const struct sf_tree *a, const struct sf_tree *b)
{
	if (a->n_dirs != b->n_dirs)
		return false;
	for (size_t i = 0; i < a->n_dirs; i++)
		if (strcmp(a->dirs[i]->domain->dir, b->dirs[i]->domain->dir) != 0)
			return false;
	return true;
}

struct sf_tree *sf_tree_new(struct vm_inventory *inventory, void (*put)(struct vm_inventory *), struct sf_tree *before, bool doors)
{
	size_t n = inventory->n_domains;
	struct sf_tree *tree = xcalloc(1, sizeof(*tree));

	*tree = (struct sf_tree){.inventory = inventory, .put = put, .refs = 1, .serial = before ? before->serial + 1 : 1};
	tree->dirs = xcalloc(n, sizeof(struct sf_dir *));
	tree->by_ino = xcalloc(n, sizeof(struct sf_dir *));
	for (; tree->n_dirs < n; tree->n_dirs++)
		tree->dirs[tree->n_dirs] = share_dir(before, inventory->domains[tree->n_dirs], doors);
	memcpy(tree->by_ino, tree->dirs, n * sizeof(struct sf_dir *));
	qsort(tree->by_ino, n, sizeof(struct sf_dir *), dir_by_ino);
	tree->changed_ns = before && same_names(before, tree) ? before->changed_ns : inventory->built_ns;
	return tree;
}

void sf_tree_free(struct sf_tree *tree)
{
	for (size_t i = 0; i < tree->n_dirs; i++)
		dir_unref(tree->dirs[i]);
	free(tree->dirs);
	free(tree->by_ino);
	tree->put(tree->inventory);
	free(tree);
}

static int has_name(const void *name, const void *dir)
{
	return strcmp(name, (*(struct sf_dir *const *)dir)->domain->dir);
}

struct sf_dir *sf_tree_dir(const struct sf_tree *tree, const char *name)
{
	struct sf_dir **found = bsearch(name, tree->dirs, tree->n_dirs, sizeof(*found), has_name);

	return found ? *found : NULL;
}

static int has_ino(const void *ino, const void *dir)
{
	uint64_t a = *(const uint64_t *)ino, b = (*(struct sf_dir *const *)dir)->domain->ino;

	return a < b ? -1 : a > b;
}

struct sf_dir *sf_tree_dir_by_ino(const struct sf_tree *tree, uint64_t ino)
{
	struct sf_dir **found = bsearch(&ino, tree->by_ino, tree->n_dirs, sizeof(*found), has_ino);

	return found ? *found : NULL;
}
