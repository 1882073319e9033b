/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/context.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "vm/libvirt/metadata.h"
#include "vm/libvirt/record.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

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

bool vm_work_among(const char *name, char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
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
	vm_inventory_put(vs_steal(w->inv));
	w->d = NULL;
	if (w->dom)
		virDomainFree(vs_steal(w->dom));
}

void vm_work_fini(struct vm_work *w)
{
	free(vs_steal(w->removed));
	w->n_removed = 0;
	if (w->guarded && w->options->unguard)
		w->options->unguard(w->options->opaque, w->uuid, false);
	w->guarded = false;
	forget_look(w);
	free(w->said);
	w->said = NULL;
}

static int poll_inventory(struct vm_work *w, struct vs_err *err)
{
	int r = vm_refresher_look(w->refresher, LOOK_MS);

	w->d = NULL;
	if (r < 0)
		return vs_err_set(err, r, r == -EHOSTDOWN ? "libvirt is away" : "the domain cannot be looked at: %s", strerror(-r));
	w->inv = vm_refresher_inventory(w->refresher);
	for (size_t i = 0; i < w->inv->n_domains; i++)
		if (!strcmp(w->inv->domains[i]->uuid, w->uuid))
			w->d = w->inv->domains[i];
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

/* Parents before children. -ENOENT: one vanished after it was listed. */
static int list_records(struct vm_work *w, struct vs_err *err)
{
	virDomainSnapshotPtr *list = NULL;
	int n, r = 0;

	/* libvirt 9.0 stumbles over a snapshot that somebody is just taking and that has no name yet */
	for (int try = 1; (n = virDomainListAllSnapshots(w->dom, &list, VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)) < 0; try++) {
		if (vm_virterr_code() != -EINVAL || try == LIST_TRIES)
			return vm_virterr_set(err, "the snapshots of the domain");
		usleep(LIST_PAUSE_US);
	}
	w->records = xcalloc((size_t)n, sizeof(*w->records));
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = read_record(w, list[i], err);
		virDomainSnapshotFree(list[i]);
	}
	free(list);
	return r;
}

static int look_records(struct vm_work *w, struct vs_err *err)
{
	int r;

	for (int try = 1; (r = list_records(w, err)) == -ENOENT && try < LIST_TRIES; try++)
		drop_records(w);
	return r;
}

static int refuse_own(const struct vm_work *w, struct vs_err *err)
{
	vs_autofree char *why = xstrdup(err ? err->msg : "");

	if (w->dom)
		return vs_err_set(err, -EPERM, "%s. They are kept as they are, and no command runs until they can be read: mend or remove them with "
				  "'virsh metadata %s %s'", why, w->d->name, VM_OWN_URI);
	return vs_err_set(err, -EPERM, "%s. They are kept as they are, and no command runs until they can be read: mend or remove the attribute %s of "
			  "'%s'", why, VM_OWN_XATTR, w->uuid);
}

static int read_own(struct vm_work *w, char **text, struct vs_err *err)
{
	char buf[VM_OWN_MAX];
	ssize_t len;

	if (w->dom)
		return vm_metadata_get(w->dom, VM_OWN_URI, text, err);
	len = getxattr(w->uuid, VM_OWN_XATTR, buf, sizeof(buf));
	if (len < 0 && errno == ERANGE) {
		vs_err_set(err, -EPERM, "our facts in the attribute are larger than %d bytes", VM_OWN_MAX);
		return refuse_own(w, err);
	}
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
	if (text) {
		r = vm_own_parse(text, strlen(text), &found, err);
		if (r < 0) /* to overlook a hold is to delete what it held */
			return refuse_own(w, err);
	}
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
		return vm_metadata_set(w->dom, VM_OWN_KEY, VM_OWN_URI, text, err);
	if (setxattr(w->uuid, VM_OWN_XATTR, text, strlen(text), 0) < 0)
		return vs_err_set(err, -errno, "the attribute %s of '%s': %s", VM_OWN_XATTR, w->uuid, strerror(errno));
	vm_fault();
	return 0;
}

