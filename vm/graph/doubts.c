/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
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
 *   - it is a file of a virt-snapfs mount that shows no snapshot of ours;
 *   - it is a device that shows a file, and nobody can tell which;
 *   - it is raw and missing: what it stands on is known, but where its directory is a mount point, or was renamed, or lay in a mount of ours,
 *     it may itself be any file. Media that are gone are common, and so are devices: only a file of that name may be one.
 *
 * Besides, the inventory tells what it could not look at: records, definitions, directories, images that are no files here.
 *
 * No doubt remains about a raw image that is there, which stands on nothing, or about a layer of a chain that a running domain has open: libvirt
 * tells what QEMU found beneath it. An overlay that is only named by the record of its snapshot and is not there is no doubt either:
 * no disk and no snapshot needs it, it is where writes went once.
 *
 * A doubt about X says nothing against a file that stands on X itself: chains do not go in circles.
 *
 * Where X is missing, and nothing but snapshots of one domain says that it was ever there, the doubt is theirs: it ends when the last of
 * them goes, so it does not keep a command from taking them, or from going on where it was when it had removed X itself.
 */
#include "vm/graph/graph-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/model/names.h"
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

struct wanted {
	bool *whatever; /* of a node: it matters whoever goes */
	bool *written;  /* of a node: not only as a medium that is read */
	size_t *domain; /* of a node: whose snapshots froze it; VM_NO_DOMAIN: nobody's */
};

static void matters(const struct vm_graph *g, struct wanted *wanted, int file)
{
	if (file != VM_NO_FILE)
		wanted->whatever[g->node[file]] = true;
}

static void matters_as_written(const struct vm_graph *g, struct wanted *wanted, int file)
{
	matters(g, wanted, file);
	if (file != VM_NO_FILE)
		wanted->written[g->node[file]] = true;
}

static void matters_to_snapshot(const struct vm_graph *g, struct wanted *wanted, const struct vm_graph_snap *snap)
{
	int pit = vm_graph_snapdisk(g, snap)->pit;
	size_t *domain = pit != VM_NO_FILE ? &wanted->domain[g->node[pit]] : NULL;

	if (domain && *domain != VM_NO_DOMAIN && *domain != snap->domain)
		matters(g, wanted, pit);
	if (domain) {
		*domain = snap->domain;
		wanted->written[g->node[pit]] = true;
	}
}

/* Whatever is there matters, and so does what is missing where a disk, a snapshot or an image names it as its content. */
static void find_wanted(const struct vm_graph *g, struct wanted *wanted)
{
	const struct vm_facts *facts = g->facts;

	wanted->whatever = xcalloc(facts->n_files, sizeof(*wanted->whatever));
	wanted->written = xcalloc(facts->n_files, sizeof(*wanted->written));
	wanted->domain = xcalloc(facts->n_files, sizeof(*wanted->domain));
	for (size_t i = 0; i < facts->n_files; i++)
		wanted->domain[i] = VM_NO_DOMAIN;
	for (size_t i = 0; i < facts->n_files; i++) {
		if (facts->files[i].error != -ENOENT && facts->files[i].error != -ENOTDIR)
			matters(g, wanted, (int)i);
		matters_as_written(g, wanted, facts->files[i].below);
		matters_as_written(g, wanted, facts->files[i].data);
	}
	for (size_t i = 0; i < g->n_disks; i++) {
		const struct vm_fact_disk *disk = vm_graph_disk(g, &g->disks[i]);

		(disk->writable ? matters_as_written : matters)(g, wanted, disk->top);
		matters_as_written(g, wanted, disk->mirror);
	}
	for (size_t i = 0; i < g->n_snaps; i++)
		matters_to_snapshot(g, wanted, &g->snaps[i]);
}

/* ---------------------------------------------------------------- what is not known of one file */

static bool known_from_running(const struct vm_graph *g, int file)
{
	return g->live_end[g->node[file]] || g->live_below[g->node[file]] != VM_NO_FILE;
}

/* Raw, and nobody can tell which file it is. */
static bool is_nowhere(const struct vm_fact_file *f)
{
	return f->format == Q2_FORMAT_RAW && f->error && !f->stamp.ino;
}

/* False: it is known what it stands on. */
static bool in_doubt(const struct vm_graph *g, int file, struct vm_graph_doubt *doubt)
{
	const struct vm_fact_file *f = vm_graph_file(g, file);

	*doubt = (struct vm_graph_doubt){.file = file, .code = -EPERM, .domain = VM_NO_DOMAIN};
	if (f->exposes && vm_graph_exposed(g, f->exposes, NULL))
		return false;
	if (f->exposes) {
		doubt->why = "is a file of a virt-snapfs mount that none of the snapshots here has";
		return true;
	}
	doubt->why = f->hidden; /* a running domain has it open, and does not see behind it either */
	if (f->hidden)
		return true;
	doubt->why = "names an external data file that is not known here"; /* QEMU does not tell which one it has open, either */
	if (!f->error && f->info && f->info->data_file && f->data == VM_NO_FILE)
		return true;
	doubt->why = f->opaque;
	if (f->opaque)
		return !known_from_running(g, file);
	doubt->raw = is_nowhere(f) && !known_from_running(g, file);
	if (doubt->raw)
		doubt->code = code_of(f->error);
	if (doubt->raw)
		return true;
	if (f->format == Q2_FORMAT_RAW || (!f->error && f->format != Q2_FORMAT_QCOW2) || known_from_running(g, file))
		return false;
	doubt->code = f->error ? code_of(f->error) : -EPERM;
	/* what was refused may be an image that is known from elsewhere: then all is known, or in doubt there */
	doubt->why = f->error || g->refused[file] != VM_NO_FILE ? NULL : f->below_why;
	if (!f->error && !f->info)
		doubt->why = "was not read as a qcow2 image";
	return f->error || doubt->why;
}

