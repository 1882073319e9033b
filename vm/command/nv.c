/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * These files are small, and what matters is that they are whole: so they are read at once, and where a running guest writes meanwhile they
 * are read again until they hold still, after the disks were frozen. QEMU writes variables through, and swtpm puts its state in place of the
 * old one, so what is read when nobody writes is what a guest would have found after a power cut in that moment.
 *
 * A snapshot with memory needs no putting back: QEMU writes the variables that it finds in the memory into the file, and hands the TPM its state.
 */
#include "vm/command/nv.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "vm/command/effects.h"
#include "vm/libvirt/overlay.h"
#include "vm/observe/sum.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"
#include "vm/util/sync.h"

#define PIECE ((size_t)64 << 10)
#define ATTEMPTS 1000
#define ROUNDS 5           /* of reading what is being written */

void vm_nv_plan_fini(struct vm_nv_plan *plan)
{
	vm_nv_files_fini(&plan->files);
	for (size_t i = 0; i < VM_NV_MAX; i++) {
		free(plan->copies[i].path);
		free(plan->copies[i].data);
	}
	*plan = (struct vm_nv_plan){0};
}

/* ---------------------------------------------------------------- files */

static int fail(const char *path, struct vs_err *err)
{
	return vs_err_set(err, -errno, "'%s': %s", path, strerror(errno));
}

/* The whole of a regular file. Gives *data. */
static int read_whole(const char *path, char **data, size_t *len, struct vs_err *err)
{
	vs_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	vs_autofree char *buffer = NULL;
	size_t done = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fail(path, err);
	if (!S_ISREG(st.st_mode))
		return vs_err_set(err, -EOPNOTSUPP, "'%s' is no regular file", path);
	if ((uint64_t)st.st_size > VM_SUM_MAX)
		return vs_err_set(err, -EFBIG, "'%s' is larger than %llu MiB", path, (unsigned long long)VM_SUM_MAX >> 20);
	buffer = xcalloc((size_t)st.st_size + 1, 1);
	while (done < (size_t)st.st_size) {
		ssize_t n = pread(fd, buffer + done, (size_t)st.st_size - done, (off_t)done);

		if (n < 0)
			return fail(path, err);
		if (n == 0)
			break;
		done += (size_t)n;
	}
	*data = vs_steal(buffer);
	*len = done;
	return 0;
}

static bool is_zero(const char *data, size_t len)
{
	return !data[0] && !memcmp(data, data + 1, len - 1);
}

/* Zeros stay holes. On disk when this returns 0. */
static int fill(int fd, const char *path, const char *data, size_t len, struct vs_err *err)
{
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)len) < 0)
		return fail(path, err);
	for (size_t off = 0, n; off < len; off += n) {
		n = len - off < PIECE ? len - off : PIECE;
		for (size_t done = 0; done < n && !is_zero(data + off, n);) {
			ssize_t some = pwrite(fd, data + off + done, n - done, (off_t)(off + done));

			if (some <= 0)
				return fail(path, err);
			done += (size_t)some;
		}
	}
	return fsync(fd) < 0 ? fail(path, err) : 0;
}

/* ---------------------------------------------------------------- with a snapshot */

static int find_path(const struct vm_context *cx, const char *source, const char *name, char **path, struct vs_err *err)
{
	for (unsigned attempt = 1; attempt <= ATTEMPTS; attempt++) {
		vs_autofree char *text = vm_overlay_copy_path(source, name, attempt);
		struct stat st;

		if (lstat(text, &st) == 0 || errno != ENOENT || vm_context_names((void *)cx, text))
			continue;
		*path = vs_steal(text);
		return 0;
	}
	return vs_err_set(err, -EEXIST, "no free name for a copy beside '%s'", source);
}

/* NULL: it is part of the snapshot. */
static const char *why_not(const struct vm_context *cx, const struct vm_nv_file *file, int error, const struct stat *st)
{
	if (!file->path)
		return file->why;
	if (error == ENOENT)
		return "there are none yet";
	if (error == 0 && !S_ISREG(st->st_mode))
		return "they are in no regular file";
	if (error == 0 && (uint64_t)st->st_size > VM_SUM_MAX)
		return "they are larger than 64 MiB";
	if (file->format != Q2_FORMAT_RAW && cx->running)
		return "they are in an image that the running guest has open; of a domain that is shut off they would be";
	return NULL;
}

