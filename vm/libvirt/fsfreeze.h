/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * fsfreeze.h: freezing a guest's file systems. See fsfreeze.c.
 */
#ifndef VS_VM_LIBVIRT_FSFREEZE_H
#define VS_VM_LIBVIRT_FSFREEZE_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/dom.h"

/* Waits for agents that were asked to freeze and are not waited for any more, until each has had its seconds for the answer and for the
 * thawing: who ends the process calls it, or nobody would thaw what is frozen late. */
void vm_fsfreeze_await(void);

/* Does the guest's agent answer, within so many seconds? -EOPNOTSUPP, -ETIMEDOUT, -ECANCELED, -EAGAIN. */
int vm_fsfreeze_agent(virDomainPtr dom, unsigned seconds, struct vm_dom_watch *watch, struct vs_err *err);
/* Freezes the guest's file systems. On success *out is for vm_fsfreeze_thaw(); on failure they are not frozen, or will be
 * thawed. */
struct vm_fsfreeze;
int vm_fsfreeze(virDomainPtr dom, unsigned seconds, struct vm_dom_watch *watch, struct vm_fsfreeze **out, struct vs_err *err);
/* Takes it, also where it fails. */
int vm_fsfreeze_thaw(struct vm_fsfreeze *freeze, struct vs_err *err);

#endif
