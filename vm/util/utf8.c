/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/utf8.h"

#include <string.h>

#include "vm/util/mem.h"

static size_t length_by_first_byte(unsigned char c)
{
	if (c < 0x80)
		return 1;
	if (c < 0xc2 || c > 0xf4)
		return 0;
	return c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* Forms that have the right shape and are none: overlong, surrogates, beyond the end, not for XML. */
static bool is_barred(const unsigned char *p)
{
	switch (p[0]) {
	case 0xe0:
		return p[1] < 0xa0;
	case 0xed:
		return p[1] > 0x9f;
	case 0xef:
		return p[1] == 0xbf && p[2] >= 0xbe;
	case 0xf0:
		return p[1] < 0x90;
	case 0xf4:
		return p[1] > 0x8f;
	default:
		return false;
	}
}

size_t vm_utf8_len(const char *text, size_t room)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t n = room ? length_by_first_byte(p[0]) : 0;

	if (n > room)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return n && !is_barred(p) ? n : 0;
}

bool vm_utf8_valid(const char *text)
{
	size_t len = strlen(text), n;

	for (; len; text += n, len -= n) {
		n = vm_utf8_len(text, len);
		if (n == 0)
			return false;
	}
	return true;
}

static bool must_escape(char c, const char *also)
{
	return (unsigned char)c < 0x20 || c == 0x7f || strchr(also, c);
}

char *vm_utf8_escape(const char *text, size_t len, const char *also)
{
	static const char digits[] = "0123456789ABCDEF";
	char *out = xcalloc(len + 1, 3); /* whoever hands in @text has a limit on it */
	char *o = out;

	for (size_t i = 0; i < len;) {
		size_t n = vm_utf8_len(text + i, len - i);

		if (n == 0 || must_escape(text[i], also)) {
			*o++ = '%';
			*o++ = digits[(unsigned char)text[i] >> 4];
			*o++ = digits[(unsigned char)text[i++] & 15];
			continue;
		}
		memcpy(o, text + i, n);
		o += n;
		i += n;
	}
	*o = '\0';
	return out;
}

size_t vm_utf8_fit(const char *text, size_t len, size_t max)
{
	size_t fit = 0;

	while (fit < len) {
		size_t n = vm_utf8_len(text + fit, len - fit);

		if (fit + (n ? n : 1) > max)
			break;
		fit += n ? n : 1;
	}
	return fit;
}

char *vm_utf8_excerpt(const char *text, size_t len, size_t max)
{
	size_t fit = vm_utf8_fit(text, len, max);
	vs_autofree char *shown = vm_utf8_escape(text, fit, "");

	return xasprintf("%s%s", shown, fit < len ? "..." : "");
}
