/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* A line of `ctl`: a look, with what is right noted (attest.c); then whoever can do it, who begins with vm_recover_begin() (recover.c); then
 * retention, if a snapshot was taken. Before and after: engine/request-run.c. */
#include "vm/command/command.h"

#include <errno.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/effects.h"
#include "vm/command/image.h"
#include "vm/util/log.h"

static int run_prune(struct vm_context *cx, struct vs_err *err)
{
	size_t dropped = 0;
	int r = vm_command_prune(cx, &dropped, err);

	if (r == 0 && !cx->try_only && !dropped)
		vm_context_say(cx, "nothing to drop");
	else if (r == 0 && !cx->try_only)
		vm_context_say(cx, "dropped %zu snapshot%s", dropped, vm_context_plural(dropped));
	return r;
}

/* After a snapshot was taken, or would be. It is there whatever comes of the pruning, so that only shows in the sentence. */
static void retain(struct vm_context *cx, const char *taken)
{
	struct vs_err why = {0};
	size_t dropped = 0;
	int r;

	if (!cx->meta || !cx->meta->policy || !strcmp(cx->meta->policy, "off"))
		return;
	r = cx->try_only ? vm_command_try_prune(cx, cx->meta->policy, taken, &why) : vm_command_prune(cx, &dropped, &why);
	if (r < 0)
		vm_context_say(cx, "but retention %s: %s", cx->try_only ? "would fail" : "failed", vs_err_text(&why, r));
	else if (dropped)
		vm_context_say(cx, "retention dropped %zu snapshot%s", dropped, vm_context_plural(dropped));
}

static int run(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	switch (c->verb) {
	case VM_CREATE: return vm_command_create(cx, c, err);
	case VM_DELETE: return vm_command_delete(cx, c->names, c->n_names, err);
	case VM_COMMIT: return vm_command_commit(cx, c->names[0], c->n_names > 1 ? c->names[1] : NULL, err);
	case VM_PULL: return vm_command_pull(cx, c->n_names ? c->names[0] : NULL, err);
	case VM_REVERT: return vm_command_revert(cx, c, err);
	case VM_ADOPT: return vm_command_adopt(cx, c, err);
	case VM_HOLD: return vm_command_hold(cx, c->names[0], true, err);
	case VM_RELEASE: return vm_command_hold(cx, c->names[0], false, err);
	case VM_PRUNE: return c->policy ? vm_command_try_prune(cx, c->policy, NULL, err) : run_prune(cx, err);
	case VM_CANCEL: break; /* the business of the engine */
	}
	return vs_err_set(err, -EINVAL, "unknown command");
}

/* What is otherwise with a plain image; the rest knows no difference. */
static int run_on_image(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	switch (c->verb) {
	case VM_CREATE: return vm_image_create(cx, c, err);
	case VM_REVERT: return vm_image_revert(cx, c, err);
	case VM_COMMIT: return vs_err_set(err, -EOPNOTSUPP, "an image without libvirt has internal snapshots only: delete frees them");
	case VM_PULL: return vs_err_set(err, -EOPNOTSUPP, "an image without libvirt has no layers to pull");
	case VM_ADOPT: return vs_err_set(err, -EOPNOTSUPP, "an image without libvirt has no records of layers");
	default: return run(cx, c, err);
	}
}

/* What it does concerns this domain alone, unless something was interrupted, which comes to its end first. */
static bool adds(struct vm_context *cx, enum vm_verb verb)
{
	vs_autofree char *note = NULL;

	if (verb != VM_CREATE && verb != VM_HOLD && verb != VM_RELEASE)
		return false;
	return vm_store_journal_get(cx->store, cx->uuid, &note, NULL) == 0 && !note;
}

static bool frees(enum vm_verb verb)
{
	return verb == VM_DELETE || verb == VM_COMMIT || verb == VM_PRUNE;
}

int vm_command_run(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	const char *taken = c->verb == VM_CREATE ? c->names[0] : c->verb == VM_REVERT ? c->keep : NULL;
	struct vm_effects effects vs_cleanup(vm_effects_fini) = { .n_entries = 0 };
	int r;

	cx->adds = adds(cx, c->verb);
	r = vm_attest_poll(cx, err);
	cx->effects = cx->try_only ? &effects : NULL;
	if (r == 0)
		r = cx->conn ? run(cx, c, err) : run_on_image(cx, c, err);
	cx->adds = false;
	if (r >= 0 && taken)
		retain(cx, taken);
	if (r >= 0 && cx->try_only && frees(c->verb))
		vm_effects_say(cx);
	cx->effects = NULL;
	return r;
}
