/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/context.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "vm/libvirt/metadata.h"
#include "vm/libvirt/record.h"
#include "vm/libvirt/virterr.h"
#include "vm/meta/made.h"
#include "vm/meta/pull.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define LOOK_MS 30000
#define LIST_TRIES 20
#define LIST_PAUSE_US 50000

/* ---------------------------------------------------------------- words */

void vm_context_say(struct vm_context *cx, const char *fmt, ...)
{
	vs_autofree char *phrase = NULL;
	char *longer;
	va_list ap;

	va_start(ap, fmt);
	phrase = xvasprintf(fmt, ap);
	va_end(ap);
	longer = xasprintf("%s%s%s", cx->said ? cx->said : "", cx->said ? "; " : "", phrase);
	free(cx->said);
	cx->said = longer;
}

const char *vm_context_file(const struct vm_context *cx, const char *path)
{
	const char *slash = strrchr(path, '/');

	return cx->try_only || !slash || !slash[1] ? path : slash + 1;
}

const char *vm_context_plural(size_t n)
{
	return n == 1 ? "" : "s";
}

bool vm_context_among(const char *name, char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

int vm_context_cancelled(const struct vm_context *cx, struct vs_err *err)
{
	return atomic_load(&cx->watch.cancel) ? vs_err_set(err, -ECANCELED, "cancelled") : 0;
}

/* ---------------------------------------------------------------- looking */

static void drop_records(struct vm_context *cx)
{
	for (size_t i = 0; i < cx->n_records; i++) {
		free(cx->records[i].name);
		free(cx->records[i].text);
		vm_xml_snapshot_free(cx->records[i].xml);
	}
	free(cx->records);
	cx->records = NULL;
	cx->n_records = 0;
}

static void forget_look(struct vm_context *cx)
{
	drop_records(cx);
	vm_meta_free(vs_steal(cx->meta));
	vm_inventory_put(vs_steal(cx->inv));
	cx->d = NULL;
	if (cx->dom)
		virDomainFree(vs_steal(cx->dom));
}

void vm_context_fini(struct vm_context *cx)
{
	free(vs_steal(cx->removed));
	cx->n_removed = 0;
	if (cx->guarded && cx->options->unguard)
		cx->options->unguard(cx->options->opaque, cx->uuid, false);
	cx->guarded = false;
	forget_look(cx);
	vm_pulls_free(vs_steal(cx->pulls));
	free(cx->said);
	cx->said = NULL;
	free(vs_steal(cx->known));
}

static int poll_inventory(struct vm_context *cx, struct vs_err *err)
{
	int r = cx->adds ? vm_refresher_poll_about(cx->refresher, cx->uuid, LOOK_MS) : vm_refresher_poll_closely(cx->refresher, LOOK_MS);

	cx->d = NULL;
	if (r < 0)
		return vs_err_set(err, r, r == -EHOSTDOWN ? "libvirt is away, or has not answered for long" : "the domain cannot be looked at: %s",
				  strerror(-r));
	cx->inv = vm_refresher_inventory(cx->refresher);
	for (size_t i = 0; i < cx->inv->n_domains; i++)
		if (!strcmp(cx->inv->domains[i]->uuid, cx->uuid))
			cx->d = cx->inv->domains[i];
	return cx->d ? 0 : vs_err_set(err, -ENOENT, "the domain is gone");
}

static int read_record(struct vm_context *cx, virDomainSnapshotPtr snap, struct vs_err *err)
{
	struct vm_context_record *r = &cx->records[cx->n_records];

	r->text = virDomainSnapshotGetXMLDesc(snap, cx->survey ? 0 : VIR_DOMAIN_SNAPSHOT_XML_SECURE); /* which a read-only connection refuses */
	if (!r->text)
		return vm_virterr_set(err, "the record of a snapshot");
	cx->n_records++;
	r->name = xstrdup(virDomainSnapshotGetName(snap));
	return vm_xml_snapshot_parse(r->text, &r->xml, err);
}

/* Parents before children. -ENOENT: one vanished after it was listed. */
static int list_records(struct vm_context *cx, struct vs_err *err)
{
	virDomainSnapshotPtr *list = NULL;
	int n, r = 0;

	/* libvirt 9.0 stumbles over a snapshot that somebody is just taking and that has no name yet */
	for (int try = 1; (n = virDomainListAllSnapshots(cx->dom, &list, VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)) < 0; try++) {
		if (vm_virterr_code() != -EINVAL)
			return vm_virterr_set(err, "the snapshots of the domain");
		if (try == LIST_TRIES) {
			vm_virterr_set(err, "libvirt does not list the snapshots of the domain (as where it has lost one that others come after, when a record could "
				       "not be written; started anew libvirtd reads them again)");
			return err ? err->code = -EIO : -EIO;
		}
		usleep(LIST_PAUSE_US);
	}
	cx->records = xcalloc((size_t)n, sizeof(*cx->records));
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = read_record(cx, list[i], err);
		virDomainSnapshotFree(list[i]);
	}
	free(list);
	return r;
}

