/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/history.h"

#include <string.h>

#include "vm/observe/watch.h"
#include "vm/util/mem.h"
#include "vm/util/strmap.h"

#define KEPT_LOOKS 256

/* By two numbers; of very many things, so they are no strings. */
struct seen {
	struct seen *next;
	uint64_t a, b;
	uint64_t look; /* the last one that asked */
};

struct table {
	struct seen **slots;
	size_t n_slots, n;
};

struct seen_file { /* dev, ino */
	struct seen seen;
	struct vm_watch watch;
	unsigned pulled_at;
};

struct seen_disk { /* ino, the hash of its image's path */
	struct seen seen;
	unsigned since;
};

struct seen_frozen { /* ino */
	struct seen seen;
	struct q2_stamp stamp;
	bool raw;
};

struct seen_shown { /* ino */
	struct seen seen;
	uint64_t state, sum;
};

/* A number is used again when its file is gone, so it takes the birth as well to know a file. */
struct node {
	uint64_t dev, ino;
	int64_t born_ns;
};

struct seen_commit {
	struct node base, top;
	bool has_top;
	unsigned at;
	uint64_t look;
};

struct vm_history {
	struct table files, disks, frozen, shown;
	struct seen_commit *commits;
	size_t n_commits, commits_room;
	unsigned poll;
	uint64_t look; /* counts polls without gaps, but for partial ones */
	bool partial;  /* this one is */
};

/* ---------------------------------------------------------------- tables */

static struct seen **slot_of(const struct table *t, uint64_t a, uint64_t b)
{
	const uint64_t both[] = { a, b }, hash = vm_fnv1a(VM_FNV1A, both, sizeof(both));

	return &t->slots[(hash ^ hash >> 29) & (t->n_slots - 1)];
}

static void resize(struct table *t, size_t n_slots)
{
	struct table bigger = { .slots = xcalloc(n_slots, sizeof(struct seen *)), .n_slots = n_slots, .n = t->n };

	for (size_t i = 0; i < t->n_slots; i++)
		for (struct seen *s = t->slots[i], *next; s; s = next) {
			struct seen **slot = slot_of(&bigger, s->a, s->b);

			next = s->next;
			s->next = *slot;
			*slot = s;
		}
	free(t->slots);
	*t = bigger;
}

static void *get(const struct table *t, uint64_t a, uint64_t b)
{
	struct seen *s = t->n_slots ? *slot_of(t, a, b) : NULL;

	while (s && (s->a != a || s->b != b))
		s = s->next;
	return s;
}

/* The one that is there, or a new one of @size bytes, whose `look` is 0. */
static void *get_or_add(struct table *t, uint64_t a, uint64_t b, size_t size)
{
	struct seen *s = get(t, a, b), **slot;

	if (s)
		return s;
	if (t->n++ >= t->n_slots)
		resize(t, t->n_slots ? 2 * t->n_slots : 16);
	s = xcalloc(1, size);
	slot = slot_of(t, a, b);
	*s = (struct seen){ .next = *slot, .a = a, .b = b };
	*slot = s;
	return s;
}

/* Those whose last look is before @oldest. */
static void forget(struct table *t, uint64_t oldest)
{
	for (size_t i = 0; i < t->n_slots; i++)
		for (struct seen **link = &t->slots[i], *s; (s = *link);) {
			if (s->look >= oldest) {
				link = &s->next;
				continue;
			}
			*link = s->next;
			free(s);
			t->n--;
		}
}

static void table_fini(struct table *t)
{
	forget(t, UINT64_MAX);
	free(t->slots);
}

/* ---------------------------------------------------------------- life */

struct vm_history *vm_history_new(void)
{
	return xcalloc(1, sizeof(struct vm_history));
}

void vm_history_free(struct vm_history *memory)
{
	if (!memory)
		return;
	table_fini(&memory->files);
	table_fini(&memory->disks);
	table_fini(&memory->frozen);
	table_fini(&memory->shown);
	free(memory->commits);
	free(memory);
}

static bool outdated(const struct vm_history *memory, uint64_t look)
{
	return look + KEPT_LOOKS < memory->look;
}

static void forget_commits(struct vm_history *memory)
{
	size_t kept = 0;

	for (size_t i = 0; i < memory->n_commits; i++)
		if (!outdated(memory, memory->commits[i].look))
			memory->commits[kept++] = memory->commits[i];
	memory->n_commits = kept;
}

void vm_history_poll(struct vm_history *memory, unsigned poll, bool partial)
{
	memory->poll = poll;
	memory->partial = partial;
	if (partial)
		return;
	memory->look++;
	if (memory->look % KEPT_LOOKS)
		return;
	forget(&memory->files, memory->look - KEPT_LOOKS);
	forget(&memory->disks, memory->look - KEPT_LOOKS);
	forget(&memory->frozen, memory->look - KEPT_LOOKS);
	forget(&memory->shown, memory->look - KEPT_LOOKS);
	forget_commits(memory);
}

/* ---------------------------------------------------------------- files */

static struct seen_file *file_of(struct vm_history *memory, const struct q2_stamp *stamp)
{
	struct seen_file *f = get_or_add(&memory->files, stamp->dev, stamp->ino, sizeof(*f));

	if (!vm_watch_is_of(&f->watch, stamp))
		*f = (struct seen_file){ .seen = f->seen };
	f->seen.look = memory->look;
	return f;
}

static bool exists(const struct q2_stamp *stamp)
{
	return stamp->dev || stamp->ino;
}

