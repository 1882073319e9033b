/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Listing an image, and what all listings may hold together.
 *
 * A snapshot table of 65,536 entries fits into a file of some kilobytes that is otherwise a hole, and whoever watches many
 * images holds as many listings, and makes of each entry many times what is needed for it here. So the entries of a table are held
 * in two blocks, one of what has a fixed size and one of strings; and all listings of the process have one budget. What one
 * image takes may be a sixth of what the others leave, and no more: then no image, and no few of them, leaves nothing for the
 * rest, and small tables are listed when large ones are not any more.
 *
 * A file that is listed again while earlier listings are still held (by whoever has a directory open, say) counts once for that rule, or a
 * table that was listed would not be the next time; but all that it has is at most four times that share, which is not all that there is.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <uthash.h>

#include "image.h"

#define BUDGET (32u << 20) /* 100,000 to 400,000 snapshots */
#define SHARE 6
#define GENERATIONS 4 /* listings of one file that are held at a time */

/* ---------------------------------------------------------------- the budget */

struct file_key {
	uint64_t dev, ino;
};

/* What the listings of one file hold. */
struct holder {
	struct file_key key;
	size_t bytes;
	UT_hash_handle hh;
};

static struct {
	pthread_mutex_t lock;
	/* guarded by lock */
	size_t limit, held;
	struct holder *holders;
} budget = { .lock = PTHREAD_MUTEX_INITIALIZER, .limit = BUDGET };

void q2_info_limit(size_t bytes)
{
	pthread_mutex_lock(&budget.lock);
	budget.limit = bytes;
	pthread_mutex_unlock(&budget.lock);
}

static struct file_key key_of(const struct q2_stamp *stamp)
{
	return (struct file_key){ stamp->dev, stamp->ino };
}

static struct holder *holder_locked(const struct file_key *key)
{
	struct holder *h;

	HASH_FIND(hh, budget.holders, key, sizeof(*key), h);
	return h;
}

/* How much another listing of this file may take. */
static size_t allowance_locked(const struct file_key *key)
{
	const struct holder *h = holder_locked(key);
	size_t own = h ? h->bytes : 0, others = budget.held - own, share;

	share = others < budget.limit ? (budget.limit - others) / SHARE : 0;
	if (own + share <= share * GENERATIONS)
		return share;
	return own < share * GENERATIONS ? share * GENERATIONS - own : 0;
}

static size_t allowance(const struct q2_stamp *stamp)
{
	struct file_key key = key_of(stamp);
	size_t bytes;

	pthread_mutex_lock(&budget.lock);
	bytes = allowance_locked(&key);
	pthread_mutex_unlock(&budget.lock);
	return bytes;
}

/* -EFBIG, -ENOMEM. */
static int charge(const struct q2_stamp *stamp, size_t bytes)
{
	struct file_key key = key_of(stamp);
	struct holder *h;
	int rc = 0;

	pthread_mutex_lock(&budget.lock);
	h = holder_locked(&key);
	if (bytes > allowance_locked(&key)) {
		rc = -EFBIG;
	} else if (!h) {
		h = calloc(1, sizeof(*h));
		rc = h ? 0 : -ENOMEM;
		if (h) {
			h->key = key;
			HASH_ADD(hh, budget.holders, key, sizeof(h->key), h);
		}
	}
	if (!rc) {
		h->bytes += bytes;
		budget.held += bytes;
	}
	pthread_mutex_unlock(&budget.lock);
	return rc;
}

static void uncharge(const struct q2_stamp *stamp, size_t bytes)
{
	struct file_key key = key_of(stamp);
	struct holder *h;

	pthread_mutex_lock(&budget.lock);
	h = holder_locked(&key);
	h->bytes -= bytes;
	budget.held -= bytes;
	if (!h->bytes) {
		HASH_DEL(budget.holders, h);
		free(h);
	}
	pthread_mutex_unlock(&budget.lock);
}

/* ---------------------------------------------------------------- collecting */

struct collect {
	struct q2_file *file;
	struct q2_info *info;
	size_t room, strings_len, strings_room;
	size_t most; /* bytes */
	struct vs_err *err;
};

static void forget(struct q2_info *info)
{
	free(info->snapshots);
	free(info->strings);
	free(info->backing_name);
	free(info->backing_format);
	free(info->data_file);
	free(info->unsupported);
	q2_bitmaps_free(info->bitmaps);
	info->bitmaps = NULL;
	info->snapshots = NULL;
	info->n_snapshots = 0;
	info->strings = info->backing_name = info->backing_format = info->data_file = info->unsupported = NULL;
}

static int copy_string(char **out, const char *s)
{
	*out = s ? strdup(s) : NULL;
	return s && !*out ? -ENOMEM : 0;
}

static const char *why_unsupported(const struct q2_header *h)
{
	if (h->crypt_method == 2)
		return "is encrypted (LUKS)";
	if (h->crypt_method == 1)
		return "is encrypted (AES)";
	if ((h->incompatible & Q2_INCOMPAT_DATA_FILE) && !h->data_file)
		return "its external data file is not recorded in it";
	return NULL;
}

