/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * delete and commit.
 *
 * Snapshots of one branch that follow one another and go together are one line: their overlays are merged in one block job instead of
 * one each, so that every cluster is moved once. Where the line as a whole is refused, each of it is deleted by itself.
 *
 * What a line is marked with is its command, "delete a b"; who says `delete` of those snapshots again repeats it.
 */
#include "vm/command/delete.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/command/attest.h"
#include "vm/command/check.h"
#include "vm/command/command.h"
#include "vm/command/effects.h"
#include "vm/command/image.h"
#include "vm/command/intent.h"
#include "vm/command/merge.h"
#include "vm/command/nv.h"
#include "vm/command/recover.h"
#include "vm/libvirt/delete.h"
#include "vm/libvirt/paused-guest.h"
#include "vm/model/names.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* Gives the canonical text of `verb names...`. */
static char *command_text(enum vm_verb verb, const char *const *names, size_t n)
{
	struct vm_command c = { .verb = verb, .names = (char **)names, .n_names = n };
	char *text = vm_command_text(&c);

	if (!text)
		xoom();
	return text;
}

/* ---------------------------------------------------------------- internal ones */

/* An entry whose id is this name, in any image of the domain: tools below would take the one for the other. */
static const struct vm_snapshot *named_by_id(const struct vm_context *cx, const struct vm_snapshot *s)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		for (size_t k = 0; k < cx->d->snapshots[i].n_disks; k++) {
			const struct q2_snapshot *entry = cx->d->snapshots[i].disks[k].snapshot;

			if (&cx->d->snapshots[i] != s && entry && !strcmp(entry->id, s->name))
				return &cx->d->snapshots[i];
		}
	return NULL;
}

/* The layer that has the entry; -1: none has. */
static int entry_layer(const struct vm_context *cx, const struct vm_disk *disk)
{
	return disk->snapshot && disk->chain && disk->chain[0] ? vm_context_layer(cx, disk->chain[0]) : -1;
}

static bool is_in(const struct vm_context *cx, const struct vm_snapshot *s, int layer)
{
	for (size_t i = 0; i < s->n_disks; i++)
		if (layer >= 0 && entry_layer(cx, &s->disks[i]) == layer)
			return true;
	return false;
}

/* Will the tools below look for the snapshot's name in that layer? A QEMU that runs looks in each of its disks. */
static bool is_searched(const struct vm_context *cx, const struct vm_snapshot *s, int layer)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if ((cx->running || s->memory) && cx->d->disks[i].top == layer)
			return true;
	return is_in(cx, s, layer);
}

/* An entry of the same name that is not the snapshot's own, where they look. NULL: none; else in *layer where. */
static const struct vm_snapshot *named_alike(const struct vm_context *cx, const struct vm_snapshot *s, int *layer)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *other = &cx->d->snapshots[i];

		for (size_t k = 0; other != s && k < other->n_disks; k++) {
			const struct vm_disk *disk = &other->disks[k];

			*layer = entry_layer(cx, disk);
			if (*layer >= 0 && !strcmp(disk->snapshot->name, s->name) && is_searched(cx, s, *layer))
				return other;
		}
	}
	return NULL;
}

/* Tools below are told a name, and take the first entry that has it. */
int vm_delete_check_name(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	const struct vm_snapshot *other = s->kind == VM_INTERNAL ? named_by_id(cx, s) : NULL;
	int layer;

	if (other)
		return vs_err_set(err, -EPERM, "'%s' is also the id of snapshot '%s', which would be taken for it", s->shown, other->shown);
	other = s->kind == VM_INTERNAL ? named_alike(cx, s, &layer) : NULL;
	if (!other)
		return 0;
	return vs_err_set(err, -EPERM, "'%s' has an entry that is called '%s', too, and is snapshot '%s', which might be taken for it or go with it: %s",
			  cx->d->layers[layer].path, s->name, other->shown,
			  is_in(cx, s, layer) ? "remove the one or the other with other tools, by its id" :
								"detach that disk, or shut the domain down, first");
}

static bool is_beneath(const struct vm_context *cx, int layer)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		for (int l = cx->d->disks[i].top, n = 0; l >= 0 && n < VM_CHAIN_MAX; l = cx->d->layers[l].below, n++)
			if (l == layer)
				return true;
	return false;
}

