/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * pages.h: a `snapshots.json` too long to be held, made while it is read.
 *
 * 65,536 snapshots are some 40 MiB of JSON. It follows from the domain as it was at the open, so it is made in pages of some hundred snapshots:
 * each once for its length, at the open, and again when somebody reads there. Any thread.
 */
#ifndef VS_PAGES_H
#define VS_PAGES_H

#include <stdbool.h>
#include <stddef.h>

struct vm_domain;
struct sf_pages;

/* Is that of @domain so long? */
bool sf_pages_suit(const struct vm_domain *domain);
/* @domain: borrowed, until it is freed. Gives. */
struct sf_pages *sf_pages_new(const struct vm_domain *domain);
void sf_pages_free(struct sf_pages *pages); /* NULL is fine */
size_t sf_pages_len(const struct sf_pages *pages);
/* @size bytes from @off on, all of which it must have. */
void sf_pages_read(struct sf_pages *pages, char *buf, size_t size, size_t off);

#endif
