/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Which file does a device show? The kernel's answers are laid out below a directory, for partitions of loop devices and mappings over
 * them are not to be had on every kernel. And what files are that lie about.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vm/observe/headers-priv.h"
#include "vm/observe/peek.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#include "q2-image.h"

static char *root;

static void make(const char *name, const char *text)
{
	vs_autofree char *path = ti_path(root, name);

	for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		mkdir(path, 0700);
	}
	if (text)
		ti_save_bytes(path, text, strlen(text));
	else
		mkdir(path, 0700);
}

static void link_to(const char *name, const char *target)
{
	vs_autofree char *path = ti_path(root, name);

	cr_assert_eq(symlink(target, path), 0);
}

static void expect(unsigned major, unsigned minor, const char *shows, const char *hidden)
{
	vs_autofree char *is_shown = NULL, *is_hidden = NULL, *want = shows ? ti_path(root, shows) : NULL;

	vm_window_find(root, makedev(major, minor), &is_shown, &is_hidden);
	cr_expect(want ? is_shown && !strcmp(is_shown, want) : !is_shown, "%u:%u shows '%s'", major, minor, is_shown ? is_shown : "-");
	cr_expect(hidden ? is_hidden && strstr(is_hidden, hidden) : !is_hidden, "%u:%u: '%s'", major, minor, is_hidden ? is_hidden : "-");
}

/* Files a and b, and loop devices on them. */
static void loops(void)
{
	vs_autofree char *a = NULL, *b = NULL, *away = NULL, *gone = NULL;

	root = ti_mkdir();
	make("a", "");
	make("b", "");
	cr_assert(asprintf(&a, "%s/a\n", root) > 0 && asprintf(&b, "%s/b\n", root) > 0 && asprintf(&away, "%s/away\n", root) > 0 &&
		  asprintf(&gone, "%s/gone (deleted)\n", root) > 0);
	make("loop0/loop/backing_file", a);
	make("loop1/loop/backing_file", b);
	make("loop2/loop/backing_file", gone);
	make("loop3/loop/backing_file", away);
	make("loop4/loop/backing_file", "");
	make("loop5/queue", NULL);
	make("loop0/loop0p1/partition", "1\n");
	make("sda/size", "1\n");
	for (int i = 0; i < 6; i++) {
		char name[8], target[8];

		snprintf(name, sizeof(name), "7:%d", i);
		snprintf(target, sizeof(target), "loop%d", i);
		link_to(name, target);
	}
	link_to("259:0", "loop0/loop0p1");
	link_to("8:0", "sda");
}

static void clean(void)
{
	vs_autofree char *command = NULL;

	cr_assert(asprintf(&command, "rm -rf '%s'", root) > 0);
	cr_assert_eq(system(command), 0);
	free(root);
}

Test(vm_window, a_loop_device_shows_its_file_or_it_is_said_why_nobody_can_tell, .init = loops, .fini = clean)
{
	expect(7, 0, "a", NULL);
	expect(7, 1, "b", NULL);
	expect(7, 2, NULL, "removed");
	expect(7, 3, NULL, "not to be found");
	expect(7, 4, NULL, "does not tell");
	expect(7, 5, NULL, "no file at present");
	expect(8, 0, NULL, NULL);
	expect(9, 9, NULL, "does not tell"); /* sysfs has none */
}

Test(vm_window, so_do_its_partitions_and_what_is_made_of_it, .init = loops, .fini = clean)
{
	expect(259, 0, "a", NULL);
	make("253:0/slaves", NULL);
	link_to("253:0/slaves/loop0p1", "../../loop0/loop0p1");
	expect(253, 0, "a", NULL);
	make("253:1/slaves", NULL);
	link_to("253:1/slaves/dm-0", "../../253:0");
	expect(253, 1, "a", NULL);
	link_to("253:1/slaves/sda", "../../sda");
	expect(253, 1, "a", NULL);
	link_to("253:1/slaves/loop1", "../../loop1");
	vs_autofree char *shows = NULL, *hidden = NULL;
	vm_window_find(root, makedev(253, 1), &shows, &hidden);
	cr_expect(shows && hidden && strstr(hidden, "several"), "one is told, and that there are more");
	make("253:2/slaves", NULL);
	link_to("253:2/slaves/sda", "../../sda");
	expect(253, 2, NULL, NULL);
	make("253:3/slaves", NULL);
	link_to("253:3/slaves/self", "../../253:3");
	expect(253, 3, NULL, "does not tell");
}

