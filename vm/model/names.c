/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Three steps turn raw names into shown ones, each of which keeps different names different:
 *
 *   escape   `%`, `/`, `~`, ... become %XX. Injective; the result has no `~`, and every `%` in it starts a %XX.
 *   mark     bearers of one name become `name~<id>`. Now a `~` says "the rest is not part of the name".
 *   fit      what is too long loses whole characters before its `~`. This can make two names equal again, as can
 *            repeated ids, so the last word has a table of everything given out: who comes second becomes `~2`.
 *
 * The last step lets first-comers have their name before it hands out numbers, so that an id that happens to be "2" is
 * not displaced by somebody's counter. The counter of a name lives with its first bearer and only rises: a table of
 * 65,536 equal entries costs 65,536 tries, not 2 * 10^9. Names come from images, which may be hostile: the table is a
 * balanced tree, which no choice of names makes slow.
 */
#include "vm/model/names.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <string.h>

#include "vm/util/mem.h"
#include "vm/util/strmap.h"
#include "vm/util/utf8.h"

#define ID_MAX 128     /* shown bytes of an id that are kept: QEMU itself shows 127 */
#define NUMBER_MAX 24  /* "~18446744073709551615" */

char *vm_name_escape(const char *raw)
{
	vs_autofree char *shown = vm_utf8_escape(raw, strlen(raw), "%/~");

	return shown[0] == '.' ? xasprintf("%%2E%s", shown + 1) : vs_steal(shown);
}

