/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What our metadata say, written into a draft. */
#include "vm/inventory/draft.h"

#include <string.h>

#include "vm/meta/made.h"
#include "vm/meta/meta.h"
#include "vm/meta/store.h"
#include "vm/util/clock.h"
#include "vm/util/lock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* libvirt's record knows whole seconds; an entry that nobody recorded knows its own time. */
static int64_t identity_ns(const struct vm_draft_snapshot *s)
{
	const struct q2_snapshot *entry = s->n_disks ? s->disks[0].entry : NULL;

	if (s->recorded || !entry)
		return s->created_ns;
	return entry->date_sec * VM_NS_PER_S + entry->date_nsec;
}

static void draw_attested(struct vm_draft_snapshot *s, const struct vm_meta *meta, const struct vm_meta_snapshot *said,
			  struct vm_arena *arena)
{
	struct q2_stamp *stamps = vm_arena_calloc(arena, said->n_attested, sizeof(*stamps));
	size_t n = 0;

	for (size_t i = 0; i < said->n_attested; i++) {
		const struct vm_meta_file *file = vm_meta_file(meta, said->attested[i]);

		if (file)
			stamps[n++] = (struct q2_stamp){ .ino = file->ino, .size = file->size, .mtime_ns = file->mtime_ns };
	}
	for (size_t k = 0; k < s->n_disks; k++) {
		s->disks[k].fact.attested = stamps;
		s->disks[k].fact.n_attested = n;
	}
}

/* One of each file that is noted, in their order. */
static struct vm_fact_note *draw_notes(const struct vm_meta *meta, struct vm_arena *arena)
{
	struct vm_fact_note *notes = vm_arena_calloc(arena, meta->n_files, sizeof(*notes));

	for (size_t i = 0; i < meta->n_files; i++) {
		const struct vm_meta_file *f = &meta->files[i], *beneath = vm_meta_file(meta, f->beneath);

		notes[i] = (struct vm_fact_note){
			.stamp = { .ino = f->ino, .size = f->size, .mtime_ns = f->mtime_ns }, .beneath = beneath ? &notes[beneath - meta->files] : NULL,
			.alone = f->alone, .raw = f->raw, .empty = f->empty, .sum = f->sum, .survived = f->survived,
		};
	}
	return notes;
}

static void draw_frozen(struct vm_draft_snapshot *s, const struct vm_meta *meta, const struct vm_meta_id *id, const struct vm_fact_note *notes)
{
	for (size_t k = 0; k < s->n_disks; k++) {
		const struct vm_meta_file *file = vm_meta_frozen(meta, id, s->disks[k].fact.target);

		s->disks[k].fact.froze = file ? &notes[file - meta->files] : NULL;
		s->disks[k].fact.spoilt = vm_meta_is_spoilt(meta, id, s->disks[k].fact.target);
		s->disks[k].fact.shows = vm_meta_shows(meta, id, s->disks[k].fact.target);
	}
}

static void draw_doomed(struct vm_draft_snapshot *s, const struct vm_meta *meta, const struct vm_meta_id *id)
{
	for (size_t k = 0; k < s->n_disks; k++)
		s->disks[k].fact.doomed = vm_meta_why_doomed(meta, id, s->disks[k].fact.target);
}

/* What is begun is begun, whichever snapshots it was to remove: several of one name and second have one mark, and a record that others
 * took away leaves it. So the merges are those of the marks, each mark once. */
static void draw_merges(struct vm_draft *d, const struct vm_meta *meta, struct vm_arena *arena)
{
	vs_autofree const struct vm_meta_mark **marks = xcalloc(meta->n_snapshots, sizeof(*marks));
	size_t n_marks = vm_meta_marks(meta, marks), n = 0;

	for (size_t i = 0; i < n_marks; i++)
		n += marks[i]->n_disks;
	d->merges = vm_arena_calloc(arena, n, sizeof(*d->merges));
	for (size_t i = 0; i < n_marks; i++)
		for (size_t k = 0; k < marks[i]->n_disks; k++)
			if (marks[i]->disks[k].path)
				d->merges[d->n_merges++] = (struct vm_draft_merge){
					marks[i]->disks[k].path, marks[i]->disks[k].top, marks[i]->disks[k].done ? 0 : marks[i]->disks[k].above_ino,
					marks[i]->disks[k].left_ns, marks[i]->is_void,
				};
	d->at_work = d->n_merges && !d->image && vm_lock_is_taken(d->uuid);
}

/* Is a disk, or what it stands on, one that it had when the metadata were stored? */
static bool has_file_of(const struct vm_draft *d, const struct vm_chains *chains, const struct vm_meta *meta)
{
	for (size_t i = 0; i < d->n_disks; i++)
		for (int f = d->disks[i].fact.top, n = 0; f != VM_NO_FILE && n < VM_CHAIN_MAX; f = chains->fact[f].below, n++) {
			vs_autofree char *id = vm_made_identity(chains->fact[f].path);

			if (id && vm_meta_is_on(meta, id))
				return true;
		}
	return false;
}

