/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * space.h: `space` and `space.json`: texts that have to be counted, which may take long, and is done when somebody opens one.
 *
 * Threads: sf_space_make() waits, and so belongs on a thread of makers.h.
 */
#ifndef VS_SPACE_H
#define VS_SPACE_H

#include "text.h"
#include "waiter.h"

/* What the file of that kind says. Gives *out. Errors: those of vm_space(); -EINTR, -ENOTCONN: nobody waits any more. */
int sf_space_make(struct vm *vm, struct sf_dir *dir, enum sf_kind kind, struct sf_waiter *waiter, struct sf_text **out);

void sf_space_render(FILE *out, const struct vm_space *space);
void sf_space_json_render(FILE *out, const struct vm_domain *domain, const struct vm_space *space);

#endif
