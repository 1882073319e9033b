/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * libdeflate is 2.5 to 3 times as fast as zlib on clusters and right about every stream it accepts. It refuses some that
 * QEMU accepts (QEMU takes a stream that is not terminated but has filled the cluster), so zlib decides whatever
 * libdeflate refuses.
 */
#include "decode.h"

#include <errno.h>
#include <libdeflate.h>
#include <pthread.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

/* QEMU compresses a cluster of at most 2 MiB at the default level, so no frame of its own needs a larger window. */
#define ZSTD_WINDOW_LOG 22

struct scratch {
	void *p;
	size_t len;
};

struct tools {
	struct libdeflate_decompressor *deflate;
	ZSTD_DCtx *zstd;
	struct scratch scratch[2];
};

static pthread_key_t tools_key;
static pthread_once_t tools_once = PTHREAD_ONCE_INIT;
static int tools_rc;

static void tools_free(void *p)
{
	struct tools *t = p;

	if (t->deflate)
		libdeflate_free_decompressor(t->deflate);
	ZSTD_freeDCtx(t->zstd);
	free(t->scratch[0].p);
	free(t->scratch[1].p);
	free(t);
}

static void tools_init(void)
{
	tools_rc = pthread_key_create(&tools_key, tools_free);
}

static struct tools *tools_get(void)
{
	struct tools *t;

	pthread_once(&tools_once, tools_init);
	if (tools_rc)
		return NULL;
	t = pthread_getspecific(tools_key);
	if (t)
		return t;
	t = calloc(1, sizeof(*t));
	if (t && pthread_setspecific(tools_key, t)) {
		free(t);
		t = NULL;
	}
	return t;
}

void *q2_scratch(unsigned slot, size_t len)
{
	struct tools *t = tools_get();
	struct scratch *s;
	void *p;

	if (!t)
		return NULL;
	s = &t->scratch[slot];
	if (s->len >= len)
		return s->p;
	if (posix_memalign(&p, 4096, len))
		return NULL;
	free(s->p);
	s->p = p;
	s->len = len;
	return p;
}

static int inflate_zlib(const void *in, size_t in_len, void *out, size_t out_len, size_t *used)
{
	z_stream strm = { .next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)in_len, .next_out = out,
			  .avail_out = (uInt)out_len };
	int rc;

	/* -15 reads every window that -12 (what QEMU writes and expects) reads, and other producers' as well */
	if (inflateInit2(&strm, -15) != Z_OK)
		return -ENOMEM;
	rc = inflate(&strm, Z_FINISH);
	*used = strm.total_in;
	inflateEnd(&strm);
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && strm.avail_out == 0 ? 0 : -EIO;
}

static int decode_deflate(struct tools *t, const void *in, size_t in_len, void *out, size_t out_len, size_t *used)
{
	if (!t->deflate)
		t->deflate = libdeflate_alloc_decompressor();
	if (!t->deflate)
		return -ENOMEM;
	if (libdeflate_deflate_decompress_ex(t->deflate, in, in_len, out, out_len, used, NULL) == LIBDEFLATE_SUCCESS)
		return 0;
	return inflate_zlib(in, in_len, out, out_len, used);
}

static int decode_zstd(struct tools *t, const void *in, size_t in_len, void *out, size_t out_len, size_t *used)
{
	ZSTD_inBuffer src = { in, in_len, 0 };
	ZSTD_outBuffer dst = { out, out_len, 0 };
	size_t rc = 0;

	if (!t->zstd) {
		t->zstd = ZSTD_createDCtx();
		if (!t->zstd)
			return -ENOMEM;
		ZSTD_DCtx_setParameter(t->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
	}
	ZSTD_DCtx_reset(t->zstd, ZSTD_reset_session_only);
	while (dst.pos < dst.size) {
		size_t before_in = src.pos, before_out = dst.pos;

		rc = ZSTD_decompressStream(t->zstd, &dst, &src);
		if (ZSTD_isError(rc))
			return ZSTD_getErrorCode(rc) == ZSTD_error_memory_allocation ? -ENOMEM : -EIO;
		if (src.pos == before_in && dst.pos == before_out)
			return -EIO;
	}
	*used = src.pos;
	return rc == 0 ? 0 : -EIO;
}

int q2_decode(bool zstd, const void *in, size_t in_len, void *out, size_t out_len, size_t *used)
{
	struct tools *t = tools_get();
	size_t len;

	if (!t)
		return -ENOMEM;
	if (!used)
		used = &len;
	return zstd ? decode_zstd(t, in, in_len, out, out_len, used) : decode_deflate(t, in, in_len, out, out_len, used);
}
