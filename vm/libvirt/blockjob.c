/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Commit and pull are one block job with different calls:
 *
 *     look     no other job, the layers are where the caller thinks they are
 *     start    from here on a commit's base counts as touched: libvirt itself says that an aborted commit may invalidate files
 *     wait     until the job is gone, or (commit of the active layer) ready
 *     pivot    the caller's last check, then the switch. Refused as "not ready": wait again
 *     judge    by the chain that QEMU has now. Neither events nor the answer of an abort say reliably how a job ended: one
 *              may be lost, and the other may come after the job has just completed
 *
 * libvirt takes a job off its list and corrects its chain in one go, but QEMU may have finished a little earlier. So the chain
 * gets a second to show what happened before the job counts as failed.
 */
#include "vm/libvirt/blockjob.h"

#include <errno.h>
#include <stdio.h>

#include "vm/libvirt/blockjob-chain.h"
#include "vm/libvirt/blockjob-list.h"
#include "vm/libvirt/blockjob-pulse.h"
#include "vm/libvirt/blockjob-wait.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/clock.h"
#include "vm/util/fault.h"

#define SETTLE_NS VM_NS_PER_S
#define SETTLE_PAUSE_MS 20
#define LAYER_MAX 320 /* target and number */

struct job {
	struct vm_blockjob_wait wait;
	struct vm_blockjob_outcome *outcome;
	const char *written; /* path of the file that the job writes to */
	const char *base, *top;
	bool active;         /* commit of the active layer */
	bool (*done)(const struct job *c, const struct vm_blockjob_chain *chain);
	int (*check)(void *opaque, struct vs_err *err);
	void *opaque;
};

static const char *layer_name(const char *target, const struct vm_blockjob_layer *layer, char *name)
{
	snprintf(name, LAYER_MAX, "%s[%u]", target, layer->index);
	return name;
}

/* ---------------------------------------------------------------- judge */

/* Only a running QEMU's chain has numbers. The configuration of a stopped domain says less and proves nothing. */
static bool runs(const struct vm_blockjob_chain *chain)
{
	return chain->n > 0 && chain->layers[0].index > 0;
}

/* 1: the chain is the new one, 0: it is not. */
static int look_done(struct job *c, struct vs_err *err)
{
	vm_blockjob_autochain struct vm_blockjob_chain chain = {0};
	int r = vm_blockjob_chain_read(c->wait.dom, c->wait.target, &chain, err);

	if (r < 0)
		return r;
	c->outcome->done = runs(&chain) && c->done(c, &chain);
	return c->outcome->done;
}

static int settle(struct job *c, struct vs_err *err)
{
	int64_t until = vm_steady_ns() + SETTLE_NS;
	int r;

	while ((r = look_done(c, err)) == 0 && vm_steady_ns() < until && virDomainIsActive(c->wait.dom) == 1)
		vm_blockjob_pulse_wait(c->wait.pulse, SETTLE_PAUSE_MS);
	return r;
}

static int judge(struct job *c, struct vs_err *err)
{
	int r = settle(c, err);

	if (r == -EHOSTDOWN)
		return vm_blockjob_adrift(&c->wait, err);
	return r < 0 ? r : r ? 0 : vm_blockjob_failed(&c->wait, c->written, err);
}

/* Ends the job without its result. 0: it had completed; -ECANCELED; or what went wrong. */
static int give_up(struct job *c, struct vs_err *err)
{
	bool over = false;
	int r = virDomainBlockJobAbort(c->wait.dom, c->wait.target, 0);

	if (r < 0)
		r = vm_blockjob_lost(&c->wait, &over, err);
	if (over)
		return r;
	r = look_done(c, err);
	if (r != 0)
		return r < 0 ? r : 0;
	r = vm_blockjob_none(c->wait.dom, c->wait.target, err);
	return r < 0 ? r : vs_err_set(err, -ECANCELED, "the %s of disk '%s' was cancelled", c->wait.what, c->wait.target);
}

/* The caller's guard has refused, @r and @err: that is the answer, also where the job was quicker. */
static int refused(struct job *c, int r, struct vs_err *err)
{
	struct vs_err later = {0};
	int ended = give_up(c, &later);

	if (ended == 0 && !c->outcome->done)
		look_done(c, &later);
	if (ended == 0)
		vs_err_prefix(err, "disk '%s': the job had completed before it could be given up", c->wait.target);
	return ended == 0 || ended == -ECANCELED ? r : vs_err_set(err, ended, "%s", vs_err_text(&later, ended));
}

