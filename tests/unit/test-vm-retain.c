/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "vm/language/retain.h"

#define NS INT64_C(1000000000)

/* ---------------------------------------------------------------- the language */

static int parse(const char *line, struct vm_retain *policy, struct vs_err *err)
{
	return vm_retain_parse(line, strlen(line), policy, err);
}

Test(vm_retain, a_policy_is_read_back_in_its_canonical_form)
{
	static const struct { const char *line, *text; } cases[] = {
		{"7", "7"},                                     /* the commonest one */
		{"7\n", "7"},                                   /* as echo writes it */
		{"7n", "7"},                                    /* the same */
		{"7d4w12m", "7d 4w 12m"},                       /* run together */
		{"12m 4w 7d", "7d 4w 12m"},                     /* one fixed order */
		{"\t7d,, 4w ,12m ", "7d 4w 12m"},               /* any separators */
		{"1y12m4w7d24h3n", "3 24h 7d 4w 12m 1y"},       /* every unit */
		{"*n", "*n"}, {"*d4w", "*d 4w"}, {"4w*m", "4w *m"}, {"*h*d", "*h *d"},
		{"007d", "7d"},                                 /* digits are digits */
		{"9999d", "9999d"},                             /* the largest */
		{"3d 7d 5d", "7d"},                             /* terms add up */
		{"7d *d", "*d"}, {"*d 7d", "*d"},
		{"7 min=2d", "7 min=2d"},
		{"min=1w 7 min=2d min=3d", "7 min=3d min=1w"},
		{"7 match=*", "7 match=*"},
		{"match=b* 7 match=a? match=b*", "7 match=b* match=a?"},
		{"7 match=100%", "7 match=100%"},               /* anything that is no separator */
		{"7 match=min=2d", "7 match=min=2d"},
		{"7 match=sp\xc3\xa4t*", "7 match=sp\xc3\xa4t*"},
		{"7 match=\xff*", "7 match=\xff*"},             /* names are any bytes */
		{"off", "off"}, {" off\n", "off"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_retain policy, again;
		struct vs_err err = {0};

		cr_assert_eq(parse(cases[i].line, &policy, &err), 0, "'%s': %s", cases[i].line, err.msg);
		vs_autofree char *text = vm_retain_line(&policy);
		cr_expect_str_eq(text, cases[i].text);
		cr_assert_eq(parse(text, &again, NULL), 0, "'%s'", text);
		vs_autofree char *twice = vm_retain_line(&again);
		cr_expect_str_eq(twice, text);
		cr_expect_eq(policy.off, !strcmp(text, "off"));
		vm_retain_fini(&policy);
		vm_retain_fini(&again);
	}
}

Test(vm_retain, what_is_no_policy_is_refused_in_a_sentence_that_names_the_term)
{
	static const struct { const char *line, *says; } cases[] = {
		{"", "empty"}, {"\n", "empty"}, {" , \t", "empty"},
		{"0", "'0'"}, {"0d", "'0d'"}, {"7d 000", "'000'"}, {"7d0w", "'7d0w'"}, {"7 min=0d", "'min=0d'"},
		{"10000", "9999"}, {"7 10000d", "'10000d'"}, {"99999999999999999999d", "9999"}, {"7 min=10000d", "9999"},
		{"7x", "'7x'"}, {"x", "'x'"}, {"7d4x", "'7d4x'"}, {"d", "'d'"}, {"-7", "'-7'"}, {"+7", "'+7'"}, {"7.5d", "'7.5d'"},
		{"7 d", "'d'"},                        /* a blank between count and unit */
		{"7D", "'7D'"}, {"12M", "'12M'"},      /* M is a minute to some */
		{"7d4", "'7d4'"}, {"7d 4w3", "'4w3'"}, /* 4 what? */
		{"*", "'*'"}, {"7*", "'7*'"}, {"**d", "'**d'"}, {"*7d", "'*7d'"},
		{"min=2d", "at least one term"}, {"match=*", "at least one term"}, {"min=2d match=*", "at least one term"},
		{"7 min=", "'min='"}, {"7 min=d", "'min=d'"}, {"7 min=2", "'min=2'"}, {"7 min=2n", "'min=2n'"},
		{"7 min=*d", "'min=*d'"}, {"7 min=2x", "'min=2x'"}, {"7 min=1d2h", "'min=1d2h'"}, {"7 min= 2d", "'min='"},
		{"7 max=2d", "'max=2d'"}, {"7 Min=2d", "'Min=2d'"},
		{"7 match=", "'match='"}, {"7 match", "'match'"}, {"7 match=a,b", "'b'"},
		{"off 7", "stands alone"}, {"7 off", "stands alone"}, {"off off", "stands alone"}, {"off match=*", "stands alone"},
		{"offf", "'offf'"}, {"OFF", "'OFF'"}, {"no", "'no'"},
		{"7\n8", "one line"}, {"7\n\n", "one line"},
		{"7\r\n", "0x0d"}, {"7\x01", "0x01"}, {"7 match=\x1b[m", "0x1b"}, {"7\x7f", "0x7f"},
		{"7 \xff\xfe", "'%FF%FE'"},            /* said so that it can be printed */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_retain policy = {.n_match = 77};
		struct vs_err err = {0};

		cr_expect_eq(parse(cases[i].line, &policy, &err), -EINVAL, "'%s'", cases[i].line);
		cr_expect_not_null(strstr(err.msg, cases[i].says), "'%s': %s", cases[i].line, err.msg);
		cr_expect_eq(policy.n_match, 77u); /* untouched */
	}
}

Test(vm_retain, a_nul_byte_is_refused)
{
	struct vm_retain policy;

	cr_expect_eq(vm_retain_parse("7\0d", 3, &policy, NULL), -EINVAL);
	cr_expect_eq(vm_retain_parse("7 match=\0", 9, &policy, NULL), -EINVAL);
}

Test(vm_retain, a_line_is_4096_bytes_at_most_as_written_and_as_read_back)
{
	char line[VM_RETAIN_LINE_MAX + 3];
	struct vm_retain policy;
	struct vs_err err = {0};

	memset(line, 'x', sizeof(line));
	memcpy(line, "7 match=", 8);
	cr_assert_eq(vm_retain_parse(line, VM_RETAIN_LINE_MAX, &policy, NULL), 0);
	vm_retain_fini(&policy);
	line[VM_RETAIN_LINE_MAX] = '\n'; /* does not count */
	cr_assert_eq(vm_retain_parse(line, VM_RETAIN_LINE_MAX + 1, &policy, NULL), 0);
	vm_retain_fini(&policy);
	line[VM_RETAIN_LINE_MAX] = 'x';
	cr_expect_eq(vm_retain_parse(line, VM_RETAIN_LINE_MAX + 1, &policy, &err), -EINVAL);
	cr_expect_not_null(strstr(err.msg, "4096"));
	memcpy(line, "7d4w match=", 11); /* reads "7d 4w ...": one byte more */
	cr_expect_eq(vm_retain_parse(line, VM_RETAIN_LINE_MAX, &policy, &err), -EINVAL);
	cr_expect_not_null(strstr(err.msg, "4097"), "%s", err.msg);
	cr_assert_eq(vm_retain_parse(line, VM_RETAIN_LINE_MAX - 1, &policy, NULL), 0);
	vm_retain_fini(&policy);
}

Test(vm_retain, a_long_unknown_term_is_quoted_in_part)
{
	char line[3000];
	struct vm_retain policy;
	struct vs_err err = {0};

	memset(line, 'x', sizeof(line));
	cr_expect_eq(vm_retain_parse(line, sizeof(line), &policy, &err), -EINVAL);
	cr_expect_not_null(strstr(err.msg, "xxx...'"));
	cr_expect_not_null(strstr(err.msg, "'off' alone"), "the sentence is whole: %s", err.msg);
}

/* ---------------------------------------------------------------- the plan, by hand */

static void set_zone(const char *zone)
{
	setenv("TZ", zone, 1);
	tzset();
}

/* "2026-11-16 02:00:01" in local time. */
static int64_t at(const char *text)
{
	struct tm tm = {.tm_isdst = -1};

	cr_assert_not_null(strptime(text, "%Y-%m-%d %H:%M:%S", &tm), "%s", text);
	tm.tm_isdst = -1;
	return mktime(&tm) * NS;
}

struct row {
	const char *name, *created, *expect; /* expect: "keep reason" or "drop reason" */
};

/* Rows are in the order of the snapshot tree. */
static void expect_plan(const char *line, const char *now, const struct row *rows, size_t n)
{
	struct vm_retain policy;
	struct vm_retain_snapshot snaps[16];
	struct vm_retain_verdict verdicts[16];

	cr_assert_eq(parse(line, &policy, NULL), 0, "%s", line);
	for (size_t i = 0; i < n; i++)
		snaps[i] = (struct vm_retain_snapshot){.shown = rows[i].name, .raw = rows[i].name, .recorded = true,
			.created_ns = at(rows[i].created), .order = i, .ours = true};
	cr_assert_eq(vm_retain_plan(&policy, snaps, n, at(now), verdicts), 0);
	for (size_t i = 0; i < n; i++) {
		char got[VM_RETAIN_REASON_MAX + 8];

		snprintf(got, sizeof(got), "%s %s", verdicts[i].keep ? "keep" : "drop", verdicts[i].reason);
		cr_expect_str_eq(got, rows[i].expect, "%s: '%s', not '%s'", rows[i].name, got, rows[i].expect);
	}
	vm_retain_fini(&policy);
}

#define PLAN(line, now, ...)                                            \
	do {                                                            \
		static const struct row rows_[] = {__VA_ARGS__};         \
		expect_plan(line, now, rows_, VS_ARRAY_LEN(rows_));      \
	} while (0)

Test(vm_retain, a_bare_count_keeps_the_newest)
{
	set_zone("UTC");
	PLAN("2", "2026-11-20 00:00:00",
	     {"a", "2026-11-16 02:00:00", "drop no term keeps it"},
	     {"b", "2026-11-17 02:00:00", "keep newest 2 of 2"},
	     {"c", "2026-11-18 02:00:00", "keep newest 1 of 2"});
}

Test(vm_retain, terms_are_a_union_and_every_one_says_why)
{
	set_zone("UTC");
	PLAN("1 2d 2w *y", "2026-11-20 00:00:00",
	     {"a", "2025-11-16 02:00:00", "keep newest of year 2025"},
	     {"b", "2026-11-09 02:00:00", "drop no term keeps it"},
	     {"c", "2026-11-10 02:00:00", "keep newest of week 2026-W46"},
	     {"d", "2026-11-17 02:00:00", "keep newest of day 2026-11-17"},
	     {"e", "2026-11-18 01:00:00", "drop no term keeps it"},
	     {"f", "2026-11-18 02:00:00",
	      "keep newest 1 of 1, newest of day 2026-11-18, newest of week 2026-W47, newest of year 2026"});
}

Test(vm_retain, only_periods_that_have_a_snapshot_count)
{
	set_zone("UTC");
	PLAN("3d", "2026-11-20 00:00:00", /* years far apart, and still the last three days */
	     {"a", "1971-05-05 12:00:00", "drop no term keeps it"},
	     {"b", "1999-12-31 23:59:59", "keep newest of day 1999-12-31"},
	     {"c", "2000-01-01 00:00:00", "keep newest of day 2000-01-01"},
	     {"d", "2026-11-19 02:00:00", "keep newest of day 2026-11-19"});
}

Test(vm_retain, weeks_start_on_monday_and_belong_to_one_year)
{
	set_zone("UTC");
	PLAN("9w", "2027-02-01 00:00:00",
	     {"a", "2026-12-27 23:59:59", "keep newest of week 2026-W52"}, /* a Sunday */
	     {"b", "2026-12-28 00:00:00", "drop no term keeps it"},        /* a Monday */
	     {"c", "2027-01-01 00:00:00", "drop no term keeps it"},        /* still W53 */
	     {"d", "2027-01-03 23:59:59", "keep newest of week 2026-W53"},
	     {"e", "2027-01-04 00:00:00", "keep newest of week 2027-W01"});
}

Test(vm_retain, ties_in_time_follow_the_snapshot_tree)
{
	set_zone("UTC");
	PLAN("2", "2026-11-20 00:00:00",
	     {"parent", "2026-11-16 02:00:00", "drop no term keeps it"},
	     {"child", "2026-11-16 02:00:00", "keep newest 2 of 2"},
	     {"grandchild", "2026-11-16 02:00:00", "keep newest 1 of 2"});
	PLAN("*d", "2026-11-20 00:00:00",
	     {"parent", "2026-11-16 02:00:00", "drop no term keeps it"},
	     {"child", "2026-11-16 02:00:00", "keep newest of day 2026-11-16"});
}

Test(vm_retain, the_future_is_kept_and_takes_nobodys_place)
{
	set_zone("UTC");
	PLAN("1", "2026-11-20 00:00:00",
	     {"a", "2026-11-16 02:00:00", "drop no term keeps it"},
	     {"b", "2026-11-20 00:00:00", "keep newest 1 of 1"}, /* this very moment is not the future */
	     {"c", "2026-11-20 00:00:01", "keep dated in the future"},
	     {"d", "2099-01-01 00:00:00", "keep dated in the future"});
}

Test(vm_retain, min_drops_nothing_younger)
{
	set_zone("UTC");
	PLAN("1 min=2d", "2026-11-20 12:00:00",
	     {"a", "2026-11-18 11:59:59", "drop no term keeps it"},
	     {"b", "2026-11-18 12:00:00", "drop no term keeps it"}, /* two days old is not younger */
	     {"c", "2026-11-18 12:00:01", "keep younger than min=2d"},
	     {"d", "2026-11-20 11:00:00", "keep newest 1 of 1, younger than min=2d"});
	PLAN("1 min=1m", "2024-03-31 12:00:00", /* February has no 31st */
	     {"a", "2024-02-29 12:00:00", "drop no term keeps it"},
	     {"b", "2024-02-29 12:00:01", "keep younger than min=1m"},
	     {"c", "2024-03-30 12:00:00", "keep newest 1 of 1, younger than min=1m"});
	PLAN("1 min=1y", "2024-02-29 12:00:00", /* nor has 2023 a 29th of February */
	     {"a", "2023-02-28 12:00:00", "drop no term keeps it"},
	     {"b", "2023-02-28 12:00:01", "keep younger than min=1y"},
	     {"c", "2024-01-01 12:00:00", "keep newest 1 of 1, younger than min=1y"});
	PLAN("1 min=9999y", "2026-11-20 12:00:00", /* before all dates */
	     {"a", "1902-01-01 00:00:00", "keep younger than min=9999y"},
	     {"b", "2026-01-01 00:00:00", "keep newest 1 of 1, younger than min=9999y"});
	PLAN("1 min=1h min=13m", "2026-01-20 12:00:00", /* the longest holds */
	     {"a", "2024-12-20 12:00:00", "drop no term keeps it"},
	     {"b", "2024-12-21 00:00:00", "keep younger than min=13m"},
	     {"c", "2026-01-20 12:00:00", "keep newest 1 of 1, younger than min=1h, younger than min=13m"});
}

Test(vm_retain, star_n_keeps_all)
{
	set_zone("UTC");
	PLAN("*n", "2026-11-20 00:00:00",
	     {"a", "2026-11-16 02:00:00", "keep *n keeps all"},
	     {"b", "2026-11-17 02:00:00", "keep *n keeps all"});
}

Test(vm_retain, days_and_weeks_are_those_of_local_time)
{
	set_zone("Europe/Berlin"); /* 23:30 UTC is the next day here */
	PLAN("*d", "2026-11-20 00:00:00",
	     {"a", "2026-11-16 23:30:00", "keep newest of day 2026-11-16"},
	     {"b", "2026-11-17 00:30:00", "keep newest of day 2026-11-17"});
	set_zone("America/Sao_Paulo");
	PLAN("*d", "2026-11-20 00:00:00",
	     {"a", "2026-11-16 20:30:00", "drop no term keeps it"},
	     {"b", "2026-11-16 21:30:00", "keep newest of day 2026-11-16"});
}

/* Moments given in UTC seconds, judged by "*h" or "*d". */
static void expect_kept(const char *zone, const char *line, const int64_t *utc_s, const bool *kept, size_t n)
{
	struct vm_retain policy;
	struct vm_retain_snapshot snaps[8];
	struct vm_retain_verdict verdicts[8];

	set_zone(zone);
	cr_assert_eq(parse(line, &policy, NULL), 0);
	for (size_t i = 0; i < n; i++)
		snaps[i] = (struct vm_retain_snapshot){.shown = "x", .raw = "x", .recorded = true, .ours = true, .order = i,
			.created_ns = utc_s[i] * NS};
	cr_assert_eq(vm_retain_plan(&policy, snaps, n, INT64_MAX, verdicts), 0);
	for (size_t i = 0; i < n; i++)
		cr_expect_eq(verdicts[i].keep, kept[i], "%s %s: number %zu, %s", zone, line, i, verdicts[i].reason);
	vm_retain_fini(&policy);
}

Test(vm_retain, the_hour_that_a_clock_shows_twice_is_two_hours)
{
	/* Berlin, 2026-10-25: 02:30 CEST is 00:30 UTC, 02:30 CET is 01:30 UTC */
	expect_kept("Europe/Berlin", "*h", (const int64_t[]){1792888200, 1792888800, 1792891800},
		    (const bool[]){false, true, true}, 3);
	/* one day all the same, of 25 hours */
	expect_kept("Europe/Berlin", "*d", (const int64_t[]){1792879201, 1792888200, 1792891800, 1792969199},
		    (const bool[]){false, false, false, true}, 4);
}

Test(vm_retain, a_day_that_begins_twice_is_one_day)
{
	/* Sao Paulo, 2018-02-18 00:00 -02 became 23:00 -03 of the 17th: 01:59:59 UTC and 02:00:00 UTC are one day */
	expect_kept("America/Sao_Paulo", "*d", (const int64_t[]){1518919199, 1518919200, 1518922799, 1518922800},
		    (const bool[]){false, false, true, true}, 4);
	/* St. John's, 2010-11-07 00:01 became 23:01 of the 6th: the 7th, the 6th, the 7th */
	expect_kept("America/St_Johns", "*d", (const int64_t[]){1289097030, 1289097090, 1289100600 + 60},
		    (const bool[]){false, true, true}, 3);
}

/* ---------------------------------------------------------------- who counts */

Test(vm_retain, only_what_was_taken_here_or_is_named_counts)
{
	static const struct { struct vm_retain_snapshot snap; bool keep; const char *reason; } cases[] = {
		{{"ours", "ours", 0, 0, true, true, false, false}, false, "no term keeps it"},
		{{"theirs", "theirs", 0, 0, true, false, false, false}, true, "not taken here"},
		{{"auto-1", "auto-1", 0, 0, true, false, false, false}, false, "no term keeps it"},
		{{"a%2Fb", "a/b", 0, 0, true, false, false, false}, false, "no term keeps it"},     /* the raw name */
		{{"dup~7", "dup", 0, 0, true, false, false, false}, false, "no term keeps it"},     /* the shown one */
		{{"ours", "ours", 0, 0, true, true, true, false}, true, "held"},
		{{"ours", "ours", 0, 0, true, true, false, true}, true, "open for reading"},
		{{"auto-2", "auto-2", 0, 0, false, false, false, false}, true, "not recorded by libvirt"},
	};
	struct vm_retain_snapshot snaps[VS_ARRAY_LEN(cases) + 1];
	struct vm_retain_verdict verdicts[VS_ARRAY_LEN(cases) + 1];
	struct vm_retain policy;

	set_zone("UTC");
	cr_assert_eq(parse("1 match=auto-* match=a/b match=dup~7", &policy, NULL), 0);
	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++)
		snaps[i] = cases[i].snap;
	/* older ones cannot be kept by the one place, which is taken */
	snaps[VS_ARRAY_LEN(cases)] = (struct vm_retain_snapshot){.shown = "new", .raw = "new", .created_ns = 5,
		.recorded = true, .ours = true};
	cr_assert_eq(vm_retain_plan(&policy, snaps, VS_ARRAY_LEN(snaps), 10, verdicts), 0);
	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		cr_expect_eq(verdicts[i].keep, cases[i].keep, "number %zu", i);
		cr_expect_str_eq(verdicts[i].reason, cases[i].reason, "number %zu: %s", i, verdicts[i].reason);
	}
	cr_expect_str_eq(verdicts[VS_ARRAY_LEN(cases)].reason, "newest 1 of 1");
	vm_retain_fini(&policy);
}

