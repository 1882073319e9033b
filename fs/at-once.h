/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * at-once.h: a system call that is entered soon after a moment, or not at all.
 *
 * A process can be stopped at any instruction, for as long as one likes: what it has found out just before a system call may
 * be false when it makes it. Here a splice(2) is made only within a fraction of a second after a moment that the caller noted.
 * Threads: any.
 */
#ifndef VS_AT_ONCE_H
#define VS_AT_ONCE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Can it be had, on this machine and in this thread? The rest may be called only then. */
bool sf_at_once_works(void);

/* Now, in ticks of a clock of the machine's that never stands still. */
uint64_t sf_at_once_now(void);

/* splice(@from, NULL, @to, NULL, @len, 0), entered less than 0.2 s after @since (about 0.03 s, by how fast the clock ticks). Bytes, or negative
 * errno; -ECANCELED: it is later than that, or the thread was interrupted just here; nothing has been done. */
ssize_t sf_at_once_splice(int from, int to, size_t len, uint64_t since);

#endif
