/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The files of a merge: whether what it writes reaches the disk, and the end of those that it leaves behind.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vm/command/content.h"
#include "vm/command/effects.h"
#include "vm/command/merge.h"
#include "vm/command/nv.h"
#include "vm/libvirt/flush.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"
#include "vm/util/sync.h"

#define FILES_SAID 4 /* of a long line the others are in the log */

/* ---------------------------------------------------------------- does it reach the disk? */

/* The base, and what comes to stand on it, which the job writes to. */
int vm_merge_hold(struct vm_merge *m, struct vm_merge_disk *d, struct vs_err *err)
{
	int base = vm_context_layer(m->cx, d->base), top = vm_context_layer(m->cx, d->top), above = -1;
	int r = base < 0 ? vs_err_set(err, -EPERM, "'%s' is not to be seen", d->base) : vm_held_layer(&d->held, &m->cx->d->layers[base], err);

	if (r == 0 && d->above_ino && top >= 0 && vm_context_above(m->cx, top, &above) && above >= 0)
		r = vm_held_layer(&d->held, &m->cx->d->layers[above], err);
	return r;
}

int vm_merge_reaches_disk(const struct vm_merge_disk *d, struct vs_err *err)
{
	int r = vm_held_reach_disk(&d->held);

	return r < 0 ? vs_err_set(err, r, "disk %s: what was merged into '%s' does not reach the disk: %s", d->target, d->base, strerror(-r)) : 0;
}

/* ---------------------------------------------------------------- is it there, whoever wrote it? */

static bool is_cancelled(void *opaque)
{
	return vm_context_cancelled(opaque, NULL) < 0;
}

/* @heard: what was written to it was held meanwhile, or is compared; else the disk itself is asked. */
static int sync_file(struct vm_context *cx, const char *path, bool heard, bool *told, struct vs_err *err)
{
	int r = vm_sync_unheld(path, false, told);

	if (r < 0)
		return vs_err_set(err, r, "'%s' cannot be written to the disk: %s", path, strerror(-r));
	r = heard ? 1 : vm_sync_is_there(path, is_cancelled, cx);
	*told |= r == 0;
	if (r == 0)
		return vs_err_set(err, -EIO, "what was written to '%s' is not on the disk, though nobody was told of an error", path);
	if (r == -EINTR)
		return vm_context_cancelled(cx, err);
	return r == 1 || r == -EOPNOTSUPP ? 0 : vs_err_set(err, r, "whether what was written to '%s' is on the disk cannot be told: %s", path, strerror(-r));
}

static int sync_layer(struct vm_context *cx, const struct vm_layer *l, bool heard, bool *told, struct vs_err *err)
{
	int r = l->data ? sync_file(cx, l->data, heard, told, err) : 0;

	return r < 0 ? r : sync_file(cx, l->path, heard, told, err);
}

/*
 * What holds by now what these files held, and what came to stand on something else, from the active layer down to the base, or to what no snapshot has
 * made. QEMU does as much, but not with cache='unsafe', where that may be in the page cache for half a minute more, while an unlinked file is gone from
 * the disk within seconds.
 */
static int sync_disk(const struct vm_merge *m, const struct vm_merge_disk *d, bool *told, struct vs_err *err)
{
	struct vm_context *cx = m->cx;
	bool heard = d->what != VM_MERGE_DROP; /* by whomever it was pulled in */
	int base = d->what == VM_MERGE_DROP ? -1 : vm_context_layer(cx, d->base), l = vm_context_top(cx, d->target), r = 0;
	bool met = false;

	for (size_t n = 0; r == 0 && !met && l >= 0 && n < VM_CHAIN_MAX; n++) {
		r = sync_layer(cx, &cx->d->layers[l], heard, told, err);
		met = l == base;
		l = cx->d->layers[l].below;
		if (l >= 0 && base < 0 && !vm_made(cx, l))
			break;
	}
	return r == 0 && base >= 0 && !met ? sync_layer(cx, &cx->d->layers[base], heard, told, err) : r;
}

/* Once something did not come to the disk: does the disk show all that what is to go does? What it has itself may be what is missing, or a guest's. */
static int prove_dropped(const struct vm_merge *m, const struct vm_merge_disk *d, struct vs_err *err)
{
	struct vm_context *cx = m->cx;
	int top = vm_context_top(cx, d->target), base = vm_context_layer(cx, d->base), r;
	struct vm_content_image image;

	if (cx->running)
		return vs_err_set(err, -EBUSY, "something that was written to disk %s has not come to the disk, and whether that is missing shows its content, when the domain is "
				  "shut down", d->target);
	if (top < 0 || base < 0)
		return vs_err_set(err, -EPERM, "something that was written to disk %s has not come to the disk, and what it stands on is not to be seen", d->target);
	image = (struct vm_content_image){ cx->d->layers[base].path, cx->d->layers[base].format, cx->d->gate };
	r = vm_content_is_there(cx, &image, VM_CHAIN_MAX, &cx->d->layers[top], false, err);
	if (r == 0)
		return vs_err_set(err, -EPERM, "something that was written to disk %s has not come to the disk, and it has other bytes than '%s': the guest's, or not all was pulled",
				  d->target, d->base);
	if (r == 1)
		vm_held_proven(cx, d->target);
	return r < 0 ? r : 0;
}

