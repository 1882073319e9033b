/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The files that we make ourselves: overlays of shut-off domains. libvirt before 11.10 would make them readable for everybody,
 * so they are made here, empty and 0600 before qemu-img fills them, with the owner of the image that they stand on (where
 * libvirt does not change owners at the start, QEMU's user must be able to open them). Backing path and format are absolute
 * and explicit, so nothing is ever probed. They are on disk before any record names them.
 *
 * Also for a running domain, where libvirt fills them, the empty files are ours: so that what the caller removes, should it come to
 * nothing, is the very file that we made, and never what somebody else has put there meanwhile. A file gets its name only when the
 * caller has noted which one it is (O_TMPFILE, where the file system has that). Nothing that is there is ever replaced or removed here.
 */
#include "vm/libvirt/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/libvirt/dom.h"
#include "vm/libvirt/qemu-img.h"
#include "vm/util/fault.h"
#include "vm/util/mem.h"
#include "vm/util/sync.h"
#include "vm/util/utf8.h"

#define NAME_PART_MAX 100 /* bytes of the snapshot's name in a file name */
#define STEM_MAX 130
#define ATTEMPTS 1000

/* ---------------------------------------------------------------- names */

static bool harmless(const char *p, size_t len)
{
	return len > 1 || (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
	       strchr("._-+", *p);
}

/* Of a snapshot's name, in place of what could mean something to somebody: `_`. @out has room for NAME_PART_MAX + 1. */
static void safe_part(const char *name, char *out)
{
	size_t room = strlen(name), used = 0, len;

	for (; room; name += len, room -= len) {
		size_t got = vm_utf8_len(name, room);
		bool keep = got && harmless(name, got);

		len = got ? got : 1;
		if (used + (keep ? len : 1) > NAME_PART_MAX)
			break;
		memcpy(out + used, keep ? name : "_", keep ? len : 1);
		used += keep ? len : 1;
	}
	out[used] = '\0';
}

static bool strip(char *stem, const char *end)
{
	size_t len = strlen(stem), n = strlen(end);

	if (len <= n || strcmp(stem + len - n, end) != 0)
		return false;
	stem[len - n] = '\0';
	return true;
}

static void strip_extension(char *stem)
{
	static const char *const known[] = {".qcow2", ".qcow", ".img", ".raw", ".qed", ".vmdk"};

	for (size_t i = 0; i < VS_ARRAY_LEN(known); i++)
		if (strip(stem, known[i]))
			return;
}

/* "-2", which an attempt has added. */
static void strip_attempt(char *stem)
{
	char *dash = strrchr(stem, '-');

	if (dash && dash != stem && dash[1] && strspn(dash + 1, "0123456789") == strlen(dash + 1))
		*dash = '\0';
}

/* ".monday", if there is a snapshot called monday, or libvirt's own naming after it. */
static void strip_snapshot(char *stem, char **snapshots, size_t n)
{
	vs_autofree char *bare = xstrdup(stem);
	char end[NAME_PART_MAX + 2] = ".";

	strip_attempt(bare);
	for (size_t i = 0; i < n; i++) {
		safe_part(snapshots[i], end + 1);
		if (strip(stem, end))
			return;
		if (strip(bare, end)) {
			strcpy(stem, bare);
			return;
		}
	}
}

char *vm_overlay_path(const char *source, char **snapshots, size_t n_snapshots, const char *snapshot, unsigned attempt)
{
	const char *slash = strrchr(source, '/'), *base = slash ? slash + 1 : source;
	vs_autofree char *stem = xstrdup(base);
	char part[NAME_PART_MAX + 1], number[16] = "";

	strip_extension(stem);
	strip_snapshot(stem, snapshots, n_snapshots);
	stem[vm_utf8_fit(stem, strlen(stem), STEM_MAX)] = '\0';
	safe_part(snapshot, part);
	if (attempt > 1)
		snprintf(number, sizeof(number), "-%u", attempt);
	return xasprintf("%.*s%s.%s%s.qcow2", (int)(base - source), source, stem, part, number);
}

char *vm_overlay_copy_path(const char *source, const char *snapshot, unsigned attempt)
{
	const char *slash = strrchr(source, '/'), *base = slash ? slash + 1 : source;
	char part[NAME_PART_MAX + 1], number[16] = "";

	safe_part(snapshot, part);
	if (attempt > 1)
		snprintf(number, sizeof(number), "-%u", attempt);
	return xasprintf("%.*s%.*s.%s%s", (int)(base - source), source, (int)vm_utf8_fit(base, strlen(base), STEM_MAX), base, part, number);
}

int vm_overlay_names(virDomainPtr dom, char ***names, size_t *n_out, struct vs_err *err)
{
	virDomainSnapshotPtr *list;
	int n = virDomainListAllSnapshots(dom, &list, 0);

	if (n < 0)
		return vm_dom_virterr(dom, err, "the snapshots of the domain");
	*names = xcalloc((size_t)n, sizeof(**names));
	*n_out = (size_t)n;
	for (int i = 0; i < n; i++) {
		(*names)[i] = xstrdup(virDomainSnapshotGetName(list[i]));
		virDomainSnapshotFree(list[i]);
	}
	free(list);
	return 0;
}

void vm_overlay_names_free(char **names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

/* ---------------------------------------------------------------- plans */

void vm_overlay_plan_fini(struct vm_overlay_plan *plan)
{
	for (size_t i = 0; i < plan->n_overlays; i++) {
		free(plan->overlays[i].target);
		free(plan->overlays[i].below);
		free(plan->overlays[i].path);
	}
	free(plan->overlays);
	*plan = (struct vm_overlay_plan){0};
}

static bool planned(const struct vm_overlay_plan *plan, const char *path)
{
	for (size_t i = 0; i < plan->n_overlays; i++)
		if (!strcmp(plan->overlays[i].path, path))
			return true;
	return false;
}

/* The first path that nobody has, or will have. */
static int find_path(const struct vm_overlay_plan *plan, const struct vm_overlay_naming *naming, char **path,
		     struct vs_err *err)
{
	for (unsigned attempt = 1; attempt <= ATTEMPTS; attempt++) {
		vs_autofree char *text = vm_overlay_path(naming->beside, naming->names, naming->n_names, naming->snapshot, attempt);
		struct stat st;
		bool there = lstat(text, &st) == 0 || errno != ENOENT;

		if (planned(plan, text) || (there && !(naming->left_over && naming->left_over(naming->opaque, text))) ||
		    (!there && naming->taken && naming->taken(naming->opaque, text)))
			continue;
		*path = vs_steal(text);
		return 0;
	}
	return vs_err_set(err, -EEXIST, "no free name for an overlay of snapshot '%s' beside '%s'", naming->snapshot,
			  naming->beside);
}

int vm_overlay_plan_add(struct vm_overlay_plan *plan, const struct vm_overlay_naming *naming, const char *target,
			const char *below, enum q2_format format, struct vs_err *err)
{
	struct vm_overlay made = { .format = format };
	struct stat st;
	int r = find_path(plan, naming, &made.path, err);

	if (r < 0)
		return r;
	made.target = xstrdup(target);
	made.below = xstrdup(below);
	if (stat(below, &st) == 0) {
		made.below_dev = st.st_dev;
		made.below_ino = st.st_ino;
	}
	plan->overlays = xreallocarray(plan->overlays, plan->n_overlays + 1, sizeof(made));
	plan->overlays[plan->n_overlays++] = made;
	return 0;
}

/* ---------------------------------------------------------------- files */

static int open_error(const char *path, struct vs_err *err)
{
	return vs_err_set(err, -errno, "'%s' cannot be made: %s", path, strerror(errno));
}

struct maker {
	int (*making)(void *opaque, const char *path, int fd, struct vs_err *err);
	void *opaque;
	bool empty;
};

/* Without a name, in the directory where it is to get one. -1: the file system has no such files. */
static int open_nameless(const char *path)
{
	vs_autofree char *dir = xstrndup(path, (size_t)(strrchr(path, '/') - path) + 1);

	return open(dir, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
}

static int give_name(int fd, const char *path)
{
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}

/* Is what lies there the file that we made? */
static bool is_ours(const struct vm_overlay *o)
{
	struct stat st;

	return o->ino && lstat(o->path, &st) == 0 && st.st_dev == o->dev && st.st_ino == o->ino;
}

/* Owners are only changed by those who may, and libvirt may see to it anyway: no failure. */
static int make_empty(struct vm_overlay *o, const struct maker *maker, struct vs_err *err)
{
	vs_autoclose int fd = -1;
	struct stat below, st;
	bool nameless;
	int r;

	if (stat(o->below, &below) < 0)
		return vs_err_set(err, -errno, "'%s': %s", o->below, strerror(errno));
	fd = open_nameless(o->path);
	nameless = fd >= 0;
	if (!nameless)
		fd = open(o->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return open_error(o->path, err);
	if (fchown(fd, below.st_uid, below.st_gid) < 0)
		errno = 0;
	o->dev = st.st_dev;
	o->ino = st.st_ino;
	r = maker->making ? maker->making(maker->opaque, o->path, fd, err) : 0;
	if (r < 0 && !nameless && is_ours(o))
		unlink(o->path); /* it was made a moment ago, and not in place of another */
	if (r < 0)
		return r;
	vm_fault();
	if (nameless && give_name(fd, o->path) < 0)
		return open_error(o->path, err);
	return 0;
}

int vm_overlay_make_copy(const char *source, const char *path, int (*making)(void *opaque, const char *path, int fd, struct vs_err *err),
			 void *opaque, uint64_t *dev, uint64_t *ino, struct vs_err *err)
{
	const struct maker maker = { .making = making, .opaque = opaque, .empty = true };
	struct vm_overlay o = { .below = (char *)source, .path = (char *)path };
	int r = make_empty(&o, &maker, err);

	*dev = o.dev;
	*ino = o.ino;
	return r;
}

static int sync_overlay(const char *path, struct vs_err *err)
{
	int r = vm_sync(path);

	if (r == 0)
		r = vm_sync_parent(path);
	return r < 0 ? vs_err_set(err, r, "overlay '%s': %s", path, strerror(-r)) : 0;
}

/* How large it is to be: as what it stands on, in whole sectors. */
static int size_of(const struct vm_overlay *o, uint64_t *size, struct vs_err *err)
{
	struct q2_info *info = NULL;
	struct q2_file *f;
	int r = q2_file_open(o->below, &f, err);

	if (r < 0)
		return r;
	r = q2_info_read(f, o->format, &info, err);
	q2_file_close(f);
	if (r < 0)
		return r;
	*size = (info->size + 511) & ~UINT64_C(511);
	q2_info_free(info);
	return 0;
}

/* qemu-img is told the size, so that it does not open what the image below names in turn, which no gate may have let pass. */
static int make(struct vm_overlay *o, const struct maker *maker, struct vs_err *err)
{
	char text[24];
	const char *argv[] = {"qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", o->below, "-F", q2_format_name(o->format), o->path, text, NULL};
	uint64_t size = 0;
	int r = maker->empty ? 0 : size_of(o, &size, err);

	if (r == 0)
		r = make_empty(o, maker, err);
	if (r < 0 || maker->empty)
		return r;
	snprintf(text, sizeof(text), "%" PRIu64, size);
	vm_fault();
	r = vm_qemu_img_run(argv, err);
	if (r == 0)
		r = sync_overlay(o->path, err);
	if (r == 0 && !is_ours(o))
		r = vs_err_set(err, -EEXIST, "overlay '%s': another file has been put there meanwhile", o->path);
	vm_fault();
	return r;
}

int vm_overlay_make_all(struct vm_overlay_plan *plan, bool empty, int (*making)(void *opaque, const char *path, int fd,
										struct vs_err *err),
			void *opaque, struct vm_dom_watch *watch, struct vs_err *err)
{
	const struct maker maker = { .making = making, .opaque = opaque, .empty = empty };
	int r = 0;

	for (size_t i = 0; r == 0 && i < plan->n_overlays; i++) {
		vm_dom_step(watch, "create overlay '%s'", plan->overlays[i].path);
		r = vm_dom_cancelled(watch) ? vs_err_set(err, -ECANCELED, "cancelled") : make(&plan->overlays[i], &maker, err);
	}
	return r;
}

int vm_overlay_rebase(const struct vm_overlay *o, const char *below, enum q2_format format, struct vs_err *err)
{
	const char *argv[] = {"qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", q2_format_name(format), "-b", below, o->path, NULL};
	int r = vm_qemu_img_run(argv, err);

	return r < 0 ? r : sync_overlay(o->path, err);
}
