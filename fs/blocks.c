/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "blocks.h"

#include <errno.h>

#include "image.h"
#include "vm/util/mem.h"
#include "waiter.h"

#define SLOTS 65536      /* 2 MiB, touched as needed */
#define QUEUE_MAX 1024
#define MAX_WORK (1u << 28)   /* units of q2_work: some seconds, or 32 TiB; what takes more is not counted at all: the estimate stays */
#define UNCOUNTABLE UINT64_MAX

struct sf_known {
	struct sf_key key; /* .ino 0: free */
	uint64_t allocated;
};

struct sf_to_count {
	STAILQ_ENTRY(sf_to_count) link;
	struct sf_image *image; /* a reference */
};

static struct sf_known *slot(const struct sf_blocks *blocks, const struct sf_key *key)
{
	uint64_t mixed = (key->ino ^ (key->domain << 9 | key->domain >> 55)) * 0x9e3779b97f4a7c15u;

	return &blocks->known[mixed >> 48 & (SLOTS - 1)];
}

void sf_blocks_init(struct sf_blocks *blocks, struct sf_notices *notices, atomic_bool *ending)
{
	*blocks = (struct sf_blocks){.notices = notices, .ending = ending};
	blocks->known = xcalloc(SLOTS, sizeof(*blocks->known));
	STAILQ_INIT(&blocks->queue);
	pthread_mutex_init(&blocks->lock, NULL);
	pthread_cond_init(&blocks->wake, NULL);
}

void sf_blocks_fini(struct sf_blocks *blocks)
{
	free(blocks->known);
	pthread_cond_destroy(&blocks->wake);
	pthread_mutex_destroy(&blocks->lock);
}

/* 1: known, 0: not yet, -1: cannot be counted. */
static int ask(struct sf_blocks *blocks, const struct sf_key *key, uint64_t *allocated)
{
	const struct sf_known *known;
	int answer = 0;

	pthread_mutex_lock(&blocks->lock);
	known = slot(blocks, key);
	if (sf_key_equal(&known->key, key)) {
		*allocated = known->allocated;
		answer = known->allocated == UNCOUNTABLE ? -1 : 1;
	}
	pthread_mutex_unlock(&blocks->lock);
	return answer;
}

bool sf_blocks_known(struct sf_blocks *blocks, const struct sf_key *key, uint64_t *allocated)
{
	uint64_t found;
	bool known = ask(blocks, key, &found) > 0;

	if (known)
		*allocated = found;
	return known;
}

static void learn(struct sf_blocks *blocks, const struct sf_key *key, uint64_t allocated)
{
	pthread_mutex_lock(&blocks->lock);
	*slot(blocks, key) = (struct sf_known){.key = *key, .allocated = allocated};
	pthread_mutex_unlock(&blocks->lock);
	sf_notices_attr(blocks->notices, key);
}

void sf_blocks_forget(struct sf_blocks *blocks, const struct sf_key *key)
{
	struct sf_known *known;

	pthread_mutex_lock(&blocks->lock);
	known = slot(blocks, key);
	if (sf_key_equal(&known->key, key))
		known->key.ino = 0;
	pthread_mutex_unlock(&blocks->lock);
}

/* ---------------------------------------------------------------- counting */

struct count {
	struct sf_waiter waiter;
	uint64_t allocated;
};

static int64_t count_view(struct sf_view *view, void *opaque, struct vs_err *err)
{
	struct count *count = opaque;

	return q2_view_allocated(view->q2, &count->waiter.work, &count->allocated, err);
}

static int count_now(struct sf_blocks *blocks, struct sf_image *image)
{
	struct count count;
	int rc;

	sf_waiter_init(&count.waiter, blocks->ending, NULL, MAX_WORK);
	rc = (int)sf_image_use(image, &count.waiter, NULL, count_view, &count, NULL);
	if (rc == 0)
		learn(blocks, sf_image_key(image), count.allocated);
	return rc;
}

static void item_free(struct sf_to_count *item)
{
	sf_image_close(item->image);
	free(item);
}

static void *count_thread(void *opaque)
{
	struct sf_blocks *blocks = opaque;

	pthread_mutex_lock(&blocks->lock);
	for (;;) {
		struct sf_to_count *next = STAILQ_FIRST(&blocks->queue);
		uint64_t allocated;

		if (blocks->stopping)
			break;
		if (!next) {
			pthread_cond_wait(&blocks->wake, &blocks->lock);
			continue;
		}
		STAILQ_REMOVE_HEAD(&blocks->queue, link);
		blocks->n_queued--;
		pthread_mutex_unlock(&blocks->lock);
		if (!ask(blocks, sf_image_key(next->image), &allocated) &&
		    count_now(blocks, next->image) == -E2BIG)
			learn(blocks, sf_image_key(next->image), UNCOUNTABLE);
		item_free(next);
		pthread_mutex_lock(&blocks->lock);
	}
	pthread_mutex_unlock(&blocks->lock);
	return NULL;
}

void sf_blocks_count(struct sf_blocks *blocks, struct sf_image *image)
{
	struct sf_to_count *item, *queued;
	uint64_t allocated;

	if (ask(blocks, sf_image_key(image), &allocated))
		return;
	item = xcalloc(1, sizeof(*item));
	item->image = sf_image_ref(image);
	pthread_mutex_lock(&blocks->lock);
	if (!blocks->started && !blocks->stopping)
		blocks->started = !pthread_create(&blocks->thread, NULL, count_thread, blocks);
	STAILQ_FOREACH(queued, &blocks->queue, link)
		if (queued->image == image)
			break;
	if (blocks->started && !queued && blocks->n_queued < QUEUE_MAX) {
		STAILQ_INSERT_TAIL(&blocks->queue, item, link);
		blocks->n_queued++;
		item = NULL;
		pthread_cond_signal(&blocks->wake);
	}
	pthread_mutex_unlock(&blocks->lock);
	if (item)
		item_free(item);
}

void sf_blocks_stop(struct sf_blocks *blocks)
{
	struct sf_to_count *item;

	pthread_mutex_lock(&blocks->lock);
	blocks->stopping = true;
	pthread_cond_signal(&blocks->wake);
	pthread_mutex_unlock(&blocks->lock);
	if (blocks->started)
		pthread_join(blocks->thread, NULL);
	while ((item = STAILQ_FIRST(&blocks->queue))) {
		STAILQ_REMOVE_HEAD(&blocks->queue, link);
		item_free(item);
	}
}
