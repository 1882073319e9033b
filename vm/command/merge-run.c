/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The steps of a merge, each of which may be the last one before a crash:
 *
 *     mark        the snapshots that go are marked in the domain's metadata with what is intended: they read as stale from here on.
 *                 That nobody has been asked to write yet is noted with it, and taken back before libvirt is
 *     start       a shut-off domain is started paused
 *     look        once more, now that the domain is up: is the plan still based on what is so?
 *     commit      disk by disk. Once the job has begun libvirt lets nobody else at the disk: the guards are asked again, and before a
 *                 pivot once more. The merged files stay for now, since a later snapshot may be one of them: at every moment each
 *                 reads right through what its record names. Done is noted disk by disk
 *     attest      for those above the base, with the stamp that it has now: see attest.c
 *     re-point    every other record that names a merged layer names the base instead; children of those that go become
 *                 children of the parent of the first
 *     see         a fresh look, so readers have moved
 *     remove      the merged files, and those that nobody needs, each through vm_remove(), when what has taken their place is on the disk
 *     attest      for those that stay, again; and files of those that go, but stay, are noted as made by snapshots
 *     forget      the records go, the last one first: they have no children then, so that no libvirt rewrites any
 *     unmark      what we know of them is forgotten, marks included
 *     verify      every snapshot that was readable before and was not to go is so now
 *
 * Repeated, each finds what it did and does the rest. Given up before a byte was written, the marks are taken away again, also
 * by the next mount, where the base's mtime proves it; later they stay, for the base is neither what it was nor what it is
 * to be.
 *
 * libvirt's own delete does all this in one call, but can neither be cancelled nor slowed, asks nobody before the pivot, and
 * leaves, interrupted in the oldest snapshot, no trace. So it is not used for external snapshots.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/content.h"
#include "vm/command/effects.h"
#include "vm/command/fit.h"
#include "vm/command/guest.h"
#include "vm/command/intent.h"
#include "vm/command/merge.h"
#include "vm/command/nv.h"
#include "vm/command/own-job.h"
#include "vm/command/prove.h"
#include "vm/command/remove.h"
#include "vm/libvirt/blockjob-list.h"
#include "vm/libvirt/blockjob.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

static struct vm_meta_id id_of(const struct vm_context_record *r)
{
	return (struct vm_meta_id){ r->name, r->xml->created_s * VM_NS_PER_S, VM_EXTERNAL };
}

/* ---------------------------------------------------------------- mark */

/* What an earlier attempt has written down of this disk; NULL: there was none. */
static const struct vm_meta_doomed *marked_before(const struct vm_merge *m, const char *target)
{
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);
		const struct vm_meta_doomed *disk = record ? vm_intent_of(vm_intent_mark(m->cx, record), target) : NULL;

		if (disk)
			return disk;
	}
	return NULL;
}

/* A write within this time of another may leave the mtime as it is: a tick of the kernel's, or where a file system has no
 * fractions of seconds the two seconds of the coarsest. */
static int64_t tick_of(int64_t mtime_ns)
{
	return mtime_ns % VM_NS_PER_S ? VM_NS_PER_S / 20 : 2 * VM_NS_PER_S;
}

static bool has_data_file(const struct vm_merge *m, const struct vm_merge_disk *d)
{
	int l = vm_context_layer(m->cx, d->base);

	return l < 0 || m->cx->d->layers[l].data;
}

/* The mtime of a base that nobody has written to: while it stays, nobody has. 0: it would prove nothing, because the last
 * write was just now, or there is no such time. */
static int64_t proof_of(const struct vm_merge *m, const struct vm_merge_disk *d, int64_t now_ns)
{
	const struct vm_meta_doomed *before = marked_before(m, d->target);

	if (before)
		return before->path && !strcmp(before->path, d->base) && before->path_ino == d->base_stamp.ino ? before->mtime_ns : 0;
	if (d->base_stamp.block || has_data_file(m, d) || d->base_stamp.mtime_ns + tick_of(d->base_stamp.mtime_ns) >= now_ns)
		return 0;
	return d->base_stamp.mtime_ns;
}

