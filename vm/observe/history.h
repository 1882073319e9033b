/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * history.h: what earlier looks saw that the present one cannot see any more.
 *
 * A file that was frozen and is written, a commit that ran and ended, a pull that completed: none of them leaves a trace
 * that can be read later. While mounted we remember them, by (dev, ino) and birth, for as long as the files exist and for a
 * while after. The rules that make use of it are in graph/state.c.
 *
 * A poll is the number of a look, from 1, those counted that found nothing to do; a look has one to four rounds (headers.h). Threads: one, the
 * refresher.
 */
#ifndef VS_VM_OBSERVE_HISTORY_H
#define VS_VM_OBSERVE_HISTORY_H

#include "vm/model/facts.h"
#include "vm/util/arena.h"

struct vm_history;
struct vm_history *vm_history_new(void);
void vm_history_free(struct vm_history *memory);

/* Begins the poll of this number; polls may be left out. What was not asked for in the last 256 looks is forgotten. @partial: it is no look at all
 * there is, and what is not asked for is not gone. */
void vm_history_poll(struct vm_history *memory, unsigned poll, bool partial);

/* One look at a file: fills in written_at, repointed_at, pulled_at. @frozen as for vm_watch_step(). Once a poll for every
 * (dev, ino); more often does no harm. */
void vm_history_file(struct vm_history *memory, struct vm_fact_file *fact, bool frozen);

/* A pull into this file was seen to complete. Returns the poll. */
unsigned vm_history_pulled(struct vm_history *memory, const struct q2_stamp *stamp);

/* The first poll that saw the snapshot disk with this inode number (it identifies snapshot and disk) on this image. */
unsigned vm_history_since(struct vm_history *memory, uint64_t ino, const char *pit);

/* The image of this snapshot disk was found right, with this stamp, read as raw or not. And: what was, in @arena; NULL: it never was while we looked. */
void vm_history_froze(struct vm_history *memory, uint64_t ino, const struct q2_stamp *stamp, bool raw);
struct vm_fact_note *vm_history_frozen(struct vm_history *memory, uint64_t ino, struct vm_arena *arena);

/* What that snapshot disk was found to show with its files in that state. True: *sum. */
void vm_history_shows(struct vm_history *memory, uint64_t ino, uint64_t state, uint64_t sum);
bool vm_history_shown(struct vm_history *memory, uint64_t ino, uint64_t state, uint64_t *sum);

/* Adds what vm_graph_commits() found. */
void vm_history_commits_add(struct vm_history *memory, const struct vm_facts *facts, const struct vm_fact_commit *commits,
			    size_t n);
/* The remembered commits of which the base is among @facts->files. Gives *out. */
void vm_history_commits(struct vm_history *memory, const struct vm_facts *facts, struct vm_fact_commit **out, size_t *n);

#endif
