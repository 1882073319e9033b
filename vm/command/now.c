/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The job and its notes
 * ---------------------
 * While the job runs QEMU copies what the guest is about to write over into a scratch file of each disk, and serves what was there. So
 * two things are there that are to be gone afterwards, by whoever comes to it: the job, which has us not for its owner but libvirt, and
 * the files. Both are noted before they are:
 *
 *     scratch  struct vm_made, with its directory    a file that is about to get its name
 *     stuck    "before"                              the guest was paused for a failed write before the job that is noted next
 *     job      the socket                            a job that is about to be asked for, and is known by that (libvirt/backup.c)
 *
 * The note of a file stays until we have unlinked it, or its directory is seen without it: a directory that is away for a moment proves nothing.
 *
 * The notes lie beside the domain's journal, as one of its own, because commands take their lines out of that one while now/ is read. Whose
 * they are is not written there: who holds the lock of the domain's now/ lives, and who gets that lock may clear away what is noted.
 * The end of a job that went well is the same as that of one whose mount was killed.
 *
 * We make the scratch files, and not libvirt, because it notes them nowhere: killed between the making and the job, an embedded driver would
 * leave them for good, and nobody could tell whose they are.
 *
 * A scratch file that is full
 * ---------------------------
 * QEMU does not let the guest write what it cannot save before, and libvirt has nothing by which to ask for the contrary. With libvirt's defaults
 * the guest is paused then. So the room is watched, and the job ended before it is all taken;
 * a guest that was faster goes on when the job is gone, and its write is done then. Who clears the job away sees to that, whoever it is,
 * unless the guest was paused so before the job began: what it waits for is not ours then.
 */
#include "vm/command/now.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/statvfs.h>

#include "vm/command/check.h"
#include "vm/command/remove.h"
#include "vm/libvirt/backup.h"
#include "vm/libvirt/fsfreeze.h"
#include "vm/libvirt/overlay.h"
#include "vm/libvirt/qemu-img.h"
#include "vm/libvirt/virterr.h"
#include "vm/meta/made.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define AGENT_S 5                   /* an agent that is there answers at once */
#define LEAST_BYTES (UINT64_C(64) << 20)

void vm_now_job_fini(struct vm_now_job *job)
{
	for (size_t i = 0; i < job->n_scratch; i++)
		free(job->scratch[i]);
	free(job->scratch);
	free(job->socket);
	*job = (struct vm_now_job){0};
}

/* ---------------------------------------------------------------- notes */

/* As whose journal they are kept. Gives. */
static char *key_of(const char *uuid)
{
	return xasprintf("%s/now", uuid);
}

static int note(struct vm_context *cx, const char *word, const char *text, struct vs_err *err)
{
	vs_autofree char *key = key_of(cx->uuid);
	const struct vm_journal notes = { cx->store, key, "now" };

	return vm_journal_add(&notes, word, text, err);
}

static int note_scratch(void *opaque, const char *path, int fd, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	struct vm_made made;
	int r = vm_made_of(fd, path, &made);

	if (r < 0)
		return vs_err_set(err, r, "'%s' is made, and what it is cannot be noted: %s", path, strerror(-r));
	text = vm_made_text_in(&made);
	if (!text)
		return vs_err_set(err, -EIO, "the directory of '%s' cannot be told from others", path);
	return note(opaque, "scratch", text, err);
}

static bool is_one(const char *text, void *opaque)
{
	(void)text;
	(void)opaque;
	return true;
}

bool vm_now_job_is_noted(struct vm_store *store, const char *uuid)
{
	vs_autofree char *key = key_of(uuid), *text = NULL;

	return vm_store_journal_get(store, key, &text, NULL) < 0 || text;
}

/* ---------------------------------------------------------------- room */

static int free_at(const char *scratch, uint64_t *bytes, struct vs_err *err)
{
	vs_autofree char *dir = xstrndup(scratch, (size_t)(strrchr(scratch, '/') - scratch) + 1);
	struct statvfs st;

	if (statvfs(dir, &st) < 0)
		return vs_err_set(err, -errno, "'%s': %s", dir, strerror(errno));
	*bytes = (uint64_t)st.f_bavail * st.f_frsize;
	return 0;
}

int vm_now_job_room(const struct vm_now_job *job, struct vs_err *err)
{
	for (size_t i = 0; i < job->n_scratch; i++) {
		uint64_t bytes;
		int r = free_at(job->scratch[i], &bytes, err);

		if (r < 0)
			return r;
		if (bytes < job->least)
			return vs_err_set(err, -ENOSPC, "only %" PRIu64 " MiB are left beside '%s', where what the guest writes over is kept while now/ is read",
					  bytes >> 20, job->scratch[i]);
	}
	return 0;
}

