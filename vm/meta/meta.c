/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The object: a short list of snapshots of which something is to be said. Lists are searched from one end to the other:
 * 64 KiB of text are at most some 1,300 entries, and questions are asked once a poll.
 *
 * Times. libvirt's record of a snapshot has whole seconds, the table entry in a qcow2 file has nanoseconds, and which of
 * the two we could see when we wrote something down may not be the one that we see when we look it up. So a whole second
 * stands for everything in it, and an exact match is preferred. Two snapshots of one name and kind within one
 * second, of which the record tells only the second, cannot be told apart; nor does libvirt.
 */
#include "vm/meta/meta.h"

#include <string.h>

#include "vm/util/clock.h"
#include "vm/util/mem.h"

static int64_t seconds(int64_t ns)
{
	return ns / VM_NS_PER_S - (ns % VM_NS_PER_S < 0);
}

bool vm_meta_same(const struct vm_meta_id *a, const struct vm_meta_id *b)
{
	bool whole = a->created_ns % VM_NS_PER_S == 0 || b->created_ns % VM_NS_PER_S == 0;

	if (a->kind != b->kind || strcmp(a->name, b->name))
		return false;
	return a->created_ns == b->created_ns || (whole && seconds(a->created_ns) == seconds(b->created_ns));
}

/* ---------------------------------------------------------------- lifetimes */

void vm_meta_mark_fini(struct vm_meta_mark *mark)
{
	for (size_t i = 0; i < mark->n_disks; i++) {
		free(mark->disks[i].target);
		free(mark->disks[i].path);
		free(mark->disks[i].top);
	}
	free(mark->disks);
	free(mark->command);
	free(mark->reason);
	*mark = (struct vm_meta_mark){ .n_disks = 0 };
}

static void mark_release(struct vm_meta_mark *mark)
{
	if (!mark || --mark->n_owners)
		return;
	vm_meta_mark_fini(mark);
	free(mark);
}

static void drop_frozen(struct vm_meta_snapshot *s)
{
	for (size_t i = 0; i < s->n_frozen; i++)
		free(s->frozen[i].target);
	free(vs_steal(s->frozen));
	s->n_frozen = s->n_attested = 0;
}

static void drop_nv(struct vm_meta_snapshot *s)
{
	for (size_t i = 0; i < s->n_nv; i++) {
		free(s->nv[i].what);
		free(s->nv[i].path);
	}
	free(vs_steal(s->nv));
	s->n_nv = 0;
}

static void snapshot_fini(struct vm_meta_snapshot *s)
{
	drop_nv(s);
	free(s->name);
	free(s->attested);
	drop_frozen(s);
	mark_release(s->mark);
}

struct vm_meta *vm_meta_new(void)
{
	return xcalloc(1, sizeof(struct vm_meta));
}

void vm_meta_free(struct vm_meta *meta)
{
	if (!meta)
		return;
	for (size_t i = 0; i < meta->n_snapshots; i++)
		snapshot_fini(&meta->snapshots[i]);
	free(meta->snapshots);
	free(meta->files);
	for (size_t i = 0; i < meta->n_made; i++)
		free((char *)meta->made[i].path);
	free(meta->made);
	free(meta->policy);
	free(meta->of);
	free(meta->on);
	free(meta);
}

/* One owner, who is to come. */
static struct vm_meta_mark *mark_copy(const struct vm_meta_mark *mark)
{
	struct vm_meta_mark *copy = xcalloc(1, sizeof(*copy));

	*copy = *mark;
	copy->n_owners = 0;
	copy->command = xstrdup_or_null(mark->command);
	copy->reason = xstrdup_or_null(mark->reason);
	copy->disks = xcalloc(mark->n_disks, sizeof(*copy->disks));
	for (size_t i = 0; i < mark->n_disks; i++) {
		copy->disks[i] = mark->disks[i];
		copy->disks[i].target = xstrdup_or_null(mark->disks[i].target);
		copy->disks[i].path = xstrdup_or_null(mark->disks[i].path);
		copy->disks[i].top = xstrdup_or_null(mark->disks[i].top);
	}
	return copy;
}

