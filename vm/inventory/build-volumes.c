/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Images that no domain names and that stand on something: volumes in storage pools, and files that lie beside the
 * images of domains. They are looked at for one reason: what they stand on is needed by them.
 *
 * A saved guest needs what its definition names, and that definition may be anybody's making, so what it names is not opened: it is a doubt about every image of
 * that name, whichever way leads there. A name in a directory that is looked at here leads to an image that is known, or is followed like all that lies there. Of an
 * image that lies elsewhere nobody knows which it is, nor what it stands on: a doubt about everything.
 *
 * Of a qcow2 image it is found out what that is. All others that stand on something, or of which nobody can tell whether they do, are
 * unknown; but not what is an image of a domain, which is told by its own.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/inventory/build.h"
#include "vm/model/names.h"
#include "vm/util/mem.h"

struct found {
	const char *path, *pool;
};

struct saved {
	struct vm_dirs_file file; /* borrowed from what was seen of it in this look */
	const char *pool;
};

struct volumes {
	const struct vm_surroundings *s;
	struct vm_drafts *set;
	struct vm_strmap nodes; /* images that are known already: their paths */
	bool drive;             /* note_mention(): QEMU has it as a disk; */
	bool mention;           /*   written: it is an image */
	struct vm_strmap others; /* of them, those of domains that were not drawn: likewise */
	struct vm_strmap dirs;  /* directories that were looked at... */
	struct vm_strmap read;  /* ... and listed to their end */
	struct vm_strmap noted; /* saved guests: nodes */
	struct vm_strmap drives; /* what QEMU is given in a way of its own as a disk: nodes */
	struct vm_strmap names; /* of images, where one is missed */
	const char *pool;       /* whose directory or volume is being looked at; NULL: none's */
	bool listed;            /* it is one of its volumes, which libvirt lists */
	struct found *list;
	size_t n, room;
	struct saved *saved;
	size_t n_saved, saved_room;
	struct q2_gate *gate;
};

/* The path by which that image is known; NULL: it is not. */
static const char *node_of(const struct volumes *v, uint64_t dev, uint64_t ino)
{
	struct vm_strmap_key key = vm_strmap_file(dev, ino);
	const char *path = dev || ino ? vm_strmap_get(&v->nodes, key.text) : NULL;

	return path || !(dev || ino) ? path : vm_strmap_get(&v->others, key.text);
}

static bool is_node(const struct volumes *v, uint64_t dev, uint64_t ino)
{
	return node_of(v, dev, ino);
}

static void mark_node(struct vm_strmap *map, const char *key, const char *path)
{
	if (!vm_strmap_get(map, key))
		vm_strmap_put(map, key, (void *)path);
}

static void mark(struct vm_strmap *map, const char *key)
{
	if (!vm_strmap_get(map, key))
		vm_strmap_put(map, key, map);
}

static const char *shown_name(struct vm_drafts *set, const char *path, const char *pool)
{
	const char *slash = strrchr(path, '/');

	return vm_arena_take(set->arena, vm_name_printable(pool && slash && strncmp(path, "/dev/", 5) ? slash + 1 : path));
}

static void unknown(struct volumes *v, const char *path, int code, const char *why)
{
	const char *name = shown_name(v->set, path, v->pool);
	bool gone = v->listed && code == -ENOENT;
	vs_autofree char *sentence = xasprintf("it %s%s", why, gone ? ", although its pool names it (virsh pool-refresh, if it is gone)" : "");

	if (v->pool)
		vm_drafts_unknown(v->set, code, sentence, "volume '%s' of pool '%s'", name, v->pool);
	else
		vm_drafts_unknown(v->set, code, sentence, "image '%s'", name);
}

/* Does it consist of other files, one of which is an image that is known? Names are relative to its directory. */
static void check_parts(struct volumes *v, const struct vm_dirs_file *file)
{
	const char *slash = strrchr(file->path, '/');
	int len = slash ? (int)(slash - file->path) + 1 : 0;

	for (char **part = file->peeked->names; *part; part++) {
		vs_autofree char *path = xasprintf("%.*s%s", (*part)[0] == '/' ? 0 : len, file->path, *part);
		vs_autofree char *shown = vm_name_printable(path);
		vs_autofree char *why = NULL;
		struct stat st;

		if (stat(path, &st))
			why = errno == ENOENT ? NULL : xasprintf("has '%s' as a part, which cannot be looked at: %s", shown, strerror(errno));
		else if (S_ISBLK(st.st_mode) ? is_node(v, UINT64_MAX, st.st_rdev) : is_node(v, st.st_dev, st.st_ino))
			why = xasprintf("has '%s' as a part", shown);
		if (why)
			unknown(v, file->path, -EPERM, why);
	}
}

