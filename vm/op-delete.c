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

/* Of the command itself, or of a delete that belongs to it. */
static int reclaim_delete(struct vm_work *w, const char *name, struct vs_err *err)
{
	const struct vm_snapshot *s;
	int r = vm_work_find(w, name, &s, err);
	vs_autofree char *raw = r == 0 ? strdup(s->name) : NULL;
	vs_autofree char *command = raw ? command_text(VM_DELETE, &raw, 1) : NULL;

	return r < 0 ? r : command ? vm_op_reclaim(w, command, err) : vs_err_set(err, -ENOMEM, "out of memory");
}

int vm_op_delete(struct vm_work *w, const char *name, struct vs_err *err)
{
	const struct vm_snapshot *s;
	int r = vm_work_look(w, err);

	if (r == 0)
		r = reclaim_delete(w, name, err);

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
	command = command_text(VM_COMMIT, names, last_name ? 2 : 1);
	r = command ? vm_op_reclaim(w, command, err) : -ENOMEM;
	line = r == 0 ? calloc(w->n_records + 1, sizeof(*line)) : NULL;
	if (!line)
		return r < 0 && command ? r : vs_err_set(err, -ENOMEM, "out of memory");
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

/* The marks of one interrupted command. */
static int repair_one(struct vm_work *w, const char *command, struct vs_err *err)
{
	vs_autofree const char **line = calloc(w->n_records + 1, sizeof(*line));
	size_t n = line ? left_of_line(w, command, line) : 0;
	int r = n ? commit_line(w, line, n, strdup(command), true, err) : 0;

	return r > 0 ? vm_work_look(w, err) : r;
}

static int repair_all(struct vm_work *w, struct vs_err *err)
{
	size_t n = w->own->n_snapshots;
	char **commands = calloc(n + 1, sizeof(*commands));
	int r = 0;

	for (size_t i = 0; commands && i < n; i++)
		if (w->own->snapshots[i].mark)
			commands[i] = strdup(w->own->snapshots[i].mark->command);
	for (size_t i = 0; commands && i < n; i++) {
		bool again = !commands[i];

		for (size_t k = 0; k < i && !again; k++)
			again = commands[k] && !strcmp(commands[k], commands[i]);
		if (r == 0 && !again)
			r = repair_one(w, commands[i], err);
	}
	for (size_t i = 0; commands && i < n; i++)
		free(commands[i]);
	free(commands);
	return r;
}

/* A guest that we have started and that nobody has come to use is ended; a word of ours in the configuration goes. */
static int end_guest(struct vm_work *w, struct vs_err *err)
{
	struct vm_act_guest guest;

	if (vm_act_find_paused(w->dom, &guest, NULL) != 1)
		return 0;
	vm_log(w->log, "ending the paused guest that an interrupted command had started");
	vm_act_end_paused(w->conn, &guest, NULL);
	return vm_work_look(w, err);
}

int vm_op_repair(struct vm_work *w, struct vs_err *err)
{
	int r = vm_work_look(w, err);

	if (r == 0 && w->conn)
		r = end_guest(w, err);
	if (r == 0 && w->conn)
		r = repair_all(w, err);
	if (r == 0)
		r = vm_op_settle(w, err);
	if (r == 0 && w->own->serial && vm_own_sweep(w->own, still_there, w) > 0)
		r = vm_work_save(w, err);
	return r;
}

/* ---------------------------------------------------------------- what an interrupted run has left running */

static bool began(const struct vm_work *w, const char *command, const char *target)
{
	for (size_t i = 0; i < w->own->n_snapshots; i++) {
		const struct vm_own_mark *mark = w->own->snapshots[i].mark;

		for (size_t k = 0; mark && !strcmp(mark->command, command) && k < mark->n_disks; k++)
			if (!strcmp(mark->disks[k].target, target))
				return true;
	}
	return vm_work_noted(w, "job", target);
}

int vm_op_reclaim(struct vm_work *w, const char *command, struct vs_err *err)
{
	struct vm_act_job *jobs = NULL;
	size_t n = 0;
	bool any = false;
	int r;

	if (!w->dom || w->try_only)
		return 0;
	r = end_guest(w, err);
	if (r == 0)
		r = vm_act_jobs(w->dom, &jobs, &n, err);
	for (size_t i = 0; r == 0 && i < n; i++) {
		if (!jobs[i].target || !began(w, command, jobs[i].target))
			continue;
		vm_log(w->log, "giving up the job on disk %s that an interrupted '%s' has left", jobs[i].target, command);
		r = vm_act_job_abort(w->dom, jobs[i].target, err);
		any = true;
	}
	vm_act_jobs_free(jobs, n);
	return r == 0 && any ? vm_work_look(w, err) : r;
}
