/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/engine/jobs.h"

#include <inttypes.h>
#include <string.h>

#include "vm/util/mem.h"

#define BAR 20

struct vm_run *vm_job_add(struct vm_run **list, uint64_t id, char *command)
{
	struct vm_run *job = xcalloc(1, sizeof(*job));

	*job = (struct vm_run){ .id = id, .command = command, .state = "running" };
	while (*list)
		list = &(*list)->next;
	*list = job;
	return job;
}

void vm_job_remove(struct vm_run **list, struct vm_run *job)
{
	while (*list && *list != job)
		list = &(*list)->next;
	if (!*list)
		return;
	*list = job->next;
	free(job->command);
	free(job);
}

/* ---------------------------------------------------------------- text */

/* "1.2 GiB", "210 MiB": the number and its unit. */
static double scaled(uint64_t bytes, const char **unit)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	size_t i = 0;

	while (value >= 1000 && i + 1 < VS_ARRAY_LEN(units)) {
		value /= 1024;
		i++;
	}
	*unit = units[i];
	return value;
}

static double in_unit(uint64_t bytes, const char *unit)
{
	double value = (double)bytes;

	for (const char *c = "BKMGT"; *c && *c != unit[0]; c++)
		value /= 1024;
	return value;
}

static void progress_text(const struct vm_run *job, char *text, size_t room)
{
	char bar[BAR + 1];
	const char *unit;
	uint64_t cur = job->cur < job->end ? job->cur : job->end;
	double part = job->end > 1 ? (double)cur / (double)job->end : 0, all;

	memset(bar, '-', BAR);
	memset(bar, '#', (size_t)(part * BAR));
	bar[BAR] = '\0';
	all = scaled(job->end > 1 ? job->end : 0, &unit);
	if (job->end > 1)
		snprintf(text, room, "[%s] %3u%%  %.1f/%.1f %s", bar, (unsigned)(part * 100), in_unit(cur, unit), all, unit);
	else
		snprintf(text, room, "[%s]   0%%", bar);
}

static void speed_text(const struct vm_run *job, char *speed, char *eta, size_t room)
{
	const char *unit;
	double value = scaled(job->speed, &unit);
	uint64_t left = job->end > job->cur ? job->end - job->cur : 0, s = job->speed ? left / job->speed : 0;

	snprintf(speed, room, "-");
	snprintf(eta, room, "-");
	if (!job->speed || job->end <= 1)
		return;
	snprintf(speed, room, "%.0f %s/s", value, unit);
	if (s >= 3600)
		snprintf(eta, room, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
	else if (s >= 60)
		snprintf(eta, room, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else
		snprintf(eta, room, "%" PRIu64 "s", s);
}

static void print_row(FILE *out, const char *id, const struct vm_run *job, int width)
{
	char progress[96], speed[32], eta[32], left[32];
	const char *state = job->state;

	if (job->left > 1 && !strcmp(state, "running")) {
		snprintf(left, sizeof(left), "%zu left", job->left);
		state = left;
	}
	progress_text(job, progress, sizeof(progress));
	speed_text(job, speed, eta, sizeof(speed));
	fprintf(out, "%-3s %-*s  %-10s %-43s  %-9s  %s\n", id, width, job->command, state, progress, speed, eta);
}

/* vm_disk_now.job is "active commit 47%" or "active commit, ready": how long its name is. */
static int name_len(const char *job)
{
	const char *end = strchr(job, ',');

	end = end ? end : strrchr(job, ' ');
	return (int)(end ? (size_t)(end - job) : strlen(job));
}

static int command_width(const struct vm_run *list, const struct vm_domain *d)
{
	int width = 14;

	for (; list; list = list->next)
		if ((int)strlen(list->command) > width)
			width = (int)strlen(list->command);
	for (size_t i = 0; d && i < d->n_disks; i++)
		if (d->disks[i].job && name_len(d->disks[i].job) + 1 + (int)strlen(d->disks[i].target) > width)
			width = name_len(d->disks[i].job) + 1 + (int)strlen(d->disks[i].target);
	return width;
}

static void print_foreign(FILE *out, const struct vm_disk_now *disk, int width)
{
	char command[320];
	struct vm_run job = { .command = command, .state = strchr(disk->job, ',') ? "ready" : "running", .cur = disk->job_done,
			      .end = disk->job_total };

	snprintf(command, sizeof(command), "%.*s %s", name_len(disk->job), disk->job, disk->target);
	print_row(out, "-", &job, width);
}

void vm_jobs_table(const struct vm_run *list, const struct vm_domain *d, char **text, size_t *len)
{
	int width = command_width(list, d);
	FILE *out = xmemopen(text, len);
	char id[24];

	fprintf(out, "%-3s %-*s  %-10s %-43s  %-9s  %s\n", "ID", width, "COMMAND", "STATE", "PROGRESS", "SPEED", "ETA");
	for (; list; list = list->next) {
		snprintf(id, sizeof(id), "%" PRIu64, list->id);
		print_row(out, id, list, width);
	}
	for (size_t i = 0; d && i < d->n_disks; i++)
		if (d->disks[i].job)
			print_foreign(out, &d->disks[i], width);
	xmemclose(out);
}
