/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Plan and recovery of merges, on made-up domains.
 *
 * A world is a few files that stand on one another, snapshots that froze some of them, and one disk. It is shown to vm_merge_plan() as
 * an inventory, libvirt's records and our metadata; what the plan says is then done to the world, up to any step, as
 * merge-run.c would
 * do it; others may do something to the world in between; and the command is repeated. Whatever happens, every snapshot that nobody
 * asked to go must read, through the file that its record names, what it read when it was taken, and no file may vanish that somebody
 * needs, or may need.
 *
 * All chains of two to four layers, with and without a branch at each place, every delete and commit, every step to be interrupted at,
 * everything that others may do in between, and every layer needed by others, or not known whether: some 35,000 worlds.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/command/fit.h"
#include "vm/command/intent.h"
#include "vm/command/merge.h"

#define CLUSTERS 4
#define FILES 8
#define SNAPS 6
#define NONE (-1)
#define ZEROS 0xff /* noted in a layer as zeros */
#define PAST 0xdd

struct file {
	bool exists, made;
	int below;
	uint64_t ino;
	unsigned char data[CLUSTERS]; /* 0: not here */
	int size;                     /* of the disk, in clusters; what lies past it reads as PAST */
	bool needed, unknown;         /* by others; it is not known whether */
};

struct snap {
	bool exists;
	char name[8];
	int parent, pit, overlay;
	unsigned char want[CLUSTERS];
	bool doomed; /* somebody asked for it to go, or destroyed it */
};

struct world {
	struct file files[FILES];
	int n_files;
	struct snap snaps[SNAPS];
	int n_snaps, active;
	struct vm_meta *meta;
	char said[512]; /* for messages */
};

/* ---------------------------------------------------------------- making one */

static int sizes[FILES]; /* of the files that are made next; 0: CLUSTERS */

static int new_file(struct world *w, int below, bool made)
{
	struct file *f = &w->files[w->n_files];

	cr_assert(w->n_files < FILES);
	*f = (struct file){.exists = true, .made = made, .below = below, .ino = 100 + (uint64_t)w->n_files,
			   .size = sizes[w->n_files] ? sizes[w->n_files] : CLUSTERS};
	return w->n_files++;
}

/* What a layer shows past the end of one beneath it is zeros, whatever stands beneath that. */
static void read_through(const struct world *w, int file, unsigned char out[CLUSTERS])
{
	int seen = CLUSTERS;

	memset(out, 0, CLUSTERS);
	for (int f = file, n = 0; f != NONE && n < FILES; f = w->files[f].below, n++) {
		if (!w->files[f].exists) {
			memset(out, 0xee, CLUSTERS); /* nothing can be read */
			return;
		}
		seen = w->files[f].size < seen ? w->files[f].size : seen;
		for (int c = 0; c < seen; c++)
			if (!out[c])
				out[c] = w->files[f].data[c];
	}
	for (int c = 0; c < CLUSTERS; c++)
		out[c] = c >= w->files[file].size ? PAST : out[c] == ZEROS ? 0 : out[c];
}

static void guest_writes(struct file *f, int cluster, unsigned char byte)
{
	if (cluster < f->size)
		f->data[cluster] = byte;
}

static int take(struct world *w, int parent)
{
	struct snap *s = &w->snaps[w->n_snaps];

	snprintf(s->name, sizeof(s->name), "s%d", w->n_snaps);
	s->exists = true;
	s->parent = parent;
	s->pit = w->active;
	read_through(w, w->active, s->want);
	s->overlay = w->active = new_file(w, s->pit, true);
	/* the guest writes: each layer something of its own, and over something of those beneath */
	guest_writes(&w->files[w->active], w->n_snaps % CLUSTERS, (unsigned char)(10 + w->active));
	guest_writes(&w->files[w->active], (w->n_snaps + 1) % CLUSTERS, (unsigned char)(40 + w->active));
	return w->n_snaps++;
}

/* @layers: above the base. @branch: the snapshot to go back to and take another one from; NONE: no branch. */
static struct world make(int layers, int branch)
{
	struct world w = {.active = NONE, .meta = vm_meta_new()};
	int parent = NONE;

	w.active = new_file(&w, NONE, false);
	memset(w.files[0].data, 1, (size_t)w.files[0].size);
	for (int i = 0; i < layers; i++)
		parent = take(&w, parent);
	if (branch != NONE) {
		w.active = new_file(&w, w.snaps[branch].pit, true);
		guest_writes(&w.files[w.active], 3, 99);
		take(&w, branch);
	}
	return w;
}

/* ---------------------------------------------------------------- showing it */

struct show {
	struct vm_context work;
	struct vm_domain d;
	struct vm_layer layers[FILES];
	struct vm_disk_now disk;
	struct vm_snapshot snaps[SNAPS];
	struct vm_disk disks[SNAPS];
	char *chains[SNAPS][FILES + 1];
	struct vm_context_record records[SNAPS];
	struct vm_xml_snapshot xml[SNAPS];
	struct vm_xml_snapdisk xml_disks[SNAPS];
	struct vm_xml_disk frozen[SNAPS];
	char paths[FILES][16];
	int file_of[FILES]; /* of a layer */
};

