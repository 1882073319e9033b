/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Names that an image gives to other files, turned into a path and a format. Pure: nothing is opened here.
 *
 * QEMU reads a name with a ':' before its first '/' as a protocol. Of those only `json:` is understood, and of that
 * only raw or qcow2 over a local file or host device, nested or flattened ("file.filename"), with no other key.
 */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "qcow2.h"

#define JSON_DEPTH 4

enum q2_format q2_format_from_name(const char *name)
{
	if (!name)
		return Q2_FORMAT_NONE;
	if (!strcmp(name, "raw"))
		return Q2_FORMAT_RAW;
	if (!strcmp(name, "qcow2"))
		return Q2_FORMAT_QCOW2;
	return Q2_FORMAT_NONE;
}

const char *q2_format_name(enum q2_format format)
{
	switch (format) {
	case Q2_FORMAT_RAW:
		return "raw";
	case Q2_FORMAT_QCOW2:
		return "qcow2";
	case Q2_FORMAT_NONE:
		break;
	}
	return "unknown";
}

struct json_name {
	const char *format_driver, *file_driver, *filename;
};

static bool is_file_driver(const char *s)
{
	return !strcmp(s, "file") || !strcmp(s, "host_device");
}

/* "driver" and "filename" of one object; @prefix "file." reads the flattened keys. Any other key: false. */
static bool json_walk(struct json_object *obj, struct json_name *out, bool inner)
{
	json_object_object_foreach(obj, key, val) {
		const char *text = json_object_is_type(val, json_type_string) ? json_object_get_string(val) : NULL;

		if (!inner && !strcmp(key, "file") && json_object_is_type(val, json_type_object)) {
			if (!json_walk(val, out, true))
				return false;
		} else if (!text) {
			return false;
		} else if (!strcmp(key, "driver")) {
			if (inner || is_file_driver(text))
				out->file_driver = text;
			else
				out->format_driver = text;
		} else if (!strcmp(key, "file.driver") && !inner) {
			out->file_driver = text;
		} else if (!strcmp(key, "filename") || (!strcmp(key, "file.filename") && !inner)) {
			if (out->filename)
				return false;
			out->filename = text;
		} else {
			return false;
		}
	}
	return true;
}

static int resolve_json(const char *from, const char *json, const char *format, char **path, enum q2_format *format_out,
			struct vs_err *err)
{
	struct json_tokener *tok = json_tokener_new_ex(JSON_DEPTH);
	struct json_object *obj = tok ? json_tokener_parse_ex(tok, json, (int)strlen(json) + 1) : NULL;
	enum q2_format fmt = q2_format_from_name(format), said;
	struct json_name n = { 0 };
	char *copy = NULL;
	bool ok;

	ok = obj && json_tokener_get_parse_end(tok) >= strlen(json) && json_object_is_type(obj, json_type_object) && json_walk(obj, &n, false) && n.filename &&
	     n.filename[0] == '/' && (!n.file_driver || is_file_driver(n.file_driver));
	if (ok && n.format_driver) {
		said = q2_format_from_name(n.format_driver);
		ok = said != Q2_FORMAT_NONE && (!format || fmt == said);
		fmt = said;
	}
	if (ok)
		copy = strdup(n.filename);
	if (obj)
		json_object_put(obj);
	if (tok)
		json_tokener_free(tok);
	if (!ok)
		return vs_err_set(err, -EPERM, "'%s' names 'json:%s': only raw or qcow2 over a local file or host device with "
				  "an absolute name is followed", from, json);
	if (!copy)
		return -ENOMEM;
	*path = copy;
	*format_out = fmt;
	return 0;
}

/* Relative to the directory of the image that says it, as that was opened. */
static char *relative_to(const char *from, const char *name)
{
	const char *slash = strrchr(from, '/');
	size_t dir_len = slash ? (size_t)(slash - from) + 1 : 0;
	char *path;

	if (name[0] == '/')
		return strdup(name);
	path = malloc(dir_len + strlen(name) + 1);
	if (path) {
		memcpy(path, from, dir_len);
		strcpy(path + dir_len, name);
	}
	return path;
}

int q2_name_resolve(const char *from, const char *name, const char *format, char **path, enum q2_format *format_out,
		    struct vs_err *err)
{
	const char *colon = strchr(name, ':'), *slash = strchr(name, '/');
	char *p;

	if (!name[0])
		return vs_err_set(err, -EPERM, "'%s' names an empty file name", from);
	if (format && q2_format_from_name(format) == Q2_FORMAT_NONE)
		return vs_err_set(err, -ENOTSUP, "'%s' stands on '%s' of format '%s', which is not read here", from, name,
				  format);
	if (!strncmp(name, "json:", 5))
		return resolve_json(from, name + 5, format, path, format_out, err);
	if (colon && (!slash || colon < slash))
		return vs_err_set(err, -EPERM, "'%s' names '%s': only local files are followed", from, name);
	p = relative_to(from, name);
	if (!p)
		return -ENOMEM;
	*path = p;
	*format_out = q2_format_from_name(format);
	return 0;
}