/* Is its data in the active layer of each disk? libvirt works on those only, and goes on where one cannot be read. */
int vm_delete_check_active(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	for (size_t i = 0; i < s->n_disks; i++) {
		int l = s->disks[i].chain && s->disks[i].chain[0] ? vm_context_layer(cx, s->disks[i].chain[0]) : -1;
		int r = vm_check_uncut(cx, s->disks[i].target, vm_context_top(cx, s->disks[i].target), err);

		if (r < 0)
			return r;
		if (l >= 0 && !cx->d->layers[l].active && !is_beneath(cx, l) && !s->disks[i].snapshot)
			return vs_err_set(err, -EOPNOTSUPP, "disk %s, in which '%s' was taken, is none of the domain's any more, and what lies at '%s' %s: put "
					  "it back, or see virsh snapshot-delete", s->disks[i].target, s->shown, cx->d->layers[l].path,
					  cx->d->layers[l].error ? "cannot be read" : "has no such entry");
		if (l >= 0 && !cx->d->layers[l].active && !is_beneath(cx, l))
			return vs_err_set(err, -EOPNOTSUPP, "internal snapshot '%s' is stored in '%s', on which no disk of the domain stands any more, "
					  "and only disks are worked on: define that image as the disk again, or see virsh snapshot-revert and snapshot-delete", s->shown,
					  cx->d->layers[l].path);
		if (l >= 0 && !cx->d->layers[l].active)
			return vs_err_set(err, -EOPNOTSUPP, "internal snapshot '%s' is stored in '%s', on which newer layers stand: "
					  "commit or delete the external snapshots above it first", s->shown,
					  cx->d->layers[l].path);
		if (l >= 0 && cx->d->layers[l].rival)
			return vs_err_set(err, -EPERM, "'%s' must stay as it is: %s writes to it, too", cx->d->layers[l].path,
					  cx->d->layers[l].rival);
	}
	return 0;
}

static int check_viewers(const struct vm_snapshot *s, struct vs_err *err)
{
	if (!s->users || !s->users[0])
		return 0;
	return vs_err_set(err, -EPERM, "snapshot '%s' must stay: %s stands on its file in a virt-snapfs mount%s", s->shown, s->users[0],
			  s->users[1] ? ", and others do" : "");
}

/* libvirt 9.0 has a running QEMU remove the entries, then fails at the disk that is not there, and the record goes all the same. */
static int check_attached(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	for (size_t i = 0; cx->running && i < s->n_disks; i++)
		if (s->disks[i].snapshot && vm_context_top(cx, s->disks[i].target) < 0)
			return vs_err_set(err, -EPERM, "disk %s, in which '%s' is too, is not attached to the running domain: attach it, or shut the domain "
					  "down, first", s->disks[i].target, s->shown);
	return 0;
}

/* Another domain's record may be of this very entry; and an image that cannot be looked at may be this one by another path, with an entry of this
 * name that is somebody's. */
static int check_known(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	for (size_t i = 0; i < s->n_disks; i++) {
		int layer = entry_layer(cx, &s->disks[i]);
		const struct vm_layer *l = layer < 0 ? NULL : &cx->d->layers[layer];

		if (l && l->snapshot_user)
			return vs_err_set(err, -EPERM, "disk %s: '%s' must stay as it is: %s needs it", s->disks[i].target, l->path, l->snapshot_user);
		if (l && l->unknown)
			return vs_err_set(err, l->unknown_code, "disk %s: '%s' must stay as it is: %s", s->disks[i].target, l->path, l->unknown);
	}
	return 0;
}

/* What can be told of each snapshot by itself, before any of several goes. */
static int check_delete(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	int r;

	if (!cx->conn)
		return 0;
	if (!s->recorded)
		return vs_err_set(err, -EOPNOTSUPP, "libvirt does not know snapshot '%s': whoever made it removes it (qemu-img snapshot -d)",
				  s->shown);
	if (s->kind != VM_INTERNAL)
		return 0;
	r = vm_delete_check_name(cx, s, err);
	if (r == 0)
		r = check_viewers(s, err);
	if (r == 0)
		r = check_attached(cx, s, err);
	if (r == 0)
		r = check_known(cx, s, err);
	return r == 0 ? vm_delete_check_active(cx, s, err) : r;
}

