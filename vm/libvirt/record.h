/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * record.h: libvirt's records of snapshots: made, replaced, forgotten; and the files that they prove to be theirs.
 */
#ifndef VS_VM_LIBVIRT_RECORD_H
#define VS_VM_LIBVIRT_RECORD_H

#include <libvirt/libvirt.h>

#include "vm/xml/xml.h"

/* Is somebody's delete unfinished? 1: yes, *where (given) names the snapshots that libvirt has noted it at: the parents of
 * what was being deleted. 0: no. */
int vm_record_unfinished_delete(virDomainPtr dom, char **where, struct vs_err *err);

enum vm_record_current { VM_RECORD_KEEP_CURRENT, VM_RECORD_MAKE_CURRENT };

/* Replaces the record of the same name, or makes one. With KEEP the current snapshot stays the current one, also where it
 * is the one replaced. */
int vm_record_redefine(virDomainPtr dom, const char *xml, enum vm_record_current current, struct vs_err *err);

/* The record goes, no data does. -EBUSY: it has children; some libvirts would rewrite theirs, so move them first. */
int vm_record_forget(virDomainPtr dom, const char *name, struct vs_err *err);

/* libvirt renames a record or a definition over the one before and leaves it to the file system when that is on the disk: it is when this returns 0, where
 * their directories are known here and can be opened. To be called before anything is unlinked that the old ones name. */
int vm_record_sync(virDomainPtr dom, struct vs_err *err);

/* Did the snapshot create this overlay? By its record. */
bool vm_record_proves(const struct vm_xml_snapshot *record, const char *path);
/* Has libvirt saved the memory of this very domain in that file? It reads its own header, and the UUID in it. 0; -EPERM: no, or nobody
 * can tell. */
int vm_record_saved(virDomainPtr dom, const char *path, struct vs_err *err);
/* Is the record's memory file, if it has one, that domain's memory, and of that time? 0; -EPERM: it is not, or that cannot be told. */
int vm_record_memory(virDomainPtr dom, const struct vm_xml_snapshot *record, struct vs_err *err);

#endif
