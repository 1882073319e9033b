/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/gates.h"

#include <string.h>

#include "vm/util/mem.h"

void vm_gates_memo_fini(struct vm_gates_memo *memo)
{
	q2_gate_unref(memo->gate);
	free(memo->key);
	*memo = (struct vm_gates_memo){0};
}

void vm_gates_list_fini(struct vm_gates_list *list)
{
	vm_strmap_clear(&list->seen, NULL);
	free(list->names);
	*list = (struct vm_gates_list){0};
}

/* The seen map holds place + 1, since it cannot hold 0. */
static struct vm_gates_name *find(struct vm_gates_list *list, const char *path)
{
	uintptr_t place = (uintptr_t)vm_strmap_get(&list->seen, path);

	return place ? &list->names[place - 1] : NULL;
}

static void add(struct vm_gates_list *list, struct vm_gates_name name)
{
	vm_strmap_put(&list->seen, name.path, (void *)(uintptr_t)(list->n + 1));
	XGROW(list->names, list->n, list->room);
	list->names[list->n++] = name;
}

void vm_gates_list_file(struct vm_gates_list *list, const char *path, enum q2_format format)
{
	struct vm_gates_name *name = find(list, path);

	if (!name)
		add(list, (struct vm_gates_name){ .path = path, .format = format });
	else if (name->format == Q2_FORMAT_NONE)
		name->format = format;
}

void vm_gates_list_files(struct vm_gates_list *list, const struct vm_xml_file *files, size_t n)
{
	for (size_t i = 0; i < n; i++)
		vm_gates_list_file(list, files[i].path, files[i].format);
}

void vm_gates_list_dir(struct vm_gates_list *list, const char *path)
{
	struct vm_gates_name *name = find(list, path);

	if (name)
		name->dir = true;
	else
		add(list, (struct vm_gates_name){ .path = path, .dir = true });
}

void vm_gates_list_pools(struct vm_gates_list *list, const struct vm_pools *pools)
{
	for (size_t i = 0; i < pools->n; i++) {
		const struct vm_pool *pool = &pools->pools[i];

		if (pool->dir && pool->active)
			vm_gates_list_dir(list, pool->dir);
		for (size_t k = 0; k < pool->n_volumes; k++)
			vm_gates_list_file(list, pool->volumes[k], Q2_FORMAT_NONE);
	}
}

/* What the gate will make of the names depends on where they lead, too. */
static void print_key(FILE *f, const struct vm_gates_list *list)
{
	for (size_t i = 0; i < list->n; i++) {
		vs_autofree char *real = realpath(list->names[i].path, NULL);

		fprintf(f, "%d%d %s\n%s\n", list->names[i].dir, (int)list->names[i].format, list->names[i].path,
			real ? real : "");
	}
}

static char *key_of(const struct vm_gates_list *list)
{
	char *key;
	size_t len;
	FILE *f = xmemopen(&key, &len);

	fprintf(f, "%p\n", (void *)list->also); /* no other gate can have its place while that one is held on to */
	print_key(f, list);
	xmemclose(f);
	return key;
}

static struct q2_gate *build(const struct vm_gates_list *list)
{
	struct q2_gate *gate = q2_gate_new();

	if (!gate)
		xoom();
	for (size_t i = 0; i < list->n; i++) {
		const struct vm_gates_name *name = &list->names[i];

		if ((name->dir ? q2_gate_allow_dir(gate, name->path) : q2_gate_allow_file(gate, name->path, name->format)) < 0)
			xoom(); /* that is all that it fails for */
	}
	q2_gate_include(gate, list->also);
	return gate;
}

struct q2_gate *vm_gates_list_gate(struct vm_gates_list *list, struct vm_gates_memo *memo)
{
	vs_autofree char *key = key_of(list);
	struct q2_gate *gate;

	if (memo->key && !strcmp(memo->key, key))
		return memo->gate;
	gate = build(list);
	vm_gates_memo_fini(memo);
	memo->gate = gate;
	memo->key = vs_steal(key);
	return gate;
}
