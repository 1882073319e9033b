/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * events.h: libvirt's event loop, which one thread of ours turns.
 *
 * libvirt has one loop per process and wants it registered before the first connection is opened. It also carries the
 * keepalive messages, by which a hanging libvirtd is noticed. Callbacks run in that thread and must not call libvirt.
 */
#ifndef VS_VM_LIBVIRT_EVENTS_H
#define VS_VM_LIBVIRT_EVENTS_H

#include "qcow2/qcow2.h"

/* Start and stop pair up; the loop turns while there is a start that was not stopped. Any thread but the loop's own. */
int vm_events_start(struct vs_err *err);
void vm_events_stop(void);

#endif
