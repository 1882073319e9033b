/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Three ways out
 * --------------
 *	spliced   every byte lies in a file as it is: the pieces' descriptors go into the reply and the kernel copies
 *	          once. Half as fast again as copying at 512 KiB, slower below some 16 KiB.
 *	zeros     nothing is stored: from one static buffer.
 *	copied    everything else: q2_view_read() into this thread's buffer, which also validates.
 *
 * Splicing hands bytes on after the last look at them, so it is for views only whose files nobody can change meanwhile:
 *
 *	settled   all layers are frozen and have the guard lock. Our own commands, before whom guards are dropped, wait for replies
 *	          that are on their way (view.c).
 *	leased    all files have a read lease (lease.c), so that nobody has them open for writing: internal snapshots, and what a
 *	          guard would hinder, while the image is not in use. It is taken when somebody reads and given up when somebody else opens the image
 *	          for writing, or nobody reads any more:
 *
 *	              map ─► lease held? ─► q2_view_check() ─► fill a pipe ─► still held? ─► to the device ─► let go
 *	                     else take it,                     (may wait      with no time in between
 *	                     and check all anew                 for a disk)
 *
 * A disk may be slow. So while the pipe is filled it is asked whether the reader still waits, and whether somebody waits for the lease: then the
 * pipe is thrown away.
 *
 * Whatever fails on the way is copied. What is all zeros is like a copy: nothing can change it after the check.
 *
 * What is settled libfuse sends; a lease has to be looked at between the filling of the pipe and the sending, so there the pipe is ours (splice.c).
 *
 * Limits. Replies go through a pipe of at most 1 MiB, which takes 512 KiB in up to some 120 pieces: SF_SPLICE_PIECES; with more, libfuse would
 * silently take a path slower than any other. What lies past the end of a host file reads as zeros, and a splice would come back short: such
 * requests are copied.
 */
#include "read.h"

#include <errno.h>
#include <string.h>

#include "clock.h"
#include "fs.h"
#include "splice.h"
#include "vm/util/mem.h"

#define SPLICE_LEAST 16384
#define ASK_NS 1000000 /* a lease of many files takes many system calls to look at */

static const char zeros[SF_BLOCK_SIZE];

/* ---------------------------------------------------------------- what a thread needs for a request */

struct scratch {
	char *buf; /* SF_BLOCK_SIZE bytes, page-aligned: also O_DIRECT reads into it */
	struct sf_piece pieces[SF_SPLICE_PIECES];
	size_t n_pieces;
	struct fuse_bufvec *bufs; /* room for as many */
};

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void scratch_free(void *opaque)
{
	struct scratch *s = opaque;

	free(s->buf);
	free(s->bufs);
	free(s);
}

static void make_key(void)
{
	if (pthread_key_create(&scratch_key, scratch_free))
		xoom();
}

/* This thread's, until it ends. */
static struct scratch *scratch_get(void)
{
	struct scratch *s;

	pthread_once(&scratch_once, make_key);
	s = pthread_getspecific(scratch_key);
	if (s)
		return s;
	s = xcalloc(1, sizeof(*s));
	s->buf = aligned_alloc(4096, SF_BLOCK_SIZE);
	s->bufs = xcalloc(1, sizeof(struct fuse_bufvec) + SF_SPLICE_PIECES * sizeof(struct fuse_buf));
	if (!s->buf || pthread_setspecific(scratch_key, s))
		xoom();
	return s;
}

/* ---------------------------------------------------------------- spliced */

struct request {
	struct sf_req *r;
	struct sf_waiter *waiter;
	struct scratch *scratch;
	size_t len;
	uint64_t off;
	size_t counted; /* of it: bytes that were counted for a reply that could not be sent after all */
};

enum way { SPLICED, ZEROS, COPIED };

/* Appends an extent, or lets it grow the piece before. */
static bool add_piece(struct scratch *s, const struct q2_extent *e)
{
	struct sf_piece *last = s->n_pieces ? &s->pieces[s->n_pieces - 1] : NULL;

	if (last && last->fd == e->file->fd && last->off + (off_t)last->len == (off_t)e->host_off) {
		last->len += e->len;
		return true;
	}
	if (s->n_pieces == SF_SPLICE_PIECES)
		return false;
	s->pieces[s->n_pieces++] = (struct sf_piece){.fd = e->file->fd, .off = (off_t)e->host_off, .len = e->len};
	return true;
}

static bool is_in_file(const struct q2_extent *e)
{
	uint64_t size;

	return e->file->fd >= 0 && e->file->ops->size(e->file, &size) >= 0 && e->host_off <= size &&
	       e->len <= size - e->host_off;
}

