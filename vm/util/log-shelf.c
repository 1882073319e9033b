/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/log-shelf.h"

#include <string.h>

#include "vm/util/mem.h"

#define SHELF_MAX 64

struct vm_log_shelf {
	bool to_stderr;
	struct {
		char *uuid;
		struct vm_log *log;
	} slots[SHELF_MAX];
	size_t next; /* the slot to be used next: the longest departed */
};

struct vm_log_shelf *vm_log_shelf_new(bool to_stderr)
{
	struct vm_log_shelf *shelf = xcalloc(1, sizeof(*shelf));

	shelf->to_stderr = to_stderr;
	return shelf;
}

static void clear_slot(struct vm_log_shelf *shelf, size_t i)
{
	vm_log_unref(shelf->slots[i].log);
	free(shelf->slots[i].uuid);
	shelf->slots[i].log = NULL;
	shelf->slots[i].uuid = NULL;
}

void vm_log_shelf_free(struct vm_log_shelf *shelf)
{
	if (!shelf)
		return;
	for (size_t i = 0; i < SHELF_MAX; i++)
		clear_slot(shelf, i);
	free(shelf);
}

struct vm_log *vm_log_shelf_take(struct vm_log_shelf *shelf, const char *uuid, const char *name)
{
	struct vm_log *log;

	for (size_t i = 0; i < SHELF_MAX; i++) {
		if (!shelf->slots[i].uuid || strcmp(shelf->slots[i].uuid, uuid))
			continue;
		log = vs_steal(shelf->slots[i].log);
		clear_slot(shelf, i);
		vm_log_rename(log, name);
		return log;
	}
	return vm_log_new(name, shelf->to_stderr);
}

void vm_log_shelf_leave(struct vm_log_shelf *shelf, const char *uuid, struct vm_log *log)
{
	size_t i = shelf->next;

	clear_slot(shelf, i);
	shelf->slots[i].uuid = xstrdup(uuid);
	shelf->slots[i].log = log;
	shelf->next = (i + 1) % SHELF_MAX;
}
