/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * changes.h: in what two views differ, by their maps: the same place of the same file is the same, and nothing else is.
 */
#ifndef Q2_CHANGES_H
#define Q2_CHANGES_H

#include "qcow2.h"

struct q2_change {
	uint64_t guest_off, len;
	bool changed; /* may read otherwise than before */
	bool zero;    /* reads as zeros now */
	/* Of a whole compressed cluster as struct q2_changes wants it: the bound of its stream; else 0 */
	uint32_t stream;
};

struct q2_changes {
	/* filled in by the caller */
	struct q2_view *view;
	struct q2_view *before; /* NULL: nothing but zeros, without end */
	unsigned bits;          /* which compressed clusters count as such: of that size */
	bool zstd;              /* and that method */
	/* private */
	struct q2_parts {
		struct q2_part *v;
		size_t n;
	} now, was;
};

/* Calls @each for every part of [guest_off, guest_off + len) of the disk, in order, without a gap; what it returns ends it, if not 0.
 * What was told is true if all of it returns 0. One thread; free with q2_changes_fini(). */
typedef int q2_change_fn(void *opaque, const struct q2_change *change);
int q2_changes_walk(struct q2_changes *c, uint64_t guest_off, uint64_t len, struct q2_work *work, q2_change_fn *each, void *opaque,
		    struct vs_err *err);
void q2_changes_fini(struct q2_changes *c);

#endif
