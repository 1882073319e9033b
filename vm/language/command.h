/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * command.h: the `ctl` language.
 *
 * A write is lines; the last one may lack its newline. A line is words between blanks (spaces, tabs). Between two `"`
 * everything is part of the word, and \" and \\ stand for `"` and `\`; other backslashes are refused there, and are
 * ordinary outside. Quotes may stand inside a word: desc="two words". A word that begins with a bare `#` begins a
 * comment. Lines without words are nothing. Control bytes are refused everywhere (tabs but between words).
 *
 * A word where a name is due is a name, unless it is unquoted and has the form of an option of that command: then the name
 * was forgotten, and the sentence says that quotes make it one. Names to be created are raw. Other names are as the
 * writer wrote them: the caller tries them as shown names and then as raw ones, and decides about doubles.
 *
 * Source: README.md, "ctl". Errors: -EINVAL with a sentence that quotes the line and says the usage; nothing
 * was done. Pure; any thread.
 */
#ifndef VS_VM_LANGUAGE_COMMAND_H
#define VS_VM_LANGUAGE_COMMAND_H

#include "vm/util/arena.h"

#define VM_COMMAND_WRITE_MAX 65536 /* bytes of one write */
#define VM_QUIESCE_S 60            /* what `quiesce` without a number means */
#define VM_QUIESCE_MAX_S 86400

enum vm_verb {
	VM_CREATE,
	VM_DELETE,
	VM_COMMIT,
	VM_PULL,
	VM_REVERT,
	VM_ADOPT,
	VM_HOLD,
	VM_RELEASE,
	VM_PRUNE,
	VM_CANCEL,
};

enum vm_ask_kind { VM_ASK_DEFAULT, VM_ASK_INTERNAL, VM_ASK_EXTERNAL };

struct vm_command {
	enum vm_verb verb;
	bool try_only;           /* `try COMMAND` */
	char **names;            /* create: NAME; delete: one or more; commit: FIRST [LAST]; pull: none or NAME; revert, adopt,
	                          * hold, release: NAME; else none. Never empty strings */
	size_t n_names;
	enum vm_ask_kind kind;   /* create */
	char **disks;            /* create, adopt: targets as listed, each once; empty: all */
	size_t n_disks;
	unsigned quiesce_s;      /* create: how many seconds the guest's agent may take; 0: do not quiesce */
	bool force;              /* revert */
	char *desc;              /* create, adopt: or NULL */
	char *keep;              /* revert: the name of the snapshot to take first, or NULL */
	char *policy;            /* prune, with `try`: that of `try retain POLICY`, canonical; NULL: the one that is stored */
	uint64_t job;            /* cancel: > 0 */
};

/* The commands of one write; everything in them is owned by the arena. */
struct vm_commands {
	struct vm_command *v;
	size_t n;                /* 0: only blanks and comments */
	struct vm_arena arena;
};

/* All lines or nothing. With more than one line the sentence says which. Fills *out (vm_commands_fini) on success. */
int vm_commands_parse(const char *text, size_t len, struct vm_commands *out, struct vs_err *err);
void vm_commands_fini(struct vm_commands *commands);

/* The canonical line, without a newline; it parses to the same command. Names are in it byte by byte, so who prints it
 * passes it through vm_utf8_escape(). Gives. */
char *vm_command_text(const struct vm_command *command);

/* "create", ... */
const char *vm_verb_word(enum vm_verb verb);

/* What reading `ctl` shows after the last outcome: every command with a sentence. Gives. */
char *vm_command_usage(void);

/* ---------------------------------------------------------------- names for new snapshots */

#define VM_NEW_NAME_MAX 247 /* libvirt writes <name>.xml.new, which must be a file name */

/* What a name must fit besides. All zero is what the parser has checked already. */
struct vm_name_rules {
	bool internal;     /* it will be an entry in a qcow2 table: not digits only */
	bool libvirt;      /* it goes through XML: characters only */
	size_t suffix_len; /* vm_name_suffix_len() of the disks: shown name and suffix are a file name, uncut */
};

/* 0, or -EINVAL with the reason. */
int vm_name_check_new(const char *name, const struct vm_name_rules *rules, struct vs_err *err);

#endif
