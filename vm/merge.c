/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The steps of a merge, each of which may be the last one before a crash:
 *
 *     mark        the snapshots that go are marked in the domain's metadata: they read as stale from here on
 *     start       a shut-off domain is started paused
 *     commit      disk by disk; the guards are asked again before a pivot. The merged files stay for now, since a later
 *                 snapshot may be one of them: at every moment each reads right through what its record names
 *     end         the paused domain is ended
 *     vouch       for those above the base, with the stamp that it has now: see vouch.c
 *     re-point    every other record that names a merged layer names the base instead; children of those that go become
 *                 children of the parent of the first
 *     see         the picture shows that, so readers have moved
 *     remove      the merged files, and those that nobody needs
 *     vouch       for those that stay, again; and files of those that go, but stay, are noted as made by snapshots
 *     forget      the records go, the last one first: they have no children then, so that no libvirt rewrites any
 *     unmark      what we know of them is forgotten, marks included
 *
 * Repeated, each finds what it did and does the rest. Given up before a byte was written, the marks are taken away again, also
 * by the next mount, where the base's mtime proves it; later they stay, for the base is neither what it was nor what it is
 * to be.
 *
 * libvirt's own delete does all this in one call, but can neither be cancelled nor slowed, asks nobody before the pivot, and
 * leaves, interrupted in the oldest snapshot, no trace. So it is not used for external snapshots.
 */
#include "vm/merge.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/clock.h"
#include "vm/rewrite.h"

static bool goes(const struct vm_merge *m, const char *name)
{
	for (size_t i = 0; i < m->n_names; i++)
		if (!strcmp(m->names[i], name))
			return true;
	return false;
}

/* ---------------------------------------------------------------- mark */

static struct vm_own_id id_of(const struct vm_work_record *r)
{
	return (struct vm_own_id){ r->name, r->xml->created_s * VM_NS_PER_S, VM_EXTERNAL };
}

/* What the mark of an earlier attempt says of this disk; NULL: there was none. */
static const struct vm_own_doomed *marked_before(const struct vm_merge *m, const struct vm_merge_disk *d)
{
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_work_record *record = vm_work_record(m->w, m->names[i]);
		struct vm_own_id id = record ? id_of(record) : (struct vm_own_id){ .name = m->names[i] };
		const struct vm_own_snapshot *said = record ? vm_own_find(m->w->own, &id) : NULL;

		for (size_t k = 0; said && said->mark && k < said->mark->n_disks; k++)
			if (!strcmp(said->mark->disks[k].target, d->target))
				return &said->mark->disks[k];
	}
	return NULL;
}

/* Such a mark is not of this program. */
static bool marked_without_disks(const struct vm_merge *m, const char *name)
{
	const struct vm_work_record *record = vm_work_record(m->w, name);
	struct vm_own_id id = record ? id_of(record) : (struct vm_own_id){ .name = name };
	const struct vm_own_snapshot *said = record ? vm_own_find(m->w->own, &id) : NULL;

	return said && said->mark && !said->mark->n_disks;
}

/* The mtime of a base that nobody has written to: while it stays, nobody has. 0: it would prove nothing, because the last
 * write was just now, or there is no such time. */
