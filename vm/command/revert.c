/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* revert. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/command.h"
#include "vm/command/content.h"
#include "vm/command/delete.h"
#include "vm/command/image.h"
#include "vm/command/nv.h"
#include "vm/command/recover.h"
#include "vm/command/remove.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/overlay.h"
#include "vm/libvirt/record.h"
#include "vm/libvirt/revert.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

/* The layers that the domain writes to before it is reverted. */
struct old_layer {
	char *target;
	struct vm_doomed_file file;
};

struct old_layers {
	struct old_layer *v;
	size_t n;
};

static void layers_fini(struct old_layers *old)
{
	for (size_t i = 0; i < old->n; i++) {
		free(old->v[i].target);
		free(old->v[i].file.path);
	}
	free(old->v);
}

/* Does the snapshot have this disk by an image of its own? What a disk without one has written stays where it is. */
static bool takes_part(const struct vm_snapshot *s, const char *target)
{
	for (size_t i = 0; i < s->n_disks; i++)
		if (!strcmp(s->disks[i].target, target))
			return true;
	return false;
}

/* Does the domain have this disk now, and did not have it then? */
static bool is_new(const struct vm_context *cx, const struct vm_snapshot *s, const struct vm_disk_now *disk)
{
	const struct vm_context_record *record = vm_context_record(cx, s->name);

	if (!record || disk->top < 0 || !cx->d->layers[disk->top].active)
		return false;
	for (size_t k = 0; k < record->xml->n_disks; k++)
		if (!strcmp(record->xml->disks[k].target, disk->target))
			return false;
	return true;
}

/* With the domain stopped: nobody writes to them any more, but an inventory does not follow what a guest writes. */
static struct old_layers note_layers(const struct vm_context *cx, const struct vm_snapshot *s)
{
	struct old_layers old = { .v = xcalloc(cx->d->n_disks, sizeof(*old.v)) };

	for (size_t i = 0; i < cx->d->n_disks; i++) {
		const struct vm_layer *top = cx->d->disks[i].top < 0 ? NULL : &cx->d->layers[cx->d->disks[i].top];
		struct q2_stamp now;
		struct stat st;

		if (!takes_part(s, cx->d->disks[i].target) || !top || !top->active || top->error || stat(top->path, &st) < 0 ||
		    st.st_ino != top->stamp.ino ||
		    st.st_dev != top->stamp.dev)
			continue;
		now = top->stamp;
		now.size = (uint64_t)st.st_size;
		now.mtime_ns = vm_timespec_ns(st.st_mtim);
		old.v[old.n++] = (struct old_layer){ xstrdup(cx->d->disks[i].target), { xstrdup(top->path), now } };
	}
	return old;
}

/* For a repetition: they are out of use as soon as the definition is the old one. */
static int journal_drops(struct vm_context *cx, const struct old_layers *old, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < old->n; i++) {
		const struct q2_stamp *stamp = &old->v[i].file.stamp;
		vs_autofree char *text = xasprintf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 "\n%s", stamp->dev, stamp->ino, stamp->size,
						   stamp->mtime_ns, old->v[i].file.path);

		r = vm_journal_add(&cx->journal, "drop", text, err);
	}
	return r;
}

/* What was written since is discarded: where nobody needs it, and that is known. */
static void discard(struct vm_context *cx, const struct vm_doomed_file *file)
{
	int layer = vm_context_layer(cx, file->path);
	struct vs_err why = {0};
	int r;

	if (layer >= 0 && cx->d->layers[layer].active)
		return; /* of a disk that took no part */
	r = vm_remove(cx, file, NULL, &why);
	if (r == 0)
		vm_remove_say(cx, file->path);
	else if (r < 0)
		vm_context_say(cx, "%s", why.msg);
}

struct discarding {
	struct vm_context *cx;
	const struct old_layers *active;
};

/* One that an interrupted revert has left, if it is that very file and as it was. @opaque: those that were active until now, which are
 * dealt with anyway. */