static void not_followed(struct volumes *v, const char *path, const char *what)
{
	vs_autofree char *why = xasprintf("%s, which is not followed here", what);

	unknown(v, path, -EPERM, why);
}

/* The memory of a snapshot that is there is known, and goes with it. */
static void note_saved(struct volumes *v, const struct vm_dirs_file *file)
{
	struct vm_strmap_key key = vm_strmap_file(file->dev, file->ino);

	if (vm_strmap_get(&v->noted, key.text))
		return;
	mark(&v->noted, key.text);
	XGROW(v->saved, v->n_saved, v->saved_room);
	v->saved[v->n_saved++] = (struct saved){ *file, v->pool };
}

/* False: it is no image that can be followed. */
static bool may_be_followed(struct volumes *v, const struct vm_dirs_file *file)
{
	if (file->code) {
		unknown(v, file->path, file->code, file->why);
	} else if (file->peeked->kind == VM_PEEK_STANDS) {
		not_followed(v, file->path, file->peeked->why);
	} else if (file->peeked->kind == VM_PEEK_PARTS) {
		check_parts(v, file);
	} else if (file->peeked->kind == VM_PEEK_SAVED) {
		note_saved(v, file);
	}
	return !file->code && file->peeked->kind == VM_PEEK_QCOW2;
}

static void note_file(const struct vm_dirs_file *file, void *opaque)
{
	struct volumes *v = opaque;

	if (is_node(v, file->dev, file->ino) || !may_be_followed(v, file))
		return;
	XGROW(v->list, v->n, v->room);
	v->list[v->n++] = (struct found){ vm_arena_strdup(v->set->arena, file->path), v->pool };
	mark_node(&v->nodes, vm_strmap_file(file->dev, file->ino).text, v->list[v->n - 1].path);
}

static void note_mention(const struct vm_dirs_file *file, void *opaque)
{
	struct volumes *v = opaque;

	if (v->drive)
		mark(&v->drives, vm_strmap_file(file->dev, file->ino).text);
	v->mention = may_be_followed(v, file);
}

static int list(struct volumes *v, const char *dir)
{
	int r = vm_dirs_list(v->s->dirs, dir, false, note_file, v);

	if (r == 0)
		mark(&v->read, dir);
	return r;
}

/* Nobody knows what lies in one that cannot be listed. @remembered: images have lain there. */
static void scan(struct volumes *v, const char *dir, const char *pool, bool remembered)
{
	vs_autofree char *noted = NULL, *why = NULL;
	int r;

	if (vm_strmap_get(&v->dirs, dir))
		return;
	mark(&v->dirs, dir);
	v->pool = pool;
	r = list(v, dir);
	if (r == 0 || r == -ENOENT || r == -ENOTDIR)
		return;
	noted = remembered && !v->s->dirs->all ? vm_store_dirs_path(v->s->dirs->store) : NULL;
	why = noted ? xasprintf("images have lain there, and the directory cannot be listed: %s (if none do any more, take its line out of '%s')", strerror(-r), noted) :
		      xasprintf("the directory cannot be listed: %s", strerror(-r));
	vm_drafts_unknown(v->set, r, why, "an image in '%s'", dir);
}

/* The directory of an image; not /dev, where nothing lies that could be an overlay without our knowing. */
static void scan_dir_of(struct volumes *v, const char *path)
{
	vs_autofree char *dir = xstrdup(path);
	char *slash = strrchr(dir, '/');

	if (!slash || slash == dir || !strncmp(path, "/dev/", 5))
		return;
	*slash = '\0';
	vm_dirs_remember(v->s->dirs, dir);
	scan(v, dir, NULL, false);
}

/* By the name that is used, and where that leads: the links on the way may go. */
static void scan_beside(struct volumes *v, const char *path)
{
	vs_autofree char *real = realpath(path, NULL);

	scan_dir_of(v, path);
	if (real && strcmp(real, path) != 0)
		scan_dir_of(v, real);
}

/* What an image stands on and may not be read for it: it stands on something itself perhaps, also when nobody names it any more. */
static void remember_refused(const char *path, void *opaque)
{
	struct volumes *v = opaque;
	const char *slash = strrchr(path, '/');
	vs_autofree char *dir = slash && slash != path && strncmp(path, "/dev/", 5) != 0 ? xstrndup(path, (size_t)(slash - path)) : NULL;

	if (dir)
		vm_dirs_remember(v->s->dirs, dir);
}