/* ---------------------------------------------------------------- first bytes */

static void expect_peek(const void *bytes, size_t len, enum vm_peek kind, const char *what)
{
	char *dir = ti_mkdir();
	vs_autofree char *path = ti_path(dir, "file");
	struct vm_peeked peeked;
	int fd;

	ti_save_bytes(path, bytes, len);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(vm_peek(fd, &peeked), 0);
	if (peeked.kind == VM_PEEK_SAVED)
		cr_assert_eq(vm_peek_saved(fd, &peeked), 0);
	cr_expect_eq(peeked.kind, kind, "%s: %d", what, peeked.kind);
	cr_expect_eq(peeked.kind == VM_PEEK_STANDS, peeked.why != NULL);
	vm_peeked_fini(&peeked);
	close(fd);
	ti_rmdir(dir);
}

Test(vm_window, a_file_stands_on_something_only_if_its_format_says_so)
{
	static const struct { const char *what; const char *head; size_t len; size_t off; uint8_t byte; enum vm_peek kind; } cases[] = {
		{ "nothing", "", 0, 0, 0, VM_PEEK_ALONE },
		{ "less than a magic", "QF", 2, 0, 'Q', VM_PEEK_ALONE },
		{ "raw", "\xeb\x63\x90", 3, 510, 0x55, VM_PEEK_ALONE },
		{ "qcow2", "QFI\xfb\0\0\0\3", 8, 0, 'Q', VM_PEEK_QCOW2 },
		{ "qcow2 of a version to come", "QFI\xfb\0\0\0\7", 8, 0, 'Q', VM_PEEK_QCOW2 },
		{ "qcow", "QFI\xfb\0\0\0\1", 8, 0, 'Q', VM_PEEK_ALONE },
		{ "qcow with a backing file", "QFI\xfb\0\0\0\1", 8, 15, 0x30, VM_PEEK_STANDS },
		{ "QED", "QED\0", 4, 0, 'Q', VM_PEEK_ALONE },
		{ "QED with another feature", "QED\0", 4, 16, 2, VM_PEEK_ALONE },
		{ "QED with a backing file", "QED\0", 4, 16, 5, VM_PEEK_STANDS },
		{ "COW", "OOOM\0\0\0\2", 8, 8, '/', VM_PEEK_STANDS },
		{ "an extent of a VMDK image", "KDMV", 4, 0, 'K', VM_PEEK_ALONE },
		{ "a VMDK image with an endless description", "KDMV", 4, 43, 0x7f, VM_PEEK_ALONE },
		{ "VHDX", "vhdxfile", 8, 0, 'v', VM_PEEK_ALONE },
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		char bytes[2048] = { 0 };

		memcpy(bytes, cases[i].head, cases[i].len);
		if (cases[i].len > 2)
			bytes[cases[i].off] = (char)cases[i].byte;
		expect_peek(bytes, cases[i].len > 2 ? sizeof(bytes) : cases[i].len, cases[i].kind, cases[i].what);
	}
}

Test(vm_window, a_description_tells_parents_and_parts)
{
	static const struct { const char *text; enum vm_peek kind; } cases[] = {
		{ "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n", VM_PEEK_ALONE },
		{ "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=12345678\n", VM_PEEK_STANDS },
		{ "#\r\n \r\nversion=3\r\nparentFileNameHint=\"base\"\r\n", VM_PEEK_STANDS },
		{ "version=1\nRW 4096 FLAT \"a.raw\" 0\nRW 4096 ZERO\n", VM_PEEK_PARTS },
		{ "version=1\nRW 4096 FLAT \"a.raw\" 0\nparentCID=1\n", VM_PEEK_STANDS },
		{ "# notes\nabout version=1\nparentCID=1\n", VM_PEEK_ALONE },
		{ "####", VM_PEEK_ALONE },
	};
	uint8_t sparse[4096] = "KDMV";

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		expect_peek(cases[i].text, strlen(cases[i].text), cases[i].kind, cases[i].text);
		memset(sparse + 512, 0, 1024);
		memcpy(sparse + 512, cases[i].text, strlen(cases[i].text));
		sparse[28] = 1;
		sparse[36] = 2;
		if (i < 5)
			expect_peek(sparse, sizeof(sparse), cases[i].kind, "in a sparse image");
	}
}

