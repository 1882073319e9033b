/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What a snapshot froze when we took it
 * -------------------------------------
 * A frozen file whose time is later than the snapshot looks written since (graph/evidence.c). But a file may have such a time when it is frozen:
 * the clock was set back, a server's is ahead, a copy kept the time of a host whose clock is. Then nothing that is seen later tells that
 * nobody has written. Who takes the snapshot can know: what has the same number, size and time before and after that moment, from the active
 * layer down to the last one, is what was frozen, for whoever writes sets the time to what the clock says. It is noted with these stamps, as
 * attest.c does of what is right, and graph/noted.c goes by the note: a later write changes the stamp, whatever the clocks say.
 *
 * What did change in between (a guest runs) was given the clock's time, and needs none of this.
 */
#include "vm/command/taken.h"

#include <string.h>
#include <sys/stat.h>

#include "vm/command/attest.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

/* False: nobody can know it again by that. */
static bool stamp_now(const char *path, struct q2_stamp *stamp)
{
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	*stamp = (struct q2_stamp){ .dev = st.st_dev, .ino = st.st_ino, .size = (uint64_t)st.st_size, .mtime_ns = vm_timespec_ns(st.st_mtim) };
	return true;
}

static void disk_fini(struct vm_taken_disk *disk)
{
	for (size_t i = 0; i < disk->n; i++)
		free(disk->chain[i]);
	free(disk->chain);
	free(disk->stamps);
	free(disk->target);
}

/* False: not all of its layers are images that can be known again. */
static bool add_chain(const struct vm_context *cx, int top, struct vm_taken_disk *disk)
{
	disk->chain = xcalloc(VM_CHAIN_MAX + 1, sizeof(*disk->chain));
	disk->stamps = xcalloc(VM_CHAIN_MAX, sizeof(*disk->stamps));
	for (int l = top; l >= 0; l = cx->d->layers[l].below) {
		const struct vm_layer *layer = &cx->d->layers[l];

		if (disk->n == VM_CHAIN_MAX || layer->error || layer->ends || layer->data || !stamp_now(layer->path, &disk->stamps[disk->n]))
			return false;
		disk->chain[disk->n++] = xstrdup(layer->path);
	}
	return disk->n > 0;
}

void vm_taken_before(const struct vm_context *cx, struct vm_taken *taken)
{
	*taken = (struct vm_taken){ .disks = xcalloc(cx->d->n_disks, sizeof(*taken->disks)) };
	for (size_t i = 0; i < cx->d->n_disks; i++) {
		struct vm_taken_disk disk = { .target = xstrdup(cx->d->disks[i].target) };

		if (add_chain(cx, cx->d->disks[i].top, &disk))
			taken->disks[taken->n++] = disk;
		else
			disk_fini(&disk);
	}
}

static bool is_unchanged(const struct vm_taken_disk *disk)
{
	for (size_t i = 0; i < disk->n; i++) {
		const struct q2_stamp *was = &disk->stamps[i];
		struct q2_stamp now;

		if (!stamp_now(disk->chain[i], &now) || now.dev != was->dev || now.ino != was->ino || now.size != was->size || now.mtime_ns != was->mtime_ns)
			return false;
	}
	return true;
}

void vm_taken_after(struct vm_taken *taken)
{
	size_t kept = 0;

	for (size_t i = 0; i < taken->n; i++) {
		if (is_unchanged(&taken->disks[i]))
			taken->disks[kept++] = taken->disks[i];
		else
			disk_fini(&taken->disks[i]);
	}
	taken->n = kept;
}

static bool took_part(const struct vm_xml_snapshot *record, const char *target)
{
	for (size_t i = 0; i < record->n_disks; i++)
		if (!strcmp(record->disks[i].target, target))
			return record->disks[i].mode == VM_MODE_EXTERNAL;
	return false;
}

/* By its files. One that is new and looks stale is not listed at all. */
static bool looks_written(const struct vm_context *cx, const char *name, const char *target)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		for (size_t k = 0; s->recorded && !strcmp(s->name, name) && k < s->n_disks; k++)
			if (!strcmp(s->disks[k].target, target))
				return s->disks[k].state == VM_STALE && s->disks[k].written;
		if (s->recorded && !strcmp(s->name, name))
			return false;
	}
	return true;
}

bool vm_taken_note(struct vm_context *cx, const struct vm_taken *taken, const struct vm_meta_id *id, const struct vm_xml_snapshot *record)
{
	bool news = false;

	for (size_t i = 0; i < taken->n; i++) {
		const struct vm_taken_disk *disk = &taken->disks[i];

		if (took_part(record, disk->target) && looks_written(cx, id->name, disk->target))
			news |= vm_attest_stamps(cx, id, disk->target, disk->chain, disk->stamps, disk->n);
	}
	return news;
}

void vm_taken_fini(struct vm_taken *taken)
{
	for (size_t i = 0; i < taken->n; i++)
		disk_fini(&taken->disks[i]);
	free(taken->disks);
	*taken = (struct vm_taken){ .n = 0 };
}