static char *no_strings[] = {NULL};

static bool is_shown(const struct world *w, int file)
{
	for (int s = 0; s < w->n_snaps; s++)
		if (w->snaps[s].exists && ((w->snaps[s].overlay == file && w->files[file].exists) || w->snaps[s].pit == file))
			return true;
	for (int f = w->active, n = 0; f != NONE && n < FILES; f = w->files[f].exists ? w->files[f].below : NONE, n++)
		if (f == file)
			return true;
	for (int s = 0; s < w->n_snaps; s++)
		for (int f = w->snaps[s].exists ? w->snaps[s].pit : NONE, n = 0; f != NONE && n < FILES; f = w->files[f].exists ? w->files[f].below : NONE, n++)
			if (f == file)
				return true;
	return false;
}

/* Does an image that nobody knows any more stand on it? The inventory finds those, too. */
static bool carries_stray(const struct world *w, int file)
{
	for (int i = 0; i < w->n_files; i++) {
		if (!w->files[i].exists || is_shown(w, i))
			continue;
		for (int f = w->files[i].below, n = 0; f != NONE && n < FILES; f = w->files[f].below, n++)
			if (f == file)
				return true;
	}
	return false;
}

static void show(const struct world *w, struct show *v)
{
	int layer_of[FILES];
	bool doubt = false;

	memset(v, 0, sizeof(*v));
	for (int f = 0; f < w->n_files; f++) {
		snprintf(v->paths[f], sizeof(v->paths[f]), "/f%d", f);
		layer_of[f] = NONE;
		doubt |= w->files[f].unknown;
		if (!is_shown(w, f))
			continue;
		layer_of[f] = (int)v->d.n_layers;
		v->file_of[v->d.n_layers++] = f;
	}
	for (size_t i = 0; i < v->d.n_layers; i++) {
		const struct file *f = &w->files[v->file_of[i]];
		static char *needed[] = {(char *)"domain 'other' (disk vda)", NULL};

		v->layers[i] = (struct vm_layer){
			.path = v->paths[v->file_of[i]], .format = Q2_FORMAT_QCOW2, .virtual_size = (uint64_t)f->size * 65536, .version = 3,
			.cluster_bits = 16, .paths = no_strings, .snapshots = no_strings,
			.users = f->needed || carries_stray(w, v->file_of[i]) ? needed : no_strings, .error = f->exists ? 0 : -ENOENT,
			.below = f->exists && f->below != NONE ? layer_of[f->below] : -1, .active = v->file_of[i] == w->active,
			.stamp = {.dev = 1, .ino = f->exists ? f->ino : 0, .size = 4096, .mtime_ns = 5},
			.unknown = f->unknown ? (char *)"domain 'lost' (disk vda) may need it: '/lost' is missing" : NULL, .unknown_code = -EPERM,
		};
	}
	v->disk = (struct vm_disk_now){.target = (char *)"vda", .top = layer_of[w->active]};
	for (int s = 0; s < w->n_snaps; s++) {
		const struct snap *from = &w->snaps[s];
		size_t n = v->d.n_snapshots, depth = 0;
		struct vm_meta_id id = {from->name, (100 + s) * INT64_C(1000000000), VM_EXTERNAL};
		bool marked = vm_meta_find(w->meta, &id) && vm_meta_find(w->meta, &id)->mark;

		if (!from->exists)
			continue;
		for (int f = from->pit, k = 0; f != NONE && k < FILES; f = w->files[f].exists ? w->files[f].below : NONE, k++)
			v->chains[n][depth++] = v->paths[f];
		v->disks[n] = (struct vm_disk){.target = (char *)"vda", .chain = v->chains[n], .state = marked ? VM_STALE : VM_OK};
		v->snaps[n] = (struct vm_snapshot){.name = (char *)from->name, .shown = (char *)from->name, .kind = VM_EXTERNAL,
						   .recorded = true, .users = no_strings, .disks = &v->disks[n], .n_disks = 1,
						   .created_ns = id.created_ns};
		v->frozen[n] = (struct vm_xml_disk){.target = (char *)"vda", .source = {.type = VM_SOURCE_FILE, .path = v->paths[from->pit],
							   .format = Q2_FORMAT_QCOW2}};
		v->xml_disks[n] = (struct vm_xml_snapdisk){.target = (char *)"vda", .mode = VM_MODE_EXTERNAL, .frozen = &v->frozen[n],
							   .overlay = {.type = VM_SOURCE_FILE, .path = v->paths[from->overlay]}};
		v->xml[n] = (struct vm_xml_snapshot){.name = (char *)from->name, .kind = VM_EXTERNAL, .created_s = 100 + s,
						     .parent = from->parent == NONE ? NULL : (char *)w->snaps[from->parent].name,
						     .disks = &v->xml_disks[n], .n_disks = 1};
		v->records[n] = (struct vm_context_record){.name = (char *)from->name, .xml = &v->xml[n]};
		v->d.n_snapshots++;
	}
	v->d.name = v->d.dir = (char *)"web";
	v->d.layers = v->layers;
	v->d.disks = &v->disk;
	v->d.n_disks = 1;
	v->d.snapshots = v->snaps;
	v->work = (struct vm_context){.d = &v->d, .records = v->records, .n_records = v->d.n_snapshots, .meta = w->meta,
				      .try_only = true};
}

