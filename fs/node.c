/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Two chained hashes over the same nodes, one by id and one by key, grown together. `ls -lR` over a thousand domains of
 * a hundred snapshots makes some 200,000 nodes, so a node is 72 bytes and not a general hash table's 170. Where
 * there is no memory for more buckets the chains just get longer.
 */
#include "node.h"

#include <assert.h>
#include <errno.h>

#define FIRST_BUCKETS 1024

struct sf_node {
	fuse_ino_t id;
	struct sf_key key;
	uint64_t n_lookups;
	bool retired; /* not in by_key, or not any more */
	struct sf_node *next_by_id, *next_by_key;
};

static size_t id_hash(fuse_ino_t id)
{
	return id; /* a counter spreads itself */
}

static size_t key_hash(const struct sf_key *key)
{
	uint64_t mixed = (key->ino ^ (uint64_t)key->kind << 56 ^ (key->domain << 7 | key->domain >> 57));

	return (size_t)((mixed * 0x9e3779b97f4a7c15u) >> 24);
}

static struct sf_node **id_bucket(const struct sf_nodes *nodes, fuse_ino_t id)
{
	return &nodes->by_id[id_hash(id) & (nodes->n_buckets - 1)];
}

static struct sf_node **key_bucket(const struct sf_nodes *nodes, const struct sf_key *key)
{
	return &nodes->by_key[key_hash(key) & (nodes->n_buckets - 1)];
}

static struct sf_node *find_id(const struct sf_nodes *nodes, fuse_ino_t id)
{
	struct sf_node *node = *id_bucket(nodes, id);

	while (node && node->id != id)
		node = node->next_by_id;
	return node;
}

static struct sf_node *find_key(const struct sf_nodes *nodes, const struct sf_key *key)
{
	struct sf_node *node = *key_bucket(nodes, key);

	while (node && !sf_key_equal(&node->key, key))
		node = node->next_by_key;
	return node;
}

static void link_node(struct sf_nodes *nodes, struct sf_node *node)
{
	struct sf_node **by_id = id_bucket(nodes, node->id), **by_key = key_bucket(nodes, &node->key);

	node->next_by_id = *by_id;
	*by_id = node;
	if (node->retired)
		return;
	node->next_by_key = *by_key;
	*by_key = node;
}

static void unlink_key(struct sf_nodes *nodes, struct sf_node *node)
{
	struct sf_node **link = key_bucket(nodes, &node->key);

	if (node->retired)
		return;
	while (*link != node)
		link = &(*link)->next_by_key;
	*link = node->next_by_key;
	node->retired = true;
}

static void unlink_id(struct sf_nodes *nodes, struct sf_node *node)
{
	struct sf_node **link = id_bucket(nodes, node->id);

	while (*link != node)
		link = &(*link)->next_by_id;
	*link = node->next_by_id;
}

int sf_nodes_init(struct sf_nodes *nodes)
{
	*nodes = (struct sf_nodes){.n_buckets = FIRST_BUCKETS, .last_id = FUSE_ROOT_ID};
	nodes->by_id = calloc(FIRST_BUCKETS, sizeof(struct sf_node *));
	nodes->by_key = calloc(FIRST_BUCKETS, sizeof(struct sf_node *));
	if (!nodes->by_id || !nodes->by_key) {
		free(nodes->by_id);
		free(nodes->by_key);
		return -ENOMEM;
	}
	pthread_mutex_init(&nodes->lock, NULL);
	return 0;
}

void sf_nodes_fini(struct sf_nodes *nodes)
{
	for (size_t i = 0; i < nodes->n_buckets; i++) {
		for (struct sf_node *node = nodes->by_id[i], *next; node; node = next) {
			next = node->next_by_id;
			free(node);
		}
	}
	free(nodes->by_id);
	free(nodes->by_key);
	pthread_mutex_destroy(&nodes->lock);
}

