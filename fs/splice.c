/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "splice.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "at-once.h"
#include "clock.h"
#include "vm/util/mem.h"

#define PIPE_BYTES (1 << 20) /* a page each for what lies anywhere, which is what an unprivileged process gets */
#define STEP (128 << 10)
#define TRIES 8

struct tube {
	int in, out; /* -1: there is none at present */
	size_t len;  /* bytes in it */
};

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void tube_close(struct tube *t)
{
	if (t->in >= 0) {
		close(t->in);
		close(t->out);
	}
	*t = (struct tube){.in = -1, .out = -1};
}

static void tube_free(void *opaque)
{
	tube_close(opaque);
	free(opaque);
}

static void make_key(void)
{
	if (pthread_key_create(&key, tube_free))
		xoom();
}

/* This thread's. */
static struct tube *tube_get(void)
{
	struct tube *t;

	pthread_once(&once, make_key);
	t = pthread_getspecific(key);
	if (t)
		return t;
	t = xcalloc(1, sizeof(*t));
	t->in = t->out = -1;
	if (pthread_setspecific(key, t))
		xoom();
	return t;
}

static bool tube_open(struct tube *t)
{
	int ends[2];

	if (t->in >= 0)
		return true;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	*t = (struct tube){.out = ends[0], .in = ends[1]};
	if (fcntl(t->in, F_SETPIPE_SZ, PIPE_BYTES) >= PIPE_BYTES)
		return true;
	tube_close(t);
	return false;
}

/* For a test (-Dfaults=true): as if the disk were slow, by so many ms as the variable says. */
static void dawdle(const char *variable)
{
#ifdef VS_FAULTS
	const char *ms = getenv(variable);

	if (ms)
		sf_clock_nap(atoll(ms) * 1000000);
#else
	(void)variable;
#endif
}

/* In steps that end where pages do. A pipe that is full, or a file that is shorter than it was, is an end. */
static bool put_piece(struct tube *t, const struct sf_piece *piece, bool (*go_on)(void *opaque), void *opaque)
{
	off_t off = piece->off;
	size_t left = piece->len;

	while (left) {
		size_t step = STEP - (size_t)(off % STEP);
		ssize_t n;

		if (!go_on(opaque))
			return false;
		n = splice(piece->fd, &off, t->in, NULL, left < step ? left : step, SPLICE_F_NONBLOCK);
		dawdle("VIRT_SNAPFS_SLOW");
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		left -= (size_t)n;
		t->len += (size_t)n;
	}
	return true;
}

uint64_t sf_splice_unique(const void *message, size_t len)
{
	struct fuse_in_header head;

	if (len < sizeof(head))
		return 0;
	memcpy(&head, message, sizeof(head));
	return head.unique;
}

bool sf_splice_fill(uint64_t unique, const struct sf_piece *pieces, size_t n, size_t len, bool (*go_on)(void *opaque), void *opaque)
{
	const struct fuse_out_header head = {.len = (uint32_t)(sizeof(head) + len), .unique = unique};
	struct tube *t = tube_get();
	bool filled = unique && tube_open(t) && write(t->in, &head, sizeof(head)) == sizeof(head);

	if (filled)
		t->len = sizeof(head);
	for (size_t i = 0; filled && i < n; i++)
		filled = put_piece(t, &pieces[i], go_on, opaque);
	filled = filled && t->len == head.len;
	if (!filled)
		tube_close(t);
	return filled;
}

/* For a test (-Dfaults=true): this process is stopped here, once, if the file is there that VIRT_SNAPFS_STOP names. */
static void stop_here(void)
{
#ifdef VS_FAULTS
	const char *path = getenv("VIRT_SNAPFS_STOP");

	if (path && !unlink(path))
		raise(SIGSTOP); /* this thread at once, and then the others */
#endif
}

/* For the same test, of what it would see otherwise: no question counts. */
static bool is_blind(void)
{
#ifdef VS_FAULTS
	return getenv("VIRT_SNAPFS_BLIND") != NULL;
#else
	return false;
#endif
}

static ssize_t splice_all(const struct tube *t, int dev)
{
	return splice(t->out, NULL, dev, NULL, t->len, 0);
}

/* Interrupted between the question and the device, it is asked anew. */
static ssize_t send_if(const struct tube *t, int dev, bool (*may_go)(void *opaque), void *opaque)
{
	ssize_t n = -ECANCELED;

	for (int i = 0; n == -ECANCELED && i < TRIES && sf_at_once_works(); i++) {
		uint64_t since = sf_at_once_now();

		if (!may_go(opaque))
			break;
		stop_here();
		dawdle("VIRT_SNAPFS_LATE");
		n = is_blind() ? splice_all(t, dev) : sf_at_once_splice(t->out, dev, t->len, since);
	}
	return n;
}

bool sf_splice_send(int dev, bool (*may_go)(void *opaque), void *opaque)
{
	struct tube *t = tube_get();
	ssize_t n = may_go ? send_if(t, dev, may_go, opaque) : splice_all(t, dev);
	bool sent = n >= 0 && (size_t)n == t->len;

	if (sent)
		t->len = 0;
	else
		tube_close(t);
	return sent;
}
