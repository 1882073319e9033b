/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * look.h: one look at everything that a libvirt connection has, and the picture that comes of it.
 *
 * An inventory outlives connections: what it knows is compared with what the next connection says.
 * Threads: one, the refresher.
 */
#ifndef VS_VM_INVENTORY_LOOK_H
#define VS_VM_INVENTORY_LOOK_H

#include "vm/libvirt/conn.h"
#include "vm/meta/store.h"
#include "vm/model/types.h"

struct vm_inventory;

/* Copies what it needs of @options. NULL: no memory. */
struct vm_inventory *vm_inventory_new(const struct vm_options *options, struct vm_store *store); /* borrows @store */
void vm_inventory_free(struct vm_inventory *inv);

/* @fresh: the connection is a new one, so nothing of what is known is taken for granted. @prev: the picture in place or
 * NULL. Gives *out. -EHOSTDOWN: the connection is gone. */
int vm_inventory_look(struct vm_inventory *inv, struct vm_conn *conn, bool fresh, const struct vm_picture *prev,
		      struct vm_picture **out, struct vs_err *err);

/* Says something in the log of every domain that is known. */
void vm_inventory_say(struct vm_inventory *inv, const char *text);

#endif
