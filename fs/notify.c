/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "notify.h"

#include <errno.h>
#include <string.h>

#include "diff.h"
#include "fs.h"
#include "write.h"

/* ---------------------------------------------------------------- telling */

/* A thing that is deleted gets its node retired before the kernel hears of it: the kernel marks its inode dead for
 * good, and should the thing come back it must not come back as that inode. Who has it open asks us from now on. */
static void tell_name(struct sf_notify *notify, const struct sf_change *change)
{
	struct sf_nodes *nodes = &notify->fs->nodes;
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
	fuse_ino_t id = sf_node_id(&notify->fs->nodes, key);

	if (id)
		fuse_lowlevel_notify_inval_inode(notify->session, id, from, 0);
}

/* The old node loses what the kernel keeps of it; its name has to be looked up again. */
static void tell_replaced(struct sf_notify *notify, const struct sf_doubt *doubt)
{
	struct sf_tree *tree = sf_world_get(&notify->fs->world);
	struct sf_place place;
	fuse_ino_t parent;

	fuse_lowlevel_notify_inval_inode(notify->session, doubt->replaced, 0, 0);
	if (!sf_place_find(tree, &doubt->key, &place)) {
		const struct sf_key dir = sf_place_key(&(struct sf_place){.dir = place.dir});

		parent = sf_node_id(&notify->fs->nodes, &dir);
		if (parent)
			fuse_lowlevel_notify_inval_entry(notify->session, parent, place.entry->name, strlen(place.entry->name));
	}
	sf_world_put(&notify->fs->world, tree);
}

static void tell_doubt(struct sf_notify *notify, const struct sf_doubt *doubt)
{
	if (doubt->replaced)
		tell_replaced(notify, doubt);
	else
		tell_thing(notify, &doubt->key, doubt->data ? 0 : -1);
}

static void tell(void *opaque, const struct sf_change *change)
{
	struct sf_notify *notify = opaque;

	if (change->thing.kind == SF_IMAGE && change->what != SF_ATTR_CHANGED)
		sf_blocks_forget(&notify->fs->blocks, &change->thing);
	if (change->what == SF_NAME_GONE || change->what == SF_NAME_MOVED)
		tell_name(notify, change);
	else
		tell_thing(notify, &change->thing, change->what == SF_DATA_CHANGED ? 0 : -1);
}

/* One step after the other, so that what was answered from a tree in between is taken back too. */
static void tell_changes(struct sf_notify *notify)
{
	struct sf_world *world = &notify->fs->world;
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
	struct sf_write *done = sf_writes_take_done(notify->fs->writes);

	sf_handles_wake(&notify->fs->handles);
	tell_changes(notify);
	sf_writes_answer(notify->fs->writes, done);
}

static void *notify_thread(void *opaque)
{
	struct sf_notify *notify = opaque;

	pthread_mutex_lock(&notify->lock);
	while (!notify->stopping) {
		struct sf_doubt *doubts = notify->doubts;
		size_t n_doubts = notify->n_doubts;

		if (!notify->poked && !n_doubts) {
			pthread_cond_wait(&notify->wake, &notify->lock);
			continue;
		}
		notify->poked = false;
		notify->doubts = NULL;
		notify->n_doubts = notify->room = 0;
		pthread_mutex_unlock(&notify->lock);
		serve_poke(notify);
		for (size_t i = 0; i < n_doubts; i++)
			tell_doubt(notify, &doubts[i]);
		free(doubts);
		pthread_mutex_lock(&notify->lock);
	}
	pthread_mutex_unlock(&notify->lock);
	return NULL;
}

int sf_notify_start(struct sf_notify *notify, struct fuse_session *session)
{
	int rc;

	notify->session = session;
	notify->told = sf_world_get(&notify->fs->world);
	rc = pthread_create(&notify->thread, NULL, notify_thread, notify);
	if (rc)
		sf_world_put(&notify->fs->world, notify->told);
	notify->started = !rc;
	return -rc;
}

void sf_notify_stop(struct sf_notify *notify)
{
	if (!notify->started)
		return;
	pthread_mutex_lock(&notify->lock);
	notify->stopping = true;
	pthread_cond_signal(&notify->wake);
	pthread_mutex_unlock(&notify->lock);
	pthread_join(notify->thread, NULL);
	sf_world_put(&notify->fs->world, notify->told);
	notify->started = false;
}
