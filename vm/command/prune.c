/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * prune: what the policy drops goes. What follows one another goes in one merge, and a domain that is shut off is started once for all
 * of it. After each step the plan is made anew, for what is open or held may change meanwhile.
 *
 * What a guard refuses to drop stays, and the others go all the same; the first refusal is what is told.
 */
#include <errno.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/command.h"
#include "vm/command/context.h"
#include "vm/command/delete.h"
#include "vm/command/intent.h"
#include "vm/command/plan.h"
#include "vm/command/recover.h"
#include "vm/language/retain.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

struct pruning {
	char **refused; /* keys */
	size_t n_refused, room;
	struct vs_err why; /* of the first */
	int result;
};

static void pruning_fini(struct pruning *p)
{
	for (size_t i = 0; i < p->n_refused; i++)
		free(p->refused[i]);
	free(p->refused);
}

static bool was_refused(const struct pruning *p, const char *key)
{
	for (size_t i = 0; i < p->n_refused; i++)
		if (!strcmp(p->refused[i], key))
			return true;
	return false;
}

static void note_refused(struct pruning *p, const char *key, int r, const struct vs_err *why)
{
	XGROW(p->refused, p->n_refused, p->room);
	p->refused[p->n_refused++] = xstrdup(key);
	if (p->result < 0)
		return;
	p->result = r;
	p->why = *why;
	vs_err_prefix(&p->why, "'%s' stays", key);
}

/* Keys (see vm_context_find_key) of those that the policy drops and that were not refused, oldest first. Gives the list and its
 * strings. */
static int list_dropped(struct vm_context *cx, const struct pruning *p, char ***out, size_t *n_out, struct vs_err *err)
{
	struct vm_retain_snapshot *snaps = NULL;
	struct vm_retain_verdict *verdicts = NULL;
	const struct vm_snapshot *s;
	char **keys;
	size_t n = 0;
	int r = vm_plan_make(cx->store, &cx->readers, cx->d, cx->meta->policy, NULL, &snaps, &verdicts, &n, err);

	*n_out = 0;
	*out = keys = xcalloc(n, sizeof(*keys));
	for (size_t i = 0; r == 0 && i < n; i++)
		if (!verdicts[i].keep && vm_context_find(cx, snaps[i].shown, &s, NULL) == 0 && !was_refused(p, vm_context_key(cx, s)))
			keys[(*n_out)++] = xstrdup(vm_context_key(cx, s));
	free(snaps);
	free(verdicts);
	return r;
}

/* Has something been begun with it that is not done? */
static bool is_begun(const struct vm_context *cx, const char *key)
{
	const struct vm_context_record *record = vm_context_record(cx, key);
	const struct vm_meta_mark *mark = record ? vm_intent_mark(cx, record) : NULL;

	return mark && !mark->is_void;
}

/* 1: there may be more. */
static int prune_some(struct vm_context *cx, struct pruning *p, size_t *dropped, struct vs_err *err)
{
	char **keys = NULL;
	size_t n = 0, done = 0;
	int r = cx->meta->policy ? list_dropped(cx, p, &keys, &n, err) : 0;

	cx->left = n;
	if (n && cx->watch.progress)
		cx->watch.progress(cx->watch.opaque, 0, 0, 0); /* `jobs` says at once how many are left */
	if (r == 0 && n)
		r = vm_context_cancelled(cx, err);
	if (r == 0 && n) {
		r = vm_delete_some(cx, keys, n, &done, err);
		for (size_t i = 0; i < done; i++)
			vm_log(cx->log, "retention dropped '%s'", keys[i]);
		*dropped += done;
		/* what was begun, and met a full file system, is to be finished before anything else */
		if (r == -EPERM || r == -EOPNOTSUPP || r == -EACCES || ((r == -EROFS || r == -ENOSPC) && !is_begun(cx, keys[done]))) {
			note_refused(p, keys[done], r, err);
			*err = (struct vs_err){0};
			r = 0;
		} else if (r < 0) {
			vs_err_prefix(err, "pruning '%s'", keys[done]);
		}
	}
	for (size_t i = 0; i < n; i++)
		free(keys[i]);
	free(keys);
	return r < 0 ? r : n > 0;
}

