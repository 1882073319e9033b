/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The plan. Snapshots that retention may touch are put in one order, newest first; every term walks that order and keeps
 * some; what no term kept is dropped.
 *
 * A period (an hour, a day, ...) is known by its label, which is what a person reads in the reason: two snapshots are in
 * one day iff both read "2026-11-16". The label of an hour has its offset from UTC in it: the hour that a clock going
 * back shows twice is two hours, and keeping one more is the careful answer. The newest of a period is found by sorting by
 * label, not by watching the label change on the walk: where a clock goes back just after midnight (St. John's did, at
 * 00:01), a day comes up, goes away and comes up again.
 *
 * Of each term's periods only those count that have a snapshot, so a guest that was off for a month loses nothing.
 *
 * Snapshots dated after now are kept and do not count. If they did, one taken while the clock was wrong would be "the
 * newest" for years, and `retain 1` would drop every new snapshot as it is taken.
 *
 * `min=`: h, d and w are 3,600, 86,400 and 604,800 seconds. m and y are the same day of the month and time of day that many
 * months earlier, or that month's last day, at the offset from UTC that holds now; so around a clock change such a span is
 * an hour off, which is nothing to a month.
 */
#include "vm/language/retain.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "vm/model/types.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define LABEL_MAX 40

/* A snapshot that counts. */
struct counted {
	const struct vm_retain_snapshot *snap;
	struct vm_retain_verdict *verdict;
	struct tm tm;          /* local */
	char label[LABEL_MAX]; /* of the unit that is being looked at */
	bool newest;           /* of its period */
};

/* Seconds, rounded down also before 1970. */
static time_t to_seconds(int64_t ns)
{
	return (time_t)(ns / VM_NS_PER_S - (ns % VM_NS_PER_S < 0));
}

/* ---------------------------------------------------------------- who counts */

static bool is_matched(const struct vm_retain *policy, const struct vm_retain_snapshot *s)
{
	for (size_t i = 0; i < policy->n_match; i++)
		if (fnmatch(policy->match[i], s->shown, 0) == 0 || fnmatch(policy->match[i], s->raw, 0) == 0)
			return true;
	return false;
}

/* Why retention leaves it alone; NULL: it counts. */
static const char *exempt(const struct vm_retain *policy, const struct vm_retain_snapshot *s, int64_t now_ns)
{
	if (s->held)
		return "held";
	if (s->open)
		return "open for reading";
	if (!s->recorded)
		return "not recorded by libvirt";
	if (!s->ours && !is_matched(policy, s))
		return "not taken here";
	if (policy->off)
		return "the policy is off";
	if (s->created_ns > now_ns)
		return "dated in the future";
	return NULL;
}

/* Newest first. */
static int compare_age(const void *left, const void *right)
{
	const struct vm_retain_snapshot *a = ((const struct counted *)left)->snap;
	const struct vm_retain_snapshot *b = ((const struct counted *)right)->snap;

	if (a->created_ns != b->created_ns)
		return a->created_ns > b->created_ns ? -1 : 1;
	if (a->order != b->order)
		return a->order > b->order ? -1 : 1;
	return a > b ? -1 : a < b; /* one array */
}

/* Judges those that do not count, collects the others newest first. */
static int collect(const struct vm_retain *policy, const struct vm_retain_snapshot *snaps, size_t n, int64_t now_ns,
		   struct vm_retain_verdict *verdicts, struct counted *counted, size_t *n_counted)
{
	for (size_t i = 0; i < n; i++) {
		const char *reason = exempt(policy, &snaps[i], now_ns);
		time_t when = to_seconds(snaps[i].created_ns);
		struct counted *c = &counted[*n_counted];

		verdicts[i].keep = reason != NULL;
		snprintf(verdicts[i].reason, sizeof(verdicts[i].reason), "%s", reason ? reason : "");
		if (!reason && snaps[i].begun) {
			verdicts[i].keep = !snaps[i].by_delete;
			snprintf(verdicts[i].reason, sizeof(verdicts[i].reason), "%s", snaps[i].by_delete ? "its deletion was begun" :
				 "an unfinished command has it");
			continue;
		}
		if (!reason && snaps[i].unreadable) {
			verdicts[i].keep = true;
			snprintf(verdicts[i].reason, sizeof(verdicts[i].reason), "it cannot be read, so it does not count");
			continue;
		}
		if (reason)
			continue;
		*c = (struct counted){ .snap = &snaps[i], .verdict = &verdicts[i] };
		if (!localtime_r(&when, &c->tm))
			return -EOVERFLOW;
		(*n_counted)++;
	}
	qsort(counted, *n_counted, sizeof(*counted), compare_age);
	return 0;
}

