/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/check.h"
#include "vm/command/remove.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/language/command.h"
#include "vm/libvirt/blockjob-list.h"
#include "vm/libvirt/checkpoint.h"
#include "vm/libvirt/conn.h"
#include "vm/libvirt/record.h"
#include "vm/libvirt/virterr.h"
#include "vm/model/names.h"
#include "vm/util/mem.h"

#define COST_TABLE_BYTES (16u << 20)
#define COST_WORK 100000000 /* some 2 s */
#define WHOLE_WORK 250000000 /* five seconds for each layer, or the tables of 24 TiB; mostly it is a moment */

int vm_check_idle(struct vm_context *cx, struct vs_err *err)
{
	vs_autofree char *where = NULL;
	struct vm_blockjob *jobs = NULL;
	size_t n = 0;
	int r;

	if (!cx->dom)
		return 0;
	r = vm_blockjob_list(cx->dom, &jobs, &n, err);
	if (r < 0)
		return r;
	if (n && jobs[0].type == VM_JOB_BACKUP && cx->now_read)
		r = vs_err_set(err, -EBUSY, "%s: wait until what is open there is closed, or close it", cx->now_read);
	else if (n && jobs[0].type == VM_JOB_BACKUP)
		r = vs_err_set(err, -EBUSY, "a backup program is at work on disk %s: wait until it is done (or end what it has left: 'virsh domjobabort %s')", jobs[0].target,
			       cx->d->name);
	else if (n) /* a `try` also comes while we are at it ourselves */
		r = vs_err_set(err, -EBUSY, "a job is running on %s%s%s: wait until it has ended%s", jobs[0].target ? "disk " : "the domain",
			       jobs[0].target ? jobs[0].target : "", cx->try_only ? "" : ", which this command has not begun",
			       jobs[0].type == VM_JOB_COPY ? ", or end it with 'virsh blockjob' (--pivot, --abort)" : "");
	vm_blockjob_list_free(jobs, n);
	if (r == 0)
		r = vm_record_unfinished_delete(cx->dom, &where, err);
	if (r > 0)
		return vs_err_set(err, -EPERM, "libvirt has noted at '%s' that a delete by another tool was not completed: repeat that "
				  "delete with that tool first", where);
	return r;
}

int vm_check_startable(const struct vm_context *cx, struct vs_err *err)
{
	int has = cx->running || !cx->dom ? 0 : virDomainHasManagedSaveImage(cx->dom, 0);
	vs_autofree char *unlisted = NULL;
	vm_conn_autodirs struct vm_conn_dirs dirs = {0};

	if (has < 0)
		return vm_virterr_code() == -EOPNOTSUPP ? 0 : vm_virterr_set(err, "the managed save of the domain");
	if (!has && !cx->running && cx->dom) {
		vm_conn_dirs(virDomainGetConnect(cx->dom), &dirs);
		unlisted = vm_dom_unlisted_save(cx->dom, dirs.saves);
	}
	if (unlisted)
		return vs_err_set(err, -EPERM, "the domain has a managed save, '%s', that libvirt does not list: start libvirtd anew, or take the file away", unlisted);
	if (!has)
		return 0;
	return vs_err_set(err, -EPERM, "the domain has a managed save, which belongs to its disks as they are and which a start would use up: start "
			  "it and shut it down first, or discard it with 'virsh managedsave-remove %s'", cx->d->name);
}

int vm_check_checkpoints(const struct vm_context *cx, bool runs, struct vs_err *err)
{
	vs_autofree char *way = runs ? xasprintf("start it first ('virsh start --paused %s' will do), or ", cx->d->name) : xstrdup("");
	vs_autofree char *unlisted = NULL;
	char **names = NULL;
	int r = cx->dom ? vm_checkpoints(cx->dom, &names, err) : 0;

	if (r == 0 && cx->dom)
		unlisted = vm_checkpoint_unlisted(cx->dom, names);
	if (unlisted)
		r = vs_err_set(err, -EPERM, "'%s' lies among libvirt's checkpoints of this domain, and libvirt does not list it, as where it could not read it (start libvirtd "
			       "anew, or take the file away)", unlisted);

	if (r == 0 && names && names[0])
		r = vs_err_set(err, -EOPNOTSUPP, "the domain has checkpoint '%s'%s, as backup programs make them, and what is written afterwards would be missing in the "
			       "next incremental backup: %sgive up that one ('virsh checkpoint-delete %s %s'), so that it is a full one", names[0],
			       names[1] ? " and others" : "", way, cx->d->name, names[0]);
	vm_checkpoints_free(names);
	return r;
}

