/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/xml/xml-priv.h"

static struct vm_xml_domain *domain_of(const char *devices)
{
	struct vm_xml_domain *domain = NULL;
	struct vs_err err = {0};
	char *text = NULL;

	cr_assert_geq(asprintf(&text, "<domain type='kvm' id='7'><name>web01</name>"
				      "<uuid>0e7a2c34-9d55-4b0e-8f5e-3f6f1d2a9b10</uuid>"
				      "<metadata><x:disk xmlns:x='urn:x'><x:target dev='vdz'/></x:disk></metadata>"
				      "<devices>%s</devices></domain>", devices), 0);
	cr_assert_eq(vm_xml_domain_parse(text, &domain, &err), 0, "%s", err.msg);
	free(text);
	return domain;
}

/* ---------------------------------------------------------------- documents */

Test(vm_xml, what_is_no_domain_is_refused_with_a_sentence)
{
	static const struct { const char *text; int code; } cases[] = {
		{"", -EINVAL},
		{"<domain", -EINVAL},                              /* cut off */
		{"<domain><name>a</domain>", -EINVAL},             /* not well-formed */
		{"<pool><name>a</name></pool>", -EINVAL},          /* something else */
		{"<domain/>", -EINVAL},                            /* no name */
		{"<x:domain xmlns:x='u'><name>a</name></x:domain>", -EINVAL},
		{"<!DOCTYPE domain [<!ENTITY e 'x'>]><domain><name>&e;</name></domain>", -EINVAL}, /* brings entities */
		{"<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain><name>a</name></domain>", -EINVAL},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_xml_domain *domain = NULL;
		struct vs_err err = {0};

		cr_expect_eq(vm_xml_domain_parse(cases[i].text, &domain, &err), cases[i].code, "%s", cases[i].text);
		cr_expect_null(domain);
		cr_expect_neq(err.msg[0], '\0');
	}
}

Test(vm_xml, every_prefix_of_a_document_is_survived)
{
	static const char text[] =
		"<domainsnapshot><name>s</name><memory snapshot='external' file='/m'/><disks><disk name='vda' "
		"snapshot='external' type='file'><driver type='qcow2'/><source file='/i/o'/></disk></disks><domain><name>d</name>"
		"<devices><disk type='file'><driver type='raw'/><source file='/i/b'/><backingStore/><target dev='vda'/></disk>"
		"</devices></domain></domainsnapshot>";
	struct vm_xml_snapshot *snap = NULL;

	for (size_t n = 0; n < sizeof(text) - 1; n++) {
		vs_autofree char *prefix = strndup(text, n);

		cr_expect_eq(vm_xml_snapshot_parse(prefix, &snap, NULL), -EINVAL);
	}
	cr_assert_eq(vm_xml_snapshot_parse(text, &snap, NULL), 0);
	vm_xml_snapshot_free(snap);
}

Test(vm_xml, nesting_without_end_is_refused)
{
	size_t depth = 100000;
	char *text = malloc(depth * 14 + 100);
	struct vm_xml_domain *domain = NULL;
	char *o = stpcpy(text, "<domain>");

	for (size_t i = 0; i < depth; i++)
		o = stpcpy(o, "<backingStore>");
	cr_expect_eq(vm_xml_domain_parse(text, &domain, NULL), -EINVAL);
	free(text);
}

/* ---------------------------------------------------------------- domains */

