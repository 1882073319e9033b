/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A chain in libvirt's XML is a disk whose <backingStore> has a <backingStore>, and so on:
 *
 *     <disk type='file'>                    holder 0: type, format in <driver>
 *       <driver type='qcow2'/>
 *       <source file='C'/>
 *       <backingStore type='file'>          holder 1: type, format in <format>
 *         <format type='qcow2'/>
 *         <source file='B'/>
 *         <backingStore/>                   the end of the chain; where it is missing libvirt reads on in the header
 *       </backingStore>
 *     </disk>
 *
 * Every edit is one of two. *Promote* holder j to the place of holder i < j: what lay between them is gone. For i > 0 that is
 * one element in place of another; the disk itself cannot be replaced (it has a target, a bus, ...), so it takes over what
 * describes an image: type, format, <source>, and what is beneath. *Point* a holder to another file, and keep what is beneath.
 * A layer that vanished is promotion by one; one that moved into a deeper layer of the same chain (a commit) is promotion of
 * that; one that moved elsewhere is pointed there.
 *
 * libxml2 frees what it replaces only where told to; trees here are small and short-lived, and everything taken out of the
 * document is freed at once. That a string which is put in cannot stand in XML is noted in a flag, and said at the end.
 */
#include "vm/xml/edit.h"

#include <errno.h>
#include <string.h>

#include "vm/xml/xml-priv.h"

struct edit {
	xmlDoc *doc;
	xmlNode *root;
	bool unfit;
};

/* ---------------------------------------------------------------- in, out, small tools */

static int open_text(const char *text, const char *root, struct edit *e, struct vs_err *err)
{
	int r = vm_xml_load(text, root, &e->doc, err);

	if (r < 0)
		return r;
	e->root = xmlDocGetRootElement(e->doc);
	return 0;
}

/* Dumps and closes. @result is what is returned if that works. */
static int finish(struct edit *e, int result, char **out, struct vs_err *err)
{
	if (e->unfit) {
		xmlFreeDoc(e->doc);
		return vs_err_set(err, -EINVAL, "a path or a name has characters that XML does not allow");
	}
	*out = vm_xml_dump(e->doc, false);
	return result;
}

static void drop(xmlNode *node)
{
	if (!node)
		return;
	xmlUnlinkNode(node);
	xmlFreeNode(node);
}

static void drop_all(xmlNode *parent, const char *name)
{
	xmlNode *node;

	while ((node = vm_xml_child(parent, name)))
		drop(node);
}

static void unset(xmlNode *node, const char *name)
{
	xmlAttr *attr = node ? xmlHasProp(node, (const xmlChar *)name) : NULL;

	if (attr)
		xmlRemoveProp(attr);
}

static void set(struct edit *e, xmlNode *node, const char *name, const char *value)
{
	e->unfit |= !vm_xml_fits(value);
	vm_xml_set(node, name, value);
}

static xmlNode *add(struct edit *e, xmlNode *parent, const char *name, const char *text)
{
	e->unfit |= text && !vm_xml_fits(text);
	return vm_xml_add(parent, name, text);
}

static bool is(const xmlNode *node, const char *name)
{
	return !strcmp((const char *)node->name, name);
}

/* ---------------------------------------------------------------- holders */

/* Its path, if it is a local one. Gives. */
static xmlChar *path_of(const xmlNode *holder)
{
	xmlNode *source = vm_xml_child(holder, "source");
	xmlChar *path = source ? xmlGetNoNsProp(source, (const xmlChar *)"file") : NULL;

	return path || !source ? path : xmlGetNoNsProp(source, (const xmlChar *)"dev");
}

static bool at_path(const xmlNode *holder, const char *path)
{
	xmlChar *have = path_of(holder);
	bool equal = have && !strcmp((const char *)have, path);

	xmlFree(have);
	return equal;
}

/* The holder at or beneath @holder that is @path; NULL: none. */
static xmlNode *find_path(xmlNode *holder, const char *path)
{
	while (holder && !at_path(holder, path))
		holder = vm_xml_child(holder, "backingStore");
	return holder;
}

/* <driver> of a disk, <format> of a layer beneath it. */
static xmlNode *format_element(const xmlNode *holder)
{
	return vm_xml_child(holder, is(holder, "backingStore") ? "format" : "driver");
}

static void set_format(struct edit *e, xmlNode *holder, const char *format)
{
	xmlNode *element = format_element(holder);

	if (!format)
		return;
	if (!element)
		element = add(e, holder, is(holder, "backingStore") ? "format" : "driver", NULL);
	set(e, element, "type", format);
	if (strcmp(format, "qcow2") != 0)
		drop_all(element, "metadata_cache");
}

