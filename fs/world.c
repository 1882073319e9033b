/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* The current tree and who uses it. The essay on pins is in tree.c. */
#include <assert.h>

#include "tree.h"

void sf_world_init(struct sf_world *world, struct vm *vm, bool doors)
{
	*world = (struct sf_world){.vm = vm, .doors = doors};
	world->current = sf_tree_new(vm_inventory_get(vm), vm_inventory_put, NULL, doors);
	atomic_init(&world->serial, world->current->serial);
	pthread_mutex_init(&world->lock, NULL);
	pthread_cond_init(&world->unpinned, NULL);
}

void sf_world_fini(struct sf_world *world)
{
	sf_world_put(world, world->current);
	pthread_cond_destroy(&world->unpinned);
	pthread_mutex_destroy(&world->lock);
}

/* Takes one reference away. Gives the tree when it was the last, for the caller to free without the lock. */
static struct sf_tree *drop_locked(struct sf_tree *tree)
{
	assert(tree->refs > 0);
	return --tree->refs ? NULL : tree;
}

/* A tree that nobody holds any more lets go of its successor, which may free that one too. */
static void free_chain(struct sf_world *world, struct sf_tree *tree)
{
	while (tree) {
		struct sf_tree *next = tree->next;

		sf_tree_free(tree);
		if (next) {
			pthread_mutex_lock(&world->lock);
			next = drop_locked(next);
			pthread_mutex_unlock(&world->lock);
		}
		tree = next;
	}
}

/* Makes the tree of the newest inventory the current one. Gives what the caller has to put once it has no lock. */
static struct sf_tree *sync_locked(struct sf_world *world)
{
	struct vm_inventory *inventory = vm_inventory_get(world->vm);
	struct sf_tree *before = world->current, *tree;

	if (inventory->serial == before->inventory->serial) {
		vm_inventory_put(inventory);
		return NULL;
	}
	tree = sf_tree_new(inventory, vm_inventory_put, before, world->doors);
	tree->refs++; /* one for before->next, one for the world */
	before->next = tree;
	world->current = tree;
	atomic_store(&world->serial, tree->serial);
	return drop_locked(before);
}

static struct sf_tree *current(struct sf_world *world, bool pin)
{
	struct sf_tree *tree, *unused;

	pthread_mutex_lock(&world->lock);
	unused = sync_locked(world);
	tree = world->current;
	tree->refs++;
	tree->pins += pin;
	pthread_mutex_unlock(&world->lock);
	free_chain(world, unused);
	return tree;
}

struct sf_tree *sf_world_get(struct sf_world *world)
{
	return current(world, false);
}

struct sf_tree *sf_world_pin(struct sf_world *world)
{
	return current(world, true);
}

struct sf_tree *sf_world_ref(struct sf_world *world, struct sf_tree *tree)
{
	pthread_mutex_lock(&world->lock);
	tree->refs++;
	pthread_mutex_unlock(&world->lock);
	return tree;
}

void sf_world_put(struct sf_world *world, struct sf_tree *tree)
{
	pthread_mutex_lock(&world->lock);
	tree = drop_locked(tree);
	pthread_mutex_unlock(&world->lock);
	free_chain(world, tree);
}

bool sf_world_pin_this(struct sf_world *world, struct sf_tree *tree)
{
	bool is_current;

	pthread_mutex_lock(&world->lock);
	is_current = tree == world->current;
	if (is_current) {
		tree->refs++;
		tree->pins++;
	}
	pthread_mutex_unlock(&world->lock);
	return is_current;
}

void sf_world_unpin(struct sf_world *world, struct sf_tree *tree)
{
	pthread_mutex_lock(&world->lock);
	if (!--tree->pins)
		pthread_cond_broadcast(&world->unpinned);
	tree = drop_locked(tree);
	pthread_mutex_unlock(&world->lock);
	free_chain(world, tree);
}

struct sf_tree *sf_world_next(struct sf_world *world, struct sf_tree *tree)
{
	struct sf_tree *next, *unused;

	pthread_mutex_lock(&world->lock);
	unused = sync_locked(world);
	next = tree->next;
	while (next && tree->pins)
		pthread_cond_wait(&world->unpinned, &world->lock);
	tree->next = NULL;
	pthread_mutex_unlock(&world->lock);
	free_chain(world, unused);
	return next;
}
