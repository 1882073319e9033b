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
#include <sys/stat.h>

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

static const struct vm_xml_disk *find_disk(const struct vm_xml_domain *domain, const char *target)
{
	for (size_t i = 0; i < domain->n_disks; i++)
		if (!strcmp(domain->disks[i].target, target))
			return &domain->disks[i];
	return NULL;
}

static int add_layer(struct vm_blockjob_chain *chain, virDomainPtr dom, const struct vm_xml_source *source, struct vs_err *err)
{
	struct vm_blockjob_layer *layer = &chain->layers[chain->n++];

	layer->path = vm_dom_source_path(dom, source);
	layer->index = source->index;
	return !layer->path && source->path ? vm_dom_oom(err) : 0;
}

static int read_layers(struct vm_blockjob_chain *chain, virDomainPtr dom, const struct vm_xml_disk *disk, struct vs_err *err)
{
	int r = 0;

	if (disk->source.type == VM_SOURCE_NONE && !disk->n_below)
		return 0;
	chain->layers = xcalloc(1 + disk->n_below, sizeof(*chain->layers));
	r = add_layer(chain, dom, &disk->source, err);
	for (size_t i = 0; r == 0 && i < disk->n_below; i++)
		r = add_layer(chain, dom, &disk->below[i], err);
	return r;
}

int vm_blockjob_chain_read(virDomainPtr dom, const char *target, struct vm_blockjob_chain *out, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *domain = NULL;
	const struct vm_xml_disk *disk;
	struct vm_blockjob_chain chain = {0};
	int r = vm_dom_xml(dom, 0, &domain, err);

	if (r < 0)
		return r;
	disk = find_disk(domain, target);
	if (!disk)
		return vs_err_set(err, -ENOENT, "domain '%s' has no disk '%s'", virDomainGetName(dom), target);
	chain.mirror = disk->mirror_job != VM_MIRROR_NONE;
	chain.ready = disk->mirror_ready;
	if (chain.mirror)
		chain.mirror_path = vm_dom_source_path(dom, &disk->mirror);
	r = read_layers(&chain, dom, disk, err);
	if (r < 0) {
		vm_blockjob_chain_fini(&chain);
		return r;
	}
	*out = chain;
	return 0;
}

static bool same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	if (stat(a, &sa) < 0 || stat(b, &sb) < 0)
		return false;
	if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode))
		return sa.st_rdev == sb.st_rdev;
	return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

int vm_blockjob_chain_find(const struct vm_blockjob_chain *chain, const char *path)
{
	for (size_t i = 0; i < chain->n; i++)
		if (chain->layers[i].path && !strcmp(chain->layers[i].path, path))
			return (int)i;
	for (size_t i = 0; i < chain->n; i++)
		if (chain->layers[i].path && same_file(chain->layers[i].path, path))
			return (int)i;
	return -1;
}

bool vm_blockjob_chain_mirrors(const struct vm_blockjob_chain *chain, const char *path)
{
	return chain->mirror_path && (!strcmp(chain->mirror_path, path) || same_file(chain->mirror_path, path));
}
