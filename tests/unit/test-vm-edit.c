/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Records are written small here; they are read back with the parser of xml.h, so that what counts is what libvirt's readers
 * see, and not how the text is laid out.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/xml/edit.h"

#define LAYER(path, rest) "<backingStore type='file'><format type='qcow2'/><source file='" path "'/>" rest "</backingStore>"
#define DISK(target, path, rest)                                                                                  \
	"<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='" path "'/>" rest \
	"<target dev='" target "' bus='virtio'/></disk>"
#define DOMAIN(name, attrs, rest, disks)                                                                              \
	"<" name " type='kvm'" attrs "><name>d</name><uuid>11111111-2222-3333-4444-555555555555</uuid>" rest "<devices>" disks \
	"</devices></" name ">"
#define SNAPSHOT(rest)                                                                                     \
	"<domainsnapshot><name>s</name><state>shutoff</state><parent><name>p</name></parent><creationTime>7</creationTime>" rest \
	"</domainsnapshot>"

/* A chain as "C/qcow2 B/qcow2 A/raw ." (the dot: recorded to its end). */
static void describe(const struct vm_xml_disk *disk, char *out, size_t room)
{
	snprintf(out, room, "%s/%s", disk->source.path, disk->source.format_name);
	for (size_t i = 0; i < disk->n_below; i++) {
		size_t used = strlen(out);

		snprintf(out + used, room - used, " %s/%s", disk->below[i].path, disk->below[i].format_name);
	}
	if (disk->below_complete)
		strncat(out, " .", room - strlen(out) - 1);
}

static void expect_chain(const char *domain_text, const char *target, const char *want)
{
	struct vm_xml_domain *domain;
	const struct vm_xml_disk *disk;
	char got[512];

	cr_assert_eq(vm_xml_domain_parse(domain_text, &domain, NULL), 0, "not parsable: %s", domain_text);
	disk = vm_xml_domain_disk(domain, target);
	cr_assert_not_null(disk);
	describe(disk, got, sizeof(got));
	cr_expect_str_eq(got, want, "the chain is '%s', not '%s'", got, want);
	vm_xml_domain_free(domain);
}

static const char three[] = DOMAIN("domain", "", "", DISK("vda", "/C", LAYER("/B",
	"<backingStore type='file'><format type='raw'/><source file='/A'/><backingStore/></backingStore>")));

/* ---------------------------------------------------------------- layers */

Test(vm_rewrite, a_layer_that_vanishes_or_moves_leaves_a_right_chain)
{
	static const struct {
		struct vm_edit_move move;
		int changed;
		const char *chain;
	} cases[] = {
		{{NULL, "/B", NULL, NULL, false}, 1, "/C/qcow2 /A/raw ."},              /* in the middle */
		{{NULL, "/A", NULL, NULL, false}, 1, "/C/qcow2 /B/qcow2 ."},            /* the base: B now ends the chain */
		{{NULL, "/C", NULL, NULL, false}, 1, "/B/qcow2 /A/raw ."},              /* the disk's own: it becomes B */
		{{NULL, "/C", "/B", NULL, false}, 1, "/B/qcow2 /A/raw ."},              /* merged into the next */
		{{NULL, "/C", "/A", NULL, false}, 1, "/A/raw ."},                       /* merged down to the base */
		{{NULL, "/B", "/A", NULL, false}, 1, "/C/qcow2 /A/raw ."},
		{{NULL, "/C", "/A", "qcow2", false}, 1, "/A/qcow2 ."},                  /* the format is told */
		{{NULL, "/B", "/new/B", NULL, false}, 1, "/C/qcow2 /new/B/qcow2 /A/raw ."}, /* elsewhere */
		{{NULL, "/C", "/new/C", "raw", false}, 1, "/new/C/raw /B/qcow2 /A/raw ."},
		{{NULL, "/A", "/dev/vg/a", NULL, true}, 1, "/C/qcow2 /B/qcow2 /dev/vg/a/raw ."}, /* onto a device */
		{{NULL, "/X", NULL, NULL, false}, 0, "/C/qcow2 /B/qcow2 /A/raw ."},     /* not there */
		{{NULL, "/c", "/X", NULL, false}, 0, "/C/qcow2 /B/qcow2 /A/raw ."},     /* byte by byte */
		{{"vda", "/B", NULL, NULL, false}, 1, "/C/qcow2 /A/raw ."},             /* on this disk only */
		{{"vdb", "/B", NULL, NULL, false}, 0, "/C/qcow2 /B/qcow2 /A/raw ."},    /* on another one */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		vs_autofree char *out = NULL;

		cr_expect_eq(vm_edit_layers(three, &cases[i].move, 1, &out, NULL), cases[i].changed, "case %zu", i);
		expect_chain(out, "vda", cases[i].chain);
	}
}

