/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * attr.h: what stat(2) says about a place, and for how long the kernel may believe it.
 *
 * Nothing here reads an image or asks libvirt: all of it is in the tree, but for the blocks of an image, which are known
 * after its first open (image.h) and an estimate just below its size before, and for the size of a made file, which is known after its
 * first getattr and 0 before.
 */
#ifndef VS_ATTR_H
#define VS_ATTR_H

#include "fs.h"

#define SF_LONG 3600.0 /* seconds: the notifier tells the kernel what changes before */

/* Fails for `ctl` and its like, with what text.h says. */
int sf_attr_get(struct sf_fs *fs, const struct sf_tree *tree, const struct sf_place *place, struct stat *st);
/* Of a file that has no holes. */
void sf_attr_set_size(struct stat *st, uint64_t size);
/* Of a made file. */
void sf_attr_set_made(struct stat *st, const struct sf_made_stat *made);
/* Seconds. */
double sf_attr_timeout(const struct sf_place *place);
/* For how long it may believe that a name has this node. Seconds. */
double sf_attr_name_timeout(const struct sf_place *place);

/* The type alone, for readdir. */
mode_t sf_attr_type(enum sf_kind kind);

#endif
