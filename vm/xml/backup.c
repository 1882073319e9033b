/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* Backup jobs: libvirt's formatbackup page. */
#include <errno.h>

#include "vm/util/mem.h"
#include "vm/xml/edit.h"
#include "vm/xml/xml-priv.h"

static int check_fits(const char *path, struct vs_err *err)
{
	return vm_xml_fits(path) ? 0 : vs_err_set(err, -EINVAL, "the path '%s' has characters that XML does not allow", path);
}

static void add_disk(xmlNode *list, const struct vm_new_backup_disk *spec)
{
	xmlNode *disk = vm_xml_add(list, "disk", NULL);

	vm_xml_set(disk, "name", spec->target);
	vm_xml_set(disk, "backup", "yes");
	vm_xml_set(disk, "type", "file");
	vm_xml_set(vm_xml_add(disk, "driver", NULL), "type", "qcow2");
	vm_xml_set(vm_xml_add(disk, "scratch", NULL), "file", spec->scratch);
}

int vm_new_backup(const char *socket, const struct vm_new_backup_disk *disks, size_t n, char **out, struct vs_err *err)
{
	int r = check_fits(socket, err);
	xmlNode *root, *server, *list;
	xmlDoc *doc;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = check_fits(disks[i].scratch, err);
	if (r < 0)
		return r;
	doc = xmlNewDoc((const xmlChar *)"1.0");
	root = doc ? xmlNewDocNode(doc, NULL, (const xmlChar *)"domainbackup", NULL) : NULL;
	if (!root)
		xoom();
	xmlDocSetRootElement(doc, root);
	vm_xml_set(root, "mode", "pull");
	server = vm_xml_add(root, "server", NULL);
	vm_xml_set(server, "transport", "unix");
	vm_xml_set(server, "socket", socket);
	list = vm_xml_add(root, "disks", NULL);
	for (size_t i = 0; i < n; i++)
		add_disk(list, &disks[i]);
	*out = vm_xml_dump(doc, true);
	return 0;
}

int vm_backup_socket(const char *text, char **out, struct vs_err *err)
{
	xmlDoc *doc;
	xmlNode *server;
	int r = vm_xml_load(text, "domainbackup", &doc, err);

	if (r < 0)
		return r;
	server = vm_xml_child(xmlDocGetRootElement(doc), "server");
	*out = server ? vm_xml_attr(server, "socket") : NULL;
	xmlFreeDoc(doc);
	return 0;
}
