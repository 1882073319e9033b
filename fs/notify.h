/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * notify.h: the thread that tells the kernel what it must no longer believe, whom to wake, and then which writes are done.
 *
 * Everything else may answer with long timeouts because of it. Requests never wait for it (ops.c says why).
 */
#ifndef VS_NOTIFY_H
#define VS_NOTIFY_H

#include "fuse_api.h"
#include "tree.h"

struct sf_fs;

struct sf_notify {
	struct sf_fs *fs; /* borrowed */
	pthread_mutex_t lock;
	pthread_cond_t wake; /* poked || attrs || stopping */
	/* guarded by lock */
	bool poked, stopping;
	struct sf_key *attrs; /* things whose attributes alone are to be fetched anew */
	size_t n_attrs, room;
	/* the thread's own */
	struct fuse_session *session;
	struct sf_tree *told; /* what the kernel believes in: a reference */
	pthread_t thread;
	bool started;
};

void sf_notify_init(struct sf_notify *notify, struct sf_fs *fs);
void sf_notify_fini(struct sf_notify *notify);

/* After the mount, before its first request. */
int sf_notify_start(struct sf_notify *notify, struct fuse_session *session);
/* While requests are still answered. */
void sf_notify_stop(struct sf_notify *notify);

/* There is a new picture, a write that is done, or somebody to wake. From any thread; never waits. */
void sf_notify_poke(struct sf_notify *notify);
/* The attributes of this thing are other ones now. From any thread; never waits. */
void sf_notify_attr(struct sf_notify *notify, const struct sf_key *key);

#endif
