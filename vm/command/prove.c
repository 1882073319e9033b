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
 * starts the domain on what is left; the command is then one that was interrupted like any other.
 */
#include "vm/command/prove.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/intent.h"
#include "vm/libvirt/flush.h"
#include "vm/libvirt/paused-guest.h"
#include "vm/libvirt/qemu-img.h"
#include "vm/util/clock.h"
#include "vm/util/fault.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define PIECE (1024 * 1024)
#define TABLE_BYTES (16 * 1024 * 1024)

/* ---------------------------------------------------------------- content */

static bool is_cancelled(void *opaque)
{
	return vm_context_cancelled(opaque, NULL) < 0;
}

struct comparison {
	struct q2_cache *cache;
	struct q2_view *moved, *now; /* what shows the layers that were merged, and what is to have their content */
	struct q2_work work;
	char *a, *b;
};

static struct q2_view *open_view(struct comparison *c, const struct vm_context *cx, const char *path, enum q2_format format,
				 struct vs_err *err)
{
	struct q2_view_spec spec = { .path = path, .format = format, .gate = cx->d->gate };
	struct q2_view *view = NULL;

	return q2_view_open(c->cache, &spec, &view, err) < 0 ? NULL : view;
}

static void comparison_fini(struct comparison *c)
{
	if (c->moved)
		q2_view_close(c->moved);
	if (c->now)
		q2_view_close(c->now);
	if (c->cache)
		q2_cache_free(c->cache);
	free(c->a);
	free(c->b);
}

/* 1: the same bytes; 0: others. Past its end an image is zeros. */
static int compare_piece(struct comparison *c, uint64_t off, size_t len, struct vs_err *err)
{
	ssize_t n = q2_view_read(c->moved, c->a, len, off, &c->work, err), m = 0;

	if (n < 0)
		return (int)n;
	if (off < q2_view_size(c->now))
		m = q2_view_read(c->now, c->b, (size_t)n, off, &c->work, err);
	if (m < 0)
		return (int)m;
	memset(c->b + m, 0, (size_t)(n - m));
	return !memcmp(c->a, c->b, (size_t)n);
}

/* Is this extent's content stored in the active layer itself? Then the guest has it so, or it was pulled. */
static int stored_above(struct comparison *c, uint64_t off, uint64_t *len, struct vs_err *err)
{
	struct q2_extent e;
	int r;

	if (off >= q2_view_size(c->now))
		return 0;
	r = q2_view_extent(c->now, off, *len, &c->work, &e, err);
	if (r < 0)
		return r;
	*len = e.guest_off + e.len - off < *len ? e.guest_off + e.len - off : *len;
	return e.depth == 0 && e.kind != Q2_ZERO;
}

static int compare_extent(struct comparison *c, uint64_t off, uint64_t len, bool into_active, struct vs_err *err)
{
	int r = 1;

	while (r == 1 && len) {
		uint64_t piece = len < PIECE ? len : PIECE;

		r = into_active ? stored_above(c, off, &piece, err) : 0;
		if (r == 0)
			r = compare_piece(c, off, (size_t)piece, err);
		off += piece;
		len -= piece;
	}
	return r;
}

/* Of what @moved shows, all that comes from its first @depth layers. 1: it is there; 0: it is not; negative: nobody can tell. */
static int compare(struct comparison *c, unsigned depth, bool into_active, struct vs_err *err)
{
	uint64_t size = q2_view_size(c->moved), next;
	int r = 1;

	for (uint64_t off = 0; r == 1 && off < size; off = next) {
		struct q2_extent e;

		r = q2_view_extent(c->moved, off, size - off, &c->work, &e, err);
		if (r < 0)
			return r;
		next = e.guest_off + e.len;
		r = e.depth < depth ? compare_extent(c, off, next - off, into_active, err) : 1;
	}
	return r;
}

/* @depth: layers of @moved that were to be moved into @now. */
static int is_there(struct vm_context *cx, const struct vm_layer *moved, unsigned depth, const struct vm_layer *now, bool into_active,
		    struct vs_err *err)
{
	struct comparison c vs_cleanup(comparison_fini) = {
		.cache = q2_cache_new(TABLE_BYTES, 0), .work = { .stop = is_cancelled, .opaque = cx }, .a = xcalloc(PIECE, 1), .b = xcalloc(PIECE, 1),
	};

