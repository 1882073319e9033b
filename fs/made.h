/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * made.h: files that are made of images while they are read: an image as qcow2, what differs between two as an overlay or as a list.
 *
 * Nothing of them is stored. A file that is open has a layout (qcow2.h) or a text, made when it was opened. When a view of its images
 * had to be opened anew, because a merge changed what lies beneath, the layout is made again, and compared: a file that would be another
 * one now is -ESTALE for who has it open. Layouts of the last files, and the sizes of more, are kept.
 *
 * Errors: those of image.h and q2_export_new(); -EFBIG also for a list of more than 64 MiB, or an image whose
 * walk comes to no end.
 * Threads: any. What makes or reads waits as image.h says.
 */
#ifndef VS_MADE_H
#define VS_MADE_H

#include <sys/queue.h>

#include "image.h"

struct sf_made;
struct sf_made_file;

#define SF_MADE_RECENT 8
/* Units of q2_work for one question of a made file: some 20 seconds, or 15 TiB of disk in single clusters of 64 KiB. */
#define SF_MAKE_WORK (UINT64_C(1) << 30)

struct sf_mades {
	struct sf_images *images; /* borrowed */
	pthread_mutex_t lock;
	pthread_cond_t made; /* something that was being made is done */
	/* guarded by lock */
	struct sf_made *recent[SF_MADE_RECENT]; /* most recently used first */
	struct sf_made_size *sizes;             /* by a hash of their key */
	LIST_HEAD(, sf_in_hand) in_hand;        /* what is being made */
};

void sf_mades_init(struct sf_mades *mades, struct sf_images *images);
void sf_mades_fini(struct sf_mades *mades);

struct sf_made_stat {
	uint64_t size;
	int64_t changed_ns; /* of a whole disk; 0: when its image's snapshot was taken */
};

/* As far as somebody asked before, and nothing says that it has changed: at once. */
bool sf_made_known(struct sf_mades *mades, const struct sf_key *key, struct sf_made_stat *stat);

/* @place: of a made file. Gives a file, which reads nothing yet. */
struct sf_made_file *sf_made_open(struct sf_mades *mades, const struct sf_place *place);
void sf_made_close(struct sf_made_file *file);
/* Before it is read, once. */
int sf_made_begin(struct sf_made_file *file, struct sf_waiter *waiter, struct vs_err *err);
uint64_t sf_made_file_size(const struct sf_made_file *file);
/* A count, or negative errno. */
int64_t sf_made_read(struct sf_made_file *file, struct sf_waiter *waiter, char *buf, size_t len, uint64_t off, struct vs_err *err);
/* In the domain's log, as sf_image_complain(). */
void sf_made_complain(struct sf_made_file *file, const char *doing, int code, const struct vs_err *err);

/* Is it a thread of this process that asks? vm/ may come by one of these files, and is not to wait for what may wait for it. */
bool sf_made_is_us(pid_t tid);

/* Of the file at @place. Keeps nobody from writing to its images meanwhile. */
int sf_made_stat(struct sf_mades *mades, const struct sf_place *place, struct sf_waiter *waiter, struct sf_made_stat *stat, struct vs_err *err);

#endif
