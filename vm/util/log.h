/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * log.h: the log of one domain, and who owns it.
 *
 * The last 1,000 lines of each domain are kept in memory and every line also goes to syslog (or stderr). A log belongs
 * to a domain's UUID, not to an inventory: it outlives inventories, renames and a domain that goes and comes back.
 * Threads: all calls from any thread.
 */
#ifndef VS_VM_UTIL_LOG_H
#define VS_VM_UTIL_LOG_H

#include "qcow2/base.h"

struct vm_log;

struct vm_log *vm_log_new(const char *name, bool to_stderr);
struct vm_log *vm_log_ref(struct vm_log *log);
void vm_log_unref(struct vm_log *log);
/* The name that syslog lines begin with, where the domain got another one. */
void vm_log_rename(struct vm_log *log, const char *name);

/* Adds one line (a sentence, shown names) to the domain's log and to syslog or stderr. Thread-safe. */
void vm_log(struct vm_log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for what somebody should look at: a warning in syslog. */
void vm_log_warn(struct vm_log *log, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* While a command of ours is at work on the domain, what changes for moments is not told; what has come of it is, when that is over. */
void vm_log_set_quiet(struct vm_log *log, bool quiet);
bool vm_log_is_quiet(struct vm_log *log);
/* The last 1,000 lines, oldest first, each "2026-11-16T02:00:01+00:00 text\n". Gives *text (not NULL), its length, and
 * the time of the last line. */
void vm_log_text(struct vm_log *log, char **text, size_t *len, int64_t *changed_ns);
/* Its length and time, without making it. */
void vm_log_stat(struct vm_log *log, size_t *len, int64_t *changed_ns);

#endif
