/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * inventory.h: making inventories and domains, and telling whether anything a user can see has changed.
 *
 * A domain is filled in by one thread, out of its own arena, and never changes after it was put into an inventory. Both
 * are reference-counted; any thread may take and drop references.
 */
#ifndef VS_VM_MODEL_INVENTORY_H
#define VS_VM_MODEL_INVENTORY_H

#include "vm/util/arena.h"
#include "vm/model/types.h"

/* An empty domain; everything in it is to come from its arena. Gives. */
struct vm_domain *vm_domain_new(void);
struct vm_arena *vm_domain_arena(struct vm_domain *d);
struct vm_domain *vm_domain_ref(struct vm_domain *d);
void vm_domain_unref(struct vm_domain *d);

/* What was told last of it (changes.h), where that is another one; NULL. Set before it is in an inventory; takes the reference. */
const struct vm_domain *vm_domain_told(const struct vm_domain *d);
void vm_domain_set_told(struct vm_domain *d, struct vm_domain *told);

/* The domain of that UUID; the snapshot shown so. NULL: there is none. */
struct vm_domain *vm_inventory_by_uuid(const struct vm_inventory *inv, const char *uuid);
const struct vm_snapshot *vm_domain_shown(const struct vm_domain *d, const char *shown);

/* Would a user see the same? Times of building do not count, and a layer that is being written may grow by less than
 * 1 MiB before that counts as news. */
bool vm_domain_equal(const struct vm_domain *a, const struct vm_domain *b);

/* Takes the references in @domains (not the array), sorts by dir. @prev: the inventory before, or NULL; the serial rises
 * where the domains are not the very same objects. Gives. */
struct vm_inventory *vm_inventory_new(struct vm_domain **domains, size_t n, const struct vm_inventory *prev);
/* Another one with the domains of @prev. Gives. */
struct vm_inventory *vm_inventory_again(const struct vm_inventory *prev);

#endif