char *vm_name_printable(const char *text)
{
	return vm_utf8_escape(text, strlen(text), "");
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int vm_name_unescape(const char *shown, char **raw)
{
	vs_autofree char *out = xcalloc(strlen(shown) + 1, 1);
	char *o = out;

	for (const char *p = shown; *p; p++) {
		int high, low;

		if (*p != '%') {
			*o++ = *p;
			continue;
		}
		high = hex_digit(p[1]);
		low = high < 0 ? -1 : hex_digit(p[2]);
		if (low < 0 || (high | low) == 0)
			return -EINVAL;
		*o++ = (char)(high << 4 | low);
		p += 2;
	}
	*o = '\0';
	*raw = vs_steal(out);
	return 0;
}

char *vm_name_for_table(const char *shown)
{
	return vm_utf8_escape(shown, strlen(shown), " ");
}

/* ---------------------------------------------------------------- numbers */

/* FNV-1a spreads its last bytes badly; this is the finaliser of MurmurHash3. */
static uint64_t finalise(uint64_t h)
{
	h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
	h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ULL;
	return h ^ (h >> 33);
}

uint64_t vm_ino(uint64_t parent, const char *name)
{
	unsigned char bytes[8];
	uint64_t hash;

	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(parent >> (8 * i));
	hash = vm_fnv1a(VM_FNV1A, bytes, sizeof(bytes));
	hash = finalise(vm_fnv1a(hash, name, strlen(name)));
	return hash > 1 ? hash : hash + 2; /* 0 is "no inode", 1 the root */
}

uint64_t vm_ino_made(uint64_t image, uint64_t before, const char *as)
{
	return before ? vm_ino(vm_ino(image, "diff") ^ before, as) : vm_ino(image, as);
}

uint64_t vm_ino_whole(uint64_t domain, const char *target)
{
	return vm_ino(vm_ino(domain, "whole"), target);
}

/* ---------------------------------------------------------------- shown names */

/* How much of an escaped string fits into @max bytes without cutting a character or a %XX. */
static size_t fit(const char *shown, size_t max)
{
	size_t len = strlen(shown), at = 0;

	while (at < len) {
		size_t n = shown[at] == '%' ? 3 : vm_utf8_len(shown + at, len - at);

		if (at + n > max)
			break;
		at += n;
	}
	return at;
}

/* A name on its way: the parts of `base~mark~number`. */
struct claim {
	char *base; /* escaped */
	char *mark; /* escaped, or NULL */
	size_t limit;
};

static void claims_free(struct claim *claims, size_t n)
{
	for (size_t i = 0; claims && i < n; i++) {
		free(claims[i].base);
		free(claims[i].mark);
	}
	free(claims);
}

/* Gives `base~mark`, for @number > 1 with `~number`, cut to the limit. */
static char *compose(const struct claim *claim, size_t number)
{
	char tail[1 + ID_MAX + NUMBER_MAX + 1] = "";
	size_t len = 0, room;

	if (claim->mark)
		len = (size_t)snprintf(tail, sizeof(tail), "~%s", claim->mark);
	if (number > 1)
		snprintf(tail + len, sizeof(tail) - len, "~%zu", number);
	room = claim->limit > strlen(tail) ? claim->limit - strlen(tail) : 0;
	return xasprintf("%.*s%s", (int)fit(claim->base, room), claim->base, tail);
}

/* A name in the tree: how many bear it, or the next number for it. */
struct known {
	const char *name; /* borrowed */
	size_t n;
};

static int known_compare(const void *a, const void *b)
{
	return strcmp(((const struct known *)a)->name, ((const struct known *)b)->name);
}

static void known_keep(void *known)
{
	(void)known; /* they live in an array */
}

static struct known *known_find(void *const *tree, const char *name)
{
	const struct known key = {.name = name};
	void *node = tfind(&key, tree, known_compare);

	return node ? *(struct known **)node : NULL;
}

/* The one in the tree that bears the name of @known: that one, unless somebody came before it. */
static struct known *known_add(void **tree, struct known *known)
{
	struct known **node = tsearch(known, tree, known_compare);

	if (!node)
		xoom();
	return *node;
}

/* Gives @claim that name, or NULL where somebody has it. */
static char *give(void **tree, const struct claim *claim, size_t number, struct known *known)
{
	vs_autofree char *shown = compose(claim, number);

	*known = (struct known){.name = shown, .n = 2};
	return known_add(tree, known) == known ? vs_steal(shown) : NULL;
}

/* For one that came second: counts on from the bearer of the name that it would have liked. */
static char *give_numbered(void **tree, const struct claim *claim, struct known *known)
{
	vs_autofree char *liked = compose(claim, 1);
	struct known *first = known_find(tree, liked);
	char *shown = NULL;

	while (!shown)
		shown = give(tree, claim, first->n++, known);
	return shown;
}

/* Gives every claim its name; see the top of this file. */
static void settle(const struct claim *claims, size_t n, char **out)
{
	vs_autofree struct known *known = xcalloc(n, sizeof(*known));
	void *tree = NULL;

	for (size_t i = 0; i < n; i++)
		out[i] = give(&tree, &claims[i], 1, &known[i]);
	for (size_t i = 0; i < n; i++)
		if (!out[i])
			out[i] = give_numbered(&tree, &claims[i], &known[i]);
	tdestroy(tree, known_keep);
}

/* The mark of @name: its escaped id, cut to ID_MAX, or a hash where there is no id. */
static char *make_mark(const char *name, const char *id)
{
	char *mark;

	if (!id)
		return xasprintf("%08x", (unsigned)(vm_ino(0, name) >> 32));
	mark = vm_name_escape(id);
	mark[fit(mark, ID_MAX)] = '\0';
	return mark;
}

static void make_claim(const char *name, const char *id, bool marked, size_t limit, struct claim *claim)
{
	claim->limit = limit;
	claim->base = vm_name_escape(name);
	if (marked || !name[0] || strlen(claim->base) > limit)
		claim->mark = make_mark(name, id);
}

/* How many bear each name: bearers[i] is the count for in[i].name. */
static void count_bearers(const struct vm_name_in *in, size_t n, size_t *bearers)
{
	vs_autofree struct known *known = xcalloc(n, sizeof(*known));
	void *tree = NULL;

	for (size_t i = 0; i < n; i++) {
		known[i].name = in[i].name;
		known_add(&tree, &known[i])->n++;
	}
	for (size_t i = 0; i < n; i++)
		bearers[i] = known_find(&tree, in[i].name)->n;
	tdestroy(tree, known_keep);
}

void vm_names_shown(const struct vm_name_in *in, size_t n, char **out)
{
	vs_autofree size_t *bearers = xcalloc(n, sizeof(*bearers));
	struct claim *claims = xcalloc(n, sizeof(*claims));

	count_bearers(in, n, bearers);
	for (size_t i = 0; i < n; i++) {
		bool marked = in[i].force_id || (bearers[i] > 1 && in[i].id);
		size_t limit = in[i].suffix_len < VM_NAME_MAX ? VM_NAME_MAX - in[i].suffix_len : 1;

		make_claim(in[i].name, in[i].id, marked, limit, &claims[i]);
	}
	settle(claims, n, out);
	claims_free(claims, n);
}

void vm_names_dirs(const char *const *raw, size_t n, char **out)
{
	struct claim *claims = xcalloc(n, sizeof(*claims));

	for (size_t i = 0; i < n; i++)
		make_claim(raw[i], NULL, false, VM_NAME_MAX, &claims[i]);
	settle(claims, n, out);
	claims_free(claims, n);
}

/* ---------------------------------------------------------------- file names */

#define IMAGE_SUFFIX ".img"
#define XML_SUFFIX ".xml"

size_t vm_name_suffix_len(const char *const *targets, size_t n_targets)
{
	size_t longest = strlen(XML_SUFFIX);

	for (size_t i = 0; i < n_targets; i++) {
		vs_autofree char *shown = vm_name_escape(targets[i]);
		size_t len = 1 + strlen(shown) + strlen(IMAGE_SUFFIX);

		if (len > longest)
			longest = len;
	}
	return longest;
}

char *vm_name_stem(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	const char *dot = strrchr(name, '.');

	return xstrndup(name, dot && dot != name ? (size_t)(dot - name) : strlen(name));
}

char *vm_name_image_file(const char *shown, const char *target)
{
	vs_autofree char *escaped = vm_name_escape(target);

	return xasprintf("%s.%s" IMAGE_SUFFIX, shown, escaped);
}

char *vm_name_xml_file(const char *shown)
{
	return xasprintf("%s" XML_SUFFIX, shown);
}

char *vm_name_nv_file(const char *shown, const char *what)
{
	return xasprintf("%s.%s", shown, what);
}
