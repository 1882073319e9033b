/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/sum.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define PIECE (256 * 1024)

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

uint64_t vm_sum(const char *path, const struct vm_sum_file *expected, uint64_t from)
{
	vs_autoclose int fd = expected->size > VM_SUM_MAX ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	vs_autofree char *buffer = NULL;
	uint64_t sum = UINT64_C(0xcbf29ce484222325);
	ssize_t n = 0;

	if (fd < 0 || !is_it(fd, expected))
		return 0;
	buffer = xcalloc(PIECE, 1);
	for (uint64_t off = from; off < expected->size; off += PIECE) {
		size_t len = expected->size - off < PIECE ? (size_t)(expected->size - off) : PIECE;

		n = read_all(fd, buffer, len, off);
		if (n != (ssize_t)len)
			return 0;
		memset(buffer + n, 0, -(size_t)n % sizeof(uint64_t));
		sum = add(sum, buffer, (len + sizeof(uint64_t) - 1) / sizeof(uint64_t) * sizeof(uint64_t));
	}
	return !is_it(fd, expected) ? 0 : sum ? sum : 1;
}
