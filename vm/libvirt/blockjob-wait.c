/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Waiting for a block job. The one question that is always answered truly is virDomainGetBlockJobInfo: is there a job, and
 * how far is it. It is asked in short intervals at first, then ten times a second, and at once when an event hints.
 *
 *     the job is gone        it completed, failed, was cancelled by somebody, or QEMU was replaced by another one: the caller
 *                            looks at the chain, which alone says what came of it
 *     cur == end             an active commit may be ready. Only <mirror ready='yes'/> says so
 *     the domain is not up   QEMU ended. So did the job; there is no event for that
 *     the connection is dead the job may be going on, or may have ended
 *
 * When QEMU dies, libvirt notices a moment after us: calls fail for odd reasons while the domain still counts as running.
 * Strange errors are therefore asked again, some ten times, before they are believed.
 */
#include "vm/libvirt/blockjob-wait.h"

#include <errno.h>
#include <sys/statvfs.h>

#include "vm/libvirt/blockjob-chain.h"
#include "vm/libvirt/blockjob-pulse.h"
#include "vm/libvirt/dom.h"
#include "vm/util/clock.h"

#define PAUSE_MIN_MS 4
#define PAUSE_MAX_MS 100
#define STRANGE_MAX 10
#define FULL_BYTES (1u << 20) /* a file system with less is called full: QEMU needs whole clusters */

/* ---------------------------------------------------------------- why it cannot go on */

int vm_blockjob_adrift(const struct vm_blockjob_wait *wait, struct vs_err *err)
{
	return vs_err_set(err, -EHOSTDOWN, "libvirt went away during the %s of disk '%s', which may be going on", wait->what,
			  wait->target);
}

static int qemu_ended(const struct vm_blockjob_wait *wait, struct vs_err *err)
{
	return vs_err_set(err, -EIO, "QEMU ended during the %s of disk '%s'", wait->what, wait->target);
}

int vm_blockjob_lost(const struct vm_blockjob_wait *wait, bool *over, struct vs_err *err)
{
	int r = vm_dom_virterr(wait->dom, err, "the %s of disk '%s'", wait->what, wait->target), active;

	active = r == -EHOSTDOWN ? -1 : virDomainIsActive(wait->dom);
	*over = active != 1;
	if (active == 1)
		return r;
	if (active < 0 && (r == -EHOSTDOWN || vm_dom_lost(wait->dom)))
		return vm_blockjob_adrift(wait, err);
	return qemu_ended(wait, err);
}

int vm_blockjob_failed(const struct vm_blockjob_wait *wait, const char *path, struct vs_err *err)
{
	struct statvfs fs;

	if (virDomainIsActive(wait->dom) != 1)
		return vm_dom_lost(wait->dom) ? vm_blockjob_adrift(wait, err) : qemu_ended(wait, err);
	if (path && statvfs(path, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < FULL_BYTES)
		return vs_err_set(err, -ENOSPC, "the %s of disk '%s' failed: the file system of '%s' is full", wait->what,
				  wait->target, path);
	return vs_err_set(err, -EIO, "the %s of disk '%s' ended without having done its work; QEMU's log has the reason",
			  wait->what, wait->target);
}

/* ---------------------------------------------------------------- one look */

/* Smoothed over the last few looks. */
static void tell(struct vm_blockjob_wait *w, uint64_t cur, uint64_t end)
{
	int64_t now = vm_steady_ns(), passed = now - w->last_ns;

	if (w->last_ns && passed > 0 && cur >= w->last_cur) {
		uint64_t speed = (uint64_t)((double)(cur - w->last_cur) * VM_NS_PER_S / passed);

		w->speed = w->speed ? (3 * w->speed + speed) / 4 : speed;
	}
	w->last_ns = now;
	w->last_cur = cur;
	if (w->watch && w->watch->progress)
		w->watch->progress(w->watch->opaque, cur, end, w->speed);
}

/* An answer that cannot be had is no answer: the next look will tell why. */
static bool is_ready(const struct vm_blockjob_wait *w)
{
	vm_blockjob_autochain struct vm_blockjob_chain chain = {0};

	return vm_blockjob_chain_read(w->dom, w->target, &chain, NULL) == 0 && chain.mirror && chain.ready;
}

static int strange(struct vm_blockjob_wait *w, struct vs_err *err)
{
	struct vs_err why = {0};
	bool over;
	int r = vm_blockjob_lost(w, &over, &why);

	if (!over && (r == -ETIMEDOUT || ++w->strange < STRANGE_MAX))
		return -EAGAIN;
	return vs_err_set(err, r, "%s", why.msg);
}

/* An enum vm_blockjob_event, -EAGAIN: nothing yet, or another negative errno. */
static int look(struct vm_blockjob_wait *w, struct vs_err *err)
{
	virDomainBlockJobInfo info;
	int r = virDomainGetBlockJobInfo(w->dom, w->target, &info, VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES);

	if (r == 0)
		return VM_BLOCKJOB_GONE;
	if (r < 0)
		return strange(w, err);
	w->strange = 0;
	tell(w, info.cur, info.end);
	return w->until_ready && info.cur >= info.end && is_ready(w) ? VM_BLOCKJOB_READY : -EAGAIN;
}

int vm_blockjob_wait(struct vm_blockjob_wait *w, struct vs_err *err)
{
	w->pause_ms = PAUSE_MIN_MS;
	for (;;) {
		int r = look(w, err);

		if (r != -EAGAIN)
			return r;
		if (vm_dom_cancelled(w->watch))
			return VM_BLOCKJOB_CANCEL;
		vm_blockjob_pulse_wait(w->pulse, w->pause_ms);
		if (w->pause_ms < PAUSE_MAX_MS)
			w->pause_ms *= 2;
	}
}
