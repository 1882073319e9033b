/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * One table has every command: its word, how many names it takes, which options, its usage, what it does. Parsing, the
 * usage in errors, the canonical text and the help that `ctl` shows all come from it.
 */
#include "vm/language/command-priv.h"

#include <string.h>

#include "vm/util/mem.h"

static const struct vm_option options[] = {
	{ "internal", VM_OPT_INTERNAL }, { "external", VM_OPT_EXTERNAL }, { "disks=", VM_OPT_DISKS },
	{ "quiesce", VM_OPT_QUIESCE }, { "quiesce=", VM_OPT_QUIESCE }, { "desc=", VM_OPT_DESC }, { "force", VM_OPT_FORCE }, { "keep=", VM_OPT_KEEP },
};

const struct vm_grammar vm_grammars[VM_VERBS] = {
	[VM_CREATE] = { "create", 1, 1, VM_OPT_INTERNAL | VM_OPT_EXTERNAL | VM_OPT_DISKS | VM_OPT_QUIESCE | VM_OPT_DESC,
		"create NAME [internal|external] [disks=T,T] [quiesce[=SECONDS]] [desc=\"...\"]",
		"takes a snapshot, of the kind that the others have" },
	[VM_DELETE] = { "delete", 1, SIZE_MAX, 0, "delete NAME...",
		"removes snapshots; every other one reads as before" },
	[VM_COMMIT] = { "commit", 1, 2, 0, "commit FIRST [LAST]",
		"merges the layers of FIRST..LAST into FIRST's image; those snapshots go" },
	[VM_PULL] = { "pull", 0, 1, 0, "pull [NAME]",
		"copies data up to stand on NAME's image, or on none; all snapshots stay" },
	[VM_REVERT] = { "revert", 1, 1, VM_OPT_FORCE | VM_OPT_KEEP, "revert NAME [force] [keep=NEW]",
		"goes back to NAME (force: though it runs; keep=NEW: after a snapshot)" },
	[VM_ADOPT] = { "adopt", 1, 1, VM_OPT_DISKS | VM_OPT_DESC, "adopt NAME [disks=T,T] [desc=\"...\"]",
		"records snapshot NAME of the layer that another program has left" },
	[VM_HOLD] = { "hold", 1, 1, 0, "hold NAME", "retention, delete and commit leave NAME alone" },
	[VM_RELEASE] = { "release", 1, 1, 0, "release NAME", "ends a hold" },
	[VM_PRUNE] = { "prune", 0, 0, 0, "prune", "applies the policy in 'retain' now" },
	[VM_CANCEL] = { "cancel", 1, 1, 0, "cancel ID", "stops a job that 'jobs' lists" },
};

const struct vm_grammar vm_grammar_try = { "try", 0, 0, 0, "try COMMAND", "says what COMMAND would do; changes nothing" };

const struct vm_grammar vm_grammar_retain = { "retain", 1, SIZE_MAX, 0, "try retain POLICY", "says what that policy would drop now; changes nothing" };

const struct vm_option *vm_option_find(const struct vm_grammar *grammar, const char *text, const char **value)
{
	for (size_t i = 0; i < VS_ARRAY_LEN(options); i++) {
		size_t len = strlen(options[i].word);
		bool takes_value = options[i].word[len - 1] == '=';

		if (!(options[i].bit & grammar->options) || strncmp(text, options[i].word, len))
			continue;
		if (!takes_value && text[len])
			continue;
		if (value)
			*value = text + len;
		return &options[i];
	}
	return NULL;
}

const char *vm_verb_word(enum vm_verb verb)
{
	return vm_grammars[verb].word;
}

char *vm_command_usage(void)
{
	char *text;
	size_t len;
	FILE *f = xmemopen(&text, &len);

	fputs("Write one command a line; the write returns when it is done.\n"
	      "Names with spaces are quoted with \".\n\n", f);
	for (size_t i = 0; i < VM_VERBS; i++)
		fprintf(f, "%s\n        %s\n", vm_grammars[i].usage, vm_grammars[i].help);
	fprintf(f, "%s\n        %s\n", vm_grammar_try.usage, vm_grammar_try.help);
	fprintf(f, "%s\n        %s\n", vm_grammar_retain.usage, vm_grammar_retain.help);
	xmemclose(f);
	return text;
}
