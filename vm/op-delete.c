/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* delete, commit, and what a mount repairs. */
#include "vm/merge.h"
#include "vm/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/clock.h"

/* Gives the canonical text of `verb names...`. */
static char *command_text(enum vm_verb verb, char **names, size_t n)
{
	struct vm_command c = { .verb = verb, .names = names, .n_names = n };

	return vm_command_text(&c);
}

/* ---------------------------------------------------------------- internal ones */

/* An entry whose id is this name, in any image of the domain: tools below would take the one for the other. */
static const struct vm_snapshot *named_by_id(const struct vm_work *w, const struct vm_snapshot *s)
{
	for (size_t i = 0; i < w->d->n_snapshots; i++)
		for (size_t k = 0; k < w->d->snapshots[i].n_disks; k++) {
			const struct q2_snapshot *entry = w->d->snapshots[i].disks[k].snapshot;

			if (&w->d->snapshots[i] != s && entry && !strcmp(entry->id, s->name))
				return &w->d->snapshots[i];
		}
	return NULL;
}

int vm_op_check_id(const struct vm_work *w, const struct vm_snapshot *s, struct vs_err *err)
{
	const struct vm_snapshot *other = s->kind == VM_INTERNAL ? named_by_id(w, s) : NULL;

	if (!other)
		return 0;
	return vs_err_set(err, -EPERM, "'%s' is also the id of snapshot '%s', which would be taken for it", s->shown, other->shown);
}

/* Is its data in the active layer of each disk? libvirt works on those only. */
int vm_op_check_active(const struct vm_work *w, const struct vm_snapshot *s, struct vs_err *err)
{
	for (size_t i = 0; i < s->n_disks; i++) {
		int l = s->disks[i].chain[0] ? vm_work_layer(w, s->disks[i].chain[0]) : -1;

		if (l >= 0 && !w->d->layers[l].active)
			return vs_err_set(err, -EOPNOTSUPP, "internal snapshot '%s' is stored in '%s', on which newer layers stand: "
					  "commit or delete the external snapshots above it first", s->shown, w->d->layers[l].path);
	}
	return 0;
}

static int forget(struct vm_work *w, const struct vm_own_id *id, struct vs_err *err)
{
	return vm_own_forget(w->own, id) ? vm_work_save(w, err) : 0;
}

static int delete_internal(struct vm_work *w, const struct vm_snapshot *s, struct vs_err *err)
{
	struct vm_own_id id = vm_work_id(w, s);
	int r = vm_op_check_id(w, s, err);

	if (r == 0)
		r = vm_op_check_active(w, s, err);
	if (r < 0)
		return r;
	if (w->try_only) {
		vm_work_say(w, "would remove the entry '%s' from the images and its record; no data moves", s->shown);
		return 0;
	}
	vm_work_unguard(w);
	vm_fault();
	r = vm_act_delete(w->dom, s->name, &w->watch, err);
	vm_fault();
	if (r < 0)
		return r;
	vm_work_say(w, "removed the entry '%s' and its record", s->shown);
	return forget(w, &id, err);
}

/* ---------------------------------------------------------------- delete */

static int delete_external(struct vm_work *w, const struct vm_snapshot *s, struct vs_err *err)
{
	const char *names[] = { s->name };
	struct vm_merge m;
	int r = vm_merge_plan(&m, w, names, 1, false, command_text(VM_DELETE, (char **)names, 1), err);

	if (r == 0)
		r = vm_merge_run(&m, err);
	vm_merge_fini(&m);
	return r;
}

int vm_op_delete(struct vm_work *w, const char *name, struct vs_err *err)
{
	const struct vm_snapshot *s;
	int r = vm_work_look(w, err);

	if (r == 0)
		r = vm_work_find(w, name, &s, err);
	if (r == 0 && s->held)
		r = vs_err_set(err, -EPERM, "snapshot '%s' is held: release it first", s->shown);
	if (r == 0)
		r = vm_work_idle(w, err);
	if (r < 0)
		return r;
	if (!w->conn)
		return vm_op_image_delete(w, s, err);
	if (!s->recorded)
		return vs_err_set(err, -EOPNOTSUPP, "libvirt does not know snapshot '%s': whoever made it removes it (qemu-img snapshot -d)",
				  s->shown);
	return s->kind == VM_INTERNAL ? delete_internal(w, s, err) : delete_external(w, s, err);
}

/* ---------------------------------------------------------------- commit */

