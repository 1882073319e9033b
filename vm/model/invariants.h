/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * invariants.h: what readers of an inventory rely on and nobody looks at twice. The sanitizer builds look at it whenever an inventory is
 * put in place. Pure.
 */
#ifndef VS_VM_MODEL_INVARIANTS_H
#define VS_VM_MODEL_INVARIANTS_H

#include "vm/model/types.h"

#ifdef __SANITIZE_ADDRESS__
#define VM_CHECKS 1
#else
#define VM_CHECKS 0
#endif

/* -EINVAL: it does not hold together, and *err says where. */
int vm_invariants_of_inventory(const struct vm_inventory *inv, struct vs_err *err);
/* Ends the process if @r is negative. */
void vm_invariants_must_hold(int r, const struct vs_err *err);

#endif
