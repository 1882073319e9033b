/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * refresher.h: the thread that looks, and the inventory that everybody reads. See refresher.c.
 *
 * Threads: any, except as said.
 */
#ifndef VS_VM_INVENTORY_REFRESHER_H
#define VS_VM_INVENTORY_REFRESHER_H

#include "vm/meta/store.h"
#include "vm/model/types.h"

struct vm_refresher;

/* From the refresher's thread, without its lock: when it begins, with an inventory that shows something new, and with one that does not. */
enum vm_look { VM_LOOK_FIRST, VM_LOOK_NEWS, VM_LOOK_SAME };
typedef void (*vm_on_inventory_fn)(void *opaque, const struct vm_inventory *inv, enum vm_look look);

/* Connects and builds the first inventory; no thread yet. Borrows @store; of @options it uses nothing afterwards. Gives
 * *out. */
int vm_refresher_open(const struct vm_options *options, struct vm_store *store, struct vm_refresher **out, struct vs_err *err);
/* Once. Negative: there is no thread. */
int vm_refresher_start(struct vm_refresher *r, vm_on_inventory_fn on_inventory, void *opaque);
/* Waits for the thread to leave, some seconds at most. False: it hangs in a call, and everything it uses has to be left behind. */
bool vm_refresher_stop(struct vm_refresher *r);
void vm_refresher_free(struct vm_refresher *r); /* never started, or after a stop that returned true. NULL is fine */

/* Gives the present inventory; never NULL, never blocks. */
struct vm_inventory *vm_refresher_inventory(struct vm_refresher *r);
/* As vm_refresh(). */
int vm_refresher_poll(struct vm_refresher *r, unsigned timeout_ms);
/* The same for whoever is about to write or to remove something: all domains are asked for and drawn, directories are listed and headers read anew, whatever is
 * remembered. */
int vm_refresher_poll_closely(struct vm_refresher *r, unsigned timeout_ms);
/* The same for whoever only adds something to this domain: it is looked at closely, and the others as ever. */
int vm_refresher_poll_about(struct vm_refresher *r, const char *uuid, unsigned timeout_ms);
/* As vm_read_records(). */
int vm_refresher_read(struct vm_refresher *r, const char *uuid, unsigned timeout_ms, unsigned *asked);

#endif