/* Images that entries of a snapshot are in. */
struct entries {
	char **paths;
	size_t n;
};

static void entries_fini(struct entries *e)
{
	for (size_t i = 0; i < e->n; i++)
		free(e->paths[i]);
	free(e->paths);
}

static struct entries entries_of(const struct vm_snapshot *s)
{
	struct entries e = { .paths = xcalloc(s->n_disks, sizeof(char *)) };

	for (size_t i = 0; i < s->n_disks; i++)
		if (s->disks[i].snapshot && s->disks[i].chain && s->disks[i].chain[0])
			e.paths[e.n++] = xstrdup(s->disks[i].chain[0]);
	return e;
}

static bool has_entry(const struct vm_context *cx, int layer, const char *name)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		for (size_t k = 0; k < cx->d->snapshots[i].n_disks; k++) {
			const struct vm_disk *disk = &cx->d->snapshots[i].disks[k];

			if (entry_layer(cx, disk) == layer && !strcmp(disk->snapshot->name, name))
				return true;
		}
	return false;
}

/* By a new look: are they gone from every image, which could be read? */
static bool are_gone(const struct vm_context *cx, const struct entries *e, const char *name)
{
	for (size_t i = 0; i < e->n; i++) {
		int layer = vm_context_layer(cx, e->paths[i]);

		if (layer < 0 || cx->d->layers[layer].error || has_entry(cx, layer, name))
			return false;
	}
	return e->n > 0;
}

/*
 * libvirt 9.0 removes all of it, and then fails at the record of a child which has other disks; or has removed the record and not all entries.
 * 0: it is done, and that is said with what libvirt said; else @r.
 */
static int judge_failed(struct vm_context *cx, const struct entries *e, const char *name, int r, struct vs_err *err)
{
	struct vs_err said = *err;

	if (r == -EHOSTDOWN || r == -ETIMEDOUT || vm_attest_poll(cx, NULL) < 0 || vm_context_record(cx, name))
		return r;
	if (!are_gone(cx, e, name))
		return vs_err_set(err, r, "%s; its record is gone all the same, and entries of it may be left", said.msg);
	vm_context_say(cx, "libvirt said '%s', but it is gone", said.msg);
	*err = (struct vs_err){0};
	return 0;
}

static int delete_internal(struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	vs_autofree char *name = xstrdup(s->name), *shown = xstrdup(s->shown);
	struct entries entries vs_cleanup(entries_fini) = entries_of(s);
	struct vm_meta_id id = vm_context_id(cx, s);
	int r;

	id.name = name;
	if (cx->try_only) {
		vm_context_say(cx, "would remove the entry '%s' from the images and its record; no data moves", shown);
		vm_effects_entries(cx, s);
		vm_nv_remove(cx, &id, NULL);
		return 0;
	}
	vm_context_unguard(cx);
	vm_fault();
	r = vm_delete_internal(cx->dom, name, &cx->watch, err);
	if (r < 0)
		r = judge_failed(cx, &entries, name, r, err);
	if (r < 0)
		return r;
	vm_context_say(cx, "removed the entry '%s' and its record", shown);
	if (vm_nv_leave(cx, &id)) { /* now that no record says whose they are */
		r = vm_context_save(cx, err);
		if (r == 0)
			vm_nv_remove(cx, &id, NULL);
		vm_meta_sweep_made(cx->meta, vm_context_is_there);
	}
	if (r == 0 && vm_meta_forget(cx->meta, &id))
		r = vm_context_save(cx, err);
	return r == 0 ? vm_attest_poll(cx, err) : r;
}

/* ---------------------------------------------------------------- a line */

/* Takes @command. */
static int merge(struct vm_context *cx, const char *const *line, size_t n, enum vm_merge_mode mode, char *command,
		 struct vs_err *err)
{
	struct vm_merge m;
	int r = vm_merge_plan(&m, cx, line, n, mode, command, err);

	if (r == 0)
		r = vm_merge_run(&m, err);
	vm_merge_fini(&m);
	return r;
}

