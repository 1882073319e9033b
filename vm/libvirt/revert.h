/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * revert.h: reverting to a snapshot. See revert.c.
 */
#ifndef VS_VM_LIBVIRT_REVERT_H
#define VS_VM_LIBVIRT_REVERT_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/dom.h"
#include "vm/libvirt/overlay.h"

/* The image that a disk of the snapshot is in. The record may name another file: libvirt 9.0 points it at a wrong one, and then only who
 * has looked at the files can tell. */
struct vm_revert_image {
	const char *target;
	const char *path;
	enum q2_format format;
};

struct vm_revert {
	const char *name;
	const struct vm_revert_image *images; /* external ones: of each disk; one without is refused */
	size_t n_images;
	bool risky; /* libvirt's FORCE: also where it cannot know that the definitions fit together */
	bool stops; /* vm_revert_plan: the caller will have stopped the domain by then */
	bool goes_on; /* vm_revert: ... has, and so this is not cancelled any more */
	bool (*taken)(void *opaque, const char *path); /* as in vm_create, and so is the next one */
	int (*making)(void *opaque, const char *path, int fd, struct vs_err *err);
	void *opaque;
};

enum vm_revert_way {
	VM_REVERT_BY_LIBVIRT, /* virDomainRevertToSnapshot: internal ones */
	VM_REVERT_BY_HAND,    /* new overlays, definition, record: external ones */
};

/* How this revert would be done and which files it would make (BY_HAND). -EBUSY: BY_HAND, and the domain runs; -EOPNOTSUPP: a
 * transient domain, which would be gone once it is stopped. Fills *plan. */
int vm_revert_plan(virDomainPtr dom, const struct vm_revert *spec, enum vm_revert_way *way,
		   struct vm_overlay_plan *plan, struct vs_err *err);

/*
 * The domain gets back definition and disks; it runs afterwards only if the snapshot has memory. BY_HAND the layers written
 * since then stay as files, for the caller to remove.
 * On failure BY_HAND the domain is as before; -EBUSY: somebody started it meanwhile, on its old disks. The domain's metadata are the
 * old ones: the caller puts ours back.
 */
int vm_revert(virDomainPtr dom, const struct vm_revert *spec, struct vm_dom_watch *watch, struct vs_err *err);

#endif
