/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * nv.h: what a domain keeps beside its disks (libvirt/nv.h) belongs to a snapshot: copied when we take one, put back by revert, removed
 * with it. A snapshot without such a copy, as others take them, is reverted to where nothing has changed since, or by force.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_NV_H
#define VS_VM_COMMAND_NV_H

#include "vm/command/remove.h"
#include "vm/libvirt/nv.h"

struct vm_nv_plan {
	struct vm_nv_files files;
	struct vm_nv_copy {
		char *path;        /* NULL: there is nothing to copy, or it cannot be */
		char *data;        /* what was copied */
		size_t len;
		uint64_t dev, ino; /* which file was made */
	} copies[VM_NV_MAX];
};
void vm_nv_plan_fini(struct vm_nv_plan *plan);
#define vm_nv_autoplan vs_cleanup(vm_nv_plan_fini)

/* As in vm_create: called for each file before it has its name. @opaque is the context. */
typedef int (*vm_nv_making)(void *opaque, const char *path, int fd, struct vs_err *err);

/* What is to be copied for a snapshot of that name and kind, and where to; says what it would do (`try`), and what will not be part of it.
 * -EACCES and the like: it cannot be read. */
int vm_nv_plan(struct vm_context *cx, const char *name, enum vm_kind kind, struct vm_nv_plan *plan, struct vs_err *err);
/* Copies, before the snapshot is taken; each file is noted in the journal as one that is being made, and when it is whole as a copy for that
 * snapshot. */
int vm_nv_copy(struct vm_context *cx, const char *name, struct vm_nv_plan *plan, vm_nv_making making, struct vs_err *err);
/* Once more where it was written to meanwhile, when the snapshot was taken; then it is noted in cx->meta, for the caller to save. */
int vm_nv_note(struct vm_context *cx, struct vm_nv_plan *plan, const struct vm_meta_id *id, struct vs_err *err);
/* The snapshot was taken by a create that was interrupted: the copies that were whole by then are its. To be saved. */
void vm_nv_adopt(struct vm_context *cx, const struct vm_meta_id *id);
/* Is that file such a copy, for a snapshot that is there? Then it is no left-over. */
bool vm_nv_is_awaited(const struct vm_context *cx, const char *path);
/* What the journal says of copies that are noted, or gone, is over. */
void vm_nv_settle(struct vm_context *cx);

/* What is to be put back with a revert: written beside the present ones before anything else is done, and put in their place afterwards. */
struct vm_nv_staged {
	struct vm_nv_one {
		const char *phrase;
		char *fresh, *target;
	} v[VM_NV_MAX];
	size_t n;
};
void vm_nv_staged_fini(struct vm_nv_staged *staged);

/* May the domain be reverted to it? -EPERM: it has no copy that is what it was, and something has changed since; or what would be overwritten is
 * somebody else's by now, which no force changes. -ENOSPC: there is no room for it. */
int vm_nv_check(const struct vm_context *cx, const struct vm_snapshot *s, bool force, struct vs_err *err);
/* What a revert to it will do. */
void vm_nv_tell(struct vm_context *cx, const struct vm_meta_id *id);
/* With the domain shut off. The journal says what for, see vm_nv_recover(). */
int vm_nv_stage(struct vm_context *cx, const struct vm_meta_id *id, struct vm_nv_staged *staged, vm_nv_making making, struct vs_err *err);
/* When the domain has its definition again. Where it runs it has its memory again, and with that all that was beside it. */
int vm_nv_put_back(struct vm_context *cx, const struct vm_meta_id *id, const struct vm_nv_staged *staged, struct vs_err *err);
/* After a look: what an interrupted revert has not put back any more, though the domain was reverted, is put back, if nobody has written to what is
 * there since. What it had staged is a left-over then. */
void vm_nv_recover(struct vm_context *cx);

/* The copies of a snapshot that goes; what stays is told. With `try` it says what would be unlinked. */
void vm_nv_remove(struct vm_context *cx, const struct vm_meta_id *id, const struct vm_leaving *leaving);
/* They are noted as of our making, to be saved. True: there are some. */
bool vm_nv_leave(struct vm_context *cx, const struct vm_meta_id *id);

#endif
