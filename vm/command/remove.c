/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/remove.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/intent.h"
#include "vm/command/pulls.h"
#include "vm/libvirt/record.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

bool vm_leaving_has(const struct vm_leaving *leaving, const char *name)
{
	for (size_t i = 0; leaving && i < leaving->n; i++)
		if (!strcmp(leaving->names[i], name))
			return true;
	return false;
}

/* ---------------------------------------------------------------- who needs it */

static bool is_layer(const struct vm_context *cx, const char *path, int layer)
{
	return path && vm_context_layer(cx, path) == layer;
}

static bool record_froze(const struct vm_context *cx, const struct vm_context_record *r, int layer)
{
	for (size_t k = 0; k < r->xml->n_disks; k++) {
		const struct vm_xml_disk *frozen = r->xml->disks[k].frozen;

		if (r->xml->disks[k].mode == VM_MODE_EXTERNAL && frozen && is_layer(cx, frozen->source.path, layer))
			return true;
	}
	return is_layer(cx, r->xml->memory_file, layer); /* or calls it its memory */
}

static bool snapshot_froze(const struct vm_context *cx, const struct vm_snapshot *s, int layer)
{
	for (size_t k = 0; s->kind == VM_EXTERNAL && k < s->n_disks; k++)
		if (s->disks[k].chain && is_layer(cx, s->disks[k].chain[0], layer))
			return true;
	return false;
}

/* A snapshot that stays and that froze this layer, by its record or by what it is read from. */
static const char *frozen_by(const struct vm_context *cx, int layer, const struct vm_leaving *leaving)
{
	for (size_t i = 0; i < cx->n_records; i++)
		if (!vm_leaving_has(leaving, cx->records[i].name) && record_froze(cx, &cx->records[i], layer))
			return cx->records[i].name;
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		if (!s->present && !vm_leaving_has(leaving, s->name) && snapshot_froze(cx, s, layer))
			return s->shown;
	}
	return NULL;
}

/* What is not known because of snapshots that stay; NULL: nothing. */
static const struct vm_doubt *doubt_about(const struct vm_context *cx, int layer, const struct vm_leaving *leaving)
{
	for (size_t i = 0; i < cx->d->n_doubts; i++)
		for (char **name = cx->d->doubts[i].snapshots; *name; name++)
			if (!vm_leaving_has(leaving, *name) && !is_layer(cx, cx->d->doubts[i].path, layer))
				return &cx->d->doubts[i];
	return NULL;
}

/* Did this disk of it stand on that layer when it was noted? */
static bool is_noted_with(const struct vm_context *cx, const struct vm_snapshot *s, const char *target, int layer)
{
	const struct vm_meta_id id = vm_context_id(cx, s);
	const struct vm_layer *l = &cx->d->layers[layer];

	for (const struct vm_meta_file *f = vm_meta_frozen(cx->meta, &id, target); f; f = vm_meta_file(cx->meta, f->beneath))
		if (f->ino == l->stamp.ino || (f->size == l->stamp.size && f->mtime_ns == l->stamp.mtime_ns)) /* or a copy */
			return true;
	return false;
}

/* Is this disk of it right again only if its files are again what they were? What a begun command has written to cannot be put back: who would need
 * that is none the worse. What was found wrong once may show no fault now, where others have merged since. */
static bool wants_back(const struct vm_context *cx, const struct vm_snapshot *s, const struct vm_disk *disk, bool begun)
{
	const struct vm_meta_id id = vm_context_id(cx, s);

	if (disk->misses)
		return true;
	return !begun && (disk->differs || (disk->state != VM_OK && disk->state != VM_DETACHED && vm_meta_is_spoilt(cx->meta, &id, disk->target)));
}

/* A snapshot that stays, and of which a disk wants this layer back. */
static const char *missed_by(const struct vm_context *cx, int layer, const struct vm_leaving *leaving)
{
	bool begun = leaving && leaving->begun;

	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		for (size_t k = 0; !s->present && !vm_leaving_has(leaving, s->name) && k < s->n_disks; k++)
			if (wants_back(cx, s, &s->disks[k], begun) && is_noted_with(cx, s, s->disks[k].target, layer))
				return s->shown;
	}
	return NULL;
}

enum vm_need vm_need(const struct vm_context *cx, int layer, const struct vm_leaving *leaving, bool frozen_too,
		     struct vs_err *err)
{
	const struct vm_layer *l = &cx->d->layers[layer];
	const char *snapshot = frozen_too ? frozen_by(cx, layer, leaving) : NULL;
	const struct vm_doubt *doubt = doubt_about(cx, layer, leaving);
	const char *missed = missed_by(cx, layer, leaving);

