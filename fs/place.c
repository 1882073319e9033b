/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "place.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "vm/util/mem.h"

#define IMAGE ".img"
#define QCOW2 ".qcow2"
#define JSON ".json"

static const struct {
	const char *name;
	enum sf_kind kind;
} made_dirs[SF_MADE_DIRS] = {{"diff", SF_DIFF_DIR}, {"now", SF_NOW_DIR}, {"qcow2", SF_QCOW2_DIR}};

const char *sf_made_dir_name(enum sf_kind kind)
{
	size_t i = 0;

	while (i + 1 < SF_MADE_DIRS && made_dirs[i].kind != kind)
		i++;
	return made_dirs[i].name;
}

enum sf_kind sf_made_dir_kind(size_t i)
{
	return made_dirs[i].kind;
}

bool sf_made_dir_is_in(enum sf_kind kind, const struct sf_dir *dir)
{
	return kind != SF_NOW_DIR || strcmp(dir->domain->state, "image") != 0;
}

/* 0: it is none of them. */
static enum sf_kind made_dir(const struct sf_dir *dir, const char *name)
{
	for (size_t i = 0; i < SF_MADE_DIRS; i++)
		if (!strcmp(made_dirs[i].name, name) && sf_made_dir_is_in(made_dirs[i].kind, dir))
			return made_dirs[i].kind;
	return 0;
}

/* ---------------------------------------------------------------- names of made files */

/* An image's name without its ending, by length; 0: it is none that files are made of. */
static size_t stem_len(const char *name)
{
	size_t len = strlen(name), end = strlen(IMAGE);

	return len > end && !strcmp(name + len - end, IMAGE) ? len - end : 0;
}

static const struct sf_entry *find_image(struct sf_dir *dir, const char *stem, size_t len)
{
	vs_autofree char *name = xasprintf("%.*s" IMAGE, (int)len, stem);
	const struct sf_entry *entry = sf_dir_find(dir, name);

	return entry && entry->kind == SF_IMAGE ? entry : NULL;
}

/* What follows the snapshot's name in the name of its image: ".vda.img". */
static const char *of_disk(const struct sf_entry *image)
{
	size_t len = strlen(image->snapshot->shown);

	return !strncmp(image->name, image->snapshot->shown, len) ? image->name + len : NULL;
}

/* The image of the same disk in the snapshot that is called so. */
static const struct sf_entry *same_disk(struct sf_dir *dir, const char *snapshot, size_t len, const struct sf_entry *image)
{
	const char *disk = of_disk(image);
	vs_autofree char *name = disk ? xasprintf("%.*s%s", (int)len, snapshot, disk) : NULL;
	const struct sf_entry *entry = name ? sf_dir_find(dir, name) : NULL;

	return entry && entry->kind == SF_IMAGE && entry != image ? entry : NULL;
}

/* "A..B.vda", where both names may have dots of their own. What could be two pairs is none: which one it were would depend on what other
 * snapshots there are. */
static int find_pair(const struct sf_place *dir, const char *stem, size_t len, struct sf_place *out)
{
	unsigned n = 0;

	for (size_t i = 1; i + 2 < len; i++) {
		const struct sf_entry *image, *before;

		if (stem[i] != '.' || stem[i + 1] != '.')
			continue;
		image = find_image(dir->dir, stem + i + 2, len - i - 2);
		before = image ? same_disk(dir->dir, stem, i, image) : NULL;
		if (!before)
			continue;
		out->entry = image;
		out->before = before;
		n++;
	}
	return n == 1 ? 0 : -ENOENT;
}

/* ---------------------------------------------------------------- whole disks */

/* The file of that number, which has a name; NULL: there is none. */
static const struct sf_entry *find_file(struct sf_dir *dir, enum sf_kind kind, uint64_t ino)
{
	const struct sf_entry *entry = sf_dir_find_ino(dir, kind, ino);

	return entry && entry->name ? entry : NULL;
}

/* How its disk is called in names: "vda". NULL: its image's name tells otherwise. */
static const char *whole_stem(const struct sf_entry *image, size_t *len)
{
	const char *disk = of_disk(image);

	if (!disk || disk[0] != '.' || !stem_len(disk + 1))
		return NULL;
	*len = stem_len(disk + 1);
	return disk + 1;
}

const struct vm_disk *sf_newest_internal(const struct vm_domain *domain, const char *target, const struct vm_snapshot **of_snapshot)
{
	for (size_t i = domain->n_snapshots; i-- > 0;) {
		const struct vm_snapshot *s = &domain->snapshots[i];

		for (size_t k = 0; k < s->n_disks; k++) {
			if (!s->disks[k].snapshot || !s->disks[k].file || strcmp(s->disks[k].target, target) != 0)
				continue;
			*of_snapshot = s;
			return &s->disks[k];
		}
	}
	return NULL;
}

