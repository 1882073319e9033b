/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The inventory of a domain's layers: every image that its disks and snapshots stand on, and who else needs it. A layer
 * that its records name but nobody needs is left over: a commit without "delete", or a pull, leaves such files behind.
 */
#include "vm/graph/graph-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/model/names.h"
#include "vm/util/mem.h"
#include "vm/util/strmap.h"

#define USERS_SHOWN 16 /* a golden image may have thousands */
#define WITH_MAX 16    /* a data file may be a loop device, and so on */

struct draft {
	int file;
	enum q2_format format;
	bool needed; /* by a disk of this domain, or by a snapshot of it that can be read */
	bool begun;  /* made by a command that has not ended */
	bool beside; /* no image, but a snapshot's memory, or the like */
	bool other;  /* a disk that it had at some snapshot, and does not have any more */
	struct vm_strings snapshots;
};

struct painting {
	const struct vm_graph *g;
	size_t domain;
	struct vm_arena *arena; /* for what is given */
	struct draft *drafts;
	size_t n, room;
};

/* ---------------------------------------------------------------- which layers */

static int draft_index(const struct painting *p, int file)
{
	for (size_t i = 0; file != VM_NO_FILE && i < p->n; i++)
		if (vm_graph_same(p->g, p->drafts[i].file, file))
			return (int)i;
	return -1;
}

static struct draft *draft_add(struct painting *p, int file, enum q2_format format, bool needed)
{
	int at = draft_index(p, file);

	if (at >= 0) {
		p->drafts[at].needed |= needed;
		return &p->drafts[at];
	}
	XGROW(p->drafts, p->n, p->room);
	p->drafts[p->n] = (struct draft){.file = file, .format = format, .needed = needed};
	return &p->drafts[p->n++];
}

static void draft_chain(struct painting *p, const int *files, size_t n, enum q2_format format, bool needed)
{
	for (size_t i = 0; i < n; i++) {
		draft_add(p, files[i], format, needed);
		format = vm_graph_file(p->g, files[i])->below_format;
	}
}

static void draft_disks(struct painting *p)
{
	for (size_t i = 0; i < p->g->facts->domains[p->domain].n_disks; i++) {
		const struct vm_graph_disk *disk = &p->g->disks[p->g->first_disk[p->domain] + i];

		draft_chain(p, disk->chain, disk->n_chain, vm_graph_disk(p->g, disk)->format, true);
	}
}

static void draft_snapshot(struct painting *p, size_t snapshot, size_t disk)
{
	const struct vm_fact_snapshot *snap = &p->g->facts->domains[p->domain].snapshots[snapshot];
	int overlay = snap->disks[disk].overlay;
	struct vm_verdict verdict;
	bool needed;

	vm_graph_state(p->g, p->domain, snapshot, disk, &verdict);
	needed = verdict.state != VM_STALE || verdict.broken;
	draft_chain(p, verdict.layers, verdict.n_layers, verdict.format, needed);
	if (verdict.n_layers && needed && snap->disks[disk].mode != VM_MODE_NO)
		vm_strings_add(p->arena, &p->drafts[draft_index(p, verdict.layers[0])].snapshots, snap->shown);
	if (vm_graph_exists(p->g, overlay))
		draft_add(p, overlay, vm_graph_file(p->g, overlay)->format, false);
	vm_verdict_fini(&verdict);
}

static void draft_snapshots(struct painting *p)
{
	const struct vm_fact_domain *domain = &p->g->facts->domains[p->domain];

	for (size_t s = 0; s < domain->n_snapshots; s++)
		for (size_t i = 0; i < domain->snapshots[s].n_disks; i++)
			draft_snapshot(p, s, i);
}