static bool lies_there(const char *dir, const char *name, char **path)
{
	*path = xasprintf("%s/%s", dir, name);
	if (access(*path, F_OK) == 0)
		return true;
	free(vs_steal(*path));
	return false;
}

/* A file of the missing one's name beside another layer of the domain: gives its path; NULL: there is none. */
static char *find_moved(const struct vm_context *cx, const char *missing)
{
	const char *slash = strrchr(missing, '/'), *name = slash ? slash + 1 : missing;

	for (size_t i = 0; i < cx->d->n_layers; i++) {
		vs_autofree char *dir = xstrdup(cx->d->layers[i].path);
		char *end = strrchr(dir, '/'), *path;

		if (cx->d->layers[i].error || !end)
			continue;
		*end = '\0';
		if (lies_there(dir, name, &path))
			return path;
	}
	return NULL;
}

/* Why a chain ends too early, and what can be done about it. */
static int broken(const struct vm_context *cx, const char *target, int layer, struct vs_err *err)
{
	const struct vm_layer *l = &cx->d->layers[layer];
	vs_autofree char *moved = l->error == -ENOENT ? find_moved(cx, l->path) : NULL;

	if (l->error == -ENOENT && l->active && cx->running)
		return vs_err_set(err, -EPERM, "disk %s: its active layer '%s' was removed while the domain runs, and what the guest wrote is in QEMU "
				  "alone: save it before the domain stops, with 'virsh blockcopy %s %s NEWFILE --wait --pivot --transient-job'",
				  target, l->path, cx->d->name, target);
	if (moved)
		return vs_err_set(err, -EPERM, "disk %s: its layer '%s' is missing, and a file of that name lies at '%s': put it back, or tell the "
				  "image that stands on it where it is (qemu-img rebase -u)", target, l->path, moved);
	if (l->error == -ENOENT)
		return vs_err_set(err, -EPERM, "disk %s: its layer '%s' is missing: bring it back first", target, l->path);
	return vs_err_set(err, l->error == -EACCES ? -EACCES : -EPERM, "disk %s: its layer '%s' %s", target, l->path,
			  l->note ? l->note : strerror(-l->error));
}

static bool is_cancelled(void *opaque)
{
	return vm_context_cancelled(opaque, NULL) < 0;
}

/* Was it cut off, so that QEMU would open it and take what is gone for never written? */
static int check_cut(const struct vm_context *cx, const char *target, int layer, struct vs_err *err)
{
	const struct vm_layer *l = &cx->d->layers[layer];
	struct q2_work work = { .limit = WHOLE_WORK, .stop = is_cancelled, .opaque = (void *)cx };
	struct q2_file *f;
	int r;

	if (l->format != Q2_FORMAT_QCOW2 || cx->survey) /* who counts an image finds out */
		return 0;
	r = q2_file_open(l->path, &f, err);
	if (r == 0) {
		r = q2_file_whole(f, &work, err);
		q2_file_close(f);
	}
	if (r == -EUCLEAN || r == -EFBIG) {
		r = -EPERM;
		if (err)
			err->code = r;
	}
	if (r < 0)
		vs_err_prefix(err, "disk %s", target);
	return r;
}

static int contradicted(const struct vm_context *cx, const char *target, struct vs_err *err)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if (!strcmp(cx->d->disks[i].target, target) && cx->d->disks[i].doubt)
			return vs_err_set(err, -EPERM, "disk %s: %s: one of them is wrong. If what the definition names holds data that is missing otherwise, put the "
					  "headers right (qemu-img rebase -u; qemu-img amend -o data_file=), else define it without that",
					  target, cx->d->disks[i].doubt);
	return 0;
}

/* Has somebody it open for writing, as QEMU's locks say? 1, 0, or why that cannot be told. */
static int is_written(const char *path, struct vs_err *err)
{
	struct q2_locks locks;
	int r = vm_locks_on(path, &locks, err);

	return r < 0 ? r : locks.writer;
}

