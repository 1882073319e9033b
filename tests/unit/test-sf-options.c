/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/options.h"

#define MAX_WORDS 12

/* Parses a line of words between blanks. */
static int parse(const char *line, struct sf_options *out, struct vs_err *err)
{
	char copy[512], self[] = "virt-snapfs", *argv[MAX_WORDS + 1] = {self}, *rest = copy, *word;
	int argc = 1;

	snprintf(copy, sizeof(copy), "%s", line);
	while ((word = strsep(&rest, " ")) && argc < MAX_WORDS)
		argv[argc++] = word;
	return sf_options_parse(argc, argv, out, err);
}

static struct sf_options expect_parsed(const char *line)
{
	struct sf_options o;
	struct vs_err err = {0};
	int rc = parse(line, &o, &err);

	cr_assert_eq(rc, 0, "'%s': %s", line, vs_err_text(&err, rc));
	return o;
}

Test(sf_options, defaults_are_the_contracts)
{
	struct sf_options o = expect_parsed("/mnt");

	cr_expect_null(o.uri);
	cr_expect_eq(o.n_images, 0);
	cr_expect_str_eq(o.mountpoint, "/mnt");
	cr_expect_eq(o.uid, getuid());
	cr_expect_eq(o.gid, getgid());
	cr_expect_eq(o.umask, 0);
	cr_expect_float_eq(o.refresh_s, 2.0, 1e-9);
	cr_expect_eq(o.cache, SF_CACHE_AUTO);
	cr_expect(!o.leases);
	cr_expect(!o.foreground && !o.debug && !o.read_only && !o.allow_other && !o.default_permissions);
	sf_options_fini(&o);
}

Test(sf_options, words_come_in_any_order_as_mount_fuse3_gives_them)
{
	struct sf_options o = expect_parsed("qemu:///system /srv -o rw,allow_other,_netdev,dev,suid -f");

	cr_expect_str_eq(o.uri, "qemu:///system");
	cr_expect_str_eq(o.mountpoint, "/srv");
	cr_expect(o.allow_other && o.default_permissions && o.foreground);
	cr_expect_null(o.mount_options);
	sf_options_fini(&o);
}

Test(sf_options, values_are_read)
{
	struct sf_options o = expect_parsed("-oro -o uid=12,gid=34,umask=077,refresh=.25 -o "
					    "cache=kernel,lease=on,bandwidth=100,noexec,allow_path=/a,allow_path=/b\\,c /m");

	cr_expect(o.read_only);
	cr_expect(o.leases);
	cr_expect_eq(o.uid, 12);
	cr_expect_eq(o.gid, 34);
	cr_expect_eq(o.umask, 077);
	cr_expect_float_eq(o.refresh_s, 0.25, 1e-9);
	cr_expect_eq(o.cache, SF_CACHE_KERNEL);
	cr_expect_eq(o.bandwidth_mib, 100);
	cr_assert_eq(o.n_allow_paths, 2);
	cr_expect_str_eq(o.allow_paths[0], "/a");
	cr_expect_str_eq(o.allow_paths[1], "/b,c");
	cr_expect_null(o.allow_paths[2]);
	cr_expect_str_eq(o.mount_options, "noexec");
	sf_options_fini(&o);
}

Test(sf_options, users_and_groups_have_names)
{
	struct sf_options o = expect_parsed("-o uid=root,gid=root /m");

	cr_expect_eq(o.uid, 0);
	cr_expect_eq(o.gid, 0);
	sf_options_fini(&o);
}

Test(sf_options, several_images_become_absolute_and_none_comes_twice)
{
	struct sf_options o;

	cr_assert_eq(chdir("/etc"), 0);
	o = expect_parsed("passwd /tmp/b.qcow2 /etc/passwd /etc/../etc/passwd mnt");
	cr_assert_eq(o.n_images, 2);
	cr_expect_str_eq(o.images[0], "/etc/passwd");
	cr_expect_str_eq(o.images[1], "/tmp/b.qcow2");
	cr_expect_null(o.images[2]);
	cr_expect_str_eq(o.mountpoint, "/etc/mnt");
	sf_options_fini(&o);
}

Test(sf_options, options_of_mount_and_fstab_are_accepted)
{
	struct sf_options o = expect_parsed("-o defaults,_netdev,nofail,noauto,auto,user,user=joe,users,nodev,nosuid,exec,"
					    "noatime,relatime,x-systemd.automount,X-mount.mkdir=0755,comment=a b,"
					    "fsname=x,subtype=y,,lazytime /m");

	cr_expect_str_eq(o.mount_options, "noatime");
	sf_options_fini(&o);
}

Test(sf_options, help_and_version_need_nothing_else)
{
	struct sf_options o = expect_parsed("-h");

	cr_expect(o.help);
	sf_options_fini(&o);
	o = expect_parsed("--version");
	cr_expect(o.version);
	sf_options_fini(&o);
}

