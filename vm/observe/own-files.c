/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 *   /etc/libvirt/qemu/NAME.xml                          its definition
 *   /var/lib/libvirt/qemu/snapshot/NAME/SNAPSHOT.xml    its snapshots
 *   /var/lib/libvirt/qemu/checkpoint/NAME/POINT.xml     its checkpoints
 *   /var/lib/libvirt/qemu/save/NAME.save                its managed save
 *
 * libvirt calls a snapshot's file as the snapshot. A record is written in a temporary file and renamed, one that goes is unlinked, and which one is
 * current stands in the records: whatever changes, the directory's time does.
 */
#include "vm/observe/own-files.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"
#include "vm/util/strmap.h"

#define SETTLED_NS (2 * VM_NS_PER_S) /* libvirt writes first and says so then, or the other way round, within milliseconds */
#define CONFIG_MAX ((size_t)1 << 20)
#define SUFFIX ".xml"

void vm_own_dirs_fini(struct vm_own_dirs *dirs)
{
	free(dirs->config);
	free(dirs->state);
	*dirs = (struct vm_own_dirs){0};
}

void vm_own_dirs_set(struct vm_own_dirs *dirs, const char *uri)
{
	const unsigned checkpoints = dirs->checkpoints.age, saves = dirs->saves.age;

	vm_own_dirs_fini(dirs);
	dirs->checkpoints.age = checkpoints; /* nothing that was found with another connection is found in the age that begins */
	dirs->saves.age = saves;
	if (!uri || strcmp(uri, "qemu:///system") != 0)
		return;
	dirs->config = xstrdup("/etc/libvirt/qemu");
	dirs->state = xstrdup("/var/lib/libvirt/qemu");
}

/* 1, or 0: there is none. Negative errno: nobody can tell. */
static int stamp_of(const char *path, struct vm_own_stamp *out)
{
	struct stat st;

	*out = (struct vm_own_stamp){0};
	if (stat(path, &st))
		return errno == ENOENT ? 0 : -errno;
	*out = (struct vm_own_stamp){ st.st_dev, st.st_ino, vm_timespec_ns(st.st_mtim), vm_timespec_ns(st.st_ctim) };
	return 1;
}

static bool settled(const struct vm_own_stamp *s, int64_t now_ns)
{
	return s->mtime_ns + SETTLED_NS < now_ns && s->ctime_ns + SETTLED_NS < now_ns;
}

