/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Arguments that a definition hands to QEMU as they are (<qemu:commandline>): which files QEMU opens as images because of them. That is asked
 * for one reason: such a file that is missing may stand on any other, whereas what mentions.c finds may be no path at all.
 *
 * Not among them: media of CD-ROM and floppy drives, which may be missing at any time; and what QEMU reads for its bytes alone (a kernel, fw_cfg).
 */
#include <json-c/json.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/xml/xml-priv.h"

struct arguments {
	vm_xml_argument_found *found;
	void *opaque;
	bool medium; /* what is being looked at may be missing at any time */
	bool reads;  /* QEMU does not write to it */
};

static bool is_one_of(const char *word, const char *const list[], size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(word, list[i]))
			return true;
	return false;
}

/* A name is from "/", which is where libvirt starts QEMU. What was handed over as an open file has none. */
static void tell(struct arguments *a, const char *path, enum vm_xml_mention_kind kind)
{
	if (a->medium)
		kind = VM_MENTION_MEDIUM;
	else if (a->reads && kind == VM_MENTION_IMAGE)
		kind = VM_MENTION_SOURCE;
	if (!path[0] || !strncmp(path, "/dev/fdset/", 11) || !strncmp(path, "/dev/fd/", 8))
		return;
	a->found(path[0] == '/' ? xstrdup(path) : xasprintf("/%s", path), kind, a->opaque);
}

/* The length of "nbd" in "nbd:...", as QEMU reads it: no slash comes before the colon. 0: it is a path. */
static size_t protocol_len(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':' ? n : 0;
}

static void look_at_json(struct arguments *a, json_object *o);

/* What may stand where a file of -drive is named: a path, or what QEMU makes a path of. */
static void look_at_name(struct arguments *a, const char *name)
{
	size_t n = protocol_len(name);
	const char *rest = name + (n ? n + 1 : 0), *last = strrchr(name, ':');

	if (!n || !strncmp(name, "file:", 5)) {
		tell(a, rest, VM_MENTION_IMAGE);
	} else if (!strncmp(name, "json:", 5)) {
		json_object *o = vm_xml_json(rest);

		if (o)
			look_at_json(a, o);
		json_object_put(o);
	} else if (!strncmp(name, "fat:", 4)) {
		tell(a, last + 1, VM_MENTION_DIR);
	} else if (!strncmp(name, "blkdebug:", 9) || !strncmp(name, "blkverify:", 10)) { /* CONFIG:IMAGE, RAW:IMAGE */
		const char *second = strchr(rest, ':');
		vs_autofree char *first = xstrndup(rest, strcspn(rest, ":"));

		if (name[3] == 'v')
			tell(a, first, VM_MENTION_IMAGE);
		if (second)
			look_at_name(a, second + 1);
	} else if (rest[0] == '/' && rest[1] != '/') { /* host_device:/dev/sda */
		tell(a, rest, VM_MENTION_IMAGE);
	}
}

/* "file", or the last word of "backing.file". */
static bool key_is(const char *key, const char *word)
{
	size_t n = strlen(key), len = strlen(word);

	return n >= len && !strcmp(key + n - len, word) && (n == len || key[n - len - 1] == '.');
}

/* Of a block node. @file: "file" names a file, which may also be the name of another node (where nothing is said of a path). */
static void look_at_pair(struct arguments *a, const char *key, const char *value, bool file)
{
	if (key_is(key, "filename") || (key_is(key, "file") && (file || strpbrk(value, ":/"))))
		look_at_name(a, value);
	else if (key_is(key, "dir"))
		tell(a, value, VM_MENTION_DIR);
}

static void look_at_json(struct arguments *a, json_object *o)
{
	if (json_object_is_type(o, json_type_array))
		for (size_t i = 0; i < json_object_array_length(o); i++)
			look_at_json(a, json_object_array_get_idx(o, i));
	if (!json_object_is_type(o, json_type_object))
		return;
	a->reads |= json_object_get_boolean(json_object_object_get(o, "read-only"));
	json_object_object_foreach(o, key, value) {
		if (json_object_is_type(value, json_type_string))
			look_at_pair(a, key, json_object_get_string(value), false);
		else
			look_at_json(a, value);
	}
}

