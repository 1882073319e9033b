/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What the notifier has to do, as others leave it for it: on the ground floor, with no way back to them. */
#include "notify.h"
#include "vm/util/mem.h"

void sf_notify_init(struct sf_notify *notify, struct sf_fs *fs)
{
	*notify = (struct sf_notify){.fs = fs};
	pthread_mutex_init(&notify->lock, NULL);
	pthread_cond_init(&notify->wake, NULL);
}

void sf_notify_fini(struct sf_notify *notify)
{
	free(notify->doubts);
	pthread_cond_destroy(&notify->wake);
	pthread_mutex_destroy(&notify->lock);
}

void sf_notify_poke(struct sf_notify *notify)
{
	pthread_mutex_lock(&notify->lock);
	notify->poked = true;
	pthread_cond_signal(&notify->wake);
	pthread_mutex_unlock(&notify->lock);
}

static void add_doubt(struct sf_notify *notify, const struct sf_doubt *doubt)
{
	pthread_mutex_lock(&notify->lock);
	XGROW(notify->doubts, notify->n_doubts, notify->room);
	notify->doubts[notify->n_doubts++] = *doubt;
	pthread_cond_signal(&notify->wake);
	pthread_mutex_unlock(&notify->lock);
}

void sf_notify_attr(struct sf_notify *notify, const struct sf_key *key)
{
	add_doubt(notify, &(struct sf_doubt){.key = *key});
}

void sf_notify_data(struct sf_notify *notify, const struct sf_key *key)
{
	add_doubt(notify, &(struct sf_doubt){.key = *key, .data = true});
}

void sf_notify_replaced(struct sf_notify *notify, const struct sf_key *key, fuse_ino_t retired)
{
	add_doubt(notify, &(struct sf_doubt){.key = *key, .replaced = retired});
}
