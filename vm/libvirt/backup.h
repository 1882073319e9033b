/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * backup.h: a backup job of a running domain from which its disks are fetched as they were when it began ("pull" mode). See backup.c.
 *
 * Source: libvirt's formatbackup page; qemu_backup.c. Errors and threads: dom.h.
 */
#ifndef VS_VM_LIBVIRT_BACKUP_H
#define VS_VM_LIBVIRT_BACKUP_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/dom.h"
#include "vm/xml/edit.h"

/* A path for the job's socket that nobody had before: by it the job is known again. Gives. -EOPNOTSUPP: it is not known where this QEMU may make one;
 * -ENAMETOOLONG. */
int vm_backup_new_socket(virDomainPtr dom, char **socket, struct vs_err *err);
/* Bytes of the disk, as the guest sees it. */
int vm_backup_size(virDomainPtr dom, const char *target, uint64_t *size, struct vs_err *err);

/* -EBUSY: a job is there. */
int vm_backup_begin(virDomainPtr dom, const char *socket, const struct vm_new_backup_disk *disks, size_t n, struct vs_err *err);
/* Is the domain's backup job the one with that socket? 1, 0; negative: nobody can tell. */
int vm_backup_is(virDomainPtr dom, const char *socket, struct vs_err *err);
/* Ends that one, and returns when it is over. 0 also where there is none, or another one. */
int vm_backup_end(virDomainPtr dom, const char *socket, struct vs_err *err);

/* Was it asked for of the QEMU that runs now? */
bool vm_backup_is_of_this_run(virDomainPtr dom, const char *socket);
/* Is the guest paused because of a write that failed? 1, 0 or negative. */
int vm_backup_is_stuck(virDomainPtr dom, struct vs_err *err);

#endif
