/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * metrics.h: `.metrics` of the mount: what monitoring asks for, in the OpenMetrics text format 1.0.
 *
 * It is made of the current inventory and of counters, and waits for nothing. Counters begin with the mount.
 * Threads: any.
 */
#ifndef VS_METRICS_H
#define VS_METRICS_H

#include <stdatomic.h>

#include "text.h"
#include "tree.h"
#include "view.h"

enum { SF_BY_LOCK, SF_BY_LEASE };

struct sf_metrics {
	atomic_uint_fast64_t read_bytes; /* for readers of images, and of what is made of them; counted before they have them */
	atomic_uint_fast64_t spliced_bytes[2]; /* of these: handed on as they lie in files, by what kept them still; counted when they have them */
	atomic_size_t len;               /* of the text as it was read last; 0: not yet */
};

/* What the file says now. Gives. */
struct sf_text *sf_metrics_text(struct sf_metrics *metrics, struct vm *vm, const struct sf_views *views, const struct sf_tree *tree);

#endif
