/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <limits.h>
#include <string.h>
#include <time.h>

#include "fs/show.h"
#include "qcow2/qcow2.h"

static void expect_shown(const char *raw, bool spaces, const char *shown)
{
	vs_autofree char *got = sf_show_dup(raw, spaces);

	cr_assert_not_null(got);
	cr_expect_str_eq(got, shown, "shown as '%s', not '%s'", got, shown);
}

Test(sf_show, what_a_terminal_might_obey_becomes_hex)
{
	static const struct { const char *raw, *shown; } cases[] = {
		{"/images/a b.qcow2", "/images/a b.qcow2"},        /* nothing to do */
		{"", ""},
		{"50% of it", "50% of it"},                        /* already shown names come through unchanged */
		{"\x1b[2J", "%1B[2J"},                             /* an escape sequence */
		{"a\nb", "a%0Ab"},                                 /* a second line */
		{"\x7f", "%7F"},                                   /* DEL */
		{"\xc2\x9b" "2J", "%C2%9B2J"},                     /* CSI as one C1 character */
		{"\xc3\xa9\xe2\x94\x80", "\xc3\xa9\xe2\x94\x80"},  /* good UTF-8 of two and three bytes */
		{"\xf0\x9f\x90\xa7", "\xf0\x9f\x90\xa7"},          /* four bytes */
		{"\xff", "%FF"},                                   /* never valid */
		{"\xc0\xaf", "%C0%AF"},                            /* an overlong slash */
		{"\xe0\x80\xaf", "%E0%80%AF"},                     /* longer still */
		{"\xed\xa0\x80", "%ED%A0%80"},                     /* a surrogate */
		{"\xf4\x90\x80\x80", "%F4%90%80%80"},              /* past the last code point */
		{"\xe2\x94", "%E2%94"},                            /* cut off */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++)
		expect_shown(cases[i].raw, false, cases[i].shown);
}

Test(sf_show, columns_have_no_blanks)
{
	expect_shown("before the upgrade", true, "before%20the%20upgrade");
}

Test(sf_show, width_counts_characters)
{
	cr_expect_eq(sf_show_width(""), 0);
	cr_expect_eq(sf_show_width("monday"), 6);
	cr_expect_eq(sf_show_width("\xe2\x94\x82 \xc3\xa9"), 3);
}

Test(sf_show, times_have_an_offset_and_round_down)
{
	static const struct { const char *zone; int64_t time_ns; const char *shown; } cases[] = {
		{"UTC", 1794794401000000005, "2026-11-16T02:00:01+00:00"},
		{"<+0530>-5:30", 1794794401000000000, "2026-11-16T07:30:01+05:30"},
		{"<-03>3", 1794794401999999999, "2026-11-15T23:00:01-03:00"},
		{"UTC", 0, "1970-01-01T00:00:00+00:00"},
		{"UTC", -1, "1969-12-31T23:59:59+00:00"},          /* before, not at, the epoch */
		{"UTC", INT64_MAX, "2262-04-11T23:47:16+00:00"},
		{"UTC", INT64_MIN, "1677-09-21T00:12:43+00:00"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		char got[SF_SHOW_TIME];

		setenv("TZ", cases[i].zone, 1);
		tzset();
		sf_show_time(got, cases[i].time_ns);
		cr_expect_str_eq(got, cases[i].shown, "'%s', not '%s'", got, cases[i].shown);
	}
}

Test(sf_show, sizes_have_at_most_three_figures_more_or_less)
{
	static const struct { uint64_t bytes; const char *shown; } cases[] = {
		{0, "0 B"},
		{512, "512 B"},
		{1023, "1023 B"},
		{1024, "1 KiB"},
		{1536, "1.5 KiB"},
		{UINT64_C(20) << 30, "20 GiB"},
		{(UINT64_C(12) << 30) / 10, "1.1 GiB"},            /* never more than there is */
		{UINT64_MAX, "15 EiB"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		char got[SF_SHOW_SIZE];

		sf_show_size(got, cases[i].bytes);
		cr_expect_str_eq(got, cases[i].shown, "'%s', not '%s'", got, cases[i].shown);
	}
}