/* Where images of domains have lain, and nobody names one now. */
static void scan_remembered(struct volumes *v)
{
	const char *forgot = vm_dirs_forgot(v->s->dirs);
	const struct vs_err *unnoted;
	vs_autofree char *why = forgot ? xasprintf("where images have lain before is not known: %s (put that file right, or remove it)", forgot) : NULL;

	if (why)
		vm_drafts_unknown(v->set, -EPERM, why, "an image that nobody names any more");
	for (size_t i = 0; i < v->s->dirs->n_seen; i++)
		scan(v, v->s->dirs->seen[i], NULL, true);
	vm_dirs_note(v->s->dirs);
	unnoted = vm_dirs_unnoted(v->s->dirs);
	if (!unnoted)
		return;
	free(why);
	why = xasprintf("where images lie now cannot be noted: %s", unnoted->msg); /* whoever comes after us would not know where to look */
	vm_drafts_unknown(v->set, unnoted->code, why, "an image that nobody will name any more");
}

static void scan_pools(struct volumes *v, const struct vm_pools *pools)
{
	for (size_t i = 0; i < pools->n; i++) {
		const struct vm_pool *pool = &pools->pools[i];

		if (pool->dir) {
			vm_dirs_remember(v->s->dirs, pool->dir);
			scan(v, pool->dir, pool->name, false);
		}
		v->pool = pool->name;
		v->listed = true;
		for (size_t k = 0; k < pool->n_volumes; k++)
			vm_dirs_list(v->s->dirs, pool->volumes[k], true, note_file, v);
		v->listed = false;
	}
	for (size_t i = 0; i < pools->n_problems; i++)
		vm_drafts_unknown(v->set, -EPERM, pools->problems[i], "a volume of a storage pool");
}

/* The guest has what lies there, and an image may be among it. */
static void scan_shown_dirs(struct volumes *v)
{
	for (size_t i = 0; i < v->set->n_mentions; i++)
		if (v->set->mentions[i].dir)
			scan(v, v->set->mentions[i].path, NULL, false);
}

/* Everything that any domain's gate allows, since nothing is served through this one. */
static struct q2_gate *wide_gate(const struct vm_surroundings *s, const struct volumes *v)
{
	const struct vm_chains *chains = s->set->chains;
	struct vm_gates_list list = {0};
	struct q2_gate *gate;

	for (size_t i = 0; i < chains->n; i++)
		vm_gates_list_file(&list, chains->fact[i].path, Q2_FORMAT_NONE);
	for (size_t i = 0; i < v->n; i++)
		vm_gates_list_file(&list, v->list[i].path, Q2_FORMAT_NONE);
	for (size_t i = 0; i < s->n_allow_paths; i++)
		vm_gates_list_dir(&list, s->allow_paths[i]);
	for (size_t i = 0; i < s->dirs->n_seen; i++)
		vm_gates_list_dir(&list, s->dirs->seen[i]);
	if (s->pools)
		vm_gates_list_pools(&list, s->pools);
	gate = vm_gates_list_gate(&list, s->wide);
	vm_gates_list_fini(&list);
	return gate;
}

static void note_nothing(const struct vm_dirs_file *file, void *opaque)
{
	(void)file;
	(void)opaque;
}

