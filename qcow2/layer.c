/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Why checking after the copy is enough for a snapshot in an image that is being written: QEMU deletes a snapshot by
 * writing a table without it, flushing, switching the header, flushing, and only then frees clusters that something
 * else may reuse. So if the header read *after* the data leads to a table that still has the record, the record was
 * there all the while the data was copied, and with it every cluster it refers to. Date and nanoseconds are part of the
 * record's identity, because after delete and create everything else can be the same, the header's bytes included.
 */
#include "layer.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "bytes.h"
#include "file.h"
#include "image.h"

#define STAMP_TRIES 5
#define HEAD_TRIES  20
#define HEAD_MOST   4096 /* QEMU's headers are some hundred bytes; a cluster, where the name may be at the end, up to 2 MiB */

static void pause_ms(long ms)
{
	struct timespec ts = { 0, ms * 1000000 };

	nanosleep(&ts, NULL);
}

/* ---------------------------------------------------------------- opening */

static int stat_file(struct q2_file *f, struct q2_stamp *stamp, struct vs_err *err)
{
	int rc = f->ops->identity(f, stamp);

	return rc ? vs_err_set(err, rc, "cannot stat '%s': %s", f->path, strerror(-rc)) : 0;
}

int q2_stamp_quiet(struct q2_file *f, struct q2_stamp *stamp, struct vs_err *err)
{
	int64_t age;
	int i, rc;

	for (i = 0; i < STAMP_TRIES; i++) {
		rc = stat_file(f, stamp, err);
		if (rc)
			return rc;
		age = q2_now_ns() - stamp->mtime_ns;
		if (stamp->block || age < 0 || age > Q2_SETTLE_NS)
			return 0;
		pause_ms(10);
	}
	return 0;
}

static bool same_content(const struct q2_stamp *a, const struct q2_stamp *b)
{
	return a->size == b->size && (a->block || a->mtime_ns == b->mtime_ns);
}

static int unsupported(const struct q2_layer *l, struct vs_err *err)
{
	const struct q2_header *h = &l->header;

	if (h->crypt_method)
		return vs_err_set(err, -ENOTSUP, "'%s' is encrypted (%s)", l->file->path, h->crypt_method == 1 ? "AES" : "LUKS");
	if ((h->incompatible & Q2_INCOMPAT_DATA_FILE) && l->role == Q2_SNAPSHOT) /* nothing freezes that file: QEMU refuses too */
		return vs_err_set(err, -ENOTSUP, "'%s' has snapshots over an external data file", l->file->path);
	if ((h->incompatible & Q2_INCOMPAT_DATA_FILE) && !h->data_file)
		return vs_err_set(err, -EINVAL, "'%s' needs an external data file and does not name it", l->file->path);
	return 0;
}

/* The header of a file that should hold still. */
static int read_frozen(struct q2_layer *l, struct vs_err *err)
{
	struct q2_stamp after;
	int i, rc;

	for (i = 0; i < STAMP_TRIES; i++) {
		if (i)
			pause_ms(10);
		rc = q2_stamp_quiet(l->file, &l->stamp, err);
		if (!rc)
			rc = q2_header_read(l->file, &l->header, NULL, err);
		if (!rc)
			rc = stat_file(l->file, &after, err);
		if (rc)
			return rc;
		if (same_content(&l->stamp, &after))
			return 0;
		q2_header_fini(&l->header);
	}
	return vs_err_set(err, -EAGAIN, "'%s' is being written", l->file->path);
}

struct find {
	const struct q2_snapshot *wanted;
	struct q2_header *header;
	uint64_t disk_size;
	bool found;
};

static int find_begin(void *opaque, const struct q2_header *h)
{
	(void)h;
	((struct find *)opaque)->found = false;
	return 0;
}

static int find_entry(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len)
{
	struct find *f = opaque;

	(void)host_off;
	(void)len;
	if (!f->found && q2_snap_entry_is(e, f->wanted)) {
		f->found = true;
		f->disk_size = e->s.disk_size;
	}
	return 0;
}

/* The header, and its bytes that the checks compare: those that were parsed, up to the end of the backing name. Without them it
 * is parsed every time. */
