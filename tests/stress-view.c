/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * stress-view: many threads over the views of one file, for the thread sanitizer and for wrong bytes.
 *
 * One image with three snapshots that stay and one that is deleted and made anew all the time, in the order in which
 * QEMU does it, its clusters being reused at once. Every byte says whose it is:
 *
 *	steady snapshots 0..2	share most of their L2 tables; guest cluster i holds byte 1 + (i + snapshot) % 100,
 *				every third one compressed, every seventh from the frozen backing file (byte 0x7f)
 *	the mortal one		holds its generation in all clusters
 *
 * Threads: readers share one view of each steady snapshot; openers open, read and close views of all four; one mutator.
 * A read returns the right bytes or, of the mortal snapshot alone, ESTALE. Two rounds: caches that hold everything, and
 * caches that hold next to nothing. With an argument: seconds for each round.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#include "unit/q2-image.h"

#define BITS     9
#define C        512u
#define PER      64u              /* clusters to an L2 table */
#define TABLES   6u
#define CLUSTERS (PER * TABLES)
#define SIZE     (CLUSTERS * C)
#define STEADY   3u
#define READERS  4
#define OPENERS  3

/* Places, in clusters. */
enum {
	L1_STEADY = 10, /* one cluster each */
	L1_MORTAL = 20,
	L2_SHARED = 30,  /* TABLES - 1 of them: all but the last are the same for all */
	L2_OWN = 40,     /* each steady snapshot's last one */
	L2_MORTAL = 50,  /* TABLES of them */
	RECORDS_A = 60,
	RECORDS_B = 64,
	DATA_MORTAL = 100,
	DATA = 1000,     /* two clusters each */
};

struct stage {
	char *path;
	struct q2_gate *gate;
	struct q2_cache *cache;
	struct q2_view *steady[STEADY];
	struct ti_image scratch; /* the mutator's own inventory of the file */
	atomic_bool stop;
	atomic_ulong reads, stale;
};

static void fail(const char *what, int rc, const struct vs_err *err)
{
	fprintf(stderr, "stress-view: %s: %s\n", what, vs_err_text(err, rc));
	_exit(1);
}

static uint8_t byte_of(unsigned snapshot, unsigned cluster)
{
	bool own = cluster / PER == TABLES - 1;

	if (cluster % 7 == 6)
		return 0x7f;
	return (uint8_t)(1 + (cluster + (own ? snapshot : 0)) % 100);
}

/* ---------------------------------------------------------------- the image */

static struct ti_snap snaps[STEADY + 1] = {
	{ .id = "1", .name = "a", .l1 = L1_STEADY, .l1_entries = TABLES, .date_sec = 1, .disk_size = SIZE },
	{ .id = "2", .name = "b", .l1 = L1_STEADY + 1, .l1_entries = TABLES, .date_sec = 2, .disk_size = SIZE },
	{ .id = "3", .name = "c", .l1 = L1_STEADY + 2, .l1_entries = TABLES, .date_sec = 3, .disk_size = SIZE },
	{ .id = "4", .name = "mortal", .l1 = L1_MORTAL, .l1_entries = TABLES, .date_sec = 4, .disk_size = SIZE },
};

static void put_compressed(struct ti_image *img, uint64_t cluster, uint8_t byte)
{
	uint8_t in[C], out[2 * C];
	z_stream z = { .next_in = in, .avail_in = C, .next_out = out, .avail_out = sizeof(out) };

	memset(in, byte, C);
	if (deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK || deflate(&z, Z_FINISH) != Z_STREAM_END)
		fail("deflate", -EIO, NULL);
	deflateEnd(&z);
	ti_put(img, ti_off(img, cluster), out, sizeof(out) - z.avail_out);
}

static void put_cluster(struct ti_image *img, uint64_t l2, unsigned snapshot, unsigned i, uint64_t at)
{
	if (i % 7 == 6)
		return;
	if (i % 3 == 0) {
		ti_l2(img, l2, i % PER, TI_COMPRESSED | ti_off(img, at));
		put_compressed(img, at, byte_of(snapshot, i));
	} else {
		ti_data(img, l2, i % PER, at, byte_of(snapshot, i));
	}
}

static void make_mortal(struct ti_image *img, unsigned generation)
{
	unsigned i;

	for (i = 0; i < CLUSTERS; i++)
		ti_data(img, L2_MORTAL + i / PER, i % PER, DATA_MORTAL + i, (uint8_t)generation);
	snaps[STEADY].date_nsec = generation;
}

