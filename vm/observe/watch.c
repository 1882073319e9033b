/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/watch.h"

#include <string.h>

static uint64_t hash_string(const char *s)
{
	return s ? vm_ino(1, s) : 0;
}

static void remember(struct vm_watch *watch)
{
	if (watch->n_renamed == VM_WATCH_RENAMED)
		memmove(watch->renamed, watch->renamed + 1, --watch->n_renamed * sizeof(watch->renamed[0]));
	watch->renamed[watch->n_renamed++] = (struct vm_watch_time){watch->size, watch->mtime_ns};
}

bool vm_watch_is_of(const struct vm_watch *watch, const struct q2_stamp *stamp)
{
	return watch->seen_at != 0 && watch->dev == stamp->dev && watch->ino == stamp->ino && (stamp->block || watch->born_ns == stamp->btime_ns);
}

void vm_watch_step(struct vm_watch *watch, const struct q2_stamp *stamp, const char *backing, bool frozen, unsigned poll)
{
	uint64_t backing_hash = hash_string(backing);
	bool known = vm_watch_is_of(watch, stamp);
	bool changed = stamp->mtime_ns != watch->mtime_ns || stamp->size != watch->size;

	if (!known) {
		*watch = (struct vm_watch){.dev = stamp->dev, .ino = stamp->ino, .born_ns = stamp->btime_ns};
	} else if (backing_hash != watch->backing_hash) {
		if (watch->backing_hash) /* no job puts an image on something that stood on nothing: it is being made */
			watch->repointed_at = poll;
		remember(watch);
	} else if (changed) {
		watch->n_renamed = 0;
		if (frozen && watch->frozen && !stamp->block)
			watch->written_at = poll;
	}
	watch->size = stamp->size;
	watch->mtime_ns = stamp->mtime_ns;
	watch->backing_hash = backing_hash;
	watch->frozen = frozen;
	watch->seen_at = poll;
}
