/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* create. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/command.h"
#include "vm/command/context.h"
#include "vm/command/image.h"
#include "vm/command/nv.h"
#include "vm/command/pulls.h"
#include "vm/command/recover.h"
#include "vm/command/remove.h"
#include "vm/command/taken.h"
#include "vm/language/retain.h"
#include "vm/libvirt/create.h"
#include "vm/libvirt/overlay.h"
#include "vm/libvirt/record.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- which kind */

static int choose_kind(const struct vm_context *cx, enum vm_ask_kind ask, enum vm_kind *kind, struct vs_err *err)
{
	size_t internal = 0, external = 0;

	for (size_t i = 0; i < cx->n_records; i++)
		*(cx->records[i].xml->kind == VM_INTERNAL ? &internal : &external) += 1;
	if (internal && external)
		return vs_err_set(err, -EPERM, "the domain has internal and external snapshots (%zu and %zu), which others have mixed, and libvirt cannot revert "
				  "to or delete such: delete those of one kind first, the external ones if that is refused", internal, external);
	*kind = ask == VM_ASK_INTERNAL || (ask == VM_ASK_DEFAULT && internal && !external) ? VM_INTERNAL : VM_EXTERNAL;
	if (*kind == VM_INTERNAL && external)
		return vs_err_set(err, -EPERM, "the domain has external snapshots (%zu), and kinds that mix cannot be reverted or deleted by "
				  "libvirt: take an external one, or commit those first", external);
	if (*kind == VM_EXTERNAL && internal)
		return vs_err_set(err, -EPERM, "the domain has internal snapshots (%zu), and kinds that mix cannot be reverted or deleted by "
				  "libvirt: take an internal one, or delete those first", internal);
	if (*kind == VM_INTERNAL && ask == VM_ASK_DEFAULT && cx->running)
		return vs_err_set(err, -EPERM, "the domain's snapshots are internal, and one of a running domain pauses it while its "
				  "memory is saved: ask for it with the word 'internal', or shut the domain down");
	return 0;
}

/* Layers of the deepest chain. */
static size_t depth_of(const struct vm_context *cx)
{
	size_t deepest = 0;

	for (size_t i = 0; i < cx->d->n_disks; i++) {
		size_t n = 0;

		for (int l = cx->d->disks[i].top; l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below)
			n++;
		deepest = n > deepest ? n : deepest;
	}
	return deepest;
}

/* ---------------------------------------------------------------- create */

/* What it froze is noted while it is what it was. */
static void note_frozen(struct vm_context *cx, const struct vm_meta_id *id, const char *name)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		for (size_t k = 0; s->recorded && s->kind == VM_EXTERNAL && !strcmp(s->name, name) && k < s->n_disks; k++)
			vm_attest_frozen(cx, id, &s->disks[k]);
	}
}

/* Before "ok": does every disk stand on a whole chain? */
static int check_disks(const struct vm_context *cx, const struct vm_context_record *record, struct vs_err *err)
{
	for (size_t i = 0; i < record->xml->n_disks; i++) {
		int r = record->xml->disks[i].mode == VM_MODE_EXTERNAL ? vm_check_whole(cx, record->xml->disks[i].target,
											err) : 0;

		if (r < 0) {
			vs_err_prefix(err, "snapshot '%s' was taken, but", record->name);
			return r;
		}
	}
	return 0;
}

/* What looks written to, and was not when we took it, is shown at once, too. */
static int show_taken(struct vm_context *cx, const struct vm_meta_id *id, struct vs_err *err)
{
	int r = vm_attest_poll(cx, err);

	if (r < 0)
		return r;
	if (!vm_context_record(cx, id->name))
		return vs_err_set(err, -EIO, "snapshot '%s' was taken, and libvirt does not list it any more", id->name);
	note_frozen(cx, id, id->name);
	return vm_context_save(cx, err);
}

/* Once it is noted as ours, recovery has nothing more to do with it: so all that is to be noted of it is, by then. */
static int make_ours(struct vm_context *cx, const char *name, enum vm_kind kind, const struct vm_taken *taken, struct vm_nv_plan *nv, struct vs_err *err)
{
	const struct vm_context_record *record;
	struct vm_meta_id id;
	int failed, r = vm_attest_poll(cx, err);
	bool looked_written;

	if (r < 0)
		return r;
	record = vm_context_record(cx, name);
	if (!record)
		return vs_err_set(err, -EIO, "snapshot '%s' was taken, but libvirt does not list it", name);
	id = (struct vm_meta_id){ name, record->xml->created_s * VM_NS_PER_S, kind };
	vm_meta_set_ours(cx->meta, &id, true);
	looked_written = kind == VM_EXTERNAL && vm_taken_note(cx, taken, &id, record->xml);
	note_frozen(cx, &id, name);
	failed = vm_nv_note(cx, nv, &id, err);
	if (failed < 0)
		vs_err_prefix(err, "snapshot '%s' was taken, but", name);
	r = vm_context_save(cx, failed < 0 ? NULL : err);
	if (failed < 0)
		return failed;
	if (r == 0 && looked_written)
		r = show_taken(cx, &id, err);
	if (r == 0 && (r = vm_record_sync(cx->dom, err)) < 0) /* or after a power cut the guest would write to what is frozen */
		vs_err_prefix(err, "snapshot '%s' was taken, but", name);
	return r == 0 && kind == VM_EXTERNAL ? check_disks(cx, vm_context_record(cx, name), err) : r;
}

