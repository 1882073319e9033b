/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/chains.h"

#include <string.h>

#include "vm/util/mem.h"

void vm_chains_init(struct vm_chains *c, struct vm_headers *files, uint64_t number)
{
	*c = (struct vm_chains){ .files = files, .number = number, .asker = -1 };
}

void vm_chains_fini(struct vm_chains *c)
{
	free(c->file);
	free(c->fact);
	free(c->asked_by);
	free(c->group);
	free(c->loosely);
	*c = (struct vm_chains){0};
}

/* ---------------------------------------------------------------- who has to do with whom */

void vm_chains_ask(struct vm_chains *c, size_t n)
{
	c->group = xcalloc(n + 1, sizeof(*c->group));
	c->n_groups = n;
	for (size_t i = 0; i < n; i++)
		c->group[i] = i;
}

size_t vm_chains_group(const struct vm_chains *c, size_t asker)
{
	while (c->group[asker] != asker)
		asker = c->group[asker];
	return asker;
}

static void join(struct vm_chains *c, int a, int b)
{
	size_t x, y;

	if (a < 0 || b < 0 || a == b)
		return;
	x = vm_chains_group(c, (size_t)a);
	y = vm_chains_group(c, (size_t)b);
	c->group[x > y ? x : y] = x > y ? y : x;
}

static void note_asker(struct vm_chains *c, int file)
{
	if (c->loose) {
		XGROW(c->loosely, c->n_loosely, c->loosely_room);
		c->loosely[c->n_loosely++] = (struct vm_chains_loose){ c->asker, file };
	} else if (c->asked_by[file] < 0)
		c->asked_by[file] = c->asker;
	else
		join(c, c->asked_by[file], c->asker);
}

/* By device and inode; what is not there by its path. */
static int by_image(const void *left, const void *right, void *opaque)
{
	const struct vm_chains *c = opaque;
	const struct vm_fact_file *a = &c->fact[*(const int *)left], *b = &c->fact[*(const int *)right];

	if (a->stamp.dev != b->stamp.dev)
		return a->stamp.dev < b->stamp.dev ? -1 : 1;
	if (a->stamp.ino != b->stamp.ino)
		return a->stamp.ino < b->stamp.ino ? -1 : 1;
	return a->stamp.ino ? 0 : strcmp(a->path, b->path);
}

void vm_chains_groups(struct vm_chains *c)
{
	vs_autofree int *order = xcalloc(c->n + 1, sizeof(*order));

	for (size_t i = 0; i < c->n; i++)
		order[i] = (int)i;
	qsort_r(order, c->n, sizeof(*order), by_image, c);
	for (size_t i = 1; i < c->n; i++)
		if (!by_image(&order[i - 1], &order[i], c)) {
			join(c, c->asked_by[order[i - 1]], c->asked_by[order[i]]);
			if (c->asked_by[order[i]] < 0)
				c->asked_by[order[i]] = c->asked_by[order[i - 1]];
		}
	for (size_t i = c->n - 1; i-- > 0 && c->n;) /* and backwards */
		if (c->asked_by[order[i]] < 0 && !by_image(&order[i], &order[i + 1], c))
			c->asked_by[order[i]] = c->asked_by[order[i + 1]];
	for (size_t i = 0; i < c->n_loosely; i++)
		join(c, c->loosely[i].asker, c->asked_by[c->loosely[i].file]);
}

/* ---------------------------------------------------------------- collecting */

/* The entry of @f, with nothing beneath it yet where it is new. */
static int entry_of(struct vm_chains *c, struct vm_header *f)
{
	if (f->indexed == c->number) {
		note_asker(c, f->index);
		return f->index;
	}
	if (c->n == c->room) {
		c->room = c->room ? 2 * c->room : 64;
		c->file = xreallocarray(c->file, c->room, sizeof(struct vm_header *));
		c->fact = xreallocarray(c->fact, c->room, sizeof(*c->fact));
		c->asked_by = xreallocarray(c->asked_by, c->room, sizeof(*c->asked_by));
	}
	f->index = (int)c->n++;
	f->indexed = c->number;
	f->shown_allocated = f->stamp.allocated;
	c->file[f->index] = f;
	c->asked_by[f->index] = -1;
	note_asker(c, f->index);
	c->fact[f->index] = (struct vm_fact_file){
		.path = f->path, .error = f->code, .why = f->error, .format = f->format,
		.info = f->format == Q2_FORMAT_QCOW2 ? f->info : NULL, .below = VM_NO_FILE, .data = VM_NO_FILE,
		.shows = VM_NO_FILE, .exposes = f->exposes, .hidden = f->hidden,
	};
	if (f->found)
		c->fact[f->index].stamp = f->stamp;
	return f->index;
}

