/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The one gate: every file that an image names is opened here or not at all.
 *
 * A guest with a raw disk, or whoever uploads an image, writes every byte of a header; a name in it must not turn this
 * program, which reads as root, into a way to read /etc/shadow. So what may be named is decided by trusted sources
 * only: directories in which libvirt's XML, an active pool or the user already names something, and single files.
 *
 * The decision is taken on the file itself, not on its name: an O_PATH descriptor (which touches nothing) is asked for
 * its canonical path, and that path must lie below an allowed directory; the file that is then read is the one this
 * descriptor holds. Symlinks out of the directory are thereby refused, symlinked image directories work, and nothing
 * can be exchanged between the check and the use.
 *
 * Devices. /dev/vg0/web is a link to /dev/dm-3: its canonical directory is /dev, which must not open every disk of the
 * host. So directly in /dev, /dev/mapper and /dev/disk only the devices count that are named themselves; in a volume
 * group's directory (/dev/vg0), which only root writes, a link in an allowed directory is enough.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "file.h"

struct allowed_file {
	char *path;  /* as named */
	char *canon; /* as resolved when it was allowed; NULL where it did not exist */
	enum q2_format format;
};

struct q2_gate {
	atomic_uint refs;
	/* immutable once shared */
	char **dirs;
	size_t n_dirs;
	struct allowed_file *files;
	size_t n_files;
	struct q2_gate *also; /* or NULL */
};

struct q2_gate *q2_gate_new(void)
{
	struct q2_gate *gate = calloc(1, sizeof(*gate));

	if (gate)
		atomic_init(&gate->refs, 1);
	return gate;
}

struct q2_gate *q2_gate_ref(struct q2_gate *gate)
{
	if (gate)
		atomic_fetch_add(&gate->refs, 1);
	return gate;
}

void q2_gate_unref(struct q2_gate *gate)
{
	size_t i;

	if (!gate || atomic_fetch_sub(&gate->refs, 1) != 1)
		return;
	for (i = 0; i < gate->n_dirs; i++)
		free(gate->dirs[i]);
	for (i = 0; i < gate->n_files; i++) {
		free(gate->files[i].path);
		free(gate->files[i].canon);
	}
	free(gate->dirs);
	free(gate->files);
	q2_gate_unref(gate->also);
	free(gate);
}

void q2_gate_include(struct q2_gate *gate, struct q2_gate *also)
{
	gate->also = q2_gate_ref(also);
}

static int add_dir(struct q2_gate *gate, char *canon /* takes */)
{
	char **dirs;
	size_t i;

	for (i = 0; i < gate->n_dirs; i++)
		if (!strcmp(gate->dirs[i], canon)) {
			free(canon);
			return 0;
		}
	dirs = realloc(gate->dirs, (gate->n_dirs + 1) * sizeof(*dirs));
	if (!dirs) {
		free(canon);
		return -ENOMEM;
	}
	gate->dirs = dirs;
	dirs[gate->n_dirs++] = canon;
	return 0;
}

int q2_gate_allow_dir(struct q2_gate *gate, const char *dir)
{
	char *canon = realpath(dir, NULL);

	if (!canon)
		return errno == ENOMEM ? -ENOMEM : 0;
	return add_dir(gate, canon);
}

/* Directories in which devices of all kinds lie side by side. */
static bool holds_all_devices(const char *dir)
{
	return !strcmp(dir, "/dev") || !strcmp(dir, "/dev/mapper") || !strcmp(dir, "/dev/disk") ||
	       !strncmp(dir, "/dev/disk/", 10) || !strcmp(dir, "/dev/block");
}

static int allow_dir_of(struct q2_gate *gate, const char *path)
{
	vs_autofree char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	char *canon;

	if (!dir)
		return -ENOMEM;
	if (!slash)
		return 0;
	slash[slash == dir ? 1 : 0] = '\0';
	canon = realpath(dir, NULL);
	if (!canon)
		return errno == ENOMEM ? -ENOMEM : 0;
	if (holds_all_devices(canon) || !strcmp(canon, "/")) { /* an image in / must not open the whole system */
		free(canon);
		return 0;
	}
	return add_dir(gate, canon);
}

