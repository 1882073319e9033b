/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/command/context.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "vm/libvirt/act-priv.h"
#include "vm/libvirt/virterr.h"
#include "vm/model/names.h"
#include "vm/util/mem.h"

#define LOOK_MS 30000
#define LIST_TRIES 20
#define COST_TABLE_BYTES (16u << 20)
#define COST_WORK 100000000 /* some 2 s */
#define WHOLE_WORK 250000000 /* five seconds for each layer, or the tables of 24 TiB; mostly it is a moment */
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
	free(vs_steal(w->removed));
	w->n_removed = 0;
	if (w->guarded && w->options->unguard)
		w->options->unguard(w->options->opaque, w->uuid, false);
	w->guarded = false;
	forget_look(w);
	free(w->said);
	w->said = NULL;
	free(vs_steal(w->known));
}

static int look_picture(struct vm_work *w, struct vs_err *err)
{
	int r = vm_refresh_closely(w->vm, LOOK_MS);

	w->d = NULL;
	if (r < 0)
		return vs_err_set(err, r, r == -EHOSTDOWN ? "libvirt is away, or has not answered for long" : "the domain cannot be looked at: %s", strerror(-r));
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
		return vm_act_metadata_get(w->dom, VM_OWN_URI, text, err);
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

/* Of what was read or written. Two that say the same are the same. Gives; NULL: nothing. */
static char *canonical(const struct vm_own *own)
{
	char *text = NULL;

	return own && vm_own_text(own, &text, NULL) == 0 ? text : NULL;
}

/* What the domain itself says of ours. Gives *found; NULL: nothing. */
static int find_own(struct vm_work *w, struct vm_own **found, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = read_own(w, &text, err);

	*found = NULL;
	if (r < 0 && r != -ENOENT)
		return r;
	if (err)
		*err = (struct vs_err){0};
	r = text ? vm_own_parse(text, strlen(text), found, err) : 0;
	return r < 0 ? refuse_own(w, err) : 0; /* to overlook a hold is to delete what it held */
}

static int refuse_copy(int r, struct vs_err *err)
{
	vs_autofree char *why = xstrdup(err ? err->msg : "");

	r = r == -EINVAL || r == -E2BIG ? -EPERM : r; /* there is nothing wrong with the command */
	return vs_err_set(err, r, "our copy of the domain's metadata cannot be read: %s. It is kept as it is, and no command runs until it can be "
			  "read, for it may know of a hold that the domain does not: mend it or remove it", why);
}

static int look_own(struct vm_work *w, struct vs_err *err)
{
	struct vm_own *found;
	struct vs_err why = {0};
	int r = find_own(w, &found, &why);

	if (r == 0 && (r = vm_store_legible(w->store, w->uuid, &why)) < 0)
		r = refuse_copy(r, &why);
	if (r < 0) {
		vm_own_free(found);
		return vs_err_set(err, r, "%s", why.msg);
	}
	w->own = vm_store_best(w->store, w->uuid, found);
	w->behind = w->own && (!found || found->serial < w->own->serial);
	free(w->known);
	w->known = canonical(found);
	vm_own_free(found);
	if (!w->own)
		w->own = vm_own_new();
	return w->own ? 0 : vs_err_set(err, -ENOMEM, "out of memory");
}

static int write_own(struct vm_work *w, const char *text, struct vs_err *err)
{
	if (w->dom)
		return vm_act_metadata_set(w->dom, VM_OWN_KEY, VM_OWN_URI, text, err);
	if (setxattr(w->uuid, VM_OWN_XATTR, text, strlen(text), 0) < 0)
		return vs_err_set(err, -errno, "the attribute %s of '%s': %s", VM_OWN_XATTR, w->uuid, strerror(errno));
	vm_fault();
	return 0;
}

static int put_own(struct vm_work *w, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	struct vm_own *written = NULL;
	int r = vm_own_text(w->own, &text, err);

	if (r == 0)
		r = write_own(w, text, err);
	if (r == 0 && vm_own_parse(text, strlen(text), &written, NULL) == 0) { /* as it will be found */
		free(w->known);
		w->known = canonical(written);
		vm_own_free(written);
	}
	return r;
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

int vm_work_glance(const struct vm_work *w, struct vm_work *now, struct vs_err *err)
{
	*now = (struct vm_work){ .vm = w->vm, .uuid = w->uuid, .conn = w->conn, .dom = w->dom, .own = w->own, .records = w->records,
				 .n_records = w->n_records, .removed = w->removed, .n_removed = w->n_removed };
	return look_picture(now, err);
}

void vm_work_glance_done(struct vm_work *now)
{
	vm_picture_put(now->pic);
}

/* ---------------------------------------------------------------- storing
 *
 * All mounts of a connection that can share a lock do (engine/lock.h); those of another host or container cannot, and what they have stored
 * since we looked must not be lost. So what the domain has is read once more before anything is stored: is it what we found or wrote there
 * last, or something older, which a revert has brought back?
 *
 * What has happened is stored in any case, the copy first, and theirs goes into it. What is only asked for is refused then; and where the
 * domain did not take it, what was before is stored with a higher serial, so that a call that libvirt did not answer, and makes after all,
 * does not put in force later what was reported as a failure.
 */

/* 1: somebody has stored something there since, *theirs is given. */
static int find_theirs(struct vm_work *w, struct vm_own **theirs, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = find_own(w, theirs, err);

	if (r < 0 || !*theirs)
		return r;
	text = canonical(*theirs);
	if ((*theirs)->serial >= w->own->serial && !(text && w->known && !strcmp(text, w->known)))
		return 1;
	vm_own_free(vs_steal(*theirs));
	return 0;
}

/* No hold of theirs is lost, nor what they took, nor a mark where we have none. The policy is theirs: we have only read it since. */
static void adopt(struct vm_own *own, const struct vm_own *theirs)
{
	for (size_t i = 0; i < theirs->n_snapshots; i++) {
		const struct vm_own_snapshot *s = &theirs->snapshots[i];
		const struct vm_own_id id = { s->name, s->created_ns, s->kind };
		const struct vm_own_snapshot *said = vm_own_find(own, &id);
		bool marked = said && said->mark;

		if ((s->held && vm_own_set_held(own, &id, true) < 0) || (s->ours && vm_own_set_ours(own, &id, true) < 0) ||
		    (s->mark && !marked && vm_own_set_mark(own, &id, s->mark) < 0))
			xoom();
	}
	for (size_t i = 0; i < theirs->n_made; i++)
		vm_own_add_made(own, theirs->made[i].path, theirs->made[i].ino);
	if (theirs->policy && vm_own_set_policy(own, theirs->policy) < 0)
		xoom();
	if (own->serial < theirs->serial)
		own->serial = theirs->serial;
}

int vm_work_save(struct vm_work *w, struct vs_err *err)
{
	struct vm_own *theirs = NULL;
	int r;

	vm_own_bump(w->own);
	r = vm_store_remember(w->store, w->uuid, w->own, err);
	if (r < 0)
		return r;
	vm_fault();
	w->own->serial--; /* to be compared as it was */
	r = find_theirs(w, &theirs, err);
	w->own->serial++;
	if (r < 0)
		return r;
	if (r > 0) {
		vm_log(w->log, "another virt-snapfs, which does not share our lock, has changed the domain's metadata meanwhile: what it has stored there was kept");
		adopt(w->own, theirs);
		vm_own_free(theirs);
		vm_own_bump(w->own);
		r = vm_store_remember(w->store, w->uuid, w->own, err);
	}
	return r < 0 ? r : put_own(w, err);
}

/* What was in force stays so, whatever libvirt makes of the call. */
static void take_back(struct vm_work *w, struct vm_own *before, struct vs_err *err)
{
	struct vs_err why = {0};

	before->serial = w->own->serial;
	vm_own_bump(before);
	vm_own_free(w->own);
	w->own = before;
	if (vm_store_remember(w->store, w->uuid, before, &why) < 0)
		vs_err_prefix(err, "it may come into force all the same, for it could not be taken back (%s)", why.msg);
}

int vm_work_ask(struct vm_work *w, struct vs_err *err)
{
	struct vm_own *before = vm_store_best(w->store, w->uuid, NULL), *theirs = NULL;
	struct vs_err local = {0};
	int r;

	err = err ? err : &local;
	if (!before)
		before = vm_own_new();
	if (!before)
		xoom();
	r = find_theirs(w, &theirs, err);
	vm_own_free(theirs);
	if (r > 0)
		r = vs_err_set(err, -EBUSY, "another virt-snapfs, which does not share our lock, has changed the domain's metadata meanwhile: try again");
	vm_own_bump(w->own);
	if (r == 0)
		r = vm_store_remember(w->store, w->uuid, w->own, err);
	if (r == 0) {
		vm_fault();
		r = put_own(w, err);
		if (r < 0)
			take_back(w, vs_steal(before), err);
	}
	vm_own_free(before);
	return r;
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

static bool lies_there(const char *dir, const char *name, char **path)
{
	*path = xasprintf("%s/%s", dir, name);
	if (access(*path, F_OK) == 0)
		return true;
	free(vs_steal(*path));
	return false;
}

/* A file of the missing one's name beside another layer of the domain: gives its path; NULL: there is none. */
static char *find_moved(const struct vm_work *w, const char *missing)
{
	const char *slash = strrchr(missing, '/'), *name = slash ? slash + 1 : missing;

	for (size_t i = 0; i < w->d->n_layers; i++) {
		vs_autofree char *dir = xstrdup(w->d->layers[i].path);
		char *end = strrchr(dir, '/'), *path;

		if (w->d->layers[i].error || !end)
			continue;
		*end = '\0';
		if (lies_there(dir, name, &path))
			return path;
	}
	return NULL;
}

/* Why a chain ends too early, and what can be done about it. */
static int broken(const struct vm_work *w, const char *target, int layer, struct vs_err *err)
{
	const struct vm_layer *l = &w->d->layers[layer];
	vs_autofree char *moved = l->error == -ENOENT ? find_moved(w, l->path) : NULL;

	if (l->error == -ENOENT && l->active && w->running)
		return vs_err_set(err, -EPERM, "disk %s: its active layer '%s' was removed while the domain runs, and what the guest wrote is in QEMU "
				  "alone: save it before the domain stops, with 'virsh blockcopy %s %s NEWFILE --wait --pivot --transient-job'",
				  target, l->path, w->d->name, target);
	if (moved)
		return vs_err_set(err, -EPERM, "disk %s: its layer '%s' is missing, and a file of that name lies at '%s': put it back, or tell the "
				  "image that stands on it where it is (qemu-img rebase -u)", target, l->path, moved);
	if (l->error == -ENOENT)
		return vs_err_set(err, -EPERM, "disk %s: its layer '%s' is missing: bring it back first", target, l->path);
	return vs_err_set(err, l->error == -EACCES ? -EACCES : -EPERM, "disk %s: its layer '%s' %s", target, l->path,
			  l->note ? l->note : strerror(-l->error));
}

static bool is_cancelled(void *opaque)
{
	return vm_work_cancelled(opaque, NULL) < 0;
}

/* Was it cut off, so that QEMU would open it and take what is gone for never written? */
static int check_cut(const struct vm_work *w, const char *target, int layer, struct vs_err *err)
{
	const struct vm_layer *l = &w->d->layers[layer];
	struct q2_work work = { .limit = WHOLE_WORK, .stop = is_cancelled, .opaque = (void *)w };
	struct q2_file *f;
	int r;

	if (l->format != Q2_FORMAT_QCOW2)
		return 0;
	r = q2_file_open(l->path, &f, err);
	if (r == 0) {
		r = q2_file_whole(f, &work, err);
		q2_file_close(f);
	}
	if (r == -EUCLEAN || r == -EFBIG) {
		r = -EPERM;
		if (err)
			err->code = r;
	}
	if (r < 0)
		vs_err_prefix(err, "disk %s", target);
	return r;
}

int vm_work_uncut(const struct vm_work *w, const char *target, int layer, struct vs_err *err)
{
	int r = 0;

	for (int l = layer, n = 0; r == 0 && l >= 0 && n < VM_CHAIN_MAX; l = w->d->layers[l].below, n++)
		r = w->d->layers[l].error ? broken(w, target, l, err) : check_cut(w, target, l, err);
	return r;
}

int vm_work_top(const struct vm_work *w, const char *target)
{
	for (size_t i = 0; i < w->d->n_disks; i++)
		if (!strcmp(w->d->disks[i].target, target))
			return w->d->disks[i].top;
	return -1;
}

int vm_work_whole(const struct vm_work *w, const char *target, struct vs_err *err)
{
	for (int l = vm_work_top(w, target), n = 0; l >= 0 && n < VM_CHAIN_MAX; l = w->d->layers[l].below, n++)
		if (w->d->layers[l].error)
			return broken(w, target, l, err);
	return 0;
}

/* ---------------------------------------------------------------- a paused start */

/* What tells our instance from any other that carries its word: see libvirt/act.h. */
static int note_guest(void *opaque, const struct vm_act_guest *guest, struct vs_err *err)
{
	vs_autofree char *text = xasprintf("%s %" PRId64 " %" PRIu64, guest->token, guest->pid, guest->began);

	return vm_work_note(opaque, "start", text, err);
}

int vm_work_guest(struct vm_work *w, struct vs_err *err)
{
	int r;

	if (w->running)
		return 0;
	r = vm_work_startable(w, err);
	if (r < 0)
		return r;
	r = vm_act_start_paused(w->dom, note_guest, w, &w->guest, err);
	if (r < 0) {
		/* a libvirt that did not answer may start it still */
		if (r != -EHOSTDOWN && r != -ETIMEDOUT && vm_act_active(w->dom, NULL) == 0)
			vm_work_note_done(w, "start");
		return r;
	}
	w->guest_up = w->running = true;
	return 0;
}

static bool take_noted(struct vm_work *w, const char *text, void *opaque)
{
	struct vm_act_guest *guest = opaque;

	(void)w;
	return sscanf(text, "%32[0-9a-f] %" SCNd64 " %" SCNu64, guest->token, &guest->pid, &guest->began) == 3;
}

int vm_work_find_guest(struct vm_work *w, struct vm_act_guest *out)
{
	struct vm_act_guest noted = {0};
	struct vs_err err = {0};
	int r;

	vm_work_note_each(w, "start", take_noted, &noted); /* the last one counts */
	r = vm_act_find_paused(w->dom, &noted, out, &err);
	if (r < 0 && noted.token[0])
		vm_log(w->log, "an interrupted command had started the domain, paused, to work on its disks, and it may be up still: %s. It is left "
		       "as it is; 'virsh destroy' ends it", vs_err_text(&err, r));
	if (r == 0 && noted.token[0] && vm_act_active(w->dom, NULL) == 1)
		vm_work_note_drop(w, "start");
	return r == 1;
}

int vm_work_guest_end(struct vm_work *w, struct vs_err *err)
{
	int r;

	if (!w->guest_up)
		return 0;
	r = vm_act_end_paused(w->conn, &w->guest, &w->watch, err);
	if (r < 0 && r != -ECANCELED)
		vs_err_prefix(err, "the domain, which was started, paused, to work on its disks, may be up still ('virsh destroy' ends it)");
	if (r > 0)
		vm_log(w->log, "the domain, which had been started, paused, to work on its disks, was resumed or replaced by somebody: it is left to them");
	if (r >= 0) {
		w->guest_up = w->running = false;
		vm_work_note_done(w, "start");
	}
	return r < 0 ? r : 0;
}

/* ---------------------------------------------------------------- pivots */

int vm_work_note_pivot(struct vm_work *w, const char *target, struct vs_err *err)
{
	struct vm_act_guest qemu = {0};
	vs_autofree char *text = NULL;

	if (!vm_act_process(w->uuid, &qemu))
		return 0; /* then it will not be provable */
	text = xasprintf("%" PRId64 " %" PRIu64 " %s", qemu.pid, qemu.began, target);
	return vm_work_note(w, "pivot", text, err);
}

struct pivot {
	const struct vm_act_guest *qemu;
	const char *target;
};

static bool is_that_pivot(struct vm_work *w, const char *text, void *opaque)
{
	const struct pivot *p = opaque;
	uint64_t began;
	int64_t pid;
	int at = 0;

	(void)w;
	return sscanf(text, "%" SCNd64 " %" SCNu64 " %n", &pid, &began, &at) == 2 && pid == p->qemu->pid && began == p->qemu->began &&
	       !strcmp(text + at, p->target);
}

static bool is_on(const struct vm_work *w, const struct vm_own_doomed *disk)
{
	for (size_t i = 0; i < w->d->n_disks; i++)
		if (!strcmp(w->d->disks[i].target, disk->target) && w->d->disks[i].top >= 0)
			return w->d->layers[w->d->disks[i].top].stamp.ino == disk->path_ino && disk->path_ino;
	return false;
}

int vm_work_prove_pivots(struct vm_work *w, struct vs_err *err)
{
	struct vm_act_guest qemu = {0};
	bool news = false;

	if (!w->running || !vm_act_process(w->uuid, &qemu))
		return 0;
	for (size_t i = 0; i < w->own->n_snapshots; i++) {
		struct vm_own_mark *mark = w->own->snapshots[i].mark;

		for (size_t k = 0; mark && k < mark->n_disks; k++) {
			struct pivot p = { &qemu, mark->disks[k].target };

			if (!mark->disks[k].pivoting || mark->disks[k].done || !is_on(w, &mark->disks[k]) ||
			    vm_work_note_each(w, "pivot", is_that_pivot, &p) == 0)
				continue;
			mark->disks[k].done = news = true;
			mark->disks[k].pivoting = false;
		}
	}
	if (!news)
		return 0;
	vm_work_note_drop(w, "pivot");
	return vm_work_save(w, err);
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

static const struct vm_disk *seen_disk(const struct vm_work *w, const char *name, const char *target)
{
	for (size_t i = 0; i < w->d->n_snapshots; i++) {
		const struct vm_snapshot *s = &w->d->snapshots[i];

		if (s->present || !s->recorded || strcmp(s->name, name) != 0)
			continue;
		for (size_t k = 0; k < s->n_disks; k++)
			if (!strcmp(s->disks[k].target, target) && s->disks[k].chain && s->disks[k].chain[0])
				return &s->disks[k];
	}
	return NULL;
}

const char *vm_work_image(const struct vm_work *w, const struct vm_work_record *record, const char *target, enum q2_format *format)
{
	for (size_t i = 0; i < record->xml->n_disks; i++) {
		const struct vm_xml_snapdisk *said = &record->xml->disks[i];
		const struct vm_disk *seen;

		if (strcmp(said->target, target) != 0 || said->mode != VM_MODE_EXTERNAL)
			continue;
		seen = seen_disk(w, record->name, target);
		if (format)
			*format = seen ? seen->format : said->frozen ? said->frozen->source.format : Q2_FORMAT_NONE;
		return seen ? seen->chain[0] : said->frozen ? said->frozen->source.path : NULL;
	}
	return NULL;
}

bool vm_work_made(const struct vm_work *w, const char *path, uint64_t ino)
{
	for (size_t i = 0; i < w->n_records; i++)
		if (vm_act_proves(w->records[i].xml, path))
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

uint64_t vm_work_allocated(const struct vm_work *w, int layer)
{
	const struct vm_layer *l = &w->d->layers[layer];
	struct stat st;

	return stat(l->path, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_blocks * 512 : l->allocated;
}

/* Of what a view of @top shows, what comes from above @base: everything, and what is stored of it. @depth: layers above base. */
static bool count_view(struct q2_view *view, unsigned depth, struct q2_work *work, uint64_t *bytes, uint64_t *stored)
{
	uint64_t off = 0, size = q2_view_size(view);
	struct q2_extent e;

	for (*bytes = *stored = 0; off < size; off = e.guest_off + e.len) {
		if (work->spent >= work->limit) { /* an image that was made to cost: no more than all of it */
			*bytes += size - off;
			return true;
		}
		if (q2_view_extent(view, off, size - off, work, &e, NULL) < 0 || e.len == 0)
			return false;
		if (e.depth < depth)
			*bytes += e.len;
		if (e.depth < depth && e.kind != Q2_ZERO)
			*stored += e.len;
	}
	return true;
}

/* Any disk of the domain: all have the domain's gate. */
static const struct vm_disk *any_disk(const struct vm_work *w)
{
	for (size_t i = 0; i < w->d->n_snapshots; i++)
		for (size_t k = 0; k < w->d->snapshots[i].n_disks; k++)
			if (w->d->snapshots[i].disks[k].gate && w->d->snapshots[i].kind == VM_EXTERNAL)
				return &w->d->snapshots[i].disks[k];
	return NULL;
}

/* False: it cannot be told, because the top is being written. */
static bool count_exactly(const struct vm_work *w, int base, int top, uint64_t *bytes, uint64_t *stored)
{
	const struct vm_layer *l = &w->d->layers[top];
	const struct vm_disk *any = any_disk(w);
	struct q2_view_spec spec = { .path = l->path, .format = l->format, .gate = any ? any->gate : NULL };
	struct q2_work work = { .limit = COST_WORK, .stop = is_cancelled, .opaque = (void *)w };
	struct q2_cache *cache;
	struct q2_view *view;
	unsigned depth = 0;
	bool counted;

	for (int at = top; at != base && at >= 0; at = w->d->layers[at].below)
		depth++;
	if ((l->active && w->running) || !any)
		return false;
	cache = q2_cache_new(COST_TABLE_BYTES, 0);
	if (!cache)
		return false;
	counted = q2_view_open(cache, &spec, &view, NULL) >= 0;
	if (counted) {
		counted = count_view(view, depth, &work, bytes, stored);
		q2_view_close(view);
	}
	q2_cache_free(cache);
	return counted;
}

uint64_t vm_work_cost(const struct vm_work *w, int base, int top)
{
	uint64_t bytes = 0, stored = 0, allocated = 0;

	for (int at = top; at != base && at >= 0; at = w->d->layers[at].below)
		allocated += vm_work_allocated(w, at);
	if (!count_exactly(w, base, top, &bytes, &stored))
		return allocated;
	return bytes + (allocated > stored ? allocated - stored : 0); /* and tables, as many as they have themselves */
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
