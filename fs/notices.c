/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "notices.h"

#include "vm/util/mem.h"

void sf_notices_init(struct sf_notices *notices)
{
	*notices = (struct sf_notices){0};
	pthread_mutex_init(&notices->lock, NULL);
	pthread_cond_init(&notices->wake, NULL);
}

void sf_notices_fini(struct sf_notices *notices)
{
	free(notices->list);
	pthread_cond_destroy(&notices->wake);
	pthread_mutex_destroy(&notices->lock);
}

void sf_notices_poke(struct sf_notices *notices)
{
	pthread_mutex_lock(&notices->lock);
	notices->poked = true;
	pthread_cond_signal(&notices->wake);
	pthread_mutex_unlock(&notices->lock);
}

static void add(struct sf_notices *notices, const struct sf_notice *notice)
{
	pthread_mutex_lock(&notices->lock);
	XGROW(notices->list, notices->n, notices->room);
	notices->list[notices->n++] = *notice;
	pthread_cond_signal(&notices->wake);
	pthread_mutex_unlock(&notices->lock);
}

void sf_notices_attr(struct sf_notices *notices, const struct sf_key *key)
{
	add(notices, &(struct sf_notice){.key = *key});
}

void sf_notices_data(struct sf_notices *notices, const struct sf_key *key)
{
	add(notices, &(struct sf_notice){.key = *key, .data = true});
}

void sf_notices_replaced(struct sf_notices *notices, const struct sf_key *key, fuse_ino_t retired)
{
	add(notices, &(struct sf_notice){.key = *key, .replaced = retired});
}

bool sf_notices_take(struct sf_notices *notices, struct sf_notice **list, size_t *n)
{
	bool stopping;

	pthread_mutex_lock(&notices->lock);
	while (!notices->poked && !notices->n && !notices->stopping)
		pthread_cond_wait(&notices->wake, &notices->lock);
	stopping = notices->stopping;
	if (!stopping) {
		notices->poked = false;
		*list = vs_steal(notices->list);
		*n = notices->n;
		notices->n = notices->room = 0;
	}
	pthread_mutex_unlock(&notices->lock);
	return !stopping;
}

void sf_notices_stop(struct sf_notices *notices)
{
	pthread_mutex_lock(&notices->lock);
	notices->stopping = true;
	pthread_cond_signal(&notices->wake);
	pthread_mutex_unlock(&notices->lock);
}