/* A header of libvirt's with this definition behind it. */
static size_t save(uint8_t *bytes, const char *magic, uint32_t version, uint32_t len, const char *text)
{
	memset(bytes, 0, 4096);
	memcpy(bytes, magic, 16);
	memcpy(bytes + 16, &version, sizeof(version));
	memcpy(bytes + 20, &len, sizeof(len));
	memcpy(bytes + 92, text, strlen(text));
	return 4096;
}

Test(vm_window, a_saved_guest_needs_what_its_definition_names)
{
	static const char guest[] = "<domain type='qemu'><name>a</name><uuid>11111111-2222-3333-4444-555555555555</uuid><os><kernel>/nowhere/vmlinuz</kernel></os><devices>"
				    "<disk type='file' device='disk'><source file='/nowhere/top.qcow2'/><backingStore type='file'><format type='qcow2'/>"
				    "<source file='/nowhere/base.qcow2'/></backingStore><target dev='vda'/></disk>"
				    "<disk type='volume' device='disk'><source pool='p' volume='vol.qcow2'/><target dev='vdb'/></disk></devices></domain>";
	static const char *const names[] = { "/nowhere/top.qcow2", "/nowhere/base.qcow2", "/nowhere/vmlinuz", "vol.qcow2" };
	static const struct { const char *what, *magic; uint32_t version, len; const char *text; enum vm_peek kind; } cases[] = {
		{ "whole", "LibvirtQemudSave", 2, 2048, guest, VM_PEEK_SAVED },
		{ "not to its end", "LibvirtQemudPart", 2, 2048, guest, VM_PEEK_SAVED },
		{ "of a host of the other byte order", "LibvirtQemudSave", 0x02000000, 0x00080000, guest, VM_PEEK_SAVED },
		{ "of a libvirt to come", "LibvirtQemudSave", 9, 2048, guest, VM_PEEK_SAVED },
		{ "no definition", "LibvirtQemudPart", 2, 0, guest, VM_PEEK_STANDS },
		{ "cut off", "LibvirtQemudSave", 2, 100, guest, VM_PEEK_STANDS },
		{ "something else", "LibvirtQemudSave", 2, 2048, "<pool/>", VM_PEEK_STANDS },
		{ "endless", "LibvirtQemudSave", 2, 0x7fffffff, guest, VM_PEEK_STANDS },
		{ "another magic", "LibvirtQemudSafe", 2, 2048, guest, VM_PEEK_ALONE },
	};
	uint8_t bytes[4096];

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++)
		expect_peek(bytes, save(bytes, cases[i].magic, cases[i].version, cases[i].len, cases[i].text), cases[i].kind, cases[i].what);
	expect_peek(bytes, save(bytes, "LibvirtQemudSave", 2, 2048, guest) - 3800, VM_PEEK_STANDS, "a file that ends in the definition");

	char *dir = ti_mkdir();
	vs_autofree char *path = ti_path(dir, "file");
	struct vm_peeked peeked;

	ti_save_bytes(path, bytes, save(bytes, "LibvirtQemudSave", 2, 2048, guest));
	vs_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(vm_peek(fd, &peeked), 0);
	cr_expect_null(peeked.names, "what it names is read when it is asked for");
	cr_assert_eq(vm_peek_saved(fd, &peeked), 0);
	for (size_t i = 0; i < VS_ARRAY_LEN(names); i++) {
		bool has = false;

		for (char **name = peeked.names; name && *name; name++)
			has |= !strcmp(*name, names[i]);
		cr_expect(has, "%s", names[i]);
	}
	cr_expect_eq(peeked.n_images, 1);
	cr_expect_str_eq(peeked.names[0], "/nowhere/top.qcow2");
	vm_peeked_fini(&peeked);
	ti_rmdir(dir);
}

