/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* repair: what a mount does for a domain that an interrupted command has left; and note: what it remembers of what it has seen. */
#include <string.h>
#include <unistd.h>

#include "vm/command/attest.h"
#include "vm/command/command.h"
#include "vm/command/guest.h"
#include "vm/command/intent.h"
#include "vm/command/nv.h"
#include "vm/command/merge.h"
#include "vm/command/own-job.h"
#include "vm/command/prove.h"
#include "vm/command/recover.h"
#include "vm/util/mem.h"

/* Absence is no proof that it is gone for good: what somebody holds is remembered, what a command has begun to destroy, and what was found
 * wrong. */
static bool still_there(const struct vm_meta_id *id, void *opaque)
{
	const struct vm_context *cx = opaque;
	const struct vm_meta_snapshot *said = vm_meta_find(cx->meta, id);

	if (said && (said->held || said->mark))
		return true;
	for (size_t i = 0; said && i < said->n_frozen; i++)
		if (said->frozen[i].spoilt)
			return true;
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];
		struct vm_meta_id other = vm_context_id(cx, s);

		if (vm_meta_same(id, &other) || ((s->lost || (s->recorded && !vm_context_record(cx, s->name))) && !strcmp(s->name, id->name))) /* which of that name it is is not known */
			return true;
	}
	return false;
}

/* The records of one interrupted command. */
static int repair_one(struct vm_context *cx, const char *command, struct vs_err *err)
{
	vs_autofree const char **line = xcalloc(cx->n_records, sizeof(*line));
	size_t n = vm_intent_line(cx, command, line);
	struct vs_err why = {0};
	struct vm_merge m;
	int r;

	if (n == 0)
		return 0;
	r = vm_merge_plan(&m, cx, line, n, VM_MERGE_COMMIT, xstrdup(command), &why);
	if (r == 0)
		r = vm_merge_repair(&m, err);
	vm_merge_fini(&m);
	return r > 0 ? vm_attest_poll(cx, err) : 0; /* what stands against it is told when it is repeated */
}

static int repair_all(struct vm_context *cx, struct vs_err *err)
{
	size_t n = cx->meta->n_snapshots, n_commands = 0;
	char **commands = xcalloc(n, sizeof(*commands));
	int r = 0;

	for (size_t i = 0; i < n; i++) {
		const struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		if (mark && !mark->is_void && !vm_context_among(mark->command, commands, n_commands))
			commands[n_commands++] = xstrdup(mark->command);
	}
	for (size_t i = 0; i < n_commands; i++) {
		if (r == 0)
			r = repair_one(cx, commands[i], err);
		free(commands[i]);
	}
	free(commands);
	return r;
}

int vm_command_repair(struct vm_context *cx, struct vs_err *err)
{
	struct vs_err begun = {0};
	int r = vm_attest_poll(cx, err);

	if (r == 0 && cx->conn)
		r = vm_guest_prove_pivots(cx, err);
	if (r == 0 && cx->conn)
		r = vm_recover_guest(cx, err);
	if (r == 0 && cx->conn)
		vm_own_job_settle(cx, NULL);
	if (r == 0 && cx->conn && (r = vm_prove(cx, err)) > 0)
		r = vm_attest_poll(cx, err);
	if (r == 0 && cx->conn)
		vm_intent_settle(cx, NULL, VM_BESIDE_CHANGE, &begun); /* what is begun stays so; the others are settled */
	if (r == 0 && cx->conn)
		r = repair_all(cx, err);
	if (r == 0 && cx->conn)
		vm_nv_recover(cx);
	if (r == 0)
		r = vm_recover_settle(cx, err);
	if (r == 0 && cx->meta->serial && vm_meta_sweep(cx->meta, still_there, cx) > 0)
		r = vm_context_save(cx, err);
	return r;
}

void vm_command_look_back(struct vm_context *cx)
{
	if (vm_attest_poll(cx, NULL) == 0 && vm_prove(cx, NULL) > 0)
		vm_attest_poll(cx, NULL);
}

#define LOOK_TWICE_US 200000 /* records and files contradict each other for moments */

static bool is_wrong(const struct vm_context *cx)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		for (size_t k = 0; k < cx->d->snapshots[i].n_disks; k++)
			if (cx->d->snapshots[i].disks[k].written)
				return true;
	return false;
}

static bool has_job(const struct vm_context *cx)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if (cx->d->disks[i].job)
			return true;
	return false;
}

int vm_command_note(struct vm_context *cx, struct vs_err *err)
{
	vs_autofree char *before = NULL, *after = NULL;
	int r;

	cx->adds = true; /* to its metadata, and of its own images */
	r = vm_context_poll(cx, err);
	if (r == 0)
		r = vm_meta_text(cx->meta, &before, err);
	if (r == 0 && is_wrong(cx)) {
		usleep(LOOK_TWICE_US);
		r = vm_context_poll(cx, err);
	}
	if (r < 0 || !cx->meta->serial || has_job(cx))
		return r;
	vm_intent_leave(cx);
	vm_attest_domain(cx, cx->d);
	vm_attest_spoilt(cx);
	r = vm_meta_text(cx->meta, &after, err);
	if (r < 0 || !strcmp(before, after))
		return r;
	r = vm_context_save(cx, err);
	return r < 0 ? r : 1;
}
