/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blockjob-list.h: the block jobs of a domain, whosever they are.
 */
#ifndef VS_VM_LIBVIRT_BLOCKJOB_LIST_H
#define VS_VM_LIBVIRT_BLOCKJOB_LIST_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/dom.h"
#include "vm/model/types.h"

struct vm_blockjob {
	char *target;    /* NULL: a job of the domain as a whole (a backup, a migration, a snapshot being made) */
	enum vm_job type;
};

/* Of a virDomainBlockJobType. */
enum vm_job vm_blockjob_type(int type);

/* Everybody's jobs; none while the domain is shut off. Gives *out and its length. */
int vm_blockjob_list(virDomainPtr dom, struct vm_blockjob **out, size_t *n, struct vs_err *err);
void vm_blockjob_list_free(struct vm_blockjob *jobs, size_t n);

/* Gives up the block job of a disk, without its result. 0 also where there is none. */
int vm_blockjob_abort(virDomainPtr dom, const char *target, struct vs_err *err);
/* -EBUSY if there is a job on the disk. */
int vm_blockjob_none(virDomainPtr dom, const char *target, struct vs_err *err);

#endif
