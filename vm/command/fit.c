/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Layers of different sizes
 * -------------------------
 * A disk may be resized between two snapshots, so layers of one chain differ in size. What a layer shows past the end of one beneath it is
 * zeros, whatever that one's own base holds there: a layer that is shorter than what it stands on *hides* the end of it. A merge changes
 * which layer stands on which, and so what is hidden:
 *
 *     top < base             the merged image stays as large as the base: what stands on the top, or the guest itself, would see the end of
 *                            the base again, and the disk would grow. QEMU does that without a word. Refused
 *     between < base <= top  QEMU writes the zeros that the short layer stood for into the base. Right since 5.2
 *     base < top             QEMU lets the base grow first. Then nothing that the base had past its end may come back:
 *                              - of a larger image beneath the base: QEMU fills up with zeros, since 5.1. A version 2 base has none to
 *                                write, and QEMU fails
 *                              - of the base's own last cluster: where its size ends within a cluster, and it was larger once, the rest
 *                                of that holds what was there then, and QEMU 7.2 shows it. Looked at, and refused if it is not zeros
 *                            A version 2 image with internal snapshots cannot be resized, nor a device
 *     pull down to NAME      QEMU 7.2 copies nothing that lies past the end of the layer directly beneath the active one: where that is
 *                            short, the end of NAME's image comes back. Refused for any that is short. A pull down to nothing is right
 *
 * Room
 * ----
 * A file may grow until its file system is full, which nobody can know beforehand: others write there, too. A device has its size. What a
 * qcow2 image on it may come to need is counted, and it has to be there; otherwise the job would end in the middle, and could never be
 * finished.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "vm/command/check.h"
#include "vm/command/fit.h"
#include "vm/util/mem.h"

#define QEMU_ZERO_FILLS 5002000 /* short layers between, and a base that grows over a larger image */

static const struct vm_layer *layer_at(const struct vm_context *cx, int layer)
{
	return &cx->d->layers[layer];
}

static uint64_t size_of(const struct vm_context *cx, int layer)
{
	return layer_at(cx, layer)->virtual_size;
}

/* ---------------------------------------------------------------- merges */

/* What would make @layer as large as what it stands on, or do without. Gives. */
static char *way_out(const struct vm_context *cx, int layer, int base)
{
	int above = -1;

	if (vm_context_above(cx, layer, &above) == 1 && size_of(cx, above) >= size_of(cx, base) && layer_at(cx, layer)->snapshots[0])
		return xasprintf("delete '%s' first, which merges '%s' into it and makes it as large",
				 layer_at(cx, layer)->snapshots[0], layer_at(cx, above)->path);
	return xstrdup("'pull' makes the disk stand without them");
}

/* A layer of the merge that is smaller than the base; -1: none is. */
static int find_short(const struct vm_context *cx, int base, int top)
{
	for (int l = top, n = 0; l >= 0 && l != base && n < VM_CHAIN_MAX; l = layer_at(cx, l)->below, n++)
		if (size_of(cx, l) < size_of(cx, base))
			return l;
	return -1;
}

static int hides(const struct vm_context *cx, const char *target, int layer, int base, struct vs_err *err)
{
	vs_autofree char *out = way_out(cx, layer, base);

	return vs_err_set(err, -EOPNOTSUPP, "disk %s: '%s' has %" PRIu64 " bytes and hides the end of '%s', which has %" PRIu64 ": merged, that would "
			  "be seen again; %s", target, layer_at(cx, layer)->path, size_of(cx, layer), layer_at(cx, base)->path, size_of(cx, base), out);
}

/* May the base become as large as the top? */
static int check_growth(const struct vm_context *cx, const char *target, int base, int top, struct vs_err *err)
{
	const struct vm_layer *b = layer_at(cx, base);
	const char *inside = vm_context_internal_in(cx, base);
	bool over_larger = b->below >= 0 && size_of(cx, b->below) > b->virtual_size;

	if (b->format == Q2_FORMAT_RAW && b->stamp.block)
		return vs_err_set(err, -ENOSPC, "disk %s: device '%s' has %" PRIu64 " bytes, and what would be merged into it ('%s') is a disk of %" PRIu64
				  ": make the device as large first, or 'pull', which makes the disk stand without it", target, b->path,
				  b->virtual_size, layer_at(cx, top)->path, size_of(cx, top));
	if (b->format == Q2_FORMAT_QCOW2 && b->version == 2 && (inside || over_larger))
		return vs_err_set(err, -EOPNOTSUPP, "disk %s: '%s' would have to grow from %" PRIu64 " to %" PRIu64 " bytes, which a version 2 image %s cannot: "
				  "'pull' makes the disk stand without it", target, b->path,
				  b->virtual_size, size_of(cx, top), inside ? "with internal snapshots" : "on a larger one");
	if (over_larger && cx->qemu && cx->qemu < QEMU_ZERO_FILLS)
		return hides(cx, target, base, b->below, err);
	return 0;
}