/* ---------------------------------------------------------------- doing what was planned */

enum step { MARKED, HALF_COPIED, COPIED, ASKED_TO_PIVOT, MOVED, NOTED, REPOINTED, REMOVED, FORGOTTEN, DONE };

static int index_of(const char *path)
{
	return path ? atoi(path + 2) : NONE;
}

static void mark(struct world *w, const struct vm_merge *m, bool done, bool pivoting)
{
	const struct vm_merge_disk *d = &m->disks[0];
	struct vm_meta_doomed disk = {.target = (char *)"vda", .path = d->base, .top = d->top, .path_ino = d->base_stamp.ino,
				     .top_ino = d->top_stamp.ino, .above_ino = d->above_ino, .done = done, .pivoting = pivoting};
	struct vm_meta_mark what = {.command = m->command, .reason = (char *)"begun", .disks = &disk, .n_disks = 1};

	for (size_t i = 0; i < m->n_names; i++)
		for (int s = 0; s < w->n_snaps; s++) {
			struct vm_meta_id id = {m->names[i], (100 + s) * INT64_C(1000000000), VM_EXTERNAL};

			if (w->snaps[s].exists && !strcmp(w->snaps[s].name, m->names[i]))
				vm_meta_set_mark(w->meta, &id, &what);
		}
}

static bool goes(const struct vm_merge *m, const char *name)
{
	for (size_t i = 0; i < m->n_names; i++)
		if (!strcmp(m->names[i], name))
			return true;
	return false;
}

/* As QEMU does it: what grows over something larger is filled up with zeros, and zeros that a short layer stood for are copied as such. */
static void copy_down(struct world *w, int base, int top, int clusters)
{
	struct file *b = &w->files[base];
	unsigned char above[CLUSTERS] = {0};

	for (int f = top; f != base; f = w->files[f].below)
		for (int c = 0; c < w->files[top].size; c++)
			if (!above[c])
				above[c] = c < w->files[f].size ? w->files[f].data[c] : ZEROS;
	for (; b->size < w->files[top].size; b->size++)
		b->data[b->size] = ZEROS;
	for (int c = 0; c < clusters; c++)
		if (above[c])
			b->data[c] = above[c];
}

/* A file goes: was it free to? */
static void unlink_file(struct world *w, const struct vm_merge *m, int file)
{
	struct file *f = &w->files[file];

	if (!f->exists)
		return;
	cr_assert(!m->resumed || f->ino == 100 + (uint64_t)file, "%s: removed a stranger's f%d", w->said, file);
	cr_assert(f->made, "%s: removed f%d, which no snapshot made", w->said, file);
	cr_assert_not(f->needed, "%s: removed f%d, which others need", w->said, file);
	cr_assert_not(f->unknown, "%s: removed f%d, of which it is not known who needs it", w->said, file);
	cr_assert_neq(file, w->active, "%s: removed f%d, which the disk writes to", w->said, file);
	for (int s = 0; s < w->n_snaps; s++)
		cr_assert_not(w->snaps[s].exists && !w->snaps[s].doomed && w->snaps[s].pit == file,
			      "%s: removed f%d, which %s froze", w->said, file, w->snaps[s].name);
	for (int i = 0; i < w->n_files; i++)
		cr_assert_not(i != file && w->files[i].exists && w->files[i].below == file, "%s: removed f%d beneath f%d", w->said, file, i);
	f->exists = false;
}

/* What vm_remove() asks of a fresh look. */
static bool may_unlink(const struct world *w, const struct vm_merge *m, const struct vm_doomed_file *doomed)
{
	struct vm_leaving leaving = {(const char *const *)m->names, m->n_names};
	struct show now;
	int file = index_of(doomed->path), layer;

	show(w, &now);
	layer = vm_context_layer(&now.work, doomed->path);
	if (!w->files[file].exists)
		return true; /* it is gone already */
	if (layer < 0 || w->files[file].ino != doomed->stamp.ino || now.layers[layer].active)
		return false;
	for (size_t i = 0; i < now.d.n_layers; i++)
		if (now.layers[i].below == layer)
			return false;
	return vm_need(&now.work, layer, &leaving, true, NULL) == VM_NEED_NOT && w->files[file].made;
}

