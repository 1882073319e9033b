/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * image.h: reading header and snapshot table of a file that QEMU may be writing at this moment.
 *
 * QEMU writes a new table elsewhere, flushes, switches the header with one 12-byte write, and only then frees the old
 * table. So: header, table, header again; equal first and last means that the table was the current one. A table that
 * was freed meanwhile may read as plausible zeros: without the second header nothing is believed.
 */
#ifndef Q2_IMAGE_H
#define Q2_IMAGE_H

#include "header.h"
#include "qcow2.h"
#include "snaptab.h"

/* Reads and parses the header. Fills *out: q2_header_fini(). *bytes, unless NULL: given, the very bytes that were parsed,
 * Q2_HEADER_MIN or more and to the end of the backing name; also where parsing failed, and NULL where reading did. */
int q2_header_read(struct q2_file *f, struct q2_header *out, uint8_t **bytes, struct vs_err *err);

struct q2_walk {
	void *opaque;
	/* A new attempt: forget what was seen. The header is borrowed. */
	int (*begin)(void *opaque, const struct q2_header *h);
	/* One entry, @len bytes at @host_off. Strings are borrowed. */
	int (*entry)(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len);
};

/* Walks the whole table under the protocol above: the calls since the last begin() describe one moment. -EAGAIN when
 * it never held still; what a callback returns ends the walk. */
int q2_walk_snapshots(struct q2_file *f, const struct q2_walk *walk, struct q2_work *work, struct vs_err *err);

/* The names of persistent bitmaps, the first 16. A directory that cannot be read has none. Gives *names, each of them and the array, NULL-terminated;
 * NULL: there are none. -ENOMEM. */
int q2_bitmaps_list(const struct q2_file *f, const struct q2_header *h, char ***names);
void q2_bitmaps_free(char **names);

/* -EUCLEAN: @len bytes at @off, which are @what, do not all lie within the file. */
int q2_table_inside(struct q2_file *f, const char *what, uint64_t off, uint64_t len, struct vs_err *err);

#endif
