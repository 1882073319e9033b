/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <string.h>

#include "q2-image.h"
#include "qcow2/entry.h"

static const struct q2_geometry v3_64k = { .cluster_bits = 16, .v3 = true };
static const struct q2_geometry v2_64k = { .cluster_bits = 16 };
static const struct q2_geometry data_64k = { .cluster_bits = 16, .v3 = true, .data_file = true };
static const struct q2_geometry ext_64k = { .cluster_bits = 16, .v3 = true, .extended_l2 = true };
static const struct q2_geometry ext_data_64k = { .cluster_bits = 16, .v3 = true, .extended_l2 = true, .data_file = true };

/* Compiles @n entries (descriptor and bitmap each with extended L2), exactly as long as they are. */
static struct q2_runs compile(const struct q2_geometry *g, const uint64_t *words, uint32_t n, uint64_t guest_off)
{
	uint32_t n_words = g->extended_l2 ? 2 * n : n;
	struct ti_image img = { .bits = 9 };
	struct q2_runs runs = { 0 };
	uint8_t *exact = malloc(n_words * 8);
	uint32_t i;

	for (i = 0; i < n_words; i++)
		ti_put64(&img, i * 8, words[i]);
	memcpy(exact, img.bytes, n_words * 8);
	cr_assert_eq(q2_l2_compile(g, exact, 0, n, guest_off, &runs), 0);
	free(exact);
	ti_fini(&img);
	return runs;
}

Test(q2_entry, an_l1_entry_is_bits_9_to_55)
{
	static const struct { uint64_t entry; unsigned bits; uint64_t off; bool aligned; } cases[] = {
		{ 0, 16, 0, true },
		{ TI_COPIED, 16, 0, true },                                  /* copied says nothing of its own */
		{ TI_COPIED | 0x50000, 16, 0x50000, true },
		{ 0x50200, 16, 0x50200, false },
		{ 0x50200, 9, 0x50200, true },
		{ 0x501ff, 9, 0x50000, true },                               /* reserved low bits are masked, as QEMU does */
		{ 0x7f00000000050000, 16, 0x50000, true },                   /* and the high ones */
		{ UINT64_MAX, 9, 0x00fffffffffffe00, true },
		{ UINT64_MAX, 21, 0x00fffffffffffe00, false },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct q2_geometry g = { .cluster_bits = cases[i].bits, .v3 = true };
		bool aligned = !cases[i].aligned;

		cr_expect_eq(q2_l1_decode(&g, cases[i].entry, &aligned), cases[i].off, "row %zu", i);
		cr_expect_eq(aligned, cases[i].aligned, "row %zu", i);
	}
}

