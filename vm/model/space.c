/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/model/space.h"

#include "vm/util/mem.h"

struct vm_space *vm_space_new(size_t n_snapshots, size_t n_disks)
{
	struct vm_space *space = xcalloc(1, sizeof(*space));

	space->snapshots = xcalloc(n_snapshots, sizeof(*space->snapshots));
	space->disks = xcalloc(n_disks, sizeof(*space->disks));
	return space;
}

void vm_space_free(struct vm_space *space)
{
	if (!space)
		return;
	for (size_t i = 0; i < space->n_snapshots; i++) {
		free(space->snapshots[i].shown);
		free(space->snapshots[i].why);
	}
	for (size_t i = 0; i < space->n_disks; i++) {
		free(space->disks[i].target);
		free(space->disks[i].path);
		free(space->disks[i].why);
	}
	free(space->snapshots);
	free(space->disks);
	free(space->policy);
	free(space->dropped_why);
	free(space);
}