static int look_records(struct vm_context *cx, struct vs_err *err)
{
	int r;

	for (int try = 1; (r = list_records(cx, err)) == -ENOENT && try < LIST_TRIES; try++)
		drop_records(cx);
	return r;
}

static int refuse_meta(const struct vm_context *cx, struct vs_err *err)
{
	vs_autofree char *why = xstrdup(err ? err->msg : "");

	if (cx->dom)
		return vs_err_set(err, -EPERM, "%s. They are kept as they are, and no command runs until they can be read: mend or remove them with "
				  "'virsh metadata %s %s'", why, cx->d->name, VM_META_URI);
	return vs_err_set(err, -EPERM, "%s. They are kept as they are, and no command runs until they can be read: mend or remove the attribute %s of "
			  "'%s'", why, VM_META_XATTR, cx->uuid);
}

static int read_meta(struct vm_context *cx, char **text, struct vs_err *err)
{
	char buf[VM_META_MAX];
	ssize_t len;

	if (cx->dom)
		return vm_metadata_get(cx->dom, VM_META_URI, text, err);
	len = getxattr(cx->uuid, VM_META_XATTR, buf, sizeof(buf));
	if (len < 0 && errno == ERANGE) {
		vs_err_set(err, -EPERM, "our facts in the attribute are larger than %d bytes", VM_META_MAX);
		return refuse_meta(cx, err);
	}
	if (len < 0)
		return errno == ENODATA ? -ENOENT : vs_err_set(err, -errno, "the attribute %s of '%s': %s", VM_META_XATTR,
							       cx->uuid,
							       strerror(errno));
	*text = xstrndup(buf, (size_t)len);
	return 0;
}

/* Of what was read or written. Two that say the same are the same. Gives; NULL: nothing. */
static char *canonical(const struct vm_meta *meta)
{
	char *text = NULL;

	return meta && vm_meta_text(meta, &text, NULL) == 0 ? text : NULL;
}

/* What the domain itself says of ours. Gives *found; NULL: nothing. */
static int find_own(struct vm_context *cx, struct vm_meta **found, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = read_meta(cx, &text, err);

	*found = NULL;
	if (r < 0 && r != -ENOENT)
		return r;
	if (err)
		*err = (struct vs_err){0};
	r = text ? vm_meta_parse(text, strlen(text), found, err) : 0;
	if (*found && cx->dom)
		vm_meta_adopt(*found, cx->uuid);
	return r < 0 ? refuse_meta(cx, err) : 0; /* to overlook a hold is to delete what it held */
}

