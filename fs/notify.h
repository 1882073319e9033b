/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * notify.h: the thread that tells the kernel what it must no longer believe, whom to wake, and then which writes are done.
 *
 * Everything else may answer with long timeouts because of it. Requests never wait for it (ops.c says why): what it has to do
 * is left for it in a list (notices.h).
 */
#ifndef VS_NOTIFY_H
#define VS_NOTIFY_H

#include "blocks.h"
#include "handle.h"
#include "node.h"
#include "notices.h"
#include "write.h"

struct sf_notify {
	/* borrowed; of who opens it */
	struct sf_notices *notices;
	struct sf_world *world;
	struct sf_nodes *nodes;
	struct sf_blocks *blocks;
	struct sf_handles *handles;
	struct sf_writes *writes;
	/* its own; all zero before it is started */
	struct fuse_session *session;
	struct sf_tree *told; /* what the kernel believes in: a reference */
	pthread_t thread;
	bool started;
};

/* After the mount, before its first request. */
int sf_notify_start(struct sf_notify *notify, struct fuse_session *session);
/* While requests are still answered. */
void sf_notify_stop(struct sf_notify *notify);

#endif
