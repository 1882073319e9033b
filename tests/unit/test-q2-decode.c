/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "qcow2/decode.h"

#define CLUSTER 65536u

/* Half text, half noise: compresses to about half. */
static void make_cluster(uint8_t *out, size_t len)
{
	uint32_t x = 1;
	size_t i;

	for (i = 0; i < len; i++) {
		x = x * 1664525 + 1013904223;
		out[i] = i / 97 % 2 ? (uint8_t)(x >> 24) : (uint8_t)(i % 7);
	}
}

/* A stream on the heap, exactly as long as it is: reading past it is seen. */
struct stream {
	uint8_t *p;
	size_t len;
};

static struct stream stream_of(const void *p, size_t len)
{
	struct stream s = { malloc(len ? len : 1), len };

	memcpy(s.p, p, len);
	return s;
}

static struct stream deflated(const void *in, size_t len, int window, int flush)
{
	static uint8_t out[CLUSTER * 40];
	z_stream z = { 0 };

	cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, window, 9, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (Bytef *)(uintptr_t)in;
	z.avail_in = (uInt)len;
	z.next_out = out;
	z.avail_out = sizeof(out);
	deflate(&z, flush);
	deflateEnd(&z);
	return stream_of(out, sizeof(out) - z.avail_out);
}

static struct stream zstd_frame(const void *in, size_t len, int window_log)
{
	static uint8_t out[CLUSTER * 80];
	ZSTD_CCtx *c = ZSTD_createCCtx();
	ZSTD_inBuffer src = { in, len, 0 };
	ZSTD_outBuffer dst = { out, sizeof(out), 0 };

	/* streamed without a known size, so that the frame keeps the window it was told */
	ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
	if (window_log)
		ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, window_log);
	while (src.pos < src.size)
		ZSTD_compressStream2(c, &dst, &src, ZSTD_e_continue);
	cr_assert_eq(ZSTD_compressStream2(c, &dst, &src, ZSTD_e_end), 0);
	ZSTD_freeCCtx(c);
	return stream_of(out, dst.pos);
}

static struct stream join(struct stream a, struct stream b)
{
	struct stream s = { malloc(a.len + b.len), a.len + b.len };

	memcpy(s.p, a.p, a.len);
	memcpy(s.p + a.len, b.p, b.len);
	free(a.p);
	free(b.p);
	return s;
}

/* Decodes (twice: a decoder that failed must still work) and frees. */
static void expect(const char *what, bool zstd, struct stream s, size_t out_len, const uint8_t *bytes, int rc)
{
	uint8_t *out = malloc(out_len);
	int i;

	for (i = 0; i < 2; i++) {
		int got = q2_decode(zstd, s.p, s.len, out, out_len, NULL);

		cr_expect_eq(got, rc, "%s: %d, not %d", what, got, rc);
		if (!rc && !got)
			cr_expect_eq(memcmp(out, bytes, out_len), 0, "%s: other bytes", what);
	}
	free(out);
	free(s.p);
}

static const uint8_t zeros[512];

Test(q2_decode, deflate_streams)
{
	static uint8_t in[2 * CLUSTER];
	const struct stream rest = { (uint8_t *)(uintptr_t)zeros, 512 };
	struct stream s;

	make_cluster(in, sizeof(in));
	expect("as QEMU writes them", false, deflated(in, CLUSTER, -12, Z_FINISH), CLUSTER, in, 0);
	expect("the largest window", false, deflated(in, CLUSTER, -15, Z_FINISH), CLUSTER, in, 0);
	expect("clusters of 512 bytes", false, deflated(in, 512, -12, Z_FINISH), 512, in, 0);
	expect("more follows in the last sector", false, join(deflated(in, CLUSTER, -12, Z_FINISH), stream_of(rest.p, rest.len)),
	       CLUSTER, in, 0);
	expect("not terminated, but the cluster is full", false, deflated(in, CLUSTER, -12, Z_SYNC_FLUSH), CLUSTER, in, 0);
	expect("longer than a cluster: QEMU takes the first one", false, deflated(in, 2 * CLUSTER, -12, Z_FINISH), CLUSTER, in, 0);
	expect("shorter than a cluster", false, deflated(in, CLUSTER - 1, -12, Z_FINISH), CLUSTER, in, -EIO);
	expect("a zlib header in front", false, deflated(in, CLUSTER, 12, Z_FINISH), CLUSTER, in, -EIO);
	s = deflated(in, CLUSTER, -12, Z_FINISH);
	s.len -= 512;
	expect("one sector short", false, stream_of(s.p, s.len), CLUSTER, in, -EIO);
	s.p[100] ^= 0xff;
	expect("damaged", false, stream_of(s.p, s.len), CLUSTER, in, -EIO);
	free(s.p);
	expect("nothing but zeros", false, stream_of(zeros, 512), CLUSTER, in, -EIO);
	expect("one byte", false, stream_of("\x03", 1), CLUSTER, in, -EIO);
}