/* Can the line go as one? If so *r is what came of it. */
static bool merge_as_one(struct vm_context *cx, const char *const *line, size_t n, int *r, struct vs_err *err)
{
	struct vm_merge m;
	struct vs_err why = {0};
	bool can;

	*r = vm_merge_plan(&m, cx, line, n, VM_MERGE_COMMIT, command_text(VM_DELETE, line, n), &why);
	can = *r == 0;
	if (can)
		*r = vm_merge_run(&m, err);
	vm_merge_fini(&m);
	return can;
}

/* Do both take part with the same disks? */
static bool same_disks(const struct vm_xml_snapshot *a, const struct vm_xml_snapshot *b)
{
	size_t n = 0;

	for (size_t i = 0; i < a->n_disks; i++)
		for (size_t k = 0; a->disks[i].mode == VM_MODE_EXTERNAL && k < b->n_disks; k++)
			n += b->disks[k].mode == VM_MODE_EXTERNAL && !strcmp(a->disks[i].target, b->disks[k].target);
	for (size_t i = 0; i < a->n_disks; i++)
		n -= a->disks[i].mode == VM_MODE_EXTERNAL;
	for (size_t k = 0; n == 0 && k < b->n_disks; k++)
		if (b->disks[k].mode == VM_MODE_EXTERNAL) {
			bool found = false;

			for (size_t i = 0; i < a->n_disks; i++)
				found |= a->disks[i].mode == VM_MODE_EXTERNAL && !strcmp(a->disks[i].target, b->disks[k].target);
			n += !found;
		}
	return n == 0;
}

static const struct vm_context_record *child_among(const struct vm_context *cx, const struct vm_context_record *of,
						   char *const *names, size_t n)
{
	for (size_t i = 0; i < cx->n_records; i++)
		if (cx->records[i].xml->parent && !strcmp(cx->records[i].xml->parent, of->name) &&
		    vm_context_among(cx->records[i].name, names, n))
			return &cx->records[i];
	return NULL;
}

static bool may_be_in_line(const struct vm_context *cx, const struct vm_context_record *r)
{
	return r && r->xml->kind == VM_EXTERNAL && !r->xml->note && !vm_intent_mark(cx, r);
}

/* The line that the first of @keys belongs to, of those in @keys: it is moved to their front, ancestors first. Its length. */
static size_t run_first(const struct vm_context *cx, char **keys, size_t n)
{
	vs_autofree const struct vm_context_record **line = xcalloc(cx->n_records, sizeof(*line));
	const struct vm_context_record *at = vm_context_record(cx, keys[0]), *next;
	size_t len = 0;

	if (!may_be_in_line(cx, at))
		return 1;
	for (size_t steps = 0; at->xml->parent && vm_context_among(at->xml->parent, keys, n) &&
	     steps < cx->n_records; steps++) {
		next = vm_context_record(cx, at->xml->parent);
		if (!may_be_in_line(cx, next) || !same_disks(next->xml, at->xml))
			break;
		at = next;
	}
	line[len++] = at;
	while (len < cx->n_records && (next = child_among(cx, at, keys, n)) && may_be_in_line(cx, next) && same_disks(next->xml,
														      at->xml))
		at = line[len++] = next;
	for (size_t i = 0; i < len; i++)
		for (size_t k = i; k < n; k++)
			if (!strcmp(keys[k], line[i]->name)) {
				char *key = keys[k];

				memmove(&keys[i + 1], &keys[i], (k - i) * sizeof(*keys));
				keys[i] = key;
				break;
			}
	return len;
}

/* ---------------------------------------------------------------- delete */

static int delete_one(struct vm_context *cx, const char *key, struct vs_err *err)
{
	const struct vm_snapshot *s;
	const struct vm_context_record *record;
	const struct vm_meta_mark *mark;
	int r = vm_context_find_key(cx, key, &s, err);

	if (r < 0)
		return r;
	if (!cx->conn)
		return vm_image_delete(cx, s, err);
	r = check_delete(cx, s, err);
	if (r < 0)
		return r;
	if (s->kind == VM_INTERNAL)
		return delete_internal(cx, s, err);
	record = vm_context_record(cx, key);
	mark = record ? vm_intent_mark(cx, record) : NULL;
	if (mark && !mark->is_void) { /* as it was begun */
		vs_autofree const char **line = xcalloc(cx->n_records, sizeof(*line));
		size_t n = vm_intent_line(cx, mark->command, line);

		return merge(cx, line, n, n > 1 ? VM_MERGE_COMMIT : VM_MERGE_DELETE, xstrdup(mark->command), err);
	}
	return merge(cx, &key, 1, VM_MERGE_DELETE, command_text(VM_DELETE, &key, 1), err);
}

