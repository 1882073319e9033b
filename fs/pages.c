/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "pages.h"

#include <pthread.h>
#include <string.h>

#include "text.h"
#include "vm/util/mem.h"

#define PAGE 256   /* snapshots: some 200 KiB */
#define LEAST 1024 /* snapshots */

struct sf_pages {
	/* immutable */
	const struct vm_domain *domain;
	size_t n;
	size_t *ends; /* of each page, in the whole */
	pthread_mutex_t lock; /* guards the rest */
	size_t held;  /* which page that is; n: none */
	char *page;
};

bool sf_pages_suit(const struct vm_domain *domain)
{
	return domain->n_snapshots > LEAST;
}

static void render(const struct sf_pages *pages, FILE *out, size_t page)
{
	size_t to = (page + 1) * PAGE, n = pages->domain->n_snapshots;

	sf_json_render_some(out, pages->domain, page * PAGE, to < n ? to : n);
}

static ssize_t count(void *opaque, const char *bytes, size_t len)
{
	(void)bytes;
	*(size_t *)opaque += len;
	return (ssize_t)len;
}

static void measure(struct sf_pages *pages)
{
	const cookie_io_functions_t counter = {.write = count};
	size_t len = 0;

	for (size_t i = 0; i < pages->n; i++) {
		FILE *out = fopencookie(&len, "w", counter);

		if (!out)
			xoom();
		render(pages, out, i);
		xmemclose(out);
		pages->ends[i] = len;
	}
}

struct sf_pages *sf_pages_new(const struct vm_domain *domain)
{
	struct sf_pages *pages = xcalloc(1, sizeof(*pages));

	pages->domain = domain;
	pages->n = pages->held = (domain->n_snapshots + PAGE - 1) / PAGE;
	pages->ends = xcalloc(pages->n, sizeof(*pages->ends));
	pthread_mutex_init(&pages->lock, NULL);
	measure(pages);
	return pages;
}

void sf_pages_free(struct sf_pages *pages)
{
	if (!pages)
		return;
	free(pages->ends);
	free(pages->page);
	pthread_mutex_destroy(&pages->lock);
	free(pages);
}

size_t sf_pages_len(const struct sf_pages *pages)
{
	return pages->n ? pages->ends[pages->n - 1] : 0;
}

static size_t begin_of(const struct sf_pages *pages, size_t page)
{
	return page ? pages->ends[page - 1] : 0;
}

static size_t page_at(const struct sf_pages *pages, size_t off)
{
	size_t low = 0, high = pages->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (pages->ends[mid] <= off)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static void hold_locked(struct sf_pages *pages, size_t page)
{
	size_t len;
	FILE *out;

	if (pages->held == page)
		return;
	free(vs_steal(pages->page));
	out = xmemopen(&pages->page, &len);
	render(pages, out, page);
	xmemclose(out);
	pages->held = page;
}

void sf_pages_read(struct sf_pages *pages, char *buf, size_t size, size_t off)
{
	pthread_mutex_lock(&pages->lock);
	for (size_t page = page_at(pages, off); size && page < pages->n; page++) {
		size_t at = off - begin_of(pages, page), some = pages->ends[page] - off;

		some = some < size ? some : size;
		hold_locked(pages, page);
		memcpy(buf, pages->page + at, some);
		buf += some;
		off += some;
		size -= some;
	}
	pthread_mutex_unlock(&pages->lock);
}