static void make_image(struct stage *st, const char *dir)
{
	vs_autofree char *base = ti_path(dir, "base.raw");
	vs_autofree uint8_t *bytes = malloc(SIZE);
	struct ti_image *img = &st->scratch;
	unsigned i, s, t;

	ti_save_bytes(base, memset(bytes, 0x7f, SIZE), SIZE);
	ti_age(base);
	ti_init(img, BITS, SIZE);
	ti_backing(img, "base.raw", "raw");
	for (t = 0; t < TABLES; t++) {
		for (s = 0; s < STEADY; s++)
			ti_l1(img, L1_STEADY + s, t, t == TABLES - 1 ? L2_OWN + s : L2_SHARED + t);
		ti_l1(img, L1_MORTAL, t, L2_MORTAL + t);
	}
	for (i = 0; i < CLUSTERS; i++)
		for (s = 0; s < STEADY; s++)
			if (i / PER == TABLES - 1)
				put_cluster(img, L2_OWN + s, s, i, DATA + 2 * (i + s * CLUSTERS));
			else if (!s)
				put_cluster(img, L2_SHARED + i / PER, s, i, DATA + 2 * i);
	make_mortal(img, 1);
	ti_table(img, RECORDS_A, snaps, STEADY + 1);
	ti_switch(img, RECORDS_A, STEADY + 1);
	st->path = ti_path(dir, "live.qcow2");
	ti_save(img, st->path);
}

/* ---------------------------------------------------------------- threads */

static void write_part(int fd, const struct ti_image *img, uint64_t off, size_t len)
{
	if (pwrite(fd, img->bytes + off, len, (off_t)off) != (ssize_t)len)
		fail("write", -errno, NULL);
}

/* A new table elsewhere, then the header: the old one is free from here on. */
static void write_records(struct stage *st, int fd, unsigned *place, unsigned n)
{
	uint64_t at = *place = *place == RECORDS_A ? RECORDS_B : RECORDS_A;
	size_t len = ti_table(&st->scratch, at, snaps, n);

	write_part(fd, &st->scratch, ti_off(&st->scratch, at), len);
	ti_switch(&st->scratch, at, n);
	write_part(fd, &st->scratch, 60, 12);
}