static int plan_one(struct vm_context *cx, const char *name, const struct vm_nv_file *file, char **path, struct vs_err *err)
{
	struct stat st = {0};
	int error = file->path && stat(file->path, &st) < 0 ? errno : 0, r;
	const char *why = why_not(cx, file, error, &st);

	if (why) {
		vm_context_say(cx, "its %s %s not part of it: %s", file->phrase, cx->try_only ? "would be" : "are", why);
		return 0;
	}
	if (error || access(file->path, R_OK) < 0)
		return vs_err_set(err, -(error ? error : errno), "its %s, which are part of a snapshot, cannot be read: '%s': %s", file->phrase,
				  file->path, strerror(error ? error : errno));
	r = find_path(cx, file->path, name, path, err);
	if (r == 0)
		vm_context_say(cx, "%s its %s to '%s'", cx->try_only ? "would copy" : "copied", file->phrase, vm_context_file(cx, *path));
	return r;
}

int vm_nv_plan(struct vm_context *cx, const char *name, enum vm_kind kind, struct vm_nv_plan *plan, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *xml = NULL;
	int r = vm_dom_xml(cx->dom, cx->running ? 0 : VIR_DOMAIN_XML_INACTIVE, &xml, err);

	if (r < 0)
		return r;
	vm_nv_files(cx->dom, xml, &plan->files);
	for (size_t i = 0; r == 0 && i < plan->files.n; i++) {
		const struct vm_nv_file *file = &plan->files.v[i];

		if (kind == VM_EXTERNAL || file->format == Q2_FORMAT_RAW) /* else libvirt has it in the internal snapshot, or takes none */
			r = plan_one(cx, name, file, &plan->copies[i].path, err);
	}
	return r;
}

/* Which file it is was noted when it was made. */
static int write_copy(const struct vm_nv_copy *copy, struct vs_err *err)
{
	vs_autoclose int fd = open(copy->path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return fail(copy->path, err);
	if (st.st_dev != copy->dev || st.st_ino != copy->ino)
		return vs_err_set(err, -EEXIST, "'%s': another file has been put there meanwhile", copy->path);
	return fill(fd, copy->path, copy->data, copy->len, err);
}

/* "WHAT\nPATH\nNAME": a whole copy, for the snapshot NAME, should it be taken. */
static int journal_copy(struct vm_context *cx, const char *name, const char *what, const char *path, struct vs_err *err)
{
	vs_autofree char *text = xasprintf("%s\n%s\n%s", what, path, name);

	return vm_journal_add(&cx->journal, "nv", text, err);
}

int vm_nv_copy(struct vm_context *cx, const char *name, struct vm_nv_plan *plan, vm_nv_making making, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < plan->files.n; i++) {
		struct vm_nv_copy *copy = &plan->copies[i];

		if (!copy->path)
			continue;
		r = read_whole(plan->files.v[i].path, &copy->data, &copy->len, err);
		if (r == 0)
			r = vm_overlay_make_copy(plan->files.v[i].path, copy->path, making, cx, &copy->dev, &copy->ino, err);
		if (r == 0)
			r = write_copy(copy, err);
		if (r == 0)
			r = journal_copy(cx, name, plan->files.v[i].what, copy->path, err);
		vm_fault();
	}
	return r;
}

/* 1: it was written to meanwhile. */
static int copy_again(const char *source, struct vm_nv_copy *copy, struct vs_err *err)
{
	vs_autofree char *data = NULL;
	size_t len;
	int r = read_whole(source, &data, &len, err);

	if (r < 0 || (len == copy->len && !memcmp(data, copy->data, len)))
		return r;
	free(copy->data);
	copy->data = vs_steal(data);
	copy->len = len;
	r = write_copy(copy, err);
	return r < 0 ? r : 1;
}

