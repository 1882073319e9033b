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
 * Splicing hands bytes on after the last look at them, so it is for *settled* views only, where nobody can change the
 * files meanwhile. Even there q2_view_check() comes between asking for the extents and replying. Our own commands,
 * before whom guards are dropped, wait for replies that are on their way (view.c).
 *
 * Limits. Replies go through a pipe of at most 1 MiB, which takes 512 KiB in up to some 120 pieces; with more, libfuse
 * would silently take a path slower than any other: MAX_PIECES. What lies past the end of a host file reads as zeros, and
 * a splice would come back short: such requests are copied.
 */
#include "read.h"

#include <errno.h>
#include <string.h>

#include "fs.h"
#include "vm/util/mem.h"

#define SPLICE_LEAST 16384
#define MAX_PIECES 100

static const char zeros[SF_BLOCK_SIZE];

/* ---------------------------------------------------------------- what a thread needs for a request */

struct scratch {
	char *buf; /* SF_BLOCK_SIZE bytes, page-aligned: also O_DIRECT reads into it */
	struct fuse_bufvec *pieces;
};

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void scratch_free(void *opaque)
{
	struct scratch *s = opaque;

	free(s->buf);
	free(s->pieces);
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
	s->pieces = xcalloc(1, sizeof(struct fuse_bufvec) + MAX_PIECES * sizeof(struct fuse_buf));
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
};

enum way { SPLICED, ZEROS, COPIED };

/* Appends an extent, or lets it grow the piece before. */
static bool add_piece(struct fuse_bufvec *pieces, const struct q2_extent *e)
{
	struct fuse_buf *last = pieces->count ? &pieces->buf[pieces->count - 1] : NULL;

	if (last && last->fd == e->file->fd && last->pos + (off_t)last->size == (off_t)e->host_off) {
		last->size += e->len;
		return true;
	}
	if (pieces->count == MAX_PIECES)
		return false;
	pieces->buf[pieces->count++] = (struct fuse_buf){
		.size = e->len,
		.flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY,
		.fd = e->file->fd,
		.pos = (off_t)e->host_off,
	};
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
	struct fuse_bufvec *pieces = q->scratch->pieces;
	size_t zero_len = 0;
	struct q2_extent e;

	*pieces = (struct fuse_bufvec){.count = 0};
	for (size_t done = 0; done < len; done += e.len) {
		if (q2_view_extent(q2, q->off + done, len - done, &q->waiter->work, &e, NULL) < 0)
			return COPIED;
		if (e.kind == Q2_ZERO)
			zero_len += e.len;
		else if (e.kind != Q2_DATA || !is_in_file(&e) || !add_piece(pieces, &e))
			return COPIED;
		if (zero_len && pieces->count)
			return COPIED;
	}
	return pieces->count ? SPLICED : ZEROS;
}

/* ---------------------------------------------------------------- one read of one view */

/* Before the reply: who has it may ask at once how much was read. */
static void count(struct sf_req *r, int64_t n)
{
	atomic_fetch_add(&r->fs->metrics.read_bytes, (uint64_t)n);
}

static int64_t copy_request(struct q2_view *q2, const struct request *q, size_t len, struct vs_err *err)
{
	ssize_t n = q2_view_read(q2, q->scratch->buf, len, q->off, &q->waiter->work, err);

	if (n < 0)
		return n;
	count(q->r, n);
	fuse_reply_buf(sf_req_take(q->r), q->scratch->buf, (size_t)n);
	return n;
}

/* Of a view that is lent, so that its guards are not dropped before the reply has gone. 0: it has to be copied. */
static int64_t hand_on(struct sf_view *view, const struct request *q, size_t len, struct vs_err *err)
{
	enum way way = q2_view_settled(view->q2) ? map_request(view->q2, q, len) : COPIED;
	int rc;

	if (way == COPIED)
		return 0;
	rc = q2_view_check(view->q2, &q->waiter->work, err);
	if (rc < 0)
		return rc;
	count(q->r, (int64_t)len);
	if (way == ZEROS)
		fuse_reply_buf(sf_req_take(q->r), zeros, len);
	else
		fuse_reply_data(sf_req_take(q->r), q->scratch->pieces, 0);
	return (int64_t)len;
}

static int64_t read_view(struct sf_view *view, void *opaque, struct vs_err *err)
{
	const struct request *q = opaque;
	uint64_t left = q->off < view->size ? view->size - q->off : 0;
	size_t len = q->len < left ? q->len : (size_t)left;
	int64_t n = 0;

	if (len >= SPLICE_LEAST) {
		sf_view_lend(view);
		n = hand_on(view, q, len, err);
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