static bool discard_noted(const char *text, void *opaque)
{
	const struct discarding *dis = opaque;
	const struct old_layers *active = dis->active;
	struct vm_doomed_file file = {0};
	const char *path = strchr(text, '\n');
	struct stat st;

	if (!path || sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNd64, &file.stamp.dev, &file.stamp.ino, &file.stamp.size,
			    &file.stamp.mtime_ns) != 4)
		return false;
	file.path = (char *)path + 1;
	for (size_t i = 0; i < active->n; i++)
		if (!strcmp(active->v[i].file.path, file.path))
			return false;
	if (lstat(file.path, &st) < 0 || st.st_ino != file.stamp.ino || st.st_dev != file.stamp.dev)
		return false;
	discard(dis->cx, &file);
	return true;
}

static void tell_discarded(struct vm_context *cx, const struct vm_overlay *fresh)
{
	for (size_t i = 0; i < cx->d->n_disks; i++) {
		int top = strcmp(cx->d->disks[i].target, fresh->target) ? -1 : cx->d->disks[i].top, one;
		struct vs_err why = {0};

		if (top < 0 || cx->d->layers[top].error || vm_context_above(cx, top, &one) || vm_context_internal_in(cx, top) ||
		    !vm_made(cx, top))
			continue;
		if (vm_need(cx, top, NULL, true, &why) == VM_NEED_NOT)
			vm_remove_say(cx, cx->d->layers[top].path);
		else
			vm_context_say(cx, "%s", why.msg);
	}
}

/* The new layer, of which no record tells: one day it may be nobody's. */
static void remember_new(struct vm_context *cx, const struct old_layer *old)
{
	for (size_t i = 0; i < cx->d->n_disks; i++) {
		int top = strcmp(cx->d->disks[i].target, old->target) ? -1 : cx->d->disks[i].top;
		const struct vm_layer *l = top < 0 ? NULL : &cx->d->layers[top];

		if (l && l->below >= 0 && !l->error && l->stamp.ino != old->file.stamp.ino)
			vm_context_add_made(cx, l->path, &l->stamp);
	}
}

/* The layer of such a one stays, and one day no record may tell that a snapshot made it. */
static void remember_left(struct vm_context *cx, const struct vm_snapshot *s)
{
	for (size_t i = 0; i < cx->d->n_disks; i++) {
		int top = cx->d->disks[i].top;

		if (!is_new(cx, s, &cx->d->disks[i]))
			continue;
		vm_context_say(cx, "disk %s: '%s' had no such disk, so the domain is without it, and '%s' stays",
			       cx->d->disks[i].target, s->shown,
			       vm_context_file(cx, cx->d->layers[top].path));
		if (vm_made(cx, top))
			vm_context_add_made(cx, cx->d->layers[top].path, &cx->d->layers[top].stamp);
	}
}

/* After a revert. What goes is remembered as made until it has gone: should it have to stay, no record may tell. */
static int settle_layers(struct vm_context *cx, const struct old_layers *old, struct vs_err *err)
{
	int r;

	for (size_t i = 0; i < old->n; i++) {
		int layer = vm_context_layer(cx, old->v[i].file.path);

		remember_new(cx, &old->v[i]);
		if (layer >= 0 && !cx->d->layers[layer].active && vm_made(cx, layer))
			vm_context_add_made(cx, old->v[i].file.path, &old->v[i].file.stamp);
	}
	r = vm_context_save(cx, err);
	for (size_t i = 0; r == 0 && i < old->n; i++)
		discard(cx, &old->v[i].file);
	return r < 0 || !vm_meta_sweep_made(cx->meta, vm_context_is_there) ? r : vm_context_save(cx, err);
}

static int stop_guest(struct vm_context *cx, bool force, struct vs_err *err)
{
	if (!cx->running)
		return 0;
	if (!force)
		return vs_err_set(err, -EBUSY, "somebody has started the domain: shut it down, or use 'force', which stops it");
	if (virDomainDestroy(cx->dom) < 0) {
		int r = vm_dom_virterr(cx->dom, err, "the domain cannot be stopped");

		if (virDomainIsActive(cx->dom) != 0)
			return r;
		*err = (struct vs_err){0};
	}
	vm_fault();
	return vm_attest_poll(cx, err);
}

