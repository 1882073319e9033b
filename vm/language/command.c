/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The parser. What commands there are is told by the tables in command-table.c.
 *
 * A line goes through three steps: bytes (no control bytes), words (quotes gone, but with a note whether a word began with
 * one), command. Errors come out of the steps as a bare reason and get the line and the usage put around them in one
 * place, parse_line().
 */
#include "vm/language/command-priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/language/retain.h"
#include "vm/util/utf8.h"

struct word {
	char *text;
	bool bare; /* does not begin with a quote */
};

struct words {
	struct word *v;
	size_t n;
};

/* What is being parsed. */
struct parser {
	struct vm_arena *arena;
	const struct vm_grammar *grammar; /* NULL until the command is known */
	char reason[256];
};

static int bad(struct parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int bad(struct parser *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p->reason, sizeof(p->reason), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

#define WORD_SHOWN_MAX 60
#define LINE_SHOWN_MAX 100

/* A piece of a line for a message: printable, not too long. */
static const char *shown(struct parser *p, const char *text, size_t len, size_t max)
{
	return vm_arena_own(p->arena, vm_utf8_excerpt(text, len, max), free);
}

static const char *shown_word(struct parser *p, const char *word)
{
	return shown(p, word, strlen(word), WORD_SHOWN_MAX);
}

/* ---------------------------------------------------------------- bytes and words */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static bool is_control(char c)
{
	return (unsigned char)c < 0x20 || c == 0x7f;
}

static int check_bytes(struct parser *p, const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (is_control(line[i]) && line[i] != '\t')
			return bad(p, "byte 0x%02x at position %zu: control bytes have no place in a command",
				   (unsigned char)line[i], i + 1);
	return 0;
}

/* From behind an opening quote to behind the closing one, appended at @o. Returns the bytes read. */
static ssize_t take_quoted(struct parser *p, const char *in, size_t len, char **o)
{
	for (size_t i = 0; i < len; i++) {
		if (in[i] == '"')
			return (ssize_t)i + 1;
		if (in[i] == '\t')
			return bad(p, "a tab inside quotes");
		if (in[i] == '\\') {
			i++;
			if (i == len || (in[i] != '"' && in[i] != '\\'))
				return bad(p, "inside quotes a backslash stands only before \" or another one: \\\" and \\\\");
		}
		*(*o)++ = in[i];
	}
	return bad(p, "a quote is not closed");
}

/* One word from @in, which begins with no blank, into @out (room for @len + 1). Returns the bytes read. */
static ssize_t take_word(struct parser *p, const char *in, size_t len, char *out)
{
	size_t i = 0;

	while (i < len && !is_blank(in[i])) {
		ssize_t n;

		if (in[i] != '"') {
			*out++ = in[i++];
			continue;
		}
		i++;
		n = take_quoted(p, in + i, len - i, &out);
		if (n < 0)
			return n;
		i += (size_t)n;
	}
	*out = '\0';
	return (ssize_t)i;
}

/* The words of a line. They share one buffer: a word is shorter than what it was read from and the blank behind it. */
static int split(struct parser *p, const char *line, size_t len, struct words *words)
{
	struct word *v = vm_arena_calloc(p->arena, len / 2 + 1, sizeof(*v));
	char *buffer = vm_arena_calloc(p->arena, len + 1, 1);
	size_t i = 0;

	*words = (struct words){ .v = v };
	while (i < len) {
		ssize_t n;

		if (is_blank(line[i])) {
			i++;
			continue;
		}
		if (line[i] == '#')
			break;
		n = take_word(p, line + i, len - i, buffer + i);
		if (n < 0)
			return (int)n;
		v[words->n++] = (struct word){ buffer + i, line[i] != '"' };
		i += (size_t)n;
	}
	return 0;
}

/* ---------------------------------------------------------------- options */

/* "T,T": each target once. */
static int set_disks(struct parser *p, const char *value, struct vm_command *cmd)
{
	struct vm_strings list = { .n = 0 };

	for (;;) {
		const char *end = strchrnul(value, ',');
		char *target = vm_arena_printf(p->arena, "%.*s", (int)(end - value), value);

		if (!*target)
			return bad(p, "disks= needs targets with commas between them, as in disks=vda,vdb");
		if (vm_strings_has(&list, target))
			return bad(p, "disks= names '%s' twice", shown_word(p, target));
		vm_strings_add(p->arena, &list, target);
		if (!*end)
			break;
		value = end + 1;
	}
	cmd->disks = list.v;
	cmd->n_disks = list.n;
	return 0;
}

static int set_keep(struct parser *p, const char *value, struct vm_command *cmd)
{
	struct vs_err err = { 0 };

	cmd->keep = vm_arena_strdup(p->arena, value);
	return vm_name_check_new(value, &(struct vm_name_rules){ 0 }, &err) < 0 ? bad(p, "keep=: %s", err.msg) : 0;
}

/* @value: "" where there was none. */
static int set_quiesce(struct parser *p, const char *value, struct vm_command *cmd)
{
	size_t digits = strspn(value, "0123456789");
	unsigned long seconds = digits && digits < 9 ? strtoul(value, NULL, 10) : 0;

	if (!*value && value[-1] != '=')
		seconds = VM_QUIESCE_S;
	if (value[digits] || !seconds || seconds > VM_QUIESCE_MAX_S)
		return bad(p, "quiesce= takes a number of seconds from 1 to %d", VM_QUIESCE_MAX_S);
	cmd->quiesce_s = (unsigned)seconds;
	return 0;
}

static int set_option(struct parser *p, unsigned bit, const char *value, struct vm_command *cmd)
{
	switch (bit) {
	case VM_OPT_INTERNAL:
		cmd->kind = VM_ASK_INTERNAL;
		return 0;
	case VM_OPT_EXTERNAL:
		cmd->kind = VM_ASK_EXTERNAL;
		return 0;
	case VM_OPT_DISKS:
		return set_disks(p, value, cmd);
	case VM_OPT_QUIESCE:
		return set_quiesce(p, value, cmd);
	case VM_OPT_DESC:
		cmd->desc = vm_arena_strdup(p->arena, value);
		return 0;
	case VM_OPT_FORCE:
		cmd->force = true;
		return 0;
	default:
		return set_keep(p, value, cmd);
	}
}

static int parse_options(struct parser *p, const struct word *words, size_t n, struct vm_command *cmd)
{
	unsigned seen = 0;

	for (size_t i = 0; i < n; i++) {
		const char *value = NULL;
		const struct vm_option *option = vm_option_find(p->grammar, words[i].text, &value);
		int ret;

		if (!option)
			return bad(p, "'%s' is one word too many (names with spaces are quoted with \")",
				   shown_word(p, words[i].text));
		if (seen & option->bit)
			return bad(p, "'%s' is said twice", option->word);
		seen |= option->bit;
		if ((seen & VM_OPT_INTERNAL) && (seen & VM_OPT_EXTERNAL))
			return bad(p, "a snapshot is internal or external, not both");
		ret = set_option(p, option->bit, value, cmd);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* ---------------------------------------------------------------- names */

/* Takes the names off the front. Returns how many words that were. */
static ssize_t parse_names(struct parser *p, const struct words *words, struct vm_command *cmd)
{
	const struct vm_grammar *g = p->grammar;
	struct vm_strings names = { .n = 0 };
	size_t i = 0;

	for (; i < words->n && i < g->max; i++) {
		const struct word *w = &words->v[i];

		if (w->bare && vm_option_find(g, w->text, NULL))
			return bad(p, "the name is missing: '%s' is an option unless it is quoted", shown_word(p, w->text));
		if (!*w->text)
			return bad(p, "\"\" is no name");
		vm_strings_add(p->arena, &names, w->text);
	}
	if (i < g->min)
		return bad(p, "%s is missing", cmd->verb == VM_CANCEL ? "the job's ID" : "the name");
	cmd->names = names.v;
	cmd->n_names = names.n;
	return (ssize_t)i;
}

static bool only_digits(const char *s)
{
	return *s && s[strspn(s, "0123456789")] == '\0';
}

static int set_job(struct parser *p, struct vm_command *cmd)
{
	const char *id = cmd->names[0];

	if (!strcmp(id, "-"))
		return bad(p, "jobs with the ID - were started by others, and it is for them to stop them");
	errno = 0;
	cmd->job = only_digits(id) ? strtoull(id, NULL, 10) : 0;
	if (cmd->job == 0 || errno)
		return bad(p, "'%s' is no job's ID: that is a number from the first column of 'jobs'", shown_word(p, id));
	cmd->names = NULL;
	cmd->n_names = 0;
	return 0;
}

/* What the table cannot say. */
static int check_command(struct parser *p, struct vm_command *cmd)
{
	struct vm_name_rules rules = { .internal = cmd->kind == VM_ASK_INTERNAL };
	struct vs_err err = { 0 };

	if (cmd->verb == VM_CANCEL)
		return set_job(p, cmd);
	if (cmd->verb != VM_CREATE && cmd->verb != VM_ADOPT)
		return 0;
	return vm_name_check_new(cmd->names[0], &rules, &err) < 0 ? bad(p, "%s", err.msg) : 0;
}

/* ---------------------------------------------------------------- lines */

/* The words of `try retain POLICY` behind those two. */
static int parse_policy(struct parser *p, struct words words, struct vm_command *cmd)
{
	const char *line = words.n ? words.v[0].text : "";
	struct vm_retain policy = { .off = false };
	vs_autofree char *canonical = NULL;
	struct vs_err err = { 0 };
	int r;

	p->grammar = &vm_grammar_retain;
	if (!cmd->try_only)
		return bad(p, "a policy is written to the file 'retain', and here only tried");
	if (!words.n)
		return bad(p, "the policy is missing");
	for (size_t i = 1; i < words.n; i++)
		line = vm_arena_printf(p->arena, "%s %s", line, words.v[i].text);
	r = vm_retain_parse(line, strlen(line), &policy, &err);
	if (r < 0)
		return bad(p, "%s", vs_err_text(&err, r));
	canonical = vm_retain_line(&policy);
	vm_retain_fini(&policy);
	cmd->verb = VM_PRUNE;
	cmd->policy = vm_arena_printf(p->arena, "%s", canonical);
	return 0;
}

static int find_grammar(struct parser *p, const char *word, enum vm_verb *verb)
{
	for (size_t i = 0; i < VM_VERBS; i++) {
		if (strcmp(word, vm_grammars[i].word))
			continue;
		*verb = (enum vm_verb)i;
		p->grammar = &vm_grammars[i];
		return 0;
	}
	if (!strcmp(word, vm_grammar_try.word))
		return bad(p, "one 'try' is enough");
	return bad(p, "there is no command '%s'", shown_word(p, word));
}

static int parse_words(struct parser *p, struct words words, struct vm_command *cmd)
{
	ssize_t n_names;
	int ret;

	if (!strcmp(words.v[0].text, vm_grammar_try.word)) {
		cmd->try_only = true;
		words = (struct words){ words.v + 1, words.n - 1 };
		if (words.n == 0) {
			p->grammar = &vm_grammar_try;
			return bad(p, "what is to be tried is missing");
		}
	}
	if (!strcmp(words.v[0].text, vm_grammar_retain.word))
		return parse_policy(p, (struct words){ words.v + 1, words.n - 1 }, cmd);
	ret = find_grammar(p, words.v[0].text, &cmd->verb);
	if (ret < 0)
		return ret;
	words = (struct words){ words.v + 1, words.n - 1 };
	n_names = parse_names(p, &words, cmd);
	if (n_names < 0)
		return (int)n_names;
	ret = parse_options(p, words.v + n_names, words.n - (size_t)n_names, cmd);
	return ret < 0 ? ret : check_command(p, cmd);
}

/* "usage: ...", or the words of all commands for who wrote none of them. */
static const char *usage(struct parser *p)
{
	char *list;

	if (p->grammar)
		return vm_arena_printf(p->arena, "usage: %s", p->grammar->usage);
	list = vm_arena_printf(p->arena, "commands: %s", vm_grammar_try.word);
	for (size_t i = 0; i < VM_VERBS; i++)
		list = vm_arena_printf(p->arena, "%s, %s", list, vm_grammars[i].word);
	return list;
}

/* Fills *cmd; *parsed tells whether there was a command in the line. @line_no 0: it is the only line. */
static int parse_line(struct vm_arena *arena, const char *line, size_t len, size_t line_no, struct vm_command *cmd,
		      bool *parsed, struct vs_err *err)
{
	struct parser p = { .arena = arena };
	struct words words = { .n = 0 };
	int ret = check_bytes(&p, line, len);

	if (ret == 0)
		ret = split(&p, line, len, &words);
	if (ret == 0 && words.n)
		ret = parse_words(&p, words, cmd);
	*parsed = words.n > 0;
	if (ret == 0)
		return 0;
	vs_err_set(err, ret, "'%s': %s; %s", shown(&p, line, len, LINE_SHOWN_MAX), p.reason, usage(&p));
	if (line_no)
		vs_err_prefix(err, "line %zu", line_no);
	return ret;
}

static size_t count_lines(const char *text, size_t len)
{
	size_t n = len && text[len - 1] != '\n';

	for (size_t i = 0; i < len; i++)
		n += text[i] == '\n';
	return n;
}

static int parse_lines(const char *text, size_t len, struct vm_commands *commands, struct vs_err *err)
{
	size_t n_lines = count_lines(text, len);
	const char *end = text + len;

	commands->v = vm_arena_calloc(&commands->arena, n_lines, sizeof(*commands->v));
	for (size_t i = 0; i < n_lines; i++) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		size_t line_len = (size_t)((newline ? newline : end) - text);
		bool parsed = false;
		int ret = parse_line(&commands->arena, text, line_len, n_lines > 1 ? i + 1 : 0,
				     &commands->v[commands->n], &parsed, err);

		if (ret < 0)
			return ret;
		commands->n += parsed;
		text += line_len + 1;
	}
	return 0;
}

int vm_commands_parse(const char *text, size_t len, struct vm_commands *out, struct vs_err *err)
{
	struct vm_commands commands = { .n = 0 };
	int ret;

	if (len > VM_COMMAND_WRITE_MAX) /* nothing that is allocated below is longer than some times that */
		return vs_err_set(err, -EINVAL, "a write to ctl holds at most %d bytes", VM_COMMAND_WRITE_MAX);
	vm_arena_init(&commands.arena);
	ret = parse_lines(text, len, &commands, err);
	if (ret < 0)
		vm_commands_fini(&commands);
	else
		*out = commands;
	return ret;
}

void vm_commands_fini(struct vm_commands *commands)
{
	vm_arena_fini(&commands->arena);
	*commands = (struct vm_commands){ .n = 0 };
}
