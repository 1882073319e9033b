/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Undone until proven done
 * ------------------------
 * What a begun merge has done is never concluded from what is absent. For each disk the intent names the base B that is written, the
 * uppermost layer T that goes into it, and the overlay A that stood on T (none: T was the active layer), each by inode.
 *
 *     noted         "its data has been moved" is written down after libvirt said so and the chain showed it
 *     ahead         A, that very file, stands on B now, as the end of the merge says in its header, or somebody else: whether all is in B
 *                   only the content shows, see prove.c. Unknown until then
 *     to be redone  T, that very file, still leads down to B, that very file, in a disk of the domain: whatever was copied already
 *                   may be copied again
 *     void          another file has the name of one of them; or T does not lead to B any more, or is in no disk of the domain any
 *                   more (it was reverted, pulled, defined otherwise): then the data of the doomed snapshots is neither what it was
 *                   nor what it was to be, for ever, and which files are needed is for the graph to say, not for the intent
 *     unknown       one of them is missing or cannot be read just now. Nothing is done until it is back
 *
 * A commit of the active layer has no A. Between its pivot and the note that it is done there is one more witness: the note that all
 * had been copied and the pivot was asked for. If the disk is on B then, it counts as done; but the file T stays, for it is not
 * proven that nobody wrote to it meanwhile.
 */
#include "vm/command/intent.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/command/attest.h"
#include "vm/libvirt/blockjob-list.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- marks */

const struct vm_meta_mark *vm_intent_mark(const struct vm_context *cx, const struct vm_context_record *record)
{
	struct vm_meta_id id = { record->name, record->xml->created_s * VM_NS_PER_S, VM_EXTERNAL };
	const struct vm_meta_snapshot *said = vm_meta_find(cx->meta, &id);

	return said ? said->mark : NULL;
}

const struct vm_meta_doomed *vm_intent_of(const struct vm_meta_mark *mark, const char *target)
{
	for (size_t i = 0; mark && i < mark->n_disks; i++)
		if (!strcmp(mark->disks[i].target, target))
			return &mark->disks[i];
	return NULL;
}

size_t vm_intent_line(const struct vm_context *cx, const char *command, const char **line)
{
	size_t n = 0;

	for (size_t i = 0; i < cx->n_records; i++) {
		const struct vm_meta_mark *mark = vm_intent_mark(cx, &cx->records[i]);

		if (mark && !strcmp(mark->command, command))
			line[n++] = cx->records[i].name;
	}
	return n;
}

#define NAMES_SAID 3

char *vm_intent_repeat(const char *command)
{
	struct vm_commands parsed = {0};
	char *text = NULL;

	if (vm_commands_parse(command, strlen(command), &parsed, NULL) < 0)
		return xstrdup(command);
	if (parsed.n == 1 && parsed.v[0].verb == VM_DELETE && parsed.v[0].n_names > NAMES_SAID) {
		struct vm_command first = { .verb = VM_DELETE, .names = parsed.v[0].names, .n_names = 1 };

		text = vm_command_text(&first);
	}
	vm_commands_fini(&parsed);
	return text ? text : xstrdup(command);
}

static bool is_untouched(const struct vm_meta_doomed *disk)
{
	struct stat st;

	if (disk->unasked && !disk->done)
		return true;
	return !disk->done && disk->mtime_ns && disk->path && stat(disk->path, &st) == 0 && S_ISREG(st.st_mode) &&
	       st.st_ino == disk->path_ino && vm_timespec_ns(st.st_mtim) == disk->mtime_ns;
}

bool vm_intent_untouched(const struct vm_meta_mark *mark)
{
	for (size_t i = 0; i < mark->n_disks; i++)
		if (!is_untouched(&mark->disks[i]))
			return false;
	return mark->n_disks > 0;
}

/* ---------------------------------------------------------------- one disk */

enum found { IT, ANOTHER, NOT_THERE };

/* Is the layer at @path that very file? *layer: it. */
static enum found find(const struct vm_context *cx, const char *path, uint64_t ino, int *layer, char *why, int *code)
{
	const struct vm_layer *l;

	*layer = path ? vm_context_layer(cx, path) : -1;
	l = *layer < 0 ? NULL : &cx->d->layers[*layer];
	if (l && !l->error && l->stamp.ino == ino && ino)
		return IT;
	if (l && !l->error) {
		snprintf(why, VS_ERR_MAX, "'%s' is another file now", path);
		return ANOTHER;
	}
	*code = l && l->error == -EACCES ? -EACCES : -EPERM;
	snprintf(why, VS_ERR_MAX, "'%s' %s%s", path ? path : "?", !l || l->error == -ENOENT ? "is not there" : "cannot be read: ",
		 !l || l->error == -ENOENT ? "" : strerror(-l->error));
	return NOT_THERE;
}