static bool same_stamp(const struct vm_own_stamp *a, const struct vm_own_stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

static void look_at_parent(const char *path, int64_t now_ns, struct vm_own_parent *p)
{
	struct vm_own_stamp now;
	bool there = stamp_of(path, &now) == 1;

	p->age += !there || !p->settled || !same_stamp(&p->stamp, &now);
	p->stamp = now;
	p->settled = there && settled(&now, now_ns);
}

void vm_own_dirs_look(struct vm_own_dirs *dirs, int64_t now_ns)
{
	vs_autofree char *checkpoints = dirs->state ? xasprintf("%s/checkpoint", dirs->state) : NULL;
	vs_autofree char *saves = dirs->state ? xasprintf("%s/save", dirs->state) : NULL;

	if (!dirs->state)
		return;
	look_at_parent(checkpoints, now_ns, &dirs->checkpoints);
	look_at_parent(saves, now_ns, &dirs->saves);
}

/* Not asked where it was found in this age of its directory that there is none. As stamp_of(). */
static int look_below(const struct vm_own_parent *parent, const char *path, unsigned none_before, struct vm_own_stamp *out, unsigned *none)
{
	int r = 0;

	*out = (struct vm_own_stamp){0};
	if (!none_before || none_before != parent->age)
		r = stamp_of(path, out);
	*none = r == 0 ? parent->age : 0;
	return r;
}

void vm_own_files_look(const struct vm_own_dirs *dirs, const char *name, int64_t now_ns, const struct vm_own_files *before, struct vm_own_files *out)
{
	char path[PATH_MAX];
	struct vm_own_stamp saved;
	int checkpoints, save;

	*out = (struct vm_own_files){ .known = false };
	if (!dirs->config || strchr(name, '/') || strlen(name) > NAME_MAX)
		return;
	snprintf(path, sizeof(path), "%s/%s.xml", dirs->config, name);
	out->known = stamp_of(path, &out->config) == 1;
	snprintf(path, sizeof(path), "%s/snapshot/%s", dirs->state, name);
	out->known &= stamp_of(path, &out->snapshots) >= 0;
	snprintf(path, sizeof(path), "%s/checkpoint/%s", dirs->state, name);
	checkpoints = look_below(&dirs->checkpoints, path, before ? before->no_checkpoints : 0, &out->checkpoints, &out->no_checkpoints);
	snprintf(path, sizeof(path), "%s/save/%s.save", dirs->state, name);
	save = look_below(&dirs->saves, path, before ? before->no_save : 0, &saved, &out->no_save);
	out->known &= checkpoints >= 0 && save == 0;
	out->settled = settled(&out->config, now_ns) && settled(&out->snapshots, now_ns) && settled(&out->checkpoints, now_ns);
}

bool vm_own_files_same(const struct vm_own_files *a, const struct vm_own_files *b)
{
	return a->known && b->known && same_stamp(&a->config, &b->config) && same_stamp(&a->snapshots, &b->snapshots) &&
	       same_stamp(&a->checkpoints, &b->checkpoints);
}

/* ---------------------------------------------------------------- whose they are */

static bool same_files(const struct vm_xml_domain *a, const struct vm_xml_domain *b)
{
	if (a->n_files != b->n_files || a->n_disks != b->n_disks)
		return false;
	for (size_t i = 0; i < a->n_files; i++)
		if (strcmp(a->files[i].path, b->files[i].path) != 0)
			return false;
	return vm_same_text(a->nvram, b->nvram) && vm_same_text(a->loader, b->loader);
}

/* Does the definition name the files that libvirt says? One that was written by others counts once libvirt has read it, which leaves no trace here. */
static bool is_as_said(const char *path, const char *uuid, const struct vm_xml_domain *said)
{
	vs_autofree char *wanted = xasprintf("<uuid>%s</uuid>", uuid);
	vs_autofree char *text = xcalloc(CONFIG_MAX + 1, 1);
	FILE *f = fopen(path, "re");
	size_t len = f ? fread(text, 1, CONFIG_MAX, f) : 0;
	struct vm_xml_domain *written = NULL;
	bool same = false;

	if (f)
		fclose(f);
	if (len && len < CONFIG_MAX && strstr(text, wanted) && !vm_xml_domain_parse(text, &written, NULL))
		same = same_files(written, said);
	vm_xml_domain_free(written);
	return same;
}

/* How many records lie in it; -1: something else does, too, or it cannot be listed. One that is not there has none. */
static long count_records(const char *path, const struct vm_strmap *names)
{
	DIR *stream = opendir(path);
	struct dirent *entry;
	long n = 0;

	if (!stream)
		return access(path, F_OK) ? 0 : -1;
	while (n >= 0 && (entry = readdir(stream))) {
		size_t len = strlen(entry->d_name), tail = strlen(SUFFIX);
		vs_autofree char *name = len > tail && !strcmp(entry->d_name + len - tail, SUFFIX) ? xstrndup(entry->d_name, len - tail) : NULL;

		if (name)
			n = vm_strmap_get(names, name) ? n + 1 : -1;
	}
	closedir(stream);
	return n;
}

bool vm_own_files_say(const struct vm_own_dirs *dirs, const char *name, const char *uuid, const struct vm_xml_domain *said,
		      const char *const *snapshots, size_t n)
{
	vs_autofree char *config = xasprintf("%s/%s.xml", dirs->config, name);
	vs_autofree char *records = xasprintf("%s/snapshot/%s", dirs->state, name);
	struct vm_strmap names = {0};
	bool same;

	for (size_t i = 0; i < n; i++)
		vm_strmap_put(&names, snapshots[i], (void *)snapshots);
	same = is_as_said(config, uuid, said) && count_records(records, &names) == (long)n;
	vm_strmap_clear(&names, NULL);
	return same;
}
