/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <time.h>

#include "fs/pages.h"
#include "fs/text.h"
#include "sf-domain.h"

static void setup(void)
{
	setenv("TZ", "UTC", 1);
	tzset();
}

TestSuite(sf_table, .init = setup);
TestSuite(sf_chain, .init = setup);

static char *rendered(void (*renderer)(FILE *, const struct vm_domain *), const struct vm_domain *domain)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	renderer(out, domain);
	fclose(out);
	return text;
}

static void expect_text(void (*renderer)(FILE *, const struct vm_domain *), const struct vm_domain *domain,
			const char *wanted)
{
	vs_autofree char *got = rendered(renderer, domain);

	cr_expect_str_eq(got, wanted, "got:\n%s\nwanted:\n%s", got, wanted);
}

/* ---------------------------------------------------------------- snapshots */

Test(sf_table, it_is_the_contracts_example)
{
	struct vm_disk monday[] = {sf_test_disk("vda", "monday.vda.img", 2), sf_test_disk("vdb", "monday.vdb.img", 3)};
	struct vm_snapshot snapshots[] = {
		{.name = S("monday"), .shown = S("monday"), .kind = VM_INTERNAL, .created_ns = MONDAY_NS, .disks = monday, .n_disks = 2},
		{.name = S("tuesday"), .shown = S("tuesday"), .kind = VM_EXTERNAL, .state = VM_BUSY, .held = true, .parent = S("monday"),
		 .created_ns = MONDAY_NS + INT64_C(86400) * 1000000000, .disks = monday, .n_disks = 2},
	};
	struct vm_domain d = {.name = S("web01"), .snapshots = snapshots, .n_snapshots = 2};

	expect_text(sf_table_render, &d,
		    "NAME     KIND      STATE     MEMORY  HELD  CREATED                    PARENT  DISKS\n"
		    "monday   internal  ok        no      no    2026-11-16T02:00:01+00:00  -       vda,vdb\n"
		    "tuesday  external  busy      no      yes   2026-11-17T02:00:01+00:00  monday  vda,vdb\n");
}

Test(sf_table, without_snapshots_it_is_the_heading)
{
	struct vm_domain d = {.name = S("web01")};

	expect_text(sf_table_render, &d, "NAME  KIND      STATE     MEMORY  HELD  CREATED  PARENT  DISKS\n");
}

Test(sf_table, blanks_are_escaped_and_what_has_no_file_or_is_no_snapshot_is_left_out)
{
	struct vm_disk disks[] = {sf_test_disk("vda", NULL, 2), sf_test_disk("vdb", "x", 3), sf_test_disk("vdc", NULL, 4)};
	struct vm_snapshot snapshots[] = {
		{.shown = S("current"), .present = true},
		{.shown = S("a b"), .kind = VM_EXTERNAL, .state = VM_UNSUPPORTED, .memory = true, .disks = disks, .n_disks = 3},
		{.shown = S("\xc3\xa9"), .kind = VM_INTERNAL, .state = VM_STALE, .parent = S("a b"), .disks = disks, .n_disks = 1},
	};
	struct vm_domain d = {.name = S("web01"), .snapshots = snapshots, .n_snapshots = 3};

	expect_text(sf_table_render, &d,
		    "NAME   KIND      STATE        MEMORY  HELD  CREATED                    PARENT  DISKS\n"
		    "a%20b  external  unsupported  yes     no    1970-01-01T00:00:00+00:00  -       vdb\n"
		    "\xc3\xa9      internal  stale        no      no    1970-01-01T00:00:00+00:00  a%20b   -\n");
}

/* ---------------------------------------------------------------- pages */

Test(sf_pages, bytes_are_those_of_the_whole_wherever_one_reads)
{
	static const size_t counts[] = {1025, 1280, 1281};

	for (size_t c = 0; c < VS_ARRAY_LEN(counts); c++) {
		struct vm_domain d = {.name = S("web"), .dir = S("web"), .uuid = S("u"), .state = S("shut off"), .n_snapshots = counts[c]};
		vs_autofree struct vm_snapshot *snapshots = calloc(counts[c], sizeof(*snapshots));
		vs_autofree char *whole = NULL, *buf = calloc(1, 1 << 20);
		struct sf_pages *pages;
		size_t len;

		for (size_t i = 0; i < counts[c]; i++)
			snapshots[i] = (struct vm_snapshot){.name = S("monday"), .shown = S("monday"), .created_ns = (int64_t)i, .present = i == 0 || i == 700};
		d.snapshots = snapshots;
		whole = rendered(sf_json_render, &d);
		len = strlen(whole);
		cr_assert(sf_pages_suit(&d));
		pages = sf_pages_new(&d);
		cr_assert_eq(sf_pages_len(pages), len);
		for (size_t off = len - len % 4099, n = 4099; off <= len; off -= n) {
			size_t size = len - off < 70001 ? len - off : 70001;

			sf_pages_read(pages, buf, size, off);
			cr_expect(!memcmp(buf, whole + off, size), "%zu bytes from %zu on", size, off);
			if (off < n)
				break;
		}
		sf_pages_free(pages);
	}
}