Test(q2_entry, standard_entries)
{
	static const struct {
		const char *what;
		const struct q2_geometry *g;
		uint64_t entry, guest_off;
		enum q2_run_kind kind;
		uint64_t host_off; /* bad: the raw entry */
		enum q2_bad bad;
	} cases[] = {
		{ "nothing", &v3_64k, 0, 0, Q2_RUN_UNALLOCATED, 0, 0 },
		{ "only copied", &v3_64k, TI_COPIED, 0, Q2_RUN_UNALLOCATED, 0, 0 },
		{ "data", &v3_64k, TI_COPIED | 0x50000, 0, Q2_RUN_DATA, 0x50000, 0 },
		{ "data that is shared", &v3_64k, 0x50000, 0, Q2_RUN_DATA, 0x50000, 0 },
		{ "data at the last offset there is", &v3_64k, 0x00ffffffffff0000, 0, Q2_RUN_DATA, 0x00ffffffffff0000, 0 },
		{ "reserved bits are masked", &v3_64k, 0x3f0000000005001e, 0, Q2_RUN_DATA, 0x50000, 0 },
		{ "only reserved bits", &v3_64k, 0x3f000000000001fe, 0, Q2_RUN_UNALLOCATED, 0, 0 },
		{ "zero", &v3_64k, TI_ZERO, 0, Q2_RUN_ZERO, 0, 0 },
		{ "zero, allocated", &v3_64k, TI_COPIED | 0x50000 | TI_ZERO, 0, Q2_RUN_ZERO, 0, 0 },
		{ "zero, allocated, not aligned", &v3_64k, 0x50200 | TI_ZERO, 0, Q2_RUN_BAD, 0x50200 | TI_ZERO, Q2_BAD_MISALIGNED },
		{ "zero in version 2", &v2_64k, TI_ZERO, 0, Q2_RUN_BAD, TI_ZERO, Q2_BAD_ZERO_V2 },
		{ "zero, allocated, in version 2", &v2_64k, 0x50001, 0, Q2_RUN_BAD, 0x50001, Q2_BAD_ZERO_V2 },
		{ "data in version 2", &v2_64k, 0x50000, 0, Q2_RUN_DATA, 0x50000, 0 },
		{ "not aligned", &v3_64k, 0x50200, 0, Q2_RUN_BAD, 0x50200, Q2_BAD_MISALIGNED },
		{ "data file, in place", &data_64k, TI_COPIED | 0x30000, 0x30000, Q2_RUN_DATA, 0x30000, 0 },
		{ "data file, elsewhere", &data_64k, TI_COPIED | 0x40000, 0x30000, Q2_RUN_BAD, TI_COPIED | 0x40000, Q2_BAD_DATA_FILE_OFFSET },
		{ "data file, at offset 0: only copied tells", &data_64k, TI_COPIED, 0, Q2_RUN_DATA, 0, 0 },
		{ "data file, offset 0 without copied", &data_64k, 0, 0, Q2_RUN_UNALLOCATED, 0, 0 },
		{ "data file, copied at another guest offset", &data_64k, TI_COPIED, 0x10000, Q2_RUN_BAD, TI_COPIED, Q2_BAD_DATA_FILE_OFFSET },
		{ "data file, zero", &data_64k, TI_ZERO, 0x10000, Q2_RUN_ZERO, 0, 0 },
		{ "data file, zero and allocated elsewhere", &data_64k, 0x50001, 0, Q2_RUN_BAD, 0x50001, Q2_BAD_DATA_FILE_OFFSET },
		{ "data file, compressed", &data_64k, TI_COMPRESSED | 0x50000, 0x50000, Q2_RUN_BAD, TI_COMPRESSED | 0x50000,
		  Q2_BAD_COMPRESSED_DATA_FILE },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct q2_runs r = compile(cases[i].g, &cases[i].entry, 1, cases[i].guest_off);

		cr_assert_eq(r.n, 1, "%s", cases[i].what);
		cr_expect_eq((enum q2_run_kind)r.v[0].kind, cases[i].kind, "%s: kind %u", cases[i].what, r.v[0].kind);
		cr_expect_eq(r.v[0].host_off, cases[i].host_off, "%s: %#lx", cases[i].what, (unsigned long)r.v[0].host_off);
		if (cases[i].kind == Q2_RUN_BAD)
			cr_expect_eq((enum q2_bad)r.v[0].max_len, cases[i].bad, "%s", cases[i].what);
		free(r.v);
	}
}