/* A delete that retention has begun is its to finish: it comes first. Those of others are finished by whoever repeats them. */
static const char *begun_drop(const struct vm_context *cx)
{
	for (size_t i = 0; i < cx->meta->n_snapshots; i++) {
		const struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		if (mark && !mark->is_void && mark->retention && !strncmp(mark->command, "delete ", strlen("delete ")))
			return mark->command;
	}
	return NULL;
}

static const char *reason_of(const struct vm_context *cx, const struct vm_retain_snapshot *snaps, const struct vm_retain_verdict *verdicts, size_t n,
			     const char *key)
{
	const struct vm_snapshot *s;

	for (size_t i = 0; i < n; i++)
		if (vm_context_find(cx, snaps[i].shown, &s, NULL) == 0 && !strcmp(vm_context_key(cx, s), key))
			return verdicts[i].reason;
	return "?";
}

/* What a delete of them would meet. Each is tried with the others there: what is in the way of one may have gone before it is its turn.
 * Empties the list. */
static void try_drops(struct vm_context *cx, char **keys, size_t n_keys, const struct vm_retain_snapshot *snaps,
		      const struct vm_retain_verdict *verdicts, size_t n)
{
	bool others_go = false;

	while (n_keys) {
		char *said = vs_steal(cx->said);
		struct vs_err why = {0};
		size_t done = 0, gone;
		int r = vm_delete_some(cx, keys, n_keys, &done, &why);

		free(cx->said);
		cx->said = said;
		for (size_t i = 0; i < done; i++)
			vm_context_say(cx, "would delete '%s' (%s)", keys[i], reason_of(cx, snaps, verdicts, n, keys[i]));
		if (r < 0)
			vm_context_say(cx, "'%s' would stay%s: %s", keys[done], others_go || done ? ", if it is so still when those are gone" : "", why.msg);
		others_go |= done > 0;
		gone = done + (r < 0);
		for (size_t i = 0; i < gone; i++)
			free(keys[i]);
		n_keys -= gone;
		memmove(keys, keys + gone, n_keys * sizeof(*keys));
		if (!gone)
			break;
	}
	for (size_t i = 0; i < n_keys; i++)
		free(keys[i]);
}

int vm_command_try_prune(struct vm_context *cx, const char *policy, const char *coming, struct vs_err *err)
{
	struct vm_retain_snapshot *snaps = NULL;
	struct vm_retain_verdict *verdicts = NULL;
	size_t n = 0, dropped = 0;
	vs_autofree char **keys = NULL;
	const struct vm_snapshot *s;
	int r = vm_plan_make(cx->store, &cx->readers, cx->d, policy, coming, &snaps, &verdicts, &n, err);

	keys = xcalloc(n, sizeof(*keys));
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (verdicts[i].keep || vm_context_find(cx, snaps[i].shown, &s, NULL) < 0)
			continue;
		if (coming)
			vm_context_say(cx, "retention would then drop '%s' (%s)", snaps[i].shown, verdicts[i].reason);
		else
			keys[dropped++] = xstrdup(vm_context_key(cx, s));
	}
	if (!coming)
		try_drops(cx, keys, dropped, snaps, verdicts, n);
	if (r == 0 && !dropped && !coming)
		vm_context_say(cx, "nothing to drop");
	free(snaps);
	free(verdicts);
	return r;
}

int vm_command_prune(struct vm_context *cx, size_t *dropped, struct vs_err *err)
{
	struct pruning p vs_cleanup(pruning_fini) = { .n_refused = 0 };
	int r = vm_attest_poll(cx, err);

	*dropped = 0;
	cx->pruning = true;
	if (cx->try_only && r == 0)
		return vm_command_try_prune(cx, cx->meta->policy, NULL, err);
	if (r == 0 && cx->meta->policy && strcmp(cx->meta->policy, "off") != 0) {
		const char *begun = begun_drop(cx);

		if (begun)
			r = vm_delete_begun(cx, begun, NULL, NULL, err);
		if (r == 0)
			r = vm_recover_begin(cx, cx->command, VM_BESIDE_CHANGE, err);
	}
	for (bool more = r == 0; more;) {
		r = prune_some(cx, &p, dropped, err);
		more = r > 0;
		if (more)
			r = vm_attest_poll(cx, err);
		more = more && r == 0;
	}
	cx->left = 0;
	if (r == 0 && p.result < 0)
		*err = p.why;
	return r == 0 ? p.result : r;
}
