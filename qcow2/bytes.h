/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* bytes.h: big-endian loads and stores by offset. qcow2 numbers are never read through a struct laid over the bytes. */
#ifndef Q2_BYTES_H
#define Q2_BYTES_H

#include <stdint.h>

static inline uint16_t q2_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t q2_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t q2_be64(const uint8_t *p)
{
	return (uint64_t)q2_be32(p) << 32 | q2_be32(p + 4);
}

static inline void q2_put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void q2_put32(uint8_t *p, uint32_t v)
{
	q2_put16(p, (uint16_t)(v >> 16));
	q2_put16(p + 2, (uint16_t)v);
}

static inline void q2_put64(uint8_t *p, uint64_t v)
{
	q2_put32(p, (uint32_t)(v >> 32));
	q2_put32(p + 4, (uint32_t)v);
}

#endif
