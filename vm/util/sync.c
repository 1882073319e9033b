/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
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
