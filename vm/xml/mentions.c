/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Files that a definition names in places which nobody here knows: whoever has named a file needs it. A value is a path if it begins as one,
 * and so is what comes after one of the characters that are put before a path in a longer one ("file=/srv/a.img,format=raw"). QEMU reads more than
 * one spelling of the same path: two commas for one, what JSON escapes, and a name from the root directory, which is where libvirt starts it.
 *
 * What is found so may be no path at all. That one of them is for certain is told by arguments.c.
 */
#include <json-c/json.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/xml/xml-priv.h"

struct found {
	struct vm_xml_domain *domain;
	size_t room;
};

/* QEMU's own working directory and root are "/". Takes @path, gives what that is here. */
static char *as_seen_here(char *path)
{
	static const char *const own[] = {"/proc/self/cwd/", "/proc/self/root/", "/proc/thread-self/cwd/", "/proc/thread-self/root/"};

	for (size_t i = 0; i < VS_ARRAY_LEN(own); i++) {
		size_t n = strlen(own[i]) - 1;

		if (!strncmp(path, own[i], n + 1))
			memmove(path, path + n, strlen(path + n) + 1);
	}
	return path;
}

/* Takes @path. What is said last that is not less certain counts; what contradicts it is said besides. */
static void add(char *path, enum vm_xml_mention_kind kind, void *opaque)
{
	struct found *found = opaque;
	struct vm_xml_domain *d = found->domain;

	path = as_seen_here(path);
	for (size_t i = 0; i < d->n_mentions; i++) {
		struct vm_xml_mention *m = &d->mentions[i];

		if (strcmp(m->path, path) != 0 || (kind != m->kind && kind > VM_MENTION_MEDIUM && m->kind > VM_MENTION_MEDIUM))
			continue;
		if (kind > m->kind)
			m->kind = kind;
		free(path);
		return;
	}
	XGROW(d->mentions, d->n_mentions, found->room);
	d->mentions[d->n_mentions++] = (struct vm_xml_mention){ path, kind };
}

/* What begins at @p and goes on to one of the characters @after; with @doubled commas in it as QEMU's options have them. */
static char *take_path(const char *p, const char *after, bool doubled)
{
	char *path = xcalloc(strlen(p) + 1, 1);
	size_t n = 0;

	for (; *p && (!strchr(after, *p) || (doubled && p[0] == ',' && p[1] == ',')); p++) {
		path[n++] = *p;
		p += doubled && *p == ',';
	}
	return path;
}

static void add_path(struct found *found, const char *p, const char *after, bool doubled, bool whole)
{
	vs_autofree char *path = take_path(p, after, doubled);

	if (path[0] == '/' && path[1])
		add(vs_steal(path), whole ? VM_MENTION_PATH : VM_MENTION_MAY_BE, found);
	else if (strchr(path, '/') && path[1])
		add(xasprintf("/%s", path), VM_MENTION_MAY_BE, found);
}

/* A shell and a list of words end a path at a space or a quote; QEMU's options do at a comma alone. */
static void look_at_plain(struct found *found, const char *value)
{
	static const char before[] = "=,:;<\"' \t\n", word[] = ",;\"' \t\n", option[] = ",";

	if (value[0] == '/' && value[1])
		add(xstrdup(value), VM_MENTION_PATH, found);
	for (const char *p = value; *p; p++) {
		if (p != value && !strchr(before, p[-1]))
			continue;
		add_path(found, p, word, false, false);
		add_path(found, p, option, false, p != value && p[-1] == '=' && !strstr(p, ",,"));
		if (strstr(p, ",,"))
			add_path(found, p, option, true, p != value && p[-1] == '=');
	}
}

