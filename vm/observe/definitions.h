/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * definitions.h: where the domains that libvirt has defined on this host have their images, and where it keeps saved guests, for who does not ask libvirt: read
 * from its files, the system's and this user's own.
 *
 * Threads: any.
 */
#ifndef VS_VM_OBSERVE_DEFINITIONS_H
#define VS_VM_OBSERVE_DEFINITIONS_H

#include "qcow2/qcow2.h"

struct vm_definitions {
	void (*dir)(const char *path, void *opaque);  /* such a directory, some of them more than once */
	void (*disk)(const char *path, void *opaque); /* what a guest has as a disk to write to */
	void *opaque;
};

/* 0, also where there are none, or we may not list them; negative: there are some that cannot be read. */
int vm_definitions_read(const struct vm_definitions *found, struct vs_err *err);

#endif
