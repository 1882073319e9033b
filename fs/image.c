/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A snapshot that exists throughout a read never errors
 * -----------------------------------------------------
 * qcow2/ says -ESTALE when what it opened is not what it sees. That is true of a snapshot that was deleted, and also of
 * one whose entry moved because another one was deleted, or whose layer was re-pointed by a commit below. Only the
 * inventory of vm/ can tell these apart, and an inventory may be older than what happened. So:
 *
 *	view is stale ──► where is it in the current inventory?
 *	                    there, readable ──► open it anew ──► works: go on, a moved record cost one open
 *	                    there, busy     ──► EBUSY; where that is brief after three seconds
 *	                                                              │
 *	                    not there, or stale, or the open says so ◄┘
 *	                       └─► ask for an inventory that was begun after this moment (vm_refresh), look again,
 *	                           twice at most ──► ESTALE: it is gone
 *
 * A file that cannot be opened because it is no image, though the inventory took it for one, was cut short or overwritten
 * meanwhile: the next inventory tells what that means for the snapshot. If it still takes it for one, its metadata contradicts
 * itself, which is EUCLEAN for a reader: he has passed no invalid argument, and no file is too big for him.
 *
 * Rounds that do open a view but find it stale at once are churn (somebody makes and deletes snapshots all the time);
 * they are limited by time only. All of it ends when nobody waits for the answer any more.
 *
 * Editions
 * --------
 * A base that is replaced by another file under the same name (a rename over it) leaves open views what they were: they have
 * the old one open. New ones stand on the new one, and have other bytes. Two things would make one reader see both: an open
 * file whose view is opened anew for some reason, and the kernel's pages, which belong to the inode and not to the open
 * file. So a view that is opened is compared with the one before it: if a path of both leads to another file, it is the
 * next *edition* of the image. Who has read an earlier one gets ESTALE from then on, and the node of the image is retired
 * before the view can be used, so that new opens come by another inode, whose pages are theirs. Nobody needs the old
 * one's. It is noticed when the inventory knows another file there, and at every open(2), which looks for itself.
 *
 * A file that was written where it lies is another matter. It may be what a commit does beneath a layer that has all of it,
 * and then the bytes are the same: the library says -ESTALE, and the inventory is asked, as above. The kernel's pages are
 * dropped in any case where the bytes may be others.
 *
 * What the inventory says also counts while a view still works: a snapshot that is now `busy` or `stale` there is not
 * read. One that has vanished from it is read as far as its bytes are there. The verdict is kept with the serial of the
 * tree it came from, so a read costs one atomic load for it.
 */
#include "image.h"

#include <assert.h>
#include <errno.h>
#include <search.h>
#include <string.h>

#include "clock.h"
#include "show.h"
#include "vm/util/mem.h"

#define MAX_REFRESHES 2
#define REFRESH_MS 2000       /* beside the refresh interval itself, */
#define REFRESH_MOST_S 8      /* as far as that counts: this wait is the one that no signal ends */
#define LOOK_NS 100000000     /* whether somebody still waits, while another thread opens the image */
#define CHURN_NS 10000000000  /* give up when an image did not hold still for ten seconds */
#define CHURN_SLEEP_NS 1000000
#define BRIEF_NS 3000000000 /* wait for a command of ours that ends a merge beneath */
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
	struct origin *origins;        /* of the last view: its files */
	size_t n_origins;
	uint64_t content;              /* and q2_view_content(); 0: there was none */
	unsigned edition;              /* from 1 */
	int complained;                /* the error last logged, */
	int64_t complained_ns;         /* and when */
	/* atomic: serial of the tree << 2 | enum verdict */
	_Atomic uint64_t verdict;
};

/* LOST: looked for with a fresh inventory and not found; nobody looks again before the inventory changes. */
enum verdict { READABLE, BUSY, GONE, LOST };

/* ---------------------------------------------------------------- editions */

struct origin {
	uint64_t path; /* a hash */
	uint64_t dev, ino;
};

/* Gives the list, of *n. */
static struct origin *list_origins(const struct q2_view *q2, size_t *n)
{
	struct origin *list = NULL;
	struct q2_stamp stamp;
	const char *path;
	size_t room = 0;

