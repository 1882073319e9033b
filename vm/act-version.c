/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What differs between libvirts, in one place. Nobody else asks for a version number.
 *
 *     what                                            from        until      how we know
 *     delete of external snapshots                    9.0                    news 9.0
 *     ... removes the saved memory                    9.1                    news 9.1; 9.0 leaves the file
 *     ... offline whatever the configuration says     9.9                    9.0 looks the overlay up before QEMU runs, and
 *                                                                            fails for all but the top one
 *     ... refuses where it would hurt a branch        9.9                    9.0 unlinks what the branch stands on
 *     METADATA_ONLY spares the children               11.3                   9.0 re-points their disks although no data
 *                                                                            has moved; fixed by 11.3 at the latest
 *     revert to external ones                         9.9                    news 9.9, and told by the capabilities
 *     ... taken of a running domain, disks only       10.10                  "Refusing snapshot reversion" before
 *     revert to internal ones with memory works       all but 11.2, 11.3     news 11.4
 *     a domain starts with 200 layers                 all but 10.8 to 11.10  news 12.0: some 25 is the most there
 *
 * Where it is not known when something was mended, the later version counts: the way by hand works on all of them.
 */
#include <stdlib.h>
#include <string.h>

#include "vm/act-priv.h"
#include "vm/virterr.h"

#define V(major, minor) ((major) * 1000000ul + (minor) * 1000ul)
#define V_MINOR(version) ((version) / 1000 * 1000)

#define LAYERS_NESTED 25 /* json-c's nesting limit, three levels a layer */

static bool between(unsigned long version, unsigned long first, unsigned long last)
{
	return V_MINOR(version) >= first && V_MINOR(version) <= last;
}

struct vm_act_can vm_act_can_of(unsigned long version, bool guests_tell)
{
	return (struct vm_act_can){
		.version = version,
		.delete_external = version >= V(9, 0),
		.delete_removes_memory = version >= V(9, 1),
		.delete_offline = version >= V(9, 9),
		.delete_checks_branches = version >= V(9, 9),
		.forget_spares_children = version >= V(11, 3),
		.revert_external = version >= V(9, 9) && guests_tell,
		.revert_disk_only = version >= V(10, 10) && guests_tell,
		.revert_running = !between(version, V(11, 2), V(11, 3)),
		.start_layers = between(version, V(10, 8), V(11, 10)) ? LAYERS_NESTED : VM_CHAIN_MAX,
	};
}

int vm_act_can(virConnectPtr conn, struct vm_act_can *out, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	unsigned long version;

	if (virConnectGetLibVersion(conn, &version) < 0)
		return vm_virterr_set(err, "the version of libvirt");
	text = virConnectGetCapabilities(conn);
	if (!text)
		return vm_virterr_set(err, "the capabilities of libvirt");
	*out = vm_act_can_of(version, strstr(text, "<externalSnapshot/>") != NULL);
	return 0;
}
