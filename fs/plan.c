/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "plan.h"

#include <errno.h>
#include <string.h>

#include "qcow2/qcow2.h"
#include "vm/util/mem.h"

struct sf_plan {
	LIST_ENTRY(sf_plan) link;
	char *uuid, *policy;
};

static void plan_free(struct sf_plan *plan)
{
	if (!plan)
		return;
	free(plan->uuid);
	free(plan->policy);
	free(plan);
}

static struct sf_plan *plan_new(const char *uuid, const char *policy)
{
	struct sf_plan *plan = xcalloc(1, sizeof(*plan));

	plan->uuid = xstrdup(uuid);
	plan->policy = xstrdup(policy);
	return plan;
}

void sf_plans_init(struct sf_plans *plans)
{
	*plans = (struct sf_plans){0};
	pthread_mutex_init(&plans->lock, NULL);
}

void sf_plans_fini(struct sf_plans *plans)
{
	struct sf_plan *plan;

	while ((plan = LIST_FIRST(&plans->all))) {
		LIST_REMOVE(plan, link);
		plan_free(plan);
	}
	pthread_mutex_destroy(&plans->lock);
}

static struct sf_plan *find_locked(struct sf_plans *plans, const char *uuid)
{
	struct sf_plan *plan;

	LIST_FOREACH(plan, &plans->all, link)
		if (!strcmp(plan->uuid, uuid))
			break;
	return plan;
}

static struct sf_plan *unlink_locked(struct sf_plans *plans, const char *uuid)
{
	struct sf_plan *plan = find_locked(plans, uuid);

	if (plan)
		LIST_REMOVE(plan, link);
	return plan;
}

void sf_plans_set(struct sf_plans *plans, const char *uuid, const char *policy)
{
	struct sf_plan *plan = plan_new(uuid, policy), *before;

	pthread_mutex_lock(&plans->lock);
	before = unlink_locked(plans, uuid);
	LIST_INSERT_HEAD(&plans->all, plan, link);
	pthread_mutex_unlock(&plans->lock);
	plan_free(before);
}

char *sf_plans_peek(struct sf_plans *plans, const char *uuid)
{
	const struct sf_plan *plan;
	char *policy;

	pthread_mutex_lock(&plans->lock);
	plan = find_locked(plans, uuid);
	policy = plan ? xstrdup(plan->policy) : NULL;
	pthread_mutex_unlock(&plans->lock);
	return policy;
}

char *sf_plans_take(struct sf_plans *plans, const char *uuid)
{
	struct sf_plan *plan;
	char *policy = NULL;

	pthread_mutex_lock(&plans->lock);
	plan = unlink_locked(plans, uuid);
	pthread_mutex_unlock(&plans->lock);
	if (plan)
		policy = vs_steal(plan->policy);
	plan_free(plan);
	return policy;
}

int sf_plan_line(const char *text, size_t len, char **line)
{
	if (len && text[len - 1] == '\n')
		len--;
	if (memchr(text, '\n', len) || memchr(text, '\0', len))
		return -EINVAL;
	*line = xstrndup(text, len);
	return 0;
}