static void grow(struct sf_nodes *nodes)
{
	struct sf_nodes bigger = *nodes;

	bigger.n_buckets = nodes->n_buckets * 2;
	bigger.by_id = calloc(bigger.n_buckets, sizeof(struct sf_node *));
	bigger.by_key = calloc(bigger.n_buckets, sizeof(struct sf_node *));
	if (!bigger.by_id || !bigger.by_key) {
		free(bigger.by_id);
		free(bigger.by_key);
		return;
	}
	for (size_t i = 0; i < nodes->n_buckets; i++) {
		for (struct sf_node *node = nodes->by_id[i], *next; node; node = next) {
			next = node->next_by_id;
			link_node(&bigger, node);
		}
	}
	free(nodes->by_id);
	free(nodes->by_key);
	nodes->by_id = bigger.by_id;
	nodes->by_key = bigger.by_key;
	nodes->n_buckets = bigger.n_buckets;
}

static struct sf_node *make_node(struct sf_nodes *nodes, const struct sf_key *key, bool retired)
{
	struct sf_node *node = malloc(sizeof(*node));

	if (!node)
		return NULL;
	*node = (struct sf_node){.id = ++nodes->last_id, .key = *key, .retired = retired};
	if (nodes->n_nodes++ >= nodes->n_buckets)
		grow(nodes);
	link_node(nodes, node);
	return node;
}

int sf_node_take(struct sf_nodes *nodes, const struct sf_key *key, fuse_ino_t *id)
{
	struct sf_node *node;

	assert(key->kind != SF_ROOT);
	pthread_mutex_lock(&nodes->lock);
	node = find_key(nodes, key);
	if (!node)
		node = make_node(nodes, key, false);
	if (node) {
		node->n_lookups++;
		*id = node->id;
	}
	pthread_mutex_unlock(&nodes->lock);
	return node ? 0 : -ENOMEM;
}

int sf_node_fresh(struct sf_nodes *nodes, const struct sf_key *key, fuse_ino_t *id)
{
	struct sf_node *node;

	pthread_mutex_lock(&nodes->lock);
	node = make_node(nodes, key, true);
	if (node) {
		node->n_lookups = 1;
		*id = node->id;
	}
	pthread_mutex_unlock(&nodes->lock);
	return node ? 0 : -ENOMEM;
}

void sf_node_forget(struct sf_nodes *nodes, fuse_ino_t id, uint64_t n)
{
	struct sf_node *node;

	pthread_mutex_lock(&nodes->lock);
	node = find_id(nodes, id);
	if (node)
		node->n_lookups -= n < node->n_lookups ? n : node->n_lookups;
	if (node && !node->n_lookups) {
		unlink_key(nodes, node);
		unlink_id(nodes, node);
		nodes->n_nodes--;
	} else {
		node = NULL;
	}
	pthread_mutex_unlock(&nodes->lock);
	free(node);
}

int sf_node_key(struct sf_nodes *nodes, fuse_ino_t id, struct sf_key *key)
{
	struct sf_node *node;

	if (id == FUSE_ROOT_ID) {
		*key = SF_ROOT_KEY;
		return 0;
	}
	pthread_mutex_lock(&nodes->lock);
	node = find_id(nodes, id);
	if (node)
		*key = node->key;
	pthread_mutex_unlock(&nodes->lock);
	return node ? 0 : -ESTALE;
}

fuse_ino_t sf_node_id(struct sf_nodes *nodes, const struct sf_key *key)
{
	struct sf_node *node;
	fuse_ino_t id = 0;

	if (key->kind == SF_ROOT)
		return FUSE_ROOT_ID;
	pthread_mutex_lock(&nodes->lock);
	node = find_key(nodes, key);
	if (node)
		id = node->id;
	pthread_mutex_unlock(&nodes->lock);
	return id;
}

void sf_node_retire(struct sf_nodes *nodes, fuse_ino_t id)
{
	struct sf_node *node;

	pthread_mutex_lock(&nodes->lock);
	node = find_id(nodes, id);
	if (node)
		unlink_key(nodes, node);
	pthread_mutex_unlock(&nodes->lock);
}
