/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The records of a merge.
 *
 * A commit can run for hours, and meanwhile others may edit, add or remove records. So each is fetched right before it is changed, and
 * changed only if it is there and has to change; what others have removed stays removed, for REDEFINE would bring it back. libvirt has
 * no "replace if it is still so": what is left is the moment between the fetch and the call, with no job of libvirt's running then.
 *
 * Our own note of what a snapshot froze moves with its record: see meta/meta.h.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/attest.h"
#include "vm/command/intent.h"
#include "vm/command/merge.h"
#include "vm/libvirt/blockjob-list.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/record.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"
#include "vm/xml/edit.h"

#define QUIET_TRIES 300 /* of 100 ms: as long as libvirt itself waits for a job of its own */
#define QUIET_PAUSE_US 100000

struct moves {
	struct vm_edit_move *v;
	size_t n, room;
};

static void add_move(struct moves *moves, const struct vm_merge_disk *d, const char *from)
{
	XGROW(moves->v, moves->n, moves->room);
	moves->v[moves->n++] = (struct vm_edit_move){
		.target = d->target, .from = from, .to = d->base, .block = d->block,
		.format = d->format == Q2_FORMAT_NONE ? NULL : q2_format_name(d->format),
	};
}

/* Records may spell the top's path in another way. */
static struct moves find_moves(const struct vm_merge *m)
{
	struct moves moves = {0};

	for (size_t i = 0; i < m->n_disks; i++) {
		const struct vm_merge_disk *d = &m->disks[i];
		int top = vm_merge_moved(d) ? vm_context_layer(m->cx, d->top) : -1;

		if (!vm_merge_moved(d))
			continue;
		add_move(&moves, d, d->top);
		for (char **path = top < 0 ? NULL : m->cx->d->layers[top].paths; path && *path; path++)
			add_move(&moves, d, *path);
	}
	return moves;
}

/* ---------------------------------------------------------------- one record */

static bool goes(const struct vm_merge *m, const char *name)
{
	struct vm_leaving leaving = vm_merge_leaving(m);

	return vm_leaving_has(&leaving, name);
}

/* The nearest ancestor that stays, or NULL. */
static const char *parent_that_stays(const struct vm_merge *m, const char *parent)
{
	for (size_t steps = 0; parent && goes(m, parent) && steps <= m->cx->n_records; steps++) {
		const struct vm_context_record *r = vm_context_record(m->cx, parent);

		parent = r ? r->xml->parent : NULL;
	}
	return parent;
}

/* The disk as the look has it, where that can be read. */
static const struct vm_disk *seen_disk(const struct vm_context *cx, const char *name, const char *target)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		if (s->present || s->kind != VM_EXTERNAL || strcmp(s->name, name) != 0)
			continue;
		for (size_t k = 0; k < s->n_disks; k++)
			if (!strcmp(s->disks[k].target, target))
				return s->disks[k].state == VM_OK || s->disks[k].state == VM_DETACHED ? &s->disks[k] : NULL;
	}
	return NULL;
}

/* A record can be wrong: libvirt 9.0 points the children of a record that is removed to its image. The snapshot is where it can be read. True: *move
 * is what puts that right. */
static bool tell_truth(const struct vm_merge *m, const struct vm_xml_snapshot *xml, const struct vm_xml_snapdisk *said, struct vm_edit_move *move)
{
	const struct vm_disk *seen = said->mode == VM_MODE_EXTERNAL ? seen_disk(m->cx, xml->name, said->target) : NULL;
	const char *path = said->frozen ? said->frozen->source.path : NULL;
	int layer;

	if (!seen || !seen->chain || !seen->chain[0] || !path || !strcmp(seen->chain[0], path))
		return false;
	layer = vm_context_layer(m->cx, seen->chain[0]);
	if (layer < 0 || layer == vm_context_layer(m->cx, path))
		return false;
	*move = (struct vm_edit_move){
		.target = said->target, .from = path, .to = seen->chain[0], .block = m->cx->d->layers[layer].stamp.block,
		.format = seen->format == Q2_FORMAT_NONE ? NULL : q2_format_name(seen->format),
	};
	return true;
}