int vm_delete_some(struct vm_context *cx, char **keys, size_t n, size_t *done, struct vs_err *err)
{
	size_t len = run_first(cx, keys, n);
	int r = 0;

	*done = 0;
	if (len > 1 && merge_as_one(cx, (const char *const *)keys, len, &r, err)) {
		*done = r == 0 ? len : 0;
		return r;
	}
	for (r = 0; r == 0 && *done < len; *done += r == 0)
		r = delete_one(cx, keys[*done], err);
	return r;
}

/* The begun command that one of them is marked with, if it is a delete of none but them; else NULL. */
static const char *begun_delete(const struct vm_context *cx, char *const *keys, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct vm_context_record *record = vm_context_record(cx, keys[i]);
		const struct vm_meta_mark *mark = record ? vm_intent_mark(cx, record) : NULL;
		vs_autofree const char **line = NULL;
		size_t len, in = 0;

		if (!mark || mark->is_void || strncmp(mark->command, "delete ", strlen("delete ")) != 0)
			continue;
		line = xcalloc(cx->n_records, sizeof(*line));
		len = vm_intent_line(cx, mark->command, line);
		for (size_t k = 0; k < len; k++)
			in += vm_context_among(line[k], keys, n);
		if (in == len)
			return mark->command;
	}
	return NULL;
}

/* Has this command, when it did not come to its end, removed it? */
static bool went_before(const struct vm_context *cx, const char *name)
{
	vs_autofree char *raw = NULL;

	if (vm_journal_has(&cx->journal, "gone", name))
		return true;
	return vm_name_unescape(name, &raw) == 0 && vm_journal_has(&cx->journal, "gone", raw); /* as tables show it */
}

/* Is it a name of that command? */
static bool is_named_in(const char *command, const char *name)
{
	struct vm_commands parsed = {0};
	vs_autofree char *raw = NULL;
	bool is = false;

	if (!command || vm_commands_parse(command, strlen(command), &parsed, NULL) < 0)
		return false;
	vm_name_unescape(name, &raw);
	for (size_t i = 0; i < parsed.n && parsed.v[i].verb == VM_DELETE; i++)
		is = is || vm_context_among(name, parsed.v[i].names, parsed.v[i].n_names) ||
		     (raw && vm_context_among(raw, parsed.v[i].names, parsed.v[i].n_names));
	vm_commands_fini(&parsed);
	return is;
}

/* Is it all one name, with blanks in it? */
static void hint_at_quotes(const struct vm_context *cx, char *const *names, size_t n, struct vs_err *err)
{
	vs_autofree char *one = xstrdup(names[0]);
	const struct vm_snapshot *s;

	for (size_t i = 1; i < n; i++) {
		char *longer = xasprintf("%s %s", one, names[i]);

		free(one);
		one = longer;
	}
	if (n > 1 && vm_context_find(cx, one, &s, NULL) == 0)
		vs_err_set(err, err->code, "there is no such snapshot: a name with blanks in it is put in quotes, \"%s\"", one);
}

/* What is meant (see vm_context_find_key), each once. What an interrupted run of the command has removed already is left
 * out. */
static int find_all(struct vm_context *cx, char *const *names, size_t n, char **keys, size_t *n_keys, struct vs_err *err)
{
	const struct vm_snapshot *s;
	vs_autofree const char **missing = xcalloc(n, sizeof(*missing));
	struct vs_err why = {0};
	const char *begun;
	size_t n_missing = 0;
	int r = 0;

	*n_keys = 0;
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = vm_context_find(cx, names[i], &s, err);
		if (r == 0 && s->held)
			r = vs_err_set(err, -EPERM, "snapshot '%s' is held: release it first", s->shown);
		if (r == 0)
			r = check_delete(cx, s, err);
		if (r == 0 && !vm_context_among(vm_context_key(cx, s), keys, *n_keys))
			keys[(*n_keys)++] = xstrdup(vm_context_key(cx, s));
		if (r == -ENOENT) {
			missing[n_missing++] = names[i];
			why = *err;
			r = 0;
		}
	}
	begun = r == 0 && n_missing ? begun_delete(cx, keys, *n_keys) : NULL;
	for (size_t i = 0; r == 0 && i < n_missing; i++)
		if (*n_keys == 0 || (!went_before(cx, missing[i]) && !is_named_in(begun, missing[i]))) {
			vm_context_find(cx, missing[i], &s, &why);
			*err = why;
			hint_at_quotes(cx, names, n, err);
			return why.code;
		}
	if (r == 0)
		*err = (struct vs_err){0};
	return r;
}

