/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* hold, release, and storing a policy. */
#include <errno.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/command.h"
#include "vm/command/intent.h"
#include "vm/util/mem.h"

static bool is_borne(const void *opaque, const char *name)
{
	const struct vm_context *cx = opaque;

	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		if (!strcmp(cx->d->snapshots[i].name, name))
			return true;
	return false;
}

/* Those that it was held by, before somebody renamed it. */
static void release_old_names(struct vm_context *cx, const struct vm_meta_id *id)
{
	const struct vm_meta_snapshot *old;
	size_t at = 0;

	if (!vm_meta_held_as(cx->meta, id, is_borne, cx, &at))
		return;
	for (size_t i = 0; i < cx->d->n_snapshots; i++) { /* others may be held by that as well */
		struct vm_meta_id other = vm_context_id(cx, &cx->d->snapshots[i]);

		if (cx->d->snapshots[i].held && (strcmp(other.name, id->name) || other.created_ns != id->created_ns || other.kind != id->kind))
			vm_meta_set_held(cx->meta, &other, true);
	}
	at = 0;
	while ((old = vm_meta_held_as(cx->meta, id, is_borne, cx, &at))) {
		vs_autofree char *name = xstrdup(old->name);

		vm_meta_set_held(cx->meta, &(struct vm_meta_id){ name, old->created_ns, old->kind }, false);
		at = 0;
	}
}

int vm_command_hold(struct vm_context *cx, const char *name, bool hold, struct vs_err *err)
{
	const struct vm_snapshot *s;
	struct vm_meta_id id;
	int r = vm_context_find(cx, name, &s, err);

	if (r < 0)
		return r;
	id = vm_context_id(cx, s);
	if (hold && !s->held)
		r = vm_intent_settle_of(cx, &id, err); /* else the command that is to be repeated would be refused for this */
	if (r < 0)
		return r;
	if (s->held == hold || cx->try_only) {
		vm_context_say(cx, s->held == hold ? "'%s' is %s already" : "'%s' would be %s", s->shown,
			       hold ? "held" : "released");
		return 0;
	}
	vm_meta_set_held(cx->meta, &id, hold);
	if (!hold)
		release_old_names(cx, &id);
	return vm_context_ask(cx, err);
}

int vm_command_policy(struct vm_context *cx, const char *line, struct vs_err *err)
{
	int r = vm_attest_poll(cx, err);

	if (r < 0)
		return r;
	if (cx->meta->policy && !strcmp(cx->meta->policy, line))
		return 0;
	vm_meta_set_policy(cx->meta, line);
	return vm_context_ask(cx, err);
}