/* Anybody can write one, a guest to its own disk, too. */
Test(vm_window, a_saved_guest_that_names_endlessly_many_files_costs_little)
{
	static const char begin[] = "<domain type='qemu'><name>a</name><uuid>11111111-2222-3333-4444-555555555555</uuid><devices>", end[] = "</devices></domain>";
	size_t room = 16 << 20, len = 0;
	char *text = xcalloc(room, 1), *dir = ti_mkdir();
	vs_autofree char *path = ti_path(dir, "file");
	struct vm_peeked peeked;

	for (unsigned disks = 1000; disks <= 200000; disks *= 3) {
		uint32_t version = 2, bytes;
		int64_t begun = vm_steady_ns();

		len = (size_t)snprintf(text + 92, room - 92, "%s", begin);
		for (unsigned i = 0; i < disks && len + 200 < room; i++)
			len += (size_t)snprintf(text + 92 + len, room - 92 - len, "<disk type='file'><source file='/n/%u'/><target dev='d%u'/></disk>", i, i);
		len += (size_t)snprintf(text + 92 + len, room - 92 - len, "%s", end);
		bytes = (uint32_t)len;
		memcpy(text, "LibvirtQemudSave", 16);
		memcpy(text + 16, &version, 4);
		memcpy(text + 20, &bytes, 4);
		ti_save_bytes(path, text, len + 92);
		vs_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
		cr_assert_eq(vm_peek_saved(fd, &peeked), 0);
		cr_expect_eq(peeked.kind, disks < 4096 ? VM_PEEK_SAVED : VM_PEEK_STANDS, "%u disks", disks);
		cr_expect_lt(vm_steady_ns() - begun, 3 * VM_NS_PER_S, "%u disks", disks);
		vm_peeked_fini(&peeked);
	}
	free(text);
	ti_rmdir(dir);
}

/* ---------------------------------------------------------------- lock bytes */

Test(vm_headers, locks_are_asked_for_of_the_file_that_was_looked_at, .init = loops, .fini = clean)
{
	vs_autofree char *image = ti_path(root, "a"), *other = ti_path(root, "b");
	struct vm_headers *files = vm_headers_new();
	struct vm_header *f;

	make("a", "");
	make("b", "");
	vm_headers_round(files);
	f = vm_headers_top(files, image, Q2_FORMAT_RAW);
	vm_headers_locks(files, f);
	cr_expect_eq(f->locks_code, 0);
	cr_assert_eq(rename(other, image), 0);
	cr_expect(vm_headers_locks(files, f), "no news");
	cr_expect_eq(f->locks_code, -ESTALE);
	vm_headers_round(files);
	f = vm_headers_top(files, image, Q2_FORMAT_RAW);
	cr_expect(vm_headers_locks(files, f));
	cr_expect_eq(f->locks_code, 0);
	vm_headers_free(files);
}

/* Who may read a file reads it, also where for somebody else it is only needed. */
Test(vm_headers, what_is_only_needed_is_read_by_who_may, .init = loops, .fini = clean)
{
	vs_autofree char *image = ti_path(root, "a");

	for (int order = 0; order < 2; order++) {
		struct vm_headers *files = vm_headers_new();
		struct vm_header *top, *behind;

		make("a", "a raw image");
		for (int round = 0; round < 3; round++) {
			vm_headers_round(files);
			behind = order ? NULL : vm_headers_behind(files, image);
			top = vm_headers_top(files, image, Q2_FORMAT_RAW);
			if (order)
				behind = vm_headers_behind(files, image);
			cr_assert(top->info, "order %d, round %d: %d %s", order, round, top->code, top->error ? top->error : "");
			cr_expect_eq(top->info->size, 512, "order %d, round %d", order, round);
			cr_expect_eq(behind->code, 0);
			cr_expect_eq(behind->format, Q2_FORMAT_RAW);
			cr_expect_eq(behind->stamp.ino, top->stamp.ino);
		}
		vm_headers_free(files);
	}
}
