/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * poll.h: one look at everything that a libvirt connection has, and the inventory that comes of it.
 *
 * An inventory outlives connections: what it knows is compared with what the next connection says.
 * Threads: one, the refresher.
 */
#ifndef VS_VM_INVENTORY_POLL_H
#define VS_VM_INVENTORY_POLL_H

#include <stdatomic.h>

#include "vm/libvirt/conn.h"
#include "vm/meta/store.h"
#include "vm/model/types.h"

struct vm_poll;

/* Copies what it needs of @options. */
struct vm_poll *vm_poll_new(const struct vm_options *options, struct vm_store *store); /* borrows @store */
void vm_poll_free(struct vm_poll *poll);

/* Whom it is for. All zeros: nobody. */
struct vm_wish {
	bool closely;             /* nothing that files and directories said before is taken on trust, and all domains are asked and drawn */
	const char *about;        /* the UUID of a domain of which nothing is taken on trust; NULL: none */
	const char *first;        /* one of which all records are read, whatever is put off; NULL: none */
	const atomic_bool *hurry; /* somebody waits for the next look: what can be put off is, unless this one is about something; NULL: nobody will */
	atomic_uint *asked;       /* rises with every record that is read; NULL */
};

/* @fresh: the connection is a new one, so nothing of what is known is taken for granted. @prev: the inventory in place or NULL: then what can be
 * put off is. Gives *out. -EHOSTDOWN: the connection is gone. */
int vm_poll_once(struct vm_poll *poll, struct vm_conn *conn, bool fresh, const struct vm_wish *wish, const struct vm_inventory *prev,
		 struct vm_inventory **out, struct vs_err *err);

/* After a look: there are records still that were not read, and the next look should follow at once. */
bool vm_poll_is_behind(const struct vm_poll *poll);

/* Says something in the log of every domain that is known. */
void vm_poll_say(struct vm_poll *poll, const char *text);

#endif