static int refuse_copy(int r, struct vs_err *err)
{
	vs_autofree char *why = xstrdup(err ? err->msg : "");

	r = r == -EINVAL || r == -E2BIG ? -EPERM : r; /* there is nothing wrong with the command */
	return vs_err_set(err, r, "our copy of the domain's metadata cannot be read: %s. It is kept as it is, and no command runs until it can be "
			  "read, for it may know of a hold that the domain does not: mend it or remove it", why);
}

static int look_meta(struct vm_context *cx, struct vs_err *err)
{
	struct vm_meta *found;
	struct vs_err why = {0};
	int r = find_own(cx, &found, &why);

	if (r == 0 && (r = vm_store_legible(cx->store, cx->uuid, &why)) < 0)
		r = refuse_copy(r, &why);
	if (r < 0) {
		vm_meta_free(found);
		return vs_err_set(err, r, "%s", why.msg);
	}
	cx->meta = vm_store_best(cx->store, cx->uuid, found);
	cx->behind = cx->meta && (!found || found->serial < cx->meta->serial);
	free(cx->known);
	cx->known = canonical(found);
	vm_meta_free(found);
	if (!cx->meta)
		cx->meta = vm_meta_new();
	if (cx->dom)
		vm_meta_adopt(cx->meta, cx->uuid);
	return 0;
}

static int write_own(struct vm_context *cx, const char *text, struct vs_err *err)
{
	if (cx->dom)
		return vm_metadata_set(cx->dom, VM_META_KEY, VM_META_URI, text, err);
	if (setxattr(cx->uuid, VM_META_XATTR, text, strlen(text), 0) < 0)
		return vs_err_set(err, -errno, "the attribute %s of '%s': %s", VM_META_XATTR, cx->uuid, strerror(errno));
	vm_fault();
	return 0;
}

/* Once a command. */
static void tell_left_out(struct vm_context *cx)
{
	const char *what = cx->told ? NULL : vm_meta_left_out(cx->meta);

	if (what)
		vm_log_warn(cx->log, "there is too little room in the domain's metadata (%d bytes) for %s: what is done to its images behind our back may not be "
		       "noticed", VM_META_MAX, what);
	cx->told = true;
}

static int put_meta(struct vm_context *cx, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	struct vm_meta *written = NULL;
	int r = vm_meta_text(cx->meta, &text, err);

	if (r == 0)
		r = write_own(cx, text, err);
	if (r == 0)
		tell_left_out(cx);
	if (r == 0 && vm_meta_parse(text, strlen(text), &written, NULL) == 0) { /* as it will be found */
		free(cx->known);
		cx->known = canonical(written);
		vm_meta_free(written);
	}
	return r;
}

int vm_context_poll(struct vm_context *cx, struct vs_err *err)
{
	int r;

	forget_look(cx);
	vm_pulls_free(vs_steal(cx->pulls));
	cx->process = (struct vm_paused_guest){0};
	r = vm_pulls_read(&cx->journal, &cx->pulls, err);
	if (r == 0 && cx->pulls->n)
		vm_paused_guest_process(cx->uuid, &cx->process);
	if (r == 0)
		r = poll_inventory(cx, err);
	if (r == 0 && cx->conn) {
		cx->dom = virDomainLookupByUUIDString(cx->conn, cx->uuid);
		if (!cx->dom)
			return vm_virterr_set(err, "the domain");
		cx->running = virDomainIsActive(cx->dom) == 1;
		if (virConnectGetVersion(cx->conn, &cx->qemu) < 0)
			cx->qemu = 0;
		r = look_records(cx, err);
	}
	if (r == 0)
		r = look_meta(cx, err);
	if (r == 0 && cx->behind && !cx->try_only) {
		bool none = !cx->known;

		r = put_meta(cx, err);
		if (r == 0 && none)
			vm_log(cx->log, "it had no notes of ours: those that were known of the %s were put there", cx->dom ? "domain" : "image at this path");
		else if (r == 0)
			vm_log(cx->log, "its metadata had an older state of our notes: the newest was put back");
		cx->behind = r < 0;
	}
	return r;
}

