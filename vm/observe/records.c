/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* The snapshots of one domain: their names, the current one, and the text of those records that are worth asking for. */
#include "vm/observe/observe-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/libvirt/virterr.h"
#include "vm/util/mem.h"

#define ASK_ALL_UP_TO 200 /* snapshots of the whole connection: then every record is asked for at every look */

void vm_observed_snapshot_free(struct vm_observed_snapshot *s)
{
	vm_xml_snapshot_free(s->record);
	free(s->problem);
	free(s);
}

/* ---------------------------------------------------------------- one domain: snapshots */

/* Those of the list before, which is in the order of the new one but for what has come and gone. */
struct before {
	struct vm_observed_snapshot **list;
	size_t n, next;
	struct vm_strmap by_name; /* once one was not where it was expected */
};

static struct vm_observed_snapshot *find_before(struct before *before, const char *name)
{
	if (before->next < before->n && !strcmp(before->list[before->next]->name, name))
		return before->list[before->next++];
	for (size_t i = 0; !before->by_name.n && i < before->n; i++)
		vm_strmap_put(&before->by_name, before->list[i]->name, (void *)(uintptr_t)(i + 1));
	before->next = (uintptr_t)vm_strmap_get(&before->by_name, name);
	return before->next ? before->list[before->next - 1] : NULL;
}

static struct vm_observed_snapshot *snapshot_of(struct before *before, const char *name)
{
	struct vm_observed_snapshot *s = find_before(before, name);
	size_t len = strlen(name) + 1;

	if (s)
		return s;
	s = xcalloc(1, sizeof(*s) + len);
	memcpy(s->name, name, len);
	return s;
}

/* libvirt does not give its text: what is known of it may be old. */
static void take_refusal(struct vm_observe *observe, struct vm_observed_snapshot *s)
{
	struct vs_err err = {0};

	vm_virterr_set(&err, "its record cannot be read");
	if (s->refused && s->problem && !strcmp(s->problem, err.msg))
		return; /* as before: no news */
	free(s->problem);
	s->problem = xstrdup(err.msg);
	s->refused = true;
	observe->observed->changed = true;
}

/* @beside: another snapshot of the domain, or NULL. */
static void take_record(struct vm_observe *observe, struct vm_observed_snapshot *s, const char *text, const struct vm_observed_snapshot *beside)
{
	struct vm_xml_snapshot *xml = NULL;
	struct vs_err err = {0};
	uint64_t hash = vm_strmap_hash(text);
	int r;

	if (s->hash == hash && (s->record || s->problem) && !s->refused)
		return;
	r = vm_xml_snapshot_parse(text, &xml, &err);
	vm_xml_snapshot_free(s->record);
	free(s->problem);
	s->hash = hash;
	s->refused = false;
	s->record = r < 0 ? NULL : xml;
	if (s->record && beside && beside->record)
		vm_xml_snapshot_share(s->record, beside->record);
	s->problem = r < 0 ? xstrdup(vs_err_text(&err, r)) : NULL;
	if (r == 0)
		vm_observed_remember(observe->d, xml->files, xml->n_files);
	observe->observed->changed = true;
}

/* Small connections: always. Large ones: what is new, what is close to a change, and the next ones in turn. */
static bool should_ask(struct vm_observe *observe, const struct vm_observed_snapshot *s, size_t place)
{
	struct vm_observed *observed = observe->observed;

	if (!s->record || s->problem || observe->closer || observed->n_snapshots <= ASK_ALL_UP_TO)
		return true;
	return place >= observed->turn && place < observed->turn + VM_OBSERVE_TURNS;
}

static bool is_first(const struct vm_observe *observe)
{
	const char *first = observe->observed->first;

	return first && !strcmp(first, observe->d->uuid);
}

/* At the first look, which everybody waits for, names are enough: with a hundred thousand records libvirt is busy for half a minute. Likewise when
 * somebody waits for a domain that has not come to its turn. */
static bool put_off(const struct vm_observe *observe, struct vm_observed_snapshot *s)
{
	struct vm_observed *observed = observe->observed;
	bool fresh = !s->record && !s->problem;

	s->unread = fresh && observed->n_asked >= observed->at_most && (!observed->hurry || atomic_load(observed->hurry)) &&
		    !is_first(observe);
	observed->n_asked += fresh && !s->unread;
	if (observed->asked && fresh && !s->unread)
		atomic_fetch_add(observed->asked, 1);
	return s->unread;
}

/* False: it vanished after it was listed. */
static bool ask_record(struct vm_observe *observe, virDomainSnapshotPtr snap, struct vm_observed_snapshot *s, size_t place,
		       const struct vm_observed_snapshot *beside)
{
	vs_autofree char *text = NULL;

	if (!should_ask(observe, s, place) || put_off(observe, s))
		return true;
	text = virDomainSnapshotGetXMLDesc(snap, 0);
	if (!text && vm_virterr_code() == -ENOENT)
		return false;
	if (text)
		take_record(observe, s, text, beside);
	else
		take_refusal(observe, s);
	return true;
}

static uint64_t names_of(virDomainSnapshotPtr *snaps, int n)
{
	uint64_t h = (uint64_t)n;

	for (int i = 0; i < n; i++)
		h = vm_ino(h, virDomainSnapshotGetName(snaps[i]));
	return h;
}

/* One that is freed has changed what libvirt says also where its name was listed still: it may have vanished right after
 * that, and a draft that was drawn before borrows from it. */
