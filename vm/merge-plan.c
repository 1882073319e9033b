/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which of the four things happens to each disk, and who is against it.
 *
 *      P <- L1 <- ... <- T <- X        the first snapshot of the line froze P; T is the overlay that the last one started
 *
 * Merging writes L1..T into P and removes them. It is right only if nobody but the line itself reads P, L1, .. as they were:
 * no other snapshot froze one of them except T (who froze T finds the same bytes in P afterwards), nothing else stands on
 * them, and nobody outside this domain needs any of them, T included. Layers with internal snapshots cannot go.
 *
 * A delete that finds one of these keeps the files and drops the record: nobody reads differently then. A commit was asked to
 * merge, so it refuses. What both refuse is to remove internal snapshots.
 *
 * *Done*: the snapshot is marked (we began), and T does not stand above P any more. Without the mark this would be somebody else's
 * commit or pull, and X standing on P now would wrongly be taken for what is to be merged: so X is only merged if it is the
 * overlay of the record, or if no other snapshot froze the recorded overlay, or if that is still there (after a pull).
 */
#include "vm/merge.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int oom(struct vs_err *err)
{
	return vs_err_set(err, -ENOMEM, "out of memory");
}

void vm_merge_fini(struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_disks; i++) {
		free(m->disks[i].target);
		free(m->disks[i].base);
		free(m->disks[i].top);
		for (size_t k = 0; k < m->disks[i].n_gone; k++)
			free(m->disks[i].gone[k]);
		free(m->disks[i].gone);
		free(m->disks[i].who);
	}
	for (size_t i = 0; i < m->n_names; i++)
		free(m->names[i]);
	if (m->w) {
		m->w->moving = NULL;
		m->w->n_moving = 0;
	}
	free(m->moving);
	free(m->disks);
	free(m->names);
	free(m->command);
	*m = (struct vm_merge){0};
}

/* ---------------------------------------------------------------- the line */

static bool in_line(const struct vm_merge *m, const char *name)
{
	for (size_t i = 0; i < m->n_names; i++)
		if (!strcmp(m->names[i], name))
			return true;
	return false;
}

static const struct vm_xml_snapdisk *disk_of(const struct vm_xml_snapshot *xml, const char *target)
{
	for (size_t i = 0; i < xml->n_disks; i++)
		if (!strcmp(xml->disks[i].target, target) && xml->disks[i].mode == VM_MODE_EXTERNAL)
			return &xml->disks[i];
	return NULL;
}

/* The path of the image that the disk froze, or NULL. */
static const char *frozen_path(const struct vm_xml_snapdisk *disk)
{
	return disk->frozen ? disk->frozen->source.path : NULL;
}

/* The overlay that the last one of the line started on this disk. */
static const char *recorded_top(const struct vm_merge *m, const char *target)
{
	const char *top = NULL;

	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_work_record *r = vm_work_record(m->w, m->names[i]);
		const struct vm_xml_snapdisk *disk = r ? disk_of(r->xml, target) : NULL;

		if (disk && disk->overlay.path)
			top = disk->overlay.path;
	}
	return top;
}

/* A snapshot outside the line that froze this file, by the records; NULL: none. */
static const char *other_froze(const struct vm_merge *m, const char *path)
{
	int layer = vm_work_layer(m->w, path);

	for (size_t i = 0; i < m->w->n_records; i++) {
		const struct vm_work_record *r = &m->w->records[i];

		for (size_t k = 0; !in_line(m, r->name) && k < r->xml->n_disks; k++) {
			const char *pit = r->xml->disks[k].mode == VM_MODE_EXTERNAL ? frozen_path(&r->xml->disks[k]) : NULL;

			if (pit && (!strcmp(pit, path) || (layer >= 0 && vm_work_layer(m->w, pit) == layer)))
				return r->name;
		}
	}
	return NULL;
}

static bool marked(const struct vm_merge *m, const char *target)
{
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_work_record *r = vm_work_record(m->w, m->names[i]);
		struct vm_own_id id = { m->names[i], r ? r->xml->created_s * INT64_C(1000000000) : 0, VM_EXTERNAL };

		if (r && vm_own_why_doomed(m->w->own, &id, target))
			return true;
	}
	return false;
}

/* ---------------------------------------------------------------- the layers */

static bool active_above(const struct vm_work *w, int layer)
{
	for (size_t i = 0; i < w->d->n_disks; i++)
		for (int l = w->d->disks[i].top, n = 0; l >= 0 && n < VM_CHAIN_MAX; l = w->d->layers[l].below, n++)
			if (l == layer)
				return true;
	return false;
}

/* Is @base beneath @top? *step: what stands on it on the way. */
static bool beneath(const struct vm_work *w, int base, int top, int *step)
{
	for (int l = top, n = 0; l >= 0 && n < VM_CHAIN_MAX; l = w->d->layers[l].below, n++) {
		if (w->d->layers[l].below != base)
			continue;
		*step = l;
		return true;
	}
	return false;
}