int vm_context_glance(const struct vm_context *cx, struct vm_context *now, struct vs_err *err)
{
	*now = (struct vm_context){ .refresher = cx->refresher, .uuid = cx->uuid, .conn = cx->conn, .dom = cx->dom,
				    .meta = cx->meta, .records = cx->records, .n_records = cx->n_records,
				    .removed = cx->removed, .n_removed = cx->n_removed, .pulls = cx->pulls };
	return poll_inventory(now, err);
}

void vm_context_glance_done(struct vm_context *now)
{
	vm_inventory_put(now->inv);
}

/* ---------------------------------------------------------------- storing
 *
 * All mounts of a connection that can share a lock do (util/lock.h); those of another host or container cannot, and what they have stored
 * since we looked must not be lost. So what the domain has is read once more before anything is stored: is it what we found or wrote there
 * last, or something older, which a revert has brought back?
 *
 * What has happened is stored in any case, the copy first, and theirs goes into it. What is only asked for is refused then; and where the
 * domain did not take it, what was before is stored with a higher serial, so that a call that libvirt did not answer, and makes after all,
 * does not put in force later what was reported as a failure.
 */

/* 1: somebody has stored something there since, *theirs is given. */
static int find_theirs(struct vm_context *cx, struct vm_meta **theirs, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = find_own(cx, theirs, err);

	if (r < 0 || !*theirs)
		return r;
	text = canonical(*theirs);
	if ((*theirs)->serial >= cx->meta->serial && !(text && cx->known && !strcmp(text, cx->known)))
		return 1;
	vm_meta_free(vs_steal(*theirs));
	return 0;
}

/* No hold of theirs is lost, nor what they took, nor what they found wrong, nor a mark or a note where we have none. The policy is theirs: we have only read it since. */
static void adopt(struct vm_meta *meta, const struct vm_meta *theirs)
{
	for (size_t i = 0; i < theirs->n_snapshots; i++) {
		const struct vm_meta_snapshot *s = &theirs->snapshots[i];
		const struct vm_meta_id id = { s->name, s->created_ns, s->kind };
		const struct vm_meta_snapshot *said = vm_meta_find(meta, &id);
		bool marked = said && said->mark;

		if (s->held)
			vm_meta_set_held(meta, &id, true);
		if (s->ours)
			vm_meta_set_ours(meta, &id, true);
		if (s->mark && !marked)
			vm_meta_set_mark(meta, &id, s->mark);
		vm_meta_take_frozen(meta, theirs, &id);
	}
	for (size_t i = 0; i < theirs->n_made; i++)
		vm_meta_add_made(meta, &theirs->made[i]);
	if (theirs->policy)
		vm_meta_set_policy(meta, theirs->policy);
	if (meta->serial < theirs->serial)
		meta->serial = theirs->serial;
}

#define ON_MAX 32 /* files; the lowest of each disk, which stay longest */

/* By what the domain is known again when a revert has taken our metadata away. */
static void note_files(struct vm_context *cx)
{
	char *on = NULL;
	size_t n = 0;

	if (!cx->conn || !cx->d || !cx->meta->policy)
		return;
	for (size_t i = 0; i < cx->d->n_disks; i++) {
		int l = cx->d->disks[i].top;

		for (int height = 0; l >= 0 && cx->d->layers[l].below >= 0 && height < VM_CHAIN_MAX; height++)
			l = cx->d->layers[l].below;
		for (int one = -1; l >= 0 && n < ON_MAX; n++) {
			vs_autofree char *id = vm_made_identity(cx->d->layers[l].path), *shorter = on;

			if (id)
				on = xasprintf("%s%s%s", shorter ? shorter : "", shorter ? " " : "", id);
			else
				vs_steal(shorter);
			if (l == cx->d->disks[i].top || vm_context_above(cx, l, &one) == 0)
				break;
			l = one;
		}
	}
	if (on)
		vm_meta_set_on(cx->meta, on);
}

