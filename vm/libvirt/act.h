/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * act.h: what can be done to a domain through libvirt, one deed a function.
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
 *   -ECANCELED   through vm_act_watch.cancel
 *   -EHOSTDOWN   libvirt went away; what had been begun may be going on
 *   -EIO         QEMU ended, or the job failed
 * Threads: any, but one at a time on one connection (libvirt 9.0 can lose the wake-up of one of two threads that call through
 * one); never libvirt's event thread, for everything here blocks. vm_events_start() comes first.
 */
#ifndef VS_VM_LIBVIRT_ACT_H
#define VS_VM_LIBVIRT_ACT_H

#include <libvirt/libvirt.h>
#include <stdatomic.h>

#include "vm/model/types.h"
#include "vm/xml/xml.h"

/* ---------------------------------------------------------------- watching a deed */

/* Nullable everywhere, as are its functions; they are called from the thread that acts. */
struct vm_act_watch {
	atomic_bool cancel; /* set by any thread. What cannot be undone is finished first */
	void (*progress)(void *opaque, uint64_t cur, uint64_t end, uint64_t speed);
	void (*step)(void *opaque, const char *step); /* before each thing that lasts: "create overlay '/x'", ... */
	void *opaque;
};

/* ---------------------------------------------------------------- what this libvirt can do */

struct vm_act_can {
	unsigned long version;       /* major * 1,000,000 + minor * 1,000 + release */
	size_t start_layers;         /* the deepest chain with which a domain still starts */
};

/* Pure. */
struct vm_act_can vm_act_can_of(unsigned long version);
int vm_act_can(virConnectPtr conn, struct vm_act_can *out, struct vs_err *err);

/* ---------------------------------------------------------------- jobs */

struct vm_act_job {
	char *target;    /* NULL: a job of the domain as a whole (a backup, a migration, a snapshot being made) */
	enum vm_job type;
	uint64_t cur, end;
	uint64_t bandwidth; /* limit; 0: none */
};

/* Everybody's jobs; none while the domain is shut off. Gives *out and its length. */
int vm_act_jobs(virDomainPtr dom, struct vm_act_job **out, size_t *n, struct vs_err *err);
void vm_act_jobs_free(struct vm_act_job *jobs, size_t n);

/* Gives up the block job of a disk, without its result. 0 also where there is none. */
int vm_act_job_abort(virDomainPtr dom, const char *target, struct vs_err *err);

/* Is somebody's delete unfinished? 1: yes, *where (given) names the snapshots that libvirt has noted it at: the parents of
 * what was being deleted. 0: no. */
int vm_act_unfinished_delete(virDomainPtr dom, char **where, struct vs_err *err);

/* What came of a block job. Filled also on failure. */
struct vm_act_outcome {
	bool touched; /* commit: the base may have been written to, so what it froze is lost unless it is finished */
	bool done;    /* the chain is the new one */
};

struct vm_act_commit {
	const char *target;
	const char *base;    /* path of the layer that receives */
	const char *top;     /* path of the uppermost one that goes into it; the active layer: with a pivot at the end */
	uint64_t bandwidth;  /* 0: no limit */
	bool relative;       /* keep backing names relative; libvirt refuses where they are not */
	bool unlink;         /* libvirt removes the merged files */
	/* Called when the job has begun, so that nobody else gets at the disk; and (active layer) as the last chance before the
	 * pivot, when all data has been copied. A negative answer, with its sentence in @err, gives the job up. NULL: go on. */
	int (*begun)(void *opaque, struct vs_err *err);
	int (*check)(void *opaque, struct vs_err *err);
	void *opaque;
};

/* Merges base < layers <= top into base, on a running (or paused) domain. Cancelled or failed, the chain is what it was and
 * the guest's data right, but outcome->touched. A repetition finishes it. */
int vm_act_commit(virDomainPtr dom, const struct vm_act_commit *spec, struct vm_act_watch *watch,
		  struct vm_act_outcome *outcome, struct vs_err *err);

struct vm_act_pull {
	const char *target;
	const char *base;   /* path of the layer that the active one is to stand on; NULL: on nothing */
	uint64_t bandwidth;
	bool relative;
};

/* Copies what lies between into the active layer, on a running domain. No other file changes, and none is removed. Cancelled,
 * the chain is what it was. Nothing to do is success. */
