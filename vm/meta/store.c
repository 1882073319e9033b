/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/meta/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/util/mem.h"
#include "vm/util/strmap.h"
#include "vm/util/sync.h"

struct vm_store {
	char *dir; /* NULL: memory only */
	pthread_mutex_t files; /* of metadata: read and written one at a time. Taken before @lock */
	pthread_mutex_t lock; /* guards the rest; nothing that waits for a disk is done under it */
	uint64_t connection;
	struct vm_strmap meta; /* by UUID: struct vm_meta */
	struct vm_strmap asked; /* UUIDs whose file has been read */
	struct vm_strmap pending; /* UUIDs whose metadata were not found at the domain since they were remembered */
	struct vm_strmap noted; /* UUIDs of which a journal was written since vm_store_noted(), each as what it is found by */
	struct vm_strmap unsaved; /* of metadata that are newer than their file: the UUID */
};

static uint64_t hash_of(const char *text)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
	return h;
}

/* ---------------------------------------------------------------- the directory */

static char *choose_dir(void)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME"), *service = getenv("STATE_DIRECTORY");
	char *dir = NULL;
	int n = 0;

	if (service && service[0] == '/')
		return strdup(service);
	if (geteuid() == 0)
		return strdup("/var/lib/virt-snapfs");
	if (state && state[0] == '/')
		n = asprintf(&dir, "%s/virt-snapfs", state);
	else if (home && home[0] == '/')
		n = asprintf(&dir, "%s/.local/state/virt-snapfs", home);
	return n < 0 ? NULL : dir;
}

/* It and what is above it. */
static bool make_dir(char *dir)
{
	for (char *slash = strchr(dir + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(dir, 0755);
		*slash = '/';
	}
	return mkdir(dir, 0700) == 0 || errno == EEXIST;
}

struct vm_store *vm_store_new(void)
{
	struct vm_store *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	pthread_mutex_init(&s->files, NULL);
	pthread_mutex_init(&s->lock, NULL);
	s->dir = choose_dir();
	if (s->dir && !make_dir(s->dir))
		free(vs_steal(s->dir));
	return s;
}

static void drop_own(void *meta)
{
	vm_meta_free(meta);
}

void vm_store_free(struct vm_store *s)
{
	if (!s)
		return;
	vm_strmap_clear(&s->meta, drop_own);
	vm_strmap_clear(&s->asked, NULL);
	vm_strmap_clear(&s->pending, NULL);
	vm_strmap_clear(&s->unsaved, free);
	vm_strmap_clear(&s->noted, free);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->files);
	free(s->dir);
	free(s);
}

void vm_store_connection(struct vm_store *s, const char *uri)
{
	pthread_mutex_lock(&s->lock);
	if (!s->connection && uri)
		s->connection = hash_of(uri);
	pthread_mutex_unlock(&s->lock);
}

/* ---------------------------------------------------------------- files */

/* NULL: there is no directory. */
static char *file_name(struct vm_store *s, const char *uuid, const char *end)
{
	uint64_t connection;

	pthread_mutex_lock(&s->lock);
	connection = s->connection;
	pthread_mutex_unlock(&s->lock);
	return !s->dir ? NULL : xasprintf("%s/%016llx-%016llx.%s", s->dir, (unsigned long long)hash_of(uuid),
					  (unsigned long long)connection, end);
}

static int cannot(struct vs_err *err, int r, const char *path)
{
	return vs_err_set(err, r, "'%s' %s", path, r == -E2BIG ? "is larger than anything of ours" : r == -EBADMSG ? "is damaged" : strerror(-r));
}

/* The whole file, at most VM_META_MAX bytes. Gives *text. -ENOENT: there is none; anything else: it is not known what it
 * says. */
