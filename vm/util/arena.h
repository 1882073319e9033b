/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * arena.h: memory that is built up piece by piece and thrown away as a whole.
 *
 * A domain in an inventory is thousands of small strings and arrays that live and die together; they come from one arena.
 * There is always memory, as in mem.h.
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
};

void vm_arena_init(struct vm_arena *a);
/* Drops what it owns, latest first, then the memory. */
void vm_arena_fini(struct vm_arena *a);

/* Zeroed memory for @n things of @size bytes, aligned for pointers and numbers, also for none. */
void *vm_arena_calloc(struct vm_arena *a, size_t n, size_t size) __attribute__((returns_nonnull));
/* XGROW() for an array of @n elements of @size bytes in the arena: @array, or a larger copy. */
void *vm_arena_grow(struct vm_arena *a, void *array, size_t n, size_t *room, size_t size);
#define VM_ARENA_GROW(a, array, n, room) ((array) = vm_arena_grow((a), (array), (n), &(room), sizeof(*(array))))
/* NULL stays NULL. */
char *vm_arena_strdup(struct vm_arena *a, const char *s);
char *vm_arena_printf(struct vm_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Takes @thing, and returns it: @drop is called with it by vm_arena_fini(). */
void *vm_arena_own(struct vm_arena *a, void *thing, void (*drop)(void *thing));

/* Gives up a string that is to be freed with free() for one in the arena. NULL stays NULL. */
char *vm_arena_take(struct vm_arena *a, char *s);

/* A list of strings that grows; the strings and the array are the arena's. NULL-terminated once it has been added to. */
struct vm_strings {
	char **v;
	size_t n, room;
};
void vm_strings_add(struct vm_arena *a, struct vm_strings *list, const char *s);
void vm_strings_take(struct vm_arena *a, struct vm_strings *list, char *s); /* takes, see vm_arena_take() */
bool vm_strings_has(const struct vm_strings *list, const char *s);
char **vm_strings_copy(struct vm_arena *a, const char *const *v, size_t n);
/* The array, never NULL (an empty list is one terminator, which is everybody's). */
char **vm_strings_done(const struct vm_strings *list);

#endif
