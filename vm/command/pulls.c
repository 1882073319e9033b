/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Before a pull is asked for it is noted into which file it goes, and all that this stands on. QEMU takes the backing file out of the header
 * before it writes out the tables that say where the copied clusters lie; see prove.c. So the note goes when the same QEMU has written
 * out what it has, when the content shows it, or when the header still is as it was. Until then every file beneath is needed, though
 * nothing stands on it any more, and wherever the file that the pull went into is by now: somebody may have taken a snapshot.
 */
#include "vm/command/pulls.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/content.h"
#include "vm/libvirt/flush.h"
#include "vm/meta/pull.h"
#include "vm/util/log.h"

/* ---------------------------------------------------------------- notes */

static void load(struct vm_context *cx)
{
	vm_pulls_free(cx->pulls);
	cx->pulls = vm_pulls_read(&cx->journal);
}

int vm_pulls_journal(struct vm_context *cx, const char *target, struct vs_err *err)
{
	int top = vm_context_top(cx, target), below = top < 0 ? -1 : cx->d->layers[top].below;
	struct vm_pull_file files[VM_CHAIN_MAX + 1];
	struct vm_pull p = { .files = files, .target = (char *)target };
	struct vm_paused_guest qemu = {0};
	vs_autofree char *text = NULL;

	if (below < 0)
		return 0;
	if (vm_paused_guest_process(cx->uuid, &qemu)) {
		p.pid = qemu.pid;
		p.began = qemu.began;
	}
	for (int l = top; l >= 0 && p.n_files <= VM_CHAIN_MAX; l = cx->d->layers[l].below)
		files[p.n_files++] = (struct vm_pull_file){ cx->d->layers[l].stamp.dev, cx->d->layers[l].stamp.ino };
	p.top = cx->d->layers[top].path;
	p.below = cx->d->layers[below].path;
	text = vm_pull_text(&p);
	return vm_journal_add(&cx->journal, "pull", text, err);
}

/* ---------------------------------------------------------------- what has become of it */

/* By its path; or, where it was moved, by its device and number. -1: it is not to be seen. */
static int layer_of(const struct vm_context *cx, const char *path, const struct vm_pull_file *file)
{
	int l = vm_context_layer(cx, path);

	if (l >= 0 && file->ino && !cx->d->layers[l].error && cx->d->layers[l].stamp.ino == file->ino)
		return l;
	for (size_t i = 0; file->ino && i < cx->d->n_layers; i++)
		if (!cx->d->layers[i].error && cx->d->layers[i].stamp.ino == file->ino && cx->d->layers[i].stamp.dev == file->dev)
			return (int)i;
	return -1;
}

/* Is it certain that the file is in no use any more? Everything is known of the domain, and it lies nowhere. */
static bool is_gone(const struct vm_context *cx, const struct vm_pull *p)
{
	int now = vm_context_top(cx, p->target);
	struct stat st;

	if (now < 0 || cx->d->layers[now].error || cx->d->n_doubts)
		return false;
	return lstat(p->top, &st) < 0 ? errno == ENOENT : st.st_ino != p->files[0].ino;
}

static bool is_same_qemu(const struct vm_context *cx, const struct vm_pull *p)
{
	struct vm_paused_guest now = {0};

	return p->pid && vm_paused_guest_process(cx->uuid, &now) && now.pid == p->pid && now.began == p->began;
}

/* 1: all is there, or nothing has happened, or it does not matter any more; 0: it is not all there; negative: nobody can tell. */
static int judge(struct vm_context *cx, const struct vm_pull *p, struct vs_err *err)
{
	int top = layer_of(cx, p->top, &p->files[0]), below = layer_of(cx, p->below, &p->files[1]), r;
	struct stat st;

	if (top < 0)
		return is_gone(cx, p) ? 1 : vs_err_set(err, -EPERM, "'%s' is not to be seen", p->top);
	if (below >= 0 && cx->d->layers[top].below == below)
		return 1;
	if (cx->running && is_same_qemu(cx, p)) {
		r = vm_flush(cx->dom, err);
		return r < 0 ? r : 1;
	}
	if (cx->running && cx->d->layers[top].active)
		return vs_err_set(err, -EBUSY, "the guest writes to it: shut the domain down first");
	if (below < 0)
		return vs_err_set(err, lstat(p->below, &st) < 0 && errno == ENOENT ? -ENOENT : -EPERM, "'%s', on which it stood, is not to be seen", p->below);
	return vm_content_is_there(cx, &cx->d->layers[below], VM_CHAIN_MAX, &cx->d->layers[top], true, err);
}

