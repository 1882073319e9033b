/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* revert. */
#include "vm/engine.h"
#include "vm/work.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define UNTOUCHED_S 2 /* between a snapshot's time, which is that of the call, and the last write of making it */

struct old_layer {
	char *target, *path, *below; /* `below` NULL: nothing */
	bool needed; /* while it is active, by others than this disk: when it is not any more, the picture may not have it */
};

/* Was this file made by a snapshot or a revert? By its record or our notes; else, for one of a snapshot over `below`, by its
 * name, which carries both. */
static bool our_overlay(const struct vm_work *w, const struct old_layer *old)
{
	if (vm_own_has_made(w->own, old->path))
		return true;
	for (size_t i = 0; i < w->n_records; i++) {
		if (vm_act_proves(w->records[i].xml, old->path))
			return true;
		for (unsigned attempt = 1; old->below && attempt <= 32; attempt++) {
			vs_autofree char *path = NULL, **names = calloc(w->n_records, sizeof(*names));

			for (size_t k = 0; names && k < w->n_records; k++)
				names[k] = w->records[k].name;
			if (names && vm_act_overlay_path(old->below, names, w->n_records, w->records[i].name, attempt, &path) == 0 &&
			    !strcmp(path, old->path))
				return true;
		}
	}
	return false;
}

/* Does a record's frozen image lead here? */
static bool frozen_by_record(const struct vm_work *w, const char *path)
{
	for (size_t i = 0; i < w->n_records; i++)
		for (size_t k = 0; k < w->records[i].xml->n_disks; k++) {
			const struct vm_xml_disk *frozen = w->records[i].xml->disks[k].frozen;

			if (frozen && frozen->source.path && !strcmp(frozen->source.path, path))
				return true;
		}
	return false;
}

/* For a repetition: the layers are out of use as soon as the definition is the old one. */
static int note_drops(struct vm_work *w, const struct old_layer *old, size_t n)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++) {
		vs_autofree char *text = NULL;
		struct stat st;

		if (old[i].needed || stat(old[i].path, &st) < 0)
			continue;
		if (asprintf(&text, "%" PRIu64 "\n%s\n%s", (uint64_t)st.st_ino, old[i].below, old[i].path) < 0) {
			text = NULL;
			return -ENOMEM;
		}
		r = vm_work_note(w, "drop", text);
	}
	return r;
}

/* A layer that was active, and that nothing needs once it is not: internal snapshots in it need it, too. */
static bool discardable(const struct vm_work *w, const struct old_layer *old, int layer)
{
	int one;

	if (layer >= 0 && (w->d->layers[layer].users[0] || vm_work_above(w, layer, &one) || vm_work_internal_in(w, layer)))
		return false;
	return !frozen_by_record(w, old->path) && our_overlay(w, old);
}

/* What was written since is discarded. */
static void discard(struct vm_work *w, const struct old_layer *old)
{
	int l = vm_work_layer(w, old->path);

	if (old->needed || (l >= 0 && w->d->layers[l].active) || !discardable(w, old, l))
		return;
	if (vm_own_add_made(w->own, old->path) == 0 && vm_work_unlink(w, old->path, NULL) == 0)
		vm_work_say(w, "unlinked '%s'", vm_work_file(w, old->path));
}

struct old_layers {
	const struct old_layer *v;
	size_t n;
};

static bool known_elsewhere(const struct vm_work *w, const char *path)
{
	for (size_t i = 0; i < w->pic->n_domains; i++)
		for (size_t k = 0; w->pic->domains[i] != w->d && k < w->pic->domains[i]->n_layers; k++)
			if (!strcmp(w->pic->domains[i]->layers[k].path, path))
				return true;
	return false;
}

/* One that an interrupted revert has left, if it is that very file. @opaque: those that were active until now, of which more is
 * known. */
static bool discard_noted(struct vm_work *w, const char *text, void *opaque)
{
	const struct old_layers *active = opaque;
	char *below = strchrnul(text, '\n'), *path = *below ? strchr(below + 1, '\n') : NULL;
	vs_autofree char *below_path = path ? strndup(below + 1, (size_t)(path - below - 1)) : NULL;
	struct old_layer old = { .path = path ? path + 1 : NULL, .below = below_path };
	struct stat st;

	for (size_t i = 0; old.path && i < active->n; i++)
		if (!strcmp(active->v[i].path, old.path))
			return false;
	if (below_path && !known_elsewhere(w, old.path) && stat(old.path, &st) == 0 && (uint64_t)st.st_ino == strtoull(text, NULL, 10))
		discard(w, &old);
	return true;
}

static void tell_discarded(struct vm_work *w, const struct vm_act_overlay *fresh)
{
	for (size_t i = 0; i < w->d->n_disks; i++) {
		int top = strcmp(w->d->disks[i].target, fresh->target) ? -1 : w->d->disks[i].top;
		int below = top < 0 ? -1 : w->d->layers[top].below;
		const struct old_layer old = { fresh->target, top < 0 ? NULL : w->d->layers[top].path,
					       below < 0 ? NULL : w->d->layers[below].path, false };

		if (old.path && discardable(w, &old, top))
			vm_work_say(w, "would unlink '%s'", old.path);
	}
}

