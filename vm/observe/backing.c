/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What an image names (what it stands on, its data file) is remembered by gate, as a backing: the path and format that the
 * gate gave, and the (dev, ino) that it let through. While the path still leads to that file the gate's answer holds and
 * nothing is opened; a file that has to be read again is opened through the gate again, never by the remembered path.
 */
#include "vm/observe/headers-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define SETTLE_ROUNDS 3 /* how long a file that was written is worth a proper look, for its lock bytes */
#define OLD_NS (60 * VM_NS_PER_S) /* one that was not written or renamed for so long has only just been met */
#define GROWTH_NEWS (UINT64_C(1) << 20)

/* ---------------------------------------------------------------- what it stands on */

static struct vm_backing *backing_find(struct vm_header *f, struct q2_gate *gate, const char *name, const char *format)
{
	struct vm_backing *e = f->backings;

	while (e && (e->gate != gate || strcmp(e->name, name) || !vm_same_text(e->format, format)))
		e = e->next;
	return e;
}

static struct vm_backing *backing_new(struct vm_header *f, struct q2_gate *gate, const char *name, const char *format)
{
	struct vm_backing *e = xcalloc(1, sizeof(*e));

	e->gate = q2_gate_ref(gate);
	e->name = xstrdup(name);
	e->format = xstrdup_or_null(format);
	e->next = f->backings;
	f->backings = e;
	return e;
}

/* Does the gate's answer still hold? *now: what the path leads to. */
static bool backing_holds(struct vm_headers *files, const struct vm_backing *e, bool *found, struct q2_stamp *now)
{
	if (!e->looked || !e->path)
		return false;
	if (e->below && e->below->looked == files->round && !strcmp(e->below->path, e->path)) { /* once a round is enough */
		*found = e->below->found;
		*now = e->below->stamp;
	} else {
		*found = vm_header_stamp(files, e->path, now);
	}
	return *found == e->found && (!*found || (now->dev == e->dev && now->ino == e->ino));
}

/* Remembers where a refused or missing name would lead, so that it is noticed when that changes. A file that may be named
 * but is not there, or not readable for us, is one that exists in the inventory: as missing. */
static void backing_failed(struct vm_headers *files, struct vm_backing *e, const char *from, int code, const struct vs_err *err)
{
	enum q2_format format = Q2_FORMAT_NONE;
	struct q2_stamp now = {0};

	e->code = code;
	e->error = xstrdup(vs_err_text(err, code));
	if (code == -ENOMEM) /* says nothing about the file: asked again in the next round */
		return;
	if (q2_name_resolve(from, e->name, e->format, &e->path, &format, NULL) < 0)
		return;
	e->found = vm_header_stamp(files, e->path, &now);
	e->dev = now.dev;
	e->ino = now.ino;
	if (code == -EPERM || code == -ELOOP || code == -EINVAL)
		return;
	e->below = vm_header_at(files, e->path, format);
	if (e->below->looked == files->round)
		return;
	vm_header_set_stamp(files, e->below, e->found, &now);
	vm_header_failed(files, e->below, code, e->error);
}

static void backing_passed(struct vm_headers *files, struct vm_backing *e, const char *from, struct q2_file *open_file,
			   enum q2_format format)
{
	struct vm_header *below = vm_header_at(files, open_file->path, format);
	struct q2_stamp now;
	int r = open_file->ops->identity(open_file, &now);

	if (r < 0) {
		backing_failed(files, e, from, r, &(struct vs_err){0});
		return;
	}
	e->path = xstrdup(open_file->path);
	if (below->looked != files->round)
		vm_header_find_shown(below, true, &now);
	if (below->looked != files->round && !vm_header_fresh(below, true, &now)) {
		vm_header_set_stamp(files, below, true, &now);
		vm_header_read(files, below, open_file);
	}
	e->found = true;
	e->dev = now.dev;
	e->ino = now.ino;
	e->below = below;
}

/* A file of a virt-snapfs mount is not opened, through whatever gate. True: it is one, and that is written down. */
static bool leads_to_mount(struct vm_headers *files, struct vm_header *f, struct vm_backing *e)
{
	enum q2_format format;
	vs_autofree char *path = NULL;
	struct q2_stamp now;

	if (q2_name_resolve(f->path, e->name, e->format, &path, &format, NULL) < 0) {
		path = NULL;
		return false;
	}
	if (!vm_header_stamp(files, path, &now) || !vm_header_is_exposed(files, &now))
		return false;
	e->below = vm_header_at(files, path, format);
	if (e->below->looked != files->round)
		vm_header_exposed(files, e->below, &now);
	e->path = vs_steal(path);
	e->found = true;
	e->dev = now.dev;
	e->ino = now.ino;
	return true;
}

static void ask_gate(struct vm_headers *files, struct vm_header *f, struct vm_backing *e)
{
	struct q2_file *open_file = NULL;
	enum q2_format format;
	struct vs_err err = {0};
	int r;

	free(e->path);
	free(e->error);
	e->path = e->error = NULL;
	e->below = NULL;
	e->code = 0;
	e->found = false;
	if (leads_to_mount(files, f, e))
		return;
	r = q2_gate_open(e->gate, f->path, e->name, e->format, &open_file, &format, &err);
	if (r < 0) {
		backing_failed(files, e, f->path, r, &err);
		return;
	}
	backing_passed(files, e, f->path, open_file, format);
	q2_file_close(open_file);
}