static int collect_begin(void *opaque, const struct q2_header *h)
{
	struct collect *c = opaque;
	struct q2_info *info = c->info;

	forget(info);
	c->room = c->strings_len = c->strings_room = 0;
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
	return q2_bitmaps_list(c->file, h, &info->bitmaps);
}

/* Makes room for @n of @size bytes, of which there are @used. */
static int make_room(void **v, size_t *room, size_t used, size_t n, size_t size, size_t first)
{
	size_t more = *room ? *room : first;
	void *bigger;

	while (more < used + n)
		more *= 2;
	if (more == *room)
		return 0;
	bigger = realloc(*v, more * size);
	if (!bigger)
		return -ENOMEM;
	*v = bigger;
	*room = more;
	return 0;
}

static size_t bytes_held(const struct collect *c)
{
	return c->info->n_snapshots * sizeof(*c->info->snapshots) + c->strings_len;
}

static int too_large(const struct collect *c)
{
	return vs_err_set(c->err, -EFBIG, "'%s': its snapshot table is too large beside those of other images (more than %zu "
			  "bytes after %zu entries)", c->file->path, c->most, c->info->n_snapshots);
}

static void add_string(struct collect *c, const char *s, size_t len)
{
	memcpy(c->info->strings + c->strings_len, s, len);
	c->strings_len += len;
	c->info->strings[c->strings_len++] = '\0';
}

static int collect_entry(void *opaque, const struct q2_snap_entry *e, uint64_t host_off, size_t len)
{
	struct collect *c = opaque;
	struct q2_info *info = c->info;
	void *snapshots = info->snapshots, *strings = info->strings;
	int rc;

	(void)host_off;
	(void)len;
	rc = make_room(&snapshots, &c->room, info->n_snapshots, 1, sizeof(*info->snapshots), 16);
	info->snapshots = snapshots;
	if (!rc)
		rc = make_room(&strings, &c->strings_room, c->strings_len, e->id_len + e->name_len + 2, 1, 256);
	info->strings = strings;
	if (rc)
		return rc;
	info->snapshots[info->n_snapshots++] = e->s;
	add_string(c, e->id, e->id_len);
	add_string(c, e->name, e->name_len);
	return bytes_held(c) > c->most ? too_large(c) : 0;
}

static void *shrink(void *p, size_t len)
{
	void *smaller = len ? realloc(p, len) : NULL;

	return smaller ? smaller : p;
}

/* The strings stand one after the other, in the order of the entries: now that they stay where they are, each entry gets its
 * own. */
static void tie(struct collect *c)
{
	struct q2_info *info = c->info;
	char *p;
	size_t i;

	info->snapshots = shrink(info->snapshots, info->n_snapshots * sizeof(*info->snapshots));
	info->strings = p = shrink(info->strings, c->strings_len);
	for (i = 0; i < info->n_snapshots; i++) {
		info->snapshots[i].id = p;
		p += strlen(p) + 1;
		info->snapshots[i].name = p;
		p += strlen(p) + 1;
	}
}

static int read_qcow2(struct q2_file *f, struct q2_info *info, struct vs_err *err)
{
	struct collect c = { .file = f, .info = info, .most = allowance(&info->stamp), .err = err };
	struct q2_walk walk = { &c, collect_begin, collect_entry };
	int rc = q2_walk_snapshots(f, &walk, NULL, err);

	if (rc)
		return rc;
	if (info->n_snapshots) {
		rc = charge(&info->stamp, bytes_held(&c));
		if (rc == -EFBIG)
			return too_large(&c);
		if (rc)
			return rc;
		info->charged = bytes_held(&c);
	}
	tie(&c);
	return 0;
}

int q2_info_read(struct q2_file *f, enum q2_format format, struct q2_info **out, struct vs_err *err)
{
	struct q2_info *info = calloc(1, sizeof(*info));
	int rc;

	if (!info)
		return -ENOMEM;
	atomic_init(&info->refs, 1);
	info->format = format;
	rc = f->ops->identity(f, &info->stamp);
	if (rc)
		vs_err_set(err, rc, "cannot stat '%s': %s", f->path, strerror(-rc));
	else if (format == Q2_FORMAT_QCOW2)
		rc = read_qcow2(f, info, err);
	else
		info->size = (info->stamp.size + 511) & ~UINT64_C(511);
	if (rc) {
		q2_info_free(info);
		return rc;
	}
	*out = info;
	return 0;
}

struct q2_info *q2_info_ref(const struct q2_info *info)
{
	struct q2_info *same = (struct q2_info *)info;

	atomic_fetch_add_explicit(&same->refs, 1, memory_order_relaxed);
	return same;
}

void q2_info_free(struct q2_info *info)
{
	if (!info || atomic_fetch_sub_explicit(&info->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (info->charged)
		uncharge(&info->stamp, info->charged);
	forget(info);
	free(info);
}