Test(q2_entry, compressed_entries_at_both_ends)
{
	static const struct { const char *what; unsigned bits; uint64_t entry, host_off; uint32_t max_len; } cases[] = {
		/* 512-byte clusters: the sector bit is bit 61 */
		{ "512 B, one sector", 9, TI_COMPRESSED | 0x1000, 0x1000, 512 },
		{ "512 B, two sectors", 9, TI_COMPRESSED | UINT64_C(1) << 61 | 0x1000, 0x1000, 1024 },
		{ "512 B, last byte of a sector", 9, TI_COMPRESSED | 0x11ff, 0x11ff, 1 },
		{ "512 B, largest offset", 9, TI_COMPRESSED | ((UINT64_C(1) << 61) - 1), (UINT64_C(1) << 61) - 1, 1 },
		/* 64 KiB: sectors in bits 54..61 */
		{ "64 K, one sector", 16, TI_COMPRESSED | 0x50001, 0x50001, 511 },
		{ "64 K, 256 sectors", 16, TI_COMPRESSED | UINT64_C(0xff) << 54 | 0x50000, 0x50000, 131072 },
		{ "64 K, bit 53 is still the offset", 16, TI_COMPRESSED | UINT64_C(1) << 53, UINT64_C(1) << 53, 512 },
		{ "64 K, bit 54 is a sector", 16, TI_COMPRESSED | UINT64_C(1) << 54, 0, 1024 },
		/* 2 MiB: sectors in bits 49..61 */
		{ "2 M, one sector", 21, TI_COMPRESSED | 0x50000, 0x50000, 512 },
		{ "2 M, 8192 sectors", 21, TI_COMPRESSED | UINT64_C(0x1fff) << 49 | 0x200, 0x200, 4 << 20 },
		{ "2 M, bit 48 is still the offset", 21, TI_COMPRESSED | UINT64_C(1) << 48, UINT64_C(1) << 48, 512 },
		{ "2 M, bit 49 is a sector", 21, TI_COMPRESSED | UINT64_C(1) << 49, 0, 1024 },
		/* whatever the size */
		{ "copied is ignored", 16, TI_COPIED | TI_COMPRESSED | 0x50000, 0x50000, 512 },
		{ "the zero flag is part of the offset", 16, TI_COMPRESSED | 1, 1, 511 },
		{ "at offset 0", 16, TI_COMPRESSED, 0, 512 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct q2_geometry g = { .cluster_bits = cases[i].bits }; /* version 2: the zero flag is not looked at */
		struct q2_runs r = compile(&g, &cases[i].entry, 1, 0);

		cr_assert_eq(r.n, 1);
		cr_expect_eq((enum q2_run_kind)r.v[0].kind, Q2_RUN_COMPRESSED, "%s", cases[i].what);
		cr_expect_eq(r.v[0].host_off, cases[i].host_off, "%s: %#lx", cases[i].what, (unsigned long)r.v[0].host_off);
		cr_expect_eq(r.v[0].max_len, cases[i].max_len, "%s: %u", cases[i].what, r.v[0].max_len);
		free(r.v);
	}
}

Test(q2_entry, an_entry_after_a_compressed_one_is_not_compressed)
{
	static const uint64_t entries[] = { TI_COMPRESSED | 0x50000, 0x60000, 0, TI_COMPRESSED | 0x50200, TI_ZERO };
	static const enum q2_run_kind kinds[] = { Q2_RUN_COMPRESSED, Q2_RUN_DATA, Q2_RUN_UNALLOCATED, Q2_RUN_COMPRESSED, Q2_RUN_ZERO };
	struct q2_runs r = compile(&v3_64k, entries, 5, 0);
	size_t i;

	cr_assert_eq(r.n, 5);
	for (i = 0; i < 5; i++)
		cr_expect_eq((enum q2_run_kind)r.v[i].kind, kinds[i], "entry %zu", i);
	free(r.v);
}

/* ---------------------------------------------------------------- extended L2 */

/* What one subcluster may say, by type of cluster and the two bits: the table of the specification. */
Test(q2_entry, every_subcluster_in_every_state)
{
	static const struct {
		const char *what;
		const struct q2_geometry *g;
		uint64_t descriptor;
		bool zero, alloc;
		enum q2_run_kind kind;
	} cases[] = {
		{ "no cluster, no bit", &ext_64k, 0, false, false, Q2_RUN_UNALLOCATED },
		{ "no cluster, zero", &ext_64k, 0, true, false, Q2_RUN_ZERO },
		{ "no cluster, allocated", &ext_64k, 0, false, true, Q2_RUN_BAD },
		{ "no cluster, both", &ext_64k, 0, true, true, Q2_RUN_BAD },
		{ "cluster, no bit", &ext_64k, 0x50000, false, false, Q2_RUN_UNALLOCATED },
		{ "cluster, zero", &ext_64k, 0x50000, true, false, Q2_RUN_ZERO },
		{ "cluster, allocated", &ext_64k, 0x50000, false, true, Q2_RUN_DATA },
		{ "cluster, both", &ext_64k, 0x50000, true, true, Q2_RUN_BAD },
		{ "bit 0 of the descriptor is no zero flag here", &ext_64k, 0x50001, false, true, Q2_RUN_DATA },
		{ "data file at 0, allocated", &ext_data_64k, TI_COPIED, false, true, Q2_RUN_DATA },
		{ "data file at 0 without copied, allocated", &ext_data_64k, 0, false, true, Q2_RUN_BAD },
		{ "misaligned, allocated", &ext_64k, 0x50200, false, true, Q2_RUN_BAD },
		{ "misaligned, zero", &ext_64k, 0x50200, true, false, Q2_RUN_BAD },
	};
	size_t i;
	unsigned s;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++)
		for (s = 0; s < 32; s++) {
			uint64_t bitmap = (uint64_t)cases[i].zero << (32 + s) | (uint64_t)cases[i].alloc << s;
			uint64_t words[2] = { cases[i].descriptor, bitmap };
			struct q2_runs r = compile(cases[i].g, words, 1, 0);
			size_t at = q2_runs_find(r.v, r.n, s);

			cr_expect_eq((enum q2_run_kind)r.v[at].kind, cases[i].kind, "%s, subcluster %u: %u", cases[i].what, s,
				     r.v[at].kind);
			if (cases[i].kind == Q2_RUN_BAD) {
				cr_expect_eq(r.n, 1, "%s: the whole cluster is bad", cases[i].what);
			} else {
				/* its neighbours have no bit: they are not this one's kind, unless it is unallocated too */
				size_t other = q2_runs_find(r.v, r.n, s ^ 1);

				cr_expect_eq((enum q2_run_kind)r.v[other].kind, Q2_RUN_UNALLOCATED, "%s", cases[i].what);
			}
			if (cases[i].kind == Q2_RUN_DATA)
				cr_expect_eq(r.v[at].host_off, (cases[i].descriptor & 0xff0000) + s * 2048, "%s", cases[i].what);
			free(r.v);
		}
}

