/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* create, hold, release, and storing a policy. */
#include "vm/command/context.h"
#include "vm/command/intent.h"
#include "vm/command/remove.h"
#include "vm/engine/engine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/language/retain.h"
#include "vm/model/names.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- which kind */

static int choose_kind(const struct vm_work *w, enum vm_ask_kind ask, enum vm_kind *kind, struct vs_err *err)
{
	size_t internal = 0, external = 0;

	for (size_t i = 0; i < w->n_records; i++)
		*(w->records[i].xml->kind == VM_INTERNAL ? &internal : &external) += 1;
	*kind = ask == VM_ASK_INTERNAL || (ask == VM_ASK_DEFAULT && internal && !external) ? VM_INTERNAL : VM_EXTERNAL;
	if (*kind == VM_INTERNAL && external)
		return vs_err_set(err, -EPERM, "the domain has external snapshots (%zu), and kinds that mix cannot be reverted or deleted by "
				  "libvirt: take an external one, or commit those first", external);
	if (*kind == VM_EXTERNAL && internal)
		return vs_err_set(err, -EPERM, "the domain has internal snapshots (%zu), and kinds that mix cannot be reverted or deleted by "
				  "libvirt: take an internal one, or delete those first", internal);
	if (*kind == VM_INTERNAL && ask == VM_ASK_DEFAULT && w->running)
		return vs_err_set(err, -EPERM, "the domain's snapshots are internal, and one of a running domain pauses it while its "
				  "memory is saved: ask for it with the word 'internal', or shut the domain down");
	return 0;
}

static int check_name(const struct vm_work *w, const struct vm_command *c, enum vm_kind kind, struct vs_err *err)
{
	const char **targets = calloc(w->d->n_disks + 1, sizeof(*targets));
	struct vm_name_rules rules = { .internal = kind == VM_INTERNAL, .libvirt = w->conn };
	int r;

	for (size_t i = 0; targets && i < w->d->n_disks; i++)
		targets[i] = w->d->disks[i].target;
	rules.suffix_len = targets ? vm_name_suffix_len(targets, w->d->n_disks) : 16;
	free(targets);
	r = vm_name_check_new(c->names[0], &rules, err);
	for (size_t i = 0; r == 0 && i < w->d->n_snapshots; i++)
		if (!w->d->snapshots[i].present && !strcmp(w->d->snapshots[i].name, c->names[0]))
			r = vs_err_set(err, -EEXIST, "there is a snapshot '%s' already", c->names[0]);
	return r;
}

/* Layers of the deepest chain. */
static size_t depth_of(const struct vm_work *w)
{
	size_t deepest = 0;

	for (size_t i = 0; i < w->d->n_disks; i++) {
		size_t n = 0;

		for (int l = w->d->disks[i].top; l >= 0 && n < VM_CHAIN_MAX; l = w->d->layers[l].below)
			n++;
		deepest = n > deepest ? n : deepest;
	}
	return deepest;
}

/* ---------------------------------------------------------------- left-overs of an interrupted create */

/*
 * Each file that is made is noted before it has its name. While the command has not ended it is a node of the graph like any other,
 * so that it is known who has come to use it; and it goes by vm_remove(), or stays.
 */

static bool is_it(const struct q2_stamp *stamp, const struct vm_made *made)
{
	return stamp->dev == made->dev && stamp->ino == made->ino && (!made->btime_ns || stamp->btime_ns == made->btime_ns);
}

/* As it is to be removed: see vm_remove(), which takes nothing without a stamp. */
static struct vm_doomed_file as_doomed(const struct vm_work *w, const struct vm_made *made)
{
	int l = vm_work_layer(w, made->path);
	struct vm_doomed_file file = { .path = (char *)made->path, .as = VM_DOOMED_BEGUN };

	if (l >= 0 && is_it(&w->d->layers[l].stamp, made))
		file.stamp = w->d->layers[l].stamp;
	return file;
}

struct asked {
	const char *path;
	bool goes;
};