int vm_context_save(struct vm_context *cx, struct vs_err *err)
{
	struct vm_meta *theirs = NULL;
	int r;

	note_files(cx);
	vm_meta_bump(cx->meta);
	r = vm_store_remember(cx->store, cx->uuid, cx->meta, err);
	if (r < 0)
		return r;
	vm_fault();
	cx->meta->serial--; /* to be compared as it was */
	r = find_theirs(cx, &theirs, err);
	cx->meta->serial++;
	if (r < 0)
		return r;
	if (r > 0) {
		vm_log(cx->log, "another virt-snapfs, which does not share our lock, has changed the domain's metadata meanwhile: what it has stored there was kept");
		adopt(cx->meta, theirs);
		vm_meta_free(theirs);
		vm_meta_bump(cx->meta);
		r = vm_store_remember(cx->store, cx->uuid, cx->meta, err);
	}
	return r < 0 ? r : put_meta(cx, err);
}

/* What was in force stays so, whatever libvirt makes of the call. */
static void take_back(struct vm_context *cx, struct vm_meta *before, struct vs_err *err)
{
	struct vs_err why = {0};

	before->serial = cx->meta->serial;
	vm_meta_bump(before);
	vm_meta_free(cx->meta);
	cx->meta = before;
	if (vm_store_remember(cx->store, cx->uuid, before, &why) < 0)
		vs_err_prefix(err, "it may come into force all the same, for it could not be taken back (%s)", why.msg);
}

int vm_context_ask(struct vm_context *cx, struct vs_err *err)
{
	struct vm_meta *before = vm_store_best(cx->store, cx->uuid, NULL), *theirs = NULL;
	struct vs_err local = {0};
	int r;

	err = err ? err : &local;
	if (!before)
		before = vm_meta_new();
	if (!before)
		xoom();
	r = find_theirs(cx, &theirs, err);
	vm_meta_free(theirs);
	if (r > 0)
		r = vs_err_set(err, -EBUSY, "another virt-snapfs, which does not share our lock, has changed the domain's metadata meanwhile: try again");
	note_files(cx);
	vm_meta_bump(cx->meta);
	if (r == 0)
		r = vm_store_remember(cx->store, cx->uuid, cx->meta, err);
	if (r == 0) {
		vm_fault();
		r = put_meta(cx, err);
		if (r < 0)
			take_back(cx, vs_steal(before), err);
	}
	vm_meta_free(before);
	return r;
}

void vm_context_unguard(struct vm_context *cx)
{
	if (!cx->guarded && cx->options->unguard)
		cx->options->unguard(cx->options->opaque, cx->uuid, true);
	cx->guarded = true;
}

/* ---------------------------------------------------------------- finding */

/* Tables show spaces as %20. */
static bool is_in_table_as(const struct vm_snapshot *s, const char *name)
{
	vs_autofree char *shown = strchr(s->shown, ' ') ? vm_name_for_table(s->shown) : NULL;

	return shown && !strcmp(shown, name);
}

const char *vm_context_key(const struct vm_context *cx, const struct vm_snapshot *s)
{
	return s->recorded && cx->conn ? s->name : s->shown;
}

/* None of that name is known. Is none there? */
static int not_found(const struct vm_context *cx, const char *name, struct vs_err *err)
{
	if (cx->d->untold)
		return vs_err_set(err, -ETIMEDOUT, "it is not known whether there is a snapshot '%s': %s", name, cx->d->untold);
	return vs_err_set(err, -ENOENT, "there is no snapshot '%s'", name);
}

int vm_context_find_key(const struct vm_context *cx, const char *key, const struct vm_snapshot **out, struct vs_err *err)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		if (!s->present && !strcmp(vm_context_key(cx, s), key)) {
			*out = s;
			return 0;
		}
	}
	return not_found(cx, key, err);
}

