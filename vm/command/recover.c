/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/recover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/guest.h"
#include "vm/command/intent.h"
#include "vm/command/remove.h"
#include "vm/libvirt/blockjob-list.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- left-overs of an interrupted create */

struct made_file {
	const char *path;
	uint64_t ino;
};

/* "INO\nPATH" */
static bool is_made(const char *text, void *opaque)
{
	const struct made_file *file = opaque;
	char *path;
	uint64_t ino = strtoull(text, &path, 10);

	return *path == '\n' && ino == file->ino && !strcmp(path + 1, file->path);
}

/* The very file that we noted when we made it, and that nobody has come to use. */
bool vm_recover_left_over(void *opaque, const char *path)
{
	struct vm_context *cx = opaque;
	int l = vm_context_layer(cx, path);
	struct made_file file = { .path = path };
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	file.ino = st.st_ino;
	if (vm_journal_each(&cx->journal, "make", is_made, &file) == 0)
		return false;
	if (l >= 0 && (cx->d->layers[l].active || cx->d->layers[l].users[0] || cx->d->layers[l].snapshots[0] ||
		       cx->d->layers[l].unknown || cx->d->n_doubts))
		return false;
	for (size_t i = 0; i < cx->n_records; i++)
		for (size_t k = 0; k < cx->records[i].xml->n_files; k++)
			if (!strcmp(cx->records[i].xml->files[k].path, path))
				return false;
	for (size_t i = 0; l >= 0 && i < cx->d->n_layers; i++)
		if (cx->d->layers[i].below == l)
			return false;
	return true;
}

void vm_recover_making(void *opaque, const char *path, uint64_t ino)
{
	struct vm_context *cx = opaque;
	vs_autofree char *text = xasprintf("%" PRIu64 "\n%s", ino, path);

	vm_journal_add(&cx->journal, "make", text);
}

/* ---------------------------------------------------------------- what an interrupted create has taken */

/* Does somebody know it, so that no note has to? */
static bool is_known(const struct vm_context *cx, const char *path, uint64_t ino)
{
	int l = vm_context_layer(cx, path);
	const struct vm_layer *layer = l < 0 ? NULL : &cx->d->layers[l];

	return layer && layer->stamp.ino == ino && (layer->active || layer->snapshots[0] || vm_made(cx, l));
}

static bool settle_made(const char *text, void *opaque)
{
	struct vm_context *cx = opaque;
	char *path;
	uint64_t ino = strtoull(text, &path, 10);
	struct stat st;

	if (*path++ != '\n' || lstat(path, &st) < 0)
		return *path == '\0' || errno == ENOENT;
	if (st.st_ino != ino || is_known(cx, path, ino))
		return true;
	if (!vm_recover_left_over(cx, path) || vm_nobody_has_it(path, NULL) < 0 || unlink(path) < 0)
		return false;
	vm_log(cx->log, "unlinked '%s', which an interrupted command had made", path);
	return true;
}

void vm_recover_settle_making(struct vm_context *cx)
{
	vm_journal_settle(&cx->journal, "make", settle_made, cx);
}

#define TAKING_S 30 /* a snapshot's time is that of the beginning of the call that takes it */

int vm_recover_journal_take(struct vm_context *cx, const char *name)
{
	vs_autofree char *text = NULL;

	if (asprintf(&text, "%" PRId64 "\n%s", vm_now_ns() / VM_NS_PER_S, name) < 0) {
		text = NULL;
		return -ENOMEM;
	}
	return vm_journal_add(&cx->journal, "take", text);
}

static bool settle_one(const char *text, void *opaque)
{
	struct vm_context *cx = opaque;
	const char *name = strchr(text, '\n');
	int64_t since_s = strtoll(text, NULL, 10);
	bool changed = false;

	for (size_t i = 0; name && i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];
		struct vm_meta_id id = vm_context_id(cx, s);

		if (s->present || s->ours || strcmp(s->name, name + 1) != 0)
			continue;
		if (id.created_ns < (since_s - 1) * VM_NS_PER_S || id.created_ns > (since_s + TAKING_S) * VM_NS_PER_S)
			continue;
		changed |= vm_meta_set_ours(cx->meta, &id, true) == 0;
		vm_log(cx->log, "'%s' was taken by an interrupted create, and counts as taken here", s->shown);
	}
	return changed;
}

