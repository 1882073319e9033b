/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * What spares a look at many domains its work: libvirt's own files, which say whether a domain has changed; groups of domains that
 * share files; one definition for many snapshots.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/observe/chains.h"
#include "vm/observe/history.h"
#include "vm/observe/own-files.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"
#include "vm/xml/xml.h"

#define UUID "6fba5a2e-6f7b-4b9e-8d6c-0b5b3c4a1d2e"
#define LATER (vm_now_ns() + 10 * VM_NS_PER_S) /* when what was written just now has settled */

#define CONFIG(path) "<!--\nWARNING\n-->\n<domain type='qemu'><name>web</name>\n<uuid>" UUID "</uuid>\n<devices><disk type='file' device='disk'>" \
		     "<driver name='qemu' type='qcow2'/><source file='" path "'/><target dev='vda'/></disk></devices></domain>\n"

static char top[] = "/tmp/vm-scale.XXXXXX";

static void begin(void)
{
	cr_assert_not_null(mkdtemp(top));
}

static void end(void)
{
	vs_autofree char *command = xasprintf("rm -rf '%s'", top);

	cr_assert_eq(system(command), 0);
}

static void put(const char *name, const char *text)
{
	vs_autofree char *path = xasprintf("%s/%s", top, name), *fresh = xasprintf("%s.new", path);
	FILE *f = fopen(fresh, "w");

	cr_assert_not_null(f);
	fputs(text, f);
	fclose(f);
	cr_assert_eq(rename(fresh, path), 0); /* as libvirt does */
}

static void make_dir(const char *name)
{
	vs_autofree char *path = xasprintf("%s/%s", top, name);

	cr_assert_eq(mkdir(path, 0700), 0);
}

/* ---------------------------------------------------------------- libvirt's own files */

static struct vm_own_dirs dirs_with_web(void)
{
	struct vm_own_dirs dirs = { xasprintf("%s/etc", top), xasprintf("%s/lib", top) };

	make_dir("etc");
	make_dir("lib");
	make_dir("lib/snapshot");
	make_dir("lib/snapshot/web");
	make_dir("lib/checkpoint");
	make_dir("lib/checkpoint/web");
	make_dir("lib/save");
	put("etc/web.xml", CONFIG("/i/web.qcow2"));
	put("lib/snapshot/web/monday.xml", "<domainsnapshot/>\n");
	put("lib/snapshot/web/tuesday.xml", "<domainsnapshot/>\n");
	return dirs;
}

static struct vm_own_files look(const struct vm_own_dirs *dirs, int64_t when_ns)
{
	struct vm_own_files files;

	vm_own_files_look(dirs, "web", when_ns, NULL, &files);
	return files;
}

Test(vm_own_files, while_nothing_is_written_they_are_the_same, .init = begin, .fini = end)
{
	struct vm_own_dirs dirs = dirs_with_web();
	struct vm_own_files before = look(&dirs, LATER), after = look(&dirs, LATER);

	cr_expect(before.known && before.settled);
	cr_expect(vm_own_files_same(&before, &after));
	vm_own_dirs_fini(&dirs);
}

Test(vm_own_files, whatever_libvirt_writes_is_seen, .init = begin, .fini = end)
{
	static const char *const written[] = { "etc/web.xml", "lib/snapshot/web/monday.xml", "lib/snapshot/web/wednesday.xml",
						"lib/checkpoint/web/full.xml" };
	struct vm_own_dirs dirs = dirs_with_web();

	for (size_t i = 0; i < VS_ARRAY_LEN(written); i++) {
		struct vm_own_files before = look(&dirs, LATER), after;

		usleep(20000); /* the kernel's clock ticks */
		put(written[i], "<uuid>" UUID "</uuid> and more\n");
		after = look(&dirs, LATER);
		cr_expect_not(vm_own_files_same(&before, &after), "%s", written[i]);
	}
	vm_own_dirs_fini(&dirs);
}

Test(vm_own_files, what_was_written_just_now_has_not_settled, .init = begin, .fini = end)
{
	struct vm_own_dirs dirs = dirs_with_web();
	struct vm_own_files now = look(&dirs, vm_now_ns());

	cr_expect(now.known);
	cr_expect_not(now.settled);
	vm_own_dirs_fini(&dirs);
}

Test(vm_own_files, they_tell_nothing_of_a_domain_with_a_managed_save_or_without_a_definition, .init = begin, .fini = end)
{
	struct vm_own_dirs dirs = dirs_with_web(), none = {0};
	struct vm_own_files files;

	put("lib/save/web.save", "");
	cr_expect_not(look(&dirs, LATER).known);
	vm_own_files_look(&dirs, "db", LATER, NULL, &files);
	cr_expect_not(files.known);
	cr_expect_not(look(&none, LATER).known, "nobody knows where they are");
	vm_own_dirs_fini(&dirs);
}

