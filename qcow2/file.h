/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* file.h: what only the rooms of qcow2/ may do with files. */
#ifndef Q2_FILE_H
#define Q2_FILE_H

#include "qcow2.h"

/* The two steps of q2_file_open(): a descriptor that touches nothing, and the real one from it. */
int q2_path_open(const char *path, int *path_fd, struct vs_err *err);
int q2_path_reopen(int path_fd, const char *path, struct q2_file **out, struct vs_err *err);

/* Read through O_DIRECT: no page cache to hand pages from. */
bool q2_file_direct(struct q2_file *f);
/* From now on. -EOPNOTSUPP: not in this file system. */
int q2_file_go_direct(struct q2_file *f, struct vs_err *err);

/* pread that reads zeros past the end of the file. Returns the count that was really there. */
ssize_t q2_pread_zeros(struct q2_file *f, void *buf, size_t len, uint64_t host_off);

/* Is it another file now that lies where this one was opened? One that is only gone was not replaced. @stamp: this one's. */
bool q2_file_replaced(struct q2_file *f, const struct q2_stamp *stamp);

/* The first extent that the file system has at or behind @host_off, within @len bytes; it may begin before and end behind. len 0: there
 * is none. What was written is on its way to the disk before that is told. Negative errno: this file system does not tell. */
struct q2_host_extent {
	uint64_t host_off, len;
	bool unwritten; /* allocated, and reads as zeros */
};
int q2_file_extent(struct q2_file *f, uint64_t host_off, uint64_t len, struct q2_host_extent *out);

/* Is the page of that byte in the page cache (or is that not known, or there is none)? Has those bytes brought there, and does not wait. */
bool q2_file_resident(struct q2_file *f, uint64_t host_off);
void q2_file_fetch(struct q2_file *f, uint64_t host_off, uint64_t len);

/* Takes or drops the guard: an OFD read lock on byte 201, "I do not let others write". */
int q2_file_guard(struct q2_file *f, bool on);

/* A read lease (fcntl(2), F_SETLEASE) on this descriptor: see q2_view_lease(). -EAGAIN: it is open for writing; -ENOTSUP: there is none to
 * be had on this file. */
int q2_file_lease(struct q2_file *f, const struct q2_lease *lease);
/* It is held, and nobody waits for its end. */
bool q2_file_leased(struct q2_file *f);
void q2_file_unlease(struct q2_file *f);

#endif