/* An eighth of what there is, where that is little. */
static int measure_room(struct vm_now_job *job, struct vs_err *err)
{
	int r = 0;

	job->least = LEAST_BYTES;
	for (size_t i = 0; r == 0 && i < job->n_scratch; i++) {
		uint64_t bytes = 0;

		r = free_at(job->scratch[i], &bytes, err);
		if (bytes / 8 < job->least)
			job->least = bytes / 8;
	}
	return r;
}

/* ---------------------------------------------------------------- scratch files */

static int make_scratch(struct vm_context *cx, const char *source, const char *target, const char *path, struct vs_err *err)
{
	char text[24];
	const char *argv[] = {"qemu-img", "create", "-q", "-f", "qcow2", path, text, NULL};
	uint64_t size, dev, ino;
	int r = vm_backup_size(cx->dom, target, &size, err);

	if (r == 0)
		r = vm_overlay_make_copy(source, path, note_scratch, cx, &dev, &ino, err);
	if (r < 0)
		return r;
	vm_fault();
	snprintf(text, sizeof(text), "%" PRIu64, size);
	r = vm_qemu_img_run(argv, err);
	vm_fault();
	return r;
}

/* One beside each disk that takes part. @disks: room for all; *n of them are filled in. */
static int make_all(struct vm_context *cx, struct vm_now_job *job, struct vm_new_backup_disk *disks, size_t *n, struct vs_err *err)
{
	const char *word = strrchr(job->socket, '/') + 1;

	for (size_t i = 0; i < cx->d->n_disks; i++) {
		const struct vm_disk_now *disk = &cx->d->disks[i];
		const struct vm_layer *layer = vm_now_layer(cx->d, disk);
		char *path;
		int r;

		if (!layer)
			continue;
		path = job->scratch[job->n_scratch++] = vm_overlay_copy_path(layer->path, word, (unsigned)i + 1); /* two may be of one file */
		r = vm_context_cancelled(cx, err);
		if (r == 0)
			r = make_scratch(cx, layer->path, disk->target, path, err);
		if (r < 0)
			return r;
		disks[(*n)++] = (struct vm_new_backup_disk){ disk->target, path };
	}
	return *n ? 0 : vs_err_set(err, -EOPNOTSUPP, "the domain has no disk that can be read so");
}

/* ---------------------------------------------------------------- the beginning */

/* A guest without an agent is read as it is. @freeze: NULL then. */
static int freeze(struct vm_context *cx, struct vm_fsfreeze **out, struct vs_err *err)
{
	struct vs_err why = {0};
	int r = vm_fsfreeze_agent(cx->dom, AGENT_S, &cx->watch, &why);

	if (r == 0) {
		r = vm_fsfreeze(cx->dom, VM_QUIESCE_S, &cx->watch, out, &why);
		if (r < 0 && r != -ECANCELED)
			vm_log(cx->log, "now/ is read all the same: %s", why.msg);
	}
	vm_fault();
	return r == -ECANCELED ? vs_err_set(err, r, "cancelled") : 0;
}

static int ask(struct vm_context *cx, struct vm_now_job *job, const struct vm_new_backup_disk *disks, size_t n, struct vs_err *err)
{
	struct vm_fsfreeze *frozen = NULL;
	struct vs_err why = {0};
	int r = vm_backup_is_stuck(cx->dom, err);

	if (r == 1)
		r = note(cx, "stuck", "before", err);
	if (r == 0)
		r = note(cx, "job", job->socket, err);
	if (r == 0)
		r = freeze(cx, &frozen, err);
	if (r < 0)
		return r;
	r = vm_backup_begin(cx->dom, job->socket, disks, n, err);
	if (r == 0)
		vm_log(cx->log, "now/ is being read: a backup job has begun%s", frozen ? ", with the guest's file systems frozen for that moment" : "");
	if (frozen && vm_fsfreeze_thaw(frozen, &why) < 0)
		vm_log_warn(cx->log, "%s", why.msg);
	return r;
}

int vm_now_job_begin(struct vm_context *cx, struct vm_now_job *job, struct vs_err *err)
{
	vs_autofree struct vm_new_backup_disk *disks = NULL;
	size_t n = 0;
	struct vs_err left = {0};
	int r = vm_now_job_clear(cx->conn, cx->store, cx->uuid, cx->log, &left);

	if (r < 0)
		vs_err_set(err, r, "%s", left.msg);
	else
		r = vm_context_poll(cx, err);
	if (r == 0 && !cx->running)
		r = vs_err_set(err, -ESTALE, "the domain does not run");
	if (r == 0)
		r = vm_check_idle(cx, err);
	if (r == 0)
		r = vm_backup_new_socket(cx->dom, &job->socket, err);
	if (r < 0)
		return r;
	disks = xcalloc(cx->d->n_disks, sizeof(*disks));
	job->scratch = xcalloc(cx->d->n_disks, sizeof(*job->scratch));
	r = make_all(cx, job, disks, &n, err);
	if (r == 0)
		r = measure_room(job, err);
	return r < 0 ? r : ask(cx, job, disks, n, err);
}

