/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/history.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/observe/watch.h"
#include "vm/util/mem.h"
#include "vm/util/strmap.h"

#define KEPT_LOOKS 256

struct seen_file {
	struct vm_watch watch;
	unsigned pulled_at;
	uint64_t look; /* the last one that asked */
};

struct seen_disk {
	unsigned since;
	uint64_t look;
};

struct seen_frozen {
	struct q2_stamp stamp;
	bool raw;
	uint64_t look;
};

struct seen_shown {
	uint64_t state, sum;
	uint64_t look;
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
	struct vm_strmap files, disks, frozen, shown;
	struct seen_commit *commits;
	size_t n_commits, commits_room;
	unsigned poll;
	uint64_t look; /* counts polls without gaps, but for partial ones */
	bool partial;  /* this one is */
};

struct vm_history *vm_history_new(void)
{
	return xcalloc(1, sizeof(struct vm_history));
}

void vm_history_free(struct vm_history *memory)
{
	if (!memory)
		return;
	vm_strmap_clear(&memory->files, free);
	vm_strmap_clear(&memory->disks, free);
	vm_strmap_clear(&memory->frozen, free);
	vm_strmap_clear(&memory->shown, free);
	free(memory->commits);
	free(memory);
}

/* ---------------------------------------------------------------- forgetting */

static bool outdated(const struct vm_history *memory, uint64_t look)
{
	return look + KEPT_LOOKS < memory->look;
}

static bool keep_file(void *thing, void *opaque)
{
	struct seen_file *f = thing;

	if (!outdated(opaque, f->look))
		return true;
	free(f);
	return false;
}

static bool keep_disk(void *thing, void *opaque)
{
	struct seen_disk *d = thing;

	if (!outdated(opaque, d->look))
		return true;
	free(d);
	return false;
}

static bool keep_frozen(void *thing, void *opaque)
{
	struct seen_frozen *f = thing;

	if (!outdated(opaque, f->look))
		return true;
	free(f);
	return false;
}

static bool keep_shown(void *thing, void *opaque)
{
	struct seen_shown *s = thing;

	if (!outdated(opaque, s->look))
		return true;
	free(s);
	return false;
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
	vm_strmap_filter(&memory->files, keep_file, memory);
	vm_strmap_filter(&memory->disks, keep_disk, memory);
	vm_strmap_filter(&memory->frozen, keep_frozen, memory);
	vm_strmap_filter(&memory->shown, keep_shown, memory);
	forget_commits(memory);
}

/* ---------------------------------------------------------------- files */

static struct seen_file *file_of(struct vm_history *memory, const struct q2_stamp *stamp)
{
	struct vm_strmap_key key = vm_strmap_file(stamp->dev, stamp->ino);
	struct seen_file *f = vm_strmap_get(&memory->files, key.text);

	if (!f) {
		f = xcalloc(1, sizeof(*f));
		vm_strmap_put(&memory->files, key.text, f);
	} else if (!vm_watch_is_of(&f->watch, stamp)) {
		*f = (struct seen_file){ .look = 0 };
	}
	f->look = memory->look;
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
	vs_autofree char *key = xasprintf("%016" PRIx64 ":%s", ino, pit);
	struct seen_disk *d = vm_strmap_get(&memory->disks, key);

	if (!d) {
		d = xcalloc(1, sizeof(*d));
		vm_strmap_put(&memory->disks, key, d);
	}
	if (!d->look || was_away(memory, d->look))
		d->since = memory->poll;
	d->look = memory->look;
	return d->since;
}

void vm_history_froze(struct vm_history *memory, uint64_t ino, const struct q2_stamp *stamp, bool raw)
{
	struct seen_frozen *f;
	char key[24];

	snprintf(key, sizeof(key), "%016" PRIx64, ino);
	f = vm_strmap_get(&memory->frozen, key);
	if (!f) {
		f = xcalloc(1, sizeof(*f));
		vm_strmap_put(&memory->frozen, key, f);
	}
	*f = (struct seen_frozen){ *stamp, raw, memory->look };
}

struct vm_fact_note *vm_history_frozen(struct vm_history *memory, uint64_t ino, struct vm_arena *arena)
{
	struct vm_fact_note *note;
	struct seen_frozen *f;
	char key[24];

	snprintf(key, sizeof(key), "%016" PRIx64, ino);
	f = vm_strmap_get(&memory->frozen, key);
	if (!f || was_away(memory, f->look))
		return NULL;
	f->look = memory->look;
	note = vm_arena_calloc(arena, 1, sizeof(*note));
	note->stamp = f->stamp;
	note->raw = f->raw;
	return note;
}

void vm_history_shows(struct vm_history *memory, uint64_t ino, uint64_t state, uint64_t sum)
{
	struct seen_shown *s;
	char key[24];

	snprintf(key, sizeof(key), "%016" PRIx64, ino);
	s = vm_strmap_get(&memory->shown, key);
	if (!s) {
		s = xcalloc(1, sizeof(*s));
		vm_strmap_put(&memory->shown, key, s);
	}
	*s = (struct seen_shown){ state, sum, memory->look };
}

bool vm_history_shown(struct vm_history *memory, uint64_t ino, uint64_t state, uint64_t *sum)
{
	struct seen_shown *s;
	char key[24];

	snprintf(key, sizeof(key), "%016" PRIx64, ino);
	s = vm_strmap_get(&memory->shown, key);
	if (!s || s->state != state)
		return false;
	s->look = memory->look;
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