static struct vm_meta_doomed intent_of(const struct vm_merge *m, const struct vm_merge_disk *d, int64_t now_ns)
{
	const struct vm_meta_doomed *before = marked_before(m, d->target);
	struct vm_meta_doomed intent = {
		.target = d->target, .path = d->base, .top = d->top, .path_ino = d->base_stamp.ino, .top_ino = d->top_stamp.ino,
		.above_ino = d->above_ino, .mtime_ns = proof_of(m, d, now_ns),
	};

	intent.unasked = !before || before->unasked;
	if (d->what != VM_MERGE_DONE || !before)
		return intent;
	intent.top_ino = before->top_ino; /* it may be gone by now */
	intent.above_ino = before->above_ino;
	intent.pivoting = before->pivoting;
	intent.done = before->done || !before->pivoting;
	return intent;
}

#define OVER_TRIES 120
#define OVER_PAUSE_US 50000
#define MADE_MAX (VM_META_MAX / 4)

/* That a snapshot made the files that are to go is said by its record, which somebody may remove before we have come to them. */
static void remember_gone(struct vm_merge *m)
{
	size_t bytes = 0;

	for (size_t i = 0; i < m->n_disks; i++)
		for (size_t k = 0; k < m->disks[i].n_gone; k++) {
			const struct vm_doomed_file *file = &m->disks[i].gone[k];

			bytes += strlen(file->path) + 32;
			if (bytes <= MADE_MAX)
				vm_context_add_made(m->cx, file->path, &file->stamp);
		}
}

/* Had somebody begun it before who is not retention? */
static bool is_asked_for(const struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);
		const struct vm_meta_mark *before = record ? vm_intent_mark(m->cx, record) : NULL;

		if (before && !before->is_void && !before->retention)
			return true;
	}
	return false;
}

static int mark(struct vm_merge *m, struct vs_err *err)
{
	vs_autofree struct vm_meta_doomed *disks = xcalloc(m->n_disks, sizeof(*disks));
	vs_autofree char *said = vm_intent_repeat(m->command);
	vs_autofree char *reason = xasprintf("'%s' has begun, which changes its data: repeat it, unless 'jobs' shows that it runs", said);
	struct vm_meta_mark what = { .command = m->command, .reason = reason, .since_ns = vm_now_ns(), .disks = disks };

	what.retention = m->cx->pruning && !is_asked_for(m);
	for (size_t i = 0; i < m->n_disks; i++)
		if (vm_merge_moved(&m->disks[i]))
			disks[what.n_disks++] = intent_of(m, &m->disks[i], what.since_ns);
	remember_gone(m);
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);
		struct vm_meta_id id = id_of(record);

		vm_meta_set_mark(m->cx->meta, &id, &what);
	}
	return vm_context_ask(m->cx, err);
}

/* A note on the intent of one disk, in all marks of the line. */
static int note(struct vm_merge *m, const struct vm_merge_disk *d, bool unasked, bool done, bool pivoting, struct vs_err *err)
{
	for (size_t i = 0; i < m->cx->meta->n_snapshots; i++) {
		struct vm_meta_mark *what = m->cx->meta->snapshots[i].mark;

		for (size_t k = 0; what && !strcmp(what->command, m->command) && k < what->n_disks; k++)
			if (!strcmp(what->disks[k].target, d->target)) {
				what->disks[k].unasked = unasked;
				what->disks[k].done = done;
				what->disks[k].pivoting = pivoting;
			}
	}
	return vm_context_save(m->cx, err);
}

/* Not all of it has come to the disk, whatever libvirt says: repeated, the command goes by the content; of what was the active layer nobody can tell. */
static int note_unwritten(struct vm_merge *m, const struct vm_merge_disk *d)
{
	const struct vm_meta_doomed *noted = marked_before(m, d->target);

	vm_journal_drop(&m->cx->journal, "pivot"); /* which would prove it */
	return note(m, d, false, false, !(noted ? noted->above_ino : d->above_ino), NULL);
}

