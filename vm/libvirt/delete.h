/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * delete.h: libvirt's delete of an internal snapshot. See delete.c.
 */
#ifndef VS_VM_LIBVIRT_DELETE_H
#define VS_VM_LIBVIRT_DELETE_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/dom.h"

/* libvirt's delete of an internal snapshot: record, entries and saved memory. It cannot be cancelled nor slowed. */
int vm_delete_internal(virDomainPtr dom, const char *name, struct vm_dom_watch *watch, struct vs_err *err);

#endif
