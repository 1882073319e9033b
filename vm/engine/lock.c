/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/engine/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

struct vm_lock {
	int fd;
};

static uint64_t hash_of(const char *text)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
	return h;
}

/* A directory that only we can write to; in /tmp somebody may have made it before us. */
static int make_dir(char *dir, size_t room, struct vs_err *err)
{
	const char *run = getenv("XDG_RUNTIME_DIR"), *service = getenv("RUNTIME_DIRECTORY");
	struct stat st;

	if (service && service[0] == '/')
		snprintf(dir, room, "%s", service);
	else if (geteuid() == 0)
		snprintf(dir, room, "/run/virt-snapfs");
	else if (run && run[0] == '/')
		snprintf(dir, room, "%s/virt-snapfs", run);
	else
		snprintf(dir, room, "/tmp/virt-snapfs-%u", (unsigned)geteuid());
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return vs_err_set(err, -errno, "the lock directory '%s': %s", dir, strerror(errno));
	if (lstat(dir, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
		return vs_err_set(err, -EACCES, "the lock directory '%s' is not ours alone", dir);
	return 0;
}

int vm_lock_take(const char *uuid, bool prune, struct vm_lock **out, bool *pruning, struct vs_err *err)
{
	char dir[3000], path[3100], who = '?';
	struct vm_lock *lock;
	int r = make_dir(dir, sizeof(dir), err), fd;

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/%016llx.lock", dir, (unsigned long long)hash_of(uuid));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return vs_err_set(err, -errno, "the lock '%s': %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (pruning)
			*pruning = pread(fd, &who, 1, 0) == 1 && who == 'p';
		close(fd);
		return vs_err_set(err, -EBUSY, "another command is at work on this domain");
	}
	lock = calloc(1, sizeof(*lock));
	if (!lock) {
		close(fd);
		return vs_err_set(err, -ENOMEM, "out of memory");
	}
	lock->fd = fd;
	if (pwrite(fd, prune ? "p" : "c", 1, 0) != 1)
		r = 0; /* others then do not wait for it */
	*out = lock;
	return 0;
}

void vm_lock_release(struct vm_lock *lock)
{
	if (!lock)
		return;
	close(lock->fd);
	free(lock);
}