/* ---------------------------------------------------------------- snapshots.json */

static struct json_object *at(struct json_object *o, const char *path)
{
	struct json_object *found = NULL;

	cr_assert_eq(json_pointer_get(o, path, &found), 0, "%s is not there", path);
	return found;
}

static struct json_object *parsed(const struct vm_domain *domain)
{
	vs_autofree char *text = rendered(sf_json_render, domain);
	struct json_tokener *strict = json_tokener_new();
	struct json_object *o;

	json_tokener_set_flags(strict, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	o = json_tokener_parse_ex(strict, text, (int)strlen(text) + 1);
	cr_assert_not_null(o, "not JSON: %s", text);
	json_tokener_free(strict);
	return o;
}

Test(sf_json, it_has_the_contracts_keys)
{
	struct vm_disk disks[] = {sf_test_disk("vda", "a b.vda.img", 2), sf_test_disk("vdb", NULL, 3)};
	struct vm_snapshot snapshots[] = {
		{.name = S("current"), .shown = S("current"), .present = true},
		{.name = S("a b"), .shown = S("a b"), .kind = VM_INTERNAL, .state = VM_STALE, .reason = S("vdb: gone"), .ours = true,
		 .recorded = true, .current = true, .created_ns = MONDAY_NS, .disks = disks, .n_disks = 2},
	};
	struct vm_domain d = {.name = S("web01"), .uuid = S("u"), .state = S("shut off"), .snapshots = snapshots, .n_snapshots = 2};
	struct json_object *o = parsed(&d);

	disks[1].reason = S("gone");
	cr_expect_eq(json_object_get_int(at(o, "/version")), 1);
	cr_expect_str_eq(json_object_get_string(at(o, "/domain/name")), "web01");
	cr_expect_str_eq(json_object_get_string(at(o, "/domain/uuid")), "u");
	cr_expect_str_eq(json_object_get_string(at(o, "/domain/state")), "shut off");
	cr_expect_eq(json_object_array_length(at(o, "/snapshots")), 1, "the present is no snapshot");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/name")), "a b");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/raw_name")), "a b");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/file")), "a b");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/kind")), "internal");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/state")), "stale");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/reason")), "vdb: gone");
	cr_expect_not(json_object_get_boolean(at(o, "/snapshots/0/memory")));
	cr_expect_not(json_object_get_boolean(at(o, "/snapshots/0/held")));
	cr_expect(json_object_get_boolean(at(o, "/snapshots/0/ours")));
	cr_expect(json_object_get_boolean(at(o, "/snapshots/0/recorded")));
	cr_expect_eq(json_object_get_int64(at(o, "/snapshots/0/created_ns")), MONDAY_NS);
	cr_expect_null(at(o, "/snapshots/0/parent"));
	cr_expect(json_object_get_boolean(at(o, "/snapshots/0/current")));
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/disks/0/target")), "vda");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/disks/0/file")), "a b.vda.img");
	cr_expect_eq(json_object_get_int64(at(o, "/snapshots/0/disks/0/size")), 1 << 20);
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/disks/0/format")), "qcow2");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/disks/0/chain/0")), "/images/a.qcow2");
	cr_expect_null(at(o, "/snapshots/0/disks/1/file"));
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/disks/1/state")), "stale");
	json_object_put(o);
}

/* Whether an empty list has a line break in it is the library's: 0.16 writes one, 0.18 does not. */
static void expect_json(const struct vm_domain *domain, const char *wanted)
{
	vs_autofree char *got = rendered(sf_json_render, domain);
	char *to = got;

	for (const char *from = got; *from; to++) {
		const char *next = from + 1 + strspn(from + 1, " \n");

		*to = *from;
		from = *from == '[' && *next == ']' ? next : from + 1;
	}
	*to = '\0';
	cr_expect_str_eq(got, wanted, "got:\n%s\nwanted:\n%s", got, wanted);
}

