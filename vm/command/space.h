/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * space.h: what all snapshots of a domain take, and what each command that deletes some would free.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_SPACE_H
#define VS_VM_COMMAND_SPACE_H

#include "vm/command/context.h"
#include "vm/model/space.h"

/* With `try` and `survey`; looks itself. What cannot be counted says so in its own row. Gives *out. Errors: those of a look; -ECANCELED. */
int vm_command_space(struct vm_context *cx, struct vm_space **out, struct vs_err *err);
/* Likewise: what `retain.plan` says of @policy (NULL: of the stored one), with what each that would be dropped would free, and with the last
 * of them what all would together. Gives *text. -EINVAL: not a policy. */
int vm_command_count_plan(struct vm_context *cx, const char *policy, char **text, struct vs_err *err);

#endif