static bool mark_equal(const struct vm_meta_mark *a, const struct vm_meta_mark *b)
{
	bool equal = a->since_ns == b->since_ns && a->is_void == b->is_void && a->retention == b->retention && a->n_disks == b->n_disks &&
		     vm_same_text(a->command, b->command) && vm_same_text(a->reason, b->reason);

	for (size_t i = 0; equal && i < a->n_disks; i++) {
		const struct vm_meta_doomed *x = &a->disks[i], *y = &b->disks[i];

		equal = vm_same_text(x->target, y->target) && vm_same_text(x->path, y->path) && vm_same_text(x->top, y->top) &&
			x->path_ino == y->path_ino && x->top_ino == y->top_ino && x->above_ino == y->above_ino &&
			x->mtime_ns == y->mtime_ns && x->left_ns == y->left_ns && x->done == y->done && x->pivoting == y->pivoting && x->unasked == y->unasked;
	}
	return equal;
}

/* The one of @meta that says the same, or a copy: it has an owner more now. */
static struct vm_meta_mark *mark_obtain(const struct vm_meta *meta, const struct vm_meta_mark *mark)
{
	struct vm_meta_mark *found = NULL, *last = NULL;

	for (size_t i = 0; !found && i < meta->n_snapshots; i++) {
		struct vm_meta_mark *m = meta->snapshots[i].mark;

		if (m && m != last && (m == mark || mark_equal(m, mark)))
			found = m;
		last = m;
	}
	if (!found)
		found = mark_copy(mark);
	found->n_owners++;
	return found;
}

/* Into @meta, which is to have it next. */
static void snapshot_copy(const struct vm_meta_snapshot *from, const struct vm_meta *meta, struct vm_meta_snapshot *to)
{
	*to = *from;
	to->mark = from->mark ? mark_obtain(meta, from->mark) : NULL;
	to->name = xstrdup(from->name);
	to->attested = xcalloc(from->n_attested, sizeof(*to->attested));
	if (from->n_attested)
		memcpy(to->attested, from->attested, from->n_attested * sizeof(*to->attested));
	to->frozen = xcalloc(from->n_frozen, sizeof(*to->frozen));
	for (size_t i = 0; i < from->n_frozen; i++)
		to->frozen[i] = (struct vm_meta_frozen){xstrdup(from->frozen[i].target), from->frozen[i].file, from->frozen[i].spoilt, from->frozen[i].shows};
	to->nv = xcalloc(from->n_nv, sizeof(*to->nv));
	for (size_t i = 0; i < from->n_nv; i++) {
		to->nv[i] = from->nv[i];
		to->nv[i].what = xstrdup(from->nv[i].what);
		to->nv[i].path = xstrdup(from->nv[i].path);
	}
}

struct vm_meta *vm_meta_copy(const struct vm_meta *meta)
{
	struct vm_meta *copy = vm_meta_new();

	copy->serial = meta->serial;
	copy->policy = xstrdup_or_null(meta->policy);
	copy->of = xstrdup_or_null(meta->of);
	copy->on = xstrdup_or_null(meta->on);
	copy->files = xcalloc(meta->n_files, sizeof(*copy->files));
	if (meta->n_files)
		memcpy(copy->files, meta->files, meta->n_files * sizeof(*copy->files));
	copy->n_files = meta->n_files;
	for (size_t i = 0; i < meta->n_made; i++)
		vm_meta_add_made(copy, &meta->made[i]);
	copy->snapshots = xcalloc(meta->n_snapshots, sizeof(*copy->snapshots));
	for (; copy->n_snapshots < meta->n_snapshots; copy->n_snapshots++)
		snapshot_copy(&meta->snapshots[copy->n_snapshots], copy, &copy->snapshots[copy->n_snapshots]);
	return copy;
}

/* ---------------------------------------------------------------- questions */

const struct vm_meta *vm_meta_newer(const struct vm_meta *domain, const struct vm_meta *copy)
{
	if (!domain || !copy)
		return domain ? domain : copy;
	return copy->serial > domain->serial ? copy : domain;
}

static struct vm_meta_id id_of(const struct vm_meta_snapshot *s)
{
	return (struct vm_meta_id){ s->name, s->created_ns, s->kind };
}