int vm_act_pull(virDomainPtr dom, const struct vm_act_pull *spec, struct vm_act_watch *watch,
		struct vm_act_outcome *outcome, struct vs_err *err);

/* ---------------------------------------------------------------- a guest that is started only to work on its disks */

/*
 * A shut-off domain is started without ever running: its vCPUs stay paused. A word in its *live* metadata, which ends with
 * the instance, tells that this is ours; see paused-guest.c. All of this under the domain's lock: another process of ours that
 * is at work on the domain looks just like one that has died.
 */
struct vm_act_guest {
	char uuid[VIR_UUID_STRING_BUFLEN];
	int id;
	char token[33];
	int64_t pid;       /* of its QEMU; 0: it could not be found */
	uint64_t began;    /* when that began, in clock ticks since the host did; pid 0: when it was about to be started */
	uint64_t spent_ns; /* by its busiest vCPU, when it was started */
};

/* Which process is the QEMU of this domain, and since when? Fills pid and began. False: none that we can see. */
bool vm_act_process(const char *uuid, struct vm_act_guest *out);

/* @before is called with what can be noted before anything happens; what *out holds is to be noted as well, until the guest is
 * ended. -EPERM: a managed save exists, which a start would use up. */
int vm_act_start_paused(virDomainPtr dom, void (*before)(void *opaque, const struct vm_act_guest *guest), void *opaque,
			struct vm_act_guest *out, struct vs_err *err);

/* Destroys it, if it is still that instance, paused, and was never resumed; who else is at work on it is waited for. 1: somebody
 * else's now, it was left; 0: it is gone; -ECANCELED: it was left. */
int vm_act_end_paused(virConnectPtr conn, const struct vm_act_guest *guest, struct vm_act_watch *watch, struct vs_err *err);

/* For the next mount after a crash: is this domain the instance that was @noted (token empty: none was), paused, and never resumed? 1
 * and *out, or 0. Takes the word away where it is of no more use. */
int vm_act_find_paused(virDomainPtr dom, const struct vm_act_guest *noted, struct vm_act_guest *out, struct vs_err *err);

/* ---------------------------------------------------------------- taking snapshots */

struct vm_act_create {
	const char *name;        /* raw */
	const char *description; /* or NULL */
	enum vm_kind kind;       /* VM_INTERNAL of a running domain saves its memory and pauses it meanwhile */
	const char *const *targets; /* disks that take part; n_targets = 0: all that a guest can write to */
	size_t n_targets;
	bool quiesce;            /* external, running: freeze the guest's file systems through its agent */
	unsigned quiesce_s;      /* how long the agent may take for that */
	size_t depth;            /* layers of the deepest chain as the caller counted them; 0: only the XML is asked */
	/* May the file that stands where an overlay is to be made be removed (an interrupted create made that very file, and nobody
	 * has come to use it)? NULL: never; then another name is found. */
	bool (*left_over)(void *opaque, const char *path);
	/* Called for each overlay with its inode number before it has its name: what can be noted in case we die. */
	void (*making)(void *opaque, const char *path, uint64_t ino);
	void *opaque;
};

/* A file that is going to be made. */
struct vm_act_overlay {
	char *target;
	char *below;             /* what it will stand on */
	uint64_t below_dev, below_ino; /* which file that is */
	enum q2_format format;   /* of `below` */
	char *path;
	bool replace;            /* a left-over stands there */
	uint64_t dev, ino;       /* which file we made there; 0: none yet */
};

struct vm_act_plan {
	bool running;
	struct vm_act_overlay *overlays; /* none for internal ones */
	size_t n_overlays;
};
void vm_act_plan_fini(struct vm_act_plan *plan);

/* All checks of vm_act_create(), and the files it would make. Fills *plan on success. */
int vm_act_create_plan(virDomainPtr dom, const struct vm_act_create *spec, struct vm_act_watch *watch, struct vm_act_plan *plan,
		       struct vs_err *err);

/*
 * Takes the snapshot. On failure nothing is left of it, with one exception which the sentence tells: a guest whose file systems
 * cannot be thawed again (*made is true then). Not cancelled once begun. What libvirt froze is what counts: where another tool has
 * merged a layer of a shut-off domain while libvirt let us wait, the overlay is put on what it froze in truth.
 */