int vm_fit_merge(const struct vm_context *cx, const char *target, int base, int top, bool begun, struct vs_err *err)
{
	int hidden = find_short(cx, base, top);

	if (size_of(cx, top) < size_of(cx, base))
		return hides(cx, target, top, base, err);
	/* what was begun has made the base grow, and only zeros, or what is merged, can be in what is new */
	if (hidden >= 0 && !begun && cx->qemu && cx->qemu < QEMU_ZERO_FILLS)
		return hides(cx, target, hidden, base, err);
	return size_of(cx, top) > size_of(cx, base) ? check_growth(cx, target, base, top, err) : 0;
}

/* ---------------------------------------------------------------- pulls */

/* Only what stands against everybody: that we may not write to it says nothing about QEMU, which has no more rights than the mode gives it. */
static int check_path(const char *target, const char *path, const char *way_out, struct vs_err *err)
{
	int fd, read_only = 0, r = access(path, W_OK) < 0 ? -errno : 0;
	struct stat st = {0};

	if (r != -EROFS && r != -EPERM)
		r = stat(path, &st) == 0 && S_ISREG(st.st_mode) && !(st.st_mode & 0222) ? -EACCES : 0;
	fd = r == 0 && S_ISBLK(st.st_mode) ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
	if (fd >= 0) {
		if (ioctl(fd, BLKROGET, &read_only) == 0 && read_only)
			r = -EROFS;
		close(fd);
	}
	return r < 0 ? vs_err_set(err, r, "disk %s: '%s' would be written to, and cannot be: %s%s", target, path,
				  r == -EPERM ? "it is immutable" : r == -EACCES ? "its mode lets nobody do so (chmod u+w)" : strerror(-r), way_out) : 0;
}

static int check_writable(const char *target, const struct vm_layer *l, const char *way_out, struct vs_err *err)
{
	int r = check_path(target, l->path, way_out, err);

	return r == 0 && l->data ? check_path(target, l->data, way_out, err) : r;
}

int vm_fit_pull(const struct vm_context *cx, const char *target, int base, int top, struct vs_err *err)
{
	uint64_t seen = base < 0 ? 0 : size_of(cx, base) < size_of(cx, top) ? size_of(cx, base) : size_of(cx, top);
	int r = check_writable(target, layer_at(cx, top), "", err);

	if (r < 0)
		return r;
	for (int l = layer_at(cx, top)->below, n = 0; l >= 0 && l != base && n < VM_CHAIN_MAX; l = layer_at(cx, l)->below, n++)
		if (size_of(cx, l) < seen)
			return vs_err_set(err, -EOPNOTSUPP, "disk %s: '%s' has %" PRIu64 " bytes and hides the end of '%s', which has %" PRIu64 ": pulled, "
					  "that would be seen again; 'pull' without a name makes the disk stand alone, and is right", target,
					  layer_at(cx, l)->path, size_of(cx, l), layer_at(cx, base)->path, size_of(cx, base));
	return 0;
}

/* ---------------------------------------------------------------- what only the files tell */

static bool is_cancelled(void *opaque)
{
	return vm_context_cancelled(opaque, NULL) < 0;
}

static bool reads_zero(struct q2_file *f, uint64_t off, uint64_t len)
{
	vs_autofree unsigned char *buf = xcalloc(1, len);
	ssize_t got = f->ops->pread(f, buf, len, off);

	return got >= 0 && (got == 0 || (!buf[0] && !memcmp(buf, buf + 1, (size_t)got - 1)));
}

