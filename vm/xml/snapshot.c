/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/xml/xml-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/util/strmap.h"

/* `snapshot=` of a disk or of <memory>; @absent where there is none, or a word that we do not know. */
static enum vm_xml_mode parse_mode(const xmlNode *node, enum vm_xml_mode absent)
{
	static const struct { const char *name; enum vm_xml_mode mode; } known[] = {
		{"no", VM_MODE_NO}, {"internal", VM_MODE_INTERNAL}, {"external", VM_MODE_EXTERNAL}, {"manual", VM_MODE_MANUAL},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(known); i++)
		if (vm_xml_attr_is(node, "snapshot", known[i].name))
			return known[i].mode;
	return absent;
}

static void parse_disk(struct vm_xml_named *named, const xmlNode *node, struct vm_xml_snapdisk *disk)
{
	/* libvirt always writes the mode. Without it the least we could assume wrongly: an internal one proves itself by
	 * its entry, an external one by naming its overlay. */
	disk->mode = parse_mode(node, vm_xml_child(node, "source") ? VM_MODE_EXTERNAL : VM_MODE_INTERNAL);
	disk->delete_in_progress = vm_xml_child(node, "snapshotDeleteInProgress") != NULL;
	if (disk->mode == VM_MODE_EXTERNAL || disk->mode == VM_MODE_MANUAL)
		vm_xml_source_parse(named, node, &disk->overlay);
}

/* @domain: to turn names that are paths into targets; NULL leaves them. */
static unsigned parse_disks(struct vm_xml_named *named, const xmlNode *list, const struct vm_xml_domain *domain,
			    struct vm_xml_snapdisk **out)
{
	unsigned n = (unsigned)vm_xml_count(list, "disk"); /* of a text of VM_XML_MAX bytes */
	struct vm_xml_snapdisk *disks = n ? xcalloc(n, sizeof(*disks)) : NULL;

	*out = disks;
	n = 0;
	for (const xmlNode *node = vm_xml_child(list, "disk"); node; node = vm_xml_next(node, "disk")) {
		vs_autofree char *name = vm_xml_attr(node, "name");

		if (!name)
			continue;
		disks[n].frozen = vm_xml_domain_disk(domain, name);
		disks[n].target = xstrdup(disks[n].frozen ? disks[n].frozen->target : name);
		parse_disk(named, node, &disks[n++]);
	}
	return n;
}

/* A record without <disks> is from before libvirt 0.9.5, which only had internal snapshots of everything. */
static void assume_internal(struct vm_xml_snapshot *snap)
{
	const struct vm_xml_domain *domain = snap->domain;

	snap->disks = xcalloc(domain->n_disks, sizeof(*snap->disks));
	for (size_t i = 0; i < domain->n_disks; i++) {
		struct vm_xml_snapdisk *disk = &snap->disks[snap->n_disks];

		if (!vm_xml_disk_exposed(&domain->disks[i]))
			continue;
		disk->mode = VM_MODE_INTERNAL;
		disk->frozen = &domain->disks[i];
		disk->target = xstrdup(disk->frozen->target);
		snap->n_disks++;
	}
}

/* External wins, because it decides what may be done with the files; the note says so. */
static void decide_kind(struct vm_xml_snapshot *snap)
{
	bool internal = snap->memory == VM_MODE_INTERNAL, external = snap->memory == VM_MODE_EXTERNAL;

	for (size_t i = 0; i < snap->n_disks; i++) {
		internal |= snap->disks[i].mode == VM_MODE_INTERNAL;
		external |= snap->disks[i].mode == VM_MODE_EXTERNAL || snap->disks[i].mode == VM_MODE_MANUAL;
	}
	snap->kind = external || (!internal && !strcmp(snap->state, "disk-snapshot")) ? VM_EXTERNAL : VM_INTERNAL;
	if (internal && external)
		snap->note = xstrdup("mixes internal and external parts");
}

static int64_t parse_time(const char *text)
{
	char *end;
	long long value;

	if (!text)
		return 0;
	errno = 0;
	value = strtoll(text, &end, 10);
	return errno || end == text ? 0 : value;
}