/* Where it is in the list; n_snapshots: nowhere. */
static size_t position(const struct vm_meta *meta, const struct vm_meta_id *id)
{
	size_t found = meta->n_snapshots;

	for (size_t i = 0; i < meta->n_snapshots; i++) {
		struct vm_meta_id other = id_of(&meta->snapshots[i]);

		if (!vm_meta_same(&other, id))
			continue;
		if (other.created_ns == id->created_ns)
			return i;
		if (found == meta->n_snapshots)
			found = i;
	}
	return found;
}

const struct vm_meta_snapshot *vm_meta_find(const struct vm_meta *meta, const struct vm_meta_id *id)
{
	size_t i = position(meta, id);

	return i < meta->n_snapshots ? &meta->snapshots[i] : NULL;
}

const struct vm_meta_snapshot *vm_meta_held_as(const struct vm_meta *meta, const struct vm_meta_id *id, bool (*borne)(const void *opaque, const char *name),
					       const void *opaque, size_t *at)
{
	while (*at < meta->n_snapshots) {
		const struct vm_meta_snapshot *s = &meta->snapshots[(*at)++];

		if (s->held && s->kind == id->kind && s->created_ns == id->created_ns && !borne(opaque, s->name))
			return s;
	}
	return NULL;
}

const char *vm_meta_why_doomed(const struct vm_meta *meta, const struct vm_meta_id *id, const char *target)
{
	const struct vm_meta_snapshot *s = vm_meta_find(meta, id);

	if (!s || !s->mark)
		return NULL;
	for (size_t i = 0; i < s->mark->n_disks; i++)
		if (!strcmp(s->mark->disks[i].target, target))
			return s->mark->reason;
	return s->mark->n_disks ? NULL : s->mark->reason;
}

