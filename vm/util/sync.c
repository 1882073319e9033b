/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qcow2/base.h"
#include "vm/util/mem.h"

int vm_sync_hold(const char *path)
{
	struct stat st;
	int fd;

	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode) && !S_ISDIR(st.st_mode)) /* to open it may do something */
		return -EINVAL;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

static int sync_fd(int fd)
{
	return fsync(fd) == 0 || errno == EINVAL ? 0 : -errno;
}

int vm_sync_held(int fd)
{
	int r = sync_fd(fd);
	struct stat st;

	/* who may not, or not by this mount, learns no more than that */
	if (r == 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && fchmod(fd, st.st_mode & 07777) == 0)
		r = sync_fd(fd);
	return r;
}

int vm_sync(const char *path)
{
	vs_autoclose int fd = vm_sync_hold(path);

	return fd < 0 ? fd : sync_fd(fd);
}

int vm_sync_unheld(const char *path, bool dropping, bool *told)
{
	vs_autoclose int fd = vm_sync_hold(path);
	int r = fd < 0 ? fd : vm_sync_held(fd);

	if (r < 0 && fd >= 0)
		*told = true;
	if (fd >= 0 && dropping)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return r;
}

int vm_sync_parent(const char *path)
{
	const char *slash = strrchr(path, '/');
	vs_autofree char *dir = slash ? xstrndup(path, (size_t)(slash - path) + 1) : xstrdup(".");

	return vm_sync(dir);
}

/* ---------------------------------------------------------------- what the page cache has */

#define WINDOW (64u << 20) /* bytes of a file that are asked for at a time */
#define PIECE (1u << 20)
#define TRIES 4 /* a guest writes while we look */

struct both {
	int cached, direct; /* descriptors */
	char *a, *b;        /* PIECE bytes, page-aligned */
};

static int same_piece(const struct both *both, off_t off, size_t len)
{
	for (int i = 0; i < TRIES; i++) {
		ssize_t n, m;

		if (i && fsync(both->cached) < 0)
			return -errno;
		n = pread(both->cached, both->a, len, off);
		m = n < 0 ? n : pread(both->direct, both->b, PIECE, off);
		if (m < 0)
			return n >= 0 && errno == EINVAL ? -EOPNOTSUPP : -errno; /* a device of large blocks */
		if (m >= n && !memcmp(both->a, both->b, (size_t)n))
			return 1;
	}
	return 0;
}

/* The next run of pages that are cached, from *from; its length, at most PIECE. 0: there is none. */
static size_t next_run(const unsigned char *pages, size_t n, size_t page, size_t *from)
{
	size_t end;

	while (*from < n && !(pages[*from] & 1))
		++*from;
	for (end = *from; end < n && (pages[end] & 1) && (end - *from) * page < PIECE; end++)
		;
	return (end - *from) * page;
}

static int same_window(const struct both *both, off_t off, size_t len, unsigned char *pages, size_t page)
{
	void *map = mmap(NULL, len, PROT_READ, MAP_SHARED, both->cached, off);
	size_t n = (len + page - 1) / page, run;
	int r = map == MAP_FAILED ? -errno : mincore(map, len, pages) < 0 ? -errno : 1;

	if (map != MAP_FAILED)
		munmap(map, len);
	for (size_t from = 0; r == 1 && (run = next_run(pages, n, page, &from)); from += run / page)
		r = same_piece(both, off + (off_t)(from * page), run < len - from * page ? run : len - from * page);
	return r;
}

int vm_sync_is_there(const char *path, bool (*stop)(void *opaque), void *opaque)
{
	vs_autoclose int cached = vm_sync_hold(path);
	vs_autoclose int direct = cached < 0 ? -1 : open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct both both = { .cached = cached, .direct = direct };
	vs_autofree unsigned char *pages = xcalloc(WINDOW / page, 1);
	struct stat st;
	int r;

	if (cached < 0)
		return cached;
	if (direct < 0)
		return errno == EINVAL ? -EOPNOTSUPP : -errno;
	if (fstat(cached, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EOPNOTSUPP;
	both.a = aligned_alloc(4096, PIECE);
	both.b = aligned_alloc(4096, PIECE);
	if (!both.a || !both.b)
		xoom();
	r = fsync(cached) < 0 ? -errno : 1;
	for (off_t off = 0; r == 1 && off < st.st_size; off += WINDOW) {
		r = same_window(&both, off, st.st_size - off < (off_t)WINDOW ? (size_t)(st.st_size - off) : WINDOW, pages, page);
		if (r == 1 && stop && stop(opaque))
			r = -EINTR;
	}
	free(both.a);
	free(both.b);
	return r;
}