static const struct vm_snapshot *find_kept(const struct vm_context *cx, const char *name)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		if (!strcmp(cx->d->snapshots[i].name, name) && cx->d->snapshots[i].recorded)
			return &cx->d->snapshots[i];
	return NULL;
}

static int top_of(const struct vm_context *cx, const char *target)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if (!strcmp(cx->d->disks[i].target, target))
			return cx->d->disks[i].top;
	return -1;
}

/* Does the disk show what that snapshot does, and nothing else that would be lost? */
static bool shows(const struct vm_context *cx, const struct vm_snapshot *s, const char *target)
{
	for (size_t k = 0; s && k < s->n_disks; k++)
		if (!strcmp(s->disks[k].target, target))
			return vm_content_is_present(cx, &s->disks[k], top_of(cx, target));
	return false;
}

/* An interrupted run of this command has taken that snapshot. Does it show all that would be discarded, or has the disk gone back to @s already? */
static int kept_before(struct vm_context *cx, const char *name, const struct vm_snapshot *s, struct vs_err *err)
{
	const struct vm_snapshot *kept = find_kept(cx, name);
	bool same = kept && kept->n_disks && !cx->running; /* one of which nothing is known holds nothing */

	for (size_t k = 0; same && k < kept->n_disks; k++)
		same = shows(cx, kept, kept->disks[k].target) || shows(cx, s, kept->disks[k].target);
	if (!same)
		return vs_err_set(err, -EEXIST, "'%s' was taken before this command was interrupted, and the guest has or may have written since: "
				  "keep that by another name, or leave keep= out", name);
	vm_context_say(cx, "'%s' had been taken before", name);
	return 0;
}

/* Of an external snapshot's disks, and of those that the domain will be without: the others keep the files that they have, so there is
 * nothing to keep. */
static int keep_first(struct vm_context *cx, const struct vm_command *c, const struct vm_snapshot *s, struct vs_err *err)
{
	struct vm_command create = { .verb = VM_CREATE, .names = (char **)&c->keep, .n_names = 1 };
	vs_autofree char **targets = NULL;
	int r;

	if (!c->keep)
		return 0;
	if (vm_context_record(cx, c->keep) && vm_journal_has(&cx->journal, "keep", c->keep))
		return kept_before(cx, c->keep, s, err);
	targets = xcalloc(s->n_disks + cx->d->n_disks, sizeof(*targets));
	r = cx->try_only ? 0 : vm_journal_add(&cx->journal, "keep", c->keep, err);
	if (r < 0)
		return r;
	for (size_t i = 0; s->kind == VM_EXTERNAL && i < s->n_disks; i++)
		if (top_of(cx, s->disks[i].target) >= 0) /* one that was detached since has nothing to keep */
			targets[create.n_disks++] = xstrdup(s->disks[i].target);
	for (size_t i = 0; s->kind == VM_EXTERNAL && i < cx->d->n_disks; i++)
		if (is_new(cx, s, &cx->d->disks[i]))
			targets[create.n_disks++] = xstrdup(cx->d->disks[i].target);
	create.disks = targets;
	if (cx->running && cx->n_records && cx->records[0].xml->kind == VM_INTERNAL)
		create.kind = VM_ASK_INTERNAL;
	r = vm_attest_poll(cx, err); /* @s is gone now */
	if (r == 0)
		r = vm_command_create(cx, &create, err);
	for (size_t i = 0; i < create.n_disks; i++)
		free(targets[i]);
	if (r < 0 && r != -EHOSTDOWN && !cx->try_only)
		vm_journal_done(&cx->journal, "keep");
	return r;
}

/* Is a file of it one that we may not read? */
static bool is_forbidden(const struct vm_context *cx, const struct vm_snapshot *s)
{
	for (size_t i = 0; i < s->n_disks; i++)
		for (char **path = s->disks[i].chain; path && *path; path++) {
			int l = vm_context_layer(cx, *path);

			if (l >= 0 && cx->d->layers[l].error == -EACCES)
				return true;
		}
	return false;
}

