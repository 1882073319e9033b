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
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/command/recover.h"
#include "vm/libvirt/overlay.h"
#include "vm/observe/sum.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

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

static int sync_dir(const char *path)
{
	vs_autofree char *dir = xstrndup(path, (size_t)(strrchr(path, '/') - path) + 1);
	vs_autoclose int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -1 : fsync(fd);
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

int vm_nv_copy(struct vm_context *cx, struct vm_nv_plan *plan, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < plan->files.n; i++) {
		struct vm_nv_copy *copy = &plan->copies[i];

		if (!copy->path)
			continue;
		r = read_whole(plan->files.v[i].path, &copy->data, &copy->len, err);
		if (r == 0)
			r = vm_overlay_make_copy(plan->files.v[i].path, copy->path, vm_recover_making, cx, &copy->dev, &copy->ino, err);
		if (r == 0)
			r = write_copy(copy, err);
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

static int note_one(struct vm_context *cx, const struct vm_nv_file *file, struct vm_nv_copy *copy, const struct vm_meta_id *id, struct vs_err *err)
{
	struct vm_meta_nv nv = { .what = (char *)file->what, .path = copy->path };
	struct vm_sum_file is;
	struct stat st;
	int r = 1;

	for (int round = 0; r == 1 && round < ROUNDS; round++)
		r = copy_again(file->path, copy, err);
	if (r < 0)
		return r;
	if (r == 1)
		vm_context_say(cx, "its %s were being written all the while", file->phrase);
	if (sync_dir(copy->path) < 0 || lstat(copy->path, &st) < 0)
		return fail(copy->path, err);
	is = (struct vm_sum_file){ .ino = st.st_ino, .size = (uint64_t)st.st_size, .mtime_ns = vm_timespec_ns(st.st_mtim) };
	nv.ino = is.ino;
	nv.size = is.size;
	nv.mtime_ns = is.mtime_ns;
	nv.sum = vm_sum(copy->path, &is, Q2_FORMAT_RAW);
	vm_meta_set_nv(cx->meta, id, &nv);
	return 0;
}

int vm_nv_note(struct vm_context *cx, struct vm_nv_plan *plan, const struct vm_meta_id *id, struct vs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < plan->files.n; i++)
		if (plan->copies[i].path)
			r = note_one(cx, &plan->files.v[i], &plan->copies[i], id, err);
	return r;
}

/* ---------------------------------------------------------------- revert */

/* What the domain has, as it is defined. */
static int list_files(const struct vm_context *cx, struct vm_nv_files *files, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *xml = NULL;
	int r = vm_dom_xml(cx->dom, VIR_DOMAIN_XML_INACTIVE, &xml, err);

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

/* Nobody has written to it since the snapshot was taken, or there is nothing. */
static bool is_unchanged(const struct vm_nv_file *file, const struct vm_meta_id *id)
{
	struct stat st;

	if (!file->path)
		return false;
	if (stat(file->path, &st) < 0)
		return errno == ENOENT;
	return vm_timespec_ns(st.st_mtim) < id->created_ns;
}

/* libvirt has it in the snapshot itself. */
static bool is_inside(const struct vm_nv_file *file, const struct vm_meta_id *id)
{
	return id->kind == VM_INTERNAL && file->format == Q2_FORMAT_QCOW2;
}

static int check_one(const struct vm_snapshot *s, const struct vm_nv_file *file, const struct vm_meta_nv *nv, const struct vm_meta_id *id,
		     struct vs_err *err)
{
	const char *reset = strcmp(file->what, "nvram") ? "" : ", and 'virsh start --reset-nvram' gives the firmware's own";

	if (is_inside(file, id) || is_whole(nv) || (!nv && is_unchanged(file, id)))
		return 0;
	if (nv)
		return vs_err_set(err, -EPERM, "the copy of its %s that was made with '%s', '%s', is %s: put it back, or use 'force', which takes them "
				  "as they are now%s", file->phrase, s->shown, nv->path, access(nv->path, F_OK) < 0 ? "not there" : "not what it was", reset);
	return vs_err_set(err, -EPERM, "its %s ('%s') %s since '%s' was taken, which has no copy of them: use 'force', which takes them as they are now%s",
			  file->phrase, file->path ? file->path : "?", file->path ? "have changed" : "may have changed", s->shown, reset);
}

int vm_nv_check(const struct vm_context *cx, const struct vm_snapshot *s, bool force, struct vs_err *err)
{
	struct vm_meta_id id = vm_context_id(cx, s);
	vs_cleanup(vm_nv_files_fini) struct vm_nv_files files = { .n = 0 };
	int r = s->memory ? 0 : list_files(cx, &files, err);

	for (size_t i = 0; r == 0 && !force && i < files.n; i++)
		r = check_one(s, &files.v[i], vm_meta_nv(cx->meta, &id, files.v[i].what), &id, err);
	return r;
}

/* In place of what is there, whole or not at all. */
static int replace(struct vm_context *cx, const char *path, const struct vm_meta_nv *nv, struct vs_err *err)
{
	vs_autofree char *real = realpath(path, NULL), *fresh = NULL, *data = NULL, *now = NULL;
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
	fresh = xasprintf("%s.virt-snapfs-XXXXXX", real ? real : path);
	fd = mkostemp(fresh, O_CLOEXEC);
	if (fd < 0)
		return fail(fresh, err);
	if (fchown(fd, st.st_uid, st.st_gid) < 0)
		errno = 0;
	r = vm_recover_making(cx, fresh, fd, err);
	vm_fault();
	if (r == 0)
		r = fchmod(fd, st.st_mode & 07777) < 0 ? fail(fresh, err) : fill(fd, fresh, data, len, err);
	vm_fault();
	if (r == 0 && rename(fresh, real ? real : path) < 0)
		r = fail(path, err);
	if (r < 0)
		unlink(fresh);
	else if (sync_dir(fresh) < 0)
		r = fail(path, err);
	return r;
}

/* What becomes of it with that snapshot. */
enum fate { STAYS, UNCHANGED, COMES_BACK };

static enum fate fate_of(const struct vm_nv_file *file, const struct vm_meta_nv *nv, const struct vm_meta_id *id)
{
	if (is_inside(file, id) || (!nv && is_unchanged(file, id)))
		return UNCHANGED;
	return file->path && is_whole(nv) ? COMES_BACK : STAYS;
}

void vm_nv_tell(struct vm_context *cx, const struct vm_meta_id *id)
{
	vs_cleanup(vm_nv_files_fini) struct vm_nv_files files = { .n = 0 };

	if (list_files(cx, &files, NULL) < 0)
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

int vm_nv_put_back(struct vm_context *cx, const struct vm_meta_id *id, struct vs_err *err)
{
	vs_cleanup(vm_nv_files_fini) struct vm_nv_files files = { .n = 0 };
	int r = list_files(cx, &files, err);

	for (size_t i = 0; r >= 0 && i < files.n; i++) {
		const struct vm_nv_file *file = &files.v[i];
		const struct vm_meta_nv *nv = vm_meta_nv(cx->meta, id, file->what);
		enum fate fate = fate_of(file, nv, id);

		if (fate == STAYS)
			vm_context_say(cx, "its %s stay as they are now", file->phrase);
		r = fate == COMES_BACK ? replace(cx, file->path, nv, err) : 1;
		if (r == 0)
			vm_context_say(cx, "put back its %s", file->phrase);
		else if (r < 0)
			vs_err_prefix(err, "its %s could not be put back", file->phrase);
	}
	return r < 0 ? r : 0;
}

/* ---------------------------------------------------------------- removing */

static void remove_one(struct vm_context *cx, const struct vm_meta_nv *nv, const struct vm_leaving *leaving)
{
	int layer = vm_context_layer(cx, nv->path);
	const struct vm_layer *l = layer < 0 ? NULL : &cx->d->layers[layer];
	struct vm_doomed_file file = { .path = nv->path, .as = VM_DOOMED_BEGUN };
	struct vs_err why = {0};
	int r;

	if (access(nv->path, F_OK) < 0 && errno == ENOENT)
		return;
	if (!l || l->stamp.ino != nv->ino || l->stamp.size != nv->size || l->stamp.mtime_ns != nv->mtime_ns) {
		vm_context_say(cx, "'%s' stays: it is not the file any more that was made", nv->path);
		return;
	}
	file.stamp = l->stamp;
	r = cx->try_only ? vm_may_remove(cx, &file, leaving, &why) : vm_remove(cx, &file, leaving, &why);
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
