/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "q2-image.h"
#include "qcow2/header.h"
#include "qcow2/image.h"

enum { VERSION = 4, BACKING_OFF = 8, BACKING_LEN = 16, BITS = 20, SIZE = 24, CRYPT = 32, L1_SIZE = 36, L1_OFF = 40,
       REFTABLE_OFF = 48, REFTABLE_CLUSTERS = 56, NB_SNAPSHOTS = 60, SNAPSHOTS_OFF = 64, INCOMPATIBLE = 72,
       COMPATIBLE = 80, AUTOCLEAR = 88, REFCOUNT_ORDER = 96, HEADER_LEN = 100, COMPRESSION = 104 };

#define EXT_FORMAT   0xe2792acau
#define EXT_FEATURES 0x6803f857u
#define EXT_BITMAPS  0x23852875u
#define EXT_CRYPTO   0x0537be77u
#define EXT_DATA     0x44415441u

/* One number somewhere in the header; .bytes 0 ends a list. */
struct put {
	uint64_t off;
	unsigned bytes;
	uint64_t value;
};

static void put(struct ti_image *img, const struct put *p)
{
	for (; p->bytes; p++) {
		if (p->bytes == 8)
			ti_put64(img, p->off, p->value);
		else if (p->bytes == 4)
			ti_put32(img, p->off, (uint32_t)p->value);
		else
			ti_put(img, p->off, &(uint8_t){ (uint8_t)p->value }, 1);
	}
}

/* Parses as the caller of q2_header_parse() is told to: zeros past the end, and more where it asks for more. */
static int parse(const struct ti_image *img, struct q2_header *h, struct vs_err *err)
{
	size_t len = Q2_HEADER_MIN, need = 0;
	int rc;

	for (;;) {
		uint8_t *buf = calloc(1, len); /* exactly that long: a byte too far is seen by the sanitizer */

		memcpy(buf, img->bytes, img->len < len ? img->len : len);
		rc = q2_header_parse(buf, len, "i.qcow2", h, &need, err);
		free(buf);
		if (rc != -EAGAIN)
			return rc;
		cr_assert_gt(need, len);
		cr_assert_leq(need, 2u << 20);
		len = need;
	}
}

static int parse_with(unsigned bits, const struct put *puts, struct q2_header *h, struct vs_err *err)
{
	struct ti_image img;
	int rc;

	ti_init(&img, bits, UINT64_C(1) << 20);
	put(&img, puts);
	rc = parse(&img, h, err);
	ti_fini(&img);
	return rc;
}

#define K(n) ((uint64_t)(n) << 10)
#define M(n) ((uint64_t)(n) << 20)