static int read_head(struct q2_layer *l, struct vs_err *err)
{
	const struct q2_header *h = &l->header;
	int rc = q2_header_read(l->file, &l->header, &l->head, err);
	uint8_t *smaller;

	if (rc)
		return rc;
	l->head_len = h->backing_name ? (size_t)h->backing_off + h->backing_len : 0;
	if (l->head_len < Q2_HEADER_MIN)
		l->head_len = Q2_HEADER_MIN;
	smaller = l->head_len <= HEAD_MOST ? realloc(l->head, l->head_len) : NULL;
	if (!smaller)
		free(l->head);
	l->head = smaller;
	return 0;
}

static int read_snapshot(struct q2_layer *l, const struct q2_snapshot *snapshot, struct q2_work *work, struct vs_err *err)
{
	struct find find = { .wanted = snapshot };
	struct q2_walk walk = { &find, find_begin, find_entry };
	uint64_t l1_needed;
	int rc;

	rc = stat_file(l->file, &l->stamp, err);
	if (!rc)
		rc = read_head(l, err);
	if (!rc)
		rc = q2_walk_snapshots(l->file, &walk, work, err);
	if (rc)
		return rc;
	if (!find.found)
		return vs_err_set(err, -ESTALE, "there is no snapshot '%s' (id %s) in '%s'", snapshot->name, snapshot->id,
				  l->file->path);
	l->size = find.disk_size;
	if (l->size & 511 || l->size > INT64_MAX)
		return vs_err_set(err, -EUCLEAN, "'%s': snapshot '%s' has an impossible disk size of %" PRIu64 " bytes",
				  l->file->path, snapshot->name, l->size);
	l1_needed = q2_l1_entries_for(l->size, l->header.cluster_bits, l->header.incompatible & Q2_INCOMPAT_EXTL2);
	if (l1_needed * 8 > Q2_MAX_L1_BYTES || (uint64_t)snapshot->l1_entries * 8 > Q2_MAX_L1_BYTES)
		return vs_err_set(err, -EFBIG, "'%s': the L1 table of snapshot '%s' is too large", l->file->path,
				  snapshot->name);
	if (snapshot->l1_off & ((UINT64_C(1) << l->header.cluster_bits) - 1) ||
	    snapshot->l1_off > INT64_MAX - Q2_MAX_L1_BYTES)
		return vs_err_set(err, -EUCLEAN, "'%s': the L1 table of snapshot '%s' is at the invalid offset %#" PRIx64,
				  l->file->path, snapshot->name, snapshot->l1_off);
	return 0;
}

/* True: from here on nobody can start to write the file, and nobody does. */
static bool guard_file(struct q2_file *f)
{
	struct q2_locks locks;

	return !q2_file_guard(f, true) && !q2_file_locks(f, &locks) && !locks.writer;
}

static int open_data_file(struct q2_layer *l, const struct q2_gate *gate, bool guard, struct vs_err *err)
{
	enum q2_format fmt;
	int rc;

	if (!(l->header.incompatible & Q2_INCOMPAT_DATA_FILE))
		return 0;
	rc = q2_gate_open(gate, l->file->path, l->header.data_file, "raw", &l->data_file, &fmt, err);
	if (rc)
		return rc;
	if (guard && !guard_file(l->data_file))
		l->guarded = false;
	rc = q2_stamp_quiet(l->data_file, &l->data_stamp, err);
	if (!rc && l->data_stamp.dev == l->stamp.dev && l->data_stamp.ino == l->stamp.ino)
		return vs_err_set(err, -ELOOP, "'%s' names itself as its data file", l->file->path);
	return rc;
}

/*
 * QEMU looks for holes below the map only where much less is allocated than the image has clusters (an image with
 * preallocated metadata); the same rule gives the same map.
 */
static bool has_host_holes(const struct q2_layer *l)
{
	uint64_t clusters, real, limit;

	if (l->format == Q2_FORMAT_RAW)
		return true;
	clusters = (l->stamp.size + (UINT64_C(1) << l->header.cluster_bits) - 1) >> l->header.cluster_bits;
	real = l->stamp.allocated >> l->header.cluster_bits;
	limit = real * 10 / 9 > real + 2 ? real * 10 / 9 : real + 2;
	return clusters >= limit;
}

