/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * now.h: open files of now/: a disk as it is at this instant.
 *
 * Of a domain that runs: as it was when the backup job began in which all have part who read that domain's now/ (vm.h), fetched from its NBD
 * server. Of one that is shut off: read from its images, without any lock, so that it can be started; what is read then is what
 * was there, or -ESTALE.
 *
 * Errors are in the domain's log when these return, but those that say it all:
 *   -EBUSY   another job is there, or a command is at work
 *   -ESTALE  the domain was started, or somebody else writes to the image
 *   -ENOSPC, -EIO  the backup job has come to its end
 *   -EROFS   a running domain, by a read-only mount
 *   -EINTR, -ENOTCONN  nobody waits for it any more
 * Threads: any; those that wait say so by a waiter.
 */
#ifndef VS_NOW_H
#define VS_NOW_H

#include "fs/nbd/nbd.h"
#include "place.h"
#include "view.h"
#include "waiter.h"

struct sf_now;

/* @place: of a file of now/. Gives one that is not begun yet. */
struct sf_now *sf_now_open(struct sf_world *world, struct sf_views *views, const struct sf_place *place);
void sf_now_close(struct sf_now *now); /* NULL is fine */

/* Before it is read, once. Waits for the job to begin. */
int sf_now_begin(struct sf_now *now, struct sf_waiter *waiter);
/* A count, short only at the end of the disk. */
int64_t sf_now_read(struct sf_now *now, struct sf_waiter *waiter, char *buf, size_t len, uint64_t off);
/* The same without waiting and without a copy, where that can be; else -EAGAIN. What is lent keeps @now open until it is returned. */
int64_t sf_now_lend(struct sf_now *now, size_t len, uint64_t off, struct nb_span *span);
void sf_now_return(struct sf_now *now, const struct nb_span *span);
/* As lseek(2) with SEEK_DATA or SEEK_HOLE. */
int64_t sf_now_seek(struct sf_now *now, struct sf_waiter *waiter, uint64_t off, int whence);

#endif
