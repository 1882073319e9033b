/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "show.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vm/util/mem.h"

/* How a character begins: its length and the smallest code point that needs so many bytes (RFC 3629, table 3-7). */
static size_t utf8_head(unsigned char byte, uint32_t *bits, uint32_t *least)
{
	if (byte < 0x80) {
		*bits = byte;
		*least = 0;
		return 1;
	}
	if (byte >= 0xc2 && byte <= 0xdf) {
		*bits = byte & 0x1f;
		*least = 0x80;
		return 2;
	}
	if ((byte & 0xf0) == 0xe0) {
		*bits = byte & 0x0f;
		*least = 0x800;
		return 3;
	}
	if (byte >= 0xf0 && byte <= 0xf4) {
		*bits = byte & 0x07;
		*least = 0x10000;
		return 4;
	}
	return 0;
}

static bool is_printable(uint32_t code)
{
	bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
	bool surrogate = code >= 0xd800 && code <= 0xdfff;

	return !control && !surrogate && code <= 0x10ffff;
}

size_t sf_show_char(const char *s)
{
	const unsigned char *byte = (const unsigned char *)s;
	uint32_t code, least;
	size_t len = utf8_head(byte[0], &code, &least);

	for (size_t i = 1; i < len; i++) {
		if ((byte[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (byte[i] & 0x3f);
	}
	return len && code >= least && is_printable(code) ? len : 0;
}

bool sf_show_clean(const char *s)
{
	while (*s) {
		size_t len = sf_show_char(s);

		if (!len)
			return false;
		s += len;
	}
	return true;
}

void sf_show_put(FILE *out, const char *s, bool spaces)
{
	while (*s) {
		size_t len = sf_show_char(s);

		if (!len || (spaces && *s == ' '))
			fprintf(out, "%%%02X", (unsigned char)*s++);
		else
			s += fwrite(s, 1, len, out) == len ? len : strlen(s); /* a full memstream tells at its end */
	}
}

char *sf_show_dup(const char *s, bool spaces)
{
	char *text;
	size_t len;
	FILE *out;

	if (sf_show_clean(s) && !(spaces && strchr(s, ' ')))
		return xstrdup(s);
	out = xmemopen(&text, &len);
	sf_show_put(out, s, spaces);
	xmemclose(out);
	return text;
}

size_t sf_show_width(const char *s)
{
	size_t width = 0;

	for (; *s; s++)
		width += ((unsigned char)*s & 0xc0) != 0x80;
	return width;
}

void sf_show_time(char out[SF_SHOW_TIME], int64_t time_ns)
{
	int64_t below = time_ns % 1000000000 < 0; /* division rounds towards zero, clocks do not */
	time_t seconds = (time_t)(time_ns / 1000000000 - below);
	char when[24], zone[8];
	struct tm tm;

	if (!localtime_r(&seconds, &tm) || !strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm) ||
	    strftime(zone, sizeof(zone), "%z", &tm) != 5) {
		strcpy(out, "-");
		return;
	}
	snprintf(out, SF_SHOW_TIME, "%s%.3s:%s", when, zone, zone + 3);
}

void sf_show_size(char out[SF_SHOW_SIZE], uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	uint64_t whole = bytes, rest = 0;
	size_t unit = 0;

	while (whole >= 1024) {
		rest = whole % 1024;
		whole /= 1024;
		unit++;
	}
	if (whole < 10 && rest * 10 / 1024)
		snprintf(out, SF_SHOW_SIZE, "%u.%u %s", (unsigned)whole, (unsigned)(rest * 10 / 1024), units[unit]);
	else
		snprintf(out, SF_SHOW_SIZE, "%u %s", (unsigned)whole, units[unit]);
}
