/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * dirs.h: qcow2 files lying beside the images that libvirt names.
 *
 * A directory is listed when its mtime changes and once in a while; a file's first bytes are read once for every time
 * it was written. That a file begins like a qcow2 image is used for one thing only: to learn what it stands on, so that
 * nobody pulls that away from under it. Nothing is ever served because of it.
 *
 * Threads: one, the refresher.
 */
#ifndef VS_VM_OBSERVE_DIRS_H
#define VS_VM_OBSERVE_DIRS_H

#include "vm/util/strmap.h"

struct vm_dirs {
	struct vm_strmap table;
	uint64_t round;
};

void vm_dirs_fini(struct vm_dirs *dirs);
void vm_dirs_round(struct vm_dirs *dirs);

/* Looks again at what the last round looked at. False: another set of files looks like qcow2 than did then. */
bool vm_dirs_quiet(struct vm_dirs *dirs);

/* Calls @found for every regular file in @dir that looks like qcow2, or that cannot be opened to be looked at, in no order. 0;
 * a negative errno: the directory cannot be listed, so nobody knows what lies in it. -ENOENT: there is none. */
int vm_dirs_list(struct vm_dirs *dirs, const char *dir, void (*found)(const char *path, void *opaque), void *opaque);

#endif
