/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Content is compared cluster by cluster: what the moved layers say against what is read now, each through a view of its own, without any
 * cache that was there before.
 *
 * A header that is put back has to agree with the definition: libvirt starts QEMU on the chain that <backingStore> names, where it does, and
 * it corrects that when a job ends. So a <backingStore> that tells otherwise goes first.
 */
#include "vm/command/content.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/command/attest.h"
#include "vm/libvirt/qemu-img.h"
#include "vm/observe/sum.h"
#include "vm/util/clock.h"
#include "vm/util/fault.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"
#include "vm/util/sync.h"
#include "vm/xml/edit.h"

#define PIECE (1024 * 1024)
#define TABLE_BYTES (16 * 1024 * 1024)

/* ---------------------------------------------------------------- content */

static bool is_cancelled(void *opaque)
{
	return vm_context_cancelled(opaque, NULL) < 0;
}

struct comparison {
	struct q2_cache *cache[2]; /* of each: what one has read of a file the other one is to read for itself */
	struct q2_view *moved, *now; /* what shows the layers that were merged, and what is to have their content */
	struct q2_work work;
	char *a, *b;
};

static int open_view(struct q2_cache *cache, const struct vm_content_image *image, bool direct, struct q2_view **view, struct vs_err *err)
{
	struct q2_view_spec spec = { .path = image->path, .format = image->format, .gate = image->gate, .direct = direct };

	return q2_view_open(cache, &spec, view, err);
}

static void comparison_fini(struct comparison *c)
{
	if (c->moved)
		q2_view_close(c->moved);
	if (c->now)
		q2_view_close(c->now);
	for (size_t i = 0; i < VS_ARRAY_LEN(c->cache); i++)
		q2_cache_free(c->cache[i]);
	free(c->a);
	free(c->b);
}

/* 1: the same bytes; 0: others. Past its end an image is zeros. */
static int compare_piece(struct comparison *c, uint64_t off, size_t len, struct vs_err *err)
{
	ssize_t n = q2_view_read(c->moved, c->a, len, off, &c->work, err), m = 0;

	if (n < 0)
		return (int)n;
	if (off < q2_view_size(c->now))
		m = q2_view_read(c->now, c->b, (size_t)n, off, &c->work, err);
	if (m < 0)
		return (int)m;
	memset(c->b + m, 0, (size_t)(n - m));
	return !memcmp(c->a, c->b, (size_t)n);
}

/* Does what is to have it say itself what is there, if only that it is zeros? Then the guest wants it so, or it was pulled. */
static int said_above(struct comparison *c, uint64_t off, uint64_t *len, struct vs_err *err)
{
	struct q2_extent e;
	int r;

	if (off >= q2_view_size(c->now))
		return 0;
	r = q2_view_extent(c->now, off, *len, &c->work, &e, err);
	if (r < 0)
		return r;
	*len = e.guest_off + e.len - off < *len ? e.guest_off + e.len - off : *len;
	return e.depth == 0 && !e.unallocated;
}

static int compare_extent(struct comparison *c, uint64_t off, uint64_t len, bool pulled, struct vs_err *err)
{
	int r = 1;

	while (r == 1 && len) {
		uint64_t piece = len < PIECE ? len : PIECE;

		r = pulled ? said_above(c, off, &piece, err) : 0;
		if (r == 0)
			r = compare_piece(c, off, (size_t)piece, err);
		off += piece;
		len -= piece;
	}
	return r;
}

/* Of what @moved shows, all that comes from its first @depth layers. 1: it is there; 0: it is not; negative: nobody can tell. */
static int compare(struct comparison *c, unsigned depth, bool pulled, struct vs_err *err)
{
	uint64_t size = q2_view_size(c->moved), seen = q2_view_size(c->now), next;
	int r = 1;

	if (pulled && seen < size)
		size = seen; /* what lies past the end of the disk it never showed */
	for (uint64_t off = 0; r == 1 && off < size; off = next) {
		struct q2_extent e;

		r = q2_view_extent(c->moved, off, size - off, &c->work, &e, err);
		if (r < 0)
			return r;
		next = e.guest_off + e.len;
		r = e.depth < depth ? compare_extent(c, off, next - off, pulled, err) : 1;
	}
	return r;
}

/*
 * What is in the host's cache alone does not count: what it is read from elsewhere may be removed then. So it is written out, and read past that cache, where a
 * failure to write has left what never came to the disk. A guest that runs may have nothing else, so for him nothing of it is dropped.
 */