/* Maps the whole request. COPIED also where the mapping fails: then the copy says why. */
static enum way map_request(struct q2_view *q2, const struct request *q, size_t len)
{
	struct scratch *s = q->scratch;
	size_t zero_len = 0;
	struct q2_extent e;

	s->n_pieces = 0;
	for (size_t done = 0; done < len; done += e.len) {
		if (q2_view_extent(q2, q->off + done, len - done, &q->waiter->work, &e, NULL) < 0)
			return COPIED;
		if (e.kind == Q2_ZERO)
			zero_len += e.len;
		else if (e.kind != Q2_DATA || !is_in_file(&e) || !add_piece(s, &e))
			return COPIED;
		if (zero_len && s->n_pieces)
			return COPIED;
	}
	return s->n_pieces ? SPLICED : ZEROS;
}

/* ---------------------------------------------------------------- one read of one view */

/* Before the reply: who has it may ask at once how much was read. */
static void count(struct sf_req *r, int64_t n)
{
	atomic_fetch_add(&r->fs->metrics.read_bytes, (uint64_t)n);
}

static void count_once(struct request *q, size_t n)
{
	if (n <= q->counted)
		return;
	count(q->r, (int64_t)(n - q->counted));
	q->counted = n;
}

static int64_t copy_request(struct q2_view *q2, struct request *q, size_t len, struct vs_err *err)
{
	ssize_t n = q2_view_read(q2, q->scratch->buf, len, q->off, &q->waiter->work, err);

	if (n < 0)
		return n;
	count_once(q, (size_t)n);
	fuse_reply_buf(sf_req_take(q->r), q->scratch->buf, (size_t)n);
	return n;
}

static bool is_leased(void *opaque)
{
	return sf_lease_good(opaque);
}

struct filling {
	struct sf_waiter *waiter;
	struct sf_lease *lease;
	int64_t look_ns;        /* when to look at it next */
	bool gone;              /* the reader */
};

static bool go_on(void *opaque)
{
	struct filling *f = opaque;
	int64_t now = sf_clock_ns();

	f->gone = sf_waiter_gone(f->waiter);
	if (f->gone || now < f->look_ns)
		return !f->gone;
	f->look_ns = now + ASK_NS;
	return sf_lease_good(f->lease);
}

/* The pieces that were found, of a view that nobody can change. */
static int64_t splice_settled(struct sf_view *view, struct request *q, size_t len, struct vs_err *err)
{
	const struct scratch *s = q->scratch;
	int rc = q2_view_check(view->q2, &q->waiter->work, err);

	if (rc < 0)
		return rc;
	*s->bufs = (struct fuse_bufvec){.count = s->n_pieces};
	for (size_t i = 0; i < s->n_pieces; i++)
		s->bufs->buf[i] = (struct fuse_buf){
			.size = s->pieces[i].len,
			.flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY,
			.fd = s->pieces[i].fd,
			.pos = s->pieces[i].off,
		};
	count_once(q, len);
	atomic_fetch_add(&q->r->fs->metrics.spliced_bytes[SF_BY_LOCK], len);
	fuse_reply_data(sf_req_take(q->r), s->bufs, 0);
	return (int64_t)len;
}

/* Likewise, as long as the lease is there. 0: it has to be copied, which says as well whether anything is wrong. */
static int64_t splice_while_leased(struct sf_view *view, struct request *q, size_t len)
{
	struct sf_lease *lease = &view->lease;
	struct filling filling = {.waiter = q->waiter, .lease = lease, .look_ns = sf_clock_ns() + ASK_NS};

	if (q2_view_check(view->q2, &q->waiter->work, NULL) < 0)
		return 0;
	if (!sf_splice_fill(q->r->unique, q->scratch->pieces, q->scratch->n_pieces, len, go_on, &filling))
		return filling.gone ? -EINTR : 0;
	count_once(q, len);
	if (!sf_splice_send(q->r->device, is_leased, lease))
		return 0;
	atomic_fetch_add(&q->r->fs->metrics.spliced_bytes[SF_BY_LEASE], len); /* a counter never goes down, so not before it is known */
	fuse_reply_none(sf_req_take(q->r));
	return (int64_t)len;
}

static int64_t splice_leased(struct sf_view *view, struct request *q, size_t len)
{
	struct sf_leases *leases = &view->owner->leases;
	int64_t n;

	if (!sf_lease_begin(leases, &view->lease, &q->waiter->work))
		return 0;
	n = splice_while_leased(view, q, len);
	sf_lease_end(leases, &view->lease);
	return n;
}

