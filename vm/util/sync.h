/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * sync.h: is what was written on the disk? fsync(2) of what has a name; a file system that has no such thing for it (EINVAL) has nothing to write out: 0.
 *
 * A failure is told once to each descriptor that was open when it happened, and to one that was opened later only if nobody has been told. Who has others write to a
 * file, QEMU say, who may be told and say nothing of it, therefore holds it from before on. And a file system whose journal cannot be written tells only who
 * waited for that very write; everybody else learns of it with the next change that he makes. So one is made: vm_sync_held() gives the file the
 * mode that it has.
 */
#ifndef VS_VM_UTIL_SYNC_H
#define VS_VM_UTIL_SYNC_H

#include <stdbool.h>

/* A file or a directory. 0, or -errno, also where it cannot be opened. */
int vm_sync(const char *path);
/* The directory of @path: whose name there is, or is gone, is lost with the power until then. */
int vm_sync_parent(const char *path);

/* A descriptor of a file, device or directory, or -errno. */
int vm_sync_hold(const char *path);
/* Is all on the disk that anybody has written to it since? 0 or -errno. */
int vm_sync_held(int fd);
/* Of a file that nobody held: likewise. What the page cache has of it is dropped, as far as it can be. *told: it is the disk that has failed, of which others may not
 * be told any more; not that it could not be opened. */
int vm_sync_unheld(const char *path, bool dropping, bool *told);

/* Of a file of which nobody of ours heard whether it reached the disk: is what the page cache has of it what the disk has? 1; 0: it is not; negative: nobody can tell
 * (-EOPNOTSUPP: this file system does not let the disk be asked, or has none). Reads all of it that is cached. @stop, @opaque: asked now and then; -EINTR. */
int vm_sync_is_there(const char *path, bool (*stop)(void *opaque), void *opaque);

#endif
