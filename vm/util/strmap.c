/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/strmap.h"

#include <string.h>

#include "vm/util/mem.h"

struct vm_strmap_slot {
	struct vm_strmap_slot *next;
	uint64_t hash;
	void *thing;
	char key[];
};

uint64_t vm_fnv1a(uint64_t hash, const void *data, size_t len)
{
	const unsigned char *p = data;

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
	return hash;
}

/* File names and UUIDs come from the administrator, so nobody gains by making them collide. */
uint64_t vm_strmap_hash(const char *key)
{
	uint64_t h = vm_fnv1a(VM_FNV1A, key, strlen(key));

	return h ^ h >> 29;
}

/* The link that points at the key's slot, or at the end of its row. */
static struct vm_strmap_slot **find(const struct vm_strmap *map, const char *key, uint64_t hash)
{
	struct vm_strmap_slot **link = &map->slots[hash & (map->n_slots - 1)];

	while (*link && ((*link)->hash != hash || strcmp((*link)->key, key)))
		link = &(*link)->next;
	return link;
}

static void grow(struct vm_strmap *map)
{
	size_t n_slots = map->n_slots ? map->n_slots * 2 : 16;
	struct vm_strmap_slot **slots = xcalloc(n_slots, sizeof(struct vm_strmap_slot *));

	for (size_t i = 0; i < map->n_slots; i++) {
		for (struct vm_strmap_slot *s = map->slots[i], *next; s; s = next) {
			next = s->next;
			s->next = slots[s->hash & (n_slots - 1)];
			slots[s->hash & (n_slots - 1)] = s;
		}
	}
	free(map->slots);
	map->slots = slots;
	map->n_slots = n_slots;
}

void vm_strmap_clear(struct vm_strmap *map, void (*drop)(void *thing))
{
	for (size_t i = 0; i < map->n_slots; i++) {
		for (struct vm_strmap_slot *s = map->slots[i], *next; s; s = next) {
			next = s->next;
			if (drop)
				drop(s->thing);
			free(s);
		}
	}
	free(map->slots);
	*map = (struct vm_strmap){0};
}

void *vm_strmap_get(const struct vm_strmap *map, const char *key)
{
	struct vm_strmap_slot *s = map->n_slots ? *find(map, key, vm_strmap_hash(key)) : NULL;

	return s ? s->thing : NULL;
}

const char *vm_strmap_put(struct vm_strmap *map, const char *key, void *thing)
{
	size_t len = strlen(key) + 1;
	struct vm_strmap_slot *s, **row;

	if (map->n >= map->n_slots)
		grow(map);
	s = xcalloc(1, sizeof(*s) + len);
	s->hash = vm_strmap_hash(key);
	s->thing = thing;
	memcpy(s->key, key, len);
	row = &map->slots[s->hash & (map->n_slots - 1)];
	s->next = *row;
	*row = s;
	map->n++;
	return s->key;
}

void *vm_strmap_remove(struct vm_strmap *map, const char *key)
{
	struct vm_strmap_slot **link, *s;
	void *thing;

	if (!map->n_slots)
		return NULL;
	link = find(map, key, vm_strmap_hash(key));
	s = *link;
	if (!s)
		return NULL;
	*link = s->next;
	thing = s->thing;
	free(s);
	map->n--;
	return thing;
}

void vm_strmap_filter(struct vm_strmap *map, bool (*keep)(void *thing, void *opaque), void *opaque)
{
	for (size_t i = 0; i < map->n_slots; i++) {
		struct vm_strmap_slot **link = &map->slots[i];

		while (*link) {
			struct vm_strmap_slot *s = *link;

			if (keep(s->thing, opaque)) {
				link = &s->next;
				continue;
			}
			*link = s->next;
			free(s);
			map->n--;
		}
	}
}
