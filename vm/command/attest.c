/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What we attest
 * --------------
 * A merge writes to a frozen image that later snapshots stand on. They read as before, but from then on the image's mtime is
 * later than they are, which is what a file looks like that somebody has spoilt. The records and overlays that explain it may go
 * with the next command, and what was watched is forgotten at the unmount. So, before a command changes anything and when it
 * is done, every snapshot that is right is written down together with the stamps of those layers beneath it whose time speaks
 * against it. While a layer has that stamp, that layer is in order for that snapshot. And with all of its layers, from what it froze down to
 * the last one, so that it shows when one of them is another one, or has been written to: see graph/noted.c.
 */
#include "vm/command/attest.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/context.h"
#include "vm/model/mark.h"
#include "vm/observe/sum.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define SUM_BUDGET (4 * VM_SUM_MAX)

static bool is_right(const struct vm_disk *disk)
{
	return disk->state == VM_OK || disk->state == VM_DETACHED;
}

static bool is_moving(const struct vm_context *cx, uint64_t ino)
{
	for (size_t i = 0; i < cx->n_moving; i++)
		if (cx->moving[i] == ino)
			return true;
	return false;
}

static struct vm_meta_file file_of(const struct q2_stamp *stamp)
{
	return (struct vm_meta_file){ .ino = stamp->ino, .size = stamp->size, .mtime_ns = stamp->mtime_ns };
}