static int64_t reply_zeros(struct sf_view *view, bool settled, struct request *q, size_t len, struct vs_err *err)
{
	int rc = q2_view_check(view->q2, &q->waiter->work, err);

	if (rc < 0)
		return settled ? rc : 0;
	count_once(q, len);
	fuse_reply_buf(sf_req_take(q->r), zeros, len);
	return (int64_t)len;
}

/* Of any view. Else it is copied, which says as well whether anything is wrong. */
static bool reply_hole(struct sf_view *view, struct request *q, size_t len)
{
	if (!q2_view_is_hole(view->q2, q->off, len, &q->waiter->work))
		return false;
	count_once(q, len);
	fuse_reply_buf(sf_req_take(q->r), zeros, len);
	return true;
}

/* Of a view that is lent, so that its guards are not dropped before the reply has gone. 0: it has to be copied. */
static int64_t hand_on(struct sf_view *view, struct request *q, size_t len, struct vs_err *err)
{
	bool settled = q2_view_settled(view->q2);
	enum way way = settled || sf_view_may_lease(view) ? map_request(view->q2, q, len) : COPIED;

	if (way == ZEROS)
		return reply_zeros(view, settled, q, len, err);
	if (way == COPIED)
		return 0;
	return settled ? splice_settled(view, q, len, err) : splice_leased(view, q, len);
}

static int64_t read_view(struct sf_view *view, void *opaque, struct vs_err *err)
{
	struct request *q = opaque;
	uint64_t left = q->off < view->size ? view->size - q->off : 0;
	size_t len = q->len < left ? q->len : (size_t)left;
	int64_t n = 0;

	if (len >= SPLICE_LEAST) {
		q2_view_prefetch(view->q2, q->off, len, &q->waiter->work);
		sf_view_lend(view);
		n = reply_hole(view, q, len) ? (int64_t)len : hand_on(view, q, len, err);
		sf_view_return(view);
	}
	return n ? n : copy_request(view->q2, q, len, err);
}

int sf_read_image(struct sf_req *r, struct sf_handle *handle, size_t len, off_t off)
{
	struct sf_waiter waiter;
	struct request q = {.r = r, .waiter = &waiter, .scratch = scratch_get(), .len = len, .off = (uint64_t)off};
	struct vs_err err = {0};
	int64_t n;

	if (q.len > SF_BLOCK_SIZE)
		q.len = SF_BLOCK_SIZE;
	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	n = sf_image_use(handle->image, &waiter, &handle->edition, read_view, &q, &err);
	if (n >= 0)
		return 0;
	if (n != -EBUSY && n != -ESTALE && n != -EINTR && n != -ENOTCONN)
		sf_image_complain(handle->image, "read", (int)n, &err);
	return (int)n;
}

int sf_read_made(struct sf_req *r, struct sf_handle *handle, size_t len, off_t off)
{
	struct scratch *scratch = scratch_get();
	struct sf_waiter waiter;
	struct vs_err err = {0};
	int64_t n;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, SF_MAKE_WORK);
	n = sf_made_read(handle->made, &waiter, scratch->buf, len < SF_BLOCK_SIZE ? len : SF_BLOCK_SIZE, (uint64_t)off, &err);
	if (n >= 0) {
		count(r, n);
		fuse_reply_buf(sf_req_take(r), scratch->buf, (size_t)n);
		return 0;
	}
	if (n != -EBUSY && n != -ESTALE && n != -EINTR && n != -ENOTCONN)
		sf_made_complain(handle->made, "read what is made of", (int)n, &err);
	return (int)n;
}

int sf_read_now_at_once(struct sf_req *r, struct sf_handle *handle, size_t len, off_t off)
{
	struct sf_now *now = handle->now; /* the handle may be closed once the kernel has the reply */
	struct nb_span span;
	int64_t n = sf_now_lend(now, len, (uint64_t)off, &span);

	if (n < 0)
		return (int)n;
	count(r, n);
	fuse_reply_iov(sf_req_take(r), span.iov, (int)span.n);
	sf_now_return(now, &span);
	return 0;
}

int sf_read_now(struct sf_req *r, struct sf_handle *handle, size_t len, off_t off)
{
	struct scratch *scratch = scratch_get();
	struct sf_waiter waiter;
	int64_t n;

	sf_waiter_init(&waiter, &r->fs->ending, r->req, 0);
	n = sf_now_read(handle->now, &waiter, scratch->buf, len < SF_BLOCK_SIZE ? len : SF_BLOCK_SIZE, (uint64_t)off);
	if (n < 0)
		return (int)n;
	count(r, n);
	fuse_reply_buf(sf_req_take(r), scratch->buf, (size_t)n);
	return 0;
}