static void write_base(const struct world *w, const struct vm_merge *m, int base, int top)
{
	bool in_use = false;

	for (int f = w->active, n = 0; f != NONE && n < FILES; f = w->files[f].below, n++)
		in_use |= f == top;
	cr_assert(in_use, "%s: f%d is not beneath the disk, and QEMU merges only what is", w->said, top);
	/* what was begun with a file is not gone on with another one that has its name now */
	cr_assert(!m->resumed || w->files[base].ino == 100 + (uint64_t)base, "%s: wrote into a stranger's f%d", w->said, base);
	cr_assert(!m->resumed || w->files[top].ino == 100 + (uint64_t)top, "%s: merged a stranger's f%d", w->said, top);
	cr_assert_not(w->files[base].needed || w->files[base].unknown, "%s: wrote into f%d, which is or may be needed", w->said, base);
	for (int s = 0; s < w->n_snaps; s++)
		cr_assert_not(w->snaps[s].exists && !w->snaps[s].doomed && w->snaps[s].pit == base && !goes(m, w->snaps[s].name),
			      "%s: wrote into f%d, which %s froze", w->said, base, w->snaps[s].name);
	for (int f = top; f != base; f = w->files[f].below)
		cr_assert_neq(f, NONE, "%s: f%d does not stand on f%d", w->said, top, base);
}

/* Carries the plan out up to and including @last. */
static void carry_out(struct world *w, const struct vm_merge *m, enum step last)
{
	const struct vm_merge_disk *d = &m->disks[0];
	int base = index_of(d->base), top = d->top && d->top[0] ? index_of(d->top) : NONE;

	if (d->what == VM_MERGE_DOWN) {
		mark(w, m, false, false);
		if (last == MARKED)
			return;
		write_base(w, m, base, top);
		for (int s = 0; s < w->n_snaps; s++)
			w->snaps[s].doomed |= goes(m, w->snaps[s].name);
		copy_down(w, base, top, last == HALF_COPIED ? CLUSTERS / 2 : CLUSTERS);
		if (last <= COPIED)
			return;
		if (w->active == top)
			mark(w, m, false, true);
		if (last == ASKED_TO_PIVOT)
			return;
		for (int f = 0; f < w->n_files; f++)
			if (w->files[f].exists && w->files[f].below == top)
				w->files[f].below = base;
		if (w->active == top)
			w->active = base;
		if (last == MOVED)
			return;
		mark(w, m, true, false);
		if (last == NOTED)
			return;
	}
	for (int s = 0; s < w->n_snaps && (d->what == VM_MERGE_DOWN || d->what == VM_MERGE_DONE); s++)
		if (w->snaps[s].exists && !goes(m, w->snaps[s].name) && w->snaps[s].pit == top)
			w->snaps[s].pit = base;
	if (last == REPOINTED)
		return;
	for (int s = 0; s < w->n_snaps; s++)
		w->snaps[s].doomed |= goes(m, w->snaps[s].name);
	for (size_t i = 0; i < d->n_gone && may_unlink(w, m, &d->gone[i]); i++)
		unlink_file(w, m, index_of(d->gone[i].path));
	if (last == REMOVED)
		return;
	for (int s = 0; s < w->n_snaps; s++)
		if (w->snaps[s].exists && goes(m, w->snaps[s].name)) {
			for (int k = 0; k < w->n_snaps; k++)
				if (w->snaps[k].parent == s)
					w->snaps[k].parent = w->snaps[s].parent;
			w->snaps[s].exists = false;
		}
	if (last == FORGOTTEN)
		return;
	for (size_t i = 0; i < m->n_names; i++)
		for (int s = 0; s < w->n_snaps; s++) {
			struct vm_meta_id id = {m->names[i], (100 + s) * INT64_C(1000000000), VM_EXTERNAL};

			if (!strcmp(w->snaps[s].name, m->names[i]))
				vm_meta_forget(w->meta, &id);
		}
}

/* ---------------------------------------------------------------- what must hold */

static void check(const struct world *w)
{
	for (int s = 0; s < w->n_snaps; s++) {
		unsigned char now[CLUSTERS];

		if (!w->snaps[s].exists || w->snaps[s].doomed)
			continue;
		read_through(w, w->snaps[s].pit, now);
		cr_assert(!memcmp(now, w->snaps[s].want, CLUSTERS), "%s: %s reads %d %d %d %d instead of %d %d %d %d", w->said, w->snaps[s].name,
			  now[0], now[1], now[2], now[3], w->snaps[s].want[0], w->snaps[s].want[1], w->snaps[s].want[2], w->snaps[s].want[3]);
	}
}

/* What the guest has; while a merge goes on it must stay what it is. */
static void guest_of(const struct world *w, unsigned char out[CLUSTERS])
{
	read_through(w, w->active, out);
}

struct command {
	int first, last; /* snapshots */
	bool commit;
};

