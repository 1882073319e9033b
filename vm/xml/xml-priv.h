/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * xml-priv.h: what the parsers of xml.h share. Private to this folder.
 *
 * Elements are found by name without a namespace, so nothing in somebody's <metadata> can pose as a disk. Strings that
 * are given are plain malloc'ed ones. Out of memory is sticky in the context and asked for once at the end.
 */
#ifndef VS_VM_XML_XML_PRIV_H
#define VS_VM_XML_XML_PRIV_H

#include <libxml/tree.h>

#include "vm/xml/xml.h"

struct vm_xml_ctx {
	bool oom;
	struct vm_xml_file *files; /* collected as sources are parsed; owned until handed over */
	size_t n_files, room;
};

/* Parses @text, whose root must be @root. Gives *out (xmlFreeDoc). */
int vm_xml_load(const char *text, const char *root, xmlDoc **out, struct vs_err *err);

/* The first child element, NULL if none or @parent is NULL; the next sibling of that name. */
xmlNode *vm_xml_child(const xmlNode *parent, const char *name);
xmlNode *vm_xml_next(const xmlNode *node, const char *name);
size_t vm_xml_count(const xmlNode *parent, const char *name);

/* Gives; NULL where there is none. */
char *vm_xml_attr(struct vm_xml_ctx *ctx, const xmlNode *node, const char *name);
char *vm_xml_text(struct vm_xml_ctx *ctx, const xmlNode *node);
/* Give; never NULL unless ctx->oom. */
char *vm_xml_strdup(struct vm_xml_ctx *ctx, const char *s);
char *vm_xml_printf(struct vm_xml_ctx *ctx, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *vm_xml_calloc(struct vm_xml_ctx *ctx, size_t n, size_t size);
/* Is the attribute there and equal? */
bool vm_xml_attr_is(const xmlNode *node, const char *name, const char *value);

/* Fills a source from an element that has @type and <source> (disk, backingStore, mirror), and collects its files. */
void vm_xml_source_parse(struct vm_xml_ctx *ctx, const xmlNode *node, struct vm_xml_source *source);
void vm_xml_source_fini(struct vm_xml_source *source);

/* A <domain> or <inactiveDomain> element; its files go to the context, not to the result. NULL: no memory. */
struct vm_xml_domain *vm_xml_domain_element(struct vm_xml_ctx *ctx, const xmlNode *node);
void vm_xml_files_free(struct vm_xml_file *files, size_t n);

/* define.c: the element as a document of its own, called <domain>, without secrets. Gives *text. -ENOMEM. */
int vm_xml_definition(const xmlNode *element, char **text, size_t *len);

#endif
