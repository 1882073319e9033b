/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "q2-image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* An assert that NDEBUG does not remove: a fixture that cannot be made is no test. */
static void must(bool ok)
{
	if (!ok) {
		perror("q2-image");
		abort();
	}
}

static uint8_t *reach(struct ti_image *img, uint64_t off, size_t len)
{
	size_t end = (size_t)off + len;

	if (end > img->room) {
		img->room = end * 2;
		img->bytes = realloc(img->bytes, img->room);
		must(img->bytes != NULL);
	}
	if (end > img->len) {
		memset(img->bytes + img->len, 0, end - img->len);
		img->len = end;
	}
	return img->bytes + off;
}

void ti_put(struct ti_image *img, uint64_t off, const void *data, size_t len)
{
	if (len)
		memcpy(reach(img, off, len), data, len);
}

static void put_be(struct ti_image *img, uint64_t off, uint64_t value, unsigned bytes)
{
	uint8_t *p = reach(img, off, bytes);
	unsigned i;

	for (i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
}

void ti_put16(struct ti_image *img, uint64_t off, uint16_t value)
{
	put_be(img, off, value, 2);
}

void ti_put32(struct ti_image *img, uint64_t off, uint32_t value)
{
	put_be(img, off, value, 4);
}

void ti_put64(struct ti_image *img, uint64_t off, uint64_t value)
{
	put_be(img, off, value, 8);
}

uint64_t ti_off(const struct ti_image *img, uint64_t cluster)
{
	return cluster << img->bits;
}

static void whole_cluster(struct ti_image *img, uint64_t cluster)
{
	reach(img, ti_off(img, cluster), (size_t)1 << img->bits);
}

void ti_init(struct ti_image *img, unsigned bits, uint64_t size)
{
	unsigned shift = bits + bits - 3;
	uint32_t l1_entries = (uint32_t)((size + (UINT64_C(1) << shift) - 1) >> shift);

	*img = (struct ti_image){ .bits = bits };
	ti_put32(img, 0, 0x514649fb);
	ti_put32(img, 4, 3);
	ti_put32(img, 20, bits);
	ti_put64(img, 24, size);
	ti_put32(img, 36, l1_entries);
	ti_put64(img, 40, ti_off(img, TI_L1));
	ti_put64(img, 48, ti_off(img, 1));
	ti_put32(img, 56, 1);
	ti_put32(img, 96, 4);
	ti_put32(img, 100, 112);
	whole_cluster(img, 1);
	reach(img, ti_off(img, TI_L1), (size_t)l1_entries * 8);
	whole_cluster(img, TI_L1);
}

void ti_fini(struct ti_image *img)
{
	free(img->bytes);
	*img = (struct ti_image){ 0 };
}

void ti_fill(struct ti_image *img, uint64_t cluster, uint8_t byte)
{
	memset(reach(img, ti_off(img, cluster), (size_t)1 << img->bits), byte, (size_t)1 << img->bits);
}

void ti_l1(struct ti_image *img, uint64_t table, uint64_t idx, uint64_t l2)
{
	whole_cluster(img, table);
	ti_put64(img, ti_off(img, table) + idx * 8, ti_off(img, l2) | TI_COPIED);
	whole_cluster(img, l2);
}

void ti_l2(struct ti_image *img, uint64_t l2, uint64_t idx, uint64_t entry)
{
	whole_cluster(img, l2);
	ti_put64(img, ti_off(img, l2) + idx * 8, entry);
}

void ti_data(struct ti_image *img, uint64_t l2, uint64_t idx, uint64_t cluster, uint8_t byte)
{
	ti_l2(img, l2, idx, ti_off(img, cluster) | TI_COPIED);
	ti_fill(img, cluster, byte);
}

void ti_backing(struct ti_image *img, const char *name, const char *format)
{
	size_t ext = 112, name_off;

	if (format) {
		ti_put32(img, ext, 0xe2792aca);
		ti_put32(img, ext + 4, (uint32_t)strlen(format));
		ti_put(img, ext + 8, format, strlen(format));
		ext += 8 + ((strlen(format) + 7) & ~(size_t)7);
	}
	ti_put64(img, ext, 0); /* END */
	name_off = ext + 8;
	ti_put(img, name_off, name, strlen(name));
	ti_put64(img, 8, name_off);
	ti_put32(img, 16, (uint32_t)strlen(name));
}

size_t ti_table(struct ti_image *img, uint64_t cluster, const struct ti_snap *snaps, size_t n)
{
	uint64_t start = ti_off(img, cluster), at = start;
	size_t i;

	for (i = 0; i < n; i++) {
		const struct ti_snap *s = &snaps[i];
		size_t id_len = strlen(s->id), name_len = strlen(s->name), extra = s->no_extra ? 0 : 16;

		ti_put64(img, at, ti_off(img, s->l1));
		ti_put32(img, at + 8, s->l1_entries);
		ti_put16(img, at + 12, (uint16_t)id_len);
		ti_put16(img, at + 14, (uint16_t)name_len);
		ti_put32(img, at + 16, s->date_sec);
		ti_put32(img, at + 20, s->date_nsec);
		ti_put64(img, at + 24, s->clock);
		ti_put32(img, at + 32, (uint32_t)s->vm_state);
		ti_put32(img, at + 36, (uint32_t)extra);
		if (extra) {
			ti_put64(img, at + 40, s->vm_state);
			ti_put64(img, at + 48, s->disk_size);
		}
		at += 40 + extra;
		ti_put(img, at, s->id, id_len);
		ti_put(img, at + id_len, s->name, name_len);
		at = (at + id_len + name_len + 7) & ~UINT64_C(7);
		reach(img, at, 0);
	}
	return (size_t)(at - start);
}

void ti_switch(struct ti_image *img, uint64_t cluster, uint32_t n)
{
	ti_put32(img, 60, n);
	ti_put64(img, 64, n ? ti_off(img, cluster) : 0);
}

struct q2_snapshot ti_snapshot(const struct ti_image *img, const struct ti_snap *snap)
{
	return (struct q2_snapshot){
		.id = (char *)(uintptr_t)snap->id, .name = (char *)(uintptr_t)snap->name, .l1_off = ti_off(img, snap->l1),
		.l1_entries = snap->l1_entries, .date_sec = snap->date_sec, .date_nsec = snap->date_nsec,
		.vm_clock_nsec = snap->clock, .vm_state_size = snap->vm_state, .disk_size = snap->disk_size,
		.has_disk_size = !snap->no_extra,
	};
}

/* ---------------------------------------------------------------- in memory */

static int mem_size(struct q2_file *f, uint64_t *len)
{
	*len = ((struct ti_file *)f)->img->len;
	return 0;
}

static ssize_t mem_pread(struct q2_file *f, void *buf, size_t len, uint64_t off)
{
	struct ti_file *tf = (struct ti_file *)f;
	unsigned number = ++tf->preads;
	size_t n;

	if (tf->before)
		tf->before(tf, tf->opaque, off, len);
	if (number == tf->fail_at)
		return tf->fail_rc;
	if (off >= tf->img->len)
		return 0;
	n = tf->img->len - off < len ? (size_t)(tf->img->len - off) : len;
	if (number == tf->short_at)
		n /= 2;
	memcpy(buf, tf->img->bytes + off, n);
	return (ssize_t)n;
}

static int mem_identity(struct q2_file *f, struct q2_stamp *stamp)
{
	struct ti_file *tf = (struct ti_file *)f;

	*stamp = tf->stamp;
	stamp->size = stamp->allocated = tf->img->len;
	return 0;
}

static void mem_close(struct q2_file *f)
{
	((struct ti_file *)f)->closes++;
}

static const struct q2_file_ops mem_ops = { mem_size, mem_pread, mem_identity, mem_close };

void ti_file_init(struct ti_file *tf, struct ti_image *img)
{
	static char path[] = "/mem/image.qcow2";

	*tf = (struct ti_file){ .f = { &mem_ops, -1, path }, .img = img, .stamp = { .dev = 7, .ino = 42, .mtime_ns = 1 } };
}

/* ---------------------------------------------------------------- on disk */

char *ti_mkdir(void)
{
	const char *tmp = getenv("TMPDIR");
	char *dir = NULL, *canon;

	must(asprintf(&dir, "%s/q2-unit-XXXXXX", tmp ? tmp : "/tmp") > 0);
	must(mkdtemp(dir) != NULL);
	canon = realpath(dir, NULL);
	must(canon != NULL);
	free(dir);
	return canon;
}

char *ti_path(const char *dir, const char *name)
{
	char *path = NULL;

	must(asprintf(&path, "%s/%s", dir, name) > 0);
	return path;
}

void ti_rmdir(char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char *path = ti_path(dir, e->d_name);

		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlink(path) && (errno == EISDIR || errno == EPERM)) {
			ti_rmdir(path);
			path = NULL;
		}
		free(path);
	}
	if (d)
		closedir(d);
	rmdir(dir);
	free(dir);
}

void ti_save_bytes(const char *path, const void *bytes, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd >= 0);
	must(pwrite(fd, bytes, len, 0) == (ssize_t)len);
	close(fd);
}

void ti_age(const char *path)
{
	struct timespec times[2] = { { 1000000000, 0 }, { 1000000000, 0 } };

	must(!utimensat(AT_FDCWD, path, times, 0));
}

void ti_save(const struct ti_image *img, const char *path)
{
	ti_save_bytes(path, img->bytes, img->len);
	ti_age(path);
}

void ti_patch(const char *path, uint64_t off, const void *bytes, size_t len)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	must(fd >= 0);
	must(pwrite(fd, bytes, len, (off_t)off) == (ssize_t)len);
	close(fd);
}

bool ti_all(const void *buf, size_t len, uint8_t byte)
{
	const uint8_t *p = buf;
	size_t i;

	for (i = 0; i < len; i++)
		if (p[i] != byte)
			return false;
	return true;
}
