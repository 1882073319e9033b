/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * retain.h: the `retain` language, and what a policy keeps and drops.
 *
 *     policy = "off" | term { sep term }      sep: spaces, tabs, commas
 *     term   = COUNT | COUNT unit | * unit    units may run together: 7d4w12m (a bare COUNT may not)
 *            | min=COUNT unit | match=GLOB    a GLOB ends at the next separator: write `?` for a space or a comma
 *     unit   = n h d w m y                    lower case; min= takes spans of time only, so not n
 *     COUNT  = 1..9999
 *
 * Terms add up: of two with one unit the larger counts, all globs count. Source: README.md, "retain".
 *
 * Errors: -EINVAL for every line that is no policy, with a sentence that names the term.
 * Pure: no I/O, no clock. "Local time" is the process's time zone and GLOBs are matched in its locale, so whoever changes
 * TZ calls tzset() first. Any thread.
 */
#ifndef VS_VM_LANGUAGE_RETAIN_H
#define VS_VM_LANGUAGE_RETAIN_H

#include "qcow2/qcow2.h"

#define VM_RETAIN_LINE_MAX 4096  /* bytes, as written and as read back, the newline not counted */
#define VM_RETAIN_COUNT_MAX 9999
#define VM_RETAIN_ALL 10000u     /* the count that `*` stands for */

enum vm_retain_unit {
	VM_RETAIN_NEWEST,
	VM_RETAIN_HOUR,
	VM_RETAIN_DAY,
	VM_RETAIN_WEEK,  /* ISO 8601: Monday to Sunday */
	VM_RETAIN_MONTH,
	VM_RETAIN_YEAR,
	VM_RETAIN_UNITS,
};
#define VM_RETAIN_LETTERS "nhdwmy" /* of the units, in their order */

struct vm_retain {
	bool off;                       /* then everything below is empty */
	unsigned keep[VM_RETAIN_UNITS]; /* 0: no such term; VM_RETAIN_ALL: `*` */
	unsigned min[VM_RETAIN_UNITS];  /* 0: no such term; never for VM_RETAIN_NEWEST */
	char **match;                   /* globs in the order written, each once */
	size_t n_match;
};

/* One line of @len bytes; one newline at its end is accepted. Fills *out (vm_retain_fini) on success. */
int vm_retain_parse(const char *line, size_t len, struct vm_retain *out, struct vs_err *err);
/* Accepts a zeroed struct; leaves one. */
void vm_retain_fini(struct vm_retain *policy);

/* The canonical line, without a newline: "7 7d 4w min=2d match=auto-*". It parses to the same policy. Gives. */
char *vm_retain_line(const struct vm_retain *policy);

/* ---------------------------------------------------------------- the plan */

/* A snapshot as retention sees it; borrowed. All zero is the careful answer: it is left alone. */
struct vm_retain_snapshot {
	const char *shown, *raw; /* its name; globs match either */
	int64_t created_ns;
	size_t order;            /* place in the snapshot tree, parents before children: of two taken at one time the one
	                          * with the larger number is newer (else the one later in the array) */
	bool recorded;           /* libvirt knows it; image sources: true */
	bool ours;               /* taken through our `ctl` */
	bool held;
	bool open;               /* somebody reads it right now */
	bool begun;              /* a command that removes it was begun and is not done: its data is gone already */
	bool by_delete;          /* ... which was a delete */
	bool unreadable;         /* its data is gone, or nobody can tell */
};

/* Room for the reasons of all terms at once: see retain-plan.c. */
#define VM_RETAIN_REASON_MAX 320

struct vm_retain_verdict {
	bool keep;
	char reason[VM_RETAIN_REASON_MAX]; /* "newest 2 of 7, newest of day 2026-11-16"; never empty */
};

/*
 * What @policy does with @snaps at @now_ns: fills verdicts[0..n-1]. Not counted and always kept are snapshots that are
 * held, open, not recorded, neither ours nor named by a glob, or dated after @now_ns. Not counted are those whose removal
 * was begun, and those that cannot be read, for what has no data any more must not stand in for what has: a delete is finished,
 * another command is left to who gave it, and so is what cannot be read. 0; -EOVERFLOW: a date
 * that the C library cannot put into the calendar. On failure the verdicts say nothing.
 */
int vm_retain_plan(const struct vm_retain *policy, const struct vm_retain_snapshot *snaps, size_t n, int64_t now_ns,
		   struct vm_retain_verdict *verdicts);

/* The text of `retain.plan`: a line "keep|drop NAME reason" each, in the order of @snaps, spaces in names as %20. @costs: NULL, or what
 * is to be said after the reason of each, or NULL. Gives *text and its length. */
void vm_retain_plan_text(const struct vm_retain_snapshot *snaps, const struct vm_retain_verdict *verdicts, size_t n, char *const *costs,
			 char **text, size_t *len);

#endif
