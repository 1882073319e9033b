/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * sum.h: a sum of what an image stores, to tell data that was written from a header that was changed by who moves images. No
 * protection against who means harm. Threads: any.
 */
#ifndef VS_VM_OBSERVE_SUM_H
#define VS_VM_OBSERVE_SUM_H

#include "qcow2/base.h"

#define VM_SUM_MAX (UINT64_C(64) << 20) /* bytes: of a larger file there is none, it would take too long */

struct vm_sum_file {
	uint64_t ino, size;
	int64_t mtime_ns;
};

/* Of the file at @path: of a qcow2 image all but what its first cluster says of what it stands on; @cluster_bits 0: all. 0: it is larger than VM_SUM_MAX, cannot be read, or is not
 * this file or not any more. */
uint64_t vm_sum(const char *path, const struct vm_sum_file *expected, unsigned cluster_bits);

#endif
