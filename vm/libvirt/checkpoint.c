/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/checkpoint.h"

#include <errno.h>
#include <stdlib.h>

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
