/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The plain image source: every file is shown like a domain whose snapshots are those of its own table, without libvirt.
 *
 * The path is the user's, so it is trusted; what the image stands on is opened through a gate that allows its own
 * directory and allow_path=. Its present content is one more snapshot, `current`, for as long as no process holds
 * QEMU's lock bytes for writing. A file that is no qcow2 image fails the mount; one that stops being one later only loses
 * what it showed.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/xattr.h>

#include "vm/inventory/build.h"
#include "vm/inventory/source.h"
#include "vm/model/inventory.h"
#include "vm/model/names.h"
#include "vm/observe/gates.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define TARGET "disk"

struct image {
	char *path;   /* canonical */
	char *dir;    /* shown */
	struct vm_log *log;
	struct vm_gates_memo gate;
};

struct image_source {
	struct vm_source source;
	struct vm_arena arena; /* for what lives as long */
	struct image *images;
	size_t n_images;
	char **allow_paths;
	size_t n_allow_paths;
	struct vm_store *store;
	struct vm_headers *files;
	struct vm_history *memory;
	unsigned number; /* of the look */
	struct vm_dirs dirs;
	struct vm_gates_memo wide; /* for what lies beside the images */
};

/* ---------------------------------------------------------------- one image */

static struct q2_gate *gate_of(const struct image_source *s, struct image *image)
{
	struct vm_gates_list list = {0};
	struct q2_gate *gate;

	vm_gates_list_file(&list, image->path, Q2_FORMAT_QCOW2);
	for (size_t i = 0; i < s->n_allow_paths; i++)
		vm_gates_list_dir(&list, s->allow_paths[i]);
	gate = vm_gates_list_gate(&list, &image->gate);
	vm_gates_list_fini(&list);
	return gate;
}

static void draw_entry(struct vm_drafts *set, struct vm_draft_snapshot *snap, int file, const struct q2_snapshot *entry)
{
	*snap = (struct vm_draft_snapshot){ .name = entry->name, .kind = VM_INTERNAL, .parent = -1,
					    .memory = entry->vm_state_size != 0, .n_disks = 1 };
	snap->disks = vm_arena_calloc(set->arena, 1, sizeof(*snap->disks));
	snap->disks[0] = (struct vm_draft_disk){
		.entry = entry,
		.fact = { .target = TARGET, .mode = VM_MODE_INTERNAL, .pit = file, .format = Q2_FORMAT_QCOW2,
			  .overlay = VM_NO_FILE, .below = VM_NO_FILE, .entry = entry },
	};
}

static void draw_present(struct vm_drafts *set, struct vm_draft_snapshot *snap, int file)
{
	*snap = (struct vm_draft_snapshot){ .name = "current", .kind = VM_INTERNAL, .parent = -1, .present = true,
					    .created_ns = set->chains->fact[file].stamp.mtime_ns, .n_disks = 1 };
	snap->disks = vm_arena_calloc(set->arena, 1, sizeof(*snap->disks));
	snap->disks[0].fact = (struct vm_fact_snapdisk){
		.target = TARGET, .mode = VM_MODE_NO, .pit = file, .format = Q2_FORMAT_QCOW2, .overlay = VM_NO_FILE,
		.below = VM_NO_FILE,
	};
}

static void draw_snapshots(struct vm_drafts *set, struct vm_draft *d, int file)
{
	const struct q2_info *info = set->chains->fact[file].info;
	size_t n = info ? info->n_snapshots : 0;

	d->snapshots = vm_arena_calloc(set->arena, n + 1, sizeof(*d->snapshots));
	for (size_t i = 0; i < n; i++)
		draw_entry(set, &d->snapshots[d->n_snapshots++], file, &info->snapshots[i]);
	if (info)
		draw_present(set, &d->snapshots[d->n_snapshots++], file);
}

static void draw_meta(const struct image_source *s, struct vm_drafts *set, const struct image *image, struct vm_draft *d)
{
	char text[VM_META_MAX];
	ssize_t len = getxattr(image->path, VM_META_XATTR, text, sizeof(text));
	bool none = len < 0 && errno == ENODATA;
	struct vm_meta *found = NULL, *best;

	if (len > 0)
		vm_meta_parse(text, (size_t)len, &found, NULL);
	best = vm_store_best(s->store, image->path, found);
	if (best && none && set->chains->fact[d->disks[0].fact.top].info)
		vm_draft_disown(d, set->chains, best, s->store);
	vm_meta_free(found);
	if (best)
		vm_draft_meta(d, best, set->arena);
}

static void draw(const struct image_source *s, struct vm_drafts *set, struct image *image, struct vm_draft *d)
{
	int file;

	*d = (struct vm_draft){ .name = image->dir, .uuid = image->path, .dir = image->dir, .state = "image", .image = true,
				.log = image->log, .gate = gate_of(s, image) };
	d->disks = vm_arena_calloc(set->arena, 1, sizeof(*d->disks));
	file = vm_chains_path(set->chains, image->path, Q2_FORMAT_QCOW2, d->gate);
	d->n_disks = 1;
	d->disks[0] = (struct vm_draft_now){
		.source = image->path, .note = set->chains->fact[file].why,
		.fact = { .target = TARGET, .top = file, .format = Q2_FORMAT_QCOW2, .writable = true, .mirror = VM_NO_FILE },
	};
	draw_snapshots(set, d, file);
	draw_meta(s, set, image, d);
}

/* ---------------------------------------------------------------- a look */

static void draw_all(struct image_source *s, struct vm_drafts *set)
{
	set->drafts = vm_arena_calloc(set->arena, s->n_images, sizeof(*set->drafts));
	for (size_t i = 0; i < s->n_images; i++)
		draw(s, set, &s->images[i], &set->drafts[i]);
	set->n = s->n_images;
	/* what stands on an image lies beside it mostly, or where images of domains have lain */
	vm_surroundings_draw(&(struct vm_surroundings){ .set = set, .dirs = &s->dirs, .wide = &s->wide, .allow_paths = s->allow_paths,
							.n_allow_paths = s->n_allow_paths });
}

