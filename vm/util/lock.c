/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Two locks, both taken, so that whoever shares either of them is kept out:
 *
 *     a file     in a place that depends on nothing but the user: /run/virt-snapfs of root, in and out of systemd's units; a user's own. It
 *                says whether retention has it, which is waited for. Whoever has it removes it when he lets go, and the directory if
 *                nothing else is in it: so one that was got is only ours if it still has its name
 *     a name     an abstract socket, which has no place that an environment or a mount namespace could move, and is common to all users of
 *                the host: one who may use qemu:///system is another one than root
 *
 * Neither reaches into a container with file systems and a network of its own, nor to another host. Who is at work there is noticed by what
 * he stores: see vm_context_save(). A user who is not root may take a name to be in the way; the refusal says who it is.
 */
#include "vm/util/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vm/util/mem.h"
#include "vm/util/strmap.h"

struct vm_lock {
	int fd, name;
	char *path; /* of the file */
};

/* What is locked: part of names that other mounts look for. */
struct key {
	char text[40];
	const char *busy; /* what is said of one that somebody has */
};

static struct key key_of(const char *uuid, const char *part, const char *busy)
{
	struct key key = { .busy = busy };

	snprintf(key.text, sizeof(key.text), "%016llx%s", (unsigned long long)vm_fnv1a(VM_FNV1A, uuid, strlen(uuid)), part);
	return key;
}

#define TRIES 100 /* each is lost only to somebody who has just let go */

static bool is_ours_alone(const char *dir)
{
	struct stat st;

	return lstat(dir, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022);
}

/* A directory that only we can write to; in /tmp somebody may have made it before us. What environments say does not count: two mounts
 * have two. */
static int make_dir(char *dir, size_t room, struct vs_err *err)
{
	unsigned uid = geteuid();

	snprintf(dir, room, "/run/user/%u", uid);
	if (uid == 0)
		snprintf(dir, room, "/run/virt-snapfs");
	else if (is_ours_alone(dir))
		snprintf(dir, room, "/run/user/%u/virt-snapfs", uid);
	else
		dir[0] = '\0';
	if (dir[0] && mkdir(dir, 0700) < 0 && errno != EEXIST)
		dir[0] = '\0'; /* a unit that may write to no /run of its own: the name keeps others out still */
	if (!dir[0])
		snprintf(dir, room, "/tmp/virt-snapfs-%u", uid);
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return vs_err_set(err, -errno, "the lock directory '%s': %s", dir, strerror(errno));
	if (access(dir, F_OK) < 0 && errno == ENOENT)
		return vs_err_set(err, -EAGAIN, "the lock directory '%s' was made and removed all the time", dir);
	if (!is_ours_alone(dir))
		return vs_err_set(err, access(dir, F_OK) < 0 ? -EAGAIN : -EACCES, "the lock directory '%s' is not ours alone", dir);
	return 0;
}

static socklen_t name_of(const struct key *key, struct sockaddr_un *name)
{
	*name = (struct sockaddr_un){ .sun_family = AF_UNIX };
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
			   (size_t)snprintf(name->sun_path + 1, sizeof(name->sun_path) - 1, "virt-snapfs/%s", key->text));
}

/* Who has it, as a sentence. Gives; NULL: nobody, or it cannot be told. */
static char *holder(const struct key *key)
{
	struct sockaddr_un name;
	socklen_t len = name_of(key, &name);
	vs_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct ucred who;
	socklen_t size = sizeof(who);

	errno = fd < 0 ? errno : 0;
	if (fd < 0)
		return NULL;
	if (connect(fd, (const struct sockaddr *)&name, len) < 0)
		return errno == EAGAIN ? xstrdup(key->busy) : NULL; /* so many have asked, and it was not answered */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
		return NULL;
	return xasprintf("%s (process %d of user %u)", key->busy, (int)who.pid, (unsigned)who.uid);
}

static int refuse(const struct key *key, struct vs_err *err)
{
	vs_autofree char *said = holder(key);

	return vs_err_set(err, -EBUSY, "%s", said ? said : key->busy);
}