static int write_out(struct vm_context *cx, const struct vm_layer *now, struct vs_err *err)
{
	const char *files[] = { now->data, now->path };
	bool told = false;
	int r = 0;

	for (size_t i = 0; r == 0 && i < VS_ARRAY_LEN(files); i++)
		r = files[i] ? vm_sync_unheld(files[i], !cx->running, &told) : 0;
	return r < 0 ? vs_err_set(err, r, "'%s' cannot be written to the disk: %s", now->path, strerror(-r)) : 0;
}

void vm_content_uncache(const struct vm_layer *layer)
{
	bool told = false;

	if (layer->data)
		vm_sync_unheld(layer->data, true, &told);
	vm_sync_unheld(layer->path, true, &told);
}

static int open_now(struct vm_context *cx, struct comparison *c, const struct vm_content_image *image, struct vs_err *err)
{
	struct vs_err why = {0};
	int r = open_view(c->cache[1], image, true, &c->now, &why);

	if (r != -EOPNOTSUPP)
		return r < 0 ? vs_err_set(err, r, "%s", vs_err_text(&why, r)) : 0;
	if (cx->running && !cx->guest_up)
		return vs_err_set(err, -EBUSY, "%s: shut the domain down first", why.msg);
	return open_view(c->cache[1], image, false, &c->now, err); /* its cache was dropped, as far as there is a disk */
}

int vm_content_is_there(struct vm_context *cx, const struct vm_content_image *moved, unsigned depth, const struct vm_layer *now, bool pulled,
			struct vs_err *err)
{
	struct comparison c vs_cleanup(comparison_fini) = {
		.cache = { q2_cache_new(TABLE_BYTES, 0), q2_cache_new(TABLE_BYTES, 0) },
		.work = { .stop = is_cancelled, .opaque = cx }, .a = xcalloc(PIECE, 1), .b = xcalloc(PIECE, 1),
	};
	const struct vm_content_image target = { now->path, now->format, cx->d->gate };
	int r = write_out(cx, now, err);

	if (!c.cache[0] || !c.cache[1])
		xoom();
	if (r == 0)
		r = open_view(c.cache[0], moved, false, &c.moved, err);
	if (r == 0)
		r = open_now(cx, &c, &target, err);
	return r == 0 ? compare(&c, depth, pulled, err) : r;
}

/* ---------------------------------------------------------------- the definition */

enum named { UNKNOWN, THAT_FILE, ANOTHER };

/* Is there a directory, in which no such file is? Else the path may lead somewhere when something is mounted again, say. */
static bool is_missing(const char *path)
{
	vs_autofree char *dir = xstrndup(path, (size_t)(strrchr(path, '/') - path) + 1);
	struct stat st;

	return stat(dir, &st) == 0;
}

static enum named which_file(struct vm_context *cx, const struct vm_xml_source *source, const char *file)
{
	vs_autofree char *path = vm_dom_source_path(cx->dom, source);
	struct stat a, b;

	if (!path || stat(file, &b) < 0)
		return UNKNOWN;
	if (stat(path, &a) < 0)
		return errno == ENOENT && path[0] == '/' && is_missing(path) ? ANOTHER : UNKNOWN;
	return a.st_dev == b.st_dev && a.st_ino == b.st_ino ? THAT_FILE : ANOTHER;
}

/* Does its <backingStore> say that @layer stands on something else than @below? QEMU would be started on that. */
static bool is_pinned(struct vm_context *cx, const struct vm_xml_disk *disk, const char *layer, const char *below)
{
	for (size_t i = 0; i <= disk->n_below; i++) {
		if (which_file(cx, i ? &disk->below[i - 1] : &disk->source, layer) != THAT_FILE)
			continue;
		return i < disk->n_below ? which_file(cx, &disk->below[i], below) == ANOTHER : disk->below_complete;
	}
	return false;
}

static int unpin(struct vm_context *cx, const char *target, struct vs_err *err)
{
	vs_autofree char *text = NULL, *free_of_it = NULL;
	int r = vm_dom_text(cx->dom, VIR_DOMAIN_XML_SECURE | VIR_DOMAIN_XML_INACTIVE, &text, err);

	if (r == 0)
		r = vm_edit_unpin(text, target, &free_of_it, err);
	if (r >= 0)
		r = vm_dom_define(cx->dom, free_of_it, err);
	if (r == 0)
		vm_log(cx->log, "disk %s: the definition says no more what its images stand on: their headers do", target);
	return r;
}

