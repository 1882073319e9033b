/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * sync.h: fsync(2) of what has a name. A file system that has no such thing for it (EINVAL), or is read-only (EROFS), has nothing to write out: 0.
 */
#ifndef VS_VM_UTIL_SYNC_H
#define VS_VM_UTIL_SYNC_H

/* A file or a directory. 0, or -errno, also where it cannot be opened. */
int vm_sync(const char *path);
/* The same, and what the page cache has of it is dropped, so that what is read next is what the disk has: a failure to write is told once only. */
int vm_sync_dropping(const char *path);
/*
 * Of a file that somebody else is about to write to: he may be told of a failure to write it out, and say nothing of it, and who opens the file after that
 * is told nothing. A descriptor, or -errno; and later, whether all of it is on the disk: 0 or -errno.
 */
int vm_sync_hold(const char *path);
int vm_sync_held(int fd);
/* The directory of @path: whose name there is, or is gone, is lost with the power until then. */
int vm_sync_parent(const char *path);

#endif
