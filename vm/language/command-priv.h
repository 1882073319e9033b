/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * command-priv.h: the tables of the `ctl` language, for command*.c.
 */
#ifndef VS_VM_LANGUAGE_COMMAND_PRIV_H
#define VS_VM_LANGUAGE_COMMAND_PRIV_H

#include "vm/language/command.h"

enum vm_option_bit {
	VM_OPT_INTERNAL = 1 << 0,
	VM_OPT_EXTERNAL = 1 << 1,
	VM_OPT_DISKS = 1 << 2,
	VM_OPT_QUIESCE = 1 << 3,
	VM_OPT_DESC = 1 << 4,
	VM_OPT_FORCE = 1 << 5,
	VM_OPT_KEEP = 1 << 6,
};

struct vm_option {
	const char *word; /* one that ends in `=` takes a value */
	enum vm_option_bit bit;
};

struct vm_grammar {
	const char *word;
	size_t min, max;  /* names (cancel: the ID) */
	unsigned options; /* bits */
	const char *usage, *help;
};

#define VM_VERBS (VM_CANCEL + 1)
extern const struct vm_grammar vm_grammars[VM_VERBS]; /* by enum vm_verb */
extern const struct vm_grammar vm_grammar_try;
extern const struct vm_grammar vm_grammar_retain; /* with `try` only, and then it is a VM_PRUNE with a policy of its own */

/* The option of this command that @text is a use of; its value to *value (may be NULL). NULL: none. */
const struct vm_option *vm_option_find(const struct vm_grammar *grammar, const char *text, const char **value);

#endif