Test(vm_retain, off_drops_nothing)
{
	struct vm_retain policy;
	struct vm_retain_snapshot snap = {.shown = "a", .raw = "a", .recorded = true, .ours = true};
	struct vm_retain_verdict verdict;

	cr_assert_eq(parse("off", &policy, NULL), 0);
	cr_assert_eq(vm_retain_plan(&policy, &snap, 1, INT64_MAX, &verdict), 0);
	cr_expect(verdict.keep);
	cr_expect_str_eq(verdict.reason, "the policy is off");
	vm_retain_fini(&policy);
}

Test(vm_retain, a_plan_of_nothing_is_empty)
{
	struct vm_retain policy = {.keep = {7}};
	vs_autofree char *text = NULL;
	size_t len = 1;

	cr_expect_eq(vm_retain_plan(&policy, NULL, 0, 0, NULL), 0);
	vm_retain_plan_text(NULL, NULL, 0, NULL, &text, &len);
	cr_expect_str_eq(text, "");
	cr_expect_eq(len, 0u);
}

Test(vm_retain, all_reasons_at_once_fit)
{
	struct vm_retain policy;
	struct vm_retain_snapshot snap = {.shown = "a", .raw = "a", .created_ns = INT64_MAX - 1, .recorded = true, .ours = true};
	struct vm_retain_verdict verdict;

	set_zone("Australia/Lord_Howe");
	cr_assert_eq(parse("9999n9999h9999d9999w9999m9999y min=9999h min=9999d min=9999w min=9999m min=9999y", &policy, NULL), 0);
	cr_assert_eq(vm_retain_plan(&policy, &snap, 1, INT64_MAX, &verdict), 0);
	cr_expect_str_eq(verdict.reason + strlen(verdict.reason) - strlen("min=9999y"), "min=9999y", "%s", verdict.reason);
	vm_retain_fini(&policy);
}