/* By its name as files show it, which nobody shares; else as tables print that, or as it is, if only one is meant. */
int vm_context_find(const struct vm_context *cx, const char *name, const struct vm_snapshot **out, struct vs_err *err)
{
	const struct vm_snapshot *found = NULL;
	size_t n = 0;

	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		if (s->present)
			continue;
		if (!strcmp(s->shown, name)) {
			*out = s;
			return 0;
		}
		if (!strcmp(s->name, name) || is_in_table_as(s, name)) {
			found = s;
			n++;
		}
	}
	if (n > 1)
		return vs_err_set(err, -EINVAL, "%zu snapshots are called '%s', here or in tables: say which, as the list of files shows it", n,
				  name);
	if (!found)
		return not_found(cx, name, err);
	*out = found;
	return 0;
}

const struct vm_context_record *vm_context_record(const struct vm_context *cx, const char *raw_name)
{
	for (size_t i = 0; i < cx->n_records; i++)
		if (!strcmp(cx->records[i].name, raw_name))
			return &cx->records[i];
	return NULL;
}

struct vm_meta_id vm_context_id(const struct vm_context *cx, const struct vm_snapshot *s)
{
	const struct vm_context_record *record = vm_context_record(cx, s->name);
	const struct q2_snapshot *entry = s->n_disks ? s->disks[0].snapshot : NULL;
	struct vm_meta_id id = { s->name, s->created_ns, s->kind };

	if (record && record->xml && s->recorded)
		id.created_ns = record->xml->created_s * INT64_C(1000000000);
	else if (entry)
		id.created_ns = entry->date_sec * INT64_C(1000000000) + entry->date_nsec;
	return id;
}

static const struct vm_disk *seen_disk(const struct vm_context *cx, const char *name, const char *target)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		if (s->present || !s->recorded || strcmp(s->name, name) != 0)
			continue;
		for (size_t k = 0; k < s->n_disks; k++)
			if (!strcmp(s->disks[k].target, target) && s->disks[k].chain && s->disks[k].chain[0])
				return &s->disks[k];
	}
	return NULL;
}

const char *vm_context_image(const struct vm_context *cx, const struct vm_context_record *record, const char *target,
			     enum q2_format *format)
{
	for (size_t i = 0; i < record->xml->n_disks; i++) {
		const struct vm_xml_snapdisk *said = &record->xml->disks[i];
		const struct vm_disk *seen;

		if (strcmp(said->target, target) != 0 || said->mode != VM_MODE_EXTERNAL)
			continue;
		seen = seen_disk(cx, record->name, target);
		if (format)
			*format = seen ? seen->format : said->frozen ? said->frozen->source.format : Q2_FORMAT_NONE;
		return seen ? seen->chain[0] : said->frozen ? said->frozen->source.path : NULL;
	}
	return NULL;
}

#define MADE_SLACK_NS (VM_NS_PER_S / 10) /* files are born by a clock that ticks */

/*
 * A record calls the file its overlay. That alone does not say that the snapshot made it: --reuse-external and --redefine name any file.
 * What a snapshot makes is not older than it, and stands on something. Where the file system does not tell when a file was born the second
 * must do; what a pull has made stand on nothing is noted before (pull.c).
 */
static bool is_making_of(const struct vm_context *cx, const struct vm_xml_snapshot *record, const char *path)
{
	int layer = vm_context_layer(cx, path);
	const struct vm_layer *l = layer < 0 ? NULL : &cx->d->layers[layer];
	struct statx st;

	if (!l || (l->below < 0 && !l->ends) || statx(AT_FDCWD, path, 0, STATX_BTIME, &st) < 0)
		return false;
	return !(st.stx_mask & STATX_BTIME) ||
	       st.stx_btime.tv_sec * VM_NS_PER_S + st.stx_btime.tv_nsec >= record->created_s * VM_NS_PER_S - MADE_SLACK_NS;
}

