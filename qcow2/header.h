/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * header.h: the first cluster of a qcow2 image, as pure functions over bytes.
 *
 * off len field                   rule (as QEMU 7.2 enforces it)
 *   0   4 magic "QFI\xfb"
 *   4   4 version                 2 or 3
 *   8   8 backing_file_offset     <= cluster size; 0 = none; also ends the extension area
 *  16   4 backing_file_size       <= min(1023, cluster size - offset)
 *  20   4 cluster_bits            9..21
 *  24   8 size                    bytes; the L1 table must cover it
 *  32   4 crypt_method            0 none, 1 AES, 2 LUKS
 *  36   4 l1_size                 entries; <= 32 MiB of table
 *  40   8 l1_table_offset         cluster aligned
 *  48   8 refcount_table_offset   cluster aligned
 *  56   4 refcount_table_clusters >= 1, <= 8 MiB
 *  60   4 nb_snapshots            <= 65536
 *  64   8 snapshots_offset        cluster aligned
 *  72   8 incompatible_features   v3 from here on; bits 0..4
 *  80   8 compatible_features
 *  88   8 autoclear_features
 *  96   4 refcount_order          <= 6
 * 100   4 header_length           104..cluster size
 * 104   1 compression_type        where header_length > 104
 */
#ifndef Q2_HEADER_H
#define Q2_HEADER_H

#include "base.h"

#define Q2_HEADER_MIN 112 /* QEMU reads that many, zero-extended where the file is shorter */

#define Q2_INCOMPAT_DIRTY       (UINT64_C(1) << 0)
#define Q2_INCOMPAT_CORRUPT     (UINT64_C(1) << 1)
#define Q2_INCOMPAT_DATA_FILE   (UINT64_C(1) << 2)
#define Q2_INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define Q2_INCOMPAT_EXTL2       (UINT64_C(1) << 4)
#define Q2_INCOMPAT_KNOWN       UINT64_C(0x1f)
#define Q2_AUTOCLEAR_BITMAPS       (UINT64_C(1) << 0)
#define Q2_AUTOCLEAR_DATA_FILE_RAW (UINT64_C(1) << 1)

/* Limits: QEMU's own, so that what QEMU opens is opened here. */
#define Q2_MAX_L1_BYTES        (UINT64_C(32) << 20) /* covers 2 PiB at 64 KiB clusters */
#define Q2_MAX_REFTABLE_BYTES  (UINT64_C(8) << 20)
#define Q2_MAX_SNAPSHOTS       65536u
#define Q2_MAX_SNAPTAB_BYTES   (UINT64_C(64) << 20)
#define Q2_MAX_SNAP_EXTRA      1024u
#define Q2_MAX_BACKING_NAME    1023u
#define Q2_MAX_DEPTH           200u /* libvirt's; QEMU has none */

struct q2_header {
	unsigned version, cluster_bits, refcount_order;
	uint64_t size; /* virtual, rounded down to 512 */
	uint32_t crypt_method;
	uint32_t l1_entries, nb_snapshots, header_len;
	uint64_t l1_off, snapshots_off;
	uint64_t reftable_off, reftable_len; /* bytes */
	uint64_t incompatible, compatible, autoclear;
	uint8_t compression_type;
	uint64_t bitmaps_off, bitmaps_len; /* their directory, where autoclear bit 0 says that it is right; 0: none */
	uint64_t backing_off;
	uint32_t backing_len;
	char *backing_name, *backing_format, *data_file; /* owned; NULL where absent */
};

/*
 * Parses the @len first bytes of an image; what lies beyond is zero if the file ends there. Returns 0; or -EAGAIN with
 * *need set when more than @len bytes have to be there (call again with at least *need of them, zero-padded at the
 * end of the file; *need <= 2 MiB); or the errors of the rules above. @path: for messages. Written only on success.
 */
int q2_header_parse(const uint8_t *buf, size_t len, const char *path, struct q2_header *out, size_t *need,
		    struct vs_err *err);
void q2_header_fini(struct q2_header *h);

/* Entries an L1 table needs for a disk of @size bytes. */
uint64_t q2_l1_entries_for(uint64_t size, unsigned cluster_bits, bool extended_l2);

#endif
