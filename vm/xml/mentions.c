/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Files that a definition names in places which nobody here knows: whoever has named a file needs it. A value is a path if it begins as one,
 * and so is what comes after one of the characters that are put before a path in a longer one ("file=/srv/a.img,format=raw").
 */
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

static void look_at(struct found *found, const char *value)
{
	static const char before[] = "=,:;\"' \t\n", after[] = ",;\"' \t\n";

	if (value[0] == '/' && value[1])
		add(found, xstrdup(value));
	for (const char *p = value; (p = strchr(p, '/')); p++) {
		size_t len = strcspn(p, after);

		if (len > 1 && (p == value || strchr(before, p[-1])))
			add(found, xstrndup(p, len));
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