static int check_state(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	if (s->state == VM_OK || s->state == VM_DETACHED)
		return 0;
	return vs_err_set(err, is_forbidden(cx, s) ? -EACCES : -EPERM, "snapshot '%s' is %s: %s", s->shown, vm_state_name(s->state),
			  s->reason ? s->reason : "");
}

/* The images to stand on, as strings of the look that @cx has. Gives. */
static struct vm_revert_image *list_images(const struct vm_context *cx, const char *name, size_t *n)
{
	const struct vm_context_record *record = vm_context_record(cx, name);
	struct vm_revert_image *list = xcalloc(record ? record->xml->n_disks : 0, sizeof(*list));

	*n = 0;
	for (size_t i = 0; record && i < record->xml->n_disks; i++) {
		struct vm_revert_image image = { .target = record->xml->disks[i].target };

		image.path = vm_context_image(cx, record, image.target, &image.format);
		if (image.path)
			list[(*n)++] = image;
	}
	return list;
}

/* ---------------------------------------------------------------- who else needs what it will write to */

/*
 * Whoever else needs a file that the domain writes to after the revert would read other bytes from then on. Those files are: with an
 * internal snapshot the images that it is in, and with either kind the disks that took no part and that the domain has not now as it had
 * them then, for they come back with the file that they had. New overlays are nobody's, and what becomes of the old ones is asked when
 * they are removed.
 */

/* Is this disk going to be what it is now? */
static bool stays(const struct vm_context *cx, const struct vm_snapshot *s, const struct vm_xml_domain *now,
		  const struct vm_xml_disk *then)
{
	const struct vm_xml_disk *disk = vm_xml_domain_disk(now, then->target);
	int layer = vm_context_layer(cx, then->source.path);

	if (disk && disk->source.key && then->source.key)
		return !strcmp(disk->source.key, then->source.key);
	if (s->kind == VM_EXTERNAL) /* see libvirt/revert.c */
		return disk && disk->source.path && disk->source.format != Q2_FORMAT_NONE;
	return disk && layer >= 0 && vm_context_layer(cx, disk->source.path) == layer;
}

static int check_comes_back(const struct vm_context *cx, const struct vm_snapshot *s, const struct vm_xml_disk *then,
			    struct vs_err *err)
{
	int layer = vm_context_layer(cx, then->source.path), one;
	const struct vm_layer *l = layer < 0 ? NULL : &cx->d->layers[layer];

	if (!l || l->error)
		return vs_err_set(err, -EPERM, "disk %s: at '%s' the domain had it with '%s', and %s: attach it as it is to be first", then->target,
				  s->shown, then->source.text ? then->source.text : "?",
				  then->source.path && access(then->source.path, F_OK) < 0 ? strerror(errno) : "nobody can tell who needs that by now");
	if (vm_context_above(cx, layer, &one) || l->active)
		return vs_err_set(err, -EPERM, "disk %s: at '%s' the domain had it with '%s', which others stand on by now, and does not have it "
				  "so any more: attach it as it is now first", then->target, s->shown, l->path);
	if (vm_need(cx, layer, NULL, true, err) == VM_NEED_NOT)
		return 0;
	vs_err_prefix(err, "disk %s, which the domain had at '%s' and does not have so any more", then->target, s->shown);
	return err->code;
}

static int check_others(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	const struct vm_context_record *record = vm_context_record(cx, s->name);
	vm_dom_autodomain struct vm_xml_domain *now = NULL;
	int r = record ? vm_dom_xml(cx->dom, VIR_DOMAIN_XML_INACTIVE, &now, err) : 0;

	for (size_t k = 0; r == 0 && record && k < record->xml->n_disks; k++) {
		const struct vm_xml_disk *then = record->xml->disks[k].mode == VM_MODE_NO ? record->xml->disks[k].frozen : NULL;

		if (then && vm_xml_disk_exposed(then) && then->source.type != VM_SOURCE_NONE && !stays(cx, s, now, then))
			r = check_comes_back(cx, s, then, err);
	}
	return r;
}

