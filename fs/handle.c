/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "handle.h"

#include <errno.h>

#include "fs.h"
#include "text.h"

void sf_handles_init(struct sf_handles *handles, struct sf_fs *fs)
{
	*handles = (struct sf_handles){.fs = fs};
	pthread_mutex_init(&handles->lock, NULL);
}

static void handle_free(struct sf_fs *fs, struct sf_handle *handle)
{
	if (handle->tree)
		sf_world_put(&fs->world, handle->tree);
	if (handle->image)
		sf_image_close(handle->image);
	free(handle->text);
	free(handle);
}

void sf_handles_fini(struct sf_handles *handles)
{
	while (handles->first) {
		struct sf_handle *handle = handles->first;

		handles->first = handle->next;
		handle_free(handles->fs, handle);
	}
	pthread_mutex_destroy(&handles->lock);
}

static struct sf_handle *handle_new(enum sf_kind kind)
{
	struct sf_handle *handle = calloc(1, sizeof(*handle));

	if (handle)
		handle->kind = kind;
	return handle;
}

static void enlist(struct sf_handles *handles, struct sf_handle *handle)
{
	pthread_mutex_lock(&handles->lock);
	handle->next = handles->first;
	handle->link = &handles->first;
	if (handle->next)
		handle->next->link = &handle->next;
	handles->first = handle;
	pthread_mutex_unlock(&handles->lock);
}

int sf_handle_open_dir(struct sf_handles *handles, const struct sf_key *dir, struct sf_tree *tree,
		       struct sf_handle **out)
{
	struct sf_handle *handle = handle_new(dir->kind);

	if (!handle)
		return -ENOMEM;
	handle->dir = *dir;
	handle->tree = sf_world_ref(&handles->fs->world, tree);
	enlist(handles, handle);
	*out = handle;
	return 0;
}

int sf_handle_open_text(struct sf_handles *handles, const struct sf_place *place, struct sf_handle **out)
{
	struct sf_handle *handle = handle_new(place->entry->kind);
	int rc = handle ? sf_text_make(place->dir, place->entry, &handle->text) : -ENOMEM;

	if (rc < 0) {
		free(handle);
		return rc;
	}
	enlist(handles, handle);
	*out = handle;
	return 0;
}

int sf_handle_open_image(struct sf_handles *handles, const struct sf_key *key, struct sf_handle **out)
{
	struct sf_handle *handle = handle_new(SF_IMAGE);
	int rc = handle ? sf_image_open(&handles->fs->images, key, &handle->image) : -ENOMEM;

	if (rc < 0) {
		free(handle);
		return rc;
	}
	enlist(handles, handle);
	*out = handle;
	return 0;
}

void sf_handle_close(struct sf_handles *handles, struct sf_handle *handle)
{
	pthread_mutex_lock(&handles->lock);
	*handle->link = handle->next;
	if (handle->next)
		handle->next->link = handle->link;
	pthread_mutex_unlock(&handles->lock);
	handle_free(handles->fs, handle);
}

struct sf_tree *sf_handle_tree(struct sf_handles *handles, struct sf_handle *handle, bool rewind)
{
	struct sf_world *world = &handles->fs->world;
	struct sf_tree *now = rewind ? sf_world_get(world) : NULL, *tree;

	pthread_mutex_lock(&handles->lock);
	if (now) {
		struct sf_tree *before = handle->tree;

		handle->tree = now;
		now = before;
	}
	tree = sf_world_ref(world, handle->tree);
	pthread_mutex_unlock(&handles->lock);
	if (now)
		sf_world_put(world, now);
	return tree;
}