	for (*n = 0; q2_view_file(q2, *n, &path, &stamp); (*n)++) {
		XGROW(list, *n, room);
		list[*n] = (struct origin){vm_ino(0, path), stamp.dev, stamp.ino};
	}
	return list;
}

static bool is_replaced(const struct sf_image *image, const struct origin *now, size_t n)
{
	for (size_t i = 0; i < image->n_origins; i++)
		for (size_t k = 0; k < n; k++) {
			const struct origin *was = &image->origins[i], *is = &now[k];

			if (was->path == is->path && (was->dev != is->dev || was->ino != is->ino))
				return true;
		}
	return false;
}

/* What the kernel is to be told of a view that was opened, once no lock is held. */
struct news {
	bool data;           /* its pages may be of other bytes */
	fuse_ino_t replaced; /* the node that is retired */
};

/* Takes @origins. */
static void take_view_locked(struct sf_image *image, struct sf_view *view, struct origin *origins, size_t n, struct news *news)
{
	struct sf_nodes *nodes = image->owner->nodes;

	news->data = image->content && image->content != view->content;
	if (is_replaced(image, origins, n)) {
		image->edition++;
		news->replaced = sf_node_id(nodes, &image->key);
		if (news->replaced)
			sf_node_retire(nodes, news->replaced);
	}
	free(image->origins);
	image->origins = origins;
	image->n_origins = n;
	image->content = view->content;
	view->edition = image->edition;
	image->view = view;
}

static void tell_news(struct sf_image *image, const struct news *news)
{
	struct sf_notices *notices = image->owner->notices;

	if (news->replaced)
		sf_notices_replaced(notices, &image->key, news->replaced);
	else if (news->data)
		sf_notices_data(notices, &image->key);
}

/* ---------------------------------------------------------------- views */

static const struct vm_disk *find_disk(const struct sf_tree *tree, const struct sf_key *key, const char **uuid)
{
	struct sf_dir *dir = sf_tree_dir_by_ino(tree, key->domain);
	const struct sf_entry *entry = dir ? sf_dir_find_ino(dir, SF_IMAGE, key->ino) : NULL;

	if (!entry)
		return NULL;
	if (uuid)
		*uuid = dir->domain->uuid;
	return entry->disk;
}

/* Opens the image as the current inventory describes it. */
static int open_fresh(struct sf_image *image, struct sf_waiter *waiter, struct sf_view **out, struct vs_err *err)
{
	struct sf_images *images = image->owner;
	struct sf_tree *tree = sf_world_get(images->world);
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
		rc = sf_view_open(images->views, uuid, disk, &waiter->work, out, err);
	sf_world_put(images->world, tree);
	return rc;
}

/* Another thread opens the view; it may take long. */
static int await_opened_locked(struct sf_image *image, struct sf_waiter *waiter)
{
	while (!image->view && image->opening) {
		if (sf_waiter_gone(waiter))
			return -EINTR;
		sf_clock_wait(&image->opened, &image->lock, sf_clock_ns() + LOOK_NS);
	}
	return 0;
}