/* Files of the domain that no disk and no snapshot's disk is known to stand on. */
static void draft_others(struct painting *p)
{
	const struct vm_fact_domain *domain = &p->g->facts->domains[p->domain];

	for (size_t i = 0; i < domain->n_made; i++)
		draft_add(p, domain->made[i], Q2_FORMAT_QCOW2, false);
	for (size_t i = 0; i < domain->n_begun; i++) {
		bool known = draft_index(p, domain->begun[i]) >= 0;

		draft_add(p, domain->begun[i], vm_graph_file(p->g, domain->begun[i])->format, false)->begun |= !known;
	}
	for (size_t i = 0; i < domain->n_others; i++)
		if (vm_graph_exists(p->g, domain->others[i]) && draft_index(p, domain->others[i]) < 0)
			draft_add(p, domain->others[i], vm_graph_file(p->g, domain->others[i])->format, true)->other = true;
	for (size_t i = 0; i < domain->n_beside; i++)
		if (draft_index(p, domain->beside[i].file) < 0)
			draft_add(p, domain->beside[i].file, Q2_FORMAT_RAW, true)->beside = true;
	for (size_t s = 0; s < domain->n_snapshots; s++) {
		for (size_t i = 0; i < domain->snapshots[s].n_beside; i++) {
			int file = domain->snapshots[s].beside[i].file;

			if (draft_index(p, file) < 0)
				draft_add(p, file, Q2_FORMAT_RAW, true)->beside = true;
		}
	}
}

/* ---------------------------------------------------------------- who else, and what is odd */

/* All that lies between an image and what it needs. */
static bool is_drawn_down_to(const struct painting *p, int file, int needed)
{
	for (int n = 0; file != VM_NO_FILE && n < VM_CHAIN_MAX && draft_index(p, file) >= 0; file = vm_graph_file(p->g, file)->below, n++)
		if (vm_graph_same(p->g, file, needed))
			return true;
	return false;
}

/* The inventory shows for itself where the domain's own disks and snapshots stand, and volumes that are among the layers; but
 * not what
 * they reach by other ways than down the layers. */
static bool is_seen(const struct painting *p, const struct vm_graph_user *user)
{
	if (user->unseen)
		return false;
	if (user->kind == VM_USER_VOLUME || user->kind == VM_USER_LEFT)
		return is_drawn_down_to(p, user->kind == VM_USER_LEFT ? (int)user->index : p->g->facts->volumes[user->index].file, user->file);
	return vm_graph_user_is_own(p->g, user->kind, user->index, p->domain);
}

/* What is written when this file is: its data file, what it shows as a loop device. VM_NO_FILE: nothing else. */
static int written_with(const struct vm_graph *g, int file)
{
	const struct vm_fact_file *f = vm_graph_file(g, file);

	return f->data != VM_NO_FILE ? f->data : f->shows;
}

/* Is that user the file itself, which has others? */
static bool is_itself(const struct vm_graph *g, const struct vm_graph_user *user, int file)
{
	if (user->kind == VM_USER_LEFT)
		return vm_graph_same(g, (int)user->index, file);
	return user->kind == VM_USER_VOLUME && vm_graph_same(g, g->facts->volumes[user->index].file, file);
}

static bool uses(const struct vm_graph *g, const struct vm_graph_user *user, int file)
{
	if (is_itself(g, user, file))
		return true;
	for (int u = g->users_of.head[g->node[file]]; u >= 0; u = g->users_of.next[u])
		if (g->users[u].kind == user->kind && g->users[u].index == user->index)
			return true;
	return false;
}

/* A disk whose guest, or whose mirror, writes to that file. */
static bool writes_to(const struct vm_graph *g, const struct vm_graph_user *user, int file)
{
	const struct vm_fact_disk *disk = user->kind == VM_USER_DISK ? vm_graph_disk(g, &g->disks[user->index]) : NULL;
	int into[] = { disk && disk->writable ? disk->top : VM_NO_FILE, disk ? disk->mirror : VM_NO_FILE };

	for (size_t i = 0; i < VS_ARRAY_LEN(into); i++)
		for (int n = 0, at = into[i]; at != VM_NO_FILE && n < WITH_MAX; n++, at = written_with(g, at))
			if (vm_graph_same(g, at, file))
				return true;
	return false;
}

