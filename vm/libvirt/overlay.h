/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * overlay.h: the overlays that we make ourselves, and where they are put. See overlay.c.
 */
#ifndef VS_VM_LIBVIRT_OVERLAY_H
#define VS_VM_LIBVIRT_OVERLAY_H

#include <libvirt/libvirt.h>

#include "qcow2/qcow2.h"
#include "vm/libvirt/dom.h"

/* A file that is going to be made. */
struct vm_overlay {
	char *target;
	char *below;             /* what it will stand on */
	uint64_t below_dev, below_ino; /* which file that is */
	enum q2_format format;   /* of `below` */
	char *path;
	uint64_t dev, ino;       /* which file we made there; 0: none yet */
};

struct vm_overlay_plan {
	bool running;
	struct vm_overlay *overlays; /* none for internal ones */
	size_t n_overlays;
};
void vm_overlay_plan_fini(struct vm_overlay_plan *plan);
#define vm_overlay_autoplan vs_cleanup(vm_overlay_plan_fini)

/*
 * Where the overlay of @snapshot over @source is put: beside it, `<stem>.<snapshot>.qcow2`, for @attempt > 1
 * `<stem>.<snapshot>-<attempt>.qcow2`. The stem is the name without its extension and without what an earlier one of
 * @snapshots has added. Characters of the snapshot's name that could mean something to a shell, to QEMU's options or to
 * AppArmor become `_`; long names are cut. Gives. Pure.
 */
char *vm_overlay_path(const char *source, char **snapshots, size_t n_snapshots, const char *snapshot, unsigned attempt);

/* The names of all snapshots that libvirt has. Gives *names and its length (free each, and the array). */
int vm_overlay_names(virDomainPtr dom, char ***names, size_t *n, struct vs_err *err);
void vm_overlay_names_free(char **names, size_t n);

struct vm_overlay_naming {
	const char *beside;  /* path of the image that gives directory and stem */
	const char *snapshot;
	char **names;
	size_t n_names;
	bool (*left_over)(void *opaque, const char *path); /* these two as in vm_create */
	bool (*taken)(void *opaque, const char *path);
	void *opaque;
};

/* Adds an overlay for @target over @below to @plan, with a path that is free. @below is copied. */
int vm_overlay_plan_add(struct vm_overlay_plan *plan, const struct vm_overlay_naming *naming, const char *target,
			const char *below, enum q2_format format, struct vs_err *err);

/* Makes a file for each of them, 0600 and of its owner below: an overlay, on disk when this returns; or, with @empty, nothing but
 * the file, for libvirt to fill. Notes in @plan which files these are. On failure some may be there. */
int vm_overlay_make_all(struct vm_overlay_plan *plan, bool empty, int (*making)(void *opaque, const char *path, int fd,
										struct vs_err *err),
			void *opaque, struct vm_dom_watch *watch, struct vs_err *err);
/* Beside @source, for a copy of it that goes with @snapshot: `<source>.<snapshot>`, for @attempt > 1 `<source>.<snapshot>-<attempt>`. Gives. Pure. */
char *vm_overlay_copy_path(const char *source, const char *snapshot, unsigned attempt);
/* The empty file for it, 0600 and of @source's owner; *dev and *ino: which file. */
int vm_overlay_make_copy(const char *source, const char *path, int (*making)(void *opaque, const char *path, int fd, struct vs_err *err),
			 void *opaque, uint64_t *dev, uint64_t *ino, struct vs_err *err);
/* Lets an overlay that nobody has written to stand on another image. */
int vm_overlay_rebase(const struct vm_overlay *overlay, const char *below, enum q2_format format, struct vs_err *err);

#endif
