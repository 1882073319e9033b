/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blockjob-chain.h: a disk's chain as the running QEMU has it. See blockjob-chain.c.
 */
#ifndef VS_VM_LIBVIRT_BLOCKJOB_CHAIN_H
#define VS_VM_LIBVIRT_BLOCKJOB_CHAIN_H

#include <libvirt/libvirt.h>

#include "qcow2/base.h"

struct vm_blockjob_layer {
	char *path;      /* NULL: remote */
	unsigned index;  /* N of `vda[N]`; 0: none, the domain is shut off */
};

/* The chain of one disk as the running QEMU has it, topmost first. */
struct vm_blockjob_chain {
	struct vm_blockjob_layer *layers;
	size_t n;
	bool mirror, ready; /* a copy or an active commit; it may be pivoted */
	char *mirror_path;  /* where that writes to: of an active commit, the base. NULL: remote, or no mirror */
};

/* -ENOENT: no such disk. Fills *out on success. */
int vm_blockjob_chain_read(virDomainPtr dom, const char *target, struct vm_blockjob_chain *out, struct vs_err *err);
void vm_blockjob_chain_fini(struct vm_blockjob_chain *chain);
#define vm_blockjob_autochain vs_cleanup(vm_blockjob_chain_fini)
/* Position of the layer, by path, else by the file that the path leads to; -1: none. */
int vm_blockjob_chain_find(const struct vm_blockjob_chain *chain, const char *path);
/* Does a copy or an active commit write to that file? */
bool vm_blockjob_chain_mirrors(const struct vm_blockjob_chain *chain, const char *path);

#endif
