/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A view is opened layer by layer, each through the gate and as what is expected of it, and knows from then on which files it is made of.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "cache.h"
#include "file.h"
#include "hash.h"
#include "layer.h"
#include "view.h"
#include "work.h"

#define DEEP      3    /* layers: then it pays to remember which of them have nothing */
#define OPEN_WORK 4096 /* units: of a layer, which may include some waiting */

/* ---------------------------------------------------------------- opening */

static bool stands_already(const struct q2_view *v, const struct q2_stamp *stamp)
{
	size_t i;

	for (i = 0; i + 1 < v->n_layers; i++)
		if (v->layers[i]->stamp.dev == stamp->dev && v->layers[i]->stamp.ino == stamp->ino)
			return true;
	return false;
}

/*
 * A layer that should hold still must not be open for writing anywhere, and must be the one that the caller judged: a job
 * may have begun, or begun and ended, since that was decided. Asked after the guard lock is taken, so that no writer
 * comes between.
 */
static int check_as_expected(const struct q2_view *v, const struct q2_view_spec *spec, size_t i, struct vs_err *err)
{
	struct q2_layer *l = v->layers[i];
	const struct q2_stamp *expected = i < spec->n_expected ? &spec->expected[i] : NULL;
	struct q2_locks locks;

	if (l->role != Q2_FROZEN || i >= v->watched || spec->alone)
		return 0;
	if (!q2_file_locks(l->file, &locks) && locks.writer)
		return vs_err_set(err, -EAGAIN, "'%s' is open for writing in some process", l->file->path);
	if (expected && (expected->dev != l->stamp.dev || expected->ino != l->stamp.ino))
		return vs_err_set(err, -ESTALE, "'%s' is another file by now", l->file->path);
	if (expected && (expected->size != l->stamp.size || (!l->stamp.block && expected->mtime_ns != l->stamp.mtime_ns)))
		return vs_err_set(err, -ESTALE, "'%s' has been written meanwhile", l->file->path);
	return 0;
}

/* Puts an open file (taken) beneath the others. */
static int add_layer(struct q2_view *v, const struct q2_view_spec *spec, struct q2_file *file, enum q2_format format,
		     struct vs_err *err)
{
	const struct q2_snapshot *snapshot = v->n_layers ? NULL : spec->snapshot;
	bool guard = v->n_layers ? spec->guard : spec->guard_top;
	struct q2_layer **layers = realloc(v->layers, (v->n_layers + 1) * sizeof(*layers)), *l = NULL;
	int rc;

	if (layers) {
		v->layers = layers;
		l = malloc(sizeof(*l));
	}
	if (!l) {
		q2_file_close(file);
		return -ENOMEM;
	}
	rc = q2_work_spend(spec->work, OPEN_WORK);
	if (!rc && spec->direct)
		rc = q2_file_go_direct(file, err);
	if (rc)
		q2_file_close(file);
	else
		rc = q2_layer_init(l, v->cache, file, format, snapshot, v->gate, guard, spec->work, err);
	if (rc) {
		free(l);
		return rc;
	}
	layers[v->n_layers++] = l;
	if (spec->direct && l->data_file && (rc = q2_file_go_direct(l->data_file, err)) < 0)
		return rc;
	if (stands_already(v, &l->stamp))
		return vs_err_set(err, -ELOOP, "the backing chain of '%s' loops at '%s'", layers[0]->file->path, l->file->path);
	return check_as_expected(v, spec, v->n_layers - 1, err);
}

static int add_backing_chain(struct q2_view *v, const struct q2_view_spec *spec, struct vs_err *err)
{
	struct q2_layer *top = v->layers[v->n_layers - 1];
	struct q2_file *file;
	enum q2_format fmt;
	int rc;

	while (top->header.backing_name) {
		if (v->n_layers == Q2_MAX_DEPTH)
			return vs_err_set(err, -ELOOP, "the backing chain of '%s' is deeper than %u", v->layers[0]->file->path,
					  Q2_MAX_DEPTH);
		rc = q2_gate_open(v->gate, top->file->path, top->header.backing_name, top->header.backing_format, &file, &fmt,
				  err);
		if (!rc)
			rc = add_layer(v, spec, file, fmt, err);
		if (rc)
			return rc;
		top = v->layers[v->n_layers - 1];
	}
	return 0;
}

static _Atomic uint64_t last_serial;

