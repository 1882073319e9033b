/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Files that are windows on other files.
 *
 * A guest may stand on a file of a virt-snapfs mount, ours or another one ("boot a throw-away guest from Monday"). We never open
 * such a file: a read of our own mount could wait for the very thread that asks. To stat it is safe, for that is answered from the
 * inventory in place (vm_header_stamp() asks for no size of what is made there); and its inode number, which is the same at every mount, tells
 * which snapshot's disk it shows, or was made of. That a file is one is seen from its device number, of which /proc/self/mountinfo says whose it is.
 *
 * A loop device shows a file, and the kernel says which; so do its partitions, and what device-mapper and the like make of it. Of
 * those over several loop devices one file is told, and that there are more.
 */
#include "vm/observe/headers-priv.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vm/util/mem.h"

#define MOUNTINFO "/proc/self/mountinfo"
#define TYPE "fuse.virt-snapfs"
#define DELETED " (deleted)"
#define DELETED_LEN ((ssize_t)strlen(DELETED))

/* ---------------------------------------------------------------- virt-snapfs mounts */

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue": see proc(5). */
static void take_line(struct vm_headers *files, const char *line, size_t *room)
{
	const char *type = strstr(line, " - ");
	unsigned major, minor;

	if (!type || strncmp(type + 3, TYPE " ", strlen(TYPE " ")) != 0 || sscanf(line, "%*d %*d %u:%u ", &major, &minor) != 2)
		return;
	XGROW(files->mounts, files->n_mounts, *room);
	files->mounts[files->n_mounts++] = makedev(major, minor);
}

static void list_mounts(struct vm_headers *files)
{
	FILE *f = fopen(MOUNTINFO, "re");
	size_t room = 0, size = 0;
	char *line = NULL;

	free(files->mounts);
	files->mounts = NULL;
	files->n_mounts = 0;
	files->mounts_round = files->round;
	while (f && getline(&line, &size, f) > 0)
		take_line(files, line, &room);
	free(line);
	if (f)
		fclose(f);
}

bool vm_headers_is_mount(struct vm_headers *files, uint64_t dev)
{
	if (major(dev) != 0) /* file systems without a device have major number 0 */
		return false;
	if (files->mounts_round != files->round)
		list_mounts(files);
	for (size_t i = 0; i < files->n_mounts; i++)
		if (files->mounts[i] == dev)
			return true;
	return false;
}

bool vm_header_is_exposed(struct vm_headers *files, const struct q2_stamp *now)
{
	return !now->block && vm_headers_is_mount(files, now->dev);
}

bool vm_header_exposed(struct vm_headers *files, struct vm_header *f, const struct q2_stamp *now)
{
	if (!vm_header_is_exposed(files, now)) {
		f->exposes = 0;
		return false;
	}
	f->exposes = now->ino;
	vm_header_set_stamp(files, f, true, now);
	vm_header_failed(files, f, -EXDEV, "it is a file of a virt-snapfs mount");
	return true;
}

/* ---------------------------------------------------------------- loop devices */

#define DEPTH_MAX 8

struct window {
	char *shows, *hidden;
};

static void hide(struct window *w, const char *why)
{
	if (!w->hidden)
		w->hidden = xstrdup(why);
}

/* Only a loop device that shows something has such a file; @loop: it is one. */
static void take_backing(struct window *w, const char *path, bool loop)
{
	vs_autofree char *shown = NULL;
	FILE *file = fopen(path, "re");
	size_t size = 0;
	ssize_t n = file ? getline(&shown, &size, file) : -1;
	struct stat st;

	if (file)
		fclose(file);
	else if (errno == ENOENT || errno == ENXIO) {
		if (loop)
			hide(w, "is a loop device that shows no file at present");
		return;
	}
	if (n > 0 && shown[n - 1] == '\n')
		shown[--n] = '\0';
	if (n <= 0 || shown[0] != '/')
		hide(w, "is a loop device, and the kernel does not tell on which file");
	else if (n > DELETED_LEN && !strcmp(shown + n - DELETED_LEN, DELETED) && stat(shown, &st))
		hide(w, "is a loop device on a file that was removed");
	else if (stat(shown, &st))
		hide(w, "is a loop device on a file that is not to be found where the kernel says");
	else if (!w->shows)
		w->shows = vs_steal(shown);
	else if (strcmp(w->shows, shown))
		hide(w, "is a device on several loop devices");
}

static void find(struct window *w, const char *dir, unsigned depth);

/* What a mapping (device-mapper, md, bcache) is made of. */
static void find_slaves(struct window *w, const char *dir, unsigned depth)
{
	vs_autofree char *path = xasprintf("%s/slaves", dir);
	DIR *stream = opendir(path);
	struct dirent *entry;

	if (!stream) {
		if (errno != ENOENT)
			hide(w, "is a device of which the kernel does not tell what it is made of");
		return;
	}
	while ((entry = readdir(stream))) {
		vs_autofree char *slave = xasprintf("%s/%s", path, entry->d_name);

		if (entry->d_name[0] != '.')
			find(w, slave, depth + 1);
	}
	closedir(stream);
}

/* @dir: a block device in sysfs. */
static void find(struct window *w, const char *dir, unsigned depth)
{
	vs_autofree char *real = realpath(dir, NULL);
	vs_autofree char *backing = xasprintf("%s/loop/backing_file", dir);
	vs_autofree char *partition = xasprintf("%s/partition", dir);
	const char *name;

	if (!real || depth > DEPTH_MAX) {
		hide(w, "is a device of which the kernel does not tell what it is");
		return;
	}
	if (access(partition, F_OK) == 0) {
		*strrchr(real, '/') = '\0'; /* the whole device */
		find(w, real, depth + 1);
		return;
	}
	name = strrchr(real, '/') + 1;
	take_backing(w, backing, !strncmp(name, "loop", strlen("loop")) && name[strlen("loop")] >= '0' && name[strlen("loop")] <= '9');
	find_slaves(w, dir, depth);
}

void vm_window_find(const char *root, uint64_t rdev, char **shows, char **hidden)
{
	vs_autofree char *dir = xasprintf("%s/%u:%u", root, major(rdev), minor(rdev));
	struct window w = {0};

	find(&w, dir, 0);
	*shows = w.shows;
	*hidden = w.hidden;
}

void vm_header_find_shown(struct vm_header *f, bool found, const struct q2_stamp *now)
{
	free(vs_steal(f->shows));
	free(vs_steal(f->hidden));
	if (found && now->block)
		vm_window_find("/sys/dev/block", now->ino, &f->shows, &f->hidden);
}

/* ---------------------------------------------------------------- what is only needed */

struct vm_header *vm_headers_behind(struct vm_headers *files, const char *path)
{
	struct vm_header *f = vm_header_at(files, path, Q2_FORMAT_NONE); /* for itself: who may read that file is to read it */
	struct q2_stamp now = {0};
	bool found;

	if (f->looked == files->round)
		return f;
	f->format = Q2_FORMAT_RAW;
	found = vm_header_stamp(files, path, &now);
	if (!found || !vm_header_exposed(files, f, &now)) {
		vm_header_set_stamp(files, f, found, &now);
		vm_header_failed(files, f, found ? 0 : -ENOENT, found ? NULL : "it is missing");
	}
	f->looked = files->round;
	return f;
}
