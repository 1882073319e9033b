/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * One connection, with many requests on their way: a server like QEMU's answers from one thread, so that more connections bring nothing, and
 * fewer requests leave it idle while we hand on what it has said. What is read is in *pieces*:
 *
 *     EMPTY ── somebody wants it ──► WANTED ── sent ──► SENT ── answered ──► READY, FAILED
 *       ▲                                                                       │
 *       └──────────────── the oldest that nobody uses makes room ───────────────┘
 *
 * Who reads on where the last read ended finds the pieces that follow wanted already, as many as a window says that doubles with each
 * read of this kind. These are aligned, and so all are found again whatever a reader's block size is. Who reads anywhere else gets a piece of just what
 * he asks for. What is READY can be lent to a reply as it lies there.
 *
 * A thread of the file's own makes all calls of libnbd's once it is open, for a handle lets one thread at a time in, also while that waits.
 * Readers put a piece in the list, wake it by an eventfd, and wait for the piece.
 *
 * Of what is data and what is a hole the server is asked when it matters, and the last answer is kept: one covers thousands of extents.
 */
#include "nbd.h"

#include <assert.h>
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vm/util/mem.h"

#define PIECE (512u << 10)
#define N_PIECES 32
#define WINDOW_LEAST (UINT64_C(1) << 20)
#define WINDOW_MOST (UINT64_C(8) << 20) /* half of the pieces: what was read a moment ago has its room, too */
#define NEAR_BYTES (UINT64_C(2) << 20)  /* several requests of one reader come in any order */
#define LOOK_NS 100000000
#define LOOK_MS 100
#define STATUS_BYTES (UINT64_C(1) << 31)
#define STATUS_MOST 65536               /* extents */
#define NOT_ASKED UINT64_MAX

enum state { EMPTY, WANTED, SENT, READY, FAILED };

struct piece {
	struct nb_file *file;
	uint64_t off;
	size_t len;
	char *buf;       /* PIECE bytes, once it was needed */
	enum state state;
	unsigned users;  /* readers who wait for it, or copy it */
	uint64_t used;   /* when last, by the count of uses */
	int error;       /* of FAILED: negative errno */
};

struct extent {
	uint64_t end;
	bool zero;
};

struct nb_file {
	/* its thread's, once it is open */
	struct nbd_handle *nbd;
	/* immutable */
	uint64_t size;
	bool tells_holes, one_too_many;
	int wake;              /* eventfd */
	pthread_t thread;
	pthread_mutex_t lock;  /* guards the rest */
	pthread_cond_t changed; /* a piece that somebody uses is READY or FAILED; crowded, and any is, or is used no more; the status was answered; broken */
	struct piece pieces[N_PIECES];
	uint64_t uses;
	bool crowded;          /* somebody waits for room */
	uint64_t next, window; /* where the last read ended, and how much is asked for ahead of it; 0: it was somewhere else */
	/* what the server said last of holes: of [map_off, end of the last extent) */
	struct extent *map;
	size_t n_map;
	uint64_t map_off;
	uint64_t ask_off;      /* from where it is to be asked; NOT_ASKED */
	bool asking;
	int ask_error;
	bool stopping;
	int broken;            /* negative errno: the connection is of no use any more */
	struct vs_err why;
};

/* ---------------------------------------------------------------- waiting */

/* Until something has changed, or for some time. -EINTR: nobody waits any more. */
static int wait_locked(struct nb_file *f, const struct nb_wait *wait)
{
	struct timespec until;

	if (wait->gone(wait->opaque))
		return -EINTR;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOOK_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&f->changed, &f->lock, &until);
	return 0;
}

static void wake_thread(struct nb_file *f)
{
	const uint64_t one = 1;

	if (write(f->wake, &one, sizeof(one)) < 0)
		errno = 0; /* full: it is awake already */
}

/* ---------------------------------------------------------------- its thread */

/* What libnbd said last, in this thread. */
static int nbd_failed(struct vs_err *err, const char *doing)
{
	const char *said = nbd_get_error();

	return vs_err_set(err, -EIO, "%s: %s", doing, said ? said : "libnbd does not say why");
}

static void break_locked(struct nb_file *f, const char *doing)
{
	if (!f->broken)
		f->broken = nbd_failed(&f->why, doing);
	pthread_cond_broadcast(&f->changed);
}

