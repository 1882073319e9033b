/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* Building the graph: which files are one image, and who points at whom. What follows from it is in jobs.c, users.c and doubts.c; the
 * verdicts are in state.c. */
#include "vm/graph/graph-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/model/mark.h"
#include "vm/util/mem.h"
#include "vm/util/strmap.h"

/* ---------------------------------------------------------------- nodes and links */

static int compare_files(const void *a, const void *b, void *opaque)
{
	const struct vm_fact_file *files = opaque;
	int i = *(const int *)a, k = *(const int *)b;
	const struct q2_stamp *x = &files[i].stamp, *y = &files[k].stamp;
	int order;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	if (x->ino != y->ino)
		return x->ino < y->ino ? -1 : 1;
	order = x->ino == 0 ? strcmp(files[i].path, files[k].path) : 0;
	return order ? order : (i > k) - (i < k);
}

static bool one_image(const struct vm_fact_file *a, const struct vm_fact_file *b)
{
	return a->stamp.dev == b->stamp.dev && a->stamp.ino == b->stamp.ino && (a->stamp.ino || !strcmp(a->path, b->path));
}

/* The first of @order with that identity, or VM_NO_FILE. */
static int find_inode(const struct vm_fact_file *files, const int *order, size_t n, uint64_t dev, uint64_t ino)
{
	size_t low = 0, high = n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		const struct q2_stamp *s = &files[order[mid]].stamp;

		if (s->dev < dev || (s->dev == dev && s->ino < ino))
			low = mid + 1;
		else
			high = mid;
	}
	return low < n && files[order[low]].stamp.dev == dev && files[order[low]].stamp.ino == ino ? order[low] : VM_NO_FILE;
}

static void find_nodes(struct vm_graph *g)
{
	const struct vm_fact_file *files = g->facts->files;
	size_t n = g->facts->n_files;
	vs_autofree int *order = xcalloc(n, sizeof(*order));

	g->node = xcalloc(n, sizeof(*g->node));
	g->alias = xcalloc(n, sizeof(*g->alias));
	g->refused = xcalloc(n, sizeof(*g->refused));
	for (size_t i = 0; i < n; i++)
		order[i] = (int)i;
	qsort_r(order, n, sizeof(*order), compare_files, (void *)files);
	for (size_t i = 0; i < n; i++) {
		bool same = i > 0 && one_image(&files[order[i - 1]], &files[order[i]]);

		g->node[order[i]] = same ? g->node[order[i - 1]] : order[i];
		g->alias[order[i]] = VM_NO_FILE;
		if (same)
			g->alias[order[i - 1]] = order[i];
	}
	for (size_t i = 0; i < n; i++)
		g->refused[i] = files[i].below == VM_NO_FILE && files[i].refused_ino ?
			find_inode(files, order, n, files[i].refused_dev, files[i].refused_ino) : VM_NO_FILE;
}

struct q2_stamp vm_graph_stamp(const struct vm_graph *g, int file)
{
	const struct vm_fact_file *f = vm_graph_file(g, file);

	return vm_mark(f->stamp, vm_graph_exists(g, f->data) ? &vm_graph_file(g, f->data)->stamp : NULL);
}

void vm_links_new(struct vm_links *links, size_t n_nodes, size_t n_things)
{
	links->head = xcalloc(n_nodes, sizeof(int));
	links->next = xcalloc(n_things, sizeof(int));
	for (size_t i = 0; i < n_nodes; i++)
		links->head[i] = -1;
}

static void links_free(struct vm_links *links)
{
	free(links->head);
	free(links->next);
}

void vm_links_add(const struct vm_graph *g, struct vm_links *links, int file, size_t thing)
{
	int node;

	if (file == VM_NO_FILE)
		return;
	node = g->node[file];
	links->next[thing] = links->head[node];
	links->head[node] = (int)thing;
}

/* ---------------------------------------------------------------- chains */

static enum vm_state state_of_error(int error)
{
	switch (-error) {
	case ENOENT:
	case ENOTDIR:
	case EINVAL: /* no image any more */
	case EUCLEAN:
	case ELOOP:
		return VM_STALE;
	case EAGAIN: /* its header never held still */
	case EBUSY:
		return VM_BUSY;
	default: /* not ours to read, or not now */
		return VM_UNSUPPORTED;
	}
}

static void chain_end(struct vm_chain *chain, enum vm_state state, int culprit, const char *why)
{
	chain->state = state;
	chain->culprit = culprit;
	chain->why = why;
}

static void chain_error(const struct vm_graph *g, struct vm_chain *chain, int culprit)
{
	const struct vm_fact_file *f = vm_graph_file(g, culprit);
	const char *why = f->why ? NULL : f->error == -ENOENT ? "is missing" : strerror(-f->error);

	chain_end(chain, state_of_error(f->error), culprit, why);
}