static bool leads_to(const struct vm_context *cx, int from, int to)
{
	for (int l = from, n = 0; l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++)
		if (l == to)
			return true;
	return false;
}

static bool is_active(const struct vm_context *cx, const char *target, int layer)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if (!strcmp(cx->d->disks[i].target, target) && cx->d->disks[i].top == layer)
			return true;
	return false;
}

/* Is it a layer of that disk as it is now? */
static bool in_disk(const struct vm_context *cx, const char *target, int layer)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if (!strcmp(cx->d->disks[i].target, target) && leads_to(cx, cx->d->disks[i].top, layer))
			return true;
	return false;
}

/* Is the disk's chain known to its end, and this layer not in it? */
static bool is_elsewhere(const struct vm_context *cx, const char *target, int layer)
{
	int top = vm_context_top(cx, target), n = 0;

	for (int l = top; l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++)
		if (l == layer || cx->d->layers[l].error || cx->d->layers[l].ends)
			return false;
	return top >= 0 && n < VM_CHAIN_MAX;
}

/* The layer with that inode number that stands on @below; -1: none. */
static int standing_on(const struct vm_context *cx, uint64_t ino, int below)
{
	for (size_t i = 0; ino && i < cx->d->n_layers; i++)
		if (!cx->d->layers[i].error && cx->d->layers[i].stamp.ino == ino && cx->d->layers[i].below == below)
			return (int)i;
	return -1;
}

bool vm_intent_is_ahead(const struct vm_context *cx, const struct vm_meta_doomed *d)
{
	int base = d->path ? vm_context_layer(cx, d->path) : -1;

	return !d->done && base >= 0 && standing_on(cx, d->above_ino, base) >= 0;
}

int vm_intent_need(const struct vm_context *cx, int layer, struct vs_err *err)
{
	for (size_t i = 0; i < cx->meta->n_snapshots; i++) {
		const struct vm_meta_mark *mark = cx->meta->snapshots[i].mark;

		for (size_t k = 0; mark && mark->is_void && k < mark->n_disks; k++) {
			const struct vm_meta_doomed *d = &mark->disks[k];
			int top = d->top ? vm_context_layer(cx, d->top) : -1;

			if (vm_intent_is_ahead(cx, d) && top >= 0 && leads_to(cx, top, layer))
				return vs_err_set(err, -EPERM, "'%s' must stay as it is: '%s' was begun and has become void, and what stood on '%s' says that it "
						  "stands on '%s', where not all of that is: shut the domain down, then it is put right",
						  cx->d->layers[layer].path, mark->command, d->top, d->path);
		}
	}
	return 0;
}

/* A layer from @top down to @base on which several stand, as none did when the command began; -1: there is none. */
static int find_branch(const struct vm_context *cx, int top, int base)
{
	int one;

	for (int l = top, n = 0; l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++) {
		if (vm_context_above(cx, l, &one) > 1)
			return l;
		if (l == base)
			break;
	}
	return -1;
}

enum vm_intent_state vm_intent_disk(const struct vm_context *cx, const struct vm_meta_doomed *d, char why[VS_ERR_MAX],
				    int *code)
{
	int base = -1, top = -1, branched;
	enum found base_is, top_is;

	*code = -EPERM;
	if (d->done)
		return VM_INTENT_DONE;
	base_is = find(cx, d->path, d->path_ino, &base, why, code);
	if (base_is != IT)
		return base_is == ANOTHER ? VM_INTENT_VOID : VM_INTENT_UNKNOWN;
	if (is_elsewhere(cx, d->target, base))
		return snprintf(why, VS_ERR_MAX, "disk %s does not stand on '%s' any more", d->target, d->path), VM_INTENT_VOID;
	if (standing_on(cx, d->above_ino, base) >= 0) /* see prove.c */
		return snprintf(why, VS_ERR_MAX, "it is not proven that all of '%s' is in '%s'", d->top ? d->top : "?", d->path),
		       VM_INTENT_UNKNOWN;
	if (d->pivoting && is_active(cx, d->target, base))
		return VM_INTENT_DONE;
	top_is = find(cx, d->top, d->top_ino, &top, why, code);
	if (top_is != IT)
		return top_is == ANOTHER ? VM_INTENT_VOID : VM_INTENT_UNKNOWN;
	if (cx->d->layers[top].ends)
		return snprintf(why, VS_ERR_MAX, "what '%s' stands on is not followed: it %s", d->top, cx->d->layers[top].ends),
		       VM_INTENT_UNKNOWN;
	if (!leads_to(cx, top, base) || top == base)
		return snprintf(why, VS_ERR_MAX, "'%s' does not stand on '%s' any more", d->top, d->path), VM_INTENT_VOID;
	if (!in_disk(cx, d->target, top))
		return snprintf(why, VS_ERR_MAX, "disk %s does not stand on '%s' any more", d->target, d->top), VM_INTENT_VOID;
	branched = find_branch(cx, top, base);
	if (branched >= 0)
		return snprintf(why, VS_ERR_MAX, "another image stands on '%s' now",
				cx->d->layers[branched].path), VM_INTENT_VOID;
	return VM_INTENT_REDO;
}

