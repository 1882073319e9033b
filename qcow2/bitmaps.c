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
#define LISTED 16
#define LISTED_BYTES 65536u
#define IN_USE 1u
#define AUTO 2u

struct entry {
	uint32_t flags;
	const char *name; /* not terminated */
	size_t name_len;
};

/* The entry at @*off, which is moved on. 1; 0: there are no more; -EUCLEAN: it is cut short. */
static int next_entry(const uint8_t *dir, uint64_t len, uint64_t *off, struct entry *out)
{
	const uint8_t *entry = dir + *off;
	uint64_t extra;

	if (*off >= len)
		return 0;
	if (len - *off < ENTRY)
		return -EUCLEAN;
	extra = q2_be32(entry + 20);
	*out = (struct entry){ q2_be32(entry + 12), (const char *)entry + ENTRY + extra, q2_be16(entry + 18) };
	if (ENTRY + extra + out->name_len > len - *off)
		return -EUCLEAN;
	*off += (ENTRY + extra + out->name_len + 7) & ~UINT64_C(7);
	return 1;
}

/* Gives the directory's first @most bytes, *len; NULL: there is none. */
static int read_dir(const struct q2_file *f, const struct q2_header *h, size_t most, uint8_t **dir, uint64_t *len)
{
	ssize_t got;

	*len = h->bitmaps_len < most ? h->bitmaps_len : most;
	*dir = *len ? malloc(*len) : NULL;
	if (!*len)
		return 0;
	got = *dir ? q2_pread_zeros((struct q2_file *)f, *dir, *len, h->bitmaps_off) : -ENOMEM;
	if (got >= 0)
		return 0;
	free(vs_steal(*dir));
	return (int)got;
}

static int find(struct q2_file *f, const struct q2_header *h, bool recording_too, bool in_use_too, char **name, struct vs_err *err)
{
	vs_autofree uint8_t *dir = NULL;
	uint64_t len, off = 0;
	struct entry e;
	int r;

	if (h->bitmaps_len > DIRECTORY_MAX)
		return vs_err_set(err, -EFBIG, "'%s': a directory of bitmaps of %" PRIu64 " bytes", f->path, h->bitmaps_len);
	r = read_dir(f, h, DIRECTORY_MAX, &dir, &len);
	if (r < 0)
		return vs_err_set(err, r, "cannot read the bitmaps of '%s': %s", f->path, strerror(-r));
	while ((r = next_entry(dir, len, &off, &e)) > 0) {
		if (((e.flags & AUTO) && !recording_too) || ((e.flags & IN_USE) && !in_use_too))
			continue;
		*name = strndup(e.name, e.name_len);
		return *name ? 1 : vs_err_set(err, -ENOMEM, "out of memory");
	}
	return r < 0 ? vs_err_set(err, r, "'%s': the directory of bitmaps is cut short at byte %" PRIu64, f->path, off) : 0;
}

int q2_bitmaps_list(const struct q2_file *f, const struct q2_header *h, char ***names)
{
	vs_autofree uint8_t *dir = NULL;
	uint64_t len, off = 0;
	struct entry e;
	size_t n = 0;
	int r = read_dir(f, h, LISTED_BYTES, &dir, &len);

	*names = NULL;
	if (r < 0 || !len)
		return r == -ENOMEM ? r : 0;
	*names = calloc(LISTED + 1, sizeof(**names));
	while (*names && n < LISTED && next_entry(dir, len, &off, &e) > 0) {
		(*names)[n] = strndup(e.name, e.name_len);
		if (!(*names)[n++]) {
			q2_bitmaps_free(vs_steal(*names));
			return -ENOMEM;
		}
	}
	return *names ? 0 : -ENOMEM;
}

void q2_bitmaps_free(char **names)
{
	for (char **name = names; name && *name; name++)
		free(*name);
	free(names);
}

int q2_file_bitmap(struct q2_file *f, bool recording_too, bool in_use_too, char **name, struct vs_err *err)
{
	struct q2_header h;
	int r = q2_header_read(f, &h, NULL, err);

	if (r < 0)
		return r;
	r = find(f, &h, recording_too, in_use_too, name, err);
	q2_header_fini(&h);
	return r;
}