/* The view with a reference for the caller; opened here where there is none, by one thread for all. */
static int view_get_any(struct sf_image *image, struct sf_waiter *waiter, struct sf_view **out, struct vs_err *err)
{
	struct origin *origins = NULL;
	struct sf_view *view = NULL;
	struct news news = {0};
	size_t n = 0;
	int rc;

	pthread_mutex_lock(&image->lock);
	rc = await_opened_locked(image, waiter);
	if (rc == 0 && !image->view) {
		image->opening = true;
		pthread_mutex_unlock(&image->lock);
		rc = open_fresh(image, waiter, &view, err);
		if (rc == 0)
			origins = list_origins(view->q2, &n);
		pthread_mutex_lock(&image->lock);
		image->opening = false;
		pthread_cond_broadcast(&image->opened);
		if (rc == 0)
			take_view_locked(image, vs_steal(view), origins, n, &news);
	}
	if (rc == 0) {
		*out = image->view;
		sf_view_ref(image->view);
	}
	pthread_mutex_unlock(&image->lock);
	sf_view_put(view);
	tell_news(image, &news);
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
static int view_get(struct sf_image *image, struct sf_waiter *waiter, struct sf_view **out, struct vs_err *err)
{
	int rc = view_get_any(image, waiter, out, err);

	if (rc < 0 || !sf_view_outdated(*out))
		return rc;
	view_drop(image, *out);
	sf_view_put(*out);
	return view_get_any(image, waiter, out, err);
}

/* ---------------------------------------------------------------- what the inventory says */

/* Does the inventory know another file where the view has one open? */
static bool lies_elsewhere(const struct sf_view *view, const struct vm_disk *disk)
{
	struct q2_stamp stamp;
	const char *path;

	for (size_t i = 0; i < disk->n_stamps && disk->chain[i] && q2_view_file(view->q2, i, &path, &stamp); i++)
		if (!strcmp(path, disk->chain[i]) && disk->stamps[i].ino &&
		    (disk->stamps[i].dev != stamp.dev || disk->stamps[i].ino != stamp.ino))
			return true;
	return false;
}

/* The view, if there is one, with a reference. */
static struct sf_view *view_peek(struct sf_image *image)
{
	struct sf_view *view;

	pthread_mutex_lock(&image->lock);
	view = image->view;
	if (view)
		sf_view_ref(view);
	pthread_mutex_unlock(&image->lock);
	return view;
}

static void drop_if_replaced(struct sf_image *image, const struct vm_disk *disk)
{
	struct sf_view *view = view_peek(image);

	if (view && lies_elsewhere(view, disk))
		view_drop(image, view);
	sf_view_put(view);
}

static enum verdict ask_tree(struct sf_image *image, uint64_t *serial)
{
	struct sf_world *world = image->owner->world;
	struct sf_tree *tree = sf_world_get(world);
	const struct vm_disk *disk = find_disk(tree, &image->key, NULL);
	enum verdict verdict = READABLE;

	if (disk && disk->state == VM_BUSY)
		verdict = BUSY;
	else if (disk && disk->state == VM_STALE)
		verdict = GONE;
	else if (disk)
		drop_if_replaced(image, disk);
	*serial = tree->serial;
	sf_world_put(world, tree);
	return verdict;
}

static int check_verdict(struct sf_image *image, bool *lost, struct vs_err *err)
{
	uint64_t kept = atomic_load(&image->verdict), serial = kept >> 2;
	enum verdict verdict = (enum verdict)(kept & 3);

	if (serial != atomic_load(&image->owner->world->serial)) {
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
	struct sf_waiter *waiter;
	atomic_uint *edition;
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

/* What lies there breaks a rule of the format. */
static bool is_no_image(int rc)
{
	return rc == -EINVAL || rc == -EFBIG;
}

/* An open file that has read nothing yet reads this edition from now on. */
static bool is_edition(atomic_uint *edition, const struct sf_view *view)
{
	unsigned none = 0;

	return !edition || atomic_compare_exchange_strong(edition, &none, view->edition) || none == view->edition;
}

static int try_once(struct sf_image *image, struct search *search, sf_view_use *use, void *opaque, int64_t *result,
		    struct vs_err *err)
{
	struct sf_view *view = NULL;
	int rc = check_verdict(image, &search->lost, err);

	search->opened = false;
	if (rc == 0)
		rc = view_get(image, search->waiter, &view, err);
	if (rc < 0)
		return rc;
	search->opened = true;
	search->lost = !is_edition(search->edition, view);
	*result = search->lost ? vs_err_set(err, -ESTALE, "a file that it stands on was replaced by another one") :
				 use(view, opaque, err);
	if (may_have_moved(*result) && !search->lost)
		view_drop(image, view);
	sf_view_put(view);
	return *result < 0 ? (int)*result : 0;
}

static int give_up(struct sf_image *image, const struct search *search)
{
	if (search->refresh_rc < 0)
		return search->refresh_rc;
	atomic_store(&image->verdict, atomic_load(&image->owner->world->serial) << 2 | LOST);
	return -ESTALE;
}

/* After a round that failed: prepares another one, or says why there is none. */
static int look_again(struct sf_image *image, struct search *search, int rc)
{
	struct sf_images *images = image->owner;

	if (sf_waiter_gone(search->waiter))
		return -EINTR;
	if (search->lost)
		return -ESTALE;
	if (search->opened || rc == -EAGAIN) {
		if (sf_clock_ns() - search->started_ns > CHURN_NS)
			return -EBUSY;
		sf_clock_nap(CHURN_SLEEP_NS);
		return 0;
	}
	if (is_no_image(rc) && search->refreshes)
		return -EUCLEAN;
	if (search->refreshes++ == MAX_REFRESHES)
		return give_up(image, search);
	search->refresh_rc = vm_refresh(images->world->vm, images->refresh_ms);
	return 0;
}

/* A command of ours ends a merge beneath it, most likely: is it worth to try again? */
static bool await_brief(struct sf_image *image, const struct search *search)
{
	struct sf_world *world = image->owner->world;
	struct sf_tree *tree = sf_world_get(world);
	const struct vm_disk *disk = find_disk(tree, &image->key, NULL);
	bool brief = disk && (disk->state != VM_BUSY || disk->brief);

	sf_world_put(world, tree);
	if (!brief || sf_waiter_gone(search->waiter) || sf_clock_ns() - search->started_ns > BRIEF_NS)
		return false;
	sf_clock_nap(CHURN_SLEEP_NS);
	return true;
}

int64_t sf_image_use(struct sf_image *image, struct sf_waiter *waiter, atomic_uint *edition, sf_view_use *use, void *opaque,
		     struct vs_err *err)
{
	struct search search = {.waiter = waiter, .edition = edition, .started_ns = sf_clock_ns()};
	int64_t result;

	for (;;) {
		struct vs_err why = {0};
		int rc = try_once(image, &search, use, opaque, &result, &why);

		if (rc == 0)
			return result;
		if (rc == -EBUSY && !search.opened && await_brief(image, &search))
			continue;
		if (may_have_moved(rc) || (is_no_image(rc) && !search.opened)) {
			int last = look_again(image, &search, rc);

			if (!last)
				continue;
			rc = last;
		}
		if (err && why.code)
			*err = why;
		return sf_waiter_errno(waiter, rc);
	}
}

/* ---------------------------------------------------------------- complaints */

static bool is_due(struct sf_image *image, int code)
{
	int64_t now = sf_clock_ns();
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
	struct sf_world *world = image->owner->world;
	struct sf_place place;
	struct sf_tree *tree;

	if (!is_due(image, code))
		return;
	tree = sf_world_get(world);
	if (!sf_place_find(tree, &image->key, &place)) {
		vs_autofree char *why = sf_show_dup(vs_err_text(err, code), false);

		vm_log(place.dir->domain->log, "cannot %s %s: %s", doing, place.entry->name, why);
	}
	sf_world_put(world, tree);
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
	struct sf_image *image = xcalloc(1, sizeof(*image));

	image->key = *key;
	image->owner = images;
	image->edition = 1;
	pthread_mutex_init(&image->lock, NULL);
	sf_clock_cond_init(&image->opened);
	return image;
}

static void image_free(void *opaque)
{
	struct sf_image *image = opaque;

	sf_view_put(image->view);
	free(image->origins);
	pthread_cond_destroy(&image->opened);
	pthread_mutex_destroy(&image->lock);
	free(image);
}

struct sf_image *sf_image_open(struct sf_images *images, const struct sf_key *key)
{
	struct sf_image *fresh = image_new(images, key), *image, **found;

	pthread_mutex_lock(&images->lock);
	found = tsearch(fresh, &images->open, by_key);
	if (!found)
		xoom();
	image = *found;
	image->refs++;
	pthread_mutex_unlock(&images->lock);
	if (image != fresh)
		image_free(fresh);
	return image;
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

void sf_images_init(struct sf_images *images, struct sf_world *world, struct sf_views *views, struct sf_nodes *nodes,
		    struct sf_notices *notices, double refresh_s)
{
	*images = (struct sf_images){
		.world = world,
		.views = views,
		.nodes = nodes,
		.notices = notices,
		.refresh_ms = REFRESH_MS + (unsigned)((refresh_s < REFRESH_MOST_S ? refresh_s : REFRESH_MOST_S) * 1000),
	};
	pthread_mutex_init(&images->lock, NULL);
}

void sf_images_fini(struct sf_images *images)
{
	tdestroy(images->open, image_free);
	pthread_mutex_destroy(&images->lock);
}