/* Somebody, after the @from'th of g->users (-1: the first), who does not use @file but what is written with it; -1: nobody else. Only a
 * disk that writes there, if @writes. */
static int next_beside(const struct vm_graph *g, int file, int from, bool writes)
{
	int other = written_with(g, file);
	bool past = from < 0;

	for (int n = 0; other != VM_NO_FILE && n < WITH_MAX; n++, other = written_with(g, other))
		for (int u = g->users_of.head[g->node[other]]; u >= 0; u = g->users_of.next[u]) {
			if (past && !uses(g, &g->users[u], file) && (!writes || writes_to(g, &g->users[u], other)))
				return u;
			past |= u == from;
		}
	return -1;
}

static void list_user(const struct painting *p, int user, struct vm_strings *list, size_t *more)
{
	if (list->n < USERS_SHOWN)
		vm_strings_take(p->arena, list, vm_graph_user_phrase(p->g, p->g->users[user].kind, p->g->users[user].index));
	else
		++*more;
}

/* Gives, or NULL. */
static char *find_snapshot_user(const struct painting *p, int file)
{
	for (int u = p->g->users_of.head[p->g->node[file]]; u >= 0; u = p->g->users_of.next[u]) {
		const struct vm_graph_user *user = &p->g->users[u];

		if (user->kind == VM_USER_SNAPSHOT && !vm_graph_user_is_own(p->g, user->kind, user->index, p->domain))
			return vm_arena_take(p->arena, vm_graph_user_phrase(p->g, user->kind, user->index));
	}
	return NULL;
}

