/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/meta/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/util/strmap.h"

struct vm_store {
	char *dir; /* NULL: memory only */
	pthread_mutex_t lock; /* guards the rest */
	uint64_t connection;
	struct vm_strmap meta; /* by UUID: struct vm_meta */
	struct vm_strmap asked; /* UUIDs whose file has been read */
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
	pthread_mutex_destroy(&s->lock);
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

static char *file_name_locked(const struct vm_store *s, const char *uuid, const char *end)
{
	char *path;

	if (!s->dir || asprintf(&path, "%s/%016llx-%016llx.%s", s->dir, (unsigned long long)hash_of(uuid),
				(unsigned long long)s->connection, end) < 0)
		return NULL;
	return path;
}

/* The whole file, at most VM_META_MAX bytes. Gives; NULL: none. */
static char *read_file(const char *path, size_t *len)
{
	vs_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char *text = fd < 0 ? NULL : malloc(VM_META_MAX + 1);
	ssize_t n;

	if (!text)
		return NULL;
	n = read(fd, text, VM_META_MAX);
	if (n < 0) {
		free(text);
		return NULL;
	}
	text[n] = '\0';
	*len = (size_t)n;
	return text;
}

static void write_file(const char *path, const char *text)
{
	size_t len = strlen(text);
	vs_autofree char *fresh = NULL;
	int fd;
	bool good;

	if (asprintf(&fresh, "%s.%d", path, (int)getpid()) < 0) {
		fresh = NULL;
		return;
	}
	fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return;
	good = write(fd, text, len) == (ssize_t)len && fsync(fd) == 0;
	close(fd);
	if (!good || rename(fresh, path) < 0)
		unlink(fresh);
}

/* ---------------------------------------------------------------- metadata */

/* The copy; its file is read once. Borrowed; NULL: none. */
static const struct vm_meta *copy_locked(struct vm_store *s, const char *uuid)
{
	vs_autofree char *path = NULL, *text = NULL;
	struct vm_meta *meta = NULL;
	size_t len;

	if (vm_strmap_get(&s->asked, uuid))
		return vm_strmap_get(&s->meta, uuid);
	vm_strmap_put(&s->asked, uuid, s);
	path = file_name_locked(s, uuid, "facts");
	text = path ? read_file(path, &len) : NULL;
	if (text && vm_meta_parse(text, len, &meta, NULL) == 0 && vm_strmap_put(&s->meta, uuid, meta) < 0)
		vm_meta_free(vs_steal(meta));
	return vm_strmap_get(&s->meta, uuid);
}

static int remember_locked(struct vm_store *s, const char *uuid, const struct vm_meta *meta)
{
	vs_autofree char *path = NULL, *text = NULL;
	struct vm_meta *copy = vm_meta_copy(meta);
	int r;

	if (!copy)
		return -ENOMEM;
	copy_locked(s, uuid);
	vm_meta_free(vm_strmap_remove(&s->meta, uuid));
	r = vm_strmap_put(&s->meta, uuid, copy);
	if (r < 0) {
		vm_meta_free(copy);
		return r;
	}
	path = file_name_locked(s, uuid, "facts");
	if (path && vm_meta_text(meta, &text, NULL) == 0)
		write_file(path, text);
	return 0;
}

struct vm_meta *vm_store_best(struct vm_store *s, const char *uuid, const struct vm_meta *found)
{
	const struct vm_meta *best, *copy;
	struct vm_meta *given;

	pthread_mutex_lock(&s->lock);
	copy = copy_locked(s, uuid);
	best = vm_meta_newer(found, copy);
	if (best && best == found && (!copy || copy->serial < found->serial))
		remember_locked(s, uuid, found);
	given = best ? vm_meta_copy(best) : NULL;
	pthread_mutex_unlock(&s->lock);
	return given;
}

int vm_store_remember(struct vm_store *s, const char *uuid, const struct vm_meta *meta)
{
	int r;

	pthread_mutex_lock(&s->lock);
	r = remember_locked(s, uuid, meta);
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* ---------------------------------------------------------------- the note */

void vm_store_journal_put(struct vm_store *s, const char *uuid, const char *text)
{
	vs_autofree char *path = NULL;

	pthread_mutex_lock(&s->lock);
	path = file_name_locked(s, uuid, "note");
	if (path && text)
		write_file(path, text);
	else if (path)
		unlink(path);
	pthread_mutex_unlock(&s->lock);
}

char *vm_store_journal_get(struct vm_store *s, const char *uuid)
{
	vs_autofree char *path = NULL;
	char *text = NULL;
	size_t len;

	pthread_mutex_lock(&s->lock);
	path = file_name_locked(s, uuid, "note");
	if (path)
		text = read_file(path, &len);
	pthread_mutex_unlock(&s->lock);
	return text;
}
