/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/record.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/libvirt/conn.h"
#include "vm/libvirt/dom.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"
#include "vm/util/sync.h"

#define LATE_S 2 /* by which the clock of a file system may be behind */

/* ---------------------------------------------------------------- records */

int vm_record_redefine(virDomainPtr dom, const char *xml, enum vm_record_current current, struct vs_err *err)
{
	unsigned flags = VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE;
	vm_dom_autorecord struct vm_xml_snapshot *record = NULL;
	vm_dom_autosnapshot virDomainSnapshotPtr old = NULL, made = NULL;
	int r = vm_xml_snapshot_parse(xml, &record, err);

	if (r < 0)
		return r;
	old = virDomainSnapshotLookupByName(dom, record->name, 0);
	if (current == VM_RECORD_MAKE_CURRENT || (old && virDomainSnapshotIsCurrent(old, 0) == 1))
		flags |= VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT;
	made = virDomainSnapshotCreateXML(dom, xml, flags);
	vm_fault();
	return made ? 0 : vm_dom_virterr(dom, err, "the record of snapshot '%s'", record->name);
}

/* 0 where it is not there or may not be opened: whoever cannot know that cannot help it. */
static int sync_dir(const char *path, struct vs_err *err)
{
	int r = path ? vm_sync(path) : 0;

	return r == 0 || r == -ENOENT || r == -EACCES ? 0 : vs_err_set(err, r, "'%s' cannot be written to the disk: %s", path, strerror(-r));
}

int vm_record_sync(virDomainPtr dom, struct vs_err *err)
{
	vm_conn_autodirs struct vm_conn_dirs dirs;
	vs_autofree char *records = NULL;
	int r;

	vm_conn_dirs(virDomainGetConnect(dom), &dirs);
	records = dirs.records ? xasprintf("%s/%s", dirs.records, virDomainGetName(dom)) : NULL;
	r = sync_dir(records, err);
	return r < 0 ? r : sync_dir(dirs.definitions, err);
}

int vm_record_forget(virDomainPtr dom, const char *name, struct vs_err *err)
{
	vm_dom_autosnapshot virDomainSnapshotPtr snap = NULL;
	int r = vm_dom_snapshot(dom, name, &snap, err), n;

	if (r < 0)
		return r;
	n = virDomainSnapshotNumChildren(snap, 0);
	if (n < 0)
		return vm_dom_virterr(dom, err, "snapshot '%s'", name);
	if (n > 0)
		return vs_err_set(err, -EBUSY, "%d snapshots have '%s' as their parent: they get another one first", n, name);
	if (virDomainSnapshotDelete(snap, VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY) < 0)
		return vm_dom_virterr(dom, err, "the record of snapshot '%s'", name);
	vm_fault();
	return 0;
}

/* 1, 0. A record that went away meanwhile says nothing; one that cannot be read is no answer. */
static int deleting(virDomainPtr dom, virDomainSnapshotPtr snap, struct vs_err *err)
{
	vs_autofree char *text = virDomainSnapshotGetXMLDesc(snap, 0);
	vm_dom_autorecord struct vm_xml_snapshot *record = NULL;
	int r;

	if (!text) {
		r = vm_dom_virterr(dom, err, "the record of a snapshot"); /* asking for its name would lose the reason */
		return r == -ENOENT ? 0 : r;
	}
	r = vm_xml_snapshot_parse(text, &record, err);
	for (size_t i = 0; r == 0 && i < record->n_disks; i++)
		if (record->disks[i].delete_in_progress)
			return 1;
	return r;
}

static void add_name(char **list, const char *name)
{
	vs_autofree char *before = *list;

	*list = before ? xasprintf("%s, %s", before, name) : xstrdup(name);
}