Test(vm_retain, dates_at_the_ends_of_time_are_harmless)
{
	struct vm_retain policy;
	const struct vm_retain_snapshot snaps[] = {
		{.shown = "a", .raw = "a", .created_ns = INT64_MIN, .recorded = true, .ours = true},
		{.shown = "b", .raw = "b", .created_ns = -1, .recorded = true, .ours = true},
		{.shown = "c", .raw = "c", .created_ns = INT64_MAX, .recorded = true, .ours = true},
	};
	struct vm_retain_verdict verdicts[3];

	set_zone("Europe/Berlin");
	cr_assert_eq(parse("1h*y min=9999w min=9999y", &policy, NULL), 0);
	cr_assert_eq(vm_retain_plan(&policy, snaps, 3, INT64_MIN, verdicts), 0);
	cr_assert_eq(vm_retain_plan(&policy, snaps, 3, INT64_MAX, verdicts), 0);
	cr_expect_not_null(strstr(verdicts[1].reason, "newest of year 1970"), "%s", verdicts[1].reason); /* 1970 in Berlin */
	vm_retain_fini(&policy);
}

Test(vm_retain, the_plan_is_a_line_per_snapshot)
{
	const struct vm_retain_snapshot snaps[] = {{.shown = "a b"}, {.shown = "c"}};
	const struct vm_retain_verdict verdicts[] = {{true, "held"}, {false, "no term keeps it"}};
	char cost[] = "would free 1.0 MiB";
	vs_autofree char *text = NULL;
	size_t len = 0;

	vm_retain_plan_text(snaps, verdicts, 2, NULL, &text, &len);
	cr_expect_str_eq(text, "keep a%20b held\ndrop c no term keeps it\n");
	cr_expect_eq(len, strlen(text));
	free(text);
	vm_retain_plan_text(snaps, verdicts, 2, (char *[]){NULL, cost}, &text, &len);
	cr_expect_str_eq(text, "keep a%20b held\ndrop c no term keeps it; would free 1.0 MiB\n");
}

