/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Two chained hashes over the same nodes, one by id and one by key, grown together. `ls -lR` over a thousand domains of
 * a hundred snapshots makes some 200,000 nodes, so a node is 56 bytes, in blocks of many, and is referred to by its place, which
 * counts from 1; 0 is none.
 */
#include "node.h"

#include <assert.h>
#include <errno.h>

#include "vm/util/mem.h"

#define FIRST_BUCKETS 1024
#define BLOCK 512 /* nodes */

struct sf_node {
	fuse_ino_t id;
	uint64_t domain, ino, before; /* the key */
	uint64_t kind : 8;            /* likewise */
	uint64_t retired : 1;         /* not in by_key, or not any more */
	uint64_t n_lookups : 55;
	uint64_t content;             /* of an image: of its last open, 0: not known */
	uint32_t next_by_id, next_by_key;
};

static struct sf_node *at(const struct sf_nodes *nodes, uint32_t place)
{
	return place ? &nodes->blocks[(place - 1) / BLOCK][(place - 1) % BLOCK] : NULL;
}

static struct sf_key key_of(const struct sf_node *node)
{
	return (struct sf_key){.domain = node->domain, .ino = node->ino, .before = node->before, .kind = (enum sf_kind)node->kind};
}

static size_t id_hash(fuse_ino_t id)
{
	return id; /* a counter spreads itself */
}

static size_t key_hash(const struct sf_key *key)
{
	uint64_t mixed = (key->ino ^ key->before << 3 ^ (uint64_t)key->kind << 56 ^ (key->domain << 7 | key->domain >> 57));

	return (size_t)((mixed * 0x9e3779b97f4a7c15u) >> 24);
}

static uint32_t *id_bucket(const struct sf_nodes *nodes, fuse_ino_t id)
{
	return &nodes->by_id[id_hash(id) & (nodes->n_buckets - 1)];
}

static uint32_t *key_bucket(const struct sf_nodes *nodes, const struct sf_key *key)
{
	return &nodes->by_key[key_hash(key) & (nodes->n_buckets - 1)];
}

static struct sf_node *find_id(const struct sf_nodes *nodes, fuse_ino_t id)
{
	struct sf_node *node = at(nodes, *id_bucket(nodes, id));

	while (node && node->id != id)
		node = at(nodes, node->next_by_id);
	return node;
}

static bool has_key(const struct sf_node *node, const struct sf_key *key)
{
	const struct sf_key own = key_of(node);

	return sf_key_equal(&own, key);
}

static struct sf_node *find_key(const struct sf_nodes *nodes, const struct sf_key *key)
{
	struct sf_node *node = at(nodes, *key_bucket(nodes, key));

	while (node && !has_key(node, key))
		node = at(nodes, node->next_by_key);
	return node;
}

static void link_node(struct sf_nodes *nodes, struct sf_node *node, uint32_t place)
{
	const struct sf_key key = key_of(node);
	uint32_t *by_id = id_bucket(nodes, node->id), *by_key = key_bucket(nodes, &key);

	node->next_by_id = *by_id;
	*by_id = place;
	if (node->retired)
		return;
	node->next_by_key = *by_key;
	*by_key = place;
}

static void unlink_key(struct sf_nodes *nodes, struct sf_node *node)
{
	const struct sf_key key = key_of(node);
	uint32_t *link = key_bucket(nodes, &key);

	if (node->retired)
		return;
	while (at(nodes, *link) != node)
		link = &at(nodes, *link)->next_by_key;
	*link = node->next_by_key;
	node->retired = true;
}

/* Returns its place. */
static uint32_t unlink_id(struct sf_nodes *nodes, struct sf_node *node)
{
	uint32_t *link = id_bucket(nodes, node->id), place;

	while (at(nodes, *link) != node)
		link = &at(nodes, *link)->next_by_id;
	place = *link;
	*link = node->next_by_id;
	return place;
}

/* Retired, and nobody knows it any more? */
static void free_if_done(struct sf_nodes *nodes, struct sf_node *node)
{
	uint32_t place;

	if (!node->retired || node->n_lookups)
		return;
	place = unlink_id(nodes, node);
	node->next_by_id = nodes->free;
	nodes->free = place;
	nodes->n_nodes--;
}

void sf_nodes_init(struct sf_nodes *nodes)
{
	*nodes = (struct sf_nodes){.n_buckets = FIRST_BUCKETS, .last_id = FUSE_ROOT_ID};
	nodes->by_id = xcalloc(FIRST_BUCKETS, sizeof(uint32_t));
	nodes->by_key = xcalloc(FIRST_BUCKETS, sizeof(uint32_t));
	pthread_mutex_init(&nodes->lock, NULL);
}

void sf_nodes_fini(struct sf_nodes *nodes)
{
	for (size_t i = 0; i < nodes->n_blocks; i++)
		free(nodes->blocks[i]);
	free(nodes->blocks);
	free(nodes->by_id);
	free(nodes->by_key);
	pthread_mutex_destroy(&nodes->lock);
}

static void grow(struct sf_nodes *nodes)
{
	struct sf_nodes bigger = *nodes;

	bigger.n_buckets = nodes->n_buckets * 2;
	bigger.by_id = xcalloc(bigger.n_buckets, sizeof(uint32_t));
	bigger.by_key = xcalloc(bigger.n_buckets, sizeof(uint32_t));
	for (size_t i = 0; i < nodes->n_buckets; i++) {
		for (uint32_t place = nodes->by_id[i], next; place; place = next) {
			next = at(nodes, place)->next_by_id;
			link_node(&bigger, at(nodes, place), place);
		}
	}
	free(nodes->by_id);
	free(nodes->by_key);
	nodes->by_id = bigger.by_id;
	nodes->by_key = bigger.by_key;
	nodes->n_buckets = bigger.n_buckets;
}

static uint32_t find_place(struct sf_nodes *nodes)
{
	uint32_t place = nodes->free;

	if (place) {
		nodes->free = at(nodes, place)->next_by_id;
		return place;
	}
	if (nodes->n_made == nodes->n_blocks * BLOCK) {
		nodes->blocks = xreallocarray(nodes->blocks, nodes->n_blocks + 1, sizeof(struct sf_node *));
		nodes->blocks[nodes->n_blocks++] = xcalloc(BLOCK, sizeof(struct sf_node));
	}
	assert(nodes->n_made < UINT32_MAX);
	return (uint32_t)++nodes->n_made;
}

static struct sf_node *make_node(struct sf_nodes *nodes, const struct sf_key *key, bool retired)
{
	uint32_t place = find_place(nodes);
	struct sf_node *node = at(nodes, place);

	*node = (struct sf_node){.id = ++nodes->last_id, .domain = key->domain, .ino = key->ino, .before = key->before, .kind = key->kind,
				 .retired = retired};
	if (nodes->n_nodes++ >= nodes->n_buckets)
		grow(nodes);
	link_node(nodes, node, place);
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
		*key = key_of(node);
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
		for (uint32_t place = nodes->by_id[i], next; place; place = next) {
			struct sf_node *node = at(nodes, place);

			next = node->next_by_id;
			if (node->domain != domain)
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
