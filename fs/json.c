/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * `snapshots.json`, for programs. Valid JSON whatever the bytes: strings that are not printable UTF-8 carry %XX.
 * Beyond the keys of the man page: `raw_name` (only where the name is valid), `uuid` as libvirt has it, and for each disk
 * `state` and `reason`. `file` of a snapshot is what its files' names begin with, null where it has none.
 */
#include "json.h"

#include <string.h>

#include "place.h"
#include "show.h"
#include "text.h"
#include "vm/util/mem.h"

#define FORMAT_VERSION 1

void sf_json_add_text(struct json_object *o, const char *key, const char *text)
{
	vs_autofree char *clean = text ? sf_show_dup(text, false) : NULL;

	json_object_object_add(o, key, clean ? json_object_new_string(clean) : NULL);
}

void sf_json_add_bool(struct json_object *o, const char *key, bool value)
{
	json_object_object_add(o, key, json_object_new_boolean(value));
}

static struct json_object *chain_of(const struct vm_disk *disk)
{
	struct json_object *chain = json_object_new_array();

	for (char **path = disk->chain; path && *path; path++) {
		vs_autofree char *clean = sf_show_dup(*path, false);

		json_object_array_add(chain, json_object_new_string(clean));
	}
	return chain;
}

static struct json_object *disk_of(const struct vm_disk *disk)
{
	struct json_object *o = json_object_new_object();

	sf_json_add_text(o, "target", disk->target);
	sf_json_add_text(o, "file", disk->file);
	sf_json_add_text(o, "state", vm_state_name(disk->state));
	sf_json_add_text(o, "reason", disk->reason);
	json_object_object_add(o, "size", json_object_new_uint64(disk->size));
	sf_json_add_text(o, "format", disk->format == Q2_FORMAT_NONE ? NULL : q2_format_name(disk->format));
	json_object_object_add(o, "chain", chain_of(disk));
	return o;
}

/* "monday.vda.img" without ".vda.img", or "monday.xml" without ".xml". Gives; NULL where it has no file. */
static char *stem_of(const struct vm_snapshot *s)
{
	for (size_t i = 0; i < s->n_disks; i++) {
		const struct vm_disk *disk = &s->disks[i];
		size_t tail = strlen(disk->target) + strlen("..img");

		if (disk->file && strlen(disk->file) > tail)
			return xstrndup(disk->file, strlen(disk->file) - tail);
	}
	if (s->xml_file && strlen(s->xml_file) > strlen(".xml"))
		return xstrndup(s->xml_file, strlen(s->xml_file) - strlen(".xml"));
	return NULL;
}

static void add_facts(struct json_object *o, const struct vm_snapshot *s)
{
	sf_json_add_text(o, "kind", vm_kind_name(s->kind));
	sf_json_add_text(o, "state", vm_state_name(s->state));
	sf_json_add_text(o, "reason", s->reason);
	sf_json_add_bool(o, "memory", s->memory);
	sf_json_add_bool(o, "held", s->held);
	sf_json_add_bool(o, "ours", s->ours);
	sf_json_add_bool(o, "recorded", s->recorded);
	json_object_object_add(o, "created_ns", json_object_new_int64(s->created_ns));
	sf_json_add_text(o, "parent", s->parent);
	sf_json_add_bool(o, "current", s->current);
}

static struct json_object *snapshot_of(const struct vm_snapshot *s)
{
	struct json_object *o = json_object_new_object(), *disks = json_object_new_array();
	vs_autofree char *stem = stem_of(s);

	sf_json_add_text(o, "name", s->shown);
	if (sf_show_clean(s->name))
		sf_json_add_text(o, "raw_name", s->name);
	sf_json_add_text(o, "file", stem);
	add_facts(o, s);
	for (size_t i = 0; i < s->n_disks; i++)
		json_object_array_add(disks, disk_of(&s->disks[i]));
	json_object_object_add(o, "disks", disks);
	for (size_t i = 0; i < s->n_nv; i++)
		json_object_object_add(o, s->nv[i].target, disk_of(&s->nv[i]));
	return o;
}

