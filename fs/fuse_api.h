/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * fuse_api.h: the one place that names the libfuse API version, so that every source file gets the same one. 312 is the
 * newest that libfuse 3.14 (Debian 12) offers to the low-level side. And the size of requests, which much is sized by.
 */
#ifndef VS_FUSE_API_H
#define VS_FUSE_API_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#define SF_BLOCK_SIZE (512 * 1024) /* st_blksize, and the largest request */

#endif
