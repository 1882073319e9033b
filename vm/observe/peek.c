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
 */
#include "vm/observe/peek.h"

#include <errno.h>
#include <endian.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "vm/util/mem.h"

#define HEAD 1024
#define DESCRIPTION_MAX (1 << 20) /* bytes; QEMU reads 64 KiB at most */

void vm_peeked_fini(struct vm_peeked *peeked)
{
	for (char **part = peeked->parts; part && *part; part++)
		free(*part);
	free(peeked->parts);
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

static void take_part(const char *line, struct vm_peeked *out, size_t *n)
{
	const char *from = strchr(line, '"'), *to = from ? strchr(from + 1, '"') : NULL;

	if (!to)
		return;
	out->parts = xreallocarray(out->parts, *n + 2, sizeof(*out->parts));
	out->parts[(*n)++] = xstrndup(from + 1, (size_t)(to - from - 1));
	out->parts[*n] = NULL;
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
	} else if (is_description((const char *)head)) {
		return read_description(fd, 0, DESCRIPTION_MAX, out);
	}
	return 0;
}