/* What qcow2/TARGET.qcow2 shows that is opened without asking for a snapshot: null for the disk's present content, as long as nobody has it open
 * for writing. */
static struct json_object *whole_of(const struct vm_domain *d, const struct vm_snapshot *s, const struct vm_disk *disk)
{
	struct json_object *o = json_object_new_object();
	size_t name = strlen(s->shown) + 1, end = strlen(".img");
	vs_autofree char *file = xasprintf("qcow2/%.*s.qcow2", (int)(strlen(disk->file) - name - end), disk->file + name);

	sf_json_add_text(o, "target", disk->target);
	sf_json_add_text(o, "file", file);
	sf_json_add_text(o, "shows", sf_shows_present(d, disk) ? NULL : s->shown);
	return o;
}

/* Its disks, as it has them now, that have internal snapshots. */
static struct json_object *wholes_of(const struct vm_domain *d)
{
	struct json_object *wholes = json_object_new_array();

	for (size_t i = 0; i < d->n_disks; i++) {
		const struct vm_snapshot *s;
		const struct vm_disk *disk = sf_newest_internal(d, d->disks[i].target, &s);

		if (disk && !strncmp(disk->file, s->shown, strlen(s->shown)))
			json_object_array_add(wholes, whole_of(d, s, disk));
	}
	return wholes;
}

struct json_object *sf_json_domain(const struct vm_domain *d)
{
	struct json_object *o = json_object_new_object(), *checkpoints = json_object_new_array();

	sf_json_add_text(o, "name", d->name);
	sf_json_add_text(o, "uuid", d->uuid);
	sf_json_add_text(o, "state", d->state);
	for (char **name = d->checkpoints; name && *name; name++) {
		vs_autofree char *clean = sf_show_dup(*name, false);

		json_object_array_add(checkpoints, json_object_new_string(clean));
	}
	json_object_object_add(o, "checkpoints", checkpoints);
	json_object_object_add(o, "whole", wholes_of(d));
	return o;
}

void sf_json_print(FILE *out, struct json_object *o, int depth)
{
	const char *line = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
								     JSON_C_TO_STRING_NOSLASHESCAPE);

	if (!line)
		xoom();
	while (line) {
		const char *end = strchr(line, '\n');

		fprintf(out, "%.*s", end ? (int)(end - line) : (int)strlen(line), line);
		if (end)
			fprintf(out, "\n%*s", 2 * depth, "");
		line = end ? end + 1 : NULL;
	}
	json_object_put(o);
}

/* One snapshot after the other: json-c needs ten times the text for its objects, and there may be 65,536 of them. */
static void print_snapshots(FILE *out, const struct vm_domain *d, size_t from, size_t to)
{
	bool first = true;

	for (size_t i = 0; first && i < from; i++)
		first = d->snapshots[i].present;
	for (size_t i = from; i < to; i++) {
		if (d->snapshots[i].present)
			continue;
		fputs(first ? "\n    " : ",\n    ", out);
		sf_json_print(out, snapshot_of(&d->snapshots[i]), 2);
		first = false;
	}
}

void sf_json_render_some(FILE *out, const struct vm_domain *d, size_t from, size_t to)
{
	if (!from) {
		fprintf(out, "{\n  \"version\": %d,\n  \"domain\": ", FORMAT_VERSION);
		sf_json_print(out, sf_json_domain(d), 1);
		fputs(",\n  \"snapshots\": [", out);
	}
	print_snapshots(out, d, from, to);
	if (to == d->n_snapshots)
		fputs("\n  ]\n}\n", out);
}

void sf_json_render(FILE *out, const struct vm_domain *d)
{
	sf_json_render_some(out, d, 0, d->n_snapshots);
}
