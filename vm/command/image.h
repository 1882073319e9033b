/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * image.h: create, delete and revert on a plain image; cx->conn is NULL. See image.c.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_IMAGE_H
#define VS_VM_COMMAND_IMAGE_H

#include "vm/command/context.h"

int vm_image_create(struct vm_context *cx, const struct vm_command *c, struct vs_err *err);
int vm_image_delete(struct vm_context *cx, const struct vm_snapshot *s, struct vs_err *err);
int vm_image_revert(struct vm_context *cx, const struct vm_command *c, struct vs_err *err);

#endif