static bool would_go(struct vm_work *w, const char *text, void *opaque)
{
	struct asked *asked = opaque;
	struct vm_doomed_file file;
	struct vm_made made;

	if (!vm_made_parse(text, &made) || strcmp(made.path, asked->path) != 0 || vm_made_is_there(&made) != 1)
		return false;
	file = as_doomed(w, &made);
	asked->goes |= vm_may_remove(w, &file, NULL, NULL) == 0 && vm_nobody_has_it(made.path, true, NULL) == 0;
	return true;
}

/* For `try`: will that file be gone by then? */
static bool left_over(void *opaque, const char *path)
{
	struct asked asked = { .path = path };

	vm_work_note_each(opaque, "make", would_go, &asked);
	return asked.goes;
}

int vm_op_making(void *opaque, const char *path, int fd, struct vs_err *err)
{
	struct vm_work *w = opaque;
	struct vm_made made;
	vs_autofree char *text = NULL;
	int r = vm_made_of(fd, path, &made);

	if (r < 0)
		return vs_err_set(err, r, "'%s' is made, and what it is cannot be noted: %s", path, strerror(-r));
	text = vm_made_text(&made);
	return vm_work_note(w, "make", text, err);
}

/* Does a disk or a snapshot of the domain use it? */
static bool is_used(const struct vm_work *w, const struct vm_made *made)
{
	int l = vm_work_layer(w, made->path);
	const struct vm_layer *layer = l < 0 ? NULL : &w->d->layers[l];

	return layer && is_it(&layer->stamp, made) && (layer->active || layer->snapshots[0] || vm_made(w, l));
}

/* Then it is of our making, which soon no note will say. True: and no record does. */
static bool adopt_made(struct vm_work *w, const char *text, void *opaque)
{
	struct vm_made made;

	(void)opaque;
	if (!vm_made_parse(text, &made) || vm_made_is_there(&made) != 1 || !is_used(w, &made) || vm_made(w, vm_work_layer(w, made.path)))
		return false;
	vm_own_add_made(w->own, made.path, made.ino);
	return true;
}

static bool settle_made(struct vm_work *w, const char *text, void *opaque)
{
	struct vm_doomed_file file;
	struct vs_err why = {0};
	struct vm_made made;
	int l, r;

	(void)opaque;
	if (!vm_made_parse(text, &made) || vm_made_is_there(&made) == 0)
		return true;
	if (is_used(w, &made))
		return true;
	l = vm_work_layer(w, made.path);
	if (l >= 0 && vm_need(w, l, NULL, true, &why) == VM_NEED_BY) {
		vm_log(w->log, "an interrupted command had made '%s', which is somebody's by now: %s", made.path, why.msg);
		return true;
	}
	file = as_doomed(w, &made);
	r = vm_remove(w, &file, NULL, &why);
	if (r == 0)
		vm_log(w->log, "unlinked '%s', which had been made for a command that came to nothing", made.path);
	else if (r < 0)
		vm_log(w->log, "%s (it had been made for a command that came to nothing)", why.msg);
	return r >= 0;
}

int vm_op_settle_making(struct vm_work *w, struct vs_err *err)
{
	int r = vm_work_note_each(w, "make", adopt_made, NULL) > 0 ? vm_work_save(w, err) : 0;

	if (r == 0)
		vm_work_note_settle(w, "make", settle_made, NULL);
	return r;
}

/* ---------------------------------------------------------------- what an interrupted create has taken */

#define TAKING_S 30 /* a snapshot's time is that of the beginning of the call that takes it */

int vm_op_note_take(struct vm_work *w, const char *name, struct vs_err *err)
{
	vs_autofree char *text = xasprintf("%" PRId64 "\n%s", vm_now_ns() / VM_NS_PER_S, name);

	return vm_work_note(w, "take", text, err);
}

