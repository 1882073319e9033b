/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Where libvirt keeps a TPM's state, no XML tells before libvirt 10.10: it is swtpm/UUID below the driver's own directory, which its URI gives.
 */
#include "vm/libvirt/nv.h"

#include <string.h>
#include <sys/stat.h>

#include "vm/libvirt/conn.h"
#include "vm/util/mem.h"

static bool is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* swtpm's names: tpm2/tpm2-00.permall, and tpm1.2/tpm-00.permall. */
static void find_tpm(virDomainPtr dom, const struct vm_xml_domain *xml, struct vm_nv_file *file)
{
	vs_autofree char *dir = vm_conn_state_dir(virDomainGetConnect(dom));
	bool old = xml->tpm_version && !strcmp(xml->tpm_version, "1.2");
	const char *name = old ? "tpm-00.permall" : "tpm2-00.permall";
	char uuid[VIR_UUID_STRING_BUFLEN];

	if (xml->tpm_source && is_directory(xml->tpm_source))
		file->path = xasprintf("%s/%s", xml->tpm_source, name);
	else if (xml->tpm_source)
		file->path = xstrdup(xml->tpm_source);
	else if (dir && virDomainGetUUIDString(dom, uuid) == 0)
		file->path = xasprintf("%s/swtpm/%s/%s/%s", dir, uuid, old ? "tpm1.2" : "tpm2", name);
	else
		file->why = "nobody can tell where libvirt keeps it";
}

void vm_nv_files(virDomainPtr dom, const struct vm_xml_domain *xml, struct vm_nv_files *out)
{
	*out = (struct vm_nv_files){0};
	if (xml->has_nvram) {
		struct vm_nv_file *file = &out->v[out->n++];

		*file = (struct vm_nv_file){ .what = "nvram", .phrase = "firmware variables", .format = xml->nvram_format };
		file->path = xstrdup_or_null(xml->nvram);
		file->why = xml->nvram ? NULL : "they are in no file of this host";
	}
	if (xml->has_tpm) {
		struct vm_nv_file *file = &out->v[out->n++];

		*file = (struct vm_nv_file){ .what = "tpm", .phrase = "TPM contents", .format = Q2_FORMAT_RAW };
		find_tpm(dom, xml, file);
	}
}

void vm_nv_files_fini(struct vm_nv_files *files)
{
	for (size_t i = 0; i < files->n; i++)
		free(files->v[i].path);
	files->n = 0;
}