/* Was nothing written to any base, neither now nor in an earlier attempt? */
static bool untouched(const struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);
		const struct vm_meta_mark *what = record ? vm_intent_mark(m->cx, record) : NULL;

		if (what && !vm_intent_untouched(what))
			return false;
	}
	return true;
}

static int unmark(struct vm_merge *m, struct vs_err *err)
{
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);
		struct vm_meta_id id;

		if (!record)
			continue;
		id = id_of(record);
		vm_meta_set_mark(m->cx->meta, &id, NULL);
	}
	return vm_context_save(m->cx, err);
}

/* ---------------------------------------------------------------- is the plan still based on what is so? */

static int differs(const struct vm_merge_disk *d, const char *path, struct vs_err *err)
{
	return vs_err_set(err, -EPERM, "disk %s: '%s' is not what it was when this was planned: another tool is at work on the domain",
			  d->target, path);
}

/* Has a job that has just begun ended already? Then what stood on the top stands on the base, beside the merged layers. */
static bool is_over(const struct vm_context *now, const struct vm_merge_disk *d, int base)
{
	for (size_t i = 0; d->above_ino && i < now->d->n_layers; i++)
		if (now->d->layers[i].stamp.ino == d->above_ino && !now->d->layers[i].error && now->d->layers[i].below == base)
			return true;
	return false;
}

/* A second look at one disk: the same files, one on the other, and nobody who needs them. Of the top only the inode counts: it may be
 * the active layer. *over (nullable): its job has ended already. */
static int look_again(const struct vm_merge *m, const struct vm_merge_disk *d, bool begun, bool *over, struct vs_err *err)
{
	struct vm_leaving leaving = vm_merge_leaving(m);
	struct vm_context now;
	int r = vm_context_glance(m->cx, &now, err), base, top, one;

	if (r < 0)
		return r;
	base = vm_context_layer(&now, d->base);
	top = vm_context_layer(&now, d->top);
	if (over)
		*over = base >= 0 && is_over(&now, d, base);
	if (base < 0 || now.d->layers[base].stamp.ino != d->base_stamp.ino)
		r = differs(d, d->base, err);
	else if (!begun && now.d->layers[base].stamp.mtime_ns != d->base_stamp.mtime_ns && !now.d->layers[base].stamp.block)
		r = differs(d, d->base, err);
	else if (top < 0 || now.d->layers[top].stamp.ino != d->top_stamp.ino)
		r = differs(d, d->top, err);
	for (int l = top, n = 0; r == 0 && n < VM_CHAIN_MAX; l = now.d->layers[l].below, n++) {
		if (l < 0)
			r = differs(d, d->top, err);
		else if (vm_need(&now, l, &leaving, l != top, err) != VM_NEED_NOT)
			r = err->code;
		else if (vm_context_above(&now, l, &one) > (begun && l == base && is_over(&now, d, base) ? 2u : 1u))
			r = vs_err_set(err, -EPERM, "'%s' must stay as it is: several branches stand on it", now.d->layers[l].path);
		else if (l == base && !begun)
			r = vm_check_links(&now, d->target, l, err);
		if (l == base)
			break;
	}
	vm_context_glance_done(&now);
	return r;
}

struct job {
	struct vm_merge *m;
	const struct vm_merge_disk *disk;
};

static int on_asking(void *opaque, enum vm_job type, struct vs_err *err)
{
	const struct job *job = opaque;
	const struct vm_blockjob_spec spec = { .target = job->disk->target, .base = job->disk->base, .top = job->disk->top, .type = type };
	const struct vm_meta_doomed *noted = marked_before(job->m, job->disk->target);
	int r = vm_own_job_journal(job->m->cx, &spec, job->m->command, err);

	return r == 0 && (!noted || noted->unasked) ? note(job->m, job->disk, false, false, false, err) : r;
}

static int on_begun(void *opaque, struct vs_err *err)
{
	const struct job *job = opaque;

	for (unsigned tries = 0;; tries++) {
		struct vs_err why = {0};
		bool over = false;
		int r = look_again(job->m, job->disk, true, &over, &why);

		/* A small one may have ended while we looked, and libvirt's chain is behind the headers for a moment. */
		if (r == 0 || !over || tries == OVER_TRIES)
			return r < 0 ? vs_err_set(err, r, "%s", why.msg) : 0;
		usleep(OVER_PAUSE_US);
	}
}

