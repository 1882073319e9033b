/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/recover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/guest.h"
#include "vm/command/intent.h"
#include "vm/command/nv.h"
#include "vm/command/own-job.h"
#include "vm/command/prove.h"
#include "vm/command/remove.h"
#include "vm/libvirt/blockjob-list.h"
#include "vm/meta/made.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

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
static struct vm_doomed_file as_doomed(const struct vm_context *cx, const struct vm_made *made)
{
	int l = vm_context_layer(cx, made->path);
	struct vm_doomed_file file = { .path = (char *)made->path, .as = VM_DOOMED_BEGUN };

	if (l >= 0 && is_it(&cx->d->layers[l].stamp, made))
		file.stamp = cx->d->layers[l].stamp;
	return file;
}

struct asked {
	const struct vm_context *cx;
	const char *path;
	bool goes;
};

static bool would_go(const char *text, void *opaque)
{
	struct asked *asked = opaque;
	struct vm_doomed_file file;
	struct vm_made made;

	if (!vm_made_parse(text, &made) || strcmp(made.path, asked->path) != 0 || vm_made_is_there(&made) != 1)
		return false;
	file = as_doomed(asked->cx, &made);
	asked->goes |= vm_may_remove(asked->cx, &file, NULL, NULL) == 0 && vm_nobody_has_it(made.path, true, NULL) == 0;
	return true;
}

/* For `try`: will that file be gone by then? */
bool vm_recover_left_over(void *opaque, const char *path)
{
	const struct vm_context *cx = opaque;
	struct asked asked = { .cx = cx, .path = path };

	vm_journal_each(&cx->journal, "make", would_go, &asked);
	return asked.goes;
}

int vm_recover_making(void *opaque, const char *path, int fd, struct vs_err *err)
{
	struct vm_context *cx = opaque;
	struct vm_made made;
	vs_autofree char *text = NULL;
	int r = vm_made_of(fd, path, &made);

	if (r < 0)
		return vs_err_set(err, r, "'%s' is made, and what it is cannot be noted: %s", path, strerror(-r));
	text = vm_made_text(&made);
	return vm_journal_add(&cx->journal, "make", text, err);
}

/* Does a disk or a snapshot of the domain use it? */
static bool is_used(const struct vm_context *cx, const struct vm_made *made)
{
	int l = vm_context_layer(cx, made->path);
	const struct vm_layer *layer = l < 0 ? NULL : &cx->d->layers[l];

	return layer && is_it(&layer->stamp, made) && (layer->active || layer->snapshots[0] || vm_made(cx, l));
}

/* Then it is of our making, which soon no note will say. True: and no record does. */
static bool adopt_made(const char *text, void *opaque)
{
	struct vm_context *cx = opaque;
	struct vm_made made;

	if (!vm_made_parse(text, &made) || vm_made_is_there(&made) != 1 || !is_used(cx, &made) || vm_made(cx, vm_context_layer(cx, made.path)))
		return false;
	vm_meta_add_made(cx->meta, &(struct vm_meta_made){ made.path, made.ino, made.btime_ns });
	return true;
}

static bool settle_made(const char *text, void *opaque)
{
	struct vm_context *cx = opaque;
	struct vm_doomed_file file;
	struct vs_err why = {0};
	struct vm_made made;
	int l, r;

	if (!vm_made_parse(text, &made) || vm_made_is_there(&made) == 0)
		return true;
	if (is_used(cx, &made) || vm_meta_has_nv(cx->meta, made.path, made.ino))
		return true;
	if (vm_nv_is_awaited(cx, made.path))
		return false;
	l = vm_context_layer(cx, made.path);
	if (l >= 0 && vm_need(cx, l, NULL, true, &why) == VM_NEED_BY) {
		vm_log(cx->log, "an interrupted command had made '%s', which is somebody's by now: %s", made.path, why.msg);
		return true;
	}
	file = as_doomed(cx, &made);
	r = vm_remove(cx, &file, NULL, &why);
	if (r == 0)
		vm_log(cx->log, "unlinked '%s', which had been made for a command that came to nothing", made.path);
	else if (r < 0)
		vm_log(cx->log, "%s (it had been made for a command that came to nothing)", why.msg);
	return r >= 0;
}

int vm_recover_settle_making(struct vm_context *cx, struct vs_err *err)
{
	int r = vm_journal_each(&cx->journal, "make", adopt_made, cx) > 0 ? vm_context_save(cx, err) : 0;

	if (r == 0)
		vm_journal_settle(&cx->journal, "make", settle_made, cx);
	return r;
}

/* ---------------------------------------------------------------- what an interrupted create has taken */

#define TAKING_S 30 /* a snapshot's time is that of the beginning of the call that takes it */

int vm_recover_journal_take(struct vm_context *cx, const char *name, struct vs_err *err)
{
	vs_autofree char *text = xasprintf("%" PRId64 "\n%s", vm_now_ns() / VM_NS_PER_S, name);

	return vm_journal_add(&cx->journal, "take", text, err);
}

struct overlay {
	const struct q2_stamp *stamp;
	bool noted;
};

static bool is_of_overlay(const char *text, void *opaque)
{
	struct overlay *overlay = opaque;
	struct vm_made made;

	overlay->noted |= vm_made_parse(text, &made) && is_it(overlay->stamp, &made);
	return true;
}

/* Did we make an overlay that this record says the snapshot started? Somebody else's of that name, taken a moment later, has others. An internal one
 * has none, and its time has to do. */
