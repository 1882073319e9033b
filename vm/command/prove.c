/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * A header proves nothing
 * -----------------------
 * At the end of a commit QEMU writes into the header of what stood on the top that it stands on the base now, and of a pull, that it
 * stands on what was to stay, or on nothing. Only then does it write out the tables that say where, in the base or in the active layer,
 * the moved clusters lie. Killed in between it leaves a chain that looks finished and lacks all that was to be moved: whoever reads it
 * gets other bytes, the guest included. So a job is done if libvirt has said so, which we note; and after a death, ours or QEMU's,
 * if the content says so: each cluster that the merged layers store is compared with what lies beneath now.
 *
 * Where it is not so, the layers that were merged are there still, and complete. So the header is put back as it was, before anybody
 * starts the domain on what is left; the command is then one that was interrupted like any other. Also what has become void meanwhile
 * has left such a header: others still read through it.
 */
#include "vm/command/prove.h"

#include "vm/command/content.h"
#include "vm/command/intent.h"
#include "vm/command/pulls.h"
#include "vm/libvirt/flush.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- merges */

static int layer_with(const struct vm_context *cx, const char *path, uint64_t ino)
{
	int l = path ? vm_context_layer(cx, path) : -1;

	return l >= 0 && !cx->d->layers[l].error && ino && cx->d->layers[l].stamp.ino == ino ? l : -1;
}

static unsigned depth_of(const struct vm_context *cx, int top, int base)
{
	unsigned n = 0;

	for (int l = top; l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++)
		if (l == base)
			return n;
	return 0;
}

static struct vm_content_image image_of(const struct vm_context *cx, int layer)
{
	return (struct vm_content_image){ cx->d->layers[layer].path, cx->d->layers[layer].format, cx->d->gate };
}

/* What stands on the base shows all of it without the top: others have pulled it in, say. A running QEMU writes out first what it has. */
static int is_above(struct vm_context *cx, int top, unsigned depth, int above, struct vs_err *err)
{
	struct vm_content_image moved = image_of(cx, top);
	int r = cx->running ? vm_flush(cx->dom, err) : 0;

	return r < 0 ? r : vm_content_is_there(cx, &moved, depth, &cx->d->layers[above], true, err);
}

enum proof { PROOF_NONE, PROOF_DONE, PROOF_BACK, PROOF_VOID };

/* Whoever starts the domain has it as its header says. Gives @proof; of one that was known before (NONE) DONE where something was changed. */
static int unpin(struct vm_context *cx, int above, int base, int proof, struct vs_err *err)
{
	int r = cx->try_only ? 0 : vm_content_unpin(cx, above, cx->d->layers[base].path, err);

	if (r < 0)
		vs_err_prefix(err, "the definition still says what '%s' stood on, and cannot be changed", cx->d->layers[above].path);
	return r < 0 ? r : r > 0 && proof == PROOF_NONE ? PROOF_DONE : proof;
}

static int untold(const struct vm_meta_doomed *d, int r, struct vs_err *err)
{
	if (r < 0)
		vs_err_prefix(err, "whether all of '%s' is in '%s' cannot be told now", d->top, d->path);
	return r;
}

/* A value of enum proof, or negative: it cannot be told, or not be brought in order. With `try` nothing is put back. */
static int prove_merge(struct vm_context *cx, struct vm_meta_doomed *d, int64_t since_ns, struct vs_err *err)
{
	int base = layer_with(cx, d->path, d->path_ino), top = layer_with(cx, d->top, d->top_ino), above = -1, r;
	unsigned depth = top < 0 || base < 0 ? 0 : depth_of(cx, top, base);
	struct vm_content_image moved;
	bool vouched;

	for (size_t i = 0; base >= 0 && d->above_ino && i < cx->d->n_layers; i++)
		if (!cx->d->layers[i].error && cx->d->layers[i].stamp.ino == d->above_ino && cx->d->layers[i].below == base)
			above = (int)i;
	if (d->done && above >= 0)
		return unpin(cx, above, base, PROOF_NONE, err);
	if (d->done || above < 0 || !depth)
		return PROOF_NONE;
	moved = image_of(cx, top);
	r = untold(d, vm_content_is_there(cx, &moved, depth, &cx->d->layers[base], false, err), err);
	if (r == 0 && !cx->try_only) {
		r = untold(d, is_above(cx, top, depth, above, err), err);
		if (r == 1) {
			r = unpin(cx, above, base, PROOF_VOID, err);
			if (r == PROOF_VOID)
				d->above_ino = 0; /* who stands there reads right */
			return r;
		}
		if (r < 0)
			return r;
		vouched = vm_content_vouch(cx, above, cx->d->layers[base].path, since_ns);
		if (!vouched) /* with the new time nothing would tell any more */
			r = vm_context_save(cx, err);
		if (r == 0)
			r = vm_content_put_back(cx, above, &moved, vouched, err);
		if (r < 0)
			vs_err_prefix(err, "'%s' does not stand on '%s' again yet", cx->d->layers[above].path, moved.path);
		return r < 0 ? r : PROOF_BACK;
	}
	if (r == 1) {
		vm_content_vouch(cx, above, cx->d->layers[base].path, since_ns);
		d->done = true;
	}
	return r == 1 ? unpin(cx, above, base, PROOF_DONE, err) : r < 0 ? r : PROOF_NONE;
}

/* ---------------------------------------------------------------- all */

/* All that one command has doomed share a mark. */
static bool was_seen(const struct vm_context *cx, const struct vm_meta_mark *mark, size_t before)
{
	for (size_t i = 0; i < before; i++)
		if (cx->meta->snapshots[i].mark == mark)
			return true;
	return false;
}

static int prove_mark(struct vm_context *cx, struct vm_meta_mark *mark, bool *news, struct vs_err *err)
{
	for (size_t k = 0; k < mark->n_disks; k++) {
		struct vm_meta_doomed *d = &mark->disks[k];
		struct vs_err why = {0};
		int r = prove_merge(cx, d, mark->since_ns, &why);

		if (r < 0)
			vm_log_warn(cx->log, "'%s' was begun: %s", mark->command, vs_err_text(&why, r));
		*news |= r > 0;
		if (r == PROOF_VOID && !mark->is_void) {
			vs_autofree char *text = xasprintf("what stood on '%s' does not need it any more", d->top);

			r = vm_intent_void(cx, mark->command, text, err);
			return r < 0 ? r : PROOF_VOID;
		}
	}
	return 0;
}

int vm_prove(struct vm_context *cx, struct vs_err *err)
{
	bool news = !cx->try_only && vm_content_settle(cx);
	int r = 0;

	for (size_t i = 0; r >= 0 && i < cx->meta->n_snapshots; i++) {
		struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		if (mark && !was_seen(cx, mark, i))
			r = prove_mark(cx, mark, &news, err);
	}
	if (r < 0 || cx->try_only)
		return r < 0 ? r : 0;
	news |= vm_pulls_settle(cx);
	if (!news)
		return 0;
	r = vm_context_save(cx, err);
	if (r < 0)
		return r;
	vm_content_saved(cx);
	return 1;
}
