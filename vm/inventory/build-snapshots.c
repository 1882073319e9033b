/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Recorded snapshots first, in libvirt's order (parents first). Then the entries of tables that no record claims, as
 * `qemu-img snapshot` makes them: in the images that the domain's disks are on, and in those that its external snapshots
 * froze or created. Images further down belong to whoever made them: a template's snapshots are not shown in every clone.
 */
#include <string.h>
#include <unistd.h>

#include "vm/inventory/build.h"
#include "vm/util/clock.h"

#define MAKING_S 3

struct snaps {
	struct vm_build *sk;
	const struct vm_observed_domain *k;
	struct vm_draft *d;
	struct vm_strmap claims; /* by image: bool flags of the entries that are claimed; all owned by the arena */
	struct vm_strmap tabled; /* images whose table was looked at */
	size_t room;
};

/* ---------------------------------------------------------------- claims */

static struct vm_strmap_key image_key(const struct vm_build *sk, int file)
{
	return vm_strmap_file(sk->chains.fact[file].stamp.dev, sk->chains.fact[file].stamp.ino);
}

static const struct q2_info *table_of(const struct vm_build *sk, int file)
{
	return file == VM_NO_FILE ? NULL : sk->chains.fact[file].info;
}

/* The flags of an image's entries. */
static bool *claims_of(struct snaps *s, int file)
{
	struct vm_strmap_key key = image_key(s->sk, file);
	bool *flags = vm_strmap_get(&s->claims, key.text);

	if (flags)
		return flags;
	flags = vm_arena_calloc(&s->sk->arena, table_of(s->sk, file)->n_snapshots, sizeof(*flags)); /* 65,536 at most, as in stray.c */
	vm_strmap_put(&s->claims, key.text, flags);
	return flags;
}

/* The entry that a recorded internal snapshot means, which is nobody else's from now on; NULL: there is none. */
static const struct q2_snapshot *claim(struct snaps *s, int file, const struct vm_xml_snapshot *xml)
{
	const struct q2_info *info = table_of(s->sk, file);
	const struct q2_snapshot *entry = info ? vm_entry_find(info, xml->name, xml->created_s) : NULL;

	if (entry)
		claims_of(s, file)[entry - info->snapshots] = true;
	return entry;
}

/* ---------------------------------------------------------------- recorded ones */

static void draw_frozen(struct snaps *s, const struct vm_xml_disk *frozen, struct vm_fact_snapdisk *fact)
{
	struct vm_build *sk = s->sk;

	if (!frozen) {
		fact->unsupported = "its record does not say which image it froze";
		return;
	}
	fact->pit = vm_build_file(sk, &frozen->source, s->d->gate);
	fact->format = frozen->source.format;
	fact->unsupported = vm_build_unsupported(sk, &frozen->source);
	if (fact->mode != VM_MODE_INTERNAL || (!frozen->n_below && !frozen->below_complete))
		return;
	fact->below_known = true;
	if (frozen->n_below)
		fact->below = vm_build_file(sk, &frozen->below[0], s->d->gate);
	if (frozen->n_below && fact->below == VM_NO_FILE)
		fact->below_known = false;
}

static void draw_disk(struct snaps *s, const struct vm_xml_snapshot *xml, const struct vm_xml_snapdisk *from,
		      struct vm_draft_disk *disk)
{
	disk->fact = (struct vm_fact_snapdisk){
		.target = from->target, .mode = from->mode, .pit = VM_NO_FILE, .overlay = VM_NO_FILE, .below = VM_NO_FILE,
		.deleting = from->delete_in_progress,
	};
	draw_frozen(s, from->frozen, &disk->fact);
	if (from->frozen)
		vm_build_elsewhere(s->sk, &from->frozen->source, from->target,
				   vm_arena_printf(&s->sk->arena, "snapshot '%s' of domain '%s'", xml->name, s->d->dir));
	if (from->mode == VM_MODE_EXTERNAL)
		disk->fact.overlay = vm_chains_path(&s->sk->chains, vm_build_path(s->sk, &from->overlay),
						    from->overlay.format == Q2_FORMAT_NONE ? Q2_FORMAT_QCOW2 :
						    from->overlay.format, s->d->gate);
	if (from->mode == VM_MODE_INTERNAL)
		disk->entry = claim(s, disk->fact.pit, xml);
}

/* A disk that took no part: no image of the snapshot, but a revert may attach it again. */
static void draw_other(struct snaps *s, const struct vm_xml_disk *then)
{
	struct vm_draft *d = s->d;
	int file = then && vm_xml_disk_exposed(then) ? vm_build_file(s->sk, &then->source, d->gate) : VM_NO_FILE;

	for (size_t i = 0; file != VM_NO_FILE && i < d->n_others; i++)
		if (d->others[i] == file)
			return;
	if (file == VM_NO_FILE)
		return;
	VM_ARENA_GROW(&s->sk->arena, d->others, d->n_others, d->others_room);
	d->others[d->n_others++] = file;
}

