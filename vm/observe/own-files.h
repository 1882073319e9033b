/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * own-files.h: libvirt's own files about a domain that is shut off: the definition, the records of its snapshots and checkpoints, a managed save.
 *
 * What libvirtd says about such a domain it writes down when it changes: with a rename over the file, so that the file is another one and
 * its directory has another time. So a domain of which these stamps are as they were when libvirtd was asked need not be asked again: a
 * stat(2) takes the place of five questions. That is how a thousand domains cost nothing while nothing happens.
 *
 * These files are libvirt's business, and may not be those of the daemon that we are connected to (a container has its own). So they are
 * believed only where they say what libvirtd says, name by name; nothing is ever concluded from what is in them else; some domains are asked in their turn all the same,
 * and when one of those has changed without its files nothing here is believed any more (domains.c).
 *
 * Threads: one, the refresher.
 */
#ifndef VS_VM_OBSERVE_OWN_FILES_H
#define VS_VM_OBSERVE_OWN_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vm/xml/xml.h"

struct vm_own_stamp {
	uint64_t dev, ino;
	int64_t mtime_ns, ctime_ns; /* 0: there is none */
};

/* A directory in which most domains have nothing. What was not there is not there still while it is the same `age`. */
struct vm_own_parent {
	struct vm_own_stamp stamp; /* in the last look */
	bool settled;              /* then: whatever has come since shows in it */
	unsigned age;              /* 1, 2, ... */
};

/* Where a connection's are; all NULL where that is not known. Zero-initialise. */
struct vm_own_dirs {
	char *config, *state;
	struct vm_own_parent checkpoints, saves;
};
/* @uri: as libvirt says it, or NULL. */
void vm_own_dirs_set(struct vm_own_dirs *dirs, const char *uri);
void vm_own_dirs_fini(struct vm_own_dirs *dirs);
/* A look begins, by the calendar @now_ns. */
void vm_own_dirs_look(struct vm_own_dirs *dirs, int64_t now_ns);

struct vm_own_files {
	struct vm_own_stamp config, snapshots, checkpoints;
	unsigned no_checkpoints, no_save; /* the age of their directories in which there were none; 0: there were, or nobody has looked */
	bool known;   /* false: they cannot tell, for there is no definition, or there is a managed save, or they are not ours to look at */
	bool settled; /* false: one was written so shortly ago that the next write may leave no trace, or libvirtd may not say so yet */
};

/* As they are now, by the calendar @now_ns. @before: as they were, or NULL: nothing is taken for granted. */
void vm_own_files_look(const struct vm_own_dirs *dirs, const char *name, int64_t now_ns, const struct vm_own_files *before, struct vm_own_files *out);
/* Nothing was written between the two. Whether that is for certain is another question: were they settled at the first? */
bool vm_own_files_same(const struct vm_own_files *a, const struct vm_own_files *b);

/* Are they of this domain, with the files that libvirt has @said, and these its snapshots, each and no more? */
bool vm_own_files_say(const struct vm_own_dirs *dirs, const char *name, const char *uuid, const struct vm_xml_domain *said,
		      const char *const *snapshots, size_t n);

#endif