/* ---------------------------------------------------------------- the slow, obvious model
 *
 * Written from the contract and from nothing else: a period is a number from the proleptic calendar, and every question is
 * answered by looking at all pairs.
 */

struct wish {
	bool off;
	int keep[6]; /* 0: none, -1: all */
	int min[6];
	bool match;  /* match=m* */
};

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* Days since 1970-01-01, counted year by year. */
static int64_t day_number(int year, int month, int day)
{
	static const int before[12] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
	int64_t days = 0;
	bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	for (int y = 1970; y < year; y++)
		days += y % 4 == 0 && (y % 100 != 0 || y % 400 == 0) ? 366 : 365;
	for (int y = year; y < 1970; y++)
		days -= y % 4 == 0 && (y % 100 != 0 || y % 400 == 0) ? 366 : 365;
	return days + before[month - 1] + (leap && month > 2) + day - 1;
}

static struct tm local_time(int64_t ns)
{
	time_t t = floor_div(ns, NS);
	struct tm tm;

	cr_assert_not_null(localtime_r(&t, &tm));
	return tm;
}

static int64_t period(int unit, int64_t ns)
{
	struct tm tm = local_time(ns);
	int64_t day = day_number(tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);

	switch (unit) {
	case VM_RETAIN_HOUR:
		return (day * 24 + tm.tm_hour) * 1000000 + tm.tm_gmtoff;
	case VM_RETAIN_DAY:
		return day;
	case VM_RETAIN_WEEK:
		return floor_div(day + 3, 7); /* 1970-01-01 was a Thursday */
	case VM_RETAIN_MONTH:
		return tm.tm_year * 12 + tm.tm_mon;
	default:
		return tm.tm_year;
	}
}