	if (!c.cache)
		xoom();
	c.moved = open_view(&c, cx, moved->path, moved->format, err);
	c.now = c.moved ? open_view(&c, cx, now->path, now->format, err) : NULL;
	return c.now ? compare(&c, depth, into_active, err) : err->code;
}

/* ---------------------------------------------------------------- the header, put back */

/* The newest stamp that is noted of it goes on: but for the header it is what it was. */
static void restamp(struct vm_context *cx, const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0)
		vm_meta_restamp(cx->meta, st.st_ino, (uint64_t)st.st_size, vm_timespec_ns(st.st_mtim));
}

static int put_back(struct vm_context *cx, const struct vm_layer *layer, const struct vm_layer *below, struct vs_err *err)
{
	const char *const argv[] = { "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", q2_format_name(below->format), "-b", below->path,
				     layer->path, NULL };
	int r = vm_dom_active(cx->dom, err);

	if (r > 0)
		return vs_err_set(err, -EBUSY, "the domain is up: shut it down first");
	vm_context_unguard(cx);
	if (r == 0)
		r = vm_qemu_img_run(argv, err);
	vm_fault();
	if (r < 0)
		return r;
	vm_log(cx->log, "QEMU had died before all that was moved was written: '%s' stands on '%s' again", layer->path, below->path);
	restamp(cx, layer->path);
	return 1;
}

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

/* What stands on the base shows all of it without the top: others have pulled it in, say. A running QEMU writes out first what it has. */
static int is_above(struct vm_context *cx, int top, unsigned depth, int above, struct vs_err *err)
{
	int r = cx->running ? vm_flush(cx->dom, err) : 0;

	return r < 0 ? r : is_there(cx, &cx->d->layers[top], depth, &cx->d->layers[above], true, err);
}

enum proof { PROOF_NONE, PROOF_DONE, PROOF_BACK, PROOF_VOID };

/* A value of enum proof, or negative: it cannot be told. With `try` nothing is put back. */
static int prove_merge(struct vm_context *cx, struct vm_meta_doomed *d, struct vs_err *err)
{
	int base = layer_with(cx, d->path, d->path_ino), top = layer_with(cx, d->top, d->top_ino), above = -1, r;
	unsigned depth = top < 0 || base < 0 ? 0 : depth_of(cx, top, base);

	for (size_t i = 0; base >= 0 && d->above_ino && i < cx->d->n_layers; i++)
		if (!cx->d->layers[i].error && cx->d->layers[i].stamp.ino == d->above_ino && cx->d->layers[i].below == base)
			above = (int)i;
	if (d->done || above < 0 || !depth)
		return PROOF_NONE;
	r = is_there(cx, &cx->d->layers[top], depth, &cx->d->layers[base], false, err);
	if (r == 0 && !cx->try_only) {
		r = is_above(cx, top, depth, above, err);
		if (r == 1) {
			d->above_ino = 0; /* who stands there reads right */
			return PROOF_VOID;
		}
		r = r < 0 ? r : put_back(cx, &cx->d->layers[above], &cx->d->layers[top], err);
		return r < 0 ? r : PROOF_BACK;
	}
	if (r == 1)
		d->done = true;
	return r == 1 ? PROOF_DONE : r < 0 ? r : PROOF_NONE;
}

/* ---------------------------------------------------------------- pulls */

int vm_prove_journal_pull(struct vm_context *cx, const char *target, struct vs_err *err)
{
	int top = vm_context_top(cx, target), below = top < 0 ? -1 : cx->d->layers[top].below;
	struct vm_paused_guest qemu = {0};
	vs_autofree char *text = NULL;

	if (below < 0 || !vm_paused_guest_process(cx->uuid, &qemu))
		return 0; /* then nobody will be able to tell */
	text = xasprintf("%" PRId64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n%s", qemu.pid, qemu.began, cx->d->layers[top].stamp.ino,
			 cx->d->layers[below].stamp.ino, target, cx->d->layers[below].path);
	return vm_journal_add(&cx->journal, "pull", text, err);
}

