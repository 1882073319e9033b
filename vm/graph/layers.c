/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The inventory of a domain's layers: every image that its disks and snapshots stand on, and who else needs it. A layer
 * that its records name but nobody needs is left over: a commit without "delete", or a pull, leaves such files behind.
 */
#include "vm/graph/graph-priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/model/names.h"
#include "vm/util/strmap.h"

#define USERS_SHOWN 16 /* a golden image may have thousands */
#define WITH_MAX 16    /* a data file may be a loop device, and so on */

/* A list of strings that grows; NULL-terminated in the end. */
struct words {
	char **v;
	size_t n;
};

struct draft {
	int file;
	enum q2_format format;
	bool needed; /* by a disk of this domain, or by a snapshot of it that can be read */
	bool begun;  /* made by a command that has not ended */
	bool memory; /* no image, but a snapshot's memory */
	bool other;  /* a disk that it had at some snapshot, and does not have any more */
	struct words snapshots;
};

struct painting {
	const struct vm_graph *g;
	size_t domain;
	struct draft *drafts;
	size_t n, room;
};

/* Takes @word. */
static int words_add(struct words *words, char *word)
{
	char **v = word ? reallocarray(words->v, words->n + 2, sizeof(*v)) : NULL;

	if (!v) {
		free(word);
		return -ENOMEM;
	}
	v[words->n++] = word;
	v[words->n] = NULL;
	words->v = v;
	return 0;
}

static int words_printf(struct words *words, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int words_printf(struct words *words, const char *fmt, ...)
{
	char *word = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&word, fmt, ap);
	va_end(ap);
	return words_add(words, n < 0 ? NULL : word);
}

static void words_free(char **v)
{
	for (size_t i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
}

/* ---------------------------------------------------------------- which layers */

static int draft_index(const struct painting *p, int file)
{
	for (size_t i = 0; file != VM_NO_FILE && i < p->n; i++)
		if (vm_graph_same(p->g, p->drafts[i].file, file))
			return (int)i;
	return -1;
}

static int draft_add(struct painting *p, int file, enum q2_format format, bool needed)
{
	int at = draft_index(p, file);

	if (at >= 0) {
		p->drafts[at].needed |= needed;
		return 0;
	}
	if (p->n == p->room) {
		size_t room = p->room ? 2 * p->room : 16;
		struct draft *drafts = reallocarray(p->drafts, room, sizeof(*drafts));

		if (!drafts)
			return -ENOMEM;
		p->drafts = drafts;
		p->room = room;
	}
	p->drafts[p->n++] = (struct draft){.file = file, .format = format, .needed = needed};
	return 0;
}

static int draft_chain(struct painting *p, const int *files, size_t n, enum q2_format format, bool needed)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < n; i++) {
		ret = draft_add(p, files[i], format, needed);
		format = vm_graph_file(p->g, files[i])->below_format;
	}
	return ret;
}

static int draft_disks(struct painting *p)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < p->g->facts->domains[p->domain].n_disks; i++) {
		const struct vm_graph_disk *disk = &p->g->disks[p->g->first_disk[p->domain] + i];

		ret = draft_chain(p, disk->chain, disk->n_chain, vm_graph_disk(p->g, disk)->format, true);
	}
	return ret;
}

static int draft_snapshot(struct painting *p, size_t snapshot, size_t disk)
{
	const struct vm_fact_snapshot *snap = &p->g->facts->domains[p->domain].snapshots[snapshot];
	struct vm_verdict verdict;
	int ret = vm_graph_state(p->g, p->domain, snapshot, disk, &verdict);
	bool needed;

	if (ret < 0)
		return ret;
	needed = verdict.state != VM_STALE || verdict.broken;
	ret = draft_chain(p, verdict.layers, verdict.n_layers, verdict.format, needed);
	if (ret == 0 && verdict.n_layers && needed && snap->disks[disk].mode != VM_MODE_NO) {
		struct words *list = &p->drafts[draft_index(p, verdict.layers[0])].snapshots;

		ret = words_add(list, strdup(snap->shown));
	}
	if (ret == 0 && vm_graph_exists(p->g, snap->disks[disk].overlay))
		ret = draft_add(p, snap->disks[disk].overlay, vm_graph_file(p->g, snap->disks[disk].overlay)->format, false);
	vm_verdict_fini(&verdict);
	return ret;
}

