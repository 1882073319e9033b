/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Before a pull is asked for it is noted into which file it goes, and all that this stands on. QEMU takes the backing file out of the header
 * before it writes out the tables that say where the copied clusters lie; see prove.c. The note goes
 *
 *     when the very QEMU that was asked has no job on the disk any more and has written out what it has
 *     when that QEMU was gone before we looked, and the header is as it was; or it is not, and the content shows that all is there. Likewise where it
 *     could not write out all of it, whatever it says later (held.h)
 *     when all is known of the domain, and the file that the pull went into is none of its files any more
 *     when what it stood on is gone, a guest runs on what there is, and its user says `pull`: what is missing nobody will ever know
 *
 * Until then every file beneath is needed, though nothing stands on it any more, and wherever the file that was pulled into is by now:
 * somebody may have taken a snapshot. Where content is missing the header is put back, once the domain is shut off.
 */
#include "vm/command/pulls.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/content.h"
#include "vm/command/held.h"
#include "vm/libvirt/blockjob-list.h"
#include "vm/libvirt/flush.h"
#include "vm/meta/pull.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- notes */

static void load(struct vm_context *cx)
{
	struct vm_pulls *pulls;

	if (vm_pulls_read(&cx->journal, &pulls, NULL) < 0)
		return; /* what was known is not less than what is so */
	vm_pulls_free(cx->pulls);
	cx->pulls = pulls;
}

int vm_pulls_journal(struct vm_context *cx, const char *target, struct vs_err *err)
{
	int top = vm_context_top(cx, target);
	struct vm_pull_file files[VM_CHAIN_MAX + 1];
	struct vm_pull p = { .files = files, .target = (char *)target };
	struct vm_paused_guest qemu = {0};
	vs_autofree char *text = NULL;

	if (vm_paused_guest_process(cx->uuid, &qemu)) {
		p.pid = qemu.pid;
		p.began = qemu.began;
	}
	for (int l = top; l >= 0 && p.n_files <= VM_CHAIN_MAX; l = cx->d->layers[l].below) {
		const struct vm_layer *layer = &cx->d->layers[l];

		files[p.n_files++] = (struct vm_pull_file){ layer->stamp.dev, layer->stamp.ino, layer->format, layer->path };
	}
	if (p.n_files < 2)
		return 0;
	text = vm_pull_text(&p);
	return text ? vm_journal_add(&cx->journal, "pull", text, err) :
		      vs_err_set(err, -EOPNOTSUPP, "disk %s: the name of an image cannot be noted (a line break in it, say)", target);
}

/* ---------------------------------------------------------------- what has become of it */

/* By its path; or, where it was moved, by its device and number. -1: it is no layer of the domain. */
static int layer_of(const struct vm_context *cx, const struct vm_pull_file *file)
{
	int l = vm_context_layer(cx, file->path);

	if (l >= 0 && file->ino && !cx->d->layers[l].error && cx->d->layers[l].stamp.ino == file->ino)
		return l;
	for (size_t i = 0; file->ino && i < cx->d->n_layers; i++)
		if (!cx->d->layers[i].error && cx->d->layers[i].stamp.ino == file->ino && cx->d->layers[i].stamp.dev == file->dev)
			return (int)i;
	return -1;
}

/* What it stood on: nothing may name that any more, but it lies where it was. -ENOENT: it is gone; -EPERM. *gate is given. */
static int find_below(const struct vm_context *cx, const struct vm_pull *p, struct vm_content_image *out, struct q2_gate **gate, struct vs_err *err)
{
	int l = layer_of(cx, &p->files[1]);
	struct stat st;

	*out = (struct vm_content_image){ p->files[1].path, p->files[1].format, cx->d->gate };
	if (l >= 0)
		out->path = cx->d->layers[l].path;
	if (stat(out->path, &st) < 0)
		return vs_err_set(err, errno == ENOENT ? -ENOENT : -EPERM, "'%s', on which it stood, is not to be seen: %s", out->path, strerror(errno));
	if (st.st_ino != p->files[1].ino)
		return vs_err_set(err, -ENOENT, "'%s', on which it stood, is another file now", out->path);
	*gate = q2_gate_new();
	for (size_t i = 1; *gate && i < p->n_files; i++)
		if (q2_gate_allow_file(*gate, p->files[i].path, p->files[i].format) < 0)
			break; /* one that is not there; then it cannot be read */
	if (l < 0)
		out->gate = *gate;
	return 0;
}

/* Is it certain that the file is in no use any more? Everything is known of the domain, it lies nowhere, and the disk stands on what it
 * stood on, so that no copy of it is the disk now. */