/* One layer that is written or goes. -EPERM. */
static int layer_free(const struct vm_merge *m, int layer, bool is_top, struct vs_err *err)
{
	const struct vm_layer *l = &m->w->d->layers[layer];
	const char *who = is_top ? NULL : other_froze(m, l->path);
	int one, r = vm_work_unshared(m->w, layer, "must stay as it is", err);

	if (r < 0)
		return r;
	if (who)
		return vs_err_set(err, -EPERM, "'%s' must stay as it is: snapshot '%s' is in it", l->path, who);
	if (vm_work_above(m->w, layer, &one) > 1)
		return vs_err_set(err, -EPERM, "'%s' must stay as it is: several branches stand on it", l->path);
	return 0;
}

/* May everything above @base up to @top go into it? *bytes. */
static int may_merge(const struct vm_merge *m, int base, int top, uint64_t *bytes, struct vs_err *err)
{
	int r = layer_free(m, base, false, err);

	*bytes = 0;
	for (int l = top; r == 0 && l != base; l = m->w->d->layers[l].below) {
		const char *inside = vm_work_internal_in(m->w, l);

		if (inside)
			return vs_err_set(err, -EPERM, "'%s' would go, and internal snapshot '%s' is stored in it: delete that first",
					  m->w->d->layers[l].path, inside);
		r = layer_free(m, l, l == top, err);
		*bytes += vm_work_allocated(m->w, l);
	}
	return r;
}

/* ---------------------------------------------------------------- one disk */

static int add_gone(struct vm_merge_disk *d, const char *path, struct vs_err *err)
{
	char **grown = reallocarray(d->gone, d->n_gone + 1, sizeof(*grown));

	if (grown)
		d->gone = grown;
	if (!grown || !(grown[d->n_gone] = strdup(path)))
		return oom(err);
	d->n_gone++;
	return 0;
}

/* Of an earlier run: the overlays that the records of the line name. */
static int set_done(const struct vm_merge *m, struct vm_merge_disk *d, const char *recorded, struct vs_err *err)
{
	int r = 0;

	d->what = VM_MERGE_DONE;
	d->top = strdup(recorded);
	for (size_t i = m->n_names; r == 0 && i-- > 0;) {
		const struct vm_work_record *record = vm_work_record(m->w, m->names[i]);
		const struct vm_xml_snapdisk *disk = record ? disk_of(record->xml, d->target) : NULL;

		if (disk && disk->overlay.path)
			r = add_gone(d, disk->overlay.path, err);
	}
	return r < 0 || d->top ? r : oom(err);
}

static int set_down(const struct vm_merge *m, struct vm_merge_disk *d, int base, int top, struct vs_err *err)
{
	int r = may_merge(m, base, top, &d->bytes, err);

	for (int l = top; r == 0 && l != base; l = m->w->d->layers[l].below)
		r = add_gone(d, m->w->d->layers[l].path, err);
	if (r < 0)
		return r;
	d->what = VM_MERGE_DOWN;
	d->top = strdup(m->w->d->layers[top].path);
	return d->top ? 0 : oom(err);
}

static int plan_commit(const struct vm_merge *m, struct vm_merge_disk *d, int base, const char *recorded, struct vs_err *err)
{
	int top = vm_work_layer(m->w, recorded), step;

	if (base < 0 || top < 0 || m->w->d->layers[base].error || !beneath(m->w, base, top, &step))
		return vs_err_set(err, -EOPNOTSUPP, "disk %s: '%s' does not stand on '%s' any more: delete the snapshot instead", d->target,
				  recorded ? recorded : "?", d->base);
	if (!active_above(m->w, top))
		return vs_err_set(err, -EOPNOTSUPP, "disk %s: '%s' is not beneath the active layer, and only what is can be merged: "
				  "revert to that branch, or delete it", d->target, recorded);
	return set_down(m, d, base, top, err);
}

static bool nobody_needs(const struct vm_merge *m, int base)
{
	const struct vm_layer *l = &m->w->d->layers[base];

	return !l->active && (!l->users || !l->users[0]) && !other_froze(m, l->path) && !vm_work_internal_in(m->w, base) &&
	       vm_work_made(m->w, l->path);
}

/* `base` goes, and with it what earlier deletes had to leave because it stood on that. */
static int set_drop(const struct vm_merge *m, struct vm_merge_disk *d, int base, struct vs_err *err)
{
	int r = 0, one;

	d->what = VM_MERGE_DROP;
	for (int l = m->w->d->layers[base].below, n = 0; r == 0 && l >= 0 && n < VM_CHAIN_MAX; l = m->w->d->layers[l].below, n++) {
		if (m->w->d->layers[l].error || vm_work_above(m->w, l, &one) != 1 || !nobody_needs(m, l))
			break;
		r = add_gone(d, m->w->d->layers[l].path, err);
	}
	return r;
}

/* An overlay that stands elsewhere now, after a pull: who froze it reads it where it is, and not in what it stood on. */
static bool is_there(const struct vm_merge *m, const char *recorded)
{
	int l = vm_work_layer(m->w, recorded);

	return l >= 0 && !m->w->d->layers[l].error;
}