static void drop_first(char **keys, size_t *n, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(keys[i]);
	*n -= count;
	memmove(keys, keys + count, *n * sizeof(*keys));
}

/* Of @asked that are to go these are left. */
static int delete_all(struct vm_context *cx, char **keys, size_t n, size_t asked, struct vs_err *err)
{
	const struct vm_snapshot *s;
	size_t done = 0, len;
	int r = 0;

	while (r == 0 && n > 0) {
		if (vm_context_find_key(cx, keys[0], &s, NULL) < 0) { /* it went with a line that had been begun */
			drop_first(keys, &n, 1);
			continue;
		}
		r = vm_context_cancelled(cx, err);
		done = 0;
		cx->left = asked > 1 ? n : 0;
		if (cx->watch.progress)
			cx->watch.progress(cx->watch.opaque, 0, 0, 0); /* `jobs` says at once how many are left */
		len = run_first(cx, keys, n); /* what goes now, which is not what was named first */
		for (size_t i = 0; r == 0 && asked > 1 && !cx->try_only && i < len; i++)
			r = vm_journal_add(&cx->journal, "gone", keys[i], err); /* should libvirt, or we, go away before the answer */
		if (r == 0)
			r = vm_delete_some(cx, keys, n, &done, err);
		if (r < 0 && asked > 1)
			vs_err_prefix(err, "'%s'", keys[done]);
		if (r < 0 && asked > n - done && !cx->try_only)
			vs_err_prefix(err, "%zu of %zu are gone, not the others", asked - (n - done), asked);
		drop_first(keys, &n, done);
	}
	drop_first(keys, &n, n);
	cx->left = 0;
	if (r == 0 && !cx->try_only)
		vm_journal_done(&cx->journal, "gone");
	return r;
}

/* Those that went with a begun line, or would with `try`. */
static void drop_line(char **keys, size_t *n, char *const *line, size_t n_line)
{
	size_t left = 0;

	for (size_t i = 0; i < *n; i++) {
		if (vm_context_among(keys[i], line, n_line))
			free(keys[i]);
		else
			keys[left++] = keys[i];
	}
	*n = left;
}

int vm_delete_begun(struct vm_context *cx, const char *begun, char **keys, size_t *n, struct vs_err *err)
{
	vs_autofree char *command = xstrdup(begun); /* the mark's own goes */
	vs_autofree const char **line = NULL;
	vs_autofree char **gone = NULL;
	size_t len;
	int r = vm_recover_begin(cx, command, VM_BESIDE_CHANGE, err);

	if (r < 0)
		return r;
	line = xcalloc(cx->n_records, sizeof(*line));
	gone = xcalloc(cx->n_records, sizeof(*gone));
	len = vm_intent_line(cx, command, line);
	for (size_t i = 0; i < len; i++) {
		const struct vm_meta_id id = { line[i], vm_context_record(cx,
									  line[i])->xml->created_s * VM_NS_PER_S, VM_EXTERNAL };
		const struct vm_meta_snapshot *said = vm_meta_find(cx->meta, &id);

		gone[i] = xstrdup(line[i]);
		if (said && said->held && r == 0)
			r = vs_err_set(err, -EPERM, "'%s' was begun, and snapshot '%s' is held: release it first", command, line[i]);
	}
	for (size_t i = 0; r == 0 && keys && *n > len && !cx->try_only && i < len; i++)
		r = vm_journal_add(&cx->journal, "gone", gone[i], err); /* of more than these, which are repeated as a whole */
	if (len && r == 0)
		r = delete_one(cx, gone[0], err);
	if (r == 0 && keys)
		drop_line(keys, n, gone, len);
	for (size_t i = 0; i < len; i++)
		free(gone[i]);
	return r;
}

