/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Internal snapshots are libvirt's to revert to. External ones are reverted to by hand on every version, as their point-in-time images
 * are all still there. libvirt 9.9 and later have a way of their own, which puts an overlay over every disk, also over those that took
 * no part and over a CD-ROM, rewrites the record for it, destroys the guest before it refuses a disk on a device, and unlinks by
 * recorded paths.
 *
 *     1. a new overlay on each of them
 *     2. the definition recorded with the snapshot, its disks pointing to the new overlays, without <backingStore>
 *     3. a look: does the domain run? Then somebody has started it between our stop and 2, on its old disks: back
 *     4. where it has memory: a restore of that file, likewise pointed to the new overlays
 *     5. the snapshot becomes the current one, so that the next one is its child: a branch
 *
 * If 2 to 4 fails the old definition is put back, and the overlays are for the caller to remove. If 5 fails only the next snapshot's parent would be
 * wrong; that is undone as well, unless the guest is running by then.
 *
 * Which image that is says the caller, who has looked at the files: see struct vm_revert_image.
 *
 * A disk that took no part in the snapshot has no point-in-time image: it keeps the file that it has now.
 */
#include "vm/libvirt/revert.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/libvirt/dom.h"
#include "vm/libvirt/overlay.h"
#include "vm/libvirt/record.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"
#include "vm/xml/edit.h"

struct going {
	virDomainPtr dom;
	const struct vm_revert *spec;
	struct vm_xml_snapshot *record;
	char *text;                   /* of the record, with passwords */
	struct vm_edit_disk *disks; /* strings borrowed: from the plan, or from `now` */
	size_t n_disks;
	struct vm_xml_domain *now;    /* the present configuration */
	char *before;                 /* its text, with passwords */
	char *was_current;            /* name, or NULL */
};

static void fini(struct going *g)
{
	vm_xml_snapshot_free(g->record);
	vm_xml_domain_free(g->now);
	free(g->text);
	free(g->disks);
	free(g->before);
	free(g->was_current);
}

/* ---------------------------------------------------------------- which way */

static int choose(const struct going *g, enum vm_revert_way *way, struct vs_err *err)
{
	int persistent = virDomainIsPersistent(g->dom);

	if (persistent < 0)
		return vm_dom_virterr(g->dom, err, "the domain");
	if (!persistent)
		return vs_err_set(err, -EOPNOTSUPP, "domain '%s' is transient: stopped for a revert it would be gone, with the records of all its "
				  "snapshots ('virsh define' makes it persistent)", virDomainGetName(g->dom));
	*way = g->record->kind == VM_INTERNAL ? VM_REVERT_BY_LIBVIRT : VM_REVERT_BY_HAND;
	return 0;
}

/* ---------------------------------------------------------------- the plan */

static const struct vm_revert_image *image_of(const struct vm_revert *spec, const char *target)
{
	for (size_t i = 0; i < spec->n_images; i++)
		if (!strcmp(spec->images[i].target, target))
			return &spec->images[i];
	return NULL;
}

static int plan_disk(const struct going *g, const struct vm_xml_snapdisk *disk, struct vm_overlay_naming *naming,
		     struct vm_overlay_plan *plan, struct vs_err *err)
{
	const struct vm_revert_image *image = image_of(g->spec, disk->target);
	struct stat st;

	if (disk->mode == VM_MODE_NO)
		return 0;
	if (disk->mode != VM_MODE_EXTERNAL || !disk->frozen)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s' of snapshot '%s' is not an external one with a record of its image",
				  disk->target, g->spec->name);
	if (!image)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s' of snapshot '%s' is %s, and no image of it is known here", disk->target,
				  g->spec->name, disk->frozen->source.text ? disk->frozen->source.text : "empty");
	if (image->format == Q2_FORMAT_NONE)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s' of snapshot '%s' is '%s', of no recorded format", disk->target, g->spec->name,
				  image->path);
	if (stat(image->path, &st) < 0)
		return vs_err_set(err, -errno, "disk '%s' of snapshot '%s': '%s': %s", disk->target, g->spec->name, image->path,
				  strerror(errno));
	naming->beside = S_ISREG(st.st_mode) || !disk->overlay.path ? image->path : disk->overlay.path;
	return vm_overlay_plan_add(plan, naming, disk->target, image->path, image->format, err);
}

static int plan_by_hand(const struct going *g, struct vm_overlay_plan *plan, struct vs_err *err)
{
	struct vm_overlay_naming naming = { .snapshot = g->spec->name, .taken = g->spec->taken, .opaque = g->spec->opaque };
	int r = vm_dom_active(g->dom, err);

	if (r > 0 && !g->spec->stops)
		return vs_err_set(err, -EBUSY, "domain '%s' is running", virDomainGetName(g->dom));
	if (r >= 0 && !g->record->definition)
		r = vs_err_set(err, -EOPNOTSUPP, "snapshot '%s' has no recorded definition", g->spec->name);
	if (r >= 0)
		r = vm_overlay_names(g->dom, &naming.names, &naming.n_names, err);
	for (size_t i = 0; r == 0 && i < g->record->n_disks; i++)
		r = plan_disk(g, &g->record->disks[i], &naming, plan, err);
	vm_overlay_names_free(naming.names, naming.n_names);
	return r;
}