/* True: it leads where it led before. */
static bool backing_look(struct vm_headers *files, struct vm_header *f, struct vm_backing *e)
{
	struct vm_header *was = e->below;
	struct q2_stamp now = {0};
	int code = e->code;
	bool found = false;

	if (!backing_holds(files, e, &found, &now) ||
	    (e->below && e->below->looked != files->round && !vm_header_fresh(e->below, found, &now)))
		ask_gate(files, f, e);
	else if (e->below && found)
		e->below->stamp.allocated = now.allocated;
	if (e->below)
		e->below->looked = files->round;
	e->looked = files->round;
	return e->below == was && e->code == code;
}

static struct vm_header *named(struct vm_headers *files, struct vm_header *f, struct q2_gate *gate, const char *name,
			       const char *format, int *code, const char **error)
{
	struct vm_backing *e;

	*code = 0;
	*error = NULL;
	if (!name)
		return NULL;
	e = backing_find(f, gate, name, format);
	if (!e)
		e = backing_new(f, gate, name, format);
	if (e->looked != files->round)
		backing_look(files, f, e);
	if (e->below)
		return e->below;
	*code = e->code;
	*error = e->error;
	return NULL;
}

struct vm_header *vm_backing_below(struct vm_headers *files, struct vm_header *f, struct q2_gate *gate, int *code,
				   const char **error)
{
	return named(files, f, gate, f->info ? f->info->backing_name : NULL, f->info ? f->info->backing_format : NULL, code,
		     error);
}

struct vm_header *vm_backing_data(struct vm_headers *files, struct vm_header *f, struct q2_gate *gate, int *code,
				  const char **error)
{
	return named(files, f, gate, f->info ? f->info->data_file : NULL, "raw", code, error);
}

struct vm_header *vm_backing_refused_data(struct vm_headers *files, struct vm_header *f, struct q2_gate *gate)
{
	const struct vm_backing *e = f->info && f->info->data_file ? backing_find(f, gate, f->info->data_file, "raw") : NULL;

	return e && !e->below && e->found ? vm_headers_behind(files, e->path) : NULL;
}

bool vm_backing_refused(const struct vm_header *f, const struct q2_gate *gate, uint64_t *dev, uint64_t *ino)
{
	for (const struct vm_backing *e = f->info ? f->backings : NULL; e; e = e->next) {
		if (e->gate != gate || e->below || !e->found || !vm_same_text(e->name, f->info->backing_name) ||
		    !vm_same_text(e->format, f->info->backing_format))
			continue;
		*dev = e->dev;
		*ino = e->ino;
		return true;
	}
	return false;
}

void vm_backing_each_refused(const struct vm_header *f, void (*use)(const char *path, void *opaque), void *opaque)
{
	for (const struct vm_backing *e = f->backings; e; e = e->next)
		if (!e->below && e->found && e->path)
			use(e->path, opaque);
}

/* ---------------------------------------------------------------- has anything happened at all? */

struct quiet {
	struct vm_headers *files;
	uint64_t last; /* the round before this one */
	bool quiet;
};

static void stir(struct quiet *q, struct vm_header *f)
{
	f->stirred = q->files->round;
	q->quiet = false;
}

static bool visit_trusted(void *thing, void *opaque)
{
	struct vm_header *f = thing;
	struct quiet *q = opaque;

	if (f->trusted == q->last)
		vm_header_look(q->files, f);
	return true;
}

static bool visit_backings(void *thing, void *opaque)
{
	struct vm_header *f = thing;
	struct quiet *q = opaque;

	for (struct vm_backing *e = f->backings; e; e = e->next)
		if (e->looked == q->last && !backing_look(q->files, f, e))
			stir(q, f);
	return true;
}

static bool is_settling(const struct vm_header *f, uint64_t now)
{
	int64_t last = f->stamp.mtime_ns > f->stamp.ctime_ns ? f->stamp.mtime_ns : f->stamp.ctime_ns;

	return f->touched + SETTLE_ROUNDS >= now && (!f->found || f->stamp.block || vm_now_ns() - last < OLD_NS);
}

static bool judge(void *thing, void *opaque)
{
	struct vm_header *f = thing;
	struct quiet *q = opaque;
	uint64_t now = q->files->round, grown;

	if (f->looked != q->last && f->looked != now)
		return true;
	grown = f->stamp.allocated > f->shown_allocated ? f->stamp.allocated - f->shown_allocated :
							  f->shown_allocated - f->stamp.allocated;
	if (f->looked != now || f->changed == now)
		stir(q, f);
	else if (f->live ? grown >= GROWTH_NEWS : grown || f->racy || is_settling(f, now))
		stir(q, f);
	return true;
}

bool vm_backing_quiet(struct vm_headers *files)
{
	struct quiet q = { .files = files, .last = files->round - 1, .quiet = true };

	vm_strmap_filter(&files->table, visit_trusted, &q);
	vm_strmap_filter(&files->table, visit_backings, &q);
	vm_strmap_filter(&files->table, judge, &q);
	return q.quiet;
}
