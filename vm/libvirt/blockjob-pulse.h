/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * blockjob-pulse.h: hints that something has happened to a domain. See blockjob-pulse.c.
 */
#ifndef VS_VM_LIBVIRT_BLOCKJOB_PULSE_H
#define VS_VM_LIBVIRT_BLOCKJOB_PULSE_H

#include <libvirt/libvirt.h>

/* Hints from libvirt's events that something has happened to a domain, so that polling need not be frequent. */
struct vm_blockjob_pulse;
struct vm_blockjob_pulse *vm_blockjob_pulse_new(virDomainPtr dom);
void vm_blockjob_pulse_free(struct vm_blockjob_pulse *pulse);
/* Sleeps until a hint, at most @ms. */
void vm_blockjob_pulse_wait(struct vm_blockjob_pulse *pulse, unsigned ms);

#endif
