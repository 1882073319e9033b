/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * store.h: where our own facts about domains (meta.h) are kept, besides the domain itself.
 *
 * A revert by anybody, and a redefinition from an old file, bring back a domain's old metadata. So the facts with the highest
 * serial seen are remembered here, in memory and as a small file of each domain in the state directory
 * ($STATE_DIRECTORY as systemd gives it, else /var/lib/virt-snapfs for root; for users $XDG_STATE_HOME or ~/.local/state, below it virt-snapfs). Domain and copy are compared
 * whenever the domain is looked at, and the newer one counts. Who changes facts writes the copy first, so that a crash
 * in between leaves the new ones.
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

/* What is to be believed, given what was @found at the domain (NULL: nothing); remembers that where it is newer than the copy.
 * Gives a copy; NULL: nothing is known of this domain (or no memory). */
struct vm_own *vm_store_best(struct vm_store *store, const char *uuid, const struct vm_own *found);

/* Remembers @own, which is about to be written to the domain. On failure nothing has changed. */
int vm_store_remember(struct vm_store *store, const char *uuid, const struct vm_own *own, struct vs_err *err);
/* Could the copy be read, or is there none? Else the sentence says what is wrong with it. Asked anew until it could. */
int vm_store_legible(struct vm_store *store, const char *uuid, struct vs_err *err);

/* A text beside the facts, for what only matters if we die (see journal.c); on disk when this returns 0. NULL removes it. */
int vm_store_note(struct vm_store *store, const char *uuid, const char *text, struct vs_err *err);
/* Gives *text; NULL: there is none. Negative: it cannot be read. */
int vm_store_note_get(struct vm_store *store, const char *uuid, char **text, struct vs_err *err);
/* journal.c: calls @use with what each line of that word is about; returns how often it said true. */
int vm_note_each(struct vm_store *store, const char *uuid, const char *word, bool (*use)(const char *text, void *opaque),
		 void *opaque);

/* A file that a command is about to make, as its note ("make") tells: never to be taken for one that came to have its name, or its
 * inode number, later. */
struct vm_made {
	uint64_t dev, ino;
	int64_t btime_ns; /* 0: the file system has no such time */
	const char *path;
};
/* @fd: of @path, opened. 0 or -errno. */
int vm_made_of(int fd, const char *path, struct vm_made *out);
char *vm_made_text(const struct vm_made *made); /* gives */
/* False: it is no such text. @out borrows of it. */
bool vm_made_parse(const char *text, struct vm_made *out);
/* 1: that very file is there, and it is a regular one; 0: there is none, or another one; -errno: nobody can tell. */
int vm_made_is_there(const struct vm_made *made);

#endif
