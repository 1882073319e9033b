/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 *                  running                                          shut off
 *     external     libvirt makes the overlays and switches to       we make the overlays, libvirt takes them as they are
 *                  them in one transaction of QEMU's                (REUSE_EXT)
 *     internal     libvirt saves the memory and pauses the guest    libvirt has qemu-img make an entry in every image
 *
 * Overlay paths are always explicit, and every disk that takes no part is named with snapshot='no': libvirt's defaults depend
 * on the disk's kind and its version.
 *
 * When libvirt says "failed" the domain may nevertheless write to the overlays already: it switches first and records later.
 * So nothing is removed here; the caller does that, when it has looked at who uses what.
 */
#include "vm/libvirt/create.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/libvirt/blockjob-list.h"
#include "vm/libvirt/blockjob-wait.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/fsfreeze.h"
#include "vm/libvirt/overlay.h"
#include "vm/libvirt/version.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"
#include "vm/xml/edit.h"

#define PLANS 10 /* how often a path may be lost to others */

struct making {
	virDomainPtr dom;
	const struct vm_create *spec;
	struct vm_xml_domain *domain;
	struct vm_version can;
	char **names;
	size_t n_names;
};

/* ---------------------------------------------------------------- which disks, and may they */

static bool listed(const struct vm_create *spec, const char *target)
{
	for (size_t i = 0; i < spec->n_targets; i++)
		if (!strcmp(spec->targets[i], target))
			return true;
	return spec->n_targets == 0;
}

static bool writable(const struct vm_xml_disk *disk)
{
	return vm_xml_disk_exposed(disk) && disk->source.type != VM_SOURCE_NONE;
}

static bool takes_part(const struct vm_create *spec, const struct vm_xml_disk *disk)
{
	return writable(disk) && listed(spec, disk->target) && (spec->n_targets || spec->kind == VM_INTERNAL || !disk->left_out);
}

static int check_targets(const struct making *m, struct vs_err *err)
{
	size_t n = 0;

	for (size_t i = 0; i < m->spec->n_targets; i++) {
		const char *target = m->spec->targets[i];
		const struct vm_xml_disk *disk = vm_xml_domain_disk(m->domain, target);

		if (!disk || strcmp(disk->target, target) != 0)
			return vs_err_set(err, -ENOENT, "domain '%s' has no disk '%s'", m->domain->name, target);
		if (!writable(disk))
			return vs_err_set(err, -EOPNOTSUPP, "disk '%s' %s, so it has no snapshots", target,
					  disk->device == VM_DEVICE_FLOPPY ? "is a floppy drive" : "cannot be written to");
	}
	for (size_t i = 0; i < m->domain->n_disks; i++)
		n += takes_part(m->spec, &m->domain->disks[i]);
	return n ? 0 : vs_err_set(err, -EOPNOTSUPP, "domain '%s' has no disk that can be written to and takes part in snapshots", m->domain->name);
}

static int check_depth(const struct making *m, const struct vm_xml_disk *disk, struct vs_err *err)
{
	size_t depth = 1 + disk->n_below;

	if (depth < m->spec->depth)
		depth = m->spec->depth;
	if (depth < m->can.start_layers)
		return 0;
	return vs_err_set(err, -EOPNOTSUPP, "disk '%s' stands on %zu layers, and this libvirt starts no domain with more than %zu: "
			  "commit, pull or delete some first", disk->target, depth, m->can.start_layers);
}

static int check_internal(const struct making *m, const struct vm_xml_disk *disk, struct vs_err *err)
{
	if (m->domain->has_nvram && m->domain->nvram_format != Q2_FORMAT_QCOW2)
		return vs_err_set(err, -EOPNOTSUPP, "the variables of the domain's firmware are in no qcow2 file, so libvirt takes no internal snapshot of it: "
				  "take an external one");
	if (!takes_part(m->spec, disk))
		return vs_err_set(err, -EOPNOTSUPP, "an internal snapshot takes all of a domain's disks, also '%s': take an external "
				  "one", disk->target);
	if (disk->left_out && !m->spec->n_targets)
		return vs_err_set(err, -EOPNOTSUPP, "an internal snapshot takes all of a domain's disks, also '%s', which the definition leaves out "
				  "(snapshot='no'): take an external one, or name the disks with disks=", disk->target);
	if (disk->source.slice)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s': %s, and the snapshot would be one of the whole file", disk->target,
				  disk->source.unsupported);
	if (disk->source.format == Q2_FORMAT_QCOW2)
		return 0;
	return vs_err_set(err, -EOPNOTSUPP, "disk '%s' is not qcow2, which alone can hold internal snapshots: take an external one",
			  disk->target);
}

