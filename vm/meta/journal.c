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
 *     job    pid began type target LF base LF top LF command   a block job that is about to be asked for, and by which command: see own-jobs.c
 *     pivot  pid began target       a pivot is about to be asked of that QEMU
 *     start  word pid began         the domain is about to be started, paused, or was: see libvirt/paused-guest.c
 *
 * A command that ends takes its lines away. Those that are found at a mount are of one that was interrupted.
 */
#include "vm/command/context.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "vm/model/names.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"
#include "vm/util/utf8.h"

/* "COMMAND\tWORD\tTEXT\n"; @text NULL: "COMMAND\tWORD\t". Gives; NULL: no memory. */
static char *line_of(const struct vm_work *w, const char *word, const char *text)
{
	vs_autofree char *command = vm_utf8_escape(w->command, strlen(w->command), true);
	vs_autofree char *what = text ? vm_utf8_escape(text, strlen(text), true) : NULL;
	char *line;

	if (!command || (text && !what) || asprintf(&line, "%s\t%s\t%s%s", command, word, what ? what : "", text ? "\n" : "") < 0)
		return NULL;
	return line;
}

/* Is this line, of which the end may be left open, one of them? */
static bool has_line(const char *all, const char *line)
{
	for (const char *at = all; at && (at = strstr(at, line)); at++)
		if (at == all || at[-1] == '\n')
			return true;
	return false;
}

int vm_work_note(struct vm_work *w, const char *word, const char *text, struct vs_err *err)
{
	vs_autofree char *line = line_of(w, word, text), *old = NULL, *all = NULL;
	struct vs_err why = {0};
	int r = vm_store_note_get(w->store, w->uuid, &old, &why);

	if (!line)
		xoom();
	if (r == 0 && has_line(old, line))
		return 0;
	if (r == 0) {
		all = xasprintf("%s%s", old ? old : "", line);
		r = vm_store_note(w->store, w->uuid, all, &why);
	}
	vm_fault();
	return r < 0 ? vs_err_set(err, r, "what is about to be done could not be noted, so nothing was done: %s", why.msg) : 0;
}

bool vm_work_noted(const struct vm_work *w, const char *word, const char *text)
{
	vs_autofree char *line = line_of(w, word, text), *all = NULL;

	return vm_store_note_get(w->store, w->uuid, &all, NULL) == 0 && line && has_line(all, line);
}

int vm_note_each(struct vm_store *store, const char *uuid, const char *word, bool (*use)(const char *text, void *opaque),
		 void *opaque)
{
	vs_autofree char *all = NULL;
	int n = 0;

	vm_store_note_get(store, uuid, &all, NULL);
	for (char *save = NULL, *line = all ? strtok_r(all, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		char *at = strchr(line, '\t'), *end = at ? strchr(at + 1, '\t') : NULL;
		vs_autofree char *text = NULL;

		if (!end || strlen(word) != (size_t)(end - at - 1) || strncmp(at + 1, word, (size_t)(end - at - 1)) != 0 ||
		    vm_name_unescape(end + 1, &text) < 0)
			continue;
		n += use(text, opaque);
	}
	return n;
}

struct use {
	struct vm_work *w;
	bool (*use)(struct vm_work *w, const char *text, void *opaque);
	void *opaque;
};

static bool use_in_work(const char *text, void *opaque)
{
	const struct use *u = opaque;

	return u->use(u->w, text, u->opaque);
}

int vm_work_note_each(struct vm_work *w, const char *word, bool (*use)(struct vm_work *w, const char *text, void *opaque),
		      void *opaque)
{
	struct use u = { w, use, opaque };

	return vm_note_each(w->store, w->uuid, word, use_in_work, &u);
}

/* Without the lines for which @goes says so. */
static void drop_lines(struct vm_work *w, bool (*goes)(const char *line, const void *what), const void *what)
{
	vs_autofree char *all = NULL;
	size_t kept = 0;
	bool less = false;

	vm_store_note_get(w->store, w->uuid, &all, NULL);
	if (!all)
		return;
	for (char *line = all, *next; *line; line = next) {
		next = strchrnul(line, '\n');
		next += *next == '\n';
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
	vm_store_note(w->store, w->uuid, kept ? all : NULL, NULL);
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

	return at && !strncmp(at + 1, word, strlen(word)) && at[1 + strlen(word)] == '\t';
}

void vm_work_note_done(struct vm_work *w, const char *word)
{
	vs_autofree char *prefix = line_of(w, word, NULL);

	if (prefix)
		drop_lines(w, begins, prefix);
}

void vm_work_note_drop(struct vm_work *w, const char *word)
{
	drop_lines(w, has_word, word);
}

/* What the line is about. Gives *text. */
static bool take_text(const char *line, char **text)
{
	const char *at = strchr(line, '\t'), *start = at ? strchr(at + 1, '\t') : NULL;
	vs_autofree char *escaped = start ? xstrndup(start + 1, strcspn(start + 1, "\n")) : NULL;

	return escaped && vm_name_unescape(escaped, text) == 0;
}

struct settling {
	const char *word;
	struct use use;
};

static bool is_settled(const char *line, const void *what)
{
	const struct settling *s = what;
	vs_autofree char *text = NULL;

	if (!has_word(line, s->word))
		return false;
	return take_text(line, &text) && use_in_work(text, (void *)&s->use);
}

void vm_work_note_settle(struct vm_work *w, const char *word, bool (*settled)(struct vm_work *w, const char *text, void *opaque),
			 void *opaque)
{
	struct settling s = { word, { w, settled, opaque } };

	drop_lines(w, is_settled, &s);
}

/* ---------------------------------------------------------------- files that were made */

static int look(int fd, const char *path, int flags, struct vm_made *out, bool *regular)
{
	struct statx st;

	if (statx(fd, path, flags, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
		return -errno;
	*regular = S_ISREG(st.stx_mode);
	*out = (struct vm_made){ .dev = makedev(st.stx_dev_major, st.stx_dev_minor), .ino = st.stx_ino, .path = out->path };
	if (st.stx_mask & STATX_BTIME)
		out->btime_ns = st.stx_btime.tv_sec * VM_NS_PER_S + st.stx_btime.tv_nsec;
	return 0;
}

int vm_made_of(int fd, const char *path, struct vm_made *out)
{
	bool regular;

	out->path = path;
	return look(fd, "", AT_EMPTY_PATH, out, &regular);
}

char *vm_made_text(const struct vm_made *made)
{
	return xasprintf("%" PRIu64 " %" PRIu64 " %" PRId64 "\n%s", made->dev, made->ino, made->btime_ns, made->path);
}

bool vm_made_parse(const char *text, struct vm_made *out)
{
	struct vm_made made;
	int at = 0;

	if (sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNd64 "%n", &made.dev, &made.ino, &made.btime_ns, &at) != 3 || text[at] != '\n' ||
	    text[at + 1] != '/')
		return false;
	made.path = text + at + 1;
	*out = made;
	return true;
}

int vm_made_is_there(const struct vm_made *made)
{
	struct vm_made now = { .path = made->path };
	bool regular = false;
	int r = look(AT_FDCWD, made->path, AT_SYMLINK_NOFOLLOW, &now, &regular);

	if (r < 0)
		return r == -ENOENT || r == -ENOTDIR ? 0 : r;
	return regular && now.dev == made->dev && now.ino == made->ino && now.btime_ns == made->btime_ns;
}
