/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/xml/edit.h"
#include "vm/xml/xml-priv.h"

static const char *mode_word(enum vm_xml_mode mode)
{
	return mode == VM_MODE_EXTERNAL ? "external" : mode == VM_MODE_INTERNAL ? "internal" : "no";
}

static int check_new(const struct vm_new_snapshot *spec, struct vs_err *err)
{
	if (!vm_xml_fits(spec->name) || (spec->description && !vm_xml_fits(spec->description)))
		return vs_err_set(err, -EINVAL, "the name or the description has characters that XML does not allow");
	if (spec->memory_file && !vm_xml_fits(spec->memory_file))
		return vs_err_set(err, -EINVAL, "the path '%s' has characters that XML does not allow", spec->memory_file);
	for (size_t i = 0; i < spec->n_disks; i++)
		if (spec->disks[i].overlay && !vm_xml_fits(spec->disks[i].overlay))
			return vs_err_set(err, -EINVAL, "the path '%s' has characters that XML does not allow",
					  spec->disks[i].overlay);
	return 0;
}

static void add_disk(xmlNode *list, const struct vm_new_disk *spec)
{
	xmlNode *disk = vm_xml_add(list, "disk", NULL);

	vm_xml_set(disk, "name", spec->target);
	vm_xml_set(disk, "snapshot", mode_word(spec->mode));
	if (spec->mode != VM_MODE_EXTERNAL)
		return;
	vm_xml_set(disk, "type", "file");
	vm_xml_set(vm_xml_add(disk, "driver", NULL), "type", "qcow2");
	vm_xml_set(vm_xml_add(disk, "source", NULL), "file", spec->overlay);
}

static void fill(xmlNode *root, const struct vm_new_snapshot *spec)
{
	xmlNode *memory, *list;

	vm_xml_add(root, "name", spec->name);
	if (spec->description)
		vm_xml_add(root, "description", spec->description);
	memory = vm_xml_add(root, "memory", NULL);
	vm_xml_set(memory, "snapshot", mode_word(spec->memory));
	if (spec->memory == VM_MODE_EXTERNAL)
		vm_xml_set(memory, "file", spec->memory_file);
	list = vm_xml_add(root, "disks", NULL);
	for (size_t i = 0; i < spec->n_disks; i++)
		add_disk(list, &spec->disks[i]);
}

static int fill_more(xmlDoc *doc, const struct vm_new_record *more, struct vs_err *err)
{
	vs_autofree char *created = xasprintf("%" PRId64, more->created_s);
	xmlNode *root = xmlDocGetRootElement(doc), *copy;
	xmlDoc *domain;
	int r = vm_xml_load(more->domain, "domain", &domain, err);

	if (r < 0)
		return r;
	vm_xml_add(root, "creationTime", created);
	vm_xml_add(root, "state", more->state);
	if (more->parent)
		vm_xml_add(vm_xml_add(root, "parent", NULL), "name", more->parent);
	copy = xmlDocCopyNode(xmlDocGetRootElement(domain), doc, 1);
	if (!copy)
		xoom();
	xmlAddChild(root, copy);
	xmlFreeDoc(domain);
	return 0;
}

static int compose(const struct vm_new_snapshot *spec, const struct vm_new_record *more, char **out, struct vs_err *err)
{
	xmlDoc *doc;
	xmlNode *root;
	int r = check_new(spec, err);

	if (r < 0)
		return r;
	doc = xmlNewDoc((const xmlChar *)"1.0");
	root = doc ? xmlNewDocNode(doc, NULL, (const xmlChar *)"domainsnapshot", NULL) : NULL;
	if (!root)
		xoom();
	xmlDocSetRootElement(doc, root);
	fill(root, spec);
	r = more ? fill_more(doc, more, err) : 0;
	if (r < 0)
		xmlFreeDoc(doc);
	else
		*out = vm_xml_dump(doc, true);
	return r;
}

int vm_new_snapshot(const struct vm_new_snapshot *spec, char **out, struct vs_err *err)
{
	return compose(spec, NULL, out, err);
}

int vm_new_record(const struct vm_new_snapshot *spec, const struct vm_new_record *more, char **out, struct vs_err *err)
{
	return compose(spec, more, out, err);
}