static size_t line_of(const struct world *w, const struct command *c, const char **names)
{
	size_t n = 0;

	for (int s = c->last; s != NONE; s = w->snaps[s].parent) {
		names[n++] = w->snaps[s].name;
		if (s == c->first)
			break;
	}
	for (size_t i = 0; i < n / 2; i++) {
		const char *swap = names[i];

		names[i] = names[n - 1 - i];
		names[n - 1 - i] = swap;
	}
	return n && !strcmp(names[0], w->snaps[c->first].name) ? n : 0;
}

/* Plans and does it. False: it was refused, or has become void. */
static bool give(struct world *w, const struct command *c, enum step last, bool repeated)
{
	const char *names[SNAPS] = {0};
	struct vs_err err = {0};
	struct vm_merge m;
	struct show v;
	char command[64];
	size_t n;
	bool did;

	show(w, &v);
	snprintf(command, sizeof(command), "%s s%d s%d", c->commit ? "commit" : "delete", c->first, c->last);
	n = repeated ? vm_intent_line(&v.work, command, names) : 0;
	if (n == 0)
		n = line_of(w, c, names);
	for (size_t i = 0; i < n; i++)
		for (int s = 0; s < w->n_snaps; s++)
			if (!strcmp(w->snaps[s].name, names[i]) && !w->snaps[s].exists)
				n = 0;
	if (n == 0)
		return false;
	did = vm_merge_plan(&m, &v.work, names, n, c->commit ? VM_MERGE_COMMIT : VM_MERGE_DELETE, strdup(command), &err) == 0 && !m.is_void;
	if (did)
		carry_out(w, &m, last);
	vm_merge_fini(&m);
	return did;
}

/* ---------------------------------------------------------------- others at work */

enum deed { NOTHING, REVERT_BY_OTHERS, PULL_BY_OTHERS, REPLACE_BASE, REPLACE_TOP, MOVE_BASE_AWAY, MOVE_TOP_AWAY, MOVE_ABOVE_AWAY,
	    FORGET_BY_OTHERS, DEFINE_ON_BASE, DEEDS };

/* The file of the merge that was begun: its base and top. */
static bool files_of(const struct world *w, int *base, int *top)
{
	for (size_t i = 0; i < w->meta->n_snapshots; i++)
		if (w->meta->snapshots[i].mark) {
			*base = index_of(w->meta->snapshots[i].mark->disks[0].path);
			*top = index_of(w->meta->snapshots[i].mark->disks[0].top);
			return true;
		}
	return false;
}

/* Whose content is it that others have replaced or taken away? Nobody can read that right. */
static void spoilt(struct world *w, int file)
{
	for (int s = 0; s < w->n_snaps; s++)
		for (int f = w->snaps[s].pit, n = 0; f != NONE && n < FILES; f = w->files[f].below, n++)
			if (f == file)
				w->snaps[s].doomed = true;
}

static void interfere(struct world *w, enum deed deed, int snap)
{
	int base = NONE, top = NONE, above = NONE;
	bool begun = files_of(w, &base, &top);

	for (int f = 0; begun && f < w->n_files; f++)
		if (w->files[f].exists && w->files[f].below == top)
			above = f;
	switch (deed) {
	case REVERT_BY_OTHERS:
		if (w->snaps[snap].exists && !w->snaps[snap].doomed && w->files[w->snaps[snap].pit].exists && w->n_files < FILES)
			w->active = new_file(w, w->snaps[snap].pit, true);
		break;
	case PULL_BY_OTHERS: {
		unsigned char all[CLUSTERS];

		guest_of(w, all);
		memcpy(w->files[w->active].data, all, (size_t)w->files[w->active].size);
		w->files[w->active].below = NONE;
		break;
	}
	case REPLACE_BASE:
	case REPLACE_TOP:
		if (begun && w->files[deed == REPLACE_BASE ? base : top].exists) {
			int f = deed == REPLACE_BASE ? base : top;

			w->files[f].ino += 50;
			memset(w->files[f].data, 77, CLUSTERS);
			spoilt(w, f);
		}
		break;
	case MOVE_BASE_AWAY:
	case MOVE_TOP_AWAY:
	case MOVE_ABOVE_AWAY: {
		int f = deed == MOVE_BASE_AWAY ? base : deed == MOVE_TOP_AWAY ? top : above;

		if (f != NONE)
			w->files[f].exists = false;
		break;
	}
	case FORGET_BY_OTHERS:
		if (w->snaps[snap].exists) {
			for (int k = 0; k < w->n_snaps; k++)
				if (w->snaps[k].parent == snap)
					w->snaps[k].parent = w->snaps[snap].parent;
			w->snaps[snap].exists = false;
		}
		break;
	case DEFINE_ON_BASE:
		if (begun && w->files[base].exists) {
			w->active = base;
			spoilt(w, base);
		}
		break;
	case NOTHING:
	case DEEDS:
		break;
	}
}

