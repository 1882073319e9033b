/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * When is a remembered header still true? When dev, ino, size, mtime and ctime are what they were, with two exceptions:
 *
 *   - The kernel stamps files with the time of its last tick. A header read within that tick of the last write may be
 *     followed by another write that leaves the same stamp. Such a look is "racy" and is not trusted in the next round.
 *   - A block device's times say nothing: its header is read in every round.
 */
#include "vm/observe/headers-priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "vm/observe/sum.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define RACY_NS (100 * VM_NS_PER_MS)
#define FORGET_ROUNDS 8

/* ---------------------------------------------------------------- the table */

static void backing_free(struct vm_backing *e)
{
	q2_gate_unref(e->gate);
	free(e->name);
	free(e->format);
	free(e->path);
	free(e->error);
	free(e);
}

static void file_free(void *thing)
{
	struct vm_header *f = thing;

	while (f->backings) {
		struct vm_backing *next = f->backings->next;

		backing_free(f->backings);
		f->backings = next;
	}
	q2_info_free(f->own_info);
	free(f->own_error);
	free(f->shows);
	free(f->hidden);
	free(f->path);
	free(f);
}

struct vm_headers *vm_headers_new(void)
{
	return xcalloc(1, sizeof(struct vm_headers));
}

void vm_headers_free(struct vm_headers *files)
{
	if (!files)
		return;
	vm_strmap_clear(&files->table, file_free);
	free(files->mounts);
	free(files);
}

/* Backings go first: one that is used keeps what it leads to in use, since both are looked at in the same round. */
static void drop_old_backings(struct vm_header *f, uint64_t oldest)
{
	struct vm_backing **link = &f->backings;

	while (*link) {
		struct vm_backing *e = *link;

		if (e->looked >= oldest) {
			link = &e->next;
			continue;
		}
		*link = e->next;
		backing_free(e);
	}
}

static bool clean_backings(void *thing, void *opaque)
{
	drop_old_backings(thing, *(uint64_t *)opaque);
	return true;
}

static bool still_used(void *thing, void *opaque)
{
	struct vm_header *f = thing;

	if (f->looked >= *(uint64_t *)opaque)
		return true;
	file_free(f);
	return false;
}

uint64_t vm_headers_round(struct vm_headers *files)
{
	files->round++;
	if (files->round % FORGET_ROUNDS == 0) {
		uint64_t oldest = files->round - FORGET_ROUNDS;

		vm_strmap_filter(&files->table, clean_backings, &oldest);
		vm_strmap_filter(&files->table, still_used, &oldest);
	}
	return files->round;
}

static bool distrust(void *thing, void *opaque)
{
	struct vm_header *f = thing;
	size_t owner = *(size_t *)opaque;

	if (!owner || f->owner == owner)
		f->racy = true;
	return true;
}

void vm_headers_distrust(struct vm_headers *files, size_t owner)
{
	vm_strmap_filter(&files->table, distrust, &owner);
}

struct each {
	void (*use)(struct vm_header *f, void *opaque);
	void *opaque;
};

static bool use_one(void *thing, void *opaque)
{
	const struct each *e = opaque;

	e->use(thing, e->opaque);
	return true;
}

void vm_headers_each(struct vm_headers *files, void (*use)(struct vm_header *f, void *opaque), void *opaque)
{
	vm_strmap_filter(&files->table, use_one, &(struct each){ use, opaque });
}

bool vm_headers_looked(const struct vm_headers *files, const struct vm_header *f)
{
	return f->looked == files->round;
}

struct vm_header *vm_header_at(struct vm_headers *files, const char *path, enum q2_format format)
{
	vs_autofree char *key = xasprintf("%d:%s", (int)format, path);
	struct vm_header *f = vm_strmap_get(&files->table, key);

	if (f)
		return f;
	f = xcalloc(1, sizeof(*f));
	f->path = xstrdup(path);
	f->format = format;
	f->code = -EAGAIN;
	vm_strmap_put(&files->table, key, f);
	return f;
}

/* ---------------------------------------------------------------- one file */

static int64_t statx_ns(struct statx_timestamp t)
{
	return t.tv_sec * VM_NS_PER_S + t.tv_nsec;
}

