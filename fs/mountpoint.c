/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * mount(2) lets anybody with the right to do so mount over anything, and the earlier thing is out of sight from then on. That
 * is never what somebody wants who mounts virt-snapfs twice on one place: two daemons, one of them unreachable until the other ends.
 * Nor over the images it shows: each new open would be one through the mount itself.
 *
 * What is mounted where is read from /proc/self/mountinfo: a mount whose daemon is gone does not say what it is.
 */
#include "mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/util/mem.h"

#define OURS "fuse.virt-snapfs"
#define PROFILE "/etc/apparmor.d/fusermount3"

/* ---------------------------------------------------------------- what is there */

/* proc(5): space, tab, newline and backslash are \ooo. In place. */
static void unescape(char *text)
{
	char *to = text;

	for (; *text; text++) {
		unsigned value;
		int n = 0;

		if (*text == '\\' && sscanf(text + 1, "%3o%n", &value, &n) == 1 && n == 3) {
			*to++ = (char)value;
			text += 3;
		} else {
			*to++ = *text;
		}
	}
	*to = '\0';
}

/* "36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw": its first and fifth field, and the first after the dash. */
static bool parse_mount(char *line, char **id, char **where, char **type)
{
	char *rest = line, *word = *id = line;

	for (int i = 0; i < 5; i++)
		word = strsep(&rest, " ");
	*where = word;
	while (word && strcmp(word, "-") != 0)
		word = strsep(&rest, " ");
	*type = word ? strsep(&rest, " ") : NULL;
	return *where && *type;
}

uint64_t sf_mountpoint_type(char *mountinfo, const char *dir, char *type, size_t room)
{
	char *line, *id, *where, *found;
	uint64_t any = 0;

	while ((line = strsep(&mountinfo, "\n"))) {
		if (!parse_mount(line, &id, &where, &found))
			continue;
		unescape(where);
		if (strcmp(where, dir) != 0)
			continue;
		snprintf(type, room, "%s", found);
		any = strtoull(id, NULL, 10);
	}
	return any;
}

/* Whole; NULL: it cannot be read. */
static char *read_mountinfo(void)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *text = NULL;
	size_t room = 0;
	ssize_t n;

	if (!file)
		return NULL;
	n = getdelim(&text, &room, '\0', file);
	fclose(file);
	if (n > 0)
		return text;
	free(text);
	return NULL;
}

static bool is_ours(const char *dir)
{
	vs_autofree char *mountinfo = read_mountinfo();
	struct statx stx;
	char type[64];
	uint64_t id = mountinfo ? sf_mountpoint_type(mountinfo, dir, type, sizeof(type)) : 0;

	if (!id || strcmp(type, OURS) != 0)
		return false;
	/* another one further up may hide it; of one whose daemon is gone the kernel may not say */
	return statx(AT_FDCWD, dir, AT_STATX_DONT_SYNC, STATX_MNT_ID, &stx) < 0 || !(stx.stx_mask & STATX_MNT_ID) || stx.stx_mnt_id == id;
}

/* Of a mount whose daemon is gone the kernel may still know the attributes: it must ask. */
static int check_place(const char *given, const char *dir, struct vs_err *err)
{
	struct statx stx;
	bool ours = is_ours(dir);
	int rc = statx(AT_FDCWD, dir, AT_STATX_FORCE_SYNC, STATX_TYPE, &stx) < 0 ? -errno : 0;

	if (ours && (rc == -ENOTCONN || rc == -ECONNABORTED))
		return vs_err_set(err, -EBUSY, "mountpoint '%s': a virt-snapfs that has ended is still mounted there: unmount it first",
				  given);
	if (ours)
		return vs_err_set(err, -EBUSY, "mountpoint '%s': virt-snapfs is mounted there already", given);
	if (rc < 0)
		return vs_err_set(err, rc, "mountpoint '%s': %s", given, strerror(-rc));
	if (!S_ISDIR(stx.stx_mode))
		return vs_err_set(err, -ENOTDIR, "mountpoint '%s': not a directory", given);
	return 0;
}

/* ---------------------------------------------------------------- what is below it */

static bool is_below(const char *dir, const char *path)
{
	size_t len = strlen(dir);

	if (len == 1)
		return *path == '/';
	return !strncmp(path, dir, len) && (path[len] == '/' || !path[len]);
}