/* What was moved away comes back. */
static void bring_back(struct world *w, const struct world *before)
{
	for (int f = 0; f < before->n_files; f++)
		if (before->files[f].exists && !w->files[f].exists)
			w->files[f].exists = true;
}

/* ---------------------------------------------------------------- the tests */

static struct world copy(const struct world *w)
{
	struct world c = *w;

	c.meta = vm_meta_copy(w->meta);
	return c;
}

static size_t worlds;

/* From a world in which @c was interrupted at @at: others do something, and it is repeated, twice. */
static void go_on(const struct world *begun, const struct command *c, enum step at, enum deed deed, int snap)
{
	struct world w = copy(begun), moved;
	bool moves = deed == MOVE_BASE_AWAY || deed == MOVE_TOP_AWAY || deed == MOVE_ABOVE_AWAY;
	unsigned char before[CLUSTERS], after[CLUSTERS];

	worlds++;
	snprintf(w.said, sizeof(w.said), "%.300s, interrupted at %d, then %d (s%d)", begun->said, at, deed, snap);
	interfere(&w, deed, snap);
	moved = copy(&w);
	guest_of(&w, before);
	give(&w, c, DONE, true);
	if (moves)
		bring_back(&w, begun);
	check(&w);
	if (!moves) {
		guest_of(&w, after);
		cr_assert(!memcmp(before, after, CLUSTERS), "%s: the guest reads otherwise", w.said);
	}
	give(&w, c, DONE, true);
	if (moves)
		bring_back(&w, begun);
	check(&w);
	/* and whatever is asked for next */
	for (int s = 0; s < w.n_snaps; s++) {
		struct world next = copy(&w);
		struct command other = {s, s, false};

		snprintf(next.said, sizeof(next.said), "%.400s, then delete s%d", w.said, s);
		give(&next, &other, DONE, false);
		check(&next);
		vm_meta_free(next.meta);
	}
	vm_meta_free(moved.meta);
	vm_meta_free(w.meta);
}

static void interrupt_everywhere(const struct world *start, const struct command *c)
{
	for (enum step at = MARKED; at <= DONE; at++) {
		struct world w = copy(start);

		if (!give(&w, c, at, false)) {
			vm_meta_free(w.meta);
			return;
		}
		check(&w);
		for (enum deed deed = NOTHING; deed < DEEDS; deed++)
			for (int snap = 0; snap < (deed == REVERT_BY_OTHERS || deed == FORGET_BY_OTHERS ? w.n_snaps : 1); snap++)
				go_on(&w, c, at, deed, snap);
		vm_meta_free(w.meta);
	}
}

static void every_command(const struct world *w)
{
	for (int first = 0; first < w->n_snaps; first++)
		for (int last = first; last < w->n_snaps; last++)
			for (int commit = 0; commit < 2; commit++) {
				struct command c = {first, last, commit};
				struct world start = copy(w);

				snprintf(start.said, sizeof(start.said), "%.120s %s s%d s%d", w->said, commit ? "commit" : "delete", first, last);
				if (commit || first == last)
					interrupt_everywhere(&start, &c);
				vm_meta_free(start.meta);
			}
}

/* Every layer free, needed by others, or not known to be free: one of them at a time, and all pairs. */
static void every_knowledge(struct world *w)
{
	int n = w->n_files;

	for (int a = 0; a < n; a++)
		for (int b = a; b < n; b++)
			for (int how = 0; how < 4; how++) {
				struct world k = copy(w);

				*(how & 1 ? &k.files[a].unknown : &k.files[a].needed) = true;
				*(how & 2 ? &k.files[b].unknown : &k.files[b].needed) = true;
				snprintf(k.said, sizeof(k.said), "%.300s, f%d %s, f%d %s,", w->said, a, how & 1 ? "unknown" : "needed", b,
					 how & 2 ? "unknown" : "needed");
				for (int first = 0; first < k.n_snaps; first++)
					for (int last = first; last < k.n_snaps; last++)
						for (int commit = 0; commit < 2; commit++) {
							struct command c = {first, last, commit};
							struct world one = copy(&k);

							if (commit || first == last)
								give(&one, &c, DONE, false);
							check(&one);
							worlds++;
							vm_meta_free(one.meta);
						}
				vm_meta_free(k.meta);
			}
}

static void every_shape(void (*test)(struct world *w))
{
	for (int layers = 1; layers <= 4; layers++)
		for (int branch = NONE; branch < layers; branch++) {
			struct world w = make(layers, branch);

			snprintf(w.said, sizeof(w.said), "%d layers, branch at %d:", layers, branch);
			check(&w);
			test(&w);
			vm_meta_free(w.meta);
		}
}

static void commands_of(struct world *w)
{
	every_command(w);
}

Test(vm_merge, whatever_is_interrupted_and_whatever_others_do_no_other_snapshot_changes, .timeout = 300)
{
	every_shape(commands_of);
	cr_expect_gt(worlds, 5000u, "%zu", worlds);
	cr_log_info("%zu worlds", worlds);
}