Test(vm_rewrite, what_a_disk_is_besides_its_image_stays)
{
	const struct vm_edit_move move = { .from = "/C", .to = "/A" };
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_edit_layers(three, &move, 1, &out, NULL), 1);
	cr_expect(strstr(out, "cache=\"none\""));
	cr_expect(strstr(out, "<target dev=\"vda\" bus=\"virtio\"/>"));
	cr_expect(strstr(out, "name=\"qemu\""));
}

Test(vm_rewrite, the_disks_own_file_cannot_vanish_if_nothing_is_recorded_beneath)
{
	static const char *const texts[] = {
		DOMAIN("domain", "", "", DISK("vda", "/C", "")),
		DOMAIN("domain", "", "", DISK("vda", "/C", "<backingStore/>")),
	};
	const struct vm_edit_move move = { .from = "/C" };

	for (size_t i = 0; i < VS_ARRAY_LEN(texts); i++) {
		struct vs_err err = {0};
		char *out = NULL;

		cr_expect_eq(vm_edit_layers(texts[i], &move, 1, &out, &err), -EINVAL);
		cr_expect(strstr(err.msg, "'/C'"));
		cr_expect_null(out);
	}
}

Test(vm_rewrite, a_record_is_changed_in_both_definitions_and_in_nothing_else)
{
	static const char text[] = SNAPSHOT(
		"<disks><disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='/B'/></disk></disks>"
		DOMAIN("domain", "", "", DISK("vda", "/B", "") DISK("vdb", "/B", LAYER("/A", "")))
		DOMAIN("inactiveDomain", "", "", DISK("vda", "/B", "")));
	const struct vm_edit_move moves[] = {{ .target = "vda", .from = "/B", .to = "/A" }};
	struct vm_xml_snapshot *record;
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_edit_layers(text, moves, 1, &out, NULL), 2);
	cr_assert_eq(vm_xml_snapshot_parse(out, &record, NULL), 0);
	cr_expect_str_eq(record->disks[0].overlay.path, "/B");
	cr_expect_str_eq(record->domain->disks[0].source.path, "/A");
	cr_expect_str_eq(record->domain->disks[1].source.path, "/B");
	expect_chain(record->definition, "vda", "/A/qcow2");
	vm_xml_snapshot_free(record);
}

Test(vm_rewrite, moves_are_applied_in_order)
{
	const struct vm_edit_move moves[] = {
		{ .from = "/C", .to = "/B" }, { .from = "/B", .to = "/N" }, { .from = "/A" },
	};
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_edit_layers(three, moves, 3, &out, NULL), 3);
	expect_chain(out, "vda", "/N/qcow2 .");
}

Test(vm_rewrite, what_was_true_of_the_old_file_only_goes)
{
	static const char text[] = DOMAIN("domain", "", "",
		"<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='x'><host name='h'/>"
		"</source><target dev='vda'/></disk>"
		"<disk type='file' device='disk'><driver type='qcow2'><metadata_cache><max_size unit='bytes'>1</max_size>"
		"</metadata_cache></driver><source file='/B' index='3'><slices><slice type='storage' offset='1' size='2'/></slices>"
		"<seclabel model='dac' relabel='no'/></source><target dev='vdb'/></disk>");
	const struct vm_edit_disk disks[] = {{"vda", "/N", "qcow2", false}, {"vdb", "/M", "raw", false}};
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_edit_definition(text, disks, 2, &out, NULL), 0);
	expect_chain(out, "vda", "/N/qcow2");
	expect_chain(out, "vdb", "/M/raw");
	cr_expect_null(strstr(out, "nbd"));
	cr_expect_null(strstr(out, "slice"));
	cr_expect_null(strstr(out, "index"));
	cr_expect_null(strstr(out, "metadata_cache"));
	cr_expect(strstr(out, "relabel"));
}