bool sf_shows_present(const struct vm_domain *domain, const struct vm_disk *internal)
{
	bool off = !strcmp(domain->state, "shut off") || !strcmp(domain->state, "image");

	for (size_t i = 0; off && i < domain->n_disks; i++) {
		const struct vm_disk_now *now = &domain->disks[i];

		if (now->top >= 0 && !strcmp(now->target, internal->target))
			return internal->chain[0] && !strcmp(domain->layers[now->top].path, internal->chain[0]);
	}
	return false;
}

/* The image of the newest internal snapshot of which @is_it says so; NULL: none. */
typedef bool is_wanted(const struct sf_dir *dir, const struct sf_entry *image, const void *opaque);

static const struct sf_entry *newest_internal(struct sf_dir *dir, is_wanted *is_it, const void *opaque)
{
	const struct vm_domain *d = dir->domain;

	for (size_t i = d->n_snapshots; i-- > 0;) {
		const struct vm_snapshot *s = &d->snapshots[i];

		for (size_t k = 0; k < s->n_disks; k++) {
			const struct sf_entry *entry = s->disks[k].snapshot ? find_file(dir, SF_IMAGE, s->disks[k].ino) : NULL;

			if (entry && is_it(dir, entry, opaque))
				return entry;
		}
	}
	return NULL;
}

struct stem {
	const char *name;
	size_t len;
};

static bool has_stem(const struct sf_dir *dir, const struct sf_entry *image, const void *opaque)
{
	const struct stem *wanted = opaque;
	size_t len;
	const char *stem = whole_stem(image, &len);

	(void)dir;
	return stem && len == wanted->len && !memcmp(stem, wanted->name, len);
}

static bool has_whole_ino(const struct sf_dir *dir, const struct sf_entry *image, const void *opaque)
{
	return vm_ino_whole(dir->domain->ino, image->disk->target) == *(const uint64_t *)opaque;
}

static const struct sf_entry *find_whole(struct sf_dir *dir, const char *stem, size_t len)
{
	return newest_internal(dir, has_stem, &(struct stem){stem, len});
}

static bool ends_in(const char *name, const char *end, size_t *stem)
{
	size_t len = strlen(name), n = strlen(end);

	if (len <= n || strcmp(name + len - n, end) != 0)
		return false;
	*stem = len - n;
	return true;
}

/* "vda.img" */
static int find_now(const struct sf_place *dir, const char *name, struct sf_place *out)
{
	const struct vm_domain *d = dir->dir->domain;
	size_t len = stem_len(name);

	for (size_t i = 0; len && i < d->n_disks; i++) {
		const struct vm_disk_now *disk = &d->disks[i];

		if (strlen(disk->target) != len || strncmp(disk->target, name, len) != 0 || !vm_now_layer(d, disk))
			continue;
		*out = (struct sf_place){.dir = dir->dir, .made = SF_NOW, .now = disk};
		return 0;
	}
	return -ENOENT;
}

static int find_made(const struct sf_place *dir, const char *name, struct sf_place *out)
{
	struct sf_place place = {.dir = dir->dir};
	size_t stem;
	int rc;

	if (dir->made == SF_NOW_DIR)
		return find_now(dir, name, out);
	if (ends_in(name, QCOW2, &stem))
		place.made = dir->made == SF_QCOW2_DIR ? SF_QCOW2 : SF_DIFF;
	else if (dir->made == SF_DIFF_DIR && ends_in(name, JSON, &stem))
		place.made = SF_DIFF_JSON;
	else
		return -ENOENT;
	if (place.made == SF_QCOW2 && !(place.entry = find_image(dir->dir, name, stem))) {
		place.made = SF_WHOLE;
		place.entry = find_whole(dir->dir, name, stem);
	}
	if (place.made != SF_DIFF && place.made != SF_DIFF_JSON)
		rc = place.entry ? 0 : -ENOENT;
	else
		rc = find_pair(dir, name, stem, &place);
	if (rc == 0)
		*out = place;
	return rc;
}

static void add_name(struct sf_made_name **list, size_t *n, size_t *room, char *name, const struct sf_place *place)
{
	XGROW(*list, *n, *room);
	(*list)[(*n)++] = (struct sf_made_name){.name = name, .place = *place};
}

static int by_name(const void *left, const void *right)
{
	return strcmp(((const struct sf_made_name *)left)->name, ((const struct sf_made_name *)right)->name);
}

