/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "vm/engine/jobs.h"

#define HEADING "ID  COMMAND         STATE      PROGRESS                                     SPEED      ETA\n"
#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

static void expect(const struct vm_run *list, const struct vm_domain *d, const char *want)
{
	char *text;
	size_t len;

	vm_jobs_table(list, d, &text, &len);
	cr_assert_eq(len, strlen(text));
	cr_assert_str_eq(text, want);
	free(text);
}

Test(vm_jobs, nothing_runs)
{
	expect(NULL, NULL, HEADING);
}

/* The table of the README and the man page. */
Test(vm_jobs, one_of_ours_has_bar_speed_and_time_left)
{
	struct vm_run *list = NULL, *job = vm_job_add(&list, 3, strdup("commit tuesday"));

	cr_assert_not_null(job);
	job->cur = 1258 * MIB;
	job->end = 2662 * MIB;
	job->speed = 210 * MIB;
	expect(list, NULL, HEADING "3   commit tuesday  running    [#########-----------]  47%  1.2/2.6 GiB     210 MiB/s  6s\n");
	job->speed = MIB;
	expect(list, NULL, HEADING "3   commit tuesday  running    [#########-----------]  47%  1.2/2.6 GiB     1 MiB/s    23m24s\n");
	job->end = 100 * GIB; /* what is not done is not rounded up */
	job->cur = job->end - 1;
	expect(list, NULL, HEADING "3   commit tuesday  running    [###################-]  99%  100.0/100.0 GiB  1 MiB/s    0s\n");
	job->cur = job->end = job->speed = 0;
	expect(list, NULL, HEADING "3   commit tuesday  running    [--------------------]   0%                  -          -\n");
	vm_job_remove(&list, job);
	cr_assert_null(list);
}

Test(vm_jobs, those_of_other_tools_have_their_whole_names)
{
	static const struct { const char *job, *row; } cases[] = {
		{"commit 47%", "-   commit vda      running "},
		{"active commit 47%", "-   active commit vda  running "}, /* the columns make room */
		{"active commit, ready", "-   active commit vda  ready "},
		{"copy 100%", "-   copy vda        running "},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_disk_now disk = { .target = (char *)"vda", .job = (char *)cases[i].job, .job_done = 1, .job_total = 4 };
		struct vm_domain d = { .disks = &disk, .n_disks = 1 };
		char *text, *row;
		size_t len;

		vm_jobs_table(NULL, &d, &text, &len);
		row = strchr(text, '\n') + 1;
		cr_expect(!strncmp(row, cases[i].row, strlen(cases[i].row)), "'%s': %s", cases[i].job, row);
		/* STATE stands under its heading. */
		cr_expect_eq(strstr(text, "STATE") - text, (strstr(row, " r") + 1) - row, "'%s': %s", cases[i].job, text);
		free(text);
	}
}
