/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * view.h: a view from the inside, for its own files (view.c asks and reads, view-open.c, view-lease.c) and for what is made of its map (export.h).
 */
#ifndef Q2_VIEW_H
#define Q2_VIEW_H

#include "depths.h"
#include "layer.h"

#define Q2_READERS 4

/* Somebody who reads along the disk (prefetch.c). */
struct q2_reader {
	_Atomic uint64_t next;    /* where his next request begins, if he goes on */
	_Atomic uint64_t fetched; /* up to there the disk was asked; 0: it was not */
};

struct q2_view {
	struct q2_cache *cache;
	uint64_t size, watched;
	size_t n_layers;
	struct q2_layer **layers; /* 0 = top */
	struct q2_gate *gate;
	uint64_t serial; /* another one for every view that was ever opened */
	struct q2_depths depths; /* of a chain of some length that is watched as a whole */
	struct q2_reader readers[Q2_READERS];
	atomic_uint n_readers; /* the one that is taken next for somebody new */
	_Atomic uint64_t presumed; /* the last place that SEEK_DATA called data without knowing */
};

/* One answer, with what the reader needs beside the public extent. */
struct q2_found {
	struct q2_extent x;
	struct q2_layer *layer; /* NULL for zeros beneath the last layer */
};

/* The files that it is made of, external data files included, from 0 on: the @idx'th, as it was when it was opened. False: there are no more. */
bool q2_view_file_at(const struct q2_view *v, size_t idx, struct q2_file **file, const struct q2_stamp **stamp);

/*
 * Every extent of that part of the disk (not beyond its end), in order. What @each returns ends it, if not 0: an error, or 1 for enough.
 * What it was told is true if all of it returns 0 or 1. Of raw files the holes are told, too, but only those that stay for as long as
 * nobody writes: SEEK_DATA takes blocks that were allocated and never written for data once somebody has read them.
 */
typedef int q2_view_each(void *opaque, const struct q2_found *found);
int q2_view_walk(struct q2_view *v, uint64_t guest_off, uint64_t len, struct q2_work *work, q2_view_each *each, void *opaque,
		 struct vs_err *err);

/*
 * The stream of the compressed cluster that begins at @guest_off, which the map says takes at most @len bytes: exactly so many are given,
 * and what lies behind the stream's end is zeros. Decodes it to find the end. Returns the stream's length, validated. -ESTALE also where
 * there is no such cluster.
 */
ssize_t q2_view_stream(struct q2_view *v, uint64_t guest_off, void *buf, size_t len, struct q2_work *work, struct vs_err *err);

#endif
