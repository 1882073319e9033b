/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * taken.h: what a snapshot froze when we took it. See taken.c.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_TAKEN_H
#define VS_VM_COMMAND_TAKEN_H

#include "vm/command/context.h"

/* The chains of the domain's disks, from the active layer down, as they were before and are after. Owns all. */
struct vm_taken {
	struct vm_taken_disk {
		char *target;
		char **chain;            /* NULL-terminated */
		struct q2_stamp *stamps; /* dev, ino, size and mtime of each */
		size_t n;
	} *disks;
	size_t n;
};

/* Just before the snapshot is taken, by the last look. Fills *taken. */
void vm_taken_before(const struct vm_context *cx, struct vm_taken *taken);
/* Just after: what has changed since is left out. */
void vm_taken_after(struct vm_taken *taken);
/* After a look that has the record: notes in cx->meta what those disks froze that did not change and are not right by their times. True: there
 * were such, and when that is saved the next look sees them as right. */
bool vm_taken_note(struct vm_context *cx, const struct vm_taken *taken, const struct vm_meta_id *id, const struct vm_xml_snapshot *record);

void vm_taken_fini(struct vm_taken *taken);
#define vm_taken_autofini vs_cleanup(vm_taken_fini)

#endif
