/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * base.h: what all three libraries share: the error rule and the ownership helpers.
 *
 * Error rule. A function that can fail returns int (or ssize_t, int64_t): 0 or a count, else a negative errno.
 * Results come out through pointers that are written only on success. Where a person will read the reason the
 * last parameter is a nullable `struct vs_err *`; it is filled once, where the fact is known, with the names and
 * offsets in it; callers above pass it on untouched (or put a name in front with vs_err_prefix).
 *
 * Ownership, in three words: *borrowed* (valid for the call only), *takes* (the callee owns it from now on, also
 * when it fails), *gives* (the caller owns it).
 */
#ifndef VS_BASE_H
#define VS_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define VS_ERR_MAX 640

/* One failure as a person reads it. Zero-initialise it. msg: lower case, no full stop, always terminated. */
struct vs_err {
	int code;             /* negative errno, 0 while unset */
	char msg[VS_ERR_MAX]; /* UTF-8 is not guaranteed: names from images are escaped by who prints them */
};

/* Sets @err (may be NULL) and returns @code, so that `return vs_err_set(err, -EUCLEAN, "...", ...)` reads well. */
int vs_err_set(struct vs_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before a message that is already set; does nothing for NULL or unset. */
void vs_err_prefix(struct vs_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The message of a failed call: err->msg where it was set, else strerror(-code). Borrowed from @err. */
const char *vs_err_text(const struct vs_err *err, int code);

#define vs_cleanup(fn) __attribute__((cleanup(fn)))

/* Moves a pointer out of a variable, leaving NULL: `*out = vs_steal(local)`. */
#define vs_steal(p)                    \
	({                             \
		__typeof__(p) _v = (p); \
		(p) = NULL;            \
		_v;                    \
	})

static inline void vs_freep(void *p)
{
	free(*(void **)p);
}
#define vs_autofree vs_cleanup(vs_freep)

static inline void vs_closep(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define vs_autoclose vs_cleanup(vs_closep)

#define VS_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