static int before_pivot(void *opaque, struct vs_err *err)
{
	const struct job *job = opaque;
	int r = look_again(job->m, job->disk, true, NULL, err);

	if (r == 0)
		r = vm_guest_journal_pivot(job->m->cx, job->disk->target, err);
	return r < 0 ? r : note(job->m, job->disk, false, false, true, err);
}

/* ---------------------------------------------------------------- commit */

/*
 * Once something did not come to the disk, what is written there again may not come either, and no fsync(2) says so: what ext4 could not write into
 * preallocated blocks it takes for written when the same pages are written anew. So after such an attempt the disk is asked for the content.
 */
static int is_on_disk(struct vm_merge *m, const struct vm_merge_disk *d, struct vs_err *err)
{
	struct vm_context *cx = m->cx;
	int base = vm_context_layer(cx, d->base), top = vm_context_layer(cx, d->top), r;
	struct vm_content_image moved;
	unsigned depth = 0;

	for (int l = top; l >= 0 && l != base && depth < VM_CHAIN_MAX; l = cx->d->layers[l].below)
		depth++;
	if (top < 0 || base < 0)
		return vs_err_set(err, -EPERM, "'%s' is not to be seen", d->top);
	moved = (struct vm_content_image){ cx->d->layers[top].path, cx->d->layers[top].format, cx->d->gate };
	r = vm_content_is_there(cx, &moved, depth, &cx->d->layers[base], false, err);
	if (r == 0)
		r = vs_err_set(err, -EIO, "disk %s: what was merged into '%s' is not on the disk, though nobody was told of an error", d->target, d->base);
	if (r == 1)
		vm_held_proven(cx, d->base);
	return r < 0 ? r : 0;
}

/* Of what was the active layer: a guest writes to the base now, so its content tells nothing. */
static int keep_top(struct vm_merge *m, struct vm_merge_disk *d, struct vs_err *err)
{
	int r = note(m, d, false, false, true, err);

	while (d->n_gone)
		free(d->gone[--d->n_gone].path);
	if (r == 0)
		vm_context_say(m->cx, "disk %s: '%s' stays, for it is not proven that all of it has come to the disk", d->target, vm_context_file(m->cx, d->top));
	if (r == 0)
		vm_held_proven(m->cx, d->base);
	return r;
}

static int commit_one(struct vm_merge *m, struct vm_merge_disk *d, struct vs_err *err)
{
	struct job job = { m, d };
	struct vm_blockjob_commit spec = {
		.target = d->target, .base = d->base, .top = d->top, .asking = on_asking, .begun = on_begun, .check = before_pivot, .opaque = &job,
		.bandwidth = (uint64_t)(m->cx->options->bandwidth_mib * 1048576),
	};
	struct vm_blockjob_outcome outcome = {0};
	struct stat st;
	const struct vm_meta_doomed *noted = marked_before(m, d->target);
	bool unasked = noted && noted->unasked, doubted = vm_held_is_noted(m->cx, d->base);
	int r = vm_context_cancelled(m->cx, err), written;

	if (r == 0)
		r = look_again(m, d, m->resumed, NULL, err);
	if (r == 0)
		r = vm_merge_hold(m, d, err);
	if (r == 0)
		r = vm_blockjob_commit(m->cx->dom, &spec, &m->cx->watch, &outcome, err);
	vm_fault();
	if (r < 0 && unasked && !outcome.touched) /* it was asked for, and refused */
		note(m, d, true, false, false, NULL);
	written = r == 0 || outcome.done ? vm_merge_reaches_disk(d, r == 0 ? err : NULL) : 0;
	if (written < 0 || (r < 0 && outcome.touched && (r == -EIO || r == -ENOSPC) && vm_dom_active(m->cx->dom, NULL) == 1)) /* not that QEMU was killed */
		vm_held_note(m->cx, d->base);
	if (r == 0 && written == 0 && doubted && d->above_ino)
		written = is_on_disk(m, d, err);
	if (r < 0 && outcome.done && written == 0 && !doubted) /* too late: it stands on the base by now, whatever is to be said against it */
		note(m, d, false, true, false, NULL);
	else if (written < 0 || (r < 0 && outcome.done))
		note_unwritten(m, d);
	if (r < 0 || written < 0)
		return r < 0 ? r : written;
	/* nobody writes to what was the top any more: this is the file that may be removed */
	if (stat(d->top, &st) == 0 && st.st_ino == d->top_stamp.ino && st.st_dev == d->top_stamp.dev && d->n_gone) {
		d->gone[0].stamp.size = (uint64_t)st.st_size;
		d->gone[0].stamp.mtime_ns = vm_timespec_ns(st.st_mtim);
	}
	r = doubted && !d->above_ino ? keep_top(m, d, err) : note(m, d, false, true, false, err);
	vm_journal_done(&m->cx->journal, "pivot");
	vm_journal_done(&m->cx->journal, "job");
	return r;
}

