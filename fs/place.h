/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * place.h: where something is in a tree, and how what is made there is called.
 *
 * Three directories of a domain hold nothing that lies in a tree: qcow2/ has each image as a qcow2 file, and each disk that has internal
 * snapshots with all of them; diff/ what changed from one snapshot to another. Their names are put together from those of images,
 * "A..B.TARGET.qcow2" from any two that have that disk. now/ has each disk of a domain of libvirt's as it is: "TARGET.img". An image source
 * has no such directory, for it has its `current`.
 *
 * Errors: -ENOENT no such name, -ENOTDIR, -ESTALE the thing is not in this tree. Threads: any.
 */
#ifndef VS_PLACE_H
#define VS_PLACE_H

#include "tree.h"

/* st_ino */
uint64_t sf_key_ino(const struct sf_key *key);

/* A place in a tree: the root (nothing set), a domain (no entry), or a file; or what is made there. */
struct sf_place {
	struct sf_dir *dir;
	const struct sf_entry *entry;  /* of a made file: its image; of a whole disk that of its newest internal snapshot */
	enum sf_kind made;             /* SF_QCOW2_DIR and those that follow; else 0 */
	const struct sf_entry *before; /* of a difference: the other image */
	const struct vm_disk_now *now; /* of a file of now/: the disk */
};

enum sf_kind sf_place_kind(const struct sf_place *place);
struct sf_key sf_place_key(const struct sf_place *place);
/* The directory it lies in; the root's is the root. */
struct sf_place sf_place_parent(const struct sf_place *place);
/* Where is this thing in that tree? -ESTALE: nowhere, or without a name. */
int sf_place_find(const struct sf_tree *tree, const struct sf_key *key, struct sf_place *out);
int sf_place_child(const struct sf_tree *tree, const struct sf_place *parent, const char *name, struct sf_place *out);

/* The newest internal snapshot that has a file of that disk, and *of_snapshot whose it is; NULL: there is none. */
const struct vm_disk *sf_newest_internal(const struct vm_domain *domain, const char *target, const struct vm_snapshot **of_snapshot);
/* Is the present content of that image the disk's, and nobody is known to run it? */
bool sf_shows_present(const struct vm_domain *domain, const struct vm_disk *internal);

/* The disks of snapshots that an image, or what is made, reads: vm_disk.ino of *n. Gives. */
uint64_t *sf_place_reads(const struct sf_place *place, size_t *n);

/* ---------------------------------------------------------------- what is made */

/* The directories, in the order of their names: i < SF_MADE_DIRS. */
#define SF_MADE_DIRS 3
const char *sf_made_dir_name(enum sf_kind kind);
enum sf_kind sf_made_dir_kind(size_t i);
bool sf_made_dir_is_in(enum sf_kind kind, const struct sf_dir *dir);

/* What such a directory lists, by name: every image, or every snapshot with its parent. Each name is given; so is the list, of *n. */
struct sf_made_name {
	char *name;
	struct sf_place place;
};
struct sf_made_name *sf_made_list(const struct sf_place *dir, size_t *n);
void sf_made_list_free(struct sf_made_name *list, size_t n);

#endif