static int read_file(const char *path, char **out, size_t *len, struct vs_err *err)
{
	vs_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	vs_autofree char *text = NULL;
	ssize_t n;

	if (fd < 0)
		return cannot(err, -errno, path);
	text = xcalloc(VM_META_MAX + 2, 1);
	n = read(fd, text, VM_META_MAX + 1);
	if (n < 0)
		return cannot(err, -errno, path);
	if (n > VM_META_MAX)
		return cannot(err, -E2BIG, path);
	text[n] = '\0';
	*len = (size_t)n;
	*out = vs_steal(text);
	return 0;
}

/* The directory as well: a file whose name is lost with the power was not written. */
static int write_file(const char *path, const char *text, struct vs_err *err)
{
	vs_autofree char *fresh = xasprintf("%s.%d", path, (int)getpid());
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600), r;
	size_t len = strlen(text);
	ssize_t n;

	if (fd < 0)
		return cannot(err, -errno, fresh);
	n = write(fd, text, len);
	r = n == (ssize_t)len ? 0 : n < 0 ? -errno : -ENOSPC;
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	close(fd);
	if (r == 0 && rename(fresh, path) < 0)
		r = -errno;
	if (r < 0)
		unlink(fresh);
	if (r == 0)
		r = vm_sync_parent(path);
	return r < 0 ? cannot(err, r, path) : 0;
}

/* ---------------------------------------------------------------- metadata */

static bool is_asked(struct vm_store *s, const char *uuid)
{
	bool asked;

	pthread_mutex_lock(&s->lock);
	asked = vm_strmap_get(&s->asked, uuid);
	pthread_mutex_unlock(&s->lock);
	return asked;
}

static void put(struct vm_strmap *map, const char *uuid, void *value)
{
	vm_strmap_put(map, uuid, value);
}

static void put_meta_locked(struct vm_store *s, const char *uuid, struct vm_meta *meta)
{
	vm_meta_free(vm_strmap_remove(&s->meta, uuid));
	put(&s->meta, uuid, meta);
}

static void save_later_locked(struct vm_store *s, const char *uuid)
{
	if (!vm_strmap_get(&s->unsaved, uuid))
		put(&s->unsaved, uuid, xstrdup(uuid));
}

/* With the files' lock held. Reads the file, until it could be read once. Nothing is concluded from one that cannot be: it is not known
 * then what is held. */
static int ask_with_files(struct vm_store *s, const char *uuid, struct vs_err *err)
{
	vs_autofree char *path = file_name(s, uuid, "facts"), *text = NULL;
	struct vs_err why = {0};
	struct vm_meta *meta = NULL;
	size_t len;
	int r;

	if (is_asked(s, uuid))
		return 0;
	r = path ? read_file(path, &text, &len, &why) : 0;
	if (r < 0 && r != -ENOENT)
		return vs_err_set(err, r, "%s", why.msg);
	if (text && (r = vm_meta_parse(text, len, &meta, &why)) < 0)
		return vs_err_set(err, r, "'%s': %s", path, why.msg);
	pthread_mutex_lock(&s->lock);
	if (meta && vm_meta_newer(vm_strmap_get(&s->meta, uuid), meta) == meta)
		put_meta_locked(s, uuid, vs_steal(meta));
	put(&s->asked, uuid, s);
	pthread_mutex_unlock(&s->lock);
	vm_meta_free(meta);
	return 0;
}

/* Waits for no other file once it could be read. */
static int ask(struct vm_store *s, const char *uuid, struct vs_err *err)
{
	int r;

	if (is_asked(s, uuid))
		return 0;
	pthread_mutex_lock(&s->files);
	r = ask_with_files(s, uuid, err);
	pthread_mutex_unlock(&s->files);
	return r;
}

/* With the files' lock held. Not over what could not be read. */
static int write_with_files(struct vm_store *s, const char *uuid, const struct vm_meta *meta, struct vs_err *err)
{
	vs_autofree char *path = file_name(s, uuid, "facts"), *text = NULL;
	int r = path ? ask_with_files(s, uuid, err) : 0;

	if (path && r == 0)
		r = vm_meta_text(meta, &text, err);
	return path && r == 0 ? write_file(path, text, err) : r;
}

