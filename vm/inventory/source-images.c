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

#define TARGET "disk"

struct image {
	char *path;   /* canonical */
	char *dir;    /* shown */
	char *parent; /* the directory that it lies in */
	struct vm_log *log;
	struct vm_gates_memo gate;
};

struct image_source {
	struct vm_source source;
	struct image *images;
	size_t n_images;
	char **allow_paths;
	size_t n_allow_paths;
	struct vm_store *store;
	struct vm_headers *files;
	struct vm_history *memory;
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
	if (snap->disks)
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
	if (snap->disks)
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
	if (!d->snapshots)
		return;
	for (size_t i = 0; i < n; i++)
		draw_entry(set, &d->snapshots[d->n_snapshots++], file, &info->snapshots[i]);
	if (info)
		draw_present(set, &d->snapshots[d->n_snapshots++], file);
}

static void free_meta(void *meta)
{
	vm_meta_free(meta);
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
	if (best && vm_arena_own(set->arena, best, free_meta))
		vm_draft_meta(d, best, set->arena);
}

static int draw(const struct image_source *s, struct vm_drafts *set, struct image *image, struct vm_draft *d)
{
	int file;

	*d = (struct vm_draft){ .name = image->dir, .uuid = image->path, .dir = image->dir, .state = "image", .image = true,
				.log = image->log, .gate = gate_of(s, image) };
	d->disks = vm_arena_calloc(set->arena, 1, sizeof(*d->disks));
	if (!d->gate || !d->disks)
		return -ENOMEM;
	file = vm_chains_path(set->chains, image->path, Q2_FORMAT_QCOW2, d->gate);
	if (file == VM_NO_FILE)
		return -ENOMEM;
	d->n_disks = 1;
	d->disks[0] = (struct vm_draft_now){
		.source = image->path, .note = set->chains->fact[file].why,
		.fact = { .target = TARGET, .top = file, .format = Q2_FORMAT_QCOW2, .writable = true, .mirror = VM_NO_FILE },
	};
	draw_snapshots(set, d, file);
	draw_meta(s, set, image, d);
	return 0;
}

/* ---------------------------------------------------------------- a look */

static int draw_all(struct image_source *s, struct vm_drafts *set)
{
	int r = 0;

	set->drafts = vm_arena_calloc(set->arena, s->n_images, sizeof(*set->drafts));
	if (!set->drafts)
		return -ENOMEM;
	for (size_t i = 0; i < s->n_images && r == 0; i++)
		r = draw(s, set, &s->images[i], &set->drafts[i]);
	set->n = s->n_images;
	return r;
}

/* Nothing was written, and nobody opened or closed an image for writing? */
static bool quiet(struct image_source *s)
{
	bool same = vm_dirs_quiet(&s->dirs);

	same &= vm_backing_quiet(s->files);
	for (size_t i = 0; i < s->n_images; i++) {
		struct vm_header *f = vm_headers_top(s->files, s->images[i].path, Q2_FORMAT_QCOW2);

		if (!f || vm_headers_locks(s->files, f))
			same = false;
	}
	return same;
}

static int same_again(const struct vm_inventory *prev, struct vm_inventory **out)
{
	for (size_t i = 0; i < prev->n_domains; i++)
		vm_domain_ref(prev->domains[i]);
	*out = vm_inventory_new(prev->domains, prev->n_domains, prev);
	return *out ? 0 : -ENOMEM;
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
	struct vm_domain **domains = calloc(s->n_images, sizeof(struct vm_domain *));
	struct vm_chains chains;
	struct vm_arena arena;
	struct vm_drafts set = { .arena = &arena, .chains = &chains, .memory = s->memory, .ask_locks = true };
	int r;

	vm_history_poll(s->memory, (unsigned)round);
	vm_arena_init(&arena);
	vm_chains_init(&chains, s->files, round);
	r = domains ? draw_all(s, &set) : -ENOMEM;
	if (r == 0) /* what stands on an image lies beside it mostly */
		vm_surroundings_draw(&(struct vm_surroundings){ .set = &set, .dirs = &s->dirs, .wide = &s->wide, .allow_paths = s->allow_paths,
								.n_allow_paths = s->n_allow_paths });
	if (r == 0 && !prev)
		r = check_all(s, &set, err);
	if (r == 0)
		r = vm_drafts_finish(&set, prev, domains);
	if (r == 0) {
		*out = vm_inventory_new(domains, set.n, prev);
		r = *out ? 0 : -ENOMEM;
	}
	vm_chains_fini(&chains);
	vm_arena_fini(&arena);
	free(domains);
	return r;
}

