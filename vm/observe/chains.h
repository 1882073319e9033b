/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * chains.h: image files and everything beneath them, as facts for the graph.
 *
 * One collection is made for one look. A file that several domains use is one entry; what it stands on is followed
 * through the gate of whoever asked first and is allowed to. Whether the others' gates agree is asked separately.
 */
#ifndef VS_VM_OBSERVE_CHAINS_H
#define VS_VM_OBSERVE_CHAINS_H

#include "vm/model/facts.h"
#include "vm/observe/headers.h"

struct vm_chains {
	struct vm_headers *files; /* borrowed */
	uint64_t number;        /* of this collection */
	struct vm_header **file;  /* borrowed, index by index with: */
	struct vm_fact_file *fact;
	size_t n, room;
	int asker;                /* whoever asks for files now; -1: nobody who counts */
	bool loose;               /* what is asked for now nobody writes to: that others ask for it, too, means nothing, unless it is a disk of theirs */
	int *asked_by;            /* index by index: the first who did, or -1 */
	struct vm_chains_loose {
		int asker, file;
	} *loosely;               /* who asked so for what */
	size_t n_loosely, loosely_room;
	size_t *group;            /* of each who asks: another one of his group, himself for the group's head; see vm_chains_groups() */
	size_t n_groups;
};

/* @number: another one than any collection had that used these files. */
void vm_chains_init(struct vm_chains *c, struct vm_headers *files, uint64_t number);
void vm_chains_fini(struct vm_chains *c);

/*
 * Who has to do with whom: askers (0 .. @n - 1; `asker` is the present one) that came to the same file are of one group. Once all have asked,
 * vm_chains_groups() adds those that came to one image by several names.
 */
void vm_chains_ask(struct vm_chains *c, size_t n);
void vm_chains_groups(struct vm_chains *c);
/* The head of its group. */
size_t vm_chains_group(const struct vm_chains *c, size_t asker);

/* The file at a trusted path and all that it stands on, through @gate. @format NONE is looked at as raw: there is nothing to
 * follow then. VM_NO_FILE: @path is NULL. */
int vm_chains_path(struct vm_chains *c, const char *path, enum q2_format format, struct q2_gate *gate);

/* May all of @layers be read through @gate, each as what the one above it stands on? @trusted: the first is named by the
 * record itself, which needs no gate. 0 or negative errno with a reason. */
int vm_chains_allowed(struct vm_chains *c, const int *layers, size_t n, bool trusted, struct q2_gate *gate,
		      struct vs_err *err);

#endif
