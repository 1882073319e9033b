/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * When is it still true what was seen of a file? As for headers (headers.c): while dev, ino, size, mtime and ctime are what they were, and
 * not if it was written right before it was looked at. A block device's times say nothing.
 *
 * A directory's mtime tells of files that came, went or were renamed, not of those that were written in place or that a symbolic link
 * leads to elsewhere: so it is listed anew once in a while, and by a close look in any case. A name that vanishes between readdir and
 * stat may have been renamed to one that was passed already: then, and where the directory was changed while it was listed, it is listed
 * again.
 *
 * A device, or a file that a pool names by itself, is a "directory" with that one entry.
 */
#include "vm/observe/dirs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/meta/store.h"
#include "vm/model/names.h"
#include "vm/observe/definitions.h"
#include "vm/observe/headers.h"
#include "vm/observe/peek.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"
#include "vm/util/utf8.h"

#define LIST_AGAIN_NS (30 * VM_NS_PER_S)
#define RACY_NS (100 * VM_NS_PER_MS)
#define YOUNG_NS (2 * VM_NS_PER_S)
#define LISTINGS 4 /* of a directory that does not hold still */

struct entry {
	int64_t mtime_ns, ctime_ns;
	uint64_t size, dev, ino;
	uint64_t listed;         /* the listing that last saw it */
	bool young;              /* written so shortly before it was looked at that its times may not show the next write */
	bool block;
	struct vm_peeked peeked; /* what it says, if it could be asked: */
	bool asked;              /* of a saved guest: its definition was... */
	struct vm_peeked saved;  /* ... and says this */
	int code;                /* negative errno: it could not */
	char *why;               /* and the sentence */
	char path[];
};

struct dir {
	char *path;
	bool single;              /* no directory: its one entry is `path` itself */
	struct vm_strmap entries; /* files and devices by name */
	uint64_t looked;          /* the round of the last look */
	bool news;                /* the last listing found something else than the one before */
	uint64_t listing;         /* counts listings */
	int64_t listed_ns;        /* steady clock, 0 = never */
	int64_t mtime_ns;
	int error;                /* 0, or why the last listing failed */
	bool moved;               /* a name vanished while it was listed, or it was changed */
	bool racy; /* changed so shortly before it was listed that its mtime may not show the next change, or holds a file
		    * that may just be being made */
};

static void entry_free(void *thing)
{
	struct entry *e = thing;

	vm_peeked_fini(&e->peeked);
	vm_peeked_fini(&e->saved);
	free(e->why);
	free(e);
}

static void dir_free(void *thing)
{
	struct dir *d = thing;

	vm_strmap_clear(&d->entries, entry_free);
	free(d->path);
	free(d);
}

void vm_dirs_fini(struct vm_dirs *dirs)
{
	vm_strmap_clear(&dirs->table, dir_free);
	vm_strmap_clear(&dirs->disks, NULL);
	for (size_t i = 0; i < dirs->n_seen; i++)
		free(dirs->seen[i]);
	free(dirs->seen);
}

static bool recent(void *thing, void *opaque)
{
	struct dir *d = thing;
	struct vm_dirs *dirs = opaque;

	if (d->looked + 2 > dirs->round)
		return true;
	dir_free(d);
	return false;
}

void vm_dirs_round(struct vm_dirs *dirs, bool closely)
{
	dirs->round++;
	dirs->closely = closely;
	if (dirs->all && closely) /* others note more */
		dirs->recalled = false;
	vm_strmap_filter(&dirs->table, recent, dirs);
}

/* ---------------------------------------------------------------- one file */

static struct entry *entry_of(struct dir *d, const char *name)
{
	struct entry *e = vm_strmap_get(&d->entries, name);
	size_t len = strlen(d->path) + strlen(name) + 2;

	if (e)
		return e;
	e = xcalloc(1, sizeof(*e) + len);
	if (d->single)
		snprintf(e->path, len, "%s", d->path);
	else
		snprintf(e->path, len, "%s/%s", d->path, name);
	vm_strmap_put(&d->entries, name, e);
	return e;
}