static void parse_plain(const xmlNode *root, struct vm_xml_snapshot *snap)
{
	const xmlNode *memory = vm_xml_child(root, "memory");
	vs_autofree char *created = vm_xml_text(vm_xml_child(root, "creationTime"));

	snap->name = vm_xml_text(vm_xml_child(root, "name"));
	snap->parent = vm_xml_text(vm_xml_child(vm_xml_child(root, "parent"), "name"));
	snap->state = vm_xml_text(vm_xml_child(root, "state"));
	if (!snap->state)
		snap->state = xstrdup("");
	snap->created_s = parse_time(created);
	snap->memory = parse_mode(memory, VM_MODE_NO);
	if (snap->memory == VM_MODE_EXTERNAL)
		snap->memory_file = vm_xml_attr(memory, "file");
}

static void parse_definitions(struct vm_xml_named *named, const xmlNode *root, struct vm_xml_snapshot *snap)
{
	const xmlNode *domain = vm_xml_child(root, "domain"), *inactive = vm_xml_child(root, "inactiveDomain");

	if (domain)
		snap->domain = vm_xml_domain_element(named, domain);
	if (inactive) /* for its files */
		vm_xml_domain_free(vm_xml_domain_element(named, inactive));
	if (!inactive && !domain)
		return;
	if (snap->domain)
		vm_xml_mentions(domain, true, snap->domain);
	if (snap->domain && inactive)
		vm_xml_mentions(inactive, true, snap->domain);
	snap->definition = vm_xml_definition(inactive ? inactive : domain);
	snap->definition_len = strlen(snap->definition);
}

static void parse_snapshot(struct vm_xml_named *named, const xmlNode *root, struct vm_xml_snapshot *snap)
{
	const xmlNode *disks = vm_xml_child(root, "disks");

	parse_plain(root, snap);
	parse_definitions(named, root, snap);
	if (disks)
		snap->n_disks = parse_disks(named, disks, snap->domain, &snap->disks);
	else if (snap->domain && snap->memory != VM_MODE_EXTERNAL)
		assume_internal(snap);
	snap->n_revert_disks = parse_disks(named, vm_xml_child(root, "revertDisks"), NULL, &snap->revert_disks);
	decide_kind(snap);
	snap->files = xreallocarray(named->files, named->n_files, sizeof(*snap->files)); /* no more than that: there may be very many records */
	snap->n_files = (unsigned)named->n_files;
}

/* The text of <domain>, where it alone says what the domain was. */
static uint64_t hash_of_domain(const char *text)
{
	const char *from = strstr(text, "<domain "), *to = from ? strstr(from, "</domain>") : NULL;

	return to && !strstr(text, "<inactiveDomain") ? vm_fnv1a(VM_FNV1A, from, (size_t)(to - from)) : 0;
}

static void move_string(char **to, char **s)
{
	size_t len = *s ? strlen(*s) + 1 : 0;
	char *moved = *to;

	if (!len)
		return;
	memcpy(moved, *s, len);
	free(*s);
	*s = moved;
	*to += len;
}

/* The same with its own strings behind it, in one block: there may be very many. */
static struct vm_xml_snapshot *pack(struct vm_xml_snapshot *snap)
{
	const char *const strings[] = { snap->name, snap->parent, snap->state, snap->memory_file, snap->note };
	size_t len = 0;
	char *to;

	for (size_t i = 0; i < VS_ARRAY_LEN(strings); i++)
		len += strings[i] ? strlen(strings[i]) + 1 : 0;
	snap = xreallocarray(snap, 1, sizeof(*snap) + len);
	to = (char *)(snap + 1);
	move_string(&to, &snap->name);
	move_string(&to, &snap->parent);
	move_string(&to, &snap->state);
	move_string(&to, &snap->memory_file);
	move_string(&to, &snap->note);
	return snap;
}

int vm_xml_snapshot_parse(const char *text, struct vm_xml_snapshot **out, struct vs_err *err)
{
	struct vm_xml_named named = {0};
	struct vm_xml_snapshot *snap;
	xmlDoc *doc;
	int ret = vm_xml_load(text, "domainsnapshot", &doc, err);

	if (ret < 0)
		return ret;
	snap = xcalloc(1, sizeof(*snap));
	atomic_init(&snap->refs, 1);
	parse_snapshot(&named, xmlDocGetRootElement(doc), snap);
	snap = pack(snap);
	snap->domain_hash = hash_of_domain(text);
	xmlFreeDoc(doc);
	if (!snap->name) {
		vm_xml_snapshot_free(snap);
		return vs_err_set(err, -EINVAL, "the XML of a snapshot gives no name");
	}
	*out = snap;
	return 0;
}

