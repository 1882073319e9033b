/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/meta/made.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

static int look(int fd, const char *path, int flags, struct vm_made *out, bool *regular)
{
	struct statx st;

	if (statx(fd, path, flags, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
		return -errno;
	*regular = S_ISREG(st.stx_mode);
	*out = (struct vm_made){ .dev = makedev(st.stx_dev_major, st.stx_dev_minor), .ino = st.stx_ino, .path = out->path };
	if (st.stx_mask & STATX_BTIME)
		out->btime_ns = st.stx_btime.tv_sec * VM_NS_PER_S + st.stx_btime.tv_nsec;
	return 0;
}

int vm_made_of(int fd, const char *path, struct vm_made *out)
{
	bool regular;

	out->path = path;
	return look(fd, "", AT_EMPTY_PATH, out, &regular);
}

char *vm_made_text(const struct vm_made *made)
{
	return xasprintf("%" PRIu64 " %" PRIu64 " %" PRId64 "\n%s", made->dev, made->ino, made->btime_ns, made->path);
}

bool vm_made_parse(const char *text, struct vm_made *out)
{
	struct vm_made made;
	int at = 0;

	if (sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNd64 "%n", &made.dev, &made.ino, &made.btime_ns, &at) != 3 || text[at] != '\n' ||
	    text[at + 1] != '/')
		return false;
	made.path = text + at + 1;
	*out = made;
	return true;
}

bool vm_made_look(const char *path, struct vm_made *out)
{
	bool regular;

	*out = (struct vm_made){ .path = path };
	return look(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, out, &regular) == 0;
}

char *vm_made_identity(const char *path)
{
	struct vm_made made = { .path = path };
	bool regular;

	return look(AT_FDCWD, path, 0, &made, &regular) < 0 ? NULL : xasprintf("%" PRIu64 ".%" PRId64, made.ino, made.btime_ns);
}

int vm_made_is_there(const struct vm_made *made)
{
	struct vm_made now = { .path = made->path };
	bool regular = false;
	int r = look(AT_FDCWD, made->path, AT_SYMLINK_NOFOLLOW, &now, &regular);

	if (r < 0)
		return r == -ENOENT || r == -ENOTDIR ? 0 : r;
	return regular && now.dev == made->dev && now.ino == made->ino && now.btime_ns == made->btime_ns;
}

/* ---------------------------------------------------------------- with its directory */

/* For statx() and openat(). -errno. */
static int open_dir_of(const char *path)
{
	vs_autofree char *dir = xstrndup(path, (size_t)(strrchr(path, '/') - path) + 1);
	int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int look_dir(int fd, struct vm_made *out)
{
	bool regular;

	*out = (struct vm_made){0};
	return look(fd, "", AT_EMPTY_PATH, out, &regular);
}

char *vm_made_text_in(const struct vm_made *made)
{
	vs_autofree char *text = vm_made_text(made);
	vs_autoclose int fd = open_dir_of(made->path);
	struct vm_made dir;

	return fd < 0 || look_dir(fd, &dir) < 0 ? NULL : xasprintf("%" PRIu64 " %" PRId64 "\n%s", dir.ino, dir.btime_ns, text);
}

static int find_in(const struct vm_made *made, const struct vm_made *dir)
{
	vs_autoclose int fd = open_dir_of(made->path);
	struct vm_made now = {0};
	bool regular = false;
	int r = fd < 0 ? fd : look(fd, strrchr(made->path, '/') + 1, AT_SYMLINK_NOFOLLOW, &now, &regular);

	if (fd < 0)
		return r == -ENOTDIR ? -ENOENT : r;
	if (r == 0 && regular && now.ino == made->ino && now.btime_ns == made->btime_ns)
		return 1;
	if (r < 0 && r != -ENOENT)
		return r;
	r = look_dir(fd, &now);
	return r < 0 ? r : now.ino == dir->ino && now.btime_ns == dir->btime_ns ? 0 : -ENOENT;
}

int vm_made_find(const char *text, struct vm_made *out)
{
	struct vm_made dir = {0};
	int at = 0;

	if (sscanf(text, "%" SCNu64 " %" SCNd64 "%n", &dir.ino, &dir.btime_ns, &at) != 2 || text[at] != '\n' || !vm_made_parse(text + at + 1, out))
		return -EINVAL;
	return find_in(out, &dir);
}