Test(q2_entry, one_bad_subcluster_spoils_its_cluster_and_no_other)
{
	static const uint64_t words[] = { 0x50000, 0xffffffff,            /* all data */
					  0x60000, 0x80000000ffffffff,    /* the last one is zero as well */
					  0x70000, 0xffffffff };
	struct q2_runs r = compile(&ext_64k, words, 3, 0);

	cr_assert_eq(r.n, 3);
	cr_expect_eq(r.v[1].first, 32);
	cr_expect_eq((enum q2_run_kind)r.v[1].kind, Q2_RUN_BAD);
	cr_expect_eq((enum q2_bad)r.v[1].max_len, Q2_BAD_SUBCLUSTERS);
	cr_expect_eq(r.v[2].first, 64);
	free(r.v);
}

Test(q2_entry, a_compressed_cluster_has_no_subclusters)
{
	static const uint64_t words[] = { TI_COMPRESSED | 0x50000, UINT64_MAX, 0, 0 };
	struct q2_runs r = compile(&ext_64k, words, 2, 0);

	cr_assert_eq(r.n, 2);
	cr_expect_eq((enum q2_run_kind)r.v[0].kind, Q2_RUN_COMPRESSED);
	cr_expect_eq(r.v[1].first, 32);
	free(r.v);
}

/* ---------------------------------------------------------------- runs */

