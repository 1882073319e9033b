/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <string.h>

#include "vm/model/types.h"

/* Beside a device there is no place for a scratch file, and what a transient disk has is not what its domain will find. What the definition says of
 * a disk and its headers do not (a slice, encryption, another chain) we would not see, and a scratch file would not have. */
const struct vm_layer *vm_now_layer(const struct vm_domain *d, const struct vm_disk_now *disk)
{
	const struct vm_layer *top = disk->top < 0 ? NULL : &d->layers[disk->top];

	if (!top || disk->note || disk->doubt || disk->contradicted || !strcmp(d->state, "image") || disk->transient || !top->active || top->error || top->stamp.block ||
	    top->format == Q2_FORMAT_NONE || !top->virtual_size)
		return NULL;
	return top;
}
