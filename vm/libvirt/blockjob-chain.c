/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * libvirt addresses a layer by its path or as `vda[N]`. Paths can be spelled in many ways and one layer's path may be found
 * in two places; N is exact, but is libvirt's number for one running QEMU: it changes at every start. So intent is kept as
 * paths, and turned into numbers from the live XML right before the call that needs them.
 */
#include "vm/libvirt/blockjob-chain.h"

#include <errno.h>
#include <string.h>

#include "vm/libvirt/dom.h"
#include "vm/util/mem.h"

void vm_blockjob_chain_fini(struct vm_blockjob_chain *chain)
{
	for (size_t i = 0; i < chain->n; i++)
		free(chain->layers[i].path);
	free(chain->layers);
	free(chain->mirror_path);
	*chain = (struct vm_blockjob_chain){0};
}

static struct vm_blockjob_layer layer_of(virDomainPtr dom, const struct vm_xml_source *source)
{
	return (struct vm_blockjob_layer){ .path = vm_dom_source_path(dom, source), .index = source->index };
}

static void read_layers(struct vm_blockjob_chain *chain, virDomainPtr dom, const struct vm_xml_disk *disk)
{
	if (disk->source.type == VM_SOURCE_NONE && !disk->n_below)
		return;
	chain->layers = xcalloc(1 + disk->n_below, sizeof(*chain->layers));
	chain->layers[chain->n++] = layer_of(dom, &disk->source);
	for (size_t i = 0; i < disk->n_below; i++)
		chain->layers[chain->n++] = layer_of(dom, &disk->below[i]);
}

int vm_blockjob_chain_read(virDomainPtr dom, const char *target, struct vm_blockjob_chain *out, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *domain = NULL;
	const struct vm_xml_disk *disk;
	int r = vm_dom_xml(dom, 0, &domain, err);

	if (r < 0)
		return r;
	disk = vm_xml_domain_disk(domain, target);
	if (!disk)
		return vs_err_set(err, -ENOENT, "domain '%s' has no disk '%s'", virDomainGetName(dom), target);
	*out = (struct vm_blockjob_chain){ .mirror = disk->mirror_job != VM_MIRROR_NONE, .ready = disk->mirror_ready };
	if (out->mirror)
		out->mirror_path = vm_dom_source_path(dom, &disk->mirror);
	read_layers(out, dom, disk);
	return 0;
}

int vm_blockjob_chain_find(const struct vm_blockjob_chain *chain, const char *path)
{
	for (size_t i = 0; i < chain->n; i++)
		if (chain->layers[i].path && !strcmp(chain->layers[i].path, path))
			return (int)i;
	for (size_t i = 0; i < chain->n; i++)
		if (chain->layers[i].path && vm_dom_same_file(chain->layers[i].path, path))
			return (int)i;
	return -1;
}

bool vm_blockjob_chain_mirrors(const struct vm_blockjob_chain *chain, const char *path)
{
	return chain->mirror_path && vm_dom_same_file(chain->mirror_path, path);
}