Test(q2_header, what_qemu_opens_is_opened)
{
	static const struct { const char *what; unsigned bits; struct put puts[5]; } cases[] = {
		{ "plain", 16, { { 0 } } },
		{ "smallest clusters", 9, { { 0 } } },
		{ "largest clusters", 21, { { 0 } } },
		{ "version 2 ignores what lies at the features", 16, { { VERSION, 4, 2 }, { INCOMPATIBLE, 8, 0 } } },
		{ "empty disk without an L1 table", 16, { { SIZE, 8, 0 }, { L1_SIZE, 4, 0 }, { L1_OFF, 8, 0 } } },
		{ "more L1 entries than needed", 16, { { L1_SIZE, 4, 5000 } } },
		{ "L1 table of exactly 32 MiB", 16, { { L1_SIZE, 4, M(4) } } },
		{ "L1 table at 0: found out when used", 16, { { L1_OFF, 8, 0 } } },
		{ "L1 table past the end: found out when used", 16, { { L1_OFF, 8, UINT64_C(1) << 60 } } },
		{ "refcount table of exactly 8 MiB", 16, { { REFTABLE_CLUSTERS, 4, 128 } } },
		{ "65536 snapshots", 16, { { NB_SNAPSHOTS, 4, 65536 }, { SNAPSHOTS_OFF, 8, K(640) } } },
		{ "last possible snapshot table", 16, { { NB_SNAPSHOTS, 4, 1 }, { SNAPSHOTS_OFF, 8, INT64_MAX & ~UINT64_C(0xffff) } } },
		{ "dirty", 16, { { INCOMPATIBLE, 8, 1 } } },
		{ "corrupt", 16, { { INCOMPATIBLE, 8, 2 } } },
		{ "unknown compatible and autoclear bits", 16, { { COMPATIBLE, 8, UINT64_MAX }, { AUTOCLEAR, 8, ~UINT64_C(2) } } },
		{ "zstd", 16, { { INCOMPATIBLE, 8, 8 }, { COMPRESSION, 1, 1 } } },
		{ "extended L2 in the smallest clusters it has", 14, { { INCOMPATIBLE, 8, 16 } } },
		{ "data file, raw", 16, { { INCOMPATIBLE, 8, 4 }, { AUTOCLEAR, 8, 2 } } },
		{ "64-bit refcounts", 16, { { REFCOUNT_ORDER, 4, 6 } } },
		{ "shortest header", 16, { { HEADER_LEN, 4, 104 }, { COMPRESSION, 4, 0 } } },
		{ "header as long as the cluster", 9, { { HEADER_LEN, 4, 512 } } },
		{ "length that is no multiple of 8", 16, { { HEADER_LEN, 4, 113 } } },
		{ "AES and LUKS are recognised", 16, { { CRYPT, 4, 2 } } },
		{ "backing name of length 0 at the end of the cluster", 9, { { BACKING_OFF, 8, 512 } } },
		{ "backing length without an offset", 16, { { BACKING_LEN, 4, UINT32_MAX } } },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vs_err err = { 0 };
		struct q2_header h;
		int rc = parse_with(cases[i].bits, cases[i].puts, &h, &err);

		cr_expect_eq(rc, 0, "%s: %s", cases[i].what, vs_err_text(&err, rc));
		if (rc)
			continue;
		cr_expect_eq(h.cluster_bits, cases[i].bits, "%s", cases[i].what);
		q2_header_fini(&h);
	}
}

