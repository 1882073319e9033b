/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Who needs which file. A disk needs its whole chain: the one that a running domain has open (libvirt's word), and the one that
 * the headers tell, for the next start goes by those. A snapshot needs what its domain's disks do not need anyway; a volume that
 * belongs to no domain needs what it stands on. What a snapshot has beside its images, its
 * memory, is a file like any other: who is said to have it needs it.
 *
 * A chain goes on where a file is only a window on another one: beyond what the gate refuses to open (what lies there may not be
 * read for this chain, but must not change either), through a loop device to the file it shows, and through a file of a virt-snapfs
 * mount to the layers of the snapshot that it shows. Who stands on the last needs the snapshot itself: he is its viewer.
 */
#include "vm/graph/graph-priv.h"

#include <string.h>

#include "vm/util/mem.h"

#define WINDOWS_MAX 16 /* one behind the other */

/* Who is being followed, and how far through windows. */
struct walk {
	struct vm_graph *g;
	enum vm_graph_user_kind kind;
	size_t index;
	unsigned windows;
	unsigned closed; /* encrypted layers that were gone through */
};

static struct vm_graph_user *find_user(const struct walk *w, int file)
{
	for (size_t i = w->g->n_users; i-- > 0;) {
		struct vm_graph_user *u = &w->g->users[i];

		if (u->kind != w->kind || u->index != w->index)
			return NULL; /* all of one user's stand together */
		if (vm_graph_same(w->g, u->file, file))
			return u;
	}
	return NULL;
}

static void add(struct walk *w, int file, bool unseen)
{
	struct vm_graph *g = w->g;
	struct vm_graph_user *user = find_user(w, file);

	if (user) {
		user->unseen |= unseen;
		return;
	}
	XGROW(g->users, g->n_users, g->users_room);
	g->users[g->n_users++] = (struct vm_graph_user){w->kind, w->index, file, unseen};
}

static void add_user(struct walk *w, int file)
{
	add(w, file, w->windows > 0);
}

/* Its external data file, which is beneath it in no inventory. */
static void add_data(struct walk *w, int file)
{
	int data = vm_graph_file(w->g, file)->data;

	if (data != VM_NO_FILE)
		add(w, data, true);
}

static void add_viewer(struct walk *w, size_t snap)
{
	struct vm_graph *g = w->g;

	for (size_t i = 0; i < g->n_viewers; i++)
		if (g->viewers[i].kind == w->kind && g->viewers[i].index == w->index && g->viewers[i].snap == snap)
			return;
	XGROW(g->viewers, g->n_viewers, g->viewers_room);
	g->viewers[g->n_viewers++] = (struct vm_graph_viewer){w->kind, w->index, snap};
}

static void add_from(struct walk *w, int file, enum q2_format format);

static bool is_difference(const struct vm_graph *g, size_t a, size_t b, uint64_t ino)
{
	const struct vm_graph_snap *x = &g->snaps[a], *y = &g->snaps[b];
	uint64_t from = vm_graph_snapdisk(g, x)->ino, to = vm_graph_snapdisk(g, y)->ino;

	return from && to && !strcmp(vm_graph_snapdisk(g, x)->target, vm_graph_snapdisk(g, y)->target) && (vm_ino_made(to, from, "qcow2") == ino || vm_ino_made(to, from, "json") == ino);
}

struct exposed {
	size_t *v, n, room;
};

static void add_exposed_index(struct exposed *found, size_t snap)
{
	XGROW(found->v, found->n, found->room);
	found->v[found->n++] = snap;
}

static void find_exposed(const struct vm_graph *g, uint64_t ino, struct exposed *found)
{
	for (size_t i = 0; i < g->n_snaps; i++) {
		const struct vm_fact_snapdisk *disk = vm_graph_snapdisk(g, &g->snaps[i]);

		if (disk->whole == ino || (disk->ino && (disk->ino == ino || vm_ino_made(disk->ino, 0, "qcow2") == ino)))
			add_exposed_index(found, i);
	}
	for (size_t i = 0; i < g->n_snaps && !found->n; i++)
		for (size_t k = i + 1; k < g->n_snaps && g->snaps[k].domain == g->snaps[i].domain && !found->n; k++) /* a domain's are together */
			if (is_difference(g, i, k, ino) || is_difference(g, k, i, ino)) {
				add_exposed_index(found, i);
				add_exposed_index(found, k);
			}
}

size_t vm_graph_exposed(const struct vm_graph *g, uint64_t ino, size_t **snaps)
{
	struct exposed found = {NULL};

	find_exposed(g, ino, &found);
	if (snaps)
		*snaps = found.v;
	else
		free(found.v);
	return found.n;
}

static void add_exposed_snap(struct walk *w, size_t snap)
{
	struct vm_verdict verdict;
	const struct vm_graph_snap *s = &w->g->snaps[snap];

	add_viewer(w, snap);
	vm_graph_state(w->g, s->domain, s->snapshot, s->disk, &verdict);
	for (size_t i = 0; i < verdict.n_layers; i++)
		add_user(w, verdict.layers[i]);
	vm_verdict_fini(&verdict);
	add_from(w, vm_graph_snapdisk(w->g, s)->pit, vm_graph_snapdisk(w->g, s)->format);
}

/* None: doubts.c. */
static void add_exposed(struct walk *w, uint64_t ino)
{
	vs_autofree size_t *snaps = NULL;
	size_t n = vm_graph_exposed(w->g, ino, &snaps);

	for (size_t i = 0; i < n; i++)
		add_exposed_snap(w, snaps[i]);
}

/* What lies behind @file, besides what its header names. */
static void add_beyond(struct walk *w, int file)
{
	const struct vm_fact_file *f = vm_graph_file(w->g, file);

	if (w->windows == WINDOWS_MAX)
		return;
	w->windows++;
	if (w->g->refused[file] != VM_NO_FILE)
		add_from(w, w->g->refused[file], vm_graph_file(w->g, w->g->refused[file])->format);
	if (f->shows != VM_NO_FILE)
		add_from(w, f->shows, Q2_FORMAT_RAW);
	if (f->exposes)
		add_exposed(w, f->exposes);
	w->windows--;
}

/* Where a walk has ended at a layer that cannot be read, and that says what it stands on: that is needed like the rest. VM_NO_FILE: it has ended. */
static int beneath_closed(struct walk *w, const struct vm_chain *chain)
{
	const struct vm_fact_file *last = chain->n ? vm_graph_file(w->g, chain->files[chain->n - 1]) : NULL;

	if (!last || last->error || !last->info || !last->info->unsupported || w->closed == VM_CHAIN_MAX)
		return VM_NO_FILE;
	w->closed++;
	return last->below;
}

/* @file and everything beneath it. */
static void add_from(struct walk *w, int file, enum q2_format format)
{
	struct vm_chain chain;

	if (file == VM_NO_FILE)
		return;
	vm_chain_walk(w->g, file, format, &chain);
	for (size_t i = 0; i < chain.n; i++) {
		add_user(w, chain.files[i]);
		add_data(w, chain.files[i]);
		add_beyond(w, chain.files[i]);
	}
	file = beneath_closed(w, &chain);
	if (file != VM_NO_FILE)
		add_from(w, file, vm_graph_file(w->g, file)->format);
}

static void add_disk_users(struct vm_graph *g, size_t disk)
{
	const struct vm_graph_disk *d = &g->disks[disk];
	const struct vm_fact_disk *fact = vm_graph_disk(g, d);
	struct walk w = {.g = g, .kind = VM_USER_DISK, .index = disk};

	for (size_t k = 0; k < d->n_chain; k++)
		add_user(&w, d->chain[k]);
	for (size_t k = 0; k < d->n_chain; k++)
		add_beyond(&w, d->chain[k]);
	add_from(&w, fact->top, fact->format);
	if (fact->mirror != VM_NO_FILE)
		add_from(&w, fact->mirror, vm_graph_file(g, fact->mirror)->format);
}

/* @file and what is beneath it, down to what a disk of that domain needs anyway. */
static void add_detached(struct walk *w, size_t domain, int file, enum q2_format format)
{
	struct vm_chain chain;

	if (file == VM_NO_FILE || vm_graph_alive(w->g, domain, file))
		return;
	vm_chain_walk(w->g, file, format, &chain);
	for (size_t i = 0; i < chain.n; i++) {
		if (vm_graph_alive(w->g, domain, chain.files[i]))
			return;
		add_user(w, chain.files[i]);
		add_data(w, chain.files[i]);
		add_beyond(w, chain.files[i]);
	}
	file = beneath_closed(w, &chain);
	add_detached(w, domain, file, file == VM_NO_FILE ? Q2_FORMAT_NONE : vm_graph_file(w->g, file)->format);
}

/* A snapshot needs what its domain's disks do not need anyway: the image that it is read from, and where its record names another one
 * that, too, for others go by the record. */
static void add_snapshot_users(struct vm_graph *g, size_t snap)
{
	const struct vm_fact_snapdisk *disk = vm_graph_snapdisk(g, &g->snaps[snap]);
	struct walk w = {.g = g, .kind = VM_USER_SNAPSHOT, .index = snap};
	enum q2_format format;
	int image = vm_graph_image(g, &g->snaps[snap], &format);

	add_detached(&w, g->snaps[snap].domain, image, format);
	if (!vm_graph_same(g, image, disk->pit))
		add_detached(&w, g->snaps[snap].domain, disk->pit, disk->format);
}

/* Whatever a record calls its memory is needed by that snapshot, be it a disk of somebody's; so is a copy that we made with it. */
static void add_beside_users(struct vm_graph *g, size_t domain, size_t snapshot)
{
	const struct vm_fact_snapshot *s = &g->facts->domains[domain].snapshots[snapshot];

	for (size_t i = 0; i < s->n_beside; i++) {
		struct walk w = {.g = g, .kind = VM_USER_BESIDE, .index = g->n_besides};

		XGROW(g->besides, g->n_besides, g->besides_room);
		g->besides[g->n_besides++] = (struct vm_graph_beside){domain, snapshot, s->beside[i].what};
		add_user(&w, s->beside[i].file);
		add_beyond(&w, s->beside[i].file);
	}
}

static void add_firmware_users(struct vm_graph *g, size_t domain)
{
	const struct vm_fact_domain *d = &g->facts->domains[domain];

	for (size_t i = 0; i < d->n_beside; i++) {
		struct walk w = {.g = g, .kind = VM_USER_BESIDE, .index = g->n_besides};

		XGROW(g->besides, g->n_besides, g->besides_room);
		g->besides[g->n_besides++] = (struct vm_graph_beside){domain, VM_NO_SNAPSHOT, d->beside[i].what};
		add_from(&w, d->beside[i].file, vm_graph_file(g, d->beside[i].file)->format);
	}
}

/* An image that no disk and no snapshot has needs what it stands on. */
static void add_image_users(struct vm_graph *g, enum vm_graph_user_kind kind, size_t index, int file, bool *known)
{
	struct walk w = {.g = g, .kind = kind, .index = index};
	size_t from = g->n_users;

	if (file == VM_NO_FILE || known[g->node[file]])
		return;
	known[g->node[file]] = true;
	add_from(&w, file, vm_graph_file(g, file)->format);
	if (g->n_users > from) /* itself it does not need */
		memmove(&g->users[from], &g->users[from + 1], (--g->n_users - from) * sizeof(*g->users));
}

void vm_graph_find_users(struct vm_graph *g)
{
	vs_autofree bool *known = xcalloc(g->facts->n_files + 1, sizeof(*known));

	for (size_t i = 0; i < g->n_disks; i++)
		add_disk_users(g, i);
	for (size_t i = 0; i < g->n_snaps; i++)
		add_snapshot_users(g, i);
	for (size_t d = 0; d < g->facts->n_domains; d++)
		add_firmware_users(g, d);
	for (size_t d = 0; d < g->facts->n_domains; d++)
		for (size_t s = 0; s < g->facts->domains[d].n_snapshots; s++)
			add_beside_users(g, d, s);
	for (size_t i = 0; i < g->n_users; i++)
		known[g->node[g->users[i].file]] = true;
	for (size_t i = 0; i < g->facts->n_volumes; i++)
		add_image_users(g, VM_USER_VOLUME, i, g->facts->volumes[i].file, known);
	for (size_t i = 0; i < g->facts->n_files; i++)
		if (vm_graph_exists(g, (int)i))
			add_image_users(g, VM_USER_LEFT, i, (int)i, known);
	vm_links_new(&g->users_of, g->facts->n_files, g->n_users);
	for (size_t i = g->n_users; i-- > 0;)
		vm_links_add(g, &g->users_of, g->users[i].file, i);
}

/* ---------------------------------------------------------------- words */

char *vm_graph_user_phrase(const struct vm_graph *g, enum vm_graph_user_kind kind, size_t index)
{
	const struct vm_fact_volume *volume;

	if (kind == VM_USER_DISK) {
		const struct vm_graph_disk *disk = &g->disks[index];

		return xasprintf("domain '%s' (disk %s)", g->facts->domains[disk->domain].name, vm_graph_disk(g, disk)->target);
	}
	if (kind == VM_USER_SNAPSHOT) {
		const struct vm_graph_snap *snap = &g->snaps[index];

		return xasprintf("snapshot '%s' of domain '%s' (disk %s)", vm_graph_snapshot(g, snap)->shown,
				 g->facts->domains[snap->domain].name, vm_graph_snapdisk(g, snap)->target);
	}
	if (kind == VM_USER_LEFT)
		return xasprintf("image '%s'", vm_graph_file(g, (int)index)->path);
	if (kind == VM_USER_BESIDE) {
		const struct vm_fact_domain *domain = &g->facts->domains[g->besides[index].domain];

		if (g->besides[index].snapshot == VM_NO_SNAPSHOT)
			return xasprintf("domain '%s' (%s)", domain->name, g->besides[index].what);
		return xasprintf("snapshot '%s' of domain '%s' (%s)", domain->snapshots[g->besides[index].snapshot].shown, domain->name,
				 g->besides[index].what);
	}
	volume = &g->facts->volumes[index];
	return volume->pool ? xasprintf("volume '%s' of pool '%s'", volume->name, volume->pool) :
			      xasprintf("image '%s'", volume->name);
}

bool vm_graph_user_is_own(const struct vm_graph *g, enum vm_graph_user_kind kind, size_t index, size_t domain)
{
	if (kind == VM_USER_DISK)
		return g->disks[index].domain == domain;
	if (kind == VM_USER_BESIDE)
		return g->besides[index].domain == domain;
	return kind == VM_USER_SNAPSHOT && g->snaps[index].domain == domain;
}

char **vm_graph_viewers(const struct vm_graph *g, size_t domain, size_t snapshot, struct vm_arena *arena)
{
	struct vm_strings list = {0};

	for (size_t i = 0; i < g->n_viewers; i++) {
		const struct vm_graph_snap *s = &g->snaps[g->viewers[i].snap];

		if (s->domain == domain && s->snapshot == snapshot)
			vm_strings_take(arena, &list, vm_graph_user_phrase(g, g->viewers[i].kind, g->viewers[i].index));
	}
	return vm_strings_done(&list);
}
