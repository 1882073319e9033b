/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* Names and lists. Everything here answers from a pinned tree and waits for nothing, but for domains that were not read yet (unread.h). */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "attr.h"
#include "ops.h"
#include "unread.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- lookup */

static int entry_of(struct sf_fs *fs, const struct sf_tree *tree, const struct sf_place *place,
		    struct fuse_entry_param *e)
{
	*e = (struct fuse_entry_param){
		.generation = fs->generation,
		.entry_timeout = sf_attr_name_timeout(place),
		.attr_timeout = sf_attr_timeout(place),
	};
	return sf_attr_get(fs, tree, place, &e->attr);
}

/* The root has its id from the beginning, and lookups of it (`..`) are not counted. */
static fuse_ino_t take_node(struct sf_fs *fs, const struct sf_place *place)
{
	struct sf_key key = sf_place_key(place);

	if (sf_kind_is_door(key.kind))
		return sf_node_fresh(&fs->nodes, &key);
	return key.kind == SF_ROOT ? FUSE_ROOT_ID : sf_node_take(&fs->nodes, &key);
}

static void forget_node(struct sf_fs *fs, fuse_ino_t id)
{
	if (id != FUSE_ROOT_ID)
		sf_node_forget(&fs->nodes, id, 1);
}

/* `.` and `..` come from NFS, which has a number and wants the rest. */
static int find_child(const struct sf_tree *tree, const struct sf_place *parent, const char *name,
		      struct sf_place *out)
{
	if (!strcmp(name, ".")) {
		*out = *parent;
		return 0;
	}
	if (!strcmp(name, "..")) {
		*out = sf_place_parent(parent);
		return 0;
	}
	return sf_place_child(tree, parent, name, out);
}

/* *unread, where nothing is found: it may be known later. */
static int lookup_in(struct sf_req *r, const struct sf_tree *tree, fuse_ino_t parent, const char *name, bool *unread)
{
	struct fuse_entry_param e;
	struct sf_place place;
	int rc = sf_op_place(r->fs, tree, parent, &place);

	if (rc == 0 && !strcmp(name, ".") && place.entry && sf_kind_is_door(place.entry->kind))
		rc = -ESTALE; /* a node of its own for everyone who looks it up by name */
	*unread = rc == 0 && sf_unread(&place);
	if (rc == 0)
		rc = find_child(tree, &place, name, &place);
	if (rc == 0)
		rc = entry_of(r->fs, tree, &place, &e);
	if (rc < 0)
		return rc;
	e.ino = take_node(r->fs, &place);
	if (fuse_reply_entry(sf_req_take(r), &e) < 0)
		forget_node(r->fs, e.ino);
	return 0;
}

static int look_up(struct sf_req *r, fuse_ino_t parent, const char *name, bool *unread)
{
	struct sf_tree *tree = sf_world_pin(&r->fs->world);
	int rc = lookup_in(r, tree, parent, name, unread);

	sf_world_unpin(&r->fs->world, tree);
	return rc;
}

static int look_up_later(struct sf_req *r, struct sf_asked *asked)
{
	int rc = sf_unread_wait(r, asked->id);
	bool unread;

	return rc < 0 ? rc : look_up(r, asked->id, asked->name, &unread);
}

int sf_op_lookup(struct sf_req *r, fuse_ino_t parent, const char *name)
{
	bool unread;
	int rc = look_up(r, parent, name, &unread);

	if (rc == -ENOENT && unread)
		return sf_unread_hand(r, look_up_later, &(struct sf_asked){.id = parent, .name = xstrdup(name)});
	return rc;
}

/* ---------------------------------------------------------------- opendir */

static int open_dir(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct sf_tree *tree = sf_world_get(&r->fs->world);
	struct sf_handle *handle = NULL;
	struct sf_place place;
	struct sf_key key;
	int rc = sf_op_place(r->fs, tree, id, &place);

	if (rc == 0 && !sf_kind_is_dir(sf_place_kind(&place)))
		rc = -ENOTDIR;
	if (rc == 0) {
		key = sf_place_key(&place);
		handle = sf_handle_open_dir(&r->fs->handles, &key, tree);
	}
	sf_world_put(&r->fs->world, tree);
	if (rc < 0)
		return rc;
	fi->fh = (uintptr_t)handle;
	if (fuse_reply_open(sf_req_take(r), fi) < 0)
		sf_handle_close(&r->fs->handles, handle);
	return 0;
}