/* Nothing was written, and nobody opened or closed an image for writing? */
static bool quiet(struct image_source *s)
{
	bool same = vm_dirs_quiet(&s->dirs);

	same &= vm_backing_quiet(s->files);
	for (size_t i = 0; i < s->n_images; i++)
		same &= !vm_headers_locks(s->files, vm_headers_top(s->files, s->images[i].path, Q2_FORMAT_QCOW2));
	return same;
}

/* At the first look every image has to be one. */
static int check_all(const struct image_source *s, const struct vm_drafts *set, struct vs_err *err)
{
	for (size_t i = 0; i < set->n; i++) {
		const struct vm_fact_file *fact = &set->chains->fact[set->drafts[i].disks[0].fact.top];

		if (!fact->error)
			continue;
		if (fact->why && strstr(fact->why, s->images[i].path))
			return vs_err_set(err, fact->error, "%s", fact->why);
		return vs_err_set(err, fact->error, "'%s': %s", s->images[i].path, fact->why ? fact->why :
				  strerror(-fact->error));
	}
	return 0;
}

static int look_properly(struct image_source *s, uint64_t round, const struct vm_inventory *prev, struct vm_inventory **out,
			 struct vs_err *err)
{
	struct vm_chains chains;
	struct vm_arena arena;
	struct vm_drafts set = { .arena = &arena, .chains = &chains, .memory = s->memory, .ask_locks = true };
	int r = 0;

	vm_history_poll(s->memory, s->number, false);
	vm_arena_init(&arena);
	vm_chains_init(&chains, s->files, round);
	draw_all(s, &set);
	if (!prev)
		r = check_all(s, &set, err);
	if (r == 0)
		*out = vm_drafts_finish(&set, prev);
	vm_chains_fini(&chains);
	vm_arena_fini(&arena);
	return r;
}

static int image_look(struct vm_source *source, const struct vm_inventory *prev, struct vm_inventory **out, struct vs_err *err)
{
	struct image_source *s = (struct image_source *)source;
	uint64_t round = vm_headers_round(s->files);
	bool closely = source->closely || source->about;

	vm_dirs_round(&s->dirs, closely);
	if (closely)
		vm_headers_distrust(s->files, 0);
	s->number++;
	if (prev && quiet(s)) {
		*out = vm_inventory_again(prev);
		return 0;
	}
	return look_properly(s, round, prev, out, err);
}

/* ---------------------------------------------------------------- open and close */

static void image_close(struct vm_source *source)
{
	struct image_source *s = (struct image_source *)source;

	for (size_t i = 0; i < s->n_images; i++) {
		vm_gates_memo_fini(&s->images[i].gate);
		vm_log_unref(s->images[i].log);
	}
	vm_arena_fini(&s->arena);
	free(s->images);
	vm_gates_memo_fini(&s->wide);
	vm_dirs_fini(&s->dirs);
	vm_headers_free(s->files);
	vm_history_free(s->memory);
	free(s);
}

static const struct vm_source_ops image_ops = { image_look, image_close };

/* Canonical paths: the same image is the same "domain" however it was named. */
static int find_images(struct image_source *s, const struct vm_options *options, struct vs_err *err)
{
	for (size_t i = 0; i < options->n_images; i++) {
		s->images[i].path = vm_arena_take(&s->arena, realpath(options->images[i], NULL));
		if (!s->images[i].path)
			return vs_err_set(err, -errno, "cannot open '%s': %s%s", options->images[i], strerror(errno),
					  errno == ENOENT && !strchr(options->images[i], '/') ? " (of a domain, name the connection it belongs to, as qemu:///system)" : "");
		for (size_t k = 0; k < i; k++)
			if (!strcmp(s->images[k].path, s->images[i].path))
				return vs_err_set(err, -EINVAL, "'%s' is named twice", options->images[i]);
	}
	return 0;
}

static void name_images(struct image_source *s, const struct vm_options *options)
{
	char **stems = xcalloc(s->n_images, sizeof(*stems)), **dirs = xcalloc(s->n_images, sizeof(*dirs));

	for (size_t i = 0; i < s->n_images; i++)
		stems[i] = vm_name_stem(options->images[i]);
	vm_names_dirs((const char *const *)stems, s->n_images, dirs);
	for (size_t i = 0; i < s->n_images; i++) {
		s->images[i].dir = vm_arena_take(&s->arena, dirs[i]);
		s->images[i].log = vm_log_new(s->images[i].dir, options->to_stderr);
		free(stems[i]);
	}
	free(stems);
	free(dirs);
}

int vm_source_images(const struct vm_options *options, struct vm_store *store, struct vm_source **out, struct vs_err *err)
{
	struct image_source *s = xcalloc(1, sizeof(*s));
	int r;

	s->source.ops = &image_ops;
	s->images = xcalloc(options->n_images, sizeof(*s->images));
	s->n_images = options->n_images;
	vm_arena_init(&s->arena);
	s->allow_paths = vm_strings_copy(&s->arena, options->allow_paths, options->n_allow_paths);
	s->n_allow_paths = options->n_allow_paths;
	s->files = s->dirs.files = vm_headers_new();
	s->dirs.store = store;
	s->dirs.all = true; /* an overlay of a domain may stand on an image */
	s->memory = vm_history_new();
	s->store = store;
	r = find_images(s, options, err);
	if (r < 0) {
		image_close(&s->source);
		return r;
	}
	name_images(s, options);
	*out = &s->source;
	return 0;
}
