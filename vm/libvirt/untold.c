/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * libvirt writes a file when it has the thing in its list already, and unlinks it before it takes it off: so a file whose name is not listed, also when
 * libvirt is asked for that name once more afterwards, is one that it does not know.
 */
#include "vm/libvirt/untold.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "qcow2/qcow2.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define SETTLED_NS (2 * VM_NS_PER_S) /* a change within one tick of the clock leaves the same time */
#define SUFFIX ".xml"

static void drop(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

void vm_untold_fini(struct vm_untold *u)
{
	drop(u->names, u->n);
	*u = (struct vm_untold){0};
}

void vm_untold_disbelieve(struct vm_untold *u)
{
	drop(u->names, u->n);
	u->names = NULL;
	u->n = 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_directory(int dir, const struct dirent *entry)
{
	struct stat st;

	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == DT_DIR;
	return fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* Gives the names of its files that are not listed. Negative errno: it cannot be read to its end. */
static int find(DIR *stream, bool (*is_listed)(void *opaque, const char *name), void *opaque, char ***names, size_t *n)
{
	struct dirent *entry;
	size_t room = 0;
	int code;

	for (errno = 0; (entry = readdir(stream)); errno = 0) {
		size_t len = strlen(entry->d_name), tail = strlen(SUFFIX);
		vs_autofree char *name = len > tail && !strcmp(entry->d_name + len - tail, SUFFIX) ? xstrndup(entry->d_name, len - tail) : NULL;

		if (!name || !strncmp(name, ".#", 2) || is_directory(dirfd(stream), entry) || is_listed(opaque, name)) /* ".#": Emacs' locks */
			continue;
		XGROW(*names, *n, room);
		(*names)[(*n)++] = vs_steal(name);
	}
	code = -errno;
	if (*n)
		qsort(*names, *n, sizeof(**names), by_name);
	return code;
}

static bool same(const struct vm_untold *u, char **names, size_t n)
{
	for (size_t i = 0; u->n == n && i < n; i++)
		if (strcmp(u->names[i], names[i]) != 0)
			return false;
	return u->n == n;
}

static bool cannot(struct vm_untold *u, int code)
{
	bool news;

	if (code == -EACCES || code == -EPERM)
		code = 0;
	news = u->code != code;
	u->code = code;
	u->settled = false;
	return news;
}

bool vm_untold_look(struct vm_untold *u, const char *dir, uint64_t listed, bool (*is_listed)(void *opaque, const char *name), void *opaque)
{
	struct stat st = {0};
	int64_t mtime_ns, now_ns = vm_now_ns();
	char **names = NULL;
	DIR *stream = NULL;
	size_t n = 0;
	bool news;
	int code = 0;

	if (dir && stat(dir, &st) && errno != ENOENT && errno != ENOTDIR)
		return cannot(u, -errno);
	mtime_ns = vm_timespec_ns(st.st_mtim);
	if (u->settled && u->dev == st.st_dev && u->ino == st.st_ino && u->mtime_ns == mtime_ns && u->listed == listed)
		return false;
	stream = dir && st.st_ino ? opendir(dir) : NULL;
	if (dir && st.st_ino && !stream && errno != ENOENT)
		return cannot(u, -errno);
	if (stream) {
		code = find(stream, is_listed, opaque, &names, &n);
		closedir(stream);
	}
	if (code < 0) {
		drop(names, n);
		return cannot(u, code);
	}
	u->settled = !stream || mtime_ns + SETTLED_NS < now_ns;
	u->dev = st.st_dev;
	u->ino = st.st_ino;
	u->mtime_ns = mtime_ns;
	u->listed = listed;
	news = u->code || !same(u, names, n);
	u->code = 0;
	drop(u->names, u->n);
	u->names = names;
	u->n = n;
	return news;
}