/* What is wrong is put right first, and then moved with the others. */
static struct vm_edit_move *moves_of(const struct vm_merge *m, const struct vm_xml_snapshot *xml, const struct moves *moves, size_t *n)
{
	struct vm_edit_move *all = xcalloc(xml->n_disks + moves->n + 1, sizeof(*all));

	*n = 0;
	for (size_t k = 0; k < xml->n_disks; k++)
		*n += tell_truth(m, xml, &xml->disks[k], &all[*n]);
	for (size_t i = 0; i < moves->n; i++)
		all[(*n)++] = moves->v[i];
	return all;
}

/* What became of a record. */
enum correction { RIGHT, RE_POINTED, RE_PARENTED };

static void tell_correction(const struct vm_merge *m, const char *name, enum correction correction)
{
	if (correction == RE_POINTED)
		vm_context_say(m->cx, "%s the record of '%s'", m->cx->try_only ? "would re-point" : "re-pointed", name);
	else
		vm_context_say(m->cx, "%s the record of '%s' another parent", m->cx->try_only ? "would give" : "gave", name);
}

/* An enum correction: *out is how it has to change. */
static int corrected(const struct vm_merge *m, const char *text, const struct moves *moves, char **out, struct vs_err *err)
{
	struct vm_xml_snapshot *xml = NULL;
	vs_autofree struct vm_edit_move *all = NULL;
	vs_autofree char *edited = NULL, *parent = NULL;
	int r = vm_xml_snapshot_parse(text, &xml, err), changed;
	size_t n;

	*out = NULL;
	if (r < 0)
		return r;
	all = moves_of(m, xml, moves, &n);
	changed = vm_edit_layers(text, all, n, &edited, err);
	if (changed < 0)
		r = changed;
	else if (xml->parent && goes(m, xml->parent)) {
		r = vm_edit_parent(edited, parent_that_stays(m, xml->parent), &parent, err);
		*out = r < 0 ? NULL : vs_steal(parent);
	} else if (changed) {
		*out = vs_steal(edited);
	}
	vm_xml_snapshot_free(xml);
	return r < 0 ? r : !*out ? RIGHT : changed ? RE_POINTED : RE_PARENTED;
}

/* Until libvirt is at nothing on the domain: a delete by somebody else drops its record at its end. */
static int await_quiet(const struct vm_merge *m, struct vs_err *err)
{
	for (int try = 0; try < QUIET_TRIES; try++) {
		struct vm_blockjob *jobs = NULL;
		size_t n = 0;
		int r = vm_blockjob_list(m->cx->dom, &jobs, &n, err);

		if (r < 0)
			return r;
		vm_blockjob_list_free(jobs, n);
		if (n == 0)
			return 0;
		usleep(QUIET_PAUSE_US);
	}
	return vs_err_set(err, -EBUSY, "the records cannot be corrected while another tool is at work on the domain");
}

/* 1: it was changed. */
static int correct(struct vm_merge *m, const char *name, const struct moves *moves, struct vs_err *err)
{
	vs_autofree char *text = NULL, *edited = NULL;
	int r = await_quiet(m, err), correction;

	if (r == 0)
		r = vm_dom_record(m->cx->dom, name, &text, err);
	if (r == -ENOENT) {
		vm_log(m->cx->log, "the record of '%s' was removed by another tool meanwhile", name);
		*err = (struct vs_err){0};
		return 0;
	}
	if (r == 0)
		r = corrected(m, text, moves, &edited, err);
	if (r <= 0)
		return r;
	correction = r;
	r = vm_record_redefine(m->cx->dom, edited, VM_RECORD_KEEP_CURRENT, err);
	if (r == 0)
		tell_correction(m, name, (enum correction)correction);
	return r < 0 ? r : 1;
}

/* ---------------------------------------------------------------- what they froze */

