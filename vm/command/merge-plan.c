/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What happens to each disk of a line of snapshots that goes. Questions to the look only; nothing is changed here.
 *
 *     base          what the first of the line froze
 *     top           the overlay that the last of the line started, or where that is not there any more (after a revert), whatever
 *                   alone stands on what it froze
 *
 *     the line was begun before    the intent says which files, and what became of them (intent.c); nothing is planned anew but
 *                                  whether a merge that has to be done again may be
 *     somebody needs base or top   delete: the files stay, the records go. commit: refused
 *     nobody knows                 refused, for both
 *     one layer stands on base     it goes down
 *     nothing does                 base goes, if a snapshot or a command of ours made it and nothing is stored in it
 *     several do                   branches: the files stay
 *
 * A chain with a hole is not worked on: where a layer of a disk is missing or cannot be read, nobody knows what the guest would find
 * after its next start. The one exception is a snapshot whose own image is gone and that nothing else depends on: its record is all
 * that is left of it, and may go.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/command/check.h"
#include "vm/command/fit.h"
#include "vm/command/intent.h"
#include "vm/command/merge.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define NO_PATH "?" /* a base that is no file of this host */

/* ---------------------------------------------------------------- life */

void vm_merge_fini(struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_names; i++)
		free(m->names[i]);
	free(m->names);
	for (size_t i = 0; i < m->n_disks; i++) {
		struct vm_merge_disk *d = &m->disks[i];

		for (size_t k = 0; k < d->n_gone; k++)
			free(d->gone[k].path);
		free(d->gone);
		free(d->target);
		free(d->base);
		free(d->top);
		free(d->why);
		vm_held_fini(&d->held);
	}
	free(m->disks);
	free(m->moving);
	if (m->cx) {
		m->cx->moving = NULL;
		m->cx->n_moving = 0;
	}
	free(m->command);
	free(m->is_void);
	*m = (struct vm_merge){0};
}

/* ---------------------------------------------------------------- the line */

static const struct vm_xml_snapdisk *disk_of(const struct vm_xml_snapshot *xml, const char *target)
{
	for (size_t i = 0; i < xml->n_disks; i++)
		if (!strcmp(xml->disks[i].target, target) && xml->disks[i].mode == VM_MODE_EXTERNAL)
			return &xml->disks[i];
	return NULL;
}

/* The last of the line that took part with this disk. */
static const struct vm_context_record *last_with(const struct vm_merge *m, const char *target)
{
	for (size_t i = m->n_names; i-- > 0;) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);

		if (record && disk_of(record->xml, target))
			return record;
	}
	return NULL;
}

/* ---------------------------------------------------------------- layers */

static const struct vm_layer *layer_at(const struct vm_merge *m, int layer)
{
	return &m->cx->d->layers[layer];
}

/* The layer that stands on @base on the way down from @top; -1: base is not beneath it. */
static int step_above(const struct vm_merge *m, int base, int top)
{
	for (int l = top, n = 0; l >= 0 && n < VM_CHAIN_MAX; l = layer_at(m, l)->below, n++)
		if (layer_at(m, l)->below == base)
			return l;
	return -1;
}

/* The active layer of this disk as it is now; -1: it has none that we can see. */
static int active_of(const struct vm_merge *m, const char *target)
{
	for (size_t i = 0; i < m->cx->d->n_disks; i++)
		if (!strcmp(m->cx->d->disks[i].target, target))
			return m->cx->d->disks[i].top;
	return -1;
}

static bool beneath_active(const struct vm_merge *m, const char *target, int layer)
{
	for (int l = active_of(m, target), n = 0; l >= 0 && n < VM_CHAIN_MAX; l = layer_at(m, l)->below, n++)
		if (l == layer)
			return true;
	return false;
}

/* ---------------------------------------------------------------- may they be changed */

/* One layer that is written or goes. A top may be what a later snapshot froze: that one reads the base then. */
static enum vm_need need_of(const struct vm_merge *m, int layer, bool is_top, struct vs_err *err)
{
	struct vm_leaving leaving = vm_merge_leaving(m);
	enum vm_need need = vm_need(m->cx, layer, &leaving, !is_top, err);
	int one;

	if (need == VM_NEED_NOT && vm_context_above(m->cx, layer, &one) > 1) {
		vs_err_set(err, -EPERM, "'%s' must stay as it is: several branches stand on it", layer_at(m, layer)->path);
		return VM_NEED_BY;
	}
	if (need == VM_NEED_NOT && layer_at(m, layer)->active && vm_context_above(m->cx, layer, &one) > 0) {
		vs_err_set(err, -EPERM, "'%s' must stay as it is: '%s' stands on it", layer_at(m, layer)->path, layer_at(m, one)->path);
		return VM_NEED_BY;
	}
	return need;
}

