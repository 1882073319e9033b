/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/definitions.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/util/mem.h"
#include "vm/xml/xml.h"

#define SUFFIX ".xml"
#define DEFINITION_MAX (4u << 20) /* bytes */

static void tell_dir_of(const struct vm_definitions *found, const char *path)
{
	const char *slash = path[0] == '/' ? strrchr(path, '/') : NULL;
	vs_autofree char *dir = slash && slash != path ? xstrndup(path, (size_t)(slash - path)) : NULL;

	if (dir && strncmp(path, "/dev/", 5) != 0)
		found->dir(dir, found->opaque);
}

static int look_at(const struct vm_definitions *found, const char *path, struct vs_err *err)
{
	vs_autofree char *text = xcalloc(1, DEFINITION_MAX);
	FILE *f = fopen(path, "re");
	size_t len = f ? fread(text, 1, DEFINITION_MAX - 1, f) : 0;
	struct vm_xml_domain *domain = NULL;
	int r = f ? (ferror(f) ? -EIO : 0) : -errno;

	if (f)
		fclose(f);
	if (r == -ENOENT || r == -EACCES) /* undefined meanwhile; another user's */
		return 0;
	if (r == 0 && (len == DEFINITION_MAX - 1 || vm_xml_domain_parse(text, &domain, NULL) < 0))
		r = -EBADMSG;
	for (size_t i = 0; domain && i < domain->n_files; i++)
		tell_dir_of(found, domain->files[i].path);
	for (size_t i = 0; domain && i < domain->n_disks; i++)
		if (domain->disks[i].source.path && vm_xml_disk_exposed(&domain->disks[i]))
			found->disk(domain->disks[i].source.path, found->opaque);
	vm_xml_domain_free(domain);
	return r < 0 ? vs_err_set(err, r, "libvirt's definition '%s' cannot be read: %s", path, strerror(-r)) : 0;
}

static int look_into(const struct vm_definitions *found, const char *dir, struct vs_err *err)
{
	DIR *stream = opendir(dir);
	struct dirent *entry;
	int r = 0;

	if (!stream && errno != ENOENT && errno != ENOTDIR && errno != EACCES)
		return vs_err_set(err, -errno, "libvirt's definitions in '%s' cannot be listed: %s", dir, strerror(errno));
	while (r == 0 && stream && (errno = 0, entry = readdir(stream))) {
		size_t len = strlen(entry->d_name), tail = strlen(SUFFIX);
		vs_autofree char *path = xasprintf("%s/%s", dir, entry->d_name);

		if (len > tail && !strcmp(entry->d_name + len - tail, SUFFIX) && entry->d_type != DT_DIR)
			r = look_at(found, path, err);
	}
	if (r == 0 && stream && errno)
		r = vs_err_set(err, -errno, "libvirt's definitions in '%s' cannot be listed: %s", dir, strerror(errno));
	if (stream)
		closedir(stream);
	return r;
}

static bool may_list(const char *dir)
{
	DIR *stream = opendir(dir);

	if (stream)
		closedir(stream);
	return stream || (errno != EACCES && errno != ENOENT);
}

int vm_definitions_read(const struct vm_definitions *found, struct vs_err *err)
{
	const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	vs_autofree char *own = config && config[0] ? xasprintf("%s/libvirt/qemu", config) : home ? xasprintf("%s/.config/libvirt/qemu", home) : NULL;
	vs_autofree char *own_save = own ? xasprintf("%s/save", own) : NULL;
	const char *const definitions[] = { "/etc/libvirt/qemu", own }, *const saves[] = { "/var/lib/libvirt/qemu/save", own_save };
	int r = 0;

	for (size_t i = 0; i < VS_ARRAY_LEN(definitions); i++) {
		if (r == 0 && definitions[i])
			r = look_into(found, definitions[i], err);
		if (saves[i] && may_list(saves[i]))
			found->dir(saves[i], found->opaque);
	}
	return r;
}