/* A first attempt may have left in the page cache what is not on the disk: a guest that is started now is to see that. */
static void forget_first_attempt(struct vm_merge *m)
{
	for (size_t i = 0; m->resumed && !m->cx->running && i < m->n_disks; i++) {
		int base = m->disks[i].what == VM_MERGE_DOWN ? vm_context_layer(m->cx, m->disks[i].base) : -1;

		if (base >= 0)
			vm_content_uncache(&m->cx->d->layers[base]);
	}
}

static int commit_all(struct vm_merge *m, struct vs_err *err)
{
	int r;

	forget_first_attempt(m);
	r = vm_guest_start(m->cx, err);

	for (size_t i = 0; r == 0 && i < m->n_disks; i++)
		if (m->disks[i].what == VM_MERGE_DOWN)
			r = commit_one(m, &m->disks[i], err);
	return r;
}

/* Why it can never be finished, as the mark says; NULL: repeating does. */
static const char *voided(const struct vm_merge *m)
{
	vs_autofree const char **line = xcalloc(m->cx->n_records, sizeof(*line));
	const struct vm_meta_mark *mark =
		vm_intent_line(m->cx, m->command, line) ? vm_intent_mark(m->cx, vm_context_record(m->cx, line[0])) : NULL;

	return mark && mark->is_void ? mark->reason : NULL;
}

static int give_up(struct vm_merge *m, int r, struct vs_err *err)
{
	vs_autofree char *said = vm_intent_repeat(m->command);
	struct vm_blockjob *jobs = NULL;
	size_t n = 1;

	if (r != -EHOSTDOWN && vm_blockjob_list(m->cx->dom, &jobs, &n, NULL) == 0)
		vm_blockjob_list_free(jobs, n);
	if (r != -EHOSTDOWN)
		vm_own_job_settle(m->cx, NULL);
	if (n == 0 && untouched(m)) {
		if (unmark(m, NULL) == 0)
			vs_err_prefix(err, "nothing was written");
		return r;
	}
	if (r != -EHOSTDOWN && vm_attest_poll(m->cx, NULL) == 0)
		vm_prove(m->cx, NULL); /* before anybody starts the domain on half of it */
	if (voided(m)) {
		vs_err_prefix(err, "%s (nothing is removed; 'delete' takes the records away)", voided(m));
		return r;
	}
	vs_err_prefix(err, "the base may have been written to, so repeat '%s' to finish it (where that cannot be, 'pull' makes the disks stand "
		      "without it, and 'delete' then takes the records away)", said);
	return r;
}

/* Into the header of what stands on a top QEMU will write that it stands on the base: whoever is right now and has that
 * layer beneath it is attested with it, and saved with the marks. */
static void attest_moving(struct vm_merge *m)
{
	m->moving = xcalloc(m->n_disks, sizeof(*m->moving));
	m->cx->moving = m->moving;
	for (size_t i = 0; i < m->n_disks; i++)
		if (m->disks[i].what == VM_MERGE_DOWN && m->disks[i].above_ino)
			m->moving[m->cx->n_moving++] = m->disks[i].above_ino;
	vm_attest_domain(m->cx, m->cx->d);
}