/* Looks at one layer. True: go on beneath it. */
static bool chain_layer(const struct vm_graph *g, int file, enum q2_format format, struct vm_chain *chain)
{
	const struct vm_fact_file *f = vm_graph_file(g, file);

	if (f->error)
		chain_error(g, chain, file);
	else if (format == Q2_FORMAT_NONE)
		chain_end(chain, VM_UNSUPPORTED, file, "has no format recorded, and formats are never guessed");
	else if (format == Q2_FORMAT_RAW)
		return false;
	else if (!f->info)
		chain_end(chain, VM_UNSUPPORTED, file, "was not read as a qcow2 image");
	else if (f->info->unsupported)
		chain_end(chain, VM_UNSUPPORTED, file, f->info->unsupported);
	else if (f->data != VM_NO_FILE && vm_graph_file(g, f->data)->error)
		chain_error(g, chain, f->data);
	else if (f->below_why)
		chain_end(chain, VM_UNSUPPORTED, file, f->below_why);
	else
		return f->below != VM_NO_FILE;
	return false;
}

/* The walk has come to more layers than there may be: does it go round in circles? Then one round is enough. */
static void chain_too_long(const struct vm_graph *g, int file, struct vm_chain *chain)
{
	int seen = vm_chain_index(g, chain->files, chain->n, file);

	chain_end(chain, VM_UNSUPPORTED, file, "lies deeper than 200 layers");
	if (seen < 0)
		return;
	chain_end(chain, VM_STALE, file, "stands on itself");
	for (size_t i = 1; i < chain->n; i++)
		if (vm_chain_index(g, chain->files, i, chain->files[i]) >= 0)
			chain->n = i;
}

void vm_chain_walk(const struct vm_graph *g, int file, enum q2_format format, struct vm_chain *chain)
{
	chain->n = 0;
	chain_end(chain, VM_OK, VM_NO_FILE, NULL);
	while (file != VM_NO_FILE) {
		if (chain->n == VM_CHAIN_MAX) {
			chain_too_long(g, file, chain);
			return;
		}
		chain->files[chain->n++] = file;
		if (!chain_layer(g, file, format, chain))
			return;
		format = vm_graph_file(g, file)->below_format;
		file = vm_graph_file(g, file)->below;
	}
}

int vm_chain_index(const struct vm_graph *g, const int *files, size_t n, int file)
{
	for (size_t i = 0; file != VM_NO_FILE && i < n; i++)
		if (vm_graph_same(g, files[i], file))
			return (int)i;
	return -1;
}

/* ---------------------------------------------------------------- disks and snapshots */

/* What @file stood on, by the record of the snapshot that created it. */
static int recorded_below(const struct vm_graph *g, int file)
{
	int i = g->overlays.head[g->node[file]];

	return i < 0 ? VM_NO_FILE : vm_graph_snapdisk(g, &g->snaps[i])->pit;
}

int vm_graph_stands_on(const struct vm_graph *g, int file)
{
	return vm_graph_exists(g, file) ? vm_graph_file(g, file)->below : recorded_below(g, file);
}

/* What belongs to a disk, readable or not: on through layers that are encrypted or missing. */
static size_t follow(const struct vm_graph *g, int file, enum q2_format format, int *files)
{
	size_t n = 0;

	while (file != VM_NO_FILE && n < VM_CHAIN_MAX && vm_chain_index(g, files, n, file) < 0) {
		files[n++] = file;
		if (format == Q2_FORMAT_RAW)
			break;
		format = vm_graph_exists(g, file) ? vm_graph_file(g, file)->below_format : Q2_FORMAT_NONE;
		file = vm_graph_stands_on(g, file);
	}
	return n;
}

static void keep_chain(struct vm_graph *g, struct vm_graph_disk *disk)
{
	const struct vm_fact_disk *fact = vm_graph_disk(g, disk);
	int followed[VM_CHAIN_MAX];
	const int *files = fact->chain;

	disk->n_chain = fact->n_chain;
	if (!files) {
		files = followed;
		disk->n_chain = follow(g, fact->top, fact->format, followed);
	}
	disk->chain = xcalloc(disk->n_chain, sizeof(int));
	if (disk->n_chain)
		memcpy(disk->chain, files, disk->n_chain * sizeof(int));
}

static void collect_disks(struct vm_graph *g)
{
	const struct vm_facts *facts = g->facts;
	size_t n = 0;

	for (size_t d = 0; d < facts->n_domains; d++)
		n += facts->domains[d].n_disks;
	g->disks = xcalloc(n, sizeof(*g->disks));
	g->first_disk = xcalloc(facts->n_domains, sizeof(*g->first_disk));
	vm_links_new(&g->tops, facts->n_files, n);
	for (size_t d = 0; d < facts->n_domains; d++) {
		g->first_disk[d] = g->n_disks;
		for (size_t i = 0; i < facts->domains[d].n_disks; i++) {
			g->disks[g->n_disks] = (struct vm_graph_disk){.domain = d, .disk = i};
			keep_chain(g, &g->disks[g->n_disks++]);
		}
	}
	for (size_t i = g->n_disks; i-- > 0;)
		vm_links_add(g, &g->tops, vm_graph_disk(g, &g->disks[i])->top, i);
}