/*
 * What is noted of another one of that name, made in this very second, must not be taken for the new one. Of earlier ones the second tells, and
 * their records may only be away. True: something was noted.
 */
static bool forget_others(struct vm_context *cx, const char *name)
{
	int64_t second = vm_now_ns() / VM_NS_PER_S;
	bool news = false;

	for (size_t i = 0; i < cx->meta->n_snapshots; i++) {
		const struct vm_meta_snapshot *s = &cx->meta->snapshots[i];

		if (strcmp(s->name, name) || s->created_ns / VM_NS_PER_S < second || (!s->n_frozen && !s->n_attested && !s->n_nv))
			continue;
		vm_meta_forget_notes(cx->meta, &(struct vm_meta_id){ s->name, s->created_ns, s->kind });
		news = true;
	}
	return news;
}

/* May we make it? */
static int check_directory(const char *path, struct vs_err *err)
{
	vs_autofree char *dir = xstrndup(path, (size_t)(strrchr(path, '/') - path) + 1);

	return access(dir, W_OK | X_OK) == 0 ? 0 : vs_err_set(err, -errno, "'%s' cannot be made: %s", path, strerror(errno));
}

static void tell_left_out(struct vm_context *cx, const struct vm_create *spec)
{
	vm_dom_autodomain struct vm_xml_domain *xml = NULL;

	if (spec->n_targets || spec->kind == VM_INTERNAL || vm_dom_xml(cx->dom, cx->running ? 0 : VIR_DOMAIN_XML_INACTIVE, &xml, NULL) < 0)
		return;
	for (size_t i = 0; i < xml->n_disks; i++)
		if (xml->disks[i].left_out && vm_xml_disk_exposed(&xml->disks[i]))
			vm_context_say(cx, "disk %s %s left out, as the definition says (snapshot='no')", xml->disks[i].target,
				       cx->try_only ? "would be" : "was");
}

/* What the record says: between the plan and its being carried out somebody may have taken a path. */
static void tell_created(struct vm_context *cx, const char *name)
{
	const struct vm_context_record *record = vm_context_record(cx, name);

	for (size_t i = 0; record && i < record->xml->n_disks; i++) {
		const struct vm_xml_snapdisk *disk = &record->xml->disks[i];
		const struct vm_xml_source *frozen = disk->frozen ? &disk->frozen->source : NULL;

		if (disk->mode == VM_MODE_EXTERNAL && disk->overlay.path)
			vm_context_say(cx, "disk %s: created '%s'%s%s%s", disk->target, vm_context_file(cx, disk->overlay.path), frozen && frozen->path ? " on '" : "",
				       frozen && frozen->path ? vm_context_file(cx, frozen->path) : "", frozen && frozen->path ? "'" : "");
	}
}

/* The disks, each with the image that it stands on behind it: "vda", "/a.qcow2", ... */
static char **tops_of(const struct vm_context *cx)
{
	char **tops = xcalloc(2 * cx->d->n_disks + 1, sizeof(*tops));

	for (size_t i = 0; i < cx->d->n_disks; i++) {
		const struct vm_disk_now *disk = &cx->d->disks[i];

		tops[2 * i] = xstrdup(disk->target);
		tops[2 * i + 1] = xstrdup(disk->top < 0 ? "" : cx->d->layers[disk->top].path);
	}
	return tops;
}

/* NULL: there was no such disk. */
static const char *top_of(char **tops, const char *target)
{
	for (; *tops; tops += 2)
		if (!strcmp(tops[0], target))
			return tops[1];
	return NULL;
}

static void tops_free(char **tops)
{
	for (char **top = tops; *top; top++)
		free(*top);
	free(tops);
}

/* No snapshot was taken. libvirt puts the domain on the new layers before it writes the record, and may fail between the two. */
static void tell_moved(const struct vm_context *cx, char **before, struct vs_err *err)
{
	for (size_t i = 0; i < cx->d->n_disks; i++) {
		const struct vm_disk_now *disk = &cx->d->disks[i];
		const char *was = top_of(before, disk->target);
		vs_autofree char *said = xstrdup(err->msg);

		if (was && disk->top >= 0 && strcmp(cx->d->layers[disk->top].path, was) != 0)
			vs_err_set(err, err->code, "%s; there is no such snapshot, but disk %s stands on '%s' now: 'adopt' makes a snapshot of what it stood on", said,
				   disk->target, vm_context_file(cx, cx->d->layers[disk->top].path));
	}
}

