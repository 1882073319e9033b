/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vm/work.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "vm/virterr.h"

#define LOOK_MS 30000
#define LIST_TRIES 20
#define LIST_PAUSE_US 50000

/* ---------------------------------------------------------------- words */

void vm_work_say(struct vm_work *w, const char *fmt, ...)
{
	vs_autofree char *phrase = NULL;
	char *longer;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&phrase, fmt, ap);
	va_end(ap);
	if (n < 0) {
		phrase = NULL;
		return;
	}
	if (asprintf(&longer, "%s%s%s", w->said ? w->said : "", w->said ? "; " : "", phrase) < 0)
		return;
	free(w->said);
	w->said = longer;
}

const char *vm_work_file(const struct vm_work *w, const char *path)
{
	const char *slash = strrchr(path, '/');

	return w->try_only || !slash || !slash[1] ? path : slash + 1;
}

const char *vm_work_plural(size_t n)
{
	return n == 1 ? "" : "s";
}

int vm_work_cancelled(const struct vm_work *w, struct vs_err *err)
{
	return atomic_load(&w->watch.cancel) ? vs_err_set(err, -ECANCELED, "cancelled") : 0;
}

/* ---------------------------------------------------------------- looking */

static void drop_records(struct vm_work *w)
{
	for (size_t i = 0; i < w->n_records; i++) {
		free(w->records[i].name);
		free(w->records[i].text);
		vm_xml_snapshot_free(w->records[i].xml);
	}
	free(w->records);
	w->records = NULL;
	w->n_records = 0;
}

static void forget_look(struct vm_work *w)
{
	drop_records(w);
	vm_own_free(vs_steal(w->own));
	vm_picture_put(vs_steal(w->pic));
	w->d = NULL;
	if (w->dom)
		virDomainFree(vs_steal(w->dom));
}

void vm_work_fini(struct vm_work *w)
{
	if (w->guarded && w->options->unguard)
		w->options->unguard(w->options->opaque, w->uuid, false);
	w->guarded = false;
	forget_look(w);
	free(w->said);
	w->said = NULL;
}

static int look_picture(struct vm_work *w, struct vs_err *err)
{
	int r = vm_refresh(w->vm, LOOK_MS);

	if (r < 0)
		return vs_err_set(err, r, r == -EHOSTDOWN ? "libvirt is away" : "the domain cannot be looked at: %s", strerror(-r));
	w->pic = vm_picture_get(w->vm);
	for (size_t i = 0; i < w->pic->n_domains; i++)
		if (!strcmp(w->pic->domains[i]->uuid, w->uuid))
			w->d = w->pic->domains[i];
	return w->d ? 0 : vs_err_set(err, -ENOENT, "the domain is gone");
}

static int read_record(struct vm_work *w, virDomainSnapshotPtr snap, struct vs_err *err)
{
	struct vm_work_record *r = &w->records[w->n_records];

	r->text = virDomainSnapshotGetXMLDesc(snap, VIR_DOMAIN_SNAPSHOT_XML_SECURE);
	if (!r->text)
		return vm_virterr_set(err, "the record of a snapshot");
	w->n_records++;
	r->name = strdup(virDomainSnapshotGetName(snap));
	return r->name ? vm_xml_snapshot_parse(r->text, &r->xml, err) : vs_err_set(err, -ENOMEM, "out of memory");
}

/* Parents before children. */
static int look_records(struct vm_work *w, struct vs_err *err)
{
	virDomainSnapshotPtr *list = NULL;
	int n, r = 0;

	/* libvirt 9.0 stumbles over a snapshot that somebody is just taking and that has no name yet */
	for (int try = 1; (n = virDomainListAllSnapshots(w->dom, &list, VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)) < 0; try++) {
		if (vm_virterr_code() != -EINVAL || try == LIST_TRIES)
			return vm_virterr_set(err, "the snapshots of the domain");
		usleep(LIST_PAUSE_US);
	}
	w->records = calloc((size_t)n + 1, sizeof(*w->records));
	if (!w->records)
		r = vs_err_set(err, -ENOMEM, "out of memory");
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = read_record(w, list[i], err);
		virDomainSnapshotFree(list[i]);
	}
	free(list);
	return r;
}

