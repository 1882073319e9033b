/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A snapshot that exists throughout a read never errors
 * -----------------------------------------------------
 * qcow2/ says -ESTALE when what it opened is not what it sees. That is true of a snapshot that was deleted, and also of
 * one whose entry moved because another one was deleted, or whose layer was re-pointed by a commit below. Only the
 * picture of vm/ can tell these apart, and a picture may be older than what happened. So:
 *
 *	view is stale ──► where is it in the current picture?
 *	                    there, readable ──► open it anew ──► works: go on, a moved record cost one open
 *	                    there, busy     ──► EBUSY                 │
 *	                    not there, or stale, or the open says so ◄┘
 *	                       └─► ask for a picture that was begun after this moment (vm_refresh), look again,
 *	                           twice at most ──► ESTALE: it is gone
 *
 * Rounds that do open a view but find it stale at once are churn (somebody makes and deletes snapshots all the time);
 * they are limited by time only.
 *
 * What the picture says also counts while a view still works: a snapshot that is now `busy` or `stale` there is not
 * read. One that has vanished from it is read as far as its bytes are there. The verdict is kept with the serial of the
 * tree it came from, so a read costs one atomic load for it.
 */
#include "image.h"

#include <assert.h>
#include <errno.h>
#include <search.h>
#include <string.h>
#include <time.h>

#include "fs.h"
#include "show.h"

#define MAX_REFRESHES 2
#define REFRESH_MS 2000       /* beside the refresh interval itself */
#define CHURN_NS 10000000000  /* give up when an image did not hold still for ten seconds */
#define CHURN_SLEEP_NS 1000000
#define COMPLAIN_NS 60000000000

struct sf_image {
	/* immutable */
	struct sf_key key;
	struct sf_images *owner;
	/* guarded by owner->lock */
	unsigned refs;                 /* open files, and the counter's queue */
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t opened;         /* !opening */
	bool opening;                  /* a thread opens the view; others wait for it */
	struct sf_view *view;          /* NULL: none at present */
	int complained;                /* the error last logged, */
	int64_t complained_ns;         /* and when */
	/* atomic: serial of the tree << 2 | enum verdict */
	_Atomic uint64_t verdict;
};

/* LOST: looked for with a fresh picture and not found; nobody looks again before the picture changes. */
enum verdict { READABLE, BUSY, GONE, LOST };

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---------------------------------------------------------------- views */

static const struct vm_disk *find_disk(const struct sf_tree *tree, const struct sf_key *key, const char **uuid)
{
	struct sf_dir *dir = sf_tree_dir_by_ino(tree, key->domain);
	const struct sf_entry *entry;

	if (!dir || sf_dir_find_ino(dir, SF_IMAGE, key->ino, &entry) < 0)
		return NULL;
	if (uuid)
		*uuid = dir->domain->uuid;
	return entry->disk;
}

/* Opens the image as the current picture describes it. */
static int open_fresh(struct sf_image *image, struct sf_view **out, struct vs_err *err)
{
	struct sf_fs *fs = image->owner->fs;
	struct sf_tree *tree = sf_world_get(&fs->world);
	const char *uuid = NULL;
	const struct vm_disk *disk = find_disk(tree, &image->key, &uuid);
	int rc;

	if (!disk || disk->state == VM_STALE)
		rc = vs_err_set(err, -ESTALE, "the snapshot is gone");
	else if (disk->state == VM_BUSY)
		rc = vs_err_set(err, -EBUSY, "%s", disk->reason ? disk->reason : "a job is writing beneath it");
	else if (!disk->file || !disk->chain || !disk->chain[0])
		rc = vs_err_set(err, -EOPNOTSUPP, "%s", disk->reason ? disk->reason : "not readable here");
	else
		rc = sf_view_open(&fs->views, fs->cache, uuid, disk, out, err);
	sf_world_put(&fs->world, tree);
	return rc;
}

/* The view with a reference for the caller; opened here where there is none, by one thread for all. */
static int view_get_any(struct sf_image *image, struct sf_view **out, struct vs_err *err)
{
	struct sf_view *view = NULL;
	int rc = 0;

	pthread_mutex_lock(&image->lock);
	while (!image->view && image->opening)
		pthread_cond_wait(&image->opened, &image->lock);
	if (!image->view) {
		image->opening = true;
		pthread_mutex_unlock(&image->lock);
		rc = open_fresh(image, &view, err);
		pthread_mutex_lock(&image->lock);
		image->opening = false;
		pthread_cond_broadcast(&image->opened);
		if (rc == 0)
			image->view = view;
	}
	if (rc == 0) {
		*out = image->view;
		sf_view_ref(image->view);
	}
	pthread_mutex_unlock(&image->lock);
	return rc;
}

