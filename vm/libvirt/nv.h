/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * nv.h: what a domain keeps beside its disks: the variables of its firmware (NVRAM), and the state of an emulated TPM. Where that is.
 */
#ifndef VS_VM_LIBVIRT_NV_H
#define VS_VM_LIBVIRT_NV_H

#include <libvirt/libvirt.h>

#include "vm/xml/xml.h"

#define VM_NV_MAX 2 /* of each one */

struct vm_nv_file {
	const char *what;      /* "nvram", "tpm": as its copy is called */
	const char *phrase;    /* "firmware variables", "TPM contents" */
	char *path;            /* NULL: it is not known where, and `why` says why */
	const char *why;
	enum q2_format format;
};

struct vm_nv_files {
	struct vm_nv_file v[VM_NV_MAX];
	size_t n;
};

/* By a definition of this domain's. The files need not be there. Errors are in the result. */
void vm_nv_files(virDomainPtr dom, const struct vm_xml_domain *xml, struct vm_nv_files *out);
void vm_nv_files_fini(struct vm_nv_files *files);

#endif
