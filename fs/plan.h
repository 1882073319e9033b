/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * plan.h: the policies that were written to retain.plan, to be looked at and not to be kept.
 *
 * One a domain, known by the domain's UUID. It waits for the next open for reading, which takes it away. The open file
 * through which it was written shows it on its own account (handle.h).
 *
 * Threads: any.
 */
#ifndef VS_PLAN_H
#define VS_PLAN_H

#include <pthread.h>
#include <stddef.h>
#include <sys/queue.h>

struct sf_plans {
	pthread_mutex_t lock;
	LIST_HEAD(, sf_plan) all; /* guarded by lock */
};

void sf_plans_init(struct sf_plans *plans);
void sf_plans_fini(struct sf_plans *plans);

/* The next open shows what @policy would do. */
void sf_plans_set(struct sf_plans *plans, const char *uuid, const char *policy);
/* What the next open will show, and still will afterwards. Gives the policy, or NULL: the one that is stored. */
char *sf_plans_peek(struct sf_plans *plans, const char *uuid);
/* This is the next open. Gives the policy, or NULL: the one that is stored. */
char *sf_plans_take(struct sf_plans *plans, const char *uuid);

/* The line that one write of @len bytes holds, without its newline. -EINVAL: it holds more than that, or a NUL. Gives
 * *line. Pure. */
int sf_plan_line(const char *text, size_t len, char **line);

#endif
