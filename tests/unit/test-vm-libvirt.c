/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* What is pure in vm/libvirt/. Everything else is proved through the mounted files, on libvirt itself. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <libvirt/libvirt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/libvirt/conn.h"
#include "vm/libvirt/overlay.h"
#include "vm/libvirt/untold.h"
#include "vm/libvirt/version.h"
#include "vm/libvirt/virterr.h"

#define V(major, minor, micro) ((major) * 1000000ul + (minor) * 1000ul + (micro))

Test(vm_libvirt, what_a_version_of_libvirt_can_do)
{
	static const struct {
		unsigned long version;
		size_t layers;
	} cases[] = {
		{V(9, 0, 0), 200},  /* Debian 12 */
		{V(10, 7, 9), 200},
		{V(10, 8, 0), 25},
		{V(11, 3, 0), 25},  /* Debian 13 */
		{V(11, 10, 9), 25}, /* micro releases are one minor */
		{V(12, 0, 0), 200},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++)
		cr_expect_eq(vm_version_of(cases[i].version).start_layers, cases[i].layers, "case %zu", i);
}

static void expect_path(const char *source, const char *snapshot, unsigned attempt, const char *want)
{
	char *names[] = {(char *)"monday", (char *)"s1", (char *)"a b", (char *)"v1.2"};
	vs_autofree char *got = vm_overlay_path(source, names, VS_ARRAY_LEN(names), snapshot, attempt);

	cr_expect_str_eq(got, want, "'%s' over '%s' is '%s', not '%s'", snapshot, source, got, want);
}

Test(vm_libvirt, overlays_lie_beside_their_image_and_are_called_after_the_snapshot)
{
	expect_path("/i/web01.qcow2", "monday", 1, "/i/web01.monday.qcow2");
	expect_path("/i/web01.img", "monday", 2, "/i/web01.monday-2.qcow2");
	expect_path("/i/disk", "monday", 1, "/i/disk.monday.qcow2");          /* no extension */
	expect_path("/i/db.example.com", "x", 1, "/i/db.example.com.x.qcow2"); /* not an extension */
	expect_path("/i/.qcow2", "x", 1, "/i/.qcow2.x.qcow2");                /* nothing would be left */
}

Test(vm_libvirt, names_do_not_grow_from_snapshot_to_snapshot)
{
	expect_path("/i/web01.monday.qcow2", "tuesday", 1, "/i/web01.tuesday.qcow2");
	expect_path("/i/web01.monday-2.qcow2", "tuesday", 1, "/i/web01.tuesday.qcow2"); /* a second attempt */
	expect_path("/i/web01.s1", "s2", 1, "/i/web01.s2.qcow2");                       /* libvirt's own naming */
	expect_path("/i/web01.a_b.qcow2", "c", 1, "/i/web01.c.qcow2");                  /* a name that was made harmless */
	expect_path("/i/web01.v1.2.qcow2", "c", 1, "/i/web01.c.qcow2");                 /* with a dot in it */
	expect_path("/i/web01.other.qcow2", "c", 1, "/i/web01.other.c.qcow2");          /* not a snapshot's */
	expect_path("/i/disk-2.qcow2", "c", 1, "/i/disk-2.c.qcow2");                    /* not an attempt */
}

Test(vm_libvirt, what_could_mean_something_to_somebody_does_not_get_into_file_names)
{
	expect_path("/i/d.qcow2", "a b&c'\"*?[]{},:$;", 1, "/i/d.a_b_c____________.qcow2");
	expect_path("/i/d.qcow2", "sp\xc3\xa4t", 1, "/i/d.sp\xc3\xa4t.qcow2");
	expect_path("/i/d.qcow2", "x\xff\x01\n", 1, "/i/d.x___.qcow2");
}

Test(vm_libvirt, long_names_still_make_a_file_name)
{
	char source[400] = "/i/", name[300];
	vs_autofree char *got = NULL;

	memset(source + 3, 's', 250);
	memset(name, 0, sizeof(name));
	for (size_t i = 0; i < 246; i += 2)
		memcpy(name + i, "\xc3\xa4", 2);
	got = vm_overlay_path(source, NULL, 0, name, 1000);
	cr_expect_leq(strlen(got) - 3, 255);
	cr_expect(strstr(got, "\xc3\xa4-1000.qcow2"), "cut between characters: %s", got);
}

Test(vm_libvirt, a_missing_socket_is_no_missing_domain)
{
	virConnectPtr conn = virConnectOpen("qemu:///system?socket=/nowhere/libvirt-sock");
	virDomainPtr dom;

	cr_assert_null(conn);
	cr_expect_eq(vm_virterr_code(), -EIO);
	conn = virConnectOpen("test:///default");
	cr_assert_not_null(conn);
	dom = virDomainLookupByName(conn, "nobody");
	cr_expect_null(dom);
	cr_expect_eq(vm_virterr_code(), -ENOENT);
	virConnectClose(conn);
}

static void touch_in(const char *dir, const char *name)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static bool is_one_of(void *opaque, const char *name)
{
	for (const char *const *at = opaque; *at; at++)
		if (!strcmp(*at, name))
			return true;
	return false;
}