Test(vm_merge, nothing_is_written_or_removed_that_is_needed_or_may_be, .timeout = 300)
{
	every_shape(every_knowledge);
	cr_expect_gt(worlds, 5000u, "%zu", worlds);
	cr_log_info("%zu worlds", worlds);
}

Test(vm_merge, an_undisturbed_delete_of_any_snapshot_leaves_no_file_too_many)
{
	for (int layers = 1; layers <= 4; layers++)
		for (int s = 0; s < layers; s++) {
			struct world w = make(layers, NONE);
			struct command c = {s, s, false};
			int n = 0;

			snprintf(w.said, sizeof(w.said), "%d layers, delete s%d", layers, s);
			cr_assert(give(&w, &c, DONE, false));
			check(&w);
			for (int f = 0; f < w.n_files; f++)
				n += w.files[f].exists;
			cr_expect_eq(n, layers, "%s: %d files", w.said, n);
			vm_meta_free(w.meta);
		}
}

/* As vm_prove() does where the header and the data have moved. */
static void prove_moved(struct world *w)
{
	for (size_t i = 0; i < w->meta->n_snapshots; i++)
		for (size_t k = 0; w->meta->snapshots[i].mark && k < w->meta->snapshots[i].mark->n_disks; k++)
			if (w->meta->snapshots[i].mark->disks[k].above_ino)
				w->meta->snapshots[i].mark->disks[k].done = true;
}

Test(vm_merge, an_interrupted_command_is_finished_by_its_repetition)
{
	for (enum step at = MARKED; at <= FORGOTTEN; at++)
		for (int s = 0; s < 3; s++) {
			struct world w = make(3, NONE);
			struct command c = {s, s, false};
			int n = 0;

			snprintf(w.said, sizeof(w.said), "delete s%d interrupted at %d", s, at);
			cr_assert(give(&w, &c, at, false));
			if (at == MOVED && s < 2) {
				cr_assert_not(give(&w, &c, DONE, true), "%s: a header is taken as proof", w.said);
				prove_moved(&w);
			}
			if (at != FORGOTTEN)
				cr_assert(give(&w, &c, DONE, true), "%s: not repeated", w.said);
			check(&w);
			for (int f = 0; f < w.n_files; f++)
				n += w.files[f].exists;
			/* between the pivot and the note of it nobody can tell whether all of the old top was merged: it stays */
			cr_expect_eq(n, at == MOVED && s == 2 ? 4 : 3, "%s: %d files", w.said, n);
			vm_meta_free(w.meta);
		}
}

Test(vm_merge, what_was_begun_has_the_format_of_its_base_whatever_the_record_says_by_now)
{
	struct world w = make(3, NONE);
	struct command c = {0, 0, false};
	const char *const names[] = {"s0"};
	struct vs_err err = {0};
	struct vm_merge m;
	struct show v;

	cr_assert(give(&w, &c, HALF_COPIED, false));
	show(&w, &v);
	v.chains[0][0] = NULL;
	v.frozen[0].source = (struct vm_xml_source){.type = VM_SOURCE_FILE, .path = (char *)"/gone", .format = Q2_FORMAT_RAW};
	cr_assert_eq(vm_merge_plan(&m, &v.work, names, 1, VM_MERGE_DELETE, strdup("delete s0"), &err), 0, "%s", err.msg);
	cr_expect(m.resumed);
	cr_expect_str_eq(m.disks[0].base, "/f0");
	cr_expect_eq(m.disks[0].format, Q2_FORMAT_QCOW2);
	vm_merge_fini(&m);
	vm_meta_free(w.meta);
}

/* ---------------------------------------------------------------- layers of different sizes */

/* Every chain of up to three layers and every size of each, with a branch or without. */
static void every_size(void (*test)(struct world *w))
{
	for (int layers = 1; layers <= 3; layers++)
		for (int branch = NONE; branch < layers; branch++)
			for (int n = 0; n < 81; n++) {
				struct world w;

				for (int f = 0, rest = n; f < FILES; f++, rest /= 3)
					sizes[f] = CLUSTERS - rest % 3;
				w = make(layers, branch);
				memset(sizes, 0, sizeof(sizes));
				snprintf(w.said, sizeof(w.said), "%d layers, branch at %d, sizes %d %d %d %d:", layers, branch, w.files[0].size,
					 w.files[1].size, layers > 1 ? w.files[2].size : 0, layers > 2 ? w.files[3].size : 0);
				check(&w);
				test(&w);
				vm_meta_free(w.meta);
			}
}

static size_t done, refused;

