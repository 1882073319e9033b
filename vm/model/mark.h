/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * mark.h: by what a file is known again: its stamp, and where it has an external data file, with that: the later time, and no more a size. Of a device only
 * which one it is: its node's time says nothing. Pure.
 */
#ifndef VS_VM_MODEL_MARK_H
#define VS_VM_MODEL_MARK_H

#include "qcow2/qcow2.h"
#include "vm/util/strmap.h"

/* @data: the stamp of the data file; NULL: there is none. */
static inline struct q2_stamp vm_mark(struct q2_stamp stamp, const struct q2_stamp *data)
{
	if (data && data->block) {
		stamp.size ^= vm_fnv1a(VM_FNV1A, &data->ino, sizeof(data->ino));
	} else if (data) {
		const uint64_t identity[] = { data->size, (uint64_t)data->mtime_ns };

		stamp.size ^= vm_fnv1a(VM_FNV1A, identity, sizeof(identity));
		if (data->mtime_ns > stamp.mtime_ns)
			stamp.mtime_ns = data->mtime_ns;
	}
	return stamp;
}

#endif
