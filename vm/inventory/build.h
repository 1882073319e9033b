/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * build.h: from what libvirt said to drafts of its domains, with the image files behind them.
 *
 * Two steps, so that libvirt can be heard again in between: drawing (looks at files) and vm_drafts_finish() (asks the graph).
 * Threads: one, the refresher.
 */
#ifndef VS_VM_INVENTORY_BUILD_H
#define VS_VM_INVENTORY_BUILD_H

#include "vm/inventory/draft.h"
#include "vm/meta/store.h"
#include "vm/observe/dirs.h"
#include "vm/observe/observe.h"
#include "vm/observe/pools.h"

/* What is kept from one build to the next. Zero-initialise. */
struct vm_build_cache {
	struct vm_gates_memo around; /* what the gate of every domain includes */
	struct vm_gates_memo wide;   /* the gate for images that belong to no domain */
	struct vm_strmap volumes;   /* where storage volumes lie that XML names by pool and volume */
	int64_t stale_ns;           /* what libvirt said of them before this moment (steady clock) is to be asked again */
};
void vm_build_cache_fini(struct vm_build_cache *cache);

struct vm_build {
	/* borrowed, set by the caller */
	struct vm_observed *observed;
	struct vm_headers *files;
	struct vm_history *memory;
	struct vm_dirs *dirs;
	struct vm_pools *pools;
	struct vm_build_cache *cache;
	struct vm_conn *conn;
	struct vm_store *store;
	char *const *allow_paths;
	size_t n_allow_paths;
	uint64_t round;
	const bool *some;           /* place by place with observed->domains: draw those alone; NULL: all. See inventory/poll.c */
	const bool *some_owners;    /* then: by owner (vm_header), whether it is drawn */

	/* drawn */
	struct vm_arena arena;
	struct vm_chains chains;
	struct vm_drafts set;
	struct q2_gate *around;       /* of the cache */
	struct vm_fact_domain *extra; /* set.extra, while it is filled */
	size_t extra_room;
	size_t *place;                /* of a draft, among observed->domains */
	bool shared;                  /* a domain that was not drawn has to do with one that was */
};

void vm_build_draw(struct vm_build *sk);
void vm_build_fini(struct vm_build *sk);

/* ---------------------------------------------------------------- between build*.c */

/* The path of a disk's image, NULL where there is none that we can open. Borrowed from the XML or the
 * cache. */
const char *vm_build_path(struct vm_build *sk, const struct vm_xml_source *source);
/* Its entry in the collection, or VM_NO_FILE. */
int vm_build_file(struct vm_build *sk, const struct vm_xml_source *source, struct q2_gate *gate);
/* NULL, or why this source cannot be read. */
const char *vm_build_unsupported(struct vm_build *sk, const struct vm_xml_source *source);
/* An image that is no file of this host: unknown, unless it can stand on nothing here. */
void vm_build_elsewhere(struct vm_build *sk, const struct vm_xml_source *source, const char *target, const char *owner);
/* Are these two entries one image? */
bool vm_build_same(const struct vm_build *sk, int a, int b);

/* build-disks.c: the domain's disks as they are now, and what its next start would use besides. */
void vm_build_disks(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d);
/* build-mentions.c: what its definitions name besides disks and firmware. */
void vm_build_mentions(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d);
/* build-snapshots.c: what libvirt recorded, then what the tables have besides. */
void vm_build_snapshots(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d);
/* build-volumes.c: images that no domain names but that stand on something: what lies in pools and beside the files that were
 * collected so far. */
struct vm_surroundings {
	struct vm_headers *others;    /* images of domains that were not drawn have an owner there, which is not among... */
	const bool *drawn;            /* ... these (by owner), and are no business of this; NULL: all were drawn */
	bool *shared;                 /* written then: a domain that was drawn has one of those images, too */
	struct vm_drafts *set;
	struct vm_dirs *dirs;
	const struct vm_pools *pools; /* NULL: there are none */
	struct vm_gates_memo *wide;    /* the gate for images that belong to no domain */
	char *const *allow_paths;
	size_t n_allow_paths;
};
void vm_surroundings_draw(const struct vm_surroundings *s);

#endif
