/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/meta/meta.h"
#include "vm/util/mem.h"
#include "vm/xml/xml.h"

#define NS INT64_C(1000000000)

static struct vm_meta_id id(const char *name, int64_t created_ns, enum vm_kind kind)
{
	return (struct vm_meta_id){name, created_ns, kind};
}

static struct vm_meta *parse(const char *text)
{
	struct vm_meta *meta = NULL;
	struct vs_err err = {0};

	cr_assert_eq(vm_meta_parse(text, strlen(text), &meta, &err), 0, "%s: %s", text, err.msg);
	return meta;
}

static char *text_of(const struct vm_meta *meta)
{
	char *text = NULL;
	struct vs_err err = {0};

	cr_assert_eq(vm_meta_text(meta, &text, &err), 0, "%s", err.msg);
	return text;
}

/* ---------------------------------------------------------------- text */

static const char all_of_it[] =
	"<facts version=\"2\" serial=\"42\" policy=\"7d 4w match=a?&amp;&lt;*\" of=\"4711-aa\">"
	"<f k=\"3\" i=\"4711\" z=\"196624\" m=\"1763258500.123456789\"/><f k=\"9\" i=\"4712\" z=\"0\" m=\"5\" u=\"3\" x=\"are\" g=\"18446744073709551615\" c=\"18446744073709551614\"/>"
	"<l p=\"/i/a layer 100%25\" i=\"17\" b=\"1\"/><l p=\"/i/b\"/>"
	"<b k=\"3\" c=\"commit tuesday\" r=\"a commit into its image was not finished\" t=\"1763258404.500000000\" x=\"vr\">"
	"<d t=\"vda\" p=\"/var/lib/libvirt/images/web01.qcow2\" u=\"/over\" b=\"7\" k=\"8\" a=\"9\" w=\"3\" l=\"4\" x=\"dp\"/><d t=\"vdb\" x=\"n\"/></b>"
	"<b k=\"4\" c=\"x\" r=\"y\" t=\"0\"></b>"
	"<s n=\"monday\" t=\"1763258401\" is=\"eo\" v=\"3,9\" p=\"vda:3 vdb:9!\"/>"
	"<s n=\"two words %25 %0A %FF &quot;&gt;\" t=\"1763258402.000000007\" is=\"ioh\"/>"
	"<s n=\"tuesday\" t=\"1763258403\" is=\"e\" b=\"3\"/>"
	"<s n=\"early\" t=\"-0.500000000\" is=\"eh\" b=\"4\"/>"
	"</facts>";

Test(vm_meta, everything_is_read_as_it_was_written)
{
	struct vm_meta *meta = parse(all_of_it);
	vs_autofree char *text = text_of(meta);
	const struct vm_meta_snapshot *s = meta->snapshots;

	cr_expect_str_eq(text, all_of_it);
	cr_expect_eq(meta->serial, 42u);
	cr_expect_str_eq(meta->policy, "7d 4w match=a?&<*");
	cr_assert_eq(meta->n_snapshots, 4u);
	cr_expect(s[0].ours && !s[0].held && s[0].kind == VM_EXTERNAL && !s[0].mark);
	cr_expect_eq(s[0].created_ns, 1763258401 * NS);
	cr_assert_eq(s[0].n_attested, 2u);
	cr_assert_not_null(vm_meta_file(meta, s[0].attested[1]));
	cr_expect_eq(vm_meta_file(meta, s[0].attested[1])->ino, 4712u);
	cr_expect_str_eq(s[1].name, "two words % \n \xff \">");
	cr_expect(s[1].ours && s[1].held && s[1].kind == VM_INTERNAL);
	cr_expect_eq(s[1].created_ns, 1763258402 * NS + 7);
	cr_assert_not_null(s[2].mark);
	cr_expect_str_eq(s[2].mark->command, "commit tuesday");
	cr_expect_eq(s[2].mark->since_ns, 1763258404 * NS + NS / 2);
	cr_assert_eq(s[2].mark->n_disks, 2u);
	cr_expect_str_eq(s[2].mark->disks[0].path, "/var/lib/libvirt/images/web01.qcow2");
	cr_expect_str_eq(s[2].mark->disks[1].target, "vdb");
	cr_expect_null(s[2].mark->disks[1].path);
	cr_expect(s[2].mark->is_void && s[2].mark->disks[0].done && s[2].mark->disks[0].pivoting && !s[2].mark->disks[1].done);
	cr_expect(s[2].mark->retention && !s[2].mark->disks[0].unasked && s[2].mark->disks[1].unasked);
	cr_expect(s[2].mark->disks[0].path_ino == 7 && s[2].mark->disks[0].top_ino == 8 && s[2].mark->disks[0].above_ino == 9);
	cr_assert_eq(s[0].n_frozen, 2u);
	cr_expect_str_eq(s[0].frozen[1].target, "vdb");
	cr_expect_eq(vm_meta_file(meta, s[0].frozen[1].file)->ino, 4712u);
	cr_expect_eq(vm_meta_file(meta, s[0].frozen[1].file)->beneath, 3u);
	cr_expect_eq(vm_meta_file(meta, s[0].frozen[1].file)->sum, UINT64_MAX);
	cr_expect_eq(vm_meta_file(meta, s[0].frozen[1].file)->survived, UINT64_MAX - 1);
	cr_expect(!s[0].frozen[0].spoilt && s[0].frozen[1].spoilt);
	const struct vm_meta_file *f = vm_meta_file(meta, s[0].frozen[1].file);
	cr_expect(f->alone && f->raw && f->empty);
	f = vm_meta_file(meta, f->beneath);
	cr_expect(f && !f->alone && !f->raw && !f->empty && !f->beneath);
	cr_expect_eq(s[3].created_ns, -NS / 2);
	vm_meta_free(meta);
}

Test(vm_meta, nothing_said_is_a_text_too)
{
	struct vm_meta *meta = vm_meta_new();
	vs_autofree char *text = text_of(meta);

	cr_expect_str_eq(text, "<facts version=\"2\" serial=\"0\"></facts>");
	vm_meta_free(meta);
	meta = parse(text);
	cr_expect_null(meta->policy);
	cr_expect_eq(meta->n_snapshots, 0u);
	vm_meta_free(meta);
}

Test(vm_meta, libvirt_may_indent_it_put_a_name_space_on_it_and_write_characters_as_numbers)
{
	struct vm_meta *meta = parse("\n<snapfs:facts xmlns:snapfs=\"https://virt-snapfs.org/xmlns/domain/1.0\" version=\"1\" serial=\"4\">\n"
				     "  <snapfs:s n=\"sp&#xE4;t\" t=\"5\" is=\"eh\">\n    <snapfs:m c=\"a\" r=\"b\" t=\"1\">\n"
				     "      <snapfs:d t=\"vda\"/>\n    </snapfs:m>\n  </snapfs:s>\n</snapfs:facts>\n");

	cr_expect_eq(meta->serial, 4u);
	cr_assert_eq(meta->n_snapshots, 1u);
	cr_expect_str_eq(meta->snapshots[0].name, "sp\xc3\xa4t");
	cr_expect_eq(meta->snapshots[0].mark->n_disks, 1u);
	vm_meta_free(meta);
}

Test(vm_meta, it_is_found_inside_a_domain_by_its_name_space)
{
	static const char domain[] = "<domain><name>a</name><metadata><facts version=\"1\" serial=\"1\"/>"
		"<o:facts xmlns:o=\"http://other\" version=\"1\" serial=\"2\"/>"
		"<x:facts xmlns:x=\"" VM_META_URI "\" version=\"1\" serial=\"3\"><x:s n=\"&lt;\" t=\"5\" is=\"eh\"/></x:facts></metadata></domain>";
	static const char above[] = "<domain xmlns:x=\"" VM_META_URI "\"><name>a</name><metadata>"
		"<x:facts version=\"1\" serial=\"4\"/><x:facts version=\"1\" serial=\"5\"/></metadata></domain>";
	struct vm_xml_domain *d;
	struct vm_meta *meta = NULL;

	cr_assert_eq(vm_xml_domain_parse(domain, &d, NULL), 0);
	cr_assert(d->metadata && d->metadata[0] && !d->metadata[1]);
	cr_assert_eq(vm_meta_parse(d->metadata[0], strlen(d->metadata[0]), &meta, NULL), 0);
	cr_expect_eq(meta->serial, 3u);
	cr_expect_str_eq(meta->snapshots[0].name, "<");
	vm_meta_free(meta);
	vm_xml_domain_free(d);
	cr_assert_eq(vm_xml_domain_parse(above, &d, NULL), 0);
	cr_assert(d->metadata && d->metadata[0] && d->metadata[1] && !d->metadata[2]);
	cr_assert_eq(vm_meta_parse(d->metadata[1], strlen(d->metadata[1]), &meta, NULL), 0);
	cr_expect_eq(meta->serial, 5u);
	vm_meta_free(meta);
	vm_xml_domain_free(d);
}

