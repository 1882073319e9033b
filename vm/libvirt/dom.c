/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/dom.h"

#include <errno.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/libvirt/conn.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"

bool vm_dom_cancelled(const struct vm_dom_watch *watch)
{
	return watch && atomic_load(&watch->cancel);
}

void vm_dom_step(struct vm_dom_watch *watch, const char *fmt, ...)
{
	char step[VS_ERR_MAX];
	va_list ap;

	if (!watch || !watch->step)
		return;
	va_start(ap, fmt);
	vsnprintf(step, sizeof(step), fmt, ap);
	va_end(ap);
	watch->step(watch->opaque, step);
}

/* ---------------------------------------------------------------- the domain */

bool vm_dom_lost(virDomainPtr dom)
{
	return virConnectIsAlive(virDomainGetConnect(dom)) != 1;
}

/* IsAlive knows only what the socket or a keepalive has told already; the error may know more. */
int vm_dom_virterr(virDomainPtr dom, struct vs_err *err, const char *fmt, ...)
{
	virErrorPtr e = virGetLastError();
	bool broken = e && (e->code == VIR_ERR_INVALID_CONN || e->domain == VIR_FROM_RPC);
	struct vs_err said = {0};
	char what[VS_ERR_MAX];
	va_list ap;
	int r;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	r = vm_virterr_set(&said, "%s", what);
	if (broken || vm_dom_lost(dom))
		return vs_err_set(err, -EHOSTDOWN, "%s: libvirt went away", what);
	return vs_err_set(err, r, "%s", said.msg);
}

int vm_dom_active(virDomainPtr dom, struct vs_err *err)
{
	int active = virDomainIsActive(dom);

	if (active < 0)
		return vm_dom_virterr(dom, err, "the state of the domain");
	return active;
}

int vm_dom_text(virDomainPtr dom, unsigned flags, char **text, struct vs_err *err)
{
	char *xml = virDomainGetXMLDesc(dom, flags);

	if (!xml)
		return vm_dom_virterr(dom, err, "the definition of the domain");
	*text = xml;
	return 0;
}

int vm_dom_define(virDomainPtr dom, const char *text, struct vs_err *err)
{
	virDomainPtr defined = virDomainDefineXML(virDomainGetConnect(dom), text);

	if (!defined)
		return vm_dom_virterr(dom, err, "the definition of the domain");
	virDomainFree(defined);
	vm_fault();
	return 0;
}

int vm_dom_xml(virDomainPtr dom, unsigned flags, struct vm_xml_domain **out, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = vm_dom_text(dom, flags, &text, err);

	return r < 0 ? r : vm_xml_domain_parse(text, out, err);
}

int vm_dom_elsewhere(virDomainPtr dom, virDomainPtr *out, struct vs_err *err)
{
	vs_autofree char *uri = virConnectGetURI(virDomainGetConnect(dom));
	virConnectPtr conn = uri ? vm_conn_plain(uri, false) : NULL;
	char uuid[VIR_UUID_STRING_BUFLEN];
	virDomainPtr other = NULL;
	int r = 0;

	if (conn && virDomainGetUUIDString(dom, uuid) == 0)
		other = virDomainLookupByUUIDString(conn, uuid);
	if (other)
		*out = other;
	else
		r = vm_dom_virterr(dom, err, "a second connection to libvirt");
	if (conn)
		virConnectClose(conn); /* a domain holds its connection */
	return r;
}

/* ---------------------------------------------------------------- its snapshots */

int vm_dom_snapshot(virDomainPtr dom, const char *name, virDomainSnapshotPtr *out, struct vs_err *err)
{
	virDomainSnapshotPtr snap = virDomainSnapshotLookupByName(dom, name, 0);

	if (!snap)
		return vm_dom_virterr(dom, err, "snapshot '%s'", name);
	*out = snap;
	return 0;
}

int vm_dom_record(virDomainPtr dom, const char *name, char **xml, struct vs_err *err)
{
	vm_dom_autosnapshot virDomainSnapshotPtr snap = NULL;
	int r = vm_dom_snapshot(dom, name, &snap, err);
	char *text;

	if (r < 0)
		return r;
	text = virDomainSnapshotGetXMLDesc(snap, VIR_DOMAIN_SNAPSHOT_XML_SECURE);
	if (!text)
		return vm_dom_virterr(dom, err, "the record of snapshot '%s'", name);
	*xml = text;
	return 0;
}

int vm_dom_snapshot_xml(virDomainPtr dom, const char *name, struct vm_xml_snapshot **out, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	int r = vm_dom_record(dom, name, &text, err);

	return r < 0 ? r : vm_xml_snapshot_parse(text, out, err);
}

void vm_dom_snapshotp(virDomainSnapshotPtr *snap)
{
	if (*snap)
		virDomainSnapshotFree(*snap);
}

void vm_dom_recordp(struct vm_xml_snapshot **record)
{
	vm_xml_snapshot_free(*record);
}

void vm_dom_domainp(struct vm_xml_domain **domain)
{
	vm_xml_domain_free(*domain);
}

/* ---------------------------------------------------------------- sources */

char *vm_dom_source_path(virDomainPtr dom, const struct vm_xml_source *source)
{
	virStoragePoolPtr pool;
	virStorageVolPtr vol;
	char *path;

	if (source->path)
		return xstrdup(source->path);
	if (source->type != VM_SOURCE_VOLUME)
		return NULL;
	pool = virStoragePoolLookupByName(virDomainGetConnect(dom), source->pool);
	vol = pool ? virStorageVolLookupByName(pool, source->volume) : NULL;
	path = vol ? virStorageVolGetPath(vol) : NULL;
	if (vol)
		virStorageVolFree(vol);
	if (pool)
		virStoragePoolFree(pool);
	if (path && path[0] != '/')
		free(vs_steal(path));
	return path;
}

bool vm_dom_same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	if (!strcmp(a, b))
		return true;
	if (stat(a, &sa) < 0 || stat(b, &sb) < 0)
		return false;
	if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode))
		return sa.st_rdev == sb.st_rdev;
	return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

char *vm_dom_unlisted_save(virDomainPtr dom, const char *dir)
{
	vs_autofree char *path = dir ? xasprintf("%s/%s.save", dir, virDomainGetName(dom)) : NULL;
	struct stat st;

	if (!path || lstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return NULL;
	return virDomainHasManagedSaveImage(dom, 0) == 0 && virDomainIsActive(dom) == 0 ? vs_steal(path) : NULL;
}