static void forget_saved(struct entry *e)
{
	vm_peeked_fini(&e->saved);
	e->asked = false;
}

/* What it is could not be found out. Takes @why. */
static void entry_unknown(struct dir *d, struct entry *e, int code, char *why)
{
	if (e->code != code || !e->why || strcmp(e->why, why))
		d->news = true;
	vm_peeked_fini(&e->peeked);
	forget_saved(e);
	free(e->why);
	e->why = why;
	e->code = code;
	e->young = true; /* to be asked again */
}

static void stands_unread(struct vm_peeked *out)
{
	*out = (struct vm_peeked){ .kind = VM_PEEK_STANDS, .why = "is a saved guest whose definition cannot be read" };
}

static bool same_names(char *const *a, char *const *b)
{
	if (!a || !b)
		return a == b;
	for (; *a && *b && !strcmp(*a, *b); a++)
		b++;
	return !*a && !*b;
}

/* What is made of it is the same as before. Of parts it matters what they are now; of a saved guest's names, if anybody has asked for them, saved_anew(). */
static bool tells_nothing_new(const struct vm_peeked *before, const struct vm_peeked *now)
{
	if (before->kind != now->kind)
		return false;
	return now->kind == VM_PEEK_ALONE || now->kind == VM_PEEK_QCOW2 || now->kind == VM_PEEK_SAVED;
}

/* True: it says the same as it did when it was asked. */
static bool saved_anew(struct entry *e, int fd)
{
	struct vm_peeked now;
	bool same;

	if (!e->asked)
		return true;
	if (vm_peek_saved(fd, &now) < 0)
		stands_unread(&now);
	same = now.kind == e->saved.kind && now.n_images == e->saved.n_images && same_names(now.names, e->saved.names);
	vm_peeked_fini(&e->saved);
	e->saved = now;
	return same;
}

static void entry_known(struct dir *d, struct entry *e, struct vm_peeked peeked, int fd)
{
	if (peeked.kind != VM_PEEK_SAVED)
		forget_saved(e);
	if (e->code || !tells_nothing_new(&e->peeked, &peeked) || (peeked.kind == VM_PEEK_SAVED && !saved_anew(e, fd)))
		d->news = true;
	vm_peeked_fini(&e->peeked);
	free(vs_steal(e->why));
	e->code = 0;
	e->peeked = peeked;
}

/* What its path leads to was checked: it is a file or a device. */
static void open_and_peek(struct dir *d, struct entry *e, int dir_fd, const char *name)
{
	vs_autoclose int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct vm_peeked peeked;
	int r = fd < 0 ? -errno : vm_peek(fd, &peeked);

	if (r == -ENOENT && fd < 0)
		d->moved = true;
	if (r == -ENOMEDIUM) /* an empty drive */
		entry_known(d, e, (struct vm_peeked){ .kind = VM_PEEK_ALONE }, -1);
	else if (r < 0)
		entry_unknown(d, e, r, xasprintf("cannot be read: %s", strerror(-r)));
	else
		entry_known(d, e, peeked, fd);
}

/* A name that leads nowhere. One that vanished may have another name now. What a link leads to may be away for a moment, unless it is
 * to lie in this directory, which is being listed. */
static void missing(struct dir *d, int dir_fd, const char *name)
{
	char target[256];
	ssize_t n = readlinkat(dir_fd, name, target, sizeof(target) - 1);
	struct entry *e;

	if (d->single) {
		e = entry_of(d, name);
		entry_unknown(d, e, -ENOENT, xstrdup("is missing"));
	} else if (n < 0) {
		d->moved = true;
		return;
	} else {
		target[n] = '\0';
		if (!strchr(target, '/'))
			return;
		e = entry_of(d, name);
		entry_unknown(d, e, -ENOENT, xasprintf("is a symbolic link to '%s', which is missing", target));
	}
	e->dev = e->ino = 0;
	e->listed = d->listing;
}

