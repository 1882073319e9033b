/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * adopt: a record for a layer that has none.
 *
 * A backup program that dies leaves the domain on an overlay of which libvirt knows no snapshot; so does `snapshot-delete --metadata`. What
 * that overlay was put on has not changed since: it is a snapshot in all but the record. With one it is shown, held, kept, reverted to, and
 * merged away like any other. No data moves, and nothing is made but the record.
 *
 * On each disk it is the uppermost layer that others stand on and that no snapshot froze. Where snapshots were taken after it was left, the
 * record goes between them: the oldest of these has the new one as its parent, and that has the parent which it had.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/command.h"
#include "vm/command/recover.h"
#include "vm/libvirt/record.h"
#include "vm/model/inventory.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"
#include "vm/xml/edit.h"

#define APART_S 60 /* what is left on several disks by one run of a program */
#define SLACK_NS (2 * VM_NS_PER_S)

/* A layer, and what was put on it. */
struct found {
	const char *target;
	int layer, above; /* indexes of layers; -1: there is none */
};

struct adoption {
	struct vm_context *cx;
	const struct vm_command *c;
	struct found *found;
	size_t n;
	int64_t made_ns;                  /* when the first overlay was put there; 0: the file systems do not tell */
	const struct vm_snapshot *later;  /* the one that froze what was put there; NULL: that is active */
};

static bool is_internal(const struct vm_context *cx, const char *shown)
{
	const struct vm_snapshot *s = vm_domain_shown(cx->d, shown);

	return s && s->kind == VM_INTERNAL;
}

/* The first external snapshot, by its shown name, that froze this layer; NULL: none did. */
static const char *frozen_at(const struct vm_context *cx, int layer)
{
	for (char **s = cx->d->layers[layer].snapshots; s && *s; s++)
		if (!is_internal(cx, *s))
			return *s;
	return NULL;
}

static struct found find_on(const struct vm_context *cx, const struct vm_disk_now *disk)
{
	struct found found = { disk->target, -1, -1 };
	int above = disk->top;

	if (above < 0 || !cx->d->layers[above].active)
		return found;
	for (int l = cx->d->layers[above].below; l >= 0; above = l, l = cx->d->layers[l].below)
		if (!frozen_at(cx, l)) {
			found.layer = l;
			found.above = above;
			break;
		}
	return found;
}

static bool is_asked_for(const struct vm_command *c, const char *target)
{
	return !c->n_disks || vm_context_among(target, c->disks, c->n_disks);
}

static int find_all(struct adoption *a, struct vs_err *err)
{
	a->found = xcalloc(a->cx->d->n_disks, sizeof(*a->found));
	for (size_t i = 0; i < a->c->n_disks; i++)
		if (vm_context_top(a->cx, a->c->disks[i]) < 0)
			return vs_err_set(err, -ENOENT, "the domain has no disk '%s' in layers that are files here", a->c->disks[i]);
	for (size_t i = 0; i < a->cx->d->n_disks; i++) {
		const struct vm_disk_now *disk = &a->cx->d->disks[i];
		struct found found = find_on(a->cx, disk);

		if (!is_asked_for(a->c, disk->target))
			continue;
		if (found.layer >= 0)
			a->found[a->n++] = found;
		else if (a->c->n_disks)
			return vs_err_set(err, -EPERM, "disk %s stands on no layer of which no snapshot tells", disk->target);
	}
	return a->n ? 0 : vs_err_set(err, -EPERM, "no disk stands on a layer of which no snapshot tells: there is nothing to adopt");
}

/* ---------------------------------------------------------------- is it a snapshot? */

/* A snapshot that froze this very file when that overlay was put on it, or later, and whose record has gone, was noted with another stamp of it. NULL:
 * none. An earlier one may have been merged, and the file written to since. */
static const struct vm_meta_snapshot *noted_otherwise(const struct adoption *a, const struct found *f, const struct vm_layer *layer, const struct vm_layer *above)
{
	for (size_t i = 0; i < a->cx->meta->n_snapshots; i++) {
		const struct vm_meta_snapshot *s = &a->cx->meta->snapshots[i];
		bool earlier = s->created_ns + VM_NS_PER_S + SLACK_NS < above->stamp.btime_ns; /* a record has whole seconds */

		for (size_t k = 0; s->kind == VM_EXTERNAL && !earlier && k < s->n_frozen; k++) {
			const struct vm_meta_file *file = vm_meta_file(a->cx->meta, s->frozen[k].file);

			if (file && !strcmp(s->frozen[k].target, f->target) && file->ino == layer->stamp.ino && file->mtime_ns >= layer->stamp.btime_ns &&
			    (file->size != layer->stamp.size || file->mtime_ns != layer->stamp.mtime_ns))
				return s;
		}
	}
	return NULL;
}