static bool model_counts(const struct wish *w, const struct vm_retain_snapshot *s, int64_t now)
{
	if (!s->ours && !(w->match && s->recorded && (s->shown[0] == 'm' || s->raw[0] == 'm')))
		return false;
	return s->recorded && !s->held && !s->open && s->created_ns <= now;
}

static bool model_newer(const struct vm_retain_snapshot *a, const struct vm_retain_snapshot *b)
{
	if (a->created_ns == b->created_ns)
		return a->order > b->order;
	return a->created_ns > b->created_ns;
}

static bool model_newest_of_period(const struct wish *w, const struct vm_retain_snapshot *s, size_t n, size_t i, int unit,
				   int64_t now)
{
	for (size_t j = 0; j < n; j++)
		if (j != i && model_counts(w, &s[j], now) && model_newer(&s[j], &s[i]) &&
		    (unit == VM_RETAIN_NEWEST ? false : period(unit, s[j].created_ns) == period(unit, s[i].created_ns)))
			return false;
	return true;
}

static bool model_term_keeps(const struct wish *w, const struct vm_retain_snapshot *s, size_t n, size_t i, int unit,
			     int64_t now)
{
	int newer = 0;

	if (!w->keep[unit] || !model_newest_of_period(w, s, n, i, unit, now))
		return false;
	for (size_t j = 0; j < n && w->keep[unit] > 0; j++)
		newer += j != i && model_counts(w, &s[j], now) && model_newer(&s[j], &s[i]) &&
			 model_newest_of_period(w, s, n, j, unit, now);
	return w->keep[unit] < 0 || newer < w->keep[unit];
}

