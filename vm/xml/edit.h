/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * edit.h: edits of libvirt's XML texts, and the text that asks for a new snapshot.
 *
 * libvirt never corrects a snapshot's record after a block job: who moves layers fetches the record, has it edited here and
 * hands it back with REDEFINE. Fetch with VIR_DOMAIN_SNAPSHOT_XML_SECURE (VIR_DOMAIN_XML_SECURE), or the passwords in it are
 * lost when it is handed back. What is not mentioned stays as it is, elements that we do not know included.
 *
 * A *chain* is a disk's own <source> with its nested <backingStore> elements, topmost first. Paths are compared byte by
 * byte, as the text spells them. Source: libvirt's formatdomain and formatsnapshot pages.
 *
 * Every function parses one text and gives another (free()). Errors: -EINVAL not well-formed, not what it should be, or it
 * does not hold what is needed; -E2BIG. Pure; any thread.
 */
#ifndef VS_VM_XML_EDIT_H
#define VS_VM_XML_EDIT_H

#include "vm/xml/xml.h"

/* ---------------------------------------------------------------- records of snapshots */

/* Another parent; NULL: none, it is a root now. */
int vm_edit_parent(const char *snapshot, const char *parent, char **out, struct vs_err *err);

/* What became of one image file. */
struct vm_edit_move {
	const char *target; /* on this disk only; NULL: on every disk */
	const char *from;
	const char *to;     /* what it held is found here now. A layer further down that chain: the layers down to it go.
	                     * NULL: it vanished; what stood on it stands on what it stood on */
	const char *format; /* of @to; NULL: as recorded for @to where that is a layer of the chain, else for @from */
	bool block;         /* @to is a block device */
};

/*
 * Applies @moves in order to the chains in a <domain>, or in <domain> and <inactiveDomain> of a <domainsnapshot>. Returns how
 * many chains it changed (0: *out equals the text in meaning). -EINVAL: a disk's own source vanished and the text does not
 * say what it stood on.
 */
int vm_edit_layers(const char *text, const struct vm_edit_move *moves, size_t n, char **out, struct vs_err *err);

/* ---------------------------------------------------------------- definitions of domains */

/* The file that a disk is to start from. */
struct vm_edit_disk {
	const char *target;
	const char *path;
	const char *format;
	bool block;
};

/*
 * The definition in @text (a <domain>, or a <domainsnapshot>'s <inactiveDomain>, else its <domain>) as a <domain> for
 * virDomainDefineXML: without any <backingStore>, so that the images' headers decide, and with other sources for @disks.
 * Passwords stay. -EINVAL: a disk of @disks is not in it.
 */
int vm_edit_definition(const char *text, const struct vm_edit_disk *disks, size_t n, char **out,
		       struct vs_err *err);

/* A <domain> of that name. */
int vm_edit_name(const char *domain, const char *name, char **out, struct vs_err *err);

/* A <domain> without the <backingStore> of one disk: the images' headers decide what it stands on. Returns how many it took away. */
int vm_edit_unpin(const char *domain, const char *target, char **out, struct vs_err *err);

/* ---------------------------------------------------------------- a new snapshot */

struct vm_new_disk {
	const char *target;
	enum vm_xml_mode mode; /* NO, INTERNAL or EXTERNAL */
	const char *overlay;   /* EXTERNAL: absolute path of the qcow2 file to be */
};

struct vm_new_snapshot {
	const char *name;
	const char *description; /* or NULL */
	enum vm_xml_mode memory; /* NO, INTERNAL or EXTERNAL */
	const char *memory_file; /* EXTERNAL: absolute path */
	const struct vm_new_disk *disks; /* all of the domain's: who is left out gets libvirt's default */
	size_t n_disks;
};

/* What a record says besides, for REDEFINE. */
struct vm_new_record {
	int64_t created_s;
	const char *state;       /* "shutoff", "disk-snapshot" */
	const char *parent;      /* or NULL */
	const char *domain;      /* a <domain> whose disks have what was frozen as their source */
};
int vm_new_record(const struct vm_new_snapshot *spec, const struct vm_new_record *more, char **out, struct vs_err *err);

/* The <domainsnapshot> for virDomainSnapshotCreateXML. -EINVAL: a string that cannot stand in XML. */
int vm_new_snapshot(const struct vm_new_snapshot *spec, char **out, struct vs_err *err);

/* ---------------------------------------------------------------- a backup job */

/* What is written over goes to a scratch file, which is there already: a qcow2 of the disk's size. */
struct vm_new_backup_disk {
	const char *target, *scratch;
};
/* The <domainbackup> of a full backup of these disks that is fetched through a unix socket, where each is an export of its target's name. */
int vm_new_backup(const char *socket, const struct vm_new_backup_disk *disks, size_t n, char **out, struct vs_err *err);
/* The socket that a <domainbackup> names. Gives *out; NULL: none. */
int vm_backup_socket(const char *text, char **out, struct vs_err *err);

#endif
