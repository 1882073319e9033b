/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "fs.h"

#include <time.h>

#include "vm/util/mem.h"
#include "write.h"

/* For all open images together. The clusters are inflated ones: 512 of the default size, enough for some readers. */
#define TABLE_BYTES (64u << 20)
#define CLUSTER_BYTES (32u << 20)

static void on_changed(void *opaque)
{
	struct sf_fs *fs = opaque;

	sf_notify_poke(&fs->notify);
}

static void on_jobs_changed(void *opaque, const char *uuid)
{
	struct sf_fs *fs = opaque;

	if (sf_handles_jobs_changed(&fs->handles, uuid))
		sf_notify_poke(&fs->notify);
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
	fs->cache = q2_cache_new(TABLE_BYTES, CLUSTER_BYTES);
	if (!fs->cache)
		xoom();
	sf_world_init(&fs->world, fs->vm, !fs->options->read_only);
	sf_nodes_init(&fs->nodes);
	sf_blocks_init(&fs->blocks, fs);
	fs->writes = sf_writes_new(fs);
}

/* What the threads of vm/ may call for, from vm_open() on until vm_close() has returned. */
static void init_callees(struct sf_fs *fs)
{
	sf_notify_init(&fs->notify, fs);
	sf_views_init(&fs->views);
	sf_images_init(&fs->images, fs);
	sf_handles_init(&fs->handles, fs);
	sf_plans_init(&fs->plans);
}

static void fini_callees(struct sf_fs *fs)
{
	sf_plans_fini(&fs->plans);
	sf_handles_fini(&fs->handles);
	sf_images_fini(&fs->images);
	sf_views_fini(&fs->views);
	sf_notify_fini(&fs->notify);
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
	q2_cache_free(fs->cache);
	free(fs);
	return true;
}
