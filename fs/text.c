/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "text.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "vm/util/mem.h"

struct sf_text *sf_text_ref(struct sf_text *text)
{
	atomic_fetch_add(&text->refs, 1);
	return text;
}

void sf_text_unref(struct sf_text *text)
{
	if (text && atomic_fetch_sub(&text->refs, 1) == 1)
		free(text);
}

struct sf_text *sf_text_new(const char *data, size_t len, int64_t changed_ns)
{
	struct sf_text *text = xcalloc(1, sizeof(*text) + len);

	atomic_init(&text->refs, 1);
	text->changed_ns = changed_ns;
	text->len = len;
	if (len)
		memcpy(text->data, data, len);
	return text;
}

struct sf_text *sf_text_hollow(size_t len, int64_t changed_ns)
{
	struct sf_text *text = sf_text_new(NULL, 0, changed_ns);

	text->len = len;
	text->hollow = true;
	return text;
}

typedef void renderer_fn(FILE *out, const struct vm_domain *domain);

static renderer_fn *renderer_of(enum sf_kind kind)
{
	return kind == SF_JSON ? sf_json_render : kind == SF_CHAIN ? sf_chain_render : sf_table_render;
}

static struct sf_text *render(renderer_fn *renderer, const struct vm_domain *domain)
{
	vs_autofree char *data = NULL;
	size_t len;
	FILE *stream = xmemopen(&data, &len);

	renderer(stream, domain);
	xmemclose(stream);
	return sf_text_new(data, len, domain->changed_ns);
}

static ssize_t count(void *opaque, const char *bytes, size_t len)
{
	(void)bytes;
	*(size_t *)opaque += len;
	return (ssize_t)len;
}

/* How long it would be, without holding it: `ls -l` asks that of every text of every domain. */
static size_t measure(renderer_fn *renderer, const struct vm_domain *domain)
{
	const cookie_io_functions_t counter = {.write = count};
	size_t len = 0;
	FILE *stream = fopencookie(&len, "w", counter);

	if (!stream)
		xoom();
	renderer(stream, domain);
	xmemclose(stream);
	return len;
}

static void note_len(struct sf_dir *dir, enum sf_kind kind, size_t len)
{
	pthread_mutex_lock(&dir->lock);
	dir->text_len[kind] = len;
	pthread_mutex_unlock(&dir->lock);
}

static struct sf_text *make_rendered(struct sf_dir *dir, enum sf_kind kind)
{
	struct sf_text *text = render(renderer_of(kind), dir->domain);

	note_len(dir, kind, text->len);
	return text;
}

struct sf_text *sf_text_counted(struct sf_dir *dir, enum sf_kind kind, const char *data, size_t len)
{
	note_len(dir, kind, len);
	return sf_text_new(data, len, dir->domain->changed_ns);
}

static size_t known_len(struct sf_dir *dir, enum sf_kind kind)
{
	size_t len;

	pthread_mutex_lock(&dir->lock);
	len = dir->text_len[kind];
	pthread_mutex_unlock(&dir->lock);
	return len;
}

static struct sf_text *make_log(const struct vm_domain *domain)
{
	vs_autofree char *data = NULL;
	int64_t changed_ns;
	size_t len;

	vm_log_text(domain->log, &data, &len, &changed_ns);
	return sf_text_new(data, len, len ? changed_ns : domain->changed_ns);
}

/* What vm/ knows at this moment, without a new inventory. */
struct sf_text *sf_text_live(struct vm *vm, const char *uuid, enum sf_kind kind)
{
	vs_autofree char *data = NULL;
	int64_t changed_ns;
	size_t len;

	if (kind == SF_CTL)
		vm_ctl_text(vm, uuid, &data, &len, &changed_ns);
	else if (kind == SF_RETAIN)
		vm_retain_text(vm, uuid, &data, &len, &changed_ns);
	else
		vm_jobs_text(vm, uuid, &data, &len, &changed_ns);
	return sf_text_new(data, len, changed_ns);
}

struct sf_text *sf_text_outcome(struct vm *vm, const char *uuid, const char *outcome)
{
	vs_autofree char *data = NULL, *own = NULL;
	int64_t changed_ns;
	const char *rest;
	size_t len;

	vm_ctl_text(vm, uuid, &data, &len, &changed_ns);
	rest = memchr(data, '\n', len);
	own = xasprintf("%s%.*s", outcome, rest ? (int)(len - (size_t)(rest - data)) : 0, rest ? rest : "");
	return sf_text_new(own, strlen(own), changed_ns);
}

int sf_text_plan(struct vm *vm, const char *uuid, const char *policy, int64_t changed_ns, struct sf_text **out)
{
	vs_autofree char *data = NULL;
	struct vs_err why = {0};
	size_t len;
	int rc = vm_plan_text(vm, uuid, policy, &data, &len, &why);

	if (rc == -EINVAL) {
		data = xasprintf("failed: %s (EINVAL)\n", why.msg);
		len = strlen(data);
	}
	*out = rc == 0 || rc == -EINVAL ? sf_text_new(data, len, changed_ns) : NULL;
	return rc;
}

