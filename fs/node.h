/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * node.h: what the kernel holds, by the numbers we gave it.
 *
 * Node ids come from a counter and are never reused, so a number that outlived its thing (an NFS handle, an open
 * directory) is recognised and not taken for another one. The lookup count follows libfuse's contract (fuse_lowlevel.h
 * at `forget`): one up for every entry that is replied, down by what forget says, back by one where a reply could not
 * be delivered. A node carries no state beyond its key and what the kernel may have cached of it: everything else is looked up
 * in a tree.
 *
 * Who has a file handle (NFS, open_by_handle_at(2)) has a number, and comes back with it after the kernel has forgotten the
 * inode, which it does whenever it is short of memory. So a node that is forgotten stays, for as long as its thing is in
 * the tree; it costs less than the thing does there.
 *
 * A thing has one node, but for those that are written to. The kernel holds a node's lock for as long as a write to it
 * waits for its answer, so whoever else came by that node would wait, too: of these every lookup makes another node, and none of
 * them stays.
 *
 * Errors: -ESTALE no such node. Threads: any.
 */
#ifndef VS_NODE_H
#define VS_NODE_H

#include "fuse_api.h"
#include "tree.h"

struct sf_node;

struct sf_nodes {
	pthread_mutex_t lock;
	/* guarded by lock */
	struct sf_node **blocks;     /* where they lie */
	size_t n_blocks, n_made;     /* places that were ever used */
	uint32_t free;               /* of those, the ones that are none at present, by next_by_id */
	uint32_t *by_id, *by_key;    /* chained hashes of the same size */
	size_t n_buckets, n_nodes;
	fuse_ino_t last_id;
};

void sf_nodes_init(struct sf_nodes *nodes);
void sf_nodes_fini(struct sf_nodes *nodes);

/* The node of that thing, made where there is none, with one lookup more. Not for the root. */
fuse_ino_t sf_node_take(struct sf_nodes *nodes, const struct sf_key *key);
/* A node more for that thing, with one lookup. It answers to its id alone. */
fuse_ino_t sf_node_fresh(struct sf_nodes *nodes, const struct sf_key *key);
/* Takes @n lookups back; unknown ids and too many are ignored. The node stays, but for retired ones. */
void sf_node_forget(struct sf_nodes *nodes, fuse_ino_t id, uint64_t n);

int sf_node_key(struct sf_nodes *nodes, fuse_ino_t id, struct sf_key *key);
/* The id by which the kernel knows that thing; 0 where it does not. */
fuse_ino_t sf_node_id(struct sf_nodes *nodes, const struct sf_key *key);

/* The kernel was told that this node's thing is deleted, which it never takes back: should the thing return, it gets a
 * new id. Likewise where the thing has other bytes from now on than those who have it open have read. The node stays until
 * it is forgotten. */
void sf_node_retire(struct sf_nodes *nodes, fuse_ino_t id);

/* A domain is gone: the nodes of all that was in it go too, at once or when they are forgotten. */
void sf_nodes_retire_domain(struct sf_nodes *nodes, uint64_t domain);

/* An image is opened by that node: are its bytes, of which @content is a number (0: not known), those that the kernel may have
 * pages of? -ESTALE: the node is retired, look the name up again. */
int sf_node_open(struct sf_nodes *nodes, fuse_ino_t id, uint64_t content, bool *same);

#endif