/* The guest's disk keeps its size and bytes, as every snapshot that stays does, and the repetition of what was interrupted is right, too. */
static void command_of_sizes(const struct world *w, const struct command *c, enum step last)
{
	struct world one = copy(w);
	unsigned char before[CLUSTERS], after[CLUSTERS];

	snprintf(one.said, sizeof(one.said), "%.200s %s s%d s%d up to %d", w->said, c->commit ? "commit" : "delete", c->first, c->last, last);
	guest_of(&one, before);
	if (!give(&one, c, last, false)) {
		refused++;
	} else {
		check(&one);
		cr_assert(last == DONE || !one.snaps[c->last].exists || give(&one, c, DONE, true), "%s: what was begun is refused", one.said);
		done++;
	}
	check(&one);
	guest_of(&one, after);
	cr_assert(!memcmp(before, after, CLUSTERS), "%s: the guest reads otherwise", one.said);
	vm_meta_free(one.meta);
}

static void commands_of_sizes(struct world *w)
{
	for (int first = 0; first < w->n_snaps; first++)
		for (int last = first; last < w->n_snaps; last++)
			for (int commit = first != last; commit < 2; commit++) {
				struct command c = {first, last, commit};

				command_of_sizes(w, &c, HALF_COPIED);
				command_of_sizes(w, &c, DONE);
			}
}

Test(vm_merge, layers_of_whatever_size_show_nothing_that_was_hidden, .timeout = 60)
{
	every_size(commands_of_sizes);
	cr_assert(done > 1000 && refused > 1000, "%zu done, %zu refused", done, refused);
}

/* As QEMU 7.2 does it: nothing is copied that lies past the end of the layer beneath the active one. */
static void pull(struct world *w, int base)
{
	struct file *top = &w->files[w->active];

	for (int c = 0; top->below != NONE && c < top->size && c < w->files[top->below].size; c++)
		for (int f = top->below; f != base && !top->data[c]; f = w->files[f].below)
			top->data[c] = c < w->files[f].size ? w->files[f].data[c] : ZEROS;
	top->below = base;
}

static void pulls_of_sizes(struct world *w)
{
	for (int base = w->files[w->active].below;; base = w->files[base].below) {
		struct world one = copy(w);
		unsigned char before[CLUSTERS], after[CLUSTERS];
		struct show v;
		int layer;

		show(w, &v);
		layer = base == NONE ? NONE : vm_context_layer(&v.work, v.paths[base]);
		guest_of(&one, before);
		if (vm_fit_pull(&v.work, "vda", layer, v.disk.top, NULL) == 0) {
			pull(&one, base);
			done++;
		} else {
			cr_assert_neq(base, NONE, "%s: a pull down to nothing is refused", w->said);
			refused++;
		}
		check(&one);
		guest_of(&one, after);
		cr_assert(!memcmp(before, after, CLUSTERS), "%s: after a pull down to f%d the guest reads otherwise", w->said, base);
		vm_meta_free(one.meta);
		if (base == NONE)
			return;
	}
}

Test(vm_merge, a_pull_shows_nothing_that_was_hidden)
{
	every_size(pulls_of_sizes);
	cr_assert(done > 100 && refused > 100, "%zu done, %zu refused", done, refused);
}

/* One base and one overlay of two clusters more. What it says of the base. */
static int fit_of(void (*change)(struct show *v), const char *words)
{
	struct world w;
	struct vs_err err = {0};
	struct show v;
	int r;

	sizes[0] = CLUSTERS - 2;
	w = make(2, NONE);
	memset(sizes, 0, sizeof(sizes));
	show(&w, &v);
	change(&v);
	r = vm_fit_merge(&v.work, "vda", vm_context_layer(&v.work, "/f0"), vm_context_layer(&v.work, "/f1"), false, &err);
	cr_expect(!words || strstr(err.msg, words), "'%s' does not say '%s'", err.msg, words);
	vm_meta_free(w.meta);
	return r;
}

static struct vm_layer *base_of(struct show *v)
{
	return &v->layers[vm_context_layer(&v->work, "/f0")];
}

static void is_a_file(struct show *v)
{
	base_of(v)->format = Q2_FORMAT_RAW;
}

static void is_a_device(struct show *v)
{
	base_of(v)->format = Q2_FORMAT_RAW;
	base_of(v)->stamp.block = true;
}

static void is_version_2(struct show *v)
{
	base_of(v)->version = 2;
}

static void is_version_2_with_snapshots(struct show *v)
{
	base_of(v)->version = 2;
	base_of(v)->internal = (char *)"i1";
}

static void is_version_3_with_snapshots(struct show *v)
{
	base_of(v)->internal = (char *)"i1";
}

Test(vm_merge, a_base_that_cannot_grow_is_found_beforehand)
{
	cr_expect_eq(fit_of(is_a_file, NULL), 0);
	cr_expect_eq(fit_of(is_a_device, "make the device as large"), -ENOSPC);
	cr_expect_eq(fit_of(is_version_2, NULL), 0);
	cr_expect_eq(fit_of(is_version_2_with_snapshots, "version 2"), -EOPNOTSUPP);
	cr_expect_eq(fit_of(is_version_3_with_snapshots, NULL), 0);
}
