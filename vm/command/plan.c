/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/plan.h"

#include <errno.h>
#include <string.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

/* It is marked, and reads so. */
static void set_begun(struct vm_retain_snapshot *snap, const struct vm_meta *meta, const struct vm_snapshot *s)
{
	const struct q2_snapshot *entry = s->n_disks ? s->disks[0].snapshot : NULL;
	struct vm_meta_id id = { s->name, s->created_ns - (s->recorded ? s->created_ns % VM_NS_PER_S : 0), s->kind };
	const struct vm_meta_snapshot *said;

	if (!s->recorded && entry)
		id.created_ns = entry->date_sec * VM_NS_PER_S + entry->date_nsec;
	said = meta && s->state == VM_STALE ? vm_meta_find(meta, &id) : NULL;
	snap->begun = said && said->mark;
	snap->unreadable = !snap->begun && (s->state == VM_STALE || (s->state == VM_UNSUPPORTED && !s->n_disks));
	snap->by_delete = snap->begun && !said->mark->is_void && !strncmp(said->mark->command, "delete ", strlen("delete "));
}

static size_t fill(struct vm_store *store, const struct vm_readers *readers, const struct vm_domain *d, struct vm_retain_snapshot *snaps)
{
	struct vm_meta *meta = vm_store_best(store, d->uuid, NULL);
	size_t n = 0;

	for (size_t i = 0; i < d->n_snapshots; i++) {
		const struct vm_snapshot *s = &d->snapshots[i];

		if (s->present)
			continue;
		snaps[n] = (struct vm_retain_snapshot){
			.shown = s->shown, .raw = s->name, .created_ns = s->created_ns, .order = i, .recorded = s->recorded,
			.ours = s->ours, .held = s->held, .open = readers->is_open(readers->opaque, d->uuid, s),
		};
		set_begun(&snaps[n], meta, s);
		n++;
	}
	vm_meta_free(meta);
	return n;
}

int vm_plan_make(struct vm_store *store, const struct vm_readers *readers, const struct vm_domain *d, const char *policy,
		 const char *coming, struct vm_retain_snapshot **snaps, struct vm_retain_verdict **verdicts, size_t *n, struct vs_err *err)
{
	const char *line = policy ? policy : "off";
	struct vm_retain parsed = {0};
	int r = vm_retain_parse(line, strlen(line), &parsed, err);

	if (r < 0)
		return r;
	*snaps = xcalloc(d->n_snapshots + 1, sizeof(**snaps));
	*verdicts = xcalloc(d->n_snapshots + 1, sizeof(**verdicts));
	*n = fill(store, readers, d, *snaps);
	if (coming)
		(*snaps)[(*n)++] = (struct vm_retain_snapshot){
			.shown = coming, .raw = coming, .created_ns = vm_now_ns(), .order = d->n_snapshots, .recorded = true, .ours = true,
		};
	r = vm_retain_plan(&parsed, *snaps, *n, vm_now_ns(), *verdicts);
	vm_retain_fini(&parsed);
	return r < 0 ? vs_err_set(err, r, "the plan cannot be made: %s", strerror(-r)) : 0;
}