static void forget_others(struct vm_observe *observe, struct before *before)
{
	for (size_t i = 0; i < before->n; i++)
		if (before->list[i]->seen != observe->observed->look) {
			vm_observed_snapshot_free(before->list[i]);
			observe->observed->changed = true;
		}
	vm_strmap_clear(&before->by_name, NULL);
	free(before->list);
}

/* ---------------------------------------------------------------- those that libvirt does not list */

struct listed {
	struct vm_observe *observe;
	virDomainSnapshotPtr *snaps;
	int n;
	struct vm_strmap names; /* of them, once one is asked for */
};

static bool is_listed(void *opaque, const char *name)
{
	struct listed *listed = opaque;
	virDomainSnapshotPtr snap;

	for (int i = 0; !listed->names.n && i < listed->n; i++)
		if (!vm_strmap_get(&listed->names, virDomainSnapshotGetName(listed->snaps[i])))
			vm_strmap_put(&listed->names, virDomainSnapshotGetName(listed->snaps[i]), listed);
	if (vm_strmap_get(&listed->names, name))
		return true;
	snap = virDomainSnapshotLookupByName(listed->observe->dom, name, 0);
	if (!snap)
		return false;
	virDomainSnapshotFree(snap);
	listed->observe->observed->changed = true; /* it has come meanwhile: the next look has it */
	return true;
}

/* Which records of the domain does libvirt have files of, beyond those that it lists? */
static void look_for_lost(struct vm_observe *observe, virDomainSnapshotPtr *snaps, int n)
{
	struct vm_observed_domain *d = observe->d;
	vs_autofree char *dir = observe->observed->dirs.records && !strchr(d->name, '/') ? xasprintf("%s/%s", observe->observed->dirs.records, d->name) : NULL;
	struct listed listed = { .observe = observe, .snaps = snaps, .n = n };

	if (vm_untold_look(&d->untold, dir, d->names_hash, is_listed, &listed))
		observe->observed->changed = observe->closer = true;
	vm_strmap_clear(&listed.names, NULL);
}

/* What is known of it stays; it may be old. */
static void take_lost(struct vm_observe *observe, struct vm_observed_snapshot *s)
{
	struct vm_observed_domain *d = observe->d;

	if (s->seen == observe->observed->look)
		return;
	if (!s->lost) {
		free(s->problem);
		s->problem = xasprintf("its record lies in '%s/%s/%s.xml' and libvirt does not list it, as where it could not read or write it (start "
				       "libvirtd anew, or take the file away)", observe->observed->dirs.records, d->name, s->name);
		s->lost = s->refused = true;
		s->unread = false;
		observe->observed->changed = true;
	}
	s->seen = observe->observed->look;
	d->list[d->n_list++] = s;
}

/* @first: how many snapshots other domains had before this one, for the taking of turns. */
static void take_list(struct vm_observe *observe, virDomainSnapshotPtr *snaps, int n, size_t first)
{
	struct vm_observed_domain *d = observe->d;
	struct vm_observed_snapshot **list;
	struct before before = { .list = d->list, .n = d->n_list };
	uint64_t names = names_of(snaps, n);

	if (names != d->names_hash)
		observe->observed->changed = observe->closer = true;
	d->names_hash = names;
	d->n_list = 0;
	d->unread = false;
	look_for_lost(observe, snaps, n);
	d->list = list = xcalloc((size_t)n + d->untold.n + 1, sizeof(*list));
	for (int i = 0; i < n; i++) {
		struct vm_observed_snapshot *s = snapshot_of(&before, virDomainSnapshotGetName(snaps[i]));

		if (s->seen == observe->observed->look) /* listed twice */
			continue;
		if (!ask_record(observe, snaps[i], s, first + (size_t)i, d->n_list ? list[d->n_list - 1] : NULL)) {
			if (!s->seen) /* it was not in the list before, either */
				vm_observed_snapshot_free(s);
			observe->observed->changed = true;
			continue;
		}
		s->lost = false;
		s->seen = observe->observed->look;
		list[d->n_list++] = s;
		d->unread |= s->unread;
		observe->observed->n_unread += s->unread;
	}
	for (size_t i = 0; i < d->untold.n; i++)
		take_lost(observe, snapshot_of(&before, d->untold.names[i]));
	forget_others(observe, &before);
}

static int list_snapshots(virDomainPtr dom, virDomainSnapshotPtr **snaps)
{
	int n = virDomainListAllSnapshots(dom, snaps, VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL);

	if (n < 0 && vm_virterr_code() == -EINVAL)
		n = virDomainListAllSnapshots(dom, snaps, 0);
	if (n < 0 && vm_virterr_code() == -EOPNOTSUPP) {
		*snaps = NULL;
		return 0;
	}
	return n;
}

static void ask_current(struct vm_observe *observe, bool any)
{
	struct vm_observed_domain *d = observe->d;
	virDomainSnapshotPtr snap = any ? virDomainSnapshotCurrent(observe->dom, 0) : NULL;
	const char *name = snap ? virDomainSnapshotGetName(snap) : NULL;

	if (!d->current != !name || (name && strcmp(d->current, name))) {
		free(d->current);
		d->current = xstrdup_or_null(name);
		observe->observed->changed = observe->closer = true;
	}
	if (snap)
		virDomainSnapshotFree(snap);
}

void vm_observe_records(struct vm_observe *observe, size_t first)
{
	virDomainSnapshotPtr *snaps = NULL;
	int n = list_snapshots(observe->dom, &snaps);

	if (n < 0) {
		vm_observe_refused(observe);
		return;
	}
	ask_current(observe, n > 0);
	take_list(observe, snaps, n, first);
	for (int i = 0; i < n; i++)
		virDomainSnapshotFree(snaps[i]);
	free(snaps);
}
