/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * dom.h: a domain through libvirt, and what all operations share.
 *
 * The folder has what can be done to a domain, one operation a function.
 *
 * These are the primitives that commands are made of. Each looks at the domain anew, does one thing, and says what came of
 * it. Whether it *may* be done (who else stands on an image, what is held, which snapshot it dooms), the marks in the
 * metadata before it and the reconciling of records after it are the caller's.
 *
 * Source: libvirt's API documentation and its QEMU driver; what differs between versions is in version.c alone.
 * Paths are those that the domain's XML names; libvirt runs on this host. Units: bytes, bytes per second.
 * Errors, besides those of virterr.h's table; the sentence says which disk, snapshot or file:
 *   -ENOENT      no such snapshot, disk, layer or element
 *   -EBUSY       a job runs on the disk; the domain runs where it may not
 *   -EPERM       refused, because something of the user's would be lost
 *   -EOPNOTSUPP  this domain, disk or libvirt cannot do it; the sentence names the way out
 *   -ECANCELED   through vm_dom_watch.cancel
 *   -EHOSTDOWN   libvirt went away; what had been begun may be going on
 *   -EIO         QEMU ended, or the job failed
 * Threads: any, but one at a time on one connection (libvirt 9.0 can lose the wake-up of one of two threads that call through
 * one); never libvirt's event thread, for everything here blocks. vm_events_start() comes first.
 */
#ifndef VS_VM_LIBVIRT_DOM_H
#define VS_VM_LIBVIRT_DOM_H

#include <libvirt/libvirt.h>
#include <stdatomic.h>

#include "vm/xml/xml.h"

/* Nullable everywhere, as are its functions; they are called from the thread that acts. */
struct vm_dom_watch {
	atomic_bool cancel; /* set by any thread. What cannot be undone is finished first */
	void (*progress)(void *opaque, uint64_t cur, uint64_t end, uint64_t speed);
	void (*step)(void *opaque, const char *step); /* before each thing that lasts: "create overlay '/x'", ... */
	void *opaque;
};

/* Gives libvirt's record, passwords included. */
int vm_dom_record(virDomainPtr dom, const char *name, char **xml, struct vs_err *err);

bool vm_dom_cancelled(const struct vm_dom_watch *watch);
void vm_dom_step(struct vm_dom_watch *watch, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* 1: it runs (or is paused), 0: it is shut off. */
int vm_dom_active(virDomainPtr dom, struct vs_err *err);
/* libvirtd has gone, as far as the connection knows. */
bool vm_dom_lost(virDomainPtr dom);
/* The libvirt call that has just failed: "what: libvirt's sentence" and its errno, or -EHOSTDOWN where the connection broke.
 * Almost every libvirt function forgets the last error, even one that gives a name: none may stand between, not even in the
 * arguments. */
int vm_dom_virterr(virDomainPtr dom, struct vs_err *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* @flags of virDomainGetXMLDesc. Gives. */
int vm_dom_text(virDomainPtr dom, unsigned flags, char **text, struct vs_err *err);
int vm_dom_xml(virDomainPtr dom, unsigned flags, struct vm_xml_domain **out, struct vs_err *err);

/* Defines it anew, with secrets (VIR_DOMAIN_XML_SECURE) and metadata as @text has them. */
int vm_dom_define(virDomainPtr dom, const char *text, struct vs_err *err);

/* Gives the domain over a connection of its own, which is closed when that is freed (virDomainFree). */
int vm_dom_elsewhere(virDomainPtr dom, virDomainPtr *out, struct vs_err *err);

/* Gives a reference (virDomainSnapshotFree), and its parsed record. */
int vm_dom_snapshot(virDomainPtr dom, const char *name, virDomainSnapshotPtr *out, struct vs_err *err);
int vm_dom_snapshot_xml(virDomainPtr dom, const char *name, struct vm_xml_snapshot **out, struct vs_err *err);

void vm_dom_snapshotp(virDomainSnapshotPtr *snap);
void vm_dom_recordp(struct vm_xml_snapshot **record);
void vm_dom_domainp(struct vm_xml_domain **domain);
#define vm_dom_autosnapshot vs_cleanup(vm_dom_snapshotp)
#define vm_dom_autorecord vs_cleanup(vm_dom_recordp)
#define vm_dom_autodomain vs_cleanup(vm_dom_domainp)

/* The file of a managed save in that directory of libvirt's (NULL: not known) of a domain that is shut off and, as libvirt says, has none: put back by somebody, it
 * counts once libvirtd is started anew. Gives; NULL: there is none. */
char *vm_dom_unlisted_save(virDomainPtr dom, const char *dir);

/* Where a source lies; volumes are asked for. Gives; NULL: not a file or device of this host. */
char *vm_dom_source_path(virDomainPtr dom, const struct vm_xml_source *source);
/* Do both paths lead to one file, or to one device? */
bool vm_dom_same_file(const char *a, const char *b);

#endif