static size_t note_layers(const struct vm_work *w, struct old_layer *old)
{
	size_t n = 0;

	for (size_t i = 0; i < w->d->n_disks; i++) {
		int top = w->d->disks[i].top, below = top < 0 ? -1 : w->d->layers[top].below, one;

		if (top < 0)
			continue;
		old[n].needed = w->d->layers[top].users[0] || vm_work_above(w, top, &one) || vm_work_internal_in(w, top);
		old[n].target = strdup(w->d->disks[i].target);
		old[n].path = strdup(w->d->layers[top].path);
		old[n].below = below < 0 ? NULL : strdup(w->d->layers[below].path);
		if (old[n].target && old[n].path)
			n++;
	}
	return n;
}

/* The new layer, of which no record tells: one day it may be nobody's. */
static int remember_new(struct vm_work *w, const struct old_layer *old)
{
	for (size_t i = 0; i < w->d->n_disks; i++) {
		int top = strcmp(w->d->disks[i].target, old->target) ? -1 : w->d->disks[i].top;

		if (top >= 0 && w->d->layers[top].below >= 0 && strcmp(w->d->layers[top].path, old->path) != 0)
			return vm_own_add_made(w->own, w->d->layers[top].path);
	}
	return 0;
}

static bool is_there(const char *path)
{
	return access(path, F_OK) == 0;
}

/* After a revert. */
static int settle_layers(struct vm_work *w, const struct old_layer *old, size_t n, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = remember_new(w, &old[i]);
	for (size_t i = 0; r == 0 && i < n; i++)
		discard(w, &old[i]);
	if (r < 0)
		return vs_err_set(err, r, "out of memory");
	vm_own_sweep_made(w->own, is_there);
	return vm_work_save(w, err);
}

static int stop_guest(struct vm_work *w, struct vs_err *err)
{
	if (!w->running)
		return 0;
	if (virDomainDestroy(w->dom) < 0 && virDomainIsActive(w->dom) != 0)
		return vs_err_set(err, -EIO, "the domain cannot be stopped");
	vm_fault();
	return vm_work_look(w, err);
}

/* Nobody has written to this file since it was made, or since @since_s. */
static bool untouched(const char *path, int64_t since_s)
{
	struct statx st;
	int64_t made_s;

	if (statx(AT_FDCWD, path, 0, STATX_MTIME | STATX_BTIME, &st) < 0)
		return false;
	made_s = st.stx_mask & STATX_BTIME ? st.stx_btime.tv_sec : 0;
	return st.stx_mtime.tv_sec <= (made_s > since_s ? made_s : since_s) + UNTOUCHED_S;
}

/* An interrupted run of this command has taken that snapshot. Does it hold what would be discarded? */
static int kept_before(struct vm_work *w, const char *name, struct vs_err *err)
{
	bool same = !w->running;

	for (size_t i = 0; same && i < w->d->n_disks; i++)
		same = w->d->disks[i].top < 0 ||
		       untouched(w->d->layers[w->d->disks[i].top].path, vm_work_record(w, name)->xml->created_s);
	if (!same)
		return vs_err_set(err, -EEXIST, "'%s' was taken before this command was interrupted, and the guest may have written since: "
				  "keep that by another name, or leave keep= out", name);
	vm_work_say(w, "'%s' had been taken before", name);
	return 0;
}

/* Of an external snapshot's disks only: the others keep the files that they have, so there is nothing to keep. */
static int keep_first(struct vm_work *w, const struct vm_command *c, const struct vm_snapshot *s, struct vs_err *err)
{
	struct vm_command create = { .verb = VM_CREATE, .names = (char **)&c->keep, .n_names = 1 };
	vs_autofree char **targets = NULL;
	int r;

	if (!c->keep)
		return 0;
	if (!w->try_only && vm_work_record(w, c->keep) && vm_work_noted(w, "keep", c->keep))
		return kept_before(w, c->keep, err);
	targets = calloc(s->n_disks + 1, sizeof(*targets));
	r = !targets ? -ENOMEM : w->try_only ? 0 : vm_work_note(w, "keep", c->keep);
	if (r < 0)
		return vs_err_set(err, r, "out of memory");
	for (size_t i = 0; s->kind == VM_EXTERNAL && i < s->n_disks; i++)
		if ((targets[create.n_disks] = strdup(s->disks[i].target)))
			create.n_disks++;
	create.disks = targets;
	if (w->running && w->n_records && w->records[0].xml->kind == VM_INTERNAL)
		create.kind = VM_ASK_INTERNAL;
	r = vm_op_create(w, &create, err); /* looks anew, so @s is gone now */
	for (size_t i = 0; i < create.n_disks; i++)
		free(targets[i]);
	if (r < 0 && r != -EHOSTDOWN && !w->try_only)
		vm_work_note_done(w, "keep");
	return r;
}