/* ---------------------------------------------------------------- what a term keeps */

/*
 * Adds a reason. VM_RETAIN_REASON_MAX holds them all: "newest 9999 of 9999", the five periods with at most 30 bytes of
 * label each, "younger than min=9999h" for five units; were a label ever longer, its end would be cut, nothing else.
 */
static void keep(struct counted *c, const char *reason)
{
	char *text = c->verdict->reason;
	size_t len = strlen(text);

	c->verdict->keep = true;
	snprintf(text + len, VM_RETAIN_REASON_MAX - len, "%s%s", len ? ", " : "", reason);
}

static void keep_newest(unsigned count, struct counted *c, size_t n)
{
	char reason[48];

	for (size_t i = 0; i < n && (i < count || count == VM_RETAIN_ALL); i++) {
		if (count == VM_RETAIN_ALL)
			snprintf(reason, sizeof(reason), "*n keeps all");
		else
			snprintf(reason, sizeof(reason), "newest %zu of %u", i + 1, count);
		keep(&c[i], reason);
	}
}

static void put_label(enum vm_retain_unit unit, struct counted *c)
{
	size_t len = 0;

	switch (unit) {
	case VM_RETAIN_HOUR:
		len = strftime(c->label, LABEL_MAX, "hour %Y-%m-%d %H:00%z", &c->tm);
		break;
	case VM_RETAIN_DAY:
		len = strftime(c->label, LABEL_MAX, "day %Y-%m-%d", &c->tm);
		break;
	case VM_RETAIN_WEEK:
		len = strftime(c->label, LABEL_MAX, "week %G-W%V", &c->tm);
		break;
	case VM_RETAIN_MONTH:
		len = strftime(c->label, LABEL_MAX, "month %Y-%m", &c->tm);
		break;
	case VM_RETAIN_YEAR:
		len = strftime(c->label, LABEL_MAX, "year %Y", &c->tm);
		break;
	case VM_RETAIN_NEWEST:
	case VM_RETAIN_UNITS:
		break;
	}
	c->label[len] = '\0';
}

/* By label, then newest first: the walk's own order, since pointers into it rise with age. */
static int compare_label(const void *left, const void *right)
{
	struct counted *const *a = left, *const *b = right;
	int by_label = strcmp((*a)->label, (*b)->label);

	if (by_label)
		return by_label;
	return *a < *b ? -1 : *a > *b;
}

/* Marks the newest of every period. @by_label has room for @n. */
static void find_newest(enum vm_retain_unit unit, struct counted *c, size_t n, struct counted **by_label)
{
	for (size_t i = 0; i < n; i++) {
		put_label(unit, &c[i]);
		by_label[i] = &c[i];
	}
	qsort(by_label, n, sizeof(*by_label), compare_label);
	for (size_t i = 0; i < n; i++)
		by_label[i]->newest = i == 0 || strcmp(by_label[i]->label, by_label[i - 1]->label) != 0;
}

static void keep_periods(unsigned count, struct counted *c, size_t n)
{
	char reason[LABEL_MAX + 16];
	unsigned kept = 0;

	for (size_t i = 0; i < n && (kept < count || count == VM_RETAIN_ALL); i++) {
		if (!c[i].newest)
			continue;
		snprintf(reason, sizeof(reason), "newest of %s", c[i].label);
		keep(&c[i], reason);
		kept++;
	}
}

/* ---------------------------------------------------------------- min= */

static int days_in_month(int year, int month)
{
	static const int days[12] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return days[month] + (month == 1 && leap);
}

/* The second so many months before @local, which is now. */
static int64_t months_before(const struct tm *local, int months)
{
	int64_t month = (int64_t)local->tm_year * 12 + local->tm_mon - months;
	struct tm then = *local;
	int last;

	then.tm_mon = (int)((month % 12 + 12) % 12);
	then.tm_year = (int)((month - then.tm_mon) / 12);
	last = days_in_month(then.tm_year + 1900, then.tm_mon);
	if (then.tm_mday > last)
		then.tm_mday = last;
	return (int64_t)timegm(&then) - local->tm_gmtoff;
}

