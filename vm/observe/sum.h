/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * sum.h: a sum of what a guest sees of an image file, to tell data that was written from a header that was changed by who moves images, and from
 * bitmaps and internal snapshots that come and go. No protection against who means harm. Threads: any.
 */
#ifndef VS_VM_OBSERVE_SUM_H
#define VS_VM_OBSERVE_SUM_H

#include "qcow2/qcow2.h"

#define VM_SUM_MAX (UINT64_C(64) << 20) /* bytes: of a larger file there is none, it would take too long */

struct vm_sum_file {
	uint64_t ino, size;
	int64_t mtime_ns;
};

/* Of the file at @path alone, without what it stands on: the size of its disk, what is stored at which place of it, and where it says that there are
 * zeros; however that is stored. 0: it is larger than VM_SUM_MAX or stores many times that, its data is in an external file, it cannot be read,
 * or is not this file or not any more. */
uint64_t vm_sum(const char *path, const struct vm_sum_file *expected, enum q2_format format);

/* Of what a snapshot's disk shows, whatever files that is in. @spec: with all that is expected; *bytes: how many were read. 0: it could not be read as it
 * is expected. VM_SUM_NONE: its files hold more than VM_SUM_SHOWN_MAX. */
#define VM_SUM_NONE UINT64_C(1)
#define VM_SUM_SHOWN_MAX (UINT64_C(128) << 20) /* some 0.1 s */
uint64_t vm_sum_shown(const struct q2_view_spec *spec, uint64_t *bytes);

#endif
