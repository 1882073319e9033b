/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * checkpoint.h: from where a backup program's next incremental backup goes on. Each is a record of libvirt's and a bitmap of the same name in the
 * images, which libvirt carries on in what it does to a running domain, and in nothing else.
 */
#ifndef VS_VM_LIBVIRT_CHECKPOINT_H
#define VS_VM_LIBVIRT_CHECKPOINT_H

#include <libvirt/libvirt.h>

#include "qcow2/base.h"

/* Their names, parents first, NULL-terminated; a connection that knows no checkpoints has none. Gives *names, which is one piece to be freed with
 * vm_checkpoints_free(). */
int vm_checkpoints(virDomainPtr dom, char ***names, struct vs_err *err);
void vm_checkpoints_free(char **names);
/* The file of one that is not among them (untold.h). Gives; NULL: there is none, or nobody can tell. */
char *vm_checkpoint_unlisted(virDomainPtr dom, char *const *names);

#endif
