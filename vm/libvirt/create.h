/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * create.h: taking snapshots. See create.c.
 */
#ifndef VS_VM_LIBVIRT_CREATE_H
#define VS_VM_LIBVIRT_CREATE_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/dom.h"
#include "vm/libvirt/overlay.h"
#include "vm/model/types.h"

struct vm_create {
	const char *name;        /* raw */
	const char *description; /* or NULL */
	enum vm_kind kind;       /* VM_INTERNAL of a running domain saves its memory and pauses it meanwhile */
	const char *const *targets; /* disks that take part; n_targets = 0: all that a guest can write to */
	size_t n_targets;
	bool quiesce;            /* external, running: freeze the guest's file systems through its agent */
	unsigned quiesce_s;      /* how long the agent may take for that */
	size_t depth;            /* layers of the deepest chain as the caller counted them; 0: only the XML is asked */
	/* vm_create_plan() alone: will the file that stands where an overlay is to be made have been removed by then? NULL: no. */
	bool (*left_over)(void *opaque, const char *path);
	/* Does anybody name that file, although it is not there? Who misses it may bring it back. NULL: no. */
	bool (*taken)(void *opaque, const char *path);
	/* Called for each overlay with the open file before that has its name: what can be noted in case we die, or fail. Negative: it is
	 * not made. What was made and came to nothing stays, for the caller to remove: nobody here can tell who has come to use it. */
	int (*making)(void *opaque, const char *path, int fd, struct vs_err *err);
	void *opaque;
};

/* All checks of vm_create(), and the files it would make. Fills *plan on success. */
int vm_create_plan(virDomainPtr dom, const struct vm_create *spec, struct vm_dom_watch *watch, struct vm_overlay_plan *plan,
		   struct vs_err *err);

/*
 * Takes the snapshot. On failure nothing is left of it but files that spec->making has noted, with one exception which the sentence
 * tells: a guest whose file systems cannot be thawed again (*made is true then). Not cancelled once begun. What libvirt froze is what counts: where another tool has
 * merged a layer of a shut-off domain while libvirt let us wait, the overlay is put on what it froze in truth.
 */
int vm_create(virDomainPtr dom, const struct vm_create *spec, struct vm_dom_watch *watch, bool *made,
	      struct vs_err *err);

#endif