Test(q2_header, every_broken_rule_has_its_code)
{
	static const struct { const char *what; int rc; struct put puts[5]; } cases[] = {
		{ "magic", -EINVAL, { { 0, 4, 0x514649fa } } },
		{ "version 0", -ENOTSUP, { { VERSION, 4, 0 } } },
		{ "version 1, the older format", -ENOTSUP, { { VERSION, 4, 1 } } },
		{ "version 4", -ENOTSUP, { { VERSION, 4, 4 } } },
		{ "cluster_bits 0", -EINVAL, { { BITS, 4, 0 } } },
		{ "cluster_bits 8", -EINVAL, { { BITS, 4, 8 } } },
		{ "cluster_bits 22", -EINVAL, { { BITS, 4, 22 } } },
		{ "cluster_bits 2^32-1, a shift without meaning", -EINVAL, { { BITS, 4, UINT32_MAX } } },
		{ "cluster_bits 80, which is 16 modulo 64", -EINVAL, { { BITS, 4, 80 } } },
		{ "header length 72 in version 3", -EINVAL, { { HEADER_LEN, 4, 72 } } },
		{ "header length 103", -EINVAL, { { HEADER_LEN, 4, 103 } } },
		{ "header longer than the cluster", -EINVAL, { { HEADER_LEN, 4, K(64) + 1 } } },
		{ "header length 2^32-1", -EINVAL, { { HEADER_LEN, 4, UINT32_MAX } } },
		{ "size 2^63", -EFBIG, { { SIZE, 8, UINT64_C(1) << 63 } } },
		{ "size 2^64-1, whose L1 entries overflow to 0", -EFBIG, { { SIZE, 8, UINT64_MAX } } },
		{ "size that no int of L1 entries covers", -EFBIG, { { SIZE, 8, INT64_MAX }, { BITS, 4, 9 } } },
		{ "L1 table one entry too small", -EINVAL, { { SIZE, 8, M(512) + 512 }, { L1_SIZE, 4, 1 } } },
		{ "L1 table missing", -EINVAL, { { L1_SIZE, 4, 0 } } },
		{ "L1 table one entry over 32 MiB", -EFBIG, { { L1_SIZE, 4, M(4) + 1 } } },
		{ "L1 table of 2^32-1 entries", -EFBIG, { { L1_SIZE, 4, UINT32_MAX } } },
		{ "L1 table not aligned", -EINVAL, { { L1_OFF, 8, K(128) + 512 } } },
		{ "L1 table that ends past 2^63", -EINVAL, { { L1_OFF, 8, INT64_MAX & ~UINT64_C(0xffff) }, { L1_SIZE, 4, 8192 } } },
		{ "L1 table at 2^63", -EINVAL, { { L1_OFF, 8, UINT64_C(1) << 63 } } },
		{ "no refcount table", -EINVAL, { { REFTABLE_CLUSTERS, 4, 0 } } },
		{ "refcount table one cluster over 8 MiB", -EFBIG, { { REFTABLE_CLUSTERS, 4, 129 } } },
		{ "refcount table of 2^32-1 clusters", -EFBIG, { { REFTABLE_CLUSTERS, 4, UINT32_MAX } } },
		{ "refcount table not aligned", -EINVAL, { { REFTABLE_OFF, 8, 8 } } },
		{ "refcount table that ends past 2^63", -EINVAL, { { REFTABLE_OFF, 8, INT64_MAX & ~UINT64_C(0xffff) } } },
		{ "65537 snapshots", -EFBIG, { { NB_SNAPSHOTS, 4, 65537 } } },
		{ "2^32-1 snapshots", -EFBIG, { { NB_SNAPSHOTS, 4, UINT32_MAX } } },
		{ "snapshot table not aligned, though empty", -EINVAL, { { SNAPSHOTS_OFF, 8, 8 } } },
		{ "snapshot table that ends past 2^63", -EINVAL,
		  { { SNAPSHOTS_OFF, 8, INT64_MAX & ~UINT64_C(0xffff) }, { NB_SNAPSHOTS, 4, 65536 } } },
		{ "incompatible bit 5", -ENOTSUP, { { INCOMPATIBLE, 8, 32 } } },
		{ "incompatible bit 63", -ENOTSUP, { { INCOMPATIBLE, 8, UINT64_C(1) << 63 } } },
		{ "compression type 2", -ENOTSUP, { { INCOMPATIBLE, 8, 8 }, { COMPRESSION, 1, 2 } } },
		{ "zstd without its bit", -EINVAL, { { COMPRESSION, 1, 1 } } },
		{ "the bit without zstd", -EINVAL, { { INCOMPATIBLE, 8, 8 } } },
		{ "the bit in a header too short for the type", -EINVAL,
		  { { INCOMPATIBLE, 8, 8 }, { HEADER_LEN, 4, 104 }, { COMPRESSION, 4, 0 } } },
		{ "extended L2 in clusters of 8 KiB", -EINVAL, { { BITS, 4, 13 }, { INCOMPATIBLE, 8, 16 } } },
		{ "data-file-raw without a data file", -EINVAL, { { AUTOCLEAR, 8, 2 } } },
		{ "refcounts of 128 bits", -EINVAL, { { REFCOUNT_ORDER, 4, 7 } } },
		{ "encryption method 3", -EINVAL, { { CRYPT, 4, 3 } } },
		{ "backing name past the first cluster", -EINVAL, { { BACKING_OFF, 8, K(64) + 1 } } },
		{ "backing name at 2^64-1", -EINVAL, { { BACKING_OFF, 8, UINT64_MAX }, { BACKING_LEN, 4, 8 } } },
		{ "backing name over the cluster's end", -EINVAL, { { BACKING_OFF, 8, K(64) - 7 }, { BACKING_LEN, 4, 8 } } },
		{ "backing name of 1024 bytes", -EINVAL, { { BACKING_OFF, 8, 4096 }, { BACKING_LEN, 4, 1024 } } },
		{ "backing name of 2^32-1 bytes", -EINVAL, { { BACKING_OFF, 8, 4096 }, { BACKING_LEN, 4, UINT32_MAX } } },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vs_err err = { 0 };
		struct q2_header h;
		int rc = parse_with(16, cases[i].puts, &h, &err);

		cr_expect_eq(rc, cases[i].rc, "%s: %d, not %d (%s)", cases[i].what, rc, cases[i].rc, err.msg);
		cr_expect_eq(err.code, cases[i].rc, "%s: no message", cases[i].what);
	}
}

