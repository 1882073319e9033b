/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* pull. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/fit.h"
#include "vm/command/command.h"
#include "vm/command/context.h"
#include "vm/command/guest.h"
#include "vm/command/held.h"
#include "vm/command/own-job.h"
#include "vm/command/prove.h"
#include "vm/command/pulls.h"
#include "vm/command/recover.h"
#include "vm/command/remove.h"
#include "vm/libvirt/blockjob.h"
#include "vm/libvirt/flush.h"
#include "vm/util/mem.h"

struct pull_disk {
	const char *target;
	char *base; /* NULL: nothing */
	uint64_t bytes;
};

/* What would be copied: everything above @base (-1: everything) but the active layer. -1: @base is not beneath it. */
static int64_t bytes_above(const struct vm_context *cx, int top, int base)
{
	uint64_t bytes = 0;
	int l = cx->d->layers[top].below;

	for (int n = 0; l >= 0 && l != base && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++)
		bytes += vm_context_allocated(cx, l);
	return l == base ? (int64_t)bytes : -1;
}

/* Where it ends, is it known that there is nothing below? */
static int check_end(const struct vm_context *cx, const struct vm_disk_now *disk, struct vs_err *err)
{
	for (int l = disk->top, n = 0; l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++)
		if (cx->d->layers[l].ends)
			return vs_err_set(err, -EPERM, "disk %s: what '%s' stands on is not followed: it %s", disk->target,
					  cx->d->layers[l].path,
					  cx->d->layers[l].ends);
	return 0;
}

/* 1: there is something to do on this disk, *p is filled; 0: nothing. */
static int plan_pull(struct vm_context *cx, const struct vm_disk_now *disk, const struct vm_context_record *record,
		     struct pull_disk *p, struct vs_err *err)
{
	const char *path = record ? vm_context_image(cx, record, disk->target, NULL) : NULL, *inside;
	int base = path ? vm_context_layer(cx, path) : -1;
	int64_t bytes;

	int r;

	if (disk->top < 0 || !cx->d->layers[disk->top].active || (record && !path))
		return 0;
	r = vm_pulls_check(cx, disk->target, true, err);
	if (r == 0)
		r = vm_check_uncut(cx, disk->target, disk->top, err);
	if (r == 0 && base < 0)
		r = check_end(cx, disk, err);
	if (r < 0)
		return r;
	if (cx->d->layers[disk->top].below == base)
		return 0;
	if (cx->d->layers[disk->top].rival)
		return vs_err_set(err, -EPERM, "disk %s: '%s' must stay as it is: %s writes to it, too", disk->target,
				  cx->d->layers[disk->top].path, cx->d->layers[disk->top].rival);
	if (cx->d->layers[disk->top].data && cx->d->layers[disk->top].users[0])
		return vs_err_set(err, -EPERM, "disk %s: '%s' must stay as it is, with its data file: %s needs it", disk->target,
				  cx->d->layers[disk->top].path, cx->d->layers[disk->top].users[0]);
	if (disk->transient)
		return vs_err_set(err, -EOPNOTSUPP, "disk %s is transient, which takes no block jobs", disk->target);
	inside = vm_context_internal_in(cx, disk->top);
	if (inside)
		return vs_err_set(err, -EPERM, "internal snapshot '%s' is stored in '%s' and would lose what it reads from below: delete it "
				  "first", inside, cx->d->layers[disk->top].path);
	bytes = record && base < 0 ? -1 : bytes_above(cx, disk->top, base);
	if (bytes < 0)
		return vs_err_set(err, -EOPNOTSUPP, "disk %s: '%s' is not beneath the active layer", disk->target, path);
	r = vm_fit_pull(cx, disk->target, base, disk->top, err);
	if (r < 0)
		return r;
	*p = (struct pull_disk){ .target = disk->target, .bytes = (uint64_t)bytes, .base = path ? xstrdup(path) : NULL };
	return 1;
}

/* For a repetition to know the job. */
static int note_pull(struct vm_context *cx, const struct pull_disk *p, struct vs_err *err)
{
	const struct vm_blockjob_spec spec = { .target = p->target, .base = p->base, .type = VM_JOB_PULL };

	return vm_own_job_journal(cx, &spec, cx->command, err);
}