	if (l->users && l->users[0])
		vs_err_set(err, -EPERM, "'%s' must stay as it is: %s needs it%s", l->path, l->users[0], l->users[1] ? ", and others" : "");
	else if (l->rival)
		vs_err_set(err, -EPERM, "'%s' must stay as it is: %s writes to it, too", l->path, l->rival);
	else if (snapshot)
		vs_err_set(err, -EPERM, "'%s' must stay as it is: snapshot '%s' is in it", l->path, snapshot);
	else if (vm_pulls_need(cx, l, err) < 0 || vm_intent_need(cx, layer, err) < 0)
		return VM_NEED_UNKNOWN;
	else if (l->unknown)
		return vs_err_set(err, l->unknown_code, "'%s' must stay as it is: %s", l->path, l->unknown), VM_NEED_UNKNOWN;
	else if (missed)
		return vs_err_set(err, -EPERM, "'%s' must stay as it is: snapshot '%s' stood on it when it was right, and is right again only if its files are "
				  "what they were: put them back (a header: qemu-img rebase -u), or delete it first or with it", l->path, missed), VM_NEED_UNKNOWN;
	else if (doubt)
		return vs_err_set(err, doubt->code, "'%s' must stay as it is: %s", l->path, doubt->phrase), VM_NEED_UNKNOWN;
	else
		return VM_NEED_NOT;
	return VM_NEED_BY;
}

/* ---------------------------------------------------------------- whose making it is */

bool vm_made(const struct vm_context *cx, int layer)
{
	const struct vm_layer *l = &cx->d->layers[layer];
	struct vm_meta_made file = { l->path, l->stamp.ino, l->stamp.btime_ns };
	bool made = vm_context_made(cx, &file);

	for (char **path = l->paths; !made && path && *path; path++) {
		file.path = *path;
		made = vm_context_made(cx, &file);
	}
	return made;
}

/* ---------------------------------------------------------------- removing */