static int check_written(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	int one;

	for (size_t i = 0; s->kind == VM_INTERNAL && i < s->n_disks; i++) {
		int layer = s->disks[i].chain && s->disks[i].chain[0] ? vm_context_layer(cx, s->disks[i].chain[0]) : -1;

		if (layer < 0)
			continue;
		if (vm_context_above(cx, layer, &one))
			return vs_err_set(err, -EPERM, "disk %s: '%s' must stay as it is: '%s' stands on it", s->disks[i].target,
					  cx->d->layers[layer].path, cx->d->layers[one].path);
		if (vm_need(cx, layer, NULL, true, err) != VM_NEED_NOT) {
			vs_err_prefix(err, "disk %s", s->disks[i].target);
			return err->code;
		}
	}
	return check_others(cx, s, err);
}

/* ---------------------------------------------------------------- the revert */

/* The domain had it, and the snapshot left it out. */
static bool left_out(const struct vm_xml_snapshot *record, const char *target)
{
	bool had = false;

	for (size_t i = 0; i < record->n_disks; i++)
		if (!strcmp(record->disks[i].target, target) && record->disks[i].mode != VM_MODE_NO)
			return false;
	for (size_t i = 0; record->domain && i < record->domain->n_disks; i++)
		had = had || !strcmp(record->domain->disks[i].target, target);
	return had;
}

/* What else than its disks a snapshot of a domain has not. */
static void tell_left_out(struct vm_context *cx, const char *name)
{
	const struct vm_context_record *record = vm_context_record(cx, name);

	for (size_t i = 0; record && i < cx->d->n_disks; i++) {
		const struct vm_disk_now *disk = &cx->d->disks[i];

		if (disk->top >= 0 && cx->d->layers[disk->top].active && left_out(record->xml, disk->target))
			vm_context_say(cx, "disk %s %s as it is now: it is not part of the snapshot", disk->target,
				       cx->try_only ? "would stay" : "stays");
	}
}

static void append_target(char **list, const char *target)
{
	char *longer = xasprintf("%s%s%s", *list ? *list : "", *list ? ", " : "", target);

	free(*list);
	*list = longer;
}

/* Where libvirt has failed at one of several disks, those before it may have gone back: that is told. */
static void tell_gone_back(struct vm_context *cx, const struct vm_meta_id *id, struct vs_err *err)
{
	const struct vm_snapshot *s;
	vs_autofree char *back = NULL, *others = NULL;

	if (cx->running || id->kind != VM_INTERNAL || vm_context_find_key(cx, id->name, &s, NULL) < 0)
		return;
	for (size_t i = 0; i < s->n_disks; i++)
		append_target(shows(cx, s, s->disks[i].target) ? &back : &others, s->disks[i].target);
	if (back && others)
		vs_err_prefix(err, "of its disks some are at '%s' now (%s), and others are not (%s)", s->shown, back, others);
}