/* ---------------------------------------------------------------- records */

Test(vm_rewrite, a_snapshot_gets_another_parent_or_none)
{
	static const char text[] = SNAPSHOT("<description>x &amp; y</description>");
	static const struct { const char *parent; } cases[] = {{"q"}, {"a b&c'<\""}, {NULL}};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_xml_snapshot *record;
		vs_autofree char *out = NULL;

		cr_assert_eq(vm_edit_parent(text, cases[i].parent, &out, NULL), 0);
		cr_assert_eq(vm_xml_snapshot_parse(out, &record, NULL), 0);
		if (cases[i].parent)
			cr_expect_str_eq(record->parent, cases[i].parent);
		else
			cr_expect_null(record->parent);
		cr_expect(strstr(out, "<description>x &amp; y</description>"));
		cr_expect_eq(record->created_s, 7);
		vm_xml_snapshot_free(record);
	}
}

Test(vm_rewrite, a_root_can_get_a_parent)
{
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_edit_parent("<domainsnapshot><name>s</name></domainsnapshot>", "p", &out, NULL), 0);
	cr_expect(strstr(out, "<parent><name>p</name></parent>"));
}

/* ---------------------------------------------------------------- definitions */

Test(vm_rewrite, a_definition_for_a_revert_is_the_inactive_one_with_its_secrets_and_without_chains)
{
	static const char text[] = SNAPSHOT(
		DOMAIN("domain", " id='3'", "<title>live</title>", DISK("vda", "/C", ""))
		DOMAIN("inactiveDomain", " xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
		       "<title>configured</title><qemu:commandline><qemu:arg value='-x'/></qemu:commandline>",
		       DISK("vda", "/C", LAYER("/B", "<backingStore/>")) DISK("vdb", "/D", LAYER("/E", ""))
		       "<graphics type='vnc' passwd='secret'/>"));
	const struct vm_edit_disk disks[] = {{"vda", "/N", "qcow2", false}};
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_edit_definition(text, disks, 1, &out, NULL), 0);
	cr_expect_eq(strncmp(out, "<domain ", 8), 0);
	cr_expect(strstr(out, "configured"));
	cr_expect(strstr(out, "passwd=\"secret\""));
	cr_expect(strstr(out, "xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\""));
	cr_expect(strstr(out, "<qemu:arg value=\"-x\"/>"));
	cr_expect_null(strstr(out, "backingStore"));
	expect_chain(out, "vda", "/N/qcow2");
	expect_chain(out, "vdb", "/D/qcow2");
}

Test(vm_rewrite, without_an_inactive_definition_the_live_one_is_taken)
{
	static const char text[] = SNAPSHOT(DOMAIN("domain", "", "", DISK("vda", "/C", "")));
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_edit_definition(text, NULL, 0, &out, NULL), 0);
	expect_chain(out, "vda", "/C/qcow2");
}

Test(vm_rewrite, a_definition_without_the_disk_is_an_error)
{
	const struct vm_edit_disk disks[] = {{"vdz", "/N", "qcow2", false}};
	struct vs_err err = {0};
	char *out = NULL;

	cr_expect_eq(vm_edit_definition(three, disks, 1, &out, &err), -EINVAL);
	cr_expect(strstr(err.msg, "'vdz'"));
	cr_expect_eq(vm_edit_definition(SNAPSHOT(""), NULL, 0, &out, &err), -EINVAL);
}

Test(vm_rewrite, a_definition_gets_another_name)
{
	static const char text[] = DOMAIN("domain", "", "<name>old &amp; gone</name>", DISK("vda", "/C", ""));
	vs_autofree char *out = NULL;
	char *none = NULL;

	cr_assert_eq(vm_edit_name(text, "a<b", &out, NULL), 0);
	cr_expect(strstr(out, "<name>a&lt;b</name>"), "%s", out);
	cr_expect_not(strstr(out, "old"));
	expect_chain(out, "vda", "/C/qcow2");
	cr_expect_eq(vm_edit_name("<pool/>", "x", &none, NULL), -EINVAL);
}