/* What a listed difference begins from: the parent, as libvirt knows it; in an image, which knows no parents, the one before. NULL: none. */
static const char *begins_from(const struct sf_place *dir, const struct sf_entry *image)
{
	const struct vm_domain *d = dir->dir->domain;
	size_t end = image->snapshot->present ? d->n_snapshots : (size_t)(image->snapshot - d->snapshots);

	if (strcmp(d->state, "image") != 0)
		return image->snapshot->parent;
	while (end && d->snapshots[end - 1].present)
		end--;
	return end ? d->snapshots[end - 1].shown : NULL;
}

/* Names that are too long for a directory, or ask for something else, are not listed. */
static void list_difference(const struct sf_place *dir, const struct sf_entry *image, const char *end, enum sf_kind kind,
			    struct sf_made_name **list, size_t *n, size_t *room)
{
	const char *from = begins_from(dir, image);
	struct sf_place place = {.dir = dir->dir, .entry = image, .made = kind}, found;
	char *name;

	place.before = from ? same_disk(dir->dir, from, strlen(from), image) : NULL;
	if (!place.before)
		return;
	name = xasprintf("%s..%.*s%s", from, (int)stem_len(image->name), image->name, end);
	if (strlen(name) <= NAME_MAX && !find_made(dir, name, &found) && found.entry == image && found.before == place.before)
		add_name(list, n, room, name, &place);
	else
		free(name);
}

/* Each disk once: by the image that answers to its name. */
static void list_whole(const struct sf_place *dir, const struct sf_entry *image, struct sf_made_name **list, size_t *n, size_t *room)
{
	const struct sf_place place = {.dir = dir->dir, .entry = image, .made = SF_WHOLE};
	size_t len;
	const char *stem = image->disk->snapshot ? whole_stem(image, &len) : NULL;

	if (stem && find_whole(dir->dir, stem, len) == image)
		add_name(list, n, room, xasprintf("%.*s" QCOW2, (int)len, stem), &place);
}

static void list_now(const struct sf_place *dir, struct sf_made_name **list, size_t *n, size_t *room)
{
	const struct vm_domain *d = dir->dir->domain;

	for (size_t i = 0; i < d->n_disks; i++) {
		struct sf_place place = {.dir = dir->dir, .made = SF_NOW, .now = &d->disks[i]};

		if (vm_now_layer(d, place.now))
			add_name(list, n, room, xasprintf("%s" IMAGE, place.now->target), &place);
	}
}

struct sf_made_name *sf_made_list(const struct sf_place *dir, size_t *n)
{
	struct sf_made_name *list = NULL;
	size_t room = 0, n_entries;
	const struct sf_entry *entries = sf_dir_list(dir->dir, &n_entries);

	*n = 0;
	if (dir->made == SF_NOW_DIR) {
		list_now(dir, &list, n, &room);
		n_entries = 0;
	}
	for (size_t i = 0; i < n_entries; i++) {
		const struct sf_entry *e = &entries[i];
		const struct sf_place place = {.dir = dir->dir, .entry = e, .made = SF_QCOW2};
		size_t len = e->kind == SF_IMAGE ? stem_len(e->name) : 0;

		if (!len)
			continue;
		if (dir->made == SF_QCOW2_DIR) {
			if (len + strlen(QCOW2) <= NAME_MAX)
				add_name(&list, n, &room, xasprintf("%.*s" QCOW2, (int)len, e->name), &place);
			list_whole(dir, e, &list, n, &room);
			continue;
		}
		list_difference(dir, e, QCOW2, SF_DIFF, &list, n, &room);
		list_difference(dir, e, JSON, SF_DIFF_JSON, &list, n, &room);
	}
	if (*n)
		qsort(list, *n, sizeof(*list), by_name);
	return list;
}

void sf_made_list_free(struct sf_made_name *list, size_t n)
{
	for (size_t i = 0; list && i < n; i++)
		free(list[i].name);
	free(list);
}

/* ---------------------------------------------------------------- places */

uint64_t sf_key_ino(const struct sf_key *key)
{
	switch (key->kind) {
	case SF_QCOW2:
		return vm_ino_made(key->ino, 0, "qcow2");
	case SF_DIFF:
		return vm_ino_made(key->ino, key->before, "qcow2");
	case SF_DIFF_JSON:
		return vm_ino_made(key->ino, key->before, "json");
	default:
		return key->ino;
	}
}

enum sf_kind sf_place_kind(const struct sf_place *place)
{
	if (place->made)
		return place->made;
	return place->entry ? place->entry->kind : place->dir ? SF_DOMAIN : SF_ROOT;
}

static uint64_t dir_ino(uint64_t domain, enum sf_kind kind)
{
	vs_autofree char *name = xasprintf("%s/", sf_made_dir_name(kind));

	return vm_ino(domain, name);
}

static uint64_t now_ino(uint64_t domain, const struct vm_disk_now *disk)
{
	return vm_ino(dir_ino(domain, SF_NOW_DIR), disk->target);
}

