/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Files that are windows on other files.
 *
 * A guest may stand on a file of a virt-snapfs mount, ours or another one ("boot a throw-away guest from Monday"). We never open
 * such a file: a read of our own mount could wait for the very thread that asks. To stat it is safe, for that is answered from the
 * inventory in place; and its inode number, which is the same at every mount, tells which snapshot's disk it shows. That a file
 * is
 * one is seen from its device number, of which /proc/self/mountinfo says whose it is.
 *
 * A loop device shows a file, and the kernel says which.
 */
#include "vm/observe/headers-priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#include "vm/util/mem.h"

#define MOUNTINFO "/proc/self/mountinfo"
#define TYPE "fuse.virt-snapfs"
#define LOOP_MAJOR 7

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

void vm_header_find_shown(struct vm_header *f, bool found, const struct q2_stamp *now)
{
	char path[64];
	size_t size = 0;
	FILE *file;
	ssize_t n;

	free(vs_steal(f->shows));
	if (!found || !now->block || major(now->ino) != LOOP_MAJOR)
		return;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/loop/backing_file", major(now->ino), minor(now->ino));
	file = fopen(path, "re");
	n = file ? getline(&f->shows, &size, file) : -1;
	if (file)
		fclose(file);
	if (n > 0 && f->shows[n - 1] == '\n')
		f->shows[n - 1] = '\0';
	if (n <= 0)
		free(vs_steal(f->shows));
}

/* ---------------------------------------------------------------- what is only needed */

struct vm_header *vm_headers_behind(struct vm_headers *files, const char *path)
{
	struct vm_header *f = vm_header_at(files, path, Q2_FORMAT_RAW);
	struct q2_stamp now = {0};
	bool found;

	if (!f || f->looked == files->round)
		return f;
	found = vm_header_stamp(path, &now);
	if (!found || !vm_header_exposed(files, f, &now)) {
		vm_header_set_stamp(files, f, found, &now);
		vm_header_failed(files, f, found ? 0 : -ENOENT, found ? NULL : "it is missing");
	}
	f->looked = files->round;
	return f;
}