/* Seconds (UTC) of now, so many months earlier: the last day that exists up to that day of the month. */
static int64_t model_months_ago(int64_t now, int months)
{
	struct tm tm = local_time(now);
	int year = tm.tm_year + 1900, month = tm.tm_mon + 1, day = tm.tm_mday;

	while (months-- > 0)
		if (--month == 0) {
			month = 12;
			year--;
		}
	while (day > 28 && day_number(year, month, day) >= day_number(year + (month == 12), month % 12 + 1, 1))
		day--;
	return day_number(year, month, day) * 86400 + tm.tm_hour * 3600 + tm.tm_min * 60 + tm.tm_sec - tm.tm_gmtoff;
}

static bool model_too_young(const struct wish *w, const struct vm_retain_snapshot *s, int64_t now)
{
	static const int64_t span[6] = {0, 3600, 86400, 7 * 86400, 0, 0};

	for (int unit = VM_RETAIN_HOUR; unit <= VM_RETAIN_YEAR; unit++) {
		int64_t sub = now - floor_div(now, NS) * NS;

		if (!w->min[unit])
			continue;
		if (span[unit] && now - s->created_ns < span[unit] * w->min[unit] * NS)
			return true;
		if (!span[unit] && s->created_ns > model_months_ago(now, w->min[unit] * (unit == VM_RETAIN_YEAR ? 12 : 1)) * NS + sub)
			return true;
	}
	return false;
}

