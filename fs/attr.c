/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "attr.h"

#include <string.h>
#include <sys/stat.h>

#include "text.h"

mode_t sf_attr_type(enum sf_kind kind)
{
	return sf_kind_is_dir(kind) ? S_IFDIR : S_IFREG;
}

static struct timespec time_of(int64_t time_ns)
{
	struct timespec ts = {.tv_sec = time_ns / 1000000000, .tv_nsec = time_ns % 1000000000};

	if (ts.tv_nsec < 0) {
		ts.tv_nsec += 1000000000;
		ts.tv_sec--;
	}
	return ts;
}

static void set_times(struct stat *st, int64_t time_ns)
{
	st->st_atim = st->st_mtim = st->st_ctim = time_of(time_ns);
}

static void dir_attr(const struct sf_tree *tree, const struct sf_dir *dir, struct stat *st)
{
	st->st_nlink = 2 + (dir ? 0 : (nlink_t)tree->n_dirs); /* those of what is made are not listed, and not counted */
	set_times(st, dir ? dir->domain->changed_ns : tree->changed_ns);
}

/* cp looks for holes only where st_blocks is less than st_size: true of the estimate, and then of what is really so. */
static blkcnt_t blocks_of(struct sf_fs *fs, const struct sf_place *place)
{
	struct sf_key key = sf_place_key(place);
	uint64_t blocks = place->entry->disk->size / 512, allocated;

	if (sf_blocks_known(&fs->blocks, &key, &allocated))
		return (blkcnt_t)((allocated + 511) / 512);
	return (blkcnt_t)(blocks ? blocks - 1 : 0);
}

void sf_attr_set_size(struct stat *st, uint64_t size)
{
	st->st_size = (off_t)size;
	st->st_blocks = (blkcnt_t)((size + 511) / 512);
}

static void image_attr(struct sf_fs *fs, const struct sf_place *place, struct stat *st)
{
	st->st_size = (off_t)place->entry->disk->size;
	st->st_blocks = blocks_of(fs, place);
	set_times(st, place->entry->disk->created_ns);
}

static int text_attr(struct sf_fs *fs, const struct sf_place *place, struct stat *st)
{
	int64_t changed_ns;
	size_t len;
	int rc = sf_text_stat(fs->vm, &fs->plans, place->dir, place->entry, &len, &changed_ns);

	if (rc < 0)
		return rc;
	sf_attr_set_size(st, len);
	set_times(st, changed_ns);
	return 0;
}

void sf_attr_set_made(struct stat *st, const struct sf_made_stat *made)
{
	sf_attr_set_size(st, made->size);
	if (made->changed_ns)
		set_times(st, made->changed_ns);
}

/* What is read at this instant was never there before. */
static void now_attr(struct sf_fs *fs, const struct sf_place *place, struct stat *st)
{
	const struct vm_domain *d = place->dir->domain;
	const struct vm_layer *layer = vm_now_layer(d, place->now);

	st->st_size = (off_t)layer->virtual_size;
	st->st_blocks = (blkcnt_t)(layer->virtual_size / 512 - 1); /* see blocks_of() */
	set_times(st, strcmp(d->state, "shut off") ? vm_now_time(fs->vm, d->uuid) : layer->stamp.mtime_ns);
}

/* Only who asks for it alone waits for its size (ops.c). */
static void made_attr(struct sf_fs *fs, const struct sf_place *place, struct stat *st)
{
	struct sf_key key = sf_place_key(place);
	struct sf_made_stat known = {0};

	set_times(st, place->entry->disk->created_ns);
	if (sf_made_known(&fs->mades, &key, &known))
		sf_attr_set_made(st, &known);
}

/* As it was read last. */
static void metrics_attr(struct sf_fs *fs, const struct sf_tree *tree, struct stat *st)
{
	sf_attr_set_size(st, atomic_load(&fs->metrics.len));
	set_times(st, tree->inventory->built_ns);
}

/* What is written to belongs to who mounted, whoever is shown the rest. */
static void set_owner(const struct sf_options *o, enum sf_kind kind, struct stat *st)
{
	bool door = sf_kind_is_door(kind);
	mode_t mode = sf_kind_is_dir(kind) ? 0550 : 0440;

	st->st_mode = sf_attr_type(kind) | (door ? 0600 : mode & ~o->umask);
	st->st_uid = door ? getuid() : o->uid;
	st->st_gid = door ? getgid() : o->gid;
}

int sf_attr_get(struct sf_fs *fs, const struct sf_tree *tree, const struct sf_place *place, struct stat *st)
{
	const struct sf_key key = sf_place_key(place);

	*st = (struct stat){.st_ino = sf_key_ino(&key), .st_nlink = 1, .st_blksize = SF_BLOCK_SIZE};
	set_owner(fs->options, key.kind, st);
	if (key.kind == SF_METRICS)
		metrics_attr(fs, tree, st);
	else if (place->now)
		now_attr(fs, place, st);
	else if (!place->entry)
		dir_attr(tree, place->dir, st);
	else if (key.kind == SF_IMAGE)
		image_attr(fs, place, st);
	else if (sf_kind_is_made(key.kind))
		made_attr(fs, place, st);
	else
		return text_attr(fs, place, st);
	return 0;
}

double sf_attr_timeout(const struct sf_place *place)
{
	enum sf_kind kind = sf_place_key(place).kind;

	if (kind == SF_LOG || kind == SF_JOBS || sf_kind_is_counted(kind) || sf_kind_is_door(kind) || kind >= SF_QCOW2_DIR)
		return 0; /* these change without a new inventory, or nobody tells when they do */
	return kind == SF_IMAGE || sf_kind_is_dir(kind) ? SF_LONG : 1;
}

double sf_attr_name_timeout(const struct sf_place *place)
{
	enum sf_kind kind = sf_place_kind(place);

	return sf_kind_is_door(kind) || kind >= SF_QCOW2_DIR ? 0 : SF_LONG;
}
