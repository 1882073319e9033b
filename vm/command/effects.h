/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * effects.h: what a command that is tried would do to files, and what that frees.
 *
 * The commands themselves say what they would do: where they tell it (vm_context_say()) they note it here too, if somebody asks. So what is
 * foretold is of the very plan that would be carried out.
 *
 * What a merge frees is the merged layers, less what the base grows by (growth.h).
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_EFFECTS_H
#define VS_VM_COMMAND_EFFECTS_H

#include "vm/command/remove.h"
#include "vm/command/usages.h"
#include "vm/model/space.h"

/* Layers count in cx->d; all is borrowed from the look. */
struct vm_effects {
	struct vm_effect_entry {
		int layer;
		const struct q2_snapshot *snapshot;
	} *entries; /* that are removed */
	size_t n_entries, entries_room;
	struct vm_effect_merge {
		int base;
		int *gone; /* into it; the top first */
		size_t n_gone;
	} *merges;
	size_t n_merges, merges_room;
	uint64_t files;     /* bytes on disk of files that are removed */
	size_t n_snapshots; /* that go */
	char *stays;        /* NULL, or why a file stays that would be freed */
};

void vm_effects_fini(struct vm_effects *e);

/* Each does nothing where nobody asks (cx->effects is NULL). */
void vm_effects_entries(struct vm_context *cx, const struct vm_snapshot *s);
void vm_effects_merge(struct vm_context *cx, int base, const struct vm_doomed_file *gone, size_t n);
void vm_effects_file(struct vm_context *cx, const char *path);
void vm_effects_stays(struct vm_context *cx, const char *why);
void vm_effects_gone(struct vm_context *cx, size_t snapshots);

/* How figures are made. */
struct vm_effects_count {
	struct vm_usages *usages;
	int64_t since_ns; /* steady: see usages.h */
	struct q2_work work;
};
void vm_effects_count_init(struct vm_effects_count *count, struct vm_context *cx);

/* Fills all but `holds`. On failure what is not known stays VM_SPACE_UNKNOWN. */
int vm_effects_figures(const struct vm_context *cx, const struct vm_effects *e, struct vm_effects_count *count, struct vm_space_figures *out,
		       struct vs_err *err);
/* What was counted of an image; @e: with those of its entries that go together, or NULL. Gives *out. */
int vm_effects_usage(const struct vm_context *cx, int layer, const struct vm_effects *e, struct vm_effects_count *count, struct vm_usage **out,
		     struct vs_err *err);
/* What is said of them: "would free 2.0 MiB". Gives. */
char *vm_effects_words(const struct vm_effects *e, const struct vm_space_figures *f);
/* After `try`: says what it would free. */
void vm_effects_say(struct vm_context *cx);
/* Does a running guest write to it? */
bool vm_effects_is_live(const struct vm_context *cx, int layer);

#endif
