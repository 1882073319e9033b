/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * snaptab.h: the snapshot table, as pure functions over bytes.
 *
 * Entries follow each other, each starting at a multiple of 8:
 * off len field
 *   0   8 l1_table_offset     validated only when the snapshot is used, so that one bad entry hides no other
 *   8   4 l1_size             entries
 *  12   2 id_str_size
 *  14   2 name_size
 *  16   4 date_sec
 *  20   4 date_nsec
 *  24   8 vm_clock_nsec
 *  32   4 vm_state_size
 *  36   4 extra_data_size     <= 1024
 *  40     extra: +0 u64 vm_state_size, +8 u64 disk_size, +16 u64 icount, as far as it reaches
 *         id, name, no NUL
 */
#ifndef Q2_SNAPTAB_H
#define Q2_SNAPTAB_H

#include "qcow2.h"

#define Q2_SNAP_FIXED 40u
#define Q2_SNAP_EXTRA 24u /* what QEMU writes at least */
/* No entry is longer: fixed part, extra data, id and name. */
#define Q2_SNAP_MAX (Q2_SNAP_FIXED + 1024u + 65535u + 65535u)

/* One entry in place: strings point into the table. */
struct q2_snap_entry {
	struct q2_snapshot s; /* id and name are not set: see below */
	const char *id, *name;
	size_t id_len, name_len; /* up to the first NUL */
	const uint8_t *raw;      /* all of it, as above, without what pads it */
	size_t raw_len, extra_len;
	size_t written_len;      /* of what QEMU would write in its place */
};

/*
 * Parses the entry at @pos of a table that has @len bytes at @buf. Returns the number of bytes to the next entry (a
 * multiple of 8, may point past @len for the last one); -EAGAIN with *need when @buf is too short to tell; -EFBIG.
 * @image_size: what an entry without disk_size means.
 */
int64_t q2_snaptab_entry(const uint8_t *buf, size_t len, size_t pos, uint64_t image_size, const char *path,
			 struct q2_snap_entry *out, size_t *need, struct vs_err *err);

bool q2_snap_entry_is(const struct q2_snap_entry *e, const struct q2_snapshot *s);

#endif