/* Of everything above @base up to @top, and of that: the worst. */
static enum vm_need needs(const struct vm_merge *m, int base, int top, struct vs_err *err)
{
	enum vm_need worst = need_of(m, base, false, err);
	struct vs_err more = {0};

	for (int l = top; worst != VM_NEED_UNKNOWN && l != base; l = layer_at(m, l)->below) {
		enum vm_need need = need_of(m, l, l == top, &more);

		if (need <= worst)
			continue;
		worst = need;
		if (err)
			*err = more;
	}
	return worst;
}

/* The name of an internal snapshot that would go with its layer; NULL: none would. */
static const char *stored_above(const struct vm_merge *m, int base, int top, int *where)
{
	for (int l = top; l != base; l = layer_at(m, l)->below) {
		const char *inside = vm_context_internal_in(m->cx, l);

		*where = l;
		if (inside)
			return inside;
	}
	return NULL;
}

/* ---------------------------------------------------------------- what is to be done with a disk */

static void add_gone(struct vm_merge_disk *d, const struct vm_layer *l)
{
	d->gone = xreallocarray(d->gone, d->n_gone + 1, sizeof(*d->gone));
	d->gone[d->n_gone++] = (struct vm_doomed_file){ xstrdup(l->path), l->stamp };
}

static void keep(struct vm_merge_disk *d, const char *why)
{
	static const char before[] = "must stay as it is: "; /* of a guard's sentence: who needs it is why it stays */
	const char *who = strstr(why, before);

	d->what = VM_MERGE_KEEP;
	d->why = xstrdup(who ? who + strlen(before) : why);
}

static void go_down(const struct vm_merge *m, struct vm_merge_disk *d, int base, int top)
{
	int above = -1;

	d->what = VM_MERGE_DOWN;
	free(d->base);
	d->base = xstrdup(layer_at(m, base)->path);
	d->top = xstrdup(layer_at(m, top)->path);
	d->base_stamp = layer_at(m, base)->stamp;
	d->top_stamp = layer_at(m, top)->stamp;
	if (vm_context_above(m->cx, top, &above) == 1)
		d->above_ino = layer_at(m, above)->stamp.ino;
	for (int l = top; l != base; l = layer_at(m, l)->below)
		add_gone(d, layer_at(m, l));
	d->bytes = m->cx->survey ? 0 : vm_check_cost(m->cx, base, top);
}

static bool is_transient(const struct vm_merge *m, const char *target)
{
	for (size_t i = 0; i < m->cx->d->n_disks; i++)
		if (!strcmp(m->cx->d->disks[i].target, target))
			return m->cx->d->disks[i].transient;
	return false;
}

/* Guards of a merge. Keeps, where that is what is asked for. */
static int guarded_down(const struct vm_merge *m, struct vm_merge_disk *d, int base, int top, bool may_keep, struct vs_err *err)
{
	struct vs_err why = {0};
	enum vm_need need = needs(m, base, top, &why);
	int where = -1;
	const char *inside = stored_above(m, base, top, &where);
	int r;

	if (need == VM_NEED_BY && may_keep) {
		keep(d, why.msg);
		return 0;
	}
	if (is_transient(m, d->target))
		return vs_err_set(err, -EOPNOTSUPP, "disk %s is transient, which takes no block jobs", d->target);
	r = vm_check_slice(m->cx, d->target, base, err);
	if (r == 0)
		r = vm_check_slice(m->cx, d->target, top, err);
	if (r < 0)
		return r;
	if (need != VM_NEED_NOT)
		return vs_err_set(err, why.code, "disk %s: %s", d->target, why.msg);
	r = m->resumed ? 0 : vm_check_links(m->cx, d->target, base, err);
	if (r < 0)
		return r;
	if (inside)
		return vs_err_set(err, -EPERM, "'%s' would go, and internal snapshot '%s' is stored in it: delete that first",
				  layer_at(m, where)->path, inside);
	r = vm_fit_merge(m->cx, d->target, base, top, m->resumed, err);
	if (r == 0)
		go_down(m, d, base, top);
	return r;
}