static int draft_snapshots(struct painting *p)
{
	const struct vm_fact_domain *domain = &p->g->facts->domains[p->domain];
	int ret = 0;

	for (size_t s = 0; ret == 0 && s < domain->n_snapshots; s++)
		for (size_t i = 0; ret == 0 && i < domain->snapshots[s].n_disks; i++)
			ret = draft_snapshot(p, s, i);
	return ret;
}

/* Files of the domain that no disk and no snapshot's disk is known to stand on. */
static int draft_others(struct painting *p)
{
	const struct vm_fact_domain *domain = &p->g->facts->domains[p->domain];
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < domain->n_made; i++)
		ret = draft_add(p, domain->made[i], Q2_FORMAT_QCOW2, false);
	for (size_t i = 0; ret == 0 && i < domain->n_begun; i++) {
		bool known = draft_index(p, domain->begun[i]) >= 0;

		ret = draft_add(p, domain->begun[i], vm_graph_file(p->g, domain->begun[i])->format, false);
		if (ret == 0 && !known)
			p->drafts[p->n - 1].begun = true;
	}
	for (size_t i = 0; ret == 0 && i < domain->n_others; i++) {
		if (!vm_graph_exists(p->g, domain->others[i]) || draft_index(p, domain->others[i]) >= 0)
			continue;
		ret = draft_add(p, domain->others[i], vm_graph_file(p->g, domain->others[i])->format, true);
		if (ret == 0)
			p->drafts[p->n - 1].other = true;
	}
	for (size_t s = 0; ret == 0 && s < domain->n_snapshots; s++) {
		const int *memory = domain->snapshots[s].memory;
		bool known = !memory || draft_index(p, *memory) >= 0;

		if (known)
			continue;
		ret = draft_add(p, *memory, Q2_FORMAT_RAW, true);
		if (ret == 0)
			p->drafts[p->n - 1].memory = true;
	}
	return ret;
}

/* ---------------------------------------------------------------- who else, and what is odd */

/* The inventory shows for itself where the domain's own disks and snapshots stand, and volumes that are among the layers; but
 * not what
 * they reach by other ways than down the layers. */
static bool is_seen(const struct painting *p, const struct vm_graph_user *user)
{
	if (user->unseen)
		return false;
	if (user->kind == VM_USER_VOLUME)
		return draft_index(p, p->g->facts->volumes[user->index].file) >= 0;
	return vm_graph_user_is_own(p->g, user->kind, user->index, p->domain);
}

/* What is written when this file is: its data file, what it shows as a loop device. VM_NO_FILE: nothing else. */
static int written_with(const struct vm_graph *g, int file)
{
	const struct vm_fact_file *f = vm_graph_file(g, file);

	return f->data != VM_NO_FILE ? f->data : f->shows;
}

static bool uses(const struct vm_graph *g, const struct vm_graph_user *user, int file)
{
	for (int u = g->users_of.head[g->node[file]]; u >= 0; u = g->users_of.next[u])
		if (g->users[u].kind == user->kind && g->users[u].index == user->index)
			return true;
	return false;
}

/* Somebody, after the @from'th of g->users (-1: the first), who does not use @file but what is written with it; -1: nobody else. A
 * disk only, if @disk. */
static int next_beside(const struct vm_graph *g, int file, int from, bool disk)
{
	int other = written_with(g, file);
	bool past = from < 0;

	for (int n = 0; other != VM_NO_FILE && n < WITH_MAX; n++, other = written_with(g, other))
		for (int u = g->users_of.head[g->node[other]]; u >= 0; u = g->users_of.next[u]) {
			if (past && !uses(g, &g->users[u], file) && (!disk || g->users[u].kind == VM_USER_DISK))
				return u;
			past |= u == from;
		}
	return -1;
}

static int list_user(const struct painting *p, int user, struct words *words, size_t *more)
{
	if (words->n < USERS_SHOWN)
		return words_add(words, vm_graph_user_phrase(p->g, p->g->users[user].kind, p->g->users[user].index));
	++*more;
	return 0;
}