/* As it is. -errno: it is not there. */
static int note_copy(struct vm_context *cx, const struct vm_meta_id *id, const char *what, const char *path)
{
	struct vm_meta_nv nv = { .what = (char *)what, .path = (char *)path };
	struct vm_sum_file is;
	struct stat st;

	if (lstat(path, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	is = (struct vm_sum_file){ .ino = st.st_ino, .size = (uint64_t)st.st_size, .mtime_ns = vm_timespec_ns(st.st_mtim) };
	nv.ino = is.ino;
	nv.size = is.size;
	nv.mtime_ns = is.mtime_ns;
	nv.sum = vm_sum(path, &is, Q2_FORMAT_RAW);
	vm_meta_set_nv(cx->meta, id, &nv);
	return 0;
}

static int note_one(struct vm_context *cx, const struct vm_nv_file *file, struct vm_nv_copy *copy, const struct vm_meta_id *id, struct vs_err *err)
{
	int r = 1;

	for (int round = 0; r == 1 && round < ROUNDS; round++)
		r = copy_again(file->path, copy, err);
	if (r < 0)
		return r;
	if (r == 1)
		vm_context_say(cx, "its %s were being written all the while", file->phrase);
	r = vm_sync_parent(copy->path);
	if (r < 0)
		return vs_err_set(err, r, "the directory of '%s': %s", copy->path, strerror(-r));
	r = note_copy(cx, id, file->what, copy->path);
	return r < 0 ? vs_err_set(err, r, "'%s': %s", copy->path, strerror(-r)) : 0;
}

int vm_nv_note(struct vm_context *cx, struct vm_nv_plan *plan, const struct vm_meta_id *id, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < plan->files.n; i++)
		if (plan->copies[i].path)
			r = note_one(cx, &plan->files.v[i], &plan->copies[i], id, err);
	return r;
}

/* ---------------------------------------------------------------- copies of an interrupted create */

/* Of a line of journal_copy(). False: it is none. */
static bool parse_copy(const char *text, char **what, char **path, const char **name)
{
	const char *first = strchr(text, '\n'), *second = first ? strchr(first + 1, '\n') : NULL;

	if (!second)
		return false;
	*what = xstrndup(text, (size_t)(first - text));
	*path = xstrndup(first + 1, (size_t)(second - first) - 1);
	*name = second + 1;
	return true;
}

struct asked {
	struct vm_context *cx;
	const struct vm_meta_id *id;
	const char *path;
	bool found;
};

static bool adopt_copy(const char *text, void *opaque)
{
	struct asked *asked = opaque;
	vs_autofree char *what = NULL, *path = NULL;
	const char *name;

	if (!parse_copy(text, &what, &path, &name) || strcmp(name, asked->id->name) != 0)
		return false;
	if (note_copy(asked->cx, asked->id, what, path) == 0)
		vm_log(asked->cx->log, "'%s' was copied for '%s' by an interrupted create, and is its", path, name);
	return true;
}

void vm_nv_adopt(struct vm_context *cx, const struct vm_meta_id *id)
{
	vm_journal_each(&cx->journal, "nv", adopt_copy, &(struct asked){ .cx = cx, .id = id });
}

static bool is_awaited(const char *text, void *opaque)
{
	struct asked *asked = opaque;
	vs_autofree char *what = NULL, *path = NULL;
	const char *name;

	asked->found |= parse_copy(text, &what, &path, &name) && !strcmp(path, asked->path) && vm_context_record(asked->cx, name);
	return true;
}

bool vm_nv_is_awaited(const struct vm_context *cx, const char *path)
{
	struct asked asked = { .cx = (struct vm_context *)cx, .path = path };

	vm_journal_each(&cx->journal, "nv", is_awaited, &asked);
	return asked.found;
}

static bool copy_is_over(const char *text, void *opaque)
{
	struct vm_context *cx = opaque;
	vs_autofree char *what = NULL, *path = NULL;
	const char *name;
	struct stat st;

	return !parse_copy(text, &what, &path, &name) || (lstat(path, &st) < 0 && errno == ENOENT) || vm_meta_has_nv(cx->meta, path, st.st_ino);
}

void vm_nv_settle(struct vm_context *cx)
{
	vm_journal_settle(&cx->journal, "nv", copy_is_over, cx);
}

/* ---------------------------------------------------------------- who has a file */

static bool is_file(const char *path, const struct stat *st)
{
	struct stat other;

	return stat(path, &other) == 0 && other.st_dev == st->st_dev && other.st_ino == st->st_ino;
}

/* @own: of this domain, whose own staged copy may have been put there just now, and is no image. */
static bool is_image_at(const struct vm_layer *l, const struct stat *st, bool own)
{
	if (l->beside || l->stamp.dev != st->st_dev || l->stamp.ino != st->st_ino)
		return false;
	return !own || l->active || (l->snapshots && l->snapshots[0]);
}

/* Somebody to whom that very file is an image or variables; where it is to be @overwritten not this domain's variables. Gives; NULL: nobody. */
static char *used_by(const struct vm_context *cx, const char *path, bool overwritten)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return NULL;
	for (size_t i = 0; i < cx->inv->n_domains; i++) {
		const struct vm_domain *d = cx->inv->domains[i];

		for (char **nv = d->nv_paths; nv && *nv; nv++)
			if (!(overwritten && d == cx->d) && is_file(*nv, &st))
				return xasprintf("domain '%s' (its firmware variables)", d->dir);
		for (size_t k = 0; k < d->n_layers; k++)
			if (is_image_at(&d->layers[k], &st, overwritten && d == cx->d))
				return xasprintf("domain '%s'", d->dir);
	}
	return NULL;
}

