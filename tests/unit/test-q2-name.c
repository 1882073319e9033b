/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "qcow2/qcow2.h"

struct row {
	const char *from, *name, *format; /* as recorded */
	int rc;
	const char *path; /* NULL: refused */
	enum q2_format out;
};

static void check(const struct row *rows, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		const struct row *r = &rows[i];
		enum q2_format format = (enum q2_format)77;
		char *path = (char *)"untouched";
		struct vs_err err = { 0 };
		int rc = q2_name_resolve(r->from, r->name, r->format, &path, &format, &err);

		cr_expect_eq(rc, r->rc, "'%s': %d, not %d (%s)", r->name, rc, r->rc, err.msg);
		if (rc) {
			cr_expect_eq(err.code, rc, "'%s': no message", r->name);
			cr_expect_str_eq(path, "untouched");
			cr_expect_eq(format, 77);
			continue;
		}
		cr_expect_eq(err.code, 0);
		if (r->path)
			cr_expect_str_eq(path, r->path, "'%s' became '%s'", r->name, path);
		cr_expect_eq(format, r->out, "'%s': format %d", r->name, (int)format);
		free(path);
	}
}

Test(q2_name, plain_names)
{
	static const struct row rows[] = {
		{ "/d/top.qcow2", "/b/base.raw", "raw", 0, "/b/base.raw", Q2_FORMAT_RAW },
		{ "/d/top.qcow2", "base.raw", "raw", 0, "/d/base.raw", Q2_FORMAT_RAW },           /* beside the image */
		{ "/d/top.qcow2", "../x/base", "qcow2", 0, "/d/../x/base", Q2_FORMAT_QCOW2 },     /* the gate resolves it */
		{ "top.qcow2", "base.raw", "raw", 0, "base.raw", Q2_FORMAT_RAW },                 /* both in the working directory */
		{ "/top.qcow2", "base", "raw", 0, "/base", Q2_FORMAT_RAW },
		{ "/d/top.qcow2", "base", NULL, 0, "/d/base", Q2_FORMAT_NONE },                   /* no format: never guessed */
		{ "/d/top.qcow2", "a b'c\n", "raw", 0, "/d/a b'c\n", Q2_FORMAT_RAW },
		{ "/d/top.qcow2", "", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/top.qcow2", "base", "vmdk", -ENOTSUP, NULL, Q2_FORMAT_NONE },
		{ "/d/top.qcow2", "base", "", -ENOTSUP, NULL, Q2_FORMAT_NONE },
		{ "/d/top.qcow2", "base", "RAW", -ENOTSUP, NULL, Q2_FORMAT_NONE },                /* QEMU knows it in small letters */
		{ "/d/top.qcow2", "base", "luks", -ENOTSUP, NULL, Q2_FORMAT_NONE },
	};

	check(rows, VS_ARRAY_LEN(rows));
}

Test(q2_name, a_colon_before_the_first_slash_is_a_protocol)
{
	static const struct row rows[] = {
		{ "/d/t", "nbd://host/x", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "nbd:unix:/run/x", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "https://host/x", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "ssh://host/x", "qcow2", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "fat:rw:/etc", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "blkdebug::x", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "rbd:pool/x", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "fd:3", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", ":", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "./a:b", "raw", 0, "/d/./a:b", Q2_FORMAT_RAW },       /* a file with a colon */
		{ "/d/t", "x/a:b", "raw", 0, "/d/x/a:b", Q2_FORMAT_RAW },
		{ "/d/t", "/x:y/z", "raw", 0, "/x:y/z", Q2_FORMAT_RAW },
		{ "/d:e/t", "base", "raw", 0, "/d:e/base", Q2_FORMAT_RAW },     /* the directory's colon is nobody's protocol */
	};

	check(rows, VS_ARRAY_LEN(rows));
}

#define FILE_NODE "\"file\":{\"driver\":\"file\",\"filename\":\"/b/x\"}"

Test(q2_name, json_of_local_files_and_nothing_else)
{
	static const struct row rows[] = {
		{ "/d/t", "json:{\"driver\":\"qcow2\"," FILE_NODE "}", NULL, 0, "/b/x", Q2_FORMAT_QCOW2 },
		{ "/d/t", "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"host_device\",\"filename\":\"/dev/x\"}}", NULL, 0, "/dev/x",
		  Q2_FORMAT_RAW },
		{ "/d/t", "json:{\"driver\":\"qcow2\",\"file.driver\":\"file\",\"file.filename\":\"/b/x\"}", "qcow2", 0, "/b/x",
		  Q2_FORMAT_QCOW2 },
		{ "/d/t", "json:{\"driver\":\"file\",\"filename\":\"/b/x\"}", "raw", 0, "/b/x", Q2_FORMAT_RAW },
		{ "/d/t", "json:{\"filename\":\"/b/x\"}", "qcow2", 0, "/b/x", Q2_FORMAT_QCOW2 },
		{ "/d/t", "json:{\"filename\":\"/b/x\"}", NULL, 0, "/b/x", Q2_FORMAT_NONE },
		/* contradictions */
		{ "/d/t", "json:{\"driver\":\"raw\"," FILE_NODE "}", "qcow2", -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"filename\":\"/b/x\"," FILE_NODE "}", "raw", -EPERM, NULL, Q2_FORMAT_NONE },
		/* other drivers, however deep */
		{ "/d/t", "json:{\"driver\":\"nbd\",\"host\":\"h\"}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"quorum\",\"children\":[]}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"vmdk\"," FILE_NODE "}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"nbd\",\"filename\":\"/b/x\"}}", NULL, -EPERM, NULL,
		  Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"raw\"," FILE_NODE "}}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		/* other keys */
		{ "/d/t", "json:{\"driver\":\"qcow2\",\"backing\":{}," FILE_NODE "}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"raw\",\"offset\":512," FILE_NODE "}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"raw\",\"offset\":\"512\"," FILE_NODE "}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/b/x\",\"locking\":\"off\"}}", NULL,
		  -EPERM, NULL, Q2_FORMAT_NONE },
		/* a name that depends on where one stands, or none */
		{ "/d/t", "json:{\"driver\":\"raw\",\"filename\":\"b/x\"}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"raw\"}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"raw\",\"filename\":5}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"driver\":\"raw\",\"filename\":null}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		/* no json */
		{ "/d/t", "json:", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:[]", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:\"/b/x\"", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{{{{{{{{{{", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
		{ "/d/t", "json:{\"a\":{\"b\":{\"c\":{\"d\":{\"e\":{}}}}}}", NULL, -EPERM, NULL, Q2_FORMAT_NONE },
	};

	check(rows, VS_ARRAY_LEN(rows));
}

Test(q2_name, formats_have_one_spelling)
{
	static const struct { const char *name; enum q2_format format; } cases[] = {
		{ "raw", Q2_FORMAT_RAW }, { "qcow2", Q2_FORMAT_QCOW2 }, { "qcow", Q2_FORMAT_NONE }, { "", Q2_FORMAT_NONE },
		{ "raw ", Q2_FORMAT_NONE }, { "QCOW2", Q2_FORMAT_NONE }, { NULL, Q2_FORMAT_NONE },
	};
	size_t i;

	for (i = 0; i < VS_ARRAY_LEN(cases); i++)
		cr_expect_eq(q2_format_from_name(cases[i].name), cases[i].format);
	cr_expect_str_eq(q2_format_name(Q2_FORMAT_RAW), "raw");
	cr_expect_str_eq(q2_format_name(Q2_FORMAT_QCOW2), "qcow2");
	cr_expect_str_eq(q2_format_name(Q2_FORMAT_NONE), "unknown");
}
