/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/sum.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define PIECE (256 * 1024)

/* Of the header: from the cluster size to where the snapshots lie. Before it is the place of the backing file's name, behind it are marks that
 * come and go with whoever opens the image, then the name itself. */
#define FIELDS_AT 20
#define FIELDS_LEN 52

static bool is_it(int fd, const struct vm_sum_file *expected)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_ino == expected->ino && (uint64_t)st.st_size == expected->size &&
	       vm_timespec_ns(st.st_mtim) == expected->mtime_ns;
}

/* FNV-1a, but eight bytes at a time. @len: a multiple of that. */
static uint64_t add(uint64_t sum, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i += sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, data + i, sizeof(word));
		sum = (sum ^ word) * UINT64_C(0x100000001b3);
		sum ^= sum >> 29;
	}
	return sum;
}

/* As many bytes as there are, up to @len. */
static ssize_t read_all(int fd, char *buffer, size_t len, uint64_t off)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n = pread(fd, buffer + got, len - got, (off_t)(off + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

/* Adds @len bytes, at most a piece. */
static bool sum_up(int fd, char *buffer, uint64_t off, size_t len, uint64_t *sum)
{
	size_t whole = (len + sizeof(uint64_t) - 1) / sizeof(uint64_t) * sizeof(uint64_t);

	if (read_all(fd, buffer, len, off) != (ssize_t)len)
		return false;
	memset(buffer + len, 0, whole - len);
	*sum = add(*sum, buffer, whole);
	return true;
}

uint64_t vm_sum(const char *path, const struct vm_sum_file *expected, unsigned cluster_bits)
{
	vs_autoclose int fd = expected->size > VM_SUM_MAX ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	vs_autofree char *buffer = NULL;
	uint64_t sum = UINT64_C(0xcbf29ce484222325);

	if (fd < 0 || !is_it(fd, expected))
		return 0;
	buffer = xcalloc(PIECE, 1);
	if (cluster_bits && !sum_up(fd, buffer, FIELDS_AT, FIELDS_LEN, &sum))
		return 0;
	for (uint64_t off = cluster_bits ? UINT64_C(1) << cluster_bits : 0; off < expected->size; off += PIECE)
		if (!sum_up(fd, buffer, off, expected->size - off < PIECE ? (size_t)(expected->size - off) : PIECE, &sum))
			return 0;
	return !is_it(fd, expected) ? 0 : sum ? sum : 1;
}