/* What it froze has to be there as it was then. */
static int check_frozen(const struct adoption *a, const struct found *f, struct vs_err *err)
{
	const struct vm_layer *layer = &a->cx->d->layers[f->layer], *above = &a->cx->d->layers[f->above];
	const struct vm_meta_snapshot *noted;
	int r = vm_check_uncut(a->cx, f->target, f->above, err);

	if (r < 0)
		return r;
	if (layer->active || layer->rival)
		return vs_err_set(err, -EPERM, "disk %s: '%s' is being written: %s writes to it", f->target, layer->path,
				  layer->rival ? layer->rival : "a disk of the domain");
	if (above->stamp.btime_ns && layer->stamp.mtime_ns > above->stamp.btime_ns && (noted = noted_otherwise(a, f, layer, above)))
		return vs_err_set(err, -EPERM, "disk %s: '%s' was written to after '%s' had been taken, which froze it: what it was then is gone", f->target, layer->path,
				  noted->name);
	if (!above->stamp.btime_ns || layer->stamp.mtime_ns <= above->stamp.btime_ns + SLACK_NS)
		return 0;
	if (layer->stamp.mtime_ns > vm_now_ns())
		return vs_err_set(err, -EPERM, "disk %s: the time of '%s' lies ahead of the clock, and nobody can tell whether it was written to after '%s' had been put "
				  "on it", f->target, layer->path, above->path);
	return vs_err_set(err, -EPERM, "disk %s: '%s' was written to after '%s' had been put on it: what it was then is gone", f->target, layer->path, above->path);
}

/* All of one moment, and in one place among the snapshots. */
static int check_together(struct adoption *a, struct vs_err *err)
{
	int64_t last = 0;

	for (size_t i = 0; i < a->n; i++) {
		const struct vm_layer *above = &a->cx->d->layers[a->found[i].above];
		const char *shown = frozen_at(a->cx, a->found[i].above);
		const struct vm_snapshot *later = shown ? vm_domain_shown(a->cx->d, shown) : NULL;
		int64_t made = above->stamp.btime_ns;

		if (i && later != a->later)
			return vs_err_set(err, -EPERM, "the layers of disk %s and %s are not of one moment: name disks of one with disks=",
					  a->found[0].target, a->found[i].target);
		a->later = later;
		if (made && (!a->made_ns || made < a->made_ns))
			a->made_ns = made;
		last = made > last ? made : last;
	}
	if (last - a->made_ns > APART_S * VM_NS_PER_S)
		return vs_err_set(err, -EPERM, "the layers were put there %" PRId64 " s apart: name disks of one moment with disks=",
				  (last - a->made_ns) / VM_NS_PER_S);
	return 0;
}

static int check_kinds(const struct vm_context *cx, struct vs_err *err)
{
	for (size_t i = 0; i < cx->n_records; i++)
		if (cx->records[i].xml->kind == VM_INTERNAL)
			return vs_err_set(err, -EPERM, "the domain has internal snapshots ('%s'), and kinds that mix cannot be reverted or deleted by libvirt: "
					  "delete those first", cx->records[i].name);
	return 0;
}

/* ---------------------------------------------------------------- the record */

/* Not after the one that was taken later, and not before what it froze was last written to. */
static int64_t time_of(const struct adoption *a)
{
	int64_t made = a->made_ns, upto = a->later ? a->later->created_ns : vm_now_ns();

	for (size_t i = 0; !a->made_ns && i < a->n; i++) {
		int64_t written = a->cx->d->layers[a->found[i].layer].stamp.mtime_ns;

		made = written > made ? written : made;
	}
	return (made < upto ? made : upto) / VM_NS_PER_S;
}

static const struct found *found_on(const struct adoption *a, const char *target)
{
	for (size_t i = 0; i < a->n; i++)
		if (!strcmp(a->found[i].target, target))
			return &a->found[i];
	return NULL;
}

