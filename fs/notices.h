/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * notices.h: what the notifier (notify.h) has to do, as others leave it for it. They know this list and not who reads it.
 *
 * Threads: any. Nothing here waits, but sf_notices_take().
 */
#ifndef VS_NOTICES_H
#define VS_NOTICES_H

#include "fuse_api.h"
#include "tree.h"

/* What the kernel believes of one thing and must not any more. */
struct sf_notice {
	struct sf_key key;
	bool data;           /* else its attributes alone */
	fuse_ino_t replaced; /* 0, or the node by which it was known, which is retired: its name leads to another one */
};

struct sf_notices {
	pthread_mutex_t lock;
	pthread_cond_t wake; /* poked || n || stopping */
	/* guarded by lock */
	bool poked, stopping;
	struct sf_notice *list;
	size_t n, room;
};

void sf_notices_init(struct sf_notices *notices);
void sf_notices_fini(struct sf_notices *notices);

/* There is a new inventory, a write that is done, or somebody to wake. */
void sf_notices_poke(struct sf_notices *notices);
/* The attributes of this thing are other ones now. */
void sf_notices_attr(struct sf_notices *notices, const struct sf_key *key);
/* So may its bytes be. */
void sf_notices_data(struct sf_notices *notices, const struct sf_key *key);
/* Its bytes are others, and who has it open keeps what he has: @retired is the node that stood for it. */
void sf_notices_replaced(struct sf_notices *notices, const struct sf_key *key, fuse_ino_t retired);

/* The notifier: waits until there is something to do, and gives the list, of *n. False: it is to stop. */
bool sf_notices_take(struct sf_notices *notices, struct sf_notice **list, size_t *n);
void sf_notices_stop(struct sf_notices *notices);

#endif
