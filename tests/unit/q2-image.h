/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * q2-image.h: qcow2 images made by hand, in memory, and a q2_file over them that can be written between two reads.
 *
 * Written from QEMU's docs/interop/qcow2.txt; shares no code with the reader under test. Places are given as cluster
 * numbers. Layout of a fresh image: 0 header, 1 refcount table (empty), 2 active L1 table; from 3 on the test's own.
 */
#ifndef TESTS_Q2_IMAGE_H
#define TESTS_Q2_IMAGE_H

#include "qcow2/qcow2.h"

#define TI_L1 2 /* cluster of the active L1 table */

#define TI_COPIED     (UINT64_C(1) << 63)
#define TI_COMPRESSED (UINT64_C(1) << 62)
#define TI_ZERO       UINT64_C(1)

struct ti_image {
	uint8_t *bytes;
	size_t len, room;
	unsigned bits; /* cluster_bits */
};

/* A version 3 image with an empty L1 table that covers @size bytes. */
void ti_init(struct ti_image *img, unsigned bits, uint64_t size);
void ti_fini(struct ti_image *img);

void ti_put16(struct ti_image *img, uint64_t off, uint16_t value);
void ti_put32(struct ti_image *img, uint64_t off, uint32_t value);
void ti_put64(struct ti_image *img, uint64_t off, uint64_t value);
void ti_put(struct ti_image *img, uint64_t off, const void *data, size_t len);
uint64_t ti_off(const struct ti_image *img, uint64_t cluster);

void ti_fill(struct ti_image *img, uint64_t cluster, uint8_t byte);
/* Entry @idx of the L1 table in @table points at the L2 table in @l2; that becomes a whole cluster of the file. */
void ti_l1(struct ti_image *img, uint64_t table, uint64_t idx, uint64_t l2);
/* Entry @idx of the L2 table in @l2: any 64 bits. */
void ti_l2(struct ti_image *img, uint64_t l2, uint64_t idx, uint64_t entry);
/* ... or data in @cluster, filled with @byte. */
void ti_data(struct ti_image *img, uint64_t l2, uint64_t idx, uint64_t cluster, uint8_t byte);

void ti_backing(struct ti_image *img, const char *name, const char *format);

struct ti_snap {
	const char *id, *name;
	uint64_t l1; /* cluster */
	uint32_t l1_entries, date_sec, date_nsec;
	uint64_t clock, vm_state, disk_size;
	bool no_extra; /* as version 2 wrote it: the disk size is the image's */
};
/* Writes the entries at @cluster; returns their bytes. */
size_t ti_table(struct ti_image *img, uint64_t cluster, const struct ti_snap *snaps, size_t n);
/* The twelve bytes by which QEMU switches to another table. */
void ti_switch(struct ti_image *img, uint64_t cluster, uint32_t n);
/* What a listing of that entry gives; the strings are the literals. */
struct q2_snapshot ti_snapshot(const struct ti_image *img, const struct ti_snap *snap);

/* ---------------------------------------------------------------- in memory */

struct ti_file {
	struct q2_file f;
	struct ti_image *img; /* borrowed */
	struct q2_stamp stamp; /* size is the image's; the rest is the test's to change */
	unsigned preads;       /* so far */
	unsigned closes;
	/* the pread with this number (1 = the first) fails with fail_rc, or reads short */
	unsigned fail_at, short_at;
	int fail_rc;
	/* called before the bytes of each pread are copied */
	void (*before)(struct ti_file *tf, void *opaque, uint64_t off, size_t len);
	void *opaque;
};

/* An old and quiet file: its mtime is long ago. Closing it frees nothing. */
void ti_file_init(struct ti_file *tf, struct ti_image *img);

/* ---------------------------------------------------------------- on disk */

/* A directory of its own, and paths in it; ti_rmdir() removes it with its files. */
char *ti_mkdir(void);
void ti_rmdir(char *dir);
char *ti_path(const char *dir, const char *name);
void ti_save(const struct ti_image *img, const char *path);
void ti_save_bytes(const char *path, const void *bytes, size_t len);
/* Overwrites in place; the file's mtime moves on. */
void ti_patch(const char *path, uint64_t off, const void *bytes, size_t len);
/* Sets the file's mtime so far back that nothing counts as just written. */
void ti_age(const char *path);

bool ti_all(const void *buf, size_t len, uint8_t byte);

#endif
