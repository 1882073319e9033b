/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blockjob-spec.h: is a block job the one that was asked for?
 */
#ifndef VS_VM_LIBVIRT_BLOCKJOB_SPEC_H
#define VS_VM_LIBVIRT_BLOCKJOB_SPEC_H

#include "vm/libvirt/blockjob-list.h"

/* What is written down of a block job before it is asked for, so that it can be told from other people's later. */
struct vm_blockjob_spec {
	const char *target, *base, *top; /* base: NULL: a pull down to nothing; top: NULL: a pull */
	enum vm_job type;
};
/* Is this job, which runs in the QEMU process @pid, the one that was asked for, as far as anybody shows: its type, the mirror of an active
 * commit, the file that any other commit makes its QEMU write to? 1: yes; 0: no. */
int vm_blockjob_is(virDomainPtr dom, const struct vm_blockjob *job, const struct vm_blockjob_spec *spec, int64_t pid,
		   struct vs_err *err);

#endif
