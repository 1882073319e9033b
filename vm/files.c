/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When is a remembered header still true? When dev, ino, size, mtime and ctime are what they were, with two exceptions:
 *
 *   - The kernel stamps files with the time of its last tick. A header read within that tick of the last write may be
 *     followed by another write that leaves the same stamp. Such a look is "racy" and is not trusted in the next round.
 *   - A block device's times say nothing: its header is read in every round.
 *
 * What an image stands on is remembered by gate, as an edge: the path and format that the gate gave, and the (dev, ino)
 * that it let through. While the path still leads to that file the gate's answer holds and nothing is opened; a file
 * that has to be read again is opened through the gate again, never by the remembered path.
 */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "clock.h"
#include "strmap.h"

#define RACY_NS (100 * VM_NS_PER_MS)
#define FORGET_ROUNDS 8
#define SETTLE_ROUNDS 3 /* how long a file that was written is worth a proper look, for its lock bytes */
#define GROWTH_NEWS (UINT64_C(1) << 20)

struct vm_edge {
	struct vm_edge *next;
	struct q2_gate *gate;
	char *name, *format;    /* as the header recorded them when the gate was asked */
	uint64_t looked;        /* the round of the last look */
	bool found;             /* what stat said about `path` when the gate was asked */
	uint64_t dev, ino;
	struct vm_file *below;  /* NULL: refused or missing */
	char *path;             /* where it leads, as far as is known */
	int code;
	char *error;
};

struct vm_files {
	struct vm_strmap table; /* by format and path */
	uint64_t round;
};

/* ---------------------------------------------------------------- the table */

static void edge_free(struct vm_edge *e)
{
	q2_gate_unref(e->gate);
	free(e->name);
	free(e->format);
	free(e->path);
	free(e->error);
	free(e);
}

static void file_free(void *thing)
{
	struct vm_file *f = thing;

	while (f->edges) {
		struct vm_edge *next = f->edges->next;

		edge_free(f->edges);
		f->edges = next;
	}
	q2_info_free(f->own_info);
	free(f->own_error);
	free(f->path);
	free(f);
}

struct vm_files *vm_files_new(void)
{
	return calloc(1, sizeof(struct vm_files));
}

void vm_files_free(struct vm_files *files)
{
	if (!files)
		return;
	vm_strmap_clear(&files->table, file_free);
	free(files);
}

/* Edges go first: one that is used keeps what it leads to in use, since both are looked at in the same round. */
static void drop_old_edges(struct vm_file *f, uint64_t oldest)
{
	struct vm_edge **link = &f->edges;

	while (*link) {
		struct vm_edge *e = *link;

		if (e->looked >= oldest) {
			link = &e->next;
			continue;
		}
		*link = e->next;
		edge_free(e);
	}
}

static bool clean_edges(void *thing, void *opaque)
{
	drop_old_edges(thing, *(uint64_t *)opaque);
	return true;
}

static bool still_used(void *thing, void *opaque)
{
	struct vm_file *f = thing;

	if (f->looked >= *(uint64_t *)opaque)
		return true;
	file_free(f);
	return false;
}

uint64_t vm_files_round(struct vm_files *files)
{
	files->round++;
	if (files->round % FORGET_ROUNDS == 0) {
		uint64_t oldest = files->round - FORGET_ROUNDS;

		vm_strmap_filter(&files->table, clean_edges, &oldest);
		vm_strmap_filter(&files->table, still_used, &oldest);
	}
	return files->round;
}

static struct vm_file *file_at(struct vm_files *files, const char *path, enum q2_format format)
{
	vs_autofree char *key = NULL;
	struct vm_file *f;

	if (asprintf(&key, "%d:%s", (int)format, path) < 0) {
		key = NULL;
		return NULL;
	}
	f = vm_strmap_get(&files->table, key);
	if (f)
		return f;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->path = strdup(path);
	f->format = format;
	f->code = -EAGAIN;
	if (!f->path || vm_strmap_put(&files->table, key, f) < 0) {
		file_free(f);
		return NULL;
	}
	return f;
}

/* ---------------------------------------------------------------- one file */

static int64_t statx_ns(struct statx_timestamp t)
{
	return t.tv_sec * VM_NS_PER_S + t.tv_nsec;
}