static bool is_device(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

static int compose(const struct adoption *a, const char *parent, char **record, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *xml = NULL;
	vs_autofree char *text = NULL, *definition = NULL;
	vs_autofree struct vm_edit_disk *moves = xcalloc(a->n, sizeof(*moves));
	vs_autofree struct vm_new_disk *disks = NULL;
	struct vm_new_snapshot spec = { .name = a->c->names[0], .description = a->c->desc, .memory = VM_MODE_NO };
	struct vm_new_record more = { .created_s = time_of(a), .state = a->cx->running ? "disk-snapshot" : "shutoff", .parent = parent };
	int r = vm_dom_xml(a->cx->dom, VIR_DOMAIN_XML_INACTIVE, &xml, err);

	if (r == 0)
		r = vm_dom_text(a->cx->dom, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE, &text, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < a->n; i++) {
		const struct vm_layer *layer = &a->cx->d->layers[a->found[i].layer];

		moves[i] = (struct vm_edit_disk){ a->found[i].target, layer->path, q2_format_name(layer->format), is_device(layer->path) };
	}
	r = vm_edit_definition(text, moves, a->n, &definition, err);
	if (r < 0)
		return r;
	disks = xcalloc(xml->n_disks, sizeof(*disks));
	for (size_t i = 0; i < xml->n_disks; i++) {
		const struct found *f = found_on(a, xml->disks[i].target);

		disks[i] = (struct vm_new_disk){ xml->disks[i].target, f ? VM_MODE_EXTERNAL : VM_MODE_NO, f ? a->cx->d->layers[f->above].path : NULL };
	}
	spec.disks = disks;
	spec.n_disks = xml->n_disks;
	more.domain = definition;
	return vm_new_record(&spec, &more, record, err);
}

/* The one that comes after it gets it as its parent. */
static int put_between(const struct adoption *a, const char *later, struct vs_err *err)
{
	vs_autofree char *text = NULL, *edited = NULL;
	int r = vm_dom_record(a->cx->dom, later, &text, err);

	if (r == 0)
		r = vm_edit_parent(text, a->c->names[0], &edited, err);
	return r < 0 ? r : vm_record_redefine(a->cx->dom, edited, VM_RECORD_KEEP_CURRENT, err);
}

static const char *current_of(const struct vm_context *cx)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		if (cx->d->snapshots[i].current)
			return cx->d->snapshots[i].name;
	return NULL;
}

/* It has come to be what was meant; else the record goes again. */
static int verify(struct vm_context *cx, const char *name, struct vs_err *err)
{
	const struct vm_snapshot *s;
	int r = vm_attest_poll(cx, err);

	if (r < 0)
		return r;
	if (vm_context_find_key(cx, name, &s, NULL) < 0) /* one that is new and shows nothing is not listed at once */
		vs_err_set(err, -EPERM, "what '%s' would show cannot be vouched for: what it stands on was written to", name);
	else if (s->state == VM_OK || s->state == VM_DETACHED || s->state == VM_BUSY)
		return 0;
	else
		vs_err_set(err, -EPERM, "what '%s' would show cannot be vouched for: %s", s->shown, s->reason ? s->reason : vm_state_name(s->state));
	vm_record_forget(cx->dom, name, NULL);
	vm_attest_poll(cx, NULL);
	return -EPERM;
}

static int record(struct adoption *a, struct vs_err *err)
{
	vs_autofree char *later = a->later ? xstrdup(a->later->name) : NULL;
	const struct vm_context_record *after = later ? vm_context_record(a->cx, later) : NULL;
	const char *parent = after ? after->xml->parent : current_of(a->cx);
	vs_autofree char *text = NULL;
	int r = compose(a, parent, &text, err);

	if (r == 0)
		r = vm_record_redefine(a->cx->dom, text, after ? VM_RECORD_KEEP_CURRENT : VM_RECORD_MAKE_CURRENT, err);
	vm_fault();
	if (r == 0)
		r = verify(a->cx, a->c->names[0], err);
	if (r == 0 && after)
		r = put_between(a, later, err);
	return r == 0 && after ? vm_attest_poll(a->cx, err) : r;
}

static void tell(const struct adoption *a)
{
	time_t seconds = time_of(a);
	struct tm tm;
	char when[32] = "?";

	if (localtime_r(&seconds, &tm))
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
	for (size_t i = 0; i < a->n; i++)
		vm_context_say(a->cx, "disk %s: '%s' %s '%s' as it was at %s, when '%s' was put on it", a->found[i].target, a->c->names[0],
			       a->cx->try_only ? "would be" : "is", vm_context_file(a->cx, a->cx->d->layers[a->found[i].layer].path), when,
			       vm_context_file(a->cx, a->cx->d->layers[a->found[i].above].path));
}

int vm_command_adopt(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	struct adoption a = { .cx = cx, .c = c };
	int r = vm_recover_begin(cx, cx->command, VM_BESIDE_CREATE, err);

	if (r == 0)
		r = vm_check_new_name(cx, c->names[0], VM_EXTERNAL, err);
	if (r == 0)
		r = check_kinds(cx, err);
	if (r == 0)
		r = find_all(&a, err);
	for (size_t i = 0; r == 0 && i < a.n; i++)
		r = check_frozen(&a, &a.found[i], err);
	if (r == 0)
		r = check_together(&a, err);
	if (r == 0)
		tell(&a);
	if (r == 0 && !cx->try_only)
		r = record(&a, err);
	free(a.found);
	return r;
}