/* What describes the old file and cannot be true of another one goes: where in it the disk lies, its data file, its
 * number in a running QEMU. */
static void point(struct edit *e, xmlNode *holder, const char *path, const char *format, bool block)
{
	xmlNode *source = vm_xml_child(holder, "source");
	bool local = source && (xmlHasProp(source, (const xmlChar *)"file") || xmlHasProp(source, (const xmlChar *)"dev"));

	if (!local) {
		drop(source);
		source = add(e, holder, "source", NULL);
	}
	unset(source, "file");
	unset(source, "dev");
	unset(source, "index");
	unset(holder, "index");
	drop_all(source, "slices");
	drop_all(source, "dataStore");
	set(e, source, block ? "dev" : "file", path);
	set(e, holder, "type", block ? "block" : "file");
	set_format(e, holder, format);
}

/* The disk becomes what @layer, which is out of the tree, describes. */
static void take_over(struct edit *e, xmlNode *disk, xmlNode *layer)
{
	xmlChar *type = xmlGetNoNsProp(layer, (const xmlChar *)"type");
	xmlNode *kind = vm_xml_child(layer, "format"), *source = vm_xml_child(layer, "source");
	xmlNode *beneath = vm_xml_child(layer, "backingStore"), *old = vm_xml_child(disk, "source");
	xmlChar *format = kind ? xmlGetNoNsProp(kind, (const xmlChar *)"type") : NULL;

	set(e, disk, "type", type ? (const char *)type : "file");
	set_format(e, disk, (const char *)format);
	xmlUnlinkNode(source);
	xmlReplaceNode(old, source);
	xmlFreeNode(old);
	if (beneath) {
		xmlUnlinkNode(beneath);
		xmlAddNextSibling(source, beneath);
	}
	xmlFree(type);
	xmlFree(format);
}

/* @deeper is somewhere beneath @holder, which has a <source>. */
static void promote(struct edit *e, xmlNode *holder, xmlNode *deeper)
{
	xmlUnlinkNode(deeper);
	if (is(holder, "backingStore")) {
		xmlReplaceNode(holder, deeper);
		xmlFreeNode(holder);
		return;
	}
	drop(vm_xml_child(holder, "backingStore"));
	take_over(e, holder, deeper);
	xmlFreeNode(deeper);
}

/* ---------------------------------------------------------------- moves */

/* The file is no more and nothing takes its place. */
static int vanish(struct edit *e, xmlNode *holder, const char *path, struct vs_err *err)
{
	xmlNode *beneath = vm_xml_child(holder, "backingStore");

	if (beneath && (vm_xml_child(beneath, "source") || is(holder, "backingStore")))
		promote(e, holder, beneath);
	else if (is(holder, "backingStore"))
		drop(holder);
	else
		return vs_err_set(err, -EINVAL, "'%s' is a disk's own file, and the record names nothing beneath it", path);
	return 1;
}

/* 1 if @disk's chain changed. */
static int move_in(struct edit *e, xmlNode *disk, const struct vm_edit_move *m, struct vs_err *err)
{
	xmlNode *holder = find_path(disk, m->from), *deeper;

	if (!holder)
		return 0;
	if (!m->to)
		return vanish(e, holder, m->from, err);
	deeper = find_path(vm_xml_child(holder, "backingStore"), m->to);
	if (!deeper) {
		point(e, holder, m->to, m->format, m->block);
		return 1;
	}
	set_format(e, deeper, m->format);
	promote(e, holder, deeper);
	return 1;
}

static bool has_target(const xmlNode *disk, const char *target)
{
	return vm_xml_attr_is(vm_xml_child(disk, "target"), "dev", target);
}

static int move_all(struct edit *e, const xmlNode *domain, const struct vm_edit_move *m, struct vs_err *err)
{
	xmlNode *disk = vm_xml_child(vm_xml_child(domain, "devices"), "disk");
	int changed = 0;

	for (; disk; disk = vm_xml_next(disk, "disk")) {
		int r = m->target && !has_target(disk, m->target) ? 0 : move_in(e, disk, m, err);

		if (r < 0)
			return r;
		changed += r;
	}
	return changed;
}

/* A <domain> or a <domainsnapshot>: libvirt's texts begin with nothing else. */
static int open_either(const char *text, struct edit *e, struct vs_err *err)
{
	if (vm_xml_load(text, "domainsnapshot", &e->doc, NULL) < 0)
		return open_text(text, "domain", e, err);
	e->root = xmlDocGetRootElement(e->doc);
	return 0;
}

