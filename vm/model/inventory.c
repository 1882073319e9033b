/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/model/inventory.h"

#include <stdatomic.h>
#include <string.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define GROWTH_NEWS (UINT64_C(1) << 20)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

struct domain_box {
	atomic_uint refs;
	struct vm_arena arena;
	struct vm_domain domain;
	struct vm_domain *told;
};

struct inventory_box {
	atomic_uint refs;
	struct vm_inventory inventory;
};

/* ---------------------------------------------------------------- domains */

struct vm_domain *vm_domain_new(void)
{
	struct domain_box *box = xcalloc(1, sizeof(*box));

	atomic_init(&box->refs, 1);
	vm_arena_init(&box->arena);
	return &box->domain;
}

struct vm_arena *vm_domain_arena(struct vm_domain *d)
{
	return &container_of(d, struct domain_box, domain)->arena;
}

struct vm_domain *vm_domain_ref(struct vm_domain *d)
{
	atomic_fetch_add_explicit(&container_of(d, struct domain_box, domain)->refs, 1, memory_order_relaxed);
	return d;
}

void vm_domain_unref(struct vm_domain *d)
{
	struct domain_box *box;

	if (!d)
		return;
	box = container_of(d, struct domain_box, domain);
	if (atomic_fetch_sub_explicit(&box->refs, 1, memory_order_acq_rel) != 1)
		return;
	vm_domain_unref(box->told);
	vm_arena_fini(&box->arena);
	free(box);
}

const struct vm_domain *vm_domain_told(const struct vm_domain *d)
{
	return container_of((struct vm_domain *)d, struct domain_box, domain)->told;
}

void vm_domain_set_told(struct vm_domain *d, struct vm_domain *told)
{
	container_of(d, struct domain_box, domain)->told = told;
}

/* ---------------------------------------------------------------- what a user would see */

static bool same_list(char *const *a, char *const *b)
{
	if (!a || !b)
		return a == b;
	while (*a && *b && !strcmp(*a, *b)) {
		a++;
		b++;
	}
	return !*a && !*b;
}

static bool same_entry(const struct q2_snapshot *a, const struct q2_snapshot *b)
{
	return a == b || (a && b && q2_snapshot_same(a, b) && a->has_disk_size == b->has_disk_size);
}

/* Of the files that should hold still; an image with snapshots inside it need not. Each must be the same file. */
static bool same_stamps(const struct vm_disk *a, const struct vm_disk *b)
{
	if (a->n_stamps != b->n_stamps)
		return false;
	for (size_t i = 0; a->survived && b->survived && i < a->n_stamps; i++)
		if (a->survived[i] != b->survived[i])
			return false;
	for (size_t i = 0; i < a->n_stamps; i++)
		if (a->stamps[i].dev != b->stamps[i].dev || a->stamps[i].ino != b->stamps[i].ino)
			return false;
	for (size_t i = a->snapshot ? 1 : 0; i < a->n_stamps && (!a->watched || i < a->watched); i++)
		if (a->stamps[i].size != b->stamps[i].size || a->stamps[i].mtime_ns != b->stamps[i].mtime_ns ||
		    (a->marks && b->marks && (a->marks[i].size != b->marks[i].size || a->marks[i].mtime_ns != b->marks[i].mtime_ns)))
			return false;
	return true;
}

static bool same_disk(const struct vm_disk *a, const struct vm_disk *b)
{
	return vm_same_text(a->target, b->target) && vm_same_text(a->file, b->file) && a->state == b->state &&
	       vm_same_text(a->reason, b->reason) && a->size == b->size && a->created_ns == b->created_ns &&
	       a->ino == b->ino && same_list(a->chain, b->chain) && a->format == b->format &&
	       same_entry(a->snapshot, b->snapshot) && a->gate == b->gate && a->guard == b->guard &&
	       a->guard_top == b->guard_top && a->watched == b->watched && a->written == b->written && a->differs == b->differs &&
	       a->misses == b->misses && a->brief == b->brief && same_stamps(a, b);
}