int vm_act_create(virDomainPtr dom, const struct vm_act_create *spec, struct vm_act_watch *watch, bool *made,
		  struct vs_err *err);

/* Waits for agents that were asked to freeze and are not waited for any more, that long at most: who ends the process calls it. */
void vm_act_freeze_await(unsigned seconds);

/*
 * Where the overlay of @snapshot over @source is put: beside it, `<stem>.<snapshot>.qcow2`, for @attempt > 1
 * `<stem>.<snapshot>-<attempt>.qcow2`. The stem is the name without its extension and without what an earlier one of
 * @snapshots has added. Characters of the snapshot's name that could mean something to a shell, to QEMU's options or to
 * AppArmor become `_`; long names are cut. Gives *path. -ENOMEM. Pure.
 */
int vm_act_overlay_path(const char *source, char **snapshots, size_t n_snapshots, const char *snapshot,
			unsigned attempt, char **path);

/* ---------------------------------------------------------------- records */

/* Gives libvirt's record, passwords included. */
int vm_act_record(virDomainPtr dom, const char *name, char **xml, struct vs_err *err);

enum vm_act_current { VM_ACT_KEEP_CURRENT, VM_ACT_MAKE_CURRENT };

/* Replaces the record of the same name, or makes one. With KEEP the current snapshot stays the current one, also where it
 * is the one replaced. */
int vm_act_redefine(virDomainPtr dom, const char *xml, enum vm_act_current current, struct vs_err *err);

/* The record goes, no data does. -EBUSY: it has children; some libvirts would rewrite theirs, so move them first. */
int vm_act_forget(virDomainPtr dom, const char *name, struct vs_err *err);

/* libvirt's delete of an internal snapshot: record, entries and saved memory. It cannot be cancelled nor slowed. */
int vm_act_delete(virDomainPtr dom, const char *name, struct vm_act_watch *watch, struct vs_err *err);

/* Did the snapshot create this file (an overlay, or its saved memory)? By its record. */
bool vm_act_proves(const struct vm_xml_snapshot *record, const char *path);
/* Removes a file of which @record proves that the snapshot created it (an overlay, or its saved memory), and that is a regular
 * file which no QEMU has open. 0 also where it is gone already; -EPERM: not proved; -EBUSY: open. */
int vm_act_unlink(const struct vm_xml_snapshot *record, const char *path, struct vs_err *err);

/* ---------------------------------------------------------------- reverting */

struct vm_act_revert {
	const char *name;
	bool risky; /* libvirt's FORCE: also where it cannot know that the definitions fit together */
	bool stops; /* vm_act_revert_plan: the caller will have stopped the domain by then */
	bool (*left_over)(void *opaque, const char *path); /* as in vm_act_create */
	void (*making)(void *opaque, const char *path, uint64_t ino);
	void *opaque;
};

enum vm_act_way {
	VM_ACT_BY_LIBVIRT, /* virDomainRevertToSnapshot: internal ones */
	VM_ACT_BY_HAND,    /* new overlays, definition, record: external ones */
};

/* How this revert would be done and which files it would make (BY_HAND). -EBUSY: BY_HAND, and the domain runs; -EOPNOTSUPP: a
 * transient domain, which would be gone once it is stopped. Fills *plan. */
int vm_act_revert_plan(virDomainPtr dom, const struct vm_act_revert *spec, enum vm_act_way *way,
		       struct vm_act_plan *plan, struct vs_err *err);

/*
 * The domain gets back definition and disks; it runs afterwards only if the snapshot has memory. BY_HAND the layers written
 * since then stay as files, for the caller to remove.
 * On failure BY_HAND the domain is as before; -EBUSY: somebody started it meanwhile, on its old disks. The domain's metadata are the
 * old ones: the caller puts ours back.
 */
int vm_act_revert(virDomainPtr dom, const struct vm_act_revert *spec, struct vm_act_watch *watch, struct vs_err *err);

/* ---------------------------------------------------------------- metadata */

/* The element of @uri as the next start will have it (of a transient domain: now). Gives *xml. -ENOENT: there is none. */
int vm_act_metadata_get(virDomainPtr dom, const char *uri, char **xml, struct vs_err *err);
/* Replaces it, in the running instance and in the configuration; NULL removes it. @xml without the name space. */
int vm_act_metadata_set(virDomainPtr dom, const char *key, const char *uri, const char *xml, struct vs_err *err);

#endif