static bool is_file(const struct vm_meta_file *a, const struct vm_meta_file *b)
{
	return a->ino == b->ino && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

/* Appends the layers of one disk that look written since, or soon will. */
static size_t list_layers(const struct vm_context *cx, const struct vm_snapshot *s, const struct vm_disk *disk,
			  struct vm_meta_file *files, size_t n)
{
	int64_t from_ns = s->created_ns - s->created_ns % VM_NS_PER_S;

	for (size_t i = s->kind == VM_INTERNAL; i < disk->n_stamps; i++) {
		const struct q2_stamp *stamp = &disk->marks[i];

		if (!stamp->block && (stamp->mtime_ns >= from_ns || is_moving(cx, stamp->ino)))
			files[n++] = file_of(stamp);
	}
	return n;
}

/* So that a new time or another header alone is no change. Large ones take a while: those that one command has no time for are summed up by
 * the next one. */
static uint64_t sum_of(struct vm_context *cx, const struct vm_layer *layer, const struct vm_meta_file *file)
{
	const struct vm_sum_file expected = { file->ino, file->size, file->mtime_ns };

	if (layer->error || layer->data || file->size > VM_SUM_MAX)
		return 0;
	for (size_t i = 0; i < cx->meta->n_files; i++) {
		const struct vm_meta_file *known = &cx->meta->files[i];

		if (known->sum && is_file(known, file))
			return known->sum;
	}
	if (cx->summed > SUM_BUDGET)
		return 0;
	cx->summed += file->size;
	return vm_sum(layer->path, &expected, layer->format);
}

/* A fresh image ends with its L1 table: what it stores lies behind that. */
static bool is_empty(const struct vm_layer *layer)
{
	uint64_t cluster = UINT64_C(1) << layer->cluster_bits, l1;

	if (!layer->version || layer->below < 0)
		return false;
	l1 = (layer->virtual_size / (cluster * cluster / 16) + 1) * 8;
	return layer->stamp.size <= (3 + (l1 + cluster - 1) / cluster) * cluster;
}

/* The number of the note of layer @i of the disk, with all that it stands on; 0: nobody can know it again. What cannot be read now may be put right,
 * and is another one then. */
static uint64_t note_chain(struct vm_context *cx, const struct vm_disk *disk, size_t i)
{
	uint64_t number = 0;

	for (size_t k = disk->n_stamps; k-- > i;) {
		int l = vm_context_layer(cx, disk->chain[k]);
		const struct vm_layer *layer = l < 0 ? NULL : &cx->d->layers[l];
		struct vm_meta_file file = file_of(&disk->marks[k]);

		if (!layer || layer->error || layer->stamp.ino != file.ino || disk->marks[k].block) {
			number = 0;
			continue;
		}
		file.beneath = number;
		file.raw = layer->format == Q2_FORMAT_RAW;
		file.alone = k + 1 == disk->n_stamps && is_right(disk) && layer->below < 0 && !layer->ends && !layer->error && (file.raw || layer->version);
		file.empty = is_empty(layer);
		file.survived = disk->survived[k];
		file.sum = sum_of(cx, layer, &file);
		number = vm_meta_add_file(cx->meta, &file);
	}
	return number;
}

/* Could it have a sum, which would be made now? */
static bool lacks_sum(const struct vm_context *cx, const struct vm_disk *disk, size_t i)
{
	int l = vm_context_layer(cx, disk->chain[i]);

	return l >= 0 && !cx->d->layers[l].error && !cx->d->layers[l].data && disk->marks[i].size <= VM_SUM_MAX && cx->summed <= SUM_BUDGET;
}

/* Is it noted with all that it stands on, as it is? */
static bool is_noted(const struct vm_context *cx, const struct vm_meta_file *noted, const struct vm_disk *disk, size_t i)
{
	for (; noted && i < disk->n_stamps; i++) {
		const struct vm_meta_file file = file_of(&disk->marks[i]);

		if (!is_file(noted, &file) || noted->survived != disk->survived[i] || (!noted->beneath && i + 1 < disk->n_stamps) ||
		    (!noted->sum && lacks_sum(cx, disk, i)))
			return false;
		noted = vm_meta_file(cx->meta, noted->beneath);
	}
	return i == disk->n_stamps && !noted;
}

/* Is it read through a layer that a merge, begun and not ended, has in its hands? Then what it stands on changes, and is noted when that
 * is over: when the layer is gone, if the merge is ours. */
static bool is_merging(const struct vm_context *cx, const struct vm_disk *disk)
{
	if (disk->watched)
		return true;
	for (size_t i = 0; i < cx->meta->n_snapshots; i++) {
		const struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		for (size_t k = 0; mark && !mark->is_void && k < mark->n_disks; k++)
			for (size_t n = 0; mark->disks[k].top_ino && n < disk->n_stamps; n++)
				if (disk->marks[n].ino == mark->disks[k].top_ino)
					return true;
	}
	return false;
}

/* Once for ever: what it shows never changes. */
static void note_shown(struct vm_context *cx, const struct vm_meta_id *id, const struct vm_disk *disk)
{
	uint64_t sum, bytes;

	if (!disk->n_stamps || disk->watched || cx->summed > SUM_BUDGET || vm_meta_shows(cx->meta, id, disk->target))
		return;
	sum = vm_sum_shown(&(struct q2_view_spec){ .path = disk->chain[0], .format = disk->format, .snapshot = disk->snapshot, .gate = disk->gate,
						   .expected = disk->stamps, .n_expected = disk->n_stamps }, &bytes);
	cx->summed += bytes;
	if (sum)
		vm_meta_set_shows(cx->meta, id, disk->target, sum);
}

/* Does it stand on what it is noted to have frozen? A name was used again in the same second: libvirt re-points records to what lies further down only. */
static bool is_of_another(const struct vm_meta_file *noted, const struct vm_disk *disk)
{
	if (!noted || !disk->n_stamps || disk->marks[0].ino == noted->ino)
		return false;
	for (size_t i = 1; i < disk->n_stamps; i++)
		if (disk->marks[i].ino == noted->ino)
			return true;
	return false;
}

void vm_attest_frozen(struct vm_context *cx, const struct vm_meta_id *id, const struct vm_disk *disk)
{
	size_t first = id->kind == VM_INTERNAL;
	const struct vm_meta_file *file;

	if (is_of_another(vm_meta_frozen(cx->meta, id, disk->target), disk))
		vm_meta_forget_notes(cx->meta, id);
	if (is_right(disk)) {
		vm_meta_set_spoilt(cx->meta, id, disk->target, false);
		note_shown(cx, id, disk);
	}
	if (disk->n_stamps <= first || disk->marks[first].block || (!is_right(disk) && disk->state != VM_UNSUPPORTED) ||
	    is_noted(cx, vm_meta_frozen(cx->meta, id, disk->target), disk, first) || is_merging(cx, disk))
		return;
	file = vm_meta_file(cx->meta, note_chain(cx, disk, first));
	if (file)
		vm_meta_set_frozen(cx->meta, id, disk->target, file);
}

bool vm_attest_stamps(struct vm_context *cx, const struct vm_meta_id *id, const char *target, char **chain, const struct q2_stamp *stamps, size_t n)
{
	vs_autofree uint64_t *survived = xcalloc(n, sizeof(*survived));
	const struct vm_disk disk = { .state = VM_OK, .chain = chain, .marks = stamps, .survived = survived, .n_stamps = (unsigned)n };
	const struct vm_meta_file *file = is_merging(cx, &disk) ? NULL : vm_meta_file(cx->meta, note_chain(cx, &disk, 0));

	if (!file)
		return false;
	vm_meta_set_frozen(cx->meta, id, target, file);
	vm_meta_set_spoilt(cx->meta, id, target, false);
	return true;
}

/* Is it noted down to the end? Then it shows when all is there again as it was. */
static bool ends(const struct vm_context *cx, const struct vm_meta_file *noted)
{
	while (noted->beneath)
		noted = vm_meta_file(cx->meta, noted->beneath);
	return noted->alone;
}

/* False: it is noted already. What its record names for want of what it froze, which may come back, says nothing of that where nobody could tell
 * that it is back. */
static bool spoil(struct vm_context *cx, const struct vm_snapshot *s, const struct vm_disk *disk)
{
	struct vm_meta_id id = vm_context_id(cx, s);
	const struct vm_meta_file *noted = s->kind == VM_EXTERNAL ? vm_meta_frozen(cx->meta, &id, disk->target) : NULL;

	if (noted && (!disk->n_stamps || disk->marks[0].ino != noted->ino) && !ends(cx, noted))
		return false;
	return vm_meta_set_spoilt(cx->meta, &id, disk->target, true);
}

bool vm_attest_spoilt(struct vm_context *cx)
{
	bool news = false;

	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		for (size_t k = 0; !cx->d->snapshots[i].present && k < cx->d->snapshots[i].n_disks; k++)
			if (cx->d->snapshots[i].disks[k].written)
				news |= spoil(cx, &cx->d->snapshots[i], &cx->d->snapshots[i].disks[k]);
	return news;
}

/* Is what it shows in this layer, or did it stand on it already when that was written to last? */
static bool sees(const struct vm_context *cx, const struct vm_snapshot *s, const struct vm_disk *disk, int layer, int64_t written_ns)
{
	for (size_t i = 0; disk->chain && disk->chain[i]; i++)
		if (vm_context_layer(cx, disk->chain[i]) == layer)
			return i == 0 ? s->kind == VM_EXTERNAL : s->created_ns <= written_ns;
	return false;
}

bool vm_attest_spoilt_in(struct vm_context *cx, int layer)
{
	bool news = false;
	struct stat st;
	int64_t written_ns = stat(cx->d->layers[layer].path, &st) < 0 ? INT64_MAX : vm_timespec_ns(st.st_mtim);

	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		for (size_t k = 0; !s->present && k < s->n_disks; k++)
			if (sees(cx, s, &s->disks[k], layer, written_ns))
				news |= spoil(cx, s, &s->disks[k]);
	}
	return news;
}