static int create(struct vm_context *cx, const struct vm_create *spec, struct vs_err *err)
{
	char **tops;
	struct vm_overlay_plan plan = {0};
	vm_nv_autoplan struct vm_nv_plan nv = { .files = { .n = 0 } };
	vm_taken_autofini struct vm_taken taken = { .n = 0 };
	bool made = false;
	int r = vm_create_plan(cx->dom, spec, &cx->watch, &plan, err);

	if (r < 0)
		return r;
	for (size_t i = 0; cx->try_only && i < plan.n_overlays; i++)
		vm_context_say(cx, "disk %s: would create '%s' on '%s'", plan.overlays[i].target, vm_context_file(cx, plan.overlays[i].path),
			       vm_context_file(cx, plan.overlays[i].below));
	if (cx->try_only && spec->kind == VM_INTERNAL)
		vm_context_say(cx, "would take the internal snapshot '%s'%s", spec->name, cx->running ? ", with the guest's memory" : "");
	if (cx->try_only)
		tell_left_out(cx, spec);
	for (size_t i = 0; r == 0 && i < plan.n_overlays; i++)
		r = check_directory(plan.overlays[i].path, err);
	vm_overlay_plan_fini(&plan);
	if (r == 0)
		r = vm_nv_plan(cx, spec->name, spec->kind, &nv, err);
	if (r < 0 || cx->try_only)
		return r;
	if (forget_others(cx, spec->name))
		r = vm_context_save(cx, err);
	if (r == 0)
		r = vm_recover_journal_take(cx, spec->name, err);
	if (r < 0)
		return r;
	vm_fault();
	tops = tops_of(cx);
	r = vm_nv_copy(cx, spec->name, &nv, vm_recover_making, err);
	if (r == 0) {
		vm_taken_before(cx, &taken);
		r = vm_create(cx->dom, spec, &cx->watch, &made, err);
		vm_taken_after(&taken);
	}
	if (made) {
		struct vs_err why = {0};
		int owned = make_ours(cx, spec->name, spec->kind, &taken, &nv, &why);

		if (r == 0 && owned < 0)
			r = vs_err_set(err, owned, "%s", why.msg);
		tell_created(cx, spec->name);
		tell_left_out(cx, spec);
	}
	if (r != -EHOSTDOWN) {
		vm_journal_done(&cx->journal, "take");
		vm_journal_done(&cx->journal, "nv");
		if (r == 0 || vm_attest_poll(cx, NULL) == 0)
			vm_recover_settle_making(cx, NULL);
	}
	if (r < 0 && r != -EHOSTDOWN && !made && err)
		tell_moved(cx, tops, err);
	tops_free(tops);
	return r;
}

static bool takes_part(const struct vm_command *c, const char *target)
{
	for (size_t i = 0; i < c->n_disks; i++)
		if (!strcmp(c->disks[i], target))
			return true;
	return c->n_disks == 0;
}

/* What would be frozen: a whole chain, that nobody else writes to. */
static int check_layers(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	for (size_t i = 0; i < cx->d->n_disks; i++) {
		const struct vm_disk_now *disk = &cx->d->disks[i];
		const struct vm_layer *top = disk->top < 0 ? NULL : &cx->d->layers[disk->top];
		int r;

		if (!top || !top->active || !takes_part(c, disk->target))
			continue;
		r = vm_pulls_check(cx, disk->target, false, err);
		if (r == 0)
			r = vm_check_uncut(cx, disk->target, disk->top, err);
		if (r == 0)
			r = vm_check_at_rest(cx, disk->target, err);
		if (r < 0)
			return r;
		if (disk->contradicted)
			return vs_err_set(err, -EPERM, "disk %s: the <backingStore> or <dataStore> in the domain's definition names another chain than the headers of its images do: put "
					  "one of them right first", disk->target);
		if (top->rival)
			return vs_err_set(err, -EPERM, "disk %s: '%s' cannot be frozen, for %s writes to it, too", disk->target, top->path,
					  top->rival);
	}
	return 0;
}

int vm_command_create(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	struct vm_create spec = { .name = c->names[0], .description = c->desc, .targets = (const char *const *)c->disks,
				      .n_targets = c->n_disks, .quiesce = c->quiesce_s, .quiesce_s = c->quiesce_s,
				      .left_over = cx->try_only ? vm_recover_left_over : NULL,
				      .taken = vm_context_names, .making = vm_recover_making, .opaque = cx };
	int r = vm_recover_settle(cx, err);

	if (r == 0)
		r = vm_recover_begin(cx, cx->command, VM_BESIDE_CREATE, err);
	if (r < 0)
		return r;
	r = choose_kind(cx, c->kind, &spec.kind, err);
	if (r == 0 && c->quiesce_s && (!cx->running || spec.kind == VM_INTERNAL))
		r = vs_err_set(err, -EOPNOTSUPP, "quiesce is for external snapshots of running domains");
	if (r == 0)
		r = vm_check_startable(cx, err);
	if (r == 0 && !cx->running)
		r = vm_check_checkpoints(cx, true, err);
	if (r == 0)
		r = vm_check_new_name(cx, c->names[0], spec.kind, err);
	if (r == 0)
		r = check_layers(cx, c, err);
	if (r == 0 && !cx->try_only)
		r = vm_recover_settle_making(cx, err); /* so that the names are free */
	spec.depth = r == 0 ? depth_of(cx) : 0;
	return r < 0 ? r : create(cx, &spec, err);
}
