/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Persistent bitmaps, of which QEMU's backups are made: only their directory is read, for the question what would be lost with a file.
 *
 *     0  8  offset of the bitmap's table        16  1  type: 1, dirty tracking
 *     8  4  entries of that                     17  1  granularity, bits
 *    12  4  flags: 0 in use, 1 auto, 2 extra    18  2  length of the name
 *                                               20  4  length of the extra data, which comes first; then the name, up to the next 8
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "file.h"
#include "image.h"

#define ENTRY 24
#define DIRECTORY_MAX (1u << 20) /* bytes: QEMU takes 64 MiB; names of a hundred bytes make that 8,000 bitmaps */
#define IN_USE 1u
#define AUTO 2u

/* The first entry that is not recording. */
static int find_idle(const struct q2_file *f, const uint8_t *dir, uint64_t len, bool in_use_too, char **name, struct vs_err *err)
{
	for (uint64_t off = 0, size; off < len; off += size) {
		const uint8_t *entry = dir + off;
		uint32_t flags = len - off < ENTRY ? 0 : q2_be32(entry + 12);
		uint64_t name_len = len - off < ENTRY ? 0 : q2_be16(entry + 18), extra = len - off < ENTRY ? 0 : q2_be32(entry + 20);

		size = (ENTRY + extra + name_len + 7) & ~UINT64_C(7);
		if (len - off < ENTRY || ENTRY + extra + name_len > len - off)
			return vs_err_set(err, -EUCLEAN, "'%s': the directory of bitmaps is cut short at byte %" PRIu64, f->path, off);
		if ((flags & AUTO) || ((flags & IN_USE) && !in_use_too))
			continue;
		*name = strndup((const char *)entry + ENTRY + extra, name_len);
		return *name ? 1 : vs_err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

static int look(struct q2_file *f, const struct q2_header *h, bool in_use_too, char **name, struct vs_err *err)
{
	vs_autofree uint8_t *dir = NULL;
	ssize_t got;

	if (!h->bitmaps_len)
		return 0;
	if (h->bitmaps_len > DIRECTORY_MAX)
		return vs_err_set(err, -EFBIG, "'%s': a directory of bitmaps of %" PRIu64 " bytes", f->path, h->bitmaps_len);
	dir = malloc(h->bitmaps_len);
	got = dir ? q2_pread_zeros(f, dir, h->bitmaps_len, h->bitmaps_off) : -ENOMEM;
	if (got < 0)
		return vs_err_set(err, (int)got, "cannot read the bitmaps of '%s': %s", f->path, strerror((int)-got));
	return find_idle(f, dir, h->bitmaps_len, in_use_too, name, err);
}

int q2_file_idle_bitmap(struct q2_file *f, bool in_use_too, char **name, struct vs_err *err)
{
	struct q2_header h;
	int r = q2_header_read(f, &h, NULL, err);

	if (r < 0)
		return r;
	r = look(f, &h, in_use_too, name, err);
	q2_header_fini(&h);
	return r;
}