Test(vm_xml, a_running_domain_tells_its_disks_and_their_chains)
{
	struct vm_xml_domain *d = domain_of(
		"<disk type='file' device='disk'>"
		"  <driver name='qemu' type='qcow2' discard='unmap'/>"
		"  <source file='/img/web01.tue' index='3'/>"
		"  <backingStore type='file' index='2'>"
		"    <format type='qcow2'/>"
		"    <source file='/img/web01.qcow2'/>"
		"    <backingStore type='block' index='1'>"
		"      <format type='raw'/>"
		"      <source dev='/dev/vg/golden'/>"
		"      <backingStore/>"
		"    </backingStore>"
		"  </backingStore>"
		"  <target dev='vda' bus='virtio'/>"
		"</disk>"
		"<disk type='file' device='disk'>"
		"  <driver name='qemu' type='raw'/>"
		"  <source file='/img/data.raw'/>"
		"  <target dev='vdb'/><readonly/>"
		"</disk>");

	cr_expect_str_eq(d->name, "web01");
	cr_expect_str_eq(d->uuid, "0e7a2c34-9d55-4b0e-8f5e-3f6f1d2a9b10");
	cr_assert_eq(d->n_disks, 2u, "a disk in somebody's metadata is none");
	cr_expect_str_eq(d->disks[0].target, "vda");
	cr_expect_eq(d->disks[0].source.type, VM_SOURCE_FILE);
	cr_expect_str_eq(d->disks[0].source.path, "/img/web01.tue");
	cr_expect_eq(d->disks[0].source.format, Q2_FORMAT_QCOW2);
	cr_assert_eq(d->disks[0].n_below, 2u);
	cr_expect(d->disks[0].below_complete);
	cr_expect_str_eq(d->disks[0].below[0].path, "/img/web01.qcow2");
	cr_expect_eq(d->disks[0].source.index, 3u);
	cr_expect_eq(d->disks[0].below[0].index, 2u);
	cr_expect_eq(d->disks[0].below[1].index, 1u);
	cr_expect_eq(d->disks[0].below[1].type, VM_SOURCE_BLOCK);
	cr_expect_eq(d->disks[0].below[1].format, Q2_FORMAT_RAW);
	cr_expect(vm_xml_disk_exposed(&d->disks[0]));
	cr_expect_not(d->disks[1].below_complete, "without <backingStore> nothing is known");
	cr_expect_not(vm_xml_disk_exposed(&d->disks[1]));
	cr_expect_eq(d->n_files, 4u);
	cr_expect_str_eq(d->files[2].path, "/dev/vg/golden");
	cr_expect_eq(d->files[2].format, Q2_FORMAT_RAW);
	vm_xml_domain_free(d);
}

Test(vm_xml, what_a_domain_keeps_beside_its_disks)
{
	static const struct {
		const char *os, *devices, *nvram, *version, *source;
		bool has_nvram, has_tpm;
		enum q2_format format;
	} cases[] = {
		{ "", "", NULL, NULL, NULL, false, false, Q2_FORMAT_RAW },
		{ "<nvram template='/t'>/v</nvram>", "", "/v", NULL, NULL, true, false, Q2_FORMAT_RAW },
		{ "<nvram template='/t'/>", "", NULL, NULL, NULL, true, false, Q2_FORMAT_RAW },
		{ "<nvram format='qcow2'>/v</nvram>", "", "/v", NULL, NULL, true, false, Q2_FORMAT_QCOW2 },
		{ "<nvram type='file' format='raw'><source file='/v'/></nvram>", "", "/v", NULL, NULL, true, false, Q2_FORMAT_RAW },
		{ "<nvram type='network'><source protocol='nbd'/></nvram>", "", NULL, NULL, NULL, true, false, Q2_FORMAT_RAW },
		{ "", "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>", NULL, "2.0", NULL, false, true, Q2_FORMAT_RAW },
		{ "", "<tpm><backend type='emulator'><source type='dir' path='/t'/></backend></tpm>", NULL, NULL, "/t", false, true, Q2_FORMAT_RAW },
		{ "", "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", NULL, NULL, NULL, false, false, Q2_FORMAT_RAW },
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		vs_autofree char *text = xasprintf("<domain><name>n</name><os>%s</os><devices>%s</devices></domain>", cases[i].os, cases[i].devices);
		struct vm_xml_domain *d;

		cr_assert_eq(vm_xml_domain_parse(text, &d, NULL), 0);
		cr_expect(d->has_nvram == cases[i].has_nvram && d->has_tpm == cases[i].has_tpm && d->nvram_format == cases[i].format, "%s", text);
		cr_expect(vm_same_text(d->nvram, cases[i].nvram) && vm_same_text(d->tpm_version, cases[i].version) &&
			  vm_same_text(d->tpm_source, cases[i].source), "%s", text);
		vm_xml_domain_free(d);
	}
}

Test(vm_xml, removable_media_are_not_exposed)
{
	static const struct { const char *disk; enum vm_xml_device device; bool exposed; } cases[] = {
		{"<disk type='file'><target dev='a'/></disk>", VM_DEVICE_DISK, true}, /* the default */
		{"<disk type='block' device='lun'><target dev='a'/></disk>", VM_DEVICE_LUN, true},
		{"<disk type='file' device='cdrom'><target dev='a'/></disk>", VM_DEVICE_CDROM, false},
		{"<disk type='file' device='floppy'><target dev='a'/></disk>", VM_DEVICE_FLOPPY, false},
		{"<disk type='file' device='tape'><target dev='a'/></disk>", VM_DEVICE_OTHER, false}, /* unheard of */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_xml_domain *d = domain_of(cases[i].disk);

		cr_assert_eq(d->n_disks, 1u);
		cr_expect_eq(d->disks[0].device, cases[i].device);
		cr_expect_eq(vm_xml_disk_exposed(&d->disks[0]), cases[i].exposed);
		cr_expect_eq(d->disks[0].source.type, VM_SOURCE_NONE);
		vm_xml_domain_free(d);
	}
}