static int note_revert(struct vm_work *w, const struct vm_act_revert *spec, const struct old_layer *old, size_t n,
		       struct vs_err *err)
{
	struct vm_act_plan plan = {0};
	enum vm_act_way way;
	int r = vm_act_revert_plan(w->dom, spec, &way, &plan, err);

	if (r < 0)
		return r;
	r = vm_op_note_plan(w, &plan);
	if (r == 0)
		r = note_drops(w, old, n);
	vm_act_plan_fini(&plan);
	return r < 0 ? vs_err_set(err, r, "out of memory") : 0;
}

static int revert_now(struct vm_work *w, const char *name, struct vs_err *err)
{
	struct vm_act_revert spec = { .name = name, .risky = true, .left_over = vm_op_left_over, .opaque = w };
	struct old_layer *old = calloc(w->d->n_disks + 1, sizeof(*old));
	size_t n = old ? note_layers(w, old) : 0;
	struct old_layers active = { old, n };
	int r;

	vm_work_unguard(w);
	r = note_revert(w, &spec, old, n, err);
	if (r == 0)
		r = vm_act_revert(w->dom, &spec, &w->watch, err);
	if (r == 0)
		r = vm_work_look(w, err); /* which puts our facts back, too */
	if (r == 0)
		vm_work_say(w, "the domain is as it was at '%s'", name);
	if (r == 0)
		vm_work_note_each(w, "drop", discard_noted, &active);
	if (r == 0)
		r = settle_layers(w, old, n, err);
	for (size_t i = 0; i < n; i++) {
		free(old[i].target);
		free(old[i].path);
		free(old[i].below);
	}
	free(old);
	if (r != -EHOSTDOWN) {
		vm_work_note_done(w, "make");
		vm_work_note_done(w, "drop");
	}
	if (r == 0)
		vm_work_note_done(w, "keep");
	return r;
}

static int try_revert(struct vm_work *w, const struct vm_command *c, const struct vm_snapshot *s, const char *name,
		      const struct vm_act_plan *plan, struct vs_err *err)
{
	int r = keep_first(w, c, s, err);

	if (r < 0)
		return r;
	if (w->running)
		vm_work_say(w, "would stop the domain");
	for (size_t i = 0; i < plan->n_overlays; i++) {
		vm_work_say(w, "disk %s: would create '%s' on '%s'", plan->overlays[i].target, plan->overlays[i].path,
			    plan->overlays[i].below);
		if (!c->keep)
			tell_discarded(w, &plan->overlays[i]);
	}
	vm_work_say(w, "would define the domain as it was at '%s'%s", name, c->keep ? "" :
		    " and discard what was written since the current snapshot");
	return 0;
}

static int check_revert(const struct vm_work *w, const struct vm_command *c, const struct vm_snapshot *s, struct vs_err *err)
{
	int r = vm_op_check_id(w, s, err);

	if (r == 0 && s->state != VM_OK && s->state != VM_DETACHED)
		r = vs_err_set(err, -EPERM, "snapshot '%s' is %s: %s", s->shown, vm_state_name(s->state), s->reason ? s->reason : "");
	if (r == 0 && !s->recorded)
		r = vs_err_set(err, -EOPNOTSUPP, "libvirt does not know snapshot '%s'", s->shown);
	if (r == 0 && s->kind == VM_INTERNAL)
		r = vm_op_check_active(w, s, err);
	if (r == 0 && w->running && !c->force)
		r = vs_err_set(err, -EBUSY, "the domain is %s: shut it down, or use 'force', which stops it", w->d->state);
	return r;
}

int vm_op_revert(struct vm_work *w, const struct vm_command *c, struct vs_err *err)
{
	const struct vm_snapshot *s = NULL;
	vs_autofree char *name = NULL;
	struct vm_act_revert spec = { .stops = true };
	struct vm_act_plan plan = {0};
	enum vm_act_way way;
	int r = vm_work_look(w, err);

	if (r == 0 && !w->conn)
		return vm_op_image_revert(w, c, err);
	if (r == 0)
		r = vm_op_reclaim(w, w->command, err);
	if (r == 0)
		r = vm_work_find(w, c->names[0], &s, err);
	if (r == 0)
		r = vm_work_idle(w, err);
	if (r == 0)
		r = check_revert(w, c, s, err);
	if (r == 0 && !(name = strdup(s->name)))
		r = vs_err_set(err, -ENOMEM, "out of memory");
	if (r < 0)
		return r;
	spec.name = name;
	r = vm_act_revert_plan(w->dom, &spec, &way, &plan, err); /* before anything is stopped for it */
	if (r == 0 && w->try_only)
		r = try_revert(w, c, s, name, &plan, err);
	vm_act_plan_fini(&plan);
	if (r < 0 || w->try_only)
		return r;
	r = keep_first(w, c, s, err);
	if (r == 0)
		r = stop_guest(w, err);
	return r < 0 ? r : revert_now(w, name, err);
}
