/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * observe-priv.h: one look at one domain, as domains.c, records.c and jobs.c share it.
 */
#ifndef VS_VM_OBSERVE_OBSERVE_PRIV_H
#define VS_VM_OBSERVE_OBSERVE_PRIV_H

#include "vm/observe/observe.h"

#define VM_OBSERVE_TURNS 100 /* how many records of a large connection are asked for in turn at every look */

/* One thing after another is asked; `gone` ends the questions. */
struct vm_observe {
	struct vm_observed *observed;
	struct vm_conn *conn;
	struct vm_observed_domain *d;
	virDomainPtr dom;
	bool closer;  /* ask for all its records */
	bool gone;    /* the domain vanished while we looked */
	bool failed;  /* libvirt did not answer something: what was known before stays */
};

/* libvirt refused to answer: why? */
void vm_observe_refused(struct vm_observe *observe);
/* Something about it was not told, for that reason. */
void vm_observe_unknown(struct vm_observe *observe, const char *why);

/* jobs.c */
void vm_observe_jobs(struct vm_observe *observe);
void vm_observed_jobs_free(struct vm_observed_job *jobs, size_t n);

/* records.c. @first: how many snapshots the domains before this one have, for the taking of turns. */
void vm_observe_records(struct vm_observe *observe, size_t first);
void vm_observed_snapshot_free(struct vm_observed_snapshot *s);

/* For its gate, as long as this is mounted. */
void vm_observed_remember(struct vm_observed_domain *d, const struct vm_xml_file *files, size_t n);

#endif