/* A libvirtd that was started anew may have lost sight of a QEMU that runs. Another domain that writes to a disk that they share is told of elsewhere. */
int vm_check_at_rest(const struct vm_context *cx, const char *target, struct vs_err *err)
{
	for (size_t i = 0; !cx->running && !cx->guest_up && cx->dom && i < cx->d->n_disks; i++) {
		const struct vm_disk_now *disk = &cx->d->disks[i];
		const struct vm_layer *top = disk->top < 0 ? NULL : &cx->d->layers[disk->top];

		int r;

		if ((target && strcmp(disk->target, target) != 0) || !top || !top->active || top->error || top->rival)
			continue;
		r = is_written(top->path, err);
		if (r < 0)
			vs_err_prefix(err, "disk %s", disk->target);
		if (r > 0)
			r = vs_err_set(err, -EBUSY, "disk %s: some process has '%s' open for writing, though the domain does not run: a QEMU that libvirt has lost sight of, "
				       "or another tool", disk->target, top->path);
		if (r < 0)
			return r;
	}
	return 0;
}

/* QEMU holds a lock on what it writes to. Without one it is not known to be this file: somebody may have put another one in its place. */
static int check_replaced(const struct vm_context *cx, const char *target, struct vs_err *err)
{
	int top = vm_context_top(cx, target), r;
	const struct vm_layer *l = top < 0 ? NULL : &cx->d->layers[top];
	struct vm_paused_guest qemu = {0};

	if (!cx->running || cx->guest_up || !l || !l->active || l->error)
		return 0;
	r = is_written(l->path, err);
	if (r < 0)
		vs_err_prefix(err, "disk %s", target);
	if (r)
		return r < 0 ? r : 0;
	/* one that was paused for its memory to be saved has let go of the lock until it goes on, but not of the file */
	if (vm_paused_guest_process(cx->uuid, &qemu) && vm_paused_guest_process_has(qemu.pid, l->path, false) == 1)
		return 0;
	if (vm_dom_active(cx->dom, NULL) == 0)
		return vs_err_set(err, -EIO, "disk %s: the domain does not run any more, as it did when this began", target);
	return vs_err_set(err, -EPERM, "disk %s: nobody has its active layer '%s' locked for writing, so it is not known to be what the running guest "
			  "writes to: if it was replaced, what the guest wrote is in QEMU alone: save it before the domain stops, with 'virsh "
			  "blockcopy %s %s NEWFILE --wait --pivot --transient-job'", target, l->path, cx->d->name, target);
}

static int check_disk(const struct vm_context *cx, const char *target, struct vs_err *err)
{
	int r = contradicted(cx, target, err);

	return r < 0 ? r : check_replaced(cx, target, err);
}

int vm_check_uncut(const struct vm_context *cx, const char *target, int layer, struct vs_err *err)
{
	int r = check_disk(cx, target, err);

	for (int l = layer, n = 0; r == 0 && l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++)
		r = cx->d->layers[l].error ? broken(cx, target, l, err) : check_cut(cx, target, l, err);
	return r;
}

int vm_check_whole(const struct vm_context *cx, const char *target, struct vs_err *err)
{
	int r = check_disk(cx, target, err);

	if (r < 0)
		return r;
	for (int l = vm_context_top(cx, target), n = 0; l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++)
		if (cx->d->layers[l].error)
			return broken(cx, target, l, err);
	return 0;
}

/* ---------------------------------------------------------------- how much it would move */

/* Of what a view of @top shows, what comes from above @base: everything, and what is stored of it. @depth: layers above base. */
static bool count_view(struct q2_view *view, unsigned depth, struct q2_work *work, uint64_t *bytes, uint64_t *stored)
{
	uint64_t off = 0, size = q2_view_size(view);
	struct q2_extent e;

	for (*bytes = *stored = 0; off < size; off = e.guest_off + e.len) {
		if (work->spent >= work->limit) { /* an image that was made to cost: no more than all of it */
			*bytes += size - off;
			return true;
		}
		if (q2_view_extent(view, off, size - off, work, &e, NULL) < 0 || e.len == 0)
			return false;
		if (e.depth < depth)
			*bytes += e.len;
		if (e.depth < depth && e.kind != Q2_ZERO)
			*stored += e.len;
	}
	return true;
}

/* False: it cannot be told, because the top is being written. */
static bool count_exactly(const struct vm_context *cx, int base, int top, uint64_t *bytes, uint64_t *stored)
{
	const struct vm_layer *l = &cx->d->layers[top];
	struct q2_view_spec spec = { .path = l->path, .format = l->format, .gate = cx->d->gate };
	struct q2_work work = { .limit = COST_WORK, .stop = is_cancelled, .opaque = (void *)cx };
	struct q2_cache *cache;
	struct q2_view *view;
	unsigned depth = 0;
	bool counted;

	for (int at = top; at != base && at >= 0; at = cx->d->layers[at].below)
		depth++;
	if ((l->active && cx->running) || !spec.gate)
		return false;
	cache = q2_cache_new(COST_TABLE_BYTES, 0);
	if (!cache)
		return false;
	counted = q2_view_open(cache, &spec, &view, NULL) >= 0;
	if (counted) {
		counted = count_view(view, depth, &work, bytes, stored);
		q2_view_close(view);
	}
	q2_cache_free(cache);
	return counted;
}

