/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * prove.h: is what a block job was to move where it was to go? See prove.c.
 *
 * Threads: the command's.
 */
#ifndef VS_VM_COMMAND_PROVE_H
#define VS_VM_COMMAND_PROVE_H

#include "vm/command/context.h"

/*
 * Of what was begun and not noted as done: where a header already says that the job is done, the content is compared. If all is there,
 * that is noted as done; if what stands there has it itself, the command is void; if neither, and the domain is shut off, the header is
 * put back, so that the command, repeated, does it again. What cannot be told stays as it is. With `try` what is done is noted in cx->meta
 * only, and nothing else is changed. 1: something was changed, look again; 0: nothing was; negative: it could not be stored.
 */
int vm_prove(struct vm_context *cx, struct vs_err *err);

#endif