static bool same_as(const struct entry *e, const struct stat *st)
{
	return e->listed && !e->young && !e->block && !S_ISBLK(st->st_mode) && e->mtime_ns == vm_timespec_ns(st->st_mtim) &&
	       e->ctime_ns == vm_timespec_ns(st->st_ctim) && e->size == (uint64_t)st->st_size && e->ino == st->st_ino &&
	       e->dev == st->st_dev;
}

static void set_stamp(struct entry *e, const struct stat *st)
{
	int64_t now = vm_now_ns();

	e->mtime_ns = vm_timespec_ns(st->st_mtim);
	e->ctime_ns = vm_timespec_ns(st->st_ctim);
	e->size = (uint64_t)st->st_size;
	e->block = S_ISBLK(st->st_mode);
	e->dev = e->block ? UINT64_MAX : st->st_dev; /* as struct q2_stamp has it */
	e->ino = e->block ? st->st_rdev : st->st_ino;
	e->young = now - (e->mtime_ns > e->ctime_ns ? e->mtime_ns : e->ctime_ns) < RACY_NS;
}

static void look_at(struct vm_dirs *dirs, struct dir *d, int dir_fd, const char *name)
{
	struct stat st;
	struct entry *e;
	int r = fstatat(dir_fd, name, &st, 0) ? -errno : 0;
	bool same;

	if (r == -ENOENT) {
		missing(d, dir_fd, name);
		return;
	}
	if (r < 0) {
		e = entry_of(d, name);
		entry_unknown(d, e, r, xasprintf("cannot be looked at: %s", strerror(-r)));
		e->dev = e->ino = 0;
		e->listed = d->listing;
		return;
	}
	/* what a virt-snapfs mount shows stands on nothing that is not known otherwise, and is never opened */
	if ((!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) || vm_headers_is_mount(dirs->files, st.st_dev))
		return;
	e = entry_of(d, name);
	same = same_as(e, &st) && !dirs->closely;
	set_stamp(e, &st);
	if (!same)
		open_and_peek(d, e, dir_fd, name);
	e->listed = d->listing;
	if (vm_now_ns() - e->mtime_ns < YOUNG_NS)
		d->racy = true;
}

/* ---------------------------------------------------------------- one directory */

static bool listed_now(void *thing, void *opaque)
{
	struct entry *e = thing;
	struct dir *d = opaque;

	if (e->listed == d->listing)
		return true;
	if (e->code || e->peeked.kind != VM_PEEK_ALONE)
		d->news = true;
	entry_free(e);
	return false;
}

static void list_entries(struct vm_dirs *dirs, struct dir *d, DIR *stream, const struct stat *st)
{
	struct dirent *entry;
	struct stat after;

	d->mtime_ns = vm_timespec_ns(st->st_mtim);
	d->racy = vm_now_ns() - d->mtime_ns < RACY_NS;
	errno = 0;
	while ((entry = readdir(stream))) {
		if (entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN || entry->d_type == DT_LNK || entry->d_type == DT_BLK)
			look_at(dirs, d, dirfd(stream), entry->d_name);
		errno = 0;
	}
	if (errno || fstat(dirfd(stream), &after))
		d->error = -errno;
	else if (vm_timespec_ns(after.st_mtim) != d->mtime_ns)
		d->racy = true;
}

/* False: names vanished while it was listed. */
static bool list_once(struct vm_dirs *dirs, struct dir *d)
{
	struct stat st;
	DIR *stream = NULL;

	d->error = 0;
	d->moved = false;
	d->listing++;
	if (d->single) {
		look_at(dirs, d, AT_FDCWD, d->path);
	} else if (stat(d->path, &st)) {
		d->error = -errno;
	} else if (!vm_headers_is_mount(dirs->files, st.st_dev)) {
		stream = opendir(d->path);
		if (!stream || fstat(dirfd(stream), &st))
			d->error = -errno;
		else
			list_entries(dirs, d, stream, &st);
	}
	if (stream)
		closedir(stream);
	return !d->moved;
}

static bool is_gone(int error)
{
	return error == -ENOENT || error == -ENOTDIR;
}