Test(vm_meta, attributes_and_comments_that_are_not_known_are_ignored)
{
	struct vm_meta *meta = parse("<facts version=\"1\" serial=\"4\" colour=\"red\"><s n=\"a\" t=\"1\" is=\"eo\" x=\"y\"/><!-- hm --><?pi?>text</facts>");

	cr_assert_eq(meta->n_snapshots, 1u);
	cr_expect(meta->snapshots[0].ours && !meta->snapshots[0].held);
	vm_meta_free(meta);
}

/* It may be a hold. */
Test(vm_meta, elements_and_letters_that_are_not_known_are_refused)
{
	const char *texts[] = {
		"<facts version=\"1\"><new/></facts>",
		"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"eo\"/><o:s xmlns:o=\"http://other\" n=\"b\"/></facts>",
		"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"eoz\"/></facts>",
	};
	struct vm_meta *meta;

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		cr_expect_eq(vm_meta_parse(texts[i], strlen(texts[i]), &meta, NULL), -EINVAL, "%s", texts[i]);
}

Test(vm_meta, an_entry_that_says_nothing_is_dropped)
{
	struct vm_meta *meta = parse("<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"e\"/></facts>");

	cr_expect_eq(meta->n_snapshots, 0u);
	vm_meta_free(meta);
}

