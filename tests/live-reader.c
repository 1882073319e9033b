/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * live-reader IMAGE CONTROL THREADS [spoil]: reads internal snapshots while QEMU takes and deletes them (suites/live.sh).
 *
 * Every snapshot is called s<serial>, and its whole disk follows from its serial (expect()), so any byte that is not of
 * this snapshot is noticed. CONTROL is a file that live.py and we have mapped: live.py says in it, before and after each
 * of its commands, what state a serial is in. From the states before and after one of our reads follows what the read may do:
 *
 *   before \ after   LIVE            DYING           DEAD
 *   LIVE             right bytes     right bytes, or ESTALE (both)
 *   DYING            -               right bytes, or ESTALE
 *   DEAD             -               -               ESTALE, and nothing else
 *
 * The listing has every serial that was LIVE before and after it, and none that was DEAD before it or is not known yet.
 * "spoil" expects the bytes of the next serial: then the first read must be found wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "qcow2/qcow2.h"

#define SERIALS  65536
#define CLUSTER  65536
#define PIECE    (128 * 1024)
#define READS    40 /* of one view, at most, before the next is chosen; of every eighth 50 times as many */
#define MAX_FAIL 10

enum state { NONE, CREATING, LIVE, DYING, DEAD };

struct control {
	_Atomic uint8_t stop;
	_Atomic uint8_t serial[SERIALS];
};

struct stats {
	atomic_ulong listings, views, reads, stale, holes, failures;
};

static struct control *control;
static struct stats stats;
static struct q2_cache *cache;
static struct q2_gate *gate;
static const char *image;
static unsigned spoil;

static enum state state_of(unsigned serial)
{
	return (enum state)atomic_load(&control->serial[serial]);
}

static void wrong(unsigned serial, const char *what, uint64_t off, enum state before, enum state after, int code,
		  const struct vs_err *err)
{
	static const char *const names[] = {"none", "creating", "live", "dying", "dead"};

	if (atomic_fetch_add(&stats.failures, 1) >= MAX_FAIL)
		return;
	printf("FAIL s%u: %s (offset %" PRIu64 ", state %s then %s): %s\n", serial, what, off, names[before], names[after],
	       code ? vs_err_text(err, code) : "");
	fflush(stdout);
}

/* Some clusters are written as zeros, the others repeat the serial; live.py does the same. */
static uint8_t expect(unsigned serial, uint64_t off)
{
	uint64_t idx = off / CLUSTER;

	if ((serial + idx) % 7 == 3)
		return 0;
	return (uint8_t)((uint64_t)(serial + spoil) >> (8 * (7 - off % 8)));
}

static void check_bytes(unsigned serial, const uint8_t *buf, size_t len, uint64_t off, enum state before)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != expect(serial, off + i)) {
			wrong(serial, "wrong byte", off + i, before, state_of(serial), 0, NULL);
			return;
		}
}

/* What an outcome of a call that began in @before is worth; true if the snapshot is gone. */
static bool judge(unsigned serial, const char *what, uint64_t off, enum state before, int64_t rc, const struct vs_err *err)
{
	enum state after = state_of(serial);

	if (rc >= 0) {
		if (before == DEAD)
			wrong(serial, "success after the delete", off, before, after, 0, NULL);
		return before == DEAD;
	}
	if (after == LIVE || after == CREATING)
		wrong(serial, what, off, before, after, (int)rc, err);
	else if (rc != -ESTALE)
		wrong(serial, "an error that is not ESTALE", off, before, after, (int)rc, err);
	else
		atomic_fetch_add(&stats.stale, 1);
	return true;
}

static bool read_once(struct q2_view *view, unsigned serial, uint8_t *buf, unsigned *seed)
{
	uint64_t size = q2_view_size(view), off = (uint64_t)(unsigned)rand_r(seed) % size;
	size_t len = rand_r(seed) % 4 ? 1 + (size_t)rand_r(seed) % 5000 : PIECE;
	enum state before = state_of(serial);
	struct vs_err err = {0};
	ssize_t n = q2_view_read(view, buf, len, off, &err);

	if (judge(serial, "a read failed", off, before, n, &err))
		return false;
	if ((size_t)n != (len < size - off ? len : (size_t)(size - off)))
		wrong(serial, "a read has the wrong length", off, before, state_of(serial), 0, NULL);
	check_bytes(serial, buf, (size_t)n, off, before);
	atomic_fetch_add(&stats.reads, 1);
	return true;
}

