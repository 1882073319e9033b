/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * headers.h: what image files say, remembered.
 *
 * A header and its snapshot table are read once, and again when stat(2) says that the file has changed. Time goes in
 * rounds: within a round every file is looked at once. No descriptor stays open between two calls.
 *
 * Trust: a path that libvirt's XML or the user gave is looked at with vm_headers_top(); a path that an image gave is only
 * ever opened through a gate, by vm_backing_below() and vm_backing_data().
 *
 * Threads: one, the refresher.
 */
#ifndef VS_VM_OBSERVE_HEADERS_H
#define VS_VM_OBSERVE_HEADERS_H

#include "qcow2/qcow2.h"

struct vm_backing;

/* One image file, read as @format. Belongs to the table; what it points to changes only in a look of a later round. */
struct vm_header {
	char *path;
	enum q2_format format;
	bool found;                 /* stat succeeded: `stamp` counts */
	struct q2_stamp stamp;
	const struct q2_info *info; /* NULL where it could not be read: `code` (negative errno) and `error` say why */
	int code;
	const char *error;
	struct q2_locks locks;      /* as of the last vm_headers_locks() */
	int locks_code;             /* negative errno: they could not be read then */
	uint64_t exposes;           /* it is a file of some virt-snapfs mount, with this inode number, and never opened; 0: it is not */
	char *shows;                /* a device that shows a file: its path, as the kernel tells; NULL: it is none */
	char *hidden;               /* NULL, or why nobody can tell which file it shows: "is a loop device on a file that was removed" */
	uint64_t touched;           /* the round in which anything about it changed, also its times */
	uint64_t changed;           /* the round in which something that others see changed: facts of the header, identity */

	uint64_t stirred;           /* the last round that was not quiet because of it */

	/* notes of the caller; zero in a new file */
	size_t owner;               /* the group of the domains that have to do with it, + 1; 0: none has */
	bool live;                  /* a running domain writes here, which is no news */
	uint64_t shown_allocated;   /* stamp.allocated as it was last shown */
	int index;                  /* in the caller's list, which it made in the round... */
	uint64_t indexed;           /* ... of this number */

	/* private to headers*.c and backing.c */
	struct q2_info *own_info;
	char *own_error;
	uint64_t looked, trusted;   /* the round of the last look; of the last one by a trusted path */
	uint64_t sum;               /* as of vm_headers_sum() when it had the stamp... */
	struct q2_stamp summed;     /* ... of this look; all zero: never asked */
	bool racy;                  /* written so shortly before it was read that its times may not show the next write */
	struct vm_backing *backings;
};

struct vm_headers;
struct vm_headers *vm_headers_new(void);
void vm_headers_free(struct vm_headers *files);

/* Begins a round and returns its number (1, 2, ...). Files nobody asked for in the last few rounds are forgotten. */
uint64_t vm_headers_round(struct vm_headers *files);

/* What is remembered is not taken on trust any more: the files of that owner are read again when they are looked at next; of 0, all. */
void vm_headers_distrust(struct vm_headers *files, size_t owner);

/* Every file that is remembered. @use may write its notes. */
void vm_headers_each(struct vm_headers *files, void (*use)(struct vm_header *f, void *opaque), void *opaque);
/* Was it looked at in this round? */
bool vm_headers_looked(const struct vm_headers *files, const struct vm_header *f);

/* Is this the device number of a virt-snapfs mount? What lies there may be asked for with stat(2), and is never opened. */
bool vm_headers_is_mount(struct vm_headers *files, uint64_t dev);

/*
 * Looks again at all that the last round looked at. True: there is nothing to be seen that was not there then, and the
 * files count as looked at in this round too. False: somebody should look properly. Files with `live` set may be
 * written, and grow by less than 1 MiB, and still be quiet.
 */
bool vm_backing_quiet(struct vm_headers *files);

/* What is behind a path, without opening it: `info` stays NULL. For what is needed but not read. */
struct vm_header *vm_headers_behind(struct vm_headers *files, const char *path);

/* The file at a trusted path. */
struct vm_header *vm_headers_top(struct vm_headers *files, const char *path, enum q2_format format);

/*
 * The file that @f stands on, or its external data file, as @gate lets it be opened. NULL with *code 0: there is none. NULL
 * with *code < 0: the gate or the name forbids it, and *error (borrowed, until the next round) says why. A file that may
 * be named but cannot be opened is given, with its `error`.
 */
struct vm_header *vm_backing_below(struct vm_headers *files, struct vm_header *f, struct q2_gate *gate, int *code,
				   const char **error);
struct vm_header *vm_backing_data(struct vm_headers *files, struct vm_header *f, struct q2_gate *gate, int *code,
				  const char **error);

/* After a refusal of vm_backing_data(): the file that the name leads to, which is not opened. NULL: nobody can tell. */
struct vm_header *vm_backing_refused_data(struct vm_headers *files, struct vm_header *f, struct q2_gate *gate);
/* After a refusal of vm_backing_below(): the file that the name leads to, which may not be opened, but stands beneath @f all
 * the
 * same. False: there is none, or nobody can tell. */
bool vm_backing_refused(const struct vm_header *f, const struct q2_gate *gate, uint64_t *dev, uint64_t *ino);
/* The paths that any gate has refused. */
void vm_backing_each_refused(const struct vm_header *f, void (*use)(const char *path, void *opaque), void *opaque);

/* vm_sum() of what it was at the last look; 0: nobody can tell. */
uint64_t vm_headers_sum(struct vm_headers *files, struct vm_header *f);

/* Asks for QEMU's lock bytes on it now. Returns the news: did they change? One that is not there has none. */
bool vm_headers_locks(struct vm_headers *files, struct vm_header *f);

#endif
