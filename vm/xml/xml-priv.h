/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * xml-priv.h: what the parsers of xml.h share. Private to this folder.
 *
 * Elements are found by name without a namespace, so nothing in somebody's <metadata> can pose as a disk. Strings that
 * are given are plain malloc'ed ones.
 */
#ifndef VS_VM_XML_XML_PRIV_H
#define VS_VM_XML_XML_PRIV_H

#include <libxml/tree.h>

#include "vm/xml/xml.h"

/* The files that a text names, collected as its sources are parsed; owned until handed over. */
struct vm_xml_named {
	struct vm_xml_file *files;
	size_t n_files, room;
};

/* Parses @text, whose root must be @root. Gives *out (xmlFreeDoc). */
int vm_xml_load(const char *text, const char *root, xmlDoc **out, struct vs_err *err);

/* The first child element, NULL if none or @parent is NULL; the next sibling of that name. */
xmlNode *vm_xml_child(const xmlNode *parent, const char *name);
xmlNode *vm_xml_next(const xmlNode *node, const char *name);
size_t vm_xml_count(const xmlNode *parent, const char *name);

/* Gives; NULL where there is none. */
char *vm_xml_attr(const xmlNode *node, const char *name);
char *vm_xml_text(const xmlNode *node);
/* Is the attribute there and equal? */
bool vm_xml_attr_is(const xmlNode *node, const char *name, const char *value);

/* Gives a document of its own with a copy of the element in it. */
xmlDoc *vm_xml_lift(const xmlNode *element);
/* Takes @doc, whose text has nothing but characters that XML allows; gives it as text. */
char *vm_xml_dump(xmlDoc *doc, bool indented);
/* Sets an attribute; adds a child with that text (NULL: none). Strings fit. */
void vm_xml_set(xmlNode *node, const char *name, const char *value);
xmlNode *vm_xml_add(xmlNode *parent, const char *name, const char *text);
/* May it stand in XML? */
bool vm_xml_fits(const char *text);

/* Fills a source from an element that has @type and <source> (disk, backingStore, mirror), and collects its files. */
void vm_xml_source_parse(struct vm_xml_named *named, const xmlNode *node, struct vm_xml_source *source);
void vm_xml_source_fini(struct vm_xml_source *source);

/* A <domain> or <inactiveDomain> element; its files go to @named, not to the result. */
struct vm_xml_domain *vm_xml_domain_element(struct vm_xml_named *named, const xmlNode *node);
void vm_xml_files_free(struct vm_xml_file *files, size_t n);

/* mentions.c: for vm_xml_domain.mentions, once: all that a definition has, or only its arguments of QEMU's. */
void vm_xml_mentions(const xmlNode *definition, bool arguments, struct vm_xml_domain *domain);

/* arguments.c: calls @found for every path that QEMU is sure to go by with these arguments (<commandline>). Takes @path. */
typedef void vm_xml_argument_found(char *path, enum vm_xml_mention_kind kind, void *opaque);
void vm_xml_arguments(const xmlNode *commandline, vm_xml_argument_found *found, void *opaque);

/* What is said in JSON from the first brace of @text on; NULL: nothing. Gives (json_object_put). */
struct json_object *vm_xml_json(const char *text);

/* define.c: the element as a document of its own, called <domain>, without secrets. Gives. */
char *vm_xml_definition(const xmlNode *element);

#endif
