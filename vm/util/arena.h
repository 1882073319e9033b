/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * arena.h: memory that is built up piece by piece and thrown away as a whole.
 *
 * A domain in an inventory is thousands of small strings and arrays that live and die together; they come from one arena.
 * Out of memory is sticky: the calls below go on returning something harmless, and whoever finishes the object asks
 * vm_arena_failed() once, instead of checking every string. Strings then read "", arrays are NULL with their count left
 * to the caller, so a loop that fills an array asks for NULL.
 *
 * Threads: one at a time.
 */
#ifndef VS_VM_UTIL_ARENA_H
#define VS_VM_UTIL_ARENA_H

#include "qcow2/base.h"

struct vm_arena_chunk;
struct vm_arena_owned;

struct vm_arena {
	struct vm_arena_chunk *chunks;
	struct vm_arena_owned *owned;
	bool failed;
};

void vm_arena_init(struct vm_arena *a);
/* Drops what it owns, latest first, then the memory. */
void vm_arena_fini(struct vm_arena *a);
bool vm_arena_failed(const struct vm_arena *a);

/* Zeroed memory for @n things of @size bytes, aligned for anything; NULL where memory or arithmetic fails. */
void *vm_arena_calloc(struct vm_arena *a, size_t n, size_t size);
/* NULL stays NULL. */
char *vm_arena_strdup(struct vm_arena *a, const char *s);
char *vm_arena_printf(struct vm_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Takes @thing: @drop is called with it by vm_arena_fini(), or at once where memory is short. Returns @thing or NULL. */
void *vm_arena_own(struct vm_arena *a, void *thing, void (*drop)(void *thing));

/* A list of strings that grows; the strings and the array are the arena's. NULL-terminated once it has been added to. */
struct vm_strings {
	char **v;
	size_t n, room;
};
void vm_strings_add(struct vm_arena *a, struct vm_strings *list, const char *s);
bool vm_strings_has(const struct vm_strings *list, const char *s);
/* The array, never NULL (an empty list is one terminator) unless memory failed. */
char **vm_strings_done(struct vm_arena *a, struct vm_strings *list);

#endif