Test(q2_entry, neighbours_become_one_run)
{
	static const struct { const char *what; uint64_t entries[4]; size_t n; } cases[] = {
		{ "nothing", { 0, 0, 0, 0 }, 1 },
		{ "zeros, plain and allocated", { 1, 0x50001, 1, 0x90001 }, 1 },
		{ "contiguous data, copied or not", { 0x50000, TI_COPIED | 0x60000, 0x70000, 0x80000 }, 1 },
		{ "data in reverse", { 0x80000, 0x70000, 0x60000, 0x50000 }, 4 },
		{ "the same cluster again", { 0x50000, 0x50000, 0x50000, 0x50000 }, 4 },
		{ "a gap in the middle", { 0x50000, 0x60000, 0x80000, 0x90000 }, 2 },
		{ "data around a hole", { 0x50000, 0, 0x70000, 0x80000 }, 3 },
		{ "compressed clusters never join", { TI_COMPRESSED, TI_COMPRESSED | 512, TI_COMPRESSED, TI_COMPRESSED }, 4 },
		{ "bad ones neither", { 0x200, 0x200, 0x400, 0x200 }, 4 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct q2_runs r = compile(&v3_64k, cases[i].entries, 4, 0);

		cr_expect_eq(r.n, cases[i].n, "%s: %zu runs", cases[i].what, r.n);
		free(r.v);
	}
}

Test(q2_entry, a_slice_knows_where_in_the_table_it_is)
{
	static const uint8_t two[16] = { 0x80, 0, 0, 0, 0, 5, 0, 0 };
	static const uint8_t in_place[8] = { 0x80, 0, 0, 0, 0, 0x07, 0, 0 };
	struct q2_runs r = { 0 };

	cr_assert_eq(q2_l2_compile(&v3_64k, two, 100, 2, 0, &r), 0);
	cr_assert_eq(r.n, 2);
	cr_expect_eq(r.v[0].first, 100);
	cr_expect_eq(r.v[1].first, 101);
	free(r.v);
	/* the guest offset that a data file's entry must equal counts from the table's start */
	r = (struct q2_runs){ 0 };
	cr_assert_eq(q2_l2_compile(&data_64k, in_place, 3, 1, 0x40000, &r), 0);
	cr_expect_eq((enum q2_run_kind)r.v[0].kind, Q2_RUN_DATA);
	free(r.v);
}

Test(q2_entry, the_run_of_a_unit_is_found)
{
	static const struct q2_run v[] = { { .first = 0 }, { .first = 1 }, { .first = 7 }, { .first = 8 }, { .first = 8000 } };
	static const struct { uint32_t unit; size_t n, expect; } cases[] = {
		{ 0, 5, 0 }, { 1, 5, 1 }, { 2, 5, 1 }, { 6, 5, 1 }, { 7, 5, 2 }, { 8, 5, 3 }, { 7999, 5, 3 }, { 8000, 5, 4 },
		{ UINT32_MAX, 5, 4 }, { 500, 1, 0 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++)
		cr_expect_eq(q2_runs_find(v, cases[i].n, cases[i].unit), cases[i].expect, "unit %u", cases[i].unit);
}

Test(q2_entry, geometry_at_both_ends)
{
	static const struct { struct q2_geometry g; unsigned l2, unit, l1; } cases[] = {
		{ { .cluster_bits = 9 }, 6, 9, 15 },                         /* 32 KiB to an L1 entry */
		{ { .cluster_bits = 16 }, 13, 16, 29 },                      /* 512 MiB */
		{ { .cluster_bits = 21 }, 18, 21, 39 },                      /* 512 GiB */
		{ { .cluster_bits = 14, .extended_l2 = true }, 10, 9, 24 },  /* subclusters of one sector */
		{ { .cluster_bits = 21, .extended_l2 = true }, 17, 16, 38 },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++) {
		cr_expect_eq(q2_l2_bits(&cases[i].g), cases[i].l2);
		cr_expect_eq(q2_unit_bits(&cases[i].g), cases[i].unit);
		cr_expect_eq(q2_l1_shift(&cases[i].g), cases[i].l1);
	}
}

Test(q2_entry, every_reason_has_words)
{
	enum q2_bad bad;

	for (bad = Q2_BAD_MISALIGNED; bad <= Q2_BAD_DATA_FILE_OFFSET; bad++)
		cr_expect_str_neq(q2_bad_text(bad), "is invalid");
	cr_expect_str_eq(q2_bad_text((enum q2_bad)99), "is invalid");
}