static bool settle_one(struct vm_work *w, const char *text, void *opaque)
{
	const char *name = strchr(text, '\n');
	int64_t since_s = strtoll(text, NULL, 10);
	bool changed = false;

	(void)opaque;
	for (size_t i = 0; name && i < w->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &w->d->snapshots[i];
		struct vm_own_id id = vm_work_id(w, s);

		if (s->present || s->ours || strcmp(s->name, name + 1) != 0)
			continue;
		if (id.created_ns < (since_s - 1) * VM_NS_PER_S || id.created_ns > (since_s + TAKING_S) * VM_NS_PER_S)
			continue;
		changed |= vm_own_set_ours(w->own, &id, true) == 0;
		vm_log(w->log, "'%s' was taken by an interrupted create, and counts as taken here", s->shown);
	}
	return changed;
}

#define TAKEN_LATE_S 86400 /* a libvirt that went away may be writing a guest's memory still */

static bool take_is_over(struct vm_work *w, const char *text, void *opaque)
{
	const char *name = strchr(text, '\n');

	(void)opaque;
	return !name || vm_work_record(w, name + 1) || strtoll(text, NULL, 10) + TAKEN_LATE_S < vm_now_ns() / VM_NS_PER_S;
}

int vm_op_settle(struct vm_work *w, struct vs_err *err)
{
	int r;

	if (w->try_only)
		return 0;
	r = vm_work_note_each(w, "take", settle_one, NULL) > 0 ? vm_work_save(w, err) : 0;
	if (r == 0)
		vm_work_note_settle(w, "take", take_is_over, NULL);
	return r;
}

/* ---------------------------------------------------------------- create */

/* What it froze is noted while it is what it was. */
static void note_frozen(struct vm_work *w, const struct vm_own_id *id, const char *name)
{
	for (size_t i = 0; i < w->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &w->d->snapshots[i];

		for (size_t k = 0; s->recorded && s->kind == VM_EXTERNAL && !strcmp(s->name, name) && k < s->n_disks; k++)
			vm_work_note_frozen(w, id, &s->disks[k]);
	}
}

/* Before "ok": does every disk stand on a whole chain? */
static int check_disks(const struct vm_work *w, const struct vm_work_record *record, struct vs_err *err)
{
	for (size_t i = 0; i < record->xml->n_disks; i++) {
		int r = record->xml->disks[i].mode == VM_MODE_EXTERNAL ? vm_work_whole(w, record->xml->disks[i].target, err) : 0;

		if (r < 0) {
			vs_err_prefix(err, "snapshot '%s' was taken, but", record->name);
			return r;
		}
	}
	return 0;
}

static int make_ours(struct vm_work *w, const char *name, enum vm_kind kind, struct vs_err *err)
{
	const struct vm_work_record *record;
	struct vm_own_id id;
	int r = vm_work_look(w, err);

	if (r < 0)
		return r;
	record = vm_work_record(w, name);
	if (!record)
		return vs_err_set(err, -EIO, "snapshot '%s' was taken, but libvirt does not list it", name);
	id = (struct vm_own_id){ name, record->xml->created_s * VM_NS_PER_S, kind };
	if (vm_own_set_ours(w->own, &id, true) < 0)
		xoom();
	note_frozen(w, &id, name);
	r = vm_work_save(w, err);
	return r == 0 && kind == VM_EXTERNAL ? check_disks(w, record, err) : r;
}

