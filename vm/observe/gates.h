/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * gates.h: building a gate from what trusted sources name, and keeping it while they name the same.
 *
 * Which gate an image was looked at through is part of what is remembered of it, and views hold on to theirs; so as long
 * as nothing has changed a domain has one and the same gate. Threads: one, the refresher.
 */
#ifndef VS_VM_OBSERVE_GATES_H
#define VS_VM_OBSERVE_GATES_H

#include "vm/observe/pools.h"
#include "vm/util/strmap.h"
#include "vm/xml/xml.h"

/* The gate that was built last, and what it was built from. Zero-initialise. */
struct vm_gates_memo {
	struct q2_gate *gate;
	char *key;
};
void vm_gates_memo_fini(struct vm_gates_memo *memo);

/* What a gate is to allow, collected. Names are borrowed. Zero-initialise. */
struct vm_gates_list {
	struct vm_strmap seen;
	struct vm_gates_name {
		const char *path;
		enum q2_format format;
		bool dir;
	} *names;
	size_t n, room;
	struct q2_gate *also; /* what others allow, too; or NULL */
};
void vm_gates_list_fini(struct vm_gates_list *list);
/* Of two mentions of a file the first that gives a format counts. */
void vm_gates_list_file(struct vm_gates_list *list, const char *path, enum q2_format format);
void vm_gates_list_files(struct vm_gates_list *list, const struct vm_xml_file *files, size_t n);
void vm_gates_list_dir(struct vm_gates_list *list, const char *path);
void vm_gates_list_pools(struct vm_gates_list *list, const struct vm_pools *pools);

/* The gate for all that: the memo's where that was built from the same, else a new one that replaces it. Borrowed from the
 * memo. */
struct q2_gate *vm_gates_list_gate(struct vm_gates_list *list, struct vm_gates_memo *memo);

#endif