int q2_gate_allow_file(struct q2_gate *gate, const char *path, enum q2_format format)
{
	struct allowed_file f = { .format = format }, *files;
	int rc;

	files = realloc(gate->files, (gate->n_files + 1) * sizeof(*files));
	if (!files)
		return -ENOMEM;
	gate->files = files;
	f.path = strdup(path);
	if (!f.path)
		return -ENOMEM;
	f.canon = realpath(path, NULL);
	files[gate->n_files++] = f;
	rc = allow_dir_of(gate, path);
	if (!rc && f.canon)
		rc = allow_dir_of(gate, f.canon);
	return rc;
}

static bool below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	if (n == 1)
		return path[0] == '/';
	return !strncmp(path, dir, n) && path[n] == '/';
}

static bool dir_allowed(const struct q2_gate *gate, const char *path)
{
	size_t i;

	for (i = 0; i < gate->n_dirs; i++)
		if (below(path, gate->dirs[i]))
			return true;
	return gate->also && dir_allowed(gate->also, path);
}

/* A link to the device @rdev, in an allowed directory of devices (a volume group). */
static bool device_link_allowed(const struct q2_gate *gate, const char *path, dev_t rdev)
{
	vs_autofree char *copy = strdup(path);
	vs_autofree char *canon = NULL;
	char *slash = copy ? strrchr(copy, '/') : NULL;
	struct stat st;

	if (!slash || slash == copy)
		return false;
	*slash = '\0';
	canon = realpath(copy, NULL);
	if (!canon || strncmp(canon, "/dev/", 5))
		return false;
	*slash = '/';
	{
		char full[PATH_MAX];

		if (snprintf(full, sizeof(full), "%s%s", canon, slash) >= (int)sizeof(full))
			return false;
		/* @path may lead elsewhere by now, but what lies below /dev is root's: is that what was opened? */
		return dir_allowed(gate, full) && !stat(full, &st) && S_ISBLK(st.st_mode) && st.st_rdev == rdev;
	}
}

static bool file_allowed(const struct q2_gate *gate, const char *canon)
{
	size_t i;

	for (i = 0; i < gate->n_files; i++)
		if (gate->files[i].canon && !strcmp(gate->files[i].canon, canon))
			return true;
	return gate->also && file_allowed(gate->also, canon);
}

static enum q2_format known_format(const struct q2_gate *gate, const char *path, const char *canon)
{
	size_t i;

	for (i = 0; i < gate->n_files; i++)
		if (gate->files[i].format != Q2_FORMAT_NONE &&
		    (!strcmp(gate->files[i].path, path) ||
		     (gate->files[i].canon && !strcmp(gate->files[i].canon, canon))))
			return gate->files[i].format;
	return gate->also ? known_format(gate->also, path, canon) : Q2_FORMAT_NONE;
}

static int canonical(int path_fd, char *out, size_t out_len)
{
	char link[40];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
	n = readlink(link, out, out_len - 1);
	if (n < 0)
		return -errno;
	if ((size_t)n >= out_len - 1)
		return -ENAMETOOLONG;
	out[n] = '\0';
	return 0;
}

int q2_gate_open(const struct q2_gate *gate, const char *from, const char *name, const char *format,
		 struct q2_file **file, enum q2_format *format_out, struct vs_err *err)
{
	vs_autofree char *path = NULL;
	vs_autoclose int fd = -1;
	char canon[PATH_MAX];
	enum q2_format fmt;
	struct stat st;
	int rc;

	rc = q2_name_resolve(from, name, format, &path, &fmt, err);
	if (rc)
		return rc;
	rc = q2_path_open(path, &fd, err);
	if (rc) {
		vs_err_prefix(err, "'%s' stands on '%s'", from, name);
		return rc;
	}
	rc = canonical(fd, canon, sizeof(canon));
	if (rc)
		return vs_err_set(err, rc, "cannot resolve '%s': %s", path, strerror(-rc));
	if (!gate || (!dir_allowed(gate, canon) && !file_allowed(gate, canon) &&
		      !(!fstat(fd, &st) && S_ISBLK(st.st_mode) && device_link_allowed(gate, path, st.st_rdev))))
		return vs_err_set(err, -EPERM, "'%s' names '%s', which lies outside the directories known for it (see "
				  "allow_path)", from, canon);
	if (fmt == Q2_FORMAT_NONE)
		fmt = known_format(gate, path, canon);
	if (fmt == Q2_FORMAT_NONE)
		return vs_err_set(err, -EPERM, "'%s' stands on '%s' with no format recorded, and formats are never probed",
				  from, path);
	rc = q2_path_reopen(fd, path, file, err);
	if (rc)
		return rc;
	*format_out = fmt;
	return 0;
}