static int revert_now(struct vm_context *cx, const char *name, bool stopped, bool force, struct vs_err *err)
{
	struct vm_revert spec = { .name = name, .risky = true, .goes_on = stopped, .taken = vm_context_names, .making = vm_recover_making, .opaque = cx };
	struct old_layers old vs_cleanup(layers_fini) = { .n = 0 };
	vs_autofree struct vm_revert_image *images = list_images(cx, name, &spec.n_images);
	const struct vm_snapshot *s;
	vs_cleanup(vm_nv_staged_fini) struct vm_nv_staged staged = { .n = 0 };
	struct vm_meta_id id = { .name = name };
	bool asked = false, reverted = false, memory = false;
	int r = vm_context_find_key(cx, name, &s, err);

	spec.images = images;

	if (r == 0) {
		id = (struct vm_meta_id){ name, vm_context_id(cx, s).created_ns, s->kind };
		memory = s->memory;
		old = note_layers(cx, s);
		remember_left(cx, s);
	}
	if (r == 0)
		r = check_state(cx, s, err); /* it may have changed while a snapshot was taken and the guest was stopped */
	if (r == 0)
		r = vm_check_startable(cx, err); /* who stopped it, if it was not us? */
	if (r == 0)
		r = check_written(cx, s, err);
	if (r == 0)
		r = vm_nv_check(cx, s, force, err);
	vm_context_unguard(cx);
	if (r == 0)
		r = vm_recover_settle_making(cx, err);
	if (r == 0)
		r = journal_drops(cx, &old, err);
	if (r == 0 && !memory)
		r = vm_nv_stage(cx, &id, &staged, vm_recover_making, err);
	if (r == 0) {
		asked = true;
		r = vm_revert(cx->dom, &spec, &cx->watch, err);
		reverted = r == 0;
	}
	if (r == 0)
		r = vm_attest_poll(cx, err); /* which puts our metadata back, too */
	if (r == 0) {
		vm_context_say(cx, "the domain is as it was at '%s'", name);
		tell_left_out(cx, name);
	}
	if (r == 0 && !cx->running && !memory) {
		r = vm_nv_put_back(cx, &id, &staged, err);
		if (r < 0)
			vs_err_prefix(err, "the disks are as they were at '%s', but", name);
	}
	if (r != -EHOSTDOWN && (r == 0 || !reverted))
		vm_journal_done(&cx->journal, "vars"); /* else the next command, or mount, puts back what is left */
	if (r == 0)
		vm_journal_each(&cx->journal, "drop", discard_noted, &(struct discarding){ cx, &old });
	if (r == 0)
		r = settle_layers(cx, &old, err);
	if (r != -EHOSTDOWN) {
		bool looked = r == 0 || vm_attest_poll(cx, NULL) == 0;

		if (looked && (r == 0 || !reverted || !staged.n))
			vm_recover_settle_making(cx, NULL);
		if (looked && asked && !reverted)
			tell_gone_back(cx, &id, err);
		vm_journal_done(&cx->journal, "drop");
	}
	if (r == 0)
		vm_journal_done(&cx->journal, "keep");
	return r;
}

static int try_revert(struct vm_context *cx, const struct vm_command *c, const struct vm_snapshot *s, const char *name,
		      const struct vm_overlay_plan *plan, struct vs_err *err)
{
	int r = keep_first(cx, c, s, err);

	if (r < 0)
		return r;
	if (cx->running)
		vm_context_say(cx, "would stop the domain");
	remember_left(cx, s);
	for (size_t i = 0; i < plan->n_overlays; i++) {
		vm_context_say(cx, "disk %s: would create '%s' on '%s'", plan->overlays[i].target, plan->overlays[i].path,
			       plan->overlays[i].below);
		if (!c->keep)
			tell_discarded(cx, &plan->overlays[i]);
	}
	vm_context_say(cx, "would define the domain as it was at '%s'%s", name, c->keep ? "" :
		       " and discard what was written since the current snapshot");
	tell_left_out(cx, name);
	if (!s->memory) {
		struct vm_meta_id id = vm_context_id(cx, s);

		vm_nv_tell(cx, &id);
	}
	return 0;
}

/* What the guest is to stand on. */
static int check_whole(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->n_disks; i++)
		if (s->disks[i].chain && s->disks[i].chain[0])
			r = vm_check_uncut(cx, s->disks[i].target, vm_context_layer(cx, s->disks[i].chain[0]), err);
	return r;
}

static int check_memory(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	const struct vm_context_record *record = vm_context_record(cx, s->name);

	return record ? vm_record_memory(cx->dom, record->xml, err) : 0;
}

/* What would be unlinked may have what a backup program needs and libvirt does not know. */
static int check_bitmaps(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && s->kind == VM_EXTERNAL && i < s->n_disks; i++) {
		int top = top_of(cx, s->disks[i].target);

		if (top >= 0 && !cx->d->layers[top].error && vm_made(cx, top))
			r = vm_check_bitmaps(cx, s->disks[i].target, cx->d->layers[top].below, top, true, err);
	}
	return r;
}

static int check_revert(const struct vm_context *cx, const struct vm_command *c, const struct vm_snapshot *s,
			struct vs_err *err)
{
	int r = vm_delete_check_name(cx, s, err);