Test(vm_meta, what_does_not_make_sense_is_refused_not_guessed)
{
	static const struct { const char *text; int code; const char *says; } cases[] = {
		{"", -EINVAL, "well-formed"},
		{"facts", -EINVAL, "well-formed"},
		{"<facts version=\"1\"", -EINVAL, "well-formed"},
		{"<facts version=\"1\"><s></facts>", -EINVAL, "well-formed"},
		{"<other version=\"1\"/>", -EINVAL, "<other> is not <facts>"},
		{"<facts xmlns=\"http://other\" version=\"1\"/>", -EINVAL, "not <facts>"},
		{"<facts/>", -EINVAL, "no version"},
		{"<facts version=\"0\"/>", -EINVAL, "no version"},
		{"<facts version=\"one\"/>", -EINVAL, "number"},
		{"<facts version=\"3\"/>", -EOPNOTSUPP, "newer virt-snapfs"},
		{"<facts version=\"1\" serial=\"-1\"/>", -EINVAL, "number"},
		{"<facts version=\"1\" serial=\"\"/>", -EINVAL, "number"},
		{"<facts version=\"1\" serial=\"9223372036854775808\"/>", -EINVAL, "number"},
		{"<facts version=\"1\" serial=\"99999999999999999999999\"/>", -EINVAL, "number"},
		{"<facts version=\"1\" policy=\"100%\"/>", -EINVAL, "%XX"},
		{"<facts version=\"1\"><s t=\"1\" is=\"e\"/></facts>", -EINVAL, "<s> lacks"},
		{"<facts version=\"1\"><s n=\"a\" is=\"e\"/></facts>", -EINVAL, "<s> lacks"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1\"/></facts>", -EINVAL, "<s> lacks"},
		{"<facts version=\"1\"><s n=\"a%00b\" t=\"1\" is=\"e\"/></facts>", -EINVAL, "%XX"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"o\"/></facts>", -EINVAL, "neither"},
		{"<facts version=\"2\"><b k=\"1\" c=\"delete a\" r=\"r\" t=\"1\"/><s n=\"a\" t=\"1\" is=\"i\" b=\"1\"/></facts>", -EINVAL,
		 "internal"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"i\"><m c=\"delete a\" r=\"r\" t=\"1\"/></s></facts>", -EINVAL, "internal"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"eio\"/></facts>", -EINVAL, "both"},
		{"<facts version=\"1\"><s n=\"a\" t=\"\" is=\"e\"/></facts>", -EINVAL, "time"},
		{"<facts version=\"1\"><s n=\"a\" t=\"x\" is=\"e\"/></facts>", -EINVAL, "time"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1.\" is=\"e\"/></facts>", -EINVAL, "time"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1.0000000001\" is=\"e\"/></facts>", -EINVAL, "time"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1 \" is=\"e\"/></facts>", -EINVAL, "time"},
		{"<facts version=\"1\"><s n=\"a\" t=\"9223372037\" is=\"e\"/></facts>", -EINVAL, "time"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"e\"><m r=\"b\" t=\"1\"/></s></facts>", -EINVAL, "<m> lacks"},
		{"<facts version=\"2\"><b k=\"1\" r=\"b\" t=\"1\"/></facts>", -EINVAL, "<b> lacks"},
		{"<facts version=\"2\"><b c=\"a\" r=\"b\" t=\"1\"/></facts>", -EINVAL, "<b> has no number of its own"},
		{"<facts version=\"2\"><b k=\"1\" c=\"a\" r=\"b\" t=\"1\"/><b k=\"1\" c=\"a\" r=\"b\" t=\"1\"/></facts>", -EINVAL, "<b> has no number"},
		{"<facts version=\"2\"><s n=\"a\" t=\"1\" is=\"e\" b=\"2\"/></facts>", -EINVAL, "<s> is doomed by a command that is not there"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"e\"><m c=\"b\" t=\"1\"/></s></facts>", -EINVAL, "<m> lacks"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"e\"><m c=\"b\" r=\"b\"/></s></facts>", -EINVAL, "<m> lacks"},
		{"<facts version=\"1\"><s n=\"a\" t=\"1\" is=\"e\"><m c=\"b\" r=\"b\" t=\"1\"><d p=\"/x\"/></m></s></facts>", -EINVAL, "<d> lacks"},
		{"<!DOCTYPE facts><facts version=\"1\"/>", -EINVAL, "document type"},
		{"<!DOCTYPE facts [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><facts version=\"1\" policy=\"&b;\"/>", -EINVAL, "document type"},
		{"<facts version=\"1\" policy=\"&b;\"/>", -EINVAL, "well-formed"},
		{"<facts version=\"1\" policy=\"\xff\"/>", -EINVAL, "well-formed"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_meta *meta = (struct vm_meta *)&cases;
		struct vs_err err = {0};

		cr_expect_eq(vm_meta_parse(cases[i].text, strlen(cases[i].text), &meta, &err), cases[i].code, "%s",
			     cases[i].text);
		cr_expect_not_null(strstr(err.msg, cases[i].says), "%s: %s", cases[i].text, err.msg);
		cr_expect_eq((const void *)meta, (const void *)&cases);
	}
}

Test(vm_meta, a_nul_byte_or_another_encoding_is_not_well_formed)
{
	static const char nul[] = "<facts version=\"1\"/>\0<x/>";
	static const char utf16[] = "\xff\xfe<\0f\0a\0c\0t\0s\0/\0>\0";
	struct vm_meta *meta;

	cr_expect_eq(vm_meta_parse("<facts\0 version=\"1\"/>", 21, &meta, NULL), -EINVAL);
	cr_expect_eq(vm_meta_parse(utf16, sizeof(utf16) - 1, &meta, NULL), -EINVAL);
	if (vm_meta_parse(nul, sizeof(nul) - 1, &meta, NULL) == 0)
		vm_meta_free(meta); /* what is behind the element does not matter */
}

Test(vm_meta, times_come_back_to_the_nanosecond)
{
	static const int64_t times[] = {0, 1, -1, NS, -NS, NS - 1, 1 - NS, -NS - 1, INT64_MAX, INT64_MIN, 1763258401 * NS + 100000000};

	for (size_t i = 0; i < VS_ARRAY_LEN(times); i++) {
		struct vm_meta *meta = vm_meta_new(), *again;
		struct vm_meta_id a = id("a", times[i], VM_INTERNAL);

		vm_meta_set_held(meta, &a, true);
		vs_autofree char *text = text_of(meta);
		again = parse(text);
		cr_expect_eq(again->snapshots[0].created_ns, times[i], "%s", text);
		vm_meta_free(meta);
		vm_meta_free(again);
	}
	struct vm_meta *meta = parse("<facts version=\"1\"><s n=\"a\" t=\"1.5\" is=\"eo\"/></facts>");

	cr_expect_eq(meta->snapshots[0].created_ns, NS + NS / 2); /* fewer digits are what they look like */
	vm_meta_free(meta);
}

/* ---------------------------------------------------------------- size */

static bool nobody(const struct vm_meta_id *a, void *opaque)
{
	(void)a;
	(void)opaque;
	return false;
}

Test(vm_meta, over_64_kib_is_refused_in_a_sentence_and_all_below_can_be_read_again)
{
	struct vm_meta *meta = vm_meta_new(), *again;
	struct vs_err err = {0};
	char *text = NULL;
	char name[32];
	size_t n = 0;
	int ret = 0;

	do {
		free(text);
		text = NULL;
		snprintf(name, sizeof(name), "auto-%05zu", n++);
		struct vm_meta_id a = id(name, (int64_t)(1763258401 + n) * NS, VM_EXTERNAL);
		vm_meta_set_ours(meta, &a, true);
		if (n % 50 == 0)
			ret = vm_meta_text(meta, &text, &err);
	} while (ret == 0);
	cr_expect_eq(ret, -E2BIG);
	cr_expect_geq(n, 1300u, "room for %zu snapshots", n);
	cr_expect_not_null(strstr(err.msg, "65536"), "%s", err.msg);
	do {
		struct vm_meta_id a = id(meta->snapshots[0].name, meta->snapshots[0].created_ns, VM_EXTERNAL);
		cr_assert(vm_meta_forget(meta, &a));
		ret = vm_meta_text(meta, &text, NULL);
	} while (ret == -E2BIG);
	again = parse(text);
	cr_expect_eq(again->n_snapshots, meta->n_snapshots);
	cr_expect_eq(vm_meta_sweep(again, nobody, NULL), meta->n_snapshots);
	cr_expect_eq(again->n_snapshots, 0u);
	vm_meta_free(meta);
	vm_meta_free(again);
	free(text);
}

Test(vm_meta, the_shortest_entries_can_be_read_again_too)
{
	struct vm_meta *meta = vm_meta_new(), *again;
	struct vm_meta_id a = id("", 0, VM_EXTERNAL);
	char empty[] = "", x[] = "x";
	struct vm_meta_doomed disks[6000];
	struct vm_meta_mark mark = {empty, empty, 0, disks, VS_ARRAY_LEN(disks)};

	for (size_t i = 0; i < VS_ARRAY_LEN(disks); i++)
		disks[i] = (struct vm_meta_doomed){.target = x};
	vm_meta_set_mark(meta, &a, &mark);
	vs_autofree char *text = text_of(meta);
	again = parse(text);
	cr_expect_eq(again->snapshots[0].mark->n_disks, VS_ARRAY_LEN(disks));
	vm_meta_free(meta);
	vm_meta_free(again);
}

Test(vm_meta, too_much_inside_a_large_document_is_refused)
{
	size_t room = 400000, len;
	char *text = malloc(room);
	struct vm_meta *meta;
	struct vs_err err = {0};

	len = (size_t)sprintf(text, "<facts version=\"1\">");
	for (int i = 0; len < room - 100; i++)
		len += (size_t)sprintf(text + len, "<s n=\"%d\" t=\"1\" is=\"eo\"/>", i);
	len += (size_t)sprintf(text + len, "</facts>");
	cr_expect_eq(vm_meta_parse(text, len, &meta, &err), -E2BIG);
	cr_expect_not_null(strstr(err.msg, "65536"), "%s", err.msg);
	free(text);
	text = calloc(8, VM_META_MAX + 1);
	memset(text, ' ', 8 * (VM_META_MAX + 1));
	cr_expect_eq(vm_meta_parse(text, 8 * (VM_META_MAX + 1), &meta, &err), -E2BIG);
	free(text);
}

/* ---------------------------------------------------------------- who is meant */

Test(vm_meta, a_snapshot_taken_anew_under_its_name_is_another_one)
{
	static const struct { struct vm_meta_id a, b; bool same; } cases[] = {
		{{"a", 5 * NS, VM_EXTERNAL}, {"a", 5 * NS, VM_EXTERNAL}, true},
		{{"a", 5 * NS, VM_EXTERNAL}, {"b", 5 * NS, VM_EXTERNAL}, false},
		{{"a", 5 * NS, VM_EXTERNAL}, {"a", 5 * NS, VM_INTERNAL}, false},
		{{"a", 5 * NS, VM_EXTERNAL}, {"a", 6 * NS, VM_EXTERNAL}, false},
		{{"a", 5 * NS + 1, VM_INTERNAL}, {"a", 5 * NS + 2, VM_INTERNAL}, false}, /* both know better */
		{{"a", 5 * NS, VM_INTERNAL}, {"a", 5 * NS + 999999999, VM_INTERNAL}, true}, /* one has seconds only */
		{{"a", 5 * NS, VM_INTERNAL}, {"a", 4 * NS + 999999999, VM_INTERNAL}, false},
		{{"a", -NS, VM_INTERNAL}, {"a", -1, VM_INTERNAL}, true},                 /* seconds are rounded down */
		{{"a", 0, VM_INTERNAL}, {"a", -1, VM_INTERNAL}, false},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		cr_expect_eq(vm_meta_same(&cases[i].a, &cases[i].b), cases[i].same, "number %zu", i);
		cr_expect_eq(vm_meta_same(&cases[i].b, &cases[i].a), cases[i].same, "number %zu", i);
	}
}

Test(vm_meta, the_very_same_time_goes_before_the_same_second)
{
	struct vm_meta *meta = vm_meta_new();
	struct vm_meta_id early = id("a", NS + 1, VM_INTERNAL), late = id("a", NS + 2, VM_INTERNAL);
	struct vm_meta_id whole = id("a", NS, VM_INTERNAL);

	vm_meta_set_ours(meta, &early, true);
	vm_meta_set_held(meta, &late, true);
	cr_expect_eq(meta->n_snapshots, 2u);
	cr_expect(vm_meta_find(meta, &late)->held && !vm_meta_find(meta, &late)->ours);
	cr_expect(vm_meta_find(meta, &early)->ours && !vm_meta_find(meta, &early)->held);
	cr_expect_not_null(vm_meta_find(meta, &whole));
	vm_meta_free(meta);
}

/* ---------------------------------------------------------------- changes */

Test(vm_meta, flags_come_and_go_and_an_empty_entry_goes_with_them)
{
	struct vm_meta *meta = vm_meta_new();
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL), b = id("b", NS, VM_EXTERNAL);

	vm_meta_set_held(meta, &a, false); /* releasing what is not held */
	cr_expect_eq(meta->n_snapshots, 0u);
	vm_meta_set_ours(meta, &a, true);
	vm_meta_set_ours(meta, &b, true);
	vm_meta_set_held(meta, &a, true);
	cr_expect_eq(meta->n_snapshots, 2u);
	vm_meta_set_ours(meta, &a, false);
	cr_expect(vm_meta_find(meta, &a)->held);
	vm_meta_set_held(meta, &a, false);
	cr_expect_null(vm_meta_find(meta, &a));
	cr_expect(vm_meta_forget(meta, &b));
	cr_expect_not(vm_meta_forget(meta, &b));
	cr_expect_eq(meta->n_snapshots, 0u);
	vm_meta_free(meta);
}

