/* SPDX-License-Identifier: LGPL-2.1-or-later */
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

/* ---------------------------------------------------------------- q2_info */

struct collect {
	struct q2_info *info;
	size_t room;
	struct vs_err *err;
};

static void forget_snapshots(struct q2_info *info)
{
	size_t i;

	for (i = 0; i < info->n_snapshots; i++) {
		free(info->snapshots[i].id);
		free(info->snapshots[i].name);
	}
	free(info->snapshots);
	info->snapshots = NULL;
	info->n_snapshots = 0;
}

static void forget(struct q2_info *info)
{
	forget_snapshots(info);
	free(info->backing_name);
	free(info->backing_format);
	free(info->data_file);
	free(info->unsupported);
	info->backing_name = info->backing_format = info->data_file = info->unsupported = NULL;
}

static int copy_string(char **out, const char *s)
{
	*out = s ? strdup(s) : NULL;
	return s && !*out ? -ENOMEM : 0;
}

static const char *why_unsupported(const struct q2_header *h)
{
	if (h->crypt_method == 2)
		return "encrypted (LUKS)";
	if (h->crypt_method == 1)
		return "encrypted (AES)";
	if ((h->incompatible & Q2_INCOMPAT_DATA_FILE) && !h->data_file)
		return "its external data file is not recorded in it";
	return NULL;
}

static int collect_begin(void *opaque, const struct q2_header *h)
{
	struct collect *c = opaque;
	struct q2_info *info = c->info;

	forget(info);
	c->room = 0;
	info->size = h->size;
	info->version = h->version;
	info->cluster_bits = h->cluster_bits;
	info->crypt_method = h->crypt_method;
	info->incompatible = h->incompatible;
	info->compatible = h->compatible;
	info->autoclear = h->autoclear;
	info->zstd = h->compression_type == 1;
	info->extended_l2 = h->incompatible & Q2_INCOMPAT_EXTL2;
	info->data_file_raw = h->autoclear & Q2_AUTOCLEAR_DATA_FILE_RAW;
	info->dirty = h->incompatible & Q2_INCOMPAT_DIRTY;
	info->corrupt = h->incompatible & Q2_INCOMPAT_CORRUPT;
	if (copy_string(&info->backing_name, h->backing_name) || copy_string(&info->backing_format, h->backing_format) ||
	    copy_string(&info->data_file, h->incompatible & Q2_INCOMPAT_DATA_FILE ? h->data_file : NULL) ||
	    copy_string(&info->unsupported, why_unsupported(h)))
		return -ENOMEM;
	return 0;
}

static int collect_entry(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len)
{
	struct collect *c = opaque;
	struct q2_info *info = c->info;
	struct q2_snapshot *s;

	(void)host_off;
	(void)len;
	if (info->n_snapshots == c->room) {
		size_t room = c->room ? c->room * 2 : 16;

		s = realloc(info->snapshots, room * sizeof(*s));
		if (!s)
			return -ENOMEM;
		info->snapshots = s;
		c->room = room;
	}
	s = &info->snapshots[info->n_snapshots];
	*s = e->s;
	s->id = strndup(e->id, e->id_len);
	s->name = strndup(e->name, e->name_len);
	if (!s->id || !s->name) {
		free(s->id);
		free(s->name);
		return -ENOMEM;
	}
	info->n_snapshots++;
	return 0;
}

int q2_info_read(struct q2_file *f, enum q2_format format, struct q2_info **out, struct vs_err *err)
{
	struct q2_info *info = calloc(1, sizeof(*info));
	struct collect c = { .info = info, .err = err };
	struct q2_walk walk = { &c, collect_begin, collect_entry };
	int rc;

	if (!info)
		return -ENOMEM;
	info->format = format;
	rc = f->ops->identity(f, &info->stamp);
	if (rc)
		vs_err_set(err, rc, "cannot stat '%s': %s", f->path, strerror(-rc));
	else if (format == Q2_FORMAT_QCOW2)
		rc = q2_walk_snapshots(f, &walk, NULL, err);
	else
		info->size = (info->stamp.size + 511) & ~UINT64_C(511);
	if (rc) {
		q2_info_free(info);
		return rc;
	}
	*out = info;
	return 0;
}

void q2_info_free(struct q2_info *info)
{
	if (!info)
		return;
	forget(info);
	free(info);
}
