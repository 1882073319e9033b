/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/dirs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/util/clock.h"

#define LIST_AGAIN_NS (30 * VM_NS_PER_S)
#define RACY_NS (100 * VM_NS_PER_MS)
#define YOUNG_NS (2 * VM_NS_PER_S)

struct entry {
	int64_t mtime_ns, ctime_ns;
	uint64_t size, ino;
	uint64_t listed; /* the listing that last saw it */
	bool qcow2;
	char path[];
};

struct dir {
	char *path;
	struct vm_strmap entries; /* regular files by name */
	uint64_t looked;          /* the round of the last look */
	bool news;                /* the last listing found another set of qcow2 files than the one before */
	uint64_t listing;         /* counts listings */
	int64_t listed_ns;        /* steady clock, 0 = never */
	int64_t mtime_ns;
	int error;                /* 0, or why the last listing failed */
	bool racy; /* changed so shortly before it was listed that its mtime may not show the next change, or holds a file
		    * that may just be being made */
};

static void dir_free(void *thing)
{
	struct dir *d = thing;

	vm_strmap_clear(&d->entries, free);
	free(d->path);
	free(d);
}

void vm_dirs_fini(struct vm_dirs *dirs)
{
	vm_strmap_clear(&dirs->table, dir_free);
}

static bool recent(void *thing, void *opaque)
{
	struct dir *d = thing;
	struct vm_dirs *dirs = opaque;

	if (d->looked + 2 > dirs->round)
		return true;
	dir_free(d);
	return false;
}

void vm_dirs_round(struct vm_dirs *dirs)
{
	dirs->round++;
	vm_strmap_filter(&dirs->table, recent, dirs);
}

/* What cannot be opened may be one. */
static bool begins_like_qcow2(int dir_fd, const char *name)
{
	vs_autoclose int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	char magic[4];

	if (fd < 0)
		return errno != ENOENT;
	return pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && !memcmp(magic, "QFI\xfb", 4);
}

static struct entry *entry_of(struct dir *d, const char *dir, const char *name)
{
	struct entry *e = vm_strmap_get(&d->entries, name);
	size_t len = strlen(dir) + strlen(name) + 2;

	if (e)
		return e;
	e = calloc(1, sizeof(*e) + len);
	if (!e)
		return NULL;
	snprintf(e->path, len, "%s/%s", dir, name);
	if (vm_strmap_put(&d->entries, name, e) < 0) {
		free(e);
		return NULL;
	}
	return e;
}

static void look_at(struct dir *d, const char *dir, int dir_fd, const char *name)
{
	struct stat st;
	struct entry *e;
	bool was;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
		return;
	e = entry_of(d, dir, name);
	if (!e)
		return;
	was = e->qcow2;
	if (!e->listed || e->mtime_ns != vm_timespec_ns(st.st_mtim) || e->ctime_ns != vm_timespec_ns(st.st_ctim) ||
	    e->size != (uint64_t)st.st_size || e->ino != st.st_ino)
		e->qcow2 = begins_like_qcow2(dir_fd, name);
	e->mtime_ns = vm_timespec_ns(st.st_mtim);
	e->ctime_ns = vm_timespec_ns(st.st_ctim);
	e->size = (uint64_t)st.st_size;
	e->ino = st.st_ino;
	e->listed = d->listing;
	if (e->qcow2 != was)
		d->news = true;
	if (vm_now_ns() - e->mtime_ns < YOUNG_NS)
		d->racy = true;
}

static bool listed_now(void *thing, void *opaque)
{
	struct entry *e = thing;
	struct dir *d = opaque;

	if (e->listed == d->listing)
		return true;
	if (e->qcow2)
		d->news = true;
	free(e);
	return false;
}

static void list(struct dir *d)
{
	DIR *stream = opendir(d->path);
	struct dirent *entry;
	struct stat st;
	int error = stream ? 0 : -errno;

	d->news = error != d->error;
	d->error = error;
	d->listing++;
	d->listed_ns = vm_steady_ns();
	if (stream && !fstat(dirfd(stream), &st)) {
		d->mtime_ns = vm_timespec_ns(st.st_mtim);
		d->racy = vm_now_ns() - d->mtime_ns < RACY_NS;
		errno = 0;
		while ((entry = readdir(stream))) {
			if (entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN)
				look_at(d, d->path, dirfd(stream), entry->d_name);
			errno = 0;
		}
		if (errno)
			d->error = -errno;
	}
	if (stream)
		closedir(stream);
	vm_strmap_filter(&d->entries, listed_now, d);
}

static bool outdated(const struct dir *d)
{
	struct stat st;

	return !d->listed_ns || d->racy || vm_steady_ns() - d->listed_ns > LIST_AGAIN_NS || stat(d->path, &st) ||
	       vm_timespec_ns(st.st_mtim) != d->mtime_ns;
}

static void look(struct vm_dirs *dirs, struct dir *d)
{
	if (d->looked == dirs->round)
		return;
	d->looked = dirs->round;
	if (outdated(d))
		list(d);
	else
		d->news = false;
}

struct quiet {
	struct vm_dirs *dirs;
	bool quiet;
};

static bool look_again(void *thing, void *opaque)
{
	struct dir *d = thing;
	struct quiet *q = opaque;

	look(q->dirs, d);
	if (d->news)
		q->quiet = false;
	return true;
}

bool vm_dirs_quiet(struct vm_dirs *dirs)
{
	struct quiet q = { dirs, true };

	vm_strmap_filter(&dirs->table, look_again, &q);
	return q.quiet;
}

struct visit {
	void (*found)(const char *path, void *opaque);
	void *opaque;
};

static bool tell(void *thing, void *opaque)
{
	struct entry *e = thing;
	struct visit *v = opaque;

	if (e->qcow2)
		v->found(e->path, v->opaque);
	return true;
}

static struct dir *dir_of(struct vm_dirs *dirs, const char *path)
{
	struct dir *d = vm_strmap_get(&dirs->table, path);

	if (d)
		return d;
	d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	d->path = strdup(path);
	if (!d->path || vm_strmap_put(&dirs->table, path, d) < 0) {
		dir_free(d);
		return NULL;
	}
	return d;
}

int vm_dirs_list(struct vm_dirs *dirs, const char *dir, void (*found)(const char *path, void *opaque), void *opaque)
{
	struct dir *d = dir_of(dirs, dir);
	struct visit visit = { found, opaque };

	if (!d)
		return -ENOMEM;
	look(dirs, d);
	vm_strmap_filter(&d->entries, tell, &visit);
	return d->error;
}
