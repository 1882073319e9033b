/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "unread.h"

#include <errno.h>

#include "clock.h"
#include "ops.h"
#include "waiter.h"

#define STEP_MS 100 /* between two looks at who waits */
#define PATIENCE_NS (60 * INT64_C(1000000000))

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
	int64_t patience = sf_clock_ns() + PATIENCE_NS;
	struct sf_waiter waiter;
	int rc = -ETIMEDOUT;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	while (rc == -ETIMEDOUT && sf_clock_ns() < patience) {
		rc = vm_read_records(r->fs->vm, uuid, STEP_MS);
		if (sf_waiter_gone(&waiter))
			return sf_waiter_errno(&waiter, -EINTR);
	}
	return 0;
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
