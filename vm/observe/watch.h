/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * watch.h: one image file, from poll to poll.
 *
 * The inventory's memory of one file, by (dev, ino). Feed every poll's look to vm_watch_step(); copy the two answers into
 * vm_fact_file. Zero-initialise; pure.
 */
#ifndef VS_VM_OBSERVE_WATCH_H
#define VS_VM_OBSERVE_WATCH_H

#include "vm/model/facts.h"

#define VM_WATCH_RENAMED 4

struct vm_watch {
	uint64_t dev, ino, size;
	int64_t mtime_ns, born_ns;
	uint64_t backing_hash;
	unsigned seen_at;       /* poll of the last look */
	bool frozen;            /* at the last look */
	unsigned written_at, repointed_at;
	struct vm_watch_time renamed[VM_WATCH_RENAMED]; /* see struct vm_fact_file; the latest one last */
	size_t n_renamed;
};

/* Is it the watch of this file, and not of one that had its number before? */
bool vm_watch_is_of(const struct vm_watch *watch, const struct q2_stamp *stamp);

/* @backing: the header's backing name, NULL for none. @frozen: no domain, running or shut off, has it as its active layer.
 * Another (dev, ino), or another birth, starts anew. Block devices are never seen to change. */
void vm_watch_step(struct vm_watch *watch, const struct q2_stamp *stamp, const char *backing, bool frozen, unsigned poll);

#endif