static int open_dir_later(struct sf_req *r, struct sf_asked *asked)
{
	int rc = sf_unread_wait(r, asked->id);

	return rc < 0 ? rc : open_dir(r, asked->id, &asked->fi);
}

int sf_op_opendir(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi)
{
	if (sf_unread_at(r->fs, id))
		return sf_unread_hand(r, open_dir_later, &(struct sf_asked){.id = id, .fi = *fi});
	return open_dir(r, id, fi);
}

/* ---------------------------------------------------------------- readdir */

/*
 * A listing is `.`, `..` and then the children of one tree, in their order there; an offset is the number of those that
 * were given. The handle keeps the tree, so offsets stay true whatever happens; rewinddir(3) (offset 0) starts with
 * the present one.
 */
struct listing {
	struct sf_req *r;
	const struct sf_tree *tree;
	struct sf_place dir;
	const struct sf_entry *entries; /* of a domain */
	const struct sf_made_name *made; /* of a directory of what is made */
	size_t n;                       /* children */
	size_t n_files;                 /* of them, files of a domain; what follows are directories of what is made */
	enum sf_kind shown[SF_MADE_DIRS]; /* those */
	bool fresh;                     /* the tree is pinned: attributes may stay with the kernel */
	char *buf;
	size_t room, len;
	fuse_ino_t *taken;              /* readdirplus: what was counted for entries in buf */
	size_t n_taken;
};

/* The least an entry of readdirplus takes; what may come back bounds `taken`. */
#define LEAST_ENTRY_PLUS 128

static bool is_listed(const struct sf_fs *fs, enum sf_kind kind)
{
	switch (kind) {
	case SF_QCOW2_DIR:
		return fs->options->list_qcow2;
	case SF_DIFF_DIR:
		return fs->options->list_diff;
	default:
		return fs->options->list_now;
	}
}

static int listing_init(struct listing *l, struct sf_req *r, const struct sf_tree *tree, struct sf_handle *handle, bool rewind)
{
	int rc;

	*l = (struct listing){.r = r, .tree = tree, .n = tree->n_dirs};
	rc = sf_place_find(tree, &handle->dir, &l->dir);
	if (rc < 0 || !l->dir.dir)
		return rc;
	if (l->dir.made) {
		l->made = sf_handle_names(handle, &l->dir, rewind, &l->n);
		return 0;
	}
	l->entries = sf_dir_list(l->dir.dir, &l->n_files);
	l->n = l->n_files;
	for (size_t i = 0; i < SF_MADE_DIRS; i++)
		if (is_listed(r->fs, sf_made_dir_kind(i)) && sf_made_dir_is_in(sf_made_dir_kind(i), l->dir.dir))
			l->shown[l->n++ - l->n_files] = sf_made_dir_kind(i);
	return 0;
}

static const char *child_at(const struct listing *l, size_t idx, struct sf_place *place)
{
	*place = l->dir;
	if (idx == 0)
		return ".";
	if (idx == 1) {
		*place = sf_place_parent(&l->dir);
		return "..";
	}
	if (l->dir.made) {
		*place = l->made[idx - 2].place;
		return l->made[idx - 2].name;
	}
	if (!l->dir.dir) {
		place->dir = l->tree->dirs[idx - 2];
		return place->dir->domain->dir;
	}
	if (idx - 2 >= l->n_files) {
		place->made = l->shown[idx - 2 - l->n_files];
		return sf_made_dir_name(place->made);
	}
	place->entry = &l->entries[idx - 2];
	return place->entry->name;
}