/* Does the record say that this snapshot's image is the base now? */
static bool names_base(const struct vm_context *cx, const struct vm_xml_snapshot *xml, const struct vm_merge_disk *d)
{
	for (size_t k = 0; k < xml->n_disks; k++)
		if (!strcmp(xml->disks[k].target, d->target) && xml->disks[k].mode == VM_MODE_EXTERNAL && xml->disks[k].frozen &&
		    xml->disks[k].frozen->source.path &&
		    (!strcmp(xml->disks[k].frozen->source.path, d->base) ||
		     vm_context_layer(cx, xml->disks[k].frozen->source.path) == vm_context_layer(cx, d->base)))
			return true;
	return false;
}

/* What was noted as frozen in the top is in the base now. True: something was noted anew. */
static bool move_frozen(struct vm_merge *m, const struct vm_xml_snapshot *xml, const struct vm_merge_disk *d)
{
	struct vm_meta_id id = { xml->name, xml->created_s * VM_NS_PER_S, VM_EXTERNAL };
	const struct vm_meta_file *noted = vm_meta_frozen(m->cx->meta, &id, d->target);
	int l = vm_context_layer(m->cx, d->base);
	struct vm_meta_file base, now;

	if (!noted || noted->ino != d->top_stamp.ino || vm_meta_is_spoilt(m->cx->meta, &id, d->target) ||
	    !names_base(m->cx, xml, d) || !vm_attest_now(m->cx, d->base, &base))
		return false;
	while (noted && noted->ino != base.ino)
		noted = vm_meta_file(m->cx->meta, noted->beneath);
	now = noted ? *noted : base;
	now.size = base.size;
	now.mtime_ns = base.mtime_ns;
	now.raw = l >= 0 && m->cx->d->layers[l].format == Q2_FORMAT_RAW; /* also where the note does not reach down to it */
	now.sum = 0;
	now.empty = false;
	vm_meta_set_frozen(m->cx->meta, &id, d->target, &now);
	return true;
}

static int note_frozen(struct vm_merge *m, struct vs_err *err)
{
	bool news = false;

	for (size_t i = 0; i < m->cx->n_records; i++) {
		vs_autofree char *text = NULL;
		struct vm_xml_snapshot *xml = NULL;

		if (goes(m, m->cx->records[i].name) || vm_dom_record(m->cx->dom, m->cx->records[i].name, &text, NULL) < 0 ||
		    vm_xml_snapshot_parse(text, &xml, NULL) < 0)
			continue;
		for (size_t k = 0; k < m->n_disks; k++)
			news |= vm_merge_moved(&m->disks[k]) && move_frozen(m, xml, &m->disks[k]);
		vm_xml_snapshot_free(xml);
	}
	return news ? vm_context_save(m->cx, err) : 0;
}

/* ---------------------------------------------------------------- all of them */

static int tell(struct vm_merge *m, const struct vm_context_record *record, const struct moves *moves, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = corrected(m, record->text, moves, &text, err);

	if (r > 0)
		tell_correction(m, record->name, (enum correction)r);
	return r;
}

int vm_merge_records(struct vm_merge *m, struct vs_err *err)
{
	struct moves moves = find_moves(m);
	struct vs_err local = {0};
	int r = 0, changed = 0;

	if (!err)
		err = &local;
	for (size_t i = 0; r >= 0 && i < m->cx->n_records; i++) {
		const struct vm_context_record *record = &m->cx->records[i];

		if (goes(m, record->name))
			continue;
		r = m->cx->try_only ? tell(m, record, &moves, err) : correct(m, record->name, &moves, err);
		changed += r > 0;
	}
	free(moves.v);
	if (r >= 0 && !m->cx->try_only)
		r = note_frozen(m, err);
	return r < 0 ? r : changed;
}

int vm_merge_forget(struct vm_merge *m, struct vs_err *err)
{
	int r = 0;

	for (size_t i = m->n_names; r == 0 && i-- > 0;) {
		r = vm_record_forget(m->cx->dom, m->names[i], err);
		if (r == -ENOENT) { /* somebody else was quicker */
			*err = (struct vs_err){0};
			r = 0;
		}
	}
	return r;
}