bool vm_context_made(const struct vm_context *cx, const struct vm_meta_made *file)
{
	for (size_t i = 0; i < cx->n_records; i++)
		if (vm_record_proves(cx->records[i].xml, file->path) && is_making_of(cx, cx->records[i].xml, file->path))
			return true;
	return vm_meta_has_made(cx->meta, file);
}

bool vm_context_is_there(const struct vm_meta_made *file)
{
	struct vm_made now;

	return vm_made_look(file->path, &now) && vm_meta_is_made(file, now.ino, now.btime_ns);
}

void vm_context_add_made(struct vm_context *cx, const char *path, const struct q2_stamp *stamp)
{
	vm_meta_add_made(cx->meta, &(struct vm_meta_made){ path, stamp->ino, stamp->btime_ns });
}

/* Of a path at which nothing need be yet: the name is the same, and so is the directory behind both. */
static bool is_same_place(const char *path, const char *other)
{
	const char *name = strrchr(path, '/'), *another = strrchr(other, '/');
	vs_autofree char *dir = NULL, *its = NULL;
	struct stat a, b;

	if (!strcmp(path, other))
		return true;
	if (!name || !another || strcmp(name, another) != 0)
		return false;
	dir = xstrndup(path, (size_t)(name - path) + 1);
	its = xstrndup(other, (size_t)(another - other) + 1);
	return stat(dir, &a) == 0 && stat(its, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static bool layer_is_at(const struct vm_layer *l, const char *path)
{
	if (is_same_place(path, l->path))
		return true;
	for (char **other = l->paths; other && *other; other++)
		if (is_same_place(path, *other))
			return true;
	return false;
}

bool vm_context_names(void *opaque, const char *path)
{
	const struct vm_context *cx = opaque;

	for (size_t i = 0; i < cx->inv->n_domains; i++) {
		const struct vm_domain *d = cx->inv->domains[i];

		for (size_t k = 0; k < d->n_layers; k++)
			if (layer_is_at(&d->layers[k], path))
				return true;
		for (char **nv = d->nv_paths; nv && *nv; nv++)
			if (is_same_place(path, *nv))
				return true;
	}
	return false;
}

int vm_context_layer(const struct vm_context *cx, const char *path)
{
	for (size_t i = 0; path && i < cx->d->n_layers; i++) {
		if (!strcmp(cx->d->layers[i].path, path))
			return (int)i;
		for (char **other = cx->d->layers[i].paths; other && *other; other++)
			if (!strcmp(*other, path))
				return (int)i;
	}
	return -1;
}

const struct vm_snapshot *vm_context_lost(const struct vm_context *cx)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++)
		if (cx->d->snapshots[i].lost)
			return &cx->d->snapshots[i];
	return NULL;
}

int vm_context_top(const struct vm_context *cx, const char *target)
{
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if (!strcmp(cx->d->disks[i].target, target))
			return cx->d->disks[i].top;
	return -1;
}

uint64_t vm_context_allocated(const struct vm_context *cx, int layer)
{
	const struct vm_layer *l = &cx->d->layers[layer];
	struct stat st;

	return stat(l->path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_blocks * 512 : l->allocated;
}

size_t vm_context_above(const struct vm_context *cx, int layer, int *one)
{
	size_t n = 0;

	for (size_t i = 0; i < cx->d->n_layers; i++) {
		if (cx->d->layers[i].below != layer || layer < 0)
			continue;
		n++;
		*one = (int)i;
	}
	return n;
}

const char *vm_context_internal_in(const struct vm_context *cx, int layer)
{
	for (size_t i = 0; i < cx->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &cx->d->snapshots[i];

		if (s->kind != VM_INTERNAL || s->present)
			continue;
		for (size_t k = 0; k < s->n_disks; k++)
			if (s->disks[k].snapshot && s->disks[k].chain && s->disks[k].chain[0] &&
			    vm_context_layer(cx, s->disks[k].chain[0]) == layer)
				return s->shown;
	}
	return cx->d->layers[layer].internal;
}