static bool model_keeps(const struct wish *w, const struct vm_retain_snapshot *s, size_t n, size_t i, int64_t now)
{
	if (w->off || !model_counts(w, &s[i], now) || model_too_young(w, &s[i], now))
		return true;
	for (int unit = VM_RETAIN_NEWEST; unit <= VM_RETAIN_YEAR; unit++)
		if (model_term_keeps(w, s, n, i, unit, now))
			return true;
	return false;
}

/* ---------------------------------------------------------------- random histories */

static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % below;
}

/* A policy and the line that says it, its terms in any order. */
static void random_wish(struct wish *w, char *line)
{
	char terms[16][24];
	size_t n = 0;

	*w = (struct wish){.off = rnd(50) == 0};
	for (int unit = 0; unit < 6 && !w->off; unit++) {
		if (rnd(3) == 0) {
			w->keep[unit] = rnd(8) == 0 ? -1 : (int)(1 + rnd(rnd(4) ? 4 : 12));
			if (w->keep[unit] < 0)
				snprintf(terms[n++], 24, "*%c", "nhdwmy"[unit]);
			else
				snprintf(terms[n++], 24, "%d%c", w->keep[unit], "nhdwmy"[unit]);
		}
		if (unit > 0 && rnd(12) == 0) {
			w->min[unit] = (int)(1 + rnd(5));
			snprintf(terms[n++], 24, "min=%d%c", w->min[unit], "nhdwmy"[unit]);
		}
	}
	if (!w->off && !w->keep[0] && !w->keep[1] && !w->keep[2] && !w->keep[3] && !w->keep[4] && !w->keep[5]) {
		w->keep[0] = 2;
		strcpy(terms[n++], "2");
	}
	if (!w->off && rnd(3) == 0) {
		w->match = true;
		strcpy(terms[n++], "match=m*");
	}
	strcpy(line, w->off ? "off" : "");
	while (n > 0) {
		size_t pick = rnd(n);

		strcat(line, terms[pick]);
		strcat(line, rnd(2) ? " " : ",");
		memmove(terms[pick], terms[--n], sizeof(terms[0]));
	}
}

/* Moments at which something happens to some calendar. */
static const int64_t moments[] = {
	1774746000, /* Berlin, 2026-03-29, clocks go forward */
	1792890000, /* Berlin, 2026-10-25, and back */
	1518919200, /* Sao Paulo, 2018-02-18, back at midnight */
	1541300400, /* Sao Paulo, 2018-11-04, forward at midnight: no 00:00 */
	1289097060, /* St. John's, 2010-11-07, back at 00:01 */
	1775314800, /* Lord Howe, 2026-04-05, back by half an hour */
	951782400,  /* 2000-02-29, a leap day in a century */
	1709164800, /* 2024-02-29 */
	4107542400, /* 2100-03-01, after no leap day */
	1798761600, /* 2027-01-01, in week 53 of 2026 */
	1230768000, /* 2009-01-01, in week 1 */
	0,          /* the epoch: dates on both sides of it */
};

