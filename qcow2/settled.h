/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * settled.h: when a file's times are what they were at the last full check, and that check came some time after the last write, then nothing
 * was written since, and the check would find the same again. A write that starts later sets a later mtime before it changes a byte. Block
 * devices have no such mtime, nor have files of other hosts.
 * Threads: any.
 */
#ifndef Q2_SETTLED_H
#define Q2_SETTLED_H

#include <pthread.h>

#include "qcow2.h"

/* Two writes within one tick of the clock leave the same mtime: it tells later writes apart only from then on after the last one. */
#define Q2_SETTLE_NS INT64_C(20000000)

struct q2_settled {
	pthread_mutex_t lock;
	int64_t checked_ns, mtime_ns, ctime_ns; /* guarded by lock: of the last check; 0: none yet */
};

void q2_settled_init(struct q2_settled *s);
void q2_settled_fini(struct q2_settled *s);

/* CLOCK_REALTIME, as files have it. */
int64_t q2_now_ns(void);

/* Was nothing written since the last check? @now: the file's stamp. */
bool q2_settled_still(struct q2_settled *s, struct q2_file *f, const struct q2_stamp *now);
/* A check that began at @when_ns has found all as it should be; before it the stamp was @now. */
void q2_settled_remember(struct q2_settled *s, const struct q2_stamp *now, int64_t when_ns);

#endif