static int read_own(struct vm_work *w, char **text, struct vs_err *err)
{
	char buf[VM_OWN_MAX];
	ssize_t len;

	if (w->dom)
		return vm_act_metadata_get(w->dom, VM_OWN_URI, text, err);
	len = getxattr(w->uuid, VM_OWN_XATTR, buf, sizeof(buf));
	if (len < 0)
		return errno == ENODATA ? -ENOENT : vs_err_set(err, -errno, "the attribute %s of '%s': %s", VM_OWN_XATTR, w->uuid,
							       strerror(errno));
	*text = strndup(buf, (size_t)len);
	return *text ? 0 : -ENOMEM;
}

static int look_own(struct vm_work *w, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	struct vm_own *found = NULL;
	int r = read_own(w, &text, err);

	if (r < 0 && r != -ENOENT)
		return r;
	if (err)
		*err = (struct vs_err){0};
	if (text)
		r = vm_own_parse(text, strlen(text), &found, err);
	if (text && r == -EOPNOTSUPP)
		return r;
	w->own = vm_store_best(w->store, w->uuid, found);
	w->behind = w->own && (!found || found->serial < w->own->serial);
	vm_own_free(found);
	if (!w->own)
		w->own = vm_own_new();
	return w->own ? 0 : vs_err_set(err, -ENOMEM, "out of memory");
}

static int put_own(struct vm_work *w, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = vm_own_text(w->own, &text, err);

	if (r < 0)
		return r;
	if (w->dom)
		return vm_act_metadata_set(w->dom, VM_OWN_KEY, VM_OWN_URI, text, err);
	if (setxattr(w->uuid, VM_OWN_XATTR, text, strlen(text), 0) < 0)
		return vs_err_set(err, -errno, "the attribute %s of '%s': %s", VM_OWN_XATTR, w->uuid, strerror(errno));
	vm_fault();
	return 0;
}

int vm_work_look(struct vm_work *w, struct vs_err *err)
{
	int r;

	forget_look(w);
	r = look_picture(w, err);
	if (r == 0 && w->conn) {
		w->dom = virDomainLookupByUUIDString(w->conn, w->uuid);
		if (!w->dom)
			return vm_virterr_set(err, "the domain");
		w->running = virDomainIsActive(w->dom) == 1;
		r = look_records(w, err);
	}
	if (r == 0)
		r = look_own(w, err);
	if (r == 0 && w->behind && !w->try_only) {
		r = put_own(w, err);
		if (r == 0)
			vm_log(w->log, "its metadata had an older state of our notes: the newest was put back");
		w->behind = r < 0;
	}
	return r < 0 || w->try_only ? r : vm_work_vouch(w, w->d, err);
}

int vm_work_save(struct vm_work *w, struct vs_err *err)
{
	int r;

	vm_own_bump(w->own);
	r = vm_store_remember(w->store, w->uuid, w->own);
	if (r < 0)
		return vs_err_set(err, r, "out of memory");
	vm_fault();
	return put_own(w, err);
}

/* ---------------------------------------------------------------- may we */

int vm_work_idle(struct vm_work *w, struct vs_err *err)
{
	vs_autofree char *where = NULL;
	struct vm_act_job *jobs = NULL;
	size_t n = 0;
	int r;

	if (!w->dom)
		return 0;
	r = vm_act_jobs(w->dom, &jobs, &n, err);
	if (r < 0)
		return r;
	if (n)
		/* A `try` also comes while we are at it ourselves. */
		r = vs_err_set(err, -EBUSY, "%s job is running on %s%s", w->try_only ? "a" : "somebody else's",
			       jobs[0].target ? "disk " : "the domain", jobs[0].target ? jobs[0].target : "");
	vm_act_jobs_free(jobs, n);
	if (r == 0)
		r = vm_act_unfinished_delete(w->dom, &where, err);
	if (r > 0)
		return vs_err_set(err, -EPERM, "libvirt has noted at '%s' that a delete by another tool was not completed: repeat that "
				  "delete with that tool first", where);
	return r;
}

int vm_work_startable(const struct vm_work *w, struct vs_err *err)
{
	if (w->running || virDomainHasManagedSaveImage(w->dom, 0) <= 0)
		return 0;
	return vs_err_set(err, -EPERM, "the domain has a managed save, which a start would use up: start it and shut it down first");
}

void vm_work_unguard(struct vm_work *w)
{
	if (!w->guarded && w->options->unguard)
		w->options->unguard(w->options->opaque, w->uuid, true);
	w->guarded = true;
}

/* ---------------------------------------------------------------- finding */