/* Who uses what is written with it stands on no layer of this picture, whoever he is. */
static int list_users(const struct painting *p, int file, struct words *words)
{
	const struct vm_graph *g = p->g;
	size_t more = 0;
	int ret = 0;

	for (int u = g->users_of.head[g->node[file]]; ret == 0 && u >= 0; u = g->users_of.next[u])
		if (!is_seen(p, &g->users[u]))
			ret = list_user(p, u, words, &more);
	for (int u = next_beside(g, file, -1, false); ret == 0 && u >= 0; u = next_beside(g, file, u, false))
		ret = list_user(p, u, words, &more);
	if (ret == 0 && more)
		ret = words_printf(words, "%zu more", more);
	return ret;
}

static const struct vm_graph_running *running_into(const struct vm_graph *g, int file)
{
	for (size_t i = 0; i < g->n_running; i++)
		if (g->running[i].certain && vm_graph_same(g, g->running[i].base, file))
			return &g->running[i];
	return NULL;
}

static bool half_deleted_into(const struct vm_graph *g, int file)
{
	for (int c = g->commit_bases.head[g->node[file]]; c >= 0; c = g->commit_bases.next[c])
		if (g->commits[c].unfinished_delete)
			return true;
	return false;
}

/* *note stays NULL where nothing is odd. */
static int write_note(const struct painting *p, const struct draft *draft, const struct vm_layer *layer, char **note)
{
	const struct vm_fact_file *f = vm_graph_file(p->g, draft->file);
	const char *domain = p->g->facts->domains[p->domain].name;
	vs_autofree char *text = NULL;
	int n = 0;

	if (f->error == -ENOENT)
		n = asprintf(&text, "missing");
	else if (f->error)
		n = asprintf(&text, "cannot be read: %s", f->why ? f->why : strerror(-f->error));
	else if (f->below_why)
		n = asprintf(&text, "what it stands on is not followed: it %s", f->below_why);
	else if (running_into(p->g, draft->file))
		n = asprintf(&text, "a commit is writing into it");
	else if (half_deleted_into(p->g, draft->file))
		n = asprintf(&text, "an unfinished delete has written into it");
	else if (draft->begun && !layer->users[0])
		n = asprintf(&text, "left over: made by a command that did not end: repeat it");
	else if (!draft->needed && !layer->users[0])
		n = asprintf(&text, "left over: no snapshot or disk of %s uses it", domain);
	else if (draft->other)
		n = asprintf(&text, "a disk that the domain had at some snapshot");
	else if (f->writer && !vm_graph_writer(p->g, draft->file))
		n = asprintf(&text, "open for writing in some process");
	if (n < 0)
		return -ENOMEM;
	*note = text ? vm_name_printable(text) : NULL;
	return text && !*note ? -ENOMEM : 0;
}

static bool is_active(const struct painting *p, int file)
{
	for (int i = p->g->tops.head[p->g->node[file]]; i >= 0; i = p->g->tops.next[i])
		if (p->g->disks[i].domain == p->domain && vm_graph_disk(p->g, &p->g->disks[i])->writable)
			return true;
	return false;
}

/* Another disk that writes to the file as well, or uses what is written with it; NULL: none. */
static char *rival_of(const struct painting *p, int file)
{
	const struct vm_graph *g = p->g;
	int beside = next_beside(g, file, -1, true);
	bool own = false;

	for (int i = g->tops.head[g->node[file]]; i >= 0; i = g->tops.next[i]) {
		if (!vm_graph_disk(g, &g->disks[i])->writable)
			continue;
		if (g->disks[i].domain == p->domain && !own)
			own = true;
		else
			return vm_graph_user_phrase(g, VM_USER_DISK, (size_t)i);
	}
	return beside < 0 ? NULL : vm_graph_user_phrase(g, VM_USER_DISK, g->users[beside].index);
}

/* Every other path that leads to it. */
static int list_paths(const struct painting *p, int file, struct words *words)
{
	const struct vm_graph *g = p->g;
	int ret = 0;

	for (int i = g->node[file]; ret == 0 && i != VM_NO_FILE; i = g->alias[i])
		if (strcmp(vm_graph_file(g, i)->path, vm_graph_file(g, file)->path) != 0)
			ret = words_add(words, strdup(vm_graph_file(g, i)->path));
	return ret;
}

/* An empty list has its terminator, too. */
static int words_done(struct words *words, char ***out)
{
	if (!words->v)
		words->v = calloc(1, sizeof(*words->v));
	*out = vs_steal(words->v);
	return *out ? 0 : -ENOMEM;
}