/* `base` goes, and with it what earlier deletes had to leave because it stood on that. */
static int drop(const struct vm_merge *m, struct vm_merge_disk *d, int base, struct vs_err *err)
{
	struct vm_leaving leaving = vm_merge_leaving(m);
	struct vs_err why = {0};
	enum vm_need need = vm_need(m->cx, base, &leaving, true, &why);
	const char *inside = vm_context_internal_in(m->cx, base);
	int one;

	if (need == VM_NEED_UNKNOWN)
		return vs_err_set(err, why.code, "disk %s: %s", d->target, why.msg);
	if (need == VM_NEED_BY || inside || !vm_made(m->cx, base)) {
		vs_autofree char *stored = inside ? xasprintf("internal snapshot '%s' is stored in it", inside) : NULL;

		keep(d, need == VM_NEED_BY ? why.msg : stored ? stored : "nothing says that a snapshot made it");
		return 0;
	}
	d->what = VM_MERGE_DROP;
	add_gone(d, layer_at(m, base));
	for (int l = layer_at(m, base)->below, n = 0; l >= 0 && n < VM_CHAIN_MAX; l = layer_at(m, l)->below, n++) {
		if (layer_at(m, l)->error || layer_at(m, l)->active || vm_context_above(m->cx, l, &one) != 1 ||
		    vm_context_internal_in(m->cx, l) ||
		    !vm_made(m->cx, l) || vm_need(m->cx, l, &leaving, true, NULL) != VM_NEED_NOT)
			break;
		add_gone(d, layer_at(m, l));
	}
	return 0;
}

/* The layers that the disk writes through: one that is missing or unreadable makes everything unknown. */
static int check_chain(const struct vm_merge *m, const char *target, struct vs_err *err)
{
	return vm_check_whole(m->cx, target, err);
}

/* Where the chain of the disk could not be followed before it came to @base, that may be beneath it: nobody knows. */
static int check_followed(const struct vm_merge *m, const char *target, int base, struct vs_err *err)
{
	int l = active_of(m, target);

	for (int n = 0; l >= 0 && l != base && n < VM_CHAIN_MAX; l = layer_at(m, l)->below, n++)
		if (layer_at(m, l)->ends)
			return vs_err_set(err, -EPERM, "disk %s: what its layer '%s' stands on is not followed, so nobody knows whether that is '%s': %s", target,
					  layer_at(m, l)->path, layer_at(m, base)->path, layer_at(m, l)->ends);
	return 0;
}

/* ---------------------------------------------------------------- a delete */

static int plan_delete(const struct vm_merge *m, struct vm_merge_disk *d, int base, struct vs_err *err)
{
	int above = -1, r;
	struct stat st;
	size_t n;

	if (base < 0 || layer_at(m, base)->error) {
		vs_autofree char *why = NULL;

		if (base >= 0 && layer_at(m, base)->error != -ENOENT)
			return vs_err_set(err, layer_at(m, base)->error == -EACCES ? -EACCES : -EPERM, "disk %s: '%s' %s", d->target, d->base,
					  layer_at(m, base)->note ? layer_at(m, base)->note : "cannot be read");
		r = check_chain(m, d->target, err);
		if (r < 0)
			return r;
		if (base < 0 && d->base[0] == '/' && (lstat(d->base, &st) == 0 || errno != ENOENT))
			return vs_err_set(err, -EPERM, "disk %s: nobody can tell who uses '%s', which the look did not meet", d->target, d->base);
		why = xasprintf(d->base[0] == '/' ? "its image '%s' is missing, so its record is all that goes" :
			"its image, %s, is no file of this host, so its record is all that goes", d->base);
		keep(d, why);
		return 0;
	}
	r = check_chain(m, d->target, err);
	if (r == 0)
		r = check_followed(m, d->target, base, err);
	if (r < 0)
		return r;
	n = vm_context_above(m->cx, base, &above);
	if (layer_at(m, base)->active) {
		keep(d, "a disk of the domain writes to it");
		return 0;
	}
	if (n == 0)
		return drop(m, d, base, err);
	if (n > 1) {
		struct vs_err why = {0};

		need_of(m, base, false, &why);
		keep(d, why.msg);
		return 0;
	}
	if (!beneath_active(m, d->target, above)) {
		keep(d, "what stands on it is not beneath the active layer");
		return 0;
	}
	return guarded_down(m, d, base, above, true, err);
}

/* ---------------------------------------------------------------- a commit */