static void add_unknowns(struct vm_graph *g, bool named)
{
	for (size_t i = 0; i < g->facts->n_unknowns; i++) {
		const struct vm_fact_unknown *u = &g->facts->unknowns[i];

		if (named == (u->name != NULL))
			add_doubt(g, (struct vm_graph_doubt){.who = u->who, .why = u->why, .code = u->code, .name = u->name, .file = VM_NO_FILE, .domain = VM_NO_DOMAIN});
	}
}

void vm_graph_find_doubts(struct vm_graph *g)
{
	const struct vm_facts *facts = g->facts;
	struct wanted wanted;

	find_wanted(g, &wanted);
	g->doubts = xcalloc(facts->n_files + facts->n_unknowns, sizeof(*g->doubts));
	for (size_t i = 0; i < facts->n_files; i++) {
		int node = g->node[i];
		struct vm_graph_doubt doubt;

		if ((!wanted.whatever[node] && wanted.domain[node] == VM_NO_DOMAIN) || !in_doubt(g, (int)i, &doubt))
			continue;
		if (!wanted.whatever[node])
			doubt.domain = wanted.domain[node];
		doubt.by_name = doubt.raw && (!wanted.written[node] || !strncmp(facts->files[i].path, "/dev/", strlen("/dev/")));
		add_doubt(g, doubt);
	}
	add_unknowns(g, false);
	g->n_nameless = g->n_doubts;
	add_unknowns(g, true);
	for (size_t i = g->n_nameless; i < g->n_doubts; i++)
		if (!vm_strmap_get(&g->named, g->doubts[i].name))
			vm_strmap_put(&g->named, g->doubts[i].name, &g->doubts[i]);
	free(wanted.whatever);
	free(wanted.written);
	free(wanted.domain);
}

/* ---------------------------------------------------------------- whom it concerns */

/* Does @file stand on @lower, or is it that? */
static bool stands_on(const struct vm_graph *g, int file, int lower)
{
	struct vm_chain chain;

	vm_chain_walk(g, file, vm_graph_file(g, file)->format, &chain);
	return vm_chain_index(g, chain.files, chain.n, lower) >= 0;
}

static const char *name_of(const struct vm_graph *g, int file)
{
	const char *path = vm_graph_file(g, file)->path, *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* By any of its paths. */
static bool has_name(const struct vm_graph *g, int file, const char *name)
{
	for (int f = g->node[file]; f != VM_NO_FILE; f = g->alias[f])
		if (!strcmp(name_of(g, f), name))
			return true;
	return false;
}

const struct vm_graph_doubt *vm_graph_doubt(const struct vm_graph *g, int file, size_t domain)
{
	const struct vm_graph_doubt *named = NULL;

	for (size_t i = 0; i < g->n_nameless; i++) {
		const struct vm_graph_doubt *d = &g->doubts[i];

		if (d->domain == domain)
			continue;
		if (d->file == VM_NO_FILE)
			return d;
		if (d->by_name && !has_name(g, file, name_of(g, d->file)))
			continue;
		if (!stands_on(g, file, d->file))
			return d;
	}
	for (int f = g->named.n ? g->node[file] : VM_NO_FILE; f != VM_NO_FILE && !named; f = g->alias[f])
		named = vm_strmap_get(&g->named, name_of(g, f));
	return named;
}

/* ---------------------------------------------------------------- words */

/* Who has it as his, in words; NULL: it is an image that lies about. */
static char *owner_of(const struct vm_graph *g, int file)
{
	int u = g->users_of.head[g->node[file]], s = g->pits.head[g->node[file]];

	if (u >= 0)
		return vm_graph_user_phrase(g, g->users[u].kind, g->users[u].index);
	return s >= 0 ? vm_graph_user_phrase(g, VM_USER_SNAPSHOT, (size_t)s) : NULL;
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
	return xasprintf("%s may need it: %s, so %s is not known", owner ? owner : "something", why,
			 d->raw ? "which file that is" : "what that stands on");
}

/* ---------------------------------------------------------------- of one domain's snapshots */

static char **snapshots_of(const struct vm_graph *g, size_t domain, int file, struct vm_arena *arena)
{
	struct vm_strings names = {0};

	for (int s = g->pits.head[g->node[file]]; s >= 0; s = g->pits.next[s])
		if (g->snaps[s].domain == domain)
			vm_strings_add(arena, &names, vm_graph_snapshot(g, &g->snaps[s])->name);
	return vm_strings_done(&names);
}

bool vm_graph_has_doubts(const struct vm_graph *g)
{
	return g->n_doubts > 0;
}

void vm_graph_doubts(const struct vm_graph *g, size_t domain, struct vm_arena *arena, struct vm_doubt **out, size_t *n)
{
	struct vm_doubt *doubts = NULL;
	size_t room = 0;

	*n = 0;
	for (size_t i = 0; i < g->n_doubts; i++) {
		vs_autofree char *phrase = NULL;

		if (g->doubts[i].domain != domain)
			continue;
		phrase = vm_graph_doubt_phrase(g, &g->doubts[i]);
		VM_ARENA_GROW(arena, doubts, *n, room);
		doubts[(*n)++] = (struct vm_doubt){
			.path = vm_arena_strdup(arena, vm_graph_file(g, g->doubts[i].file)->path),
			.phrase = vm_arena_take(arena, vm_name_printable(phrase)),
			.code = g->doubts[i].code, .snapshots = snapshots_of(g, domain, g->doubts[i].file, arena),
		};
	}
	*out = doubts;
}