static int on_read(void *opaque, int *error)
{
	struct piece *p = opaque;

	pthread_mutex_lock(&p->file->lock);
	p->state = *error ? FAILED : READY;
	p->error = *error ? -EIO : 0;
	if (p->users || p->file->crowded)
		pthread_cond_broadcast(&p->file->changed);
	pthread_mutex_unlock(&p->file->lock);
	return 1;
}

static int on_extents(void *opaque, const char *context, uint64_t off, uint32_t *entries, size_t n, int *error)
{
	struct nb_file *f = opaque;

	if (*error || strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
		return 0;
	pthread_mutex_lock(&f->lock);
	f->map_off = off;
	f->n_map = 0;
	for (size_t i = 0; i + 1 < n && f->n_map < STATUS_MOST; i += 2) {
		off += entries[i];
		f->map[f->n_map++] = (struct extent){ off, entries[i + 1] & LIBNBD_STATE_ZERO };
	}
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static int on_status(void *opaque, int *error)
{
	struct nb_file *f = opaque;

	pthread_mutex_lock(&f->lock);
	f->asking = false;
	f->ask_error = *error ? -EIO : 0;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	return 1;
}

/* The lowest first, as readers need them. NULL: none is to be sent. */
static struct piece *next_wanted_locked(struct nb_file *f)
{
	struct piece *next = NULL;

	for (size_t i = 0; i < N_PIECES; i++)
		if (f->pieces[i].state == WANTED && (!next || f->pieces[i].off < next->off))
			next = &f->pieces[i];
	if (next)
		next->state = SENT;
	return next;
}

static uint64_t take_ask(struct nb_file *f)
{
	uint64_t off;

	pthread_mutex_lock(&f->lock);
	off = f->ask_off;
	f->ask_off = NOT_ASKED;
	pthread_mutex_unlock(&f->lock);
	return off;
}

static int send_status(struct nb_file *f, uint64_t off)
{
	uint64_t len = f->size - off < STATUS_BYTES ? f->size - off : STATUS_BYTES;

	return nbd_aio_block_status(f->nbd, len, off, (nbd_extent_callback){ .callback = on_extents, .user_data = f },
				    (nbd_completion_callback){ .callback = on_status, .user_data = f }, 0) < 0 ? -1 : 0;
}

/* libnbd may answer from within the call: so without the lock. */
static int send_all(struct nb_file *f)
{
	uint64_t ask = take_ask(f);
	struct piece *p;

	if (ask != NOT_ASKED && send_status(f, ask) < 0)
		return -1;
	for (;;) {
		pthread_mutex_lock(&f->lock);
		p = next_wanted_locked(f);
		pthread_mutex_unlock(&f->lock);
		if (!p)
			return 0;
		if (nbd_aio_pread(f->nbd, p->buf, p->len, p->off, (nbd_completion_callback){ .callback = on_read, .user_data = p }, 0) < 0)
			return -1;
	}
}

/* Waits for the server, for @fd (-1: nobody else) and no longer than @ms, and goes on with what there is. */
static int step(struct nbd_handle *nbd, int fd, int ms)
{
	unsigned direction = nbd_aio_get_direction(nbd);
	struct pollfd fds[] = {
		{ .fd = nbd_aio_get_fd(nbd), .events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
							      (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0)) },
		{ .fd = fd, .events = POLLIN },
	};
	uint64_t n;

	if (poll(fds, VS_ARRAY_LEN(fds), ms) < 0)
		return errno == EINTR ? 0 : -1;
	if (fds[1].revents && read(fd, &n, sizeof(n)) < 0)
		errno = 0;
	direction = nbd_aio_get_direction(nbd);
	if (fds[0].revents & (POLLIN | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_READ)
		return nbd_aio_notify_read(nbd);
	if (fds[0].revents & (POLLOUT | POLLERR) && direction & LIBNBD_AIO_DIRECTION_WRITE)
		return nbd_aio_notify_write(nbd);
	return 0;
}

static bool is_stopping(struct nb_file *f)
{
	bool stopping;

	pthread_mutex_lock(&f->lock);
	stopping = f->stopping;
	pthread_mutex_unlock(&f->lock);
	return stopping;
}

static void *file_thread(void *opaque)
{
	struct nb_file *f = opaque;

	while (!is_stopping(f)) {
		if (send_all(f) == 0 && step(f->nbd, f->wake, -1) == 0 && !nbd_aio_is_dead(f->nbd) && !nbd_aio_is_closed(f->nbd))
			continue;
		pthread_mutex_lock(&f->lock);
		break_locked(f, "the server of this instant");
		pthread_mutex_unlock(&f->lock);
		break;
	}
	return NULL;
}

/* ---------------------------------------------------------------- open and close */

static int connect_to(struct nbd_handle *nbd, const char *socket, const char *name, const struct nb_wait *wait, struct vs_err *err)
{
	if (nbd_set_export_name(nbd, name) < 0 || nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
	    nbd_set_pread_initialize(nbd, false) < 0 || nbd_aio_connect_unix(nbd, socket) < 0)
		return nbd_failed(err, socket);
	while (nbd_aio_is_connecting(nbd)) {
		if (wait->gone(wait->opaque))
			return -EINTR;
		if (step(nbd, -1, LOOK_MS) < 0)
			break;
	}
	return nbd_aio_is_ready(nbd) ? 0 : nbd_failed(err, socket);
}

/* A server of QEMU's lets a hundred in, and who comes then waits for ever. */
#define MOST_FILES 90
static atomic_int n_files;

static void file_free(struct nb_file *f)
{
	atomic_fetch_sub(&n_files, 1);
	nbd_close(f->nbd); /* answers what is on its way still */
	for (size_t i = 0; i < N_PIECES; i++)
		free(f->pieces[i].buf);
	free(f->map);
	if (f->wake >= 0)
		close(f->wake);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static struct nb_file *file_new(void)
{
	struct nb_file *f = xcalloc(1, sizeof(*f));
	pthread_condattr_t steady;

	f->one_too_many = atomic_fetch_add(&n_files, 1) >= MOST_FILES;
	for (size_t i = 0; i < N_PIECES; i++)
		f->pieces[i].file = f;
	pthread_mutex_init(&f->lock, NULL);
	pthread_condattr_init(&steady);
	pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
	pthread_cond_init(&f->changed, &steady);
	pthread_condattr_destroy(&steady);
	f->ask_off = NOT_ASKED;
	f->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->nbd = nbd_create();
	f->map = xcalloc(STATUS_MOST, sizeof(*f->map));
	if (!f->nbd)
		xoom();
	return f;
}

int nb_file_open(const char *socket, const char *name, const struct nb_wait *wait, struct nb_file **out, struct vs_err *err)
{
	struct nb_file *f = file_new();
	int64_t size = 0;
	int r;

	r = f->wake < 0 || f->one_too_many ? vs_err_set(err, -EMFILE, "too many files are open") : connect_to(f->nbd, socket, name, wait, err);
	if (r == 0 && (size = nbd_get_size(f->nbd)) < 0)
		r = nbd_failed(err, socket);
	f->size = (uint64_t)size;
	f->tells_holes = r == 0 && nbd_can_meta_context(f->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
	if (r == 0)
		r = -pthread_create(&f->thread, NULL, file_thread, f);
	if (r < 0) {
		file_free(f);
		return r;
	}
	*out = f;
	return 0;
}

void nb_file_close(struct nb_file *f)
{
	pthread_mutex_lock(&f->lock);
	f->stopping = true;
	pthread_mutex_unlock(&f->lock);
	wake_thread(f);
	pthread_join(f->thread, NULL);
	file_free(f);
}

uint64_t nb_file_size(const struct nb_file *f)
{
	return f->size;
}

/* ---------------------------------------------------------------- reading */

static struct piece *find_locked(struct nb_file *f, uint64_t off)
{
	for (size_t i = 0; i < N_PIECES; i++) {
		struct piece *p = &f->pieces[i];

		if (p->state != EMPTY && p->off <= off && off - p->off < p->len)
			return p;
	}
	return NULL;
}

/* The oldest that nobody uses. NULL: all are in use. */
static struct piece *free_piece_locked(struct nb_file *f)
{
	struct piece *oldest = NULL;

	for (size_t i = 0; i < N_PIECES; i++) {
		struct piece *p = &f->pieces[i];

		if (p->state == EMPTY)
			return p;
		if (!p->users && p->state != WANTED && p->state != SENT && (!oldest || p->used < oldest->used))
			oldest = p;
	}
	return oldest;
}

/* NULL: there is no room at present. */
static struct piece *want_locked(struct nb_file *f, uint64_t off, uint64_t len)
{
	struct piece *p = free_piece_locked(f);

	assert(len > 0 && len <= PIECE);
	if (!p)
		return NULL;
	if (!p->buf)
		p->buf = aligned_alloc(4096, PIECE);
	if (!p->buf)
		xoom();
	p->off = off;
	p->len = (size_t)len;
	p->state = WANTED;
	p->used = ++f->uses;
	return p;
}

/* The whole of the piece that @off is in by alignment. */
static struct piece *want_aligned_locked(struct nb_file *f, uint64_t off)
{
	uint64_t start = off / PIECE * PIECE, left = f->size - start;

	return want_locked(f, start, left < PIECE ? left : PIECE);
}

/* All of [off, end) that is not wanted yet, as far as there is room. */
static void want_range_locked(struct nb_file *f, uint64_t off, uint64_t end, bool aligned)
{
	struct piece *p;
	bool news = false;

	if (f->broken) /* nobody would send it */
		return;
	if (end > f->size)
		end = f->size;
	for (; off < end; off = p->off + p->len) {
		p = find_locked(f, off);
		if (p)
			continue;
		p = aligned ? want_aligned_locked(f, off) : want_locked(f, off, end - off < PIECE ? end - off : PIECE);
		if (!p)
			break;
		news = true;
	}
	if (news)
		wake_thread(f);
}

static bool is_near(const struct nb_file *f, uint64_t off)
{
	return off <= f->next + NEAR_BYTES && f->next <= off + NEAR_BYTES;
}

/* Asks for what is read, and for what will be. */
static void plan_read_locked(struct nb_file *f, uint64_t off, size_t len)
{
	bool on = is_near(f, off);
	uint64_t end = off + len;

	f->window = !on ? 0 : !f->window ? WINDOW_LEAST : f->window < WINDOW_MOST ? 2 * f->window : f->window;
	f->next = end;
	want_range_locked(f, off, f->size - end < f->window ? f->size : end + f->window, on);
}

static void unuse_locked(struct nb_file *f, struct piece *p)
{
	if (!--p->users && f->crowded)
		pthread_cond_broadcast(&f->changed);
}

/* The piece with @off, READY, and used. */
static int get_piece_locked(struct nb_file *f, uint64_t off, uint64_t len, const struct nb_wait *wait, struct piece **out, struct vs_err *err)
{
	struct piece *p;
	int r = 0;

	while (!(p = find_locked(f, off)) && r == 0) {
		if (f->broken)
			return vs_err_set(err, f->broken, "%s", f->why.msg);
		want_range_locked(f, off, off + len, false);
		f->crowded = !find_locked(f, off);
		if (f->crowded)
			r = wait_locked(f, wait);
	}
	if (r < 0)
		return r;
	p->users++;
	p->used = ++f->uses;
	while (p->state != READY && p->state != FAILED && !f->broken && r == 0)
		r = wait_locked(f, wait);
	if (r == 0 && p->state != READY)
		r = p->state == FAILED && !f->broken ? vs_err_set(err, p->error, "the server of this instant could not read it") :
						       vs_err_set(err, f->broken, "%s", f->why.msg);
	if (r == 0) {
		*out = p;
		return 0;
	}
	unuse_locked(f, p);
	if (p->state == FAILED && !p->users)
		p->state = EMPTY; /* whoever asks again asks anew */
	return r;
}

static size_t min_left(uint64_t size, uint64_t off, size_t len)
{
	return off >= size ? 0 : len > size - off ? (size_t)(size - off) : len;
}

/* All of it is there, in pieces that are used from now on; or none of it is. */
static bool lend_locked(struct nb_file *f, size_t len, uint64_t off, struct nb_span *span)
{
	size_t done = 0;

	for (span->n = 0; done < len; span->n++) {
		struct piece *p = span->n < NB_SPAN_MOST ? find_locked(f, off + done) : NULL;
		size_t at, n;

		if (!p || p->state != READY)
			return false;
		at = (size_t)(off + done - p->off);
		n = p->len - at < len - done ? p->len - at : len - done;
		span->iov[span->n] = (struct iovec){ p->buf + at, n };
		span->of[span->n] = p;
		done += n;
	}
	for (unsigned i = 0; i < span->n; i++) {
		struct piece *p = span->of[i];

		p->users++;
		p->used = ++f->uses;
	}
	return true;
}

int64_t nb_file_lend(struct nb_file *f, size_t len, uint64_t off, struct nb_span *span)
{
	bool there;

	len = min_left(f->size, off, len);
	pthread_mutex_lock(&f->lock);
	there = lend_locked(f, len, off, span);
	if (there && len)
		plan_read_locked(f, off, len);
	pthread_mutex_unlock(&f->lock);
	return there ? (int64_t)len : -EAGAIN;
}

void nb_file_return(struct nb_file *f, const struct nb_span *span)
{
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < span->n; i++)
		unuse_locked(f, span->of[i]);
	pthread_mutex_unlock(&f->lock);
}

int64_t nb_file_read(struct nb_file *f, void *buf, size_t len, uint64_t off, const struct nb_wait *wait, struct vs_err *err)
{
	size_t done = 0;
	int r = 0;

	len = min_left(f->size, off, len);
	pthread_mutex_lock(&f->lock);
	if (len)
		plan_read_locked(f, off, len);
	while (r == 0 && done < len) {
		struct piece *p = NULL;
		size_t n, at;

		r = get_piece_locked(f, off + done, len - done, wait, &p, err);
		if (r < 0)
			break;
		at = (size_t)(off + done - p->off);
		n = p->len - at < len - done ? p->len - at : len - done;
		pthread_mutex_unlock(&f->lock);
		memcpy((char *)buf + done, p->buf + at, n);
		pthread_mutex_lock(&f->lock);
		unuse_locked(f, p);
		done += n;
	}
	pthread_mutex_unlock(&f->lock);
	return r < 0 ? r : (int64_t)done;
}

/* ---------------------------------------------------------------- holes */

/* What is known of @off; NULL: nothing. */
static const struct extent *extent_at_locked(const struct nb_file *f, uint64_t off)
{
	size_t low = 0, high = f->n_map;

	if (off < f->map_off || !f->n_map || off >= f->map[f->n_map - 1].end)
		return NULL;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (f->map[middle].end <= off)
			low = middle + 1;
		else
			high = middle;
	}
	return &f->map[low];
}

/* Has the server asked, and waits for the answer. One question at a time. */
static int ask_locked(struct nb_file *f, uint64_t off, const struct nb_wait *wait, struct vs_err *err)
{
	int r = 0;

	while (f->asking && !f->broken && r == 0)
		r = wait_locked(f, wait);
	if (r < 0 || extent_at_locked(f, off))
		return r;
	f->asking = true;
	f->ask_off = off;
	wake_thread(f);
	while (f->asking && !f->broken && r == 0)
		r = wait_locked(f, wait);
	if (r == 0 && f->broken)
		r = vs_err_set(err, f->broken, "%s", f->why.msg);
	if (r == 0 && (f->ask_error || !extent_at_locked(f, off)))
		r = vs_err_set(err, -EIO, "the server of this instant could not tell what is a hole");
	return r;
}

int64_t nb_file_seek(struct nb_file *f, uint64_t off, int whence, const struct nb_wait *wait, struct vs_err *err)
{
	int r = 0;

	if (off >= f->size)
		return -ENXIO;
	if (!f->tells_holes)
		return whence == SEEK_DATA ? (int64_t)off : (int64_t)f->size;
	pthread_mutex_lock(&f->lock);
	while (r == 0 && off < f->size) {
		const struct extent *e = extent_at_locked(f, off);

		if (e && e->zero == (whence == SEEK_HOLE))
			break;
		if (e)
			off = e->end;
		else
			r = ask_locked(f, off, wait, err);
	}
	pthread_mutex_unlock(&f->lock);
	if (r < 0)
		return r;
	if (off >= f->size)
		return whence == SEEK_DATA ? -ENXIO : (int64_t)f->size;
	return (int64_t)off;
}
