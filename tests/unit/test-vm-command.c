/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/language/command.h"

static int parse(const char *text, struct vm_commands *out, struct vs_err *err)
{
	return vm_commands_parse(text, strlen(text), out, err);
}

/* The only command of @text, to be freed with @all. */
static const struct vm_command *only(const char *text, struct vm_commands *all)
{
	struct vs_err err = {0};

	cr_assert_eq(parse(text, all, &err), 0, "'%s': %s", text, err.msg);
	cr_assert_eq(all->n, 1u, "'%s' is %zu commands", text, all->n);
	return all->v;
}

/* ---------------------------------------------------------------- what is understood */

Test(vm_command, every_command_has_one_canonical_line)
{
	static const struct { const char *line, *text; } cases[] = {
		{"create monday", "create monday"},
		{"create monday internal", "create monday internal"},
		{"  create\tmonday  external  ", "create monday external"},
		{"create m quiesce disks=vda,vdb external", "create m external disks=vda,vdb quiesce"}, /* one order */
		{"create m desc=x", "create m desc=\"x\""},
		{"create m quiesce=60", "create m quiesce"},
		{"create m quiesce=007", "create m quiesce=7"},
		{"create m desc=\"two words\" quiesce", "create m quiesce desc=\"two words\""},
		{"create m desc=\"say \\\"hi\\\" \\\\o/\"", "create m desc=\"say \\\"hi\\\" \\\\o/\""},
		{"create m desc=\"\"", "create m desc=\"\""},
		{"create \"two words\"", "create \"two words\""},
		{"create \"plain\"", "create plain"},          /* quotes only where they are needed */
		{"create pl\"ai\"n", "create plain"},
		{"create C:\\x", "create C:\\x"},              /* outside quotes a backslash is one */
		{"create \"internal\"", "create \"internal\""}, /* a name, for it is quoted */
		{"create \"disks=vda\"", "create \"disks=vda\""},
		{"create force", "create force"},              /* no option of this command */
		{"create \"#1\"", "create \"#1\""},
		{"create a#1", "create a#1"},                  /* # begins a comment only where a word begins */
		{"create monday # before the upgrade", "create monday"},
		{"create 42 external", "create 42 external"},
		{"create sp\xc3\xa4t\xff", "create sp\xc3\xa4t\xff"},
		{"create m disks=\"a b\",c", "create m disks=\"a b\",c"},
		{"delete a", "delete a"},
		{"delete a \"b c\" d", "delete a \"b c\" d"},
		{"delete force internal", "delete force internal"},
		{"commit a", "commit a"}, {"commit a b", "commit a b"},
		{"pull", "pull"}, {"pull a", "pull a"},
		{"revert a", "revert a"},
		{"revert a keep=new force", "revert a force keep=new"},
		{"revert a keep=\"two words\"", "revert a keep=\"two words\""},
		{"revert \"force\" force", "revert \"force\" force"},
		{"hold a%2Fb", "hold a%2Fb"}, {"release a/b", "release a/b"}, /* shown or raw: not decided here */
		{"prune", "prune"},
		{"cancel 3", "cancel 3"}, {"cancel 007", "cancel 7"}, {"cancel 18446744073709551615", "cancel 18446744073709551615"},
		{"try delete a b", "try delete a b"}, {"try prune", "try prune"},
		{"try retain off", "try retain off"}, {"try  retain 7 min=2d\t7d4w match=a-*", "try retain 7 7d 4w min=2d match=a-*"},
		{"\"delete\" a", "delete a"},                  /* quotes do not matter to a command's word */
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_commands all, again;
		vs_autofree char *text = vm_command_text(only(cases[i].line, &all));
		vs_autofree char *twice = NULL;

		cr_expect_str_eq(text, cases[i].text, "'%s': %s", cases[i].line, text);
		twice = vm_command_text(only(text, &again));
		cr_expect_str_eq(twice, text);
		vm_commands_fini(&all);
		vm_commands_fini(&again);
	}
}

