/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Formats that can stand on a file of any format, or on a raw one. Left out are those whose parents are of their own kind (VHD, VHDX,
 * VDI: neither qcow2 nor raw can be one), and those that record no parent (Parallels).
 *
 *   qcow    "QFI\xfb", version 1: offset of the backing name at 8
 *   qcow2   "QFI\xfb", version 2 and up
 *   QED     "QED\0": features at 16 (little-endian), bit 0: it has a backing file
 *   UML COW "OOOM" or "MOOO": the name of the backing file at 8
 *   VMDK    a description, which is a text of its own or lies in a sparse image ("KDMV": sector and sectors at 28 and 36, little-endian).
 *           It names a parent, and the files that the image consists of, which QEMU opens as they are. Sparse images without a
 *           description ("COWD", too) are such parts.
 *
 * And a guest that libvirt has saved, whole or not (yet) to its end, which needs what its definition names. In the byte order of its host:
 *
 *   0   16  "LibvirtQemudSave", "LibvirtQemudPart"
 *   16   4  version: small, so its byte order tells that of the others
 *   20   4  bytes of what follows the header: the definition, a NUL, whatever
 *   92      the definition
 */
#include "vm/observe/peek.h"

#include <byteswap.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "vm/util/mem.h"
#include "vm/xml/xml.h"

#define HEAD 1024
#define DESCRIPTION_MAX (1 << 20) /* bytes; QEMU reads 64 KiB at most */
#define SAVED_HEADER 92
#define SAVED_MAX (512 << 10) /* bytes of a definition; real ones have some tens of KiB. To read this much takes a tenth of a second */
#define NAMES_MAX 10000

void vm_peeked_fini(struct vm_peeked *peeked)
{
	for (char **name = peeked->names; name && *name; name++)
		free(*name);
	free(peeked->names);
	*peeked = (struct vm_peeked){0};
}

static uint64_t le64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static uint64_t be64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static void stands(struct vm_peeked *out, const char *why)
{
	out->kind = VM_PEEK_STANDS;
	out->why = why;
}

/* ---------------------------------------------------------------- VMDK */

/* As QEMU tells one: comments and blank lines, then "version=". */
static bool is_description(const char *text)
{
	for (;;) {
		if (*text == '#')
			text += strcspn(text, "\n");
		text += strspn(text, " \r");
		if (*text != '\n')
			return !strncmp(text, "version=", strlen("version="));
		text++;
	}
}

/* 'RW 16384 FLAT "disk.raw" 0'. */
static bool is_extent(const char *line)
{
	return !strncmp(line, "RW ", 3) || !strncmp(line, "RDONLY ", 7) || !strncmp(line, "NOACCESS ", 9);
}

/* Takes @name. */
static void add_name(struct vm_peeked *out, size_t *n, char *name)
{
	out->names = xreallocarray(out->names, *n + 2, sizeof(*out->names));
	out->names[(*n)++] = name;
	out->names[*n] = NULL;
}

static void take_part(const char *line, struct vm_peeked *out, size_t *n)
{
	const char *from = strchr(line, '"'), *to = from ? strchr(from + 1, '"') : NULL;

	if (!to)
		return;
	add_name(out, n, xstrndup(from + 1, (size_t)(to - from - 1)));
	out->kind = VM_PEEK_PARTS;
}

