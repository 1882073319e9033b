/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * image.h: open images: one view for all who read the same one, found again when it moves.
 *
 * Errors, beside those of qcow2.h:
 *   -EBUSY   a job is writing beneath this snapshot, or its image never held still
 *   -ESTALE  the snapshot is gone: looked for in an inventory that was begun after it went missing
 *   -EHOSTDOWN, -ETIMEDOUT  it is not where it was, and libvirt could not be asked
 *   -EINTR, -ENOTCONN  nobody waits for it any more
 * Threads: any. Opening, reading and looking again may wait for files and for vm_refresh(); no lock is held meanwhile.
 */
#ifndef VS_IMAGE_H
#define VS_IMAGE_H

#include "node.h"
#include "notices.h"
#include "place.h"
#include "view.h"
#include "waiter.h"

struct sf_image;

struct sf_images {
	/* borrowed */
	struct sf_world *world;     /* what an image is now */
	struct sf_views *views;
	struct sf_nodes *nodes;     /* whose node is retired when the image has other bytes, */
	struct sf_notices *notices; /* and where that is told */
	/* immutable */
	unsigned refresh_ms;        /* for one vm_refresh() */
	pthread_mutex_t lock;
	void *open;                 /* guarded by lock: tsearch(3) tree of struct sf_image, by key */
};

/* @refresh_s: the refresh interval. */
void sf_images_init(struct sf_images *images, struct sf_world *world, struct sf_views *views, struct sf_nodes *nodes,
		    struct sf_notices *notices, double refresh_s);
/* Closes what is still open. */
void sf_images_fini(struct sf_images *images);

/* Gives the image of that key, as one more open file. Opens nothing yet. */
struct sf_image *sf_image_open(struct sf_images *images, const struct sf_key *key);
struct sf_image *sf_image_ref(struct sf_image *image);
void sf_image_close(struct sf_image *image);
const struct sf_key *sf_image_key(const struct sf_image *image);

/*
 * Calls @use with a view of the image until it answers something else than that the view is not current any more, or
 * until the snapshot is gone for good. @use returns a count >= 0 or negative errno; it may be called several times, but
 * not again after it succeeded. Returns what it returned.
 *
 * @edition: which one an open file reads, 0 before its first use. When a file that the image stands on is found to be another
 * one, that is the next edition, with other bytes: -ESTALE for who read the one before. NULL: any.
 */
typedef int64_t sf_view_use(struct sf_view *view, void *opaque, struct vs_err *err);
int64_t sf_image_use(struct sf_image *image, struct sf_waiter *waiter, atomic_uint *edition, sf_view_use *use, void *opaque,
		     struct vs_err *err);

/* Says in the domain's log why a read or an open failed, but not a thousand times. */
void sf_image_complain(struct sf_image *image, const char *doing, int code, const struct vs_err *err);

#endif