/* What was created after this is younger than @count units. */
static int64_t limit_ns(int64_t now_ns, const struct tm *local, enum vm_retain_unit unit, unsigned count)
{
	static const int64_t unit_s[VM_RETAIN_UNITS] = {
		[VM_RETAIN_HOUR] = 3600, [VM_RETAIN_DAY] = 86400, [VM_RETAIN_WEEK] = 604800,
	};
	int64_t now = to_seconds(now_ns);
	int64_t then, limit;

	if (unit == VM_RETAIN_MONTH || unit == VM_RETAIN_YEAR)
		then = months_before(local, (int)count * (unit == VM_RETAIN_YEAR ? 12 : 1));
	else
		then = now - unit_s[unit] * count;
	if (__builtin_mul_overflow(then, VM_NS_PER_S, &limit) ||
	    __builtin_add_overflow(limit, (now_ns % VM_NS_PER_S + VM_NS_PER_S) % VM_NS_PER_S, &limit))
		return INT64_MIN; /* older than any date */
	return limit;
}

static void keep_younger(unsigned count, enum vm_retain_unit unit, int64_t after_ns, struct counted *c, size_t n)
{
	char reason[48];

	snprintf(reason, sizeof(reason), "younger than min=%u%c", count, VM_RETAIN_LETTERS[unit]);
	for (size_t i = 0; i < n && c[i].snap->created_ns > after_ns; i++)
		keep(&c[i], reason);
}

/* ---------------------------------------------------------------- the plan */

static void apply_keeps(const struct vm_retain *policy, struct counted *c, size_t n, struct counted **by_label)
{
	keep_newest(policy->keep[VM_RETAIN_NEWEST], c, n);
	for (enum vm_retain_unit unit = VM_RETAIN_HOUR; unit < VM_RETAIN_UNITS; unit++) {
		if (!policy->keep[unit])
			continue;
		find_newest(unit, c, n, by_label);
		keep_periods(policy->keep[unit], c, n);
	}
}

static int apply_mins(const struct vm_retain *policy, int64_t now_ns, struct counted *c, size_t n)
{
	time_t now = to_seconds(now_ns);
	struct tm local;

	if (!localtime_r(&now, &local))
		return -EOVERFLOW;
	for (enum vm_retain_unit unit = VM_RETAIN_HOUR; unit < VM_RETAIN_UNITS; unit++)
		if (policy->min[unit])
			keep_younger(policy->min[unit], unit, limit_ns(now_ns, &local, unit, policy->min[unit]), c, n);
	return 0;
}

int vm_retain_plan(const struct vm_retain *policy, const struct vm_retain_snapshot *snaps, size_t n, int64_t now_ns,
		   struct vm_retain_verdict *verdicts)
{
	vs_autofree struct counted *counted = xcalloc(n + 1, sizeof(*counted));
	vs_autofree struct counted **by_label = xcalloc(n, sizeof(struct counted *));
	size_t n_counted = 0;
	int ret = collect(policy, snaps, n, now_ns, verdicts, counted, &n_counted);

	if (ret < 0)
		return ret;
	apply_keeps(policy, counted, n_counted, by_label);
	ret = apply_mins(policy, now_ns, counted, n_counted);
	for (size_t i = 0; i < n_counted; i++)
		if (!counted[i].verdict->keep)
			snprintf(counted[i].verdict->reason, VM_RETAIN_REASON_MAX, "no term keeps it");
	return ret;
}

void vm_retain_plan_text(const struct vm_retain_snapshot *snaps, const struct vm_retain_verdict *verdicts, size_t n, char *const *costs,
			 char **text, size_t *len)
{
	FILE *f = xmemopen(text, len);

	for (size_t i = 0; i < n; i++) {
		vs_autofree char *name = vm_name_for_table(snaps[i].shown);

		fprintf(f, "%s %s %s", verdicts[i].keep ? "keep" : "drop", name, verdicts[i].reason);
		if (costs && costs[i])
			fprintf(f, "; %s", costs[i]);
		fputc('\n', f);
	}
	xmemclose(f);
}