static void attest(struct vm_context *cx, const struct vm_snapshot *s)
{
	vs_autofree struct vm_meta_file *files = NULL;
	struct vm_meta_id id = vm_context_id(cx, s);
	size_t n = 0, room = 0;
	bool all = true;

	for (size_t i = 0; i < s->n_disks; i++)
		if (s->disks[i].differs)
			spoil(cx, s, &s->disks[i]); /* which a merge by anybody may hide */
	for (size_t i = 0; i < s->n_disks; i++) {
		/* one that is not read has an image all the same, of which the record may come to name another one */
		if (is_right(&s->disks[i]) || (s->kind == VM_EXTERNAL && s->disks[i].state == VM_UNSUPPORTED &&
					       !vm_meta_frozen(cx->meta, &id, s->disks[i].target)))
			vm_attest_frozen(cx, &id, &s->disks[i]);
		all &= is_right(&s->disks[i]);
		room += s->disks[i].n_stamps;
	}
	files = xcalloc(room, sizeof(*files));
	for (size_t i = 0; all && i < s->n_disks; i++)
		n = list_layers(cx, s, &s->disks[i], files, n);
	if (all) /* else whatever was known of it stays */
		vm_meta_set_attested(cx->meta, &id, files, n);
}

void vm_attest_domain(struct vm_context *cx, const struct vm_domain *d)
{
	for (size_t i = 0; cx->conn && i < d->n_snapshots; i++)
		if (!d->snapshots[i].present)
			attest(cx, &d->snapshots[i]);
}