/* ---------------------------------------------------------------- revert */

/* What the domain will have with that snapshot's definition. */
static int list_files(const struct vm_context *cx, const char *name, struct vm_nv_files *files, struct vs_err *err)
{
	const struct vm_context_record *record = vm_context_record(cx, name);
	vm_dom_autodomain struct vm_xml_domain *xml = NULL;
	int r = 0;

	if (record && record->xml->domain) {
		vm_nv_files(cx->dom, record->xml->domain, files);
		return 0;
	}
	r = vm_dom_xml(cx->dom, VIR_DOMAIN_XML_INACTIVE, &xml, err);
	if (r == 0)
		vm_nv_files(cx->dom, xml, files);
	return r;
}

/* Is the copy there, and what it was? Backups have other inode numbers and may have other times. */
static bool is_whole(const struct vm_meta_nv *nv)
{
	struct vm_sum_file is;
	struct stat st;

	if (!nv || stat(nv->path, &st) < 0 || (uint64_t)st.st_size != nv->size)
		return false;
	is = (struct vm_sum_file){ .ino = st.st_ino, .size = (uint64_t)st.st_size, .mtime_ns = vm_timespec_ns(st.st_mtim) };
	return nv->sum && vm_sum(nv->path, &is, Q2_FORMAT_RAW) == nv->sum;
}

/* Since the snapshot was taken: is it the same file, and did nobody write to it? Who moves an old file there changes no time but the inode's;
 * so does libvirt, where it gives the files of a guest that starts another owner: then nobody can tell. Nor whether there was one, where there
 * is none. */
enum since { UNTOUCHED, PERHAPS, WRITTEN };

static enum since since(const struct vm_nv_file *file, const struct vm_meta_id *id)
{
	struct stat st;

	if (!file->path)
		return PERHAPS;
	if (stat(file->path, &st) < 0)
		return PERHAPS;
	if (vm_timespec_ns(st.st_mtim) >= id->created_ns)
		return WRITTEN;
	return vm_timespec_ns(st.st_ctim) < id->created_ns ? UNTOUCHED : PERHAPS;
}

/* libvirt has it in the snapshot itself. */
static bool is_inside(const struct vm_nv_file *file, const struct vm_meta_id *id)
{
	return id->kind == VM_INTERNAL && file->format == Q2_FORMAT_QCOW2;
}

/* What becomes of it with that snapshot. */
enum fate { STAYS, UNCHANGED, COMES_BACK };

static enum fate fate_of(const struct vm_nv_file *file, const struct vm_meta_nv *nv, const struct vm_meta_id *id)
{
	if (is_inside(file, id) || (!nv && since(file, id) == UNTOUCHED))
		return UNCHANGED;
	return file->path && is_whole(nv) ? COMES_BACK : STAYS;
}

