/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* repair: what a mount does for a domain that an interrupted command has left. */
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/command.h"
#include "vm/command/guest.h"
#include "vm/command/intent.h"
#include "vm/command/merge.h"
#include "vm/command/recover.h"
#include "vm/util/mem.h"

/* Absence is no proof that it is gone for good: what somebody holds is remembered. */
static bool still_there(const struct vm_own_id *id, void *opaque)
{
	const struct vm_work *w = opaque;
	const struct vm_own_snapshot *said = vm_own_find(w->own, id);

	if (said && said->held)
		return true;
	for (size_t i = 0; i < w->d->n_snapshots; i++) {
		struct vm_own_id other = vm_work_id(w, &w->d->snapshots[i]);

		if (vm_own_same(id, &other))
			return true;
	}
	return false;
}

/* The records of one interrupted command. */
static int repair_one(struct vm_work *w, const char *command, struct vs_err *err)
{
	vs_autofree const char **line = xcalloc(w->n_records, sizeof(*line));
	size_t n = vm_intent_line(w, command, line);
	struct vs_err why = {0};
	struct vm_merge m;
	int r;

	if (n == 0)
		return 0;
	r = vm_merge_plan(&m, w, line, n, VM_MERGE_COMMIT, xstrdup(command), &why);
	if (r == 0)
		r = vm_merge_repair(&m, err);
	vm_merge_fini(&m);
	return r > 0 ? vm_attest_look(w, err) : 0; /* what stands against it is told when it is repeated */
}

static int repair_all(struct vm_work *w, struct vs_err *err)
{
	size_t n = w->own->n_snapshots, n_commands = 0;
	char **commands = xcalloc(n, sizeof(*commands));
	int r = 0;

	for (size_t i = 0; i < n; i++) {
		const struct vm_own_mark *mark = w->own->snapshots[i].mark;

		if (mark && !mark->is_void && !vm_work_among(mark->command, commands, n_commands))
			commands[n_commands++] = xstrdup(mark->command);
	}
	for (size_t i = 0; i < n_commands; i++) {
		if (r == 0)
			r = repair_one(w, commands[i], err);
		free(commands[i]);
	}
	free(commands);
	return r;
}

int vm_op_repair(struct vm_work *w, struct vs_err *err)
{
	struct vs_err begun = {0};
	int r = vm_attest_look(w, err);

	if (r == 0 && w->conn)
		r = vm_work_prove_pivots(w, err);
	if (r == 0 && w->conn)
		r = vm_recover_guest(w, err);
	if (r == 0 && w->conn)
		vm_intent_settle(w, NULL, false, &begun); /* what is begun stays so; the others are settled */
	if (r == 0 && w->conn)
		r = repair_all(w, err);
	if (r == 0)
		r = vm_op_settle(w, err);
	if (r == 0 && w->own->serial && vm_own_sweep(w->own, still_there, w) > 0)
		r = vm_work_save(w, err);
	return r;
}