/* Before a record names the base: of what it named until then nothing remains that would explain when the base was written. */
static int attest_bases(struct vm_merge *m, struct vs_err *err)
{
	size_t n = 0;

	for (size_t i = 0; i < m->n_disks; i++) {
		if (!vm_merge_moved(&m->disks[i]))
			continue;
		vm_attest_beneath(m->cx, m->disks[i].base);
		n++;
	}
	return n ? vm_context_save(m->cx, err) : 0;
}

static int merge_down(struct vm_merge *m, struct vs_err *err)
{
	int r = vm_check_startable(m->cx, err);

	if (r < 0)
		return r;
	vm_fault();
	attest_moving(m);
	r = mark(m, err);
	if (r < 0)
		return r;
	vm_context_unguard(m->cx);
	r = commit_all(m, err);
	return r < 0 ? give_up(m, r, err) : 0;
}

/* ---------------------------------------------------------------- after the data */

/* It may have been in the page cache only, and is nowhere now but in the layers that are to go. The failure is told once, so it is noted. */
static int write_out_all(struct vm_merge *m, struct vs_err *err)
{
	vs_autofree char *said = vm_intent_repeat(m->command);

	for (size_t i = 0; i < m->n_disks; i++) {
		const struct vm_merge_disk *d = &m->disks[i];
		struct vs_err why = {0};
		bool told = false;
		int r = d->n_gone ? vm_merge_write_out(m, d, &told, &why) : 0;

		if (r == 0 || !told)
			continue; /* it is told when its layers are to go, and they stay */
		if (vm_merge_moved(d))
			note_unwritten(m, d);
		else
			vm_held_note(m->cx, d->target);
		return vs_err_set(err, r, "disk %s: %s: mend that, then repeat '%s'", d->target, why.msg, said);
	}
	return 0;
}

/* Overlays of those that go which stay as files, for others need them: soon no record will say that a snapshot made them. */
static int remember_made(struct vm_merge *m, struct vs_err *err)
{
	size_t had = m->cx->meta->n_made;

	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);

		for (size_t k = 0; record && k < record->xml->n_disks; k++) {
			const struct vm_xml_snapdisk *d = &record->xml->disks[k];
			int layer = d->mode == VM_MODE_EXTERNAL && d->overlay.path ? vm_context_layer(m->cx, d->overlay.path) : -1;

			if (layer >= 0 && !m->cx->d->layers[layer].error && vm_made(m->cx, layer))
				vm_context_add_made(m->cx, d->overlay.path, &m->cx->d->layers[layer].stamp);
		}
	}
	return m->cx->meta->n_made > had ? vm_context_save(m->cx, err) : 0;
}

/* Of a command that has become void nobody knows any more, once it is forgotten, that it has written to a base. */
static void restand(struct vm_merge *m, const struct vm_meta_id *id)
{
	const struct vm_meta_snapshot *said = vm_meta_find(m->cx->meta, id);
	const struct vm_meta_mark *mark = said ? said->mark : NULL;

	for (size_t k = 0; mark && mark->is_void && k < mark->n_disks; k++) {
		const struct vm_meta_doomed *d = &mark->disks[k];
		struct vm_meta_file now;
		struct stat st;

		if (d->path && d->top_ino && stat(d->path, &st) == 0 && st.st_ino == d->path_ino && (!d->left_ns || d->left_ns == vm_timespec_ns(st.st_mtim)) &&
		    vm_attest_now(m->cx, d->path, &now))
			vm_meta_restand(m->cx->meta, d->top_ino, &now);
	}
}

static int forget_own(struct vm_merge *m, const struct vm_meta_id *ids, size_t n, struct vs_err *err)
{
	bool said = vm_meta_sweep_made(m->cx->meta, vm_context_is_there) > 0;

	for (size_t i = 0; i < n; i++) {
		restand(m, &ids[i]);
		said |= vm_meta_forget(m->cx->meta, &ids[i]);
	}
	return said || m->cx->meta->n_files ? vm_context_save(m->cx, err) : 0;
}