struct settling {
	struct vm_context *cx;
	bool news;
};

/* A version 2 image cannot say "zeros": what the guest has discarded since looks like what was never copied. */
static int put_back(struct vm_context *cx, const struct vm_pull *p, struct vs_err *err)
{
	int top = layer_of(cx, p->top, &p->files[0]);

	if (cx->d->layers[top].version < 3)
		return vs_err_set(err, -EPERM, "a version 2 image does not show what the guest has discarded since");
	return vm_content_put_back(cx, top, layer_of(cx, p->below, &p->files[1]), err);
}

static bool is_settled(const char *text, void *opaque)
{
	struct settling *s = opaque;
	struct vs_err err = {0};
	struct vm_pull p;
	int r;

	if (!vm_pull_parse(text, &p))
		return true;
	r = judge(s->cx, &p, &err);
	if (r == 0 && !s->cx->running) {
		r = put_back(s->cx, &p, &err);
		s->news |= r == 1;
	}
	if (r < 0)
		vm_log(s->cx->log, "a pull into '%s' was interrupted, and nobody can tell whether all of it is there: %s", p.top, vs_err_text(&err, r));
	else if (r == 0)
		vm_log(s->cx->log, "a pull into '%s' was interrupted, and not all of it is there: shut the domain down", p.top);
	vm_pull_fini(&p);
	return r == 1;
}

bool vm_pulls_settle(struct vm_context *cx)
{
	struct settling s = { cx, false };

	if (!cx->pulls->n)
		return false;
	vm_journal_settle(&cx->journal, "pull", is_settled, &s);
	load(cx);
	return s.news;
}

int vm_pulls_check(struct vm_context *cx, const char *target, struct vs_err *err)
{
	bool forget = false;

	for (size_t i = 0; i < cx->pulls->n; i++) {
		const struct vm_pull *p = &cx->pulls->v[i];
		struct vs_err why = {0};
		int r = strcmp(p->target, target) ? 1 : judge(cx, p, &why);

		if (r == -ENOENT) {
			vm_context_say(cx, "disk %s: a pull into '%s' was interrupted, and '%s', on which it stood, is gone, so nobody can tell whether all of it is "
				       "there", target, p->top, p->below);
			forget = true;
			continue;
		}
		if (r == 0)
			return vs_err_set(err, -EBUSY, "disk %s: a pull into '%s' was interrupted, and not all of it is there: shut the domain down, and repeat it",
					  target, p->top);
		if (r < 0)
			return vs_err_set(err, r, "disk %s: a pull into '%s' was interrupted, and nobody can tell whether all of it is there: %s", target,
					  p->top, vs_err_text(&why, r));
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

int vm_pulls_need(const struct vm_context *cx, const struct vm_layer *layer, struct vs_err *err)
{
	for (size_t i = 0; cx->pulls && i < cx->pulls->n; i++)
		if (has_file(&cx->pulls->v[i], layer->stamp.ino))
			return vs_err_set(err, -EPERM, "'%s' must stay as it is: a pull into '%s' was interrupted, and it is not proven that all is there",
					  layer->path, cx->pulls->v[i].top);
	return 0;
}

/* ---------------------------------------------------------------- all is there */

static bool has_target(const char *text, void *opaque)
{
	struct vm_pull p;
	bool has;

	if (!vm_pull_parse(text, &p))
		return true;
	has = !strcmp(p.target, opaque);
	vm_pull_fini(&p);
	return has;
}

void vm_pulls_done(struct vm_context *cx, const char *target)
{
	vm_journal_settle(&cx->journal, "pull", has_target, (void *)target);
	load(cx);
}