int vm_work_look(struct vm_work *w, struct vs_err *err)
{
	int r;

	forget_look(w);
	r = poll_inventory(w, err);
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
	return r;
}

int vm_work_glance(const struct vm_work *w, struct vm_work *now, struct vs_err *err)
{
	*now = (struct vm_work){ .refresher = w->refresher, .uuid = w->uuid, .conn = w->conn, .own = w->own, .records = w->records,
				 .n_records = w->n_records, .removed = w->removed, .n_removed = w->n_removed };
	return poll_inventory(now, err);
}

void vm_work_glance_done(struct vm_work *now)
{
	vm_inventory_put(now->inv);
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

void vm_work_unguard(struct vm_work *w)
{
	if (!w->guarded && w->options->unguard)
		w->options->unguard(w->options->opaque, w->uuid, true);
	w->guarded = true;
}

/* ---------------------------------------------------------------- finding */

/* Tables show spaces as %20. */
static bool is_in_table_as(const struct vm_snapshot *s, const char *name)
{
	vs_autofree char *shown = strchr(s->shown, ' ') ? vm_name_for_table(s->shown) : NULL;

	return shown && !strcmp(shown, name);
}

int vm_work_find_key(const struct vm_work *w, const char *key, const struct vm_snapshot **out, struct vs_err *err)
{
	for (size_t i = 0; i < w->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &w->d->snapshots[i];

		if (!s->present && !strcmp(s->recorded && w->conn ? s->name : s->shown, key)) {
			*out = s;
			return 0;
		}
	}
	return vs_err_set(err, -ENOENT, "there is no snapshot '%s'", key);
}

/* By its shown name, else as tables print that; NULL: none. */
static const struct vm_snapshot *find_shown(const struct vm_work *w, const char *name)
{
	const struct vm_snapshot *found = NULL;

	for (size_t i = 0; i < w->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &w->d->snapshots[i];

		if (!s->present && !strcmp(s->shown, name))
			return s;
		if (!s->present && is_in_table_as(s, name))
			found = s;
	}
	return found;
}

int vm_work_find(const struct vm_work *w, const char *name, const struct vm_snapshot **out, struct vs_err *err)
{
	const struct vm_snapshot *found = find_shown(w, name);
	size_t n = found ? 1 : 0;

	for (size_t i = 0; !found && i < w->d->n_snapshots; i++)
		n += !w->d->snapshots[i].present && !strcmp(w->d->snapshots[i].name, name);
	for (size_t i = 0; !found && n == 1 && i < w->d->n_snapshots; i++)
		if (!w->d->snapshots[i].present && !strcmp(w->d->snapshots[i].name, name))
			found = &w->d->snapshots[i];
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

bool vm_work_made(const struct vm_work *w, const char *path, uint64_t ino)
{
	for (size_t i = 0; i < w->n_records; i++)
		if (vm_record_proves(w->records[i].xml, path))
			return true;
	return vm_own_has_made(w->own, path, ino);
}

bool vm_work_is_there(const char *path, uint64_t ino)
{
	struct stat st;

	return lstat(path, &st) == 0 && (!ino || st.st_ino == ino);
}

int vm_work_layer(const struct vm_work *w, const char *path)
{
	for (size_t i = 0; path && i < w->d->n_layers; i++) {
		if (!strcmp(w->d->layers[i].path, path))
			return (int)i;
		for (char **other = w->d->layers[i].paths; other && *other; other++)
			if (!strcmp(*other, path))
				return (int)i;
	}
	return -1;
}

int vm_work_top(const struct vm_work *w, const char *target)
{
	for (size_t i = 0; i < w->d->n_disks; i++)
		if (!strcmp(w->d->disks[i].target, target))
			return w->d->disks[i].top;
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
