/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "qcow2/base.h"
#include "vm/util/mem.h"

int vm_sync_hold(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	return fd < 0 ? -errno : fd;
}

int vm_sync_held(int fd)
{
	return fsync(fd) == 0 || errno == EINVAL || errno == EROFS ? 0 : -errno;
}

static int sync_it(const char *path, bool dropping)
{
	vs_autoclose int fd = vm_sync_hold(path);
	int r = fd < 0 ? fd : vm_sync_held(fd);

	if (r == 0 && dropping)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return r;
}

int vm_sync(const char *path)
{
	return sync_it(path, false);
}

int vm_sync_dropping(const char *path)
{
	return sync_it(path, true);
}

int vm_sync_parent(const char *path)
{
	const char *slash = strrchr(path, '/');
	vs_autofree char *dir = slash ? xstrndup(path, (size_t)(slash - path) + 1) : xstrdup(".");

	return vm_sync(dir);
}
