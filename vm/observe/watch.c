/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/watch.h"

static uint64_t hash_string(const char *s)
{
	return s ? vm_ino(1, s) : 0;
}

void vm_watch_step(struct vm_watch *watch, const struct q2_stamp *stamp, const char *backing, bool frozen, unsigned poll)
{
	uint64_t backing_hash = hash_string(backing);
	bool known = watch->seen_at != 0 && watch->dev == stamp->dev && watch->ino == stamp->ino;

	if (!known)
		*watch = (struct vm_watch){.dev = stamp->dev, .ino = stamp->ino};
	else if (backing_hash != watch->backing_hash)
		watch->repointed_at = poll;
	else if (frozen && watch->frozen && !stamp->block &&
		 (stamp->mtime_ns != watch->mtime_ns || stamp->size != watch->size))
		watch->written_at = poll;
	watch->size = stamp->size;
	watch->mtime_ns = stamp->mtime_ns;
	watch->backing_hash = backing_hash;
	watch->frozen = frozen;
	watch->seen_at = poll;
}
