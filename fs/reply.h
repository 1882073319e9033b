/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * reply.h: the one door through which answers leave: exactly one for each request.
 *
 * An operation is `int op(struct sf_req *r, ...)`. Either it has answered and returns 0, or it has not and returns
 * a negative errno, which becomes the answer. Anything else is our own mistake and stops the program.
 *
 * The replies return 0 when they were delivered, else a negative errno: then nobody will come to release or forget what
 * was handed out in them.
 */
#ifndef VS_REPLY_H
#define VS_REPLY_H

#include <stdbool.h>

#include "fuse_api.h"

struct sf_fs;

struct sf_req {
	fuse_req_t req;
	struct sf_fs *fs; /* for the operations */
	bool answered;
};

/* What the shims of ops.c do before and after an operation. */
struct sf_req sf_req_begin(fuse_req_t req);
void sf_req_end(struct sf_req *r, int rc);
/* Somebody has a copy of @r and answers through that, later: then here there is nothing to answer any more. */
void sf_req_kept(struct sf_req *r);

/* What a negative errno of ours is for the kernel. ENOSYS would switch an operation off for the whole mount and is
 * never an answer; nor is what only the kernel may use. */
int sf_reply_errno(int rc);

int sf_reply_ok(struct sf_req *r);
int sf_reply_entry(struct sf_req *r, const struct fuse_entry_param *entry);
int sf_reply_attr(struct sf_req *r, const struct stat *st, double timeout_s);
int sf_reply_open(struct sf_req *r, const struct fuse_file_info *fi);
int sf_reply_buf(struct sf_req *r, const char *buf, size_t len);
int sf_reply_data(struct sf_req *r, struct fuse_bufvec *bufv);
int sf_reply_write(struct sf_req *r, size_t len);
int sf_reply_poll(struct sf_req *r, unsigned events);
int sf_reply_lseek(struct sf_req *r, off_t off);
int sf_reply_statfs(struct sf_req *r, const struct statvfs *st);

#endif