int q2_view_open(struct q2_cache *cache, const struct q2_view_spec *spec, struct q2_view **out, struct vs_err *err)
{
	struct q2_view *v = calloc(1, sizeof(*v));
	struct q2_file *file;
	int rc;

	if (!v)
		return -ENOMEM;
	v->cache = cache;
	v->gate = q2_gate_ref(spec->gate);
	v->watched = spec->watched ? spec->watched : SIZE_MAX;
	v->serial = atomic_fetch_add(&last_serial, 1) + 1;
	v->presumed = UINT64_MAX;
	if (spec->format == Q2_FORMAT_NONE)
		rc = vs_err_set(err, -EPERM, "the format of '%s' is not known, and formats are never probed", spec->path);
	else
		rc = q2_file_open(spec->path, &file, err);
	if (!rc)
		rc = add_layer(v, spec, file, spec->format, err);
	if (!rc && !spec->alone)
		rc = add_backing_chain(v, spec, err);
	if (rc) {
		q2_view_close(v);
		return rc;
	}
	v->size = v->layers[0]->size;
	if (v->n_layers >= DEEP && v->watched >= v->n_layers)
		q2_depths_init(&v->depths, v->size);
	*out = v;
	return 0;
}

void q2_view_close(struct q2_view *v)
{
	size_t i;

	if (!v)
		return;
	for (i = 0; i < v->n_layers; i++) {
		q2_layer_fini(v->layers[i], v->cache);
		free(v->layers[i]);
	}
	free(v->layers);
	q2_depths_fini(&v->depths);
	q2_gate_unref(v->gate);
	free(v);
}

void q2_view_unguard(struct q2_view *v)
{
	size_t i;

	for (i = 0; i < v->n_layers; i++)
		q2_layer_unguard(v->layers[i]);
}

uint64_t q2_view_size(const struct q2_view *v)
{
	return v->size;
}

uint64_t q2_view_table_span(const struct q2_view *v)
{
	const struct q2_layer *top = v->layers[0];

	return top->map ? UINT64_C(1) << q2_l1_shift(q2_map_geometry(top->map)) : 0;
}

size_t q2_view_depth(const struct q2_view *v)
{
	return v->n_layers;
}

const char *q2_view_path(const struct q2_view *v, size_t layer)
{
	return v->layers[layer]->file->path;
}

/* ---------------------------------------------------------------- which files */

/* The file with that number, of all layers and then of their data files; false: there is none. */
bool q2_view_file_at(const struct q2_view *v, size_t idx, struct q2_file **file, const struct q2_stamp **stamp)
{
	size_t i;

	if (idx < v->n_layers) {
		*file = v->layers[idx]->file;
		*stamp = &v->layers[idx]->stamp;
		return true;
	}
	idx -= v->n_layers;
	for (i = 0; i < v->n_layers; i++) {
		if (!v->layers[i]->data_file || idx--)
			continue;
		*file = v->layers[i]->data_file;
		*stamp = &v->layers[i]->data_stamp;
		return true;
	}
	return false;
}

bool q2_view_file(const struct q2_view *v, size_t idx, const char **path, struct q2_stamp *stamp)
{
	const struct q2_stamp *its;
	struct q2_file *file;

	if (!q2_view_file_at(v, idx, &file, &its))
		return false;
	*path = file->path;
	*stamp = *its;
	return true;
}

bool q2_view_replaced(const struct q2_view *v)
{
	const struct q2_stamp *stamp;
	struct q2_file *file;
	size_t i;

	for (i = 0; q2_view_file_at(v, i, &file, &stamp); i++)
		if (q2_file_replaced(file, stamp))
			return true;
	return false;
}

static uint64_t mix_string(uint64_t h, const char *s)
{
	while (*s)
		h = q2_mix(h, (uint8_t)*s++);
	return q2_mix(h, 256);
}

static uint64_t mix_snapshot(uint64_t h, const struct q2_snapshot *s)
{
	h = mix_string(mix_string(h, s->id), s->name);
	h = q2_mix(q2_mix(h, s->l1_off), s->l1_entries);
	h = q2_mix(q2_mix(h, (uint64_t)s->date_sec << 32 | s->date_nsec), s->vm_clock_nsec);
	return q2_mix(h, s->vm_state_size);
}

/* Of files that should hold still, how they are; of one that is written, which snapshot it is. What may change where this
 * view does not look does not count. A block device does not tell when it was written: it is as it is for one view. */
uint64_t q2_view_content(const struct q2_view *v)
{
	const struct q2_stamp *stamp;
	struct q2_file *file;
	uint64_t h = 1;
	size_t i;

	for (i = 0; q2_view_file_at(v, i, &file, &stamp); i++) {
		h = q2_mix(q2_mix(h, stamp->dev), stamp->ino);
		if (i < v->n_layers && v->layers[i]->role == Q2_SNAPSHOT)
			h = mix_snapshot(h, q2_map_snapshot(v->layers[i]->map));
		else if (i >= v->n_layers || i < v->watched)
			h = q2_mix(q2_mix(h, stamp->size), stamp->block ? v->serial : (uint64_t)stamp->mtime_ns);
	}
	return h ? h : 1;
}

bool q2_view_settled(struct q2_view *v)
{
	size_t i;

	for (i = 0; i < v->n_layers; i++) {
		struct q2_layer *l = v->layers[i];

		if (l->role != Q2_FROZEN || !l->guarded || q2_file_direct(l->file) || i >= v->watched)
			return false;
	}
	return true;
}
