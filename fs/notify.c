/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "notify.h"

#include <string.h>

#include "diff.h"

/* ---------------------------------------------------------------- telling */

/* A thing that is deleted gets its node retired before the kernel hears of it: the kernel marks its inode dead for
 * good, and should the thing come back it must not come back as that inode. Who has it open asks us from now on. */
static void tell_name(struct sf_notify *notify, const struct sf_change *change)
{
	struct sf_nodes *nodes = notify->nodes;
	fuse_ino_t parent = sf_node_id(nodes, &change->parent);
	fuse_ino_t thing = sf_node_id(nodes, &change->thing);

	if (change->what == SF_NAME_GONE && change->thing.kind == SF_DOMAIN)
		sf_nodes_retire_domain(nodes, change->thing.domain);
	else if (change->what == SF_NAME_GONE && thing)
		sf_node_retire(nodes, thing);
	if (change->what == SF_NAME_GONE && change->thing.kind == SF_IMAGE && thing)
		fuse_lowlevel_notify_inval_inode(notify->session, thing, 0, 0);
	if (!parent)
		return;
	if (change->what == SF_NAME_GONE && thing)
		fuse_lowlevel_notify_delete(notify->session, parent, thing, change->name, strlen(change->name));
	else
		fuse_lowlevel_notify_inval_entry(notify->session, parent, change->name, strlen(change->name));
}

/* A negative offset leaves cached data alone. */
static void tell_thing(struct sf_notify *notify, const struct sf_key *key, off_t from)
{
	fuse_ino_t id = sf_node_id(notify->nodes, key);

	if (id)
		fuse_lowlevel_notify_inval_inode(notify->session, id, from, 0);
}

/* The old node loses what the kernel keeps of it; its name has to be looked up again. */
static void tell_replaced(struct sf_notify *notify, const struct sf_notice *notice)
{
	struct sf_tree *tree = sf_world_get(notify->world);
	struct sf_place place;
	fuse_ino_t parent;

	fuse_lowlevel_notify_inval_inode(notify->session, notice->replaced, 0, 0);
	if (!sf_place_find(tree, &notice->key, &place)) {
		const struct sf_key dir = sf_place_key(&(struct sf_place){.dir = place.dir});

		parent = sf_node_id(notify->nodes, &dir);
		if (parent)
			fuse_lowlevel_notify_inval_entry(notify->session, parent, place.entry->name, strlen(place.entry->name));
	}
	sf_world_put(notify->world, tree);
}

static void tell_notice(struct sf_notify *notify, const struct sf_notice *notice)
{
	if (notice->replaced)
		tell_replaced(notify, notice);
	else
		tell_thing(notify, &notice->key, notice->data ? 0 : -1);
}

static void tell(void *opaque, const struct sf_change *change)
{
	struct sf_notify *notify = opaque;

	if (change->thing.kind == SF_IMAGE && change->what != SF_ATTR_CHANGED)
		sf_blocks_forget(notify->blocks, &change->thing);
	if (change->what == SF_NAME_GONE || change->what == SF_NAME_MOVED)
		tell_name(notify, change);
	else
		tell_thing(notify, &change->thing, change->what == SF_DATA_CHANGED ? 0 : -1);
}

/* One step after the other, so that what was answered from a tree in between is taken back too. */
static void tell_changes(struct sf_notify *notify)
{
	struct sf_world *world = notify->world;
	struct sf_tree *next;

	while ((next = sf_world_next(world, notify->told))) {
		sf_tree_diff(notify->told, next, tell, notify);
		sf_world_put(world, notify->told);
		notify->told = next;
	}
}

/* ---------------------------------------------------------------- the thread */

/* A write is answered after the inventory that its command led to was announced: so what is done already is taken first. */
static void serve_poke(struct sf_notify *notify)
{
	struct sf_write *done = sf_writes_take_done(notify->writes);

	sf_handles_wake(notify->handles);
	tell_changes(notify);
	sf_writes_answer(notify->writes, done);
}

static void *notify_thread(void *opaque)
{
	struct sf_notify *notify = opaque;
	struct sf_notice *list;
	size_t n;

	while (sf_notices_take(notify->notices, &list, &n)) {
		serve_poke(notify);
		for (size_t i = 0; i < n; i++)
			tell_notice(notify, &list[i]);
		free(list);
	}
	return NULL;
}

int sf_notify_start(struct sf_notify *notify, struct fuse_session *session)
{
	int rc;

	notify->session = session;
	notify->told = sf_world_get(notify->world);
	rc = pthread_create(&notify->thread, NULL, notify_thread, notify);
	if (rc)
		sf_world_put(notify->world, notify->told);
	notify->started = !rc;
	return -rc;
}

void sf_notify_stop(struct sf_notify *notify)
{
	if (!notify->started)
		return;
	sf_notices_stop(notify->notices);
	pthread_join(notify->thread, NULL);
	sf_world_put(notify->world, notify->told);
	notify->started = false;
}
