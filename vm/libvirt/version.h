/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * version.h: what differs between libvirts. See version.c.
 */
#ifndef VS_VM_LIBVIRT_VERSION_H
#define VS_VM_LIBVIRT_VERSION_H

#include <libvirt/libvirt.h>

#include "qcow2/base.h"

struct vm_version {
	size_t start_layers; /* the deepest chain with which a domain still starts */
};

/* @version: major * 1,000,000 + minor * 1,000 + release. Pure. */
struct vm_version vm_version_of(unsigned long version);
int vm_version_get(virConnectPtr conn, struct vm_version *out, struct vs_err *err);

#endif
