/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * usages.h: what was counted of images (q2_usage_read()), remembered for as long as the file is not written.
 *
 * Threads: any; two who want the same at once both count.
 */
#ifndef VS_VM_COMMAND_USAGES_H
#define VS_VM_COMMAND_USAGES_H

#include "qcow2/qcow2.h"

struct vm_usages;
struct vm_usages *vm_usages_new(void);
void vm_usages_free(struct vm_usages *usages);

struct vm_usage {
	struct q2_usage *usage;
	/* private */
	struct q2_stamp stamp; /* of the file before it was read */
	int64_t read_ns;       /* steady: when counting began */
	uint64_t *ids;         /* of each snapshot */
	unsigned refs;
	uint64_t set;
	bool settled; /* its mtime tells whether it is written */
};
void vm_usage_put(struct vm_usages *usages, struct vm_usage *u); /* NULL is fine */
/* NULL: it has no such snapshot. */
const struct q2_usage_snapshot *vm_usage_of(const struct vm_usage *u, const struct q2_snapshot *s);

struct vm_usages_ask {
	const char *path;
	const struct q2_snapshot *const *set; /* those that go together; empty: whatever set was counted last will do */
	size_t n_set;
	bool live;        /* see q2_usage_spec */
	int64_t since_ns; /* what was counted since then will do, also where the file was written meanwhile, if it has the same snapshots */
	struct q2_work *work;
};

/* Gives *out. Errors: those of q2_info_read() and q2_usage_read(). */
int vm_usages_get(struct vm_usages *usages, const struct vm_usages_ask *ask, struct vm_usage **out, struct vs_err *err);

#endif