Test(sf_json, it_looks_like_this)
{
	struct vm_disk disks[] = {sf_test_disk("vda", "m.vda.img", 2)};
	struct vm_snapshot snapshots[] = {
		{.name = S("m"), .shown = S("m"), .disks = disks, .n_disks = 1},
		{.name = S("t"), .shown = S("t"), .state = VM_UNSUPPORTED},
	};
	struct vm_domain d = {.name = S("web01"), .snapshots = snapshots, .n_snapshots = 2};
	const char *facts = "      \"memory\": false,\n      \"held\": false,\n      \"ours\": false,\n      \"recorded\": false,\n"
			    "      \"created_ns\": 0,\n      \"parent\": null,\n      \"current\": false,\n";
	vs_autofree char *wanted = NULL;

	cr_assert_gt(asprintf(&wanted,
			      "{\n  \"version\": 1,\n  \"domain\": {\n    \"name\": \"web01\",\n    \"uuid\": null,\n    \"state\": null,\n    \"checkpoints\": [],\n    \"whole\": []\n"
			      "  },\n  \"snapshots\": [\n    {\n      \"name\": \"m\",\n      \"raw_name\": \"m\",\n      \"file\": \"m\",\n"
			      "      \"kind\": \"internal\",\n      \"state\": \"ok\",\n      \"reason\": null,\n%s"
			      "      \"disks\": [\n        {\n          \"target\": \"vda\",\n          \"file\": \"m.vda.img\",\n"
			      "          \"state\": \"ok\",\n          \"reason\": null,\n          \"size\": 1048576,\n"
			      "          \"format\": \"qcow2\",\n          \"chain\": [\n            \"/images/a.qcow2\"\n          ]\n"
			      "        }\n      ]\n    },\n    {\n      \"name\": \"t\",\n      \"raw_name\": \"t\",\n      \"file\": null,\n"
			      "      \"kind\": \"internal\",\n      \"state\": \"unsupported\",\n      \"reason\": null,\n%s"
			      "      \"disks\": []\n    }\n  ]\n}\n", facts, facts), 0);
	expect_json(&d, wanted);
	d.n_snapshots = 0;
	expect_json(&d, "{\n  \"version\": 1,\n  \"domain\": {\n    \"name\": \"web01\",\n    \"uuid\": null,\n"
					"    \"state\": null,\n    \"checkpoints\": [],\n    \"whole\": []\n  },\n  \"snapshots\": []\n}\n");
}

Test(sf_json, whatever_the_bytes_it_is_json)
{
	char *chain[] = {S("/i/\xff\xfe\"\\\n.raw"), NULL};
	struct vm_disk disk = sf_test_disk("vda", "%FF.vda.img", 2);
	struct vm_snapshot s = {.name = S("\xff"), .shown = S("%FF"), .reason = S("\x1b\x80 \"quoted\""), .disks = &disk, .n_disks = 1};
	struct vm_domain d = {.name = S("w\xc0"), .uuid = S("u"), .state = S("running"), .snapshots = &s, .n_snapshots = 1};
	struct json_object *o, *none;

	disk.chain = chain;
	o = parsed(&d);
	cr_expect_str_eq(json_object_get_string(at(o, "/domain/name")), "w%C0");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/name")), "%FF");
	cr_expect_neq(json_pointer_get(o, "/snapshots/0/raw_name", &none), 0, "a raw name that is not text");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/reason")), "%1B%80 \"quoted\"");
	cr_expect_str_eq(json_object_get_string(at(o, "/snapshots/0/disks/0/chain/0")), "/i/%FF%FE\"\\%0A.raw");
	json_object_put(o);
}

/* ---------------------------------------------------------------- chain */

#define GIB (UINT64_C(1) << 30)
#define LEGEND "\n● written by this domain   ○ frozen   ✗ missing, unreadable   ! odd\n"

static struct vm_layer layer(const char *path, int below)
{
	return (struct vm_layer){.path = S(path),
				 .format = below < 0 ? Q2_FORMAT_RAW : Q2_FORMAT_QCOW2,
				 .virtual_size = 20 * GIB,
				 .allocated = GIB,
				 .below = below};
}

/* ---------------------------------------------------------------- lengths */

