/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "reply.h"

#include <assert.h>
#include <errno.h>

#include "splice.h"

static _Thread_local struct heard {
	uint64_t unique;
	int device;
} heard;

void sf_req_heard(struct fuse_session *se, const struct fuse_buf *message)
{
	heard.unique = message->flags & FUSE_BUF_IS_FD ? 0 : sf_splice_unique(message->mem, message->size);
	heard.device = fuse_session_fd(se);
}

struct sf_req sf_req_begin(fuse_req_t req)
{
	return (struct sf_req){.req = req, .fs = fuse_req_userdata(req), .unique = heard.unique, .device = heard.device};
}

/* What a negative errno of ours is for the kernel. ENOSYS would switch an operation off for the whole mount and is
 * never an answer; nor is what only the kernel may use. */
static int errno_of(int rc)
{
	if (rc >= 0 || rc <= -512 || rc == -ENOSYS)
		return EIO;
	return -rc;
}

fuse_req_t sf_req_take(struct sf_req *r)
{
	assert(!r->answered);
	r->answered = true;
	return r->req;
}

void sf_req_end(struct sf_req *r, int rc)
{
	if (rc < 0)
		fuse_reply_err(sf_req_take(r), errno_of(rc));
	assert(r->answered);
}