static size_t count_snaps(const struct vm_facts *facts)
{
	size_t n = 0;

	for (size_t d = 0; d < facts->n_domains; d++)
		for (size_t s = 0; s < facts->domains[d].n_snapshots; s++)
			n += facts->domains[d].snapshots[s].n_disks;
	return n;
}

static void collect_snaps(struct vm_graph *g)
{
	const struct vm_facts *facts = g->facts;
	size_t n = count_snaps(facts);

	g->snaps = xcalloc(n, sizeof(*g->snaps));
	vm_links_new(&g->pits, facts->n_files, n);
	vm_links_new(&g->overlays, facts->n_files, n);
	for (size_t d = 0; d < facts->n_domains; d++)
		for (size_t s = 0; s < facts->domains[d].n_snapshots; s++)
			for (size_t i = 0; i < facts->domains[d].snapshots[s].n_disks; i++)
				g->snaps[g->n_snaps++] = (struct vm_graph_snap){d, s, i};
	for (size_t i = n; i-- > 0;) {
		const struct vm_fact_snapdisk *disk = vm_graph_snapdisk(g, &g->snaps[i]);

		vm_links_add(g, &g->pits, disk->pit, i);
		vm_links_add(g, &g->overlays, disk->mode == VM_MODE_EXTERNAL ? disk->overlay : VM_NO_FILE, i);
	}
}

bool vm_graph_alive(const struct vm_graph *g, size_t domain, int file)
{
	for (size_t i = 0; i < g->facts->domains[domain].n_disks; i++) {
		const struct vm_graph_disk *disk = &g->disks[g->first_disk[domain] + i];

		if (vm_chain_index(g, disk->chain, disk->n_chain, file) >= 0)
			return true;
	}
	return false;
}

const struct vm_graph_disk *vm_graph_writer(const struct vm_graph *g, int file)
{
	const struct vm_graph_disk *found = NULL;

	for (int i = g->tops.head[g->node[file]]; i >= 0; i = g->tops.next[i]) {
		const struct vm_fact_domain *domain = &g->facts->domains[g->disks[i].domain];

		if (domain->image || !vm_graph_disk(g, &g->disks[i])->writable)
			continue;
		if (domain->running)
			return &g->disks[i];
		if (!found)
			found = &g->disks[i];
	}
	return found;
}

/* ---------------------------------------------------------------- what running domains tell */

/* libvirt's word for a chain that QEMU has open, node by node. */
static void hear_running(struct vm_graph *g)
{
	g->live_end = xcalloc(g->facts->n_files, sizeof(*g->live_end));
	g->live_below = xcalloc(g->facts->n_files, sizeof(*g->live_below));
	for (size_t i = 0; i < g->facts->n_files; i++)
		g->live_below[i] = VM_NO_FILE;
	for (size_t i = 0; i < g->n_disks; i++) {
		const struct vm_graph_disk *d = &g->disks[i];

		if (!vm_graph_disk(g, d)->chain)
			continue;
		for (size_t k = 0; k + 1 < d->n_chain; k++)
			g->live_below[g->node[d->chain[k]]] = d->chain[k + 1];
		if (d->n_chain)
			g->live_end[g->node[d->chain[d->n_chain - 1]]] = true;
	}
}

/* ---------------------------------------------------------------- life */

struct vm_graph *vm_graph_new(const struct vm_facts *facts)
{
	struct vm_graph *g = xcalloc(1, sizeof(*g));

	g->facts = facts;
	find_nodes(g);
	collect_snaps(g);
	collect_disks(g);
	vm_graph_find_jobs(g);
	hear_running(g);
	vm_graph_find_users(g);
	vm_graph_find_doubts(g);
	return g;
}

void vm_graph_free(struct vm_graph *g)
{
	if (!g)
		return;
	free(g->node);
	free(g->alias);
	free(g->refused);
	for (size_t i = 0; i < g->n_disks; i++)
		free(g->disks[i].chain);
	free(g->disks);
	free(g->first_disk);
	free(g->snaps);
	free(g->besides);
	free(g->commits);
	for (size_t i = 0; i < g->n_repoints; i++)
		free(g->repoints[i].removed);
	free(g->repoints);
	free(g->running);
	links_free(&g->tops);
	links_free(&g->pits);
	links_free(&g->overlays);
	free(g->users);
	links_free(&g->users_of);
	free(g->viewers);
	free(g->doubts);
	vm_strmap_clear(&g->named, NULL);
	free(g->live_end);
	free(g->live_below);
	links_free(&g->commit_bases);
	links_free(&g->repoint_bases);
	free(g);
}