/* ---------------------------------------------------------------- the end */

struct clearing {
	virDomainPtr dom;      /* NULL: there is no such domain any more */
	bool of_this_run;      /* a job of the QEMU that runs now was noted */
	int r;                 /* of what failed first: nothing is done after it */
	struct vs_err *err;    /* ... of that */
	struct vs_err left;    /* a note stays, and why: .code is 0 if there is none */
};

static bool end_job(const char *socket, void *opaque)
{
	struct clearing *c = opaque;

	if (c->r == 0 && c->dom)
		c->r = vm_backup_end(c->dom, socket, c->err);
	if (c->r == 0 && c->dom)
		c->of_this_run |= vm_backup_is_of_this_run(c->dom, socket);
	return true;
}

/* The note stays. */
static bool leave(struct clearing *c, int r, const char *what, const char *why)
{
	if (!c->left.code)
		vs_err_set(&c->left, r, "%s: %s", what, why);
	return false;
}

/* libvirt has said by now that it knows no job which has it. */
static bool in_use(struct clearing *c, int r, const struct vs_err *why)
{
	c->r = vs_err_set(c->err, r, "%s%s", why->msg, r != -EBUSY ? "" :
			  ", although libvirt knows no such backup job any more: if that lasts, the guest has to be shut down and started");
	return false;
}

static bool unlink_scratch(const char *text, void *opaque)
{
	struct clearing *c = opaque;
	struct vm_made made;
	struct vs_err why = {0};
	int r;

	if (c->r < 0)
		return false;
	r = vm_made_find(text, &made);
	if (r == 0)
		return true;
	if (r == -EINVAL)
		return leave(c, r, "a note of a scratch file", "it cannot be read");
	if (r < 0)
		return leave(c, r, made.path, r == -ENOENT ? "its directory is not there now, or another one is in its place" : strerror(-r));
	r = vm_nobody_has_it(made.path, true, &why);
	if (r < 0)
		return in_use(c, r, &why);
	if (vm_made_find(text, &made) != 1 || unlink(made.path) < 0)
		return leave(c, -EIO, made.path, "it cannot be unlinked");
	vm_fault();
	return true;
}

/* A guest that was paused for want of room, which the job had taken: its write is done when it goes on. One that was so before is left alone. */
static int resume(const struct clearing *c, const struct vm_journal *notes, struct vm_log *log)
{
	int stuck = c->of_this_run && vm_journal_each(notes, "stuck", is_one, NULL) == 0 ? vm_backup_is_stuck(c->dom, c->err) : 0;

	if (stuck <= 0)
		return stuck < 0 && vm_dom_active(c->dom, NULL) == 0 ? 0 : stuck;
	if (virDomainResume(c->dom) < 0)
		return vm_dom_virterr(c->dom, c->err, "the guest, which had no room to write, cannot go on");
	vm_log_warn(log, "the guest had to wait for room, and goes on");
	return 0;
}

static int look_up(virConnectPtr conn, const char *uuid, virDomainPtr *dom, struct vs_err *err)
{
	*dom = virDomainLookupByUUIDString(conn, uuid);
	return *dom || vm_virterr_code() == -ENOENT ? 0 : vm_virterr_set(err, "the domain");
}

/* The job, then its files, for a guest that has no room needs theirs; then the guest. */
static void clear(struct clearing *c, const struct vm_journal *notes, struct vm_log *log)
{
	if (vm_journal_each(notes, "job", end_job, c) < 0 && c->r == 0)
		c->r = vs_err_set(c->err, -EINVAL, "the notes of an earlier backup job for now/ cannot be read");
	if (c->r == 0)
		vm_journal_settle(notes, "scratch", unlink_scratch, c);
	if (c->r == 0)
		c->r = resume(c, notes, log);
	vm_fault();
	if (c->r < 0)
		return;
	vm_journal_drop(notes, "job");
	vm_journal_drop(notes, "stuck");
}

int vm_now_job_clear(virConnectPtr conn, struct vm_store *store, const char *uuid, struct vm_log *log, struct vs_err *err)
{
	vs_autofree char *key = key_of(uuid);
	const struct vm_journal notes = { store, key, NULL };
	struct clearing c = { .err = err };

	if (!vm_now_job_is_noted(store, uuid))
		return 0;
	c.r = look_up(conn, uuid, &c.dom, err);
	if (c.r == 0)
		clear(&c, &notes, log);
	if (c.dom)
		virDomainFree(c.dom);
	if (c.r < 0 || !vm_now_job_is_noted(store, uuid))
		return c.r < 0 ? c.r : 1;
	vs_err_set(err, -EIO, "%s", c.left.code ? c.left.msg : "a note of it cannot be read, or not be taken back");
	return VM_NOW_LEFT;
}
