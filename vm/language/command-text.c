/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The way back, from a command to its line, and the rules for new names.
 *
 * A name that will be a snapshot's must do as four things: as a name in libvirt (no `/`, no leading dot, and with
 * ".xml.new" behind it a file name), as text in libvirt's XML (characters only), as a name of an entry in a qcow2 table
 * (where QEMU's tools look for an *id* first, and ids are digits), and as a file name of ours, whole.
 */
#include "vm/language/command-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/model/names.h"
#include "vm/util/mem.h"
#include "vm/util/utf8.h"

/* ---------------------------------------------------------------- canonical text */

static void put_quoted(FILE *f, const char *text)
{
	putc('"', f);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putc('\\', f);
		putc(*text, f);
	}
	putc('"', f);
}

static void put_plain_or_quoted(FILE *f, const char *text, bool quote)
{
	if (quote || !*text || text[strcspn(text, " \"")])
		put_quoted(f, text);
	else
		fputs(text, f);
}

static void put_names(FILE *f, const struct vm_command *cmd)
{
	for (size_t i = 0; i < cmd->n_names; i++) {
		const char *name = cmd->names[i];

		putc(' ', f);
		put_plain_or_quoted(f, name, *name == '#' || vm_option_find(&vm_grammars[cmd->verb], name, NULL));
	}
}

/* Quotes, where they are needed, stand around each target. */
static void put_disks(FILE *f, const struct vm_command *cmd)
{
	for (size_t i = 0; i < cmd->n_disks; i++) {
		fputs(i ? "," : " disks=", f);
		put_plain_or_quoted(f, cmd->disks[i], false);
	}
}

static void put_command(FILE *f, const struct vm_command *cmd)
{
	if (cmd->policy) {
		fprintf(f, "try %s %s", vm_grammar_retain.word, cmd->policy);
		return;
	}
	fprintf(f, "%s%s", cmd->try_only ? "try " : "", vm_verb_word(cmd->verb));
	put_names(f, cmd);
	if (cmd->verb == VM_CANCEL)
		fprintf(f, " %ju", (uintmax_t)cmd->job);
	if (cmd->kind != VM_ASK_DEFAULT)
		fputs(cmd->kind == VM_ASK_INTERNAL ? " internal" : " external", f);
	put_disks(f, cmd);
	if (cmd->quiesce_s)
		fputs(" quiesce", f);
	if (cmd->quiesce_s && cmd->quiesce_s != VM_QUIESCE_S)
		fprintf(f, "=%u", cmd->quiesce_s);
	if (cmd->desc) {
		fputs(" desc=", f);
		put_quoted(f, cmd->desc);
	}
	if (cmd->force)
		fputs(" force", f);
	if (cmd->keep) {
		fputs(" keep=", f);
		put_plain_or_quoted(f, cmd->keep, false);
	}
}

char *vm_command_text(const struct vm_command *command)
{
	char *text;
	size_t len;
	FILE *f = xmemopen(&text, &len);

	put_command(f, command);
	xmemclose(f);
	return text;
}

/* ---------------------------------------------------------------- new names */

static bool has_control_byte(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return true;
	return false;
}

/* Why it is no name for anybody; NULL: it is one. */
static const char *bad_name(const char *name, const struct vm_name_rules *rules)
{
	if (!*name)
		return "a snapshot needs a name";
	if (strchr(name, '/'))
		return "a '/' cannot stand in the name of a snapshot";
	if (*name == '.')
		return "the name of a snapshot cannot begin with a dot";
	if (has_control_byte(name))
		return "control bytes cannot stand in the name of a snapshot";
	if (rules->internal && !name[strspn(name, "0123456789")])
		return "an internal snapshot cannot be called by digits only: qemu-img and QEMU would take the name for the id of "
		       "another one";
	if (rules->libvirt && !vm_utf8_valid(name))
		return "libvirt takes names in UTF-8 only";
	return NULL;
}

int vm_name_check_new(const char *name, const struct vm_name_rules *rules, struct vs_err *err)
{
	const char *reason = bad_name(name, rules);
	vs_autofree char *shown = vm_name_escape(name);
	size_t room = rules->suffix_len < VM_NAME_MAX ? VM_NAME_MAX - rules->suffix_len : 0;

	if (reason)
		return vs_err_set(err, -EINVAL, "%s", reason);
	if (strlen(name) > VM_NEW_NAME_MAX)
		return vs_err_set(err, -EINVAL, "a name of %zu bytes is too long: %d fit into the names of libvirt's files",
				  strlen(name), VM_NEW_NAME_MAX);
	if (strlen(shown) > room)
		return vs_err_set(err, -EINVAL, "the name is too long: shown, it has %zu bytes, and %zu fit into the names of "
				  "its files here", strlen(shown), room);
	return 0;
}
