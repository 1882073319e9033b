/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/arena.h"

#include <string.h>

#include "vm/util/mem.h"

#define ALIGNMENT _Alignof(uint64_t)

/* Structs from the front, strings from the end, where nothing is lost between them. */
struct vm_arena_chunk {
	struct vm_arena_chunk *next;
	size_t used, room;
	_Alignas(ALIGNMENT) char bytes[];
};

#define CHUNK_BYTES ((4u << 10) - sizeof(struct vm_arena_chunk) - sizeof(size_t)) /* half of the last one is empty, on average */

struct vm_arena_owned {
	struct vm_arena_owned *next;
	void *thing;
	void (*drop)(void *thing);
};

void vm_arena_init(struct vm_arena *a)
{
	*a = (struct vm_arena){0};
}

void vm_arena_fini(struct vm_arena *a)
{
	for (struct vm_arena_owned *o = a->owned; o; o = o->next)
		o->drop(o->thing);
	while (a->chunks) {
		struct vm_arena_chunk *next = a->chunks->next;

		free(a->chunks);
		a->chunks = next;
	}
	vm_arena_init(a);
}

/* A new chunk goes to the front unless it holds one large thing: then the half-empty one stays there. */
static struct vm_arena_chunk *add_chunk(struct vm_arena *a, size_t need)
{
	size_t room = need > CHUNK_BYTES / 4 ? need : CHUNK_BYTES;
	struct vm_arena_chunk *c = xcalloc(1, sizeof(*c) + room);

	c->room = room;
	if (room == need && a->chunks) {
		c->next = a->chunks->next;
		a->chunks->next = c;
	} else {
		c->next = a->chunks;
		a->chunks = c;
	}
	return c;
}

void *vm_arena_calloc(struct vm_arena *a, size_t n, size_t size)
{
	struct vm_arena_chunk *c = a->chunks;
	size_t bytes;
	void *p;

	if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2)
		xoom();
	bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	if (!c || c->room - c->used < bytes)
		c = add_chunk(a, bytes);
	p = c->bytes + c->used;
	c->used += bytes;
	return p;
}

static char *take_string(struct vm_arena *a, const char *s, size_t len)
{
	struct vm_arena_chunk *c = a->chunks;

	if (!c || c->room - c->used < len)
		c = add_chunk(a, (len + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
	c->room -= len;
	return memcpy(c->bytes + c->room, s, len);
}

void *vm_arena_grow(struct vm_arena *a, void *array, size_t n, size_t *room, size_t size)
{
	size_t full = *room;
	void *more;

	if (n < full)
		return array;
	*room = full ? 2 * full : 8;
	more = vm_arena_calloc(a, *room, size);
	if (full)
		memcpy(more, array, full * size);
	return more;
}

char *vm_arena_strdup(struct vm_arena *a, const char *s)
{
	return s ? take_string(a, s, strlen(s) + 1) : NULL;
}

char *vm_arena_printf(struct vm_arena *a, const char *fmt, ...)
{
	vs_autofree char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = xvasprintf(fmt, ap);
	va_end(ap);
	return vm_arena_strdup(a, text);
}

void *vm_arena_own(struct vm_arena *a, void *thing, void (*drop)(void *thing))
{
	struct vm_arena_owned *o = vm_arena_calloc(a, 1, sizeof(*o));

	*o = (struct vm_arena_owned){ .next = a->owned, .thing = thing, .drop = drop };
	a->owned = o;
	return thing;
}

char *vm_arena_take(struct vm_arena *a, char *s)
{
	char *copy = vm_arena_strdup(a, s);

	free(s);
	return copy;
}

static void append(struct vm_arena *a, struct vm_strings *list, char *s)
{
	list->v = vm_arena_grow(a, list->v, list->n + 1, &list->room, sizeof(*list->v));
	list->v[list->n++] = s;
}

void vm_strings_add(struct vm_arena *a, struct vm_strings *list, const char *s)
{
	append(a, list, vm_arena_strdup(a, s));
}

void vm_strings_take(struct vm_arena *a, struct vm_strings *list, char *s)
{
	append(a, list, vm_arena_take(a, s));
}

bool vm_strings_has(const struct vm_strings *list, const char *s)
{
	for (size_t i = 0; i < list->n; i++)
		if (!strcmp(list->v[i], s))
			return true;
	return false;
}

char **vm_strings_copy(struct vm_arena *a, const char *const *v, size_t n)
{
	char **copy = vm_arena_calloc(a, n + 1, sizeof(*copy));

	for (size_t i = 0; i < n; i++)
		copy[i] = vm_arena_strdup(a, v[i]);
	return copy;
}

char **vm_strings_done(const struct vm_strings *list)
{
	static char *none[1];

	return list->v ? list->v : none;
}