static void paint_doubt(const struct painting *p, int file, struct vm_layer *layer)
{
	const struct vm_graph_doubt *doubt = vm_graph_doubt(p->g, file, p->domain);
	vs_autofree char *phrase = doubt ? vm_graph_doubt_phrase(p->g, doubt) : NULL;

	if (!doubt)
		return;
	layer->unknown = vm_name_printable(phrase);
	layer->unknown_code = doubt->code;
}

static int paint(const struct painting *p, struct draft *draft, struct vm_layer *layer)
{
	const struct vm_fact_file *f = vm_graph_file(p->g, draft->file);
	struct words users = {0}, paths = {0};
	int ret = list_users(p, draft->file, &users);

	if (ret == 0)
		ret = list_paths(p, draft->file, &paths);
	layer->path = strdup(f->path);
	layer->format = draft->format;
	layer->virtual_size = f->info ? f->info->size : draft->format == Q2_FORMAT_RAW ? f->stamp.size : 0;
	layer->version = f->info ? f->info->version : 0;
	layer->cluster_bits = f->info ? f->info->cluster_bits : 0;
	layer->allocated = f->stamp.allocated;
	layer->stamp = f->stamp;
	layer->names = !f->info ? 0 : f->info->backing_name ? vm_strmap_hash(f->info->backing_name) : VM_NAMES_NOTHING;
	layer->below = draft->format == Q2_FORMAT_QCOW2 ? draft_index(p, f->below) : -1;
	layer->active = is_active(p, draft->file);
	layer->memory = draft->memory;
	layer->error = f->error;
	layer->ends = f->below_why ? vm_name_printable(f->below_why) : NULL;
	layer->rival = rival_of(p, draft->file);
	paint_doubt(p, draft->file, layer);
	if (draft->format == Q2_FORMAT_QCOW2 && f->info && f->info->n_snapshots &&
	    !(layer->internal = vm_name_printable(f->info->snapshots[0].name)))
		ret = -ENOMEM;
	if (words_done(&users, &layer->users) < 0 || words_done(&paths, &layer->paths) < 0 ||
	    words_done(&draft->snapshots, &layer->snapshots) < 0 || !layer->path)
		return -ENOMEM;
	return ret < 0 ? ret : write_note(p, draft, layer, &layer->note);
}

/* ---------------------------------------------------------------- the inventory */

static int paint_all(const struct painting *p, struct vm_layer **out)
{
	struct vm_layer *layers = calloc(p->n + 1, sizeof(*layers));
	int ret = layers ? 0 : -ENOMEM;

	for (size_t i = 0; ret == 0 && i < p->n; i++)
		ret = paint(p, &p->drafts[i], &layers[i]);
	if (ret < 0 && layers)
		vm_layers_free(layers, p->n);
	else
		*out = layers;
	return ret;
}

static int *find_tops(const struct painting *p)
{
	const struct vm_fact_domain *domain = &p->g->facts->domains[p->domain];
	int *tops = calloc(domain->n_disks + 1, sizeof(*tops));

	for (size_t i = 0; tops && i < domain->n_disks; i++)
		tops[i] = draft_index(p, domain->disks[i].top);
	return tops;
}

int vm_graph_layers(const struct vm_graph *g, size_t domain, struct vm_layer **layers, size_t *n_layers, int **tops)
{
	struct painting p = {.g = g, .domain = domain};
	struct vm_layer *painted = NULL;
	int *found = NULL;
	int ret = draft_disks(&p);

	if (ret == 0)
		ret = draft_snapshots(&p);
	if (ret == 0)
		ret = draft_others(&p);
	if (ret == 0 && !(found = find_tops(&p)))
		ret = -ENOMEM;
	if (ret == 0)
		ret = paint_all(&p, &painted);
	for (size_t i = 0; i < p.n; i++)
		words_free(p.drafts[i].snapshots.v);
	free(p.drafts);
	if (ret < 0) {
		free(found);
		return ret;
	}
	*layers = painted;
	*n_layers = p.n;
	*tops = found;
	return 0;
}

void vm_layers_free(struct vm_layer *layers, size_t n)
{
	for (size_t i = 0; layers && i < n; i++) {
		free(layers[i].path);
		free(layers[i].internal);
		words_free(layers[i].users);
		words_free(layers[i].paths);
		free(layers[i].ends);
		free(layers[i].unknown);
		free(layers[i].rival);
		words_free(layers[i].snapshots);
		free(layers[i].note);
	}
	free(layers);
}