/* What is in the last cluster of an image past the end of its disk: zeros? False also where that cannot be told. */
static bool tail_is_zero(const struct vm_context *cx, const struct vm_layer *l)
{
	uint64_t cluster = UINT64_C(1) << l->cluster_bits, in_last = l->virtual_size & (cluster - 1), last = l->virtual_size - in_last;
	struct q2_view_spec spec = { .path = l->path, .format = l->format, .gate = cx->d->gate };
	struct q2_work work = { .stop = is_cancelled, .opaque = (void *)cx };
	struct q2_cache *cache = q2_cache_new(cluster * 4, 0);
	struct q2_view *view;
	struct q2_extent e;
	bool zero = false;

	if (cache && q2_view_open(cache, &spec, &view, NULL) >= 0) {
		if (q2_view_extent(view, l->virtual_size - 512, 512, &work, &e, NULL) >= 0)
			zero = e.kind == Q2_ZERO || e.depth > 0 ||
			       (e.kind == Q2_DATA && reads_zero(e.file, e.host_off + 512, last + cluster - l->virtual_size));
		q2_view_close(view);
	}
	q2_cache_free(cache);
	return zero;
}

static int check_tail(const struct vm_context *cx, const char *target, int base, int top, struct vs_err *err)
{
	const struct vm_layer *b = layer_at(cx, base);

	if (size_of(cx, top) <= b->virtual_size || b->format != Q2_FORMAT_QCOW2 || !b->cluster_bits ||
	    !(b->virtual_size & ((UINT64_C(1) << b->cluster_bits) - 1)) || tail_is_zero(cx, b))
		return 0;
	return vs_err_set(err, -EOPNOTSUPP, "disk %s: '%s' ends within a cluster at %" PRIu64 " bytes, where it was cut off once: when it grows to %" PRIu64
			  ", QEMU would show what was behind that; 'pull' makes the disk stand without it", target, b->path, b->virtual_size,
			  size_of(cx, top));
}

/* Clusters of tables and refcounts that come with so many of data; more than there can be. */
static uint64_t with_tables(uint64_t clusters, unsigned cluster_bits)
{
	uint64_t each = (UINT64_C(1) << cluster_bits) / 16; /* entries of a table, at least */

	return clusters + 2 * (clusters / each) + 4;
}

/* Bytes that a qcow2 image of this size has at most if it holds everything once. */
static uint64_t full_size(uint64_t size, unsigned cluster_bits)
{
	uint64_t cluster = UINT64_C(1) << cluster_bits, clusters = (size + cluster - 1) >> cluster_bits;

	return (with_tables(clusters, cluster_bits) + clusters / (cluster / 8) / (cluster / 8) + 8) << cluster_bits;
}

static int check_room(const struct vm_context *cx, const char *target, int base, int top, uint64_t bytes, struct vs_err *err)
{
	const struct vm_layer *b = layer_at(cx, base);
	uint64_t used = 0, more = 0;
	struct q2_file *f;
	int r;

	if (!b->stamp.block || b->format != Q2_FORMAT_QCOW2 || !b->cluster_bits)
		return 0;
	if (!vm_context_internal_in(cx, base) && full_size(size_of(cx, top), b->cluster_bits) <= b->stamp.size)
		return 0;
	r = q2_file_open(b->path, &f, err);
	if (r < 0)
		return r;
	r = q2_file_counted(f, &used, err);
	q2_file_close(f);
	if (r < 0)
		return r;
	more = with_tables((bytes + (UINT64_C(1) << b->cluster_bits) - 1) >> b->cluster_bits, b->cluster_bits) << b->cluster_bits;
	if (used <= b->stamp.size && more <= b->stamp.size - used)
		return 0;
	return vs_err_set(err, -ENOSPC, "disk %s: device '%s' has %" PRIu64 " bytes, of which %" PRIu64 " are in use, and up to %" PRIu64 " more are needed: "
			  "make it larger first, or 'pull', which makes the disk stand without it", target, b->path, b->stamp.size, used, more);
}

int vm_fit_files(const struct vm_context *cx, const char *target, int base, int top, uint64_t bytes, struct vs_err *err)
{
	int r = check_writable(target, layer_at(cx, base), "; 'pull' makes the disk stand without it", err), above;

	if (r == 0 && vm_context_above(cx, top, &above) == 1) /* its header is changed; where it cannot be opened for that QEMU ends, and the guest with it */
		r = check_path(target, layer_at(cx, above)->path, "", err);
	if (r == 0)
		r = check_tail(cx, target, base, top, err);
	return r == 0 ? check_room(cx, target, base, top, bytes, err) : r;
}

/* ---------------------------------------------------------------- words */

char *vm_fit_free(const char *path, uint64_t bytes)
{
	struct statvfs fs;
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || statvfs(path, &fs) < 0 || (uint64_t)fs.f_bavail * fs.f_frsize >= bytes)
		return xstrdup("");
	return xasprintf(", and its file system has %.1f MiB free", (double)fs.f_bavail * (double)fs.f_frsize / 1048576);
}
