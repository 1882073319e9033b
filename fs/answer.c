/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "answer.h"

void sf_answer_wrote(struct sf_answer *a, uint64_t off, size_t moved)
{
	a->still = a->plain ? a->plain_end : a->next;
	a->base = a->next = off + moved;
	a->plain = false;
	a->fresh = true;
}

/* Is @off one of the text's own? Who reads on from the answer's beginning may do so after somebody went back. */
static bool is_plain(const struct sf_answer *a, uint64_t off)
{
	if (a->plain)
		return off == a->plain_end || off != a->next;
	return off < a->base;
}

size_t sf_answer_read(struct sf_answer *a, uint64_t off, size_t size, size_t len, size_t *at)
{
	uint64_t from;

	if (a->fresh && off && off == a->still) /* at 0 the text begins anyhow */
		a->base = a->next = off;
	a->fresh = false;
	a->plain = is_plain(a, off);
	from = a->plain ? off : off - a->base;
	*at = from < len ? (size_t)from : len;
	if (size > len - *at)
		size = len - *at;
	if (a->plain)
		a->plain_end = off + size;
	else
		a->next = off + size;
	return size;
}

uint64_t sf_answer_end(const struct sf_answer *a, size_t len)
{
	return (a->plain ? 0 : a->base) + len;
}