static int make_map(struct q2_layer *l, struct q2_cache *cache, const struct q2_snapshot *snapshot)
{
	const struct q2_header *h = &l->header;
	uint32_t l1_entries = snapshot ? snapshot->l1_entries : h->l1_entries;
	/* what lies behind the disk is VM state, and no business of the map */
	uint64_t l1_used = q2_l1_entries_for(l->size, h->cluster_bits, h->incompatible & Q2_INCOMPAT_EXTL2);
	struct q2_map_spec spec = {
		.stamp = l->stamp,
		.geometry = { .cluster_bits = h->cluster_bits, .v3 = h->version == 3,
			      .extended_l2 = h->incompatible & Q2_INCOMPAT_EXTL2,
			      .data_file = h->incompatible & Q2_INCOMPAT_DATA_FILE, .zstd = h->compression_type == 1 },
		.l1_off = snapshot ? snapshot->l1_off : h->l1_off,
		.l1_entries = l1_entries < l1_used ? l1_entries : (uint32_t)l1_used,
		.image_size = h->size,
		.snapshot = snapshot,
	};

	l->map = q2_map_get(cache, &spec);
	return l->map ? 0 : -ENOMEM;
}

static int layer_open(struct q2_layer *l, struct q2_cache *cache, const struct q2_snapshot *snapshot,
		      const struct q2_gate *gate, bool guard, struct q2_work *work, struct vs_err *err)
{
	int rc;

	if (guard)
		l->guarded = guard_file(l->file);
	if (l->format == Q2_FORMAT_RAW) {
		if (snapshot)
			return vs_err_set(err, -ESTALE, "there are no snapshots in the raw image '%s'", l->file->path);
		rc = q2_stamp_quiet(l->file, &l->stamp, err);
		l->size = (l->stamp.size + 511) & ~UINT64_C(511);
		l->host_holes = true;
		return rc;
	}
	if (snapshot) {
		rc = read_snapshot(l, snapshot, work, err);
	} else {
		rc = read_frozen(l, err);
		l->size = l->header.size;
	}
	if (!rc)
		rc = unsupported(l, err);
	if (!rc)
		rc = open_data_file(l, gate, guard, err);
	if (!rc)
		rc = make_map(l, cache, snapshot);
	if (!rc)
		l->host_holes = has_host_holes(l);
	return rc;
}

int q2_layer_init(struct q2_layer *l, struct q2_cache *cache, struct q2_file *file, enum q2_format format,
		  const struct q2_snapshot *snapshot, const struct q2_gate *gate, bool guard, struct q2_work *work,
		  struct vs_err *err)
{
	int rc;

	memset(l, 0, sizeof(*l));
	q2_settled_init(&l->settled);
	l->file = file;
	l->format = format;
	l->role = snapshot ? Q2_SNAPSHOT : Q2_FROZEN;
	rc = layer_open(l, cache, snapshot, gate, guard, work, err);
	if (rc)
		q2_layer_fini(l, cache);
	return rc;
}

void q2_layer_fini(struct q2_layer *l, struct q2_cache *cache)
{
	q2_map_put(cache, l->map);
	q2_file_close(l->file);
	q2_file_close(l->data_file);
	q2_header_fini(&l->header);
	free(l->head);
	q2_settled_fini(&l->settled);
	memset(l, 0, sizeof(*l));
}

void q2_layer_unguard(struct q2_layer *l)
{
	l->guarded = false;
	q2_file_guard(l->file, false);
	if (l->data_file)
		q2_file_guard(l->data_file, false);
}

/* ---------------------------------------------------------------- checking */

static int changed(struct q2_file *f, struct vs_err *err)
{
	return vs_err_set(err, -ESTALE, "'%s' has been written since it was opened", f->path);
}