Test(vm_command, every_argument_arrives)
{
	struct vm_commands all;
	const struct vm_command *c = only("try create \"my name\" internal disks=vda,vdc quiesce desc=\"a \\\"b\\\"\"", &all);

	cr_expect_eq(c->verb, VM_CREATE);
	cr_expect(c->try_only);
	cr_expect_eq(c->n_names, 1u);
	cr_expect_str_eq(c->names[0], "my name");
	cr_expect_eq(c->kind, VM_ASK_INTERNAL);
	cr_expect_eq(c->n_disks, 2u);
	cr_expect_str_eq(c->disks[0], "vda");
	cr_expect_str_eq(c->disks[1], "vdc");
	cr_expect_eq(c->quiesce_s, 60u);
	cr_expect_str_eq(c->desc, "a \"b\"");
	cr_expect_null(c->keep);
	vm_commands_fini(&all);

	c = only("revert monday force keep=before", &all);
	cr_expect_eq(c->verb, VM_REVERT);
	cr_expect(c->force && !c->try_only);
	cr_expect_str_eq(c->keep, "before");
	cr_expect_null(c->desc);
	cr_expect_eq(c->kind, VM_ASK_DEFAULT);
	vm_commands_fini(&all);

	c = only("cancel 12", &all);
	cr_expect_eq(c->job, 12u);
	cr_expect_eq(c->n_names, 0u);
	vm_commands_fini(&all);
}

Test(vm_command, a_write_is_lines_of_which_the_last_may_lack_its_newline)
{
	struct vm_commands all;

	cr_assert_eq(parse("# nightly\n\n  \t \ncreate a\n   # more\ndelete b c\nprune", &all, NULL), 0);
	cr_assert_eq(all.n, 3u);
	cr_expect_eq(all.v[0].verb, VM_CREATE);
	cr_expect_eq(all.v[1].verb, VM_DELETE);
	cr_expect_eq(all.v[1].n_names, 2u);
	cr_expect_eq(all.v[2].verb, VM_PRUNE);
	vm_commands_fini(&all);
}

Test(vm_command, blanks_and_comments_are_no_commands)
{
	static const char *const texts[] = {"", "\n", "\n\n\n", "  \t", "# delete monday", "#\n#\n", " #"};

	for (size_t i = 0; i < VS_ARRAY_LEN(texts); i++) {
		struct vm_commands all;

		cr_assert_eq(parse(texts[i], &all, NULL), 0);
		cr_expect_eq(all.n, 0u);
		vm_commands_fini(&all);
	}
}

/* ---------------------------------------------------------------- what is refused */