/* Of an image nothing but the file itself is known, and that has lost what was said of it. */
static bool is_of(const struct vm_draft *d, const struct vm_chains *chains, const struct vm_meta *meta)
{
	if (!d->image && meta->on && has_file_of(d, chains, meta))
		return true;
	for (size_t i = 0; i < d->n_snapshots; i++) {
		const struct vm_draft_snapshot *s = &d->snapshots[i];
		struct vm_meta_id id = { s->name, identity_ns(s), s->kind };

		if (!s->present && vm_meta_find(meta, &id))
			return true;
	}
	return false;
}

void vm_draft_disown(const struct vm_draft *d, const struct vm_chains *chains, struct vm_meta *best, struct vm_store *store)
{
	vs_autofree char *policy = best->policy && !is_of(d, chains, best) ? vm_store_disown(store, d->uuid) : NULL;

	if (!policy)
		return;
	vm_meta_set_policy(best, NULL);
	vm_log_warn(d->log, "the policy '%s' was noted for another one of this %s: this one has neither our metadata nor any snapshot or file that "
	       "they name, so it is off until somebody sets it", policy, d->image ? "path" : "UUID");
}

static void drop_meta(void *meta)
{
	vm_meta_free(meta);
}

static void draw_nv(struct vm_draft *d, struct vm_draft_snapshot *s, const struct vm_meta_nv *said, struct vm_chains *chains, struct vm_arena *arena)
{
	int file = vm_chains_path(chains, said->path, Q2_FORMAT_RAW, d->gate);
	const struct vm_fact_file *f = &chains->fact[file];

	VM_ARENA_GROW(arena, s->beside, s->n_beside, s->beside_room);
	s->beside[s->n_beside++] = (struct vm_fact_beside){ file, vm_arena_printf(arena, "its %s", said->what) };
	s->nv[s->n_nv++] = (struct vm_draft_nv){ said->what, file, !f->error && f->stamp.size == said->size && f->stamp.mtime_ns == said->mtime_ns };
}

void vm_draft_nv(struct vm_draft *d, const struct vm_meta *meta, struct vm_chains *chains, struct vm_arena *arena,
		 bool (*may)(const void *opaque, const struct vm_draft_snapshot *s, const char *path), const void *opaque)
{
	for (size_t i = 0; i < d->n_snapshots; i++) {
		struct vm_draft_snapshot *s = &d->snapshots[i];
		struct vm_meta_id id = { s->name, identity_ns(s), s->kind };
		const struct vm_meta_snapshot *said = s->present ? NULL : vm_meta_find(meta, &id);

		if (!said || !said->n_nv)
			continue;
		s->nv = vm_arena_calloc(arena, said->n_nv, sizeof(*s->nv));
		for (size_t k = 0; k < said->n_nv; k++)
			if (may(opaque, s, said->nv[k].path))
				draw_nv(d, s, &said->nv[k], chains, arena);
	}
}

static bool is_borne(const void *opaque, const char *name)
{
	const struct vm_draft *d = opaque;

	for (size_t i = 0; i < d->n_snapshots; i++)
		if (!strcmp(d->snapshots[i].name, name))
			return true;
	return false;
}

static bool is_noted_as_ours(const struct vm_meta *meta, const struct vm_draft_snapshot *s)
{
	struct vm_meta_id id = { s->name, identity_ns(s), s->kind };
	const struct vm_meta_snapshot *said = vm_meta_find(meta, &id);

	return said && said->ours;
}

/* Of several that were taken in one second one was held, and has another name now. It is none that we took under the name that it has, if there is
 * any other. */
static bool is_another(const struct vm_draft *d, const struct vm_meta *meta, const struct vm_draft_snapshot *s)
{
	if (!is_noted_as_ours(meta, s))
		return false;
	for (size_t i = 0; i < d->n_snapshots; i++) {
		const struct vm_draft_snapshot *o = &d->snapshots[i];

		if (!o->present && o->kind == s->kind && identity_ns(o) == identity_ns(s) && !is_noted_as_ours(meta, o))
			return true;
	}
	return false;
}

void vm_draft_meta(struct vm_draft *d, struct vm_meta *meta, struct vm_arena *arena)
{
	const struct vm_fact_note *notes = draw_notes(meta, arena);
	size_t n_held = 0;

	for (size_t i = 0; i < meta->n_snapshots; i++)
		n_held += meta->snapshots[i].held;
	vm_arena_own(arena, meta, drop_meta);
	d->commanded = !d->image && meta->serial != 0;
	draw_merges(d, meta, arena);
	for (size_t i = 0; i < d->n_snapshots; i++) {
		struct vm_draft_snapshot *s = &d->snapshots[i];
		struct vm_meta_id id = { s->name, identity_ns(s), s->kind };
		const struct vm_meta_snapshot *said = s->present ? NULL : vm_meta_find(meta, &id);

		if (n_held && !s->present && !(said && said->held)) {
			size_t at = 0;

			s->held = vm_meta_held_as(meta, &id, is_borne, d, &at) && !is_another(d, meta, s);
		}
		if (!said)
			continue;
		s->held |= said->held;
		s->ours = said->ours;
		draw_attested(s, meta, said, arena);
		draw_frozen(s, meta, &id, notes);
		if (said->mark)
			draw_doomed(s, meta, &id);
	}
}
