/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * pull.h: the note of a pull that is about to be asked for, a line of the journal: see command/pulls.c.
 *
 * "pid began n LF target", and n times "LF dev ino format path": the file that it goes into, and what that stands on. Threads: one at a time on one domain.
 */
#ifndef VS_VM_META_PULL_H
#define VS_VM_META_PULL_H

#include <stddef.h>

#include "vm/meta/journal.h"

struct vm_pull_file {
	uint64_t dev, ino; /* a device may have another number after the host's next start */
	enum q2_format format;
	char *path;
};

struct vm_pull {
	int64_t pid;      /* of the QEMU; 0: it could not be seen */
	uint64_t began;   /* when that began, in clock ticks since the host did */
	struct vm_pull_file *files; /* the one that it goes into, and what that stands on: two at least */
	size_t n_files;
	char *target;       /* the disk: "vda" */
};

/* All that are in the journal. */
struct vm_pulls {
	struct vm_pull *v;
	size_t n;
};

char *vm_pull_text(const struct vm_pull *pull); /* gives; NULL: it could not be read again (a path has a line break in it) */
/* False: it is no such note. */
bool vm_pull_parse(const char *text, struct vm_pull *pull);
void vm_pull_fini(struct vm_pull *pull);

/* Gives *out. Negative: one cannot be read, so what is needed is not known. */
int vm_pulls_read(const struct vm_journal *journal, struct vm_pulls **out, struct vs_err *err);
void vm_pulls_free(struct vm_pulls *pulls);

#endif