static void list(struct vm_dirs *dirs, struct dir *d)
{
	int before = d->error;
	bool still = false;

	d->news = false;
	d->listed_ns = vm_steady_ns();
	for (int i = 0; !still && i < LISTINGS; i++)
		still = list_once(dirs, d);
	if (!still)
		d->racy = true;
	if (!still && !d->error)
		d->error = -EAGAIN;
	if (!d->error || is_gone(d->error)) /* else what was seen before may lie there still */
		vm_strmap_filter(&d->entries, listed_now, d);
	if (d->error != before)
		d->news = true;
}

static bool outdated(const struct vm_dirs *dirs, const struct dir *d)
{
	struct stat st;

	if (!d->listed_ns || d->racy || dirs->closely || vm_steady_ns() - d->listed_ns > LIST_AGAIN_NS)
		return true;
	return !d->single && (stat(d->path, &st) || vm_timespec_ns(st.st_mtim) != d->mtime_ns);
}

static void look(struct vm_dirs *dirs, struct dir *d)
{
	if (d->looked == dirs->round)
		return;
	d->looked = dirs->round;
	if (outdated(dirs, d))
		list(dirs, d);
	else
		d->news = false;
}

struct quiet {
	struct vm_dirs *dirs;
	bool quiet;
};

static bool look_again(void *thing, void *opaque)
{
	struct dir *d = thing;
	struct quiet *q = opaque;

	look(q->dirs, d);
	if (d->news)
		q->quiet = false;
	return true;
}

bool vm_dirs_quiet(struct vm_dirs *dirs)
{
	struct quiet q = { dirs, true };
	size_t n_seen = dirs->n_seen;
	int code = dirs->forgot.code;
	bool unnoted = dirs->unnoted;

	vm_dirs_forgot(dirs);
	vm_dirs_note(dirs);
	if (dirs->unnoted != unnoted)
		q.quiet = false;
	if (dirs->n_seen != n_seen || dirs->forgot.code != code)
		q.quiet = false;
	vm_strmap_filter(&dirs->table, look_again, &q);
	return q.quiet;
}

struct elsewhere {
	const struct vm_dirs *dirs;
	const struct vm_strmap *told;
	bool news;
};

static bool look_elsewhere(void *thing, void *opaque)
{
	const struct dir *d = thing;
	struct elsewhere *e = opaque;

	e->news |= d->news && d->looked == e->dirs->round && (d->single || !vm_strmap_get(e->told, d->path));
	return true;
}

bool vm_dirs_news_but(struct vm_dirs *dirs, const struct vm_strmap *told)
{
	struct elsewhere e = { dirs, told, false };

	vm_strmap_filter(&dirs->table, look_elsewhere, &e);
	return e.news;
}

/* ---------------------------------------------------------------- telling */

struct visit {
	vm_dirs_found *found;
	void *opaque;
};

static bool tell(void *thing, void *opaque)
{
	struct entry *e = thing;
	struct visit *v = opaque;

	if (e->code || e->peeked.kind != VM_PEEK_ALONE)
		v->found(&(struct vm_dirs_file){ .path = e->path, .dev = e->dev, .ino = e->ino, .peeked = &e->peeked, .code = e->code,
						 .why = e->why, .entry = e }, v->opaque);
	return true;
}