Test(sf_text, its_length_is_known_without_it)
{
	struct vm_disk disks[] = {sf_test_disk("vda", "a b.vda.img", 2), sf_test_disk("vdb", NULL, 3)};
	struct vm_snapshot snapshots[] = {
		{.name = S("a b"), .shown = S("a b"), .reason = S("vdb: gone"), .created_ns = MONDAY_NS, .disks = disks, .n_disks = 2},
		{.name = S("c"), .shown = S("c"), .disks = disks, .n_disks = 1},
	};
	struct vm_domain d = {.name = S("web01"), .dir = S("web01"), .uuid = S("u"), .state = S("shut off"),
			      .snapshots = snapshots, .n_snapshots = 2};
	static const enum sf_kind kinds[] = {SF_SNAPSHOTS, SF_JSON, SF_CHAIN};

	for (size_t i = 0; i < VS_ARRAY_LEN(kinds); i++) {
		struct sf_dir dir = {.domain = &d, .lock = PTHREAD_MUTEX_INITIALIZER};
		struct sf_entry entry = {.kind = kinds[i]};
		struct sf_text *text;
		int64_t changed_ns;
		size_t len, again;

		cr_assert_eq(sf_text_stat(NULL, NULL, &dir, &entry, &len, &changed_ns), 0);
		text = sf_text_make(NULL, &dir, &entry);
		cr_expect_eq(len, text->len, "kind %d: %zu, and it has %zu", (int)kinds[i], len, text->len);
		cr_assert_eq(sf_text_stat(NULL, NULL, &dir, &entry, &again, &changed_ns), 0);
		cr_expect_eq(again, len);
		sf_text_unref(text);
	}
}

Test(sf_chain, one_disk_one_layer)
{
	struct vm_layer layers[] = {layer("/i/a.raw", -1)};
	struct vm_disk_now disk = {.target = S("vda"), .source = S("/i/a.raw"), .top = 0};
	struct vm_domain d = {.name = S("web01"), .state = S("running"), .layers = layers, .n_layers = 1, .disks = &disk, .n_disks = 1};

	layers[0].active = true;
	expect_text(sf_chain_render, &d,
		    "web01: running\n"
		    "\n"
		    "vda\n"
		    "● /i/a.raw  raw      20 GiB     1 GiB  active\n" LEGEND);
}

Test(sf_chain, a_chain_is_straight_and_a_branch_stands_beside_it)
{
	struct vm_snapshot snapshots[] = {
		{.shown = S("monday"), .kind = VM_EXTERNAL},
		{.shown = S("inside"), .kind = VM_INTERNAL},
		{.shown = S("tuesday"), .kind = VM_EXTERNAL},
	};
	struct vm_layer layers[] = {
		layer("/i/base.raw", -1), layer("/i/try", 0), layer("/i/tue", 0), layer("/i/wed", 2),
	};
	struct vm_disk_now disk = {.target = S("vda"), .source = S("/i/wed"), .top = 3, .job = S("commit 47%")};
	struct vm_domain d = {.name = S("web01"), .state = S("running"), .snapshots = snapshots, .n_snapshots = 3, .layers = layers,
		.n_layers = 4, .disks = &disk, .n_disks = 1};

	layers[0].snapshots = LIST(S("monday"));
	layers[0].users = LIST(S("domain 'db' (disk vda)"));
	layers[1].note = S("left over: no snapshot or disk of web01 uses it");
	layers[2].snapshots = LIST(S("tuesday"), S("inside"));
	layers[3].active = true;
	expect_text(sf_chain_render, &d,
		    "web01: running\n"
		    "\n"
		    "vda  job: commit 47%\n"
		    "●   /i/wed       qcow2    20 GiB     1 GiB  active\n"
		    "○   /i/tue       qcow2    20 GiB     1 GiB\n"
		    "│     frozen at tuesday\n"
		    "│     holds inside\n"
		    "│ ○ /i/try       qcow2    20 GiB     1 GiB\n"
		    "│ │   left over: no snapshot or disk of web01 uses it\n"
		    "├─╯\n"
		    "○   /i/base.raw  raw      20 GiB     1 GiB\n"
		    "      frozen at monday\n"
		    "      also needed by domain 'db' (disk vda)\n" LEGEND);
}

Test(sf_chain, the_branch_of_the_active_disk_is_the_trunk_whatever_the_order)
{
	struct vm_layer layers[] = {layer("/i/a", 2), layer("/i/b", 0), layer("/i/c", -1), layer("/i/d", 2)};
	struct vm_disk_now disk = {.target = S("vda"), .top = 3};
	struct vm_domain d = {.name = S("w"), .state = S("shut off"), .layers = layers, .n_layers = 4, .disks = &disk, .n_disks = 1};

	layers[3].active = true;
	expect_text(sf_chain_render, &d,
		    "w: shut off\n"
		    "\n"
		    "vda\n"
		    "●   /i/d  qcow2    20 GiB     1 GiB  active\n"
		    "│ ○ /i/b  qcow2    20 GiB     1 GiB\n"
		    "│ ○ /i/a  qcow2    20 GiB     1 GiB\n"
		    "├─╯\n"
		    "○   /i/c  raw      20 GiB     1 GiB\n" LEGEND);
}

