/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "unread.h"

#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "ops.h"
#include "waiter.h"

#define STEP_MS 100 /* between two looks at who waits */
#define PATIENCE_NS (20 * INT64_C(1000000000)) /* while no record is read */

bool sf_unread(const struct sf_place *place)
{
	return place->dir && place->dir->domain->unread;
}

bool sf_unread_at(struct sf_fs *fs, fuse_ino_t id)
{
	struct sf_tree *tree = sf_world_get(&fs->world);
	struct sf_place place;
	bool unread = sf_op_place(fs, tree, id, &place) == 0 && sf_unread(&place);

	sf_world_put(&fs->world, tree);
	return unread;
}

static int wait_for(const struct sf_req *r, const char *uuid)
{
	unsigned asked = 0, now = 0;
	struct sf_waiter waiter;
	int64_t until = 0;
	int rc;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	do {
		rc = vm_read_records(r->fs->vm, uuid, STEP_MS, &now);
		if (sf_waiter_gone(&waiter))
			return sf_waiter_errno(&waiter, -EINTR);
		if (!until || now != asked)
			until = sf_clock_ns() + PATIENCE_NS;
		asked = now;
	} while (rc == -ETIMEDOUT && sf_clock_ns() < until);
	return rc;
}

int sf_unread_wait(const struct sf_req *r, fuse_ino_t id)
{
	struct sf_tree *tree = sf_world_get(&r->fs->world);
	struct sf_place place;
	int rc = sf_op_place(r->fs, tree, id, &place);

	if (rc == 0 && sf_unread(&place))
		rc = wait_for(r, place.dir->domain->uuid);
	sf_world_put(&r->fs->world, tree);
	return rc;
}

int sf_unread_hand(struct sf_req *r, sf_maker_op *op, const struct sf_asked *asked)
{
	if (!sf_made_is_us(fuse_req_ctx(r->req)->pid))
		return sf_makers_hand(&r->fs->records, r, op, asked);
	free(asked->name);
	return -EAGAIN;
}
