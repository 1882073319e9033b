/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* `space`, for people, and `space.json`, for programs. */
#include <inttypes.h>
#include <string.h>

#include "json.h"
#include "show.h"
#include "space.h"
#include "vm/util/mem.h"

#define FORMAT_VERSION 1
#define COLUMNS 8
#define CELL (SF_SHOW_SIZE + 3)

/* ---------------------------------------------------------------- a table */

struct table {
	size_t n_columns, n_rows, room;
	char *(*rows)[COLUMNS]; /* the first is the header */
};

/* Takes the cells. */
static void add_row(struct table *t, char *cells[COLUMNS])
{
	XGROW(t->rows, t->n_rows, t->room);
	memcpy(t->rows[t->n_rows++], cells, sizeof(*t->rows));
}

static void add_header(struct table *t, const char *const *names, size_t n)
{
	char *cells[COLUMNS] = {0};

	t->n_columns = n;
	for (size_t i = 0; i < n; i++)
		cells[i] = xstrdup(names[i]);
	add_row(t, cells);
}

static size_t width_of(const struct table *t, size_t column)
{
	size_t width = 0;

	for (size_t i = 0; i < t->n_rows; i++)
		if (sf_show_width(t->rows[i][column]) > width)
			width = sf_show_width(t->rows[i][column]);
	return width;
}

/* The last column ends its line. Frees all. */
static void put_table(FILE *out, struct table *t)
{
	size_t width[COLUMNS] = {0};

	for (size_t c = 0; c + 1 < t->n_columns; c++)
		width[c] = width_of(t, c);
	for (size_t i = 0; i < t->n_rows; i++) {
		for (size_t c = 0; c < t->n_columns; c++) {
			const char *cell = t->rows[i][c];
			bool last = c + 1 == t->n_columns;

			fprintf(out, "%s%*s", cell, last ? 0 : (int)(width[c] - sf_show_width(cell) + 2), "");
			free(t->rows[i][c]);
		}
		fputc('\n', out);
	}
	free(t->rows);
}

/* ---------------------------------------------------------------- space */

static void show_size(char out[CELL], int64_t bytes, bool at_least)
{
	char size[SF_SHOW_SIZE];

	if (bytes == VM_SPACE_UNKNOWN) {
		strcpy(out, "-");
		return;
	}
	sf_show_size(size, bytes < 0 ? -(uint64_t)bytes : (uint64_t)bytes);
	snprintf(out, CELL, "%s%s%s", at_least ? ">=" : "", bytes < 0 ? "-" : "", size);
}

static char *size_cell(int64_t bytes, bool at_least)
{
	char cell[CELL];

	show_size(cell, bytes, at_least);
	return xstrdup(cell);
}

static char *note_cell(const char *why)
{
	return sf_show_dup(why ? why : "-", false);
}

static void put_snapshots(FILE *out, const struct vm_space *space)
{
	static const char *const names[] = {"NAME", "KIND", "STATE", "HOLDS", "ONLY", "FREES", "MOVES", "NOTE"};
	struct table t = {0};

	add_header(&t, names, VS_ARRAY_LEN(names));
	for (size_t i = 0; i < space->n_snapshots; i++) {
		const struct vm_space_snapshot *s = &space->snapshots[i];
		const struct vm_space_figures *f = &s->figures;
		char *cells[COLUMNS] = {
			sf_show_dup(s->shown, true), xstrdup(vm_kind_name(s->kind)), xstrdup(vm_state_name(s->state)),
			size_cell(f->holds, false), size_cell(f->only, f->at_least), size_cell(f->frees, f->at_least),
			size_cell(f->moves, false), note_cell(s->why),
		};

		add_row(&t, cells);
	}
	put_table(out, &t);
}

