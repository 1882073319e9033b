/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blockjob-wait.h: waiting for a block job of ours. See blockjob-wait.c.
 */
#ifndef VS_VM_LIBVIRT_BLOCKJOB_WAIT_H
#define VS_VM_LIBVIRT_BLOCKJOB_WAIT_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/blockjob-pulse.h"
#include "vm/libvirt/domain.h"

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

#endif
