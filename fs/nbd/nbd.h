/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * nbd.h: an export of an NBD server, as a file that is read. See nbd.c.
 *
 * Nobody else knows libnbd. Its bytes must not change while it is open. Offsets and lengths are bytes.
 * At most 90 are open at a time, of one server or many: -EMFILE.
 * Errors: -EINTR: whoever waits has gone; -EIO: the server said so, or the connection broke.
 * Threads: nb_file_read() and nb_file_seek() any, many at a time; opening and closing one.
 */
#ifndef VS_NBD_H
#define VS_NBD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "qcow2/base.h"

struct nb_file;

/* Who waits for the answer: asked some times a second whether he has gone. Borrowed for the call. */
struct nb_wait {
	bool (*gone)(void *opaque);
	void *opaque;
};

/* The export of that name, of the server at that unix socket. Gives *out. */
int nb_file_open(const char *socket, const char *name, const struct nb_wait *wait, struct nb_file **out, struct vs_err *err);
void nb_file_close(struct nb_file *f);
uint64_t nb_file_size(const struct nb_file *f);

/* A count, short only at the end. */
int64_t nb_file_read(struct nb_file *f, void *buf, size_t len, uint64_t off, const struct nb_wait *wait, struct vs_err *err);
/* The same bytes as they lie there, if they do: borrowed until they are given back. -EAGAIN: they have to be waited for, or lie in too many pieces. */
#define NB_SPAN_MOST 4
struct nb_span {
	unsigned n;
	struct iovec iov[NB_SPAN_MOST];
	void *of[NB_SPAN_MOST]; /* private */
};
int64_t nb_file_lend(struct nb_file *f, size_t len, uint64_t off, struct nb_span *span);
void nb_file_return(struct nb_file *f, const struct nb_span *span);

/* lseek(2): @whence SEEK_DATA or SEEK_HOLE; -ENXIO as there. What the server knows to read as zeros is a hole. */
int64_t nb_file_seek(struct nb_file *f, uint64_t off, int whence, const struct nb_wait *wait, struct vs_err *err);

#endif
