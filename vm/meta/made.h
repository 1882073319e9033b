/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * made.h: a file that a command is about to make, as its journal ("make") tells: never to be taken for one that came to have its name, or
 * its inode number, later.
 *
 * Threads: any.
 */
#ifndef VS_VM_META_MADE_H
#define VS_VM_META_MADE_H

#include "qcow2/base.h"

struct vm_made {
	uint64_t dev, ino;
	int64_t btime_ns; /* 0: the file system has no such time */
	const char *path;
};
/* @fd: of @path, opened. 0 or -errno. */
int vm_made_of(int fd, const char *path, struct vm_made *out);
/* What lies at @path, which may be a symbolic link. False: nothing that can be told. */
bool vm_made_look(const char *path, struct vm_made *out);
char *vm_made_text(const struct vm_made *made); /* gives */
/* False: it is no such text. @out borrows of it. */
bool vm_made_parse(const char *text, struct vm_made *out);
/* What tells the file at @path from every other one of this host, also from one that comes to have its inode number later. Gives; NULL: it
 * cannot be told. No blanks in it. */
char *vm_made_identity(const char *path);
/* The same with the directory that it is in, for one whose name nobody else would give. Gives; NULL: the directory cannot be told. */
char *vm_made_text_in(const struct vm_made *made);
/* What has become of the file of such a text, however long ago. Numbers of devices do not count: they are others after a start of the host.
 *
 *     1         it is there
 *     0         it is gone: that directory is there, and nobody has the name in it, or another file
 *     -ENOENT   that directory is not where it was: it has another name, or its file system is not mounted
 *     -EINVAL   it is no such text
 *     -errno    nobody can tell
 *
 * *out borrows of @text, and is set unless it is no such text. */
int vm_made_find(const char *text, struct vm_made *out);
/* 1: that very file is there, and it is a regular one; 0: there is none, or another one; -errno: nobody can tell. */
int vm_made_is_there(const struct vm_made *made);

#endif