	if (r == 0)
		r = check_state(cx, s, err);
	if (r == 0)
		r = check_whole(cx, s, err);
	if (r == 0)
		r = s->recorded ? 0 : vs_err_set(err, -EOPNOTSUPP, "libvirt does not know snapshot '%s'", s->shown);
	if (r == 0)
		r = check_memory(cx, s, err);
	if (r == 0 && s->kind == VM_INTERNAL)
		r = vm_delete_check_active(cx, s, err);
	if (r == 0)
		r = check_written(cx, s, err);
	if (r == 0)
		r = vm_check_startable(cx, err);
	if (r == 0)
		r = vm_check_at_rest(cx, NULL, err);
	if (r == 0)
		r = vm_check_checkpoints(cx, false, err);
	if (r == 0 && !c->keep)
		r = check_bitmaps(cx, s, err);
	if (r == 0)
		r = vm_nv_check(cx, s, c->force, err);
	if (r == 0 && cx->running && !c->force)
		r = vs_err_set(err, -EBUSY, "the domain is %s: shut it down, or use 'force', which stops it", cx->d->state);
	return r;
}

#define ROOM_LEAST (1u << 20) /* bytes; an empty overlay takes some 200 KiB */

/* Will the new overlays find room? Asked before anything is stopped for them. */
static int check_room(const struct vm_overlay_plan *plan, struct vs_err *err)
{
	for (size_t i = 0; i < plan->n_overlays; i++) {
		vs_autofree char *dir = xstrdup(plan->overlays[i].path);
		struct statvfs fs;

		*strrchr(dir, '/') = '\0';
		if (access(dir[0] ? dir : "/", W_OK) < 0 && errno != EACCES) /* that we may not says nothing about libvirt */
			return vs_err_set(err, -errno, "'%s' cannot be made: %s", plan->overlays[i].path, strerror(errno));
		if (statvfs(dir[0] ? dir : "/", &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < ROOM_LEAST)
			return vs_err_set(err, -ENOSPC, "'%s' cannot be made: its file system is full", plan->overlays[i].path);
	}
	return 0;
}

/* Where it fails after it has begun, what it has done is told. */
static int revert_in_steps(struct vm_context *cx, const struct vm_command *c, const struct vm_snapshot *s, const char *name,
			   struct vs_err *err)
{
	bool ran = cx->running, stopped = false;
	int r = keep_first(cx, c, s, err), kept = r == 0 && c->keep;

	if (r == 0 && cx->running)
		r = vm_journal_add(&cx->journal, "stop", name, err); /* before a guest is ended for what cannot be noted then */
	if (r == 0)
		r = stop_guest(cx, c->force, err);
	vm_journal_done(&cx->journal, "stop");
	if (r == 0)
		r = revert_now(cx, name, ran, c->force, err);
	if (r < 0 && ran)
		stopped = vm_dom_active(cx->dom, NULL) == 0;
	if (r < 0 && kept && stopped)
		vs_err_prefix(err, "'%s' was taken and the domain was stopped, but then", c->keep);
	else if (r < 0 && kept)
		vs_err_prefix(err, "'%s' was taken, but then", c->keep);
	else if (r < 0 && stopped)
		vs_err_prefix(err, "the domain was stopped, but then");
	return r;
}

int vm_command_revert(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	const struct vm_snapshot *s = NULL;
	vs_autofree char *name = NULL;
	vs_autofree struct vm_revert_image *images = NULL;
	struct vm_revert spec = { .stops = true, .taken = vm_context_names, .opaque = cx };
	struct vm_overlay_plan plan = {0};
	enum vm_revert_way way;
	int r = vm_recover_begin(cx, cx->command, VM_BESIDE_CHANGE, err);
	if (r == 0)
		r = vm_context_find(cx, c->names[0], &s, err);
	if (r == 0)
		r = check_revert(cx, c, s, err);
	if (r < 0)
		return r;
	name = xstrdup(s->name);
	spec.name = name;
	spec.images = images = list_images(cx, name, &spec.n_images);
	r = vm_revert_plan(cx->dom, &spec, &way, &plan, err); /* before anything is stopped for it */
	if (r == 0)
		r = check_room(&plan, err);
	if (r == 0 && cx->try_only)
		r = try_revert(cx, c, s, name, &plan, err);
	vm_overlay_plan_fini(&plan);
	if (r < 0 || cx->try_only)
		return r;
	return revert_in_steps(cx, c, s, name, err);
}
