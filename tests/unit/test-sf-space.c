/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* How `space` and `space.json` say what was counted. That it is right: space.sh. */
#include <criterion/criterion.h>
#include <json-c/json.h>

#include "fs/space.h"
#include "sf-domain.h"

#define MIB (INT64_C(1) << 20)

static struct vm_space_snapshot rows[] = {
	{.shown = S("a b"), .kind = VM_INTERNAL, .figures = {4 * MIB, MIB, MIB, 0, false}},
	{.shown = S("tuesday"), .kind = VM_EXTERNAL, .figures = {9 * MIB, 2 * MIB, -3 * MIB, 5 * MIB, true}},
	{.shown = S("gone"), .kind = VM_EXTERNAL, .state = VM_STALE, .why = S("its image\nis missing"),
	 .figures = {VM_SPACE_UNKNOWN, VM_SPACE_UNKNOWN, 0, 0, false}},
};
static struct vm_space_disk disks[] = {{.target = S("vda"), .path = S("/a b.qcow2"), .file = 12 * MIB, .compact = VM_SPACE_UNKNOWN}};
static const struct vm_space space = {.snapshots = rows, .n_snapshots = 3, .disks = disks, .n_disks = 1, .policy = S("7d"), .n_dropped = 2,
				      .dropped = {VM_SPACE_UNKNOWN, MIB, MIB, 0, true}};

Test(sf_space, the_table)
{
	vs_autofree char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	sf_space_render(out, &space);
	fclose(out);
	cr_expect_str_eq(text,
			 "NAME     KIND      STATE  HOLDS  ONLY     FREES     MOVES  NOTE\n"
			 "a%20b    internal  ok     4 MiB  1 MiB    1 MiB     0 B    -\n"
			 "tuesday  external  ok     9 MiB  >=2 MiB  >=-3 MiB  5 MiB  -\n"
			 "gone     external  stale  -      -        0 B       0 B    its image%0Ais missing\n"
			 "\n"
			 "retain 7d: drops 2, which together frees >=1 MiB and moves 0 B\n"
			 "\n"
			 "DISK  FILE    COMPACT  PATH          NOTE\n"
			 "vda   12 MiB  -        /a%20b.qcow2  -\n",
			 "%s", text);
}

static struct json_object *snapshot_at(struct json_object *all, size_t i)
{
	return json_object_array_get_idx(json_object_object_get(all, "snapshots"), i);
}

Test(sf_space, what_is_not_known_is_null)
{
	struct vm_domain d = {.name = S("web01"), .uuid = S("u"), .state = S("shut off")};
	vs_autofree char *text = NULL;
	struct json_object *all;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	sf_space_json_render(out, &d, &space);
	fclose(out);
	all = json_tokener_parse(text);
	cr_assert_not_null(all, "%s", text);
	cr_expect_eq(json_object_get_int64(json_object_object_get(snapshot_at(all, 1), "frees")), -3 * MIB);
	cr_expect(json_object_get_boolean(json_object_object_get(snapshot_at(all, 1), "lower_bound")));
	cr_expect_null(json_object_object_get(snapshot_at(all, 2), "holds"));
	cr_expect_str_eq(json_object_get_string(json_object_object_get(snapshot_at(all, 2), "reason")), "its image%0Ais missing");
	json_object_put(all);
}
