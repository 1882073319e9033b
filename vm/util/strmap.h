/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * strmap.h: a table from strings to things. Keys are copied; the things are the caller's. Threads: one at a time.
 */
#ifndef VS_VM_UTIL_STRMAP_H
#define VS_VM_UTIL_STRMAP_H

#include <inttypes.h>
#include <stdio.h>

#include "qcow2/base.h"

struct vm_strmap_slot;

struct vm_strmap {
	struct vm_strmap_slot **slots;
	size_t n_slots, n;
};

/* @drop (may be NULL) is called with every thing that is left. The map is empty and usable afterwards. */
void vm_strmap_clear(struct vm_strmap *map, void (*drop)(void *thing));
/* FNV-1a, the same on every machine, so it can be kept; @hash: VM_FNV1A to begin with. */
#define VM_FNV1A UINT64_C(0xcbf29ce484222325)
uint64_t vm_fnv1a(uint64_t hash, const void *data, size_t len);
/* What a key is found by: the same, and its last bytes spread. */
uint64_t vm_strmap_hash(const char *key);
/* The key of a file, by what identifies it. */
struct vm_strmap_key {
	char text[40];
};
static inline struct vm_strmap_key vm_strmap_file(uint64_t dev, uint64_t ino)
{
	struct vm_strmap_key key;

	snprintf(key.text, sizeof(key.text), "%" PRIx64 ":%" PRIx64, dev, ino);
	return key;
}

void *vm_strmap_get(const struct vm_strmap *map, const char *key);
/* The key must be new. Returns the copy, which is there for as long as the thing is in the map. */
const char *vm_strmap_put(struct vm_strmap *map, const char *key, void *thing);
/* Takes it out and returns it, or NULL. */
void *vm_strmap_remove(struct vm_strmap *map, const char *key);
/* Calls @keep with every thing, in no order; those for which it says false are taken out (and are the callback's). */
void vm_strmap_filter(struct vm_strmap *map, bool (*keep)(void *thing, void *opaque), void *opaque);

#endif