static int make_plan(struct going *g, enum vm_revert_way *way, struct vm_overlay_plan *plan, struct vs_err *err)
{
	int r = vm_dom_record(g->dom, g->spec->name, &g->text, err);

	if (r == 0)
		r = vm_xml_snapshot_parse(g->text, &g->record, err);
	if (r == 0)
		r = choose(g, way, err);
	if (r == 0 && *way == VM_REVERT_BY_HAND)
		r = plan_by_hand(g, plan, err);
	return r;
}

int vm_revert_plan(virDomainPtr dom, const struct vm_revert *spec, enum vm_revert_way *way, struct vm_overlay_plan *plan,
		   struct vs_err *err)
{
	vs_cleanup(fini) struct going g = { .dom = dom, .spec = spec };
	vm_overlay_autoplan struct vm_overlay_plan p = {0};
	enum vm_revert_way w;
	int r = make_plan(&g, &w, &p, err);

	if (r < 0)
		return r;
	*way = w;
	*plan = p;
	p = (struct vm_overlay_plan){0};
	return 0;
}

/* ---------------------------------------------------------------- by hand: what is needed */

static void start_from(struct going *g, const char *target, const char *path, enum q2_format format, bool block)
{
	g->disks[g->n_disks++] = (struct vm_edit_disk){
		.target = target, .path = path, .format = q2_format_name(format), .block = block,
	};
}

/* The disks that took no part, where domain then and domain now both have them. */
static void keep_others(struct going *g)
{
	for (size_t i = 0; i < g->record->n_disks; i++) {
		const struct vm_xml_snapdisk *then = &g->record->disks[i];
		const struct vm_xml_disk *now = vm_xml_domain_disk(g->now, then->target);

		if (then->mode == VM_MODE_NO && then->frozen && vm_xml_disk_exposed(then->frozen) && now &&
		    now->source.path && now->source.format != Q2_FORMAT_NONE)
			start_from(g, then->target, now->source.path, now->source.format,
				   now->source.type == VM_SOURCE_BLOCK);
	}
}

static void note_current(struct going *g)
{
	vm_dom_autosnapshot virDomainSnapshotPtr snap = virDomainSnapshotCurrent(g->dom, 0);

	if (snap)
		g->was_current = xstrdup(virDomainSnapshotGetName(snap));
}

static int gather(struct going *g, const struct vm_overlay_plan *plan, struct vs_err *err)
{
	int r = vm_dom_text(g->dom, VIR_DOMAIN_XML_SECURE | VIR_DOMAIN_XML_INACTIVE, &g->before, err);

	if (r == 0)
		r = vm_xml_domain_parse(g->before, &g->now, err);
	if (r < 0)
		return r;
	note_current(g);
	g->disks = xcalloc(plan->n_overlays + g->record->n_disks, sizeof(*g->disks));
	for (size_t i = 0; i < plan->n_overlays; i++)
		start_from(g, plan->overlays[i].target, plan->overlays[i].path, Q2_FORMAT_QCOW2, false);
	keep_others(g);
	return 0;
}

/* ---------------------------------------------------------------- by hand: the steps */

/* The domain may have another name by now. */
static int edit_definition(const struct going *g, const char *then, char **text, struct vs_err *err)
{
	vs_autofree char *old = NULL;
	int r = vm_edit_definition(then, g->disks, g->n_disks, &old, err);

	return r < 0 ? r : vm_edit_name(old, virDomainGetName(g->dom), text, err);
}

static int define_then(const struct going *g, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = edit_definition(g, g->text, &text, err);

	return r < 0 ? r : vm_dom_define(g->dom, text, err);
}

/* The saved image brings a definition of its own, whose disks are the frozen ones. */
static int restore(const struct going *g, struct vs_err *err)
{
	virConnectPtr conn = virDomainGetConnect(g->dom);
	const char *file = g->record->memory_file;
	vs_autofree char *saved = virDomainSaveImageGetXMLDesc(conn, file, VIR_DOMAIN_SAVE_IMAGE_XML_SECURE), *text = NULL;
	int r;

	if (!saved)
		return vm_dom_virterr(g->dom, err, "the saved memory '%s'", file);
	r = edit_definition(g, saved, &text, err);
	if (r < 0)
		return r;
	if (virDomainRestoreFlags(conn, file, text, 0) < 0)
		return vm_dom_virterr(g->dom, err, "the saved memory '%s'", file);
	vm_fault();
	r = vm_dom_active(g->dom, err);
	return r == 0 ? vs_err_set(err, -EIO, "'%s' was restored, and the domain does not run: it is not its memory", file) : r < 0 ? r : 0;
}

