/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unknown is needed
 * -----------------
 * Who needs a file is known only if everybody who might stand on it has been followed to the end. Where that cannot be done, he
 * may stand on any file, and nobody may write to or unlink one. So for every image of which it is not known what it stands on there
 * is a *doubt*:
 *
 *   - it is missing, or its header cannot be read: moved away for a moment, not ours to read, damaged, of a newer QEMU;
 *   - it names what it stands on in a way that was not followed (a URL, options, no format), or the gate refuses that and it is no
 *     image that is known from elsewhere;
 *   - it is of a format that is not read here and that can stand on something;
 *   - it is a file of a virt-snapfs mount that shows no snapshot of ours.
 *
 * Besides, the inventory tells what it could not look at: records, definitions, directories, images that are no files here.
 *
 * No doubt remains about a raw image, which stands on nothing, or about a layer of a chain that a running domain has open: libvirt
 * tells what QEMU found beneath it. An overlay that is only named by the record of its snapshot and is not there is no doubt either:
 * no disk and no snapshot needs it, it is where writes went once.
 *
 * A doubt about X says nothing against a file that stands on X itself: chains do not go in circles.
 */
#include "vm/graph-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/util/mem.h"

static int code_of(int error)
{
	return error == -EACCES || error == -EPERM ? -EACCES : -EPERM;
}

static void add_doubt(struct vm_graph *g, struct vm_graph_doubt doubt)
{
	g->doubts[g->n_doubts++] = doubt;
}

/* ---------------------------------------------------------------- which files matter */

static void matters(const struct vm_graph *g, bool *wanted, int file)
{
	if (file != VM_NO_FILE)
		wanted[g->node[file]] = true;
}

/* Whatever is there matters, and so does what is missing where a disk, a snapshot or an image names it as its content. */
static bool *find_wanted(const struct vm_graph *g)
{
	const struct vm_facts *facts = g->facts;
	bool *wanted = xcalloc(facts->n_files + 1, sizeof(*wanted));

	for (size_t i = 0; i < facts->n_files; i++) {
		if (facts->files[i].error != -ENOENT && facts->files[i].error != -ENOTDIR)
			wanted[g->node[i]] = true;
		matters(g, wanted, facts->files[i].below);
	}
	for (size_t i = 0; i < g->n_disks; i++) {
		matters(g, wanted, vm_graph_disk(g, &g->disks[i])->top);
		matters(g, wanted, vm_graph_disk(g, &g->disks[i])->mirror);
	}
	for (size_t i = 0; i < g->n_snaps; i++)
		matters(g, wanted, vm_graph_snapdisk(g, &g->snaps[i])->pit);
	return wanted;
}

/* ---------------------------------------------------------------- what is not known of one file */

static bool known_from_running(const struct vm_graph *g, int file)
{
	return g->live_end[g->node[file]] || g->live_below[g->node[file]] != VM_NO_FILE;
}

static bool exposed_here(const struct vm_graph *g, uint64_t ino)
{
	for (size_t i = 0; i < g->n_snaps; i++)
		if (vm_graph_snapdisk(g, &g->snaps[i])->ino == ino)
			return true;
	return false;
}

/* False: it is known what it stands on. */
static bool in_doubt(const struct vm_graph *g, int file, struct vm_graph_doubt *doubt)
{
	const struct vm_fact_file *f = vm_graph_file(g, file);

	*doubt = (struct vm_graph_doubt){.file = file, .code = -EPERM};
	if (f->exposes && exposed_here(g, f->exposes))
		return false;
	if (f->exposes) {
		doubt->why = "is a file of another virt-snapfs mount";
		return true;
	}
	doubt->why = f->opaque;
	if (f->opaque)
		return !known_from_running(g, file);
	if (f->format == Q2_FORMAT_RAW || (!f->error && f->format != Q2_FORMAT_QCOW2) || known_from_running(g, file))
		return false;
	doubt->code = f->error ? code_of(f->error) : -EPERM;
	/* what was refused may be an image that is known from elsewhere: then all is known, or in doubt there */
	doubt->why = f->error || g->refused[file] != VM_NO_FILE ? NULL : f->below_why;
	if (!f->error && !f->info)
		doubt->why = "was not read as a qcow2 image";
	else if (!f->error && !f->below_why && f->info->data_file && f->data == VM_NO_FILE)
		doubt->why = "names an external data file that may not be opened";
	return f->error || doubt->why;
}

int vm_graph_find_doubts(struct vm_graph *g)
{
	const struct vm_facts *facts = g->facts;
	vs_autofree bool *wanted = find_wanted(g);
	struct vm_graph_doubt doubt;

	g->doubts = xcalloc(facts->n_files + facts->n_unknowns, sizeof(*g->doubts));
	for (size_t i = 0; i < facts->n_files; i++)
		if (wanted[g->node[i]] && in_doubt(g, (int)i, &doubt))
			add_doubt(g, doubt);
	for (size_t i = 0; i < facts->n_unknowns; i++)
		add_doubt(g, (struct vm_graph_doubt){.who = facts->unknowns[i].who, .why = facts->unknowns[i].why,
						     .code = facts->unknowns[i].code, .file = VM_NO_FILE});
	return 0;
}

/* ---------------------------------------------------------------- whom it concerns */

/* Does @file stand on @lower, or is it that? */
static bool stands_on(const struct vm_graph *g, int file, int lower)
{
	struct vm_chain chain;

	vm_chain_walk(g, file, vm_graph_file(g, file)->format, &chain);
	return vm_chain_index(g, chain.files, chain.n, lower) >= 0;
}

const struct vm_graph_doubt *vm_graph_doubt(const struct vm_graph *g, int file)
{
	for (size_t i = 0; i < g->n_doubts; i++) {
		const struct vm_graph_doubt *d = &g->doubts[i];

		if (d->file == VM_NO_FILE)
			return d;
		if (!stands_on(g, file, d->file))
			return d;
	}
	return NULL;
}

/* ---------------------------------------------------------------- words */

/* Who has it as his, in words; NULL: it is an image that lies about. */
static char *owner_of(const struct vm_graph *g, int file)
{
	int u = g->users_of.head[g->node[file]];

	if (u >= 0)
		return vm_graph_user_phrase(g, g->users[u].kind, g->users[u].index);
	for (int s = g->pits.head[g->node[file]]; s >= 0;)
		return vm_graph_user_phrase(g, VM_USER_SNAPSHOT, (size_t)s);
	return NULL;
}

char *vm_graph_doubt_phrase(const struct vm_graph *g, const struct vm_graph_doubt *d)
{
	const struct vm_fact_file *f = d->file == VM_NO_FILE ? NULL : vm_graph_file(g, d->file);
	vs_autofree char *owner = f ? owner_of(g, d->file) : NULL;
	vs_autofree char *why = NULL;

	if (!f)
		return xasprintf("%s may need it: %s", d->who, d->why);
	if (d->why)
		why = xasprintf("'%s' %s", f->path, d->why);
	else if (f->error == -ENOENT)
		why = xasprintf("'%s' is missing", f->path);
	else
		why = f->why && strstr(f->why, f->path) ? xstrdup(f->why) :
							  xasprintf("'%s': %s", f->path, f->why ? f->why : strerror(-f->error));
	return owner ? xasprintf("%s may need it: %s, so what that stands on is not known", owner, why) :
		       xasprintf("something may need it: %s, so what that stands on is not known", why);
}
