/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * headers-priv.h: the table of image files as its own parts see it. Private to headers*.c and backing.c.
 */
#ifndef VS_VM_OBSERVE_HEADERS_PRIV_H
#define VS_VM_OBSERVE_HEADERS_PRIV_H

#include <string.h>

#include "vm/observe/headers.h"
#include "vm/util/strmap.h"

struct vm_backing {
	struct vm_backing *next;
	struct q2_gate *gate;
	char *name, *format;    /* as the header recorded them when the gate was asked */
	uint64_t looked;        /* the round of the last look */
	bool found;             /* what stat said about `path` when the gate was asked */
	uint64_t dev, ino;
	struct vm_header *below;  /* NULL: refused or missing */
	char *path;             /* where it leads, as far as is known */
	int code;
	char *error;
};

struct vm_headers {
	struct vm_strmap table; /* by format and path */
	uint64_t round;
	uint64_t *mounts;       /* device numbers of the virt-snapfs mounts there are */
	size_t n_mounts;
	uint64_t mounts_round;  /* the round in which they were listed */
};

/* The entry of a path, looked at or not. */
struct vm_header *vm_header_at(struct vm_headers *files, const char *path, enum q2_format format);
/* Looks at the file at its path, which is trusted, if that was not done in this round. */
void vm_header_look(struct vm_headers *files, struct vm_header *f);
/* What a path leads to now, without opening it, in the same terms as q2_file's identity. */
bool vm_header_stamp(struct vm_headers *files, const char *path, struct q2_stamp *stamp);
/* Is what is remembered of @f still true, given what its path leads to now? */
bool vm_header_fresh(const struct vm_header *f, bool found, const struct q2_stamp *now);
void vm_header_set_stamp(struct vm_headers *files, struct vm_header *f, bool found, const struct q2_stamp *now);
/* headers-window.c: is it a file of a virt-snapfs mount, as what its path leads to says? Then it is not to be opened, and that is
 * written down. */
bool vm_header_exposed(struct vm_headers *files, struct vm_header *f, const struct q2_stamp *now);
bool vm_header_is_exposed(struct vm_headers *files, const struct q2_stamp *now);
/* Which file does this device show, as @root (/sys/dev/block) tells? Gives *shows, or *hidden: why nobody can tell. Both stay NULL: it
 * shows none. */
void vm_window_find(const char *root, uint64_t rdev, char **shows, char **hidden);
/* Of a device: what it shows. */
void vm_header_find_shown(struct vm_header *f, bool found, const struct q2_stamp *now);
/* Reads the header of @f, which is open. */
void vm_header_read(struct vm_headers *files, struct vm_header *f, struct q2_file *open_file);
/* Writes down that @f cannot be opened. */
void vm_header_failed(struct vm_headers *files, struct vm_header *f, int code, const char *error);

#endif
