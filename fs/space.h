/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * space.h: what has to be counted, which may take long, and is done when somebody opens it: `space`, `space.json`, and what `retain.plan`
 * says of what it drops.
 *
 * Threads: sf_space_make() and sf_space_plan() wait, and so belong on a thread of makers.h.
 */
#ifndef VS_SPACE_H
#define VS_SPACE_H

#include "text.h"
#include "waiter.h"

/* What the file of that kind says. Gives *out. Errors: those of vm_space(); -EINTR, -ENOTCONN: nobody waits any more. */
int sf_space_make(struct vm *vm, struct sf_dir *dir, enum sf_kind kind, struct sf_waiter *waiter, struct sf_text **out);

/* What sf_text_plan() said, with what that frees; where nothing is dropped, or it cannot be counted now, @plain as it is. Takes @plain, gives *out.
 * -EINTR, -ENOTCONN: nobody waits any more. */
int sf_space_plan(struct vm *vm, const char *uuid, const char *policy, struct sf_text *plain, struct sf_waiter *waiter, struct sf_text **out);

void sf_space_render(FILE *out, const struct vm_space *space);
void sf_space_json_render(FILE *out, const struct vm_domain *domain, const struct vm_space *space);

#endif
