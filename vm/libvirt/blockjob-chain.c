/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * libvirt addresses a layer by its path or as `vda[N]`. Paths can be spelled in many ways and one layer's path may be found
 * in two places; N is exact, but is libvirt's number for one running QEMU: it changes at every start. So intent is kept as
 * paths, and turned into numbers from the live XML right before the call that needs them.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/libvirt/act-priv.h"
#include "vm/xml/xml-priv.h"

void vm_act_chain_fini(struct vm_act_chain *chain)
{
	for (size_t i = 0; i < chain->n; i++)
		free(chain->layers[i].path);
	free(chain->layers);
	free(chain->mirror_path);
	*chain = (struct vm_act_chain){0};
}

static const xmlNode *find_disk(const xmlNode *root, const char *target)
{
	const xmlNode *disk = vm_xml_child(vm_xml_child(root, "devices"), "disk");

	while (disk && !vm_xml_attr_is(vm_xml_child(disk, "target"), "dev", target))
		disk = vm_xml_next(disk, "disk");
	return disk;
}

/* On <source> for the disk itself, on <backingStore> for what is beneath. */
static unsigned read_index(struct vm_xml_ctx *ctx, const xmlNode *holder)
{
	vs_autofree char *own = vm_xml_attr(ctx, holder, "index");
	vs_autofree char *inner = vm_xml_attr(ctx, vm_xml_child(holder, "source"), "index");
	const char *text = own ? own : inner;

	return text ? (unsigned)strtoul(text, NULL, 10) : 0;
}

static char *read_path(struct vm_xml_ctx *ctx, virDomainPtr dom, const xmlNode *holder)
{
	struct vm_xml_source source = {0};
	char *path;

	vm_xml_source_parse(ctx, holder, &source);
	path = vm_act_source_path(dom, &source);
	if (!path && source.path)
		ctx->oom = true;
	vm_xml_source_fini(&source);
	return path;
}

static void read_layers(struct vm_xml_ctx *ctx, virDomainPtr dom, const xmlNode *disk, struct vm_act_chain *chain)
{
	const xmlNode *holder;
	size_t n = 0;

	for (holder = disk; vm_xml_child(holder, "source"); holder = vm_xml_child(holder, "backingStore"))
		n++;
	chain->layers = vm_xml_calloc(ctx, n, sizeof(*chain->layers));
	if (!chain->layers)
		return;
	for (holder = disk; chain->n < n; holder = vm_xml_child(holder, "backingStore")) {
		struct vm_act_layer *layer = &chain->layers[chain->n++];

		layer->path = read_path(ctx, dom, holder);
		layer->index = read_index(ctx, holder);
	}
}

static int read_disk(virDomainPtr dom, const xmlNode *root, const char *target, struct vm_act_chain *out,
		     struct vs_err *err)
{
	const xmlNode *disk = find_disk(root, target), *mirror = vm_xml_child(disk, "mirror");
	struct vm_act_chain chain = {0};
	struct vm_xml_ctx ctx = {0};

	if (!disk)
		return vs_err_set(err, -ENOENT, "domain '%s' has no disk '%s'", virDomainGetName(dom), target);
	chain.mirror = mirror != NULL;
	chain.ready = vm_xml_attr_is(mirror, "ready", "yes");
	chain.mirror_path = mirror ? read_path(&ctx, dom, mirror) : NULL;
	read_layers(&ctx, dom, disk, &chain);
	vm_xml_files_free(ctx.files, ctx.n_files);
	if (ctx.oom) {
		vm_act_chain_fini(&chain);
		return vm_act_oom(err);
	}
	*out = chain;
	return 0;
}

int vm_act_chain_read(virDomainPtr dom, const char *target, struct vm_act_chain *out, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	xmlDoc *doc;
	int r = vm_act_domain_text(dom, 0, &text, err);

	if (r >= 0)
		r = vm_xml_load(text, "domain", &doc, err);
	if (r < 0)
		return r;
	r = read_disk(dom, xmlDocGetRootElement(doc), target, out, err);
	xmlFreeDoc(doc);
	return r;
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

int vm_act_chain_find(const struct vm_act_chain *chain, const char *path)
{
	for (size_t i = 0; i < chain->n; i++)
		if (chain->layers[i].path && !strcmp(chain->layers[i].path, path))
			return (int)i;
	for (size_t i = 0; i < chain->n; i++)
		if (chain->layers[i].path && same_file(chain->layers[i].path, path))
			return (int)i;
	return -1;
}

bool vm_act_chain_mirrors(const struct vm_act_chain *chain, const char *path)
{
	return chain->mirror_path && (!strcmp(chain->mirror_path, path) || same_file(chain->mirror_path, path));
}
