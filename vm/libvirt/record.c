/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/libvirt/dom.h"
#include "vm/util/fault.h"

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

static bool deleting(virDomainSnapshotPtr snap)
{
	vs_autofree char *text = virDomainSnapshotGetXMLDesc(snap, 0);
	vm_dom_autorecord struct vm_xml_snapshot *record = NULL;

	if (!text || vm_xml_snapshot_parse(text, &record, NULL) < 0)
		return false;
	for (size_t i = 0; i < record->n_disks; i++)
		if (record->disks[i].delete_in_progress)
			return true;
	return false;
}

static int add_name(char **list, const char *name)
{
	char *longer;

	if (asprintf(&longer, "%s%s%s", *list ? *list : "", *list ? ", " : "", name) < 0)
		return -ENOMEM;
	free(*list);
	*list = longer;
	return 0;
}

int vm_record_unfinished_delete(virDomainPtr dom, char **where, struct vs_err *err)
{
	vs_autofree char *found = NULL;
	virDomainSnapshotPtr *list;
	int n = virDomainListAllSnapshots(dom, &list, 0), r = 0;

	if (n < 0)
		return vm_dom_virterr(dom, err, "the snapshots of the domain");
	for (int i = 0; i < n; i++) {
		if (r == 0 && deleting(list[i]))
			r = add_name(&found, virDomainSnapshotGetName(list[i]));
		virDomainSnapshotFree(list[i]);
	}
	free(list);
	if (r < 0)
		return vm_dom_oom(err);
	if (!found)
		return 0;
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
	return record->memory_file && !strcmp(record->memory_file, path);
}

static int nobody_has_it(const char *path, struct vs_err *err)
{
	struct q2_locks locks = {0};
	struct q2_file *f;
	int r = q2_file_open(path, &f, err);

	if (r < 0)
		return r;
	r = q2_file_locks(f, &locks);
	q2_file_close(f);
	if (r < 0)
		return vs_err_set(err, r, "the image locks of '%s': %s", path, strerror(-r));
	if (locks.writer || locks.no_read || locks.frozen)
		return vs_err_set(err, -EBUSY, "'%s' is open in QEMU or for reading, so it is not removed", path);
	return 0;
}

int vm_record_unlink(const struct vm_xml_snapshot *record, const char *path, struct vs_err *err)
{
	struct stat st;
	int r;

	if (!vm_record_proves(record, path))
		return vs_err_set(err, -EPERM, "'%s' was not created by snapshot '%s', so it is not removed", path, record->name);
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : vs_err_set(err, -errno, "'%s': %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return vs_err_set(err, -EPERM, "'%s' is not a regular file, so it is not removed", path);
	r = nobody_has_it(path, err);
	if (r == 0 && unlink(path) < 0 && errno != ENOENT)
		r = vs_err_set(err, -errno, "'%s': %s", path, strerror(errno));
	vm_fault();
	return r;
}
