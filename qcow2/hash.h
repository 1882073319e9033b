/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* hash.h: one number of many, for telling apart what nobody forges. */
#ifndef Q2_HASH_H
#define Q2_HASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t q2_mix(uint64_t h, uint64_t value)
{
	h ^= value;
	h *= UINT64_C(0x9e3779b97f4a7c15);
	return h ^ h >> 29;
}

static inline uint64_t q2_mix_bytes(uint64_t h, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	for (size_t i = 0; i < len; i++)
		h = q2_mix(h, p[i]);
	return q2_mix(h, 256 + len);
}

#endif
