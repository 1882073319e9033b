/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * layer.h: one file of a view, open, with what must stay true of it.
 *
 * role      what must stay true                                   how it is checked
 * FROZEN    size and mtime of the file (and its data file)         fstat; block devices: the guard lock only
 * SNAPSHOT  geometry and backing name in the header, and the       header bytes, then the record itself;
 *           snapshot's own record in the table                     or nothing moved since that was last done
 */
#ifndef Q2_LAYER_H
#define Q2_LAYER_H

#include "header.h"
#include "map.h"
#include "settled.h"

enum q2_role { Q2_FROZEN, Q2_SNAPSHOT };

struct q2_layer {
	/* immutable after open */
	struct q2_file *file, *data_file; /* data_file: NULL but for images with an external one */
	enum q2_format format;
	enum q2_role role;
	struct q2_map *map; /* NULL for raw */
	uint64_t size;      /* virtual, bytes */
	struct q2_stamp stamp, data_stamp;
	struct q2_header header;
	uint8_t *head;      /* SNAPSHOT: the header up to the end of the backing name, as read; NULL where that is very long */
	size_t head_len;
	bool host_holes;    /* the file holds fewer blocks than its clusters: look for holes below the map too */
	/* atomic */
	_Atomic bool guarded;
	/* any thread */
	struct q2_settled settled;
};

/*
 * Opens the map of an open file. @file is taken, also on failure. @snapshot: NULL for a frozen layer. @gate: for a data
 * file. @guard: take the guard lock. Written on success only: q2_layer_fini().
 */
int q2_layer_init(struct q2_layer *l, struct q2_cache *cache, struct q2_file *file, enum q2_format format,
		  const struct q2_snapshot *snapshot, const struct q2_gate *gate, bool guard, struct q2_work *work,
		  struct vs_err *err);
void q2_layer_fini(struct q2_layer *l, struct q2_cache *cache);

/* 0 while everything above holds; -ESTALE; or the error of looking. */
int q2_layer_check(struct q2_layer *l, struct q2_work *work, struct vs_err *err);
/* The same, without taking the file's times for an answer. */
int q2_layer_check_anew(struct q2_layer *l, struct q2_work *work, struct vs_err *err);

void q2_layer_unguard(struct q2_layer *l);

/*
 * The stamp of a file that should hold still. Two writes within one tick of the clock leave the same mtime, so a stamp tells later writes
 * apart only from some time after the last one on: waits for that, but not for ever.
 */
int q2_stamp_quiet(struct q2_file *f, struct q2_stamp *stamp, struct vs_err *err);

#endif
