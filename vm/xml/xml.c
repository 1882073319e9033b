/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/xml/xml-priv.h"

#include <ctype.h>
#include <errno.h>
#include <libxml/parser.h>
#include <pthread.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/util/utf8.h"

/* ---------------------------------------------------------------- documents, elements, strings */

static void init_parser(void)
{
	xmlInitParser();
}

/* libxml2's sentence about what went wrong, without its newline. */
static int bad_document(const char *root, struct vs_err *err)
{
	const xmlError *last = xmlGetLastError();
	const char *message = last && last->message ? last->message : "it cannot be parsed";

	return vs_err_set(err, -EINVAL, "the XML of a <%s> is not well-formed: line %d: %.*s", root, last ? last->line : 0,
			  (int)strcspn(message, "\n"), message);
}

int vm_xml_load(const char *text, const char *root, xmlDoc **out, struct vs_err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	size_t len = strnlen(text, VM_XML_MAX + 1);
	const xmlNode *element;
	xmlDoc *doc;

	if (len > VM_XML_MAX)
		return vs_err_set(err, -E2BIG, "the XML of a <%s> is larger than %u bytes", root, VM_XML_MAX);
	pthread_once(&once, init_parser);
	xmlResetLastError();
	doc = xmlReadMemory(text, (int)len, NULL, NULL, XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
	if (!doc)
		return bad_document(root, err);
	element = xmlDocGetRootElement(doc);
	if (xmlGetIntSubset(doc) || !element || element->ns || strcmp((const char *)element->name, root)) {
		xmlFreeDoc(doc);
		return vs_err_set(err, -EINVAL, "the XML is no <%s>, or brings a document type", root);
	}
	*out = doc;
	return 0;
}

static xmlNode *first_called(xmlNode *node, const char *name)
{
	while (node && (node->type != XML_ELEMENT_NODE || node->ns || strcmp((const char *)node->name, name)))
		node = node->next;
	return node;
}

xmlNode *vm_xml_child(const xmlNode *parent, const char *name)
{
	return parent ? first_called(parent->children, name) : NULL;
}

xmlNode *vm_xml_next(const xmlNode *node, const char *name)
{
	return first_called(node->next, name);
}

size_t vm_xml_count(const xmlNode *parent, const char *name)
{
	size_t n = 0;

	for (const xmlNode *node = vm_xml_child(parent, name); node; node = vm_xml_next(node, name))
		n++;
	return n;
}

static char *take_xml(xmlChar *s)
{
	char *copy = s ? xstrdup((const char *)s) : NULL;

	xmlFree(s);
	return copy;
}

char *vm_xml_attr(const xmlNode *node, const char *name)
{
	return node ? take_xml(xmlGetNoNsProp((xmlNode *)node, (const xmlChar *)name)) : NULL;
}

char *vm_xml_text(const xmlNode *node)
{
	return node ? take_xml(xmlNodeGetContent(node)) : NULL;
}

static char *text_or_empty(const xmlNode *node)
{
	return node ? vm_xml_text(node) : xstrdup("");
}

bool vm_xml_attr_is(const xmlNode *node, const char *name, const char *value)
{
	xmlChar *got = node ? xmlGetNoNsProp((xmlNode *)node, (const xmlChar *)name) : NULL;
	bool is = got && !strcmp((const char *)got, value);

	xmlFree(got);
	return is;
}

bool vm_xml_fits(const char *text)
{
	for (const char *c = text; *c; c++)
		if ((unsigned char)*c < 0x20 && !strchr("\t\n\r", *c))
			return false;
	return vm_utf8_valid(text);
}

void vm_xml_set(xmlNode *node, const char *name, const char *value)
{
	if (!xmlSetProp(node, (const xmlChar *)name, (const xmlChar *)value))
		xoom();
}

xmlNode *vm_xml_add(xmlNode *parent, const char *name, const char *text)
{
	xmlNode *node = xmlNewTextChild(parent, NULL, (const xmlChar *)name, (const xmlChar *)text);

	if (!node)
		xoom();
	return node;
}

xmlDoc *vm_xml_lift(const xmlNode *element)
{
	xmlDoc *doc = xmlNewDoc((const xmlChar *)"1.0");
	xmlNode *copy = doc ? xmlDocCopyNode((xmlNode *)element, doc, 1) : NULL;

	if (!copy)
		xoom();
	xmlDocSetRootElement(doc, copy);
	return doc;
}

char *vm_xml_dump(xmlDoc *doc, bool indented)
{
	xmlBuffer *buffer = xmlBufferCreate();
	char *text;

	if (!buffer || xmlNodeDump(buffer, doc, xmlDocGetRootElement(doc), 0, indented) < 0)
		xoom();
	text = xstrdup((const char *)xmlBufferContent(buffer));
	xmlBufferFree(buffer);
	xmlFreeDoc(doc);
	return text;
}

/* ---------------------------------------------------------------- sources */

void vm_xml_files_free(struct vm_xml_file *files, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(files[i].path);
	free(files);
}

/* A later mention may add the format that an earlier one lacked. */
static void collect(struct vm_xml_named *named, const char *path, enum q2_format format)
{
	for (size_t i = 0; i < named->n_files; i++)
		if (!strcmp(named->files[i].path, path)) {
			if (named->files[i].format == Q2_FORMAT_NONE)
				named->files[i].format = format;
			return;
		}
	XGROW(named->files, named->n_files, named->room);
	named->files[named->n_files++] = (struct vm_xml_file){xstrdup(path), format};
}

static char *parse_data_store(struct vm_xml_named *named, const xmlNode *source)
{
	const xmlNode *store = vm_xml_child(source, "dataStore");
	struct vm_xml_source data = {0};
	char *name;

	if (!store)
		return NULL;
	vm_xml_source_parse(named, store, &data);
	name = data.path ? vs_steal(data.path) : vs_steal(data.text);
	vm_xml_source_fini(&data);
	return name;
}

/* "network disk (rbd pool/image)"; what there is of it. */
static char *network_text(const xmlNode *source)
{
	vs_autofree char *protocol = vm_xml_attr(source, "protocol");
	vs_autofree char *name = vm_xml_attr(source, "name");
	vs_autofree char *host = vm_xml_attr(vm_xml_child(source, "host"), "name");

	if (!name && host)
		name = vs_steal(host);
	return xasprintf("network disk (%s%s%s)", protocol ? protocol : "unknown protocol", name ? " " : "",
			     name ? name : "");
}

/* The element as it is, without blanks between tags and the number that it has in a running QEMU. */
static char *key_of(const xmlNode *element)
{
	xmlDoc *doc = vm_xml_lift(element);
	char *key, *to;

	xmlUnsetProp(xmlDocGetRootElement(doc), (const xmlChar *)"index");
	key = to = vm_xml_dump(doc, false);
	for (const char *from = key; *from; from++)
		if (!isspace((unsigned char)*from) || (from > key && from[-1] != '>' && !isspace((unsigned char)from[-1])))
			*to++ = *from;
	*to = '\0';
	return key;
}

static void parse_other(const xmlNode *element, const char *type, struct vm_xml_source *source)
{
	source->type = VM_SOURCE_OTHER;
	source->text = !strcmp(type, "network") ? network_text(element) : xasprintf("%s disk", type);
	source->unsupported = xasprintf("a %s cannot be read from here", source->text);
	source->key = key_of(element);
}

static void parse_volume(const xmlNode *element, struct vm_xml_source *source)
{
	source->pool = vm_xml_attr(element, "pool");
	source->volume = vm_xml_attr(element, "volume");
	if (!source->pool || !source->volume)
		return;
	source->type = VM_SOURCE_VOLUME;
	source->text = xasprintf("storage volume %s/%s", source->pool, source->volume);
}

static void parse_path(const xmlNode *element, bool block, struct vm_xml_source *source)
{
	source->path = vm_xml_attr(element, block ? "dev" : "file");
	if (!source->path || source->path[0] != '/') { /* an empty drive */
		free(vs_steal(source->path));
		return;
	}
	source->type = block ? VM_SOURCE_BLOCK : VM_SOURCE_FILE;
	source->text = xstrdup(source->path);
}

/* What makes a file that we can open one that we cannot read. */
static void judge(const xmlNode *node, const xmlNode *element, struct vm_xml_source *source)
{
	source->slice = vm_xml_child(element, "slices");
	if (source->unsupported || source->type == VM_SOURCE_NONE)
		return;
	if (vm_xml_child(element, "encryption") || vm_xml_child(node, "encryption") ||
	    (source->format_name && !strcmp(source->format_name, "luks")))
		source->unsupported = xasprintf("%s is encrypted", source->text);
	else if (source->slice)
		source->unsupported = xasprintf("the disk is a slice of %s", source->text);
	else if (source->format_name && source->format == Q2_FORMAT_NONE)
		source->unsupported = xasprintf("%s has the format '%s', which is not read here", source->text,
						    source->format_name);
}

/* On <source> for the disk itself, on <backingStore> for what is beneath. */
static unsigned read_index(const xmlNode *holder, const xmlNode *element)
{
	vs_autofree char *own = vm_xml_attr(holder, "index");
	vs_autofree char *inner = vm_xml_attr(element, "index");
	const char *text = own ? own : inner;

	return text ? (unsigned)strtoul(text, NULL, 10) : 0;
}

void vm_xml_source_parse(struct vm_xml_named *named, const xmlNode *node, struct vm_xml_source *source)
{
	const xmlNode *element = vm_xml_child(node, "source");
	const xmlNode *driver = vm_xml_child(node, "driver"), *format = vm_xml_child(node, "format");
	vs_autofree char *type = vm_xml_attr(node, "type");

	source->format_name = vm_xml_attr(driver ? driver : format, "type");
	source->format = q2_format_from_name(source->format_name);
	if (!element)
		return;
	source->index = read_index(node, element);
	if (!type || !strcmp(type, "file"))
		parse_path(element, false, source);
	else if (!strcmp(type, "block"))
		parse_path(element, true, source);
	else if (!strcmp(type, "volume"))
		parse_volume(element, source);
	else
		parse_other(element, type, source);
	judge(node, element, source);
	if (source->path)
		collect(named, source->path, source->format);
	source->data = parse_data_store(named, element);
}

void vm_xml_source_fini(struct vm_xml_source *source)
{
	free(source->path);
	free(source->pool);
	free(source->volume);
	free(source->format_name);
	free(source->text);
	free(source->key);
	free(source->unsupported);
	free(source->data);
}

/* ---------------------------------------------------------------- disks */

static enum vm_xml_device parse_device(const xmlNode *node)
{
	static const struct { const char *name; enum vm_xml_device device; } known[] = {
		{"disk", VM_DEVICE_DISK}, {"lun", VM_DEVICE_LUN}, {"cdrom", VM_DEVICE_CDROM}, {"floppy", VM_DEVICE_FLOPPY},
	};

	if (!xmlHasProp((xmlNode *)node, (const xmlChar *)"device"))
		return VM_DEVICE_DISK;
	for (size_t i = 0; i < VS_ARRAY_LEN(known); i++)
		if (vm_xml_attr_is(node, "device", known[i].name))
			return known[i].device;
	return VM_DEVICE_OTHER;
}

/* The nested <backingStore> elements as a list. An empty one ends the chain, a missing one leaves it open. */
static void parse_below(struct vm_xml_named *named, const xmlNode *node, struct vm_xml_disk *disk)
{
	const xmlNode *layer;
	size_t n = 0;

	for (layer = vm_xml_child(node, "backingStore"); vm_xml_child(layer, "source");
	     layer = vm_xml_child(layer, "backingStore"))
		n++;
	disk->below_complete = layer != NULL;
	if (n == 0)
		return;
	disk->below = xcalloc(n, sizeof(*disk->below));
	for (layer = vm_xml_child(node, "backingStore"); disk->n_below < n; layer = vm_xml_child(layer, "backingStore"))
		vm_xml_source_parse(named, layer, &disk->below[disk->n_below++]);
}

static void parse_mirror(struct vm_xml_named *named, const xmlNode *node, struct vm_xml_disk *disk)
{
	const xmlNode *mirror = vm_xml_child(node, "mirror");

	if (!mirror)
		return;
	disk->mirror_job = vm_xml_attr_is(mirror, "job", "active-commit") ? VM_MIRROR_ACTIVE_COMMIT : VM_MIRROR_COPY;
	disk->mirror_ready = vm_xml_attr_is(mirror, "ready", "yes");
	vm_xml_source_parse(named, mirror, &disk->mirror);
}

static bool is_left_out(const xmlNode *node)
{
	vs_autofree char *snapshot = vm_xml_attr(node, "snapshot");

	return snapshot && !strcmp(snapshot, "no");
}

static void parse_disk(struct vm_xml_named *named, const xmlNode *node, struct vm_xml_disk *disk)
{
	disk->device = parse_device(node);
	disk->readonly = vm_xml_child(node, "readonly") != NULL;
	disk->transient = vm_xml_child(node, "transient") != NULL;
	disk->shareable = vm_xml_child(node, "shareable") != NULL;
	disk->left_out = is_left_out(node);
	vm_xml_source_parse(named, node, &disk->source);
	parse_below(named, node, disk);
	parse_mirror(named, node, disk);
}

bool vm_xml_disk_exposed(const struct vm_xml_disk *disk)
{
	return (disk->device == VM_DEVICE_DISK || disk->device == VM_DEVICE_LUN) && !disk->readonly;
}

static void disk_fini(struct vm_xml_disk *disk)
{
	free(disk->target);
	vm_xml_source_fini(&disk->source);
	for (size_t i = 0; i < disk->n_below; i++)
		vm_xml_source_fini(&disk->below[i]);
	free(disk->below);
	vm_xml_source_fini(&disk->mirror);
}

static void parse_disks(struct vm_xml_named *named, const xmlNode *devices, struct vm_xml_domain *domain)
{
	domain->disks = xcalloc(vm_xml_count(devices, "disk"), sizeof(*domain->disks));
	for (const xmlNode *node = vm_xml_child(devices, "disk"); node; node = vm_xml_next(node, "disk")) {
		char *target = vm_xml_attr(vm_xml_child(node, "target"), "dev");

		if (!target)
			continue;
		domain->disks[domain->n_disks].target = target;
		parse_disk(named, node, &domain->disks[domain->n_disks++]);
	}
}

/* ---------------------------------------------------------------- domains */

/* "<nvram>/path</nvram>", or "<nvram type='file'><source file='/path'/></nvram>". */
static void read_nvram(const xmlNode *node, struct vm_xml_domain *domain)
{
	vs_autofree char *type = vm_xml_attr(node, "type");
	vs_autofree char *format = vm_xml_attr(node, "format");
	vs_autofree char *path = vm_xml_child(node, "source") ? vm_xml_attr(vm_xml_child(node, "source"), "file") : vm_xml_text(node);

	domain->has_nvram = node != NULL;
	domain->nvram_format = !format || !strcmp(format, "raw") ? Q2_FORMAT_RAW : !strcmp(format, "qcow2") ? Q2_FORMAT_QCOW2 : Q2_FORMAT_NONE;
	if (node && (!type || !strcmp(type, "file")) && path && path[0] == '/')
		domain->nvram = vs_steal(path);
}

static void read_tpm(const xmlNode *node, struct vm_xml_domain *domain)
{
	const xmlNode *backend = vm_xml_child(node, "backend"), *source = vm_xml_child(backend, "source");
	vs_autofree char *type = vm_xml_attr(backend, "type");

	domain->has_tpm = type && !strcmp(type, "emulator");
	domain->tpm_version = domain->has_tpm ? vm_xml_attr(backend, "version") : NULL;
	domain->tpm_source = domain->has_tpm ? vm_xml_attr(source, "path") : NULL;
}

struct vm_xml_domain *vm_xml_domain_element(struct vm_xml_named *named, const xmlNode *node)
{
	struct vm_xml_domain *domain = xcalloc(1, sizeof(*domain));

	domain->name = text_or_empty(vm_xml_child(node, "name"));
	domain->uuid = text_or_empty(vm_xml_child(node, "uuid"));
	read_nvram(vm_xml_child(vm_xml_child(node, "os"), "nvram"), domain);
	domain->loader = vm_xml_text(vm_xml_child(vm_xml_child(node, "os"), "loader"));
	domain->nvram_template = vm_xml_attr(vm_xml_child(vm_xml_child(node, "os"), "nvram"), "template");
	read_tpm(vm_xml_child(vm_xml_child(node, "devices"), "tpm"), domain);
	parse_disks(named, vm_xml_child(node, "devices"), domain);
	return domain;
}

void vm_xml_domain_free(struct vm_xml_domain *domain)
{
	if (!domain)
		return;
	free(domain->name);
	free(domain->uuid);
	free(domain->nvram);
	free(domain->loader);
	free(domain->nvram_template);
	free(domain->tpm_version);
	free(domain->tpm_source);
	for (size_t i = 0; i < domain->n_disks; i++)
		disk_fini(&domain->disks[i]);
	free(domain->disks);
	vm_xml_files_free(domain->files, domain->n_files);
	for (size_t i = 0; domain->metadata && domain->metadata[i]; i++)
		free(domain->metadata[i]);
	free(domain->metadata);
	for (size_t i = 0; i < domain->n_mentions; i++)
		free(domain->mentions[i].path);
	free(domain->mentions);
	free(domain);
}

static bool is_ours(const xmlNode *node)
{
	return node->type == XML_ELEMENT_NODE && node->ns && xmlStrEqual(node->ns->href, (const xmlChar *)VM_META_URI);
}

/* Each as a document of its own, so that what it needs of the names above it comes along. */
static char **read_metadata(const xmlNode *root)
{
	const xmlNode *metadata = vm_xml_child(root, "metadata");
	char **list = NULL;
	size_t n = 0, k = 0;

	for (const xmlNode *node = metadata ? metadata->children : NULL; node; node = node->next)
		n += is_ours(node);
	if (n)
		list = xcalloc(n + 1, sizeof(*list));
	for (const xmlNode *node = list ? metadata->children : NULL; node; node = node->next)
		if (is_ours(node))
			list[k++] = vm_xml_dump(vm_xml_lift(node), false);
	return list;
}

int vm_xml_domain_parse(const char *text, struct vm_xml_domain **out, struct vs_err *err)
{
	struct vm_xml_named named = {0};
	struct vm_xml_domain *domain;
	xmlDoc *doc;
	int ret = vm_xml_load(text, "domain", &doc, err);

	if (ret < 0)
		return ret;
	domain = vm_xml_domain_element(&named, xmlDocGetRootElement(doc));
	domain->metadata = read_metadata(xmlDocGetRootElement(doc));
	vm_xml_mentions(xmlDocGetRootElement(doc), false, domain);
	domain->files = named.files;
	domain->n_files = named.n_files;
	xmlFreeDoc(doc);
	if (!domain->name[0]) {
		vm_xml_domain_free(domain);
		return vs_err_set(err, -EINVAL, "the XML of a domain gives no name");
	}
	*out = domain;
	return 0;
}

const struct vm_xml_disk *vm_xml_domain_disk(const struct vm_xml_domain *domain, const char *name)
{
	for (size_t i = 0; domain && i < domain->n_disks; i++)
		if (!strcmp(domain->disks[i].target, name))
			return &domain->disks[i];
	for (size_t i = 0; domain && i < domain->n_disks; i++)
		if (domain->disks[i].source.path && !strcmp(domain->disks[i].source.path, name))
			return &domain->disks[i];
	return NULL;
}

/* ---------------------------------------------------------------- storage pools */

int vm_xml_pool_parse(const char *text, struct vm_xml_pool **out, struct vs_err *err)
{
	struct vm_xml_pool *pool;
	const xmlNode *root;
	xmlDoc *doc;
	int ret = vm_xml_load(text, "pool", &doc, err);

	if (ret < 0)
		return ret;
	root = xmlDocGetRootElement(doc);
	pool = xcalloc(1, sizeof(*pool));
	pool->name = text_or_empty(vm_xml_child(root, "name"));
	pool->type = vm_xml_attr(root, "type");
	if (!pool->type)
		pool->type = xstrdup("");
	pool->target = vm_xml_text(vm_xml_child(vm_xml_child(root, "target"), "path"));
	if (pool->target && pool->target[0] != '/')
		free(vs_steal(pool->target));
	xmlFreeDoc(doc);
	*out = pool;
	return 0;
}

void vm_xml_pool_free(struct vm_xml_pool *pool)
{
	if (!pool)
		return;
	free(pool->name);
	free(pool->type);
	free(pool->target);
	free(pool);
}
