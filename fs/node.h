/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * node.h: what the kernel holds, by the numbers we gave it.
 *
 * Node ids come from a counter and are never reused, so a number that outlived its thing (an NFS handle, an open
 * directory) is recognised and not taken for another one. The lookup count follows libfuse's contract (fuse_lowlevel.h
 * at `forget`): one up for every entry that is replied, down by what forget says, back by one where a reply could not
 * be delivered. A node carries no state beyond its key: everything else is looked up in a tree.
 *
 * A thing has one node, but for those that are written to. The kernel holds a node's lock for as long as a write to it
 * waits for its answer, so whoever else came by that node would wait, too: of these every lookup makes another node.
 *
 * Errors: -ESTALE no such node, -ENOMEM. Threads: any.
 */
#ifndef VS_NODE_H
#define VS_NODE_H

#include "fuse_api.h"
#include "tree.h"

struct sf_node;

struct sf_nodes {
	pthread_mutex_t lock;
	/* guarded by lock */
	struct sf_node **by_id, **by_key; /* chained hashes of the same size */
	size_t n_buckets, n_nodes;
	fuse_ino_t last_id;
};

int sf_nodes_init(struct sf_nodes *nodes);
void sf_nodes_fini(struct sf_nodes *nodes);

/* The node of that thing, made where there is none, with one lookup more. Not for the root. */
int sf_node_take(struct sf_nodes *nodes, const struct sf_key *key, fuse_ino_t *id);
/* A node more for that thing, with one lookup. It answers to its id alone. */
int sf_node_fresh(struct sf_nodes *nodes, const struct sf_key *key, fuse_ino_t *id);
/* Takes @n lookups back; unknown ids and too many are ignored. */
void sf_node_forget(struct sf_nodes *nodes, fuse_ino_t id, uint64_t n);

int sf_node_key(struct sf_nodes *nodes, fuse_ino_t id, struct sf_key *key);
/* The id by which the kernel knows that thing; 0 where it does not. */
fuse_ino_t sf_node_id(struct sf_nodes *nodes, const struct sf_key *key);

/* The kernel was told that this node's thing is deleted, which it never takes back: should the thing return, it gets a
 * new id. The node stays until it is forgotten. */
void sf_node_retire(struct sf_nodes *nodes, fuse_ino_t id);

#endif
