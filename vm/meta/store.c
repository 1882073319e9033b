/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/meta/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/util/mem.h"
#include "vm/util/strmap.h"

struct vm_store {
	char *dir; /* NULL: memory only */
	pthread_mutex_t lock; /* guards the rest */
	uint64_t connection;
	uint64_t journals; /* how often one was written */
	struct vm_strmap meta; /* by UUID: struct vm_meta */
	struct vm_strmap asked; /* UUIDs whose file has been read */
	struct vm_strmap pending; /* UUIDs whose metadata were not found at the domain since they were remembered */
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
	vm_strmap_clear(&s->pending, NULL);
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

static int cannot(struct vs_err *err, int r, const char *path)
{
	return vs_err_set(err, r, "'%s' %s", path, r == -E2BIG ? "is larger than anything of ours" : strerror(-r));
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
static int sync_dir(const struct vm_store *s)
{
	vs_autoclose int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int write_file(const struct vm_store *s, const char *path, const char *text, struct vs_err *err)
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
		r = sync_dir(s);
	return r < 0 ? cannot(err, r, path) : 0;
}

/* ---------------------------------------------------------------- metadata */

/* Reads the file, until it could be read once. Nothing is concluded from one that cannot be: it is not known then what is held. */
static int ask_locked(struct vm_store *s, const char *uuid, struct vs_err *err)
{
	vs_autofree char *path = NULL, *text = NULL;
	struct vs_err why = {0};
	struct vm_meta *meta = NULL, *old;
	size_t len;
	int r;

	if (vm_strmap_get(&s->asked, uuid))
		return 0;
	path = file_name_locked(s, uuid, "facts");
	r = path ? read_file(path, &text, &len, &why) : 0;
	if (r < 0 && r != -ENOENT)
		return vs_err_set(err, r, "%s", why.msg);
	if (text && (r = vm_meta_parse(text, len, &meta, &why)) < 0)
		return vs_err_set(err, r, "'%s': %s", path, why.msg);
	old = vm_strmap_get(&s->meta, uuid);
	if (meta && vm_meta_newer(old, meta) == meta) {
		vm_meta_free(vm_strmap_remove(&s->meta, uuid));
		if (vm_strmap_put(&s->meta, uuid, meta) < 0)
			xoom();
		meta = NULL;
	}
	vm_meta_free(meta);
	if (vm_strmap_put(&s->asked, uuid, s) < 0)
		xoom();
	return 0;
}

/* The copy, as far as it could be read. Borrowed; NULL: none. */
static const struct vm_meta *copy_locked(struct vm_store *s, const char *uuid)
{
	ask_locked(s, uuid, NULL);
	return vm_strmap_get(&s->meta, uuid);
}

/* In memory, and in the file, unless that holds what could not be read. On failure neither has changed. */
static int remember_locked(struct vm_store *s, const char *uuid, const struct vm_meta *meta, bool only_memory,
			   struct vs_err *err)
{
	vs_autofree char *path = file_name_locked(s, uuid, "facts"), *text = NULL;
	struct vm_meta *copy;
	int r = 0;

	if (path && !only_memory) {
		r = ask_locked(s, uuid, err);
		if (r == 0)
			r = vm_meta_text(meta, &text, err);
		if (r == 0)
			r = write_file(s, path, text, err);
		if (r < 0)
			return r;
	}
	copy = vm_meta_copy(meta);
	if (!copy)
		return vs_err_set(err, -ENOMEM, "out of memory");
	vm_meta_free(vm_strmap_remove(&s->meta, uuid));
	if (vm_strmap_put(&s->meta, uuid, copy) < 0)
		xoom();
	return 0;
}

struct vm_meta *vm_store_best(struct vm_store *s, const char *uuid, const struct vm_meta *found)
{
	const struct vm_meta *best, *copy;
	struct vm_meta *given;

	pthread_mutex_lock(&s->lock);
	copy = copy_locked(s, uuid);
	best = vm_meta_newer(found, copy);
	if (found && (!copy || copy->serial <= found->serial))
		vm_strmap_remove(&s->pending, uuid);
	if (best && best == found && (!copy || copy->serial < found->serial) && remember_locked(s, uuid, found, false, NULL) < 0)
		remember_locked(s, uuid, found, true, NULL);
	given = best ? vm_meta_copy(best) : NULL;
	pthread_mutex_unlock(&s->lock);
	return given;
}

int vm_store_remember(struct vm_store *s, const char *uuid, const struct vm_meta *meta, struct vs_err *err)
{
	int r;

	pthread_mutex_lock(&s->lock);
	r = remember_locked(s, uuid, meta, false, err);
	if (r == 0 && !vm_strmap_get(&s->pending, uuid) && vm_strmap_put(&s->pending, uuid, s) < 0)
		xoom();
	pthread_mutex_unlock(&s->lock);
	return r;
}

char *vm_store_disown(struct vm_store *s, const char *uuid)
{
	const struct vm_meta *copy;
	struct vm_meta *left;
	char *policy = NULL;

	pthread_mutex_lock(&s->lock);
	copy = vm_strmap_get(&s->pending, uuid) ? NULL : copy_locked(s, uuid);
	if (copy && copy->policy && strcmp(copy->policy, "off") != 0) {
		policy = xstrdup(copy->policy);
		left = vm_meta_copy(copy);
		if (!left || vm_meta_set_policy(left, NULL) < 0)
			xoom();
		if (remember_locked(s, uuid, left, false, NULL) < 0)
			remember_locked(s, uuid, left, true, NULL);
		vm_meta_free(left);
	}
	pthread_mutex_unlock(&s->lock);
	return policy;
}

int vm_store_legible(struct vm_store *s, const char *uuid, struct vs_err *err)
{
	int r;

	pthread_mutex_lock(&s->lock);
	r = ask_locked(s, uuid, err);
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* ---------------------------------------------------------------- the note */

int vm_store_journal_put(struct vm_store *s, const char *uuid, const char *text, struct vs_err *err)
{
	vs_autofree char *path = NULL;
	int r = 0;

	pthread_mutex_lock(&s->lock);
	s->journals++;
	path = file_name_locked(s, uuid, "note");
	if (text && !path)
		r = vs_err_set(err, -ENOENT, "there is no state directory that it could be written to: see STATE_DIRECTORY");
	else if (text && strlen(text) > VM_META_MAX)
		r = cannot(err, -E2BIG, path);
	else if (text)
		r = write_file(s, path, text, err);
	else if (path && unlink(path) < 0 && errno != ENOENT)
		r = cannot(err, -errno, path);
	pthread_mutex_unlock(&s->lock);
	return r;
}

uint64_t vm_store_journals(struct vm_store *s)
{
	uint64_t n;

	pthread_mutex_lock(&s->lock);
	n = s->journals;
	pthread_mutex_unlock(&s->lock);
	return n;
}

int vm_store_journal_get(struct vm_store *s, const char *uuid, char **text, struct vs_err *err)
{
	vs_autofree char *path = NULL;
	size_t len;
	int r;

	*text = NULL;
	pthread_mutex_lock(&s->lock);
	path = file_name_locked(s, uuid, "note");
	r = path ? read_file(path, text, &len, err) : 0;
	pthread_mutex_unlock(&s->lock);
	return r == -ENOENT ? 0 : r;
}
