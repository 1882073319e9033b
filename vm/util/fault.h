/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * fault.h: the points at which a test lets the process die.
 *
 * Builds with -Dfaults=true look at every vm_fault() into the file that the environment's VIRT_SNAPFS_FAULT names. It holds
 * a number: 1 ends the process there and then, as by SIGKILL, and leaves "0 FILE:LINE" in it; a larger one is made smaller by
 * one; 0, or no file, is "go on". A point stands after every call that changes something: a libvirt object, a file, the
 * facts. So a test that writes 1, 2, 3, ... into the file sees a command interrupted between all of its steps, and knows that it has
 * seen all when the command ends and the number is not used up.
 *
 * It dies between calls. So what a death within a call would leave behind, a libvirtd that goes on with it, need not be waited for as long
 * there: VM_FAULT_PATIENCE.
 *
 * Threads: any; the number counts the points of all.
 */
#ifndef VS_VM_UTIL_FAULT_H
#define VS_VM_UTIL_FAULT_H

#ifdef VS_FAULTS
#define vm_fault() vm_fault_at(__FILE__, __LINE__)
void vm_fault_at(const char *file, int line);
#define VM_FAULT_PATIENCE(seconds) 1
#else
#define VM_FAULT_PATIENCE(seconds) (seconds)
static inline void vm_fault(void)
{
}
#endif

#endif