static void describe(char *text, struct vm_peeked *out)
{
	char *rest = NULL;
	size_t n = 0;

	for (char *line = strtok_r(text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
		line += strspn(line, " \t");
		if ((!strncmp(line, "parentCID=", 10) && strncasecmp(line + 10, "ffffffff", 8) != 0) ||
		    !strncmp(line, "parentFileNameHint", 18)) {
			vm_peeked_fini(out);
			stands(out, "is a VMDK image with a parent");
			return;
		}
		if (is_extent(line))
			take_part(line, out, &n);
	}
}

static int read_description(int fd, uint64_t off, uint64_t len, struct vm_peeked *out)
{
	vs_autofree char *text = NULL;
	ssize_t n;

	if (len > DESCRIPTION_MAX || off > INT64_MAX - len) {
		stands(out, "is a VMDK image whose description is too long");
		return 0;
	}
	text = xcalloc(len + 1, 1);
	n = pread(fd, text, len, (off_t)off);
	if (n < 0)
		return -errno;
	describe(text, out);
	return 0;
}

static int peek_sparse(int fd, const uint8_t *head, struct vm_peeked *out)
{
	uint64_t sector = le64(head + 28), sectors = le64(head + 36);

	if (!sector || !sectors) /* a part of another image */
		return 0;
	return read_description(fd, sector > INT64_MAX / 512 ? INT64_MAX : sector * 512, sectors > DESCRIPTION_MAX ? UINT64_MAX : sectors * 512, out);
}

/* ---------------------------------------------------------------- saved guests */

static bool is_saved(const uint8_t *head)
{
	return !memcmp(head, "LibvirtQemudSave", 16) || !memcmp(head, "LibvirtQemudPart", 16);
}

static void add_named(struct vm_peeked *out, size_t *n, const char *name)
{
	if (name && *n < NAMES_MAX)
		add_name(out, n, xstrdup(name));
}

/* A medium that is only read, and is raw, stands on nothing. */
static bool is_image(const struct vm_xml_disk *disk)
{
	return disk->source.format != Q2_FORMAT_RAW || (!disk->readonly && disk->device != VM_DEVICE_CDROM);
}

static void take_definition(const struct vm_xml_domain *xml, struct vm_peeked *out)
{
	size_t n = 0;

	*out = (struct vm_peeked){ .kind = VM_PEEK_SAVED };
	for (size_t i = 0; i < xml->n_disks; i++)
		if (is_image(&xml->disks[i]))
			add_named(out, &n, xml->disks[i].source.path);
	out->n_images = n;
	for (size_t i = 0; i < xml->n_files; i++)
		add_named(out, &n, xml->files[i].path);
	for (size_t i = 0; i < xml->n_disks; i++)
		add_named(out, &n, xml->disks[i].source.volume);
	for (size_t i = 0; i < xml->n_mentions; i++)
		add_named(out, &n, xml->mentions[i].path);
	add_named(out, &n, xml->nvram);
	add_named(out, &n, xml->tpm_source);
	if (n < NAMES_MAX)
		return;
	vm_peeked_fini(out);
	stands(out, "is a saved guest whose definition names too many files");
}

int vm_peek_saved(int fd, struct vm_peeked *out)
{
	struct vm_xml_domain *xml = NULL;
	vs_autofree char *text = NULL;
	uint8_t head[SAVED_HEADER] = {0};
	uint32_t version, len;
	ssize_t n = pread(fd, head, sizeof(head), 0);

	*out = (struct vm_peeked){0};
	if (n < 0)
		return -errno;
	memcpy(&version, head + 16, sizeof(version));
	memcpy(&len, head + 20, sizeof(len));
	if (version > UINT16_MAX)
		len = bswap_32(len);
	stands(out, "is a saved guest whose definition cannot be read");
	if (len > SAVED_MAX)
		return 0;
	text = xcalloc((size_t)len + 1, 1);
	n = pread(fd, text, len, SAVED_HEADER);
	if (n < 0)
		return -errno;
	if (vm_xml_domain_parse(text, &xml, NULL) == 0)
		take_definition(xml, out);
	vm_xml_domain_free(xml);
	return 0;
}

/* ---------------------------------------------------------------- all */

static bool begins(const uint8_t *head, const char *magic)
{
	return !memcmp(head, magic, 4);
}

int vm_peek(int fd, struct vm_peeked *out)
{
	uint8_t head[HEAD + 1] = {0};
	ssize_t n = pread(fd, head, HEAD, 0);

	*out = (struct vm_peeked){ .kind = VM_PEEK_ALONE };
	if (n < 0)
		return -errno;
	if (begins(head, "QFI\xfb") && !memcmp(head + 4, "\0\0\0\1", 4)) {
		if (be64(head + 8))
			stands(out, "is a qcow image of version 1 with a backing file");
	} else if (begins(head, "QFI\xfb")) {
		out->kind = VM_PEEK_QCOW2;
	} else if (begins(head, "QED\0")) {
		if (le64(head + 16) & 1)
			stands(out, "is a QED image with a backing file");
	} else if (begins(head, "OOOM") || begins(head, "MOOO")) {
		if (head[8])
			stands(out, "is a COW image with a backing file");
	} else if (begins(head, "KDMV")) {
		return peek_sparse(fd, head, out);
	} else if (is_saved(head)) {
		out->kind = VM_PEEK_SAVED;
	} else if (is_description((const char *)head)) {
		return read_description(fd, 0, DESCRIPTION_MAX, out);
	}
	return 0;
}
