/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/held.h"

#include <string.h>
#include <unistd.h>

#include "vm/util/log.h"
#include "vm/util/sync.h"

static int hold(struct vm_held *h, const char *path, struct vs_err *err)
{
	int fd = vm_sync_hold(path);

	if (fd < 0)
		return vs_err_set(err, fd, "'%s' cannot be opened, so whether it reaches the disk could not be told: %s", path, strerror(-fd));
	h->fd[h->n++] = fd;
	return 0;
}

int vm_held_layer(struct vm_held *h, const struct vm_layer *l, struct vs_err *err)
{
	int r = hold(h, l->path, err);

	return r == 0 && l->data ? hold(h, l->data, err) : r;
}

int vm_held_reach_disk(const struct vm_held *h)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < h->n; i++)
		r = vm_sync_held(h->fd[i]);
	return r;
}

void vm_held_fini(struct vm_held *h)
{
	while (h->n)
		close(h->fd[--h->n]);
}

/* ---------------------------------------------------------------- the note */

static bool is_text(const char *text, void *opaque)
{
	return !strcmp(text, opaque);
}

void vm_held_note(struct vm_context *cx, const char *where)
{
	struct vs_err err = {0};

	if (vm_journal_add(&cx->journal, "unwritten", where, &err) < 0)
		vm_log_warn(cx->log, "that something of what was written to %s has not come to the disk cannot be noted: %s", where, err.msg);
}

bool vm_held_is_noted(const struct vm_context *cx, const char *where)
{
	return vm_journal_each(&cx->journal, "unwritten", is_text, (void *)where) != 0; /* also where the lines cannot be read */
}

void vm_held_proven(struct vm_context *cx, const char *where)
{
	vm_journal_settle(&cx->journal, "unwritten", is_text, (void *)where);
}