static void look_at_json(struct found *found, json_object *o)
{
	switch (json_object_get_type(o)) {
	case json_type_object: {
		json_object_object_foreach(o, key, value) {
			(void)key;
			look_at_json(found, value);
		}
		break;
	}
	case json_type_array:
		for (size_t i = 0; i < json_object_array_length(o); i++)
			look_at_json(found, json_object_array_get_idx(o, i));
		break;
	case json_type_string:
		look_at_plain(found, json_object_get_string(o));
		break;
	default:
		break;
	}
}

json_object *vm_xml_json(const char *text)
{
	const char *brace = strchr(text, '{');

	return brace ? json_tokener_parse(brace) : NULL;
}

/* "{...}", or "json:{...}" somewhere in an option. */
static void parse_json(struct found *found, const char *value)
{
	json_object *o = vm_xml_json(value);

	if (o)
		look_at_json(found, o);
	json_object_put(o);
}

static void look_at(struct found *found, const char *value)
{
	look_at_plain(found, value);
	parse_json(found, value);
	if (strstr(value, ",,") && strchr(value, '{')) {
		vs_autofree char *single = xstrdup(value);

		for (char *p = single; (p = strstr(p, ",,")); p++)
			memmove(p, p + 1, strlen(p));
		parse_json(found, single);
	}
}

/* What follows "-append" among QEMU's arguments. */
static bool is_appended(const xmlNode *node)
{
	const xmlNode *before = node->prev;

	while (before && before->type != XML_ELEMENT_NODE)
		before = before->prev;
	return before && !strcmp((const char *)node->name, "arg") && (vm_xml_attr_is(before, "value", "-append") || vm_xml_attr_is(before, "value", "--append"));
}

/* What is known by name: disks, firmware; what is no file of the domain's; and what the kernel in the guest is told, whose "root=/dev/vda" is the guest's own. */
static bool is_known(const xmlNode *node)
{
	static const char *const known[] = {"metadata", "disk", "loader", "nvram", "emulator", "title", "description", "cmdline"};

	for (size_t i = 0; i < VS_ARRAY_LEN(known); i++)
		if (!strcmp((const char *)node->name, known[i]))
			return true;
	return is_appended(node);
}

static void look_in(struct found *found, const xmlNode *node)
{
	for (const xmlAttr *attr = node->properties; attr; attr = attr->next) {
		xmlChar *value = xmlNodeListGetString(node->doc, attr->children, 1);

		if (value)
			look_at(found, (const char *)value);
		xmlFree(value);
	}
	for (const xmlNode *child = node->children; child; child = child->next) {
		if (child->type == XML_ELEMENT_NODE && !is_known(child))
			look_in(found, child);
		else if ((child->type == XML_TEXT_NODE || child->type == XML_CDATA_SECTION_NODE) && child->content)
			look_at(found, (const char *)child->content);
	}
}

/* <disk type='dir'>: QEMU makes a file system of it. */
static void look_for_dirs(struct found *found, const xmlNode *devices)
{
	for (const xmlNode *disk = vm_xml_child(devices, "disk"); disk; disk = vm_xml_next(disk, "disk")) {
		char *path = vm_xml_attr_is(disk, "type", "dir") ? vm_xml_attr(vm_xml_child(disk, "source"), "dir") : NULL;

		if (path && path[0] == '/')
			add(path, VM_MENTION_DIR, found);
		else
			free(path);
	}
}

static const xmlNode *commandline_of(const xmlNode *definition)
{
	for (const xmlNode *node = definition->children; node; node = node->next)
		if (node->type == XML_ELEMENT_NODE && node->ns && !strcmp((const char *)node->name, "commandline"))
			return node;
	return NULL;
}

void vm_xml_mentions(const xmlNode *definition, bool arguments, struct vm_xml_domain *domain)
{
	const xmlNode *commandline = commandline_of(definition);
	struct found found = { domain, domain->n_mentions };

	if (!arguments)
		look_in(&found, definition);
	else if (commandline)
		look_in(&found, commandline);
	look_for_dirs(&found, vm_xml_child(definition, "devices"));
	if (commandline)
		vm_xml_arguments(commandline, add, &found);
}