/* The next look at "db", which has neither. */
static struct vm_own_files look_again(struct vm_own_dirs *dirs, int64_t when_ns, const struct vm_own_files *before)
{
	struct vm_own_files files;

	vm_own_dirs_look(dirs, when_ns);
	vm_own_files_look(dirs, "db", when_ns, before, &files);
	return files;
}

Test(vm_own_files, what_was_not_there_is_looked_for_again_once_something_has_come, .init = begin, .fini = end)
{
	struct vm_own_dirs dirs = dirs_with_web();
	struct vm_own_files first, files;

	put("etc/db.xml", CONFIG("/i/db.qcow2"));
	first = look_again(&dirs, vm_now_ns(), NULL);
	cr_expect(first.known && first.no_save && first.no_checkpoints);
	files = look_again(&dirs, LATER, &first);
	cr_expect_neq(files.no_save, first.no_save, "their directories were not settled: what came right after that may have left no trace");
	first = files;
	files = look_again(&dirs, LATER, &first);
	cr_expect(files.known && vm_own_files_same(&first, &files));
	cr_expect_eq(files.no_save, first.no_save);
	cr_expect_eq(files.no_checkpoints, first.no_checkpoints);
	usleep(20000);
	make_dir("lib/checkpoint/db");
	files = look_again(&dirs, LATER, &first);
	cr_expect_not(vm_own_files_same(&first, &files));
	cr_expect_eq(files.no_checkpoints, 0);
	put("lib/save/db.save", "");
	files = look_again(&dirs, LATER, &files);
	cr_expect_not(files.known);
	cr_expect_eq(files.no_save, 0);
	vm_own_dirs_fini(&dirs);
}

Test(vm_own_files, they_are_known_for_one_connection_alone)
{
	struct vm_own_dirs dirs = {0};

	vm_own_dirs_set(&dirs, "qemu:///system");
	cr_expect_not_null(dirs.config);
	vm_own_dirs_set(&dirs, "qemu:///session");
	cr_expect_null(dirs.config);
	vm_own_dirs_set(&dirs, NULL);
	cr_expect_null(dirs.config);
	vm_own_dirs_fini(&dirs);
}

Test(vm_own_files, they_count_only_where_they_say_what_libvirt_says, .init = begin, .fini = end)
{
	static const char *const names[] = { "monday", "tuesday", "wednesday" }, *const others[] = { "monday", "friday" };
	struct vm_own_dirs dirs = dirs_with_web();
	struct vm_xml_domain *said;

	cr_assert_eq(vm_xml_domain_parse(CONFIG("/i/web.qcow2"), &said, NULL), 0);
	cr_expect(vm_own_files_say(&dirs, "web", UUID, said, names, 2));
	cr_expect_not(vm_own_files_say(&dirs, "web", UUID, said, names, 3), "one is not there");
	cr_expect_not(vm_own_files_say(&dirs, "web", UUID, said, names, 1), "one is there that libvirt does not name");
	cr_expect_not(vm_own_files_say(&dirs, "web", UUID, said, others, 2), "another one");
	cr_expect_not(vm_own_files_say(&dirs, "web", "00000000-6f7b-4b9e-8d6c-0b5b3c4a1d2e", said, names, 2), "of another domain");
	put("etc/db.xml", CONFIG("/i/web.qcow2"));
	cr_expect(vm_own_files_say(&dirs, "db", UUID, said, names, 0), "who has no snapshots has no directory");
	put("etc/web.xml", CONFIG("/i/db.qcow2"));
	cr_expect_not(vm_own_files_say(&dirs, "web", UUID, said, names, 2), "written, and not read by libvirt yet");
	vm_xml_domain_free(said);
	vm_own_dirs_fini(&dirs);
}

/* ---------------------------------------------------------------- groups */

static void ask(struct vm_chains *c, int asker, const char *name)
{
	vs_autofree char *path = xasprintf("%s/%s", top, name);

	c->asker = asker;
	vm_chains_path(c, path, Q2_FORMAT_RAW, NULL);
}