#define ROOM_LEAST (64 << 10)

static bool is_fixed(const char *path, uint64_t attributes)
{
	struct statx stx;

	return statx(AT_FDCWD, path, AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS, &stx) == 0 && (stx.stx_attributes & attributes);
}

/* Who else than the domain has it. Gives; NULL: nobody. */
static char *held_by_another(const struct vm_context *cx, const struct vm_nv_file *file)
{
	int layer = vm_context_layer(cx, file->path), above = -1;
	const struct vm_layer *l = layer < 0 ? NULL : &cx->d->layers[layer];
	char *user = used_by(cx, file->path, true);

	if (!user && l && l->users && l->users[0])
		user = xstrdup(l->users[0]);
	if (!user && l && vm_context_above(cx, layer, &above))
		user = xasprintf("'%s'", cx->d->layers[above].path);
	return user;
}

/* It has the file now, too, whoever else does. */
static bool is_its_own(const struct vm_context *cx, const struct vm_nv_file *file)
{
	struct stat st;

	for (char **nv = cx->d->nv_paths; nv && *nv && stat(file->path, &st) == 0; nv++)
		if (is_file(*nv, &st))
			return true;
	return false;
}

/* The domain will have it again: two that write to one file lose what the other one wrote. */
static int check_comes_back(const struct vm_context *cx, const struct vm_nv_file *file, struct vs_err *err)
{
	vs_autofree char *user = file->path && !is_its_own(cx, file) ? held_by_another(cx, file) : NULL;

	if (!user)
		return 0;
	return vs_err_set(err, -EPERM, "with the snapshot's definition its %s would be '%s', which %s has by now: give that another file first",
			  file->phrase, file->path, user);
}

