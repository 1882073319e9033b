/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * mountpoint.h: the place to mount on: what must not be there, and what must not be below it.
 *
 * Errors: the errno of the place (-ENOENT, -ENOTDIR, -EACCES, ...); -EBUSY, virt-snapfs is mounted there already; -EINVAL, the
 * mount would hide what it needs. All with a sentence.
 */
#ifndef VS_MOUNTPOINT_H
#define VS_MOUNTPOINT_H

#include "fs.h"

/* Gives *resolved: the directory's canonical path. */
int sf_mountpoint_check(const struct sf_fs *fs, char **resolved, struct vs_err *err);

/* What hides what? Is @path, canonical or not, the directory @dir, or below it? Pure but for symbolic links. */
bool sf_mountpoint_covers(const char *dir, const char *path);

/* The type of the file system that is mounted on @dir ("fuse.virt-snapfs") by the lines of @mountinfo (proc(5)), the last one of
 * them if there are several: the number of that mount; 0: none is. Pure. */
uint64_t sf_mountpoint_type(char *mountinfo, const char *dir, char *type, size_t room);

/* Why fusermount3 did not mount, from what it has printed (@said, may be changed): without its own name, and with a word about
 * AppArmor where that is the likely reason. @confined: there is a profile for it. Gives; NULL: it has not said why. */
char *sf_mountpoint_why(char *said, bool confined);

#endif
