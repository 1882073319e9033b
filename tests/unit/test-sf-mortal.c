/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "fs/mortal.h"
#include "qcow2/qcow2.h"

/* As proc(5) prints it, shortened. */
static void expect(const char *thread, const char *process, const char *blocked, bool fatal)
{
	char status[512];

	snprintf(status, sizeof(status),
		 "Name:\tbash\nUmask:\t0022\nState:\tD (disk sleep)\nTgid:\t10\nPid:\t10\nGroups:\t0 4 24 \nThreads:\t1\n"
		 "SigQ:\t1/7796\nSigPnd:\t%s\nShdPnd:\t%s\nSigBlk:\t%s\nSigIgn:\t0000000000384004\nSigCgt:\t000000004b813efb\n",
		 thread, process, blocked);
	cr_expect_eq(sf_mortal_status(status), fatal, "%s %s %s", thread, process, blocked);
}

Test(sf_mortal, the_five_signals_that_end_what_a_person_started)
{
	static const struct { const char *set; bool fatal; } cases[] = {
		{"0000000000000000", false},
		{"0000000000000001", true},   /* HUP */
		{"0000000000000002", true},   /* INT */
		{"0000000000000004", true},   /* QUIT */
		{"0000000000004000", true},   /* TERM */
		{"0000000000000100", true},   /* KILL: any signal without a handler becomes this one, too */
		{"0000000000000200", false},  /* USR1 */
		{"0000000008000000", false},  /* WINCH: a terminal is resized */
		{"0000000000010000", false},  /* CHLD */
		{"0000000000080000", false},  /* TSTP: Ctrl-Z */
		{"0000000000002000", false},  /* ALRM */
		{"ffffffffffffbef8", false},  /* all others at once */
		{"0000000008000002", true},   /* a resize, and Ctrl-C */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		expect(cases[i].set, "0000000000000000", "0000000000000000", cases[i].fatal);
		expect("0000000000000000", cases[i].set, "0000000000000000", cases[i].fatal);
	}
}

Test(sf_mortal, what_the_thread_blocks_waits_for_something_else)
{
	expect("0000000000000002", "0000000000000000", "0000000000000002", false);
	expect("0000000000000000", "0000000000004000", "0000000000004000", false);
	expect("0000000000000000", "0000000000004002", "0000000000004000", true);
}

Test(sf_mortal, a_text_without_these_lines_says_nothing)
{
	static const char *const texts[] = {
		"",
		"\n",
		"Name:\tSigPnd:\t0000000000000100\n",         /* within a line */
		"SigPnd:",                                    /* cut off */
		"SigPnd:\tnot a number\nShdPnd:\t\n",
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(texts); i++)
		cr_expect_not(sf_mortal_status(texts[i]), "%s", texts[i]);
}

Test(sf_mortal, one_that_is_there_lives_and_one_that_cannot_be_seen_too)
{
	cr_expect_not(sf_mortal_ask(getpid()));
	cr_expect_not(sf_mortal_ask(1));
	cr_expect_not(sf_mortal_ask(0));
}

Test(sf_mortal, one_that_is_gone_does_not)
{
	cr_expect(sf_mortal_ask(0x7ffffffe)); /* above any pid_max */
}