static int64_t proof_of(const struct vm_merge *m, const struct vm_merge_disk *d, int64_t now_ns)
{
	const struct vm_own_doomed *before = marked_before(m, d);
	struct stat st;
	int64_t mtime_ns;

	if (before)
		return before->path && !strcmp(before->path, d->base) ? before->mtime_ns : 0;
	if (stat(d->base, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	mtime_ns = st.st_mtim.tv_sec * VM_NS_PER_S + st.st_mtim.tv_nsec;
	return mtime_ns + VM_NS_PER_S < now_ns ? mtime_ns : 0;
}

static bool unwritten(const struct vm_own_doomed *mark)
{
	struct stat st;

	return mark->mtime_ns && mark->path && stat(mark->path, &st) == 0 && S_ISREG(st.st_mode) &&
	       st.st_mtim.tv_sec * VM_NS_PER_S + st.st_mtim.tv_nsec == mark->mtime_ns;
}

/* May an earlier attempt have written to any base? */
static bool touched_before(const struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_disks; i++) {
		const struct vm_own_doomed *before = marked_before(m, &m->disks[i]);

		if (m->disks[i].what == VM_MERGE_DONE || (before && !unwritten(before)))
			return true;
	}
	for (size_t i = 0; i < m->n_names; i++)
		if (marked_without_disks(m, m->names[i]))
			return true;
	return false;
}

static int set_marks(struct vm_merge *m, bool on, struct vs_err *err)
{
	vs_autofree struct vm_own_doomed *disks = calloc(m->n_disks + 1, sizeof(*disks));
	char reason[VS_ERR_MAX];
	struct vm_own_mark mark = { .command = m->command, .reason = reason, .since_ns = vm_now_ns(), .disks = disks };
	int r = disks ? 0 : -ENOMEM;

	snprintf(reason, sizeof(reason), "'%s' has begun, which changes its data: repeat it if it is not running any more", m->command);
	for (size_t i = 0; disks && i < m->n_disks; i++)
		if (vm_merge_moved(&m->disks[i]))
			disks[mark.n_disks++] = (struct vm_own_doomed){ m->disks[i].target, m->disks[i].base, m->disks[i].top,
									proof_of(m, &m->disks[i], mark.since_ns) };
	for (size_t i = 0; r == 0 && i < m->n_names; i++) {
		const struct vm_work_record *record = vm_work_record(m->w, m->names[i]);
		struct vm_own_id id;

		if (!record)
			continue;
		id = id_of(record);
		r = vm_own_set_mark(m->w->own, &id, on ? &mark : NULL);
	}
	return r < 0 ? vs_err_set(err, r, "out of memory") : vm_work_save(m->w, err);
}

/* ---------------------------------------------------------------- commit */

struct pivot_check {
	struct vm_merge *m;
	const struct vm_merge_disk *disk;
};

/* Has anybody come to need these layers since? */
static int check_again(void *opaque, struct vs_err *err)
{
	const struct pivot_check *c = opaque;
	struct vm_work now = { .vm = c->m->w->vm };
	int r = vm_refresh(now.vm, 30000), l, base;

	if (r < 0)
		return vs_err_set(err, r, "before the pivot the images' users cannot be asked for: %s", strerror(-r));
	now.pic = vm_picture_get(now.vm);
	for (size_t i = 0; i < now.pic->n_domains; i++)
		if (!strcmp(now.pic->domains[i]->uuid, c->m->w->uuid))
			now.d = now.pic->domains[i];
	base = now.d ? vm_work_layer(&now, c->disk->base) : -1;
	l = now.d ? vm_work_layer(&now, c->disk->top) : -1;
	if (base < 0 || l < 0)
		r = vs_err_set(err, -EPERM, "before the pivot '%s' is not there any more", base < 0 ? c->disk->base : c->disk->top);
	for (int n = 0; r == 0 && l >= 0 && n < VM_CHAIN_MAX; n++) {
		r = vm_work_unshared(&now, l, "must stay as it is", err);
		l = l == base ? -1 : now.d->layers[l].below;
	}
	vm_picture_put(now.pic);
	return r;
}

static int commit_one(struct vm_merge *m, const struct vm_merge_disk *d, bool *touched, struct vs_err *err)
{
	struct pivot_check check = { m, d };
	struct vm_act_commit spec = {
		.target = d->target, .base = d->base, .top = d->top, .check = check_again, .opaque = &check,
		.bandwidth = (uint64_t)(m->w->options->bandwidth_mib * 1048576),
	};
	struct vm_act_outcome outcome = {0};
	int r = vm_work_cancelled(m->w, err);

	if (r == 0)
		r = vm_act_commit(m->w->dom, &spec, &m->w->watch, &outcome, err);
	*touched |= outcome.touched || outcome.done;
	vm_fault();
	return r;
}

static int commit_all(struct vm_merge *m, bool *touched, struct vs_err *err)
{
	struct vm_act_guest guest;
	struct vs_err why = {0};
	bool started = !m->w->running;
	int r = started ? vm_act_start_paused(m->w->dom, false, &guest, err) : 0, ended = 0;

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < m->n_disks; i++)
		if (m->disks[i].what == VM_MERGE_DOWN)
			r = commit_one(m, &m->disks[i], touched, err);
	if (started)
		ended = vm_act_end_paused(m->w->conn, &guest, &why);
	return r == 0 && ended < 0 ? vs_err_set(err, ended, "%s", why.msg) : r;
}