struct vm_meta *vm_store_best(struct vm_store *s, const char *uuid, const struct vm_meta *found)
{
	const struct vm_meta *best, *copy;
	struct vm_meta *given;

	ask(s, uuid, NULL);
	pthread_mutex_lock(&s->lock);
	copy = vm_strmap_get(&s->meta, uuid);
	best = vm_meta_newer(found, copy);
	if (found && (!copy || copy->serial <= found->serial))
		vm_strmap_remove(&s->pending, uuid);
	given = best ? vm_meta_copy(best) : NULL;
	if (best && best == found && (!copy || copy->serial < found->serial)) {
		put_meta_locked(s, uuid, vm_meta_copy(found));
		save_later_locked(s, uuid);
	}
	pthread_mutex_unlock(&s->lock);
	return given;
}

int vm_store_remember(struct vm_store *s, const char *uuid, const struct vm_meta *meta, struct vs_err *err)
{
	int r;

	pthread_mutex_lock(&s->files);
	r = write_with_files(s, uuid, meta, err);
	if (r == 0) {
		pthread_mutex_lock(&s->lock);
		put_meta_locked(s, uuid, vm_meta_copy(meta));
		free(vm_strmap_remove(&s->unsaved, uuid));
		if (!vm_strmap_get(&s->pending, uuid))
			put(&s->pending, uuid, s);
		pthread_mutex_unlock(&s->lock);
	}
	pthread_mutex_unlock(&s->files);
	return r;
}

char *vm_store_disown(struct vm_store *s, const char *uuid)
{
	const struct vm_meta *copy;
	struct vm_meta *left;
	char *policy = NULL;

	ask(s, uuid, NULL);
	pthread_mutex_lock(&s->lock);
	copy = vm_strmap_get(&s->pending, uuid) ? NULL : vm_strmap_get(&s->meta, uuid);
	if (copy && copy->policy && strcmp(copy->policy, "off") != 0) {
		policy = xstrdup(copy->policy);
		left = vm_meta_copy(copy);
		vm_meta_set_policy(left, NULL);
		put_meta_locked(s, uuid, left);
		save_later_locked(s, uuid);
	}
	pthread_mutex_unlock(&s->lock);
	return policy;
}

int vm_store_legible(struct vm_store *s, const char *uuid, struct vs_err *err)
{
	return ask(s, uuid, err);
}

static bool take_one(void *thing, void *opaque)
{
	char **one = opaque;

	if (*one)
		return true;
	*one = thing;
	return false;
}

bool vm_store_save_one(struct vm_store *s)
{
	vs_autofree char *uuid = NULL;
	struct vm_meta *meta = NULL;

	pthread_mutex_lock(&s->files);
	pthread_mutex_lock(&s->lock);
	vm_strmap_filter(&s->unsaved, take_one, &uuid);
	if (uuid)
		meta = vm_meta_copy(vm_strmap_get(&s->meta, uuid));
	pthread_mutex_unlock(&s->lock);
	if (meta)
		write_with_files(s, uuid, meta, NULL); /* else only memory remembers it */
	pthread_mutex_unlock(&s->files);
	vm_meta_free(meta);
	return uuid;
}

/* ---------------------------------------------------------------- directories */

#define OF_NONE "directories" /* in place of a UUID */

static bool ends_in(const char *name, const char *end)
{
	size_t len = strlen(name), tail = strlen(end);

	return len > tail && !strcmp(name + len - tail, end);
}

static int read_dirs(const char *path, char **text, struct vs_err *err)
{
	size_t len = 0;
	int r = path ? read_file(path, text, &len, err) : -ENOENT;

	if (r == 0 && (!len || strlen(*text) != len || (*text)[len - 1] != '\n')) {
		free(vs_steal(*text));
		r = cannot(err, -EBADMSG, path);
	}
	return r == -ENOENT ? 0 : r;
}