Test(vm_xml, sources_that_cannot_be_read_say_why)
{
	static const struct { const char *disk; enum vm_source_type type; const char *text, *why; } cases[] = {
		{"<disk type='network'><driver type='raw'/><source protocol='rbd' name='pool/image'><host name='mon1'/></source>"
		 "<auth username='libvirt'><secret type='ceph' uuid='3ab6b6a4-0000-4000-8000-000000000000'/></auth>",
		 VM_SOURCE_OTHER, "network disk (rbd pool/image)", "network disk (rbd pool/image) cannot be read"},
		{"<disk type='network'><source protocol='nbd'><host name='storage.example' port='10809'/></source>",
		 VM_SOURCE_OTHER, "network disk (nbd storage.example)", "cannot be read"},
		{"<disk type='nvme'><source type='pci' namespace='1'/>", VM_SOURCE_OTHER, "nvme disk", "cannot be read"},
		{"<disk type='dir'><source dir='/srv'/>", VM_SOURCE_OTHER, "dir disk", "cannot be read"},
		{"<disk type='volume'><driver type='qcow2'/><source pool='default' volume='a.qcow2'/>",
		 VM_SOURCE_VOLUME, "storage volume default/a.qcow2", NULL}, /* libvirt knows where it is */
		{"<disk type='file'><driver type='qcow2'/><source file='/i/a'><encryption format='luks'/></source>",
		 VM_SOURCE_FILE, "/i/a", "/i/a is encrypted"},
		{"<disk type='file'><driver type='qcow2'/><source file='/i/a'/><encryption format='qcow'/>",
		 VM_SOURCE_FILE, "/i/a", "encrypted"}, /* where older versions wrote it */
		{"<disk type='file'><driver type='raw'/><source file='/i/a'><slices><slice type='storage' offset='512' size='1024'/>"
		 "</slices></source>", VM_SOURCE_FILE, "/i/a", "slice of /i/a"},
		{"<disk type='file'><driver type='vmdk'/><source file='/i/a'/>", VM_SOURCE_FILE, "/i/a", "format 'vmdk'"},
		{"<disk type='file'><driver type='raw'/><source file='/i/a'/>", VM_SOURCE_FILE, "/i/a", NULL},
		{"<disk type='file'><driver type='raw'/><source file='relative'/>", VM_SOURCE_NONE, NULL, NULL},
		{"<disk type='file'><driver type='raw'/><source/>", VM_SOURCE_NONE, NULL, NULL}, /* an empty drive */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		char *text = NULL;

		cr_assert_geq(asprintf(&text, "%s<target dev='vda'/></disk>", cases[i].disk), 0);
		struct vm_xml_domain *d = domain_of(text);
		const struct vm_xml_source *s = &d->disks[0].source;

		cr_expect_eq(s->type, cases[i].type, "%s", text);
		cr_expect((s->text == NULL) == (cases[i].text == NULL), "%s", text);
		if (cases[i].text)
			cr_expect_str_eq(s->text, cases[i].text);
		cr_expect((s->unsupported == NULL) == (cases[i].why == NULL), "%s: %s", text, s->unsupported);
		if (cases[i].why && s->unsupported)
			cr_expect(strstr(s->unsupported, cases[i].why) != NULL, "%s", s->unsupported);
		vm_xml_domain_free(d);
		free(text);
	}
}

Test(vm_xml, a_mirror_tells_the_job_and_the_base_of_an_active_commit)
{
	struct vm_xml_domain *d = domain_of(
		"<disk type='file'><driver type='qcow2'/><source file='/i/o' index='2'/>"
		"<mirror type='file' job='active-commit' ready='yes'><format type='raw'/><source file='/i/base'/></mirror>"
		"<target dev='vda'/></disk>"
		"<disk type='file'><driver type='qcow2'/><source file='/i/p'/>"
		"<mirror type='file' job='copy'><format type='qcow2'/><source file='/other/p'/></mirror><target dev='vdb'/></disk>");

	cr_expect_eq(d->disks[0].mirror_job, VM_MIRROR_ACTIVE_COMMIT);
	cr_expect(d->disks[0].mirror_ready);
	cr_expect_str_eq(d->disks[0].mirror.path, "/i/base");
	cr_expect_eq(d->disks[1].mirror_job, VM_MIRROR_COPY);
	cr_expect_not(d->disks[1].mirror_ready);
	cr_expect_eq(d->n_files, 4u);
	vm_xml_domain_free(d);
}

