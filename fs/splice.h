/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * splice.h: a reply whose bytes go from files to the kernel's FUSE device without passing through this process.
 *
 * libfuse has that too (fuse_reply_data), in one step; here it is two, and between them one can look whether the bytes may
 * still be handed on: they are the files' own pages until the second step has copied them.
 *
 * Each thread has a pipe of its own, until it ends. Threads: any.
 */
#ifndef VS_SPLICE_H
#define VS_SPLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* So many pieces fit into the pipe together with SF_BLOCK_SIZE bytes of pages, wherever they begin. */
#define SF_SPLICE_PIECES 100

struct sf_piece {
	int fd;
	off_t off;
	size_t len;
};

/* Which request a message of the kernel's is: its number, by which it is answered. 0: none is there. */
uint64_t sf_splice_unique(const void *message, size_t len);

/* Fills this thread's pipe with the reply to @unique: the pieces, @len bytes in all. May wait for a disk; @go_on is asked again and again, before
 * each 128 KiB at the latest. False: it said no, or it cannot be done so, and nothing is there. */
bool sf_splice_fill(uint64_t unique, const struct sf_piece *pieces, size_t n, size_t len, bool (*go_on)(void *opaque), void *opaque);

/* What sf_splice_fill() has put there goes to the device @dev. @may_go: asked before, NULL: without a question; from when it is asked
 * until the device has copied all of it no time passes in which this process may have been stopped, and if it says no, or that cannot be had,
 * nothing goes. False: the request has not been answered, and the pipe is empty. */
bool sf_splice_send(int dev, bool (*may_go)(void *opaque), void *opaque);

#endif
