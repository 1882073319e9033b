/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * log-shelf.h: where the logs of departed domains wait for the domain to come back: the last 64 of them. For the one thread that
 * builds inventories.
 */
#ifndef VS_VM_UTIL_LOG_SHELF_H
#define VS_VM_UTIL_LOG_SHELF_H

#include "vm/util/log.h"

struct vm_log_shelf;
struct vm_log_shelf *vm_log_shelf_new(bool to_stderr);
void vm_log_shelf_free(struct vm_log_shelf *shelf);
/* The log of this UUID: the one that waited, or a new one. Gives. */
struct vm_log *vm_log_shelf_take(struct vm_log_shelf *shelf, const char *uuid, const char *name);
/* Takes @log, whose domain is gone. */
void vm_log_shelf_leave(struct vm_log_shelf *shelf, const char *uuid, struct vm_log *log);

#endif