static bool is_gone(const struct vm_context *cx, const struct vm_pull *p)
{
	int now = vm_context_top(cx, p->target);
	bool known = false;
	struct stat st;

	if (now < 0 || cx->d->layers[now].error || cx->d->n_doubts)
		return false;
	for (size_t i = 1; i < p->n_files; i++)
		for (int l = layer_of(cx, &p->files[i]), at = now; l >= 0 && at >= 0; at = cx->d->layers[at].below)
			known |= at == l;
	return known && (lstat(p->files[0].path, &st) < 0 ? errno == ENOENT : st.st_ino != p->files[0].ino);
}

/* What cannot be found any more: the file that it went into, or what that stood on. */
static const char *lost_path(const struct vm_context *cx, const struct vm_pull *p)
{
	return p->files[layer_of(cx, &p->files[0]) < 0 ? 0 : 1].path;
}

static bool is_same_qemu(const struct vm_context *cx, const struct vm_pull *p)
{
	struct vm_paused_guest now = {0};

	return p->pid && vm_paused_guest_process(cx->uuid, &now) && now.pid == p->pid && now.began == p->began;
}

/* Its job may be at work still, or have ended just now: the header that was looked at is no answer then. 1: it is over, and written out; 0:
 * the QEMU that was asked had gone before the look. */
static int ask_qemu(struct vm_context *cx, const struct vm_pull *p, struct vs_err *err)
{
	bool there = cx->process.pid && cx->process.pid == p->pid && cx->process.began == p->began;
	int r;

	if (!cx->running || (!there && p->pid))
		return 0;
	r = vm_blockjob_none(cx->dom, p->target, err);
	if (r == 0)
		r = vm_flush(cx->dom, err);
	if (r < 0 || !p->pid || vm_held_is_noted(cx, p->target))
		return r;
	return is_same_qemu(cx, p) ? 1 : vs_err_set(err, -EBUSY, "its QEMU has ended just now");
}

static bool stands_on(const struct vm_context *cx, int top, const struct vm_pull_file *below)
{
	int l = cx->d->layers[top].below;

	return l >= 0 && l == layer_of(cx, below);
}

/* 1, 0: is it all there? Negative: nobody can tell now. Where something did not come to the disk, what the layer itself says may be what is missing. */
static int compare(struct vm_context *cx, const char *target, int top, const struct vm_content_image *below, struct vs_err *err)
{
	bool unwritten = vm_held_is_noted(cx, target);
	int r;

	if (cx->running && cx->d->layers[top].active)
		return vs_err_set(err, -EBUSY, "the guest writes to it: shut the domain down first");
	r = vm_content_is_there(cx, below, VM_CHAIN_MAX, &cx->d->layers[top], !unwritten, err);
	if (r == 1 && unwritten && !cx->try_only)
		vm_held_proven(cx, target);
	if (r == -ENOENT)
		err->code = r = -EPERM; /* something further down is missing, which it stood on as well: that is needed */
	/* a version 2 image cannot say "zeros": what the guest has discarded since looks like what was never copied */
	if (r == 0 && cx->d->layers[top].version < 3)
		r = vs_err_set(err, -EPERM, "a version 2 image does not show what the guest has discarded since");
	return r;
}

/* 1: all is there, or nothing has happened, or it does not matter any more; 0: it is not all there; negative: nobody can tell; -ENOENT: nor
 * ever will, unless what it stood on comes back. With @back the header is put back in the second case: then 2. */
static int judge(struct vm_context *cx, const struct vm_pull *p, bool back, struct vs_err *err)
{
	int top = layer_of(cx, &p->files[0]), r = ask_qemu(cx, p, err);
	struct vm_content_image below;
	struct q2_gate *gate = NULL;

	if (r != 0)
		return r;
	if (top < 0)
		return is_gone(cx, p) ? 1 : vs_err_set(err, -ENOENT, "'%s' is not to be seen", p->files[0].path);
	if (stands_on(cx, top, &p->files[1]))
		return 1;
	r = find_below(cx, p, &below, &gate, err);
	if (r == 0)
		r = compare(cx, p->target, top, &below, err);
	else
		back = false;
	if (r == 0 && back)
		r = vm_content_put_back(cx, top, &below, false, err) < 0 ? err->code : 2;
	q2_gate_unref(gate);
	return r;
}

struct settling {
	struct vm_context *cx;
	bool news;
	char *failing; /* a disk that QEMU could not flush: the next time it may say otherwise */
};

static bool is_settled(const char *text, void *opaque)
{
	struct settling *s = opaque;
	struct vs_err err = {0};
	struct vm_pull p;
	int r;

	if (!vm_pull_parse(text, &p))
		return false; /* see vm_pulls_read() */
	r = judge(s->cx, &p, !s->cx->running, &err);
	s->news |= r == 2;
	if (r == -EIO && p.pid && !s->failing)
		s->failing = xstrdup(p.target);
	if (r < 0)
		vm_log_warn(s->cx->log, "a pull into '%s' was interrupted, and nobody can tell whether all of it is there: %s", p.files[0].path, vs_err_text(&err, r));
	else if (r == 0)
		vm_log_warn(s->cx->log, "a pull into '%s' was interrupted, and not all of it is there: shut the domain down", p.files[0].path);
	vm_pull_fini(&p);
	return r > 0;
}

