/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * space.h: what the snapshots of a domain take, and what deleting them would free.
 *
 * Sizes are bytes. `frees` may be negative: a merge may need more room than it gives back, as when it spells out what was compressed.
 */
#ifndef VS_VM_MODEL_SPACE_H
#define VS_VM_MODEL_SPACE_H

#include "vm/model/types.h"

#define VM_SPACE_UNKNOWN INT64_MIN /* nobody can tell, or it does not apply */

struct vm_space_figures {
	int64_t holds; /* what its data takes of the files that it is in or stands on */
	int64_t only;  /* what nothing else needs of that */
	int64_t frees; /* when it is deleted: within its image where it is internal, on the file system where it is external */
	int64_t moves; /* what is copied for that, at most */
	bool at_least; /* `only` and `frees` may be more: a running guest writes to what was counted, or zeros are merged, which need no room */
};

struct vm_space_snapshot {
	char *shown;
	enum vm_kind kind;
	enum vm_state state;
	struct vm_space_figures figures;
	char *why; /* NULL, or why it would not be deleted, frees nothing, or was not counted */
};

struct vm_space_disk {
	char *target, *path; /* path: of the image that it writes to */
	uint64_t file;       /* what that takes on disk */
	int64_t compact;     /* what it would take with all its snapshots and nothing unused, roughly; unknown: it stores no snapshots */
	bool at_least;
	char *why;           /* NULL, or why it was not counted */
};

struct vm_space {
	struct vm_space_snapshot *snapshots; /* as in the inventory */
	size_t n_snapshots;
	struct vm_space_disk *disks;
	size_t n_disks;
	char *policy;                    /* the stored one; NULL: none */
	size_t n_dropped;                /* snapshots that it would drop and that would go */
	struct vm_space_figures dropped; /* of those together; `holds` is unknown */
	char *dropped_why;               /* NULL, or why that was not counted */
};

/* Gives. */
struct vm_space *vm_space_new(size_t n_snapshots, size_t n_disks);
void vm_space_free(struct vm_space *space); /* NULL is fine */

#endif