static bool same_file(const struct q2_stamp *a, const struct q2_stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

static int changed(const char *path, struct vs_err *err)
{
	return vs_err_set(err, -EPERM, "'%s' stays: it is not the file any more that was meant", path);
}

/* By this command, since its last look or before. */
static bool was_removed(const struct vm_context *cx, const struct q2_stamp *stamp)
{
	for (size_t i = 0; i < cx->n_removed; i++)
		if (cx->removed[i].dev == stamp->dev && cx->removed[i].ino == stamp->ino)
			return true;
	return false;
}

static void note_removed(struct vm_context *cx, const struct q2_stamp *stamp)
{
	cx->removed = xreallocarray(cx->removed, cx->n_removed + 1, sizeof(*cx->removed));
	cx->removed[cx->n_removed++] = *stamp;
}

/* Something that stands on it, and that we have not removed a moment ago. */
static const char *stands_on_it(const struct vm_context *cx, int layer)
{
	for (size_t i = 0; i < cx->d->n_layers; i++)
		if (cx->d->layers[i].below == layer && !was_removed(cx, &cx->d->layers[i].stamp))
			return cx->d->layers[i].path;
	return NULL;
}

static int check_memory(const struct vm_context *cx, const struct vm_doomed_file *file, struct vs_err *err)
{
	int r;

	if (file->stamp.mtime_ns < (file->since_s - 1) * VM_NS_PER_S)
		return vs_err_set(err, -EPERM, "'%s' stays: it is older than the snapshot whose memory it is said to be", file->path);
	r = vm_record_saved(cx->dom, file->path, err);
	if (r < 0)
		vs_err_prefix(err, "'%s' stays", file->path);
	return r;
}

static int is_ours(const struct vm_context *cx, const struct vm_doomed_file *file, int layer, struct vs_err *err)
{
	switch (file->as) {
	case VM_DOOMED_BEGUN:
		return 0;
	case VM_DOOMED_MEMORY:
		return check_memory(cx, file, err);
	case VM_DOOMED_LAYER:
		break;
	}
	return vm_made(cx, layer) ? 0 : vs_err_set(err, -EPERM, "'%s' stays: nothing says that a snapshot or a command of ours made it",
						   file->path);
}

int vm_is_removable(const char *path, struct vs_err *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : vs_err_set(err, -errno, "'%s': %s", path, strerror(errno));
	if (S_ISREG(st.st_mode))
		return 0;
	if (S_ISLNK(st.st_mode))
		return vs_err_set(err, -EPERM, "'%s' stays: it is a symbolic link, and only regular files are removed: remove it and what it leads to "
				  "when nobody else needs them, for until then whatever they stand on stays, too", path);
	return vs_err_set(err, -EPERM, "'%s' stays: it is a %s, and only regular files are removed", path,
			  S_ISBLK(st.st_mode) ? "device" : "file of another kind");
}

/* What an overlay stands on that is only half made does not matter: nobody has come to use it. */
static bool may_be_unreadable(const struct vm_doomed_file *file, const struct vm_layer *l)
{
	return file->as == VM_DOOMED_BEGUN && l->error != -ENOENT && l->stamp.ino;
}

int vm_may_remove(const struct vm_context *cx, const struct vm_doomed_file *file, const struct vm_leaving *leaving,
		  struct vs_err *err)
{
	int layer = vm_context_layer(cx, file->path), r = vm_is_removable(file->path, err);
	const struct vm_layer *l = layer < 0 ? NULL : &cx->d->layers[layer];
	struct vs_err why = {0};
	const char *above, *inside;

	if (r < 0)
		return r;
	if (!l)
		return vs_err_set(err, -EPERM, "'%s' stays: nobody can tell who uses it", file->path);
	if (l->error && !may_be_unreadable(file, l))
		return vs_err_set(err, l->error, "'%s' stays: %s", file->path, strerror(-l->error));
	if (!same_file(&l->stamp, &file->stamp))
		return changed(file->path, err);
	if (l->active)
		return vs_err_set(err, -EPERM, "'%s' stays: a disk of the domain writes to it", file->path);
	above = stands_on_it(cx, layer);
	if (above)
		return vs_err_set(err, -EPERM, "'%s' stays: '%s' stands on it", file->path, above);
	inside = vm_context_internal_in(cx, layer);
	if (inside)
		return vs_err_set(err, -EPERM, "'%s' stays: internal snapshot '%s' is stored in it", file->path, inside);
	if (vm_need(cx, layer, leaving, true, &why) != VM_NEED_NOT)
		return vs_err_set(err, why.code, "%s", why.msg);
	return is_ours(cx, file, layer, err);
}

int vm_locks_on(const char *path, struct q2_locks *out, struct vs_err *err)
{
	struct q2_file *f;
	int r = q2_file_open(path, &f, err);

	if (r < 0)
		return r;
	*out = (struct q2_locks){0};
	r = q2_file_locks(f, out);
	q2_file_close(f);
	return r < 0 ? vs_err_set(err, r, "the locks on '%s' cannot be read: %s", path, strerror(-r)) : 0;
}

int vm_nobody_has_it(const char *path, bool reading, struct vs_err *err)
{
	struct q2_locks locks;
	int r = vm_locks_on(path, &locks, err);

	if (r < 0)
		return r;
	if (locks.writer || locks.no_read || (reading && locks.frozen))
		return vs_err_set(err, -EBUSY, "'%s' is open in QEMU%s", path, reading ? " or for reading" : "");
	return 0;
}

/* By what is so now: of a line of files the one before may have been removed long ago, and somebody may have come to use this one. */
static int look_and_ask(struct vm_context *cx, const struct vm_doomed_file *file, const struct vm_leaving *leaving,
			struct vs_err *err)
{
	struct vm_context now;
	int r = vm_context_glance(cx, &now, err);

	if (r < 0)
		return r;
	r = vm_may_remove(&now, file, leaving, err);
	vm_context_glance_done(&now);
	if (r < 0)
		return r;
	r = vm_nobody_has_it(file->path, true, err);
	if (r < 0)
		vs_err_prefix(err, "'%s' stays", file->path);
	return r;
}

int vm_remove(struct vm_context *cx, const struct vm_doomed_file *file, const struct vm_leaving *leaving, struct vs_err *err)
{
	struct vs_err local = {0};
	struct stat st;
	int r;

	if (!err)
		err = &local;
	if (lstat(file->path, &st) < 0 && errno == ENOENT)
		return 1;
	r = cx->dom ? vm_record_sync(cx->dom, err) : 0; /* before the check, which is to be the last thing */
	if (r < 0)
		vs_err_prefix(err, "'%s' stays", file->path);
	if (r == 0)
		r = look_and_ask(cx, file, leaving, err);
	if (r < 0)
		return r;
	if (lstat(file->path, &st) < 0)
		return errno == ENOENT ? 1 : vs_err_set(err, -errno, "'%s': %s", file->path, strerror(errno));
	if (!S_ISREG(st.st_mode) || st.st_dev != file->stamp.dev || st.st_ino != file->stamp.ino ||
	    (uint64_t)st.st_size != file->stamp.size || vm_timespec_ns(st.st_mtim) != file->stamp.mtime_ns)
		return changed(file->path, err);
	if (unlink(file->path) < 0)
		return errno == ENOENT ? 1 : vs_err_set(err, -errno, "'%s' stays, for it cannot be unlinked: %s", file->path, strerror(errno));
	note_removed(cx, &file->stamp);
	vm_fault();
	return 0;
}

void vm_remove_say(struct vm_context *cx, const char *path)
{
	int layer = vm_context_layer(cx, path);
	const char *data = layer >= 0 ? cx->d->layers[layer].data : NULL;
	vs_autofree char *rest = data ? xasprintf(" (its data file '%s' stays)", data) : NULL;

	vm_context_say(cx, "%s '%s'%s", cx->try_only ? "would unlink" : "unlinked", vm_context_file(cx, path), rest ? rest : "");
}