bool vm_pulls_settle(struct vm_context *cx)
{
	struct settling s = { cx, false, NULL };

	if (!cx->pulls->n)
		return false;
	vm_journal_settle(&cx->journal, "pull", is_settled, &s);
	load(cx);
	if (s.failing)
		vm_held_note(cx, s.failing);
	free(s.failing);
	return s.news;
}

/* It, or what it stood on, is gone. */
static int check_gone(struct vm_context *cx, const struct vm_pull *p, bool pulls, struct vs_err *err)
{
	const char *gone = lost_path(cx, p);

	if (!pulls && !cx->running)
		return vs_err_set(err, -EPERM, "disk %s: a pull into '%s' was interrupted, and '%s' is not where it was, so nobody can tell whether all of it "
				  "is there: bring it back, or start the domain, and if it has what it needs, 'pull' it then", p->target, p->files[0].path, gone);
	if (pulls)
		vm_context_say(cx, "disk %s: a pull into '%s' was interrupted, and '%s' is not where it was, so nobody can tell whether all of it is there%s",
			       p->target, p->files[0].path, gone, cx->running ? ", and the guest goes on without it" :
			       ": what there is is kept until the domain runs and 'pull' is repeated then");
	return 0;
}

int vm_pulls_check(struct vm_context *cx, const char *target, bool pulls, struct vs_err *err)
{
	bool forget = false;

	for (size_t i = 0; i < cx->pulls->n; i++) {
		const struct vm_pull *p = &cx->pulls->v[i];
		struct vs_err why = {0};
		int r = strcmp(p->target, target) ? 1 : judge(cx, p, false, &why);

		if (r == -ENOENT) {
			r = check_gone(cx, p, pulls, err);
			if (r < 0)
				return r;
			forget = pulls && cx->running;
			continue;
		}
		if (r == 0)
			return vs_err_set(err, -EBUSY, "disk %s: a pull into '%s' was interrupted, and not all of it is there: shut the domain down, and repeat it",
					  target, p->files[0].path);
		if (r < 0)
			return vs_err_set(err, r, "disk %s: a pull into '%s' was interrupted, and nobody can tell whether all of it is there: %s", target,
					  p->files[0].path, vs_err_text(&why, r));
	}
	if (forget && !cx->try_only)
		vm_pulls_done(cx, target);
	return 0;
}

/* ---------------------------------------------------------------- what it needs */

static bool has_file(const struct vm_pull *p, uint64_t ino)
{
	for (size_t i = 1; i < p->n_files; i++)
		if (ino && p->files[i].ino == ino)
			return true;
	return false;
}

/* Where the file that it went into is not to be seen, these may be copies of its. */
int vm_pulls_need(const struct vm_context *cx, const struct vm_layer *layer, struct vs_err *err)
{
	for (size_t i = 0; cx->pulls && i < cx->pulls->n; i++)
		if (has_file(&cx->pulls->v[i], layer->stamp.ino) || layer_of(cx, &cx->pulls->v[i].files[0]) < 0)
			return vs_err_set(err, -EPERM, "'%s' must stay as it is: a pull into '%s' was interrupted, and it is not proven that all is there",
					  layer->path, cx->pulls->v[i].files[0].path);
	return 0;
}

/* ---------------------------------------------------------------- all is there */

static bool has_target(const char *text, void *opaque)
{
	struct vm_pull p;
	bool has;

	if (!vm_pull_parse(text, &p))
		return false;
	has = !strcmp(p.target, opaque);
	vm_pull_fini(&p);
	return has;
}

int vm_pulls_write_out(struct vm_context *cx, const char *target, struct vs_err *err)
{
	int r = vm_flush(cx->dom, err);

	load(cx);
	for (size_t i = 0; r == 0 && i < cx->pulls->n; i++)
		if (!strcmp(cx->pulls->v[i].target, target) && cx->pulls->v[i].pid && !is_same_qemu(cx, &cx->pulls->v[i]))
			r = vs_err_set(err, -EIO, "QEMU has ended before all was written out");
	if (r == 0 && vm_dom_active(cx->dom, NULL) != 1)
		r = vs_err_set(err, -EIO, "QEMU has ended before all was written out");
	return r;
}

void vm_pulls_done(struct vm_context *cx, const char *target)
{
	vm_journal_settle(&cx->journal, "pull", has_target, (void *)target);
	load(cx);
}