bool vm_header_stamp(struct vm_headers *files, const char *path, struct q2_stamp *stamp)
{
	struct statx st;

	/* A file that is made while it is read, in a mount of ours, would walk a map for its size: what it is the kernel knows without that. */
	if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_BTIME, &st))
		return false;
	if (!st.stx_dev_major && !vm_headers_is_mount(files, makedev(st.stx_dev_major, st.stx_dev_minor)) &&
	    statx(AT_FDCWD, path, AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS | STATX_BTIME, &st))
		return false;
	*stamp = (struct q2_stamp){
		.dev = makedev(st.stx_dev_major, st.stx_dev_minor), .ino = st.stx_ino, .size = st.stx_size,
		.allocated = st.stx_blocks * 512, .mtime_ns = statx_ns(st.stx_mtime), .ctime_ns = statx_ns(st.stx_ctime),
		.btime_ns = st.stx_mask & STATX_BTIME ? statx_ns(st.stx_btime) : 0, .mode = st.stx_mode, .uid = st.stx_uid,
		.gid = st.stx_gid, .block = S_ISBLK(st.stx_mode),
	};
	if (stamp->block) {
		stamp->dev = UINT64_MAX;
		stamp->ino = makedev(st.stx_rdev_major, st.stx_rdev_minor);
	}
	return true;
}

static bool same_file(const struct q2_stamp *a, const struct q2_stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino;
}

