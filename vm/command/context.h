/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * context.h: one command at work on one domain.
 *
 * A command begins with a look (vm_context_poll): a new inventory, libvirt's records, our metadata, each asked for now, under
 * the
 * domain's
 * lock. Every guard is a question to that look. A command looks again before what cannot be undone.
 *
 * With `try_only` the same functions run, and instead of acting they say what they would do: vm_context_say().
 *
 * Errors: those of README.md's table under "ctl". The sentence names who needs what; names in it are raw and escaped by who prints it.
 * Threads: one; only `watch.cancel` is set by others.
 */
#ifndef VS_VM_COMMAND_CONTEXT_H
#define VS_VM_COMMAND_CONTEXT_H

#include <libvirt/libvirt.h>

#include "vm/command/plan.h"
#include "vm/inventory/refresher.h"
#include "vm/language/command.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/paused-guest.h"
#include "vm/meta/journal.h"
#include "vm/meta/meta.h"
#include "vm/meta/store.h"
#include "vm/util/fault.h"

/* libvirt's record of one snapshot. */
struct vm_context_record {
	char *name;
	char *text; /* with passwords */
	struct vm_xml_snapshot *xml;
};

struct vm_context {
	/* set by who makes it; borrowed */
	struct vm_readers readers;
	struct vm_refresher *refresher;
	struct vm_store *store;
	const struct vm_options *options;
	const char *uuid;
	virConnectPtr conn; /* NULL for an image source */
	struct vm_log *log;
	const char *command; /* canonical text */
	struct vm_journal journal; /* of it */
	bool try_only;
	bool survey;         /* with `try`: all snapshots are asked about, one after the other; what would be read for each is left out */
	struct vm_usages *usages;    /* what was counted before, usages.h */
	struct vm_effects *effects; /* with `try`: what would become free is noted there, effects.h; or NULL */
	bool beside;         /* with `try`: a command was at work on the domain when this began, which shares no lock with it */
	char *now_read;      /* NULL, or a sentence: a backup job on it is that of its now/, and who reads it */
	bool adds;           /* it only adds something to this domain: a look need not be a close one at all the others */
	bool pruning;        /* retention works, and nobody asked for this very delete */
	struct vm_dom_watch watch;

	/* of the last look */
	virDomainPtr dom;   /* NULL for an image source */
	struct vm_inventory *inv;
	const struct vm_domain *d;
	struct vm_meta *meta; /* never NULL */
	bool behind;        /* the domain's own copy of it is older */
	char *known;        /* what was last found or written there */
	struct vm_context_record *records;
	size_t n_records;
	bool running;
	struct vm_pulls *pulls; /* that are not proven to be done: see pulls.h; NULL before a look */
	struct vm_paused_guest process; /* where there are such: the QEMU that the domain had before the look; pid 0: none to be seen */
	unsigned long qemu; /* version, as libvirt counts: major * 1,000,000 + minor * 1,000 + release; 0: not known */

	/* of the whole command */
	const uint64_t *moving; /* inode numbers of layers that are going to be re-pointed: they are attested in any case */
	size_t n_moving;
	uint64_t summed;    /* bytes, by attest.c */
	bool told;          /* what there was no room for */
	struct vm_paused_guest guest; /* a paused start of ours, if guest_up: ended by vm_guest_end() */
	bool guest_up;
	struct q2_stamp *removed;  /* files that it has removed */
	size_t n_removed;
	char *said;         /* what was done, or would be: phrases, with "; " between */
	size_t left;        /* of a pruning, and of a delete of several: how many are to go still */
	bool guarded;       /* vm_options.unguard was called with hold true */
};

/* Looks at everything anew. -ENOENT: the domain is gone; -EPERM: what its metadata say of ours cannot be read, and is kept
 * as it is. */
int vm_context_poll(struct vm_context *cx, struct vs_err *err);
/* A second look at the files and who needs them, beside the one that @cx has: *now borrows everything else from @cx. */
int vm_context_glance(const struct vm_context *cx, struct vm_context *now, struct vs_err *err);
void vm_context_glance_done(struct vm_context *now);
void vm_context_fini(struct vm_context *cx);