static size_t random_history(struct vm_retain_snapshot *s, size_t max, int64_t *now)
{
	static const int64_t scales[] = {3600, 6 * 3600, 86400, 5 * 86400, 40 * 86400, 500 * 86400, 10000 * (int64_t)86400};
	static const char *const names[] = {"monday", "auto", "m1", "x%6D", "Mars"};
	int64_t middle = moments[rnd(VS_ARRAY_LEN(moments))];
	int64_t scale = scales[rnd(VS_ARRAY_LEN(scales))];
	bool whole_seconds = rnd(2);
	size_t n = rnd(max + 1);

	for (size_t i = 0; i < n; i++) {
		int64_t when = middle + (int64_t)rnd((uint64_t)scale * 2) - scale;

		s[i] = (struct vm_retain_snapshot){.shown = names[rnd(5)], .raw = names[rnd(5)], .order = i,
			.created_ns = when * NS + (whole_seconds ? 0 : (int64_t)rnd(NS)), .recorded = rnd(20) > 0,
			.ours = rnd(6) > 0, .held = rnd(12) == 0, .open = rnd(12) == 0};
		if (i && rnd(6) == 0)
			s[i].created_ns = s[rnd(i)].created_ns; /* a tie */
	}
	for (size_t i = n; i > 1; i--) { /* order in the tree is not order in the array */
		size_t j = rnd(i), order = s[i - 1].order;

		s[i - 1].order = s[j].order;
		s[j].order = order;
	}
	*now = (middle + (int64_t)rnd((uint64_t)scale * 2) - scale / 2) * NS + (int64_t)rnd(NS);
	return n;
}

static void compare_with_model(const char *zone, uint64_t seed)
{
	struct vm_retain_snapshot s[20];
	struct vm_retain_verdict verdicts[20];
	struct vm_retain policy;
	struct wish wish;
	char line[400];
	int64_t now;

	rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (int i = 0; i < 4; i++)
		rnd(2);
	random_wish(&wish, line);
	size_t n = random_history(s, VS_ARRAY_LEN(s), &now);

	cr_assert_eq(parse(line, &policy, NULL), 0, "'%s'", line);
	cr_assert_eq(vm_retain_plan(&policy, s, n, now, verdicts), 0);
	for (size_t i = 0; i < n; i++) {
		bool keep = model_keeps(&wish, s, n, i, now);

		if (verdicts[i].keep != keep || !verdicts[i].reason[0])
			cr_assert_fail("TZ=%s seed %lu policy '%s': number %zu of %zu is to be %s, and not (%s)", zone,
				       (unsigned long)seed, line, i, n, keep ? "kept" : "dropped", verdicts[i].reason);
	}
	vs_autofree char *text = vm_retain_line(&policy);
	vm_retain_fini(&policy);
	cr_assert_eq(parse(text, &policy, NULL), 0);
	vs_autofree char *again = vm_retain_line(&policy);
	if (strcmp(text, again))
		cr_assert_fail("'%s' is read back as '%s' and that as '%s'", line, text, again);
	vm_retain_fini(&policy);
}

Test(vm_retain, thirty_thousand_random_histories_agree_with_the_model)
{
	static const char *const zones[] = {"UTC", "Europe/Berlin", "America/Sao_Paulo", "America/St_Johns", "Australia/Lord_Howe",
		"Asia/Kathmandu"};

	for (size_t z = 0; z < VS_ARRAY_LEN(zones); z++) {
		set_zone(zones[z]);
		for (uint64_t seed = 1; seed <= 5000; seed++)
			compare_with_model(zones[z], z * 1000000 + seed);
	}
}

Test(vm_retain, ten_thousand_snapshots_are_planned_in_no_time)
{
	enum { N = 10000 };
	struct vm_retain_snapshot *s = calloc(N, sizeof(*s));
	struct vm_retain_verdict *verdicts = calloc(N, sizeof(*verdicts));
	struct vm_retain policy;
	size_t kept = 0;

	set_zone("UTC");
	cr_assert_eq(parse("9999h9999d9999w9999m9999y", &policy, NULL), 0);
	for (size_t i = 0; i < N; i++)
		s[i] = (struct vm_retain_snapshot){.shown = "x", .raw = "x", .created_ns = (int64_t)i * 600 * NS, .order = i,
			.recorded = true, .ours = true};
	cr_assert_eq(vm_retain_plan(&policy, s, N, INT64_MAX, verdicts), 0);
	for (size_t i = 0; i < N; i++)
		kept += verdicts[i].keep;
	cr_expect_eq(kept, (size_t)(N + 5) / 6); /* one of six an hour */
	vm_retain_fini(&policy);
	free(s);
	free(verdicts);
}