int vm_work_find(const struct vm_work *w, const char *name, const struct vm_snapshot **out, struct vs_err *err)
{
	const struct vm_snapshot *found = NULL;
	size_t n = 0;

	for (size_t i = 0; i < w->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &w->d->snapshots[i];

		if (s->present)
			continue;
		if (!strcmp(s->shown, name)) {
			*out = s;
			return 0;
		}
		if (!strcmp(s->name, name)) {
			found = s;
			n++;
		}
	}
	if (n > 1)
		return vs_err_set(err, -EINVAL, "%zu snapshots are called '%s': say which, as the list of files shows it", n, name);
	if (!found)
		return vs_err_set(err, -ENOENT, "there is no snapshot '%s'", name);
	*out = found;
	return 0;
}

const struct vm_work_record *vm_work_record(const struct vm_work *w, const char *raw_name)
{
	for (size_t i = 0; i < w->n_records; i++)
		if (!strcmp(w->records[i].name, raw_name))
			return &w->records[i];
	return NULL;
}

struct vm_own_id vm_work_id(const struct vm_work *w, const struct vm_snapshot *s)
{
	const struct vm_work_record *record = vm_work_record(w, s->name);
	const struct q2_snapshot *entry = s->n_disks ? s->disks[0].snapshot : NULL;
	struct vm_own_id id = { s->name, s->created_ns, s->kind };

	if (record && record->xml && s->recorded)
		id.created_ns = record->xml->created_s * INT64_C(1000000000);
	else if (entry)
		id.created_ns = entry->date_sec * INT64_C(1000000000) + entry->date_nsec;
	return id;
}

bool vm_work_made(const struct vm_work *w, const char *path)
{
	for (size_t i = 0; i < w->n_records; i++)
		if (vm_act_proves(w->records[i].xml, path))
			return true;
	return vm_own_has_made(w->own, path);
}

int vm_work_unlink(const struct vm_work *w, const char *path, struct vs_err *err)
{
	struct vm_xml_snapdisk disk = { .mode = VM_MODE_EXTERNAL, .overlay = { .path = (char *)path } };
	struct vm_xml_snapshot proof = { .name = (char *)w->command, .disks = &disk, .n_disks = 1 };

	if (!vm_work_made(w, path))
		return vs_err_set(err, -EPERM, "'%s' was not made by a snapshot, so it is not removed", path);
	return vm_act_unlink(&proof, path, err);
}

int vm_work_layer(const struct vm_work *w, const char *path)
{
	struct stat want, st;

	if (!path)
		return -1;
	for (size_t i = 0; i < w->d->n_layers; i++)
		if (!strcmp(w->d->layers[i].path, path))
			return (int)i;
	if (stat(path, &want) < 0)
		return -1;
	for (size_t i = 0; i < w->d->n_layers; i++)
		if (stat(w->d->layers[i].path, &st) == 0 && st.st_dev == want.st_dev && st.st_ino == want.st_ino)
			return (int)i;
	return -1;
}

uint64_t vm_work_allocated(const struct vm_work *w, int layer)
{
	const struct vm_layer *l = &w->d->layers[layer];
	struct stat st;

	return stat(l->path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_blocks * 512 : l->allocated;
}

size_t vm_work_above(const struct vm_work *w, int layer, int *one)
{
	size_t n = 0;

	for (size_t i = 0; i < w->d->n_layers; i++) {
		if (w->d->layers[i].below != layer || layer < 0)
			continue;
		n++;
		*one = (int)i;
	}
	return n;
}

int vm_work_unshared(const struct vm_work *w, int layer, const char *what, struct vs_err *err)
{
	const struct vm_layer *l = &w->d->layers[layer];

	if (!l->users || !l->users[0])
		return 0;
	return vs_err_set(err, -EPERM, "'%s' %s: %s needs it%s", l->path, what, l->users[0], l->users[1] ? ", and others" : "");
}

const char *vm_work_internal_in(const struct vm_work *w, int layer)
{
	for (size_t i = 0; i < w->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &w->d->snapshots[i];

		if (s->kind != VM_INTERNAL || s->present)
			continue;
		for (size_t k = 0; k < s->n_disks; k++)
			if (s->disks[k].snapshot && s->disks[k].chain && s->disks[k].chain[0] &&
			    vm_work_layer(w, s->disks[k].chain[0]) == layer)
				return s->shown;
	}
	return w->d->layers[layer].internal;
}