Test(vm_command, what_cannot_be_parsed_is_quoted_with_the_reason_and_the_usage)
{
	static const struct { const char *line, *reason, *usage; } cases[] = {
		{"delet monday", "no command 'delet'", "commands: try, create, delete, commit, pull, revert, adopt, hold, release, prune, cancel"},
		{"DELETE monday", "no command 'DELETE'", "commands:"},
		{"\"\"", "no command ''", "commands:"},
		{"create", "the name is missing", "usage: create NAME [internal|external] [disks=T,T] [quiesce[=SECONDS]] [desc=\"...\"]"},
		{"create internal", "'internal' is an option unless it is quoted", "usage: create"},
		{"create disks=vda", "'disks=vda' is an option", "usage: create"},
		{"create a b", "'b' is one word too many", "usage: create"},
		{"create a force", "'force' is one word", "usage: create"},
		{"create a keep=b", "'keep=b' is one word", "usage: create"},
		{"create a internal external", "not both", "usage: create"},
		{"create a external external", "'external' is said twice", "usage: create"},
		{"create a quiesce=", "quiesce= takes a number", "usage: create"},
		{"create a quiesce=0", "quiesce= takes a number", "usage: create"},
		{"create a quiesce=1s", "quiesce= takes a number", "usage: create"},
		{"create a quiesce=86401", "from 1 to 86400", "usage: create"},
		{"create a quiesce=3 quiesce", "said twice", "usage: create"},
		{"create a quiesce quiesce", "said twice", "usage: create"},
		{"create a desc=x desc=y", "'desc=' is said twice", "usage: create"},
		{"create a desc", "'desc' is one word", "usage: create"},
		{"create a internal=1", "'internal=1'", "usage: create"},
		{"create a disks=", "disks= needs targets", "usage: create"},
		{"create a disks=vda,", "disks= needs targets", "usage: create"},
		{"create a disks=,vda", "disks= needs targets", "usage: create"},
		{"create a disks=vda,,vdb", "disks= needs targets", "usage: create"},
		{"create a disks=vda,vdb,vda", "'vda' twice", "usage: create"},
		{"create a disks=vda, vdb", "disks= needs targets", "usage: create"},
		{"create \"\"", "\"\" is no name", "usage: create"},
		{"create a/b", "'/'", "usage: create"},
		{"create .a", "dot", "usage: create"},
		{"create 42 internal", "digits only", "usage: create"},
		{"delete", "the name is missing", "usage: delete NAME..."},
		{"delete \"\"", "\"\" is no name", "usage: delete"},
		{"commit", "the name is missing", "usage: commit FIRST [LAST]"},
		{"commit a b c", "'c' is one word too many", "usage: commit"},
		{"pull a b", "'b' is one word too many", "usage: pull [NAME]"},
		{"revert", "the name is missing", "usage: revert NAME [force] [keep=NEW]"},
		{"revert force", "'force' is an option", "usage: revert"},
		{"revert a keep=", "keep=: a snapshot needs a name", "usage: revert"},
		{"revert a keep=b/c", "keep=: a '/'", "usage: revert"},
		{"revert a quiesce", "'quiesce' is one word", "usage: revert"},
		{"hold", "the name is missing", "usage: hold NAME"},
		{"hold a b", "'b' is one word", "usage: hold"},
		{"release", "the name is missing", "usage: release NAME"},
		{"prune now", "'now' is one word", "usage: prune"},
		{"cancel", "the job's ID is missing", "usage: cancel ID"},
		{"cancel -", "started by others", "usage: cancel"},
		{"cancel 0", "'0' is no job's ID", "usage: cancel"},
		{"cancel x", "'x' is no job's ID", "usage: cancel"},
		{"cancel -3", "'-3' is no job's ID", "usage: cancel"},
		{"cancel 18446744073709551616", "no job's ID", "usage: cancel"},
		{"try", "missing", "usage: try COMMAND"},
		{"try # delete a", "missing", "usage: try COMMAND"},
		{"try try delete a", "one 'try'", "commands:"},
		{"try delete", "the name is missing", "usage: delete"},
		{"try retain", "the policy is missing", "usage: try retain POLICY"},
		{"try retain 7x", "7x", "usage: try retain POLICY"},
		{"try retain off 7", "off", "usage: try retain POLICY"},
		{"try retain \"\"", "", "usage: try retain POLICY"},
		{"retain 7d", "written to the file 'retain'", "usage: try retain POLICY"},
		{"try foo", "no command 'foo'", "commands:"},
		{"delete \"a", "a quote is not closed", "commands:"},
		{"delete \"a\\\"", "a quote is not closed", "commands:"},
		{"delete \"a\\", "inside quotes a backslash", "commands:"},
		{"delete \"a\\n\"", "inside quotes a backslash", "commands:"},
		{"delete \"a\tb\"", "a tab inside quotes", "commands:"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_commands all = {.n = 77};
		struct vs_err err = {0};

		cr_assert_eq(parse(cases[i].line, &all, &err), -EINVAL, "'%s'", cases[i].line);
		cr_expect_eq(all.n, 77u); /* untouched */
		cr_expect_not_null(strstr(err.msg, cases[i].reason), "'%s': %s", cases[i].line, err.msg);
		cr_expect_not_null(strstr(err.msg, cases[i].usage), "'%s': %s", cases[i].line, err.msg);
		cr_expect_eq(err.msg[0], '\'');
		if (!strchr(cases[i].line, '\t'))
			cr_expect_eq(strncmp(err.msg + 1, cases[i].line, strlen(cases[i].line)), 0, "%s", err.msg);
	}
}

Test(vm_command, control_bytes_are_refused_wherever_they_are)
{
	static const struct { const char *text; size_t len; const char *says; } cases[] = {
		{"delete a\0b", 10, "byte 0x00 at position 9"},
		{"\0", 1, "byte 0x00 at position 1"},
		{"delete a\r\n", 10, "byte 0x0d at position 9"},
		{"delete \"a\x1b[31m\"", 15, "byte 0x1b"},
		{"# \x07", 3, "byte 0x07"},             /* comments too: the log shows lines */
		{"delete a\x7f", 9, "byte 0x7f"},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vm_commands all;
		struct vs_err err = {0};

		cr_expect_eq(vm_commands_parse(cases[i].text, cases[i].len, &all, &err), -EINVAL);
		cr_expect_not_null(strstr(err.msg, cases[i].says), "%s", err.msg);
		for (const char *p = err.msg; *p; p++)
			cr_expect((unsigned char)*p >= 0x20 && *p != 0x7f, "a message has no control bytes");
	}
}

Test(vm_command, one_bad_line_refuses_all_and_is_named_by_its_number)
{
	struct vm_commands all;
	struct vs_err err = {0};

	cr_expect_eq(parse("create a\n# comment\n\ndelete\nprune\n", &all, &err), -EINVAL);
	cr_expect_eq(strncmp(err.msg, "line 4: 'delete': ", 18), 0, "%s", err.msg);
}

Test(vm_command, a_long_line_is_quoted_in_part_and_the_usage_still_stands)
{
	char line[5000] = "create a ";
	struct vm_commands all;
	struct vs_err err = {0};

	memset(line + 9, '\xff', sizeof(line) - 10); /* the worst: each byte is shown as three */
	cr_expect_eq(parse(line, &all, &err), -EINVAL);
	cr_expect_not_null(strstr(err.msg, "%FF...'"), "%s", err.msg);
	cr_expect_not_null(strstr(err.msg, "desc=\"...\"]"), "%s", err.msg);
}

Test(vm_command, a_write_is_64_kib_at_most)
{
	char *text = malloc(VM_COMMAND_WRITE_MAX + 1);
	struct vm_commands all;
	struct vs_err err = {0};

	memset(text, '\n', VM_COMMAND_WRITE_MAX + 1);
	memcpy(text, "prune", 5);
	cr_assert_eq(vm_commands_parse(text, VM_COMMAND_WRITE_MAX, &all, NULL), 0);
	cr_expect_eq(all.n, 1u);
	vm_commands_fini(&all);
	cr_expect_eq(vm_commands_parse(text, VM_COMMAND_WRITE_MAX + 1, &all, &err), -EINVAL);
	cr_expect_not_null(strstr(err.msg, "65536"));
	free(text);
}

Test(vm_command, as_many_names_and_lines_as_a_write_holds)
{
	char *text = malloc(VM_COMMAND_WRITE_MAX);
	struct vm_commands all;

	for (size_t i = 0; i < VM_COMMAND_WRITE_MAX; i += 2)
		memcpy(text + i, "a ", 2);
	memcpy(text, "delete ", 7);
	cr_assert_eq(vm_commands_parse(text, VM_COMMAND_WRITE_MAX, &all, NULL), 0);
	cr_expect_eq(all.v[0].n_names, (size_t)(VM_COMMAND_WRITE_MAX - 8) / 2);
	vm_commands_fini(&all);
	for (size_t i = 0; i + 5 <= VM_COMMAND_WRITE_MAX; i += 5)
		memcpy(text + i, "pull\n", 5);
	cr_assert_eq(vm_commands_parse(text, VM_COMMAND_WRITE_MAX - 1, &all, NULL), 0);
	cr_expect_eq(all.n, (size_t)VM_COMMAND_WRITE_MAX / 5);
	vm_commands_fini(&all);
	free(text);
}

/* ---------------------------------------------------------------- names */

Test(vm_command, a_new_name_must_do_everywhere)
{
	static const struct { const char *name; struct vm_name_rules rules; const char *says; } cases[] = {
		{"monday", {true, true, 8}, NULL},
		{"a b&c'\"<~%", {true, true, 8}, NULL},
		{"42", {false, true, 8}, NULL},                 /* external: nobody looks for an id */
		{"42", {true, true, 8}, "digits only"},
		{"42a", {true, true, 8}, NULL}, {"-42", {true, true, 8}, NULL},
		{"", {false, false, 0}, "needs a name"},
		{"a/b", {false, false, 0}, "'/'"},
		{".", {false, false, 0}, "dot"}, {".hidden", {false, false, 0}, "dot"}, {"v1.2", {false, false, 0}, NULL},
		{"a\nb", {false, false, 0}, "control"}, {"a\x7f", {false, false, 0}, "control"},
		{"\xff", {false, false, 0}, NULL},              /* any bytes in a qcow2 table */
		{"\xff", {false, true, 0}, "UTF-8"},
		{"\xef\xbf\xbe", {false, true, 0}, "UTF-8"},    /* U+FFFE: no character of XML */
		{"sp\xc3\xa4t", {false, true, 0}, NULL},
	};

	for (size_t i = 0; i < VS_ARRAY_LEN(cases); i++) {
		struct vs_err err = {0};
		int ret = vm_name_check_new(cases[i].name, &cases[i].rules, &err);

		cr_expect_eq(ret, cases[i].says ? -EINVAL : 0, "number %zu: %s", i, err.msg);
		if (cases[i].says)
			cr_expect_not_null(strstr(err.msg, cases[i].says), "number %zu: %s", i, err.msg);
	}
}

Test(vm_command, a_new_name_fits_into_all_file_names_made_of_it)
{
	char name[300];
	struct vs_err err = {0};

	memset(name, 'n', sizeof(name));
	name[247] = '\0';
	cr_expect_eq(vm_name_check_new(name, &(struct vm_name_rules){.suffix_len = 8}, NULL), 0);       /* 247 + ".vda.img" */
	cr_expect_eq(vm_name_check_new(name, &(struct vm_name_rules){.suffix_len = 9}, &err), -EINVAL); /* ".disk.img" */
	cr_expect_not_null(strstr(err.msg, "247 bytes, and 246 fit"), "%s", err.msg);
	name[0] = '%';                                                                                    /* %25 */
	cr_expect_eq(vm_name_check_new(name, &(struct vm_name_rules){.suffix_len = 8}, NULL), -EINVAL);
	name[245] = '\0';
	cr_expect_eq(vm_name_check_new(name, &(struct vm_name_rules){.suffix_len = 8}, NULL), 0);
	memset(name, 'n', sizeof(name));
	name[248] = '\0';
	cr_expect_eq(vm_name_check_new(name, &(struct vm_name_rules){0}, &err), -EINVAL);               /* .xml.new */
	cr_expect_not_null(strstr(err.msg, "libvirt"), "%s", err.msg);
	cr_expect_eq(vm_name_check_new("n", &(struct vm_name_rules){.suffix_len = 5000}, NULL), -EINVAL);
}

/* ---------------------------------------------------------------- help */

Test(vm_command, the_usage_names_every_command)
{
	vs_autofree char *usage = vm_command_usage();

	for (enum vm_verb verb = VM_CREATE; verb <= VM_CANCEL; verb++) {
		char start[32];

		snprintf(start, sizeof(start), "\n%s", vm_verb_word(verb));
		cr_expect_not_null(strstr(usage, start), "%s", vm_verb_word(verb));
	}
	cr_expect_not_null(strstr(usage, "\ntry COMMAND\n"));
	cr_expect_not_null(strstr(usage, "\ntry retain POLICY\n"));
	cr_expect_eq(usage[strlen(usage) - 1], '\n');
	for (const char *p = usage; *p; p = strchr(p, '\n') + 1)
		cr_expect_leq(strcspn(p, "\n"), 80u, "%.*s", (int)strcspn(p, "\n"), p); /* lines fit a terminal */
}

/* ---------------------------------------------------------------- random commands */

static uint64_t rng = 20261116;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % below;
}

