/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * answer.h: where in an open file the answer to a write begins.
 *
 * A write moves the file's position by what it wrote, and the answer, a text of another length, begins at its own first
 * byte. Who reads on through the same open file is to get it from there:
 *
 *	exec 3<>ctl; echo try delete monday >&3; head -n 1 <&3
 *
 * The kernel keeps the position and tells us nothing of lseek(2), nor whether a read is one at an offset of its own, as
 * pread(2) makes them. So an offset is taken for one of two things:
 *
 *	at or after the place where the write left the position   on from there: the text begins at that place
 *	before it                                                 somebody went back: the offset is the text's own, and
 *	                                                          so are those that follow on from it
 *
 * The first lets tools that read too much and seek back by it (head, the shell's `read`) work as on any other file, the second
 * those that seek to 0 or name their offsets. A write that leaves the position alone (pwrite(2), or one to a file opened with
 * O_APPEND that failed) is known by the first read after it, which is where the one before had ended.
 *
 * Pure. The caller serialises.
 */
#ifndef VS_ANSWER_H
#define VS_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All zero: nothing was written yet, every offset is the text's own. */
struct sf_answer {
	uint64_t base;      /* the position at which the text begins */
	uint64_t next;      /* where reading on from there has come to */
	uint64_t still;     /* where the position is if the write did not move it */
	uint64_t plain_end; /* where reading by the text's own offsets has come to */
	bool plain;         /* somebody went back */
	bool fresh;         /* nothing was read since the write */
};

/* A write at @off was answered, and moved the position by @moved bytes: 0 where it failed. */
void sf_answer_wrote(struct sf_answer *a, uint64_t off, size_t moved);
/* A read of @size bytes at @off, of a text of @len: returns how many it gets, from *at in the text. */
size_t sf_answer_read(struct sf_answer *a, uint64_t off, size_t size, size_t len, size_t *at);
/* The offset behind the last byte of a text of @len, for who looks for the end. */
uint64_t sf_answer_end(const struct sf_answer *a, size_t len);

#endif