/* ---------------------------------------------------------------- records */

static int moves_of(const struct vm_merge *m, struct vm_rewrite_move *moves)
{
	int n = 0;

	for (size_t i = 0; i < m->n_disks; i++)
		if (vm_merge_moved(&m->disks[i]))
			moves[n++] = (struct vm_rewrite_move){
				.target = m->disks[i].target, .from = m->disks[i].top, .to = m->disks[i].base,
				.format = m->disks[i].format == Q2_FORMAT_NONE ? NULL : q2_format_name(m->disks[i].format),
				.block = m->disks[i].block,
			};
	return n;
}

/* The nearest ancestor that stays, or NULL. */
static const char *parent_that_stays(const struct vm_merge *m, const char *parent)
{
	while (parent && goes(m, parent)) {
		const struct vm_work_record *r = vm_work_record(m->w, parent);

		parent = r ? r->xml->parent : NULL;
	}
	return parent;
}

/* 1: the record has to change, *out is how; 0: it is right. */
static int corrected(const struct vm_merge *m, const struct vm_work_record *record, const struct vm_rewrite_move *moves, size_t n,
		     char **out, struct vs_err *err)
{
	bool child = record->xml->parent && goes(m, record->xml->parent);
	vs_autofree char *text = NULL;
	int changed = vm_rewrite_layers(record->text, moves, n, &text, err), r;

	if (changed < 0)
		return changed;
	if (!child) {
		*out = changed ? vs_steal(text) : NULL;
		return changed > 0;
	}
	r = vm_rewrite_parent(text, parent_that_stays(m, record->xml->parent), out, err);
	return r < 0 ? r : 1;
}

static int correct_record(struct vm_merge *m, const struct vm_work_record *record, const struct vm_rewrite_move *moves, size_t n,
			  struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = corrected(m, record, moves, n, &text, err);

	if (r <= 0)
		return r;
	r = vm_act_redefine(m->w->dom, text, VM_ACT_KEEP_CURRENT, err);
	if (r == 0)
		vm_work_say(m->w, "re-pointed the record of '%s'", record->name);
	return r < 0 ? r : 1;
}

/* How many. */
static int correct_records(struct vm_merge *m, struct vs_err *err)
{
	vs_autofree struct vm_rewrite_move *moves = calloc(m->n_disks + 1, sizeof(*moves));
	int n = moves ? moves_of(m, moves) : 0, r = moves ? 0 : vs_err_set(err, -ENOMEM, "out of memory"), changed = 0;

	for (size_t i = 0; r >= 0 && i < m->w->n_records; i++)
		if (!goes(m, m->w->records[i].name)) {
			r = correct_record(m, &m->w->records[i], moves, (size_t)n, err);
			changed += r > 0;
		}
	return r < 0 ? r : changed;
}

/* Overlays of those that go which stay as files, for others need them: soon no record will say that a snapshot made them. */
static int remember_made(struct vm_merge *m, struct vs_err *err)
{
	size_t had = m->w->own->n_made;
	int r = 0;

	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_work_record *record = vm_work_record(m->w, m->names[i]);

		for (size_t k = 0; r == 0 && record && k < record->xml->n_disks; k++) {
			const struct vm_xml_snapdisk *d = &record->xml->disks[k];

			if (d->mode == VM_MODE_EXTERNAL && d->overlay.path && access(d->overlay.path, F_OK) == 0)
				r = vm_own_add_made(m->w->own, d->overlay.path);
		}
	}
	if (r < 0)
		return vs_err_set(err, r, "out of memory");
	return m->w->own->n_made > had ? vm_work_save(m->w, err) : 0;
}