/* A name out of awkward pieces. */
static void random_name(char *name)
{
	static const char *const pieces[] = {" ", "\"", "\\", "#", "a", "force", "internal", "keep=", "desc=", "=", ",", "%2F", "\xff",
		"\xc3\xa4", "'", "try", "7"};

	*name = '\0';
	do
		strcat(name, pieces[rnd(VS_ARRAY_LEN(pieces))]);
	while (rnd(3));
	if (strlen(name) > 200)
		strcpy(name, "x");
}

Test(vm_command, whatever_a_command_says_its_text_says_again)
{
	for (int round = 0; round < 20000; round++) {
		char name[512], other[512], *names[] = {name, other};
		struct vm_command c = {.verb = (enum vm_verb)rnd(VM_CANCEL + 1), .try_only = rnd(2), .names = names, .n_names = 1};
		struct vm_commands all;

		random_name(name);
		random_name(other);
		if (c.verb == VM_CREATE) {
			c.desc = rnd(2) ? other : NULL;
			c.kind = rnd(2) ? VM_ASK_EXTERNAL : VM_ASK_DEFAULT;
			c.quiesce_s = rnd(2) ? 1 + rnd(86400) : rnd(2) * 60;
		} else if (c.verb == VM_REVERT) {
			c.keep = rnd(2) ? other : NULL;
			c.force = rnd(2);
		} else if (c.verb == VM_DELETE || c.verb == VM_COMMIT) {
			c.n_names = 1 + rnd(2);
		} else if (c.verb == VM_PRUNE || c.verb == VM_CANCEL) {
			c.n_names = 0;
			c.job = c.verb == VM_CANCEL ? 1 + rnd(1000) : 0;
		}
		vs_autofree char *text = vm_command_text(&c);
		const struct vm_command *got = only(text, &all);
		cr_assert(got->verb == c.verb && got->try_only == c.try_only && got->n_names == c.n_names && got->kind == c.kind &&
			  got->quiesce_s == c.quiesce_s && got->force == c.force && got->job == c.job, "%s", text);
		for (size_t i = 0; i < c.n_names; i++)
			cr_assert_str_eq(got->names[i], names[i], "%s", text);
		cr_assert(!c.desc == !got->desc && (!c.desc || !strcmp(c.desc, got->desc)), "%s", text);
		cr_assert(!c.keep == !got->keep && (!c.keep || !strcmp(c.keep, got->keep)), "%s", text);
		vm_commands_fini(&all);
	}
}

Test(vm_command, no_bytes_make_it_stumble)
{
	static const char alphabet[] = "create delete revert cancel try \n\n\t\"\"\\#=,disks=keep=desc=0129\xff\xc3\xa4\x01/.";
	char text[200];

	for (int round = 0; round < 50000; round++) {
		struct vm_commands all;
		struct vs_err err = {0};
		size_t len = rnd(sizeof(text));
		int ret;

		for (size_t i = 0; i < len; i++)
			text[i] = alphabet[rnd(sizeof(alphabet))];
		ret = vm_commands_parse(text, len, &all, &err);
		cr_assert(ret == 0 || (ret == -EINVAL && err.msg[0]));
		if (ret == 0)
			vm_commands_fini(&all);
	}
}
