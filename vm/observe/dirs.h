/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * dirs.h: files that lie beside the images that libvirt names, or in its pools, and that can stand on something.
 *
 * A directory is listed when its mtime changes, once in a while, and by every close look; a file's first bytes are read once for
 * every time it was written, and by every close look. What a file says there is used for one thing only: to learn what it stands on, so
 * that nobody pulls that away from under it. Nothing is ever served because of it.
 *
 * Threads: one, the refresher.
 */
#ifndef VS_VM_OBSERVE_DIRS_H
#define VS_VM_OBSERVE_DIRS_H

#include "vm/observe/peek.h"
#include "vm/util/strmap.h"

struct vm_headers;
struct vm_store;

struct vm_dirs {
	struct vm_headers *files; /* borrowed: who knows which devices are virt-snapfs mounts */
	struct vm_store *store; /* borrowed; where is noted in which directories images have lain. NULL: nowhere */
	bool all;               /* of all connections, and where libvirt's definitions say; and nothing is noted */
	char **seen;            /* these; vm_dirs_remember() */
	size_t n_seen;
	struct vm_strmap disks; /* if `all`: what guests have as disks, by vm_strmap_file() */
	/* private */
	bool recalled, unnoted;
	struct vs_err forgot;   /* they could not be recalled, and why */
	struct vs_err unnoted_why;
	struct vm_strmap table;
	uint64_t round, recalling; /* recalling: the round in which that was tried last */
	bool closely;
};

void vm_dirs_fini(struct vm_dirs *dirs);
/* @closely: nothing that was seen before is taken on trust in this round. */
void vm_dirs_round(struct vm_dirs *dirs, bool closely);

/* Looks again at what the last round looked at. False: something else is found than was then. */
bool vm_dirs_quiet(struct vm_dirs *dirs);
/* Was anything new found in this round in another directory than these (a set of paths)? */
bool vm_dirs_news_but(struct vm_dirs *dirs, const struct vm_strmap *told);

/* A file or device that does not stand alone, for all that is known. Borrowed. */
struct vm_dirs_file {
	const char *path;
	uint64_t dev, ino;              /* of what the path leads to, as in struct q2_stamp; 0: unknown */
	const struct vm_peeked *peeked; /* unless */
	int code;                       /* it could not be asked: negative errno */
	const char *why;                /* "cannot be read: Permission denied" */
	void *entry;                    /* private */
};
/* Whom a saved guest needs: peeked->kind, once more, with its names. Read when it is asked for, and kept; it is asked of what nobody has as an image: a guest
 * can write what it likes to its own. Borrowed, until the next look. */
const struct vm_peeked *vm_dirs_saved(const struct vm_dirs_file *file);

/* An image of a domain lies in this directory: it is looked at from now on, also where no domain names an image in it any more. */
void vm_dirs_remember(struct vm_dirs *dirs, const char *path);
/* NULL, or why what was noted before cannot be read: it is not known where images have lain. Tried again in each round. */
const char *vm_dirs_forgot(struct vm_dirs *dirs);
/* At the end of a look: what is new among them is noted. */
void vm_dirs_note(struct vm_dirs *dirs);
/* NULL, or why it could not be. Tried again in each round. */
const struct vs_err *vm_dirs_unnoted(const struct vm_dirs *dirs);

typedef void vm_dirs_found(const struct vm_dirs_file *file, void *opaque);

/* Calls @found for every such file in a directory, in no order, or, if @single, for the file or device at @path itself. 0; a negative
 * errno: the directory cannot be listed, so nobody knows what lies in it. -ENOENT: there is none. */
int vm_dirs_list(struct vm_dirs *dirs, const char *path, bool single, vm_dirs_found *found, void *opaque);

#endif