static int forget_records(struct vm_merge *m, struct vs_err *err)
{
	int r = 0;

	for (size_t i = m->n_names; r == 0 && i-- > 0;)
		if (vm_work_record(m->w, m->names[i]))
			r = vm_act_forget(m->w->dom, m->names[i], err);
	return r;
}

static bool is_there(const char *path)
{
	return access(path, F_OK) == 0;
}

static int forget_own(struct vm_merge *m, struct vs_err *err)
{
	bool said = vm_own_sweep_made(m->w->own, is_there) > 0;

	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_work_record *record = vm_work_record(m->w, m->names[i]);
		struct vm_own_id id;

		if (!record)
			continue;
		id = id_of(record);
		said |= vm_own_forget(m->w->own, &id);
	}
	return said || m->w->own->n_files ? vm_work_save(m->w, err) : 0;
}

/* ---------------------------------------------------------------- run */

static void tell_disk(struct vm_merge *m, const struct vm_merge_disk *d)
{
	const char *base = vm_work_file(m->w, d->base), *top = d->top ? vm_work_file(m->w, d->top) : "";

	if (d->what == VM_MERGE_DOWN)
		vm_work_say(m->w, "disk %s: %s '%s' into '%s' (at most %.1f MiB)", d->target,
			    m->w->try_only ? "would merge" : "merged", top, base, (double)d->bytes / 1048576);
	else if (d->what == VM_MERGE_DONE)
		vm_work_say(m->w, "disk %s: '%s' had been merged into '%s' before", d->target, top, base);
	else if (d->what == VM_MERGE_KEEP)
		vm_work_say(m->w, "disk %s: '%s' stays (%s)", d->target, base, d->who ? d->who : d->why);
}

static void tell(struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_disks; i++)
		tell_disk(m, &m->disks[i]);
}

/* What remove_files() will do. */
static void tell_files(struct vm_merge *m)
{
	for (size_t i = 0; i < m->n_disks; i++) {
		const struct vm_merge_disk *d = &m->disks[i];

		if (d->what == VM_MERGE_DROP)
			vm_work_say(m->w, "would unlink '%s'", d->base);
		for (size_t k = 0; k < d->n_gone; k++)
			if (access(d->gone[k], F_OK) == 0)
				vm_work_say(m->w, "would unlink '%s'", d->gone[k]);
	}
	for (size_t i = 0; i < m->n_names; i++) {
		const struct vm_work_record *record = vm_work_record(m->w, m->names[i]);

		if (record && record->xml->memory_file)
			vm_work_say(m->w, "would unlink '%s'", record->xml->memory_file);
	}
}

/* What correct_records() will do. */
static int tell_records(struct vm_merge *m, struct vs_err *err)
{
	vs_autofree struct vm_rewrite_move *moves = calloc(m->n_disks + 1, sizeof(*moves));
	int n = moves ? moves_of(m, moves) : 0, r = moves ? 0 : vs_err_set(err, -ENOMEM, "out of memory");

	for (size_t i = 0; r >= 0 && i < m->w->n_records; i++) {
		vs_autofree char *text = NULL;

		if (goes(m, m->w->records[i].name))
			continue;
		r = corrected(m, &m->w->records[i], moves, (size_t)n, &text, err);
		if (r > 0)
			vm_work_say(m->w, "would re-point the record of '%s'", m->w->records[i].name);
	}
	return r < 0 ? r : 0;
}

static int try_it(struct vm_merge *m, struct vs_err *err)
{
	int r = vm_merge_count(m, VM_MERGE_DOWN) ? vm_work_startable(m->w, err) : 0;

	if (r < 0)
		return r;
	tell(m);
	tell_files(m);
	return tell_records(m, err);
}