/* ---------------------------------------------------------------- all that was begun */

/* Of all the disks the worst. */
static enum vm_intent_state judge(const struct vm_context *cx, const struct vm_meta_mark *mark, char why[VS_ERR_MAX], int *code)
{
	enum vm_intent_state worst = VM_INTENT_DONE;

	for (size_t i = 0; i < mark->n_disks; i++) {
		char text[VS_ERR_MAX] = "";
		int c = 0;
		enum vm_intent_state state = vm_intent_disk(cx, &mark->disks[i], text, &c);

		if (state <= worst)
			continue;
		worst = state;
		*code = c;
		memcpy(why, text, VS_ERR_MAX);
	}
	if (mark->n_disks)
		return worst;
	snprintf(why, VS_ERR_MAX, "nothing is written down of its files");
	return VM_INTENT_VOID;
}

/* @change on every mark of @command; then it is stored. */
static int change_marks(struct vm_context *cx, const char *command, void (*change)(struct vm_meta_mark *mark, const char *why),
			const char *why,
			struct vs_err *err)
{
	for (size_t i = cx->meta->n_snapshots; i-- > 0;) {
		struct vm_meta_snapshot *s = &cx->meta->snapshots[i];
		struct vm_meta_id id = { s->name, s->created_ns, s->kind };

		if (!s->mark || strcmp(s->mark->command, command) != 0)
			continue;
		if (change)
			change(s->mark, why);
		else
			vm_meta_set_mark(cx->meta, &id, NULL);
	}
	return vm_context_save(cx, err);
}

static void set_void(struct vm_meta_mark *mark, const char *why)
{
	vs_autofree char *said = vm_intent_repeat(mark->command);
	char *reason = xasprintf("'%s' was begun and has become void, for %s: its data is not what it was", said, why);

	free(mark->reason);
	mark->reason = reason;
	mark->is_void = true;
}

int vm_intent_void(struct vm_context *cx, const char *command, const char *why, struct vs_err *err)
{
	vs_autofree char *text = xstrdup(command); /* the mark's own may go */

	vm_log_warn(cx->log, "'%s' was begun and has become void, for %s: nothing is removed, and the snapshots that it was to remove stay stale; "
	       "'delete' takes their records away and leaves all files", text, why);
	return change_marks(cx, text, set_void, why, err);
}

static int forget(struct vm_context *cx, const char *command, const char *why, struct vs_err *err)
{
	vs_autofree char *text = xstrdup(command);

	vm_log(cx->log, "'%s' %s", text, why);
	return change_marks(cx, text, NULL, NULL, err);
}

/* Nothing was written, and nobody is about to? */
static bool is_undone(const struct vm_context *cx, const struct vm_meta_mark *mark)
{
	struct vm_blockjob *jobs = NULL;
	size_t n = 1;

	if (!vm_intent_untouched(mark) || !cx->dom || vm_blockjob_list(cx->dom, &jobs, &n, NULL) < 0)
		return false;
	vm_blockjob_list_free(jobs, n);
	return n == 0;
}

static bool has_records(const struct vm_context *cx, const char *command)
{
	vs_autofree const char **line = xcalloc(cx->n_records + 1, sizeof(*line));

	return vm_intent_line(cx, command, line) > 0;
}

/* Is one of them lost, and may come back? */
static bool has_lost(const struct vm_context *cx, const char *command)
{
	for (size_t i = 0; vm_context_lost(cx) && i < cx->meta->n_snapshots; i++) {
		const struct vm_meta_snapshot *said = &cx->meta->snapshots[i];

		for (size_t k = 0; said->mark && !strcmp(said->mark->command, command) && k < cx->d->n_snapshots; k++)
			if (cx->d->snapshots[k].lost && !strcmp(cx->d->snapshots[k].name, said->name))
				return true;
	}
	return false;
}

/* Would a new snapshot freeze a layer that this command is to merge? */
static bool has_active(const struct vm_context *cx, const struct vm_meta_mark *mark)
{
	for (size_t i = 0; i < mark->n_disks; i++) {
		int top = mark->disks[i].top ? vm_context_layer(cx, mark->disks[i].top) : -1;

		if (!mark->disks[i].done && (top < 0 || is_active(cx, mark->disks[i].target, top)))
			return true;
	}
	return false;
}

