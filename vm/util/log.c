/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/util/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define LINES 1000

struct line {
	int64_t when_ns;
	char *text;
};

struct vm_log {
	atomic_uint refs;
	bool to_stderr; /* immutable */
	atomic_bool quiet;

	pthread_mutex_t lock; /* guards the rest; a leaf: nothing is called under it but the allocator */
	char *name;
	struct line *lines; /* a ring once there are LINES */
	size_t first, n, room;
	size_t len; /* of the text */
	int64_t changed_ns;
};

struct vm_log *vm_log_new(const char *name, bool to_stderr)
{
	struct vm_log *log = xcalloc(1, sizeof(*log));

	log->name = xstrdup(name);
	atomic_init(&log->refs, 1);
	pthread_mutex_init(&log->lock, NULL);
	log->to_stderr = to_stderr;
	log->changed_ns = vm_now_ns();
	return log;
}

struct vm_log *vm_log_ref(struct vm_log *log)
{
	atomic_fetch_add_explicit(&log->refs, 1, memory_order_relaxed);
	return log;
}

void vm_log_unref(struct vm_log *log)
{
	if (!log || atomic_fetch_sub_explicit(&log->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < log->n; i++)
		free(log->lines[i].text);
	free(log->lines);
	pthread_mutex_destroy(&log->lock);
	free(log->name);
	free(log);
}

void vm_log_rename(struct vm_log *log, const char *name)
{
	pthread_mutex_lock(&log->lock);
	if (strcmp(log->name, name)) {
		free(log->name);
		log->name = xstrdup(name);
	}
	pthread_mutex_unlock(&log->lock);
}

/* One line stays one line, whatever a tool below put into its message. */
static void flatten(char *text)
{
	size_t len = strlen(text);

	while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
		text[--len] = '\0';
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
}

static void print_line(FILE *f, const struct line *line)
{
	char when[40];

	vm_time_text(line->when_ns, when, sizeof(when));
	fprintf(f, "%s %s\n", when, line->text);
}

static size_t len_of(const struct line *line)
{
	char when[40];

	if (!line->text)
		return 0;
	vm_time_text(line->when_ns, when, sizeof(when));
	return strlen(when) + strlen(line->text) + 2;
}

static void publish(const struct vm_log *log, int priority, const char *name, const char *text)
{
	if (log->to_stderr)
		fprintf(stderr, "%s: %s\n", name, text);
	else
		syslog(LOG_DAEMON | priority, "%s: %s", name, text);
}

/* A new one at the end, or the oldest. */
static struct line *next_line_locked(struct vm_log *log)
{
	struct line *line;

	if (log->n == LINES) {
		line = &log->lines[log->first];
		log->first = (log->first + 1) % LINES;
		return line;
	}
	XGROW(log->lines, log->n, log->room);
	line = &log->lines[log->n++];
	*line = (struct line){0};
	return line;
}

static void __attribute__((format(printf, 3, 0))) add(struct vm_log *log, int priority, const char *fmt, va_list ap)
{
	char *text = xvasprintf(fmt, ap);
	vs_autofree char *name = NULL;
	vs_autofree char *copy = NULL;
	struct line *slot;

	flatten(text);
	copy = xstrdup(text);

	pthread_mutex_lock(&log->lock);
	name = xstrdup(log->name);
	slot = next_line_locked(log);
	log->len -= len_of(slot);
	free(slot->text);
	*slot = (struct line){ .when_ns = vm_now_ns(), .text = text };
	log->len += len_of(slot);
	log->changed_ns = slot->when_ns;
	pthread_mutex_unlock(&log->lock);

	publish(log, priority, name, copy);
}

void vm_log(struct vm_log *log, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(log, LOG_INFO, fmt, ap);
	va_end(ap);
}

void vm_log_warn(struct vm_log *log, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(log, LOG_WARNING, fmt, ap);
	va_end(ap);
}

void vm_log_set_quiet(struct vm_log *log, bool quiet)
{
	atomic_store(&log->quiet, quiet);
}

bool vm_log_is_quiet(struct vm_log *log)
{
	return atomic_load(&log->quiet);
}

void vm_log_stat(struct vm_log *log, size_t *len, int64_t *changed_ns)
{
	pthread_mutex_lock(&log->lock);
	*len = log->len;
	*changed_ns = log->changed_ns;
	pthread_mutex_unlock(&log->lock);
}

void vm_log_text(struct vm_log *log, char **text, size_t *len, int64_t *changed_ns)
{
	FILE *f = xmemopen(text, len);

	pthread_mutex_lock(&log->lock);
	for (size_t i = 0; i < log->n; i++)
		print_line(f, &log->lines[(log->first + i) % LINES]);
	*changed_ns = log->changed_ns;
	pthread_mutex_unlock(&log->lock);
	xmemclose(f);
}
