/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * mem.h: memory that is always there. libvirt's client library ends the process when an allocation fails (GLib does), so
 * carrying -ENOMEM upwards beside it protects nothing; what a command has begun is covered by its journal as for any other
 * sudden end. Sizes that an image, a policy or a client chooses are checked against a limit before they come here.
 *
 * Everything given is to be freed with free(). None of these returns NULL. Threads: any.
 */
#ifndef VS_VM_UTIL_MEM_H
#define VS_VM_UTIL_MEM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

void *xcalloc(size_t n, size_t size) __attribute__((returns_nonnull, malloc)); /* n = 0: something that may be freed */
void *xreallocarray(void *old, size_t n, size_t size) __attribute__((returns_nonnull));
char *xstrdup(const char *s) __attribute__((returns_nonnull, malloc));
char *xstrndup(const char *s, size_t len) __attribute__((returns_nonnull, malloc));
char *xstrdup_or_null(const char *s); /* NULL stays NULL */
char *xasprintf(const char *fmt, ...) __attribute__((returns_nonnull, malloc, format(printf, 1, 2)));
char *xvasprintf(const char *fmt, va_list ap) __attribute__((returns_nonnull, malloc, format(printf, 1, 0)));

/* A stream into memory. Gives *text (never NULL, with a NUL behind it) and *len, which are there once it is closed. */
FILE *xmemopen(char **text, size_t *len) __attribute__((returns_nonnull));
void xmemclose(FILE *f);

/* What could not be had: says so and aborts. For callers whose memory comes from elsewhere (libxml2, qcow2/). */
void xoom(void) __attribute__((noreturn));

/* Of strings either of which may be NULL. */
bool vm_same_text(const char *a, const char *b);

/* Makes room for one more in an array of @n elements that grows by doubling. */
#define XGROW(array, n, room) \
	do { \
		if ((n) == (room)) { \
			(room) = (room) ? 2 * (room) : 8; \
			(array) = xreallocarray((array), (room), sizeof(*(array))); \
		} \
	} while (0)

#endif