static int settle_one(struct vm_context *cx, const struct vm_meta_mark *mark, enum vm_intent_beside beside, struct vs_err *err)
{
	vs_autofree char *said = vm_intent_repeat(mark->command);
	char why[VS_ERR_MAX] = "";
	int code = -EPERM;
	enum vm_intent_state state;

	if (is_undone(cx, mark))
		return cx->try_only ? 0 : forget(cx, mark->command,
						 "had been interrupted before anything was written: all is as before", err);
	if (!has_records(cx, mark->command) && !has_lost(cx, mark->command)) /* those that remain never depended on it. Should the others come back they are stale */
		return 0;
	state = judge(cx, mark, why, &code);
	if (state == VM_INTENT_VOID)
		return cx->try_only ? 0 : vm_intent_void(cx, mark->command, why, err);
	if ((beside == VM_BESIDE_CREATE && !has_active(cx, mark)) || (beside == VM_BESIDE_PULL && state != VM_INTENT_DONE))
		return 0;
	if (state == VM_INTENT_UNKNOWN)
		return vs_err_set(err, code, "'%s' was begun and is not done, and %s: mend that (where the domain runs, shut it down), then repeat '%s' first; if "
				  "that cannot be, 'pull' makes the disks stand without them", said, why, said);
	if (cx->beside) /* it is that one, most likely, so to repeat it would be the wrong advice */
		return vs_err_set(err, -EBUSY, "'%s' is not done, and a command is at work on this domain, see 'jobs'", said);
	return vs_err_set(err, -EPERM, "'%s' was begun and is not done, and its files are its own until then: repeat '%s' first%s", said, said,
			  state == VM_INTENT_REDO ? "; if that cannot be finished, 'pull' makes the disks stand without them" : "");
}

int vm_intent_settle_of(struct vm_context *cx, const struct vm_meta_id *id, struct vs_err *err)
{
	const struct vm_meta_snapshot *said = vm_meta_find(cx->meta, id);

	return said && said->mark && !said->mark->is_void ? settle_one(cx, said->mark, VM_BESIDE_CHANGE, err) : 0;
}

/* The next begun command after the @from'th snapshot of ours; NULL: there is none. */
static const struct vm_meta_mark *next_begun(const struct vm_context *cx, const char *command, size_t *from)
{
	while (*from < cx->meta->n_snapshots) {
		const struct vm_meta_mark *mark = cx->meta->snapshots[(*from)++].mark;

		if (mark && !mark->is_void && (!command || strcmp(mark->command, command) != 0))
			return mark;
	}
	return NULL;
}

int vm_intent_settle(struct vm_context *cx, const char *command, enum vm_intent_beside beside, struct vs_err *err)
{
	const struct vm_meta_mark *mark;
	size_t from = 0;
	int r = 0;

	while (r == 0 && (mark = next_begun(cx, command, &from))) {
		bool changes = !cx->try_only;
		uint64_t serial = cx->meta->serial;

		r = settle_one(cx, mark, beside, err);
		if (changes && cx->meta->serial != serial)
			from = 0; /* the list has changed */
	}
	return r;
}

/* ---------------------------------------------------------------- what it has left */

/* One disk of it, when no job writes to its image any more. True: there is something to be noted. */
static bool leave(struct vm_context *cx, struct vm_meta_doomed *d)
{
	int layer = d->path && !d->unasked ? vm_context_layer(cx, d->path) : -1;
	const struct q2_stamp *now = layer < 0 || cx->d->layers[layer].error ? NULL : &cx->d->layers[layer].stamp;

	if (!now || now->block || now->ino != d->path_ino || now->mtime_ns == d->left_ns)
		return false;
	if (d->left_ns) {
		if (!vm_attest_spoilt_in(cx, layer))
			return false;
		vm_log_warn(cx->log, "'%s' was written to, or touched, by others since a command that was begun had written to it", d->path);
		return true;
	}
	d->left_ns = now->mtime_ns;
	return true;
}

bool vm_intent_leave(struct vm_context *cx)
{
	vs_autofree const struct vm_meta_mark **marks = xcalloc(cx->meta->n_snapshots + 1, sizeof(*marks));
	size_t n = cx->running ? 0 : vm_meta_marks(cx->meta, marks); /* a QEMU may write out later what a job had it write */
	bool news = false;

	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < marks[i]->n_disks; k++)
			news |= leave(cx, &((struct vm_meta_mark *)marks[i])->disks[k]);
	return news;
}