/* ---------------------------------------------------------------- words */

static void tell_disk(struct vm_merge *m, const struct vm_merge_disk *d)
{
	const char *base = vm_context_file(m->cx, d->base), *top = d->top ? vm_context_file(m->cx, d->top) : "";
	vs_autofree char *room = m->cx->try_only ? vm_fit_free(d->base, d->bytes) : xstrdup("");

	if (d->what == VM_MERGE_DOWN)
		vm_context_say(m->cx, "disk %s: %s '%s' into '%s' (at most %.1f MiB%s)", d->target,
			       m->cx->try_only ? "would merge" : "merged", top, base, (double)d->bytes / 1048576, room);
	else if (d->what == VM_MERGE_DONE)
		vm_context_say(m->cx, "disk %s: '%s' had been merged into '%s' before%s", d->target, top, base,
			       d->unproven ? ", and stays, for it is not proven that all of it was" : "");
	else if (d->what == VM_MERGE_KEEP)
		vm_context_say(m->cx, "disk %s: '%s' stays (%s)", d->target, base, d->why);
}

static void tell(struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_disks; i++)
		tell_disk(m, &m->disks[i]);
}

static int refuse_void(struct vm_merge *m, struct vs_err *err)
{
	vs_autofree char *why = xstrdup(m->is_void), *said = vm_intent_repeat(m->command);
	int r = m->cx->try_only ? 0 : vm_intent_void(m->cx, m->command, why, err);

	return r < 0 ? r : vs_err_set(err, -EPERM, "'%s' was begun and has become void, for %s: nothing is removed, and what it was to remove "
				      "stays stale; 'delete' then takes the records away and leaves all files", said, why);
}

static void note_effects(struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_disks; i++) {
		const struct vm_merge_disk *d = &m->disks[i];

		if (d->what == VM_MERGE_KEEP)
			vm_effects_stays(m->cx, d->why);
		else if (d->what == VM_MERGE_DOWN)
			vm_effects_merge(m->cx, vm_context_layer(m->cx, d->base), d->gone, d->n_gone);
		for (size_t k = 0; (d->what == VM_MERGE_DROP || d->what == VM_MERGE_DONE) && k < d->n_gone; k++)
			vm_effects_file(m->cx, d->gone[k].path);
	}
	vm_effects_gone(m->cx, m->n_names);
}

static int try_it(struct vm_merge *m, struct vs_err *err)
{
	int r = m->is_void ? refuse_void(m, err) : 0;

	if (r < 0)
		return r;
	tell(m);
	vm_merge_tell_files(m);
	note_effects(m);
	r = vm_merge_records(m, err);
	return r < 0 ? r : 0;
}

/* ---------------------------------------------------------------- verify */

static bool is_readable(const struct vm_snapshot *s)
{
	return s->state == VM_OK || s->state == VM_DETACHED;
}

/* Names of the snapshots that stay and are readable now. Gives. */
static char **list_readable(const struct vm_merge *m, size_t *n)
{
	struct vm_leaving leaving = vm_merge_leaving(m);
	char **list = xcalloc(m->cx->d->n_snapshots, sizeof(*list));

	*n = 0;
	for (size_t i = 0; i < m->cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &m->cx->d->snapshots[i];

		if (!s->present && is_readable(s) && !vm_leaving_has(&leaving, s->name))
			list[(*n)++] = xstrdup(s->shown);
	}
	return list;
}

static int verify(const struct vm_merge *m, char *const *readable, size_t n, struct vs_err *err)
{
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < m->cx->d->n_snapshots; k++) {
			const struct vm_snapshot *s = &m->cx->d->snapshots[k];

			if (!strcmp(s->shown, readable[i]) && !is_readable(s) && s->state != VM_BUSY)
				return vs_err_set(err, -EIO, "this was done, but snapshot '%s' is %s now: %s", s->shown, vm_state_name(s->state),
						  s->reason ? s->reason : "for no known reason");
		}
	return 0;
}