static int check_frozen(struct q2_layer *l, struct vs_err *err)
{
	struct q2_look look = { 0 };
	struct q2_stamp now;
	int rc;

	if (l->map)
		look = q2_map_look(l->map);
	rc = stat_file(l->file, &now, err);
	if (rc)
		return rc;
	if (!same_content(&l->stamp, &now))
		return changed(l->file, err);
	if (l->map)
		q2_map_vouch(l->map, &look);
	if (!l->data_file)
		return 0;
	rc = stat_file(l->data_file, &now, err);
	if (rc)
		return rc;
	return same_content(&l->data_stamp, &now) ? 0 : changed(l->data_file, err);
}

/* Header fields that may change at any time without a meaning for a snapshot. */
static void mask_volatile(uint8_t *head, unsigned version)
{
	memset(head + 24, 0, 8);  /* size */
	memset(head + 36, 0, 36); /* L1, refcounts, snapshots */
	if (version == 3) {
		head[79] &= (uint8_t) ~(Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT);
		memset(head + 80, 0, 20); /* compatible, autoclear, refcount width */
	}
}

static bool same_string(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static bool same_meaning(const struct q2_header *a, const struct q2_header *b)
{
	uint64_t ignore = Q2_INCOMPAT_DIRTY | Q2_INCOMPAT_CORRUPT;

	return a->version == b->version && a->cluster_bits == b->cluster_bits && a->crypt_method == b->crypt_method &&
	       (a->incompatible & ~ignore) == (b->incompatible & ~ignore) && a->compression_type == b->compression_type &&
	       same_string(a->backing_name, b->backing_name) && same_string(a->backing_format, b->backing_format);
}

/* The bytes differ: does the meaning? An extension may have moved the name, or the read met a rewrite half done. */
static int head_differs(struct q2_layer *l, struct vs_err *err)
{
	struct q2_header h;
	bool same;
	int i, rc;

	for (i = 0; i < HEAD_TRIES; i++) {
		rc = q2_header_read(l->file, &h, NULL, err);
		if (!rc) {
			same = same_meaning(&h, &l->header);
			q2_header_fini(&h);
			if (same)
				return 0;
		}
		pause_ms(1);
	}
	if (rc == -EIO || rc == -ENOMEM)
		return rc;
	return vs_err_set(err, -ESTALE, "the header of '%s' has changed: it stands on another file or was made anew",
			  l->file->path);
}

static int check_head(struct q2_layer *l, uint32_t *nb, uint64_t *table_off, struct vs_err *err)
{
	uint8_t now[HEAD_MOST], then[HEAD_MOST];
	size_t len = l->head ? l->head_len : Q2_HEADER_MIN;
	ssize_t n = q2_pread_zeros(l->file, now, len, 0);

	if (n < 0)
		return vs_err_set(err, (int)n, "cannot read the header of '%s': %s", l->file->path, strerror((int)-n));
	*nb = q2_be32(now + 60);
	*table_off = q2_be64(now + 64);
	if (!l->head)
		return head_differs(l, err);
	memcpy(then, l->head, len);
	mask_volatile(now, l->header.version);
	mask_volatile(then, l->header.version);
	return memcmp(now, then, len) ? head_differs(l, err) : 0;
}

static int check_snapshot(struct q2_layer *l, bool anew, struct q2_work *work, struct vs_err *err)
{
	struct q2_look look = q2_map_look(l->map);
	struct q2_stamp now;
	uint64_t table_off = 0;
	int64_t when;
	uint32_t nb = 0;
	int rc = stat_file(l->file, &now, err);

	if (!rc && (anew || !q2_settled_still(&l->settled, l->file, &now))) {
		when = q2_now_ns();
		rc = check_head(l, &nb, &table_off, err);
		if (!rc)
			rc = q2_map_identity_check(l->map, l->file, nb, table_off, work, err);
		if (!rc)
			q2_settled_remember(&l->settled, &now, when);
	}
	if (!rc)
		q2_map_vouch(l->map, &look);
	return rc;
}

int q2_layer_check(struct q2_layer *l, struct q2_work *work, struct vs_err *err)
{
	return l->role == Q2_SNAPSHOT ? check_snapshot(l, false, work, err) : check_frozen(l, err);
}

int q2_layer_check_anew(struct q2_layer *l, struct q2_work *work, struct vs_err *err)
{
	return l->role == Q2_SNAPSHOT ? check_snapshot(l, true, work, err) : check_frozen(l, err);
}
