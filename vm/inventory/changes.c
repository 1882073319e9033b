/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/inventory/changes.h"

#include <string.h>

#include "vm/model/inventory.h"
#include "vm/util/log.h"

/* Snapshots keep their place mostly, so the other one is looked for near the same place first: many snapshots are common,
 * many changes at once are not. */
static const struct vm_snapshot *counterpart(const struct vm_domain *other, const struct vm_snapshot *s, size_t near)
{
	for (size_t i = near < 8 ? 0 : near - 8; i < other->n_snapshots && i < near + 8; i++)
		if (!strcmp(other->snapshots[i].shown, s->shown))
			return &other->snapshots[i];
	return vm_domain_shown(other, s->shown);
}

static void say_state(const struct vm_domain *now, const struct vm_snapshot *s)
{
	if (s->state == VM_OK)
		vm_log(now->log, "snapshot '%s' is ok", s->shown);
	else
		(s->state == VM_DETACHED || s->state == VM_BUSY ? vm_log : vm_log_warn)(now->log, "snapshot '%s' is %s: %s", s->shown,
			vm_state_name(s->state), s->reason ? s->reason : "no reason is known");
}

static void notice_snapshots(const struct vm_domain *before, const struct vm_domain *now)
{
	for (size_t i = 0; i < before->n_snapshots; i++) {
		const struct vm_snapshot *s = &before->snapshots[i];

		if (!s->present && !counterpart(now, s, i))
			vm_log(now->log, "snapshot '%s' disappeared", s->shown);
	}
	for (size_t i = 0; i < now->n_snapshots; i++) {
		const struct vm_snapshot *s = &now->snapshots[i];
		const struct vm_snapshot *old = s->present ? NULL : counterpart(before, s, i);

		if (s->present)
			continue;
		if (!old)
			vm_log(now->log, "%s snapshot '%s' appeared", vm_kind_name(s->kind), s->shown);
		if (old ? old->state != s->state : s->state != VM_OK)
			say_state(now, s);
	}
}

static const struct vm_disk_now *find_disk(const struct vm_domain *d, const char *target)
{
	for (size_t i = 0; i < d->n_disks; i++)
		if (!strcmp(d->disks[i].target, target))
			return &d->disks[i];
	return NULL;
}

static void notice_jobs(const struct vm_domain *before, const struct vm_domain *now)
{
	for (size_t i = 0; i < now->n_disks; i++) {
		const struct vm_disk_now *disk = &now->disks[i], *old = find_disk(before, disk->target);

		if (disk->job && (!old || !old->job))
			vm_log(now->log, "%s: a block job is running: %s", disk->target, disk->job);
		else if (!disk->job && old && old->job)
			vm_log(now->log, "%s: the block job has ended", disk->target);
	}
}

static bool is_among(char *const *names, const char *name)
{
	for (; names && *names; names++)
		if (!strcmp(*names, name))
			return true;
	return false;
}

static void notice_checkpoints(const struct vm_domain *before, const struct vm_domain *now)
{
	for (char **name = now->checkpoints; name && *name; name++)
		if (!is_among(before->checkpoints, *name))
			vm_log(now->log, "checkpoint '%s' appeared: a backup program's, for its next incremental backup", *name);
	for (char **name = before->checkpoints; name && *name; name++)
		if (!is_among(now->checkpoints, *name))
			vm_log(now->log, "checkpoint '%s' disappeared", *name);
}

void vm_changes_say(const struct vm_domain *before, const struct vm_domain *now)
{
	if (before) {
		if (strcmp(before->name, now->name))
			vm_log(now->log, "renamed from '%s'", before->dir);
		notice_snapshots(before, now);
		notice_jobs(before, now);
		notice_checkpoints(before, now);
		return;
	}
	for (size_t i = 0; i < now->n_snapshots; i++)
		if (now->snapshots[i].state == VM_STALE || now->snapshots[i].state == VM_UNSUPPORTED)
			say_state(now, &now->snapshots[i]);
}