static int apply(struct edit *e, const struct vm_edit_move *m, struct vs_err *err)
{
	int inner, outer;

	if (is(e->root, "domain"))
		return move_all(e, e->root, m, err);
	inner = move_all(e, vm_xml_child(e->root, "domain"), m, err);
	outer = inner < 0 ? 0 : move_all(e, vm_xml_child(e->root, "inactiveDomain"), m, err);
	return inner < 0 || outer < 0 ? -EINVAL : inner + outer;
}

int vm_edit_layers(const char *text, const struct vm_edit_move *moves, size_t n, char **out, struct vs_err *err)
{
	struct edit e = {0};
	int changed = 0, r = open_either(text, &e, err);

	for (size_t i = 0; r >= 0 && i < n; i++) {
		r = apply(&e, &moves[i], err);
		changed += r;
	}
	if (r >= 0)
		return finish(&e, changed, out, err);
	xmlFreeDoc(e.doc);
	return r;
}

/* ---------------------------------------------------------------- other parts of a record */

int vm_edit_parent(const char *snapshot, const char *parent, char **out, struct vs_err *err)
{
	struct edit e = {0};
	int r = open_text(snapshot, "domainsnapshot", &e, err);

	if (r < 0)
		return r;
	drop_all(e.root, "parent");
	if (parent)
		add(&e, add(&e, e.root, "parent", NULL), "name", parent);
	return finish(&e, 0, out, err);
}

/* ---------------------------------------------------------------- definitions */

static xmlNode *disk_of(const xmlNode *domain, const char *target)
{
	xmlNode *disk = vm_xml_child(vm_xml_child(domain, "devices"), "disk");

	while (disk && !has_target(disk, target))
		disk = vm_xml_next(disk, "disk");
	return disk;
}

/* The element becomes the root of a document of its own, called <domain>; the old document goes. */
static void lift(struct edit *e, const xmlNode *element)
{
	xmlDoc *doc = vm_xml_lift(element);

	xmlFreeDoc(e->doc);
	e->doc = doc;
	e->root = xmlDocGetRootElement(doc);
	xmlNodeSetName(e->root, (const xmlChar *)"domain");
	xmlReconciliateNs(doc, e->root);
}

static int lift_definition(struct edit *e, struct vs_err *err)
{
	xmlNode *element = vm_xml_child(e->root, "inactiveDomain");

	if (is(e->root, "domain"))
		return 0;
	if (!element)
		element = vm_xml_child(e->root, "domain");
	if (!element)
		return vs_err_set(err, -EINVAL, "the snapshot's record holds no definition of the domain");
	lift(e, element);
	return 0;
}

static int restart_from(struct edit *e, const struct vm_edit_disk *d, struct vs_err *err)
{
	xmlNode *disk = disk_of(e->root, d->target);

	if (!disk)
		return vs_err_set(err, -EINVAL, "the definition has no disk '%s'", d->target);
	point(e, disk, d->path, d->format, d->block);
	return 0;
}

int vm_edit_name(const char *domain, const char *name, char **out, struct vs_err *err)
{
	struct edit e = {0};
	int r = open_text(domain, "domain", &e, err);

	if (r < 0)
		return r;
	drop_all(e.root, "name");
	add(&e, e.root, "name", name);
	return finish(&e, 0, out, err);
}

int vm_edit_unpin(const char *domain, const char *target, char **out, struct vs_err *err)
{
	struct edit e = {0};
	int changed = 0, r = open_text(domain, "domain", &e, err);
	xmlNode *disk;

	if (r < 0)
		return r;
	disk = disk_of(e.root, target);
	if (disk) {
		changed = vm_xml_count(disk, "backingStore") > 0;
		drop_all(disk, "backingStore");
	}
	return finish(&e, changed, out, err);
}

int vm_edit_definition(const char *text, const struct vm_edit_disk *disks, size_t n, char **out,
		       struct vs_err *err)
{
	struct edit e = {0};
	int r = open_either(text, &e, err);

	if (r >= 0)
		r = lift_definition(&e, err);
	for (size_t i = 0; r >= 0 && i < n; i++)
		r = restart_from(&e, &disks[i], err);
	if (r < 0) {
		xmlFreeDoc(e.doc);
		return r;
	}
	for (xmlNode *disk = vm_xml_child(vm_xml_child(e.root, "devices"), "disk"); disk; disk = vm_xml_next(disk, "disk"))
		drop_all(disk, "backingStore");
	return finish(&e, 0, out, err);
}