Test(sf_options, debug_stays_in_the_foreground)
{
	struct sf_options o = expect_parsed("-d /m");

	cr_expect(o.debug && o.foreground);
	sf_options_fini(&o);
}

Test(sf_options, what_is_wrong_is_named)
{
	static const struct { const char *line, *named; } cases[] = {
		{"", "mountpoint"},                                   /* an empty word */
		{"-f", "mountpoint"},
		{"-o allow_others /m", "allow_others"},               /* misspelt */
		{"-o ro=1 /m", "ro=1"},                               /* a value where none belongs */
		{"-o uid /m", "uid"},                                 /* none where one belongs */
		{"-x /m", "-x"},
		{"--nonsense /m", "--nonsense"},
		{"/m -o", "-o"},
		{"-o uid=nobody-of-that-name /m", "nobody-of-that-name"},
		{"-o uid=-1 /m", "-1"},
		{"-o uid=4294967295 /m", "4294967295"},               /* (uid_t)-1 means "none" */
		{"-o umask=0888 /m", "0888"},
		{"-o umask=1777 /m", "1777"},
		{"-o refresh=0 /m", "refresh"},
		{"-o refresh=-1 /m", "refresh"},
		{"-o refresh=nan /m", "refresh"},
		{"-o refresh=inf /m", "refresh"},
		{"-o refresh=2s /m", "2s"},
		{"-o bandwidth=1.5 /m", "bandwidth"},
		{"-o bandwidth=99999999999999999999 /m", "bandwidth"},
		{"-o cache=maybe /m", "maybe"},
		{"-o cache= /m", "cache"},
		{"-o lease=maybe /m", "maybe"},
		{"-o lease /m", "lease"},
		{"-o allow_path= /m", "allow_path"},
		{"qemu:///system qemu:///session /m", "qemu:///session"},
		{"qemu:///system qemu:/session /m", "qemu:/session"},
		{"qemu:///system disk.qcow2 /m", "disk.qcow2"},
		{"disk.qcow2 test:///default /m", "test:///default"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct sf_options o;
		struct vs_err err = {0};

		cr_expect_eq(parse(cases[i].line, &o, &err), -EINVAL, "'%s'", cases[i].line);
		cr_expect(strstr(err.msg, cases[i].named), "'%s' does not name '%s'", err.msg, cases[i].named);
		sf_options_fini(&o);
	}
}

Test(sf_options, what_fuse_and_fstab_have_besides)
{
	static const struct { const char *line; unsigned max_read; enum sf_cache_mode cache; bool remount; const char *kernel; } cases[] = {
		{"-o max_read=131072 /mnt", 131072, SF_CACHE_AUTO, false, NULL},
		{"-o max_read=1 /mnt", 4096, SF_CACHE_AUTO, false, NULL},              /* the kernel's least */
		{"-o max_read=4294967295 /mnt", 524288, SF_CACHE_AUTO, false, NULL},   /* our most */
		{"-o kernel_cache /mnt", 524288, SF_CACHE_KERNEL, false, NULL},
		{"-o direct_io /mnt", 524288, SF_CACHE_NONE, false, NULL},
		{"-o remount,ro /mnt", 524288, SF_CACHE_AUTO, true, NULL},
		{"-o noatime,nodiratime,nosuid,nodev,noexec /mnt", 524288, SF_CACHE_AUTO, false, "noatime,noexec"},
		{"-o allow_root,nofail /mnt", 524288, SF_CACHE_AUTO, false, "allow_root"},
		{"-o rw,nosuid,nodev,relatime,user_id=0,group_id=0,x-a=b\\,c,comment=d /mnt", 524288, SF_CACHE_AUTO, false, NULL},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct sf_options o = expect_parsed(cases[i].line);

		cr_expect(o.max_read == cases[i].max_read && o.cache == cases[i].cache && o.remount == cases[i].remount, "%s",
			  cases[i].line);
		cr_expect(cases[i].kernel ? o.mount_options && !strcmp(o.mount_options, cases[i].kernel) : !o.mount_options,
			  "%s: %s", cases[i].line, o.mount_options);
		sf_options_fini(&o);
	}
}

/* It has no absolute path to give: what stands for one is refused, by name and for the right reason. */
Test(sf_options, a_relative_path_needs_a_working_directory_that_is_there)
{
	char gone[] = "/tmp/sf-options-XXXXXX";
	struct vs_err err = {0};
	struct sf_options o;

	cr_assert_not_null(mkdtemp(gone));
	cr_assert(chdir(gone) == 0 && rmdir(gone) == 0);
	cr_expect_eq(parse("qemu:///system mnt", &o, &err), -ENOENT);
	cr_expect_str_eq(err.msg, "'mnt': the working directory: No such file or directory");
	sf_options_fini(&o);
	o = expect_parsed("qemu:///system /mnt");
	sf_options_fini(&o);
}
