/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * journal.h: what only matters if we die: what a command is about to do, and nobody could tell afterwards that it was us.
 *
 * Threads: one at a time on one domain.
 */
#ifndef VS_VM_META_JOURNAL_H
#define VS_VM_META_JOURNAL_H

#include "vm/meta/store.h"

/* The lines of one command on one domain. Everything is borrowed. */
struct vm_journal {
	struct vm_store *store;
	const char *uuid;
	const char *command; /* canonical text; NULL: to read the lines of whatever command */
};

/* Adds the line, unless it is there; on disk when this returns 0. Else the command fails, before it does what it could not note. */
int vm_journal_add(const struct vm_journal *j, const char *word, const char *text, struct vs_err *err);
/* Is there such a line of this command? */
bool vm_journal_has(const struct vm_journal *j, const char *word, const char *text);
/* Calls @use with the text of every line with that word, of whatever command. Returns how often it answered true; negative: the lines
 * cannot be read. */
int vm_journal_each(const struct vm_journal *j, const char *word, bool (*use)(const char *text, void *opaque), void *opaque);
/* The lines of this command with that word go. */
void vm_journal_done(const struct vm_journal *j, const char *word);
/* ... and those of every other command. */
void vm_journal_drop(const struct vm_journal *j, const char *word);
/* Those lines with that word, of whatever command, of which @settled says that nothing is left to do. */
void vm_journal_settle(const struct vm_journal *j, const char *word, bool (*settled)(const char *text, void *opaque), void *opaque);

#endif