Test(q2_header, fields_are_read_at_their_width)
{
	static const struct put puts[] = {
		{ REFTABLE_CLUSTERS, 4, 2 }, /* read as 64 bits it would be huge: the next four bytes are nb_snapshots */
		{ NB_SNAPSHOTS, 4, 3 }, { SNAPSHOTS_OFF, 8, 0x10000 }, { L1_SIZE, 4, 9 }, { 0 } };
	struct q2_header h;

	cr_assert_eq(parse_with(16, puts, &h, NULL), 0);
	cr_expect_eq(h.version, 3);
	cr_expect_eq(h.l1_entries, 9);
	cr_expect_eq(h.l1_off, 0x20000);
	cr_expect_eq(h.nb_snapshots, 3);
	cr_expect_eq(h.snapshots_off, 0x10000);
	q2_header_fini(&h);
}

Test(q2_header, the_size_is_rounded_down_to_sectors)
{
	static const struct { uint64_t size, expect; } cases[] = {
		{ 0, 0 }, { 511, 0 }, { 512, 512 }, { 1000, 512 }, { M(1) + 511, M(1) },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		const struct put puts[] = { { SIZE, 8, cases[i].size }, { 0 } };
		struct q2_header h;

		cr_assert_eq(parse_with(16, puts, &h, NULL), 0);
		cr_expect_eq(h.size, cases[i].expect);
		q2_header_fini(&h);
	}
}

Test(q2_header, version_2_has_no_features_and_its_extensions_start_at_72)
{
	struct ti_image img;
	struct q2_header h;

	ti_init(&img, 16, M(1));
	memset(img.bytes + 72, 0, 40);
	ti_put32(&img, VERSION, 2);
	ti_put32(&img, 72, EXT_FORMAT);
	ti_put32(&img, 76, 3);
	ti_put(&img, 80, "raw", 3);
	ti_put32(&img, 96, 99); /* no refcount order here, but an unknown extension's type */
	cr_assert_eq(parse(&img, &h, NULL), 0);
	cr_expect_eq(h.incompatible, 0);
	cr_expect_eq(h.refcount_order, 4);
	cr_expect_str_eq(h.backing_format, "raw");
	q2_header_fini(&h);
	ti_fini(&img);
}

Test(q2_header, a_file_cut_at_any_byte_is_zero_extended_and_never_read_past)
{
	struct ti_image img;
	size_t len;

	ti_init(&img, 9, M(1) / 64);
	ti_backing(&img, "base.raw", "raw");
	for (len = 0; len <= 200; len++) {
		struct ti_image cut = { img.bytes, len, 0, 9 };
		struct vs_err err = { 0 };
		struct q2_header h;
		int rc = parse(&cut, &h, &err);

		if (len < 4)
			cr_expect_eq(rc, -EINVAL, "%zu bytes: %d", len, rc);
		if (!rc)
			q2_header_fini(&h);
		else
			cr_expect_eq(err.code, rc);
	}
	ti_fini(&img);
}

/* ---------------------------------------------------------------- extensions */

/* Writes one extension at *at and moves on. */
static void extend(struct ti_image *img, size_t *at, uint32_t type, uint32_t len, const char *data)
{
	ti_put32(img, *at, type);
	ti_put32(img, *at + 4, len);
	ti_put(img, *at + 8, data, strlen(data));
	*at += 8 + ((len + 7) & ~7u);
}

