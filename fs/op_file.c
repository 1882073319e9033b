/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* Open files. See read.c for how an image's bytes travel and image.c for what happens when an image moves. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "ops.h"
#include "read.h"
#include "space.h"
#include "text.h"
#include "unread.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- open */

struct first_look {
	struct sf_waiter *waiter;
	bool looked;
	bool compressed;
	uint64_t content; /* 0: it could not be opened yet */
};

/* A view that others have open for long may be of files that were written, or lie there no more; and where the kernel has pages
 * of it, no read may come by to find that out. One that was opened just now is as it should be. */
static int64_t look(struct sf_view *view, void *opaque, struct vs_err *err)
{
	struct first_look *found = opaque;
	bool first = !found->looked;
	int rc;

	found->looked = true;
	if (first && q2_view_replaced(view->q2))
		return vs_err_set(err, -ESTALE, "a file that it stands on was replaced by another one");
	rc = first ? q2_view_check(view->q2, &found->waiter->work, err) : 0;
	if (rc < 0)
		return rc;
	found->compressed = view->compressed;
	found->content = view->content;
	return 0;
}

/* The kernel keeps its pages from one open to the next if they are of the same bytes. What the present content of an image
 * source is changes; a snapshot never does, but what it stands on may be exchanged. */
static int set_caching(struct sf_fs *fs, fuse_ino_t id, const struct sf_place *place, const struct first_look *found,
		       struct fuse_file_info *fi)
{
	bool cached = fs->options->cache == SF_CACHE_KERNEL || (fs->options->cache == SF_CACHE_AUTO && found->compressed);
	bool same = false;
	int rc = sf_node_open(&fs->nodes, id, found->content, &same);

	fi->direct_io = !cached;
	fi->keep_cache = cached && same && !place->entry->snapshot->present;
	fi->noflush = 1;
	return rc;
}

/* An image beneath which a job writes can be opened, and read once the job is done. */
static int open_view(struct sf_req *r, struct sf_handle *handle, struct first_look *found)
{
	struct sf_waiter waiter;
	struct vs_err err = {0};
	int rc;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	*found = (struct first_look){.waiter = &waiter};
	rc = (int)sf_image_use(handle->image, &waiter, &handle->edition, look, found, &err);
	if (rc == -EBUSY)
		return 0;
	if (rc == 0)
		sf_blocks_count(&r->fs->blocks, handle->image);
	else if (rc != -ESTALE && rc != -EINTR && rc != -ENOTCONN)
		sf_image_complain(handle->image, "open", rc, &err);
	return rc;
}

static int open_image(struct sf_req *r, fuse_ino_t id, const struct sf_place *place, struct fuse_file_info *fi,
		      struct sf_handle **out)
{
	struct sf_fs *fs = r->fs;
	struct first_look found;
	struct sf_handle *handle = sf_handle_open_image(&fs->handles, place);
	int rc = open_view(r, handle, &found);

	if (rc == 0)
		rc = set_caching(fs, id, place, &found, fi);
	if (rc < 0) {
		sf_handle_close(&fs->handles, handle);
		return rc;
	}
	*out = handle;
	return 0;
}

static int open_made(struct sf_req *r, const struct sf_place *place, struct sf_handle **out)
{
	struct sf_handle *handle = sf_handle_open_made(&r->fs->handles, place);
	struct sf_waiter waiter;
	struct vs_err err = {0};
	int rc;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, SF_MAKE_WORK);
	rc = sf_made_begin(handle->made, &waiter, &err);
	if (rc < 0) {
		if (rc != -EBUSY && rc != -ESTALE && rc != -EINTR && rc != -ENOTCONN)
			sf_made_complain(handle->made, "open what is made of", rc, &err);
		sf_handle_close(&r->fs->handles, handle);
		return rc;
	}
	*out = handle;
	return 0;
}

static int open_counted(struct sf_req *r, const struct sf_place *place, struct sf_handle **out)
{
	struct sf_waiter waiter;
	struct sf_text *text;
	int rc;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	rc = sf_space_make(r->fs->vm, place->dir, sf_place_kind(place), &waiter, &text);
	if (rc == 0)
		*out = sf_handle_open_given(&r->fs->handles, place, text);
	return rc;
}

/* To open it for reading is what a policy that was written there has waited for. */
static int open_plan(struct sf_req *r, const struct sf_place *place, struct sf_handle **out)
{
	const struct vm_domain *d = place->dir->domain;
	vs_autofree char *policy = sf_plans_take(&r->fs->plans, d->uuid);
	struct sf_waiter waiter;
	struct sf_text *text;
	size_t plain;
	int rc = sf_text_plan(r->fs->vm, d->uuid, policy, d->changed_ns, &text);

	if (rc < 0) {
		sf_text_unref(text);
		return rc;
	}
	plain = text->len;
	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	rc = sf_space_plan(r->fs->vm, d->uuid, policy, text, &waiter, &text);
	if (rc < 0) {
		if (policy)
			sf_plans_set(&r->fs->plans, d->uuid, policy);
		return rc;
	}
	sf_text_plan_counted(r->fs->vm, place->dir, policy, plain, text->len);
	*out = sf_handle_open_given(&r->fs->handles, place, text);
	return 0;
}

