/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * plan.h: what a policy does with the snapshots of a domain as they are now.
 *
 * Threads: any; who asks is_open() may wait for a lock that is held shortly.
 */
#ifndef VS_VM_COMMAND_PLAN_H
#define VS_VM_COMMAND_PLAN_H

#include "vm/language/retain.h"
#include "vm/meta/store.h"
#include "vm/model/types.h"

/* Who knows whether somebody has a file of the snapshot open: then it counts as held. */
struct vm_readers {
	bool (*is_open)(void *opaque, const char *uuid, const struct vm_snapshot *s);
	void *opaque;
};

/* What a policy (NULL: off) does with the snapshots of @d, and with one of the name @coming (NULL: none) that is taken now: gives an
 * array of each (free()), that one the last; strings are borrowed. */
int vm_plan_make(struct vm_store *store, const struct vm_readers *readers, const struct vm_domain *d, const char *policy,
		 const char *coming, struct vm_retain_snapshot **snaps, struct vm_retain_verdict **verdicts, size_t *n,
		 struct vs_err *err);

#endif
