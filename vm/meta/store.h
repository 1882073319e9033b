/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * store.h: where our metadata about domains (meta.h) is kept, besides the domain itself.
 *
 * A revert by anybody, and a redefinition from an old file, bring back a domain's old metadata. So the metadata with the highest
 * serial seen are remembered here, in memory and as a small file of each domain in the state directory
 * ($STATE_DIRECTORY as systemd gives it, else /var/lib/virt-snapfs for root; for users $XDG_STATE_HOME or ~/.local/state, below it virt-snapfs). Domain and copy are compared
 * whenever the domain is looked at, and the newer one counts. Who changes it writes the copy first, so that a crash
 * in between leaves the new one.
 *
 * A state directory that cannot be written is no failure: then only memory remembers.
 * Threads: any.
 */
#ifndef VS_VM_META_STORE_H
#define VS_VM_META_STORE_H

#include "vm/meta/meta.h"

struct vm_store;

struct vm_store *vm_store_new(void); /* NULL: no memory */
void vm_store_free(struct vm_store *store);

/* Which connection the domains are of (its URI): two hosts may have one UUID. Only the first call counts. */
void vm_store_connection(struct vm_store *store, const char *uri);

/* What is to be believed, given what was @found at the domain (NULL: nothing); remembers that where it is newer than the copy.
 * Gives a copy; NULL: nothing is known of this domain (or no memory). */
struct vm_meta *vm_store_best(struct vm_store *store, const char *uuid, const struct vm_meta *found);

/* Remembers @meta, which is about to be written to the domain. -ENOMEM. */
int vm_store_remember(struct vm_store *store, const char *uuid, const struct vm_meta *meta);

/* A text beside it, for what only matters if we die (see journal.c). NULL removes it. */
void vm_store_journal_put(struct vm_store *store, const char *uuid, const char *text);
char *vm_store_journal_get(struct vm_store *store, const char *uuid); /* gives; NULL: none */

#endif