int vm_record_unfinished_delete(virDomainPtr dom, char **where, struct vs_err *err)
{
	vs_autofree char *found = NULL;
	virDomainSnapshotPtr *list;
	int n = virDomainListAllSnapshots(dom, &list, 0), r = 0, one;

	if (n < 0)
		return vm_dom_virterr(dom, err, "the snapshots of the domain");
	for (int i = 0; i < n; i++) {
		one = r == 0 ? deleting(dom, list[i], err) : 0;
		if (one < 0)
			r = one;
		else if (one > 0)
			add_name(&found, virDomainSnapshotGetName(list[i]));
		virDomainSnapshotFree(list[i]);
	}
	free(list);
	if (r < 0 || !found)
		return r;
	*where = vs_steal(found);
	return 1;
}

/* ---------------------------------------------------------------- files */

bool vm_record_proves(const struct vm_xml_snapshot *record, const char *path)
{
	for (size_t i = 0; i < record->n_disks; i++)
		if (record->disks[i].mode == VM_MODE_EXTERNAL && record->disks[i].overlay.path &&
		    !strcmp(record->disks[i].overlay.path, path))
			return true;
	for (size_t i = 0; i < record->n_revert_disks; i++)
		if (record->revert_disks[i].overlay.path && !strcmp(record->revert_disks[i].overlay.path, path))
			return true;
	return false;
}

static int whose_memory(virDomainPtr dom, const char *path, struct vm_xml_domain **domain, struct vs_err *err)
{
	vs_autofree char *text = virDomainSaveImageGetXMLDesc(virDomainGetConnect(dom), path, 0);
	char uuid[VIR_UUID_STRING_BUFLEN];

	if (!text) {
		vm_dom_virterr(dom, err, "'%s' cannot be told to be memory that libvirt saved", path);
		return vs_err_set(err, -EPERM, "%s", err ? strdupa(err->msg) : "");
	}
	if (vm_xml_domain_parse(text, domain, err) < 0 || virDomainGetUUIDString(dom, uuid) < 0)
		return vs_err_set(err, -EPERM, "'%s': it cannot be told whose memory that is", path);
	if (strcmp((*domain)->uuid, uuid) != 0)
		return vs_err_set(err, -EPERM, "'%s' is the memory of domain '%s'", path, (*domain)->name);
	return 0;
}

int vm_record_saved(virDomainPtr dom, const char *path, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *domain = NULL;

	return whose_memory(dom, path, &domain, err);
}

/* libvirt saves the memory first and makes the overlays then. One that was there before was prepared, and tells nothing. */
static bool is_born_before(const char *overlay, int64_t from_s, const char *file)
{
	struct statx st;
	struct stat memory;

	return statx(AT_FDCWD, overlay, 0, STATX_BTIME, &st) == 0 && st.stx_mask & STATX_BTIME && st.stx_btime.tv_sec >= from_s &&
	       stat(file, &memory) == 0 && memory.st_mtim.tv_sec > st.stx_btime.tv_sec + LATE_S;
}

int vm_record_memory(virDomainPtr dom, const struct vm_xml_snapshot *record, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *domain = NULL;
	int r = record->memory_file ? whose_memory(dom, record->memory_file, &domain, err) : 0;

	for (size_t i = 0; domain && r == 0 && i < record->n_disks; i++) {
		const struct vm_xml_disk *disk = vm_xml_domain_disk(domain, record->disks[i].target);
		const char *overlay = record->disks[i].overlay.path;

		if (record->disks[i].mode != VM_MODE_EXTERNAL || !overlay)
			continue;
		if (disk && disk->source.path && vm_dom_same_file(disk->source.path, overlay))
			return vs_err_set(err, -EPERM, "'%s' is the memory of a guest that ran on '%s', so it was saved after snapshot '%s'",
					  record->memory_file, overlay, record->name);
		if (is_born_before(overlay, record->created_s, record->memory_file))
			return vs_err_set(err, -EPERM, "'%s' was written after snapshot '%s' was taken", record->memory_file, record->name);
	}
	return r;
}
