/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* Open files. See read.c for how an image's bytes travel and image.c for what happens when an image moves. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "attr.h"
#include "ops.h"
#include "read.h"
#include "text.h"

static struct sf_handle *handle_of(const struct fuse_file_info *fi)
{
	return (struct sf_handle *)(uintptr_t)fi->fh;
}

/* ---------------------------------------------------------------- open */

struct first_look {
	bool compressed;
};

static int64_t look(struct sf_view *view, void *opaque, struct vs_err *err)
{
	struct first_look *found = opaque;

	(void)err;
	found->compressed = view->compressed;
	return 0;
}

/* What the present content of an image source is changes; a snapshot never does. */
static void set_caching(const struct sf_fs *fs, const struct sf_place *place, bool compressed,
			struct fuse_file_info *fi)
{
	bool cached = fs->options->cache == SF_CACHE_KERNEL || (fs->options->cache == SF_CACHE_AUTO && compressed);

	fi->direct_io = !cached;
	fi->keep_cache = cached && !place->entry->snapshot->present;
	fi->noflush = 1;
}

/* An image beneath which a job writes can be opened, and read once the job is done. */
static int open_view(struct sf_fs *fs, struct sf_image *image, struct first_look *found)
{
	struct vs_err err = {0};
	int rc = (int)sf_image_use(image, look, found, &err);

	if (rc == -EBUSY)
		return 0;
	if (rc == 0)
		sf_blocks_count(&fs->blocks, image);
	else if (rc != -ESTALE)
		sf_image_complain(image, "open", rc, &err);
	return rc;
}

static int open_image(struct sf_fs *fs, const struct sf_place *place, struct fuse_file_info *fi,
		      struct sf_handle **out)
{
	struct first_look found = {0};
	struct sf_handle *handle;
	int rc = sf_handle_open_image(&fs->handles, place, &handle);

	if (rc < 0)
		return rc;
	rc = open_view(fs, handle->image, &found);
	if (rc < 0) {
		sf_handle_close(&fs->handles, handle);
		return rc;
	}
	set_caching(fs, place, found.compressed, fi);
	*out = handle;
	return 0;
}

static int open_place(struct sf_fs *fs, const struct sf_place *place, struct fuse_file_info *fi,
		      struct sf_handle **out)
{
	if (!place->entry)
		return -EISDIR;
	if (!sf_kind_is_door(place->entry->kind) && ((fi->flags & O_ACCMODE) != O_RDONLY || fi->flags & O_TRUNC))
		return -EROFS;
	if (place->entry->kind == SF_IMAGE)
		return open_image(fs, place, fi, out);
	fi->direct_io = 1; /* its length is what it is, whatever the kernel believes */
	fi->noflush = 1;
	return sf_handle_open_text(&fs->handles, place, (fi->flags & O_ACCMODE) != O_WRONLY, out);
}

/* Opening reads headers and may wait: it holds a reference to its tree, not a pin. */
int sf_op_open(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi)
{
	struct sf_tree *tree = sf_world_get(&r->fs->world);
	struct sf_handle *handle = NULL;
	struct sf_place place;
	int rc = sf_op_place(r->fs, tree, id, &place);

	if (rc == 0)
		rc = open_place(r->fs, &place, fi, &handle);
	sf_world_put(&r->fs->world, tree);
	if (rc < 0)
		return rc;
	fi->fh = (uintptr_t)handle;
	if (sf_reply_open(r, fi) < 0)
		sf_handle_close(&r->fs->handles, handle);
	return 0;
}

/* ---------------------------------------------------------------- read, lseek */

/* Once the kernel has the reply the file may be closed, before the reply has returned to us. */
static int read_text(struct sf_req *r, struct sf_handle *handle, size_t size, off_t off)
{
	size_t at;
	struct sf_text *text = sf_handle_read(&r->fs->handles, handle, (uint64_t)off, &size, &at);

	if (!text)
		return -EBADF;
	sf_reply_buf(r, text->data + at, size);
	sf_text_unref(text);
	return 0;
}

int sf_op_read(struct sf_req *r, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct sf_handle *handle = handle_of(fi);

	(void)id;
	if (off < 0)
		return -EINVAL;
	if (handle->kind == SF_IMAGE)
		return sf_read_image(r, handle->image, size, off);
	return read_text(r, handle, size, off);
}

struct seek {
	uint64_t off;
	int whence;
};

static int64_t seek_view(struct sf_view *view, void *opaque, struct vs_err *err)
{
	const struct seek *seek = opaque;

	return q2_view_seek(view->q2, seek->off, seek->whence, err);
}

static int64_t seek_text(struct sf_handles *handles, struct sf_handle *handle, off_t off, int whence)
{
	uint64_t end = 0;

	sf_handle_end(handles, handle, &end);
	if ((uint64_t)off >= end)
		return -ENXIO;
	return whence == SEEK_DATA ? off : (int64_t)end;
}

int sf_op_lseek(struct sf_req *r, fuse_ino_t id, off_t off, int whence, struct fuse_file_info *fi)
{
	struct seek seek = {.off = (uint64_t)off, .whence = whence};
	struct sf_handle *handle = handle_of(fi);
	int64_t found;

	(void)id;
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	if (off < 0)
		return -ENXIO;
	if (handle->kind == SF_IMAGE)
		found = sf_image_use(handle->image, seek_view, &seek, NULL);
	else
		found = seek_text(&r->fs->handles, handle, off, whence);
	if (found < 0)
		return (int)found;
	sf_reply_lseek(r, found);
	return 0;
}
