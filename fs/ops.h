/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * ops.h: the FUSE operations. ops.c has the table, the shims and the note on threads and locks; op_dir.c, op_file.c
 * and op_door.c have what is more than a few lines.
 */
#ifndef VS_OPS_H
#define VS_OPS_H

#include "fs.h"
#include "reply.h"

extern const struct fuse_lowlevel_ops sf_ops;

/* What open and opendir have left there. */
static inline struct sf_handle *sf_op_handle(const struct fuse_file_info *fi)
{
	return (struct sf_handle *)(uintptr_t)fi->fh;
}

int sf_op_lookup(struct sf_req *r, fuse_ino_t parent, const char *name);
int sf_op_opendir(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi);
int sf_op_readdir(struct sf_req *r, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi);
int sf_op_readdirplus(struct sf_req *r, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi);

int sf_op_open(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi);
int sf_op_read(struct sf_req *r, fuse_ino_t id, size_t size, off_t off, struct fuse_file_info *fi);
int sf_op_lseek(struct sf_req *r, fuse_ino_t id, off_t off, int whence, struct fuse_file_info *fi);

int sf_op_write(struct sf_req *r, fuse_ino_t id, const char *text, size_t len, off_t off,
		struct fuse_file_info *fi);
int sf_op_setattr(struct sf_req *r, fuse_ino_t id, int to_set);
int sf_op_poll(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi, struct fuse_pollhandle *waiting);
/* @fi: the open file that is asked about, or NULL. */
int sf_op_getattr(struct sf_req *r, fuse_ino_t id, const struct fuse_file_info *fi);

/* The place of a node in a tree: -ESTALE where it has none any more. */
int sf_op_place(struct sf_fs *fs, const struct sf_tree *tree, fuse_ino_t id, struct sf_place *place);

#endif