/* Nobody gets this view any more; who has it keeps it to the end. */
static void view_drop(struct sf_image *image, struct sf_view *view)
{
	bool dropped;

	pthread_mutex_lock(&image->lock);
	dropped = image->view == view;
	if (dropped)
		image->view = NULL;
	pthread_mutex_unlock(&image->lock);
	if (dropped)
		sf_view_put(view);
}

/* One that lost its guards for a command is used until that is over. */
static int view_get(struct sf_image *image, struct sf_view **out, struct vs_err *err)
{
	int rc = view_get_any(image, out, err);

	if (rc < 0 || !sf_view_outdated(*out))
		return rc;
	view_drop(image, *out);
	sf_view_put(*out);
	return view_get_any(image, out, err);
}

/* ---------------------------------------------------------------- what the picture says */

static enum verdict ask_tree(struct sf_image *image, uint64_t *serial)
{
	struct sf_fs *fs = image->owner->fs;
	struct sf_tree *tree = sf_world_get(&fs->world);
	const struct vm_disk *disk = find_disk(tree, &image->key, NULL);
	enum verdict verdict = READABLE;

	if (disk && disk->state == VM_BUSY)
		verdict = BUSY;
	else if (disk && disk->state == VM_STALE)
		verdict = GONE;
	*serial = tree->serial;
	sf_world_put(&fs->world, tree);
	return verdict;
}

static int check_verdict(struct sf_image *image, bool *lost, struct vs_err *err)
{
	uint64_t kept = atomic_load(&image->verdict), serial = kept >> 2;
	enum verdict verdict = (enum verdict)(kept & 3);

	if (serial != atomic_load(&image->owner->fs->world.serial)) {
		verdict = ask_tree(image, &serial);
		atomic_store(&image->verdict, serial << 2 | verdict);
	}
	*lost = verdict == LOST;
	if (verdict == BUSY)
		return vs_err_set(err, -EBUSY, "a job is writing beneath it");
	if (verdict != READABLE)
		return vs_err_set(err, -ESTALE, "the snapshot's data is gone");
	return 0;
}

/* ---------------------------------------------------------------- using a view */

struct search {
	unsigned refreshes;
	int64_t started_ns;
	int refresh_rc; /* of the last one */
	bool opened;    /* the last round had a view */
	bool lost;      /* looking again is known to be in vain */
};

/* Errors that a snapshot which merely moved may cause. A file that is not there under its name is one of them. */
static bool may_have_moved(int64_t rc)
{
	return rc == -ESTALE || rc == -ENOENT || rc == -EAGAIN;
}

static int try_once(struct sf_image *image, struct search *search, sf_view_use *use, void *opaque, int64_t *result,
		    struct vs_err *err)
{
	struct sf_view *view = NULL;
	int rc = check_verdict(image, &search->lost, err);

	search->opened = false;
	if (rc == 0)
		rc = view_get(image, &view, err);
	if (rc < 0)
		return rc;
	search->opened = true;
	*result = use(view, opaque, err);
	if (may_have_moved(*result))
		view_drop(image, view);
	sf_view_put(view);
	return *result < 0 ? (int)*result : 0;
}

static void nap(void)
{
	const struct timespec ts = {.tv_nsec = CHURN_SLEEP_NS};

	nanosleep(&ts, NULL);
}

static int give_up(struct sf_image *image, const struct search *search)
{
	if (search->refresh_rc < 0)
		return search->refresh_rc;
	atomic_store(&image->verdict, atomic_load(&image->owner->fs->world.serial) << 2 | LOST);
	return -ESTALE;
}

/* After a round that failed: prepares another one, or says why there is none. */
static int look_again(struct sf_image *image, struct search *search, int rc)
{
	struct sf_fs *fs = image->owner->fs;

	if (search->lost)
		return -ESTALE;
	if (search->opened || rc == -EAGAIN) {
		if (now_ns() - search->started_ns > CHURN_NS)
			return -EBUSY;
		nap();
		return 0;
	}
	if (search->refreshes++ == MAX_REFRESHES)
		return give_up(image, search);
	search->refresh_rc = vm_refresh(fs->vm, REFRESH_MS + (unsigned)(fs->options->refresh_s * 1000));
	return 0;
}

