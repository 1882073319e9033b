/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files of a merge, when nobody reads them any more. */
#include "vm/merge.h"

#include <string.h>
#include <unistd.h>

/* What stood on it may have been removed since the picture was made: the upper layers go first. */
static bool layer_in_use(const struct vm_domain *d, size_t layer)
{
	const struct vm_layer *l = &d->layers[layer];

	for (size_t i = 0; i < d->n_layers; i++)
		if (d->layers[i].below == (int)layer && access(d->layers[i].path, F_OK) == 0)
			return true;
	return l->active || l->users[0] || l->snapshots[0];
}

/* Does any domain of the picture, this one included, need it? */
static bool in_use(const struct vm_picture *pic, const char *path)
{
	for (size_t i = 0; i < pic->n_domains; i++)
		for (size_t k = 0; k < pic->domains[i]->n_layers; k++)
			if (!strcmp(pic->domains[i]->layers[k].path, path) && layer_in_use(pic->domains[i], k))
				return true;
	return false;
}

/* A merged layer. That we have merged it in this run is proof enough; from an earlier run it takes a record. It is only a
 * file too many, so a failure is told and no more. */
static void remove_merged(struct vm_merge *m, const struct vm_picture *pic, const struct vm_merge_disk *d, const char *path)
{
	struct vm_xml_snapdisk disk = { .mode = VM_MODE_EXTERNAL, .overlay = { .path = (char *)path } };
	struct vm_xml_snapshot merged = { .name = m->names[0], .disks = &disk, .n_disks = 1 };
	struct vs_err err = {0};
	int r = 0;

	if (in_use(pic, path))
		vm_work_say(m->w, "'%s' stays, as something still stands on it or reads it", vm_work_file(m->w, path));
	else if (d->what == VM_MERGE_DOWN)
		r = vm_act_unlink(&merged, path, &err);
	else
		r = vm_work_unlink(m->w, path, &err);
	if (r < 0)
		vm_work_say(m->w, "%s", err.msg);
	else if (!in_use(pic, path))
		vm_work_say(m->w, "unlinked '%s'", vm_work_file(m->w, path));
}

static void remove_all_merged(struct vm_merge *m)
{
	struct vm_picture *pic;
	int r = vm_refresh(m->w->vm, 30000);

	if (r < 0) {
		vm_work_say(m->w, "the merged files stay, as nobody can say who uses them: %s", strerror(-r));
		return;
	}
	pic = vm_picture_get(m->w->vm);
	for (size_t i = 0; i < m->n_disks; i++)
		for (size_t k = 0; vm_merge_moved(&m->disks[i]) && k < m->disks[i].n_gone; k++)
			remove_merged(m, pic, &m->disks[i], m->disks[i].gone[k]);
	vm_picture_put(pic);
}

/* The lower ones are only files too many. */
static int drop_files(struct vm_merge *m, const struct vm_merge_disk *d, struct vs_err *err)
{
	struct vs_err why = {0};
	int r = vm_work_unlink(m->w, d->base, err), lower = r;

	if (r == 0)
		vm_work_say(m->w, "unlinked '%s'", vm_work_file(m->w, d->base));
	for (size_t k = 0; lower == 0 && k < d->n_gone; k++) {
		lower = vm_work_unlink(m->w, d->gone[k], &why);
		vm_work_say(m->w, lower == 0 ? "unlinked '%s'" : "%s", lower == 0 ? vm_work_file(m->w, d->gone[k]) : why.msg);
	}
	return r;
}

int vm_merge_remove_files(struct vm_merge *m, struct vs_err *err)
{
	int r = 0;

	if (vm_merge_count(m, VM_MERGE_DOWN) || vm_merge_count(m, VM_MERGE_DONE))
		remove_all_merged(m);
	for (size_t i = 0; r == 0 && i < m->n_disks; i++)
		if (m->disks[i].what == VM_MERGE_DROP)
			r = drop_files(m, &m->disks[i], err);
	for (size_t i = 0; r == 0 && i < m->n_names; i++) {
		const struct vm_work_record *record = vm_work_record(m->w, m->names[i]);

		if (record && record->xml->memory_file &&
		    (r = vm_act_unlink(record->xml, record->xml->memory_file, err)) == 0)
			vm_work_say(m->w, "unlinked '%s'", vm_work_file(m->w, record->xml->memory_file));
	}
	return r;
}