int vm_recover_settle(struct vm_context *cx, struct vs_err *err)
{
	return !cx->try_only && vm_journal_each(&cx->journal, "take", settle_one, cx) > 0 ? vm_context_save(cx, err) : 0;
}

/* ---------------------------------------------------------------- a guest that an interrupted command has left */

static bool is_text(const char *text, void *opaque)
{
	return !strcmp(text, opaque);
}

/* Has any command of ours begun a block job on this disk? */
static bool began_any(struct vm_context *cx, const char *target)
{
	for (size_t i = 0; i < cx->meta->n_snapshots; i++) {
		const struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		if (mark && !mark->is_void && vm_intent_of(mark, target))
			return true;
	}
	return vm_journal_each(&cx->journal, "job", is_text, (void *)target) > 0;
}

/* Who ends a guest that is ours gives up the jobs in it that are ours; those of others are waited for. */
static void abort_own(struct vm_context *cx)
{
	struct vm_blockjob *jobs = NULL;
	size_t n = 0;

	if (vm_blockjob_list(cx->dom, &jobs, &n, NULL) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		if (jobs[i].target && began_any(cx, jobs[i].target))
			vm_blockjob_abort(cx->dom, jobs[i].target, NULL);
	vm_blockjob_list_free(jobs, n);
}

/* A guest that we have started and that nobody has come to use is ended; a word of ours in the configuration goes. */
int vm_recover_guest(struct vm_context *cx, struct vs_err *err)
{
	struct vm_paused_guest guest;

	if (cx->guest_up || vm_guest_find(cx, &guest) != 1)
		return 0;
	vm_log(cx->log, "ending the paused guest that an interrupted command had started");
	abort_own(cx);
	vm_paused_guest_end(cx->conn, &guest, &cx->watch, NULL);
	return vm_attest_poll(cx, err);
}

/* ---------------------------------------------------------------- how a command begins */

static bool began(const struct vm_context *cx, const char *command, const char *target)
{
	for (size_t i = 0; i < cx->meta->n_snapshots; i++) {
		const struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		if (mark && !mark->is_void && !strcmp(mark->command, command) && vm_intent_of(mark, target))
			return true;
	}
	return vm_journal_has(&cx->journal, "job", target);
}

/* Of an interrupted run of @command: a block job that is still there is given up. */
static int reclaim(struct vm_context *cx, const char *command, struct vs_err *err)
{
	struct vm_blockjob *jobs = NULL;
	size_t n = 0;
	bool any = false;
	int r = vm_recover_guest(cx, err);

	if (r == 0)
		r = vm_blockjob_list(cx->dom, &jobs, &n, err);
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (!jobs[i].target || !began(cx, command, jobs[i].target))
			continue;
		vm_log(cx->log, "giving up the job on disk %s that an interrupted '%s' has left", jobs[i].target, command);
		r = vm_blockjob_abort(cx->dom, jobs[i].target, err);
		any = true;
	}
	vm_blockjob_list_free(jobs, n);
	return r == 0 && any ? vm_attest_poll(cx, err) : r;
}

int vm_recover_begin(struct vm_context *cx, const char *command, bool create, struct vs_err *err)
{
	int r = 0;

	if (!cx->dom)
		return 0;
	if (!cx->try_only)
		r = vm_guest_prove_pivots(cx, err);
	if (r == 0 && !cx->try_only)
		r = reclaim(cx, command, err);
	if (r == 0)
		r = vm_intent_settle(cx, command, create, err);
	return r == 0 ? vm_check_idle(cx, err) : r;
}