static bool same_snapshot(const struct vm_snapshot *a, const struct vm_snapshot *b)
{
	if (!vm_same_text(a->name, b->name) || !vm_same_text(a->shown, b->shown) || a->kind != b->kind || a->state != b->state ||
	    !vm_same_text(a->reason, b->reason) || a->memory != b->memory || a->held != b->held || a->ours != b->ours ||
	    a->recorded != b->recorded || a->lost != b->lost || a->current != b->current || a->present != b->present ||
	    a->created_ns != b->created_ns || !vm_same_text(a->parent, b->parent) || !same_list(a->users, b->users) ||
	    !vm_same_text(a->xml_file, b->xml_file) ||
	    a->xml_len != b->xml_len || (a->xml != b->xml && a->xml_len && memcmp(a->xml, b->xml, a->xml_len)) ||
	    a->n_disks != b->n_disks || a->n_nv != b->n_nv)
		return false;
	for (size_t i = 0; i < a->n_disks; i++)
		if (!same_disk(&a->disks[i], &b->disks[i]))
			return false;
	for (size_t i = 0; i < a->n_nv; i++)
		if (!same_disk(&a->nv[i], &b->nv[i]))
			return false;
	return true;
}

static bool same_allocated(const struct vm_layer *a, const struct vm_layer *b)
{
	uint64_t apart = a->allocated > b->allocated ? a->allocated - b->allocated : b->allocated - a->allocated;

	return !apart || (a->active && b->active && apart < GROWTH_NEWS);
}

/* What the active layer is written is no news. */
static bool same_stamp(const struct vm_layer *a, const struct vm_layer *b)
{
	return (a->active && b->active) || (a->stamp.size == b->stamp.size && a->stamp.mtime_ns == b->stamp.mtime_ns);
}

static bool same_layer(const struct vm_layer *a, const struct vm_layer *b)
{
	return vm_same_text(a->path, b->path) && a->format == b->format && a->virtual_size == b->virtual_size &&
	       same_allocated(a, b) && a->below == b->below && a->active == b->active && vm_same_text(a->data, b->data) &&
	       a->beside == b->beside && a->error == b->error &&
	       a->stamp.dev == b->stamp.dev && a->stamp.ino == b->stamp.ino && a->unknown_code == b->unknown_code &&
	       vm_same_text(a->unknown, b->unknown) && vm_same_text(a->rival, b->rival) && vm_same_text(a->ends, b->ends) &&
	       same_list(a->paths, b->paths) && same_stamp(a, b) &&
	       vm_same_text(a->internal, b->internal) && same_list(a->bitmaps, b->bitmaps) && same_list(a->users, b->users) && same_list(a->snapshots, b->snapshots) &&
	       vm_same_text(a->note, b->note);
}

static bool same_doubt(const struct vm_doubt *a, const struct vm_doubt *b)
{
	return vm_same_text(a->path, b->path) && vm_same_text(a->phrase, b->phrase) && a->code == b->code && same_list(a->snapshots, b->snapshots);
}

static bool same_disk_now(const struct vm_disk_now *a, const struct vm_disk_now *b)
{
	return vm_same_text(a->target, b->target) && vm_same_text(a->source, b->source) && a->top == b->top &&
	       vm_same_text(a->note, b->note) && vm_same_text(a->doubt, b->doubt) && vm_same_text(a->job, b->job) && a->transient == b->transient && a->contradicted == b->contradicted;
}

