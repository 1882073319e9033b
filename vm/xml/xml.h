/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * xml.h: what libvirt's XML says about a domain, a snapshot, a storage pool.
 *
 * Texts come from libvirt (virDomainGetXMLDesc, virDomainSnapshotGetXMLDesc, virStoragePoolGetXMLDesc). They are parsed
 * without network, external entities or DTDs, up to VM_XML_MAX bytes. Unknown elements are ignored, unknown words of an
 * enumeration become the OTHER member: a newer libvirt must not hide a domain. Source: libvirt's formatdomain,
 * formatsnapshot and formatstorage pages.
 *
 * Errors: -EINVAL not well-formed, or not the expected root or name; -E2BIG.
 * Pure; any thread. Everything in a result is owned by it and goes with its _free (which accepts NULL); that of a snapshot may be shared.
 */
#ifndef VS_VM_XML_XML_H
#define VS_VM_XML_XML_H

#include <stdatomic.h>

#include "vm/model/types.h"

#define VM_XML_MAX (64u << 20) /* what is allocated for a text grows with it, so this is its limit, too */

/* ---------------------------------------------------------------- sources and disks */

enum vm_source_type {
	VM_SOURCE_NONE,    /* no source: an empty drive */
	VM_SOURCE_FILE,
	VM_SOURCE_BLOCK,
	VM_SOURCE_VOLUME,  /* pool and volume; who can ask libvirt finds the path */
	VM_SOURCE_OTHER,   /* network, nvme, dir, vhostuser, ...: nothing that we can open */
};

/* One image as XML names it: <source> with its type and format. */
struct vm_xml_source {
	enum vm_source_type type;
	char *path;          /* absolute; FILE and BLOCK only, else NULL */
	char *pool, *volume; /* VOLUME only */
	char *format_name;   /* "qcow2", "raw", "luks", ... as written; NULL where none is recorded */
	enum q2_format format; /* of format_name */
	unsigned index;      /* of the layer in a running QEMU: N of `vda[N]`; 0: none is recorded */
	char *text;          /* for people: the path, "network disk (rbd pool/image)", "storage volume pool/vol"; never NULL
	                      * except for NONE */
	char *key;           /* OTHER only: its whole <source>, so that two can be compared; else NULL */
	char *unsupported;   /* NULL, or why we cannot read it: remote, encrypted, a slice of a file */
	bool slice;          /* only a part of the file is the disk */
	char *data;          /* the external data file that <dataStore> names (libvirt 10.10), by path or for people; NULL: none */
};

enum vm_xml_device { VM_DEVICE_DISK, VM_DEVICE_LUN, VM_DEVICE_CDROM, VM_DEVICE_FLOPPY, VM_DEVICE_OTHER };

enum vm_xml_mirror { VM_MIRROR_NONE, VM_MIRROR_COPY, VM_MIRROR_ACTIVE_COMMIT };

struct vm_xml_disk {
	char *target;           /* "vda"; disks without one are left out */
	enum vm_xml_device device;
	bool readonly, transient, shareable;
	bool left_out;          /* snapshot='no': who takes a snapshot leaves it out, unless told otherwise */
	struct vm_xml_source source;
	struct vm_xml_source *below; /* <backingStore> chain, topmost first; VOLUME or OTHER layers included */
	size_t n_below;
	bool below_complete;    /* the chain was recorded to its end (an empty <backingStore/>) */
	enum vm_xml_mirror mirror_job;
	bool mirror_ready;
	struct vm_xml_source mirror; /* its destination; NONE without a mirror. Of an active commit: the base */
};

/* May this disk be served? Not CD-ROM, floppy, read-only ones. */
bool vm_xml_disk_exposed(const struct vm_xml_disk *disk);

/* A file that the XML names as (part of) a disk: for q2_gate_allow_file(). */
struct vm_xml_file {
	char *path;
	enum q2_format format; /* Q2_FORMAT_NONE where the XML gives none */
};

/* A file named elsewhere than in disks, metadata, firmware and emulator: a kernel, memory that is a file, what is given to QEMU as it is. */
enum vm_xml_mention_kind {
	VM_MENTION_MAY_BE, /* it may only look like a path */
	VM_MENTION_PATH,   /* a whole value, or that of an option, which begins as a path */
	VM_MENTION_MEDIUM, /* likewise, and QEMU makes a disk of a directory there */
	VM_MENTION_SOURCE, /* a path, and QEMU reads an image there, which it does not write to */
	VM_MENTION_IMAGE,  /* a path, and QEMU has an image there */
	VM_MENTION_DIR,    /* QEMU makes a disk of that directory */
	VM_MENTION_CONFIG, /* QEMU reads further arguments there */
};

struct vm_xml_mention {
	char *path; /* absolute */
	enum vm_xml_mention_kind kind;
};