Test(q2_decode, zstd_streams)
{
	static uint8_t in[2 * CLUSTER];
	struct stream s;

	make_cluster(in, sizeof(in));
	expect("as QEMU writes them", true, zstd_frame(in, CLUSTER, 0), CLUSTER, in, 0);
	expect("clusters of 512 bytes", true, zstd_frame(in, 512, 0), 512, in, 0);
	expect("two frames", true, join(zstd_frame(in, 1000, 0), zstd_frame(in + 1000, CLUSTER - 1000, 0)), CLUSTER, in, 0);
	expect("more follows in the last sector", true, join(zstd_frame(in, CLUSTER, 0), stream_of(zeros, 512)), CLUSTER, in, 0);
	expect("a frame longer than the cluster", true, zstd_frame(in, 2 * CLUSTER, 0), CLUSTER, in, -EIO);
	expect("shorter than the cluster", true, zstd_frame(in, CLUSTER - 1, 0), CLUSTER, in, -EIO);
	expect("the largest window that is needed", true, zstd_frame(in, CLUSTER, 21), CLUSTER, in, 0);
	expect("a window of 128 MiB, which nobody needs", true, zstd_frame(in, CLUSTER, 27), CLUSTER, in, -EIO);
	s = zstd_frame(in, CLUSTER, 0);
	s.len -= 512;
	expect("one sector short", true, stream_of(s.p, s.len), CLUSTER, in, -EIO);
	s.p[100] ^= 0xff;
	s.p[200] ^= 0xff;
	expect("cut and damaged", true, stream_of(s.p, s.len), CLUSTER, in, -EIO);
	s.p[0] ^= 0xff;
	expect("no magic", true, stream_of(s.p, s.len), CLUSTER, in, -EIO);
	free(s.p);
	expect("nothing but zeros", true, stream_of(zeros, 512), CLUSTER, in, -EIO);
	expect("deflate is not zstd", true, deflated(in, CLUSTER, -12, Z_FINISH), CLUSTER, in, -EIO);
}

Test(q2_decode, clusters_of_2_mib)
{
	static uint8_t in[2 << 20];

	make_cluster(in, sizeof(in));
	expect("deflate", false, deflated(in, sizeof(in), -12, Z_FINISH), sizeof(in), in, 0);
	expect("zstd", true, zstd_frame(in, sizeof(in), 0), sizeof(in), in, 0);
}

Test(q2_decode, failures_leave_nothing_behind) /* the leak checker looks at this one */
{
	uint8_t out[512];
	int i;

	for (i = 0; i < 1000; i++)
		cr_assert_eq(q2_decode(i % 2, zeros, sizeof(zeros), out, sizeof(out), NULL), -EIO);
}

static void *decode_once(void *opaque)
{
	uint8_t out[512];

	(void)opaque;
	q2_decode(false, zeros, sizeof(zeros), out, sizeof(out), NULL);
	q2_decode(true, zeros, sizeof(zeros), out, sizeof(out), NULL);
	memset(q2_scratch(0, 100000), 1, 100000);
	return NULL;
}

Test(q2_decode, a_thread_takes_its_decoders_with_it) /* and so does the leak checker here */
{
	pthread_t t;
	int i;

	for (i = 0; i < 20; i++) {
		cr_assert_eq(pthread_create(&t, NULL, decode_once, NULL), 0);
		pthread_join(t, NULL);
	}
}

Test(q2_decode, scratch_is_aligned_and_kept)
{
	uint8_t *a = q2_scratch(0, 1000), *b = q2_scratch(1, 1000);

	cr_assert(a && b && a != b);
	cr_expect_eq((uintptr_t)a % 4096, 0);
	cr_expect_eq(q2_scratch(0, 500), a);
	a = q2_scratch(0, 4 << 20);
	cr_assert_not_null(a);
	memset(a, 1, 4 << 20);
	cr_expect_eq(q2_scratch(0, 4 << 20), a);
}