/* ---------------------------------------------------------------- wait and pivot */

static int pivot(struct job *c, struct vs_err *err)
{
	struct vs_err later = {0};
	bool over;
	int r = c->check ? c->check(c->opaque, err) : 0;

	if (r < 0)
		return refused(c, r, err);
	vm_fault();
	vm_dom_step(c->wait.watch, "pivot disk '%s' to '%s'", c->wait.target, c->base);
	if (virDomainBlockJobAbort(c->wait.dom, c->wait.target, VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT) == 0) {
		vm_fault();
		return judge(c, err);
	}
	r = vm_virterr_code();
	if (r == -EBUSY) /* not ready, in spite of what the XML said: a guest writes */
		return -EAGAIN;
	r = vm_blockjob_lost(&c->wait, &over, err);
	return !over && give_up(c, &later) == 0 ? 0 : r;
}

static int wait_for_it(struct job *c, struct vs_err *err)
{
	int r;

	do {
		r = vm_blockjob_wait(&c->wait, err);
		if (r == VM_BLOCKJOB_GONE)
			return judge(c, err);
		if (r == VM_BLOCKJOB_CANCEL || (r == VM_BLOCKJOB_READY && vm_dom_cancelled(c->wait.watch)))
			return give_up(c, err);
		if (r == VM_BLOCKJOB_READY)
			r = pivot(c, err);
	} while (r == -EAGAIN);
	return r;
}

/* The call that should have started the job has failed. Has it nevertheless? */
static int not_started(struct job *c, struct vs_err *err)
{
	bool over;
	int r = vm_blockjob_lost(&c->wait, &over, err);

	if (!over && vm_blockjob_none(c->wait.dom, c->wait.target, NULL) == 0)
		c->outcome->touched = false;
	return r;
}

/* ---------------------------------------------------------------- look */

/* The position of the layer, which libvirt can address. */
static int find_layer(const struct job *c, const struct vm_blockjob_chain *chain, const char *path, struct vs_err *err)
{
	int i = vm_blockjob_chain_find(chain, path);

	if (i < 0)
		return vs_err_set(err, -ENOENT, "disk '%s' does not stand on '%s'", c->wait.target, path);
	if (!chain->layers[i].index)
		return vs_err_set(err, -EIO, "libvirt gives no number for layer '%s' of disk '%s'", path, c->wait.target);
	return i;
}

static int look_first(struct job *c, struct vm_blockjob_chain *chain, struct vs_err *err)
{
	int r = vm_dom_active(c->wait.dom, err);

	if (r == 0)
		return vs_err_set(err, -EINVAL, "domain '%s' is not running", virDomainGetName(c->wait.dom));
	if (vm_dom_cancelled(c->wait.watch))
		return vs_err_set(err, -ECANCELED, "the %s of disk '%s' was cancelled", c->wait.what, c->wait.target);
	if (r > 0)
		r = vm_blockjob_none(c->wait.dom, c->wait.target, err);
	return r < 0 ? r : vm_blockjob_chain_read(c->wait.dom, c->wait.target, chain, err);
}

/* ---------------------------------------------------------------- commit */

static bool commit_done(const struct job *c, const struct vm_blockjob_chain *chain)
{
	if (c->active)
		return !chain->mirror && vm_blockjob_chain_find(chain, c->base) == 0;
	return vm_blockjob_chain_find(chain, c->base) > 0 && vm_blockjob_chain_find(chain, c->top) < 0;
}

static int start_commit(struct job *c, const struct vm_blockjob_commit *spec, const struct vm_blockjob_chain *chain,
			struct vs_err *err)
{
	int base = find_layer(c, chain, spec->base, err), top = base < 0 ? base : find_layer(c, chain, spec->top, err);
	char base_name[LAYER_MAX], top_name[LAYER_MAX];
	unsigned flags = VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES;
	int r;