/* One more phrase of what was done or would be done. */
void vm_context_say(struct vm_context *cx, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* How such a phrase names a file: what is only announced with the whole path, what was done shortly; `chain` has the paths. */
const char *vm_context_file(const struct vm_context *cx, const char *path);
/* "", or "s" where it is not one. */
const char *vm_context_plural(size_t n);

/* Is @name one of @names? */
bool vm_context_among(const char *name, char *const *names, size_t n);

/* -ECANCELED, if it is to be cancelled. */
int vm_context_cancelled(const struct vm_context *cx, struct vs_err *err);

/* The snapshot that a command means: by its shown name, else its raw one. -ENOENT; -EINVAL: several have it. */
int vm_context_find(const struct vm_context *cx, const char *name, const struct vm_snapshot **out, struct vs_err *err);
/* The same snapshot in a later look: @key is the raw name of a recorded one, the shown name of another. -ENOENT. */
int vm_context_find_key(const struct vm_context *cx, const char *key, const struct vm_snapshot **out, struct vs_err *err);
/* That key. Borrowed. */
const char *vm_context_key(const struct vm_context *cx, const struct vm_snapshot *s);
/* NULL: libvirt has no record of it. */
const struct vm_context_record *vm_context_record(const struct vm_context *cx, const char *raw_name);
struct vm_meta_id vm_context_id(const struct vm_context *cx, const struct vm_snapshot *s);
/*
 * The image that this external snapshot's disk is in: what the look reads it from, which may be another file than its record names
 * (graph/state.c, "redirection"). Where the look has no image of it, what the record says: then it cannot be read either. No command
 * takes the record's word. *format (nullable): of that. Borrowed; NULL: it has no such disk, or not in a local file.
 */
const char *vm_context_image(const struct vm_context *cx, const struct vm_context_record *record, const char *target,
			     enum q2_format *format);

/* Stores cx->meta, raised by one, in the state directory and at the domain: what has happened, and is so whatever this returns. */
int vm_context_save(struct vm_context *cx, struct vs_err *err);
/* The same for what is only asked for (a hold, a policy, what is about to be done): on failure it is not so, neither now nor later.
 * -EBUSY: a mount that shares no lock with us has changed it meanwhile. */
int vm_context_ask(struct vm_context *cx, struct vs_err *err);

/* Does a record say that a snapshot made the file with this path, or our metadata that this very file is of our making? */
bool vm_context_made(const struct vm_context *cx, const struct vm_meta_made *file);
/* Notes so, to be saved. */
void vm_context_add_made(struct vm_context *cx, const char *path, const struct q2_stamp *stamp);
/* For vm_meta_sweep_made(). */
bool vm_context_is_there(const struct vm_meta_made *file);
/* Guard locks of the mount on the domain's files: off, until the work ends. */
void vm_context_unguard(struct vm_context *cx);

/* ---------------------------------------------------------------- the graph, as the inventory has it */

/* Index of the layer in cx->d->layers that this path leads to, as far as the look met it by that path; -1: none. Pure. */
int vm_context_layer(const struct vm_context *cx, const char *path);
/* A record of which libvirt has a file and does not list it: what it needs nobody knows. NULL: none. Pure. */
const struct vm_snapshot *vm_context_lost(const struct vm_context *cx);
/* Does any domain name this file, be it there or not? As vm_create.taken. Pure. */
bool vm_context_names(void *cx, const char *path);
/* Bytes that it takes on disk now: a running guest has written since the inventory was made. */
uint64_t vm_context_allocated(const struct vm_context *cx, int layer);
/* The active layer of that disk; -1: none. */
int vm_context_top(const struct vm_context *cx, const char *target);
/* How many of the domain's layers stand on it; *one is the (last) one. */
size_t vm_context_above(const struct vm_context *cx, int layer, int *one);
/* The name of an internal snapshot that is stored in the layer, also where it is no snapshot of this domain's; or NULL. */
const char *vm_context_internal_in(const struct vm_context *cx, int layer);

#endif