struct sf_key sf_place_key(const struct sf_place *place)
{
	struct sf_key key = {.kind = sf_place_kind(place)};

	if (key.kind == SF_ROOT)
		return SF_ROOT_KEY;
	if (key.kind == SF_METRICS)
		return SF_METRICS_KEY;
	key.domain = key.ino = place->dir->domain->ino;
	if (key.kind >= SF_QCOW2_DIR && sf_kind_is_dir(key.kind))
		key.ino = dir_ino(key.domain, key.kind);
	if (place->now)
		key.ino = now_ino(key.domain, place->now);
	if (place->entry)
		key.ino = key.kind == SF_WHOLE ? vm_ino_whole(key.domain, place->entry->disk->target) : place->entry->ino;
	if (place->before)
		key.before = place->before->ino;
	return key;
}

struct sf_place sf_place_parent(const struct sf_place *place)
{
	struct sf_place parent = {0};

	if (!place->entry && !place->made)
		return parent;
	parent.dir = place->dir;
	if (place->now)
		parent.made = SF_NOW_DIR;
	else if (place->entry && place->made)
		parent.made = place->made == SF_QCOW2 || place->made == SF_WHOLE ? SF_QCOW2_DIR : SF_DIFF_DIR;
	return parent;
}

static const struct vm_disk_now *find_disk_now(const struct sf_dir *dir, uint64_t ino)
{
	const struct vm_domain *d = dir->domain;

	for (size_t i = 0; i < d->n_disks; i++)
		if (now_ino(d->ino, &d->disks[i]) == ino && vm_now_layer(d, &d->disks[i]))
			return &d->disks[i];
	return NULL;
}

int sf_place_find(const struct sf_tree *tree, const struct sf_key *key, struct sf_place *out)
{
	bool made = sf_kind_is_made(key->kind);
	struct sf_place place = {0};

	if (key->kind == SF_METRICS) {
		*out = (struct sf_place){.made = SF_METRICS};
		return 0;
	}
	if (key->kind != SF_ROOT) {
		place.dir = sf_tree_dir_by_ino(tree, key->domain);
		if (!place.dir)
			return -ESTALE;
	}
	if (key->kind >= SF_QCOW2_DIR)
		place.made = key->kind;
	if (key->kind == SF_NOW) {
		place.now = find_disk_now(place.dir, key->ino);
		if (!place.now)
			return -ESTALE;
	} else if (!sf_kind_is_dir(key->kind)) {
		place.entry = key->kind == SF_WHOLE ? newest_internal(place.dir, has_whole_ino, &key->ino) :
						      find_file(place.dir, made ? SF_IMAGE : key->kind, key->ino);
		if (!place.entry)
			return -ESTALE;
	}
	if (key->before) {
		place.before = find_file(place.dir, SF_IMAGE, key->before);
		if (!place.before)
			return -ESTALE;
	}
	*out = place;
	return 0;
}

int sf_place_child(const struct sf_tree *tree, const struct sf_place *parent, const char *name, struct sf_place *out)
{
	struct sf_place place = *parent;

	if (parent->entry || parent->now || parent->made == SF_METRICS)
		return -ENOTDIR;
	if (parent->made)
		return find_made(parent, name, out);
	if (parent->dir)
		place.entry = sf_dir_find(parent->dir, name);
	else if (!strcmp(name, SF_METRICS_NAME))
		place.made = SF_METRICS;
	else
		place.dir = sf_tree_dir(tree, name);
	if (place.made == SF_METRICS) {
		*out = place;
		return 0;
	}
	if (parent->dir && !place.entry)
		place.made = made_dir(parent->dir, name);
	if (!place.dir || (parent->dir && !place.entry && !place.made))
		return -ENOENT;
	*out = place;
	return 0;
}

uint64_t *sf_place_reads(const struct sf_place *place, size_t *n)
{
	const struct vm_domain *d = place->dir->domain;
	const struct vm_disk *disk = place->entry->disk;
	uint64_t *inos = NULL;
	size_t room = 0;

	*n = 0;
	XGROW(inos, *n, room);
	inos[(*n)++] = disk->ino;
	if (place->before) {
		XGROW(inos, *n, room);
		inos[(*n)++] = place->before->disk->ino;
	}
	for (size_t i = 0; place->made == SF_WHOLE && i < d->n_snapshots; i++) {
		for (size_t k = 0; k < d->snapshots[i].n_disks; k++) {
			const struct vm_disk *other = &d->snapshots[i].disks[k];

			if (other == disk || !other->snapshot || strcmp(other->target, disk->target) != 0)
				continue;
			XGROW(inos, *n, room);
			inos[(*n)++] = other->ino;
		}
	}
	return inos;
}