static void draw_disks(struct snaps *s, const struct vm_xml_snapshot *xml, struct vm_draft_snapshot *snap)
{
	snap->disks = vm_arena_calloc(&s->sk->arena, xml->n_disks, sizeof(*snap->disks));
	for (size_t i = 0; i < xml->n_disks; i++) {
		const struct vm_xml_snapdisk *from = &xml->disks[i];

		if (from->mode == VM_MODE_NO)
			draw_other(s, from->frozen);
		if (from->mode == VM_MODE_NO || (from->frozen && !vm_xml_disk_exposed(from->frozen)))
			continue;
		draw_disk(s, xml, from, &snap->disks[snap->n_disks++]);
	}
}

/* Needed, and never read: whatever the record says it is. */
static void draw_memory(struct snaps *s, const struct vm_xml_snapshot *xml, struct vm_draft_snapshot *snap)
{
	const char *nvram = xml->domain ? xml->domain->nvram : NULL;

	if (nvram && access(nvram, F_OK) == 0) { /* a revert brings back the definition, and with it these variables */
		VM_ARENA_GROW(&s->sk->arena, snap->beside, snap->n_beside, snap->beside_room);
		snap->beside[snap->n_beside++] = (struct vm_fact_beside){ vm_chains_path(&s->sk->chains, nvram, Q2_FORMAT_RAW, s->d->gate),
									  "its firmware variables" };
	}
	if (xml->memory != VM_MODE_EXTERNAL || !xml->memory_file || xml->memory_file[0] != '/')
		return;
	VM_ARENA_GROW(&s->sk->arena, snap->beside, snap->n_beside, snap->beside_room);
	snap->beside[snap->n_beside++] = (struct vm_fact_beside){ vm_chains_path(&s->sk->chains, xml->memory_file, Q2_FORMAT_RAW, s->d->gate), "its memory" };
}

/* The snapshot of that name among those already drawn. */
static int find_parent(const struct snaps *s, const char *name)
{
	for (size_t i = s->d->n_snapshots; name && i-- > 0;)
		if (!strcmp(s->d->snapshots[i].name, name))
			return (int)i;
	return -1;
}

/* libvirt lists a snapshot from when it begins to take it, and its time is that of the beginning. Of a running domain libvirt
 * tells how long it has been at work on it; of others we know only that it does not take long. */
static bool in_making(const struct vm_observed_domain *k, const struct vm_xml_snapshot *xml)
{
	int64_t age_s = vm_now_ns() / VM_NS_PER_S - xml->created_s;

	if (k->running)
		return k->busy_since_s && xml->created_s >= k->busy_since_s - 2;
	return age_s >= -2 && age_s <= MAKING_S;
}

/* What we noted of one whose record cannot be had; NULL: nothing, or of several of that name. */
static const struct vm_meta_snapshot *noted_alone(const struct vm_observed_domain *k, const char *name)
{
	const struct vm_meta *meta = k->meta ? k->meta : k->config_meta;
	const struct vm_meta_snapshot *found = NULL;

	for (size_t i = 0; meta && i < meta->n_snapshots; i++) {
		if (strcmp(meta->snapshots[i].name, name) != 0)
			continue;
		if (found)
			return NULL;
		found = &meta->snapshots[i];
	}
	return found;
}

static void draw_recorded(struct snaps *s, const struct vm_observed_snapshot *observed)
{
	const struct vm_xml_snapshot *xml = observed->record;
	const struct vm_meta_snapshot *noted = xml || observed->unread ? NULL : noted_alone(s->k, observed->name);
	struct vm_draft_snapshot *snap = &s->d->snapshots[s->d->n_snapshots];

	*snap = (struct vm_draft_snapshot){ .name = observed->name, .parent = -1, .recorded = true, .lost = observed->lost,
					    .problem = observed->problem ? observed->problem :
						       observed->unread ? "its record has not been read yet" : "its record cannot be read" };
	snap->current = s->k->current && !strcmp(s->k->current, observed->name);
	if (noted) {
		snap->kind = noted->kind;
		snap->created_ns = noted->created_ns;
	}
	if (xml) {
		snap->problem = NULL;
		snap->kind = xml->kind;
		snap->in_making = in_making(s->k, xml);
		snap->parent = find_parent(s, xml->parent);
		snap->created_ns = xml->created_s < INT64_MAX / VM_NS_PER_S ? xml->created_s * VM_NS_PER_S : 0;
		snap->memory = xml->memory != VM_MODE_NO;
		snap->external_memory = xml->memory == VM_MODE_EXTERNAL;
		snap->xml = xml->definition;
		snap->xml_len = xml->definition_len;
		snap->keep = vm_xml_snapshot_keeper(observed->record);
		draw_disks(s, xml, snap);
		draw_memory(s, xml, snap);
	}
	s->d->n_snapshots++;
}

