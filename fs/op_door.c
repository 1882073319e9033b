/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* The files that are written to, and the one that can be polled. write.c says what becomes of a write that takes time. */
#include <errno.h>
#include <poll.h>

#include "ops.h"
#include "text.h"

/* ---------------------------------------------------------------- write */

/* Shown through this handle and at the next open, and that is all. */
static int write_plan(struct sf_req *r, struct sf_handle *handle, const char *text, size_t len, uint64_t off)
{
	struct sf_fs *fs = r->fs;
	vs_autofree char *policy = NULL;
	struct sf_text *plan = NULL;
	int rc = sf_plan_line(text, len, &policy);

	if (rc == 0)
		rc = sf_text_plan(fs->vm, handle->uuid, policy, 0, &plan);
	if (rc == 0)
		sf_plans_set(&fs->plans, handle->uuid, policy);
	sf_handle_answer(&fs->handles, handle, plan, off, rc < 0 ? 0 : len);
	sf_handle_set_uncounted(&fs->handles, handle, rc == 0 ? vs_steal(policy) : NULL);
	if (rc == 0)
		fuse_reply_write(sf_req_take(r), len);
	return rc;
}

/* The offset does not matter to what is written: `>` and `>>` are the same here. Nor does the length: it is
 * SF_BLOCK_SIZE at most (on_init), and vm/ refuses what is too long for it, and says so where the writer looks. */
int sf_op_write(struct sf_req *r, fuse_ino_t id, const char *text, size_t len, off_t off, struct fuse_file_info *fi)
{
	struct sf_handles *handles = &r->fs->handles;
	struct sf_handle *handle = sf_op_handle(fi);
	struct sf_text *said = NULL;
	int rc;

	(void)id;
	if (off < 0)
		return -EINVAL;
	rc = sf_handle_refusal(handles, handle, text, len);
	if (rc == -ECANCELED && handle->kind == SF_CTL) /* of which vm/ never hears */
		said = sf_text_outcome(r->fs->vm, handle->uuid, "failed: nothing of this was done, for an earlier write through this open file has failed: open it anew (ECANCELED)\n");
	if (rc == 0 && handle->kind == SF_PLAN)
		rc = write_plan(r, handle, text, len, (uint64_t)off);
	else if (rc == 0)
		rc = sf_writes_begin(r->fs->writes, r, handle, text, len, (uint64_t)off);
	if (rc < 0) {
		sf_handle_fail(handles, handle, rc);
		sf_handle_answer(handles, handle, said, (uint64_t)off, 0);
	}
	return rc;
}

/* ---------------------------------------------------------------- setattr */

/* Emptying a file that is about to be written comes before every `>`, and means nothing. */
int sf_op_setattr(struct sf_req *r, fuse_ino_t id, int to_set)
{
	struct sf_key key;
	int rc = sf_node_key(&r->fs->nodes, id, &key);

	if (rc < 0)
		return rc;
	if (!sf_kind_is_door(key.kind))
		return -EROFS;
	if (!(to_set & FUSE_SET_ATTR_SIZE) || to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
		return -EPERM;
	return sf_op_getattr(r, id, NULL);
}

/* ---------------------------------------------------------------- poll */

#define ALWAYS (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM) /* what poll(2) says of files that have no say */
#define CHANGED (POLLIN | POLLRDNORM | POLLPRI)

int sf_op_poll(struct sf_req *r, fuse_ino_t id, struct fuse_file_info *fi, struct fuse_pollhandle *waiting)
{
	struct sf_handle *handle = sf_op_handle(fi);

	(void)id;
	if (handle->kind == SF_JOBS) {
		fuse_reply_poll(sf_req_take(r), sf_handle_poll(&r->fs->handles, handle, waiting) ? CHANGED : 0);
		return 0;
	}
	if (waiting)
		fuse_pollhandle_destroy(waiting);
	fuse_reply_poll(sf_req_take(r), ALWAYS);
	return 0;
}
