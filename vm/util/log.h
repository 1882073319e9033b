/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * log.h: the log of one domain, and who owns it.
 *
 * The last 1,000 lines of each domain are kept in memory and every line also goes to syslog (or stderr). A log belongs
 * to a domain's UUID, not to a picture: it outlives pictures, renames and a domain that goes and comes back.
 * vm_log() and vm_log_text() are in vm.h. Threads: all calls from any thread.
 */
#ifndef VS_VM_UTIL_LOG_H
#define VS_VM_UTIL_LOG_H

#include "vm/vm.h"

struct vm_log *vm_log_new(const char *name, bool to_stderr); /* NULL: no memory */
struct vm_log *vm_log_ref(struct vm_log *log);
void vm_log_unref(struct vm_log *log);
/* The name that syslog lines begin with, where the domain got another one. */
void vm_log_rename(struct vm_log *log, const char *name);

/*
 * Where the logs of departed domains wait for the domain to come back: the last 64 of them. For the one thread that
 * builds pictures.
 */
struct vm_log_shelf;
struct vm_log_shelf *vm_log_shelf_new(bool to_stderr);
void vm_log_shelf_free(struct vm_log_shelf *shelf);
/* The log of this UUID: the one that waited, or a new one. Gives; NULL: no memory. */
struct vm_log *vm_log_shelf_take(struct vm_log_shelf *shelf, const char *uuid, const char *name);
/* Takes @log, whose domain is gone. */
void vm_log_shelf_leave(struct vm_log_shelf *shelf, const char *uuid, struct vm_log *log);

#endif