/* From @first down to @last, ancestors first: borrowed names in @line, which has room for all records. */
static int find_line(const struct vm_work *w, const struct vm_snapshot *first, const struct vm_snapshot *last, const char **line,
		     size_t *n, struct vs_err *err)
{
	const char *at = last->name;
	size_t len = 0;

	while (at && len < w->n_records) {
		const struct vm_work_record *r = vm_work_record(w, at);

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

/* An interrupted run may have forgotten the last ones of its line already: then those that are marked with the same command are
 * what is left of it. */
static size_t left_of_line(const struct vm_work *w, const char *command, const char **line)
{
	size_t n = 0;

	for (size_t i = 0; i < w->n_records; i++) {
		struct vm_own_id id = { w->records[i].name, w->records[i].xml->created_s * VM_NS_PER_S, VM_EXTERNAL };
		const struct vm_own_snapshot *said = vm_own_find(w->own, &id);

		if (said && said->mark && !strcmp(said->mark->command, command))
			line[n++] = w->records[i].name;
	}
	return n;
}

static int commit_line(struct vm_work *w, const char **line, size_t n, char *command, bool repair, struct vs_err *err)
{
	struct vm_merge m;
	int r = vm_merge_plan(&m, w, line, n, !repair, command, err);

	if (r == 0)
		r = repair ? vm_merge_repair(&m, err) : vm_merge_run(&m, err);
	vm_merge_fini(&m);
	return r;
}

int vm_op_commit(struct vm_work *w, const char *first_name, const char *last_name, struct vs_err *err)
{
	const struct vm_snapshot *first = NULL, *last = NULL;
	vs_autofree const char **line = NULL;
	vs_autofree char *command = NULL;
	char *names[] = { (char *)first_name, (char *)last_name };
	size_t n = 0;
	int r = vm_work_look(w, err);

	if (r < 0)
		return r;
	if (!w->conn)
		return vs_err_set(err, -EOPNOTSUPP, "an image without libvirt has internal snapshots only: delete frees them");
	line = calloc(w->n_records + 1, sizeof(*line));
	command = command_text(VM_COMMIT, names, last_name ? 2 : 1);
	if (!line || !command)
		return vs_err_set(err, -ENOMEM, "out of memory");
	r = vm_work_idle(w, err);
	if (r == 0 && (n = left_of_line(w, command, line)) > 0)
		return commit_line(w, line, n, vs_steal(command), false, err);
	if (r == 0)
		r = vm_work_find(w, first_name, &first, err);
	if (r == 0)
		r = vm_work_find(w, last_name ? last_name : first_name, &last, err);
	if (r == 0 && (first->kind == VM_INTERNAL || last->kind == VM_INTERNAL))
		r = vs_err_set(err, -EOPNOTSUPP, "'%s' is an internal snapshot: delete frees it",
			       first->kind == VM_INTERNAL ? first->shown : last->shown);
	if (r == 0)
		r = find_line(w, first, last, line, &n, err);
	return r < 0 ? r : commit_line(w, line, n, vs_steal(command), false, err);
}

/* ---------------------------------------------------------------- repair */

static bool still_there(const struct vm_own_id *id, void *opaque)
{
	const struct vm_work *w = opaque;

	for (size_t i = 0; i < w->d->n_snapshots; i++) {
		struct vm_own_id other = vm_work_id(w, &w->d->snapshots[i]);

		if (vm_own_same(id, &other))
			return true;
	}
	return false;
}

/* One interrupted merge, if there is one that is done but for its records. 1: something was repaired. */
static int repair_one(struct vm_work *w, struct vs_err *err)
{
	vs_autofree const char **line = calloc(w->n_records + 1, sizeof(*line));
	int r = 0;

	for (size_t i = 0; line && r == 0 && i < w->own->n_snapshots; i++) {
		const struct vm_own_mark *mark = w->own->snapshots[i].mark;
		vs_autofree char *command = mark ? strdup(mark->command) : NULL;
		size_t n = command ? left_of_line(w, command, line) : 0;

		if (n)
			r = commit_line(w, line, n, vs_steal(command), true, err);
		if (r > 0)
			vm_log(w->log, "completed the records of an interrupted command");
	}
	return r;
}

int vm_op_repair(struct vm_work *w, struct vs_err *err)
{
	struct vm_act_guest guest;
	int r = vm_work_look(w, err);

	if (r == 0 && w->conn && vm_act_find_paused(w->dom, &guest, NULL) == 1) {
		vm_log(w->log, "ending the paused guest that an interrupted command had started");
		vm_act_end_paused(w->conn, &guest, NULL);
		r = vm_work_look(w, err);
	}
	if (r == 0 && w->conn)
		r = repair_one(w, err);
	if (r > 0)
		r = vm_work_look(w, err);
	if (r == 0 && w->own->serial && vm_own_sweep(w->own, still_there, w) > 0)
		r = vm_work_save(w, err);
	return r;
}
