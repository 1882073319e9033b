/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Notes: what a command is about to do and nobody could tell afterwards that it was us, should we die in between. They lie in the state
 * directory, one line each: the command, a word, and what the word is about, with tabs between; all three escaped.
 *
 *     make   struct vm_made         an overlay that is about to get its name: nobody's, until a definition or a record names it
 *     drop   stamp LF path          a layer that a revert takes out of use, and then removes
 *     take   time LF name           a snapshot that is about to be taken: it counts as taken here, if it is there
 *     keep   name                   ... by `keep=` of a revert: its repetition need not take it again
 *     gone   name                   one of several that a delete removes, or was about to: its repetition need not find it
 *     job    pid began type target LF base LF top LF command   a block job that is about to be asked for, and by which command: see command/own-job.c
 *     pull   struct vm_pull         a pull is about to be asked for: see command/pulls.c
 *     back   stamp time LF path LF below   a header is about to be put back: see command/content.c
 *     nv     what LF path LF name    a whole copy for a snapshot that is about to be taken: see command/nv.c
 *     vars   stamp LF tops LF fresh LF target LF name    firmware variables are about to be put back: see command/nv.c
 *     stop   name                   a guest is about to be ended for a revert: that this can be noted is all that matters
 *     pivot  pid began target       a pivot is about to be asked of that QEMU
 *     start  word pid began         the domain is about to be started, paused, or was: see libvirt/paused-guest.c
 *
 * A command that ends takes its lines away. Those that are found at a mount are of one that was interrupted.
 */
#include "vm/meta/journal.h"

#include <errno.h>
#include <string.h>

#include "vm/meta/meta.h"
#include "vm/model/names.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"
#include "vm/util/utf8.h"

/* "COMMAND\tWORD\tTEXT\n"; @text NULL: "COMMAND\tWORD\t". Gives. */
static char *line_of(const struct vm_journal *j, const char *word, const char *text)
{
	vs_autofree char *command = vm_utf8_escape(j->command, strlen(j->command), "%");
	vs_autofree char *what = text ? vm_utf8_escape(text, strlen(text), "%") : NULL;

	return xasprintf("%s\t%s\t%s%s", command, word, what ? what : "", text ? "\n" : "");
}

/* Is this line, of which the end may be left open, one of them? */
static bool has_line(const char *all, const char *line)
{
	for (const char *at = all; at && (at = strstr(at, line)); at++)
		if (at == all || at[-1] == '\n')
			return true;
	return false;
}

int vm_journal_add(const struct vm_journal *j, const char *word, const char *text, struct vs_err *err)
{
	vs_autofree char *line = line_of(j, word, text), *old = NULL, *all = NULL;
	struct vs_err why = {0};
	int r = vm_store_journal_get(j->store, j->uuid, &old, &why);

	if (r == 0 && has_line(old, line))
		return 0;
	if (r == 0) {
		all = xasprintf("%s%s", old ? old : "", line);
		r = vm_store_journal_put(j->store, j->uuid, all, &why);
	}
	vm_fault();
	return r < 0 ? vs_err_set(err, r, "what is about to be done could not be noted, so nothing was done: %s", why.msg) : 0;
}

bool vm_journal_has(const struct vm_journal *j, const char *word, const char *text)
{
	vs_autofree char *line = line_of(j, word, text), *all = NULL;

	return vm_store_journal_get(j->store, j->uuid, &all, NULL) == 0 && has_line(all, line);
}

int vm_journal_each(const struct vm_journal *j, const char *word, bool (*use)(const char *text, void *opaque), void *opaque)
{
	vs_autofree char *all = NULL;
	int n = vm_store_journal_get(j->store, j->uuid, &all, NULL);
	bool unread = false;

	for (char *save = NULL, *line = all ? strtok_r(all, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		char *at = strchr(line, '\t'), *end = at ? strchr(at + 1, '\t') : NULL;
		vs_autofree char *text = NULL;

		if (!end || strlen(word) != (size_t)(end - at - 1) || strncmp(at + 1, word, (size_t)(end - at - 1)) != 0)
			continue;
		if (vm_name_unescape(end + 1, &text) < 0)
			unread = true; /* the others count all the same */
		else
			n += use(text, opaque);
	}
	return unread ? -EINVAL : n;
}

static size_t length_of(const char *line)
{
	const char *end = strchrnul(line, '\n');

	return (size_t)(end - line) + (*end == '\n');
}

/* Without the lines for which @goes says so. */
static void drop_lines(const struct vm_journal *j, bool (*goes)(const char *line, const void *what), const void *what)
{
	vs_autofree char *all = NULL;
	size_t kept = 0;
	bool less = false;

	vm_store_journal_get(j->store, j->uuid, &all, NULL);
	if (!all)
		return;
	for (char *line = all, *next; *line; line = next) {
		next = line + length_of(line);
		if (goes(line, what)) {
			less = true;
			continue;
		}
		memmove(all + kept, line, (size_t)(next - line));
		kept += (size_t)(next - line);
	}
	if (!less)
		return;
	all[kept] = '\0';
	vm_store_journal_put(j->store, j->uuid, kept ? all : NULL, NULL);
	vm_fault();
}

static bool begins(const char *line, const void *what)
{
	const char *prefix = what;

	return !strncmp(line, prefix, strlen(prefix));
}

static bool has_word(const char *line, const void *what)
{
	const char *at = strchr(line, '\t'), *word = what;

	return at && at < line + length_of(line) && !strncmp(at + 1, word, strlen(word)) && at[1 + strlen(word)] == '\t';
}

void vm_journal_done(const struct vm_journal *j, const char *word)
{
	vs_autofree char *prefix = line_of(j, word, NULL);

	drop_lines(j, begins, prefix);
}

void vm_journal_drop(const struct vm_journal *j, const char *word)
{
	drop_lines(j, has_word, word);
}

/* What the line is about. Gives *text. */
static bool take_text(const char *line, char **text)
{
	const char *at = strchr(line, '\t'), *start = at ? strchr(at + 1, '\t') : NULL;
	vs_autofree char *escaped = start ? xstrndup(start + 1, strcspn(start + 1, "\n")) : NULL;

	return escaped && vm_name_unescape(escaped, text) == 0;
}

/* Is it one of these lines? */
static bool is_among(const char *line, const void *what)
{
	size_t len = length_of(line);

	for (const char *at = what; *at; at += length_of(at))
		if (length_of(at) == len && !strncmp(at, line, len))
			return true;
	return false;
}

/* Who settles one may note another one meanwhile: so they are asked first, and then what is there is read again. */
void vm_journal_settle(const struct vm_journal *j, const char *word, bool (*settled)(const char *text, void *opaque), void *opaque)
{
	vs_autofree char *all = NULL;
	char *gone;
	size_t len;
	FILE *f = xmemopen(&gone, &len);

	vm_store_journal_get(j->store, j->uuid, &all, NULL);
	for (const char *line = all ? all : ""; *line; line += length_of(line)) {
		vs_autofree char *text = NULL;

		if (has_word(line, word) && take_text(line, &text) && settled(text, opaque))
			fprintf(f, "%.*s", (int)length_of(line), line);
	}
	xmemclose(f);
	if (len)
		drop_lines(j, is_among, gone);
	free(gone);
}
