/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * act-priv.h: what the deeds share. Private to this folder.
 */
#ifndef VS_VM_LIBVIRT_ACT_PRIV_H
#define VS_VM_LIBVIRT_ACT_PRIV_H

#include "vm/libvirt/act.h"
#include "vm/util/fault.h"

/* ---------------------------------------------------------------- domain.c */

int vm_act_oom(struct vs_err *err); /* -ENOMEM */

bool vm_act_cancelled(const struct vm_act_watch *watch);
void vm_act_step(struct vm_act_watch *watch, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* 1: it runs (or is paused), 0: it is shut off. */
int vm_act_active(virDomainPtr dom, struct vs_err *err);
/* libvirtd has gone, as far as the connection knows. */
bool vm_act_lost(virDomainPtr dom);
/* The libvirt call that has just failed: "what: libvirt's sentence" and its errno, or -EHOSTDOWN where the connection broke.
 * Almost every libvirt function forgets the last error, even one that gives a name: none may stand between, not even in the
 * arguments. */
int vm_act_virterr(virDomainPtr dom, struct vs_err *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* @flags of virDomainGetXMLDesc. Gives. */
int vm_act_domain_text(virDomainPtr dom, unsigned flags, char **text, struct vs_err *err);
int vm_act_domain_xml(virDomainPtr dom, unsigned flags, struct vm_xml_domain **out, struct vs_err *err);

/* Gives a reference (virDomainSnapshotFree), and its parsed record. */
int vm_act_snapshot(virDomainPtr dom, const char *name, virDomainSnapshotPtr *out, struct vs_err *err);
int vm_act_snapshot_xml(virDomainPtr dom, const char *name, struct vm_xml_snapshot **out, struct vs_err *err);

void vm_act_snapshotp(virDomainSnapshotPtr *snap);
void vm_act_recordp(struct vm_xml_snapshot **record);
void vm_act_domainp(struct vm_xml_domain **domain);
#define vm_act_autosnapshot vs_cleanup(vm_act_snapshotp)
#define vm_act_autorecord vs_cleanup(vm_act_recordp)
#define vm_act_autodomain vs_cleanup(vm_act_domainp)

/* Where a source lies; volumes are asked for. Gives; NULL: not a file or device of this host, or no memory. */
char *vm_act_source_path(virDomainPtr dom, const struct vm_xml_source *source);

/* ---------------------------------------------------------------- blockjob-chain.c */

struct vm_act_layer {
	char *path;      /* NULL: remote */
	unsigned index;  /* N of `vda[N]`; 0: none, the domain is shut off */
};

/* The chain of one disk as the running QEMU has it, topmost first. */
struct vm_act_chain {
	struct vm_act_layer *layers;
	size_t n;
	bool mirror, ready; /* a copy or an active commit; it may be pivoted */
	char *mirror_path;  /* where that writes to: of an active commit, the base. NULL: remote, or no mirror */
};

/* -ENOENT: no such disk. Fills *out on success. */
int vm_act_chain_read(virDomainPtr dom, const char *target, struct vm_act_chain *out, struct vs_err *err);
void vm_act_chain_fini(struct vm_act_chain *chain);
/* Position of the layer, by path, else by the file that the path leads to; -1: none. */
int vm_act_chain_find(const struct vm_act_chain *chain, const char *path);
/* Does a copy or an active commit write to that file? */
bool vm_act_chain_mirrors(const struct vm_act_chain *chain, const char *path);

/* ---------------------------------------------------------------- blockjob-pulse.c */

/* Hints from libvirt's events that something has happened to a domain, so that polling need not be frequent. */
struct vm_act_pulse;
struct vm_act_pulse *vm_act_pulse_new(virDomainPtr dom); /* NULL, which the others accept: there are no hints */
void vm_act_pulse_free(struct vm_act_pulse *pulse);
/* Sleeps until a hint, at most @ms. */
void vm_act_pulse_wait(struct vm_act_pulse *pulse, unsigned ms);

/* ---------------------------------------------------------------- blockjob-wait.c */

/* A block job that we have started and wait for. Zero-initialise, then fill the first part. */
struct vm_act_wait {
	virDomainPtr dom;
	const char *target, *what; /* "commit" */
	struct vm_act_watch *watch;
	struct vm_act_pulse *pulse;
	bool until_ready;

	unsigned pause_ms, strange;
	uint64_t speed, last_cur;
	int64_t last_ns;
};

enum vm_act_event { VM_ACT_GONE, VM_ACT_READY, VM_ACT_CANCEL };

/* Until the job is gone, ready (if asked for), or to be cancelled: an enum vm_act_event; or negative: contact is lost. */
int vm_act_job_wait(struct vm_act_wait *wait, struct vs_err *err);
/* -EBUSY if there is a job on the disk. */
int vm_act_job_none(virDomainPtr dom, const char *target, struct vs_err *err);
/* The libvirt call that has just failed on a running job: did libvirt go away, did QEMU end? Then *over; else the job may be
 * running still. */
int vm_act_job_lost(const struct vm_act_wait *wait, bool *over, struct vs_err *err);
/* -EHOSTDOWN, with the sentence. */
int vm_act_job_adrift(const struct vm_act_wait *wait, struct vs_err *err);
/* The job is gone and has not done its work: why, as far as can be known. @path: the file that it wrote to. */
int vm_act_job_failed(const struct vm_act_wait *wait, const char *path, struct vs_err *err);

/* ---------------------------------------------------------------- overlay.c */

/* The names of all snapshots that libvirt has. Gives *names and its length (free each, and the array). */
int vm_act_names(virDomainPtr dom, char ***names, size_t *n, struct vs_err *err);
void vm_act_names_free(char **names, size_t n);

struct vm_act_naming {
	const char *beside;  /* path of the image that gives directory and stem */
	const char *snapshot;
	char **names;
	size_t n_names;
	bool (*left_over)(void *opaque, const char *path); /* these two as in vm_act_create */
	bool (*taken)(void *opaque, const char *path);
	void *opaque;
};

/* Adds an overlay for @target over @below to @plan, with a path that is free. @below is copied. */
int vm_act_plan_add(struct vm_act_plan *plan, const struct vm_act_naming *naming, const char *target, const char *below,
		    enum q2_format format, struct vs_err *err);

/* Makes a file for each of them, 0600 and of its owner below: an overlay, on disk when this returns; or, with @empty, nothing but
 * the file, for libvirt to fill. Notes in @plan which files these are. On failure some may be there. */
int vm_act_overlays_make(struct vm_act_plan *plan, bool empty, int (*making)(void *opaque, const char *path, int fd, struct vs_err *err),
			 void *opaque, struct vm_act_watch *watch, struct vs_err *err);
/* Lets an overlay that nobody has written to stand on another image. */
int vm_act_overlay_rebase(const struct vm_act_overlay *overlay, const char *below, enum q2_format format, struct vs_err *err);

/* ---------------------------------------------------------------- fsfreeze.c */

/* Does the guest's agent answer, within so many seconds? -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED, -EAGAIN. */
int vm_act_agent(virDomainPtr dom, unsigned seconds, struct vm_act_watch *watch, struct vs_err *err);
/* Freezes the guest's file systems. On success *out is for vm_act_thaw(); on failure they are not frozen, or will be thawed. */
struct vm_act_freeze;
int vm_act_freeze(virDomainPtr dom, unsigned seconds, struct vm_act_watch *watch, struct vm_act_freeze **out, struct vs_err *err);
/* Takes it, also where it fails. */
int vm_act_thaw(struct vm_act_freeze *freeze, struct vs_err *err);

/* ---------------------------------------------------------------- qemu-img.c */

/* Runs a program with a minimal environment and no shell, and waits for it. What it writes to stderr becomes the sentence
 * (-EIO). argv[0] is looked up in PATH. */
int vm_act_run(const char *const *argv, struct vs_err *err);

#endif
