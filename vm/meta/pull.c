/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/meta/pull.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/util/mem.h"

#define FILES_MAX 4096 /* more than a chain can have */

char *vm_pull_text(const struct vm_pull *p)
{
	char *text = xasprintf("%" PRId64 " %" PRIu64 " %zu", p->pid, p->began, p->n_files);

	for (size_t i = 0; i < p->n_files; i++) {
		char *longer = xasprintf("%s %" PRIu64 " %" PRIu64, text, p->files[i].dev, p->files[i].ino);

		free(text);
		text = longer;
	}
	for (size_t i = 0; i < 3; i++) {
		char *longer = xasprintf("%s\n%s", text, i == 0 ? p->target : i == 1 ? p->top : p->below);

		free(text);
		text = longer;
	}
	return text;
}

void vm_pull_fini(struct vm_pull *p)
{
	free(p->files);
	free(p->target);
	free(p->top);
	free(p->below);
}

static bool take_files(const char *at, struct vm_pull *p)
{
	for (size_t i = 0; i < p->n_files; i++) {
		int len = 0;

		if (sscanf(at, " %" SCNu64 " %" SCNu64 "%n", &p->files[i].dev, &p->files[i].ino, &len) != 2)
			return false;
		at += len;
	}
	return true;
}

bool vm_pull_parse(const char *text, struct vm_pull *p)
{
	vs_autofree char *copy = xstrdup(text);
	char *line[4], *save = copy;
	int at = 0;

	*p = (struct vm_pull){0};
	for (size_t i = 0; i < VS_ARRAY_LEN(line); i++)
		line[i] = strsep(&save, "\n");
	if (!line[3] || sscanf(line[0], "%" SCNd64 " %" SCNu64 " %zu%n", &p->pid, &p->began, &p->n_files, &at) != 3 || p->n_files < 2 ||
	    p->n_files > FILES_MAX)
		return false;
	p->files = xcalloc(p->n_files, sizeof(*p->files));
	p->target = xstrdup(line[1]);
	p->top = xstrdup(line[2]);
	p->below = xstrdup(line[3]);
	if (take_files(line[0] + at, p))
		return true;
	vm_pull_fini(p);
	return false;
}

static bool add_pull(const char *text, void *opaque)
{
	struct vm_pulls *pulls = opaque;
	struct vm_pull p;

	if (!vm_pull_parse(text, &p))
		return false;
	pulls->v = xreallocarray(pulls->v, pulls->n + 1, sizeof(*pulls->v));
	pulls->v[pulls->n++] = p;
	return true;
}

struct vm_pulls *vm_pulls_read(const struct vm_journal *journal)
{
	struct vm_pulls *pulls = xcalloc(1, sizeof(*pulls));

	vm_journal_each(journal, "pull", add_pull, pulls);
	return pulls;
}

void vm_pulls_free(struct vm_pulls *pulls)
{
	for (size_t i = 0; pulls && i < pulls->n; i++)
		vm_pull_fini(&pulls->v[i]);
	if (pulls)
		free(pulls->v);
	free(pulls);
}
