/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * metadata.h: elements in a domain's metadata. See metadata.c.
 */
#ifndef VS_VM_LIBVIRT_METADATA_H
#define VS_VM_LIBVIRT_METADATA_H

#include <libvirt/libvirt.h>

#include "qcow2/base.h"

/* The element of @uri as the next start will have it (of a transient domain: now). Gives *xml. -ENOENT: there is none. */
int vm_metadata_get(virDomainPtr dom, const char *uri, char **xml, struct vs_err *err);
/* Replaces it, in the running instance and in the configuration; NULL removes it. @xml without the name space. */
int vm_metadata_set(virDomainPtr dom, const char *key, const char *uri, const char *xml, struct vs_err *err);

#endif
