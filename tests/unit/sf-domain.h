/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * sf-domain.h: domains and inventories written down by hand, for the tests of fs/. Everything is borrowed from the test's
 * own initialisers; vm_inventory_put() must not see them (sf_test_put is for trees over them).
 */
#ifndef VS_TEST_SF_DOMAIN_H
#define VS_TEST_SF_DOMAIN_H

#include "fs/tree.h"

/* vm.h's strings are char *, because they are owned; nobody writes to these. */
#define S(text) ((char *)(text))
#define LIST(...) ((char *[]){__VA_ARGS__, NULL})
#define MONDAY_NS 1794794401000000005 /* 2026-11-16T02:00:01 UTC, and 5 ns */

static inline void sf_test_put(struct vm_inventory *inventory)
{
	(void)inventory;
}

static inline struct vm_disk sf_test_disk(const char *target, const char *file, uint64_t ino)
{
	static char path[] = "/images/a.qcow2", *chain[] = {path, NULL};

	return (struct vm_disk){.target = S(target),
				.file = S(file),
				.state = file ? VM_OK : VM_STALE,
				.size = 1 << 20,
				.created_ns = MONDAY_NS,
				.ino = ino,
				.chain = chain,
				.format = Q2_FORMAT_QCOW2};
}

#endif
