/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "reply.h"

#include <assert.h>
#include <errno.h>

struct sf_req sf_req_begin(fuse_req_t req)
{
	return (struct sf_req){.req = req, .fs = fuse_req_userdata(req)};
}

int sf_reply_errno(int rc)
{
	if (rc >= 0 || rc <= -512 || rc == -ENOSYS)
		return EIO;
	return -rc;
}

static fuse_req_t take(struct sf_req *r)
{
	assert(!r->answered);
	r->answered = true;
	return r->req;
}

void sf_req_end(struct sf_req *r, int rc)
{
	if (rc < 0)
		fuse_reply_err(take(r), sf_reply_errno(rc));
	assert(r->answered);
}

void sf_req_kept(struct sf_req *r)
{
	take(r);
}

int sf_reply_ok(struct sf_req *r)
{
	return fuse_reply_err(take(r), 0);
}

int sf_reply_entry(struct sf_req *r, const struct fuse_entry_param *entry)
{
	return fuse_reply_entry(take(r), entry);
}

int sf_reply_attr(struct sf_req *r, const struct stat *st, double timeout_s)
{
	return fuse_reply_attr(take(r), st, timeout_s);
}

int sf_reply_open(struct sf_req *r, const struct fuse_file_info *fi)
{
	return fuse_reply_open(take(r), fi);
}

int sf_reply_buf(struct sf_req *r, const char *buf, size_t len)
{
	return fuse_reply_buf(take(r), buf, len);
}

int sf_reply_data(struct sf_req *r, struct fuse_bufvec *bufv)
{
	return fuse_reply_data(take(r), bufv, 0);
}

int sf_reply_write(struct sf_req *r, size_t len)
{
	return fuse_reply_write(take(r), len);
}

int sf_reply_poll(struct sf_req *r, unsigned events)
{
	return fuse_reply_poll(take(r), events);
}

int sf_reply_lseek(struct sf_req *r, off_t off)
{
	return fuse_reply_lseek(take(r), off);
}

int sf_reply_statfs(struct sf_req *r, const struct statvfs *st)
{
	return fuse_reply_statfs(take(r), st);
}