/* Gives the next of "key=value,key=value" with doubled commas made single, and moves *p on. NULL: there is none. */
static char *next_pair(const char **p)
{
	char *pair;
	size_t n = 0;

	if (!**p)
		return NULL;
	pair = xcalloc(strlen(*p) + 1, 1);
	for (; **p && ((*p)[0] != ',' || (*p)[1] == ','); (*p)++) {
		pair[n++] = **p;
		*p += **p == ',';
	}
	*p += **p == ',';
	return pair;
}

static bool has_one_of(const char *options, const char *const pairs[], size_t n)
{
	for (char *pair; (pair = next_pair(&options));) {
		bool has = is_one_of(pair, pairs, n);

		free(pair);
		if (has)
			return true;
	}
	return false;
}

static bool is_removable(const char *options)
{
	static const char *const pairs[] = {"media=cdrom", "if=floppy"};

	return has_one_of(options, pairs, VS_ARRAY_LEN(pairs));
}

static bool is_read_only(const char *options)
{
	static const char *const pairs[] = {"readonly=on", "readonly", "read-only=on", "read-only", "readonly=yes", "readonly=true"};

	return has_one_of(options, pairs, VS_ARRAY_LEN(pairs));
}

static void look_at_options(struct arguments *a, const char *options, bool file)
{
	for (char *pair; (pair = next_pair(&options)); free(pair)) {
		char *value = strchr(pair, '=');

		if (!value)
			continue;
		*value++ = '\0';
		look_at_pair(a, pair, value, file);
	}
}

/* One argument after @option ("drive"; "": nothing that begins with a dash). */
static void look_at_argument(struct arguments *a, const char *option, const char *value)
{
	static const char *const images[] = {"hda", "hdb", "hdc", "hdd", "mtdblock", "sd", "pflash", ""}, *const media[] = {"cdrom", "fda", "fdb"};

	a->reads = !strcmp(option, "drive") || !strcmp(option, "blockdev") ? is_read_only(value) : false;
	a->medium = is_one_of(option, media, VS_ARRAY_LEN(media)) || (!strcmp(option, "drive") && is_removable(value));
	if (!strcmp(option, "readconfig")) {
		tell(a, value, VM_MENTION_CONFIG);
	} else if (is_one_of(option, images, VS_ARRAY_LEN(images)) || (a->medium && strcmp(option, "drive") != 0)) {
		look_at_name(a, value);
	} else if (!strcmp(option, "blockdev") && strchr(value, '{')) {
		json_object *o = vm_xml_json(value);

		if (o)
			look_at_json(a, o);
		json_object_put(o);
	} else if (!strcmp(option, "blockdev") || !strcmp(option, "set")) {
		look_at_options(a, value, !strcmp(option, "set") && !strncmp(value, "drive.", 6));
	} else if (!strcmp(option, "drive")) {
		look_at_options(a, value, true);
	}
}

/* After these comes a word of its own. */
static bool takes_nothing(const char *option)
{
	static const char *const words[] = {"snapshot", "nodefaults", "S", "nographic", "no-reboot", "no-shutdown", "no-acpi", "no-hpet", "enable-kvm", "usb",
					    "full-screen", "no-user-config", "only-migratable"};

	return is_one_of(option, words, VS_ARRAY_LEN(words));
}

void vm_xml_arguments(const xmlNode *commandline, vm_xml_argument_found *found, void *opaque)
{
	struct arguments a = { found, opaque, false };
	vs_autofree char *option = xstrdup("");

	for (const xmlNode *node = commandline->children; node; node = node->next) {
		vs_autofree char *value = node->type == XML_ELEMENT_NODE && !strcmp((const char *)node->name, "arg") ? vm_xml_attr(node, "value") : NULL;

		if (!value)
			continue;
		if (value[0] != '-' || !value[1])
			look_at_argument(&a, option, value);
		free(option);
		option = xstrdup(value[0] == '-' ? value + 1 + (value[1] == '-') : "");
		if (takes_nothing(option))
			option[0] = '\0';
	}
}
