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
 * A copy that cannot be read is not the same as none: it may know of a hold that the domain's metadata, brought back by a revert, do
 * not. It is kept as it is, and vm_store_legible() refuses. Without a state directory only memory remembers, and commands that need a
 * note are refused.
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

/* What is to be believed, given what was @found at the domain (NULL: nothing); remembers that, in memory, where it is newer than the copy.
 * Waits for a disk only until the copy was read once. Gives a copy; NULL: nothing is known of this domain. */
struct vm_meta *vm_store_best(struct vm_store *store, const char *uuid, const struct vm_meta *found);
/* Writes the copy of one domain of which something newer was found. False: there is none left. */
bool vm_store_save_one(struct vm_store *store);

/* The domain, or image, has no metadata of ours and is not known to be the one that the copy is of: a UUID, or a path, may be somebody
 * else's by now. A policy drops snapshots, so it is forgotten; what only protects stays. Gives the policy; NULL: there was none, or it
 * is being written to the domain right now. */
char *vm_store_disown(struct vm_store *store, const char *uuid);
/* Remembers @meta, which is about to be written to the domain. On failure nothing has changed. */
int vm_store_remember(struct vm_store *store, const char *uuid, const struct vm_meta *meta, struct vs_err *err);
/* Could the copy be read, or is there none? Else the sentence says what is wrong with it. Asked anew until it could. */
int vm_store_legible(struct vm_store *store, const char *uuid, struct vs_err *err);

/* The directories that images of the connection's domains have lain in, one a line, escaped: who stands on an image may be named by nobody any
 * more, and lies where he lay. At most VM_META_MAX bytes. Gives *text; NULL: none are noted. Negative: they cannot be read. */
int vm_store_dirs_get(struct vm_store *store, char **text, struct vs_err *err);
/* The same of all connections that this directory knows of; but for what is another user's. */
int vm_store_dirs_of_all(struct vm_store *store, char **text, struct vs_err *err);
int vm_store_dirs_put(struct vm_store *store, const char *text, struct vs_err *err);
/* Where they are noted. Gives; NULL: nowhere. */
char *vm_store_dirs_path(struct vm_store *store);

/* A text beside it, for what only matters if we die (see journal.c); on disk when this returns 0. NULL removes it. */
int vm_store_journal_put(struct vm_store *store, const char *uuid, const char *text, struct vs_err *err);
/* Tells every UUID for which that was called since this was; what was written then is read from now on. */
void vm_store_noted(struct vm_store *store, void (*use)(const char *uuid, void *opaque), void *opaque);
/* Gives *text; NULL: there is none. Negative: it cannot be read. */
int vm_store_journal_get(struct vm_store *store, const char *uuid, char **text, struct vs_err *err);

#endif