/* The first hole is where expect() has its first zero cluster. */
static bool seek_once(struct q2_view *view, unsigned serial)
{
	enum state before = state_of(serial);
	struct vs_err err = {0};
	int64_t at = q2_view_seek(view, 0, SEEK_HOLE, &err), want = 0;

	if (judge(serial, "a seek failed", 0, before, at, &err))
		return false;
	while ((serial + (uint64_t)want / CLUSTER) % 7 != 3)
		want += CLUSTER;
	if (at != want)
		wrong(serial, "a hole is not where it was made", (uint64_t)at, before, state_of(serial), 0, NULL);
	atomic_fetch_add(&stats.holes, 1);
	return true;
}

static void use_snapshot(const struct q2_snapshot *s, uint8_t *buf, unsigned *seed)
{
	unsigned serial = (unsigned)atoi(s->name + 1);
	struct q2_view_spec spec = {.path = image, .format = Q2_FORMAT_QCOW2, .snapshot = s, .gate = gate};
	enum state before = state_of(serial);
	struct vs_err err = {0};
	struct q2_view *view;
	int r = q2_view_open(cache, &spec, &view, &err);

	if (r < 0) {
		judge(serial, "a snapshot cannot be opened", 0, before, r, &err);
		return;
	}
	atomic_fetch_add(&stats.views, 1);
	for (int i = rand_r(seed) % 8 ? 0 : -49 * READS; i < READS && !atomic_load(&control->stop); i++)
		if (!(rand_r(seed) % 16 ? read_once(view, serial, buf, seed) : seek_once(view, serial)))
			break;
	q2_view_close(view);
}

static void check_listing(const struct q2_info *info, const uint8_t *before, uint8_t *seen)
{
	memset(seen, 0, SERIALS);
	for (size_t i = 0; i < info->n_snapshots; i++) {
		unsigned serial = (unsigned)atoi(info->snapshots[i].name + 1) % SERIALS;

		if (before[serial] == DEAD || state_of(serial) == NONE)
			wrong(serial, "listed though it is not there", 0, (enum state)before[serial], state_of(serial), 0, NULL);
		if (seen[serial])
			wrong(serial, "listed twice", 0, (enum state)before[serial], state_of(serial), 0, NULL);
		seen[serial] = 1;
	}
	for (unsigned serial = 0; serial < SERIALS; serial++)
		if (before[serial] == LIVE && state_of(serial) == LIVE && !seen[serial])
			wrong(serial, "not listed", 0, LIVE, LIVE, 0, NULL);
}

static void *reader(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	vs_autofree uint8_t *buf = malloc(PIECE), *before = malloc(SERIALS), *seen = malloc(SERIALS);
	struct vs_err err = {0};
	struct q2_file *file;
	struct q2_info *info;
	int r = buf && before && seen ? q2_file_open(image, &file, &err) : -ENOMEM;

	if (r < 0) {
		wrong(0, "the image cannot be opened", 0, NONE, NONE, r, &err);
		return NULL;
	}
	while (!atomic_load(&control->stop)) {
		for (unsigned i = 0; i < SERIALS; i++)
			before[i] = (uint8_t)state_of(i);
		r = q2_info_read(file, Q2_FORMAT_QCOW2, &info, &err);
		if (r < 0) {
			wrong(0, "the table cannot be read", 0, NONE, NONE, r, &err);
			break;
		}
		check_listing(info, before, seen);
		atomic_fetch_add(&stats.listings, 1);
		if (info->n_snapshots)
			use_snapshot(&info->snapshots[(size_t)rand_r(&seed) % info->n_snapshots], buf, &seed);
		q2_info_free(info);
	}
	q2_file_close(file);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	unsigned n;
	int fd;

	if (argc < 4)
		return 2;
	image = argv[1];
	spoil = argc > 4;
	n = (unsigned)atoi(argv[3]) < VS_ARRAY_LEN(threads) ? (unsigned)atoi(argv[3]) : VS_ARRAY_LEN(threads);
	fd = open(argv[2], O_RDWR | O_CLOEXEC);
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		return 2;
	/* so little that tables and clusters come and go */
	cache = q2_cache_new(64 * 1024, 256 * 1024);
	gate = q2_gate_new();
	if (!cache || !gate || q2_gate_allow_file(gate, image, Q2_FORMAT_QCOW2))
		return 2;
	for (uintptr_t i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, reader, (void *)(i + 1)))
			return 2;
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	q2_cache_free(cache);
	q2_gate_unref(gate);
	printf("listings=%lu views=%lu reads=%lu holes=%lu stale=%lu failures=%lu\n", stats.listings, stats.views, stats.reads,
	       stats.holes, stats.stale, stats.failures);
	return stats.failures != 0;
}