Test(vm_xml, an_external_data_file_is_among_the_files)
{
	struct vm_xml_domain *d = domain_of(
		"<disk type='file'><driver type='qcow2'/><source file='/i/a'><dataStore type='file'><format type='raw'/>"
		"<source file='/data/a.raw'/></dataStore></source><target dev='vda'/></disk>");

	cr_assert_eq(d->n_files, 2u);
	cr_expect_str_eq(d->files[1].path, "/data/a.raw");
	vm_xml_domain_free(d);
}

Test(vm_xml, disks_are_found_by_target_before_path)
{
	struct vm_xml_domain *d = domain_of(
		"<disk type='file'><source file='/i/a'/><target dev='vda'/></disk>"
		"<disk type='file'><source file='/i/b'/><target dev='/i/a'/></disk>");

	cr_expect_eq(vm_xml_domain_disk(d, "vda"), &d->disks[0]);
	cr_expect_eq(vm_xml_domain_disk(d, "/i/b"), &d->disks[1]);
	cr_expect_eq(vm_xml_domain_disk(d, "/i/a"), &d->disks[1]);
	cr_expect_null(vm_xml_domain_disk(d, "vdz"));
	cr_expect_null(vm_xml_domain_disk(NULL, "vda"));
	vm_xml_domain_free(d);
}

/* ---------------------------------------------------------------- snapshots */

static const char tuesday[] =
	"<domainsnapshot>\n"
	"  <name>tuesday</name>\n"
	"  <description>before the upgrade</description>\n"
	"  <state>running</state>\n"
	"  <parent>\n    <name>monday</name>\n  </parent>\n"
	"  <creationTime>1794880801</creationTime>\n"
	"  <memory snapshot='external' file='/img/tuesday.mem'/>\n"
	"  <disks>\n"
	"    <disk name='vda' snapshot='external' type='file'>\n"
	"      <driver type='qcow2'/>\n      <source file='/img/web01.tue'/>\n      <snapshotDeleteInProgress/>\n    </disk>\n"
	"    <disk name='/img/data.qcow2' snapshot='external' type='file'>\n"
	"      <driver type='qcow2'/>\n      <source file='/img/data.tue'/>\n    </disk>\n"
	"    <disk name='vdc' snapshot='no'/>\n"
	"  </disks>\n"
	"  <domain type='kvm'>\n"
	"    <name>web01</name>\n    <uuid>0e7a2c34-9d55-4b0e-8f5e-3f6f1d2a9b10</uuid>\n"
	"    <devices>\n"
	"      <disk type='file' device='disk'>\n        <driver name='qemu' type='qcow2'/>\n"
	"        <source file='/img/web01.mon'/>\n        <target dev='vda' bus='virtio'/>\n      </disk>\n"
	"      <disk type='file' device='disk'>\n        <driver name='qemu' type='qcow2'/>\n"
	"        <source file='/img/data.qcow2'/>\n        <target dev='vdb' bus='virtio'/>\n      </disk>\n"
	"      <disk type='file' device='disk'>\n        <driver name='qemu' type='raw'/>\n"
	"        <source file='/img/scratch.raw'/>\n        <target dev='vdc' bus='virtio'/>\n      </disk>\n"
	"    </devices>\n"
	"  </domain>\n"
	"  <inactiveDomain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n"
	"    <name>web01</name>\n"
	"    <description>  two\n    lines</description>\n"
	"    <devices>\n"
	"      <disk type='file' device='disk'>\n        <source file='/other/place.qcow2'/>\n"
	"        <target dev='vda'/>\n      </disk>\n"
	"      <graphics type='vnc' port='-1' passwd='geheim' passwdValidTo='2027-01-01T00:00:00'/>\n"
	"      <disk type='network'><source protocol='https' name='x'><cookies><cookie name='t'>token</cookie></cookies>"
	"</source><auth username='u'><secret type='iscsi' usage='ours'>hidden</secret></auth><target dev='vdd'/></disk>\n"
	"    </devices>\n"
	"    <qemu:commandline>\n      <qemu:arg value='-foo'/>\n    </qemu:commandline>\n"
	"  </inactiveDomain>\n"
	"  <revertDisks>\n"
	"    <disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='/img/web01.rev'/></disk>\n"
	"  </revertDisks>\n"
	"</domainsnapshot>\n";

