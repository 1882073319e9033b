/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * growth.h: what an image grows by when layers are merged into it.
 *
 * That is the clusters of theirs where it has none, and an L2 table where none is there for them. QEMU may spell zeros out or not,
 * finds room in what compressed clusters leave, and a cluster that reads as zeros may be there all the same: where there are such it is
 * that much at most.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_GROWTH_H
#define VS_VM_COMMAND_GROWTH_H

#include "vm/command/context.h"

/* All in bytes. */
struct vm_growth {
	uint64_t gone;   /* on disk, of the layers */
	uint64_t moved;  /* that are written */
	uint64_t over;   /* of the base that are written over */
	uint64_t growth;
	bool at_most;    /* it may grow by less */
};

/* @gone: the layers that are merged into @base, all of them indices in cx->d. Two bits for each cluster are kept meanwhile, of what
 * there is for counting (q2_usage_charge()). -EFBIG: at the limit of @work nobody knew; -ENOBUFS; -EINTR: nobody waits. */
int vm_growth_count(const struct vm_context *cx, int base, const int *gone, size_t n, struct q2_work *work, struct vm_growth *out,
		    struct vs_err *err);

#endif
