/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The language. It decides what is deleted, so what is not plainly meant is refused: capital units (M is a month to some
 * tools and a minute to others), 7d4 (was it 7d4w?), `min=` of a number of snapshots, a count without an effect. Writing
 * a term twice is harmless, because terms add up: the larger count holds.
 *
 * A policy is read back in one fixed order and parses to itself. That the canonical line has blanks where the one
 * written had none can make it longer; so the limit is checked on both.
 */
#include "vm/language/retain.h"

#include <errno.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/util/utf8.h"

static const char units[VM_RETAIN_UNITS + 1] = VM_RETAIN_LETTERS;

/* A piece of the line. */
struct piece {
	const char *p;
	size_t len;
};

#define TERM_SHOWN_MAX 80

/* "term '7x': " and the reason. */
static int bad_term(struct piece term, struct vs_err *err, const char *reason)
{
	vs_autofree char *shown = vm_utf8_excerpt(term.p, term.len, TERM_SHOWN_MAX);

	return vs_err_set(err, -EINVAL, "term '%s': %s", shown, reason);
}

static int bad_unit(struct piece term, struct vs_err *err)
{
	return bad_term(term, err, "unknown; a term is COUNT, or COUNT or * before a unit (n h d w m y: newest, hours, days, "
			"weeks, months, years), min=COUNT and a unit, match=GLOB, or 'off' alone");
}

/* ---------------------------------------------------------------- terms */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Takes a count off @rest. */
static int take_count(struct piece *rest, struct piece term, unsigned *count, struct vs_err *err)
{
	unsigned n = 0;

	while (rest->len && is_digit(*rest->p)) {
		n = n * 10 + (unsigned)(*rest->p - '0');
		if (n > VM_RETAIN_COUNT_MAX)
			return bad_term(term, err, "counts go up to 9999");
		rest->p++;
		rest->len--;
	}
	if (n == 0)
		return bad_term(term, err, "0 would keep nothing; counts go from 1 to 9999, and 'off' ends retention");
	*count = n;
	return 0;
}

/* Takes a unit off @rest. */
static int take_unit(struct piece *rest, struct piece term, enum vm_retain_unit *unit, struct vs_err *err)
{
	const char *found = rest->len && *rest->p ? strchr(units, *rest->p) : NULL;

	if (!found)
		return bad_unit(term, err);
	*unit = (enum vm_retain_unit)(found - units);
	rest->p++;
	rest->len--;
	return 0;
}

/* Takes a count or `*`, and its unit, off @rest. */
static int take_keep(struct piece *rest, struct piece term, struct vm_retain *policy, struct vs_err *err)
{
	bool first = rest->p == term.p;
	enum vm_retain_unit unit = VM_RETAIN_NEWEST;
	unsigned count = VM_RETAIN_ALL;
	bool all = *rest->p == '*';
	int ret;

	if (!all && !is_digit(*rest->p))
		return bad_unit(term, err);
	if (all) {
		rest->p++;
		rest->len--;
	} else if ((ret = take_count(rest, term, &count, err)) < 0) {
		return ret;
	}
	if ((all || rest->len || !first) && (ret = take_unit(rest, term, &unit, err)) < 0)
		return ret;
	if (policy->keep[unit] < count)
		policy->keep[unit] = count;
	return 0;
}

static int parse_keeps(struct piece term, struct vm_retain *policy, struct vs_err *err)
{
	struct piece rest = term;
	int ret = 0;

	while (ret == 0 && rest.len)
		ret = take_keep(&rest, term, policy, err);
	return ret;
}

static int parse_min(struct piece value, struct piece term, struct vm_retain *policy, struct vs_err *err)
{
	enum vm_retain_unit unit;
	unsigned count;
	int ret;

	if (!value.len || !is_digit(*value.p))
		return bad_term(term, err, "min= needs a span of time, as in min=2d");
	ret = take_count(&value, term, &count, err);
	if (ret < 0)
		return ret;
	if (!value.len || *value.p == units[VM_RETAIN_NEWEST])
		return bad_term(term, err, "min= needs a span of time (h d w m y), as in min=2d");
	ret = take_unit(&value, term, &unit, err);
	if (ret < 0)
		return ret;
	if (value.len)
		return bad_term(term, err, "min= takes one count and one unit");
	if (policy->min[unit] < count)
		policy->min[unit] = count;
	return 0;
}

static int parse_match(struct piece glob, struct piece term, struct vm_retain *policy, struct vs_err *err)
{
	if (!glob.len)
		return bad_term(term, err, "match= needs a pattern, as in match=auto-*");
	for (size_t i = 0; i < policy->n_match; i++)
		if (strlen(policy->match[i]) == glob.len && !memcmp(policy->match[i], glob.p, glob.len))
			return 0;
	policy->match = xreallocarray(policy->match, policy->n_match + 1, sizeof(*policy->match));
	policy->match[policy->n_match++] = xstrndup(glob.p, glob.len);
	return 0;
}