static struct vm_xml_snapshot *snapshot_of(const char *text)
{
	struct vm_xml_snapshot *snap = NULL;
	struct vs_err err = {0};

	cr_assert_eq(vm_xml_snapshot_parse(text, &snap, &err), 0, "%s", err.msg);
	return snap;
}

Test(vm_xml, an_external_snapshot_tells_what_it_froze_and_what_it_created)
{
	struct vm_xml_snapshot *s = snapshot_of(tuesday);

	cr_expect_str_eq(s->name, "tuesday");
	cr_expect_str_eq(s->parent, "monday");
	cr_expect_str_eq(s->state, "running");
	cr_expect_eq(s->created_s, 1794880801);
	cr_expect_eq(s->memory, VM_MODE_EXTERNAL);
	cr_expect_str_eq(s->memory_file, "/img/tuesday.mem");
	cr_expect_eq(s->kind, VM_EXTERNAL);
	cr_expect_null(s->note);
	cr_assert_eq(s->n_disks, 3u);
	cr_expect_str_eq(s->disks[0].overlay.path, "/img/web01.tue");
	cr_expect_str_eq(s->disks[0].frozen->source.path, "/img/web01.mon");
	cr_expect(s->disks[0].delete_in_progress);
	cr_expect_str_eq(s->disks[1].target, "vdb", "named by its path");
	cr_expect_str_eq(s->disks[1].frozen->source.path, "/img/data.qcow2");
	cr_expect_not(s->disks[1].delete_in_progress);
	cr_expect_eq(s->disks[2].mode, VM_MODE_NO);
	cr_expect_eq(s->disks[2].overlay.type, VM_SOURCE_NONE);
	cr_assert_eq(s->n_revert_disks, 1u);
	cr_expect_str_eq(s->revert_disks[0].overlay.path, "/img/web01.rev");
	vm_xml_snapshot_free(s);
}

Test(vm_xml, the_files_of_a_snapshot_include_overlays_and_both_definitions)
{
	static const char *const want[] = {"/img/web01.mon", "/img/data.qcow2", "/img/scratch.raw", "/other/place.qcow2",
					   "/img/web01.tue", "/img/data.tue", "/img/web01.rev"};
	struct vm_xml_snapshot *s = snapshot_of(tuesday);

	cr_assert_eq(s->n_files, VS_ARRAY_LEN(want));
	for (size_t i = 0; i < s->n_files; i++)
		cr_expect_str_eq(s->files[i].path, want[i]);
	vm_xml_snapshot_free(s);
}

Test(vm_xml, the_definition_is_the_inactive_one_without_secrets_at_the_left_margin)
{
	static const char *const gone[] = {"inactiveDomain", "geheim", "passwd", "token", "hidden"};
	struct vm_xml_snapshot *s = snapshot_of(tuesday);
	struct vm_xml_domain *again = NULL;

	cr_assert_not_null(s->definition);
	cr_expect_eq(s->definition_len, strlen(s->definition));
	for (size_t i = 0; i < VS_ARRAY_LEN(gone); i++)
		cr_expect_null(strstr(s->definition, gone[i]), "'%s' is in there", gone[i]);
	cr_expect(strstr(s->definition, "<secret type=\"iscsi\" usage=\"ours\"/>") != NULL, "a reference is no secret");
	cr_expect(strstr(s->definition, "<qemu:arg value=\"-foo\"/>") != NULL);
	cr_expect(strstr(s->definition, "\n  <name>web01</name>\n  <description>  two\n    lines</description>\n") != NULL,
		  "%s", s->definition);
	cr_expect_str_eq(s->definition + s->definition_len - strlen("\n</domain>\n"), "\n</domain>\n");
	cr_expect_eq(vm_xml_domain_parse(s->definition, &again, NULL), 0);
	cr_expect_eq(strncmp(s->definition, "<domain ", 8), 0);
	vm_xml_domain_free(again);
	vm_xml_snapshot_free(s);
}

Test(vm_xml, without_an_inactive_definition_the_recorded_one_is_shown)
{
	struct vm_xml_snapshot *s = snapshot_of(
		"<domainsnapshot><name>a</name><creationTime>1</creationTime><domain type='qemu'><name>d</name></domain></domainsnapshot>");

	cr_expect_str_eq(s->definition, "<domain type=\"qemu\"><name>d</name></domain>\n");
	vm_xml_snapshot_free(s);
	s = snapshot_of("<domainsnapshot><name>a</name></domainsnapshot>");
	cr_expect_null(s->definition);
	cr_expect_null(s->domain);
	cr_expect_eq(s->n_disks, 0u);
	vm_xml_snapshot_free(s);
}

