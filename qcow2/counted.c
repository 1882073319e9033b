/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* How much of a file an image uses, by its refcounts: a device is as large as it is, so nothing else tells. */
#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "file.h"
#include "image.h"

#define OFFSET UINT64_C(0xfffffffffffffe00)

/* Entries of this block that are not zero. */
static uint64_t count_block(const uint8_t *block, size_t len, unsigned order)
{
	size_t width = order > 3 ? (size_t)1 << (order - 3) : 1;
	unsigned bits = 1u << order;
	uint64_t n = 0;

	for (size_t at = 0; at < len; at += width) {
		unsigned any = 0;

		for (size_t i = 0; i < width; i++)
			any |= block[at + i];
		if (order >= 3)
			n += any != 0;
		for (unsigned shift = 0; order < 3 && shift < 8; shift += bits)
			n += ((any >> shift) & ((1u << bits) - 1)) != 0;
	}
	return n;
}

static int count_all(struct q2_file *f, const struct q2_header *h, uint64_t *clusters, struct vs_err *err)
{
	size_t cluster = (size_t)1 << h->cluster_bits;
	vs_autofree uint8_t *table = malloc(h->reftable_len), *block = malloc(cluster);
	ssize_t got = table && block ? q2_pread_zeros(f, table, h->reftable_len, h->reftable_off) : -ENOMEM;

	*clusters = 0;
	for (uint64_t i = 0; got >= 0 && i < h->reftable_len / 8; i++) {
		uint64_t at = q2_be64(table + i * 8) & OFFSET;

		if (!at)
			continue;
		got = q2_pread_zeros(f, block, cluster, at);
		*clusters += got >= 0 ? count_block(block, cluster, h->refcount_order) : 0;
	}
	return got < 0 ? vs_err_set(err, (int)got, "cannot read the refcounts of '%s': %s", f->path, strerror((int)-got)) : 0;
}

int q2_file_counted(struct q2_file *f, uint64_t *bytes, struct vs_err *err)
{
	struct q2_header h;
	uint64_t clusters;
	int r = q2_header_read(f, &h, NULL, err);

	if (r < 0)
		return r;
	r = count_all(f, &h, &clusters, err);
	if (r == 0)
		*bytes = clusters << h.cluster_bits;
	q2_header_fini(&h);
	return r;
}
