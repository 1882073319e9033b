/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * pools.h: the active storage pools of a connection: directories in which images may name files, devices that they may
 * name, and the place where images live that no domain knows of but that stand on a domain's layers.
 *
 * Pools change rarely: they are listed again when the set of names changed, when asked to, and once in a while.
 * Threads: one, the refresher.
 */
#ifndef VS_VM_OBSERVE_POOLS_H
#define VS_VM_OBSERVE_POOLS_H

#include <libvirt/libvirt.h>

#include "qcow2/qcow2.h"
#include "vm/libvirt/untold.h"

struct vm_pool {
	char *name;
	bool active;    /* libvirt has made it ready: only then may images name what is in it */
	char *dir;      /* of a pool of files; NULL for a pool of devices */
	char **volumes; /* paths, of a pool of devices; empty for a pool of files */
	size_t n_volumes;
};

struct vm_pools {
	struct vm_pool *pools;
	size_t n;
	char **problems; /* what could not be looked at, each a sentence */
	size_t n_problems;
	/* private to pools.c */
	char *names;       /* of the pools, sorted, as a text to compare */
	int64_t listed_ns; /* steady clock */
	char *definitions; /* libvirt's directory of these; NULL: not known */
	struct vm_untold untold;
};

/* Of a new connection: where it has its definitions. */
void vm_pools_connected(struct vm_pools *pools, virConnectPtr conn);

/* @force: do not trust what was listed before. Writes whether the pools are others than before. A driver without
 * storage has no pools. 0; negative errno where the connection failed: the pools stay as they were. What could not be looked at
 * is a problem, not an absence. */
int vm_pools_poll(struct vm_pools *pools, virConnectPtr conn, bool force, bool *changed);
void vm_pools_fini(struct vm_pools *pools);

#endif