static const char *name_in(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Of a domain that was not drawn. */
static void name_other(struct vm_header *f, void *opaque)
{
	struct volumes *v = opaque;

	if (f->owner && !v->s->drawn[f->owner] && vm_headers_looked(v->s->others, f))
		mark(&v->names, name_in(f->path));
}

static bool is_name_of_image(struct volumes *v, const char *name)
{
	const struct vm_chains *chains = v->set->chains;

	if (!v->names.n) {
		for (size_t i = 0; i < chains->n; i++)
			mark(&v->names, name_in(chains->fact[i].path));
		if (v->s->drawn)
			vm_headers_each(v->s->others, name_other, v);
	}
	return vm_strmap_get(&v->names, name);
}

/* It is looked at whether it comes back. Until then it may be the image of that name. */
static void note_missing(struct volumes *v, const struct vm_draft_mention *m)
{
	vs_autofree char *shown = NULL, *why = NULL;

	vm_dirs_list(v->s->dirs, m->path, true, note_nothing, v);
	if (!m->by_name || !is_name_of_image(v, name_in(m->path)))
		return;
	shown = vm_name_printable(m->path);
	why = xasprintf("it names '%s', which %s", shown, m->code == -ENOENT ? "is missing" : "cannot be looked at");
	vm_drafts_unknown(v->set, m->code, why, "domain '%s'", m->draft->dir)->name = vm_arena_strdup(v->set->arena, name_in(m->path));
}

/* ---------------------------------------------------------------- saved guests */

/* @name: of the images that it may be; NULL: it may be any, or stand on any. Once for each. */
static void doubt(struct volumes *v, const struct saved *saved, const char *name, const char *why, struct vm_strmap *told)
{
	const char *shown = shown_name(v->set, saved->file.path, saved->pool);
	struct vm_fact_unknown *unknown;

	if (vm_strmap_get(told, name ? name : "/"))
		return;
	mark(told, name ? name : "/");
	unknown = saved->pool ? vm_drafts_unknown(v->set, -EPERM, why, "volume '%s' of pool '%s'", shown, saved->pool) :
				vm_drafts_unknown(v->set, -EPERM, why, "file '%s'", shown);
	unknown->name = name ? vm_arena_strdup(v->set->arena, name) : NULL;
}

/* Is the directory of @path one whose files have all been seen? */
static bool is_read(const struct volumes *v, const char *path)
{
	vs_autofree char *dir = xstrndup(path, (size_t)(name_in(path) - path));
	size_t len = strlen(dir);

	if (len > 1)
		dir[len - 1] = '\0';
	return vm_strmap_get(&v->read, dir);
}

/* What a saved guest names, as far as that can be looked at without going where nobody else looks. */
struct named {
	const char *known; /* the path by which that image is known; NULL: it is not */
	const char *why;   /* NULL, or why it may be an image that nobody knows, and what to do about it */
};

static struct named look_at(const struct volumes *v, const char *path)
{
	bool device = !strncmp(path, "/dev/", 5) && strncmp(path, "/dev/shm/", 9) != 0;
	struct named named = {0};
	struct stat st;

	if (!device && !is_read(v, path)) {
		named.why = v->s->pools ? "nobody looks into that directory (make it a pool, or remove the file when nobody restores it)" :
					  "nobody looks into that directory (remove the file when nobody restores it)";
	} else if (stat(path, &st)) {
		named.why = errno == ENOENT ? "that is missing (put it back, or remove the file when nobody restores it)" :
					      "that cannot be looked at (remove the file when nobody restores it)";
	} else {
		named.known = S_ISBLK(st.st_mode) ? node_of(v, UINT64_MAX, st.st_rdev) : node_of(v, st.st_dev, st.st_ino);
		if (device && !named.known)
			named.why = "nobody looks at that device (remove the file when nobody restores it)";
	}
	return named;
}

/* What has a name of its own may be the image of that name, wherever that is. */
static void doubt_named(struct volumes *v, const struct saved *saved, const char *path, bool image, struct vm_strmap *told)
{
	struct named named = path[0] == '/' ? look_at(v, path) : (struct named){0};
	const char *name = is_name_of_image(v, name_in(path)) ? name_in(path) : named.known ? name_in(named.known) : NULL;
	vs_autofree char *shown = vm_name_printable(path), *why = NULL;

	if (name) {
		why = xasprintf("it is a saved guest that names '%s' (remove it when nobody restores it)", shown);
		doubt(v, saved, name, why, told);
	}
	if (image && named.why) {
		free(why);
		why = xasprintf("it is a saved guest that names '%s', and %s", shown, named.why);
		doubt(v, saved, NULL, why, told);
	}
}

static void draw_one_saved(struct volumes *v, const struct saved *saved)
{
	struct vm_strmap_key key = vm_strmap_file(saved->file.dev, saved->file.ino);
	const struct vm_peeked *peeked;
	struct vm_strmap told = {0};

	/* what QEMU has as a disk a guest writes to what it likes */
	if (vm_strmap_get(&v->drives, key.text) || vm_strmap_get(&v->s->dirs->disks, key.text))
		return;
	peeked = vm_dirs_saved(&saved->file);
	if (peeked->kind == VM_PEEK_STANDS) {
		vs_autofree char *why = xasprintf("%s (remove it when nobody restores it)", peeked->why);

		v->pool = saved->pool;
		unknown(v, saved->file.path, -EPERM, why);
		return;
	}
	for (size_t k = 0; peeked->names && peeked->names[k]; k++)
		doubt_named(v, saved, peeked->names[k], k < peeked->n_images, &told);
	vm_strmap_clear(&told, NULL);
}

static void draw_saved(struct volumes *v)
{
	for (size_t i = 0; i < v->n_saved; i++)
		draw_one_saved(v, &v->saved[i]);
}

/* ---------------------------------------------------------------- all */

/* What QEMU is given in a way of its own may be an image: then all that it stands on is needed as well. */
static void follow_mentions(struct volumes *v)
{
	struct vm_drafts *set = v->set;

	v->pool = NULL;
	for (size_t i = 0; i < set->n_mentions; i++) {
		const struct vm_draft_mention *m = &set->mentions[i];

		v->mention = false;
		v->drive = m->drive;
		if (m->code)
			note_missing(v, m);
		else if (!m->dir)
			vm_dirs_list(v->s->dirs, m->path, true, note_mention, v);
		if (!v->mention)
			continue;
		if (!v->gate)
			v->gate = wide_gate(v->s, v);
		m->draft->beside[m->beside] = (struct vm_fact_beside){ vm_chains_path(set->chains, m->path, Q2_FORMAT_QCOW2, v->gate),
								       vm_arena_printf(set->arena, "%s, or what stands on it", m->what) };
		set->mentions_stand = true;
	}
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct found *)a)->path, ((const struct found *)b)->path);
}

