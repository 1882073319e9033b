/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* The table `snapshots`, for people: columns two blanks apart, each as wide as its widest cell. */
#include <string.h>

#include "show.h"
#include "text.h"
#include "vm/util/mem.h"

enum column { NAME, KIND, STATE, MEMORY, HELD, CREATED, PARENT, DISKS, COLUMNS };

struct row {
	const char *cell[COLUMNS];
	char *owned[3]; /* name, parent, disks */
	char created[SF_SHOW_TIME];
};

/* A state or kind that is not there today may be there tomorrow: these keep their width so that the columns stay. */
static const struct row header = {{"NAME", "KIND", "STATE", "MEMORY", "HELD", "CREATED", "PARENT", "DISKS"}};
static const size_t least_width[COLUMNS] = {[KIND] = 8, [STATE] = 8};

static void join_disks(FILE *out, const struct vm_snapshot *s)
{
	const char *comma = "";

	for (size_t i = 0; i < s->n_disks; i++) {
		if (!s->disks[i].file)
			continue;
		fputs(comma, out);
		sf_show_put(out, s->disks[i].target, true);
		comma = ",";
	}
	if (!*comma)
		fputc('-', out);
}

static char *list_disks(const struct vm_snapshot *s)
{
	char *text;
	size_t len;
	FILE *out = xmemopen(&text, &len);

	join_disks(out, s);
	xmemclose(out);
	return text;
}

static void fill_row(struct row *row, const struct vm_snapshot *s)
{
	row->owned[0] = sf_show_dup(s->shown, true);
	row->owned[1] = sf_show_dup(s->parent ? s->parent : "-", true);
	row->owned[2] = list_disks(s);
	sf_show_time(row->created, s->created_ns);
	row->cell[NAME] = row->owned[0];
	row->cell[KIND] = vm_kind_name(s->kind);
	row->cell[STATE] = vm_state_name(s->state);
	row->cell[MEMORY] = s->memory ? "yes" : "no";
	row->cell[HELD] = s->held ? "yes" : "no";
	row->cell[CREATED] = row->created;
	row->cell[PARENT] = row->owned[1];
	row->cell[DISKS] = row->owned[2];
}

static void widen(size_t width[COLUMNS], const struct row *row)
{
	for (int c = 0; c < COLUMNS; c++) {
		size_t here = sf_show_width(row->cell[c]);

		if (width[c] < here)
			width[c] = here;
	}
}

static void put_row(FILE *out, const struct row *row, const size_t width[COLUMNS])
{
	for (int c = 0; c < DISKS; c++)
		fprintf(out, "%s%*s", row->cell[c], (int)(width[c] - sf_show_width(row->cell[c]) + 2), "");
	fprintf(out, "%s\n", row->cell[DISKS]);
}

static void put_rows(FILE *out, const struct row *rows, size_t n)
{
	size_t width[COLUMNS];

	memcpy(width, least_width, sizeof(width));
	widen(width, &header);
	for (size_t i = 0; i < n; i++)
		widen(width, &rows[i]);
	put_row(out, &header, width);
	for (size_t i = 0; i < n; i++)
		put_row(out, &rows[i], width);
}

static void free_rows(struct row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < VS_ARRAY_LEN(rows[i].owned); j++)
			free(rows[i].owned[j]);
	free(rows);
}

void sf_table_render(FILE *out, const struct vm_domain *d)
{
	struct row *rows = xcalloc(d->n_snapshots, sizeof(*rows));
	size_t n = 0;

	for (size_t i = 0; i < d->n_snapshots; i++)
		if (!d->snapshots[i].present)
			fill_row(&rows[n++], &d->snapshots[i]);
	put_rows(out, rows, n);
	free_rows(rows, n);
}