int vm_command_delete(struct vm_context *cx, char *const *names, size_t n, struct vs_err *err)
{
	vs_autofree char **keys = xcalloc(n, sizeof(*keys));
	const char *begun;
	size_t n_keys = 0, asked;
	int r = find_all(cx, names, n, keys, &n_keys, err);
	asked = n_keys;
	begun = r == 0 ? begun_delete(cx, keys, n_keys) : NULL;
	if (begun)
		r = vm_delete_begun(cx, begun, keys, &n_keys, err);
	if (r == 0 && n_keys && !(begun && cx->try_only))
		r = vm_recover_begin(cx, cx->command, VM_BESIDE_CHANGE, err);
	if (r == 0)
		return delete_all(cx, keys, n_keys, asked, err);
	if (n_keys < asked && !cx->try_only)
		vs_err_prefix(err, "%zu of %zu are gone, not the others", asked - n_keys, asked);
	for (size_t i = 0; i < n_keys; i++)
		free(keys[i]);
	return r;
}

/* ---------------------------------------------------------------- commit */

/* From @first down to @last, ancestors first: borrowed names in @line, which has room for all records. */
static int find_line(const struct vm_context *cx, const struct vm_snapshot *first, const struct vm_snapshot *last,
		     const char **line,
		     size_t *n, struct vs_err *err)
{
	const char *at = last->name;
	size_t len = 0;

	while (at && len < cx->n_records) {
		const struct vm_context_record *r = vm_context_record(cx, at);

		line[len++] = at;
		if (!strcmp(at, first->name))
			break;
		at = r ? r->xml->parent : NULL;
	}
	if (!len || strcmp(line[len - 1], first->name) != 0)
		return vs_err_set(err, -EINVAL, "'%s' does not come after '%s' on one branch", last->shown, first->shown);
	for (size_t i = 0; i < len / 2; i++) {
		const char *swap = line[i];

		line[i] = line[len - 1 - i];
		line[len - 1 - i] = swap;
	}
	*n = len;
	return 0;
}

/* Why it is stale may be that a file is missing which lies somewhere else: that comes first. */
static int check_stale(const struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err)
{
	int r = 0;

	if (s->state != VM_STALE)
		return 0;
	for (size_t i = 0; r == 0 && i < s->n_disks; i++)
		r = vm_check_whole(cx, s->disks[i].target, err);
	return r < 0 ? r : vs_err_set(err, -EPERM, "snapshot '%s' is stale, so nobody knows what would be merged (%s)", s->shown, s->reason);
}

int vm_command_commit(struct vm_context *cx, const char *first_name, const char *last_name, struct vs_err *err)
{
	const struct vm_snapshot *first = NULL, *last = NULL;
	const char *names[] = { first_name, last_name };
	vs_autofree const char **line = NULL;
	vs_autofree char *command = NULL;
	size_t n = 0;
	int r;

	command = command_text(VM_COMMIT, names, last_name ? 2 : 1);
	r = vm_recover_begin(cx, command, VM_BESIDE_CHANGE, err);
	if (r < 0)
		return r;
	line = xcalloc(cx->n_records, sizeof(*line));
	if ((n = vm_intent_line(cx, command, line)) > 0 && !vm_intent_mark(cx, vm_context_record(cx, line[0]))->is_void)
		return merge(cx, line, n, VM_MERGE_COMMIT, vs_steal(command), err);
	r = vm_context_find(cx, first_name, &first, err);
	if (r == 0)
		r = vm_context_find(cx, last_name ? last_name : first_name, &last, err);
	if (r == 0 && (first->kind == VM_INTERNAL || last->kind == VM_INTERNAL))
		r = vs_err_set(err, -EOPNOTSUPP, "'%s' is an internal snapshot: delete frees it",
			       first->kind == VM_INTERNAL ? first->shown : last->shown);
	if (r == 0)
		r = check_stale(cx, first, err);
	if (r == 0)
		r = check_stale(cx, last, err);
	if (r == 0)
		r = find_line(cx, first, last, line, &n, err);
	return r < 0 ? r : merge(cx, line, n, VM_MERGE_COMMIT, vs_steal(command), err);
}
