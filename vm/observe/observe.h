/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * observe.h: what libvirt said last about every domain of a connection, parsed.
 *
 * One look asks libvirt again: cheaply for most things (names, definitions, jobs), and for the text of a snapshot's record
 * only where it is new, where something about its domain has changed or an event named the domain, and a few more in
 * turn, so that a foreign REDEFINE is noticed too. Small connections are asked for everything every time. Of large ones a domain that is shut off is not
 * asked for anything while libvirt's own files about it are as they were (own-files.h), but in its turn and in a close look.
 *
 * Domains and snapshots come and go while we look: what vanishes half-way is as if it had not been there.
 * Threads: one, the refresher. Inventories hold on to records, which are immutable.
 */
#ifndef VS_VM_OBSERVE_OBSERVE_H
#define VS_VM_OBSERVE_OBSERVE_H

#include <stdatomic.h>

#include "vm/libvirt/conn.h"
#include "vm/meta/meta.h"
#include "vm/model/types.h"
#include "vm/observe/gates.h"
#include "vm/observe/ask.h"
#include "vm/libvirt/conn.h"
#include "vm/observe/own-files.h"
#include "vm/libvirt/untold.h"
#include "vm/util/log-shelf.h"
#include "vm/util/strmap.h"
#include "vm/xml/xml.h"

struct vm_observed_snapshot {
	struct vm_xml_snapshot *record; /* NULL where it could not be had or parsed */
	char *problem;            /* NULL, or why that is so; beside a record: why libvirt does not give it now, so that it may be old */
	/* private */
	uint64_t hash, seen;
	bool refused;
	bool unread;              /* libvirt was not asked for it yet: at_most */
	bool lost;                /* libvirt has a file of it, and does not list it; `problem` says so */
	char name[];
};

struct vm_observed_job {
	char *target;
	enum vm_job type;
	uint64_t done, total;
	uint64_t since; /* the poll that first saw it */
	bool over;      /* it was there at the last look and is not any more */
};

struct vm_observed_domain {
	char *uuid, *name;
	const char *state;               /* as virsh domstate says */
	bool running;
	struct vm_xml_domain *now;       /* the live definition where it runs, else the configured one; NULL: not parsable */
	struct vm_xml_domain *config;    /* running domains: what the next start will use; NULL otherwise */
	struct vm_meta *meta, *config_meta; /* what we noted in each; NULL: nothing, or nothing that we can read */
	struct vm_xml_domain *saved;     /* shut off: what its managed save is going to be restored with; NULL: none */
	char *saved_problem;             /* NULL, or why it is not known what that names, though there is one */
	struct vm_xml_file *once;        /* what its live definitions and its records have named since this was mounted */
	size_t n_once;
	char *unknown;                   /* NULL, or what libvirt did not tell at the last look: what is here may be older */
	struct vm_observed_snapshot **list; /* parents before children */
	size_t n_list;
	bool unread;                     /* libvirt was not asked yet for all of its records: at_most */
	char **checkpoints;              /* names, parents first, NULL-terminated; NULL: not asked yet */
	char *current;                   /* name of the current snapshot, or NULL */
	struct vm_observed_job *jobs;
	size_t n_jobs;
	int64_t busy_since_s;            /* libvirt has been at work on it since (calendar); 0: it is not */
	struct vm_log *log;

	bool changed;                    /* the last look found something else about it than the one before */

	/* notes of the callers */
	struct vm_gates_memo gate;
	bool greeted;
	bool dirty;                      /* something about it has not made it into an inventory */
	size_t group;                    /* of domains that have to do with one another; see inventory/poll.c */

	/* private */
	uint64_t now_hash, config_hash, saved_hash, names_hash, seen;
	struct vm_untold untold; /* records */
	struct vm_ask *asking_definition, *asking_jobs; /* questions that were not answered yet */
	bool refused; /* libvirt did not answer something at the last look */
	struct vm_own_files own; /* as they were before it was asked last */
	bool own_tell;           /* and that they tell whether it has changed */
	bool own_suspect;        /* once they did not */
};

struct vm_observed {
	struct vm_observed_domain **domains; /* by name */
	size_t n_domains;
	size_t n_snapshots;               /* of all domains */
	bool changed;                     /* the last look found something else than the one before */
	bool regrouped;                   /* a domain has come or gone in it, or has another name */
	struct vm_untold untold;          /* domains: libvirt has a file of each, and does not list it */
	bool jobs;                        /* some job is running */
	uint64_t poll;                    /* set by the caller: the number of the poll that a look belongs to */
	bool closely;                     /* set by the caller: every domain is asked, whatever libvirt's files say */
	const char *about;                /* set by the caller: the UUID of one that is, for all its records; NULL: none */

	/* set by the caller: once so many records that are new were asked for (SIZE_MAX: all), the others are put off as soon as *hurry (NULL: at
	 * once), but for those of the domain with the UUID `first` (NULL: none). *asked counts those that were. */
	size_t at_most;
	const atomic_bool *hurry;
	atomic_uint *asked;
	const char *first;
	size_t n_asked;                   /* of them */
	size_t n_unread;                  /* records that libvirt was not asked for yet */

	/* private */
	uint64_t look;
	int64_t began_ns;                 /* it, by the calendar */
	struct vm_strmap by_uuid;
	struct vm_log_shelf *shelf;       /* borrowed, as is: */
	struct vm_asker *asker;
	size_t turn;                      /* where the taking of turns goes on */
	size_t n_listed;                  /* domains, in this look */
	struct vm_own_dirs own;
	bool own_lies;                    /* a domain has changed, and its files have not */
	struct vm_conn_dirs dirs;         /* libvirt's, of what it writes down */
};

void vm_observe_init(struct vm_observed *observed, struct vm_log_shelf *shelf, struct vm_asker *asker);
void vm_observe_fini(struct vm_observed *observed);

/* One look. @hints: domains to be looked at closely. 0; -EHOSTDOWN: the connection is gone, and what is known may be half
 * old and half new; another negative errno: libvirt cannot list its domains, and nothing has changed. */
int vm_observe_poll(struct vm_observed *observed, struct vm_conn *conn, const struct vm_hints *hints, struct vs_err *err);

#endif