Test(q2_header, extensions_keep_their_limits)
{
	static const struct {
		const char *what;
		uint32_t type, len;
		struct put puts[3];
		int rc;
	} cases[] = {
		{ "backing format of 15 bytes", EXT_FORMAT, 15, { { 0 } }, 0 },
		{ "backing format of 16 bytes", EXT_FORMAT, 16, { { 0 } }, -EINVAL },
		{ "backing format of 200 bytes", EXT_FORMAT, 200, { { 0 } }, -EINVAL },
		{ "unknown, as long as the area", 0x12345678, 512 - 120, { { 0 } }, 0 },
		{ "unknown, a byte longer", 0x12345678, 512 - 119, { { 0 } }, -EINVAL },
		{ "unknown, 2 GiB", 0x12345678, 0x7fffffff, { { 0 } }, -EINVAL },
		{ "unknown, 2^32-1: the length to step over it is 2^32", 0x12345678, UINT32_MAX, { { 0 } }, -EINVAL },
		{ "END: its length is nobody's business", 0, UINT32_MAX, { { 0 } }, 0 },
		{ "bitmaps", EXT_BITMAPS, 24, { { 0 } }, 0 },
		{ "bitmaps, too short", EXT_BITMAPS, 23, { { 0 } }, -EINVAL },
		{ "LUKS header", EXT_CRYPTO, 16, { { CRYPT, 4, 2 } }, 0 },
		{ "LUKS header of 24 bytes", EXT_CRYPTO, 24, { { CRYPT, 4, 2 } }, -EINVAL },
		{ "LUKS header without encryption", EXT_CRYPTO, 16, { { 0 } }, -EINVAL },
		{ "LUKS header with AES", EXT_CRYPTO, 16, { { CRYPT, 4, 1 } }, -EINVAL },
		{ "data file name", EXT_DATA, 300, { { INCOMPATIBLE, 8, 4 } }, 0 },
		{ "feature names cut in the middle of one", EXT_FEATURES, 47, { { 0 } }, 0 },
		{ "the backing name ends the area", 0x12345678, 200, { { BACKING_OFF, 8, 300 } }, -EINVAL },
		{ "no room for an extension before the backing name", 0x12345678, 0, { { BACKING_OFF, 8, 116 } }, -EINVAL },
		{ "a backing name inside the header: no extensions", EXT_FORMAT, 200, { { BACKING_OFF, 8, 60 } }, 0 },
		{ "header as long as the cluster: no extensions", EXT_FORMAT, 200, { { HEADER_LEN, 4, 512 } }, 0 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vs_err err = { 0 };
		struct ti_image img;
		struct q2_header h;
		size_t at = 112;
		int rc;

		ti_init(&img, 9, K(16));
		put(&img, cases[i].puts);
		extend(&img, &at, cases[i].type, cases[i].len, "x");
		rc = parse(&img, &h, &err);
		cr_expect_eq(rc, cases[i].rc, "%s: %d, not %d (%s)", cases[i].what, rc, cases[i].rc, err.msg);
		if (!rc)
			q2_header_fini(&h);
		ti_fini(&img);
	}
}

Test(q2_header, extensions_follow_each_other_until_end)
{
	struct ti_image img;
	struct q2_header h;
	size_t at = 112;

	ti_init(&img, 16, M(1));
	ti_put64(&img, INCOMPATIBLE, 4);
	extend(&img, &at, 0x11111111, 5, "hello");  /* padded to 8 */
	extend(&img, &at, EXT_FORMAT, 4, "qcow");
	extend(&img, &at, EXT_FORMAT, 5, "qcow2"); /* said twice: the last counts, and the first is freed */
	extend(&img, &at, EXT_DATA, 8, "one.raw");  /* ends at its NUL */
	extend(&img, &at, EXT_DATA, 7, "two.raw");
	extend(&img, &at, 0, 0, "");
	extend(&img, &at, EXT_FORMAT, 3, "raw"); /* behind the end */
	cr_assert_eq(parse(&img, &h, NULL), 0);
	cr_expect_str_eq(h.backing_format, "qcow2");
	cr_expect_str_eq(h.data_file, "two.raw");
	cr_expect_null(h.backing_name);
	q2_header_fini(&h);
	ti_fini(&img);
}

Test(q2_header, an_unknown_feature_is_refused_by_its_name)
{
	struct vs_err err = { 0 };
	struct ti_image img;
	struct q2_header h;
	size_t at = 112;
	char name[49] = { 0, 17 }; /* type incompatible, bit 17 */

	memset(name + 2, 'n', 46); /* fills its field: no NUL */
	ti_init(&img, 16, M(1));
	ti_put64(&img, INCOMPATIBLE, 1 << 17);
	ti_put32(&img, at, EXT_FEATURES);
	ti_put32(&img, at + 4, 48);
	ti_put(&img, at + 8, name, 48);
	cr_assert_eq(parse(&img, &h, &err), -ENOTSUP);
	cr_expect_not_null(strstr(err.msg, "'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn' (bit 17)"), "%s", err.msg);
	ti_fini(&img);
}

Test(q2_header, a_header_full_of_extensions_is_read_in_a_few_steps, .timeout = 20)
{
	struct ti_image img;
	struct ti_file tf;
	struct q2_header h;
	size_t at;

	ti_init(&img, 21, M(1));
	for (at = 112; at < M(2); at += 8)
		ti_put32(&img, at, 0x12345678); /* each of 0 bytes */
	ti_file_init(&tf, &img);
	cr_assert_eq(q2_header_read(&tf.f, &h, NULL, NULL), 0);
	cr_expect_leq(tf.preads, 12, "%u reads", tf.preads);
	q2_header_fini(&h);
	ti_fini(&img);
}

/* ---------------------------------------------------------------- backing names */

Test(q2_header, backing_names_of_every_length)
{
	static const struct { const char *what; uint32_t off, len; const char *name; } cases[] = {
		{ "one byte", 4096, 1, "a" },
		{ "1023 bytes", 4096, 1023, NULL },
		{ "up to the last byte of the cluster", 65536 - 4, 4, "base" },
		{ "cut at its first NUL", 4096, 9, "ab\0cdefgh" },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		char name[1024] = { 0 };
		struct ti_image img;
		struct q2_header h;

		memset(name, 'n', cases[i].len);
		if (cases[i].name)
			memcpy(name, cases[i].name, cases[i].len);
		ti_init(&img, 16, M(1));
		ti_put64(&img, BACKING_OFF, cases[i].off);
		ti_put32(&img, BACKING_LEN, cases[i].len);
		ti_put(&img, cases[i].off, name, cases[i].len);
		cr_assert_eq(parse(&img, &h, NULL), 0, "%s", cases[i].what);
		cr_expect_str_eq(h.backing_name, name, "%s", cases[i].what);
		q2_header_fini(&h);
		ti_fini(&img);
	}
}

Test(q2_header, an_empty_backing_name_is_none)
{
	static const uint32_t lens[] = { 0, 1, 8 };
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(lens); i++) {
		const struct put puts[] = { { BACKING_OFF, 8, 4096 }, { BACKING_LEN, 4, lens[i] }, { 4096 + 16, 8, 1 }, { 0 } };
		struct q2_header h;

		cr_assert_eq(parse_with(16, puts, &h, NULL), 0);
		cr_expect_null(h.backing_name, "%u bytes", lens[i]);
		q2_header_fini(&h);
	}
}

