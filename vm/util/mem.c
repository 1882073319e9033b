/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

void xoom(void)
{
	static const char sentence[] = "virt-snapfs: out of memory; what was begun is in the journal, mount again\n";

	fputs(sentence, stderr);
	syslog(LOG_CRIT, "%s", sentence);
	abort();
}

static void *there(void *p)
{
	if (!p)
		xoom();
	return p;
}

void *xcalloc(size_t n, size_t size)
{
	return there(calloc(n ? n : 1, size));
}

void *xreallocarray(void *old, size_t n, size_t size)
{
	return there(reallocarray(old, n ? n : 1, size));
}

char *xstrdup(const char *s)
{
	return there(strdup(s));
}

char *xstrdup_or_null(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

bool vm_same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

char *xstrndup(const char *s, size_t len)
{
	return there(strndup(s, len));
}

char *xvasprintf(const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) < 0)
		xoom();
	return text;
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *text;

	va_start(ap, fmt);
	text = xvasprintf(fmt, ap);
	va_end(ap);
	return text;
}

FILE *xmemopen(char **text, size_t *len)
{
	return there(open_memstream(text, len));
}

void xmemclose(FILE *f)
{
	if (ferror(f) | fclose(f))
		xoom();
}
