/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * flush.h: a running QEMU writes out what it has in its caches.
 *
 * Threads: any.
 */
#ifndef VS_VM_LIBVIRT_FLUSH_H
#define VS_VM_LIBVIRT_FLUSH_H

#include "vm/libvirt/dom.h"

/* Whatever the guest has written to its disks, and whatever a block job has, is on the disk and in the tables of the images when this
 * returns 0. A domain that is shut off: 0. Else libvirt's errors; -EIO: QEMU's sentence. See flush.c. */
int vm_flush(virDomainPtr dom, struct vs_err *err);

#endif