static int open_now(struct sf_req *r, const struct sf_place *place, struct sf_handle **out)
{
	struct sf_handle *handle = sf_handle_open_now(&r->fs->handles, place);
	struct sf_waiter waiter;
	int rc;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	rc = sf_now_begin(handle->now, &waiter);
	if (rc < 0) {
		sf_handle_close(&r->fs->handles, handle);
		return rc;
	}
	*out = handle;
	return 0;
}

static int open_metrics(struct sf_req *r, const struct sf_place *place, struct sf_handle **out)
{
	struct sf_tree *tree = sf_world_get(&r->fs->world);

	*out = sf_handle_open_given(&r->fs->handles, place, sf_metrics_text(&r->fs->metrics, r->fs->vm, &r->fs->views, tree));
	sf_world_put(&r->fs->world, tree);
	return 0;
}

static bool reads_it(const struct fuse_file_info *fi)
{
	return (fi->flags & O_ACCMODE) != O_WRONLY;
}

static int open_place(struct sf_req *r, struct sf_tree *tree, fuse_ino_t id, const struct sf_place *place, struct fuse_file_info *fi,
		      struct sf_handle **out)
{
	enum sf_kind kind = sf_place_kind(place);

	if (sf_kind_is_dir(kind))
		return -EISDIR;
	if (!sf_kind_is_door(kind) && ((fi->flags & O_ACCMODE) != O_RDONLY || fi->flags & O_TRUNC))
		return -EROFS;
	if (kind == SF_IMAGE)
		return open_image(r, id, place, fi, out);
	fi->direct_io = 1; /* its length is what it is, whatever the kernel believes */
	fi->noflush = 1;
	if (sf_kind_is_made(kind))
		return open_made(r, place, out);
	if (sf_kind_is_counted(kind))
		return open_counted(r, place, out);
	if (kind == SF_PLAN && reads_it(fi))
		return open_plan(r, place, out);
	if (kind == SF_NOW)
		return open_now(r, place, out);
	if (kind == SF_METRICS)
		return open_metrics(r, place, out);
	if (kind == SF_JSON && sf_pages_suit(place->dir->domain))
		*out = sf_handle_open_pages(&r->fs->handles, place, tree);
	else
		*out = sf_handle_open_text(&r->fs->handles, place, reads_it(fi));
	return 0;
}

/* Opening reads headers and may wait: it holds a reference to its tree, not a pin. */
static int open_id(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct sf_tree *tree = sf_world_get(&r->fs->world);
	struct sf_handle *handle = NULL;
	struct sf_place place;
	int rc = sf_op_place(r->fs, tree, id, &place);

	if (rc == 0)
		rc = open_place(r, tree, id, &place, fi, &handle);
	sf_world_put(&r->fs->world, tree);
	if (rc < 0)
		return rc;
	fi->fh = (uintptr_t)handle;
	if (fuse_reply_open(sf_req_take(r), fi) < 0)
		sf_handle_close(&r->fs->handles, handle);
	return 0;
}

static int open_later(struct sf_req *r, struct sf_asked *asked)
{
	return open_id(r, asked->id, &asked->fi);
}

static int open_unread(struct sf_req *r, struct sf_asked *asked)
{
	int rc = sf_unread_wait(r, asked->id);

	return rc < 0 ? rc : open_id(r, asked->id, &asked->fi);
}

static struct sf_makers *makers_of(struct sf_fs *fs, enum sf_kind kind)
{
	return kind == SF_NOW ? &fs->instants : sf_kind_is_counted(kind) || kind == SF_PLAN ? &fs->counters : &fs->makers;
}

static bool takes_long(enum sf_kind kind, const struct fuse_file_info *fi)
{
	return sf_kind_is_made(kind) || sf_kind_is_counted(kind) || kind == SF_NOW || (kind == SF_PLAN && reads_it(fi));
}

int sf_op_open(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct sf_key key;
	int rc = sf_node_key(&r->fs->nodes, id, &key);

	if (rc < 0)
		return rc;
	if (key.kind != SF_IMAGE && reads_it(fi) && sf_unread_at(r->fs, id))
		return sf_unread_hand(r, open_unread, &(struct sf_asked){.id = id, .fi = *fi});
	if (takes_long(key.kind, fi))
		return sf_makers_hand(makers_of(r->fs, key.kind), r, open_later, &(struct sf_asked){.id = id, .fi = *fi});
	return open_id(r, id, fi);
}

/* ---------------------------------------------------------------- read, lseek */

