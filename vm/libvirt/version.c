/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What differs between libvirts, in one place. Nobody else asks for libvirt's version number.
 *
 *     what                                            from        until      how we know
 *     a domain starts with 200 layers                 all but 10.8 to 11.10  seen: 9.0 starts 40, 11.3 does not (suite `disks`). Where
 *                                                                            it begins and ends is read in the news of 12.0, not seen
 *
 * What used to differ and is not asked any more, because it is done by hand on every version: deleting and reverting to external
 * snapshots. Their own ways differ in what they remove, re-point and rename (9.0: no revert, no look at branches; 9.9 and later: an
 * overlay over every disk, also over those that took no part). Whether a revert to an internal snapshot with memory works, libvirt
 * says itself.
 */
#include "vm/libvirt/version.h"


#include "vm/libvirt/virterr.h"
#include "vm/model/types.h"

#define V(major, minor) ((major) * 1000000ul + (minor) * 1000ul)
#define V_MINOR(version) ((version) / 1000 * 1000)

#define LAYERS_NESTED 25 /* json-c's nesting limit, three levels a layer */

static bool between(unsigned long version, unsigned long first, unsigned long last)
{
	return V_MINOR(version) >= first && V_MINOR(version) <= last;
}

struct vm_version vm_version_of(unsigned long version)
{
	return (struct vm_version){
		.start_layers = between(version, V(10, 8), V(11, 10)) ? LAYERS_NESTED : VM_CHAIN_MAX,
	};
}

int vm_version_get(virConnectPtr conn, struct vm_version *out, struct vs_err *err)
{
	unsigned long version;

	if (virConnectGetLibVersion(conn, &version) < 0)
		return vm_virterr_set(err, "the version of libvirt");
	*out = vm_version_of(version);
	return 0;
}
