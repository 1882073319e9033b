/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "fs.h"

#include <time.h>

#include "vm/util/mem.h"

static void on_changed(void *opaque)
{
	struct sf_fs *fs = opaque;

	sf_notices_poke(&fs->notices);
}

static void on_jobs_changed(void *opaque, const char *uuid)
{
	struct sf_fs *fs = opaque;

	if (sf_handles_jobs_changed(&fs->handles, uuid))
		sf_notices_poke(&fs->notices);
}

static void on_unguard(void *opaque, const char *uuid, bool hold)
{
	struct sf_fs *fs = opaque;

	if (hold)
		sf_views_unguard(&fs->views, uuid);
	else
		sf_views_reguard(&fs->views, uuid);
}

static int open_source(struct sf_fs *fs, struct vs_err *err)
{
	const struct sf_options *o = fs->options;
	const struct vm_options vm = {
		.uri = o->uri,
		.images = (const char *const *)o->images,
		.n_images = o->n_images,
		.read_only = o->read_only,
		.refresh_s = o->refresh_s,
		.allow_paths = (const char *const *)o->allow_paths,
		.n_allow_paths = o->n_allow_paths,
		.to_stderr = o->foreground,
		.changed = on_changed,
		.unguard = on_unguard,
		.jobs_changed = on_jobs_changed,
		.bandwidth_mib = o->bandwidth_mib,
		.opaque = fs,
	};

	return vm_open(&vm, &fs->vm, err);
}

static void open_rest(struct sf_fs *fs)
{
	sf_world_init(&fs->world, fs->vm, !fs->options->read_only);
	sf_nodes_init(&fs->nodes);
	sf_blocks_init(&fs->blocks, &fs->notices, &fs->ending);
	fs->writes = sf_writes_new(fs->vm, &fs->handles, &fs->plans, &fs->notices);
	fs->notify = (struct sf_notify){
		.notices = &fs->notices,
		.world = &fs->world,
		.nodes = &fs->nodes,
		.blocks = &fs->blocks,
		.handles = &fs->handles,
		.writes = fs->writes,
	};
}

/* What the threads of vm/ may call for, from vm_open() on until vm_close() has returned. */
static void init_callees(struct sf_fs *fs)
{
	sf_notices_init(&fs->notices);
	sf_views_init(&fs->views, fs->options->leases);
	sf_images_init(&fs->images, &fs->world, &fs->views, &fs->nodes, &fs->notices, fs->options->refresh_s);
	sf_mades_init(&fs->mades, &fs->images);
	sf_makers_init(&fs->makers, 4, &fs->ending);
	sf_makers_init(&fs->counters, 2, &fs->ending);
	sf_makers_init(&fs->instants, SF_MAKERS_MOST, &fs->ending);
	sf_makers_init(&fs->records, SF_MAKERS_MOST, &fs->ending);
	sf_plans_init(&fs->plans);
	sf_handles_init(&fs->handles, &fs->world, &fs->images, &fs->mades);
}

static void fini_callees(struct sf_fs *fs)
{
	sf_handles_fini(&fs->handles);
	sf_plans_fini(&fs->plans);
	sf_makers_fini(&fs->records);
	sf_makers_fini(&fs->instants);
	sf_makers_fini(&fs->counters);
	sf_makers_fini(&fs->makers);
	sf_mades_fini(&fs->mades);
	sf_images_fini(&fs->images);
	sf_views_fini(&fs->views);
	sf_notices_fini(&fs->notices);
}

int sf_fs_open(const struct sf_options *options, struct sf_fs **out, struct vs_err *err)
{
	struct sf_fs *fs = xcalloc(1, sizeof(*fs));
	int rc;

	fs->options = options;
	fs->generation = (uint32_t)time(NULL);
	init_callees(fs);
	rc = open_source(fs, err);
	if (rc < 0) {
		fini_callees(fs);
		free(fs);
		return rc;
	}
	open_rest(fs);
	*out = fs;
	return 0;
}

/* Threads first, then what holds views and trees, then what those came from. Where a thread of vm/ could not be stopped it lives as
 * long as the process and may still call us: then all of it stays where it is. */
bool sf_fs_close(struct sf_fs *fs)
{
	atomic_store(&fs->ending, true);
	sf_blocks_stop(&fs->blocks);
	sf_handles_close_all(&fs->handles);
	if (vm_close(fs->vm) < 0)
		return false;
	fini_callees(fs);
	sf_writes_put(fs->writes);
	sf_blocks_fini(&fs->blocks);
	sf_nodes_fini(&fs->nodes);
	sf_world_fini(&fs->world);
	free(fs);
	return true;
}
