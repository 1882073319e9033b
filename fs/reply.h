/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * reply.h: the one door through which answers leave: exactly one for each request.
 *
 * An operation is `int op(struct sf_req *r, ...)`. Either it has answered and returns 0, or it has not and returns
 * a negative errno, which becomes the answer. Anything else is our own mistake and stops the program.
 *
 * Replies (fuse_reply_*) return 0 when they were delivered, else a negative errno: then nobody will come to release or forget
 * what was handed out in them.
 */
#ifndef VS_REPLY_H
#define VS_REPLY_H

#include <stdbool.h>

#include "fuse_api.h"

struct sf_fs;

struct sf_req {
	fuse_req_t req;
	struct sf_fs *fs; /* for the operations */
	uint64_t unique;  /* the kernel's number of it, */
	int device;       /* and where it came from: for replies that libfuse does not make (splice.h) */
	bool answered;
};

/* Every message of the kernel's passes here, in the thread that hands it to libfuse next. */
void sf_req_heard(struct fuse_session *se, const struct fuse_buf *message);

/* What the shims of ops.c do before and after an operation. */
struct sf_req sf_req_begin(fuse_req_t req);
void sf_req_end(struct sf_req *r, int rc);
/* Gives the request for its one fuse_reply_*(), which answers it; or to who has a copy of @r and answers through that, later. */
fuse_req_t sf_req_take(struct sf_req *r);

#endif
