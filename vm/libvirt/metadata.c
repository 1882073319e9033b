/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A running domain has its metadata twice: in the instance, where everybody looks first, and in the configuration, which the
 * next start and the next snapshot's definition are made of. They are written together; a transient domain has only the
 * first, one that is shut off only the second. If a domain starts or stops just before the call, libvirt refuses the flags
 * (an invalid operation), and they are worked out once more.
 */
#include "vm/libvirt/metadata.h"

#include <errno.h>

#include "vm/libvirt/dom.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/fault.h"

#define TRIES 3

static int impact(virDomainPtr dom, unsigned *flags, struct vs_err *err)
{
	int persistent = virDomainIsPersistent(dom), active;

	if (persistent < 0)
		return vm_dom_virterr(dom, err, "the state of the domain");
	active = vm_dom_active(dom, err);
	if (active < 0)
		return active;
	*flags = (active ? VIR_DOMAIN_AFFECT_LIVE : 0) | (persistent ? VIR_DOMAIN_AFFECT_CONFIG : 0);
	return 0;
}

int vm_metadata_get(virDomainPtr dom, const char *uri, char **xml, struct vs_err *err)
{
	unsigned flags;
	char *text;
	int r = impact(dom, &flags, err);

	if (r < 0)
		return r;
	flags = flags & VIR_DOMAIN_AFFECT_CONFIG ? VIR_DOMAIN_AFFECT_CONFIG : VIR_DOMAIN_AFFECT_LIVE;
	text = virDomainGetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, uri, flags);
	if (!text)
		return vm_dom_virterr(dom, err, "the metadata of the domain");
	*xml = text;
	return 0;
}

int vm_metadata_set(virDomainPtr dom, const char *key, const char *uri, const char *xml, struct vs_err *err)
{
	for (int try = 1;; try++) {
		unsigned flags;
		int r = impact(dom, &flags, err);

		if (r < 0)
			return r;
		if (virDomainSetMetadata(dom, VIR_DOMAIN_METADATA_ELEMENT, xml, key, uri, flags) == 0) {
			vm_fault();
			return 0;
		}
		r = vm_virterr_code();
		if (r != -EINVAL || try == TRIES)
			return vm_dom_virterr(dom, err, "the metadata of the domain");
	}
}
