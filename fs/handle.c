/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "handle.h"

#include <errno.h>
#include <string.h>

#include "text.h"
#include "vm/util/mem.h"

void sf_handles_init(struct sf_handles *handles, struct sf_world *world, struct sf_images *images, struct sf_mades *mades)
{
	*handles = (struct sf_handles){.world = world, .images = images, .mades = mades};
	pthread_mutex_init(&handles->lock, NULL);
}

void sf_handles_fini(struct sf_handles *handles)
{
	pthread_mutex_destroy(&handles->lock);
}

/* ---------------------------------------------------------------- coming and going */

static void handle_free(struct sf_handles *handles, struct sf_handle *handle)
{
	sf_pages_free(handle->pages);
	if (handle->tree)
		sf_world_put(handles->world, handle->tree);
	if (handle->image)
		sf_image_close(handle->image);
	if (handle->made)
		sf_made_close(handle->made);
	sf_now_close(handle->now);
	for (size_t i = 0; i < handle->n_reads; i++)
		vm_reading(handles->world->vm, handle->uuid, handle->reads[i], -1);
	free(handle->reads);
	if (handle->waiting)
		fuse_pollhandle_destroy(handle->waiting);
	sf_text_unref(handle->text);
	free(handle->uncounted);
	sf_made_list_free(handle->names, handle->n_names);
	free(handle->uuid);
	free(handle);
}

void sf_handles_close_all(struct sf_handles *handles)
{
	while (!LIST_EMPTY(&handles->all))
		sf_handle_close(handles, LIST_FIRST(&handles->all));
}

static struct sf_handle *file_handle_new(const struct sf_place *place)
{
	struct sf_handle *handle = xcalloc(1, sizeof(*handle));

	handle->kind = sf_place_kind(place);
	handle->uuid = xstrdup(place->dir ? place->dir->domain->uuid : "");
	return handle;
}

static void enlist(struct sf_handles *handles, struct sf_handle *handle)
{
	pthread_mutex_lock(&handles->lock);
	LIST_INSERT_HEAD(&handles->all, handle, link);
	pthread_mutex_unlock(&handles->lock);
}

struct sf_handle *sf_handle_open_dir(struct sf_handles *handles, const struct sf_key *dir, struct sf_tree *tree)
{
	struct sf_handle *handle = xcalloc(1, sizeof(*handle));

	handle->kind = dir->kind;
	handle->dir = *dir;
	handle->tree = sf_world_ref(handles->world, tree);
	enlist(handles, handle);
	return handle;
}

/* In the list first: of jobs that change while their text is made somebody who polls will hear. */
struct sf_handle *sf_handle_open_text(struct sf_handles *handles, const struct sf_place *place, bool reads)
{
	struct sf_handle *handle = file_handle_new(place);
	struct sf_text *text;

	enlist(handles, handle);
	text = reads ? sf_text_make(handles->world->vm, place->dir, place->entry) : NULL;
	pthread_mutex_lock(&handles->lock);
	handle->text = text;
	pthread_mutex_unlock(&handles->lock);
	return handle;
}

struct sf_handle *sf_handle_open_pages(struct sf_handles *handles, const struct sf_place *place, struct sf_tree *tree)
{
	struct sf_handle *handle = file_handle_new(place);

	handle->tree = sf_world_ref(handles->world, tree);
	handle->pages = sf_pages_new(place->dir->domain);
	handle->text = sf_text_hollow(sf_pages_len(handle->pages), place->dir->domain->changed_ns);
	enlist(handles, handle);
	return handle;
}

struct sf_handle *sf_handle_open_given(struct sf_handles *handles, const struct sf_place *place, struct sf_text *text)
{
	struct sf_handle *handle = file_handle_new(place);

	handle->text = text;
	enlist(handles, handle);
	return handle;
}

/* For retention, which leaves alone what somebody reads. */
static void note_reads(struct sf_handles *handles, struct sf_handle *handle, const struct sf_place *place)
{
	handle->reads = sf_place_reads(place, &handle->n_reads);
	for (size_t i = 0; i < handle->n_reads; i++)
		vm_reading(handles->world->vm, handle->uuid, handle->reads[i], 1);
}

struct sf_handle *sf_handle_open_image(struct sf_handles *handles, const struct sf_place *place)
{
	struct sf_handle *handle = file_handle_new(place);
	struct sf_key key = sf_place_key(place);

	handle->image = sf_image_open(handles->images, &key);
	note_reads(handles, handle, place);
	enlist(handles, handle);
	return handle;
}

struct sf_handle *sf_handle_open_made(struct sf_handles *handles, const struct sf_place *place)
{
	struct sf_handle *handle = file_handle_new(place);

	handle->made = sf_made_open(handles->mades, place);
	note_reads(handles, handle, place);
	enlist(handles, handle);
	return handle;
}

struct sf_handle *sf_handle_open_now(struct sf_handles *handles, const struct sf_place *place)
{
	struct sf_handle *handle = file_handle_new(place);

	handle->now = sf_now_open(handles->world, handles->images->views, place);
	enlist(handles, handle);
	return handle;
}

void sf_handle_close(struct sf_handles *handles, struct sf_handle *handle)
{
	pthread_mutex_lock(&handles->lock);
	LIST_REMOVE(handle, link);
	pthread_mutex_unlock(&handles->lock);
	handle_free(handles, handle);
}

/* ---------------------------------------------------------------- what it shows */

