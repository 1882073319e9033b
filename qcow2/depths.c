/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "depths.h"

#include <stdlib.h>

#define PAGE 4096u /* stretches */
#define MOST (UINT64_C(1) << 22)
#define LEAST_BITS 16

void q2_depths_init(struct q2_depths *d, uint64_t size)
{
	*d = (struct q2_depths){ .size = size, .bits = LEAST_BITS };
	while (size >> d->bits >= MOST)
		d->bits++;
	d->n_pages = (size_t)(size >> d->bits) / PAGE + 1;
	d->pages = calloc(d->n_pages, sizeof(*d->pages));
	if (!d->pages)
		d->n_pages = 0;
}

void q2_depths_fini(struct q2_depths *d)
{
	for (size_t i = 0; i < d->n_pages; i++)
		free(atomic_load(&d->pages[i]));
	free(d->pages);
	*d = (struct q2_depths){ 0 };
}

void q2_depths_stretch(const struct q2_depths *d, uint64_t off, uint64_t *from, uint64_t *to)
{
	uint64_t len = UINT64_C(1) << d->bits;

	*from = off & ~(len - 1);
	*to = d->size - *from < len ? d->size : *from + len;
}

/* What is noted of a stretch: 0, or how many layers + 1. */
static unsigned noted(const struct q2_depths *d, uint64_t stretch)
{
	const atomic_uchar *page = stretch / PAGE < d->n_pages ? atomic_load_explicit(&d->pages[stretch / PAGE], memory_order_acquire) : NULL;

	return page ? atomic_load_explicit(&page[stretch % PAGE], memory_order_relaxed) : 0;
}

int q2_depths_get(const struct q2_depths *d, uint64_t off, uint64_t end, uint64_t *upto)
{
	uint64_t stretch = off >> d->bits;
	unsigned here = noted(d, stretch);

	if (!here)
		return -1;
	do
		stretch++;
	while (stretch << d->bits < end && noted(d, stretch) >= here);
	*upto = stretch << d->bits < end ? stretch << d->bits : end;
	return (int)here - 1;
}

/* NULL: no memory. */
static atomic_uchar *page_of(struct q2_depths *d, uint64_t stretch)
{
	_Atomic(atomic_uchar *) *slot = &d->pages[stretch / PAGE];
	atomic_uchar *there = atomic_load_explicit(slot, memory_order_acquire), *fresh;

	if (there)
		return there;
	fresh = calloc(PAGE, sizeof(*fresh));
	if (fresh && !atomic_compare_exchange_strong(slot, &there, fresh)) {
		free(fresh);
		return there;
	}
	return fresh;
}

void q2_depths_put(struct q2_depths *d, uint64_t from, uint64_t to, unsigned n)
{
	uint64_t len = UINT64_C(1) << d->bits;
	uint64_t first = (from + len - 1) >> d->bits;
	uint64_t last = to >= d->size ? (d->size + len - 1) >> d->bits : to >> d->bits; /* not any more */

	for (uint64_t i = first; i < last && i / PAGE < d->n_pages; i++) {
		atomic_uchar *page = page_of(d, i);

		if (!page)
			return;
		if (atomic_load_explicit(&page[i % PAGE], memory_order_relaxed) != n + 1) /* else every reader would take the line from the others */
			atomic_store_explicit(&page[i % PAGE], (unsigned char)(n + 1), memory_order_relaxed);
	}
}