/* Each of these returns 1 if the entry went in, 0 if the buffer is full, or negative errno. */
static int put_plain(struct listing *l, size_t idx)
{
	struct sf_place place;
	const char *name = child_at(l, idx, &place);
	struct sf_key key = sf_place_key(&place);
	struct stat st = {.st_ino = sf_key_ino(&key), .st_mode = sf_attr_type(key.kind)};
	size_t need = fuse_add_direntry(l->r->req, l->buf + l->len, l->room - l->len, name, &st, (off_t)idx + 1);

	if (need > l->room - l->len)
		return 0;
	l->len += need;
	return 1;
}

/* What a listing may leave in the kernel's cache: not `.` and `..`, nothing of a tree that is history, and none of the
 * files that have another node at every lookup, or a size that takes a walk. */
static bool is_kept(const struct listing *l, size_t idx, enum sf_kind kind)
{
	return idx >= 2 && l->fresh && !sf_kind_is_door(kind) && kind < SF_QCOW2_DIR;
}

/* Without attributes the kernel takes it for a plain entry. */
static int put_plus(struct listing *l, size_t idx)
{
	struct fuse_entry_param e = {0};
	struct sf_place place;
	const char *name = child_at(l, idx, &place);
	struct sf_key key = sf_place_key(&place);
	size_t need = fuse_add_direntry_plus(l->r->req, NULL, 0, name, &e, 0);
	int rc = 0;

	if (need > l->room - l->len)
		return 0;
	if (is_kept(l, idx, key.kind)) {
		rc = entry_of(l->r->fs, l->tree, &place, &e);
		if (rc < 0)
			return rc;
		e.ino = take_node(l->r->fs, &place);
		l->taken[l->n_taken++] = e.ino;
	} else {
		e.attr.st_ino = sf_key_ino(&key);
		e.attr.st_mode = sf_attr_type(key.kind);
	}
	l->len += fuse_add_direntry_plus(l->r->req, l->buf + l->len, l->room - l->len, name, &e, (off_t)idx + 1);
	return 1;
}

static int list_into(struct listing *l, size_t idx, int (*put)(struct listing *, size_t))
{
	int rc = 1;

	while (rc > 0 && idx < l->n + 2)
		rc = put(l, idx++);
	return rc < 0 && !l->len ? rc : 0; /* an error in the middle comes back with the next call */
}

static int list_tree(struct sf_req *r, const struct sf_tree *tree, bool fresh, struct sf_handle *handle,
		     size_t size, off_t off, int (*put)(struct listing *, size_t))
{
	struct listing l;
	int rc = listing_init(&l, r, tree, handle, off == 0);

	if (rc < 0)
		return rc;
	l.fresh = fresh;
	l.room = size < SF_BLOCK_SIZE ? size : SF_BLOCK_SIZE;
	l.buf = xcalloc(l.room, 1);
	l.taken = xcalloc(l.room / LEAST_ENTRY_PLUS + 1, sizeof(*l.taken));
	rc = list_into(&l, (size_t)off, put);
	if (rc == 0 && fuse_reply_buf(sf_req_take(r), l.buf, l.len) == 0)
		l.n_taken = 0;
	while (l.n_taken)
		forget_node(r->fs, l.taken[--l.n_taken]);
	free(l.buf);
	free(l.taken);
	return rc;
}

static int list(struct sf_req *r, size_t size, off_t off, struct fuse_file_info *fi,
		int (*put)(struct listing *, size_t))
{
	struct sf_handle *handle = sf_op_handle(fi);
	struct sf_tree *tree = sf_handle_tree(&r->fs->handles, handle, off == 0);
	bool fresh = sf_world_pin_this(&r->fs->world, tree);
	int rc = off < 0 ? -EINVAL : list_tree(r, tree, fresh, handle, size, off, put);

	if (fresh)
		sf_world_unpin(&r->fs->world, tree);
	sf_world_put(&r->fs->world, tree);
	return rc;
}

int sf_op_readdir(struct sf_req *r, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)id;
	return list(r, size, off, fi, put_plain);
}

int sf_op_readdirplus(struct sf_req *r, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)id;
	return list(r, size, off, fi, put_plus);
}