Test(vm_meta, a_mark_of_many_is_said_once)
{
	struct vm_meta *meta = vm_meta_new(), *copy, *again;
	vs_autofree char *command = calloc(1, 4000);
	struct vm_meta_doomed disk = {(char *)"vda", (char *)"/i/base"};
	struct vm_meta_mark mark = {command, (char *)"a delete is not finished", 5, &disk, 1};
	vs_autofree char *text = NULL;
	char name[16];

	memset(command, 'x', 3999);
	for (int i = 0; i < 199; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		struct vm_meta_id one = id(name, NS * i, VM_EXTERNAL);
		vm_meta_set_mark(meta, &one, &mark);
	}
	text = text_of(meta); /* fits */
	again = parse(text);
	cr_assert_eq(again->n_snapshots, 199u);
	for (size_t i = 0; i < again->n_snapshots; i++)
		cr_assert(again->snapshots[i].mark && again->snapshots[i].mark == again->snapshots[0].mark);
	again->snapshots[7].mark->disks[0].done = true; /* for all of them */
	copy = vm_meta_copy(again);
	cr_expect(copy->snapshots[0].mark != again->snapshots[0].mark && copy->snapshots[198].mark->disks[0].done);
	again->snapshots[7].mark->is_void = true;
	cr_expect_not(copy->snapshots[7].mark->is_void, "a copy is independent");
	for (size_t i = again->n_snapshots; i-- > 0;) {
		struct vm_meta_id one = id(again->snapshots[i].name, again->snapshots[i].created_ns, VM_EXTERNAL);
		vm_meta_set_mark(again, &one, NULL);
	}
	cr_expect_eq(again->n_snapshots, 0u);
	vm_meta_free(meta);
	vm_meta_free(copy);
	vm_meta_free(again);
}

Test(vm_meta, marks_are_counted_once_however_many_they_doom)
{
	struct vm_meta *meta = parse("<facts version=\"2\"><b k=\"1\" c=\"delete x\" r=\"r\" t=\"1\"><d t=\"a\" p=\"/p\"/></b>"
				     "<b k=\"2\" c=\"delete y\" r=\"r\" t=\"1\"/><s n=\"x\" t=\"1\" is=\"e\" b=\"1\"/>"
				     "<s n=\"y\" t=\"1\" is=\"e\" b=\"2\"/><s n=\"z\" t=\"1\" is=\"e\" b=\"1\"/><s n=\"h\" t=\"1\" is=\"eh\"/></facts>");
	const struct vm_meta_mark *marks[4];

	cr_assert_eq(vm_meta_marks(meta, marks), 2u);
	cr_expect_str_eq(marks[0]->command, "delete x");
	cr_expect_str_eq(marks[1]->command, "delete y");
	vm_meta_free(meta);
}

Test(vm_meta, a_mark_dooms_its_disks_or_all_of_them)
{
	struct vm_meta *meta = vm_meta_new();
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL), b = id("b", NS, VM_EXTERNAL);
	char target[] = "vda", command[] = "commit a", reason[] = "a commit is not finished";
	struct vm_meta_doomed disk = {target, NULL};
	struct vm_meta_mark mark = {command, reason, 5, &disk, 1};

	vm_meta_set_mark(meta, &a, &mark);
	cr_expect_str_eq(vm_meta_why_doomed(meta, &a, "vda"), "a commit is not finished");
	cr_expect_null(vm_meta_why_doomed(meta, &a, "vdb"));
	cr_expect_null(vm_meta_why_doomed(meta, &b, "vda"));
	mark.n_disks = 0;
	vm_meta_set_mark(meta, &a, &mark); /* in place of the first */
	cr_expect_not_null(vm_meta_why_doomed(meta, &a, "vdb"));
	cr_expect_eq(meta->n_snapshots, 1u);
	vm_meta_set_held(meta, &a, true);
	vm_meta_set_mark(meta, &a, NULL);
	cr_expect_null(vm_meta_why_doomed(meta, &a, "vda"));
	cr_expect(vm_meta_find(meta, &a)->held);
	vm_meta_set_mark(meta, &b, NULL);
	cr_expect_eq(meta->n_snapshots, 1u);
	vm_meta_free(meta);
}

static bool is_b(const struct vm_meta_id *a, void *opaque)
{
	++*(int *)opaque;
	return !strcmp(a->name, "b");
}

Test(vm_meta, that_somebody_took_the_last_number_of_a_file_keeps_nobody_from_being_attested)
{
	static const char text[] = "<facts version='2' serial='5'><f k='9223372036854775807' i='9' z='1' m='1'/>"
				   "<s n='c' t='1' is='e' v='9223372036854775807'/></facts>";
	const struct vm_meta_file files[] = {{.ino = 1, .size = 2, .mtime_ns = 3}, {.ino = 2, .size = 2, .mtime_ns = 3}};
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL);
	struct vm_meta *meta;

	cr_assert_eq(vm_meta_parse(text, sizeof(text) - 1, &meta, NULL), 0);
	vm_meta_set_attested(meta, &a, files, 2);
	cr_assert_eq(meta->n_files, 3u);
	cr_expect_eq(vm_meta_file(meta, 1)->ino, 1u);
	cr_expect_eq(vm_meta_file(meta, 2)->ino, 2u);
	vm_meta_free(meta);
}

Test(vm_meta, files_that_nobody_is_attested_with_are_forgotten_and_equal_ones_shared)
{
	const struct vm_meta_file files[] = {{.ino = 1, .size = 2, .mtime_ns = 3}, {.ino = 1, .size = 2, .mtime_ns = 4}};
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL), b = id("b", 2 * NS, VM_EXTERNAL);
	struct vm_meta *meta = vm_meta_new();

	vm_meta_set_attested(meta, &a, files, 2);
	vm_meta_set_attested(meta, &b, &files[1], 1);
	cr_expect_eq(meta->n_files, 2u);
	vm_meta_set_attested(meta, &a, &files[1], 1);
	vm_meta_bump(meta);
	cr_assert_eq(meta->n_files, 1u);
	cr_expect_eq(vm_meta_file(meta, vm_meta_find(meta, &a)->attested[0])->mtime_ns, 4);
	vm_meta_set_attested(meta, &a, NULL, 0);
	cr_expect_null(vm_meta_find(meta, &a), "nothing is left to say of it");
	cr_expect(vm_meta_forget(meta, &b));
	vm_meta_bump(meta);
	cr_expect_eq(meta->n_files, 0u);
	vm_meta_free(meta);
}

Test(vm_meta, a_header_that_was_changed_has_another_time_whatever_stands_on_it)
{
	struct vm_meta_file old = {.ino = 1, .size = 2, .mtime_ns = 3, .sum = 4}, top = {.ino = 5, .size = 6, .mtime_ns = 7};
	const struct vm_meta_file now = {.ino = 1, .size = 2, .mtime_ns = 9}, other = {.ino = 1, .size = 2, .mtime_ns = 5};
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL), b = id("b", NS, VM_EXTERNAL), c = id("c", NS, VM_EXTERNAL);
	struct vm_meta *meta = vm_meta_new();

	vm_meta_set_frozen(meta, &a, "vda", &old);
	old.alone = true; /* another note of it */
	top.beneath = vm_meta_add_file(meta, &old);
	vm_meta_set_frozen(meta, &b, "vda", &top);
	vm_meta_set_frozen(meta, &c, "vda", &(struct vm_meta_file){.ino = 1, .size = 2, .mtime_ns = 1});
	vm_meta_restamp(meta, &now, &other);
	cr_expect_eq(vm_meta_frozen(meta, &a, "vda")->mtime_ns, 3, "not with that time");
	vm_meta_restamp(meta, &now, &old);
	cr_expect_eq(vm_meta_frozen(meta, &a, "vda")->mtime_ns, 9);
	cr_expect_eq(vm_meta_frozen(meta, &a, "vda")->sum, 4u, "of all but the header");
	cr_expect_eq(vm_meta_file(meta, top.beneath)->mtime_ns, 9);
	cr_expect_eq(vm_meta_frozen(meta, &c, "vda")->mtime_ns, 1);
	vm_meta_free(meta);
}

Test(vm_meta, what_a_snapshot_shows_is_kept)
{
	const struct vm_meta_id a = { "a b", INT64_C(1763258401000000000), VM_EXTERNAL };
	struct vm_meta *meta = vm_meta_new(), *again, *copy;
	vs_autofree char *text = NULL;

	cr_expect_eq(vm_meta_shows(meta, &a, "vda"), 0u);
	vm_meta_set_shows(meta, &a, "vda", UINT64_MAX);
	vm_meta_set_shows(meta, &a, "v:b", 2);
	cr_assert_eq(vm_meta_text(meta, &text, NULL), 0);
	cr_assert_eq(vm_meta_parse(text, strlen(text), &again, NULL), 0);
	copy = vm_meta_copy(again);
	cr_expect_eq(vm_meta_shows(copy, &a, "vda"), UINT64_MAX);
	cr_expect_eq(vm_meta_shows(copy, &a, "v:b"), 2u);
	cr_expect_not(vm_meta_is_spoilt(copy, &a, "vda"));
	vm_meta_set_spoilt(copy, &a, "vda", true);
	vm_meta_forget_notes(copy, &a);
	cr_expect(!vm_meta_shows(copy, &a, "vda") && !vm_meta_is_spoilt(copy, &a, "vda"));
	for (const char *const *bad = (const char *const[]){ "vda", "vda:", ":3", "vda:x", "vda:3!", NULL }; *bad; bad++) {
		vs_autofree char *wrong = xasprintf("<facts version='2' serial='1'><s n='x' t='1' is='e' w='%s'/></facts>", *bad);

		cr_expect_eq(vm_meta_parse(wrong, strlen(wrong), &(struct vm_meta *){ NULL }, NULL), -EINVAL, "%s", *bad);
	}
	vm_meta_free(meta);
	vm_meta_free(again);
	vm_meta_free(copy);
}

