/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * changes.h: what has changed between two inventories of one domain, said in its log.
 */
#ifndef VS_VM_INVENTORY_CHANGES_H
#define VS_VM_INVENTORY_CHANGES_H

#include "vm/model/types.h"

/* @before: NULL where the domain is seen for the first time; then only what is wrong is said. */
void vm_changes_say(const struct vm_domain *before, const struct vm_domain *now);

#endif