struct vm_xml_domain {
	char *name, *uuid; /* never NULL */
	bool has_nvram;    /* its firmware keeps variables: */
	char *nvram;       /*   in that file, with nvram_format; NULL: libvirt has not chosen one yet, or it is no file of this host */
	enum q2_format nvram_format;
	char *loader, *nvram_template; /* other files of its firmware; NULL: none is named */
	bool has_tpm;      /* it has an emulated TPM: */
	char *tpm_version; /*   "1.2" or "2.0"; NULL: not said */
	char *tpm_source;  /*   whose state is kept in that file or directory; NULL: where libvirt keeps it */
	char **metadata;   /* the elements of ours in its metadata, each as text; NULL-terminated, or NULL: none */
	struct vm_xml_disk *disks;
	size_t n_disks;
	struct vm_xml_file *files; /* each path once: sources, backing chains, data files, mirrors of all <disk> elements */
	size_t n_files;
	struct vm_xml_mention *mentions; /* what else it names. A snapshot's: only what is given to QEMU as it is */
	size_t n_mentions;
};

/* A <domain> document, live or inactive. Gives *out. */
int vm_xml_domain_parse(const char *text, struct vm_xml_domain **out, struct vs_err *err);
void vm_xml_domain_free(struct vm_xml_domain *domain);
/* By target, else by the path of its source, as libvirt lets both stand in <disk name=...>. Borrowed; NULL: none. */
const struct vm_xml_disk *vm_xml_domain_disk(const struct vm_xml_domain *domain, const char *name);

/* ---------------------------------------------------------------- snapshots */

/* One disk of a snapshot: what happened to it, with the recorded disk that it happened to. */
struct vm_xml_snapdisk {
	char *target;        /* resolved through the recorded domain */
	enum vm_xml_mode mode;
	struct vm_xml_source overlay;  /* the file that the snapshot created; NONE for internal ones */
	bool delete_in_progress;       /* <snapshotDeleteInProgress/> is set here: a CHILD's delete was not completed */
	const struct vm_xml_disk *frozen; /* the disk in the recorded domain (its source is the point-in-time image);
	                                   * borrowed from `domain`; NULL where the record has none */
};

struct vm_xml_snapshot {
	char *name;          /* never NULL */
	char *parent;        /* name, or NULL */
	char *state;         /* "running", "shutoff", "disk-snapshot", ...; never NULL */
	int64_t created_s;   /* seconds since 1970 */
	enum vm_xml_mode memory; /* NO, INTERNAL or EXTERNAL */
	char *memory_file;   /* EXTERNAL only */
	enum vm_kind kind;
	char *note;          /* NULL, or what is odd ("mixes internal and external disks") */
	struct vm_xml_snapdisk *disks; /* also those with mode NO; in the record's order */
	struct vm_xml_snapdisk *revert_disks; /* overlays recorded in <revertDisks>; `frozen` is NULL */
	unsigned n_disks, n_revert_disks, n_files;
	struct vm_xml_domain *domain; /* as recorded; NULL where libvirt recorded none */
	char *definition;    /* <inactiveDomain>, else <domain>, as a document that `virsh define` takes, without secrets;
	                      * NULL where none was recorded */
	size_t definition_len;
	struct vm_xml_file *files; /* everything named here, overlays and both definitions included */

	/* private */
	atomic_uint refs;
	bool shares_definition, shares_domain, shares_disks, shares_files; /* they are the lender's */
	struct vm_xml_snapshot *lender; /* held on to; shares nothing itself; or NULL */
	uint64_t domain_hash;     /* of the text that `domain` was read from; 0: there is another definition besides */
};

/* A <domainsnapshot> document. Gives *out. */
int vm_xml_snapshot_parse(const char *text, struct vm_xml_snapshot **out, struct vs_err *err);
/* Of a hundred snapshots of a domain most have the same definition: @snap gives up its own for that of @with (or of whom that has it from), where
 * they are the same; and its disks and files likewise. True: something was. Once, before others see it. */
bool vm_xml_snapshot_share(struct vm_xml_snapshot *snap, struct vm_xml_snapshot *with);
/* One reference more, of which vm_xml_snapshot_free() drops one. */
struct vm_xml_snapshot *vm_xml_snapshot_ref(struct vm_xml_snapshot *snapshot);
void vm_xml_snapshot_free(struct vm_xml_snapshot *snapshot);
/* Whose the definition is: what is to be held on to for its sake. Borrowed. */
struct vm_xml_snapshot *vm_xml_snapshot_keeper(struct vm_xml_snapshot *snapshot);

/* ---------------------------------------------------------------- storage pools */

struct vm_xml_pool {
	char *name;   /* never NULL */
	char *type;   /* "dir", "logical", ...; never NULL */
	char *target; /* absolute path, or NULL */
};

int vm_xml_pool_parse(const char *text, struct vm_xml_pool **out, struct vs_err *err);
void vm_xml_pool_free(struct vm_xml_pool *pool);

#endif