Test(vm_libvirt, what_has_a_file_and_is_not_listed)
{
	char dir[] = "/tmp/untold.XXXXXX", path[200];
	const char *listed[] = { "a", NULL, NULL };
	struct vm_untold u = {0};

	cr_assert_not_null(mkdtemp(dir));
	cr_expect_not(vm_untold_look(&u, NULL, 1, is_one_of, listed), "no directory");
	touch_in(dir, "a.xml");
	touch_in(dir, "c.xml~");
	touch_in(dir, ".xml");
	touch_in(dir, "d.xml.new");
	snprintf(path, sizeof(path), "%s/networks.xml", dir);
	mkdir(path, 0700);
	cr_expect_not(vm_untold_look(&u, dir, 1, is_one_of, listed));
	touch_in(dir, "y.xml");
	touch_in(dir, "b c.xml");
	cr_expect(vm_untold_look(&u, dir, 1, is_one_of, listed), "within one tick of the clock, too");
	cr_assert_eq(u.n, 2);
	cr_expect_str_eq(u.names[0], "b c");
	cr_expect_str_eq(u.names[1], "y");
	cr_expect_not(vm_untold_look(&u, dir, 1, is_one_of, listed), "no news");
	listed[1] = "y";
	cr_expect(vm_untold_look(&u, dir, 2, is_one_of, listed), "it is listed now");
	cr_expect_eq(u.n, 1);
	touch_in(dir, "z.xml");
	touch_in(dir, ".#z.xml");
	chmod(dir, 0);
	if (geteuid() != 0) /* root may read it */
		cr_expect_not(vm_untold_look(&u, dir, 3, is_one_of, listed), "it cannot be read: what is known stays");
	chmod(dir, 0700);
	cr_expect(vm_untold_look(&u, dir, 4, is_one_of, listed));
	cr_expect_eq(u.n, 2);
	unlink(strcat(strcpy(path, dir), "/z.xml"));
	unlink(strcat(strcpy(path, dir), "/.#z.xml"));
	for (const char *const *name = (const char *const[]){ "a.xml", "c.xml~", ".xml", "d.xml.new", "y.xml", "b c.xml", NULL }; *name; name++) {
		snprintf(path, sizeof(path), "%s/%s", dir, *name);
		unlink(path);
	}
	cr_expect(vm_untold_look(&u, dir, 2, is_one_of, listed), "it has gone");
	cr_expect_eq(u.n, 0);
	touch_in(dir, "z.xml");
	cr_expect(vm_untold_look(&u, dir, 2, is_one_of, listed));
	vm_untold_disbelieve(&u);
	cr_expect_eq(u.n, 0);
	unlink(strcat(strcpy(path, dir), "/z.xml"));
	snprintf(path, sizeof(path), "%s/networks.xml", dir);
	rmdir(path);
	rmdir(dir);
	vm_untold_fini(&u);
}

/* Where a libvirt writes down what it knows; nothing where it may be another system's. */
Test(vm_libvirt, whose_files_are_believed)
{
	static const struct { const char *uri, *definitions, *records, *pools; } cases[] = {
		{ "qemu:///system", "/etc/libvirt/qemu", "/var/lib/libvirt/qemu/snapshot", "/etc/libvirt/storage" },
		{ "qemu+unix:///system", "/etc/libvirt/qemu", "/var/lib/libvirt/qemu/snapshot", "/etc/libvirt/storage" },
		{ "qemu:///system?no_verify=1&socket=/var/run/libvirt/libvirt-sock", "/etc/libvirt/qemu", "/var/lib/libvirt/qemu/snapshot", "/etc/libvirt/storage" },
		{ "qemu:///system?socket=/x/sock", NULL, NULL, NULL },
		{ "qemu:///system?name=qemu:///session", NULL, NULL, NULL },
		{ "qemu+ext:///system?command=x", NULL, NULL, NULL },
		{ "qemu+ssh:///system", NULL, NULL, NULL },
		{ "qemu+tcp:///system", NULL, NULL, NULL },
		{ "ch:///system", NULL, NULL, NULL },
		{ "xen:///system", NULL, NULL, NULL },
		{ "qemu:///session", "/c/libvirt/qemu", "/c/libvirt/qemu/snapshot", "/c/libvirt/storage" },
		{ "qemu:///session?socket=/x/sock", NULL, NULL, NULL },
		{ "qemu:///embed?root=/far/e%20m", "/far/e m/etc/qemu", "/far/e m/lib/qemu/snapshot", "/far/e m/etc/storage" },
		{ "qemu:///embed?x=1&root=/far;y=2", "/far/etc/qemu", "/far/lib/qemu/snapshot", "/far/etc/storage" },
		{ "qemu:///embed?myroot=/far", NULL, NULL, NULL },
		{ "test:///default", NULL, NULL, NULL },
		{ "", NULL, NULL, NULL },
	};

	setenv("XDG_CONFIG_HOME", "/c", 1);
	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		vm_conn_autodirs struct vm_conn_dirs dirs;

		vm_conn_dirs_of(cases[i].uri, &dirs);
		cr_expect_eq(!dirs.definitions, !cases[i].definitions, "%s", cases[i].uri);
		if (!dirs.definitions || !cases[i].definitions)
			continue;
		cr_expect_str_eq(dirs.definitions, cases[i].definitions, "%s: %s", cases[i].uri, dirs.definitions);
		cr_expect_str_eq(dirs.records, cases[i].records, "%s: %s", cases[i].uri, dirs.records);
		cr_expect_str_eq(dirs.pools, cases[i].pools, "%s: %s", cases[i].uri, dirs.pools);
	}
}