static int unpin_disks(struct vm_context *cx, const char *layer, const char *below, struct vs_err *err)
{
	vm_dom_autodomain struct vm_xml_domain *domain = NULL;
	int r = vm_dom_xml(cx->dom, VIR_DOMAIN_XML_INACTIVE, &domain, err), n = 0;

	for (size_t i = 0; r == 0 && i < domain->n_disks; i++)
		if (is_pinned(cx, &domain->disks[i], layer, below)) {
			r = unpin(cx, domain->disks[i].target, err);
			n++;
		}
	return r < 0 ? r : n;
}

int vm_content_unpin(struct vm_context *cx, int layer, const char *below, struct vs_err *err)
{
	return vm_dom_active(cx->dom, NULL) == 0 ? unpin_disks(cx, cx->d->layers[layer].path, below, err) : 0;
}

/* ---------------------------------------------------------------- the header, put back */

#define TAIL_NS (30 * VM_NS_PER_S) /* between the last data that QEMU moves and the header */

/* Was it QEMU that wrote to it last, whose header came right after the data? Else somebody has since, and what it shows is not what was
 * frozen. */
static bool is_qemus(const struct vm_context *cx, int layer, const char *written, int64_t since_ns)
{
	struct stat st, to;
	int64_t last;

	if (cx->d->layers[layer].active || stat(cx->d->layers[layer].path, &st) < 0)
		return false;
	if (!written || stat(written, &to) < 0 || !S_ISREG(to.st_mode))
		return true;
	last = vm_timespec_ns(to.st_mtim) > since_ns ? vm_timespec_ns(to.st_mtim) : since_ns; /* where there was nothing to move */
	return vm_timespec_ns(st.st_mtim) <= last + TAIL_NS;
}

/* ---------------------------------------------------------------- is a snapshot still all there is? */

static bool is_same_place(const struct q2_extent *x, const struct q2_extent *y)
{
	if (x->kind != y->kind)
		return false;
	return x->kind == Q2_ZERO || (!strcmp(x->file->path, y->file->path) && x->host_off == y->host_off);
}

static bool same_map(struct q2_view *a, struct q2_view *b)
{
	uint64_t size = q2_view_size(a), off = 0;
	struct q2_extent x, y;

	if (size != q2_view_size(b))
		return false;
	for (; off < size; off += x.len < y.len ? x.len : y.len)
		if (q2_view_extent(a, off, size - off, NULL, &x, NULL) < 0 || q2_view_extent(b, off, size - off, NULL, &y, NULL) < 0 || !is_same_place(&x, &y))
			return false;
	return true;
}

bool vm_content_is_present(const struct vm_context *cx, const struct vm_disk *disk, int layer)
{
	const struct vm_layer *l = layer < 0 ? NULL : &cx->d->layers[layer];
	struct q2_cache *cache = l && disk->chain && disk->chain[0] ? q2_cache_new(TABLE_BYTES, 0) : NULL;
	struct q2_view *kept = NULL, *now = NULL;
	bool same;

	if (!cache)
		return false;
	same = q2_view_open(cache, &(struct q2_view_spec){ .path = disk->chain[0], .format = disk->format, .snapshot = disk->snapshot, .gate = disk->gate },
			    &kept, NULL) == 0 &&
	       q2_view_open(cache, &(struct q2_view_spec){ .path = l->path, .format = l->format, .gate = cx->d->gate }, &now, NULL) == 0 && same_map(kept, now);
	if (kept)
		q2_view_close(kept);
	if (now)
		q2_view_close(now);
	q2_cache_free(cache);
	return same;
}

/* ---------------------------------------------------------------- who wrote to it last? */

/* Nothing of what was noted of it has the sum that it has now. */
static bool has_other_data(const struct vm_context *cx, const struct vm_layer *l)
{
	bool known = false;
	struct stat st;

	for (size_t i = 0; i < cx->meta->n_files; i++) {
		const struct vm_meta_file *f = &cx->meta->files[i];

		if (!f->sum || f->ino != l->stamp.ino || stat(l->path, &st) < 0)
			continue;
		known = true;
		if (vm_sum(l->path, &(struct vm_sum_file){ st.st_ino, (uint64_t)st.st_size, vm_timespec_ns(st.st_mtim) }, l->format) == f->sum)
			return false;
	}
	return known;
}

bool vm_content_vouch(struct vm_context *cx, int layer, const char *written, int64_t since_ns)
{
	bool vouched = is_qemus(cx, layer, written, since_ns) && !has_other_data(cx, &cx->d->layers[layer]);

	if (!vouched)
		vm_attest_spoilt_in(cx, layer);
	return vouched;
}

/*
 * Between the new header and the note of its time we may die: then the image looks written. So what is about to be done is in the journal,
 * a line "back": ino, size and mtime before, the time, whether it is vouched for; path; path of what it is to stand on.
 */