void vm_history_file(struct vm_history *memory, struct vm_fact_file *fact, bool frozen)
{
	struct seen_file *f = exists(&fact->stamp) ? file_of(memory, &fact->stamp) : NULL;

	if (!f)
		return;
	if (f->watch.seen_at != memory->poll && (fact->info || fact->format != Q2_FORMAT_QCOW2))
		vm_watch_step(&f->watch, &fact->stamp, fact->info ? fact->info->backing_name : NULL, frozen, memory->poll);
	fact->written_at = f->watch.written_at;
	fact->repointed_at = f->watch.repointed_at;
	fact->renamed = f->watch.renamed;
	fact->n_renamed = f->watch.n_renamed;
	fact->pulled_at = f->pulled_at;
}

unsigned vm_history_pulled(struct vm_history *memory, const struct q2_stamp *stamp)
{
	struct seen_file *f = exists(stamp) ? file_of(memory, stamp) : NULL;

	return f ? f->pulled_at = memory->poll : 0;
}

/* ---------------------------------------------------------------- snapshot disks */

/* It was not there in the look before, so it is another one, of the same name and second. A partial look is not counted: what was there in the last that
 * was has its number. */
static bool was_away(const struct vm_history *memory, uint64_t look)
{
	return look + !memory->partial < memory->look;
}

unsigned vm_history_since(struct vm_history *memory, uint64_t ino, const char *pit)
{
	struct seen_disk *d = get_or_add(&memory->disks, ino, vm_strmap_hash(pit), sizeof(*d));

	if (!d->seen.look || was_away(memory, d->seen.look))
		d->since = memory->poll;
	d->seen.look = memory->look;
	return d->since;
}

void vm_history_froze(struct vm_history *memory, uint64_t ino, const struct q2_stamp *stamp, bool raw)
{
	struct seen_frozen *f = get_or_add(&memory->frozen, ino, 0, sizeof(*f));

	f->stamp = *stamp;
	f->raw = raw;
	f->seen.look = memory->look;
}

struct vm_fact_note *vm_history_frozen(struct vm_history *memory, uint64_t ino, struct vm_arena *arena)
{
	struct seen_frozen *f = get(&memory->frozen, ino, 0);
	struct vm_fact_note *note;

	if (!f || was_away(memory, f->seen.look))
		return NULL;
	f->seen.look = memory->look;
	note = vm_arena_calloc(arena, 1, sizeof(*note));
	note->stamp = f->stamp;
	note->raw = f->raw;
	return note;
}

void vm_history_shows(struct vm_history *memory, uint64_t ino, uint64_t state, uint64_t sum)
{
	struct seen_shown *s = get_or_add(&memory->shown, ino, 0, sizeof(*s));

	s->state = state;
	s->sum = sum;
	s->seen.look = memory->look;
}

bool vm_history_shown(struct vm_history *memory, uint64_t ino, uint64_t state, uint64_t *sum)
{
	struct seen_shown *s = get(&memory->shown, ino, 0);

	if (!s || s->state != state)
		return false;
	s->seen.look = memory->look;
	*sum = s->sum;
	return true;
}

/* ---------------------------------------------------------------- commits */

static struct node node_of(const struct vm_facts *facts, int file)
{
	const struct q2_stamp *stamp = &facts->files[file].stamp;

	return (struct node){ stamp->dev, stamp->ino, stamp->block ? 0 : stamp->btime_ns };
}

static bool same_node(struct node a, struct node b)
{
	return a.dev == b.dev && a.ino == b.ino && a.born_ns == b.born_ns;
}

static void add_commit(struct vm_history *memory, struct seen_commit commit)
{
	for (size_t i = 0; i < memory->n_commits; i++) {
		struct seen_commit *c = &memory->commits[i];

		if (!same_node(c->base, commit.base) || c->has_top != commit.has_top || !same_node(c->top, commit.top))
			continue;
		*c = commit;
		return;
	}
	/* As many as there were jobs on files that still exist: one that was dropped would no more be told of what it harmed. */
	XGROW(memory->commits, memory->n_commits, memory->commits_room);
	memory->commits[memory->n_commits++] = commit;
}

void vm_history_commits_add(struct vm_history *memory, const struct vm_facts *facts, const struct vm_fact_commit *commits,
			    size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct seen_commit c = { .at = memory->poll, .look = memory->look };

		if (commits[i].base == VM_NO_FILE || !exists(&facts->files[commits[i].base].stamp))
			continue;
		c.base = node_of(facts, commits[i].base);
		c.has_top = commits[i].top != VM_NO_FILE;
		if (c.has_top)
			c.top = node_of(facts, commits[i].top);
		add_commit(memory, c);
	}
}

static int find_node(const struct vm_facts *facts, struct node node)
{
	for (size_t i = 0; i < facts->n_files; i++)
		if (same_node(node_of(facts, (int)i), node))
			return (int)i;
	return VM_NO_FILE;
}

void vm_history_commits(struct vm_history *memory, const struct vm_facts *facts, struct vm_fact_commit **out, size_t *n)
{
	struct vm_fact_commit *list = xcalloc(memory->n_commits, sizeof(*list));
	size_t kept = 0;

	for (size_t i = 0; i < memory->n_commits; i++) {
		struct seen_commit *c = &memory->commits[i];
		int base = find_node(facts, c->base);

		if (base == VM_NO_FILE)
			continue;
		c->look = memory->look;
		list[kept++] = (struct vm_fact_commit){ .base = base, .at = c->at,
							.top = c->has_top ? find_node(facts, c->top) : VM_NO_FILE };
	}
	*out = list;
	*n = kept;
}