/* But for the internal snapshots in it, could @top go into @base? */
static bool nobody_minds(const struct vm_merge *m, int base, int top)
{
	return layer_free(m, base, false, NULL) == 0 && layer_free(m, top, true, NULL) == 0;
}

/* What a refusal says of who needs the file is why it stays. */
static void note_who(struct vm_merge_disk *d, const struct vs_err *refusal)
{
	static const char before[] = "must stay as it is: ";
	const char *who = strstr(refusal->msg, before);

	d->who = strdup(who ? who + strlen(before) : refusal->msg);
}

static int plan_delete(const struct vm_merge *m, struct vm_merge_disk *d, int base, const char *recorded, struct vs_err *err)
{
	int above = -1, r;
	size_t n = vm_work_above(m->w, base, &above);
	struct vs_err why = {0};

	d->why = "other disks or snapshots need it";
	if (base < 0 || m->w->d->layers[base].error) {
		d->why = "it is gone";
		return 0;
	}
	if (n == 0 && nobody_needs(m, base))
		return set_drop(m, d, base, err);
	if (n != 1 || m->w->d->layers[base].active) {
		if (layer_free(m, base, false, &why) < 0)
			note_who(d, &why);
		return 0;
	}
	if (recorded && strcmp(m->w->d->layers[above].path, recorded) != 0 && vm_work_layer(m->w, recorded) != above &&
	    other_froze(m, recorded) && !is_there(m, recorded))
		return 0;
	if (!active_above(m->w, above)) {
		d->why = "what stands on it is not beneath the active layer";
		return 0;
	}
	r = set_down(m, d, base, above, &why);
	if (r == -EPERM && (!vm_work_internal_in(m->w, above) || !nobody_minds(m, base, above))) {
		note_who(d, &why);
		return 0;
	}
	return r < 0 ? vs_err_set(err, r, "%s", why.msg) : 0;
}

static int plan_disk(struct vm_merge *m, const struct vm_xml_snapdisk *first, struct vs_err *err)
{
	struct vm_merge_disk *d = &m->disks[m->n_disks++];
	const char *recorded = recorded_top(m, first->target);
	int base = vm_work_layer(m->w, frozen_path(first)), top = vm_work_layer(m->w, recorded), step;

	d->target = strdup(first->target);
	d->base = strdup(frozen_path(first) ? frozen_path(first) : "");
	d->format = first->frozen ? first->frozen->source.format : Q2_FORMAT_NONE;
	d->block = first->frozen && first->frozen->source.type == VM_SOURCE_BLOCK;
	if (!d->target || !d->base)
		return oom(err);
	if (recorded && marked(m, d->target) && base >= 0 && (top < 0 || !active_above(m->w, top) || !beneath(m->w, base, top, &step)))
		return set_done(m, d, recorded, err);
	return m->strict ? plan_commit(m, d, base, recorded, err) : plan_delete(m, d, base, recorded, err);
}

/* ---------------------------------------------------------------- all */

static int check_member(const struct vm_merge *m, const char *name, struct vs_err *err)
{
	const struct vm_work_record *r = vm_work_record(m->w, name);
	struct vm_own_id id = { name, r ? r->xml->created_s * INT64_C(1000000000) : 0, VM_EXTERNAL };
	const struct vm_own_snapshot *said = r ? vm_own_find(m->w->own, &id) : NULL;

	if (!r)
		return vs_err_set(err, -ENOENT, "libvirt has no record of a snapshot '%s'", name);
	if (said && said->held)
		return vs_err_set(err, -EPERM, "snapshot '%s' is held: release it first", name);
	if (r->xml->kind != VM_EXTERNAL || r->xml->note)
		return vs_err_set(err, -EOPNOTSUPP, "snapshot '%s' %s", name, r->xml->note ? r->xml->note : "is internal: delete frees it");
	return 0;
}

static int copy_names(struct vm_merge *m, const char *const *names, size_t n)
{
	m->names = calloc(n + 1, sizeof(*m->names));
	for (size_t i = 0; m->names && i < n; i++)
		if ((m->names[i] = strdup(names[i])))
			m->n_names++;
	return m->names && m->n_names == n ? 0 : -ENOMEM;
}

int vm_merge_plan(struct vm_merge *m, struct vm_work *w, const char *const *names, size_t n, bool strict, char *command,
		  struct vs_err *err)
{
	const struct vm_work_record *first;
	int r;

	*m = (struct vm_merge){ .w = w, .strict = strict, .command = command };
	if (!command || copy_names(m, names, n) < 0)
		return oom(err);
	for (size_t i = 0; i < n; i++) {
		r = check_member(m, names[i], err);
		if (r < 0)
			return r;
	}
	first = vm_work_record(w, names[0]);
	m->disks = calloc(first->xml->n_disks + 1, sizeof(*m->disks));
	if (!m->disks)
		return oom(err);
	r = 0;
	for (size_t i = 0; r == 0 && i < first->xml->n_disks; i++)
		if (first->xml->disks[i].mode == VM_MODE_EXTERNAL)
			r = plan_disk(m, &first->xml->disks[i], err);
	return r;
}