int vm_attest_poll(struct vm_context *cx, struct vs_err *err)
{
	int r = vm_context_poll(cx, err);

	if (r == 0 && !cx->try_only)
		vm_attest_domain(cx, cx->d);
	return r;
}

static bool stands_on(const struct vm_context *cx, const struct vm_disk *disk, int base)
{
	for (size_t i = 1; disk->chain && disk->chain[0] && disk->chain[i]; i++)
		if (vm_context_layer(cx, disk->chain[i]) == base)
			return true;
	return false;
}

/* To what is attested already. */
static void attest_too(struct vm_context *cx, const struct vm_snapshot *s, const struct vm_meta_file *more)
{
	struct vm_meta_id id = vm_context_id(cx, s);
	const struct vm_meta_snapshot *said = vm_meta_find(cx->meta, &id);
	size_t had = said ? said->n_attested : 0, n = 0;
	vs_autofree struct vm_meta_file *files = xcalloc(had + 1, sizeof(*files));

	for (size_t i = 0; i < had; i++) {
		const struct vm_meta_file *file = vm_meta_file(cx->meta, said->attested[i]);

		if (file && file->ino != more->ino)
			files[n++] = *file;
	}
	files[n++] = *more;
	vm_meta_set_attested(cx->meta, &id, files, n);
}

static bool stamp_now(const char *path, struct q2_stamp *stamp)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return false;
	*stamp = S_ISBLK(st.st_mode) ? (struct q2_stamp){ .ino = st.st_rdev, .block = true } :
				       (struct q2_stamp){ .ino = st.st_ino, .size = (uint64_t)st.st_size, .mtime_ns = vm_timespec_ns(st.st_mtim) };
	return true;
}

bool vm_attest_now(const struct vm_context *cx, const char *path, struct vm_meta_file *now)
{
	int l = vm_context_layer(cx, path);
	const char *in = l < 0 ? NULL : cx->d->layers[l].data;
	struct q2_stamp stamp, data;

	if (!stamp_now(path, &stamp) || (in && !stamp_now(in, &data)))
		return false;
	stamp = vm_mark(stamp, in ? &data : NULL);
	*now = file_of(&stamp);
	return true;
}

void vm_attest_beneath(struct vm_context *cx, const char *path)
{
	int base = vm_context_layer(cx, path);
	struct vm_meta_file now;

	if (base < 0 || cx->d->layers[base].stamp.block || !vm_attest_now(cx, path, &now))
		return;
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];
		bool above = false, right = !s->present;

		for (size_t k = 0; k < s->n_disks; k++) {
			above = above || stands_on(cx, &s->disks[k], base);
			right = right && is_right(&s->disks[k]);
		}
		if (above && right)
			attest_too(cx, s, &now);
	}
}

void vm_attest_again(struct vm_context *cx)
{
	struct vm_inventory *inv;

	if (vm_refresher_poll(cx->refresher, 30000) < 0)
		return; /* nobody knows: then nothing is attested that was not before */
	inv = vm_refresher_inventory(cx->refresher);
	for (size_t i = 0; i < inv->n_domains; i++)
		if (!strcmp(inv->domains[i]->uuid, cx->uuid))
			vm_attest_domain(cx, inv->domains[i]);
	vm_inventory_put(inv);
}