/* What the disk does not stand on any more it may have been pulled out of, by whomever, and on the disk only QEMU's flush makes that so. */
int vm_merge_write_out(const struct vm_merge *m, const struct vm_merge_disk *d, bool *told, struct vs_err *err)
{
	bool drop = d->what == VM_MERGE_DROP;
	int r = m->cx->dom && drop ? vm_flush(m->cx->dom, err) : 0;

	*told = r == -EIO;
	if (r == 0)
		r = sync_disk(m, d, told, err);
	if (r == 0 && drop && vm_held_is_noted(m->cx, d->target))
		r = prove_dropped(m, d, err);
	if (r < 0)
		vs_err_prefix(err, "'%s' stays", d->gone[0].path);
	return r;
}

/* ---------------------------------------------------------------- removal */

/* Returns how many of the disk's files were unlinked. */
static size_t unlink_files_of(struct vm_merge *m, const struct vm_merge_disk *d)
{
	struct vm_leaving leaving = vm_merge_leaving(m);
	size_t n = 0;

	for (size_t k = 0; k < d->n_gone; k++) {
		struct vs_err why = {0};
		bool told;
		int r = n ? 0 : vm_merge_write_out(m, d, &told, &why);

		if (r == 0)
			r = vm_remove(m->cx, &d->gone[k], &leaving, &why);
		if (r < 0) {
			vm_context_say(m->cx, "%s", why.msg);
			break;
		}
		if (r > 0) /* it was gone */
			continue;
		vm_log(m->cx->log, "unlinked '%s'", d->gone[k].path);
		if (n++ < FILES_SAID || d->n_gone <= FILES_SAID + 1)
			vm_remove_say(m->cx, d->gone[k].path);
	}
	return n;
}

/* What stays by this is a file too many, which `chain` shows: it is told, and no failure. What lies beneath it stays, too. */
void vm_merge_remove_files(struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_disks; i++) {
		const struct vm_merge_disk *d = &m->disks[i];
		size_t n = unlink_files_of(m, d);

		if (n > FILES_SAID && d->n_gone > FILES_SAID + 1)
			vm_context_say(m->cx, "and %zu more of disk %s", n - FILES_SAID, d->target);
	}
}

/* What a record says its memory is, as it is to be removed. False: it says nothing, or nothing is there. */
static bool memory_of(const struct vm_merge *m, const char *name, struct vm_doomed_file *file)
{
	const struct vm_context_record *record = vm_context_record(m->cx, name);
	int layer = record && record->xml->memory_file ? vm_context_layer(m->cx, record->xml->memory_file) : -1;

	if (!record || !record->xml->memory_file || access(record->xml->memory_file, F_OK) != 0)
		return false;
	*file = (struct vm_doomed_file){ .path = record->xml->memory_file, .as = VM_DOOMED_MEMORY, .since_s = record->xml->created_s };
	if (layer >= 0)
		file->stamp = m->cx->d->layers[layer].stamp;
	return true;
}

/* As with layers: what stays is told. */
void vm_merge_remove_memory(struct vm_merge *m)
{
	struct vm_leaving leaving = vm_merge_leaving(m);

	for (size_t i = 0; i < m->n_names; i++) {
		struct vm_doomed_file file;
		struct vs_err why = {0};
		int r = memory_of(m, m->names[i], &file) ? vm_remove(m->cx, &file, &leaving, &why) : 1;

		if (r == 0)
			vm_remove_say(m->cx, file.path);
		else if (r < 0)
			vm_context_say(m->cx, "%s", why.msg);
	}
}

/* ---------------------------------------------------------------- words */

static void tell_file(struct vm_context *cx, const char *path)
{
	struct vs_err why = {0};

	if (vm_is_removable(path, &why) == 0)
		vm_remove_say(cx, path);
	else
		vm_context_say(cx, "%s", why.msg);
}

static void tell_nv(struct vm_merge *m, const char *name)
{
	const struct vm_context_record *record = vm_context_record(m->cx, name);
	struct vm_leaving leaving = vm_merge_leaving(m);

	if (record)
		vm_nv_remove(m->cx, &(struct vm_meta_id){ name, record->xml->created_s * VM_NS_PER_S, VM_EXTERNAL }, &leaving);
}

/* What vm_merge_remove_files(), vm_merge_remove_memory() and vm_nv_remove() will do. */
void vm_merge_tell_files(struct vm_merge *m)
{
	struct vm_leaving leaving = vm_merge_leaving(m);
	struct vm_doomed_file memory;

	for (size_t i = 0; i < m->n_disks; i++)
		for (size_t k = 0; k < m->disks[i].n_gone; k++)
			tell_file(m->cx, m->disks[i].gone[k].path);
	for (size_t i = 0; i < m->n_names; i++) {
		struct vs_err why = {0};

		tell_nv(m, m->names[i]);
		if (!memory_of(m, m->names[i], &memory))
			continue;
		if (vm_may_remove(m->cx, &memory, &leaving, &why) == 0) {
			vm_effects_file(m->cx, memory.path);
			vm_remove_say(m->cx, memory.path);
		} else {
			vm_context_say(m->cx, "%s", why.msg);
		}
	}
}
