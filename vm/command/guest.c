/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/guest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/held.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/flush.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* What tells our instance from any other that carries its word: see libvirt/paused-guest.h. */
static int journal_guest(void *opaque, const struct vm_paused_guest *guest, struct vs_err *err)
{
	const struct vm_context *cx = opaque;
	vs_autofree char *text = xasprintf("%s %" PRId64 " %" PRIu64, guest->token, guest->pid, guest->began);

	return vm_journal_add(&cx->journal, "start", text, err);
}

int vm_guest_start(struct vm_context *cx, struct vs_err *err)
{
	int r;

	if (cx->running)
		return 0;
	r = vm_check_startable(cx, err);
	if (r < 0)
		return r;
	r = vm_paused_guest_start(cx->dom, journal_guest, cx, &cx->guest, err);
	if (r < 0) {
		/* a libvirt that did not answer may start it still */
		if (r != -EHOSTDOWN && r != -ETIMEDOUT && vm_dom_active(cx->dom, NULL) == 0)
			vm_journal_done(&cx->journal, "start");
		return r;
	}
	cx->guest_up = cx->running = true;
	return 0;
}

static bool take_noted(const char *text, void *opaque)
{
	struct vm_paused_guest *guest = opaque;

	return sscanf(text, "%32[0-9a-f] %" SCNd64 " %" SCNu64, guest->token, &guest->pid, &guest->began) == 3;
}

/* The last one counts. */
static struct vm_paused_guest noted_guest(const struct vm_context *cx)
{
	struct vm_paused_guest noted = {0};

	vm_journal_each(&cx->journal, "start", take_noted, &noted);
	return noted;
}

int vm_guest_await(struct vm_context *cx, struct vs_err *err)
{
	struct vm_paused_guest noted = noted_guest(cx);

	return vm_paused_guest_await(cx->dom, &noted, &cx->watch, err);
}

int vm_guest_find(struct vm_context *cx, struct vm_paused_guest *out)
{
	struct vm_paused_guest noted = noted_guest(cx);
	struct vs_err err = {0};
	int r;

	r = vm_paused_guest_find(cx->dom, &noted, out, &err);
	if (r < 0 && !noted.token[0] && r == -ENODATA)
		vm_log_warn(cx->log, "the domain is paused: %s. It is left as it is; 'virsh destroy' ends it", vs_err_text(&err, r));
	if (r < 0 && noted.token[0])
		vm_log_warn(cx->log, "an interrupted command had started the domain, paused, to work on its disks, and it may be up still: %s. It is left "
		       "as it is; 'virsh destroy' ends it", vs_err_text(&err, r));
	if (r == 0 && noted.token[0] && vm_dom_active(cx->dom, NULL) == 1)
		vm_journal_drop(&cx->journal, "start");
	return r == 1;
}

int vm_guest_end(struct vm_context *cx, struct vs_err *err)
{
	int r;

	if (!cx->guest_up)
		return 0;
	r = vm_paused_guest_end(cx->conn, &cx->guest, &cx->watch, err);
	if (r < 0 && r != -ECANCELED)
		vs_err_prefix(err, "the domain, which was started, paused, to work on its disks, may be up still ('virsh destroy' ends it)");
	if (r > 0)
		vm_log(cx->log, "the domain, which had been started, paused, to work on its disks, was resumed or replaced by somebody: it is left to them");
	if (r >= 0) {
		cx->guest_up = cx->running = false;
		vm_journal_done(&cx->journal, "start");
	}
	return r < 0 ? r : 0;
}

/* ---------------------------------------------------------------- pivots */

int vm_guest_journal_pivot(struct vm_context *cx, const char *target, struct vs_err *err)
{
	struct vm_paused_guest qemu = {0};
	vs_autofree char *text = NULL;

	if (!vm_paused_guest_process(cx->uuid, &qemu))
		return 0; /* then it will not be provable */
	text = xasprintf("%" PRId64 " %" PRIu64 " %s", qemu.pid, qemu.began, target);
	return vm_journal_add(&cx->journal, "pivot", text, err);
}

struct pivot {
	const struct vm_paused_guest *qemu;
	const char *target;
};

static bool is_that_pivot(const char *text, void *opaque)
{
	const struct pivot *p = opaque;
	uint64_t began;
	int64_t pid;
	int at = 0;

	return sscanf(text, "%" SCNd64 " %" SCNu64 " %n", &pid, &began, &at) == 2 && pid == p->qemu->pid && began == p->qemu->began &&
	       !strcmp(text + at, p->target);
}

static bool is_on(const struct vm_context *cx, const struct vm_meta_doomed *disk)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if (!strcmp(cx->d->disks[i].target, disk->target) && cx->d->disks[i].top >= 0)
			return cx->d->layers[cx->d->disks[i].top].stamp.ino == disk->path_ino && disk->path_ino;
	return false;
}

int vm_guest_prove_pivots(struct vm_context *cx, struct vs_err *err)
{
	struct vm_paused_guest qemu = {0};
	bool news = false;

	if (!cx->running || !vm_paused_guest_process(cx->uuid, &qemu))
		return 0;
	for (size_t i = 0; i < cx->meta->n_snapshots; i++) {
		struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		for (size_t k = 0; mark && k < mark->n_disks; k++) {
			struct pivot p = { &qemu, mark->disks[k].target };

			if (!mark->disks[k].pivoting || mark->disks[k].done || !is_on(cx, &mark->disks[k]) ||
			    vm_journal_each(&cx->journal, "pivot", is_that_pivot, &p) <= 0 ||
			    vm_flush(cx->dom, NULL) < 0 || (mark->disks[k].path && vm_held_is_noted(cx, mark->disks[k].path)))
				continue; /* unproven, also where QEMU could not write out what it had merged: that it says again */
			mark->disks[k].done = news = true;
			mark->disks[k].pivoting = false;
		}
	}
	if (!news)
		return 0;
	vm_journal_drop(&cx->journal, "pivot");
	return vm_context_save(cx, err);
}