static int give_up(struct vm_merge *m, bool touched, int r, struct vs_err *err)
{
	if (!touched)
		set_marks(m, false, NULL);
	else
		vs_err_prefix(err, "the base has been written to, so repeat '%s' to finish it", m->command);
	return r;
}

/* Into the header of what stands on a top QEMU will write that it stands on the base: whoever is right now and has that
 * layer beneath it is vouched for with it, and saved with the marks. */
static int vouch_for_moving(struct vm_merge *m, struct vs_err *err)
{
	const struct vm_domain *d = m->w->d;

	m->moving = calloc(m->n_disks + 1, sizeof(*m->moving));
	if (!m->moving)
		return vs_err_set(err, -ENOMEM, "out of memory");
	m->w->moving = m->moving;
	for (size_t i = 0; i < m->n_disks; i++) {
		int above = -1, top = m->disks[i].what == VM_MERGE_DOWN ? vm_work_layer(m->w, m->disks[i].top) : -1;
		struct stat st;

		if (vm_work_above(m->w, top, &above) == 1 && stat(d->layers[above].path, &st) == 0)
			m->moving[m->w->n_moving++] = st.st_ino;
	}
	return vm_work_vouch(m->w, d, err);
}

static int merge_down(struct vm_merge *m, struct vs_err *err)
{
	bool touched = touched_before(m);
	int r;

	vm_fault();
	r = vouch_for_moving(m, err);
	if (r == 0)
		r = set_marks(m, true, err);
	if (r < 0)
		return r;
	vm_work_unguard(m->w);
	r = commit_all(m, &touched, err);
	return r < 0 ? give_up(m, touched, r, err) : 0;
}

/* Before a record names the base: of what it named until then nothing remains that would explain when the base was written. */
static int vouch_for_bases(struct vm_merge *m, struct vs_err *err)
{
	size_t n = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->n_disks; i++) {
		if (!vm_merge_moved(&m->disks[i]))
			continue;
		r = vm_work_vouch_beneath(m->w, m->disks[i].base, err);
		n++;
	}
	return r == 0 && n ? vm_work_save(m->w, err) : r;
}

int vm_merge_run(struct vm_merge *m, struct vs_err *err)
{
	int r = 0;

	if (m->w->try_only)
		return try_it(m, err);
	if (vm_merge_count(m, VM_MERGE_DOWN))
		r = vm_work_startable(m->w, err);
	if (r == 0 && vm_merge_count(m, VM_MERGE_DOWN))
		r = merge_down(m, err);
	if (r == 0)
		vm_work_unguard(m->w);
	if (r == 0) {
		tell(m);
		r = vouch_for_bases(m, err);
	}
	if (r == 0)
		r = correct_records(m, err);
	if (r >= 0)
		r = vm_merge_remove_files(m, err);
	if (r == 0)
		r = vm_work_vouch_again(m->w, err);
	if (r == 0)
		r = remember_made(m, err);
	if (r == 0)
		r = forget_records(m, err);
	if (r == 0)
		r = forget_own(m, err);
	return r;
}

int vm_merge_repair(struct vm_merge *m, struct vs_err *err)
{
	struct vm_act_job *jobs = NULL;
	size_t n = 0;
	int r;

	if (!touched_before(m)) {
		r = vm_act_jobs(m->w->dom, &jobs, &n, err);
		vm_act_jobs_free(jobs, n);
		if (r < 0 || n)
			return r;
		vm_log(m->w->log, "'%s' had been interrupted before anything was written: all is as before", m->command);
		r = set_marks(m, false, err);
		return r < 0 ? r : 1;
	}
	if (vm_merge_count(m, VM_MERGE_DONE) == 0 || vm_merge_count(m, VM_MERGE_DOWN) || vm_merge_count(m, VM_MERGE_DROP))
		return 0;
	r = correct_records(m, err);
	if (r > 0)
		vm_log(m->w->log, "completed the records of an interrupted '%s'; repeat it to remove what it has merged", m->command);
	return r;
}