/* Once the kernel has the reply the file may be closed, before the reply has returned to us. */
static int read_text(struct sf_req *r, struct sf_handle *handle, size_t size, off_t off)
{
	size_t at;
	vs_autofree char *page = NULL;
	struct sf_text *text = sf_handle_read(&r->fs->handles, handle, (uint64_t)off, &size, &at);

	if (!text)
		return -EBADF;
	if (text->hollow)
		page = xcalloc(size + 1, 1);
	if (page)
		sf_pages_read(handle->pages, page, size, at);
	fuse_reply_buf(sf_req_take(r), page ? page : text->data + at, size);
	sf_text_unref(text);
	return 0;
}

/* A policy was written to it, through this open file. */
static int read_plan(struct sf_req *r, struct sf_asked *asked)
{
	struct sf_handles *handles = &r->fs->handles;
	struct sf_handle *handle = sf_op_handle(&asked->fi);
	struct sf_text *plain, *text;
	struct sf_waiter waiter;
	char *policy;
	int rc;

	if (!sf_handle_uncounted(handles, handle, &policy, &plain))
		return read_text(r, handle, asked->size, asked->off);
	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	rc = sf_space_plan(r->fs->vm, handle->uuid, policy, sf_text_ref(plain), &waiter, &text);
	sf_handle_recount(handles, handle, plain, rc < 0 ? NULL : text, policy);
	sf_text_unref(plain);
	return rc < 0 ? rc : read_text(r, handle, asked->size, asked->off);
}

static int read_later(struct sf_req *r, struct sf_asked *asked)
{
	struct sf_handle *handle = sf_op_handle(&asked->fi);

	return (handle->now ? sf_read_now : sf_read_made)(r, handle, asked->size, asked->off);
}

int sf_op_read(struct sf_req *r, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct sf_handle *handle = sf_op_handle(fi);

	if (off < 0)
		return -EINVAL;
	if (handle->kind == SF_IMAGE)
		return sf_read_image(r, handle, size, off);
	if (handle->now && sf_read_now_at_once(r, handle, size, off) == 0)
		return 0;
	if (handle->made || handle->now)
		return sf_makers_hand(makers_of(r->fs, handle->kind), r, read_later, &(struct sf_asked){.id = id, .size = size, .off = off, .fi = *fi});
	if (handle->kind == SF_PLAN && sf_handle_uncounted(&r->fs->handles, handle, NULL, NULL))
		return sf_makers_hand(&r->fs->counters, r, read_plan, &(struct sf_asked){.id = id, .size = size, .off = off, .fi = *fi});
	return read_text(r, handle, size, off);
}

/* Units of q2_work for one lseek(2): about a second, or a gibibyte of tables, which is 8 TiB of disk with clusters of 64 KiB.
 * See view.c of qcow2/ for what is answered then. */
#define SEEK_WORK (1u << 26)

struct seek {
	struct sf_waiter waiter;
	uint64_t off;
	int whence;
};

static int64_t seek_view(struct sf_view *view, void *opaque, struct vs_err *err)
{
	struct seek *seek = opaque;
	int64_t found = seek->off < view->size ? q2_view_seek(view->q2, seek->off, seek->whence, &seek->waiter.work, err) : -ENXIO;

	return found > (int64_t)view->size ? (int64_t)view->size : found;
}

/* Of files without holes. */
static int64_t seek_text(struct sf_handles *handles, struct sf_handle *handle, off_t off, int whence)
{
	uint64_t end = 0;

	if (handle->made)
		end = sf_made_file_size(handle->made);
	else
		sf_handle_end(handles, handle, &end);
	if ((uint64_t)off >= end)
		return -ENXIO;
	return whence == SEEK_DATA ? off : (int64_t)end;
}

static int seek_now(struct sf_req *r, struct sf_asked *asked)
{
	struct sf_waiter waiter;
	int64_t found;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, SEEK_WORK);
	found = sf_now_seek(sf_op_handle(&asked->fi)->now, &waiter, (uint64_t)asked->off, asked->whence);
	if (found < 0)
		return (int)found;
	fuse_reply_lseek(sf_req_take(r), found);
	return 0;
}

int sf_op_lseek(struct sf_req *r, fuse_ino_t id, off_t off, int whence, struct fuse_file_info *fi)
{
	struct seek seek = {.off = (uint64_t)off, .whence = whence};
	struct sf_handle *handle = sf_op_handle(fi);
	int64_t found;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	if (off < 0)
		return -ENXIO;
	if (handle->now)
		return sf_makers_hand(&r->fs->instants, r, seek_now, &(struct sf_asked){.id = id, .off = off, .whence = whence, .fi = *fi});
	sf_waiter_init(&seek.waiter, &r->fs->ending, r->req, SEEK_WORK);
	if (handle->kind == SF_IMAGE)
		found = sf_image_use(handle->image, &seek.waiter, &handle->edition, seek_view, &seek, NULL);
	else
		found = seek_text(&r->fs->handles, handle, off, whence);
	if (found < 0)
		return (int)found;
	fuse_reply_lseek(sf_req_take(r), found);
	return 0;
}