Test(sf_chain, shared_bases_missing_layers_and_what_is_under_no_disk)
{
	struct vm_layer layers[] = {layer("/i/base", -1), layer("/i/a", 0), layer("/i/b", 0), layer("/i/old", -1)};
	struct vm_disk_now disks[] = {
		{.target = S("vda"), .top = 1},
		{.target = S("vdb"), .top = 2},
		{.target = S("vdc"), .source = S("network disk (rbd pool/image)"), .top = -1, .note = S("network disks are not read")},
	};
	struct vm_domain d = {.name = S("w"), .state = S("running"), .layers = layers, .n_layers = 4, .disks = disks, .n_disks = 3};

	layers[1].active = layers[2].active = true;
	layers[3].error = -ENOENT;
	layers[3].virtual_size = 0;
	expect_text(sf_chain_render, &d,
		    "w: running\n"
		    "\n"
		    "vda\n"
		    "●   /i/a     qcow2    20 GiB     1 GiB  active\n"
		    "│ ● /i/b     qcow2    20 GiB     1 GiB  active\n"
		    "├─╯\n"
		    "○   /i/base  raw      20 GiB     1 GiB\n"
		    "\n"
		    "vdb\n"
		    "  stands on the same base as a disk above\n"
		    "\n"
		    "vdc  network disk (rbd pool/image)\n"
		    "  network disks are not read\n"
		    "\n"
		    "under no disk\n"
		    "✗ /i/old  raw           -         -\n"
		    "    missing\n" LEGEND);
}

Test(sf_chain, a_loop_is_drawn_once)
{
	struct vm_layer layers[] = {layer("/i/a", 1), layer("/i/b", 0)};
	struct vm_disk_now disk = {.target = S("vda"), .top = 0};
	struct vm_domain d = {.name = S("w"), .state = S("running"), .layers = layers, .n_layers = 2, .disks = &disk, .n_disks = 1};
	vs_autofree char *got = rendered(sf_chain_render, &d);

	cr_expect(strstr(got, "/i/a ") && strstr(got, "/i/b "), "%s", got);
}

Test(sf_chain, many_names_are_wrapped_and_none_is_lost)
{
	enum { MANY = 300 };
	static char names[MANY][16], *list[MANY + 1];
	static struct vm_snapshot snapshots[MANY];
	struct vm_layer layers[] = {layer("/i/a", -1)};
	struct vm_disk_now disk = {.target = S("vda"), .top = 0};
	struct vm_domain d = {.name = S("w"), .state = S("running"), .snapshots = snapshots, .n_snapshots = MANY, .layers = layers,
		.n_layers = 1, .disks = &disk, .n_disks = 1};
	vs_autofree char *got = NULL;

	for (size_t i = 0; i < MANY; i++) {
		snprintf(names[i], sizeof(names[i]), "s%zu", i);
		list[i] = snapshots[i].shown = names[i];
		snapshots[i].kind = VM_INTERNAL;
	}
	layers[0].snapshots = list;
	got = rendered(sf_chain_render, &d);
	for (size_t i = 0; i < MANY; i++) {
		char word[20];

		snprintf(word, sizeof(word), " %s%s", names[i], i + 1 < MANY ? "," : "\n");
		cr_expect(strstr(got, word), "%s is missing", names[i]);
	}
	for (char *line = got, *end; (end = strchr(line, '\n')); line = end + 1)
		cr_expect_lt(end - line, 120);
}

Test(sf_chain, a_chain_of_two_hundred_is_no_wider_than_one)
{
	enum { MANY = 200 };
	static struct vm_layer layers[MANY];
	struct vm_disk_now disk = {.target = S("vda"), .top = MANY - 1};
	struct vm_domain d = {.name = S("w"), .state = S("running"), .layers = layers, .n_layers = MANY, .disks = &disk, .n_disks = 1};
	vs_autofree char *got = NULL;
	size_t lines = 0;

	for (int i = 0; i < MANY; i++)
		layers[i] = layer("/i/x", i - 1);
	got = rendered(sf_chain_render, &d);
	for (char *line = got, *end; (end = strchr(line, '\n')); line = end + 1, lines++)
		cr_expect_lt(end - line, 80);
	cr_expect_geq(lines, MANY);
}