Test(vm_meta, copies_that_were_made_with_a_snapshot_go_with_it)
{
	const struct vm_meta_nv nvram = {.what = (char *)"nvram", .path = (char *)"/v/a b%\n", .ino = UINT64_MAX, .size = 131072, .sum = 7, .mtime_ns = NS + 5};
	const struct vm_meta_nv tpm = {.what = (char *)"tpm", .path = (char *)"/t", .ino = 2, .size = 3, .sum = 4, .mtime_ns = 5};
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL), b = id("b", NS, VM_EXTERNAL);
	struct vm_meta *meta = vm_meta_new();

	vm_meta_set_nv(meta, &a, &tpm);
	vm_meta_set_nv(meta, &a, &nvram);
	vm_meta_set_nv(meta, &a, &tpm);
	vm_meta_set_ours(meta, &a, true);
	vm_meta_set_ours(meta, &a, false); /* there is still something to say of it */
	vs_autofree char *text = text_of(meta);
	struct vm_meta *read = parse(text), *again = vm_meta_copy(read);
	const struct vm_meta_nv *got = vm_meta_nv(again, &a, "nvram");
	cr_assert_not_null(got);
	cr_expect_str_eq(got->path, nvram.path);
	cr_expect(got->ino == nvram.ino && got->size == nvram.size && got->sum == nvram.sum && got->mtime_ns == nvram.mtime_ns);
	cr_expect(vm_meta_find(again, &a)->n_nv == 2 && !vm_meta_nv(again, &b, "tpm"));
	cr_expect(vm_meta_has_nv(again, "/t", 2) && !vm_meta_has_nv(again, "/t", 3) && !vm_meta_has_nv(again, "/v", 2));
	vm_meta_forget(again, &a);
	cr_expect_not(vm_meta_has_nv(again, "/t", 2));
	vm_meta_adopt(read, "11111111-1111-1111-1111-111111111111");
	vm_meta_adopt(read, "22222222-2222-2222-2222-222222222222");
	cr_expect_not(vm_meta_has_nv(read, "/t", 2), "the files are another domain's");
	cr_expect_eq(vm_meta_parse("<facts version='2' serial='1'><s n='x' t='1' is='e'><q w='tpm'/></s></facts>",
				   strlen("<facts version='2' serial='1'><s n='x' t='1' is='e'><q w='tpm'/></s></facts>"), &(struct vm_meta *){ NULL }, NULL), -EINVAL);
	vm_meta_free(meta);
	vm_meta_free(read);
	vm_meta_free(again);
}

Test(vm_meta, what_is_spoilt_stays_so_until_it_is_found_right)
{
	const struct vm_meta_file old = {.ino = 1, .size = 2, .mtime_ns = 3}, now = {.ino = 1, .size = 2, .mtime_ns = 9};
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL);
	struct vm_meta *meta = vm_meta_new();

	cr_expect(!vm_meta_is_spoilt(meta, &a, "vda") && !vm_meta_set_spoilt(meta, &a, "vda", false) && !meta->n_snapshots);
	cr_expect(vm_meta_set_spoilt(meta, &a, "vda", true) && !vm_meta_set_spoilt(meta, &a, "vda", true));
	cr_expect_null(vm_meta_frozen(meta, &a, "vda"));
	vm_meta_set_frozen(meta, &a, "vda", &old);
	vm_meta_restamp(meta, &now, NULL);
	vm_meta_bump(meta);
	vs_autofree char *text = text_of(meta);
	struct vm_meta *again = parse(text);
	cr_expect(vm_meta_is_spoilt(again, &a, "vda") && !vm_meta_is_spoilt(again, &a, "vdb"));
	cr_expect_eq(vm_meta_frozen(again, &a, "vda")->mtime_ns, 9);
	cr_expect(vm_meta_set_spoilt(again, &a, "vda", false) && !vm_meta_is_spoilt(again, &a, "vda"));
	vm_meta_free(again);
	vm_meta_free(meta);
}

Test(vm_meta, what_a_file_stood_on_is_kept_with_it)
{
	struct vm_meta_file base = {.ino = 1, .size = 2, .mtime_ns = 3, .alone = true, .raw = true}, top = {.ino = 4, .size = 5, .mtime_ns = 6}, other;
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL), b = id("b", 2 * NS, VM_EXTERNAL);
	struct vm_meta *meta = vm_meta_new();

	top.beneath = vm_meta_add_file(meta, &base);
	cr_expect_eq(vm_meta_add_file(meta, &base), top.beneath, "it is known");
	vm_meta_set_frozen(meta, &a, "vda", &base);
	vm_meta_set_frozen(meta, &b, "vda", &top);
	cr_expect(vm_meta_forget(meta, &a));
	vm_meta_bump(meta);
	cr_assert_eq(meta->n_files, 2u);
	vs_autofree char *text = text_of(meta);
	struct vm_meta *again = parse(text);
	const struct vm_meta_file *f = vm_meta_frozen(again, &b, "vda");
	cr_assert_not_null(f);
	cr_expect_eq(f->ino, 4u);
	f = vm_meta_file(again, f->beneath);
	cr_assert_not_null(f);
	cr_expect(f->ino == 1 && f->alone && f->raw);
	vm_meta_free(again);

	base.mtime_ns = 9; /* what it stands on now is in another state: that is another note */
	other = top;
	other.beneath = vm_meta_add_file(meta, &base);
	cr_expect_neq(other.beneath, top.beneath);
	vm_meta_set_frozen(meta, &b, "vda", &other);
	vm_meta_bump(meta);
	cr_assert_eq(meta->n_files, 2u);
	cr_expect_eq(vm_meta_file(meta, vm_meta_frozen(meta, &b, "vda")->beneath)->mtime_ns, 9);
	cr_expect(vm_meta_forget(meta, &b));
	vm_meta_bump(meta);
	cr_expect_eq(meta->n_files, 0u);
	vm_meta_free(meta);
}

Test(vm_meta, who_is_read_through_what_was_half_merged_is_noted_with_that)
{
	struct vm_meta_file base = {.ino = 1, .size = 2, .mtime_ns = 3, .alone = true, .sum = 7}, top = {.ino = 4, .size = 5, .mtime_ns = 6},
			    upper = {.ino = 7, .size = 8, .mtime_ns = 9}, other = {.ino = 10, .size = 11, .mtime_ns = 12};
	const struct vm_meta_file now = {.ino = 1, .size = 20, .mtime_ns = 30};
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL), b = id("b", 2 * NS, VM_EXTERNAL), c = id("c", 3 * NS, VM_EXTERNAL), d = id("d", 4 * NS, VM_EXTERNAL);
	struct vm_meta *meta = vm_meta_new();
	const struct vm_meta_file *f;

	vm_meta_set_frozen(meta, &a, "vda", &base);
	other.beneath = top.beneath = vm_meta_add_file(meta, &base);
	vm_meta_set_frozen(meta, &b, "vda", &top);
	upper.beneath = vm_meta_add_file(meta, &top);
	vm_meta_set_frozen(meta, &c, "vda", &upper);
	vm_meta_set_frozen(meta, &d, "vda", &other); /* another branch */
	vm_meta_restand(meta, 4, &now);
	vm_meta_bump(meta);
	cr_expect_eq(vm_meta_frozen(meta, &a, "vda")->mtime_ns, 3, "it is read from the base itself");
	cr_expect_eq(vm_meta_file(meta, vm_meta_frozen(meta, &d, "vda")->beneath)->mtime_ns, 3, "not through the top");
	f = vm_meta_file(meta, vm_meta_frozen(meta, &b, "vda")->beneath);
	cr_assert_not_null(f);
	cr_expect(f->mtime_ns == 30 && f->size == 20 && f->alone && !f->sum);
	f = vm_meta_frozen(meta, &c, "vda");
	cr_assert(f && f->ino == 7);
	f = vm_meta_file(meta, f->beneath);
	cr_assert(f && f->ino == 4);
	f = vm_meta_file(meta, f->beneath);
	cr_expect(f && f->mtime_ns == 30);
	vm_meta_free(meta);
}