/* What the last of the line started on this disk: its overlay, or what alone stands on what it froze. */
static int find_top(const struct vm_merge *m, const char *target, int base)
{
	const struct vm_context_record *last = last_with(m, target);
	const struct vm_xml_snapdisk *disk = last ? disk_of(last->xml, target) : NULL;
	int top = disk && disk->overlay.path ? vm_context_layer(m->cx, disk->overlay.path) : -1, pit, above = -1;

	if (top >= 0 && step_above(m, base, top) >= 0)
		return top;
	pit = last ? vm_context_layer(m->cx, vm_context_image(m->cx, last, target, NULL)) : -1;
	return pit >= 0 && vm_context_above(m->cx, pit, &above) == 1 && step_above(m, base, above) >= 0 ? above : -1;
}

static int plan_commit(const struct vm_merge *m, struct vm_merge_disk *d, int base, struct vs_err *err)
{
	int top, r = check_chain(m, d->target, err);

	if (r < 0)
		return r;
	top = base < 0 || layer_at(m, base)->error ? -1 : find_top(m, d->target, base);
	if (top < 0)
		return vs_err_set(err, -EOPNOTSUPP, "disk %s: what '%s' started does not stand on '%s' any more: delete the snapshot instead",
				  d->target, m->names[m->n_names - 1], d->base);
	if (!beneath_active(m, d->target, top))
		return vs_err_set(err, -EOPNOTSUPP, "disk %s: '%s' is not beneath the active layer, and only what is can be merged: revert to "
				  "that branch, or delete it", d->target, layer_at(m, top)->path);
	return guarded_down(m, d, base, top, false, err);
}

/* ---------------------------------------------------------------- what was begun before */

/* How many layers lie between it and @base; 0: it does not stand on that. */
static size_t height(const struct vm_merge *m, int layer, int base)
{
	size_t n = 0;

	for (int l = layer; l >= 0 && n < VM_CHAIN_MAX; l = layer_at(m, l)->below, n++)
		if (l == base)
			return n;
	return 0;
}

/* The overlays that the line started on this disk and that are there still, the uppermost first. Some may have been removed. */
static void add_merged(const struct vm_merge *m, struct vm_merge_disk *d, int base)
{
	vs_autofree int *layers = xcalloc(m->n_names, sizeof(*layers));
	size_t n = 0;

	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);
		const struct vm_xml_snapdisk *disk = record ? disk_of(record->xml, d->target) : NULL;
		int layer = disk && disk->overlay.path ? vm_context_layer(m->cx, disk->overlay.path) : -1;

		if (layer < 0 || layer_at(m, layer)->error || !height(m, layer, base))
			continue;
		layers[n++] = layer;
		for (size_t k = n - 1; k > 0 && height(m, layers[k - 1], base) < height(m, layers[k], base); k--) {
			int swap = layers[k];

			layers[k] = layers[k - 1];
			layers[k - 1] = swap;
		}
	}
	for (size_t i = 0; i < n; i++)
		add_gone(d, layer_at(m, layers[i]));
}

static void was_done(const struct vm_merge *m, struct vm_merge_disk *d, const struct vm_meta_doomed *intent)
{
	int base = vm_context_layer(m->cx, intent->path), top = intent->top ? vm_context_layer(m->cx, intent->top) : -1;
	bool top_is_there = top >= 0 && !layer_at(m, top)->error;

	d->what = VM_MERGE_DONE;
	d->top = xstrdup(intent->top ? intent->top : "");
	d->unproven = intent->pivoting && !intent->done;
	if (base >= 0)
		d->base_stamp = layer_at(m, base)->stamp;
	if (top_is_there)
		d->top_stamp = layer_at(m, top)->stamp;
	/* what has the name of the top may be somebody's by now: then nothing is sure */
	if (!d->unproven && (!top_is_there || d->top_stamp.ino == intent->top_ino))
		add_merged(m, d, base);
}

static int plan_begun(struct vm_merge *m, struct vm_merge_disk *d, const struct vm_meta_doomed *intent, struct vs_err *err)
{
	char why[VS_ERR_MAX] = "";
	int code = -EPERM, base;

	free(d->base);
	d->base = xstrdup(intent->path ? intent->path : "");
	base = vm_context_layer(m->cx, d->base); /* not what the record names by now: libvirt may have re-written that */
	if (base >= 0) {
		d->block = layer_at(m, base)->stamp.block;
		d->format = layer_at(m, base)->format;
	}
	switch (vm_intent_disk(m->cx, intent, why, &code)) {
	case VM_INTENT_DONE:
		was_done(m, d, intent);
		return 0;
	case VM_INTENT_VOID:
		if (!m->is_void)
			m->is_void = xstrdup(why);
		return 0;
	case VM_INTENT_UNKNOWN: {
		vs_autofree char *said = vm_intent_repeat(m->command);

		return vs_err_set(err, code, "'%s' was begun, and %s: mend that (where the domain runs, shut it down), and repeat it", said, why);
	}
	case VM_INTENT_REDO:
		break;
	}
	return guarded_down(m, d, vm_context_layer(m->cx, intent->path), vm_context_layer(m->cx, intent->top), false, err);
}