Test(vm_rewrite, one_disk_is_freed_of_its_chain)
{
	static const char text[] = DOMAIN("domain", "", "", DISK("vda", "/C", LAYER("/B", "<backingStore/>")) DISK("vdb", "/D", "<backingStore/>"));
	vs_autofree char *out = NULL, *same = NULL;
	char *none = NULL;

	cr_assert_eq(vm_edit_unpin(text, "vda", &out, NULL), 1);
	expect_chain(out, "vda", "/C/qcow2");
	cr_expect(strstr(out, "<backingStore/>"), "that of the other disk stays");
	cr_expect_not(strstr(out, "/B"));
	cr_assert_eq(vm_edit_unpin(text, "vdz", &same, NULL), 0);
	cr_expect_eq(vm_edit_unpin("<pool/>", "vda", &none, NULL), -EINVAL);
}

Test(vm_rewrite, texts_that_are_something_else_are_refused)
{
	static const char *const texts[] = {"", "<domain>", "<pool/>", "<!DOCTYPE x><domain/>"};
	char *out = NULL;

	for (size_t i = 0; i < VS_ARRAY_LEN(texts); i++) {
		cr_expect_eq(vm_edit_layers(texts[i], NULL, 0, &out, NULL), -EINVAL, "%s", texts[i]);
		cr_expect_eq(vm_edit_definition(texts[i], NULL, 0, &out, NULL), -EINVAL, "%s", texts[i]);
		cr_expect_eq(vm_edit_parent(texts[i], "p", &out, NULL), -EINVAL, "%s", texts[i]);
	}
	cr_expect_null(out);
}

/* ---------------------------------------------------------------- new ones */

Test(vm_rewrite, a_new_external_snapshot_names_every_disk)
{
	const struct vm_new_disk disks[] = {
		{"vda", VM_MODE_EXTERNAL, "/dir & more/o.qcow2"}, {"vdb", VM_MODE_NO, NULL},
	};
	const struct vm_new_snapshot spec = { .name = "a <b> & 'c'", .description = "two\nlines", .disks = disks, .n_disks = 2 };
	struct vm_xml_snapshot *record;
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_new_snapshot(&spec, &out, NULL), 0);
	cr_assert_eq(vm_xml_snapshot_parse(out, &record, NULL), 0);
	cr_expect_str_eq(record->name, "a <b> & 'c'");
	cr_expect(strstr(out, "<description>two\nlines</description>"));
	cr_expect_eq(record->memory, VM_MODE_NO);
	cr_expect_str_eq(record->disks[0].overlay.path, "/dir & more/o.qcow2");
	cr_expect_str_eq(record->disks[0].overlay.format_name, "qcow2");
	cr_expect_eq(record->disks[1].mode, VM_MODE_NO);
	vm_xml_snapshot_free(record);
}

Test(vm_rewrite, a_new_internal_snapshot_with_memory)
{
	const struct vm_new_disk disks[] = {{"vda", VM_MODE_INTERNAL, NULL}};
	const struct vm_new_snapshot spec = { .name = "i", .memory = VM_MODE_INTERNAL, .disks = disks, .n_disks = 1 };
	struct vm_xml_snapshot *record;
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_new_snapshot(&spec, &out, NULL), 0);
	cr_assert_eq(vm_xml_snapshot_parse(out, &record, NULL), 0);
	cr_expect_eq(record->memory, VM_MODE_INTERNAL);
	cr_expect_eq(record->kind, VM_INTERNAL);
	cr_expect_null(strstr(out, "description"));
	vm_xml_snapshot_free(record);
}