Test(vm_meta, what_another_mount_has_noted_is_taken)
{
	struct vm_meta_file base = {.ino = 1, .size = 2, .mtime_ns = 3, .alone = true}, top = {.ino = 4, .size = 5, .mtime_ns = 6}, mine = {.ino = 9};
	struct vm_meta_id a = id("a", NS, VM_EXTERNAL), b = id("b", 2 * NS, VM_EXTERNAL);
	struct vm_meta *meta = vm_meta_new(), *theirs = vm_meta_new();

	top.beneath = vm_meta_add_file(theirs, &base);
	vm_meta_set_frozen(theirs, &a, "vda", &top);
	vm_meta_set_frozen(theirs, &b, "vda", &base);
	vm_meta_set_spoilt(theirs, &b, "vda", true);
	vm_meta_set_frozen(meta, &b, "vda", &mine);
	vm_meta_take_frozen(meta, theirs, &a);
	vm_meta_take_frozen(meta, theirs, &b);
	vm_meta_free(theirs);
	cr_assert(vm_meta_frozen(meta, &a, "vda") && vm_meta_frozen(meta, &a, "vda")->ino == 4);
	cr_expect_eq(vm_meta_file(meta, vm_meta_frozen(meta, &a, "vda")->beneath)->ino, 1u);
	cr_expect_not(vm_meta_is_spoilt(meta, &a, "vda"));
	cr_expect_eq(vm_meta_frozen(meta, &b, "vda")->ino, 9u);
	cr_expect(vm_meta_is_spoilt(meta, &b, "vda"));
	vm_meta_free(meta);
}

Test(vm_meta, files_that_make_no_sense_are_refused)
{
	const char *const bad[] = {
		"<f k='1' i='1' z='1' m='1' u='1'/>", "<f k='1' i='1' z='1' m='1' u='2'/><f k='2' i='2' z='1' m='1'/>",
		"<f k='3' i='1' z='1' m='1' u='2'/>", "<f k='3' i='1' z='1' m='1'/><f k='3' i='2' z='1' m='1'/>", "<f k='0' i='1' z='1' m='1'/>",
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(bad); i++) {
		vs_autofree char *text = xasprintf("<facts version='2' serial='1'>%s</facts>", bad[i]);
		struct vm_meta *meta = NULL;

		cr_expect_eq(vm_meta_parse(text, strlen(text), &meta, NULL), -EINVAL, "%s", bad[i]);
	}
}

/* @n snapshots of two disks, one on the other. */
static struct vm_meta *deep(size_t n, size_t spoilt)
{
	struct vm_meta *meta = vm_meta_new();
	uint64_t beneath[2] = {0, 0};
	char name[32];

	for (size_t i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "auto-%05zu", i);
		struct vm_meta_id a = id(name, (int64_t)(1763258401 + i) * NS, VM_EXTERNAL);

		for (size_t k = 0; k < 2; k++) {
			struct vm_meta_file f = {.ino = 12345678 + 2 * i + k, .size = 12345678, .mtime_ns = 1763258401123456789 + (int64_t)i,
						 .beneath = beneath[k], .alone = !i, .sum = 12345678901234567890u};

			beneath[k] = vm_meta_add_file(meta, &f);
			vm_meta_set_frozen(meta, &a, k ? "vdb" : "vda", &f);
			vm_meta_set_spoilt(meta, &a, k ? "vdb" : "vda", i == spoilt);
		}
	}
	return meta;
}

Test(vm_meta, what_is_left_out_for_want_of_room_goes_step_by_step_and_what_is_spoilt_never)
{
	static const struct { size_t n; const char *left_out; bool sum, beneath, frozen; } cases[] = {
		{ 100, NULL, true, true, true }, { 270, "the sums of images", false, true, true },
		{ 330, "the sums of images, and what lies further down", false, false, true }, { 700, "what its snapshots froze", false, false, false },
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_meta *meta = deep(cases[i].n, 40);
		struct vm_meta_id last = id("auto-00090", (1763258401 + 90) * NS, VM_EXTERNAL), spoilt = id("auto-00040", (1763258401 + 40) * NS, VM_EXTERNAL);
		vs_autofree char *text = text_of(meta);
		struct vm_meta *again = parse(text);
		const struct vm_meta_file *f = vm_meta_frozen(again, &last, "vdb");
		const char *said = vm_meta_left_out(meta);

		cr_expect((!said && !cases[i].left_out) || (said && cases[i].left_out && !strcmp(said, cases[i].left_out)), "%zu: %s", cases[i].n, said);
		cr_expect_eq(f != NULL, cases[i].frozen, "%zu", cases[i].n);
		cr_expect_eq(f && f->sum, cases[i].sum, "%zu", cases[i].n);
		cr_expect_eq(f && f->beneath, cases[i].beneath, "%zu", cases[i].n);
		cr_expect(vm_meta_is_spoilt(again, &spoilt, "vdb"), "%zu", cases[i].n);
		vm_meta_free(again);
		vm_meta_free(meta);
	}
}

Test(vm_meta, what_is_attested_gives_way_where_room_is_short)
{
	struct vm_meta *meta = vm_meta_new();
	char name[32];

	for (size_t i = 0; i < 900; i++) {
		const struct vm_meta_file file = {.ino = i, .size = 196624, .mtime_ns = (int64_t)i};

		snprintf(name, sizeof(name), "auto-%05zu", i);
		struct vm_meta_id a = id(name, (int64_t)(1763258401 + i) * NS, VM_EXTERNAL);
		vm_meta_set_ours(meta, &a, i % 2);
		vm_meta_set_attested(meta, &a, &file, 1);
	}
	vs_autofree char *text = text_of(meta);
	struct vm_meta *again = parse(text);
	cr_expect_eq(again->n_files, 0u);
	cr_expect_eq(again->n_snapshots, 450u, "of the others nothing is left to say");
	vm_meta_free(again);
	vm_meta_free(meta);
}

Test(vm_meta, sweeping_forgets_what_is_gone)
{
	struct vm_meta *meta = vm_meta_new();
	static const char *const names[] = {"a", "b", "c"};
	int asked = 0;

	for (size_t i = 0; i < 3; i++) {
		struct vm_meta_id a = id(names[i], NS, VM_EXTERNAL);

		vm_meta_set_ours(meta, &a, true);
	}
	cr_expect_eq(vm_meta_sweep(meta, is_b, &asked), 2u);
	cr_expect_eq(asked, 3);
	cr_assert_eq(meta->n_snapshots, 1u);
	cr_expect_str_eq(meta->snapshots[0].name, "b");
	vm_meta_free(meta);
}

static bool is_b_layer(const struct vm_meta_made *file)
{
	return file->ino == 12 && !strcmp(file->path, "/i/b");
}

static bool has_made(const struct vm_meta *meta, const char *path, uint64_t ino, int64_t born_ns)
{
	return vm_meta_has_made(meta, &(struct vm_meta_made){ path, ino, born_ns });
}

Test(vm_meta, a_layer_that_was_made_here_is_known_until_it_is_gone)
{
	struct vm_meta *meta = parse(all_of_it);

	cr_assert_eq(meta->n_made, 2u);
	cr_expect(has_made(meta, "/i/a layer 100%", 17, NS));
	cr_expect(has_made(meta, "/i/a layer 100%", 17, 0), "its birth cannot be told");
	cr_expect_not(has_made(meta, "/i/a layer 100%", 18, NS), "another file has its name");
	cr_expect_not(has_made(meta, "/i/a layer 100%", 17, NS + 1), "another file has its name and its number");
	cr_expect(has_made(meta, "/i/b", 4711, 7), "it is not said which file it was");
	cr_expect_not(has_made(meta, "/i/base", 1, 0));
	vm_meta_add_made(meta, &(struct vm_meta_made){ "/i/b", 12, 0 });
	cr_expect_eq(meta->n_made, 2u, "no path is there twice");
	cr_expect_eq(vm_meta_sweep_made(meta, is_b_layer), 1u);
	cr_assert_eq(meta->n_made, 1u);
	cr_expect_str_eq(meta->made[0].path, "/i/b");
	cr_expect_eq(meta->made[0].ino, 12u);
	vm_meta_free(meta);
}