static void follow_data(struct vm_chains *c, int i, struct q2_gate *gate)
{
	const char *error;
	struct vm_header *data;
	int code;

	if (!c->fact[i].info || !c->fact[i].info->data_file || c->fact[i].data != VM_NO_FILE)
		return;
	data = vm_backing_data(c->files, c->file[i], gate, &code, &error);
	if (!data) /* it may not be read, and is written and needed all the same */
		data = vm_backing_refused_data(c->files, c->file[i], gate);
	if (!data)
		return;
	code = entry_of(c, data);
	c->fact[i].data = code;
}

/* A loop device's file is needed, and not read. */
static void follow_window(struct vm_chains *c, int i)
{
	struct vm_header *behind;
	int j;

	if (!c->file[i]->shows || c->fact[i].shows != VM_NO_FILE)
		return;
	behind = vm_headers_behind(c->files, c->file[i]->shows);
	j = entry_of(c, behind);
	c->fact[i].shows = j;
}

/* The graph says whose words they are: "'PATH' " in front of them would be said twice. */
static const char *without_path(const char *error, const char *path)
{
	size_t len = strlen(path);

	if (error[0] == '\'' && !strncmp(error + 1, path, len) && !strncmp(error + 1 + len, "' ", 2))
		return error + len + 3;
	return error;
}

/* Links entry @i to what it stands on and returns that, or VM_NO_FILE where there is nothing new to follow. */
static int follow(struct vm_chains *c, int i, struct q2_gate *gate)
{
	struct vm_header *below;
	const char *error;
	int code, j;

	follow_data(c, i, gate);
	follow_window(c, i);
	if (!c->fact[i].info || c->fact[i].below != VM_NO_FILE)
		return VM_NO_FILE;
	below = vm_backing_below(c->files, c->file[i], gate, &code, &error);
	if (!below) {
		if (code < 0) {
			c->fact[i].below_why = without_path(error, c->file[i]->path);
			vm_backing_refused(c->file[i], gate, &c->fact[i].refused_dev, &c->fact[i].refused_ino);
		}
		return VM_NO_FILE;
	}
	j = entry_of(c, below);
	c->fact[i].below = j;
	c->fact[i].below_format = below->format;
	c->fact[i].below_why = NULL;
	return j;
}

int vm_chains_path(struct vm_chains *c, const char *path, enum q2_format format, struct q2_gate *gate)
{
	int first;

	if (!path)
		return VM_NO_FILE;
	first = entry_of(c, vm_headers_top(c->files, path, format == Q2_FORMAT_NONE ? Q2_FORMAT_RAW : format));
	for (int i = first; i != VM_NO_FILE;)
		i = follow(c, i, gate);
	return first;
}

/* A first layer that the record does not name: the gate is asked for it as if it were named by itself. */
static int ask_for_top(struct vm_chains *c, int layer, struct q2_gate *gate, struct vs_err *err)
{
	struct q2_file *open_file = NULL;
	struct vm_header *f = c->file[layer];
	enum q2_format format;
	int r;

	r = q2_gate_open(gate, f->path, f->path, q2_format_name(f->format), &open_file, &format, err);
	if (r >= 0)
		q2_file_close(open_file);
	return r < 0 ? r : 0;
}

int vm_chains_allowed(struct vm_chains *c, const int *layers, size_t n, bool trusted, struct q2_gate *gate,
		      struct vs_err *err)
{
	const char *error;
	int code, r = n && !trusted ? ask_for_top(c, layers[0], gate, err) : 0;

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		struct vm_header *f = c->file[layers[i]];

		if (!vm_backing_below(c->files, f, gate, &code, &error) && code < 0)
			return vs_err_set(err, code, "%s", error);
		if (!vm_backing_data(c->files, f, gate, &code, &error) && code < 0)
			return vs_err_set(err, code, "%s", error);
	}
	return 0;
}