static bool has_our_overlay(const struct vm_context *cx, const struct vm_snapshot *s)
{
	const struct vm_context_record *record = vm_context_record(cx, s->name);
	bool ours = s->kind == VM_INTERNAL;

	for (size_t i = 0; record && !ours && i < record->xml->n_disks; i++) {
		const char *path = record->xml->disks[i].mode == VM_MODE_EXTERNAL ? record->xml->disks[i].overlay.path : NULL;
		int l = path ? vm_context_layer(cx, path) : -1;
		struct overlay overlay = { .stamp = l < 0 ? NULL : &cx->d->layers[l].stamp };

		if (l < 0)
			continue;
		vm_journal_each(&cx->journal, "make", is_of_overlay, &overlay);
		ours = overlay.noted || vm_meta_has_made(cx->meta, &(struct vm_meta_made){ path, overlay.stamp->ino, overlay.stamp->btime_ns });
	}
	return ours;
}

static bool settle_one(const char *text, void *opaque)
{
	struct vm_context *cx = opaque;
	const char *name = strchr(text, '\n');
	int64_t since_s = strtoll(text, NULL, 10);
	bool changed = false;

	for (size_t i = 0; name && i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];
		struct vm_meta_id id = vm_context_id(cx, s);

		if (s->present || s->ours || strcmp(s->name, name + 1) != 0)
			continue;
		if (id.created_ns < (since_s - 1) * VM_NS_PER_S || id.created_ns > (since_s + TAKING_S) * VM_NS_PER_S || !has_our_overlay(cx, s))
			continue;
		vm_meta_set_ours(cx->meta, &id, true);
		vm_nv_adopt(cx, &id);
		changed = true;
		vm_log(cx->log, "'%s' was taken by an interrupted create, and counts as taken here", s->shown);
	}
	return changed;
}

#define TAKEN_LATE_S 86400 /* a libvirt that went away may be writing a guest's memory still */

static bool take_is_over(const char *text, void *opaque)
{
	struct vm_context *cx = opaque;
	const char *name = strchr(text, '\n');

	return !name || vm_context_record(cx, name + 1) || strtoll(text, NULL, 10) + TAKEN_LATE_S < vm_now_ns() / VM_NS_PER_S;
}

/* What libvirt has lost sight of is needed, and a command would do without it. */
static int check_lost(const struct vm_context *cx, struct vs_err *err)
{
	const struct vm_snapshot *lost = vm_context_lost(cx);

	return !lost ? 0 : vs_err_set(err, -EPERM, "libvirt has a file with the record of snapshot '%s' and does not list it: start libvirtd anew (or take the file "
				      "away, if that is gone: 'chain' says where it is)", lost->shown);
}

int vm_recover_settle(struct vm_context *cx, struct vs_err *err)
{
	int r;

	if (cx->try_only)
		return 0;
	r = vm_journal_each(&cx->journal, "take", settle_one, cx) > 0 ? vm_context_save(cx, err) : 0;
	if (r == 0)
		vm_journal_settle(&cx->journal, "take", take_is_over, cx);
	if (r == 0 && !vm_context_lost(cx))
		vm_nv_settle(cx);
	return r;
}

/* ---------------------------------------------------------------- a guest that an interrupted command has left */

/* A guest that we have started and that nobody has come to use is ended; a word of ours in the configuration goes. */
int vm_recover_guest(struct vm_context *cx, struct vs_err *err)
{
	struct vm_paused_guest guest;
	int r = cx->guest_up ? 0 : vm_guest_await(cx, err);

	if (r < 0 || cx->guest_up || vm_guest_find(cx, &guest) != 1)
		return r;
	vm_log(cx->log, "ending the paused guest that an interrupted command had started");
	vm_own_job_abort(cx);
	vm_paused_guest_end(cx->conn, &guest, &cx->watch, NULL);
	return vm_attest_poll(cx, err);
}

/* ---------------------------------------------------------------- how a command begins */

/* Of an interrupted run of @command: a block job that is still there is given up. */
static int reclaim(struct vm_context *cx, const char *command, struct vs_err *err)
{
	int r = vm_recover_guest(cx, err);

	if (r == 0)
		r = vm_own_job_reclaim(cx, command, err);
	return r > 0 ? vm_attest_poll(cx, err) : r;
}

static int prove(struct vm_context *cx, struct vs_err *err)
{
	int r = vm_prove(cx, err);

	return r > 0 ? vm_attest_poll(cx, err) : r;
}

int vm_recover_begin(struct vm_context *cx, const char *command, enum vm_intent_beside beside, struct vs_err *err)
{
	int r = beside == VM_BESIDE_CREATE ? 0 : check_lost(cx, err);

	if (!cx->dom || r < 0)
		return r;
	if (!cx->try_only)
		r = vm_guest_prove_pivots(cx, err);
	if (r == 0 && !cx->try_only)
		vm_nv_recover(cx);
	if (r == 0 && !cx->try_only)
		r = reclaim(cx, command, err);
	if (r == 0)
		r = prove(cx, err);
	if (r == 0)
		r = vm_intent_settle(cx, command, beside, err);
	if (r == 0)
		r = vm_check_idle(cx, err);
	if (r == 0 && !cx->try_only) {
		bool left = vm_intent_leave(cx), spoilt = vm_attest_spoilt(cx); /* a command of anybody's may take away what tells so */

		if (left || spoilt)
			r = vm_context_save(cx, err);
	}
	return r;
}