static void disks_free(struct vm_xml_snapdisk *disks, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(disks[i].target);
		vm_xml_source_fini(&disks[i].overlay);
	}
	free(disks);
}

struct vm_xml_snapshot *vm_xml_snapshot_ref(struct vm_xml_snapshot *snap)
{
	atomic_fetch_add_explicit(&snap->refs, 1, memory_order_relaxed);
	return snap;
}

void vm_xml_snapshot_free(struct vm_xml_snapshot *snap)
{
	if (!snap || atomic_fetch_sub_explicit(&snap->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (!snap->shares_disks)
		disks_free(snap->disks, snap->n_disks);
	disks_free(snap->revert_disks, snap->n_revert_disks);
	if (!snap->shares_domain)
		vm_xml_domain_free(snap->domain);
	if (!snap->shares_definition)
		free(snap->definition);
	if (!snap->shares_files)
		vm_xml_files_free(snap->files, snap->n_files);
	vm_xml_snapshot_free(snap->lender);
	free(snap);
}

/* ---------------------------------------------------------------- one definition for many */

static void share_domain(struct vm_xml_snapshot *snap, const struct vm_xml_snapshot *with)
{
	struct vm_xml_domain *own = snap->domain;

	for (size_t i = 0; i < snap->n_disks; i++)
		if (snap->disks[i].frozen)
			snap->disks[i].frozen = &with->domain->disks[snap->disks[i].frozen - own->disks];
	snap->domain = with->domain;
	snap->shares_domain = true;
	vm_xml_domain_free(own);
}

/* Of internal snapshots it is, mostly. */
static bool same_disks(const struct vm_xml_snapshot *a, const struct vm_xml_snapshot *b)
{
	if (a->n_disks != b->n_disks)
		return false;
	for (size_t i = 0; i < a->n_disks; i++) {
		const struct vm_xml_snapdisk *x = &a->disks[i], *y = &b->disks[i];

		if (strcmp(x->target, y->target) || x->mode != y->mode || x->frozen != y->frozen || x->delete_in_progress != y->delete_in_progress ||
		    x->overlay.type != VM_SOURCE_NONE || y->overlay.type != VM_SOURCE_NONE)
			return false;
	}
	return true;
}

static bool same_files(const struct vm_xml_snapshot *a, const struct vm_xml_snapshot *b)
{
	if (a->n_files != b->n_files)
		return false;
	for (size_t i = 0; i < a->n_files; i++)
		if (strcmp(a->files[i].path, b->files[i].path) || a->files[i].format != b->files[i].format)
			return false;
	return true;
}

static void share_disks(struct vm_xml_snapshot *snap, const struct vm_xml_snapshot *with)
{
	disks_free(snap->disks, snap->n_disks);
	snap->disks = with->disks;
	snap->shares_disks = true;
}

static void share_files(struct vm_xml_snapshot *snap, const struct vm_xml_snapshot *with)
{
	vm_xml_files_free(snap->files, snap->n_files);
	snap->files = with->files;
	snap->shares_files = true;
}

static bool same_definition(const struct vm_xml_snapshot *a, const struct vm_xml_snapshot *b)
{
	return a->definition && b->definition && a->definition_len == b->definition_len && !memcmp(a->definition, b->definition, a->definition_len);
}

bool vm_xml_snapshot_share(struct vm_xml_snapshot *snap, struct vm_xml_snapshot *with)
{
	with = vm_xml_snapshot_keeper(with);
	if (snap == with || snap->lender || !same_definition(snap, with))
		return false;
	snap->lender = vm_xml_snapshot_ref(with);
	free(snap->definition);
	snap->definition = with->definition;
	snap->shares_definition = true;
	if (snap->domain && with->domain && snap->domain_hash && snap->domain_hash == with->domain_hash && snap->domain->n_disks == with->domain->n_disks)
		share_domain(snap, with);
	if (same_disks(snap, with))
		share_disks(snap, with);
	if (same_files(snap, with))
		share_files(snap, with);
	return true;
}

struct vm_xml_snapshot *vm_xml_snapshot_keeper(struct vm_xml_snapshot *snap)
{
	return snap->lender ? snap->lender : snap;
}
