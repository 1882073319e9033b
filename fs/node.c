/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Two chained hashes over the same nodes, one by id and one by key, grown together. `ls -lR` over a thousand domains of
 * a hundred snapshots makes some 200,000 nodes, so a node is 88 bytes and not a general hash table's 170.
 */
#include "node.h"

#include <assert.h>
#include <errno.h>

#include "vm/util/mem.h"

#define FIRST_BUCKETS 1024

struct sf_node {
	fuse_ino_t id;
	struct sf_key key;
	uint64_t n_lookups;
	uint64_t content; /* of an image: of its last open, 0: not known */
	bool retired;     /* not in by_key, or not any more */
	struct sf_node *next_by_id, *next_by_key;
};

static size_t id_hash(fuse_ino_t id)
{
	return id; /* a counter spreads itself */
}

static size_t key_hash(const struct sf_key *key)
{
	uint64_t mixed = (key->ino ^ key->before << 3 ^ (uint64_t)key->kind << 56 ^ (key->domain << 7 | key->domain >> 57));

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

/* Retired, and nobody knows it any more? */
static void free_if_done(struct sf_nodes *nodes, struct sf_node *node)
{
	if (!node->retired || node->n_lookups)
		return;
	unlink_id(nodes, node);
	nodes->n_nodes--;
	free(node);
}

void sf_nodes_init(struct sf_nodes *nodes)
{
	*nodes = (struct sf_nodes){.n_buckets = FIRST_BUCKETS, .last_id = FUSE_ROOT_ID};
	nodes->by_id = xcalloc(FIRST_BUCKETS, sizeof(struct sf_node *));
	nodes->by_key = xcalloc(FIRST_BUCKETS, sizeof(struct sf_node *));
	pthread_mutex_init(&nodes->lock, NULL);
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
	bigger.by_id = xcalloc(bigger.n_buckets, sizeof(struct sf_node *));
	bigger.by_key = xcalloc(bigger.n_buckets, sizeof(struct sf_node *));
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
	struct sf_node *node = xcalloc(1, sizeof(*node));

	*node = (struct sf_node){.id = ++nodes->last_id, .key = *key, .retired = retired};
	if (nodes->n_nodes++ >= nodes->n_buckets)
		grow(nodes);
	link_node(nodes, node);
	return node;
}

fuse_ino_t sf_node_take(struct sf_nodes *nodes, const struct sf_key *key)
{
	struct sf_node *node;
	fuse_ino_t id;

	assert(key->kind != SF_ROOT);
	pthread_mutex_lock(&nodes->lock);
	node = find_key(nodes, key);
	if (!node)
		node = make_node(nodes, key, false);
	node->n_lookups++;
	id = node->id;
	pthread_mutex_unlock(&nodes->lock);
	return id;
}

fuse_ino_t sf_node_fresh(struct sf_nodes *nodes, const struct sf_key *key)
{
	struct sf_node *node;
	fuse_ino_t id;

	pthread_mutex_lock(&nodes->lock);
	node = make_node(nodes, key, true);
	node->n_lookups = 1;
	id = node->id;
	pthread_mutex_unlock(&nodes->lock);
	return id;
}

void sf_node_forget(struct sf_nodes *nodes, fuse_ino_t id, uint64_t n)
{
	struct sf_node *node;

	pthread_mutex_lock(&nodes->lock);
	node = find_id(nodes, id);
	if (node) {
		node->n_lookups -= n < node->n_lookups ? n : node->n_lookups;
		free_if_done(nodes, node);
	}
	pthread_mutex_unlock(&nodes->lock);
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
	if (node) {
		unlink_key(nodes, node);
		free_if_done(nodes, node);
	}
	pthread_mutex_unlock(&nodes->lock);
}

void sf_nodes_retire_domain(struct sf_nodes *nodes, uint64_t domain)
{
	pthread_mutex_lock(&nodes->lock);
	for (size_t i = 0; i < nodes->n_buckets; i++) {
		for (struct sf_node *node = nodes->by_id[i], *next; node; node = next) {
			next = node->next_by_id;
			if (node->key.domain != domain)
				continue;
			unlink_key(nodes, node);
			free_if_done(nodes, node);
		}
	}
	pthread_mutex_unlock(&nodes->lock);
}

int sf_node_open(struct sf_nodes *nodes, fuse_ino_t id, uint64_t content, bool *same)
{
	struct sf_node *node;
	int rc = -ESTALE;

	pthread_mutex_lock(&nodes->lock);
	node = find_id(nodes, id);
	if (node && !node->retired) {
		*same = content && node->content == content;
		node->content = content;
		rc = 0;
	}
	pthread_mutex_unlock(&nodes->lock);
	return rc;
}