/* ---------------------------------------------------------------- run */

/* What comes after the data: for a repetition all of it again. */
static int finish(struct vm_merge *m, struct vs_err *err)
{
	vs_autofree struct vm_meta_id *ids = xcalloc(m->n_names, sizeof(*ids));
	vs_autofree int64_t *times = xcalloc(m->n_names, sizeof(*times));
	struct vm_leaving leaving = vm_merge_leaving(m);
	int r = write_out_all(m, err);

	if (r == 0)
		r = attest_bases(m, err);
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_context_record *record = vm_context_record(m->cx, m->names[i]);

		ids[i] = (struct vm_meta_id){ m->names[i], record ? record->xml->created_s * VM_NS_PER_S : 0, VM_EXTERNAL };
	}
	if (r == 0)
		r = vm_merge_records(m, err);
	if (r >= 0)
		r = vm_attest_poll(m->cx, err);
	if (r == 0)
		vm_merge_remove_files(m);
	if (r == 0)
		vm_merge_remove_memory(m);
	for (size_t i = 0; r == 0 && i < m->n_names; i++)
		vm_nv_remove(m->cx, &ids[i], &leaving);
	if (r == 0) {
		vm_attest_again(m->cx);
		r = remember_made(m, err);
	}
	if (r == 0)
		r = vm_merge_forget(m, err);
	if (r == 0)
		r = forget_own(m, ids, m->n_names, err);
	return r == 0 ? vm_attest_poll(m->cx, err) : r;
}

/* Of a file that was cut off nobody knows what it had; and the base has to be one that can take it. */
static int check_files(const struct vm_merge *m, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->n_disks; i++) {
		const struct vm_merge_disk *d = &m->disks[i];

		if (d->what != VM_MERGE_DOWN)
			continue;
		r = vm_check_uncut(m->cx, d->target, vm_context_top(m->cx, d->target), err);
		if (r == 0)
			r = vm_check_bitmaps(m->cx, d->target, vm_context_layer(m->cx, d->base), vm_context_layer(m->cx, d->top), false, err);
		if (r == 0)
			r = vm_fit_files(m->cx, d->target, vm_context_layer(m->cx, d->base), vm_context_layer(m->cx, d->top), d->bytes, err);
	}
	return r;
}

int vm_merge_run(struct vm_merge *m, struct vs_err *err)
{
	char **readable;
	size_t n;
	int r = m->is_void ? 0 : check_files(m, err);

	if (r == 0 && !m->is_void)
		r = vm_check_startable(m->cx, err);
	if (r == 0 && vm_merge_count(m, VM_MERGE_DOWN))
		r = vm_check_at_rest(m->cx, NULL, err);
	if (r < 0)
		return r;
	if (m->cx->try_only)
		return try_it(m, err);
	if (m->is_void)
		return refuse_void(m, err);
	if (vm_attest_spoilt(m->cx)) /* what tells so may be what goes */
		r = vm_context_save(m->cx, err);
	if (r < 0)
		return r;
	readable = list_readable(m, &n);
	if (vm_merge_count(m, VM_MERGE_DOWN))
		r = merge_down(m, err);
	if (r == 0) {
		vm_context_unguard(m->cx);
		tell(m);
		r = finish(m, err);
	}
	if (r == 0)
		r = verify(m, readable, n, err);
	for (size_t i = 0; i < n; i++)
		free(readable[i]);
	free(readable);
	return r;
}

int vm_merge_repair(struct vm_merge *m, struct vs_err *err)
{
	vs_autofree char *said = vm_intent_repeat(m->command);
	int r;

	if (m->is_void || !vm_merge_count(m, VM_MERGE_DONE) || vm_merge_count(m, VM_MERGE_DOWN) || vm_merge_count(m, VM_MERGE_DROP))
		return 0;
	r = vm_merge_records(m, err);
	if (r > 0)
		vm_log(m->cx->log, "completed the records of an interrupted '%s'; repeat it to remove what it has merged",
		       said);
	return r;
}