Test(vm_meta, a_copy_is_equal_and_independent)
{
	struct vm_meta *meta = parse(all_of_it), *copy = vm_meta_copy(meta);
	struct vm_meta_id monday = id("monday", 1763258401 * NS, VM_EXTERNAL);

	cr_assert_not_null(copy);
	vm_meta_set_held(meta, &monday, true);
	vm_meta_set_policy(meta, NULL);
	vm_meta_free(meta);
	vs_autofree char *text = text_of(copy);
	cr_expect_str_eq(text, all_of_it);
	vm_meta_free(copy);
}

Test(vm_meta, what_was_said_of_another_domain_is_not_said_of_its_copy)
{
	struct vm_meta *meta = parse(all_of_it);
	vs_autofree char *same = NULL, *copied = NULL;

	vm_meta_adopt(meta, "4711-aa");
	same = text_of(meta);
	cr_expect_str_eq(same, all_of_it);
	vm_meta_adopt(meta, "4711-bb");
	copied = text_of(meta);
	cr_expect(strstr(copied, "policy=\"7d 4w match=a?&amp;&lt;*\" of=\"4711-bb\""), "%s", copied);
	cr_expect_null(strstr(copied, "monday"), "%s", copied);
	cr_expect_null(strstr(copied, "<f "), "%s", copied);
	cr_expect_null(strstr(copied, "<l "), "%s", copied);
	cr_expect(strstr(copied, "t=\"1763258402.000000007\" is=\"ih\""), "%s", copied);
	cr_expect(strstr(copied, "n=\"tuesday\" t=\"1763258403\" is=\"e\" b="), "%s", copied);
	vm_meta_free(meta);
}

Test(vm_meta, the_higher_serial_wins)
{
	struct vm_meta a = {.serial = 5}, b = {.serial = 6}, c = {.serial = 5};

	cr_expect_eq(vm_meta_newer(&a, &b), &b); /* a revert brought back old metadata */
	cr_expect_eq(vm_meta_newer(&b, &a), &b);
	cr_expect_eq(vm_meta_newer(&a, &c), &a); /* equal: the domain's */
	cr_expect_eq(vm_meta_newer(NULL, &a), &a);
	cr_expect_eq(vm_meta_newer(&a, NULL), &a);
	cr_expect_null(vm_meta_newer(NULL, NULL));
}

Test(vm_meta, a_serial_rises_and_stays_readable)
{
	struct vm_meta *meta = vm_meta_new();

	vm_meta_bump(meta);
	cr_expect_eq(meta->serial, 1u);
	meta->serial = VM_META_SERIAL_MAX;
	vm_meta_bump(meta);
	vs_autofree char *text = text_of(meta);
	struct vm_meta *again = parse(text);
	cr_expect_eq(again->serial, VM_META_SERIAL_MAX);
	vm_meta_free(meta);
	vm_meta_free(again);
}

/* ---------------------------------------------------------------- any bytes */

static uint64_t rng = 20261116;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % below;
}

Test(vm_meta, names_of_any_bytes_come_back)
{
	for (int round = 0; round < 5000; round++) {
		struct vm_meta *meta = vm_meta_new(), *again;
		char name[41] = "", policy[41] = "";

		for (size_t i = 0, n = rnd(40); i < n; i++)
			name[i] = (char)(1 + rnd(255));
		for (size_t i = 0, n = rnd(40); i < n; i++)
			policy[i] = "<>&\"'% \xef\xbf\xbe\xbf\x01\t\n"[rnd(14)];
		struct vm_meta_id a = id(name, (int64_t)rnd(UINT64_C(1) << 60), rnd(2) ? VM_INTERNAL : VM_EXTERNAL);
		vm_meta_set_ours(meta, &a, true);
		vm_meta_set_policy(meta, policy);
		vs_autofree char *text = text_of(meta);
		again = parse(text);
		cr_assert_str_eq(again->snapshots[0].name, name, "%s", text);
		cr_assert_str_eq(again->policy, policy, "%s", text);
		cr_assert_not_null(vm_meta_find(again, &a));
		vm_meta_free(meta);
		vm_meta_free(again);
	}
}

Test(vm_meta, a_text_with_flipped_bytes_is_read_or_refused)
{
	for (int round = 0; round < 20000; round++) {
		char text[sizeof(all_of_it)];
		struct vm_meta *meta;
		struct vs_err err = {0};
		int ret;

		memcpy(text, all_of_it, sizeof(text));
		for (size_t i = 0, n = 1 + rnd(4); i < n; i++)
			text[rnd(sizeof(text))] = rnd(2) ? (char)rnd(256) : "<>&\"=/ -.9%"[rnd(11)];
		ret = vm_meta_parse(text, sizeof(text) - 1 - rnd(30) * rnd(2), &meta, &err);
		cr_assert(ret == 0 || ((ret == -EINVAL || ret == -EOPNOTSUPP) && err.msg[0]));
		if (ret == 0)
			vm_meta_free(meta);
	}
}

/* ---------------------------------------------------------------- what is written can be read */

static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
	random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (random_state >> 33) % below;
}

/* Blanks, bytes that XML or our own lists give a meaning, bytes that are no character. */
static const char *draw_text(char *text, size_t room)
{
	static const char *const pieces[] = { "a", "vd", " ", ":", "!", "%", "%20", ",", "\"", "<&>", "'", "\n", "\t", "\x7f", "\xff", "\xc3\xa4", "\xc2\x85",
					      "\xef\xbf\xbf", "\xf0\x9f\x98\x80", "\xed\xa0\x80", "0", "7" };
	size_t n = 1 + draw(5);

	for (text[0] = '\0'; n > 0 && strlen(text) + 5 < room; n--)
		strcat(text, pieces[draw(VS_ARRAY_LEN(pieces))]);
	return text;
}

static uint64_t draw_number(void)
{
	static const uint64_t odd[] = { 0, 1, UINT64_MAX, INT64_MAX, UINT32_MAX };

	return draw(4) ? draw(50) : odd[draw(VS_ARRAY_LEN(odd))];
}

static int64_t draw_time(void)
{
	static const int64_t odd[] = { 0, 1, -1, INT64_MIN, INT64_MAX, NS, -NS };

	return draw(4) ? (int64_t)draw(1000) * NS + (draw(2) ? (int64_t)draw(1000) : 0) : odd[draw(VS_ARRAY_LEN(odd))];
}

/* Few of them, so that snapshots and disks share files. */
static struct vm_meta_file draw_file(void)
{
	return (struct vm_meta_file){ .ino = draw(4) ? draw(6) : draw_number(), .size = draw(3), .mtime_ns = draw(2) ? 5 * NS : draw_time(), .sum = draw_number(),
				      .survived = draw(3) ? 0 : draw_number(), .alone = draw(2), .raw = draw(2), .empty = draw(2) };
}

static void draw_chain(struct vm_meta *meta, const struct vm_meta_id *a, const char *target)
{
	struct vm_meta_file file = draw_file();

	for (size_t n = draw(4); n > 0; n--) {
		uint64_t beneath = vm_meta_add_file(meta, &file);

		file = draw_file();
		file.beneath = beneath;
	}
	vm_meta_set_frozen(meta, a, target, &file);
}

static void draw_mark(struct vm_meta *meta, const struct vm_meta_id *a)
{
	char command[32], reason[32], target[32], path[32];
	struct vm_meta_doomed disk = { .target = (char *)draw_text(target, sizeof(target)), .path = draw(2) ? (char *)draw_text(path, sizeof(path)) : NULL,
				       .path_ino = draw_number(), .top_ino = draw_number(), .above_ino = draw_number(), .mtime_ns = draw_time(),
				       .left_ns = draw_time(), .unasked = draw(2), .done = draw(2), .pivoting = draw(2) };
	struct vm_meta_mark mark = { .command = (char *)draw_text(command, sizeof(command)), .reason = (char *)draw_text(reason, sizeof(reason)),
				     .since_ns = draw_time(), .disks = &disk, .n_disks = draw(2), .retention = draw(2), .is_void = draw(2) };

	vm_meta_set_mark(meta, a, draw(4) ? &mark : NULL);
}