/* External: a local file that an overlay can be put beside. Gives *path. */
static int check_external(const struct making *m, const struct vm_xml_disk *disk, char **path, struct vs_err *err)
{
	struct stat st;
	int r = check_depth(m, disk, err);

	if (r < 0)
		return r;
	if (disk->shareable)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s' is shareable, which an overlay cannot be: leave it out with disks=", disk->target);
	/* An overlay names a file. What the definition says besides of that would not come along, or, a secret, be left out above. */
	if (disk->source.unsupported && disk->source.type != VM_SOURCE_OTHER && disk->source.format != Q2_FORMAT_NONE)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s': %s, which an overlay would not be: leave it out with disks=", disk->target,
				  disk->source.unsupported);
	if (disk->source.format == Q2_FORMAT_NONE)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s' has %s: only raw and qcow2 can be stood on", disk->target,
				  disk->source.format_name ? "another format" : "no recorded format");
	*path = vm_dom_source_path(m->dom, &disk->source);
	if (!*path)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s' is %s, beside which no overlay can be made: leave it out with disks=",
				  disk->target, disk->source.text);
	if (stat(*path, &st) < 0)
		return vs_err_set(err, -errno, "disk '%s': '%s': %s", disk->target, *path, strerror(errno));
	if (disk->transient)
		return vs_err_set(err, -EOPNOTSUPP, "disk '%s' is transient: what is written to it goes when the domain stops, so it has no "
				  "snapshots: leave it out with disks=", disk->target);
	if (S_ISREG(st.st_mode))
		return 0;
	return vs_err_set(err, -EOPNOTSUPP, "disk '%s' is the device '%s', beside which no overlay can be made: leave it out with "
			  "disks=, or take an internal one", disk->target, *path);
}

/* ---------------------------------------------------------------- the plan */

static int plan_overlay(const struct making *m, const struct vm_xml_disk *disk, struct vm_overlay_plan *plan,
			struct vs_err *err)
{
	struct vm_overlay_naming naming = {
		.snapshot = m->spec->name, .names = m->names, .n_names = m->n_names,
		.left_over = m->spec->left_over, .taken = m->spec->taken, .opaque = m->spec->opaque,
	};
	vs_autofree char *path = NULL;
	int r;

	if (!takes_part(m->spec, disk))
		return 0;
	r = check_external(m, disk, &path, err);
	naming.beside = path;
	return r < 0 ? r : vm_overlay_plan_add(plan, &naming, disk->target, path, disk->source.format, err);
}

static int plan_disks(const struct making *m, struct vm_overlay_plan *plan, struct vs_err *err)
{
	int r = check_targets(m, err);

	for (size_t i = 0; r == 0 && i < m->domain->n_disks; i++) {
		const struct vm_xml_disk *disk = &m->domain->disks[i];

		if (!writable(disk))
			continue;
		if (plan->running)
			r = vm_blockjob_none(m->dom, disk->target, err);
		if (r == 0)
			r = m->spec->kind == VM_EXTERNAL ? plan_overlay(m, disk, plan, err) :
							   check_internal(m, disk, err);
	}
	return r;
}

static int taken(const struct making *m, struct vs_err *err)
{
	for (size_t i = 0; i < m->n_names; i++)
		if (!strcmp(m->names[i], m->spec->name))
			return vs_err_set(err, -EEXIST, "there is a snapshot '%s' already", m->spec->name);
	return 0;
}

static void fini(struct making *m)
{
	vm_xml_domain_free(m->domain);
	vm_overlay_names_free(m->names, m->n_names);
}

static int init(struct making *m, struct vm_overlay_plan *plan, struct vs_err *err)
{
	int r = vm_dom_active(m->dom, err);

	plan->running = r > 0;
	if (r >= 0)
		r = vm_version_get(virDomainGetConnect(m->dom), &m->can, err);
	if (r == 0)
		r = vm_overlay_names(m->dom, &m->names, &m->n_names, err);
	if (r == 0)
		r = vm_dom_xml(m->dom, 0, &m->domain, err);
	if (r == 0)
		r = taken(m, err);
	return r < 0 ? r : plan_disks(m, plan, err);
}