Test(vm_chains, those_who_come_to_one_file_are_of_one_group, .init = begin, .fini = end)
{
	struct vm_headers *files = vm_headers_new();
	vs_autofree char *a = xasprintf("%s/a", top), *other = xasprintf("%s/other", top);
	struct vm_chains c;

	put("a", "");
	put("b", "");
	put("c", "");
	put("cd", "");
	cr_assert_eq(link(a, other), 0);
	vm_chains_init(&c, files, vm_headers_round(files));
	vm_chains_ask(&c, 6);
	ask(&c, 0, "a");
	ask(&c, 1, "b");
	ask(&c, 2, "c");
	ask(&c, 3, "b");
	ask(&c, 4, "other"); /* the same as "a" */
	ask(&c, 5, "not there");
	ask(&c, -1, "c");
	ask(&c, 2, "not there");
	c.loose = true; /* a medium in a drive */
	ask(&c, 0, "cd");
	ask(&c, 1, "cd");
	c.loose = false;
	vm_chains_groups(&c);
	cr_expect_eq(vm_chains_group(&c, 0), vm_chains_group(&c, 4), "by two names");
	cr_expect_eq(vm_chains_group(&c, 1), vm_chains_group(&c, 3));
	cr_expect_eq(vm_chains_group(&c, 2), vm_chains_group(&c, 5), "by a name behind which nothing is");
	cr_expect_neq(vm_chains_group(&c, 0), vm_chains_group(&c, 1));
	cr_expect_neq(vm_chains_group(&c, 0), vm_chains_group(&c, 2));
	cr_expect_neq(vm_chains_group(&c, 1), vm_chains_group(&c, 2));
	vm_chains_fini(&c);

	vm_chains_init(&c, files, vm_headers_round(files));
	vm_chains_ask(&c, 3);
	c.loose = true;
	ask(&c, 0, "cd");
	ask(&c, 1, "cd");
	c.loose = false;
	ask(&c, 2, "cd"); /* a disk */
	vm_chains_groups(&c);
	cr_expect_eq(vm_chains_group(&c, 0), vm_chains_group(&c, 2), "what is a disk of one");
	cr_expect_eq(vm_chains_group(&c, 1), vm_chains_group(&c, 2));
	vm_chains_fini(&c);
	vm_headers_free(files);
}

/* ---------------------------------------------------------------- looks at a part */

Test(vm_history, a_look_at_a_part_knows_what_was_away)
{
	struct vm_history *h = vm_history_new();

	vm_history_poll(h, 1, false);
	cr_expect_eq(vm_history_since(h, 1, "/a"), 1);
	cr_expect_eq(vm_history_since(h, 2, "/b"), 1);
	vm_history_poll(h, 2, true); /* of the first alone */
	cr_expect_eq(vm_history_since(h, 1, "/a"), 1);
	vm_history_poll(h, 3, true); /* of the second */
	cr_expect_eq(vm_history_since(h, 2, "/b"), 1);
	vm_history_poll(h, 4, false);
	cr_expect_eq(vm_history_since(h, 1, "/a"), 1, "it was there in the last look at all");
	vm_history_poll(h, 5, true); /* of the second, which was away in the look at all */
	cr_expect_eq(vm_history_since(h, 2, "/b"), 5);
	vm_history_poll(h, 6, false);
	cr_expect_eq(vm_history_since(h, 1, "/a"), 1);
	cr_expect_eq(vm_history_since(h, 2, "/b"), 5);
	vm_history_free(h);
}

/* ---------------------------------------------------------------- one definition for many */

static struct vm_xml_snapshot *record(const char *name, const char *memory, const char *more)
{
	vs_autofree char *text = xasprintf("<domainsnapshot><name>%s</name><disks><disk name='vda' snapshot='internal'/></disks>\n"
					   "<domain type='qemu'><name>web</name><uuid>" UUID "</uuid><memory>%s</memory><devices>"
					   "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/web.qcow2'/>"
					   "<target dev='vda'/></disk></devices></domain>%s</domainsnapshot>", name, memory, more);
	struct vm_xml_snapshot *snap;

	cr_assert_eq(vm_xml_snapshot_parse(text, &snap, NULL), 0);
	return snap;
}

Test(vm_xml_snapshot, one_definition_is_kept_for_many)
{
	struct vm_xml_snapshot *a = record("a", "1", ""), *b = record("b", "1", ""), *c = record("c", "2", ""),
			       *d = record("d", "1", "<inactiveDomain type='qemu'><name>web</name><uuid>" UUID "</uuid><memory>1</memory></inactiveDomain>");

	cr_expect(vm_xml_snapshot_share(b, a));
	cr_expect_eq(b->definition, a->definition);
	cr_expect_eq(b->domain, a->domain);
	cr_expect_eq(b->disks[0].frozen, &a->domain->disks[0], "what it froze is the other's too");
	cr_expect_eq(b->disks, a->disks);
	cr_expect_eq(b->files, a->files);
	cr_expect_eq(vm_xml_snapshot_keeper(b), a);
	cr_expect_not(vm_xml_snapshot_share(b, a), "once is enough");
	cr_expect_not(vm_xml_snapshot_share(c, a), "it is another one");
	cr_expect_str_eq(c->disks[0].frozen->source.path, "/i/web.qcow2");
	cr_expect_not(vm_xml_snapshot_share(d, a), "it has two");
	vm_xml_snapshot_free(a);
	cr_expect_str_eq(b->disks[0].target, "vda", "what is shared is held on to");
	vm_xml_snapshot_free(b);
	vm_xml_snapshot_free(c);
	vm_xml_snapshot_free(d);
}