const struct vm_meta_file *vm_meta_file(const struct vm_meta *meta, uint64_t number)
{
	size_t low = 0, high = meta->n_files;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (meta->files[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return low < meta->n_files && meta->files[low].number == number ? &meta->files[low] : NULL;
}

/* ---------------------------------------------------------------- changes */

/* And what it stood on. */
static void mark_used(const struct vm_meta *meta, bool *used, uint64_t number)
{
	for (const struct vm_meta_file *f = vm_meta_file(meta, number); f && !used[f - meta->files]; f = vm_meta_file(meta, f->beneath))
		used[f - meta->files] = true;
}

static void sweep_files(struct vm_meta *meta)
{
	vs_autofree bool *used = xcalloc(meta->n_files, sizeof(*used));
	size_t kept = 0;

	for (size_t i = 0; i < meta->n_snapshots; i++) {
		for (size_t k = 0; k < meta->snapshots[i].n_attested; k++)
			mark_used(meta, used, meta->snapshots[i].attested[k]);
		for (size_t k = 0; k < meta->snapshots[i].n_frozen; k++)
			mark_used(meta, used, meta->snapshots[i].frozen[k].file);
	}
	for (size_t i = 0; i < meta->n_files; i++)
		if (used[i])
			meta->files[kept++] = meta->files[i];
	meta->n_files = kept;
}

void vm_meta_bump(struct vm_meta *meta)
{
	sweep_files(meta);
	if (meta->serial < VM_META_SERIAL_MAX) /* else somebody invented it, and it must stay readable */
		meta->serial++;
}

void vm_meta_set_policy(struct vm_meta *meta, const char *policy)
{
	char *copy = xstrdup_or_null(policy);

	free(meta->policy);
	meta->policy = copy;
}

void vm_meta_set_on(struct vm_meta *meta, char *on)
{
	free(meta->on);
	meta->on = on;
}

bool vm_meta_is_on(const struct vm_meta *meta, const char *identity)
{
	size_t len = strlen(identity);

	for (const char *at = meta->on; at && *at; at += strspn(at, " ")) {
		size_t n = strcspn(at, " ");

		if (n == len && !strncmp(at, identity, n))
			return true;
		at += n;
	}
	return false;
}

void vm_meta_adopt(struct vm_meta *meta, const char *uuid)
{
	bool copied = meta->of && strcmp(meta->of, uuid) != 0;

	free(meta->of);
	meta->of = xstrdup(uuid);
	for (size_t i = meta->n_snapshots; copied && i-- > 0;) {
		struct vm_meta_snapshot *s = &meta->snapshots[i];
		struct vm_meta_id id = id_of(s);

		s->ours = false;
		drop_frozen(s);
		drop_nv(s); /* whose files are the other one's */
		if (!s->held && !s->mark)
			vm_meta_forget(meta, &id);
	}
	for (; copied && meta->n_made > 0; meta->n_made--)
		free((char *)meta->made[meta->n_made - 1].path);
	if (copied)
		sweep_files(meta);
}

/* The entry for @id, made if there is none. */
static struct vm_meta_snapshot *obtain(struct vm_meta *meta, const struct vm_meta_id *id)
{
	size_t i = position(meta, id);

	if (i < meta->n_snapshots)
		return &meta->snapshots[i];
	meta->snapshots = xreallocarray(meta->snapshots, meta->n_snapshots + 1, sizeof(*meta->snapshots));
	meta->snapshots[i] = (struct vm_meta_snapshot){ .name = xstrdup(id->name), .created_ns = id->created_ns, .kind = id->kind };
	return &meta->snapshots[meta->n_snapshots++];
}

static void remove_at(struct vm_meta *meta, size_t i)
{
	snapshot_fini(&meta->snapshots[i]);
	meta->n_snapshots--;
	memmove(&meta->snapshots[i], &meta->snapshots[i + 1], (meta->n_snapshots - i) * sizeof(*meta->snapshots));
}

static void drop_if_empty(struct vm_meta *meta, const struct vm_meta_snapshot *s)
{
	if (!s->ours && !s->held && !s->mark && !s->n_attested && !s->n_frozen && !s->n_nv)
		remove_at(meta, (size_t)(s - meta->snapshots));
}

static void set_flag(struct vm_meta *meta, const struct vm_meta_id *id, bool on, size_t offset)
{
	struct vm_meta_snapshot *s;

	if (!on && position(meta, id) == meta->n_snapshots)
		return;
	s = obtain(meta, id);
	*(bool *)((char *)s + offset) = on;
	drop_if_empty(meta, s);
}

void vm_meta_set_ours(struct vm_meta *meta, const struct vm_meta_id *id, bool ours)
{
	set_flag(meta, id, ours, offsetof(struct vm_meta_snapshot, ours));
}

void vm_meta_set_held(struct vm_meta *meta, const struct vm_meta_id *id, bool held)
{
	set_flag(meta, id, held, offsetof(struct vm_meta_snapshot, held));
}

void vm_meta_set_mark(struct vm_meta *meta, const struct vm_meta_id *id, const struct vm_meta_mark *mark)
{
	struct vm_meta_mark *obtained = NULL;
	struct vm_meta_snapshot *s;

	if (!mark && position(meta, id) == meta->n_snapshots)
		return;
	if (mark)
		obtained = mark_obtain(meta, mark);
	s = obtain(meta, id);
	mark_release(s->mark);
	s->mark = obtained;
	drop_if_empty(meta, s);
}

size_t vm_meta_marks(const struct vm_meta *meta, const struct vm_meta_mark **marks)
{
	size_t n = 0;

	for (size_t i = 0; i < meta->n_snapshots; i++) {
		const struct vm_meta_mark *mark = meta->snapshots[i].mark;
		bool known = !mark;

		for (size_t k = 0; !known && k < n; k++)
			known = marks[k] == mark;
		if (!known)
			marks[n++] = mark;
	}
	return n;
}

/* ---------------------------------------------------------------- what is attested */

static bool same_state(const struct vm_meta_file *a, const struct vm_meta_file *b)
{
	return a->ino == b->ino && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

/* Behind all the others; where somebody has invented the last number there is, at the first one that is free. */
static uint64_t insert(struct vm_meta *meta, const struct vm_meta_file *file)
{
	uint64_t number = meta->n_files ? meta->files[meta->n_files - 1].number : 0;
	size_t at = meta->n_files;

	uint64_t beneath = number < VM_META_SERIAL_MAX && vm_meta_file(meta, file->beneath) ? file->beneath : 0; /* which has a smaller number */

	if (number < VM_META_SERIAL_MAX)
		number++;
	else
		for (number = 1, at = 0; at < meta->n_files && meta->files[at].number == number; at++)
			number++;
	meta->files = xreallocarray(meta->files, meta->n_files + 1, sizeof(*meta->files));
	memmove(&meta->files[at + 1], &meta->files[at], (meta->n_files++ - at) * sizeof(*meta->files));
	meta->files[at] = *file;
	meta->files[at].beneath = beneath;
	return meta->files[at].number = number;
}

uint64_t vm_meta_add_file(struct vm_meta *meta, const struct vm_meta_file *file)
{
	for (size_t i = 0; i < meta->n_files; i++) {
		struct vm_meta_file *f = &meta->files[i];

		if (!same_state(f, file) || f->beneath != file->beneath || f->alone != file->alone || f->raw != file->raw ||
		    f->survived != file->survived)
			continue;
		f->sum = file->sum ? file->sum : f->sum;
		return f->number;
	}
	return insert(meta, file);
}

/* The number of that file, whatever it stood on. */
static uint64_t number_of(struct vm_meta *meta, const struct vm_meta_file *file)
{
	for (size_t i = 0; i < meta->n_files; i++)
		if (same_state(&meta->files[i], file))
			return meta->files[i].number;
	return insert(meta, file);
}

/* Several disks may stand on one file. */
static void add_once(uint64_t *numbers, size_t *n, uint64_t number)
{
	for (size_t i = 0; i < *n; i++)
		if (numbers[i] == number)
			return;
	numbers[(*n)++] = number;
}

void vm_meta_set_attested(struct vm_meta *meta, const struct vm_meta_id *id, const struct vm_meta_file *files, size_t n)
{
	uint64_t *numbers;
	size_t n_numbers = 0;
	struct vm_meta_snapshot *s;

	if (!n && position(meta, id) == meta->n_snapshots)
		return;
	numbers = xcalloc(n, sizeof(*numbers));
	s = obtain(meta, id);
	for (size_t i = 0; i < n; i++)
		add_once(numbers, &n_numbers, number_of(meta, &files[i]));
	free(s->attested);
	s->attested = numbers;
	s->n_attested = n_numbers;
	drop_if_empty(meta, s);
}

/* ---------------------------------------------------------------- what it froze */

static struct vm_meta_frozen *frozen_of(const struct vm_meta_snapshot *s, const char *target)
{
	for (size_t i = 0; s && i < s->n_frozen; i++)
		if (!strcmp(s->frozen[i].target, target))
			return &s->frozen[i];
	return NULL;
}

static struct vm_meta_frozen *obtain_frozen(struct vm_meta *meta, const struct vm_meta_id *id, const char *target)
{
	struct vm_meta_snapshot *s = obtain(meta, id);
	struct vm_meta_frozen *found = frozen_of(s, target);

	if (found)
		return found;
	s->frozen = xreallocarray(s->frozen, s->n_frozen + 1, sizeof(*s->frozen));
	s->frozen[s->n_frozen] = (struct vm_meta_frozen){ .target = xstrdup(target) };
	return &s->frozen[s->n_frozen++];
}

/* With all that it stood on, whose numbers are smaller. Not deeper than they are many. */
static uint64_t take_file(struct vm_meta *meta, const struct vm_meta *theirs, uint64_t number)
{
	const struct vm_meta_file *file = vm_meta_file(theirs, number);
	struct vm_meta_file mine;

	if (!file)
		return 0;
	mine = *file;
	mine.beneath = take_file(meta, theirs, file->beneath);
	return vm_meta_add_file(meta, &mine);
}

void vm_meta_take_frozen(struct vm_meta *meta, const struct vm_meta *theirs, const struct vm_meta_id *id)
{
	const struct vm_meta_snapshot *said = vm_meta_find(theirs, id);

	for (size_t i = 0; said && i < said->n_frozen; i++) {
		const struct vm_meta_frozen *f = &said->frozen[i];

		if (f->spoilt)
			vm_meta_set_spoilt(meta, id, f->target, true);
		if (f->shows && !vm_meta_shows(meta, id, f->target))
			vm_meta_set_shows(meta, id, f->target, f->shows);
		if (f->file && !vm_meta_frozen(meta, id, f->target)) {
			uint64_t number = take_file(meta, theirs, f->file);

			obtain_frozen(meta, id, f->target)->file = number;
		}
	}
}

void vm_meta_set_frozen(struct vm_meta *meta, const struct vm_meta_id *id, const char *target, const struct vm_meta_file *file)
{
	uint64_t number = vm_meta_add_file(meta, file);

	obtain_frozen(meta, id, target)->file = number;
}

bool vm_meta_set_spoilt(struct vm_meta *meta, const struct vm_meta_id *id, const char *target, bool spoilt)
{
	if (vm_meta_is_spoilt(meta, id, target) == spoilt)
		return false;
	obtain_frozen(meta, id, target)->spoilt = spoilt;
	return true;
}

void vm_meta_forget_notes(struct vm_meta *meta, const struct vm_meta_id *id)
{
	size_t i = position(meta, id);
	struct vm_meta_snapshot *s = i < meta->n_snapshots ? &meta->snapshots[i] : NULL;

	for (size_t k = 0; s && k < s->n_frozen; k++)
		free(s->frozen[k].target);
	if (s) {
		s->n_frozen = s->n_attested = 0;
		drop_nv(s);
	}
}

const struct vm_meta_nv *vm_meta_nv(const struct vm_meta *meta, const struct vm_meta_id *id, const char *what)
{
	const struct vm_meta_snapshot *s = vm_meta_find(meta, id);

	for (size_t i = 0; s && i < s->n_nv; i++)
		if (!strcmp(s->nv[i].what, what))
			return &s->nv[i];
	return NULL;
}

bool vm_meta_has_nv(const struct vm_meta *meta, const char *path, uint64_t ino)
{
	for (size_t i = 0; i < meta->n_snapshots; i++)
		for (size_t k = 0; k < meta->snapshots[i].n_nv; k++)
			if (meta->snapshots[i].nv[k].ino == ino && !strcmp(meta->snapshots[i].nv[k].path, path))
				return true;
	return false;
}

void vm_meta_set_nv(struct vm_meta *meta, const struct vm_meta_id *id, const struct vm_meta_nv *nv)
{
	struct vm_meta_snapshot *s = obtain(meta, id);
	size_t i = 0;

	while (i < s->n_nv && strcmp(s->nv[i].what, nv->what) != 0)
		i++;
	if (i == s->n_nv) {
		s->nv = xreallocarray(s->nv, s->n_nv + 1, sizeof(*s->nv));
		s->nv[s->n_nv++] = (struct vm_meta_nv){ .what = xstrdup(nv->what) };
	}
	free(s->nv[i].path);
	s->nv[i] = (struct vm_meta_nv){ s->nv[i].what, xstrdup(nv->path), nv->ino, nv->size, nv->sum, nv->mtime_ns };
}

void vm_meta_set_shows(struct vm_meta *meta, const struct vm_meta_id *id, const char *target, uint64_t sum)
{
	obtain_frozen(meta, id, target)->shows = sum;
}

uint64_t vm_meta_shows(const struct vm_meta *meta, const struct vm_meta_id *id, const char *target)
{
	const struct vm_meta_frozen *found = frozen_of(vm_meta_find(meta, id), target);

	return found ? found->shows : 0;
}

bool vm_meta_is_spoilt(const struct vm_meta *meta, const struct vm_meta_id *id, const char *target)
{
	const struct vm_meta_frozen *found = frozen_of(vm_meta_find(meta, id), target);

	return found && found->spoilt;
}

const struct vm_meta_file *vm_meta_frozen(const struct vm_meta *meta, const struct vm_meta_id *id, const char *target)
{
	const struct vm_meta_frozen *found = frozen_of(vm_meta_find(meta, id), target);

	return found ? vm_meta_file(meta, found->file) : NULL;
}

void vm_meta_restamp(struct vm_meta *meta, const struct vm_meta_file *now, const struct vm_meta_file *was)
{
	struct vm_meta_file last = { .ino = 0 };

	for (size_t i = 0; i < meta->n_files; i++) {
		const struct vm_meta_file *f = &meta->files[i];

		if (f->ino == now->ino && (was ? same_state(f, was) : !last.ino || f->mtime_ns > last.mtime_ns))
			last = *f;
	}
	for (size_t i = 0; last.ino && i < meta->n_files; i++)
		if (same_state(&meta->files[i], &last)) {
			meta->files[i].size = now->size;
			meta->files[i].mtime_ns = now->mtime_ns;
		}
}

/* The number of what @number is when it stands, further down, on @now instead of what that file was; the same: it does not. */
static uint64_t restand(struct vm_meta *meta, uint64_t number, uint64_t top_ino, const struct vm_meta_file *now)
{
	const struct vm_meta_file *found = vm_meta_file(meta, number), *beneath = found ? vm_meta_file(meta, found->beneath) : NULL;
	struct vm_meta_file f;

	if (!beneath)
		return number;
	f = *found;
	if (f.ino == top_ino && beneath->ino == now->ino) {
		struct vm_meta_file base = *beneath;

		base.size = now->size;
		base.mtime_ns = now->mtime_ns;
		base.sum = 0;
		base.empty = false;
		f.beneath = vm_meta_add_file(meta, &base);
	} else {
		f.beneath = restand(meta, f.beneath, top_ino, now);
	}
	return vm_meta_add_file(meta, &f);
}

void vm_meta_restand(struct vm_meta *meta, uint64_t top_ino, const struct vm_meta_file *now)
{
	for (size_t i = 0; i < meta->n_snapshots; i++)
		for (size_t k = 0; k < meta->snapshots[i].n_frozen; k++)
			if (!meta->snapshots[i].frozen[k].spoilt)
				meta->snapshots[i].frozen[k].file = restand(meta, meta->snapshots[i].frozen[k].file, top_ino, now);
}

/* ---------------------------------------------------------------- what we made */

bool vm_meta_is_made(const struct vm_meta_made *made, uint64_t ino, int64_t born_ns)
{
	return (!made->ino || made->ino == ino) && (!made->born_ns || !born_ns || made->born_ns == born_ns);
}

static struct vm_meta_made *made_at(const struct vm_meta *meta, const char *path)
{
	for (size_t i = 0; i < meta->n_made; i++)
		if (!strcmp(meta->made[i].path, path))
			return &meta->made[i];
	return NULL;
}

bool vm_meta_has_made(const struct vm_meta *meta, const struct vm_meta_made *file)
{
	const struct vm_meta_made *made = made_at(meta, file->path);

	return made && vm_meta_is_made(made, file->ino, file->born_ns);
}

void vm_meta_add_made(struct vm_meta *meta, const struct vm_meta_made *file)
{
	struct vm_meta_made *made = made_at(meta, file->path);

	if (made) {
		made->ino = file->ino;
		made->born_ns = file->born_ns;
		return;
	}
	meta->made = xreallocarray(meta->made, meta->n_made + 1, sizeof(*meta->made));
	meta->made[meta->n_made] = *file;
	meta->made[meta->n_made++].path = xstrdup(file->path);
}

size_t vm_meta_sweep_made(struct vm_meta *meta, bool (*is_there)(const struct vm_meta_made *file))
{
	size_t kept = 0, n = meta->n_made;

	for (size_t i = 0; i < n; i++) {
		if (is_there(&meta->made[i]))
			meta->made[kept++] = meta->made[i];
		else
			free((char *)meta->made[i].path);
	}
	meta->n_made = kept;
	return n - kept;
}

/* ---------------------------------------------------------------- the end of a snapshot */

bool vm_meta_forget(struct vm_meta *meta, const struct vm_meta_id *id)
{
	size_t i = position(meta, id);

	if (i == meta->n_snapshots)
		return false;
	remove_at(meta, i);
	return true;
}

size_t vm_meta_sweep(struct vm_meta *meta, bool (*exists)(const struct vm_meta_id *id, void *opaque), void *opaque)
{
	size_t n = meta->n_snapshots;

	for (size_t i = meta->n_snapshots; i-- > 0;) {
		struct vm_meta_id id = id_of(&meta->snapshots[i]);

		if (!exists(&id, opaque))
			remove_at(meta, i);
	}
	return n - meta->n_snapshots;
}
