/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * create, delete and revert on a plain image that nobody has open, by qemu-img. It takes QEMU's image locks itself, so a guest
 * that opens the file at the same moment makes it fail instead of ruining it.
 *
 * qemu-img takes a snapshot's id where a name is expected, and the other way round: what `-d 1` removes depends on the table. So
 * a snapshot is removed or applied only where its name is nobody's id and nobody else's name, and a new name must not be digits only.
 */
#include "vm/command/image.h"

#include <errno.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/effects.h"
#include "vm/command/recover.h"
#include "vm/command/remove.h"
#include "vm/libvirt/qemu-img.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

/* Does what stands on it, as far as anybody knows, forbid to write it? That its own content stays the same is not enough: an image that a
 * domain's snapshot froze counts as spoilt once it was written to. */
static int nobody_stands_on_it(const struct vm_context *cx, struct vs_err *err)
{
	int top = cx->d->n_disks ? cx->d->disks[0].top : -1;

	return top < 0 || vm_need(cx, top, NULL, false, err) == VM_NEED_NOT ? 0 : err ? err->code : -EPERM;
}

static int check_unambiguous(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	const struct q2_snapshot *meta = s->n_disks ? s->disks[0].snapshot : NULL;

	if (!meta || !s->name[0])
		return vs_err_set(err, -EOPNOTSUPP, "qemu-img cannot be told which snapshot '%s' is", s->shown);
	if (s->name[0] == '-')
		return vs_err_set(err, -EOPNOTSUPP, "'%s' begins as an option of qemu-img does, and might be taken for one", s->shown);
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *other = &cx->d->snapshots[i];
		const struct q2_snapshot *entry = other->n_disks ? other->disks[0].snapshot : NULL;

		if (other == s || !entry)
			continue;
		if (!strcmp(entry->id, s->name))
			return vs_err_set(err, -EPERM, "'%s' is also the id of snapshot '%s', and qemu-img might take that one", s->name, other->shown);
		if (!strcmp(entry->name, s->name))
			return vs_err_set(err, -EPERM, "'%s' is also the name of snapshot '%s', and qemu-img takes the first of them: 'qemu-img snapshot -d' "
					  "removes that, where it may go, and the other one is alone then", s->name, other->shown);
	}
	return 0;
}

static int check(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	int r = vm_nobody_has_it(cx->uuid, false, err);

	if (r == 0)
		r = nobody_stands_on_it(cx, err);
	if (r == 0 && s)
		r = check_unambiguous(cx, s, err);
	return r;
}

static int run(struct vm_context *cx, const char *option, const char *name, struct vs_err *err)
{
	/* by its own: what it stands on has no part in this, and may be a name that no gate has let pass */
	vs_autofree char *alone = vm_qemu_img_alone(cx->uuid);
	const char *argv[] = {"qemu-img", "snapshot", option, name, alone, NULL};
	int r;

	vm_context_unguard(cx);
	vm_fault();
	r = vm_qemu_img_run(argv, err);
	vm_fault();
	return r;
}

/* qemu-img has failed: where nothing of that name is there, what somebody else takes under it is not ours. */
static int not_taken(struct vm_context *cx, const char *name, int r)
{
	const struct vm_snapshot *s;

	if (vm_attest_poll(cx, NULL) == 0 && vm_context_find(cx, name, &s, NULL) == -ENOENT)
		vm_journal_done(&cx->journal, "take");
	return r;
}

int vm_image_create(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	struct vm_name_rules rules = { .internal = true, .suffix_len = 16 };
	const struct vm_snapshot *s = NULL;
	struct vm_meta_id id;
	int r = vm_recover_settle(cx, err);

	if (r == 0)
		r = vm_name_check_new(c->names[0], &rules, err);
	if (r == 0 && c->kind == VM_ASK_EXTERNAL)
		r = vs_err_set(err, -EOPNOTSUPP, "an image without libvirt can have internal snapshots only");
	if (r == 0 && (c->quiesce_s || c->n_disks || c->desc || c->names[0][0] == '-'))
		r = vs_err_set(err, -EOPNOTSUPP, c->names[0][0] == '-' ? "qemu-img would take the name for an option" :
			       "an image without libvirt has no guest, one disk, and no room for a description");
	for (size_t i = 0; r == 0 && i < cx->d->n_snapshots; i++)
		if (!cx->d->snapshots[i].present && !strcmp(cx->d->snapshots[i].name, c->names[0]))
			r = vs_err_set(err, -EEXIST, "there is a snapshot '%s' already", c->names[0]);
	if (r == 0)
		r = check(cx, NULL, err);
	if (r == 0 && cx->try_only)
		vm_context_say(cx, "would add an entry '%s' to '%s'; no data moves", c->names[0], cx->uuid);
	if (r < 0 || cx->try_only)
		return r;
	r = vm_recover_journal_take(cx, c->names[0], err);
	if (r < 0)
		return r;
	r = run(cx, "-c", c->names[0], err);
	if (r < 0)
		return not_taken(cx, c->names[0], r);
	r = vm_attest_poll(cx, err);
	if (r == 0)
		r = vm_context_find(cx, c->names[0], &s, err);
	if (r < 0)
		return r;
	id = vm_context_id(cx, s);
	vm_meta_set_ours(cx->meta, &id, true);
	r = vm_context_save(cx, err);
	vm_journal_done(&cx->journal, "take");
	return r;
}

int vm_image_delete(struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	struct vm_meta_id id = vm_context_id(cx, s);
	int r = check(cx, s, err);

	if (r == 0 && s->users && s->users[0])
		r = vs_err_set(err, -EPERM, "snapshot '%s' must stay: %s stands on its file in a virt-snapfs mount", s->shown, s->users[0]);
	if (r == 0 && cx->try_only)
		vm_context_say(cx, "would remove the entry '%s' from '%s'; no data moves", s->shown, cx->uuid);
	if (r == 0 && cx->try_only)
		vm_effects_entries(cx, s);
	if (r < 0 || cx->try_only)
		return r;
	r = run(cx, "-d", s->name, err);
	if (r == 0 && vm_meta_forget(cx->meta, &id))
		r = vm_context_save(cx, err);
	return r == 0 ? vm_attest_poll(cx, err) : r;
}

int vm_image_revert(struct vm_context *cx, const struct vm_command *c, struct vs_err *err)
{
	struct vm_command create = { .verb = VM_CREATE, .names = (char **)&c->keep, .n_names = 1 };
	const struct vm_snapshot *s = NULL;
	vs_autofree char *name = NULL;
	int r = vm_context_find(cx, c->names[0], &s, err);

	if (r == 0)
		r = check(cx, s, err);
	if (r == 0)
		name = xstrdup(s->name);
	if (r == 0 && c->keep)
		r = vm_image_create(cx, &create, err);
	if (r == 0 && cx->try_only)
		vm_context_say(cx, "would make '%s' the content of '%s'", name, cx->uuid);
	return r < 0 || cx->try_only ? r : run(cx, "-a", name, err);
}
