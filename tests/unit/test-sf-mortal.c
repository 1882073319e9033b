/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "fs/mortal.h"
#include "qcow2/qcow2.h"

#define NONE "0000000000000000"
#define ALONE "0000000000000100" /* KILL, as every thread has it whose process ends */

/* As proc(5) prints them, shortened. @code: as wait(2) has it. */
static void expect(const char *thread, const char *process, const char *blocked, int code, enum sf_fate fate)
{
	char status[512], stat[128];

	snprintf(status, sizeof(status),
		 "Name:\tbash\nUmask:\t0022\nState:\tD (disk sleep)\nTgid:\t10\nPid:\t10\nGroups:\t0 4 24 \nThreads:\t1\n"
		 "SigQ:\t1/7796\nSigPnd:\t%s\nShdPnd:\t%s\nSigBlk:\t%s\nSigIgn:\t0000000000000008\nSigCgt:\t0000000000000210\n",
		 thread, process, blocked);
	snprintf(stat, sizeof(stat), "10 (a) 15 (b 9) D 1 10 10 0 -1 4194304 99 0 0 0 0 0 0 0 20 0 1 0 7796 2 3 %d\n", code);
	cr_expect_eq(sf_mortal_fate(status, stat), fate, "%s %s %s %d", thread, process, blocked, code);
	if (!code)
		cr_expect_eq(sf_mortal_fate(status, NULL), fate, "%s %s %s", thread, process, blocked);
}

Test(sf_mortal, what_is_pending_decides)
{
	/* TRAP and USR1 have handlers in that status, ILL is ignored */
	static const struct { const char *set; enum sf_fate fate; } cases[] = {
		{NONE, SF_LIVES},
		{"0000000000000001", SF_ENDED},  /* HUP */
		{"0000000000000002", SF_ENDED},  /* INT */
		{"0000000000000004", SF_ENDED},  /* QUIT */
		{"0000000000004000", SF_ENDED},  /* TERM */
		{"0000000000000200", SF_LIVES},  /* USR1 */
		{"0000000000000010", SF_LIVES},  /* TRAP */
		{"0000000000000008", SF_LIVES},  /* ILL, of a process that is traced */
		{"0000000008000000", SF_LIVES},  /* WINCH: a terminal is resized */
		{"0000000000010000", SF_LIVES},  /* CHLD */
		{"0000000000080000", SF_LIVES},  /* TSTP: Ctrl-Z */
		{"0000000000020000", SF_LIVES},  /* CONT */
		{"0000000000002000", SF_DIES},   /* ALRM, without a handler */
		{"0000000000000400", SF_DIES},   /* SEGV */
		{"0000000200000000", SF_DIES},   /* a real-time one */
		{"ffffffffffffbef8", SF_DIES},   /* all others at once */
		{"0000000008000002", SF_ENDED},  /* a resize, and Ctrl-C */
		{"0000000000002002", SF_ENDED},  /* ALRM and INT */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		expect(cases[i].set, NONE, NONE, 0, cases[i].fate);
		expect(NONE, cases[i].set, NONE, 0, cases[i].fate);
	}
}

Test(sf_mortal, of_a_process_that_ends_the_reason_decides)
{
	expect(NONE, ALONE, NONE, 0, SF_ENDED);             /* SIGKILL itself is pending on the process */
	expect(ALONE, ALONE, NONE, SIGKILL, SF_ENDED);
	expect(ALONE, "0000000000004000", NONE, SIGTERM, SF_ENDED);
	expect(ALONE, "0000000000004000", NONE, 0, SF_ENDED); /* also where the reason cannot be read */
	expect(ALONE, "0000000000002000", NONE, SIGALRM, SF_DIES);
	expect(ALONE, "0000000000002000", NONE, 0, SF_DIES);
	expect(ALONE, NONE, NONE, SIGTERM, SF_ENDED);       /* another thread was sent it */
	expect(ALONE, NONE, NONE, SIGKILL, SF_ENDED);
	expect(ALONE, NONE, NONE, SIGQUIT | 0x80, SF_ENDED); /* another thread dumps core */
	expect(ALONE, NONE, NONE, SIGSEGV | 0x80, SF_DIES);
	expect(ALONE, NONE, NONE, 0, SF_DIES);              /* exit(0) */
	expect(ALONE, NONE, NONE, 9 << 8, SF_DIES);         /* exit(9) */
	expect(NONE, NONE, NONE, SIGTERM, SF_LIVES);        /* it was stopped: not an end */
}

Test(sf_mortal, what_the_thread_blocks_waits_for_something_else)
{
	expect("0000000000000002", NONE, "0000000000000002", 0, SF_LIVES);
	expect(NONE, "0000000000004000", "0000000000004000", 0, SF_LIVES);
	expect(NONE, "0000000000004002", "0000000000004000", 0, SF_ENDED);
	expect(NONE, "0000000000002000", "0000000000002000", 0, SF_LIVES);
	expect(ALONE, "0000000000004000", "0000000000004000", SIGTERM, SF_ENDED); /* unless it ends the process */
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
		cr_expect_eq(sf_mortal_fate(texts[i], texts[i]), SF_LIVES, "%s", texts[i]);
}

Test(sf_mortal, one_that_is_there_lives_and_one_that_cannot_be_seen_too)
{
	cr_expect_eq(sf_mortal_ask(getpid()), SF_LIVES);
	cr_expect_eq(sf_mortal_ask(1), SF_LIVES);
	cr_expect_eq(sf_mortal_ask(0), SF_LIVES);
}

Test(sf_mortal, one_that_is_gone_does_not)
{
	cr_expect_eq(sf_mortal_ask(0x7ffffffe), SF_ENDED); /* above any pid_max */
}
