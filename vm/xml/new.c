/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <errno.h>
#include <string.h>

#include "vm/util/utf8.h"
#include "vm/xml/edit.h"
#include "vm/xml/xml-priv.h"

/* A <domainsnapshot> in the making; out of memory is asked for once, at the end. */
struct draft {
	xmlDoc *doc;
	bool oom;
};

static void set(struct draft *d, xmlNode *node, const char *name, const char *value)
{
	if (!node || !xmlSetProp(node, (const xmlChar *)name, (const xmlChar *)value))
		d->oom = true;
}

static xmlNode *add(struct draft *d, xmlNode *parent, const char *name, const char *text)
{
	xmlNode *node = parent ? xmlNewTextChild(parent, NULL, (const xmlChar *)name, (const xmlChar *)text) : NULL;

	if (!node)
		d->oom = true;
	return node;
}

static bool fits_xml(const char *text)
{
	size_t room = strlen(text), len;

	for (; room; text += len, room -= len) {
		len = vm_utf8_len(text, room);
		if (!len || ((unsigned char)*text < 0x20 && !strchr("\t\n\r", *text)))
			return false;
	}
	return true;
}

static const char *mode_word(enum vm_xml_mode mode)
{
	return mode == VM_MODE_EXTERNAL ? "external" : mode == VM_MODE_INTERNAL ? "internal" : "no";
}

static int check_new(const struct vm_new_snapshot *spec, struct vs_err *err)
{
	if (!fits_xml(spec->name) || (spec->description && !fits_xml(spec->description)))
		return vs_err_set(err, -EINVAL, "the name or the description has characters that XML does not allow");
	if (spec->memory_file && !fits_xml(spec->memory_file))
		return vs_err_set(err, -EINVAL, "the path '%s' has characters that XML does not allow", spec->memory_file);
	for (size_t i = 0; i < spec->n_disks; i++)
		if (spec->disks[i].overlay && !fits_xml(spec->disks[i].overlay))
			return vs_err_set(err, -EINVAL, "the path '%s' has characters that XML does not allow",
					  spec->disks[i].overlay);
	return 0;
}

static void add_disk(struct draft *d, xmlNode *list, const struct vm_new_disk *spec)
{
	xmlNode *disk = add(d, list, "disk", NULL);

	set(d, disk, "name", spec->target);
	set(d, disk, "snapshot", mode_word(spec->mode));
	if (spec->mode != VM_MODE_EXTERNAL)
		return;
	set(d, disk, "type", "file");
	set(d, add(d, disk, "driver", NULL), "type", "qcow2");
	set(d, add(d, disk, "source", NULL), "file", spec->overlay);
}

static void fill(struct draft *d, xmlNode *root, const struct vm_new_snapshot *spec)
{
	xmlNode *memory, *list;

	add(d, root, "name", spec->name);
	if (spec->description)
		add(d, root, "description", spec->description);
	memory = add(d, root, "memory", NULL);
	set(d, memory, "snapshot", mode_word(spec->memory));
	if (spec->memory == VM_MODE_EXTERNAL)
		set(d, memory, "file", spec->memory_file);
	list = add(d, root, "disks", NULL);
	for (size_t i = 0; i < spec->n_disks; i++)
		add_disk(d, list, &spec->disks[i]);
}

static int dump(struct draft *d, char **out)
{
	xmlBuffer *buffer = d->oom ? NULL : xmlBufferCreate();
	char *text = NULL;

	if (buffer && xmlNodeDump(buffer, d->doc, xmlDocGetRootElement(d->doc), 0, 1) >= 0)
		text = strdup((const char *)xmlBufferContent(buffer));
	xmlBufferFree(buffer);
	if (!text)
		return -ENOMEM;
	*out = text;
	return 0;
}

int vm_new_snapshot(const struct vm_new_snapshot *spec, char **out, struct vs_err *err)
{
	struct draft d = {0};
	xmlNode *root;
	int r = check_new(spec, err);

	if (r < 0)
		return r;
	d.doc = xmlNewDoc((const xmlChar *)"1.0");
	root = d.doc ? xmlNewDocNode(d.doc, NULL, (const xmlChar *)"domainsnapshot", NULL) : NULL;
	if (root) {
		xmlDocSetRootElement(d.doc, root);
		fill(&d, root, spec);
	}
	r = root ? dump(&d, out) : -ENOMEM;
	xmlFreeDoc(d.doc);
	return r < 0 ? vs_err_set(err, r, "out of memory") : 0;
}
