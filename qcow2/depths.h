/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * depths.h: where in a chain to begin asking.
 *
 * A chain is asked from its top until a layer has an answer, which of two hundred layers may be the last. Layers that hold still say the same for
 * ever: so of every stretch of the disk it is remembered how many of them, from the top, have nothing there. A byte for 64 KiB, or for more where the
 * disk has more than four million of those; four MiB for a view at most, made as they are needed.
 *
 * What is not known is asked for as ever. Threads: any, at once.
 */
#ifndef Q2_DEPTHS_H
#define Q2_DEPTHS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct q2_depths {
	uint64_t size;
	unsigned bits;  /* of a stretch */
	size_t n_pages; /* 0: nothing is remembered */
	_Atomic(atomic_uchar *) *pages;
};

/* For a disk of that size. Without memory nothing is remembered. */
void q2_depths_init(struct q2_depths *d, uint64_t size);
void q2_depths_fini(struct q2_depths *d);

/* The stretch that @off (< size) lies in: *from <= @off < *to <= size. */
void q2_depths_stretch(const struct q2_depths *d, uint64_t off, uint64_t *from, uint64_t *to);

/* So many layers have nothing from @off to *upto, which is not beyond @end. -1: not known. */
int q2_depths_get(const struct q2_depths *d, uint64_t off, uint64_t end, uint64_t *upto);
/* @n (at most 200) layers have nothing from @from to @to: remembered of the stretches that lie in there as a whole. */
void q2_depths_put(struct q2_depths *d, uint64_t from, uint64_t to, unsigned n);

#endif
