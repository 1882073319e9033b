/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * source.h: where domains come from. A libvirt connection and plain image files are two implementations of this.
 *
 * A source is used by one thread, inventory/refresher.c; only kick() is called from elsewhere (an event thread).
 */
#ifndef VS_VM_INVENTORY_SOURCE_H
#define VS_VM_INVENTORY_SOURCE_H

#include <stdatomic.h>

#include "vm/meta/store.h"
#include "vm/model/types.h"

struct vm_source;

struct vm_source_ops {
	/*
	 * One look at everything. @prev: the inventory in place (NULL at the first look); what did not change is shared
	 * with it. Gives the next inventory. -EHOSTDOWN while the other side is away: @prev then stays in place. Problems of
	 * one domain or file are told in the inventory and are no error, except at the first look of an image source.
	 */
	int (*poll)(struct vm_source *src, const struct vm_inventory *prev, struct vm_inventory **out, struct vs_err *err);
	void (*close)(struct vm_source *src);
};

struct vm_source {
	const struct vm_source_ops *ops;
	/* Set by the caller of poll(): somebody is about to write or to remove something, so nothing that files and directories said
	 * before is taken on trust. */
	bool closely;
	/* Likewise: so is it with this one domain (UUID), of which alone something is written. NULL: none. */
	const char *about;
	/* Likewise: of this domain (UUID) all records are read, whatever is put off. NULL: none. */
	const char *first;
	/* Set at any time, also from elsewhere: somebody waits for the next look, so what can be put off is. */
	atomic_bool hurry;
	/* Rises with every record that is read: what takes long gets on. */
	atomic_uint asked;
	/* Set by look(): when the next look makes sense (steady clock) where that is not after the refresh period; 0. */
	int64_t due_ns;
	/* Likewise: it took so long because there was so much that was never read before. The next one will not. */
	bool caught_up;
};

/* Both copy what they keep of @options and borrow @store. Neither looks yet. */
int vm_source_images(const struct vm_options *options, struct vm_store *store, struct vm_source **out,
		     struct vs_err *err);
/* @kick: something may have changed; called from any thread, until close. */
int vm_source_libvirt(const struct vm_options *options, struct vm_store *store, void (*kick)(void *opaque), void *opaque,
		      struct vm_source **out, struct vs_err *err);

#endif
