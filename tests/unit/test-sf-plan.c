/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "fs/plan.h"
#include "qcow2/qcow2.h"

static struct sf_plans plans;

static void setup(void)
{
	sf_plans_init(&plans);
}

static void teardown(void)
{
	sf_plans_fini(&plans);
}

TestSuite(sf_plan, .init = setup, .fini = teardown);

static void expect_peek(const char *uuid, const char *wanted)
{
	vs_autofree char *policy = sf_plans_peek(&plans, uuid);

	if (wanted)
		cr_expect_str_eq(policy, wanted);
	else
		cr_expect_null(policy);
}

static void expect_take(const char *uuid, const char *wanted)
{
	vs_autofree char *policy = sf_plans_take(&plans, uuid);

	if (wanted)
		cr_expect_str_eq(policy, wanted);
	else
		cr_expect_null(policy);
}

Test(sf_plan, one_open_sees_it_and_the_one_after_does_not)
{
	sf_plans_set(&plans, "web", "7d");
	expect_take("web", "7d");
	expect_take("web", NULL);
}

Test(sf_plan, looking_at_its_size_is_not_opening_it)
{
	sf_plans_set(&plans, "web", "7d");
	expect_peek("web", "7d");
	expect_peek("web", "7d");
	expect_take("web", "7d");
	expect_peek("web", NULL);
}

Test(sf_plan, the_last_one_written_counts)
{
	sf_plans_set(&plans, "web", "7d");
	sf_plans_set(&plans, "web", "4w");
	expect_take("web", "4w");
	expect_take("web", NULL);
}

Test(sf_plan, domains_do_not_mix)
{
	sf_plans_set(&plans, "web", "7d");
	sf_plans_set(&plans, "db", "4w");
	sf_plans_set(&plans, "mail", "2y");
	expect_take("db", "4w");
	expect_take("web", "7d");
	expect_peek("mail", "2y");
}

Test(sf_plan, a_write_holds_one_line)
{
	static const struct { const char *text; size_t len; const char *line; } cases[] = {
		{"7d\n", 3, "7d"},
		{"7d", 2, "7d"},                 /* printf(1) without a newline */
		{" 7d 4w \n", 8, " 7d 4w "},     /* blanks are the policy's affair */
		{"\n", 1, ""},                   /* so is an empty line */
		{"", 0, ""},
		{"7d\n\n", 4, NULL},
		{"7d\n4w\n", 6, NULL},
		{"\n7d", 3, NULL},
		{"7d\0", 3, NULL},               /* what comes after would not be seen */
		{"7d\0" "4w\n", 6, NULL},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		vs_autofree char *line = NULL;
		int rc = sf_plan_line(cases[i].text, cases[i].len, &line);

		cr_expect_eq(rc, cases[i].line ? 0 : -EINVAL, "case %zu: %d", i, rc);
		if (cases[i].line)
			cr_expect_str_eq(line, cases[i].line);
	}
}