static int pull_one(struct vm_context *cx, const struct pull_disk *p, struct vs_err *err)
{
	struct vm_blockjob_pull spec = { .target = p->target, .base = p->base,
				    .bandwidth = (uint64_t)(cx->options->bandwidth_mib * 1048576) };
	struct vm_blockjob_outcome outcome;
	const struct vm_layer *into = &cx->d->layers[vm_context_top(cx, p->target)];
	struct vm_held held vs_cleanup(vm_held_fini) = {0};
	int r = vm_context_cancelled(cx, err);

	if (r == 0)
		r = vm_held_layer(&held, into, err);
	if (r == 0)
		r = note_pull(cx, p, err);
	if (r == 0)
		r = vm_pulls_journal(cx, p->target, err);
	if (r == 0)
		r = vm_blockjob_pull(cx->dom, &spec, &cx->watch, &outcome, err);
	vm_fault();
	if (r == 0 && (r = vm_pulls_write_out(cx, p->target, err)) < 0) {
		if (r == -EIO)
			vm_held_note(cx, p->target);
		vs_err_prefix(err, "all is copied, but until the guest flushes, or is shut down, it would be lost if QEMU were killed");
	}
	if (r == 0 && (r = vm_held_reach_disk(&held)) < 0) {
		vm_held_note(cx, p->target);
		vs_err_set(err, r, "disk %s: what was pulled into '%s' does not reach the disk, and what that stood on stays: %s: mend that%s, and repeat it",
			   p->target, into->path, strerror(-r), cx->guest_up ? "" : ", shut the domain down");
	}
	return r;
}

static int pull_all(struct vm_context *cx, const struct pull_disk *disks, size_t n, struct vs_err *err)
{
	int r;

	vm_context_unguard(cx);
	for (size_t i = 0; i < n; i++) {
		int top = vm_context_top(cx, disks[i].target);

		if (top >= 0 && vm_made(cx, top))
			vm_context_add_made(cx, cx->d->layers[top].path, &cx->d->layers[top].stamp);
	}
	r = vm_context_save(cx, err); /* what each snapshot froze, which the header that changes will not tell any more */
	if (r == 0)
		r = vm_guest_start(cx, err);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = pull_one(cx, &disks[i], err);
	/* the inventory is to see the completed job before it sees the chain alone */
	vm_refresher_poll(cx->refresher, 30000);
	for (size_t i = 0; r == 0 && i < n; i++)
		vm_pulls_done(cx, disks[i].target);
	if (r < 0 && r != -EHOSTDOWN && vm_attest_poll(cx, NULL) == 0)
		vm_prove(cx, NULL); /* before anybody starts the domain on half of it */
	return r;
}

static void tell_pull(struct vm_context *cx, const struct pull_disk *p)
{
	int top = cx->try_only ? vm_context_top(cx, p->target) : -1;
	vs_autofree char *room = top >= 0 ? vm_fit_free(cx->d->layers[top].path, p->bytes) : NULL;

	vm_context_say(cx, "disk %s: %s up to %.1f MiB into the active layer%s, which then stands on %s", p->target,
		       cx->try_only ? "would copy" : "copied", (double)p->bytes / 1048576, room && room[0] ? room : "",
		       p->base ? vm_context_file(cx, p->base) : "nothing");
}

/* What was begun with layers that the disks stand on no more has become void. */
static int settle_begun(struct vm_context *cx, struct vs_err *err)
{
	struct vs_err other = {0};
	int r = vm_attest_poll(cx, err);

	if (r == 0)
		vm_intent_settle(cx, NULL, VM_BESIDE_PULL, &other); /* what it is to others stays so */
	return r;
}

int vm_command_pull(struct vm_context *cx, const char *name, struct vs_err *err)
{
	const struct vm_context_record *record = NULL;
	const struct vm_snapshot *s;
	vs_autofree struct pull_disk *disks = NULL;
	size_t n = 0;
	int r = vm_recover_begin(cx, cx->command, name ? VM_BESIDE_CHANGE : VM_BESIDE_PULL, err);
	if (r == 0 && name)
		r = vm_context_find(cx, name, &s, err);
	if (r == 0 && name && (s->kind == VM_INTERNAL || !(record = vm_context_record(cx, s->name))))
		r = vs_err_set(err, -EOPNOTSUPP, "'%s' is an internal snapshot: it froze no image to stand on", s->shown);
	disks = r == 0 ? xcalloc(cx->d->n_disks + 1, sizeof(*disks)) : NULL;
	for (size_t i = 0; disks && r >= 0 && i < cx->d->n_disks; i++) {
		r = plan_pull(cx, &cx->d->disks[i], record, &disks[n], err);
		n += r > 0;
	}
	if (r >= 0 && n)
		r = vm_check_startable(cx, err);
	if (r == 0 && n)
		r = vm_check_at_rest(cx, NULL, err);
	if (r == 0 && n && !cx->try_only)
		r = pull_all(cx, disks, n, err);
	else if (r >= 0 && !cx->try_only)
		r = vm_flush(cx->dom, err); /* for it was: by us, before we died, or by another tool */
	if (r != -EHOSTDOWN && !cx->try_only)
		vm_journal_done(&cx->journal, "job");
	if (r == 0 && n && !cx->try_only)
		vm_attest_again(cx);
	if (r == 0 && n && !cx->try_only && cx->meta->n_files)
		r = vm_context_save(cx, err);
	for (size_t i = 0; i < n; i++) {
		if (r >= 0)
			tell_pull(cx, &disks[i]);
		free(disks[i].base);
	}
	if (r == 0 && n && !cx->try_only && !name)
		r = settle_begun(cx, err);
	if (r >= 0 && !n)
		vm_context_say(cx, "nothing to do");
	return r < 0 ? r : 0;
}