static int image_look(struct vm_source *source, const struct vm_inventory *prev, struct vm_inventory **out, struct vs_err *err)
{
	struct image_source *s = (struct image_source *)source;
	uint64_t round = vm_headers_round(s->files);

	vm_dirs_round(&s->dirs, source->closely);
	if (source->closely)
		vm_headers_distrust(s->files);
	if (prev && quiet(s))
		return same_again(prev, out);
	return look_properly(s, round, prev, out, err);
}

/* ---------------------------------------------------------------- open and close */

static void image_close(struct vm_source *source)
{
	struct image_source *s = (struct image_source *)source;

	for (size_t i = 0; i < s->n_images; i++) {
		vm_gates_memo_fini(&s->images[i].gate);
		vm_log_unref(s->images[i].log);
		free(s->images[i].path);
		free(s->images[i].dir);
	}
	for (size_t i = 0; i < s->n_allow_paths; i++)
		free(s->allow_paths[i]);
	free(s->allow_paths);
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
		s->images[i].path = realpath(options->images[i], NULL);
		if (!s->images[i].path)
			return vs_err_set(err, -errno, "cannot open '%s': %s", options->images[i], strerror(errno));
		for (size_t k = 0; k < i; k++)
			if (!strcmp(s->images[k].path, s->images[i].path))
				return vs_err_set(err, -EINVAL, "'%s' is named twice", options->images[i]);
	}
	return 0;
}

static int name_images(struct image_source *s, const struct vm_options *options)
{
	char **stems = calloc(s->n_images, sizeof(*stems)), **dirs = calloc(s->n_images, sizeof(*dirs));
	int r = stems && dirs ? 0 : -ENOMEM;

	for (size_t i = 0; i < s->n_images && r == 0; i++) {
		stems[i] = vm_name_stem(options->images[i]);
		r = stems[i] ? 0 : -ENOMEM;
	}
	if (r == 0)
		vm_names_dirs((const char *const *)stems, s->n_images, dirs);
	for (size_t i = 0; i < s->n_images && r == 0; i++) {
		s->images[i].dir = dirs[i];
		s->images[i].log = vm_log_new(dirs[i], options->to_stderr);
	}
	for (size_t i = 0; stems && i < s->n_images; i++)
		free(stems[i]);
	free(stems);
	free(dirs);
	for (size_t i = 0; i < s->n_images && r == 0; i++)
		r = s->images[i].log ? 0 : -ENOMEM;
	return r;
}

static int copy_allowed(struct image_source *s, const struct vm_options *options)
{
	for (size_t i = 0; i < options->n_allow_paths; i++) {
		s->allow_paths[i] = strdup(options->allow_paths[i]);
		if (!s->allow_paths[i])
			return -ENOMEM;
		s->n_allow_paths++;
	}
	return 0;
}

static struct image_source *image_alloc(const struct vm_options *options)
{
	struct image_source *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->source.ops = &image_ops;
	s->images = calloc(options->n_images, sizeof(*s->images));
	s->allow_paths = calloc(options->n_allow_paths + 1, sizeof(*s->allow_paths));
	s->files = s->dirs.files = vm_headers_new();
	s->memory = vm_history_new();
	if (s->images && s->allow_paths && s->files && s->memory) {
		s->n_images = options->n_images;
		return s;
	}
	image_close(&s->source);
	return NULL;
}

int vm_source_images(const struct vm_options *options, struct vm_store *store, struct vm_source **out, struct vs_err *err)
{
	struct image_source *s = image_alloc(options);
	int r;

	if (!s)
		return vs_err_set(err, -ENOMEM, "out of memory");
	s->store = store;
	r = find_images(s, options, err);
	if (r == 0)
		r = copy_allowed(s, options);
	if (r == 0)
		r = name_images(s, options);
	if (r < 0) {
		image_close(&s->source);
		return r == -ENOMEM ? vs_err_set(err, r, "out of memory") : r;
	}
	*out = &s->source;
	return 0;
}
