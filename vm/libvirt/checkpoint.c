/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/libvirt/conn.h"
#include "vm/libvirt/untold.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/mem.h"

int vm_checkpoints(virDomainPtr dom, char ***names, struct vs_err *err)
{
	virDomainCheckpointPtr *list = NULL;
	int n = virDomainListAllCheckpoints(dom, &list, VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL);

	*names = NULL;
	if (n < 0 && vm_virterr_code() != -EOPNOTSUPP)
		return vm_virterr_set(err, "the checkpoints of the domain");
	*names = xcalloc((size_t)(n < 0 ? 0 : n) + 1, sizeof(**names));
	for (int i = 0; i < n; i++) {
		(*names)[i] = xstrdup(virDomainCheckpointGetName(list[i]));
		virDomainCheckpointFree(list[i]);
	}
	free(list);
	return 0;
}

void vm_checkpoints_free(char **names)
{
	for (char **name = names; name && *name; name++)
		free(*name);
	free(names);
}

struct listed {
	virDomainPtr dom;
	char *const *names;
};

static bool is_listed(void *opaque, const char *name)
{
	const struct listed *listed = opaque;
	virDomainCheckpointPtr point;

	for (char *const *at = listed->names; at && *at; at++)
		if (!strcmp(*at, name))
			return true;
	point = virDomainCheckpointLookupByName(listed->dom, name, 0);
	if (point)
		virDomainCheckpointFree(point);
	return point;
}

char *vm_checkpoint_unlisted(virDomainPtr dom, char *const *names)
{
	struct listed listed = { dom, names };
	struct vm_untold untold = {0};
	vm_conn_autodirs struct vm_conn_dirs dirs;
	vs_autofree char *dir = NULL;
	char *path = NULL;

	vm_conn_dirs(virDomainGetConnect(dom), &dirs);
	dir = dirs.checkpoints ? xasprintf("%s/%s", dirs.checkpoints, virDomainGetName(dom)) : NULL;
	if (vm_untold_look(&untold, dir, 0, is_listed, &listed))
		path = xasprintf("%s/%s.xml", dir, untold.names[0]);
	vm_untold_fini(&untold);
	return path;
}
