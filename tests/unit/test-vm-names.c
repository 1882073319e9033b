/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/model/names.h"

static void expect_escape(const char *raw, const char *shown)
{
	vs_autofree char *got = vm_name_escape(raw);

	cr_assert_not_null(got);
	cr_expect_str_eq(got, shown, "'%s' is shown as '%s', not '%s'", raw, got, shown);
}

Test(vm_names, what_could_mislead_a_path_or_a_terminal_is_escaped)
{
	static const struct { const char *raw, *shown; } cases[] = {
		{"monday", "monday"},                         /* nothing to do */
		{"", ""},                                     /* naming, not escaping, deals with empty names */
		{"100%", "100%25"},                           /* the escape character itself */
		{"a/b", "a%2Fb"},                             /* a path separator */
		{"../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"},
		{"~root", "%7Eroot"},                         /* our own mark */
		{"a b&c'\"", "a b&c'\""},                     /* awkward, but a legal file name */
		{"new\nline", "new%0Aline"},                  /* control bytes */
		{"\x1b[31m", "%1B[31m"},                      /* an escape sequence */
		{"del\x7f", "del%7F"},                        /* DEL */
		{"sp\xc3\xa4\xc3\x9f" "e \xe6\x97\xa5 \xf0\x9f\x99\x82", "sp\xc3\xa4\xc3\x9f" "e \xe6\x97\xa5 \xf0\x9f\x99\x82"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++)
		expect_escape(cases[i].raw, cases[i].shown);
}

Test(vm_names, a_leading_dot_is_escaped)
{
	expect_escape(".", "%2E");
	expect_escape("..", "%2E.");
	expect_escape(".hidden", "%2Ehidden");
	expect_escape("v1.2", "v1.2");
}

Test(vm_names, bytes_that_are_not_utf8_are_escaped_one_by_one)
{
	static const struct { const char *raw, *shown; } cases[] = {
		{"bad\xff\xfe", "bad%FF%FE"},              /* never valid */
		{"\xc0\xaf", "%C0%AF"},                    /* an overlong slash */
		{"\xe0\x80\xaf", "%E0%80%AF"},             /* longer still */
		{"\xed\xa0\x80", "%ED%A0%80"},             /* a surrogate */
		{"\xf4\x90\x80\x80", "%F4%90%80%80"},      /* above U+10FFFF */
		{"\xf0\x8f\xbf\xbf", "%F0%8F%BF%BF"},      /* overlong, four bytes */
		{"x\xe6\x97", "x%E6%97"},                  /* cut off at the end */
		{"\x80x", "%80x"},                         /* a continuation without a start */
		{"\xc3\xa4\xc3", "\xc3\xa4%C3"},           /* a good one before a cut one */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++)
		expect_escape(cases[i].raw, cases[i].shown);
}

Test(vm_names, unescaping_gives_back_every_name)
{
	static const char *const raws[] = {"monday", "", "100%", "a/b~c", ".x", "\xff\x01 z", "%41", "sp\xc3\xa4t"};

	for (size_t i = 0; i < VS_ARRAY_LEN(raws); i++) {
		vs_autofree char *shown = vm_name_escape(raws[i]);
		vs_autofree char *table = vm_name_for_table(shown);
		vs_autofree char *raw = NULL, *again = NULL;

		cr_assert_eq(vm_name_unescape(shown, &raw), 0);
		cr_expect_str_eq(raw, raws[i]);
		cr_assert_eq(vm_name_unescape(table, &again), 0);
		cr_expect_str_eq(again, raws[i]);
	}
}

Test(vm_names, a_percent_without_two_digits_is_no_shown_name)
{
	static const char *const bad[] = {"100%", "%", "%4", "%G1", "%4G", "a%00b"};
	char *raw = NULL;

	for (size_t i = 0; i < VS_ARRAY_LEN(bad); i++)
		cr_expect_eq(vm_name_unescape(bad[i], &raw), -EINVAL, "%s", bad[i]);
	cr_expect_null(raw);
}

Test(vm_names, tables_show_spaces_as_percent_20)
{
	vs_autofree char *got = vm_name_for_table("a  b c");

	cr_expect_str_eq(got, "a%20%20b%20c");
}

/* ---------------------------------------------------------------- unique names */

static void expect_shown(const struct vm_name_in *in, size_t n, const char *const *want)
{
	char *got[16];

	cr_assert(n <= VS_ARRAY_LEN(got));
	vm_names_shown(in, n, got);
	for (size_t i = 0; i < n; i++) {
		cr_expect_str_eq(got[i], want[i], "number %zu is '%s', not '%s'", i, got[i], want[i]);
		free(got[i]);
	}
}

Test(vm_names, unique_names_stay_plain)
{
	const struct vm_name_in in[] = {{"monday", "1", 8}, {"tuesday", NULL, 8}, {"100%", "3", 8}};

	expect_shown(in, 3, (const char *const[]){"monday", "tuesday", "100%25"});
}

Test(vm_names, every_bearer_of_a_shared_name_shows_its_id)
{
	const struct vm_name_in in[] = {{"dup", "1", 8}, {"solo", "2", 8}, {"dup", "x/y", 8}};

	expect_shown(in, 3, (const char *const[]){"dup~1", "solo", "dup~x%2Fy"});
}

Test(vm_names, repeated_ids_are_counted_in_order)
{
	const struct vm_name_in in[] = {{"dup", "1", 8}, {"dup", "1", 8}, {"dup", "2", 8}, {"dup", "1", 8}};

	expect_shown(in, 4, (const char *const[]){"dup~1", "dup~1~2", "dup~2", "dup~1~3"});
}

Test(vm_names, empty_names_show_their_id)
{
	const struct vm_name_in in[] = {{"", "7", 8}, {"x", "8", 8}};

	expect_shown(in, 2, (const char *const[]){"~7", "x"});
}

Test(vm_names, an_entry_called_current_gives_way_on_an_image_source)
{
	const struct vm_name_in in[] = {{"current", "4", 9, true}, {"monday", "5", 9}};

	expect_shown(in, 2, (const char *const[]){"current~4", "monday"});
}

Test(vm_names, a_bearer_without_an_id_keeps_its_plain_name)
{
	/* libvirt's external snapshot beside a foreign internal one */
	const struct vm_name_in in[] = {{"a", NULL, 8}, {"a", "1", 8}};

	expect_shown(in, 2, (const char *const[]){"a", "a~1"});
}

Test(vm_names, a_number_never_takes_the_name_of_a_real_id)
{
	/* the second "a" without id would like to be a~2, which is the third one's by right */
	const struct vm_name_in in[] = {{"a", NULL, 8}, {"a", NULL, 8}, {"a", "2", 8}};

	expect_shown(in, 3, (const char *const[]){"a", "a~3", "a~2"});
}

/* ---------------------------------------------------------------- long names */

static char *shown_alone(const char *name, const char *id, size_t suffix_len)
{
	const struct vm_name_in in = {name, id, suffix_len};
	char *got = NULL;

	vm_names_shown(&in, 1, &got);
	return got;
}

Test(vm_names, a_name_that_just_fits_is_not_cut)
{
	char name[256];

	memset(name, 'L', sizeof(name));
	name[255 - 8] = '\0';
	vs_autofree char *got = shown_alone(name, "1", strlen(".vda.img"));

	cr_expect_str_eq(got, name);
}

Test(vm_names, a_name_one_byte_too_long_is_cut_and_shows_its_id)
{
	char name[256], want[256];

	memset(name, 'L', sizeof(name));
	name[255 - 8 + 1] = '\0';
	memset(want, 'L', sizeof(want));
	strcpy(want + 255 - 8 - 3, "~17");
	vs_autofree char *got = shown_alone(name, "17", strlen(".vda.img"));
	vs_autofree char *file = vm_name_image_file(got, "vda");

	cr_expect_str_eq(got, want);
	cr_expect_eq(strlen(file), VM_NAME_MAX);
}

Test(vm_names, a_cut_never_splits_a_character_or_an_escape)
{
	static const struct { const char *unit; size_t shown_len; } cases[] = {
		{"\xe6\x97\xa5", 3},     /* a three-byte character */
		{"\xf0\x9f\x99\x82", 4}, /* a four-byte one */
		{"%", 3},                /* %25 */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++)
		for (size_t lead = 0; lead < 4; lead++) { /* every phase of the cut */
			char name[2048] = "";

			memset(name, 'x', lead);
			for (size_t k = 0; k < 100; k++)
				strcat(name, cases[i].unit);
			vs_autofree char *got = shown_alone(name, "9", 8);

			cr_expect_leq(strlen(got), (size_t)VM_NAME_MAX - 8);
			cr_expect_eq((strlen(got) - lead - 2) % cases[i].shown_len, 0u, "%s", got);
			cr_expect_str_eq(got + strlen(got) - 2, "~9");
		}
}

Test(vm_names, long_names_that_become_equal_are_counted)
{
	char a[400], b[400];

	memset(a, 'L', sizeof(a));
	memset(b, 'L', sizeof(b));
	strcpy(a + 300, "a");
	strcpy(b + 300, "b");
	const struct vm_name_in in[] = {{a, "1", 8}, {b, "1", 8}};
	char *got[2];

	vm_names_shown(in, 2, got);
	cr_expect_str_neq(got[0], got[1]);
	cr_expect_str_eq(got[1] + strlen(got[1]) - 4, "~1~2");
	cr_expect_eq(strlen(got[1]), (size_t)VM_NAME_MAX - 8);
	free(got[0]);
	free(got[1]);
}

Test(vm_names, a_long_name_without_an_id_ends_in_a_hash_of_it)
{
	char name[300];

	memset(name, 'L', sizeof(name));
	name[299] = '\0';
	vs_autofree char *one = shown_alone(name, NULL, 8);
	name[298] = 'M';
	vs_autofree char *other = shown_alone(name, NULL, 8);

	cr_expect_eq(strlen(one), (size_t)VM_NAME_MAX - 8);
	cr_expect_eq(one[strlen(one) - 9], '~');
	cr_expect_str_neq(one, other);
}

Test(vm_names, an_absurdly_long_id_is_cut_too)
{
	char *id = malloc(60001);

	memset(id, '/', 60000);
	id[60000] = '\0';
	vs_autofree char *got = shown_alone("", id, 8);

	cr_expect_leq(strlen(got), (size_t)VM_NAME_MAX - 8);
	cr_expect_eq((strlen(got) - 1) % 3, 0u);
	free(id);
}

Test(vm_names, a_table_full_of_equal_entries_is_named_in_no_time)
{
	enum { N = 65536 };
	struct vm_name_in *in = calloc(N, sizeof(*in));
	char **got = calloc(N, sizeof(*got));

	for (size_t i = 0; i < N; i++)
		in[i] = (struct vm_name_in){"", "", 9};
	vm_names_shown(in, N, got);
	cr_expect_str_eq(got[0], "~");
	cr_expect_str_eq(got[1], "~~2");
	cr_expect_str_eq(got[N - 1], "~~65536");
	for (size_t i = 0; i < N; i++)
		free(got[i]);
	free(got);
	free(in);
}

Test(vm_names, the_longest_target_decides_the_suffix)
{
	cr_expect_eq(vm_name_suffix_len(NULL, 0), strlen(".xml"));
	cr_expect_eq(vm_name_suffix_len((const char *const[]){"vda", "nvme0n1"}, 2), strlen(".nvme0n1.img"));
	cr_expect_eq(vm_name_suffix_len((const char *const[]){"a/b"}, 1), strlen(".a%2Fb.img"));
}

/* ---------------------------------------------------------------- directories, stems, numbers */

Test(vm_names, image_sources_with_one_stem_are_counted)
{
	const char *const stems[] = {"disk", "disk", "web", "disk"};
	char *got[4];

	vm_names_dirs(stems, 4, got);
	cr_expect_str_eq(got[0], "disk");
	cr_expect_str_eq(got[1], "disk~2");
	cr_expect_str_eq(got[2], "web");
	cr_expect_str_eq(got[3], "disk~3");
	for (size_t i = 0; i < 4; i++)
		free(got[i]);
}

Test(vm_names, a_stem_is_the_file_name_without_its_last_extension)
{
	static const struct { const char *path, *stem; } cases[] = {
		{"/a/b/disk.qcow2", "disk"},
		{"disk", "disk"},
		{"web01.2026.qcow2", "web01.2026"},
		{"/a.b/disk", "disk"},    /* a dot in a directory is none of ours */
		{".qcow2", ".qcow2"},     /* nothing would be left */
		{"disk.", "disk"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		vs_autofree char *got = vm_name_stem(cases[i].path);

		cr_expect_str_eq(got, cases[i].stem);
	}
}

Test(vm_names, inode_numbers_depend_on_parent_and_name_and_are_never_reserved_ones)
{
	uint64_t dir = vm_ino(0, "7d1a3c7e-0000-4000-8000-000000000001");

	cr_expect_neq(dir, vm_ino(0, "7d1a3c7e-0000-4000-8000-000000000002"));
	cr_expect_neq(vm_ino(dir, "a"), vm_ino(dir, "b"));
	cr_expect_neq(vm_ino(dir, "a"), vm_ino(dir + 1, "a"));
	cr_expect_eq(vm_ino(dir, "a"), vm_ino(dir, "a"));
	for (uint64_t i = 0; i < 100000; i++)
		cr_assert_gt(vm_ino(i, ""), 1u);
}

Test(vm_names, inode_numbers_are_the_same_for_ever)
{
	/* Backup tools remember them: these values may never change. */
	cr_expect_eq(vm_ino(0, ""), UINT64_C(0x7bd3144f29c0cc9e));
	cr_expect_eq(vm_ino(1, "monday.vda.img"), UINT64_C(0xb7786c0b1fd65813));
}