/* By its record as it is now: what others have changed meanwhile stays so, and what they have removed stays removed. */
static int make_current(const struct going *g, const char *name, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	struct vs_err why = {0};
	int r = vm_dom_record(g->dom, name, &text, &why);

	if (r == -ENOENT)
		return 0;
	return r < 0 ? vs_err_set(err, r, "%s", why.msg) : vm_record_redefine(g->dom, text, VM_RECORD_MAKE_CURRENT, err);
}

static bool names_overlay(virDomainPtr dom, unsigned flags, const struct vm_overlay_plan *plan)
{
	vm_dom_autodomain struct vm_xml_domain *domain = NULL;

	if (vm_dom_xml(dom, flags, &domain, NULL) < 0)
		return true; /* who cannot be asked may */
	for (size_t i = 0; i < domain->n_files; i++)
		for (size_t k = 0; k < plan->n_overlays; k++)
			if (!strcmp(domain->files[i].path, plan->overlays[k].path))
				return true;
	return false;
}

/* It runs: on the disks that it got, or on its old ones? */
static int started_by_others(const struct going *g, const struct vm_overlay_plan *plan, struct vs_err *err)
{
	int active = vm_dom_active(g->dom, err);

	if (active <= 0 || names_overlay(g->dom, 0, plan))
		return active < 0 ? active : 0;
	return vs_err_set(err, -EBUSY, "somebody has started the domain on its old disks while it was reverted: nothing has changed");
}

static int undo(const struct going *g, const struct vm_overlay_plan *plan, int r, struct vs_err *err)
{
	struct vs_err why = {0};

	if (vm_dom_lost(g->dom))
		return r;
	if (vm_dom_active(g->dom, NULL) != 0 && names_overlay(g->dom, 0, plan))
		return r;
	if (vm_dom_define(g->dom, g->before, &why) < 0)
		return vs_err_set(err, r, "%s; and the old definition cannot be put back: %s", err ? strdupa(err->msg) : "",
				  why.msg);
	if (g->was_current)
		make_current(g, g->was_current, NULL);
	return r;
}

static int by_hand(struct going *g, struct vm_overlay_plan *plan, struct vm_dom_watch *watch, struct vs_err *err)
{
	int r = gather(g, plan, err);

	if (r == 0)
		r = vm_overlay_make_all(plan, false, g->spec->making, g->spec->opaque, g->spec->goes_on ? NULL : watch, err);
	if (r < 0)
		return r;
	vm_dom_step(watch, "define domain '%s' as it was", virDomainGetName(g->dom));
	r = define_then(g, err);
	if (r == 0)
		r = started_by_others(g, plan, err);
	if (r == 0 && g->record->memory_file) {
		vm_dom_step(watch, "restore the memory from '%s'", g->record->memory_file);
		r = restore(g, err);
	}
	if (r == 0) {
		vm_dom_step(watch, "make '%s' the current snapshot", g->spec->name);
		r = make_current(g, g->spec->name, err);
	}
	if (r == 0)
		r = started_by_others(g, plan, err);
	return r < 0 ? undo(g, plan, r, err) : 0;
}

/* ---------------------------------------------------------------- by libvirt, and all */

static int by_libvirt(const struct going *g, struct vm_dom_watch *watch, struct vs_err *err)
{
	vm_dom_autosnapshot virDomainSnapshotPtr snap = NULL;
	int r = vm_dom_active(g->dom, err);

	if (r > 0 && !g->spec->stops) /* the flag would let libvirt stop it */
		r = vs_err_set(err, -EBUSY, "domain '%s' is running", virDomainGetName(g->dom));
	if (r >= 0)
		r = vm_dom_snapshot(g->dom, g->spec->name, &snap, err);
	if (r < 0)
		return r;
	vm_dom_step(watch, "revert to '%s'", g->spec->name);
	if (virDomainRevertToSnapshot(snap, g->spec->risky ? VIR_DOMAIN_SNAPSHOT_REVERT_FORCE : 0) == 0) {
		vm_fault();
		return 0;
	}
	r = vm_dom_virterr(g->dom, err, "snapshot '%s'", g->spec->name);
	if (r == -EHOSTDOWN)
		vs_err_set(err, r, "libvirt went away while it reverted to snapshot '%s', which may be going on", g->spec->name);
	return r;
}

int vm_revert(virDomainPtr dom, const struct vm_revert *spec, struct vm_dom_watch *watch, struct vs_err *err)
{
	vs_cleanup(fini) struct going g = { .dom = dom, .spec = spec };
	vm_overlay_autoplan struct vm_overlay_plan plan = {0};
	enum vm_revert_way way;
	int r = make_plan(&g, &way, &plan, err);

	if (r < 0)
		return r;
	if (vm_dom_cancelled(watch) && !spec->goes_on)
		return vs_err_set(err, -ECANCELED, "cancelled");
	return way == VM_REVERT_BY_LIBVIRT ? by_libvirt(&g, watch, err) : by_hand(&g, &plan, watch, err);
}