int vm_check_slice(const struct vm_context *cx, const char *target, int layer, struct vs_err *err)
{
	for (size_t i = 0; layer >= 0 && i < cx->n_records; i++) {
		const struct vm_xml_snapshot *record = cx->records[i].xml;

		for (size_t k = 0; k < record->n_disks; k++) {
			const struct vm_xml_disk *frozen = record->disks[k].frozen;

			if (!frozen || !frozen->source.slice || strcmp(record->disks[k].target, target) != 0)
				continue;
			if (!frozen->source.path || vm_context_layer(cx, frozen->source.path) == layer)
				return vs_err_set(err, -EOPNOTSUPP, "disk %s: by the record of '%s' %s, which a merge would not heed", target,
						  record->name, frozen->source.unsupported);
		}
	}
	return 0;
}

static int check_names(const char *target, const char *path, struct vs_err *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return errno == ENOENT ? 0 : vs_err_set(err, -errno, "disk %s: '%s': %s", target, path, strerror(errno)); /* who is not there is not merged into */
	if (!S_ISREG(st.st_mode) || st.st_nlink < 2)
		return 0;
	return vs_err_set(err, -EPERM, "disk %s: '%s' must stay as it is: it has %lu names (hard links), and who uses another one would find it changed: find them "
			  "with 'find -samefile', and remove them or make them copies", target, path, (unsigned long)st.st_nlink);
}

int vm_check_links(const struct vm_context *cx, const char *target, int layer, struct vs_err *err)
{
	const struct vm_layer *l = &cx->d->layers[layer];
	int r = check_names(target, l->path, err);

	return r == 0 && l->data ? check_names(target, l->data, err) : r;
}

int vm_check_bitmaps(const struct vm_context *cx, const char *target, int base, int top, bool recording, struct vs_err *err)
{
	for (int at = top; at != base && at >= 0; at = cx->d->layers[at].below) {
		const struct vm_layer *l = &cx->d->layers[at];
		vs_autofree char *name = NULL;
		struct q2_file *f;
		int r = l->format == Q2_FORMAT_QCOW2 ? q2_file_open(l->path, &f, err) : 0;

		if (r < 0)
			return r;
		if (l->format != Q2_FORMAT_QCOW2)
			continue;
		r = q2_file_bitmap(f, recording, cx->running, &name, err);
		q2_file_close(f);
		if (r > 0)
			return vs_err_set(err, -EPERM, "disk %s: bitmap '%s' of '%s' would be lost: a backup program that %s may "
					  "need it; 'qemu-img bitmap --remove' takes it away", target, name, l->path, recording ? "knows it" : "has stopped recording in it");
		if (r < 0)
			return r;
	}
	return 0;
}

uint64_t vm_check_cost(const struct vm_context *cx, int base, int top)
{
	uint64_t bytes = 0, stored = 0, allocated = 0;

	for (int at = top; at != base && at >= 0; at = cx->d->layers[at].below)
		allocated += vm_context_allocated(cx, at);
	if (!count_exactly(cx, base, top, &bytes, &stored))
		return allocated;
	return bytes + (allocated > stored ? allocated - stored : 0); /* and tables, as many as they have themselves */
}

int vm_check_new_name(const struct vm_context *cx, const char *name, enum vm_kind kind, struct vs_err *err)
{
	vs_autofree const char **targets = xcalloc(cx->d->n_disks, sizeof(*targets));
	struct vm_name_rules rules = { .internal = kind == VM_INTERNAL, .libvirt = true };
	int r;

	for (size_t i = 0; i < cx->d->n_disks; i++)
		targets[i] = cx->d->disks[i].target;
	rules.suffix_len = vm_name_suffix_len(targets, cx->d->n_disks);
	r = vm_name_check_new(name, &rules, err);
	for (size_t i = 0; r == 0 && i < cx->d->n_snapshots; i++)
		if (!cx->d->snapshots[i].present && !strcmp(cx->d->snapshots[i].name, name))
			r = vs_err_set(err, -EEXIST, "there is a snapshot '%s' already", name);
	return r;
}