struct back {
	struct vm_meta_file was;
	int64_t when_ns;
	bool vouched;
	char *path, *below;
};

static char *back_text(const struct back *b)
{
	return xasprintf("%" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 " %d\n%s\n%s", b->was.ino, b->was.size, b->was.mtime_ns, b->when_ns, b->vouched,
			 b->path, b->below);
}

static void restamp(struct vm_context *cx, const struct back *b, const struct stat *now)
{
	const struct vm_meta_file file = { .ino = now->st_ino, .size = (uint64_t)now->st_size, .mtime_ns = vm_timespec_ns(now->st_mtim) };

	vm_meta_restamp(cx->meta, &file, b->vouched ? NULL : &b->was);
}

int vm_content_put_back(struct vm_context *cx, int layer, const struct vm_content_image *below, bool vouched, struct vs_err *err)
{
	const struct vm_layer *l = &cx->d->layers[layer];
	const char *const argv[] = { "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", q2_format_name(below->format), "-b", below->path, l->path, NULL };
	struct back b = { .when_ns = vm_now_ns(), .vouched = vouched, .path = l->path, .below = (char *)below->path };
	vs_autofree char *text = NULL;
	struct stat st;
	int r = vm_dom_active(cx->dom, err);

	if (r > 0)
		return vs_err_set(err, -EBUSY, "the domain is up: shut it down first");
	vm_context_unguard(cx);
	if (r == 0)
		r = unpin_disks(cx, l->path, below->path, err); /* first: until the header is right it is looked at again */
	if (r >= 0 && stat(l->path, &st) < 0)
		r = vs_err_set(err, -errno, "'%s': %s", l->path, strerror(errno));
	if (r < 0)
		return r;
	b.was = (struct vm_meta_file){ .ino = st.st_ino, .size = (uint64_t)st.st_size, .mtime_ns = vm_timespec_ns(st.st_mtim) };
	text = back_text(&b);
	r = vm_journal_add(&cx->journal, "back", text, err);
	if (r == 0)
		r = vm_qemu_img_run(argv, err);
	vm_fault();
	if (r < 0)
		return r;
	vm_log(cx->log, "'%s' stands on '%s' again, as before: not all that was to be moved is where it was to go", l->path, below->path);
	if (stat(l->path, &st) == 0)
		restamp(cx, &b, &st);
	return 1;
}

/* ---------------------------------------------------------------- ... and died then */

struct settling {
	struct vm_context *cx;
	bool news;
};

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* What was noted of it has a sum, and that is another one now. */
static bool has_other_sum(const struct vm_context *cx, const struct vm_layer *l, const struct back *b, const struct stat *st)
{
	const struct vm_sum_file now = { st->st_ino, (uint64_t)st->st_size, vm_timespec_ns(st->st_mtim) };

	for (size_t i = 0; i < cx->meta->n_files; i++) {
		const struct vm_meta_file *f = &cx->meta->files[i];

		if (f->sum && f->ino == b->was.ino && f->size == b->was.size && f->mtime_ns == b->was.mtime_ns)
			return vm_sum(l->path, &now, l->format) != f->sum;
	}
	return false;
}

/* Was it done, and has nobody written to it since? Else there is nothing to note. */
static bool is_no_matter(const char *text, void *opaque)
{
	struct settling *s = opaque;
	vs_autofree char *copy = xstrdup(text);
	char *at = copy, *first = strsep(&at, "\n");
	struct back b = { .path = strsep(&at, "\n"), .below = at };
	const struct vm_layer *l;
	int vouched = 0, i;
	struct stat st;

	if (!b.below || sscanf(first, "%" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNd64 " %d", &b.was.ino, &b.was.size, &b.was.mtime_ns, &b.when_ns,
			       &vouched) != 5)
		return true;
	b.vouched = vouched;
	i = vm_context_layer(s->cx, b.path);
	l = i < 0 ? NULL : &s->cx->d->layers[i];
	if (!l || l->below < 0 || stat(l->path, &st) < 0 || st.st_ino != b.was.ino || !same_file(s->cx->d->layers[l->below].path, b.below) ||
	    vm_timespec_ns(st.st_mtim) > b.when_ns + TAIL_NS)
		return true;
	if (has_other_sum(s->cx, l, &b, &st))
		return true;
	restamp(s->cx, &b, &st);
	s->news = true;
	return false;
}

bool vm_content_settle(struct vm_context *cx)
{
	struct settling s = { cx, false };

	vm_journal_settle(&cx->journal, "back", is_no_matter, &s);
	return s.news;
}

void vm_content_saved(struct vm_context *cx)
{
	vm_journal_drop(&cx->journal, "back");
}