/* A descriptor that has the name until it is closed. */
static int take_name(const struct key *key, struct vs_err *err)
{
	struct sockaddr_un name;
	socklen_t len = name_of(key, &name);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

	if (fd >= 0 && bind(fd, (const struct sockaddr *)&name, len) == 0 && listen(fd, SOMAXCONN) == 0) /* who asks whose it is stays in its queue */
		return fd;
	r = fd < 0 ? -errno : errno == EADDRINUSE ? -EBUSY : -errno;
	if (fd >= 0)
		close(fd);
	return r == -EBUSY ? refuse(key, err) : vs_err_set(err, r, "the lock on the domain: %s", strerror(-r));
}

static bool has_its_name(int fd, const char *path)
{
	struct stat open_file, named;

	return fstat(fd, &open_file) == 0 && lstat(path, &named) == 0 && open_file.st_dev == named.st_dev && open_file.st_ino == named.st_ino;
}

/* A descriptor; -EAGAIN: it was just removed. *pruning: retention has it. */
static int try_file(const struct key *key, char *path, size_t room, bool *pruning, struct vs_err *err)
{
	char dir[64], who = '?';
	int r = make_dir(dir, sizeof(dir), err), fd;

	if (r < 0)
		return r;
	snprintf(path, room, "%s/%s.lock", dir, key->text);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return vs_err_set(err, errno == ENOENT ? -EAGAIN : -errno, "the lock '%s': %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
		if (has_its_name(fd, path))
			return fd;
		close(fd);
		return vs_err_set(err, -EAGAIN, "the lock '%s' was taken and let go all the time", path);
	}
	r = -errno;
	if (pruning)
		*pruning = r == -EWOULDBLOCK && pread(fd, &who, 1, 0) == 1 && who == 'p';
	close(fd);
	if (r != -EWOULDBLOCK)
		return vs_err_set(err, r, "the lock '%s': %s", path, strerror(-r));
	return refuse(key, err);
}

static int take_file(const struct key *key, char *path, size_t room, bool *pruning, struct vs_err *err)
{
	int r = -EAGAIN;

	for (int try = 0; r == -EAGAIN && try < TRIES; try++)
		r = try_file(key, path, room, pruning, err);
	return r;
}

static void let_go(int fd, const char *path)
{
	vs_autofree char *dir = xstrdup(path);

	unlink(path);
	*strrchr(dir, '/') = '\0';
	rmdir(dir); /* others' locks may be in it */
	close(fd);
}

static int take(const struct key *key, bool prune, struct vm_lock **out, bool *pruning, struct vs_err *err)
{
	char path[128];
	struct vm_lock *lock;
	int fd = take_file(key, path, sizeof(path), pruning, err), name;

	if (fd < 0)
		return fd;
	name = take_name(key, err);
	if (name < 0) {
		let_go(fd, path);
		return name;
	}
	if (pwrite(fd, prune ? "p" : "c", 1, 0) != 1)
		errno = 0; /* others then do not wait for it */
	lock = xcalloc(1, sizeof(*lock));
	*lock = (struct vm_lock){ fd, name, xstrdup(path) };
	*out = lock;
	return 0;
}

static struct key key_of_command(const char *uuid)
{
	return key_of(uuid, "", "another command is at work on this domain");
}

int vm_lock_take(const char *uuid, bool prune, struct vm_lock **out, bool *pruning, struct vs_err *err)
{
	const struct key key = key_of_command(uuid);

	return take(&key, prune, out, pruning, err);
}

bool vm_lock_is_taken(const char *uuid)
{
	const struct key key = key_of_command(uuid);
	vs_autofree char *said = holder(&key);

	return said || errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
}

static struct key key_of_now(const char *uuid)
{
	return key_of(uuid, ".now", "now/ of this domain is being read");
}

int vm_lock_take_now(const char *uuid, struct vm_lock **out, struct vs_err *err)
{
	const struct key key = key_of_now(uuid);

	return take(&key, false, out, NULL, err);
}

char *vm_lock_now_holder(const char *uuid)
{
	const struct key key = key_of_now(uuid);

	return holder(&key);
}

void vm_lock_answer(const struct vm_lock *lock)
{
	int fd;

	while ((fd = accept4(lock->name, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(fd);
}

void vm_lock_release(struct vm_lock *lock)
{
	if (!lock)
		return;
	close(lock->name);
	let_go(lock->fd, lock->path);
	free(lock->path);
	free(lock);
}
