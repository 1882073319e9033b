/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* decode.h: one compressed cluster. Decoders are per thread and freed when the thread ends. */
#ifndef Q2_DECODE_H
#define Q2_DECODE_H

#include "base.h"

/*
 * Decodes the stream at @in (at most @in_len bytes, what follows it is ignored) into exactly @out_len bytes.
 * Returns 0, -EIO when the stream is damaged or ends early, -ENOMEM.
 * Deflate: as QEMU (raw, the output decides); zstd: as QEMU (several frames, the last one complete), with the window
 * limited to what a cluster can need. @used: where the stream ended, its length in bytes; may be NULL.
 */
int q2_decode(bool zstd, const void *in, size_t in_len, void *out, size_t out_len, size_t *used);

/* A scratch buffer of this thread, at least @len bytes, 4 KiB aligned; valid until the next call with the same @slot
 * (0..1) on this thread. NULL: no memory. */
void *q2_scratch(unsigned slot, size_t len);

#endif
