/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A recorded definition becomes a document of its own: renamed to <domain>, without secrets, moved to the left margin.
 *
 * Secrets: asked without VIR_DOMAIN_XML_SECURE libvirt leaves them out already. We take them out again, because records
 * are imported with REDEFINE from files that people made with --security-info, and because this file ends in backups.
 * Whole words only: <secret type='ceph' uuid='...'/> is a reference and stays, text inside it goes.
 */
#include "vm/xml/xml-priv.h"

#include <string.h>

#include "vm/util/mem.h"

static bool one_of(const xmlChar *name, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp((const char *)name, words[i]))
			return true;
	return false;
}

static void scrub_attributes(xmlNode *node)
{
	static const char *const words[] = {"passwd", "passwdValidTo", "password", "passphrase"};

	for (xmlAttr *attr = node->properties, *next; attr; attr = next) {
		next = attr->next;
		if (one_of(attr->name, words, VS_ARRAY_LEN(words)))
			xmlRemoveProp(attr);
	}
}

static void drop_children(xmlNode *node)
{
	while (node->children) {
		xmlNode *child = node->children;

		xmlUnlinkNode(child);
		xmlFreeNode(child);
	}
}

/* Depth is bounded by the parser (256). */
static void scrub(xmlNode *node)
{
	static const char *const emptied[] = {"secret", "passwd", "password", "passphrase", "cookies"};

	scrub_attributes(node);
	if (one_of(node->name, emptied, VS_ARRAY_LEN(emptied)))
		drop_children(node);
	for (xmlNode *child = node->children; child; child = child->next)
		if (child->type == XML_ELEMENT_NODE)
			scrub(child);
}

/* Takes @indent spaces from the start of every line in white space between elements. */
static void dedent_text(xmlChar *text, size_t indent)
{
	xmlChar *o = text;
	size_t skip = 0;

	for (const xmlChar *p = text; *p; p++) {
		if (*p == ' ' && skip > 0) {
			skip--;
			continue;
		}
		skip = *p == '\n' ? indent : 0;
		*o++ = *p;
	}
	*o = '\0';
}

static void dedent(xmlNode *node, size_t indent)
{
	for (xmlNode *child = node->children; child; child = child->next) {
		if (child->type == XML_ELEMENT_NODE)
			dedent(child, indent);
		else if (child->type == XML_TEXT_NODE && xmlIsBlankNode(child))
			dedent_text(child->content, indent);
	}
}

/* How far the line is indented on which the element starts. */
static size_t indent_of(const xmlNode *element)
{
	const xmlNode *before = element->prev;
	const char *line;

	if (!before || before->type != XML_TEXT_NODE || !xmlIsBlankNode(before))
		return 0;
	line = strrchr((const char *)before->content, '\n');
	return line ? strlen(line + 1) : 0;
}

char *vm_xml_definition(const xmlNode *element)
{
	xmlDoc *doc = vm_xml_lift(element);
	xmlNode *copy = xmlDocGetRootElement(doc);
	vs_autofree char *text = NULL;

	xmlNodeSetName(copy, (const xmlChar *)"domain");
	scrub(copy);
	dedent(copy, indent_of(element));
	text = vm_xml_dump(doc, false);
	return xasprintf("%s\n", text);
}