void vm_prove_pulled(struct vm_context *cx)
{
	vm_journal_drop(&cx->journal, "pull");
}

/* A note of a pull, cut up. */
struct pull {
	struct vm_paused_guest qemu;
	uint64_t ino, below_ino; /* of the active layer, and of what it stood on */
	const char *target, *path;
};

static bool take_pull(char *text, struct pull *p)
{
	char *path = strchr(text, '\n');
	int at = 0;

	*p = (struct pull){ .path = path ? path + 1 : NULL };
	if (!path)
		return false;
	*path = '\0';
	p->target = text;
	if (sscanf(text, "%" SCNd64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %n", &p->qemu.pid, &p->qemu.began, &p->ino, &p->below_ino, &at) != 4)
		return false;
	p->target += at;
	return at > 0;
}

struct proving {
	struct vm_context *cx;
	bool news;
};

/* The QEMU that has pulled has all of it, and only has to write it out. */
static bool is_written_out(const struct vm_context *cx, const struct pull *p)
{
	struct vm_paused_guest now = {0};

	return vm_paused_guest_process(cx->uuid, &now) && now.pid == p->qemu.pid && now.began == p->qemu.began && vm_flush(cx->dom, NULL) == 0;
}

/* 1: settled; 0: not now. */
static int prove_pull(struct vm_context *cx, const struct pull *p, bool *news)
{
	int top = vm_context_top(cx, p->target), below = layer_with(cx, p->path, p->below_ino), r;
	struct vs_err err = {0};

	if (top < 0 || cx->d->layers[top].error)
		return 0; /* it may come back */
	if (cx->d->layers[top].stamp.ino != p->ino)
		return 1; /* the disk is another file by now */
	if (below >= 0 && cx->d->layers[top].below == below)
		return 1; /* nothing has happened */
	if (cx->running)
		return is_written_out(cx, p);
	if (below < 0) {
		vm_log(cx->log, "a pull into '%s' was interrupted, and '%s' is not there any more: nobody can tell whether all was pulled",
		       cx->d->layers[top].path, p->path);
		return 0;
	}
	r = is_there(cx, &cx->d->layers[below], VM_CHAIN_MAX, &cx->d->layers[top], true, &err);
	if (r == 0) {
		r = put_back(cx, &cx->d->layers[top], &cx->d->layers[below], &err);
		*news |= r == 1;
	}
	if (r < 0)
		vm_log(cx->log, "a pull into '%s' was interrupted, and nobody can tell whether all was pulled: %s", cx->d->layers[top].path,
		       vs_err_text(&err, r));
	return r == 1;
}

static bool settle_pull(const char *text, void *opaque)
{
	struct proving *proving = opaque;
	vs_autofree char *copy = xstrdup(text);
	struct pull p;

	return !take_pull(copy, &p) || prove_pull(proving->cx, &p, &proving->news) == 1;
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
		int r = prove_merge(cx, d, &why);

		if (r < 0)
			vm_log(cx->log, "'%s' was begun, and whether all of '%s' is in '%s' cannot be told now: %s", mark->command, d->top, d->path,
			       vs_err_text(&why, r));
		*news |= r > 0;
		if (r == PROOF_VOID) {
			vs_autofree char *text = xasprintf("what stood on '%s' does not need it any more", d->top);

			r = vm_intent_void(cx, mark->command, text, err);
			return r < 0 ? r : PROOF_VOID;
		}
	}
	return 0;
}

int vm_prove(struct vm_context *cx, struct vs_err *err)
{
	struct proving p = { cx, false };
	bool news = false;
	int r = 0;

	for (size_t i = 0; r >= 0 && i < cx->meta->n_snapshots; i++) {
		struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		if (mark && !mark->is_void && !was_seen(cx, mark, i))
			r = prove_mark(cx, mark, &news, err);
	}
	if (r < 0 || cx->try_only)
		return r < 0 ? r : 0;
	vm_journal_settle(&cx->journal, "pull", settle_pull, &p);
	if (!news && !p.news)
		return 0;
	r = vm_context_save(cx, err);
	return r < 0 ? r : 1;
}
