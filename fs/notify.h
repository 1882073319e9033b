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

/* What the kernel believes of one thing and must not any more. */
struct sf_doubt {
	struct sf_key key;
	bool data;           /* else its attributes alone */
	fuse_ino_t replaced; /* 0, or the node by which it was known, which is retired: its name leads to another one */
};

struct sf_notify {
	struct sf_fs *fs; /* borrowed */
	pthread_mutex_t lock;
	pthread_cond_t wake; /* poked || doubts || stopping */
	/* guarded by lock */
	bool poked, stopping;
	struct sf_doubt *doubts;
	size_t n_doubts, room;
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

/* There is a new inventory, a write that is done, or somebody to wake. From any thread; never waits. */
void sf_notify_poke(struct sf_notify *notify);
/* The attributes of this thing are other ones now. From any thread; never waits. */
void sf_notify_attr(struct sf_notify *notify, const struct sf_key *key);
/* So may its bytes be. Likewise. */
void sf_notify_data(struct sf_notify *notify, const struct sf_key *key);
/* Its bytes are others, and who has it open keeps what he has: @retired is the node that stood for it. Likewise. */
void sf_notify_replaced(struct sf_notify *notify, const struct sf_key *key, fuse_ino_t retired);

#endif
