/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Files that a definition names in places which nobody here knows: whoever has named a file needs it. A value is a path if it begins as one,
 * and so is what comes after one of the characters that are put before a path in a longer one ("file=/srv/a.img,format=raw"). QEMU reads more than
 * one spelling of the same path: two commas for one, what JSON escapes, and a name from the root directory, which is where libvirt starts it.
 */
#include <json-c/json.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/xml/xml-priv.h"

struct found {
	char **v;
	size_t n, room;
};

/* Takes @path. */
static void add(struct found *found, char *path)
{
	for (size_t i = 0; i < found->n; i++)
		if (!strcmp(found->v[i], path)) {
			free(path);
			return;
		}
	if (found->n + 1 >= found->room)
		XGROW(found->v, found->room, found->room);
	found->v[found->n++] = path;
	found->v[found->n] = NULL;
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

static void add_path(struct found *found, const char *p, const char *after, bool doubled)
{
	vs_autofree char *path = take_path(p, after, doubled);

	if (path[0] == '/' && path[1])
		add(found, vs_steal(path));
	else if (strchr(path, '/') && path[1])
		add(found, xasprintf("/%s", path));
}

/* A shell and a list of words end a path at a space or a quote; QEMU's options do at a comma alone. */
static void look_at_plain(struct found *found, const char *value)
{
	static const char before[] = "=,:;<\"' \t\n", word[] = ",;\"' \t\n", option[] = ",";

	if (value[0] == '/' && value[1])
		add(found, xstrdup(value));
	for (const char *p = value; *p; p++) {
		if (p != value && !strchr(before, p[-1]))
			continue;
		add_path(found, p, word, false);
		add_path(found, p, option, false);
		if (strstr(p, ",,"))
			add_path(found, p, option, true);
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

/* "{...}", or "json:{...}" somewhere in an option. */
static void parse_json(struct found *found, const char *value)
{
	const char *brace = strchr(value, '{');
	json_object *o = brace ? json_tokener_parse(brace) : NULL;

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

/* What is known by name: disks, firmware; and what is none of the guest's. */
static bool is_known(const xmlNode *node)
{
	static const char *const known[] = {"metadata", "disk", "loader", "nvram", "emulator", "title", "description"};

	for (size_t i = 0; i < VS_ARRAY_LEN(known); i++)
		if (!strcmp((const char *)node->name, known[i]))
			return true;
	return false;
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

char **vm_xml_mentions(const xmlNode *domain)
{
	struct found found = {NULL};

	look_in(&found, domain);
	return found.v;
}