static void *mutate(void *opaque)
{
	struct timespec pause = { 0, 1000000 }, rest = { 0, 20000000 };
	struct stage *st = opaque;
	unsigned generation, place = RECORDS_A;
	int fd = open(st->path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		fail(st->path, -errno, NULL);
	for (generation = 2; !st->stop; generation++) {
		write_records(st, fd, &place, STEADY);
		make_mortal(&st->scratch, generation % 251 + 1);
		snaps[STEADY].date_nsec = generation;
		write_part(fd, &st->scratch, ti_off(&st->scratch, DATA_MORTAL), (size_t)CLUSTERS * C);
		if (generation % 3)
			nanosleep(&pause, NULL);
		write_records(st, fd, &place, STEADY + 1);
		nanosleep(generation % 5 ? &pause : &rest, NULL);
	}
	close(fd);
	return NULL;
}

/* One random read of a steady snapshot, compared byte by byte. */
static void read_steady(struct stage *st, struct q2_view *v, unsigned snapshot, unsigned *seed)
{
	uint8_t buf[8 * C];
	struct vs_err err = { 0 };
	uint64_t off = (uint64_t)rand_r(seed) % SIZE, i;
	size_t len = 1 + (size_t)rand_r(seed) % sizeof(buf);
	ssize_t n = q2_view_read(v, buf, len, off, NULL, &err);

	if (n < 0)
		fail("a steady snapshot", (int)n, &err);
	for (i = 0; i < (uint64_t)n; i++)
		if (buf[i] != byte_of(snapshot, (unsigned)((off + i) / C))) {
			fprintf(stderr, "stress-view: snapshot %u: byte %lu is %u\n", snapshot, (unsigned long)(off + i), buf[i]);
			_exit(1);
		}
	atomic_fetch_add(&st->reads, 1);
}

static void *read_shared(void *opaque)
{
	struct stage *st = opaque;
	unsigned seed = (unsigned)(uintptr_t)&seed;

	while (!st->stop) {
		unsigned s = (unsigned)rand_r(&seed) % STEADY;

		read_steady(st, st->steady[s], s, &seed);
		if (rand_r(&seed) % 50 == 0 && q2_view_seek(st->steady[s], (uint64_t)rand_r(&seed) % SIZE, SEEK_HOLE, NULL, NULL) < 0)
			fail("lseek", -EIO, NULL);
	}
	return NULL;
}

static void read_mortal(struct stage *st, struct q2_view *v, const struct q2_snapshot *s, unsigned *seed)
{
	uint8_t buf[8 * C];
	struct vs_err err = { 0 };
	uint64_t off = (uint64_t)rand_r(seed) % SIZE;
	ssize_t n = q2_view_read(v, buf, 1 + (size_t)rand_r(seed) % sizeof(buf), off, NULL, &err);

	if (n == -ESTALE)
		atomic_fetch_add(&st->stale, 1);
	else if (n < 0)
		fail("the mortal snapshot", (int)n, &err);
	else if (!ti_all(buf, (size_t)n, (uint8_t)(s->date_nsec == 1 ? 1 : s->date_nsec % 251 + 1)))
		fail("bytes of another generation", -EIO, NULL);
	atomic_fetch_add(&st->reads, 1);
}

/* Opens one of the snapshots as a listing shows it now, reads, closes. */
static void open_one(struct stage *st, unsigned *seed)
{
	struct q2_view_spec spec = { .path = st->path, .format = Q2_FORMAT_QCOW2, .gate = st->gate, .guard = true };
	struct vs_err err = { 0 };
	struct q2_info *info = NULL;
	struct q2_file *f;
	struct q2_view *v;
	size_t which;
	int rc, i;

	rc = q2_file_open(st->path, &f, &err);
	if (!rc)
		rc = q2_info_read(f, Q2_FORMAT_QCOW2, &info, &err);
	if (rc)
		fail("listing", rc, &err);
	q2_file_close(f);
	which = (size_t)rand_r(seed) % info->n_snapshots;
	spec.snapshot = &info->snapshots[which];
	rc = q2_view_open(st->cache, &spec, &v, &err);
	if (rc && (rc != -ESTALE || which < STEADY))
		fail("open", rc, &err);
	for (i = 0; !rc && i < 20; i++)
		if (which < STEADY)
			read_steady(st, v, (unsigned)which, seed);
		else
			read_mortal(st, v, spec.snapshot, seed);
	if (!rc)
		q2_view_close(v);
	q2_info_free(info);
}

static void *open_and_close(void *opaque)
{
	struct stage *st = opaque;
	unsigned seed = (unsigned)(uintptr_t)&seed;

	while (!st->stop)
		open_one(st, &seed);
	return NULL;
}

/* ---------------------------------------------------------------- rounds */

static void run(struct stage *st, size_t cache_bytes, double seconds)
{
	struct timespec ts = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
	pthread_t threads[READERS + OPENERS + 1];
	struct q2_cache_stats stats;
	struct vs_err err = { 0 };
	unsigned i;
	int rc;

	st->stop = false;
	st->cache = q2_cache_new(cache_bytes, cache_bytes);
	for (i = 0; i < STEADY; i++) {
		struct q2_snapshot s = ti_snapshot(&st->scratch, &snaps[i]);
		struct q2_view_spec spec = { .path = st->path, .format = Q2_FORMAT_QCOW2, .gate = st->gate, .snapshot = &s };

		rc = q2_view_open(st->cache, &spec, &st->steady[i], &err);
		if (rc)
			fail("open", rc, &err);
	}
	for (i = 0; i < VS_ARRAY_LEN(threads); i++)
		if (pthread_create(&threads[i], NULL, i < READERS ? read_shared : i < READERS + OPENERS ? open_and_close : mutate, st))
			fail("threads", -EAGAIN, NULL);
	nanosleep(&ts, NULL);
	st->stop = true;
	for (i = 0; i < VS_ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	for (i = 0; i < STEADY; i++)
		q2_view_close(st->steady[i]);
	q2_cache_stats(st->cache, &stats);
	printf("limit %zu: %lu reads, %lu stale, %lu tables loaded, %lu shared, %lu cluster hits\n", cache_bytes, st->reads,
	       st->stale, stats.tables_loaded, stats.tables_shared, stats.cluster_hits);
	if (stats.table_bytes || stats.cluster_bytes > cache_bytes)
		fail("the caches do not add up", -EOVERFLOW, NULL);
	q2_cache_free(st->cache);
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1.0;
	struct stage st = { .gate = q2_gate_new() };
	char *dir = ti_mkdir();

	if (!st.gate || q2_gate_allow_dir(st.gate, dir))
		fail("gate", -ENOMEM, NULL);
	make_image(&st, dir);
	run(&st, 1 << 20, seconds);
	ti_save(&st.scratch, st.path); /* the mutator's last state, whatever it was */
	run(&st, 3000, seconds);
	ti_fini(&st.scratch);
	free(st.path);
	q2_gate_unref(st.gate);
	ti_rmdir(dir);
	return 0;
}
