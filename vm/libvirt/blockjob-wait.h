/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blockjob-wait.h: waiting for a block job of ours. See blockjob-wait.c.
 */
#ifndef VS_VM_LIBVIRT_BLOCKJOB_WAIT_H
#define VS_VM_LIBVIRT_BLOCKJOB_WAIT_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/blockjob-pulse.h"
#include "vm/libvirt/dom.h"

/* A block job that we have started and wait for. Zero-initialise, then fill the first part. */
struct vm_blockjob_wait {
	virDomainPtr dom;
	const char *target, *what; /* "commit" */
	struct vm_dom_watch *watch;
	struct vm_blockjob_pulse *pulse;
	bool until_ready;

	unsigned pause_ms, strange;
	uint64_t speed, last_cur;
	int64_t last_ns;
};

enum vm_blockjob_event { VM_BLOCKJOB_GONE, VM_BLOCKJOB_READY, VM_BLOCKJOB_CANCEL };

/* Until the job is gone, ready (if asked for), or to be cancelled: an enum vm_blockjob_event; or negative: contact is lost. */
int vm_blockjob_wait(struct vm_blockjob_wait *wait, struct vs_err *err);
/* The libvirt call that has just failed on a running job: did libvirt go away, did QEMU end? Then *over; else the job may be
 * running still. */
int vm_blockjob_lost(const struct vm_blockjob_wait *wait, bool *over, struct vs_err *err);
/* -EHOSTDOWN, with the sentence. */
int vm_blockjob_adrift(const struct vm_blockjob_wait *wait, struct vs_err *err);
/* The job is gone and has not done its work: why, as far as can be known. @path: the file that it wrote to. */
int vm_blockjob_failed(const struct vm_blockjob_wait *wait, const char *path, struct vs_err *err);

#endif
