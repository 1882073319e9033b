/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "snaptab.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bytes.h"
#include "header.h"

int64_t q2_snaptab_entry(const uint8_t *buf, size_t len, size_t pos, uint64_t image_size, const char *path,
			 struct q2_snap_entry *out, size_t *need, struct vs_err *err)
{
	const uint8_t *p;
	uint32_t extra, id_size, name_size;
	struct q2_snap_entry e = { 0 };
	size_t used;

	if (pos > len || len - pos < Q2_SNAP_FIXED) {
		*need = pos + Q2_SNAP_FIXED;
		return -EAGAIN;
	}
	p = buf + pos;
	id_size = q2_be16(p + 12);
	name_size = q2_be16(p + 14);
	extra = q2_be32(p + 36);
	if (extra > Q2_MAX_SNAP_EXTRA)
		return vs_err_set(err, -EFBIG, "'%s': snapshot table entry at table offset %zu has %u bytes of extra data, "
				  "at most %u are possible", path, pos, extra, Q2_MAX_SNAP_EXTRA);
	used = Q2_SNAP_FIXED + extra + id_size + name_size;
	if (len - pos < used) {
		*need = pos + used;
		return -EAGAIN;
	}
	e.s.l1_off = q2_be64(p);
	e.s.l1_entries = q2_be32(p + 8);
	e.s.date_sec = q2_be32(p + 16);
	e.s.date_nsec = q2_be32(p + 20);
	e.s.vm_clock_nsec = q2_be64(p + 24);
	e.s.vm_state_size = extra >= 8 ? q2_be64(p + 40) : q2_be32(p + 32);
	e.s.has_disk_size = extra >= 16;
	e.s.disk_size = extra >= 16 ? q2_be64(p + 48) : image_size;
	e.id = (const char *)p + Q2_SNAP_FIXED + extra;
	e.name = e.id + id_size;
	e.id_len = strnlen(e.id, id_size);
	e.name_len = strnlen(e.name, name_size);
	e.raw = p;
	e.raw_len = used;
	e.extra_len = extra;
	e.written_len = Q2_SNAP_FIXED + (extra > Q2_SNAP_EXTRA ? extra : Q2_SNAP_EXTRA) + e.id_len + e.name_len;
	*out = e;
	return (int64_t)((used + 7) & ~(size_t)7);
}

/*
 * Everything but the disk size an entry does not have: QEMU adds that field when it rewrites the table. Seconds and
 * nanoseconds count: after delete and create everything else can be the same.
 */
static bool same_numbers(const struct q2_snapshot *a, const struct q2_snapshot *b)
{
	return a->l1_off == b->l1_off && a->l1_entries == b->l1_entries && a->date_sec == b->date_sec &&
	       a->date_nsec == b->date_nsec && a->vm_clock_nsec == b->vm_clock_nsec &&
	       a->vm_state_size == b->vm_state_size &&
	       (!a->has_disk_size || !b->has_disk_size || a->disk_size == b->disk_size);
}

bool q2_snapshot_same(const struct q2_snapshot *a, const struct q2_snapshot *b)
{
	return same_numbers(a, b) && !strcmp(a->id, b->id) && !strcmp(a->name, b->name);
}

bool q2_snap_entry_is(const struct q2_snap_entry *e, const struct q2_snapshot *s)
{
	return same_numbers(&e->s, s) && strlen(s->id) == e->id_len && !memcmp(s->id, e->id, e->id_len) &&
	       strlen(s->name) == e->name_len && !memcmp(s->name, e->name, e->name_len);
}

struct q2_snapshot *q2_snapshot_dup(const struct q2_snapshot *s)
{
	size_t id_len = strlen(s->id) + 1, name_len = strlen(s->name) + 1;
	struct q2_snapshot *copy = malloc(sizeof(*copy) + id_len + name_len); /* one block: there may be very many */

	if (!copy)
		return NULL;
	*copy = *s;
	copy->id = memcpy((char *)(copy + 1), s->id, id_len);
	copy->name = memcpy(copy->id + id_len, s->name, name_len);
	return copy;
}

void q2_snapshot_free(struct q2_snapshot *s)
{
	free(s);
}