Test(vm_rewrite, a_record_for_what_others_have_left)
{
	const struct vm_new_disk disks[] = {{"vda", VM_MODE_EXTERNAL, "/i/top & more"}, {"vdb", VM_MODE_NO, NULL}};
	const struct vm_new_snapshot spec = { .name = "a", .description = "d", .disks = disks, .n_disks = 2 };
	struct vm_new_record more = {
		.created_s = 1763258401, .state = "shutoff", .parent = "p <q>",
		.domain = "<domain type='qemu'><name>n</name><devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>"
			  "<source file='/i/base'/><target dev='vda'/></disk></devices></domain>",
	};
	struct vm_xml_snapshot *record;
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_new_record(&spec, &more, &out, NULL), 0);
	cr_assert_eq(vm_xml_snapshot_parse(out, &record, NULL), 0);
	cr_expect_str_eq(record->parent, "p <q>");
	cr_expect_str_eq(record->state, "shutoff");
	cr_expect_eq(record->created_s, 1763258401);
	cr_expect_eq(record->kind, VM_EXTERNAL);
	cr_expect_str_eq(record->disks[0].overlay.path, "/i/top & more");
	cr_assert_not_null(record->disks[0].frozen);
	cr_expect_str_eq(record->disks[0].frozen->source.path, "/i/base");
	cr_expect_eq(record->disks[0].frozen->source.format, Q2_FORMAT_RAW);
	vm_xml_snapshot_free(record);
	free(vs_steal(out));
	more.parent = NULL;
	cr_assert_eq(vm_new_record(&spec, &more, &out, NULL), 0);
	cr_expect_null(strstr(out, "<parent>"));
	more.domain = "<domain";
	cr_expect_eq(vm_new_record(&spec, &more, &(char *){ NULL }, NULL), -EINVAL);
}

Test(vm_rewrite, saved_memory_has_its_file)
{
	const struct vm_new_snapshot spec = { .name = "m", .memory = VM_MODE_EXTERNAL, .memory_file = "/m & m" };
	struct vm_xml_snapshot *record;
	vs_autofree char *out = NULL;

	cr_assert_eq(vm_new_snapshot(&spec, &out, NULL), 0);
	cr_assert_eq(vm_xml_snapshot_parse(out, &record, NULL), 0);
	cr_expect_str_eq(record->memory_file, "/m & m");
	vm_xml_snapshot_free(record);
}

Test(vm_rewrite, a_backup_job_is_known_by_its_socket)
{
	const struct vm_new_backup_disk disks[] = {{"vda", "/i/a & b"}, {"vdb", "/i/c"}};
	vs_autofree char *out = NULL, *socket = NULL;

	cr_assert_eq(vm_new_backup("/s/'now' & then", disks, 2, &out, NULL), 0);
	cr_assert_eq(vm_backup_socket(out, &socket, NULL), 0);
	cr_expect_str_eq(socket, "/s/'now' & then");
	cr_expect_not_null(strstr(out, "/i/a &amp; b"));
	cr_expect_eq(vm_new_backup("/s", &(struct vm_new_backup_disk){ "vda", "/i/\x01" }, 1, &(char *){ NULL }, NULL), -EINVAL);
	cr_expect_eq(vm_backup_socket("<domain/>", &(char *){ NULL }, NULL), -EINVAL);
	free(vs_steal(socket));
	cr_expect_eq(vm_backup_socket("<domainbackup mode='push'><disks/></domainbackup>", &socket, NULL), 0);
	cr_expect_null(socket);
}

Test(vm_rewrite, what_xml_cannot_hold_is_refused)
{
	static const char *const bad[] = {"a\x01z", "\xff", "\xc0\x80", "x\xef\xbf\xbe"};

	for (size_t i = 0; i < VS_ARRAY_LEN(bad); i++) {
		const struct vm_new_disk disk = {"vda", VM_MODE_EXTERNAL, bad[i]};
		const struct vm_new_snapshot specs[] = {
			{ .name = bad[i] }, { .name = "n", .description = bad[i] },
			{ .name = "n", .memory = VM_MODE_EXTERNAL, .memory_file = bad[i] },
			{ .name = "n", .disks = &disk, .n_disks = 1 },
		};
		char *out = NULL;

		cr_expect_eq(vm_edit_parent(SNAPSHOT(""), bad[i], &out, NULL), -EINVAL, "%zu", i);
		cr_expect_eq(vm_edit_name("<domain><name>d</name></domain>", bad[i], &out, NULL), -EINVAL, "%zu", i);
		for (size_t k = 0; k < VS_ARRAY_LEN(specs); k++)
			cr_expect_eq(vm_new_snapshot(&specs[k], &out, NULL), -EINVAL, "case %zu.%zu", i, k);
		cr_expect_null(out);
	}
}