static void put_policy(FILE *out, const struct vm_space *space)
{
	char frees[CELL], moves[CELL];

	show_size(frees, space->dropped.frees, space->dropped.at_least);
	show_size(moves, space->dropped.moves, false);
	if (!space->policy || !strcmp(space->policy, "off"))
		fputs("retain off: drops nothing\n", out);
	else
		fprintf(out, "retain %s: drops %zu, which together frees %s and moves %s\n", space->policy, space->n_dropped, frees, moves);
	if (space->dropped_why) {
		fputs("retain: ", out);
		sf_show_put(out, space->dropped_why, false);
		fputc('\n', out);
	}
}

static void put_disks(FILE *out, const struct vm_space *space)
{
	static const char *const names[] = {"DISK", "FILE", "COMPACT", "PATH", "NOTE"};
	struct table t = {0};

	add_header(&t, names, VS_ARRAY_LEN(names));
	for (size_t i = 0; i < space->n_disks; i++) {
		const struct vm_space_disk *d = &space->disks[i];
		char *cells[COLUMNS] = {sf_show_dup(d->target, true), size_cell((int64_t)d->file, false),
					size_cell(d->compact, d->at_least), sf_show_dup(d->path, true), note_cell(d->why)};

		add_row(&t, cells);
	}
	put_table(out, &t);
}

void sf_space_render(FILE *out, const struct vm_space *space)
{
	put_snapshots(out, space);
	fputc('\n', out);
	put_policy(out, space);
	fputc('\n', out);
	put_disks(out, space);
}

/* ---------------------------------------------------------------- space.json */

static void add_size(struct json_object *o, const char *key, int64_t bytes)
{
	json_object_object_add(o, key, bytes == VM_SPACE_UNKNOWN ? NULL : json_object_new_int64(bytes));
}

static void add_figures(struct json_object *o, const struct vm_space_figures *f, const char *why)
{
	add_size(o, "only", f->only);
	add_size(o, "frees", f->frees);
	add_size(o, "moves", f->moves);
	sf_json_add_bool(o, "lower_bound", f->at_least);
	sf_json_add_text(o, "reason", why);
}

static struct json_object *snapshot_of(const struct vm_space_snapshot *s)
{
	struct json_object *o = json_object_new_object();

	sf_json_add_text(o, "name", s->shown);
	sf_json_add_text(o, "kind", vm_kind_name(s->kind));
	sf_json_add_text(o, "state", vm_state_name(s->state));
	add_size(o, "holds", s->figures.holds);
	add_figures(o, &s->figures, s->why);
	return o;
}

static struct json_object *policy_of(const struct vm_space *space)
{
	struct json_object *o = json_object_new_object();

	sf_json_add_text(o, "retain", space->policy ? space->policy : "off");
	json_object_object_add(o, "drops", json_object_new_uint64(space->n_dropped));
	add_figures(o, &space->dropped, space->dropped_why);
	return o;
}

static struct json_object *disk_of(const struct vm_space_disk *d)
{
	struct json_object *o = json_object_new_object();

	sf_json_add_text(o, "target", d->target);
	sf_json_add_text(o, "path", d->path);
	json_object_object_add(o, "file", json_object_new_uint64(d->file));
	add_size(o, "compact", d->compact);
	sf_json_add_bool(o, "lower_bound", d->at_least);
	sf_json_add_text(o, "reason", d->why);
	return o;
}

void sf_space_json_render(FILE *out, const struct vm_domain *d, const struct vm_space *space)
{
	struct json_object *o = json_object_new_object(), *snapshots = json_object_new_array(), *disks = json_object_new_array();

	json_object_object_add(o, "version", json_object_new_int(FORMAT_VERSION));
	json_object_object_add(o, "domain", sf_json_domain(d));
	for (size_t i = 0; i < space->n_snapshots; i++)
		json_object_array_add(snapshots, snapshot_of(&space->snapshots[i]));
	for (size_t i = 0; i < space->n_disks; i++)
		json_object_array_add(disks, disk_of(&space->disks[i]));
	json_object_object_add(o, "snapshots", snapshots);
	json_object_object_add(o, "policy", policy_of(space));
	json_object_object_add(o, "disks", disks);
	sf_json_print(out, o, 0);
	fputc('\n', out);
}