/* What a path leads to now, without opening it, in the same terms as q2_file's identity. */
static bool stamp_of(const char *path, struct q2_stamp *stamp)
{
	struct statx st;

	if (statx(AT_FDCWD, path, AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS | STATX_BTIME, &st))
		return false;
	*stamp = (struct q2_stamp){
		.dev = makedev(st.stx_dev_major, st.stx_dev_minor), .ino = st.stx_ino, .size = st.stx_size,
		.allocated = st.stx_blocks * 512, .mtime_ns = statx_ns(st.stx_mtime), .ctime_ns = statx_ns(st.stx_ctime),
		.btime_ns = st.stx_mask & STATX_BTIME ? statx_ns(st.stx_btime) : 0, .mode = st.stx_mode, .uid = st.stx_uid,
		.gid = st.stx_gid, .block = S_ISBLK(st.stx_mode),
	};
	if (stamp->block) {
		stamp->dev = UINT64_MAX;
		stamp->ino = makedev(st.stx_rdev_major, st.stx_rdev_minor);
	}
	return true;
}

static bool same_file(const struct q2_stamp *a, const struct q2_stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino;
}

static bool same_stamp(const struct q2_stamp *a, const struct q2_stamp *b)
{
	return same_file(a, b) && a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

/* Is what is remembered of @f still true, given what its path leads to now? */
static bool fresh(const struct vm_file *f, bool found, const struct q2_stamp *now)
{
	if (!f->looked || f->found != found || f->racy)
		return false;
	if (!found)
		return true;
	return !now->block && same_stamp(&f->stamp, now);
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static bool same_facts(const struct q2_info *a, const struct q2_info *b)
{
	if (!a || !b)
		return a == b;
	if (a->size != b->size || a->n_snapshots != b->n_snapshots || !same_text(a->backing_name, b->backing_name) ||
	    !same_text(a->backing_format, b->backing_format) || !same_text(a->data_file, b->data_file) ||
	    !same_text(a->unsupported, b->unsupported) || !same_file(&a->stamp, &b->stamp))
		return false;
	for (size_t i = 0; i < a->n_snapshots; i++)
		if (!q2_snapshot_same(&a->snapshots[i], &b->snapshots[i]) ||
		    a->snapshots[i].has_disk_size != b->snapshots[i].has_disk_size)
			return false;
	return true;
}

/* Writes down what a look found. Takes @info. */
static void learn(struct vm_files *files, struct vm_file *f, struct q2_info *info, int code, const char *error)
{
	char *text = error ? strdup(error) : NULL;

	if (!same_facts(f->own_info, info) || f->code != code || !same_text(f->own_error, text))
		f->changed = f->touched = files->round;
	q2_info_free(f->own_info);
	free(f->own_error);
	f->own_info = info;
	f->own_error = text;
	f->info = info;
	f->error = text ? text : code < 0 ? "it cannot be read" : NULL;
	f->code = code;
}

static void set_stamp(struct vm_files *files, struct vm_file *f, bool found, const struct q2_stamp *now)
{
	int64_t last = now->mtime_ns > now->ctime_ns ? now->mtime_ns : now->ctime_ns;

	if (f->found != found || !same_stamp(&f->stamp, now))
		f->touched = files->round;
	f->found = found;
	f->stamp = *now;
	f->racy = found && vm_now_ns() - last < RACY_NS;
}

static void read_file(struct vm_files *files, struct vm_file *f, struct q2_file *open_file)
{
	struct q2_info *info = NULL;
	struct vs_err err = {0};
	int r = q2_info_read(open_file, f->format, &info, &err);

	/* A header that never held still is no news: what was known stays, and the next round tries again. */
	if (r == -EAGAIN) {
		f->racy = true;
		if (f->own_info)
			return;
	}
	if (r >= 0)
		set_stamp(files, f, true, &info->stamp);
	learn(files, f, r < 0 ? NULL : info, r < 0 ? r : 0, r < 0 ? vs_err_text(&err, r) : NULL);
}

static void look_by_path(struct vm_files *files, struct vm_file *f)
{
	struct q2_file *open_file = NULL;
	struct q2_stamp now = {0};
	struct vs_err err = {0};
	bool found = stamp_of(f->path, &now);
	int r;

	if (!fresh(f, found, &now)) {
		set_stamp(files, f, found, &now);
		r = q2_file_open(f->path, &open_file, &err);
		if (r < 0) {
			learn(files, f, NULL, r, vs_err_text(&err, r));
		} else {
			read_file(files, f, open_file);
			q2_file_close(open_file);
		}
	}
	f->stamp.allocated = now.allocated;
	f->looked = files->round;
}

struct vm_file *vm_files_top(struct vm_files *files, const char *path, enum q2_format format)
{
	struct vm_file *f = file_at(files, path, format);

	if (!f)
		return NULL;
	if (f->looked != files->round)
		look_by_path(files, f);
	f->trusted = files->round;
	return f;
}

bool vm_files_locks(struct vm_files *files, struct vm_file *f)
{
	struct q2_file *open_file = NULL;
	struct q2_locks now = {0};
	bool news;

	if (q2_file_open(f->path, &open_file, NULL) >= 0) {
		if (q2_file_locks(open_file, &now) < 0)
			now = (struct q2_locks){0};
		q2_file_close(open_file);
	}
	news = now.writer != f->locks.writer || now.no_read != f->locks.no_read;
	f->locks = now;
	if (news)
		f->touched = files->round;
	return news;
}

/* ---------------------------------------------------------------- what it stands on */

static struct vm_edge *edge_find(struct vm_file *f, struct q2_gate *gate, const char *name, const char *format)
{
	struct vm_edge *e = f->edges;

	while (e && (e->gate != gate || strcmp(e->name, name) || !same_text(e->format, format)))
		e = e->next;
	return e;
}

static struct vm_edge *edge_new(struct vm_file *f, struct q2_gate *gate, const char *name, const char *format)
{
	struct vm_edge *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->gate = q2_gate_ref(gate);
	e->name = strdup(name);
	e->format = format ? strdup(format) : NULL;
	if (!e->name || (format && !e->format)) {
		edge_free(e);
		return NULL;
	}
	e->next = f->edges;
	f->edges = e;
	return e;
}

/* Does the gate's answer still hold? *now: what the path leads to. */
static bool edge_holds(const struct vm_edge *e, bool *found, struct q2_stamp *now)
{
	if (!e->looked || !e->path)
		return false;
	*found = stamp_of(e->path, now);
	return *found == e->found && (!*found || (now->dev == e->dev && now->ino == e->ino));
}

/* Remembers where a refused or missing name would lead, so that it is noticed when that changes. A file that may be named
 * but is not there, or not readable for us, is one that exists in the picture: as missing. */
static void edge_failed(struct vm_files *files, struct vm_edge *e, const char *from, int code, const struct vs_err *err)
{
	enum q2_format format = Q2_FORMAT_NONE;
	struct q2_stamp now = {0};

	e->code = code;
	e->error = strdup(vs_err_text(err, code));
	if (q2_name_resolve(from, e->name, e->format, &e->path, &format, NULL) < 0)
		return;
	e->found = stamp_of(e->path, &now);
	e->dev = now.dev;
	e->ino = now.ino;
	if (code == -EPERM || code == -ELOOP || code == -ENOMEM || code == -EINVAL)
		return;
	e->below = file_at(files, e->path, format);
	if (!e->below || e->below->looked == files->round)
		return;
	set_stamp(files, e->below, e->found, &now);
	learn(files, e->below, NULL, code, e->error);
}

static void edge_passed(struct vm_files *files, struct vm_edge *e, struct q2_file *open_file, enum q2_format format)
{
	struct vm_file *below = file_at(files, open_file->path, format);
	struct q2_stamp now;

	e->path = strdup(open_file->path);
	if (!below || !e->path || open_file->ops->identity(open_file, &now) < 0) {
		e->code = -ENOMEM;
		return;
	}
	if (below->looked != files->round && !fresh(below, true, &now)) {
		set_stamp(files, below, true, &now);
		read_file(files, below, open_file);
	}
	e->found = true;
	e->dev = now.dev;
	e->ino = now.ino;
	e->below = below;
}

static void ask_gate(struct vm_files *files, struct vm_file *f, struct vm_edge *e)
{
	struct q2_file *open_file = NULL;
	enum q2_format format;
	struct vs_err err = {0};
	int r;

	free(e->path);
	free(e->error);
	e->path = e->error = NULL;
	e->below = NULL;
	e->code = 0;
	e->found = false;
	r = q2_gate_open(e->gate, f->path, e->name, e->format, &open_file, &format, &err);
	if (r < 0) {
		edge_failed(files, e, f->path, r, &err);
		return;
	}
	edge_passed(files, e, open_file, format);
	q2_file_close(open_file);
}

/* True: it leads where it led before. */
static bool edge_look(struct vm_files *files, struct vm_file *f, struct vm_edge *e)
{
	struct vm_file *was = e->below;
	struct q2_stamp now = {0};
	int code = e->code;
	bool found = false;

	if (!edge_holds(e, &found, &now) ||
	    (e->below && e->below->looked != files->round && !fresh(e->below, found, &now)))
		ask_gate(files, f, e);
	else if (e->below && found)
		e->below->stamp.allocated = now.allocated;
	if (e->below)
		e->below->looked = files->round;
	e->looked = files->round;
	return e->below == was && e->code == code;
}

static struct vm_file *named(struct vm_files *files, struct vm_file *f, struct q2_gate *gate, const char *name,
			     const char *format, int *code, const char **error)
{
	struct vm_edge *e;

	*code = 0;
	*error = NULL;
	if (!name)
		return NULL;
	e = edge_find(f, gate, name, format);
	if (!e)
		e = edge_new(f, gate, name, format);
	if (!e) {
		*code = -ENOMEM;
		*error = "out of memory";
		return NULL;
	}
	if (e->looked != files->round)
		edge_look(files, f, e);
	if (e->below)
		return e->below;
	*code = e->code < 0 ? e->code : -EIO;
	*error = e->error ? e->error : "out of memory";
	return NULL;
}

struct vm_file *vm_files_below(struct vm_files *files, struct vm_file *f, struct q2_gate *gate, int *code,
			       const char **error)
{
	return named(files, f, gate, f->info ? f->info->backing_name : NULL, f->info ? f->info->backing_format : NULL, code,
		     error);
}

struct vm_file *vm_files_data(struct vm_files *files, struct vm_file *f, struct q2_gate *gate, int *code,
			      const char **error)
{
	return named(files, f, gate, f->info ? f->info->data_file : NULL, "raw", code, error);
}

/* ---------------------------------------------------------------- has anything happened at all? */

struct quiet {
	struct vm_files *files;
	uint64_t last; /* the round before this one */
	bool quiet;
};

static bool visit_trusted(void *thing, void *opaque)
{
	struct vm_file *f = thing;
	struct quiet *q = opaque;

	if (f->trusted == q->last)
		vm_files_top(q->files, f->path, f->format);
	return true;
}

static bool visit_edges(void *thing, void *opaque)
{
	struct vm_file *f = thing;
	struct quiet *q = opaque;

	for (struct vm_edge *e = f->edges; e; e = e->next)
		if (e->looked == q->last && !edge_look(q->files, f, e))
			q->quiet = false;
	return true;
}

static bool judge(void *thing, void *opaque)
{
	struct vm_file *f = thing;
	struct quiet *q = opaque;
	uint64_t now = q->files->round, grown;

	if (f->looked != q->last && f->looked != now)
		return true;
	grown = f->stamp.allocated > f->shown_allocated ? f->stamp.allocated - f->shown_allocated :
							  f->shown_allocated - f->stamp.allocated;
	if (f->looked != now || f->changed == now)
		q->quiet = false;
	else if (f->live ? grown >= GROWTH_NEWS : grown || f->racy || f->touched + SETTLE_ROUNDS >= now)
		q->quiet = false;
	return true;
}

bool vm_files_quiet(struct vm_files *files)
{
	struct quiet q = { .files = files, .last = files->round - 1, .quiet = true };

	vm_strmap_filter(&files->table, visit_trusted, &q);
	vm_strmap_filter(&files->table, visit_edges, &q);
	vm_strmap_filter(&files->table, judge, &q);
	return q.quiet;
}