/* ---------------------------------------------------------------- numbers and reading */

Test(q2_header, l1_entries_for_a_size)
{
	static const struct { uint64_t size; unsigned bits; bool extended; uint64_t expect; } cases[] = {
		{ 0, 16, false, 0 },
		{ 1, 16, false, 1 },
		{ M(512), 16, false, 1 },                 /* 8192 entries of 64 KiB */
		{ M(512) + 1, 16, false, 2 },
		{ M(256) + 1, 16, true, 2 },              /* extended entries are twice as long */
		{ K(32), 9, false, 1 },
		{ K(32) + 512, 9, false, 2 },
		{ UINT64_C(1) << 61, 21, false, M(4) },   /* 2 EiB: an L1 table of 32 MiB */
		{ UINT64_MAX, 9, false, UINT64_C(1) << 49 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++)
		cr_expect_eq(q2_l1_entries_for(cases[i].size, cases[i].bits, cases[i].extended), cases[i].expect, "row %zu", i);
}

Test(q2_header, the_bytes_given_are_the_bytes_parsed)
{
	struct ti_image img;
	struct ti_file tf;
	struct q2_header h;
	uint8_t *bytes;

	ti_init(&img, 16, M(1));
	ti_backing(&img, "base.qcow2", "qcow2");
	ti_file_init(&tf, &img);
	cr_assert_eq(q2_header_read(&tf.f, &h, &bytes, NULL), 0);
	cr_expect_eq(memcmp(bytes, img.bytes, (size_t)h.backing_off + h.backing_len), 0);
	q2_header_fini(&h);
	free(bytes);
	/* also of a header that cannot be parsed */
	ti_put32(&img, 0, 0);
	cr_assert_eq(q2_header_read(&tf.f, &h, &bytes, NULL), -EINVAL);
	cr_expect_eq(memcmp(bytes, img.bytes, Q2_HEADER_MIN), 0);
	free(bytes);
	/* but none where there are none */
	tf.fail_at = tf.preads + 1;
	tf.fail_rc = -EIO;
	cr_assert_eq(q2_header_read(&tf.f, &h, &bytes, NULL), -EIO);
	cr_expect_null(bytes);
	ti_fini(&img);
}