	if (top < 0)
		return top;
	if (base <= top)
		return vs_err_set(err, -EINVAL, "'%s' does not stand on '%s'", spec->top, spec->base);
	c->active = c->wait.until_ready = top == 0;
	flags |= c->active ? VIR_DOMAIN_BLOCK_COMMIT_ACTIVE : 0;
	vm_dom_step(c->wait.watch, "commit '%s' into '%s' on disk '%s'", spec->top, spec->base, spec->target);
	r = spec->asking ? spec->asking(spec->opaque, c->active ? VM_JOB_ACTIVE_COMMIT : VM_JOB_COMMIT, err) : 0;
	if (r < 0)
		return r;
	c->outcome->touched = true;
	if (virDomainBlockCommit(c->wait.dom, spec->target, layer_name(spec->target, &chain->layers[base], base_name),
				 layer_name(spec->target, &chain->layers[top], top_name), spec->bandwidth, flags) < 0)
		return not_started(c, err);
	vm_fault();
	return 0;
}

int vm_blockjob_commit(virDomainPtr dom, const struct vm_blockjob_commit *spec, struct vm_dom_watch *watch,
		       struct vm_blockjob_outcome *outcome, struct vs_err *err)
{
	struct job c = {
		.wait = { .dom = dom, .target = spec->target, .what = "commit", .watch = watch },
		.outcome = outcome, .written = spec->base, .base = spec->base, .top = spec->top, .done = commit_done,
		.check = spec->check, .opaque = spec->opaque,
	};
	vm_blockjob_autochain struct vm_blockjob_chain chain = {0};
	int r;

	*outcome = (struct vm_blockjob_outcome){0};
	r = look_first(&c, &chain, err);
	if (r < 0)
		return r;
	c.wait.pulse = vm_blockjob_pulse_new(dom);
	r = start_commit(&c, spec, &chain, err);
	if (r == 0 && spec->begun && (r = spec->begun(spec->opaque, err)) < 0)
		r = refused(&c, r, err);
	else if (r == 0)
		r = wait_for_it(&c, err);
	vm_blockjob_pulse_free(c.wait.pulse);
	return r;
}

/* ---------------------------------------------------------------- pull */

static bool pull_done(const struct job *c, const struct vm_blockjob_chain *chain)
{
	return c->base ? vm_blockjob_chain_find(chain, c->base) == 1 : chain->n == 1;
}

static int start_pull(struct job *c, const struct vm_blockjob_pull *spec, const struct vm_blockjob_chain *chain,
		      struct vs_err *err)
{
	int base = spec->base ? find_layer(c, chain, spec->base, err) : 1, r;
	unsigned flags = VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES;
	char name[LAYER_MAX];

	if (base < 0)
		return base;
	if (base == 0)
		return vs_err_set(err, -EINVAL, "'%s' is the active layer itself", spec->base);
	vm_dom_step(c->wait.watch, "pull into disk '%s' down to %s", spec->target, spec->base ? spec->base : "nothing");
	if (spec->base) {
		layer_name(spec->target, &chain->layers[base], name);
		r = virDomainBlockRebase(c->wait.dom, spec->target, name, spec->bandwidth, flags);
	} else {
		r = virDomainBlockPull(c->wait.dom, spec->target, spec->bandwidth, VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES);
	}
	if (r < 0)
		return not_started(c, err);
	vm_fault();
	return 0;
}

int vm_blockjob_pull(virDomainPtr dom, const struct vm_blockjob_pull *spec, struct vm_dom_watch *watch,
		     struct vm_blockjob_outcome *outcome, struct vs_err *err)
{
	struct job c = {
		.wait = { .dom = dom, .target = spec->target, .what = "pull", .watch = watch },
		.outcome = outcome, .base = spec->base, .done = pull_done,
	};
	vm_blockjob_autochain struct vm_blockjob_chain chain = {0};
	int r;

	*outcome = (struct vm_blockjob_outcome){0};
	r = look_first(&c, &chain, err);
	if (r < 0)
		return r;
	outcome->done = runs(&chain) && pull_done(&c, &chain);
	if (outcome->done)
		return 0;
	c.written = chain.n ? chain.layers[0].path : NULL;
	c.wait.pulse = vm_blockjob_pulse_new(dom);
	r = start_pull(&c, spec, &chain, err);
	if (r == 0)
		r = wait_for_it(&c, err);
	vm_blockjob_pulse_free(c.wait.pulse);
	return r;
}
