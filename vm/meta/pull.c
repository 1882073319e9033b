/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/meta/pull.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/util/mem.h"

#define FILES_MAX 4096 /* more than a chain can have */

void vm_pull_fini(struct vm_pull *p)
{
	for (size_t i = 0; p->files && i < p->n_files; i++)
		free(p->files[i].path);
	free(p->files);
	free(p->target);
}

static bool take_file(char **at, struct vm_pull_file *file)
{
	const char *line = strsep(at, "\n");
	int format, len = 0;

	if (!line || sscanf(line, "%" SCNu64 " %" SCNu64 " %d %n", &file->dev, &file->ino, &format, &len) != 3 || line[len] != '/' ||
	    format < Q2_FORMAT_NONE || format > Q2_FORMAT_QCOW2)
		return false;
	file->format = (enum q2_format)format;
	file->path = xstrdup(line + len);
	return true;
}

bool vm_pull_parse(const char *text, struct vm_pull *p)
{
	vs_autofree char *copy = xstrdup(text);
	char *at = copy, *first = strsep(&at, "\n"), *target = strsep(&at, "\n");
	bool ok = true;

	*p = (struct vm_pull){0};
	if (!target || sscanf(first, "%" SCNd64 " %" SCNu64 " %zu", &p->pid, &p->began, &p->n_files) != 3 || p->n_files < 2 || p->n_files > FILES_MAX)
		return false;
	p->files = xcalloc(p->n_files, sizeof(*p->files));
	p->target = xstrdup(target);
	for (size_t i = 0; ok && i < p->n_files; i++)
		ok = take_file(&at, &p->files[i]);
	ok = ok && !at;
	if (!ok)
		vm_pull_fini(p);
	return ok;
}

/* It is read one day by who knows nothing else. */
static bool is_legible(const char *text, const struct vm_pull *p)
{
	struct vm_pull again;
	bool same;

	if (!vm_pull_parse(text, &again))
		return false;
	same = again.n_files == p->n_files && !strcmp(again.target, p->target);
	for (size_t i = 0; same && i < p->n_files; i++)
		same = again.files[i].ino == p->files[i].ino && !strcmp(again.files[i].path, p->files[i].path);
	vm_pull_fini(&again);
	return same;
}

char *vm_pull_text(const struct vm_pull *p)
{
	vs_autofree char *text = NULL;
	size_t len;
	FILE *f = xmemopen(&text, &len);

	fprintf(f, "%" PRId64 " %" PRIu64 " %zu\n%s", p->pid, p->began, p->n_files, p->target);
	for (size_t i = 0; i < p->n_files; i++)
		fprintf(f, "\n%" PRIu64 " %" PRIu64 " %d %s", p->files[i].dev, p->files[i].ino, (int)p->files[i].format, p->files[i].path);
	xmemclose(f);
	return is_legible(text, p) ? vs_steal(text) : NULL;
}

/* True: it cannot be read. */
static bool add_pull(const char *text, void *opaque)
{
	struct vm_pulls *pulls = opaque;
	struct vm_pull p;

	if (!vm_pull_parse(text, &p))
		return true;
	pulls->v = xreallocarray(pulls->v, pulls->n + 1, sizeof(*pulls->v));
	pulls->v[pulls->n++] = p;
	return false;
}

int vm_pulls_read(const struct vm_journal *journal, struct vm_pulls **out, struct vs_err *err)
{
	struct vm_pulls *pulls = xcalloc(1, sizeof(*pulls));
	int r = vm_journal_each(journal, "pull", add_pull, pulls);

	if (r != 0) {
		vm_pulls_free(pulls);
		return vs_err_set(err, r > 0 || r == -EINVAL || r == -E2BIG ? -EPERM : r, "what interrupted commands have noted in the state directory cannot be read, and "
				  "no command runs until it can be: %s", r > 0 ? "it says of a pull what no note of ours does" : strerror(-r));
	}
	*out = pulls;
	return 0;
}

void vm_pulls_free(struct vm_pulls *pulls)
{
	for (size_t i = 0; pulls && i < pulls->n; i++)
		vm_pull_fini(&pulls->v[i]);
	if (pulls)
		free(pulls->v);
	free(pulls);
}
