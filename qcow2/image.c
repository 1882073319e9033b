/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "image.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "file.h"
#include "work.h"

#define TRIES       200   /* with the pauses below: about four seconds of a table that changes all the time */
#define PAUSE_NS    500000
#define PAUSE_MAX   20000000
#define WORK_TRY    4096  /* a retry comes after a pause: whether somebody still waits is asked every time */
#define FIRST_READ  4096
#define TABLE_CHUNK 65536

static void pause_before_retry(unsigned tries)
{
	long ns = (long)PAUSE_NS << (tries < 6 ? tries : 6);
	struct timespec ts = { 0, ns < PAUSE_MAX ? ns : PAUSE_MAX };

	nanosleep(&ts, NULL);
}

int q2_header_read(struct q2_file *f, struct q2_header *out, uint8_t **bytes, struct vs_err *err)
{
	vs_autofree uint8_t *buf = NULL;
	size_t len = 0, need = FIRST_READ;
	ssize_t n;
	int rc;

	if (bytes)
		*bytes = NULL;
	do {
		uint8_t *bigger = realloc(buf, need);

		if (!bigger)
			return -ENOMEM;
		buf = bigger;
		len = need;
		n = q2_pread_zeros(f, buf, len, 0);
		if (n < 0)
			return vs_err_set(err, (int)n, "cannot read the header of '%s': %s", f->path, strerror((int)-n));
		rc = q2_header_parse(buf, len, f->path, out, &need, err);
		if (need < len * 2) /* 2 MiB hold 2^18 extensions, each of which would ask for a few bytes more */
			need = len * 2;
	} while (rc == -EAGAIN);
	if (bytes)
		*bytes = vs_steal(buf);
	return rc;
}

static int reread(struct q2_file *f, uint8_t *raw, struct vs_err *err)
{
	ssize_t n = q2_pread_zeros(f, raw, Q2_HEADER_MIN, 0);

	if (n < 0)
		return vs_err_set(err, (int)n, "cannot read the header of '%s': %s", f->path, strerror((int)-n));
	return 0;
}

/* A window of the table that grows until one entry fits. */
struct window {
	uint8_t *buf;
	size_t len, room;
	uint64_t host_off;
};

/* Makes @need bytes from @host_off on available. */
static int window_load(struct q2_file *f, struct window *w, uint64_t host_off, size_t need)
{
	size_t len = need > TABLE_CHUNK ? need : TABLE_CHUNK;
	ssize_t n;

	if (len > w->room) {
		uint8_t *buf = realloc(w->buf, len);

		if (!buf)
			return -ENOMEM;
		w->buf = buf;
		w->room = len;
	}
	n = q2_pread_zeros(f, w->buf, len, host_off);
	if (n < 0)
		return (int)n;
	w->len = len;
	w->host_off = host_off;
	return 0;
}

static int walk_table(struct q2_file *f, const struct q2_header *h, const struct q2_walk *walk, struct q2_work *work,
		      struct vs_err *err)
{
	struct window w = { 0 };
	uint64_t off = 0; /* within the table */
	uint32_t i;
	int rc = 0;

	for (i = 0; i < h->nb_snapshots && !rc; i++) {
		struct q2_snap_entry e;
		size_t need = 0;
		int64_t step = -EAGAIN;

		if (w.len)
			step = q2_snaptab_entry(w.buf, w.len, (size_t)(h->snapshots_off + off - w.host_off), h->size,
						f->path, &e, &need, err);
		while (step == -EAGAIN) {
			size_t ahead = need ? need - (size_t)(h->snapshots_off + off - w.host_off) : Q2_SNAP_FIXED;

			rc = window_load(f, &w, h->snapshots_off + off, ahead);
			if (rc) {
				vs_err_set(err, rc, "cannot read the snapshot table of '%s' at offset %#" PRIx64 ": %s", f->path,
					   h->snapshots_off + off, strerror(-rc));
				break;
			}
			step = q2_snaptab_entry(w.buf, w.len, 0, h->size, f->path, &e, &need, err);
		}
		if (rc || step < 0) {
			rc = rc ? rc : (int)step;
			break;
		}
		rc = walk->entry(walk->opaque, &e, h->snapshots_off + off, (size_t)step);
		off += (uint64_t)step;
		if (!rc)
			rc = q2_work_spend(work, q2_work_read((uint64_t)step) / 16);
		if (!rc && off > Q2_MAX_SNAPTAB_BYTES)
			rc = vs_err_set(err, -EFBIG, "'%s': the snapshot table is larger than %u MiB", f->path,
					(unsigned)(Q2_MAX_SNAPTAB_BYTES >> 20));
	}
	free(w.buf);
	if (!rc && off)
		rc = q2_table_inside(f, "snapshot table", h->snapshots_off, off - 7, err); /* the last one need not be padded */
	return rc;
}

int q2_walk_snapshots(struct q2_file *f, const struct q2_walk *walk, struct q2_work *work, struct vs_err *err)
{
	uint8_t after[Q2_HEADER_MIN];
	struct q2_header h;
	unsigned tries;
	int rc, rc2;

	for (tries = 0; tries < TRIES; tries++) {
		vs_autofree uint8_t *before = NULL;

		if (tries)
			pause_before_retry(tries);
		if (q2_work_spend(work, WORK_TRY))
			return -EINTR;
		rc = q2_header_read(f, &h, &before, err);
		if (!rc) {
			rc = q2_table_inside(f, "L1 table", h.l1_off, (uint64_t)h.l1_entries * 8, err);
			if (!rc)
				rc = walk->begin(walk->opaque, &h);
			if (!rc)
				rc = walk_table(f, &h, walk, work, err);
			q2_header_fini(&h);
		}
		if (rc == -EINTR)
			return rc;
		rc2 = reread(f, after, err);
		if (rc2)
			return rc2;
		/* An error counts only if nothing moved while it happened. */
		if (!before || rc == -ENOMEM || !memcmp(before, after, sizeof(after)))
			return rc;
	}
	return vs_err_set(err, -EAGAIN, "the header of '%s' never held still", f->path);
}