/* ---------------------------------------------------------------- all disks */

static int plan_disk(struct vm_merge *m, const struct vm_context_record *record, const struct vm_xml_snapdisk *first,
		     struct vs_err *err)
{
	const struct vm_meta_mark *mark = vm_intent_mark(m->cx, record);
	const struct vm_meta_doomed *intent = vm_intent_of(mark, first->target);
	struct vm_merge_disk *d = &m->disks[m->n_disks++];
	enum q2_format format = Q2_FORMAT_NONE;
	const char *path = vm_context_image(m->cx, record, first->target, &format);
	int base = path ? vm_context_layer(m->cx, path) : -1;

	d->target = xstrdup(first->target);
	d->base = xstrdup(path ? path : first->frozen && first->frozen->source.text ? first->frozen->source.text : NO_PATH);
	d->format = format;
	if (base >= 0) {
		d->block = layer_at(m, base)->stamp.block;
		d->format = layer_at(m, base)->format;
	}
	if (mark && mark->is_void && intent && vm_intent_is_ahead(m->cx, intent))
		return vs_err_set(err, -EBUSY, "'%s' was begun and has become void, and what stood on '%s' says that it stands on '%s', where not all of that is: "
				  "shut the domain down, then it is put right", mark->command, intent->top ? intent->top : "?", intent->path);
	if (mark && mark->is_void) {
		keep(d, "a command that has become void may have written to it");
		return 0;
	}
	if (intent)
		return plan_begun(m, d, intent, err);
	return m->mode == VM_MERGE_COMMIT ? plan_commit(m, d, base, err) : plan_delete(m, d, base, err);
}

static const struct vm_snapshot *shown_of(const struct vm_context *cx, const char *name)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		if (!cx->d->snapshots[i].present && cx->d->snapshots[i].recorded && !strcmp(cx->d->snapshots[i].name, name))
			return &cx->d->snapshots[i];
	return NULL;
}

static int check_member(const struct vm_merge *m, const char *name, struct vs_err *err)
{
	const struct vm_context_record *r = vm_context_record(m->cx, name);
	const struct vm_snapshot *s = shown_of(m->cx, name);
	struct vm_meta_id id = { name, r ? r->xml->created_s * VM_NS_PER_S : 0, VM_EXTERNAL };
	const struct vm_meta_snapshot *said = r ? vm_meta_find(m->cx->meta, &id) : NULL;

	if (!r)
		return vs_err_set(err, -ENOENT, "libvirt has no record of a snapshot '%s'", name);
	if (said && said->held)
		return vs_err_set(err, -EPERM, "snapshot '%s' is held: release it first", name);
	if (r->xml->kind != VM_EXTERNAL || r->xml->note)
		return vs_err_set(err, -EOPNOTSUPP, "snapshot '%s' %s", name, r->xml->note ? r->xml->note : "is internal: delete frees it");
	if (s && s->users && s->users[0])
		return vs_err_set(err, -EPERM, "snapshot '%s' must stay: %s stands on its file in a virt-snapfs mount%s", s->shown, s->users[0],
				  s->users[1] ? ", and others do" : "");
	return 0;
}

int vm_merge_plan(struct vm_merge *m, struct vm_context *cx, const char *const *names, size_t n, enum vm_merge_mode mode,
		  char *command,
		  struct vs_err *err)
{
	const struct vm_context_record *first;
	int r = 0;

	*m = (struct vm_merge){ .cx = cx, .mode = mode, .command = command, .names = xcalloc(n, sizeof(*m->names)) };
	for (; m->n_names < n; m->n_names++)
		m->names[m->n_names] = xstrdup(names[m->n_names]);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = check_member(m, names[i], err);
	if (r < 0)
		return r;
	first = vm_context_record(cx, names[0]);
	m->resumed = vm_intent_mark(cx, first) && !vm_intent_mark(cx, first)->is_void;
	m->disks = xcalloc(first->xml->n_disks, sizeof(*m->disks));
	for (size_t i = 0; r == 0 && i < first->xml->n_disks; i++)
		if (first->xml->disks[i].mode == VM_MODE_EXTERNAL)
			r = plan_disk(m, first, &first->xml->disks[i], err);
	return r;
}