int vm_create_plan(virDomainPtr dom, const struct vm_create *spec, struct vm_dom_watch *watch, struct vm_overlay_plan *plan,
		   struct vs_err *err)
{
	vs_cleanup(fini) struct making m = { .dom = dom, .spec = spec };
	vm_overlay_autoplan struct vm_overlay_plan p = {0};
	int r = init(&m, &p, err);

	if (r == 0 && spec->quiesce) /* only the guest's agent can freeze: is it there? */
		r = vm_fsfreeze_agent(dom, spec->quiesce_s, watch, err);
	if (r < 0)
		return r;
	*plan = p;
	p = (struct vm_overlay_plan){0};
	return 0;
}

/* ---------------------------------------------------------------- the request */

static const char *overlay_of(const struct vm_overlay_plan *plan, const char *target)
{
	for (size_t i = 0; i < plan->n_overlays; i++)
		if (!strcmp(plan->overlays[i].target, target))
			return plan->overlays[i].path;
	return NULL;
}

static int request(const struct making *m, const struct vm_overlay_plan *plan, char **text, struct vs_err *err)
{
	bool internal = m->spec->kind == VM_INTERNAL;
	struct vm_new_snapshot spec = {
		.name = m->spec->name, .description = m->spec->description, .n_disks = m->domain->n_disks,
		.memory = internal && plan->running ? VM_MODE_INTERNAL : VM_MODE_NO,
	};
	vs_autofree struct vm_new_disk *disks = xcalloc(spec.n_disks, sizeof(*disks));

	for (size_t i = 0; i < spec.n_disks; i++) {
		const struct vm_xml_disk *disk = &m->domain->disks[i];

		disks[i].target = disk->target;
		disks[i].overlay = overlay_of(plan, disk->target);
		disks[i].mode = disks[i].overlay ? VM_MODE_EXTERNAL :
				internal && takes_part(m->spec, disk) ? VM_MODE_INTERNAL : VM_MODE_NO;
	}
	spec.disks = disks;
	return vm_new_snapshot(&spec, text, err);
}

static int call(virDomainPtr dom, const char *name, const char *text, unsigned flags, bool *made, struct vs_err *err)
{
	virDomainSnapshotPtr snap = virDomainSnapshotCreateXML(dom, text, flags | VIR_DOMAIN_SNAPSHOT_CREATE_VALIDATE);

	if (!snap) {
		int r = vm_dom_virterr(dom, err, "snapshot '%s'", name);

		return r != -EHOSTDOWN ? r : vs_err_set(err, r, "libvirt went away while it took snapshot '%s', which may be there "
							"or not", name);
	}
	virDomainSnapshotFree(snap);
	*made = true;
	vm_fault();
	return 0;
}

/* ---------------------------------------------------------------- what libvirt froze */

static const struct vm_xml_source *frozen_in(const struct vm_xml_snapshot *record, const char *target)
{
	for (size_t i = 0; i < record->n_disks; i++)
		if (!strcmp(record->disks[i].target, target) && record->disks[i].frozen)
			return &record->disks[i].frozen->source;
	return NULL;
}

/* One disk: does the overlay stand on what libvirt says it froze? If not, nobody can have written to it yet (what it stood on may be
 * gone, and then the domain does not start): it is put there. */
static int verify_disk(const struct making *m, const struct vm_overlay *o, const struct vm_xml_snapshot *record, struct vs_err *err)
{
	const struct vm_xml_source *frozen = frozen_in(record, o->target);
	vs_autofree char *path = frozen ? vm_dom_source_path(m->dom, frozen) : NULL;
	struct stat st;
	int active;

	if (!path)
		return vs_err_set(err, -EIO, "the record of snapshot '%s' does not say what disk '%s' froze", m->spec->name, o->target);
	if (stat(path, &st) < 0)
		return vs_err_set(err, -EIO, "disk '%s' of snapshot '%s': '%s': %s", o->target, m->spec->name, path, strerror(errno));
	if (st.st_dev == o->below_dev && st.st_ino == o->below_ino)
		return 0;
	active = vm_dom_active(m->dom, err);
	if (active)
		return active < 0 ? active : vs_err_set(err, -EIO, "disk '%s': another tool has changed its layers while snapshot '%s' was taken, and "
							"somebody has started the domain: '%s' stands on '%s', but '%s' was frozen",
							o->target, m->spec->name, o->path, o->below, path);
	return vm_overlay_rebase(o, path, frozen->format, err);
}