/* What follows @word in @term, or false. */
static bool after(struct piece term, const char *word, struct piece *value)
{
	size_t len = strlen(word);

	if (term.len < len || memcmp(term.p, word, len))
		return false;
	*value = (struct piece){ term.p + len, term.len - len };
	return true;
}

static int parse_term(struct piece term, struct vm_retain *policy, struct vs_err *err)
{
	struct piece value;

	if (after(term, "off", &value) && !value.len) {
		policy->off = true;
		return 0;
	}
	if (after(term, "min=", &value))
		return parse_min(value, term, policy, err);
	if (after(term, "match=", &value))
		return parse_match(value, term, policy, err);
	return parse_keeps(term, policy, err);
}

/* ---------------------------------------------------------------- lines */

static bool is_separator(char c)
{
	return c == ' ' || c == '\t' || c == ',';
}

static int check_bytes(struct piece line, struct vs_err *err)
{
	if (line.len > VM_RETAIN_LINE_MAX) /* which also limits what is allocated for it */
		return vs_err_set(err, -EINVAL, "a policy is one line of at most %d bytes", VM_RETAIN_LINE_MAX);
	for (size_t i = 0; i < line.len; i++) {
		unsigned char c = (unsigned char)line.p[i];

		if (c == '\n')
			return vs_err_set(err, -EINVAL, "a policy is one line, and there is a second one");
		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return vs_err_set(err, -EINVAL, "byte 0x%02x at position %zu has no place in a policy", c, i + 1);
	}
	return 0;
}

/* What only the whole line tells. */
static int check_whole(const struct vm_retain *policy, size_t n_terms, struct vs_err *err)
{
	bool keeps = false;

	if (n_terms == 0)
		return vs_err_set(err, -EINVAL, "an empty line is no policy; 'off' ends retention");
	if (policy->off)
		return n_terms == 1 ? 0 : vs_err_set(err, -EINVAL, "'off' stands alone");
	for (size_t i = 0; i < VM_RETAIN_UNITS; i++)
		keeps |= policy->keep[i] > 0;
	if (!keeps)
		return vs_err_set(err, -EINVAL, "min= and match= only limit what is dropped: at least one term must keep "
				  "something, as 7 or 7d do");
	vs_autofree char *text = vm_retain_line(policy);

	if (strlen(text) > VM_RETAIN_LINE_MAX)
		return vs_err_set(err, -EINVAL, "a policy is one line of at most %d bytes, and this one is read back as %zu",
				  VM_RETAIN_LINE_MAX, strlen(text));
	return 0;
}

static int parse_terms(struct piece line, struct vm_retain *policy, struct vs_err *err)
{
	size_t n_terms = 0, i = 0;

	while (i < line.len) {
		size_t start = i;
		int ret;

		if (is_separator(line.p[i])) {
			i++;
			continue;
		}
		while (i < line.len && !is_separator(line.p[i]))
			i++;
		ret = parse_term((struct piece){ line.p + start, i - start }, policy, err);
		if (ret < 0)
			return ret;
		n_terms++;
	}
	return check_whole(policy, n_terms, err);
}

int vm_retain_parse(const char *text, size_t len, struct vm_retain *out, struct vs_err *err)
{
	struct piece line = { text, len && text[len - 1] == '\n' ? len - 1 : len };
	struct vm_retain policy = { .off = false };
	int ret = check_bytes(line, err);

	if (ret == 0)
		ret = parse_terms(line, &policy, err);
	if (ret < 0)
		vm_retain_fini(&policy);
	else
		*out = policy;
	return ret;
}

void vm_retain_fini(struct vm_retain *policy)
{
	for (size_t i = 0; i < policy->n_match; i++)
		free(policy->match[i]);
	free(policy->match);
	memset(policy, 0, sizeof(*policy));
}

/* ---------------------------------------------------------------- the canonical line */

static void put_keep(FILE *f, const struct vm_retain *policy, size_t unit)
{
	if (policy->keep[unit] == VM_RETAIN_ALL)
		fprintf(f, " *%c", units[unit]);
	else if (policy->keep[unit] && unit == VM_RETAIN_NEWEST)
		fprintf(f, " %u", policy->keep[unit]);
	else if (policy->keep[unit])
		fprintf(f, " %u%c", policy->keep[unit], units[unit]);
}

static void put_policy(FILE *f, const struct vm_retain *policy)
{
	if (policy->off)
		fputs(" off", f);
	for (size_t i = 0; i < VM_RETAIN_UNITS; i++)
		put_keep(f, policy, i);
	for (size_t i = 0; i < VM_RETAIN_UNITS; i++)
		if (policy->min[i])
			fprintf(f, " min=%u%c", policy->min[i], units[i]);
	for (size_t i = 0; i < policy->n_match; i++)
		fprintf(f, " match=%s", policy->match[i]);
}

char *vm_retain_line(const struct vm_retain *policy)
{
	vs_autofree char *text = NULL;
	size_t len;
	FILE *f = xmemopen(&text, &len);

	put_policy(f, policy); /* every term with a blank in front */
	xmemclose(f);
	return xstrdup(len ? text + 1 : "");
}