static bool same_stamp(const struct q2_stamp *a, const struct q2_stamp *b)
{
	return same_file(a, b) && a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

bool vm_header_fresh(const struct vm_header *f, bool found, const struct q2_stamp *now)
{
	if (!f->looked || f->found != found || f->racy)
		return false;
	if (!found)
		return true;
	return !now->block && same_stamp(&f->stamp, now);
}

static bool same_names(char *const *a, char *const *b)
{
	for (; a && b && *a && *b && !strcmp(*a, *b); a++)
		b++;
	return (!a || !*a) && (!b || !*b);
}

static bool same_facts(const struct q2_info *a, const struct q2_info *b)
{
	if (!a || !b)
		return a == b;
	if (a->size != b->size || a->n_snapshots != b->n_snapshots || !vm_same_text(a->backing_name, b->backing_name) ||
	    !vm_same_text(a->backing_format, b->backing_format) || !vm_same_text(a->data_file, b->data_file) ||
	    !vm_same_text(a->unsupported, b->unsupported) || !same_names(a->bitmaps, b->bitmaps) || !same_file(&a->stamp, &b->stamp))
		return false;
	for (size_t i = 0; i < a->n_snapshots; i++)
		if (!q2_snapshot_same(&a->snapshots[i], &b->snapshots[i]) ||
		    a->snapshots[i].has_disk_size != b->snapshots[i].has_disk_size)
			return false;
	return true;
}

static bool same_header(const struct q2_info *a, const struct q2_info *b)
{
	return a->format == b->format && a->version == b->version && a->cluster_bits == b->cluster_bits && a->crypt_method == b->crypt_method &&
	       a->incompatible == b->incompatible && a->compatible == b->compatible && a->autoclear == b->autoclear && a->zstd == b->zstd &&
	       a->extended_l2 == b->extended_l2 && a->data_file_raw == b->data_file_raw && a->dirty == b->dirty && a->corrupt == b->corrupt;
}

/* Takes @info. What was read again and is the same stays the object that it was, for inventories hold on to its snapshots. */
static void take_info(struct vm_header *f, struct q2_info *info)
{
	if (info && f->own_info && same_facts(f->own_info, info) && same_header(f->own_info, info)) {
		f->own_info->stamp = info->stamp;
		q2_info_free(info);
		return;
	}
	q2_info_free(f->own_info);
	f->info = f->own_info = info;
}

/* Writes down what a look found, which is borrowed from then on: once a round, or the same once more. Takes @info. */
static void learn(struct vm_headers *files, struct vm_header *f, struct q2_info *info, int code, const char *error)
{
	char *text = xstrdup_or_null(error);

	if (!same_facts(f->own_info, info) || f->code != code || !vm_same_text(f->own_error, text))
		f->changed = f->touched = files->round;
	take_info(f, info);
	if (vm_same_text(f->own_error, text)) {
		free(text);
	} else {
		free(f->own_error);
		f->own_error = text;
	}
	f->error = f->own_error ? f->own_error : code < 0 ? "it cannot be read" : NULL;
	f->code = code;
}

void vm_header_failed(struct vm_headers *files, struct vm_header *f, int code, const char *error)
{
	learn(files, f, NULL, code, error);
}

void vm_header_set_stamp(struct vm_headers *files, struct vm_header *f, bool found, const struct q2_stamp *now)
{
	int64_t last = now->mtime_ns > now->ctime_ns ? now->mtime_ns : now->ctime_ns;

	if (f->found != found || !same_stamp(&f->stamp, now))
		f->touched = files->round;
	f->found = found;
	f->stamp = *now;
	f->racy = found && vm_now_ns() - last < RACY_NS;
}

void vm_header_read(struct vm_headers *files, struct vm_header *f, struct q2_file *open_file)
{
	struct q2_info *info = NULL;
	struct vs_err err = {0};
	int r = q2_info_read(open_file, f->format, &info, &err);

	/* A header that never held still is no news: what was known stays, and the next round tries again. */
	if (r == -EAGAIN) {
		f->racy = true;
		if (f->own_info)
			return;
	}
	if (r >= 0)
		vm_header_set_stamp(files, f, true, &info->stamp);
	learn(files, f, r < 0 ? NULL : info, r < 0 ? r : 0, r < 0 ? vs_err_text(&err, r) : NULL);
}

static void look_by_path(struct vm_headers *files, struct vm_header *f)
{
	struct q2_file *open_file = NULL;
	struct q2_stamp now = {0};
	struct vs_err err = {0};
	bool found = vm_header_stamp(files, f->path, &now);
	int r;

	vm_header_find_shown(f, found, &now);
	if (found && vm_header_exposed(files, f, &now)) {
		f->looked = files->round;
		return;
	}
	if (!vm_header_fresh(f, found, &now)) {
		vm_header_set_stamp(files, f, found, &now);
		r = q2_file_open(f->path, &open_file, &err);
		if (r < 0) {
			vm_header_failed(files, f, r, vs_err_text(&err, r));
		} else {
			vm_header_read(files, f, open_file);
			q2_file_close(open_file);
		}
	}
	f->stamp.allocated = now.allocated;
	f->looked = files->round;
}

void vm_header_look(struct vm_headers *files, struct vm_header *f)
{
	if (f->looked != files->round)
		look_by_path(files, f);
	f->trusted = files->round;
}

struct vm_header *vm_headers_top(struct vm_headers *files, const char *path, enum q2_format format)
{
	struct vm_header *f = vm_header_at(files, path, format);

	vm_header_look(files, f);
	return f;
}

uint64_t vm_headers_sum(struct vm_headers *files, struct vm_header *f)
{
	const struct vm_sum_file expected = { f->stamp.ino, f->stamp.size, f->stamp.mtime_ns };

	if (!f->found || f->code || f->exposes || f->stamp.block || vm_headers_is_mount(files, f->stamp.dev))
		return 0;
	if (f->racy || !same_stamp(&f->summed, &f->stamp)) {
		f->sum = vm_sum(f->path, &expected, f->format);
		f->summed = f->stamp;
	}
	return f->sum;
}

/* Opens the file that was looked at: whatever its path leads to meanwhile was asked of no gate. */
static int open_again(struct vm_header *f, struct q2_file **open_file)
{
	struct q2_stamp now;
	int r = q2_file_open(f->path, open_file, NULL);

	if (r >= 0 && ((r = (*open_file)->ops->identity(*open_file, &now)) < 0 || !same_file(&now, &f->stamp))) {
		q2_file_close(*open_file);
		*open_file = NULL;
		f->racy = true;
		r = r < 0 ? r : -ESTALE;
	}
	return r;
}

bool vm_headers_locks(struct vm_headers *files, struct vm_header *f)
{
	struct q2_file *open_file = NULL;
	struct q2_locks now = {0};
	bool news;
	int r = f->exposes ? 0 : open_again(f, &open_file);

	if (open_file) {
		r = q2_file_locks(open_file, &now);
		q2_file_close(open_file);
	}
	if (r == -ENOENT || r > 0)
		r = 0;
	news = now.writer != f->locks.writer || now.no_read != f->locks.no_read || r != f->locks_code;
	f->locks = now;
	f->locks_code = r;
	if (news)
		f->touched = files->round;
	return news;
}