struct sf_tree *sf_handle_tree(struct sf_handles *handles, struct sf_handle *handle, bool rewind)
{
	struct sf_world *world = handles->world;
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

const struct sf_made_name *sf_handle_names(struct sf_handle *handle, const struct sf_place *dir, bool rewind, size_t *n)
{
	if (rewind || !handle->names) {
		sf_made_list_free(handle->names, handle->n_names);
		handle->names = sf_made_list(dir, &handle->n_names);
	}
	*n = handle->n_names;
	return handle->names;
}

struct sf_text *sf_handle_read(struct sf_handles *handles, struct sf_handle *handle, uint64_t off, size_t *size, size_t *at)
{
	struct sf_text *text;

	pthread_mutex_lock(&handles->lock);
	text = handle->text ? sf_text_ref(handle->text) : NULL;
	if (text)
		*size = sf_answer_read(&handle->answer, off, *size, text->len, at);
	pthread_mutex_unlock(&handles->lock);
	return text;
}

bool sf_handle_end(struct sf_handles *handles, struct sf_handle *handle, uint64_t *end)
{
	bool reads;

	pthread_mutex_lock(&handles->lock);
	reads = handle->text != NULL;
	if (reads)
		*end = sf_answer_end(&handle->answer, handle->text->len);
	pthread_mutex_unlock(&handles->lock);
	return reads;
}

/* ---------------------------------------------------------------- writing */

void sf_handle_answer(struct sf_handles *handles, struct sf_handle *handle, struct sf_text *text, uint64_t off, size_t moved)
{
	pthread_mutex_lock(&handles->lock);
	if (text && handle->text) {
		struct sf_text *before = handle->text;

		handle->text = text;
		text = before;
	}
	sf_answer_wrote(&handle->answer, off, moved);
	pthread_mutex_unlock(&handles->lock);
	sf_text_unref(text);
}

/* ---------------------------------------------------------------- retain.plan */

void sf_handle_set_uncounted(struct sf_handles *handles, struct sf_handle *handle, char *policy)
{
	char *before;

	pthread_mutex_lock(&handles->lock);
	before = handle->uncounted;
	handle->uncounted = policy;
	pthread_mutex_unlock(&handles->lock);
	free(before);
}

bool sf_handle_uncounted(struct sf_handles *handles, struct sf_handle *handle, char **policy, struct sf_text **plain)
{
	bool is;

	pthread_mutex_lock(&handles->lock);
	is = handle->uncounted && handle->text;
	if (is && policy) {
		*policy = vs_steal(handle->uncounted);
		*plain = sf_text_ref(handle->text);
	}
	pthread_mutex_unlock(&handles->lock);
	return is;
}

void sf_handle_recount(struct sf_handles *handles, struct sf_handle *handle, const struct sf_text *plain, struct sf_text *text, char *policy)
{
	pthread_mutex_lock(&handles->lock);
	if (handle->text == plain && text) {
		struct sf_text *before = handle->text;

		handle->text = text;
		text = before;
	} else if (handle->text == plain && !handle->uncounted) {
		handle->uncounted = vs_steal(policy);
	}
	pthread_mutex_unlock(&handles->lock);
	sf_text_unref(text);
	free(policy);
}

/* ---------------------------------------------------------------- refusals */

static uint64_t hash_of(const char *text, size_t len)
{
	uint64_t hash = UINT64_C(14695981039346656037) ^ len;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
	return hash;
}

int sf_handle_refusal(struct sf_handles *handles, struct sf_handle *handle, const char *text, size_t len)
{
	uint64_t hash = hash_of(text, len);
	int rc = 0;

	pthread_mutex_lock(&handles->lock);
	if (!handle->failed)
		handle->tried = hash;
	else
		rc = handle->tried == hash && handle->failed != -EINTR ? handle->failed : -ECANCELED; /* EINTR would be tried again for ever */
	pthread_mutex_unlock(&handles->lock);
	return rc;
}

void sf_handle_fail(struct sf_handles *handles, struct sf_handle *handle, int rc)
{
	pthread_mutex_lock(&handles->lock);
	if (!handle->failed)
		handle->failed = rc;
	pthread_mutex_unlock(&handles->lock);
}

/* ---------------------------------------------------------------- polling */

/* The kernel has one number for all who poll a file: the newest handle wakes them all. */
bool sf_handle_poll(struct sf_handles *handles, struct sf_handle *handle, struct fuse_pollhandle *waiting)
{
	bool changed;

	pthread_mutex_lock(&handles->lock);
	changed = handle->changed;
	if (!changed && waiting) {
		struct fuse_pollhandle *before = handle->waiting;

		handle->waiting = waiting;
		waiting = before;
	}
	pthread_mutex_unlock(&handles->lock);
	if (waiting)
		fuse_pollhandle_destroy(waiting);
	return changed;
}

bool sf_handles_jobs_changed(struct sf_handles *handles, const char *uuid)
{
	struct sf_handle *handle;
	bool wake = false;

	pthread_mutex_lock(&handles->lock);
	LIST_FOREACH(handle, &handles->all, link) {
		if (handle->kind != SF_JOBS || strcmp(handle->uuid, uuid) != 0)
			continue;
		handle->changed = true;
		wake |= handle->waiting != NULL;
	}
	pthread_mutex_unlock(&handles->lock);
	return wake;
}

static struct fuse_pollhandle *next_to_wake(struct sf_handles *handles)
{
	struct fuse_pollhandle *waiting = NULL;
	struct sf_handle *handle;

	pthread_mutex_lock(&handles->lock);
	LIST_FOREACH(handle, &handles->all, link)
		if (!waiting && handle->changed && handle->waiting)
			waiting = vs_steal(handle->waiting);
	pthread_mutex_unlock(&handles->lock);
	return waiting;
}

void sf_handles_wake(struct sf_handles *handles)
{
	struct fuse_pollhandle *waiting;

	while ((waiting = next_to_wake(handles))) {
		fuse_lowlevel_notify_poll(waiting);
		fuse_pollhandle_destroy(waiting);
	}
}