static void add_volumes(struct volumes *v)
{
	struct vm_drafts *set = v->set;
	struct vm_fact_volume *out = vm_arena_calloc(set->arena, v->n, sizeof(*out));
	size_t n = 0;

	for (size_t i = 0; i < v->n; i++) {
		const struct found *f = &v->list[i];
		struct vm_header *file = vm_headers_top(set->chains->files, f->path, Q2_FORMAT_QCOW2);

		if (file->info && !file->info->backing_name && !file->info->data_file)
			continue; /* it stands on nothing */
		if (file->code == -ENOENT) { /* it was there a moment ago, and may have another name now */
			v->pool = f->pool;
			unknown(v, f->path, -EPERM, "has just vanished");
			continue;
		}
		out[n++] = (struct vm_fact_volume){
			.pool = f->pool, .name = shown_name(set, f->path, f->pool),
			.file = vm_chains_path(set->chains, f->path, Q2_FORMAT_QCOW2, v->gate),
		};
	}
	set->volumes = out;
	set->n_volumes = n;
}

/* An image of a domain that was not drawn. */
static void mark_other(struct vm_header *f, void *opaque)
{
	struct volumes *v = opaque;
	struct vm_strmap_key key = vm_strmap_file(f->stamp.dev, f->stamp.ino);

	if (!f->owner || v->s->drawn[f->owner] || !vm_headers_looked(v->s->others, f))
		return;
	if (f->indexed == v->set->chains->number || (f->found && vm_strmap_get(&v->nodes, key.text)))
		*v->s->shared = true;
	if (f->found)
		mark_node(&v->others, key.text, f->path);
}

void vm_surroundings_draw(const struct vm_surroundings *s)
{
	struct volumes v = { .s = s, .set = s->set };
	const struct vm_chains *chains = s->set->chains;
	size_t n_known = chains->n;

	for (size_t i = 0; i < n_known; i++)
		if (chains->file[i]->found)
			mark_node(&v.nodes, vm_strmap_file(chains->fact[i].stamp.dev, chains->fact[i].stamp.ino).text, chains->fact[i].path);
	if (s->drawn)
		vm_headers_each(s->others, mark_other, &v);
	if (s->pools)
		scan_pools(&v, s->pools);
	for (size_t i = 0; i < n_known; i++) {
		scan_beside(&v, chains->fact[i].path);
		vm_backing_each_refused(chains->file[i], remember_refused, &v);
	}
	scan_shown_dirs(&v);
	scan_remembered(&v);
	if (s->drawn && vm_dirs_news_but(s->dirs, &v.dirs))
		*s->shared = true;
	v.gate = v.n ? wide_gate(s, &v) : NULL;
	follow_mentions(&v);
	draw_saved(&v);
	if (v.n)
		qsort(v.list, v.n, sizeof(*v.list), by_path);
	add_volumes(&v);
	free(v.list);
	free(v.saved);
	vm_strmap_clear(&v.nodes, NULL);
	vm_strmap_clear(&v.others, NULL);
	vm_strmap_clear(&v.dirs, NULL);
	vm_strmap_clear(&v.read, NULL);
	vm_strmap_clear(&v.noted, NULL);
	vm_strmap_clear(&v.drives, NULL);
	vm_strmap_clear(&v.names, NULL);
}
