/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * content.h: is what was to be moved where it was to go, and if not, back to where it is.
 *
 * Layers are those of the last look, by number where it matters which. Errors: those of qcow2.h and of libvirt; -ECANCELED.
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_CONTENT_H
#define VS_VM_COMMAND_CONTENT_H

#include "vm/command/context.h"

/* An image that need be no layer of the domain any more. */
struct vm_content_image {
	const char *path;
	enum q2_format format;
	struct q2_gate *gate; /* for what is beneath it */
};

/* Of what @moved shows, all that comes from its first @depth layers: does @now show it, too? @pulled: or does @now itself say what is
 * there? 1, 0; negative: nobody can tell. */
int vm_content_is_there(struct vm_context *cx, const struct vm_content_image *moved, unsigned depth, const struct vm_layer *now, bool pulled,
			struct vs_err *err);

/* The header of @layer was changed by QEMU at the end of a job that was begun at @since_ns and wrote to the file @written. If somebody has
 * written to it since, or may have, what froze it and what stands on it are noted as spoilt: false. */
bool vm_content_vouch(struct vm_context *cx, int layer, const char *written, int64_t since_ns);

/* Of a domain that is shut off: the header of @layer says again that it stands on @below, and no definition says otherwise. Notes its new
 * stamp in cx->meta: in place of the last one that is noted of it if it is vouched for, else of the one that it had, if that is. 1; negative:
 * nothing is changed, or the definition only, which is of no consequence. -EBUSY: it is up. */
int vm_content_put_back(struct vm_context *cx, int layer, const struct vm_content_image *below, bool vouched, struct vs_err *err);
/* The header of @layer says that it stands on @below, and it reads right so: where the definition of the domain, if that is shut off, says otherwise, as
 * libvirt leaves it when QEMU dies at the end of a commit, it says no more of that. 1 or more: it did; 0. */
int vm_content_unpin(struct vm_context *cx, int layer, const char *below, struct vs_err *err);
/* The stamps of headers that were put back right before we died. True: something is to be saved. */
bool vm_content_settle(struct vm_context *cx);
/* Those are saved. */
void vm_content_saved(struct vm_context *cx);

/* Does the layer, which no QEMU writes to, show what that disk of a snapshot does, from the same places of the same files? By their maps; false where
 * that cannot be told. */
bool vm_content_is_present(const struct vm_context *cx, const struct vm_disk *disk, int layer);

/* What the page cache has of an image that no QEMU has open is written out and dropped, as far as it can be. */
void vm_content_uncache(const struct vm_layer *layer);

#endif