struct sf_text *sf_text_make(struct vm *vm, struct sf_dir *dir, const struct sf_entry *entry)
{
	const struct vm_snapshot *s = entry->snapshot;

	switch (entry->kind) {
	case SF_XML:
		return sf_text_new(s->xml, s->xml_len, s->created_ns);
	case SF_LOG:
		return make_log(dir->domain);
	case SF_CTL:
	case SF_RETAIN:
	case SF_JOBS:
		return sf_text_live(vm, dir->domain->uuid, entry->kind);
	default:
		return make_rendered(dir, entry->kind);
	}
}

/* Which policy the plan is of. Gives a copy of what was written there, or of what `retain` says. */
static char *plan_policy(struct vm *vm, struct sf_plans *plans, const char *uuid)
{
	char *policy = sf_plans_peek(plans, uuid);
	size_t len;

	if (!policy)
		vm_retain_text(vm, uuid, &policy, &len, NULL);
	return policy;
}

/* A plan of the same snapshots and policy is another one when time has passed, which is looked at once a second. */
static bool plan_known(struct sf_dir *dir, const char *policy, int64_t now_s, size_t *len)
{
	bool known;

	pthread_mutex_lock(&dir->lock);
	known = dir->plan_policy && dir->plan_s == now_s && !strcmp(dir->plan_policy, policy);
	*len = dir->text_len[SF_PLAN];
	pthread_mutex_unlock(&dir->lock);
	return known;
}

/* With what was counted of it, if it reads otherwise as it did then. */
static size_t note_plan(struct sf_dir *dir, char *policy, size_t plain)
{
	size_t len;

	pthread_mutex_lock(&dir->lock);
	if (!dir->plan_policy || strcmp(dir->plan_policy, policy) != 0 || dir->plan_plain != plain)
		dir->plan_counted = 0;
	free(dir->plan_policy);
	dir->plan_policy = policy;
	dir->plan_s = time(NULL);
	dir->plan_plain = plain;
	len = dir->text_len[SF_PLAN] = dir->plan_counted ? dir->plan_counted : plain;
	pthread_mutex_unlock(&dir->lock);
	return len;
}

void sf_text_plan_counted(struct vm *vm, struct sf_dir *dir, const char *policy, size_t plain, size_t len)
{
	char *own = policy ? xstrdup(policy) : NULL;
	size_t own_len;

	if (!own)
		vm_retain_text(vm, dir->domain->uuid, &own, &own_len, NULL);
	note_plan(dir, own, plain);
	pthread_mutex_lock(&dir->lock);
	dir->plan_counted = dir->text_len[SF_PLAN] = len;
	pthread_mutex_unlock(&dir->lock);
}

static int stat_plan(struct vm *vm, struct sf_plans *plans, struct sf_dir *dir, size_t *len)
{
	vs_autofree char *policy = plan_policy(vm, plans, dir->domain->uuid);
	struct sf_text *text;
	int rc;

	if (plan_known(dir, policy, time(NULL), len))
		return 0;
	rc = sf_text_plan(vm, dir->domain->uuid, policy, 0, &text);
	if (rc < 0) {
		sf_text_unref(text);
		return rc;
	}
	*len = note_plan(dir, vs_steal(policy), text->len);
	sf_text_unref(text);
	return 0;
}

static void stat_log(const struct vm_domain *domain, size_t *len, int64_t *changed_ns)
{
	int64_t logged_ns;

	vm_log_stat(domain->log, len, &logged_ns);
	if (*len)
		*changed_ns = logged_ns;
}

static void stat_rendered(struct sf_dir *dir, enum sf_kind kind, size_t *len)
{
	*len = known_len(dir, kind);
	if (*len)
		return;
	*len = measure(renderer_of(kind), dir->domain);
	note_len(dir, kind, *len);
}

/* These are short. */
static void stat_live(struct vm *vm, const char *uuid, enum sf_kind kind, size_t *len, int64_t *changed_ns)
{
	struct sf_text *text = sf_text_live(vm, uuid, kind);

	*len = text->len;
	*changed_ns = text->changed_ns;
	sf_text_unref(text);
}

int sf_text_stat(struct vm *vm, struct sf_plans *plans, struct sf_dir *dir, const struct sf_entry *entry, size_t *len,
		 int64_t *changed_ns)
{
	*changed_ns = dir->domain->changed_ns;
	switch (entry->kind) {
	case SF_XML:
		*len = entry->snapshot->xml_len;
		*changed_ns = entry->snapshot->created_ns;
		return 0;
	case SF_LOG:
		stat_log(dir->domain, len, changed_ns);
		return 0;
	case SF_CTL:
	case SF_RETAIN:
	case SF_JOBS:
		stat_live(vm, dir->domain->uuid, entry->kind, len, changed_ns);
		return 0;
	case SF_PLAN:
		return stat_plan(vm, plans, dir, len);
	case SF_SPACE:
	case SF_SPACE_JSON:
		*len = known_len(dir, entry->kind);
		return 0;
	default:
		stat_rendered(dir, entry->kind, len);
		return 0;
	}
}