/* ---------------------------------------------------------------- the others */

static void draw_stray(struct snaps *s, const struct vm_table *tables, const struct vm_stray *stray)
{
	struct vm_draft_snapshot *snap;

	VM_ARENA_GROW(&s->sk->arena, s->d->snapshots, s->d->n_snapshots, s->room);
	snap = &s->d->snapshots[s->d->n_snapshots++];
	*snap = (struct vm_draft_snapshot){ .name = stray->name, .kind = VM_INTERNAL, .parent = -1,
					    .memory = stray->memory };
	snap->disks = vm_arena_calloc(&s->sk->arena, stray->n_disks, sizeof(*snap->disks));
	for (size_t i = 0; i < stray->n_disks; i++) {
		const struct vm_table *table = &tables[stray->disks[i].table];

		snap->disks[snap->n_disks++] = (struct vm_draft_disk){
			.entry = stray->disks[i].entry,
			.fact = { .target = table->target, .mode = VM_MODE_INTERNAL, .pit = table->file,
				  .format = Q2_FORMAT_QCOW2, .overlay = VM_NO_FILE, .below = VM_NO_FILE,
				  .entry = stray->disks[i].entry },
		};
	}
}

/* Looks at some tables together: entries of one name in them are one snapshot. */
static void draw_strays(struct snaps *s, const struct vm_table *tables, size_t n)
{
	struct vm_stray *strays = NULL;
	size_t n_strays = 0;

	if (!n)
		return;
	vm_stray_group(tables, n, &strays, &n_strays);
	for (size_t i = 0; i < n_strays; i++)
		draw_stray(s, tables, &strays[i]);
	vm_stray_free(strays, n_strays);
}

/* Adds a table unless it was looked at before. */
static size_t add_table(struct snaps *s, struct vm_table *tables, size_t n, const char *target, int file)
{
	const struct q2_info *info = table_of(s->sk, file);
	struct vm_strmap_key key;

	if (!info || !info->n_snapshots)
		return n;
	key = image_key(s->sk, file);
	if (vm_strmap_get(&s->tabled, key.text))
		return n;
	vm_strmap_put(&s->tabled, key.text, s);
	tables[n] = (struct vm_table){ .target = target, .file = file, .info = info, .taken = claims_of(s, file) };
	return n + 1;
}

static void draw_strays_of_tops(struct snaps *s)
{
	struct vm_table *tables = vm_arena_calloc(&s->sk->arena, s->d->n_disks, sizeof(*tables));
	size_t n = 0;

	for (size_t i = 0; i < s->d->n_disks; i++)
		if (s->d->disks[i].fact.writable && s->d->disks[i].fact.format == Q2_FORMAT_QCOW2)
			n = add_table(s, tables, n, s->d->disks[i].fact.target, s->d->disks[i].fact.top);
	draw_strays(s, tables, n);
}

/* The images that one external snapshot froze, or those that it created. */
static void draw_strays_of(struct snaps *s, size_t place, bool created)
{
	size_t n_disks = s->d->snapshots[place].n_disks, n = 0;
	struct vm_table *tables = vm_arena_calloc(&s->sk->arena, n_disks, sizeof(*tables));

	for (size_t i = 0; i < n_disks; i++) {
		const struct vm_fact_snapdisk *fact = &s->d->snapshots[place].disks[i].fact;

		if (fact->mode != VM_MODE_EXTERNAL)
			continue;
		if (created)
			n = add_table(s, tables, n, fact->target, fact->overlay);
		else if (fact->format == Q2_FORMAT_QCOW2 && !fact->unsupported)
			n = add_table(s, tables, n, fact->target, fact->pit);
	}
	draw_strays(s, tables, n);
}

void vm_build_snapshots(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d)
{
	struct snaps s = { .sk = sk, .k = k, .d = d, .room = k->n_list };
	size_t recorded;

	d->snapshots = vm_arena_calloc(&sk->arena, k->n_list, sizeof(*d->snapshots));
	for (size_t i = 0; i < k->n_list; i++)
		draw_recorded(&s, k->list[i]);
	recorded = d->n_snapshots;
	d->unread = k->unread;
	d->untold = k->unknown ? vm_arena_strdup(&sk->arena, k->unknown) : NULL;
	if (!d->unread) /* else nobody knows which entries are claimed */
		draw_strays_of_tops(&s);
	for (size_t i = 0; i < recorded && !d->unread; i++) {
		draw_strays_of(&s, i, false);
		draw_strays_of(&s, i, true);
	}
	vm_strmap_clear(&s.claims, NULL);
	vm_strmap_clear(&s.tabled, NULL);
}