/* Who names a link needs the link's directory, too. */
bool sf_mountpoint_covers(const char *dir, const char *path)
{
	vs_autofree char *real = realpath(path, NULL), *parent = xstrdup(path), *real_parent = NULL;
	char *slash = strrchr(parent, '/');

	if (is_below(dir, real ? real : path))
		return true;
	if (!slash)
		return false;
	slash[slash == parent] = '\0';
	real_parent = realpath(parent, NULL);
	return is_below(dir, real_parent ? real_parent : parent);
}

static int hides(const char *given, const char *what, const char *path, struct vs_err *err)
{
	return vs_err_set(err, -EINVAL, "mountpoint '%s': a mount there would hide %s '%s'", given, what, path);
}

static int check_options(const struct sf_options *o, const char *dir, struct vs_err *err)
{
	for (size_t i = 0; i < o->n_images; i++)
		if (sf_mountpoint_covers(dir, o->images[i]))
			return hides(o->mountpoint, "the image", o->images[i], err);
	for (size_t i = 0; i < o->n_allow_paths; i++)
		if (sf_mountpoint_covers(dir, o->allow_paths[i]))
			return hides(o->mountpoint, "the directory", o->allow_paths[i], err);
	return 0;
}

/* What is not there cannot be hidden. */
static bool would_hide(const char *dir, const char *file)
{
	return sf_mountpoint_covers(dir, file) && access(file, F_OK) == 0;
}

/* The files of its disks, and of its snapshots'. */
static const char *hidden_file(const struct vm_domain *domain, const char *dir)
{
	for (size_t i = 0; i < domain->n_layers; i++)
		if (would_hide(dir, domain->layers[i].path))
			return domain->layers[i].path;
	for (size_t i = 0; i < domain->n_snapshots; i++) {
		const struct vm_snapshot *snapshot = &domain->snapshots[i];

		for (size_t k = 0; k < snapshot->n_disks; k++)
			for (char **file = snapshot->disks[k].chain; file && *file; file++)
				if (would_hide(dir, *file))
					return *file;
	}
	return NULL;
}

static int check_domains(const struct sf_fs *fs, const char *dir, struct vs_err *err)
{
	struct vm_inventory *inventory = vm_inventory_get(fs->vm);
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < inventory->n_domains; i++) {
		const char *file = hidden_file(inventory->domains[i], dir);

		if (file)
			rc = vs_err_set(err, -EINVAL, "mountpoint '%s': a mount there would hide the image '%s' of domain '%s'",
					fs->options->mountpoint, file, inventory->domains[i]->name);
	}
	vm_inventory_put(inventory);
	return rc;
}

int sf_mountpoint_check(const struct sf_fs *fs, char **resolved, struct vs_err *err)
{
	const char *given = fs->options->mountpoint;
	vs_autofree char *dir = realpath(given, NULL);
	int rc;

	if (!dir)
		return vs_err_set(err, -errno, "mountpoint '%s': %s", given, strerror(errno));
	rc = check_place(given, dir, err);
	if (rc == 0)
		rc = check_options(fs->options, dir, err);
	if (rc == 0)
		rc = check_domains(fs, dir, err);
	if (rc == 0)
		*resolved = vs_steal(dir);
	return rc;
}

/* ---------------------------------------------------------------- why not */

#define NAME "fusermount3: "

/* The last line of it that fusermount3 has said of itself. */
static char *own_words(char *said)
{
	char *line, *last = NULL;

	while ((line = strsep(&said, "\n")))
		if (!strncmp(line, NAME, strlen(NAME)))
			last = line + strlen(NAME);
	return last;
}

/* Its own rules have sentences of their own; this is what the kernel said to a mount that they allowed. */
static bool is_forbidden(const char *words)
{
	return !strncmp(words, "mount failed: ", 14) && (strstr(words, strerror(EACCES)) || strstr(words, strerror(EPERM)));
}

char *sf_mountpoint_why(char *said, bool confined)
{
	char *words = own_words(said);

	if (!words || !*words)
		return NULL;
	if (!confined || !is_forbidden(words))
		return xstrdup(words);
	return xasprintf("%s (probably AppArmor: its profile " PROFILE " lets ordinary users mount in few places, such as below "
			 "their home directory, /mnt, /media and /tmp)", words);
}
