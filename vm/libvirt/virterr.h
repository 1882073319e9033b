/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * virterr.h: the one table that turns libvirt's error codes into errno.
 */
#ifndef VS_VM_LIBVIRT_VIRTERR_H
#define VS_VM_LIBVIRT_VIRTERR_H

#include "qcow2/qcow2.h"

/* The errno (negative) of the calling thread's last libvirt error; -EIO where there is none. -ENOENT: libvirt knows no such domain, snapshot, pool or
 * volume; never that some file was missing. */
int vm_virterr_code(void);
/* Sets @err to "what: libvirt's sentence" and returns the errno. */
int vm_virterr_set(struct vs_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