const struct vm_peeked *vm_dirs_saved(const struct vm_dirs_file *file)
{
	struct entry *e = file->entry;
	vs_autoclose int fd = e->asked ? -1 : open(e->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (!e->asked && (fd < 0 || vm_peek_saved(fd, &e->saved) < 0))
		stands_unread(&e->saved);
	e->asked = true;
	return &e->saved;
}

static struct dir *dir_of(struct vm_dirs *dirs, const char *path, bool single)
{
	vs_autofree char *key = xasprintf("%s%s", single ? "=" : "", path);
	struct dir *d = vm_strmap_get(&dirs->table, key);

	if (d)
		return d;
	d = xcalloc(1, sizeof(*d));
	d->path = xstrdup(path);
	d->single = single;
	vm_strmap_put(&dirs->table, key, d);
	return d;
}

int vm_dirs_list(struct vm_dirs *dirs, const char *path, bool single, vm_dirs_found *found, void *opaque)
{
	struct dir *d = dir_of(dirs, path, single);
	struct visit visit = { found, opaque };

	look(dirs, d);
	vm_strmap_filter(&d->entries, tell, &visit);
	return d->error;
}

/* ---------------------------------------------------------------- where images have lain */

#define SEEN_BYTES 60000

static bool is_seen(const struct vm_dirs *dirs, const char *path)
{
	for (size_t i = 0; i < dirs->n_seen; i++)
		if (!strcmp(dirs->seen[i], path))
			return true;
	return false;
}

static void see(const char *path, void *opaque)
{
	struct vm_dirs *dirs = opaque;

	if (is_seen(dirs, path))
		return;
	dirs->seen = xreallocarray(dirs->seen, dirs->n_seen + 1, sizeof(*dirs->seen));
	dirs->seen[dirs->n_seen++] = xstrdup(path);
}

static void see_disk(const char *path, void *opaque)
{
	struct vm_dirs *dirs = opaque;
	struct stat st;

	if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && !vm_strmap_get(&dirs->disks, vm_strmap_file(st.st_dev, st.st_ino).text))
		vm_strmap_put(&dirs->disks, vm_strmap_file(st.st_dev, st.st_ino).text, dirs);
}

static int read_definitions(struct vm_dirs *dirs)
{
	const struct vm_definitions found = { see, see_disk, dirs };

	vm_strmap_clear(&dirs->disks, NULL);
	return vm_definitions_read(&found, &dirs->forgot);
}

/* Once a look. Until it can be read nothing is written in its place. */
static void recall(struct vm_dirs *dirs)
{
	vs_autofree char *text = NULL;

	if (dirs->recalling == dirs->round)
		return;
	dirs->recalling = dirs->round;
	dirs->forgot = (struct vs_err){0};
	if ((dirs->all ? vm_store_dirs_of_all : vm_store_dirs_get)(dirs->store, &text, &dirs->forgot) < 0)
		return;
	dirs->recalled = !dirs->all || read_definitions(dirs) == 0;
	for (char *save = NULL, *line = text ? strtok_r(text, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save)) {
		vs_autofree char *path = NULL;

		if (vm_name_unescape(line, &path) == 0)
			see(path, dirs);
	}
}

const char *vm_dirs_forgot(struct vm_dirs *dirs)
{
	if (dirs->store && !dirs->recalled)
		recall(dirs);
	return !dirs->store || dirs->recalled ? NULL : dirs->forgot.msg;
}

void vm_dirs_remember(struct vm_dirs *dirs, const char *path)
{
	size_t bytes = strlen(path);

	if (!dirs->store || dirs->all)
		return;
	if (!dirs->recalled)
		recall(dirs);
	if (is_seen(dirs, path))
		return;
	for (size_t i = 0; i < dirs->n_seen; i++)
		bytes += strlen(dirs->seen[i]) + 1;
	if (bytes > SEEN_BYTES)
		return;
	see(path, dirs);
	dirs->unnoted = true;
}

void vm_dirs_note(struct vm_dirs *dirs)
{
	vs_autofree char *text = NULL;
	size_t len;
	FILE *f;

	if (!dirs->unnoted || !dirs->recalled)
		return;
	f = xmemopen(&text, &len);
	for (size_t i = 0; i < dirs->n_seen; i++) {
		vs_autofree char *escaped = vm_utf8_escape(dirs->seen[i], strlen(dirs->seen[i]), "%");

		fprintf(f, "%s\n", escaped);
	}
	xmemclose(f);
	dirs->unnoted = vm_store_dirs_put(dirs->store, text, &dirs->unnoted_why) < 0; /* then by the next look */
}

const struct vs_err *vm_dirs_unnoted(const struct vm_dirs *dirs)
{
	return dirs->unnoted ? &dirs->unnoted_why : NULL;
}