/* Can it be put there? */
static int check_target(const struct vm_context *cx, const struct vm_nv_file *file, const struct vm_meta_nv *nv, struct vs_err *err)
{
	vs_autofree char *user = held_by_another(cx, file), *dir = xstrndup(file->path, (size_t)(strrchr(file->path, '/') - file->path) + 1);
	struct statvfs fs;
	struct stat st;

	if (user)
		return vs_err_set(err, -EPERM, "its %s would be put back to '%s', which %s has by now: give that another file first", file->phrase, file->path,
				  user);
	if (lstat(file->path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return vs_err_set(err, -EPERM, "its %s cannot be put back to '%s': that is no file any more", file->phrase, file->path);
	if (access(dir, W_OK | X_OK) < 0)
		return vs_err_set(err, -errno, "its %s cannot be put back to '%s': %s", file->phrase, file->path, strerror(errno));
	if (is_fixed(file->path, STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND) || is_fixed(dir, STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
		return vs_err_set(err, -EPERM, "its %s cannot be put back to '%s': that, or its directory, may not be changed (lsattr)", file->phrase,
				  file->path);
	if (is_fixed(file->path, STATX_ATTR_MOUNT_ROOT))
		return vs_err_set(err, -EBUSY, "its %s cannot be put back to '%s': something is mounted there", file->phrase, file->path);
	if (statvfs(dir, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < nv->size + ROOM_LEAST)
		return vs_err_set(err, -ENOSPC, "its %s cannot be put back to '%s': its file system is full", file->phrase, file->path);
	return 0;
}

static int refuse(const struct vm_snapshot *s, const struct vm_meta_id *id, const struct vm_nv_file *file, const struct vm_meta_nv *nv,
		  struct vs_err *err)
{
	bool written = since(file, id) == WRITTEN;
	const char *reset = strcmp(file->what, "nvram") ? "" : ", and 'virsh start --reset-nvram' gives the firmware's own";

	if (nv)
		return vs_err_set(err, -EPERM, "the copy of its %s that was made with '%s', '%s', is %s: put it back, or use 'force', which takes them "
				  "as they are now%s", file->phrase, s->shown, nv->path, access(nv->path, F_OK) < 0 ? "not there" : "not what it was", reset);
	return vs_err_set(err, -EPERM, "its %s ('%s') %s since '%s' was taken, which has no copy of them: use 'force', which takes them as they are now%s",
			  file->phrase, file->path ? file->path : "?", written ? "have changed" : "may have changed", s->shown, reset);
}

int vm_nv_check(const struct vm_context *cx, const struct vm_snapshot *s, bool force, struct vs_err *err)
{
	struct vm_meta_id id = vm_context_id(cx, s);
	vs_cleanup(vm_nv_files_fini) struct vm_nv_files files = { .n = 0 };
	int r = s->memory ? 0 : list_files(cx, s->name, &files, err);

	for (size_t i = 0; r == 0 && i < files.n; i++) {
		const struct vm_meta_nv *nv = vm_meta_nv(cx->meta, &id, files.v[i].what);
		enum fate fate = fate_of(&files.v[i], nv, &id);

		if (fate == COMES_BACK)
			r = check_target(cx, &files.v[i], nv, err);
		else if (fate == STAYS && !force)
			r = refuse(s, &id, &files.v[i], nv, err);
		else
			r = check_comes_back(cx, &files.v[i], err);
	}
	return r;
}

void vm_nv_tell(struct vm_context *cx, const struct vm_meta_id *id)
{
	vs_cleanup(vm_nv_files_fini) struct vm_nv_files files = { .n = 0 };

	if (list_files(cx, id->name, &files, NULL) < 0)
		return;
	for (size_t i = 0; i < files.n; i++) {
		const struct vm_meta_nv *nv = vm_meta_nv(cx->meta, id, files.v[i].what);
		enum fate fate = fate_of(&files.v[i], nv, id);

		if (fate == COMES_BACK)
			vm_context_say(cx, "would put back its %s from '%s'", files.v[i].phrase, nv->path);
		else if (fate == STAYS)
			vm_context_say(cx, "its %s would stay as they are now", files.v[i].phrase);
	}
}

void vm_nv_staged_fini(struct vm_nv_staged *staged)
{
	for (size_t i = 0; i < staged->n; i++) {
		free(staged->v[i].fresh);
		free(staged->v[i].target);
	}
	staged->n = 0;
}

/* "TARGET'S INO SIZE MTIME\nTOPS' INOS\nFRESH\nTARGET\nNAME": tops: the layers that the domain writes to before it is reverted. */
static int journal_staged(struct vm_context *cx, const struct vm_meta_id *id, const struct vm_nv_one *one, struct vs_err *err)
{
	vs_autofree char *text = NULL;
	struct stat st = {0};
	size_t len;
	FILE *f = xmemopen(&text, &len);

	if (stat(one->target, &st) < 0)
		st = (struct stat){0};
	fprintf(f, "%" PRIu64 " %" PRIu64 " %" PRId64 "\n", (uint64_t)st.st_ino, (uint64_t)st.st_size, vm_timespec_ns(st.st_mtim));
	for (size_t i = 0; i < cx->d->n_disks; i++)
		if (cx->d->disks[i].top >= 0)
			fprintf(f, " %" PRIu64, cx->d->layers[cx->d->disks[i].top].stamp.ino);
	fprintf(f, " \n%s\n%s\n%s", one->fresh, one->target, id->name);
	xmemclose(f);
	return vm_journal_add(&cx->journal, "vars", text, err);
}

/* 1: what is there has these bytes already. */
static int stage_one(struct vm_context *cx, const struct vm_meta_id *id, const char *path, const struct vm_meta_nv *nv, struct vm_nv_one *one,
		     vm_nv_making making, struct vs_err *err)
{
	vs_autofree char *real = realpath(path, NULL), *data = NULL, *now = NULL;
	vs_autoclose int fd = -1;
	struct stat st;
	size_t len, n;
	int r = read_whole(nv->path, &data, &len, err);

	if (r < 0)
		return r;
	if (read_whole(path, &now, &n, NULL) == 0 && n == len && !memcmp(now, data, len))
		return 1;
	if (stat(real ? real : path, &st) < 0 && stat(nv->path, &st) < 0)
		return fail(path, err);
	one->target = xstrdup(real ? real : path);
	one->fresh = xasprintf("%s.virt-snapfs-XXXXXX", one->target);
	fd = mkostemp(one->fresh, O_CLOEXEC);
	if (fd < 0)
		return fail(one->fresh, err);
	if (fchown(fd, st.st_uid, st.st_gid) < 0)
		errno = 0;
	r = making(cx, one->fresh, fd, err);
	if (r < 0)
		unlink(one->fresh); /* made a moment ago, and by mkostemp(3) not in place of another */
	vm_fault();
	if (r == 0)
		r = fchmod(fd, st.st_mode & 07777) < 0 ? fail(one->fresh, err) : fill(fd, one->fresh, data, len, err);
	if (r == 0)
		r = journal_staged(cx, id, one, err);
	vm_fault();
	return r;
}

int vm_nv_stage(struct vm_context *cx, const struct vm_meta_id *id, struct vm_nv_staged *staged, vm_nv_making making, struct vs_err *err)
{
	vs_cleanup(vm_nv_files_fini) struct vm_nv_files files = { .n = 0 };
	int r = list_files(cx, id->name, &files, err);

	for (size_t i = 0; r >= 0 && i < files.n; i++) {
		const struct vm_meta_nv *nv = vm_meta_nv(cx->meta, id, files.v[i].what);
		struct vm_nv_one *one = &staged->v[staged->n];

		if (fate_of(&files.v[i], nv, id) != COMES_BACK)
			continue;
		*one = (struct vm_nv_one){ .phrase = files.v[i].phrase };
		r = stage_one(cx, id, files.v[i].path, nv, one, making, err);
		staged->n += r != 1;
	}
	return r < 0 ? r : 0;
}

/* Whole or not at all. */
static int put_back(const char *fresh, const char *target, struct vs_err *err)
{
	int r = rename(fresh, target) < 0 ? -errno : vm_sync_parent(target);

	return r < 0 ? vs_err_set(err, r, "'%s': %s", target, strerror(-r)) : 0;
}

int vm_nv_put_back(struct vm_context *cx, const struct vm_meta_id *id, const struct vm_nv_staged *staged, struct vs_err *err)
{
	vs_cleanup(vm_nv_files_fini) struct vm_nv_files files = { .n = 0 };
	int r = list_files(cx, id->name, &files, err);

	for (size_t i = 0; r == 0 && i < files.n; i++)
		if (fate_of(&files.v[i], vm_meta_nv(cx->meta, id, files.v[i].what), id) == STAYS)
			vm_context_say(cx, "its %s stay as they are now", files.v[i].phrase);
	for (size_t i = 0; r == 0 && i < staged->n; i++) {
		r = put_back(staged->v[i].fresh, staged->v[i].target, err);
		if (r == 0)
			vm_context_say(cx, "put back its %s", staged->v[i].phrase);
		else
			vs_err_prefix(err, "its %s could not be put back", staged->v[i].phrase);
	}
	return r;
}

/* Does the domain stand on what that snapshot froze, with other layers than it had? A snapshot of which no disk can be compared proves nothing. */
static bool was_reverted(const struct vm_context *cx, const char *name, const char *tops)
{
	bool seen = false;

	for (size_t i = 0; i < cx->d->n_disks; i++) {
		int top = cx->d->disks[i].top;
		vs_autofree char *ino = top < 0 ? NULL : xasprintf(" %" PRIu64 " ", cx->d->layers[top].stamp.ino);

		for (size_t s = 0; ino && s < cx->d->n_snapshots; s++)
			for (size_t k = 0; !strcmp(cx->d->snapshots[s].name, name) && k < cx->d->snapshots[s].n_disks; k++) {
				const struct vm_disk *disk = &cx->d->snapshots[s].disks[k];

				if (strcmp(disk->target, cx->d->disks[i].target) != 0 || !disk->chain || !disk->chain[0])
					continue;
				if (strstr(tops, ino) || cx->d->layers[top].below != vm_context_layer(cx, disk->chain[0]))
					return false;
				seen = true;
			}
	}
	return seen && vm_context_record(cx, name);
}

static bool recover_one(const char *text, void *opaque)
{
	struct vm_context *cx = opaque;
	vs_autofree char *copy = xstrdup(text), *user = NULL;
	char *save = NULL, *stamp = strtok_r(copy, "\n", &save), *tops = strtok_r(NULL, "\n", &save), *fresh = strtok_r(NULL, "\n", &save),
	     *target = strtok_r(NULL, "\n", &save), *name = save;
	uint64_t ino, size;
	int64_t mtime_ns;
	struct stat st = {0};
	struct vs_err why = {0};

	if (!name || sscanf(stamp, "%" SCNu64 " %" SCNu64 " %" SCNd64, &ino, &size, &mtime_ns) != 3 || access(fresh, F_OK) < 0)
		return true;
	if (!was_reverted(cx, name, tops))
		return true; /* nothing had been done */
	user = used_by(cx, target, true);
	if (user) {
		vm_log_warn(cx->log, "an interrupted 'revert %s' has not put back '%s', which %s has by now: it stays as it is", name, target, user);
		return true;
	}
	if (stat(target, &st) < 0)
		st = (struct stat){0};
	if (cx->running || st.st_ino != ino || (uint64_t)st.st_size != size || vm_timespec_ns(st.st_mtim) != mtime_ns) {
		vm_log_warn(cx->log, "an interrupted 'revert %s' has not put back '%s', which was written to since: it stays as it is", name, target);
		return true;
	}
	if (put_back(fresh, target, &why) < 0)
		vm_log_warn(cx->log, "an interrupted 'revert %s' has not put back '%s': %s", name, target, why.msg);
	else
		vm_log(cx->log, "put back '%s', for an interrupted 'revert %s'", target, name);
	return true;
}

void vm_nv_recover(struct vm_context *cx)
{
	vm_journal_settle(&cx->journal, "vars", recover_one, cx);
}

/* ---------------------------------------------------------------- removing */

static void remove_one(struct vm_context *cx, const struct vm_meta_nv *nv, const struct vm_leaving *leaving)
{
	int layer = vm_context_layer(cx, nv->path);
	const struct vm_layer *l = layer < 0 ? NULL : &cx->d->layers[layer];
	struct vm_doomed_file file = { .path = nv->path, .as = VM_DOOMED_BEGUN };
	vs_autofree char *user = NULL;
	struct vs_err why = {0};
	int r;

	if (access(nv->path, F_OK) < 0 && errno == ENOENT)
		return;
	if (!l || l->stamp.ino != nv->ino || l->stamp.size != nv->size || l->stamp.mtime_ns != nv->mtime_ns) {
		vm_context_say(cx, "'%s' stays: it is not the file any more that was made", nv->path);
		return;
	}
	file.stamp = l->stamp;
	user = used_by(cx, nv->path, false);
	if (user) {
		vm_context_say(cx, "'%s' stays: %s has it", nv->path, user);
		return;
	}
	r = cx->try_only ? vm_may_remove(cx, &file, leaving, &why) : vm_remove(cx, &file, leaving, &why);
	if (r == 0)
		vm_effects_file(cx, nv->path);
	if (r == 0)
		vm_context_say(cx, "%s '%s'", cx->try_only ? "would unlink" : "unlinked", vm_context_file(cx, nv->path));
	else if (r < 0)
		vm_context_say(cx, "%s", why.msg);
}

void vm_nv_remove(struct vm_context *cx, const struct vm_meta_id *id, const struct vm_leaving *leaving)
{
	const struct vm_meta_snapshot *said = vm_meta_find(cx->meta, id);

	for (size_t i = 0; said && i < said->n_nv; i++)
		remove_one(cx, &said->nv[i], leaving);
}

bool vm_nv_leave(struct vm_context *cx, const struct vm_meta_id *id)
{
	const struct vm_meta_snapshot *said = vm_meta_find(cx->meta, id);

	for (size_t i = 0; said && i < said->n_nv; i++) {
		int layer = vm_context_layer(cx, said->nv[i].path);

		if (layer >= 0)
			vm_context_add_made(cx, said->nv[i].path, &cx->d->layers[layer].stamp);
	}
	return said && said->n_nv;
}
