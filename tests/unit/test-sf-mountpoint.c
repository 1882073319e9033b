/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/mountpoint.h"

#define TABLE                                                                                       \
	"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"                                  \
	"30 22 0:30 / /srv rw - tmpfs tmpfs rw\n"                                                   \
	"31 30 0:31 / /srv/snapshots rw,nosuid master:3 - fuse.virt-snapfs qemu:///system rw\n"     \
	"32 22 0:32 / /mnt rw - fuse.virt-snapfs /x.qcow2 rw\n"                                     \
	"33 32 0:33 / /mnt rw - tmpfs tmpfs rw\n"                                                   \
	"34 22 0:34 / /a\\040b\\134040c rw - fuse.sshfs host: rw\n"                                 \
	"35 22 0:35 / /cut rw -\n"                                                                  \
	"nonsense\n"

static void expect_type(const char *dir, const char *wanted)
{
	char table[] = TABLE, type[32] = "";
	uint64_t found = sf_mountpoint_type(table, dir, type, sizeof(type));

	cr_expect_eq(found != 0, wanted != NULL, "%s", dir);
	if (wanted)
		cr_expect_str_eq(type, wanted, "%s: %s", dir, type);
}

Test(sf_mountpoint, what_is_mounted_where)
{
	expect_type("/", "ext4");
	expect_type("/srv/snapshots", "fuse.virt-snapfs");
	expect_type("/mnt", "tmpfs"); /* the upper one */
	char table[] = TABLE, type[32];
	cr_expect_eq(sf_mountpoint_type(table, "/mnt", type, sizeof(type)), 33u);
	expect_type("/a b\\040c", "fuse.sshfs");
	expect_type("/srv/snap", NULL);
	expect_type("/cut", NULL);
	expect_type("", NULL);
}

Test(sf_mountpoint, covers_itself_and_what_is_below)
{
	static const struct { const char *dir, *path; bool covers; } cases[] = {
		{"/nix/images", "/nix/images/a.qcow2", true},
		{"/nix/images", "/nix/images", true},
		{"/nix", "/nix/images/a.qcow2", true},
		{"/nix/images/below", "/nix/images/a.qcow2", false},
		{"/nix/im", "/nix/images/a.qcow2", false},
		{"/nix/images2", "/nix/images/a.qcow2", false},
		{"/", "/nix/images/a.qcow2", true},
		{"/", "/a.qcow2", true},
		{"/nix", "/a.qcow2", false},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++)
		cr_expect_eq(sf_mountpoint_covers(cases[i].dir, cases[i].path), cases[i].covers, "%s %s", cases[i].dir, cases[i].path);
}

Test(sf_mountpoint, covers_a_link_by_both_its_ends)
{
	char top[] = "/tmp/vs-mountpoint.XXXXXX", links[64], files[64], link[80], file[80];

	cr_assert_not_null(mkdtemp(top));
	snprintf(links, sizeof(links), "%s/links", top);
	snprintf(files, sizeof(files), "%s/files", top);
	snprintf(link, sizeof(link), "%s/a", links);
	snprintf(file, sizeof(file), "%s/b", files);
	cr_assert(mkdir(links, 0700) == 0 && mkdir(files, 0700) == 0);
	fclose(fopen(file, "w"));
	cr_assert_eq(symlink("../files/b", link), 0);
	cr_expect(sf_mountpoint_covers(links, link));
	cr_expect(sf_mountpoint_covers(files, link));
	cr_expect_not(sf_mountpoint_covers(links, file));
	unlink(link);
	unlink(file);
	rmdir(links);
	rmdir(files);
	rmdir(top);
}

static void expect_why(const char *said, bool confined, const char *begins, bool apparmor)
{
	char copy[256];
	vs_autofree char *why = NULL;

	snprintf(copy, sizeof(copy), "%s", said);
	why = sf_mountpoint_why(copy, confined);
	cr_expect_eq(why != NULL, begins != NULL, "%s", said);
	if (!why || !begins)
		return;
	cr_expect(!strncmp(why, begins, strlen(begins)), "%s", why);
	cr_expect_eq(strstr(why, "AppArmor") != NULL, apparmor, "%s", why);
}

Test(sf_mountpoint, fusermount3_says_why)
{
	expect_why("", true, NULL, false);
	expect_why("libvirt: something else\n", true, NULL, false);
	expect_why("x\nfusermount3: user has no write access to mountpoint /srv\ny\n", true, "user has no write access to mountpoint /srv", false);
	expect_why("fusermount3: mount failed: Permission denied\n", true, "mount failed: Permission denied", true);
	expect_why("fusermount3: mount failed: Operation not permitted", true, "mount failed: Operation not permitted", true);
	expect_why("fusermount3: mount failed: Permission denied\n", false, "mount failed: Permission denied", false);
	expect_why("fusermount3: mount failed: No such device\n", true, "mount failed: No such device", false);
	expect_why("fusermount3: first\nfusermount3: second\n", false, "second", false);
}