/* libvirt may have let us wait for a job of another tool, after which the layers are others than were planned with. */
static int verify(const struct making *m, const struct vm_overlay_plan *plan, struct vs_err *err)
{
	vm_dom_autorecord struct vm_xml_snapshot *record = NULL;
	int r = vm_dom_snapshot_xml(m->dom, m->spec->name, &record, err);

	for (size_t i = 0; r == 0 && i < plan->n_overlays; i++)
		r = verify_disk(m, &plan->overlays[i], record, err);
	return r;
}

/* ---------------------------------------------------------------- external, shut off */

static int create_offline(const struct making *m, const struct vm_overlay_plan *plan, const char *text,
			  struct vm_dom_watch *watch, bool *made, struct vs_err *err)
{
	const unsigned flags = VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC |
			       VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT;
	int r;

	vm_dom_step(watch, "take snapshot '%s'", m->spec->name);
	r = call(m->dom, m->spec->name, text, flags, made, err);
	return r < 0 ? r : verify(m, plan, err);
}

/* ---------------------------------------------------------------- external, running */

static int create_online(const struct making *m, const char *text, struct vm_dom_watch *watch, bool *made, struct vs_err *err)
{
	const unsigned flags = VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC;
	struct vm_fsfreeze *freeze = NULL;
	struct vs_err why = {0};
	int r = 0, thawed = 0;

	if (m->spec->quiesce) {
		vm_dom_step(watch, "freeze the guest's file systems");
		r = vm_fsfreeze(m->dom, m->spec->quiesce_s, watch, &freeze, err);
		vm_fault();
	}
	if (r == 0) {
		vm_dom_step(watch, "take snapshot '%s'", m->spec->name);
		r = call(m->dom, m->spec->name, text, flags, made, err);
	}
	if (freeze)
		thawed = vm_fsfreeze_thaw(freeze, &why);
	if (thawed == 0)
		return r;
	return vs_err_set(err, thawed, "snapshot '%s' was %s; %s", m->spec->name, *made ? "taken" : "not taken", why.msg);
}

/* ---------------------------------------------------------------- all */

static int create_internal(const struct making *m, const char *text, struct vm_dom_watch *watch, bool *made,
			   struct vs_err *err)
{
	int r;

	vm_dom_step(watch, "take snapshot '%s'", m->spec->name);
	r = call(m->dom, m->spec->name, text, 0, made, err);
	if (r == -EOPNOTSUPP && err)
		vs_err_set(err, r, "no internal snapshot of this domain is possible (%s): take an external one",
			   strdupa(err->msg));
	return r;
}

/* Plans, and makes the overlays that libvirt is then asked to take. -EEXIST from them (*lost): between the two somebody has taken a path. */
static int prepare(struct making *m, struct vm_overlay_plan *plan, struct vm_dom_watch *watch, bool *lost, struct vs_err *err)
{
	int r = init(m, plan, err);

	*lost = false;
	if (r < 0)
		return r;
	if (vm_dom_cancelled(watch))
		return vs_err_set(err, -ECANCELED, "cancelled");
	r = vm_overlay_make_all(plan, plan->running, m->spec->making, m->spec->opaque, watch, err);
	*lost = r == -EEXIST;
	return r;
}

int vm_create(virDomainPtr dom, const struct vm_create *spec, struct vm_dom_watch *watch, bool *made,
	      struct vs_err *err)
{
	vs_cleanup(fini) struct making m = { .dom = dom, .spec = spec };
	vm_overlay_autoplan struct vm_overlay_plan plan = {0};
	vs_autofree char *text = NULL;
	bool lost;
	int r;

	*made = false;
	r = prepare(&m, &plan, watch, &lost, err);
	for (unsigned i = 1; lost && i < PLANS; i++) { /* a domain whose image has the same stem has been quicker, say */
		fini(&m);
		m = (struct making){ .dom = dom, .spec = spec };
		vm_overlay_plan_fini(&plan);
		r = prepare(&m, &plan, watch, &lost, err);
	}
	if (r == 0)
		r = request(&m, &plan, &text, err);
	if (r < 0)
		return r;
	if (spec->kind == VM_INTERNAL)
		return create_internal(&m, text, watch, made, err);
	return plan.running ? create_online(&m, text, watch, made, err) : create_offline(&m, &plan, text, watch, made, err);
}
