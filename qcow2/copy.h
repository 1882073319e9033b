/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * copy.h: the layout of a copied image, shared by who computes it (copy-layout.c) and who reads it (copy.c).
 *
 *	cluster 0        header, with the name of what it stands on
 *	rt_first..       refcount table
 *	rb_first..       refcount blocks
 *	tab_first..      snapshot table
 *	l1[0].first..    L1 table of the present content, then that of each snapshot
 *	l2_first..       L2 tables, in the order that they have in the source
 *	data_first..     clusters of data and of compressed streams, likewise
 *
 * All places in the copy count clusters. What lies side by side in the source and is in use lies side by side in the copy, as a stream that
 * begins in one cluster and ends in the next one needs it.
 */
#ifndef Q2_COPY_H
#define Q2_COPY_H

#include "census.h"
#include "entry.h"
#include "settled.h"

#define Q2_COPY_TABLE 65536u /* bytes of a table that are looked at at a time */

struct q2_copy_l1 {
	uint64_t host_off; /* in the source */
	uint32_t entries;
	uint32_t in_source; /* so many of them are there; the rest is nothing */
	uint64_t first;
};

struct q2_copy {
	/* immutable */
	struct q2_geometry g;
	unsigned order; /* of refcounts */
	bool present;
	uint64_t size;  /* of the virtual disk, bytes */
	struct q2_copy_l1 *l1;
	size_t n_l1;
	uint8_t *table; /* of snapshots, as the copy has it */
	size_t table_len, charged;
	struct q2_census l2, data; /* of the source's clusters */
	uint64_t rt_first, rb_first, tab_first, l2_first, data_first, end;
	uint8_t *head;
	size_t head_len;
	uint64_t layout;
	struct q2_copy_state state; /* of the source, when all that was computed */
	/* any thread */
	struct q2_settled settled;
};

/* Computes all that is immutable. @c: zeros but for state. What it says is true if the source has still that state afterwards. */
int q2_copy_lay_out(struct q2_copy *c, struct q2_view *view, struct q2_work *work, struct vs_err *err);
void q2_copy_drop(struct q2_copy *c);

/* The entry with its cluster in the copy's place. -ESTALE: that cluster was never counted. */
int q2_copy_entry(const struct q2_copy *c, uint64_t *entry, uint64_t *bitmap);
/* Bytes of one in an L2 table. */
static inline unsigned q2_copy_width(const struct q2_copy *c)
{
	return c->g.extended_l2 ? 16 : 8;
}

#endif
