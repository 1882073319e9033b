/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * fs.h: one mounted file system: everything a request may reach. Nothing in it knows the whole: each part is handed what it uses.
 *
 * Order of life: sf_fs_open(); a session is made and mounted; sf_notify_start(), sf_writes_start(); requests;
 * sf_writes_stop(), sf_notify_stop(); the last request; sf_makers_stop(); sf_writes_abandon(); sf_fs_close().
 */
#ifndef VS_FS_H
#define VS_FS_H

#include "blocks.h"
#include "handle.h"
#include "image.h"
#include "made.h"
#include "makers.h"
#include "metrics.h"
#include "node.h"
#include "notices.h"
#include "notify.h"
#include "options.h"
#include "plan.h"
#include "place.h"
#include "write.h"

struct sf_fs {
	/* immutable after open */
	const struct sf_options *options;
	struct vm *vm;
	uint64_t generation; /* of every node: NFS handles of an earlier mount are not taken for ours */
	/* atomic */
	atomic_bool ending;  /* nothing is begun or gone on with that may take long */
	/* each with its own lock */
	struct sf_world world;
	struct sf_nodes nodes;
	struct sf_views views;
	struct sf_images images;
	struct sf_mades mades;
	struct sf_metrics metrics;
	struct sf_makers makers, counters, instants, records; /* of qcow2/ and diff/; of `space`; of now/; of what was not read yet */
	struct sf_blocks blocks;
	struct sf_handles handles;
	struct sf_plans plans;
	struct sf_notices notices;
	struct sf_notify notify;
	struct sf_writes *writes;
};

/* Opens the source and builds the first tree. Starts threads: fork before. Gives *out. */
int sf_fs_open(const struct sf_options *options, struct sf_fs **out, struct vs_err *err);
/* After the last request. Handles that are still open are closed. False: a thread that hangs in libvirt is left, with all that it may
 * use, the options included: the process is to end by _exit(2). */
bool sf_fs_close(struct sf_fs *fs);

#endif
