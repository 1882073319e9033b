/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * paused-guest.h: a guest that is started only to work on its disks. See paused-guest.c.
 */
#ifndef VS_VM_LIBVIRT_PAUSED_GUEST_H
#define VS_VM_LIBVIRT_PAUSED_GUEST_H

#include <libvirt/libvirt.h>

#include "vm/libvirt/dom.h"

/*
 * A shut-off domain is started without ever running: its vCPUs stay paused. A word in its *live* metadata, which ends with
 * the instance, tells that this is ours; see paused-guest.c. All of this under the domain's lock: another process of ours that
 * is at work on the domain looks just like one that has died.
 */
struct vm_paused_guest {
	char uuid[VIR_UUID_STRING_BUFLEN];
	char token[33];
	int64_t pid;       /* of its QEMU; 0: it could not be found */
	uint64_t began;    /* when that began, in clock ticks since the host did; pid 0: when it was about to be started */
	uint64_t spent_ns; /* by its busiest vCPU, when it was started */
};

/* Which process is the QEMU of this domain, and since when? Fills pid and began. False: none that we can see. */
bool vm_paused_guest_process(const char *uuid, struct vm_paused_guest *out);

/* Has that process the file open? 1, 0; -EACCES, -ENOENT, ...: nobody can tell. */
int vm_paused_guest_process_has(int64_t pid, const char *path, bool for_writing);

/* @note is called twice, with what can be noted before anything happens, and when its process is known; what could not be noted is not
 * started, or ended again. -EPERM: a managed save exists, which a start would use up; -EOPNOTSUPP: its QEMU cannot be seen from here. */
int vm_paused_guest_start(virDomainPtr dom, int (*note)(void *opaque, const struct vm_paused_guest *guest, struct vs_err *err),
			  void *opaque,
			  struct vm_paused_guest *out, struct vs_err *err);

/* Destroys it, if it is still that instance, paused, and was never resumed; who else is at work on it is waited for. 1: somebody
 * else's now, it was left; 0: it is gone; -ECANCELED: it was left; -ENODATA and others: it was left, for nobody can tell whose it is. */
int vm_paused_guest_end(virConnectPtr conn, const struct vm_paused_guest *guest, struct vm_dom_watch *watch,
			struct vs_err *err);

/* For the next mount after a crash: libvirt may still be starting what was @noted, while it says that the domain is shut off. Waits until
 * the domain is up, or that can no longer come, which takes half a minute from when it was asked. 0; -ECANCELED. */
int vm_paused_guest_await(virDomainPtr dom, const struct vm_paused_guest *noted, struct vm_dom_watch *watch, struct vs_err *err);

/* For the next mount after a crash: is this domain the instance that was @noted (token empty: none was), paused, and never resumed? 1
 * and *out, or 0; negative: nobody can tell. Takes the word away where it is of no more use. */
int vm_paused_guest_find(virDomainPtr dom, const struct vm_paused_guest *noted, struct vm_paused_guest *out,
			 struct vs_err *err);

#endif