Test(vm_xml, the_kind_follows_from_disks_and_memory)
{
	static const struct { const char *body; enum vm_kind kind; bool note; } cases[] = {
		{"<memory snapshot='internal'/><disks><disk name='vda' snapshot='internal'/></disks>", VM_INTERNAL, false},
		{"<memory snapshot='no'/><disks><disk name='vda' snapshot='internal'/></disks>", VM_INTERNAL, false},
		{"<memory snapshot='no'/><disks><disk name='vda' snapshot='external'><source file='/o'/></disk></disks>", VM_EXTERNAL, false},
		{"<disks><disk name='vda' snapshot='manual'/></disks>", VM_EXTERNAL, false},
		{"<memory snapshot='external' file='/m'/><disks><disk name='vda' snapshot='no'/></disks>", VM_EXTERNAL, false},
		{"<state>disk-snapshot</state><disks><disk name='vda' snapshot='no'/></disks>", VM_EXTERNAL, false},
		{"<state>shutoff</state><disks><disk name='vda' snapshot='no'/></disks>", VM_INTERNAL, false},
		/* never made by libvirt, but REDEFINE takes it */
		{"<disks><disk name='vda' snapshot='internal'/><disk name='vdb' snapshot='external'><source file='/o'/></disk></disks>",
		 VM_EXTERNAL, true},
		{"<memory snapshot='internal'/><disks><disk name='vda' snapshot='external'><source file='/o'/></disk></disks>",
		 VM_EXTERNAL, true},
		/* a mode from the future: it names an overlay, so it is taken for an external one */
		{"<disks><disk name='vda' snapshot='quantum'><source file='/o'/></disk></disks>", VM_EXTERNAL, false},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		char *text = NULL;

		cr_assert_geq(asprintf(&text, "<domainsnapshot><name>s</name>%s</domainsnapshot>", cases[i].body), 0);
		struct vm_xml_snapshot *s = snapshot_of(text);

		cr_expect_eq(s->kind, cases[i].kind, "%s", text);
		cr_expect_eq(s->note != NULL, cases[i].note, "%s", text);
		vm_xml_snapshot_free(s);
		free(text);
	}
}

Test(vm_xml, a_record_from_before_disks_were_listed_has_them_all_internal)
{
	struct vm_xml_snapshot *s = snapshot_of(
		"<domainsnapshot><name>old</name><state>shutoff</state><creationTime>1300000000</creationTime><domain><name>d</name>"
		"<devices><disk type='file' device='cdrom'><source file='/cd.iso'/><target dev='hdc'/></disk>"
		"<disk type='file'><driver type='qcow2'/><source file='/i/a'/><target dev='vda'/></disk></devices></domain>"
		"</domainsnapshot>");

	cr_assert_eq(s->n_disks, 1u);
	cr_expect_str_eq(s->disks[0].target, "vda");
	cr_expect_eq(s->disks[0].mode, VM_MODE_INTERNAL);
	cr_expect_eq(s->kind, VM_INTERNAL);
	vm_xml_snapshot_free(s);
}

Test(vm_xml, names_and_times_may_be_anything)
{
	struct vm_xml_snapshot *s = snapshot_of(
		"<domainsnapshot><name>a b &amp; c'&quot;\xc3\xa9</name><creationTime>soon</creationTime></domainsnapshot>");

	cr_expect_str_eq(s->name, "a b & c'\"\xc3\xa9");
	cr_expect_eq(s->created_s, 0);
	vm_xml_snapshot_free(s);
	s = snapshot_of("<domainsnapshot><name>x</name><creationTime>99999999999999999999999</creationTime></domainsnapshot>");
	cr_expect_eq(s->created_s, 0);
	vm_xml_snapshot_free(s);
}

/* ---------------------------------------------------------------- pools */

Test(vm_xml, a_pool_tells_where_its_images_lie)
{
	static const struct { const char *text, *name, *type, *target; } cases[] = {
		{"<pool type='dir'><name>default</name><source/><target><path>/var/lib/libvirt/images</path></target></pool>",
		 "default", "dir", "/var/lib/libvirt/images"},
		{"<pool type='logical'><name>vg</name><target><path>/dev/vg</path></target></pool>", "vg", "logical", "/dev/vg"},
		{"<pool type='rbd'><name>ceph</name></pool>", "ceph", "rbd", NULL},
		{"<pool type='dir'><name>odd</name><target><path>images</path></target></pool>", "odd", "dir", NULL},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_xml_pool *p = NULL;

		cr_assert_eq(vm_xml_pool_parse(cases[i].text, &p, NULL), 0);
		cr_expect_str_eq(p->name, cases[i].name);
		cr_expect_str_eq(p->type, cases[i].type);
		cr_expect((p->target == NULL) == (cases[i].target == NULL));
		if (cases[i].target && p->target)
			cr_expect_str_eq(p->target, cases[i].target);
		vm_xml_pool_free(p);
	}
}