int64_t sf_image_use(struct sf_image *image, sf_view_use *use, void *opaque, struct vs_err *err)
{
	struct search search = {.started_ns = now_ns()};
	int64_t result;

	for (;;) {
		struct vs_err why = {0};
		int rc = try_once(image, &search, use, opaque, &result, &why);

		if (rc == 0)
			return result;
		if (may_have_moved(rc)) {
			int last = look_again(image, &search, rc);

			if (!last)
				continue;
			rc = last;
		}
		if (err && why.code)
			*err = why;
		return rc;
	}
}

/* ---------------------------------------------------------------- complaints */

static bool is_due(struct sf_image *image, int code)
{
	int64_t now = now_ns();
	bool due;

	pthread_mutex_lock(&image->lock);
	due = image->complained != code || now - image->complained_ns > COMPLAIN_NS;
	if (due) {
		image->complained = code;
		image->complained_ns = now;
	}
	pthread_mutex_unlock(&image->lock);
	return due;
}

void sf_image_complain(struct sf_image *image, const char *doing, int code, const struct vs_err *err)
{
	struct sf_fs *fs = image->owner->fs;
	struct sf_place place;
	struct sf_tree *tree;

	if (!is_due(image, code))
		return;
	tree = sf_world_get(&fs->world);
	if (!sf_place_find(tree, &image->key, &place)) {
		vs_autofree char *why = sf_show_dup(vs_err_text(err, code), false);

		vm_log(place.dir->domain->log, "cannot %s %s: %s", doing, place.entry->name, why ? why : "no memory");
	}
	sf_world_put(&fs->world, tree);
}

/* ---------------------------------------------------------------- the table of open images */

static int by_key(const void *left, const void *right)
{
	const struct sf_key *a = &((const struct sf_image *)left)->key, *b = &((const struct sf_image *)right)->key;

	if (a->domain != b->domain)
		return a->domain < b->domain ? -1 : 1;
	return a->ino == b->ino ? 0 : a->ino < b->ino ? -1 : 1;
}

static struct sf_image *image_new(struct sf_images *images, const struct sf_key *key)
{
	struct sf_image *image = calloc(1, sizeof(*image));

	if (!image)
		return NULL;
	image->key = *key;
	image->owner = images;
	pthread_mutex_init(&image->lock, NULL);
	pthread_cond_init(&image->opened, NULL);
	return image;
}

static void image_free(void *opaque)
{
	struct sf_image *image = opaque;

	sf_view_put(image->view);
	pthread_cond_destroy(&image->opened);
	pthread_mutex_destroy(&image->lock);
	free(image);
}

int sf_image_open(struct sf_images *images, const struct sf_key *key, struct sf_image **out)
{
	struct sf_image *fresh = image_new(images, key), *image = NULL, **found;

	if (!fresh)
		return -ENOMEM;
	pthread_mutex_lock(&images->lock);
	found = tsearch(fresh, &images->open, by_key);
	if (found) {
		image = *found;
		image->refs++;
	}
	pthread_mutex_unlock(&images->lock);
	if (image != fresh)
		image_free(fresh);
	if (!image)
		return -ENOMEM;
	*out = image;
	return 0;
}

void sf_image_close(struct sf_image *image)
{
	struct sf_images *images = image->owner;
	bool last;

	pthread_mutex_lock(&images->lock);
	last = --image->refs == 0;
	if (last)
		tdelete(image, &images->open, by_key);
	pthread_mutex_unlock(&images->lock);
	if (last)
		image_free(image);
}

struct sf_image *sf_image_ref(struct sf_image *image)
{
	pthread_mutex_lock(&image->owner->lock);
	image->refs++;
	pthread_mutex_unlock(&image->owner->lock);
	return image;
}

const struct sf_key *sf_image_key(const struct sf_image *image)
{
	return &image->key;
}

void sf_images_init(struct sf_images *images, struct sf_fs *fs)
{
	*images = (struct sf_images){.fs = fs};
	pthread_mutex_init(&images->lock, NULL);
}

void sf_images_fini(struct sf_images *images)
{
	tdestroy(images->open, image_free);
	pthread_mutex_destroy(&images->lock);
}