bool vm_domain_equal(const struct vm_domain *a, const struct vm_domain *b)
{
	if (!vm_same_text(a->name, b->name) || !vm_same_text(a->dir, b->dir) || !vm_same_text(a->uuid, b->uuid) ||
	    !vm_same_text(a->state, b->state) || a->ino != b->ino || a->log != b->log || a->n_snapshots != b->n_snapshots ||
	    a->unread != b->unread || !vm_same_text(a->untold, b->untold) || a->n_layers != b->n_layers || a->n_disks != b->n_disks || a->n_doubts != b->n_doubts)
		return false;
	if (!same_list(a->nv_paths, b->nv_paths))
		return false;
	for (size_t i = 0; i < a->n_disks; i++)
		if (!same_disk_now(&a->disks[i], &b->disks[i]))
			return false;
	for (size_t i = 0; i < a->n_doubts; i++)
		if (!same_doubt(&a->doubts[i], &b->doubts[i]))
			return false;
	for (size_t i = 0; i < a->n_layers; i++)
		if (!same_layer(&a->layers[i], &b->layers[i]))
			return false;
	for (size_t i = 0; i < a->n_snapshots; i++)
		if (!same_snapshot(&a->snapshots[i], &b->snapshots[i]))
			return false;
	return same_list(a->unknowns, b->unknowns) && same_list(a->checkpoints, b->checkpoints);
}

/* ---------------------------------------------------------------- inventories */

static int by_dir(const void *a, const void *b)
{
	const struct vm_domain *const *x = a, *const *y = b;

	return strcmp((*x)->dir, (*y)->dir);
}

static bool same_domains(const struct vm_inventory *a, const struct vm_inventory *b)
{
	return a->n_domains == b->n_domains &&
	       (!a->n_domains || !memcmp(a->domains, b->domains, a->n_domains * sizeof(struct vm_domain *)));
}

struct vm_inventory *vm_inventory_new(struct vm_domain **domains, size_t n, const struct vm_inventory *prev)
{
	struct inventory_box *box = xcalloc(1, sizeof(*box));
	struct vm_inventory *inv = &box->inventory;

	atomic_init(&box->refs, 1);
	inv->domains = xcalloc(n, sizeof(struct vm_domain *));
	inv->n_domains = n;
	if (n)
		memcpy(inv->domains, domains, n * sizeof(struct vm_domain *));
	qsort(inv->domains, n, sizeof(struct vm_domain *), by_dir);
	inv->built_ns = vm_now_ns();
	inv->serial = !prev ? 1 : same_domains(inv, prev) ? prev->serial : prev->serial + 1;
	return inv;
}

struct vm_inventory *vm_inventory_again(const struct vm_inventory *prev)
{
	for (size_t i = 0; i < prev->n_domains; i++)
		vm_domain_ref(prev->domains[i]);
	return vm_inventory_new(prev->domains, prev->n_domains, prev);
}

struct vm_inventory *vm_inventory_ref(struct vm_inventory *inv)
{
	atomic_fetch_add_explicit(&container_of(inv, struct inventory_box, inventory)->refs, 1, memory_order_relaxed);
	return inv;
}

void vm_inventory_put(struct vm_inventory *inv)
{
	struct inventory_box *box;

	if (!inv)
		return;
	box = container_of(inv, struct inventory_box, inventory);
	if (atomic_fetch_sub_explicit(&box->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < inv->n_domains; i++)
		vm_domain_unref(inv->domains[i]);
	free(inv->domains);
	free(box);
}

struct vm_domain *vm_inventory_by_uuid(const struct vm_inventory *inv, const char *uuid)
{
	for (size_t i = 0; i < inv->n_domains; i++)
		if (!strcmp(inv->domains[i]->uuid, uuid))
			return inv->domains[i];
	return NULL;
}

const struct vm_snapshot *vm_domain_shown(const struct vm_domain *d, const char *shown)
{
	for (size_t i = 0; i < d->n_snapshots; i++)
		if (!strcmp(d->snapshots[i].shown, shown))
			return &d->snapshots[i];
	return NULL;
}

const struct vm_domain *vm_inventory_domain(const struct vm_inventory *inv, const char *dir)
{
	size_t lo = 0, hi = inv->n_domains;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int cmp = strcmp(inv->domains[mid]->dir, dir);

		if (!cmp)
			return inv->domains[mid];
		if (cmp < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}