/* Who uses what is written with it stands on no layer of this picture, whoever he is. */
static char **list_users(const struct painting *p, int file)
{
	const struct vm_graph *g = p->g;
	struct vm_strings list = {0};
	size_t more = 0;

	for (int u = g->users_of.head[g->node[file]]; u >= 0; u = g->users_of.next[u])
		if (!is_seen(p, &g->users[u]))
			list_user(p, u, &list, &more);
	for (int u = next_beside(g, file, -1, false); u >= 0; u = next_beside(g, file, u, false))
		list_user(p, u, &list, &more);
	if (more)
		vm_strings_take(p->arena, &list, xasprintf("%zu more", more));
	return vm_strings_done(&list);
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

/* Gives; NULL where nothing is odd. */
static char *note_of(const struct painting *p, const struct draft *draft, const struct vm_layer *layer)
{
	const struct vm_fact_file *f = vm_graph_file(p->g, draft->file);

	if (f->error == -ENOENT)
		return xstrdup("missing");
	if (f->error)
		return xasprintf("cannot be read: %s", f->why ? f->why : strerror(-f->error));
	if (f->below_why)
		return xasprintf("what it stands on is not followed: it %s", f->below_why);
	if (running_into(p->g, draft->file))
		return xstrdup("a commit is writing into it");
	if (half_deleted_into(p->g, draft->file))
		return xstrdup("an unfinished delete has written into it");
	if (draft->begun && !layer->users[0])
		return xstrdup("left over: made by a command that did not end: repeat it");
	if (!draft->needed && !layer->users[0])
		return xasprintf("left over: no snapshot or disk of %s uses it", p->g->facts->domains[p->domain].name);
	if (draft->other)
		return xstrdup("a disk that the domain had at some snapshot");
	if (f->writer && !vm_graph_writer(p->g, draft->file))
		return xstrdup("open for writing in some process");
	return NULL;
}

static bool is_active(const struct painting *p, int file)
{
	for (int i = p->g->tops.head[p->g->node[file]]; i >= 0; i = p->g->tops.next[i])
		if (p->g->disks[i].domain == p->domain && vm_graph_disk(p->g, &p->g->disks[i])->writable)
			return true;
	return false;
}

/* Another disk that writes to the file as well, or to what is written with it; NULL: none. */
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
static char **list_paths(const struct painting *p, int file)
{
	const struct vm_graph *g = p->g;
	struct vm_strings list = {0};

	for (int i = g->node[file]; i != VM_NO_FILE; i = g->alias[i])
		if (strcmp(vm_graph_file(g, i)->path, vm_graph_file(g, file)->path) != 0)
			vm_strings_add(p->arena, &list, vm_graph_file(g, i)->path);
	return vm_strings_done(&list);
}

static char *printable(const struct painting *p, const char *text)
{
	return text ? vm_arena_take(p->arena, vm_name_printable(text)) : NULL;
}

static void paint_doubt(const struct painting *p, int file, struct vm_layer *layer)
{
	const struct vm_graph_doubt *doubt = vm_graph_doubt(p->g, file, p->domain);
	vs_autofree char *phrase = doubt ? vm_graph_doubt_phrase(p->g, doubt) : NULL;

	if (!doubt)
		return;
	layer->unknown = printable(p, phrase);
	layer->unknown_code = doubt->code;
}

static char **list_bitmaps(const struct painting *p, const struct q2_info *info)
{
	struct vm_strings list = {0};

	for (char **name = info ? info->bitmaps : NULL; name && *name; name++)
		vm_strings_take(p->arena, &list, vm_name_printable(*name));
	return vm_strings_done(&list);
}

static void paint(const struct painting *p, struct draft *draft, struct vm_layer *layer)
{
	const struct vm_fact_file *f = vm_graph_file(p->g, draft->file);
	vs_autofree char *note = NULL;

	layer->path = vm_arena_strdup(p->arena, f->path);
	layer->format = draft->format;
	layer->virtual_size = f->info ? f->info->size : draft->format == Q2_FORMAT_RAW ? f->stamp.size : 0;
	layer->version = f->info ? f->info->version : 0;
	layer->cluster_bits = f->info ? f->info->cluster_bits : 0;
	layer->allocated = f->stamp.allocated;
	layer->stamp = f->stamp;
	layer->below = draft->format == Q2_FORMAT_QCOW2 ? draft_index(p, f->below) : -1;
	layer->data = f->data == VM_NO_FILE ? NULL : vm_arena_strdup(p->arena, vm_graph_file(p->g, f->data)->path);
	layer->active = is_active(p, draft->file);
	layer->beside = draft->beside;
	layer->error = f->error;
	layer->ends = printable(p, f->below_why);
	layer->rival = vm_arena_take(p->arena, rival_of(p, draft->file));
	paint_doubt(p, draft->file, layer);
	if (draft->format == Q2_FORMAT_QCOW2 && f->info && f->info->n_snapshots)
		layer->internal = printable(p, f->info->snapshots[0].name);
	layer->bitmaps = list_bitmaps(p, draft->format == Q2_FORMAT_QCOW2 ? f->info : NULL);
	layer->users = list_users(p, draft->file);
	layer->snapshot_user = find_snapshot_user(p, draft->file);
	layer->paths = list_paths(p, draft->file);
	layer->snapshots = vm_strings_done(&draft->snapshots);
	note = note_of(p, draft, layer);
	layer->note = printable(p, note);
}

/* ---------------------------------------------------------------- the inventory */

void vm_graph_layers(const struct vm_graph *g, size_t domain, struct vm_arena *arena, struct vm_layer **layers, size_t *n_layers,
		     int **tops)
{
	const struct vm_fact_domain *d = &g->facts->domains[domain];
	struct painting p = {.g = g, .domain = domain, .arena = arena};

	draft_disks(&p);
	draft_snapshots(&p);
	draft_others(&p);
	*layers = vm_arena_calloc(arena, p.n, sizeof(**layers));
	*n_layers = p.n;
	for (size_t i = 0; i < p.n; i++)
		paint(&p, &p.drafts[i], &(*layers)[i]);
	*tops = vm_arena_calloc(arena, d->n_disks, sizeof(**tops));
	for (size_t i = 0; i < d->n_disks; i++)
		(*tops)[i] = draft_index(&p, d->disks[i].top);
	free(p.drafts);
}