int vm_store_dirs_get(struct vm_store *s, char **text, struct vs_err *err)
{
	vs_autofree char *path = file_name(s, OF_NONE, "dirs");

	*text = NULL;
	return read_dirs(path, text, err);
}

int vm_store_dirs_of_all(struct vm_store *s, char **text, struct vs_err *err)
{
	DIR *stream = s->dir ? opendir(s->dir) : NULL;
	struct dirent *entry;
	int r = s->dir && !stream && errno != ENOENT && errno != EACCES ? cannot(err, -errno, s->dir) : 0;

	*text = NULL;
	while (r == 0 && stream && (errno = 0, entry = readdir(stream))) {
		vs_autofree char *path = ends_in(entry->d_name, ".dirs") ? xasprintf("%s/%s", s->dir, entry->d_name) : NULL;
		vs_autofree char *more = NULL, *before = vs_steal(*text);

		r = path ? read_dirs(path, &more, err) : 0;
		r = r == -EACCES ? 0 : r; /* another user's */
		*text = before || more ? xasprintf("%s%s", before ? before : "", more ? more : "") : NULL;
	}
	if (r == 0 && stream && errno)
		r = cannot(err, -errno, s->dir);
	if (stream)
		closedir(stream);
	if (r < 0)
		free(vs_steal(*text));
	return r;
}

int vm_store_dirs_put(struct vm_store *s, const char *text, struct vs_err *err)
{
	vs_autofree char *path = file_name(s, OF_NONE, "dirs");

	return path && strlen(text) <= VM_META_MAX ? write_file(path, text, err) : 0;
}

char *vm_store_dirs_path(struct vm_store *s)
{
	return file_name(s, OF_NONE, "dirs");
}

/* ---------------------------------------------------------------- the note */

static int put_journal(struct vm_store *s, const char *uuid, const char *text, struct vs_err *err)
{
	vs_autofree char *path = file_name(s, uuid, "note");

	if (!text)
		return path && unlink(path) < 0 && errno != ENOENT ? cannot(err, -errno, path) : 0;
	if (!path)
		return vs_err_set(err, -ENOENT, "there is no state directory that it could be written to: see STATE_DIRECTORY");
	if (strlen(text) > VM_META_MAX)
		return cannot(err, -E2BIG, path);
	return write_file(path, text, err);
}

int vm_store_journal_put(struct vm_store *s, const char *uuid, const char *text, struct vs_err *err)
{
	int r = put_journal(s, uuid, text, err);

	pthread_mutex_lock(&s->lock); /* afterwards: who is told reads what was written */
	if (!vm_strmap_get(&s->noted, uuid))
		put(&s->noted, uuid, xstrdup(uuid));
	pthread_mutex_unlock(&s->lock);
	return r;
}

struct tell {
	void (*use)(const char *uuid, void *opaque);
	void *opaque;
};

static bool tell_one(void *thing, void *opaque)
{
	const struct tell *tell = opaque;

	tell->use(thing, tell->opaque);
	return true;
}

void vm_store_noted(struct vm_store *s, void (*use)(const char *uuid, void *opaque), void *opaque)
{
	struct vm_strmap noted;

	pthread_mutex_lock(&s->lock);
	noted = s->noted;
	s->noted = (struct vm_strmap){0};
	pthread_mutex_unlock(&s->lock);
	vm_strmap_filter(&noted, tell_one, &(struct tell){ use, opaque });
	vm_strmap_clear(&noted, free);
}

int vm_store_journal_get(struct vm_store *s, const char *uuid, char **text, struct vs_err *err)
{
	vs_autofree char *path = file_name(s, uuid, "note");
	size_t len;
	int r;

	*text = NULL;
	r = path ? read_file(path, text, &len, err) : 0;
	return r == -ENOENT ? 0 : r;
}