Test(vm_xml, which_arguments_are_images_for_certain)
{
	static const struct { const char *arguments[4], *path; enum vm_xml_mention_kind kind; } cases[] = {
		{{"-drive", "if=none,id=x,file=/srv/a,,b c.img"}, "/srv/a,b c.img", VM_MENTION_IMAGE},
		{{"-drive", "file=/srv/a.img,readonly=on"}, "/srv/a.img", VM_MENTION_SOURCE},
		{{"-blockdev", "{\"driver\":\"raw\",\"read-only\":true,\"file\":{\"driver\":\"file\",\"filename\":\"/srv/a.img\"}}"}, "/srv/a.img", VM_MENTION_SOURCE},
		{{"-blockdev", "driver=file,node-name=x,filename=/srv/a.img,read-only=on"}, "/srv/a.img", VM_MENTION_SOURCE},
		{{"--drive", "file.filename=/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-drive", "file=a.img"}, "/a.img", VM_MENTION_IMAGE},
		{{"-drive", "file=/proc/self/cwd/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-drive", "file=file:/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-drive", "file=/srv/a:b.img"}, "/srv/a:b.img", VM_MENTION_IMAGE},
		{{"-drive", "file=blkdebug:/srv/c:/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-drive", "file=blkverify:/srv/raw:/srv/a.img"}, "/srv/raw", VM_MENTION_IMAGE},
		{{"-drive", "file=json:{\"driver\":\"qcow2\",,\"file\":{\"driver\":\"file\",,\"filename\":\"/srv/a.img\"}},if=none"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-drive", "file=fat:rw:/srv/dir,format=raw"}, "/srv/dir", VM_MENTION_DIR},
		{{"-blockdev", "driver=qcow2,node-name=n,file.driver=file,file.filename=/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-blockdev", "{\"driver\":\"quorum\",\"children\":[{\"driver\":\"file\",\"filename\":\"\\/srv\\/a.img\"}]}"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-blockdev", "{\"driver\":\"vvfat\",\"dir\":\"/srv/dir\"}"}, "/srv/dir", VM_MENTION_DIR},
		{{"-set", "drive.x.file=/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-hda", "/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-snapshot", "/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-m", "64", "/srv/a.img"}, "/srv/a.img", VM_MENTION_IMAGE},
		{{"-readconfig", "/srv/a.cfg"}, "/srv/a.cfg", VM_MENTION_CONFIG},
		/* and which are not */
		{{"-cdrom", "/srv/a.iso"}, "/srv/a.iso", VM_MENTION_MEDIUM},
		{{"-drive", "file=/srv/a.iso,media=cdrom"}, "/srv/a.iso", VM_MENTION_MEDIUM},
		{{"-blockdev", "driver=nbd,server.path=/run/a,server.type=unix"}, "/run/a", VM_MENTION_PATH},
		{{"-drive", "file=nbd:unix:/run/a"}, "/run/a", VM_MENTION_MAY_BE},
		{{"-serial", "/dev/a"}, "/dev/a", VM_MENTION_PATH},
		{{"-drive", "file=/dev/fdset/3"}, "/dev/fdset/3", VM_MENTION_PATH},
		{{"-drive", "file=nbd+unix:///?socket=/run/a"}, "/run/a", VM_MENTION_PATH},
		{{"-chardev", "socket,id=c,path=/run/a,server=on"}, "/run/a", VM_MENTION_PATH},
		{{"-fda", "fat:floppy:rw:/srv/dir"}, "/srv/dir", VM_MENTION_MEDIUM},
		{{"-cdrom", "json:{\"driver\":\"vvfat\",\"dir\":\"/srv/dir\"}"}, "/srv/dir", VM_MENTION_MEDIUM},
		{{"-drive", "if=floppy,file=fat:/srv/dir"}, "/srv/dir", VM_MENTION_MEDIUM},
		{{"-kernel", "/boot/a"}, "/boot/a", VM_MENTION_PATH},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		xmlDoc *doc = xmlParseDoc((const xmlChar *)"<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name><qemu:commandline/></domain>");
		xmlNode *commandline = xmlLastElementChild(xmlDocGetRootElement(doc));
		struct vm_xml_domain *domain;
		vs_autofree char *text = NULL;
		int kind = -1;
		size_t certain = 0;

		for (size_t k = 0; k < VS_ARRAY_LEN(cases[i].arguments) && cases[i].arguments[k]; k++)
			xmlNewProp(xmlNewChild(commandline, commandline->ns, (const xmlChar *)"arg", NULL), (const xmlChar *)"value", (const xmlChar *)cases[i].arguments[k]);
		text = vm_xml_dump(doc, false);
		cr_assert_eq(vm_xml_domain_parse(text, &domain, NULL), 0, "%s", text);
		for (size_t m = 0; m < domain->n_mentions; m++) {
			if (!strcmp(domain->mentions[m].path, cases[i].path))
				kind = (int)domain->mentions[m].kind;
			certain += domain->mentions[m].kind > VM_MENTION_MEDIUM;
		}
		cr_expect_eq(kind, (int)cases[i].kind, "%s: %d", text, kind);
		cr_expect_eq(certain > 0, cases[i].kind > VM_MENTION_MEDIUM, "%s: %zu for certain", text, certain);
		vm_xml_domain_free(domain);
	}
}

Test(vm_xml, whatever_a_definition_names_is_a_path_in_each_of_its_spellings)
{
	static const struct { const char *value, *path; } cases[] = {
		{"file=/srv/a.img,format=raw", "/srv/a.img"},
		{"/srv/a.img", "/srv/a.img"},
		{"file=/srv/a,,b.img,if=none", "/srv/a,b.img"},
		{"file=srv/a.img", "/srv/a.img"},
		{"{&quot;file&quot;: {&quot;filename&quot;: &quot;\\/srv\\/a.img&quot;}}", "/srv/a.img"},
		{"{&quot;filename&quot;: &quot;/srv/\\u00e4 b.img&quot;}", "/srv/\xc3\xa4 b.img"},
		{"file=json:{&quot;driver&quot;:&quot;qcow2&quot;,,&quot;file.filename&quot;:&quot;/srv/a.img&quot;},if=none", "/srv/a.img"},
		{"file:/srv/a b.img", "/srv/a"},
		{"file:/srv/a b.img", "/srv/a b.img"},
		{"file=/srv/a b;c&apos;d.img,format=raw", "/srv/a b;c'd.img"},
		{"exec:cat &lt;/srv/a.img", "/srv/a.img"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		vs_autofree char *text = NULL;
		struct vm_xml_domain *domain;
		bool found = false;

		cr_assert_geq(asprintf(&text, "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name>"
				       "<uuid>6fba5a2e-6f7b-4b9e-8d6c-0b5b3c4a1d2e</uuid><qemu:commandline><qemu:arg value='%s'/></qemu:commandline></domain>",
				       cases[i].value), 0);
		cr_assert_eq(vm_xml_domain_parse(text, &domain, NULL), 0, "%s", cases[i].value);
		for (size_t m = 0; m < domain->n_mentions; m++)
			found |= !strcmp(domain->mentions[m].path, cases[i].path);
		cr_expect(found, "%s", cases[i].value);
		vm_xml_domain_free(domain);
	}
}

Test(vm_xml, what_the_kernel_in_the_guest_is_told_names_nothing_here)
{
	static const char text[] = "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name>"
				   "<uuid>6fba5a2e-6f7b-4b9e-8d6c-0b5b3c4a1d2e</uuid><os><kernel>/boot/vmlinuz</kernel><cmdline>root=/dev/vda init=/sbin/init</cmdline></os>"
				   "<qemu:commandline><qemu:arg value='-append'/>\n<qemu:arg value='root=/dev/vdb'/><qemu:arg value='-initrd'/><qemu:arg value='/boot/initrd'/>"
				   "</qemu:commandline></domain>";
	struct vm_xml_domain *domain;
	unsigned found = 0;

	cr_assert_eq(vm_xml_domain_parse(text, &domain, NULL), 0);
	for (size_t m = 0; m < domain->n_mentions; m++) {
		cr_expect_null(strstr(domain->mentions[m].path, "/dev/"), "%s", domain->mentions[m].path);
		cr_expect_null(strstr(domain->mentions[m].path, "/sbin"), "%s", domain->mentions[m].path);
		found += !strncmp(domain->mentions[m].path, "/boot/", 6);
	}
	cr_expect_eq(found, 2u);
	vm_xml_domain_free(domain);
}