static void draw_attested(struct vm_meta *meta, const struct vm_meta_id *a)
{
	struct vm_meta_file files[12];
	size_t n = draw(VS_ARRAY_LEN(files) + 1);

	for (size_t i = 0; i < n; i++)
		files[i] = i && draw(2) ? files[draw(i)] : draw_file();
	vm_meta_set_attested(meta, a, files, n);
}

static void draw_step(struct vm_meta *meta)
{
	char name[32], target[32], what[32], path[32];
	struct vm_meta_id a = { draw_text(name, sizeof(name)), draw_time(), draw(2) ? VM_EXTERNAL : VM_INTERNAL };
	struct vm_meta_file file = draw_file();

	if (meta->n_snapshots && draw(3)) {
		const struct vm_meta_snapshot *s = &meta->snapshots[draw(meta->n_snapshots)];

		a = (struct vm_meta_id){ strcpy(name, s->name), s->created_ns, s->kind };
	}
	if (draw(2))
		snprintf(target, sizeof(target), "vd%c", (int)('a' + draw(4)));
	else
		draw_text(target, sizeof(target));
	switch (draw(13)) {
	case 0: vm_meta_set_ours(meta, &a, draw(2)); break;
	case 1: vm_meta_set_held(meta, &a, draw(2)); break;
	case 2: case 3: draw_attested(meta, &a); break;
	case 4: case 5: draw_chain(meta, &a, target); break;
	case 6: vm_meta_set_spoilt(meta, &a, target, draw(2)); break;
	case 7: vm_meta_set_shows(meta, &a, target, draw_number()); break;
	case 8: vm_meta_set_nv(meta, &a, &(struct vm_meta_nv){ (char *)draw_text(what, sizeof(what)), (char *)draw_text(path, sizeof(path)), draw_number(), draw_number(),
							      draw_number(), draw_time() }); break;
	case 9: if (a.kind == VM_EXTERNAL) draw_mark(meta, &a); break;
	case 10: vm_meta_add_made(meta, &(struct vm_meta_made){ draw_text(path, sizeof(path)), draw_number(), draw_time() }); break;
	case 11: draw(2) ? vm_meta_restamp(meta, &file, NULL) : vm_meta_restand(meta, file.ino, &(struct vm_meta_file){ .ino = draw(6), .size = 9, .mtime_ns = 9 }); break;
	default: if (draw(2)) vm_meta_forget(meta, &a); else vm_meta_forget_notes(meta, &a);
	}
}

static bool is_attested_with(const struct vm_meta *meta, const struct vm_meta_snapshot *s, const struct vm_meta_file *file)
{
	for (size_t i = 0; i < s->n_attested; i++) {
		const struct vm_meta_file *f = vm_meta_file(meta, s->attested[i]);

		if (f && f->ino == file->ino && f->size == file->size && f->mtime_ns == file->mtime_ns)
			return true;
	}
	return false;
}

/* Down to the end. */
static void expect_same_files(const struct vm_meta *meta, const struct vm_meta *again, uint64_t a, uint64_t b)
{
	const struct vm_meta_file *x = vm_meta_file(meta, a), *y = vm_meta_file(again, b);

	for (; x && y; x = vm_meta_file(meta, x->beneath), y = vm_meta_file(again, y->beneath))
		cr_assert(x->ino == y->ino && x->size == y->size && x->mtime_ns == y->mtime_ns && x->alone == y->alone && x->raw == y->raw &&
			  x->survived == y->survived);
	cr_assert(!x && !y);
}

static void expect_same_snapshot(const struct vm_meta *meta, const struct vm_meta *again, const struct vm_meta_snapshot *s)
{
	struct vm_meta_id a = { s->name, s->created_ns, s->kind };
	const struct vm_meta_snapshot *t = vm_meta_find(again, &a);

	cr_assert(t && t->created_ns == s->created_ns && t->ours == s->ours && t->held == s->held && !t->mark == !s->mark && t->n_nv == s->n_nv);
	cr_assert(!s->mark || (!strcmp(t->mark->command, s->mark->command) && t->mark->n_disks == s->mark->n_disks && t->mark->is_void == s->mark->is_void));
	for (size_t i = 0; i < s->n_attested; i++)
		cr_assert(is_attested_with(again, t, vm_meta_file(meta, s->attested[i])));
	for (size_t i = 0; i < t->n_attested; i++)
		cr_assert(is_attested_with(meta, s, vm_meta_file(again, t->attested[i])));
	for (size_t i = 0; i < s->n_frozen; i++) {
		const struct vm_meta_frozen *f = &s->frozen[i];
		const struct vm_meta_file *g = vm_meta_frozen(again, &a, f->target);

		cr_assert_eq(vm_meta_is_spoilt(again, &a, f->target), f->spoilt);
		cr_assert_eq(vm_meta_shows(again, &a, f->target), f->shows);
		expect_same_files(meta, again, f->file, g ? g->number : 0);
	}
}

Test(vm_meta, whatever_is_written_is_read_as_it_was)
{
	for (uint64_t seed = 0; seed < 3000; seed++) {
		struct vm_meta *meta = vm_meta_new(), *again = NULL;
		struct vs_err err = {0};

		random_state = seed;
		for (size_t n = draw(80); n > 0; n--)
			draw_step(meta);
		vm_meta_bump(meta);
		vs_autofree char *text = text_of(meta);
		cr_assert_eq(vm_meta_parse(text, strlen(text), &again, &err), 0, "%llu: %s: %s", (unsigned long long)seed, err.msg, text);
		for (size_t i = 0; i < meta->n_snapshots; i++) {
			const struct vm_meta_snapshot *s = &meta->snapshots[i];

			if (s->ours || s->held || s->mark || s->n_attested || s->n_nv)
				expect_same_snapshot(meta, again, s);
		}
		cr_assert_eq(again->n_made, meta->n_made);
		vm_meta_free(meta);
		vm_meta_free(again);
	}
}

Test(vm_meta, a_file_that_several_disks_stand_on_is_named_once_and_may_have_been_named_for_each)
{
	static const char early[] = "<facts version=\"2\"><f k=\"1\" i=\"9\" z=\"9\" m=\"9\"/><f k=\"2\" i=\"8\" z=\"9\" m=\"9\" u=\"1\"/><f k=\"3\" i=\"7\" z=\"9\" m=\"9\" u=\"1\"/>"
				    "<s n=\"a\" t=\"1\" is=\"eo\" v=\"2,1,3,1\"/><s n=\"b\" t=\"1\" is=\"eh\" v=\"1,1,1,1,1,1\"/></facts>";
	struct vm_meta *meta = parse(early);
	vs_autofree char *text = text_of(meta);

	cr_expect_not_null(strstr(text, "v=\"2,1,3\""), "%s", text);
	cr_expect_not_null(strstr(text, "v=\"1\""), "%s", text);
	cr_expect(meta->snapshots[0].ours && meta->snapshots[1].held);
	vm_meta_free(meta);
}

/* No element is charged more than its bytes, so what is just as long as it may be is read. */
Test(vm_meta, text_of_64_kib_to_the_byte_is_read)
{
	struct vm_meta_file files[2500];
	struct vm_meta_id a = id("", 0, VM_EXTERNAL);
	struct vm_meta *meta = vm_meta_new();
	size_t n = 0, len = 0;

	for (; len < VM_META_MAX - 100 && n < VS_ARRAY_LEN(files); n++) {
		files[n] = (struct vm_meta_file){ .ino = n % 10, .size = n / 10 % 10, .mtime_ns = (int64_t)(n / 100) * NS };
		if (n < 1400)
			continue;
		vm_meta_set_attested(meta, &a, files, n + 1);
		vs_autofree char *text = text_of(meta);
		len = strlen(text);
	}
	cr_assert_geq(len, VM_META_MAX - 100);
	for (size_t more = 1; len < VM_META_MAX; more++) {
		vs_autofree char *policy = calloc(1, more + 1);

		memset(policy, 'x', more);
		vm_meta_set_policy(meta, policy);
		vs_autofree char *text = text_of(meta);
		len = strlen(text);
		vm_meta_free(parse(text));
	}
	cr_expect_eq(len, (size_t)VM_META_MAX);
	cr_expect_null(vm_meta_left_out(meta));
	vm_meta_free(meta);
}
