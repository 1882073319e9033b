/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blocks.h: how many bytes of an image are stored, which is its st_blocks.
 *
 * Finding out means walking the image's whole map, which lookup, getattr and open must not do. So it is done by a thread once an image is
 * opened, after which the notifier makes the kernel ask again. What was
 * found is remembered by identity in a table of fixed size, where a newcomer may push out an old one: then the
 * estimate is back until the next open.
 */
#ifndef VS_BLOCKS_H
#define VS_BLOCKS_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "fuse_api.h"
#include "notices.h"
#include "tree.h"

struct sf_image;

struct sf_blocks {
	/* borrowed */
	struct sf_notices *notices; /* where the kernel is to ask again */
	atomic_bool *ending;        /* the session's end */
	pthread_mutex_t lock;
	pthread_cond_t wake; /* queue || stopping */
	/* guarded by lock */
	struct sf_known *known;
	STAILQ_HEAD(, sf_to_count) queue;
	size_t n_queued;
	bool stopping, started;
	pthread_t thread;
};

void sf_blocks_init(struct sf_blocks *blocks, struct sf_notices *notices, atomic_bool *ending);
/* Ends and joins the thread, which gives up the image that it is at: when the session is `ending`. */
void sf_blocks_stop(struct sf_blocks *blocks);
void sf_blocks_fini(struct sf_blocks *blocks);

bool sf_blocks_known(struct sf_blocks *blocks, const struct sf_key *key, uint64_t *allocated);
/* Its content is another one now. */
void sf_blocks_forget(struct sf_blocks *blocks, const struct sf_key *key);

/* For an image that was just opened: it is counted soon. Where very many wait already it is not: the estimate stays until the next open. */
void sf_blocks_count(struct sf_blocks *blocks, struct sf_image *image);

#endif