static int create(struct vm_work *w, const struct vm_act_create *spec, struct vs_err *err)
{
	struct vm_act_plan plan = {0};
	bool made = false;
	int r = vm_act_create_plan(w->dom, spec, &w->watch, &plan, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < plan.n_overlays; i++)
		vm_work_say(w, "disk %s: %s '%s' on '%s'", plan.overlays[i].target, w->try_only ? "would create" : "created",
			    vm_work_file(w, plan.overlays[i].path), vm_work_file(w, plan.overlays[i].below));
	vm_act_plan_fini(&plan);
	if (w->try_only)
		return 0;
	if (r == 0)
		r = vm_op_note_take(w, spec->name, err);
	if (r < 0)
		return r;
	vm_fault();
	r = vm_act_create(w->dom, spec, &w->watch, &made, err);
	if (made) {
		struct vs_err why = {0};
		int owned = make_ours(w, spec->name, spec->kind, &why);

		if (r == 0 && owned < 0)
			r = vs_err_set(err, owned, "%s", why.msg);
	}
	if (r != -EHOSTDOWN) {
		vm_work_note_done(w, "take");
		if (r == 0 || vm_work_look(w, NULL) == 0)
			vm_op_settle_making(w, NULL);
	}
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
static int check_layers(const struct vm_work *w, const struct vm_command *c, struct vs_err *err)
{
	for (size_t i = 0; i < w->d->n_disks; i++) {
		const struct vm_disk_now *disk = &w->d->disks[i];
		const struct vm_layer *top = disk->top < 0 ? NULL : &w->d->layers[disk->top];
		int r;

		if (!top || !top->active || !takes_part(c, disk->target))
			continue;
		r = vm_work_uncut(w, disk->target, disk->top, err);
		if (r < 0)
			return r;
		if (top->rival)
			return vs_err_set(err, -EPERM, "disk %s: '%s' cannot be frozen, for %s writes to it, too", disk->target, top->path,
					  top->rival);
	}
	return 0;
}

int vm_op_create(struct vm_work *w, const struct vm_command *c, struct vs_err *err)
{
	struct vm_act_create spec = { .name = c->names[0], .description = c->desc, .targets = (const char *const *)c->disks,
				      .n_targets = c->n_disks, .quiesce = c->quiesce_s, .quiesce_s = c->quiesce_s,
				      
				      .left_over = w->try_only ? left_over : NULL, .making = vm_op_making, .opaque = w };
	int r = vm_work_look(w, err);

	if (r < 0)
		return r;
	r = vm_op_settle(w, err);
	if (r == 0)
		r = vm_op_begin(w, w->command, true, err);
	if (r < 0)
		return r;
	if (!w->conn)
		return vm_op_image_create(w, c, err);
	r = choose_kind(w, c->kind, &spec.kind, err);
	if (r == 0 && c->quiesce_s && (!w->running || spec.kind == VM_INTERNAL))
		r = vs_err_set(err, -EOPNOTSUPP, "quiesce is for external snapshots of running domains");
	if (r == 0)
		r = check_name(w, c, spec.kind, err);
	if (r == 0)
		r = check_layers(w, c, err);
	if (r == 0 && !w->try_only)
		r = vm_op_settle_making(w, err); /* so that the names are free */
	spec.depth = r == 0 ? depth_of(w) : 0;
	return r < 0 ? r : create(w, &spec, err);
}

/* ---------------------------------------------------------------- hold, release, policy */

int vm_op_hold(struct vm_work *w, const char *name, bool hold, struct vs_err *err)
{
	const struct vm_snapshot *s;
	struct vm_own_id id;
	int r = vm_work_look(w, err);

	if (r == 0)
		r = vm_work_find(w, name, &s, err);
	if (r < 0)
		return r;
	id = vm_work_id(w, s);
	if (hold && !s->held)
		r = vm_intent_settle_of(w, &id, err); /* else the command that is to be repeated would be refused for this */
	if (r < 0)
		return r;
	if (s->held == hold || w->try_only) {
		vm_work_say(w, s->held == hold ? "'%s' is %s already" : "'%s' would be %s", s->shown, hold ? "held" : "released");
		return 0;
	}
	if (vm_own_set_held(w->own, &id, hold) < 0)
		return vs_err_set(err, -ENOMEM, "out of memory");
	return vm_work_ask(w, err);
}

int vm_op_policy(struct vm_work *w, const char *line, struct vs_err *err)
{
	int r = vm_work_look(w, err);

	if (r < 0)
		return r;
	if (w->own->policy && !strcmp(w->own->policy, line))
		return 0;
	if (vm_own_set_policy(w->own, line) < 0)
		return vs_err_set(err, -ENOMEM, "out of memory");
	return vm_work_ask(w, err);
}
