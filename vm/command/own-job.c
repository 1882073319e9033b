/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Which block jobs are ours
 * -------------------------
 * A command that was interrupted may have left its block job running, which its repetition gives up and does anew. On the same disk there may
 * be somebody else's by then: an administrator's who has ended ours and started a copy. So a job is ours only if that is proven. Before
 * one is asked for it is noted: the process that the QEMU is (number, and when it began), the type, the disk, and the layers at its two
 * ends. A running job is that one if it is in that process, of that type, on that disk, and has those ends where they can be seen (see
 * vm_blockjob_is()). What is not proven is somebody else's: the command is refused until it is over.
 *
 * Two pulls of one disk in one QEMU look alike, and so do two commits into one file from different heights. To give up the wrong one of
 * those costs its owner time, but no data: that of a pull is only copied, and a commit into that base we have begun ourselves.
 */
#include "vm/command/own-job.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vm/libvirt/flush.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

int vm_own_job_journal(struct vm_context *cx, const struct vm_blockjob_spec *spec, const char *command, struct vs_err *err)
{
	struct vm_paused_guest qemu = {0};
	vs_autofree char *text = NULL;

	if (!vm_paused_guest_process(cx->uuid, &qemu))
		return 0; /* then nobody will be able to prove it, and a repetition waits until it is over */
	text = xasprintf("%" PRId64 " %" PRIu64 " %d %s\n%s\n%s\n%s", qemu.pid, qemu.began, (int)spec->type, spec->target,
			 spec->base ? spec->base : "", spec->top ? spec->top : "", command);
	return vm_journal_add(&cx->journal, "job", text, err);
}

/* Of the text of a note, which is cut up for it. False: it is none of ours, or one with a line break in a path. */
static bool take_job(char *text, struct vm_paused_guest *qemu, struct vm_blockjob_spec *spec, const char **command)
{
	char *line[4], *save = text;
	int type, at = 0;

	for (size_t i = 0; i < VS_ARRAY_LEN(line); i++)
		line[i] = strsep(&save, "\n");
	if (!line[3] || save || sscanf(line[0], "%" SCNd64 " %" SCNu64 " %d %n", &qemu->pid, &qemu->began, &type, &at) != 3 || !at)
		return false;
	*spec = (struct vm_blockjob_spec){
		.target = line[0] + at, .type = (enum vm_job)type, .base = line[1][0] ? line[1] : NULL, .top = line[2][0] ? line[2] : NULL,
	};
	*command = line[3];
	return true;
}

struct jobs {
	const struct vm_context *cx;
	struct vm_blockjob *list;
	size_t n;
	const struct vm_blockjob *one; /* NULL: any of them */
	const char *command;          /* NULL: any */
};

/* Is one of those jobs proven to be the noted one? -1: nobody can tell. */
static int prove(const char *text, const struct jobs *jobs)
{
	vs_autofree char *copy = xstrdup(text);
	struct vm_paused_guest qemu = {0}, now = {0};
	struct vm_blockjob_spec spec;
	const char *command;
	int r = 0;

	if (!take_job(copy, &qemu, &spec, &command) || (jobs->command && strcmp(command, jobs->command) != 0))
		return 0;
	for (size_t i = 0; r == 0 && i < jobs->n; i++) {
		if (!jobs->list[i].target || (jobs->one && jobs->one != &jobs->list[i]))
			continue;
		if (!vm_paused_guest_process(jobs->cx->uuid, &now))
			return -1;
		if (now.pid == qemu.pid && now.began == qemu.began)
			r = vm_blockjob_is(jobs->cx->dom, &jobs->list[i], &spec, qemu.pid, NULL);
	}
	return r < 0 ? -1 : r;
}

static bool is_proven(const char *text, void *opaque)
{
	return prove(text, opaque) == 1;
}

/* A pull that has ended by itself is not on the disk yet: see libvirt/flush.c. */
static bool is_written_out(const char *text, const struct jobs *jobs)
{
	vs_autofree char *copy = xstrdup(text);
	struct vm_paused_guest qemu = {0};
	struct vm_blockjob_spec spec;
	const char *command;

	if (!take_job(copy, &qemu, &spec, &command) || spec.type != VM_JOB_PULL)
		return true;
	return vm_flush(jobs->cx->dom, NULL) == 0;
}

static bool is_over(const char *text, void *opaque)
{
	return prove(text, opaque) == 0 && is_written_out(text, opaque);
}

/* How many were given up. @command: NULL: of any. */
static int give_up(struct vm_context *cx, const char *command, struct vs_err *err)
{
	struct jobs jobs = { .cx = cx, .command = command };
	int r = vm_blockjob_list(cx->dom, &jobs.list, &jobs.n, err), n = 0;

	for (size_t i = 0; r == 0 && i < jobs.n; i++) {
		jobs.one = &jobs.list[i];
		if (!jobs.one->target || vm_journal_each(&cx->journal, "job", is_proven, &jobs) <= 0)
			continue;
		if (command)
			vm_log(cx->log, "giving up the job on disk %s that an interrupted '%s' has left", jobs.one->target,
			       command);
		r = vm_blockjob_abort(cx->dom, jobs.one->target, err);
		n++;
	}
	vm_blockjob_list_free(jobs.list, jobs.n);
	return r < 0 ? r : n;
}

int vm_own_job_settle(struct vm_context *cx, struct vs_err *err)
{
	struct jobs jobs = { .cx = cx };
	int r = vm_blockjob_list(cx->dom, &jobs.list, &jobs.n, err);

	if (r == 0)
		vm_journal_settle(&cx->journal, "job", is_over, &jobs);
	vm_blockjob_list_free(jobs.list, jobs.n);
	return r;
}

int vm_own_job_reclaim(struct vm_context *cx, const char *command, struct vs_err *err)
{
	int n = give_up(cx, command, err), r = n < 0 ? n : vm_own_job_settle(cx, err);

	return r < 0 ? r : n;
}

void vm_own_job_abort(struct vm_context *cx)
{
	give_up(cx, NULL, NULL);
}
