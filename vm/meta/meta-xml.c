/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The text form; its table is in meta.h.
 *
 * What we read may have been written by anybody who may edit the domain or the file's attributes. So: no document type
 * (and with it no entities), no network, UTF-8 whatever the text claims, and a budget that every value and element is
 * charged to, which also bounds what comes inside a large domain document. What we write, we can read: a name goes
 * through %XX before it goes through XML, which could not carry a control byte at all.
 *
 * An element that does not make sense is an error, not a guess: to overlook a hold is to delete what it held.
 */
#include "vm/meta/meta.h"

#include <errno.h>
#include <inttypes.h>
#include <libxml/entities.h>
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <pthread.h>
#include <string.h>

#include "vm/model/names.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"
#include "vm/util/utf8.h"

#define VERSION 2
#define NS_PER_S ((uint64_t)VM_NS_PER_S)

/* libvirt gives our text back indented, and with characters as &#xE4; so what we read may be longer than what we wrote.
 * What counts is the budget: no element costs more than the bytes in which we write it. */
#define READ_MAX (8 * VM_META_MAX)
#define SNAPSHOT_COST 20 /* <s n="" t="" is=""/> */
#define LETTERS "eioh" /* external, internal, taken here, held */
#define MARK_COST 25     /* <b k="" c="" r="" t=""></b> */
#define DISK_COST 8      /* <d t=""/> */
#define MADE_COST 8      /* <l p=""/> */
#define NV_COST 16       /* <q w="" p="" m=""/> */
#define FILE_COST 24     /* <f k="" i="" z="" m=""/> */

/* ---------------------------------------------------------------- writing */

static void put_attr(FILE *f, const char *name, const char *value)
{
	vs_autofree char *escaped = value ? vm_utf8_escape(value, strlen(value), "%") : NULL;
	xmlChar *quoted = value ? xmlEncodeSpecialChars(NULL, (const xmlChar *)escaped) : NULL;

	if (!value)
		return;
	if (!quoted)
		xoom();
	fprintf(f, " %s=\"%s\"", name, (const char *)quoted);
	xmlFree(quoted);
}

/* Sign and amount, so that -0.5 s is not mistaken for -1.5 s. */
static void put_time(FILE *f, const char *name, int64_t ns)
{
	uint64_t amount = ns < 0 ? -(uint64_t)ns : (uint64_t)ns;

	fprintf(f, " %s=\"%s%" PRIu64, name, ns < 0 ? "-" : "", amount / NS_PER_S);
	if (amount % NS_PER_S)
		fprintf(f, ".%09" PRIu64, amount % NS_PER_S);
	putc('"', f);
}

static void put_number(FILE *f, const char *name, uint64_t number)
{
	if (number)
		fprintf(f, " %s=\"%" PRIu64 "\"", name, number);
}

/* The number of the mark of the @i'th snapshot: that of the first one that it dooms. */
static size_t mark_number(const struct vm_meta *meta, size_t i)
{
	size_t first = i;

	for (size_t k = 0; k < i && first == i; k++)
		if (meta->snapshots[k].mark == meta->snapshots[i].mark)
			first = k;
	return first + 1;
}

static void put_doomed(FILE *f, const struct vm_meta_doomed *disk)
{
	fputs("<d", f);
	put_attr(f, "t", disk->target);
	put_attr(f, "p", disk->path);
	put_attr(f, "u", disk->top);
	put_number(f, "b", disk->path_ino);
	put_number(f, "k", disk->top_ino);
	put_number(f, "a", disk->above_ino);
	if (disk->mtime_ns)
		put_time(f, "w", disk->mtime_ns);
	if (disk->left_ns)
		put_time(f, "l", disk->left_ns);
	if (disk->done || disk->pivoting || disk->unasked)
		fprintf(f, " x=\"%s%s%s\"", disk->done ? "d" : "", disk->pivoting ? "p" : "", disk->unasked ? "n" : "");
	fputs("/>", f);
}

static void put_mark(FILE *f, const struct vm_meta_mark *mark, size_t number)
{
	fprintf(f, "<b k=\"%zu\"", number);
	put_attr(f, "c", mark->command);
	put_attr(f, "r", mark->reason);
	put_time(f, "t", mark->since_ns);
	if (mark->is_void || mark->retention)
		fprintf(f, " x=\"%s%s\"", mark->is_void ? "v" : "", mark->retention ? "r" : "");
	putc('>', f);
	for (size_t i = 0; i < mark->n_disks; i++)
		put_doomed(f, &mark->disks[i]);
	fputs("</b>", f);
}

/* What is left out where there is too little room: each and all before it. */
enum room { ALL, NO_SUMS, NO_DEPTHS, NO_ATTESTED, NO_FROZEN };

static void put_file(FILE *f, const struct vm_meta_file *file, enum room room)
{
	fprintf(f, "<f k=\"%" PRIu64 "\" i=\"%" PRIu64 "\" z=\"%" PRIu64 "\"", file->number, file->ino, file->size);
	put_time(f, "m", file->mtime_ns);
	if (room < NO_DEPTHS)
		put_number(f, "u", file->beneath);
	if (file->alone || file->raw || file->empty)
		fprintf(f, " x=\"%s%s%s\"", file->alone ? "a" : "", file->raw ? "r" : "", file->empty ? "e" : "");
	if (room < NO_SUMS)
		put_number(f, "g", file->sum);
	put_number(f, "c", file->survived);
	fputs("/>", f);
}

static void put_attested(FILE *f, const struct vm_meta_snapshot *s)
{
	fputs(" v=\"", f);
	for (size_t i = 0; i < s->n_attested; i++)
		fprintf(f, "%s%" PRIu64, i ? "," : "", s->attested[i]);
	putc('"', f);
}

static uint64_t told_file(const struct vm_meta_frozen *frozen, enum room room)
{
	return room < NO_FROZEN ? frozen->file : 0;
}

/* Of what libvirt lets through, blanks and % would end a word or begin what is none. */
static void put_target(FILE *list, const char *blank, const char *target)
{
	vs_autofree char *escaped = vm_utf8_escape(target, strlen(target), "% ");

	fprintf(list, "%s%s:", blank, escaped);
}

static bool has_frozen(const struct vm_meta_snapshot *s, enum room room)
{
	for (size_t i = 0; i < s->n_frozen; i++)
		if (told_file(&s->frozen[i], room) || s->frozen[i].spoilt)
			return true;
	return false;
}

static void put_frozen(FILE *f, const struct vm_meta_snapshot *s, enum room room)
{
	vs_autofree char *text = NULL;
	const char *blank = "";
	size_t len;
	FILE *list = xmemopen(&text, &len);

	for (size_t i = 0; i < s->n_frozen; i++)
		if (told_file(&s->frozen[i], room) || s->frozen[i].spoilt) {
			put_target(list, blank, s->frozen[i].target);
			fprintf(list, "%" PRIu64 "%s", told_file(&s->frozen[i], room), s->frozen[i].spoilt ? "!" : "");
			blank = " ";
		}
	xmemclose(list);
	put_attr(f, "p", text);
}

static bool has_shown(const struct vm_meta_snapshot *s, enum room room)
{
	for (size_t i = 0; room < NO_SUMS && i < s->n_frozen; i++)
		if (s->frozen[i].shows)
			return true;
	return false;
}

static void put_shown(FILE *f, const struct vm_meta_snapshot *s)
{
	vs_autofree char *text = NULL;
	const char *blank = "";
	size_t len;
	FILE *list = xmemopen(&text, &len);

	for (size_t i = 0; i < s->n_frozen; i++)
		if (s->frozen[i].shows) {
			put_target(list, blank, s->frozen[i].target);
			fprintf(list, "%" PRIu64, s->frozen[i].shows);
			blank = " ";
		}
	xmemclose(list);
	put_attr(f, "w", text);
}

static bool says_something(const struct vm_meta_snapshot *s, enum room room)
{
	return s->ours || s->held || s->mark || s->n_nv || (room < NO_ATTESTED && s->n_attested) || has_frozen(s, room) || has_shown(s, room);
}

static void put_nv(FILE *f, const struct vm_meta_nv *nv)
{
	fputs("<q", f);
	put_attr(f, "w", nv->what);
	put_attr(f, "p", nv->path);
	put_number(f, "i", nv->ino);
	put_number(f, "z", nv->size);
	put_time(f, "m", nv->mtime_ns);
	put_number(f, "g", nv->sum);
	fputs("/>", f);
}

static void put_snapshot(FILE *f, const struct vm_meta *meta, size_t i, enum room room)
{
	const struct vm_meta_snapshot *s = &meta->snapshots[i];

	fputs("<s", f);
	put_attr(f, "n", s->name);
	put_time(f, "t", s->created_ns);
	fprintf(f, " is=\"%s%s%s\"", s->kind == VM_EXTERNAL ? "e" : "i", s->ours ? "o" : "", s->held ? "h" : "");
	if (s->mark)
		put_number(f, "b", mark_number(meta, i));
	if (room < NO_ATTESTED && s->n_attested)
		put_attested(f, s);
	if (has_frozen(s, room))
		put_frozen(f, s, room);
	if (has_shown(s, room))
		put_shown(f, s);
	if (!s->n_nv) {
		fputs("/>", f);
		return;
	}
	putc('>', f);
	for (size_t k = 0; k < s->n_nv; k++)
		put_nv(f, &s->nv[k]);
	fputs("</s>", f);
}

static bool is_attested(const struct vm_meta_snapshot *s, uint64_t number)
{
	for (size_t i = 0; i < s->n_attested; i++)
		if (s->attested[i] == number)
			return true;
	return false;
}

static bool is_frozen(const struct vm_meta_snapshot *s, uint64_t number)
{
	for (size_t i = 0; i < s->n_frozen; i++)
		if (s->frozen[i].file == number)
			return true;
	return false;
}

static bool has_room(const struct vm_meta *meta, const struct vm_meta_file *file, enum room room)
{
	bool told = room < NO_DEPTHS;

	for (size_t i = 0; !told && i < meta->n_snapshots; i++)
		told = (room < NO_ATTESTED && is_attested(&meta->snapshots[i], file->number)) ||
		       (room < NO_FROZEN && is_frozen(&meta->snapshots[i], file->number));
	return told;
}

static void put_meta(FILE *f, const struct vm_meta *meta, enum room room)
{
	fprintf(f, "<facts version=\"%d\" serial=\"%" PRIu64 "\"", VERSION, meta->serial);
	put_attr(f, "policy", meta->policy);
	put_attr(f, "of", meta->of);
	put_attr(f, "on", meta->on);
	putc('>', f);
	for (size_t i = 0; i < meta->n_files; i++)
		if (has_room(meta, &meta->files[i], room))
			put_file(f, &meta->files[i], room);
	for (size_t i = 0; i < meta->n_made; i++) {
		fputs("<l", f);
		put_attr(f, "p", meta->made[i].path);
		put_number(f, "i", meta->made[i].ino);
		if (meta->made[i].born_ns)
			put_time(f, "b", meta->made[i].born_ns);
		fputs("/>", f);
	}
	for (size_t i = 0; i < meta->n_snapshots; i++)
		if (meta->snapshots[i].mark && mark_number(meta, i) == i + 1)
			put_mark(f, meta->snapshots[i].mark, i + 1);
	for (size_t i = 0; i < meta->n_snapshots; i++)
		if (says_something(&meta->snapshots[i], room))
			put_snapshot(f, meta, i, room);
	fputs("</facts>", f);
}

/* Gives *text, which may still be too long. */
static enum room write_out(const struct vm_meta *meta, char **text, size_t *len)
{
	enum room room = ALL;

	for (*text = NULL;; room++) {
		FILE *f;

		free(*text);
		f = xmemopen(text, len);
		put_meta(f, meta, room);
		xmemclose(f);
		if (*len <= VM_META_MAX || room == NO_FROZEN)
			return room;
	}
}

const char *vm_meta_left_out(const struct vm_meta *meta)
{
	static const char *const what[] = {
		NULL, "the sums of images", "the sums of images, and what lies further down", "what is attested, and the sums of images",
		"what its snapshots froze",
	};
	vs_autofree char *text = NULL;
	size_t len;

	return what[write_out(meta, &text, &len)];
}

int vm_meta_text(const struct vm_meta *meta, char **text, struct vs_err *err)
{
	vs_autofree char *out = NULL;
	size_t len = 0;

	write_out(meta, &out, &len);
	if (len > VM_META_MAX)
		return vs_err_set(err, -E2BIG, "what is known of %zu snapshots would take %zu bytes of the domain's metadata, "
				  "and %d is the limit; delete or release some", meta->n_snapshots, len, VM_META_MAX);
	*text = vs_steal(out);
	return 0;
}

/* ---------------------------------------------------------------- reading: values */

struct reader {
	struct vm_meta *meta;
	struct numbered_mark {
		uint64_t number;
		struct vm_meta_mark mark;
	} *marks;
	size_t n_marks;
	size_t budget;
	struct vs_err *err;
};

static int bad(struct reader *r, const xmlNode *node, const char *reason)
{
	return vs_err_set(r->err, -EINVAL, "our facts in the metadata: line %ld: <%s> %s", xmlGetLineNo(node),
			  (const char *)node->name, reason);
}

static int charge(struct reader *r, size_t bytes)
{
	if (bytes > r->budget)
		return vs_err_set(r->err, -E2BIG, "our facts in the metadata are larger than %d bytes", VM_META_MAX);
	r->budget -= bytes;
	return 0;
}

/* The value of an attribute, as it was before put_attr(). NULL where there is none. Gives *value. */
static int get_attr(struct reader *r, const xmlNode *node, const char *name, char **value)
{
	xmlChar *escaped = xmlGetNoNsProp(node, (const xmlChar *)name);
	int ret;

	*value = NULL;
	if (!escaped)
		return xmlHasNsProp(node, (const xmlChar *)name, NULL) ? bad(r, node, "has a value that cannot be read") : 0;
	ret = charge(r, strlen((char *)escaped));
	if (ret == 0 && vm_name_unescape((char *)escaped, value) < 0)
		ret = bad(r, node, "has a value with a % that begins no %XX");
	xmlFree(escaped);
	return ret;
}

static int need_attr(struct reader *r, const xmlNode *node, const char *name, char **value)
{
	int ret = get_attr(r, node, name, value);

	return ret == 0 && !*value ? bad(r, node, "lacks an attribute") : ret;
}

/* Takes digits off @s; false: there are none, or they say more than @max. */
static bool take_number(const char **s, uint64_t max, uint64_t *number)
{
	const char *start = *s;
	uint64_t n = 0;

	for (; **s >= '0' && **s <= '9'; (*s)++) {
		uint64_t digit = (uint64_t)(**s - '0');

		if (n > (max - digit) / 10)
			return false;
		n = n * 10 + digit;
	}
	*number = n;
	return *s != start;
}

/* Takes what follows the point, one to nine digits, as nanoseconds. */
static bool take_fraction(const char **s, uint64_t *ns)
{
	const char *start = *s;

	if (!take_number(s, NS_PER_S - 1, ns) || *s - start > 9)
		return false;
	for (ptrdiff_t digits = *s - start; digits < 9; digits++)
		*ns *= 10;
	return true;
}

static bool parse_time(const char *s, int64_t *out)
{
	bool negative = *s == '-', pointed;
	uint64_t whole, fraction = 0, amount;

	s += negative;
	if (!take_number(&s, INT64_MAX / NS_PER_S, &whole))
		return false;
	pointed = *s == '.';
	s += pointed;
	if (pointed && !take_fraction(&s, &fraction))
		return false;
	amount = whole * NS_PER_S + fraction;
	if (*s || amount > (uint64_t)INT64_MAX + negative)
		return false;
	*out = (int64_t)(negative ? -amount : amount);
	return true;
}

static int get_time(struct reader *r, const xmlNode *node, const char *name, int64_t *ns)
{
	vs_autofree char *value = NULL;
	int ret = need_attr(r, node, name, &value);

	if (ret == 0 && !parse_time(value, ns))
		ret = bad(r, node, "has a time that is none");
	return ret;
}

/* A whole number up to @max; 0 where there is no such attribute. */
static int get_number(struct reader *r, const xmlNode *node, const char *name, uint64_t max, uint64_t *number)
{
	vs_autofree char *value = NULL;
	int ret = get_attr(r, node, name, &value);
	const char *s = value;

	*number = 0;
	if (ret == 0 && value && (!take_number(&s, max, number) || *s))
		ret = bad(r, node, "has a number that is none");
	return ret;
}

/* ---------------------------------------------------------------- reading: elements */

/* Is it the element of that name, with our name space or with none? */
static bool is_element(const xmlNode *node, const char *name)
{
	return node->type == XML_ELEMENT_NODE && !strcmp((const char *)node->name, name) &&
	       (!node->ns || !strcmp((const char *)node->ns->href, VM_META_URI));
}

static const xmlNode *next_element(const xmlNode *node, const char *name)
{
	while (node && !is_element(node, name))
		node = node->next;
	return node;
}

static int read_disk(struct reader *r, const xmlNode *node, struct vm_meta_mark *mark)
{
	vs_autofree char *letters = NULL;
	struct vm_meta_doomed *disk;
	int ret;

	mark->disks = xreallocarray(mark->disks, mark->n_disks + 1, sizeof(*mark->disks));
	disk = &mark->disks[mark->n_disks++];
	*disk = (struct vm_meta_doomed){ .target = NULL };
	if ((ret = charge(r, DISK_COST)) < 0 ||
	    (ret = need_attr(r, node, "t", &disk->target)) < 0 ||
	    (ret = get_attr(r, node, "p", &disk->path)) < 0 ||
	    (ret = get_attr(r, node, "u", &disk->top)) < 0 ||
	    (ret = get_number(r, node, "b", UINT64_MAX, &disk->path_ino)) < 0 ||
	    (ret = get_number(r, node, "k", UINT64_MAX, &disk->top_ino)) < 0 ||
	    (ret = get_number(r, node, "a", UINT64_MAX, &disk->above_ino)) < 0)
		return ret;
	if (xmlHasNsProp(node, (const xmlChar *)"w", NULL) && (ret = get_time(r, node, "w", &disk->mtime_ns)) < 0)
		return ret;
	if (xmlHasNsProp(node, (const xmlChar *)"l", NULL) && (ret = get_time(r, node, "l", &disk->left_ns)) < 0)
		return ret;
	if ((ret = get_attr(r, node, "x", &letters)) < 0)
		return ret;
	disk->done = letters && strchr(letters, 'd');
	disk->pivoting = letters && strchr(letters, 'p');
	disk->unasked = letters && strchr(letters, 'n');
	return 0;
}

static int read_mark(struct reader *r, const xmlNode *node, struct vm_meta_mark *mark)
{
	vs_autofree char *letters = NULL;
	int ret;

	if ((ret = charge(r, MARK_COST)) < 0 ||
	    (ret = need_attr(r, node, "c", &mark->command)) < 0 ||
	    (ret = need_attr(r, node, "r", &mark->reason)) < 0 ||
	    (ret = get_time(r, node, "t", &mark->since_ns)) < 0 ||
	    (ret = get_attr(r, node, "x", &letters)) < 0)
		return ret;
	mark->is_void = letters && strchr(letters, 'v');
	mark->retention = letters && strchr(letters, 'r');
	for (const xmlNode *d = next_element(node->children, "d"); d; d = next_element(d->next, "d"))
		if ((ret = read_disk(r, d, mark)) < 0)
			return ret;
	return 0;
}

static const struct vm_meta_mark *mark_of(const struct reader *r, uint64_t number)
{
	for (size_t i = 0; i < r->n_marks; i++)
		if (r->marks[i].number == number)
			return &r->marks[i].mark;
	return NULL;
}

static int read_numbered_mark(struct reader *r, const xmlNode *node)
{
	uint64_t number;
	int ret;

	if ((ret = get_number(r, node, "k", VM_META_SERIAL_MAX, &number)) < 0)
		return ret;
	if (!number || mark_of(r, number))
		return bad(r, node, "has no number of its own");
	r->marks = xreallocarray(r->marks, r->n_marks + 1, sizeof(*r->marks));
	r->marks[r->n_marks] = (struct numbered_mark){ .number = number };
	return read_mark(r, node, &r->marks[r->n_marks++].mark);
}

static void drop_marks(struct reader *r)
{
	for (size_t i = 0; i < r->n_marks; i++)
		vm_meta_mark_fini(&r->marks[i].mark);
	free(r->marks);
}

/* By its number, or as version 1 has it. */
static int read_its_mark(struct reader *r, const xmlNode *node, const struct vm_meta_id *id)
{
	const xmlNode *within = next_element(node->children, "m");
	struct vm_meta_mark mark vs_cleanup(vm_meta_mark_fini) = { .n_disks = 0 };
	const struct vm_meta_mark *found = NULL;
	uint64_t number;
	int ret;

	if ((ret = get_number(r, node, "b", VM_META_SERIAL_MAX, &number)) < 0)
		return ret;
	if (id->kind == VM_INTERNAL && (number || within))
		return bad(r, node, "is internal, and no command of ours leaves those half done");
	if (number && !(found = mark_of(r, number)))
		return bad(r, node, "is doomed by a command that is not there");
	if (!number && within) {
		if ((ret = read_mark(r, within, &mark)) < 0)
			return ret;
		found = &mark;
	}
	if (found)
		vm_meta_set_mark(r->meta, id, found);
	return 0;
}

/* What the letters say, then the mark. */
static int read_facts(struct reader *r, const xmlNode *node, const char *letters, struct vm_meta_id *id)
{
	if (letters[strspn(letters, LETTERS)])
		return bad(r, node, "has a letter that is not known here");
	if (!strchr(letters, 'e') == !strchr(letters, 'i'))
		return bad(r, node, "is neither external nor internal, or both");
	id->kind = strchr(letters, 'e') ? VM_EXTERNAL : VM_INTERNAL;
	if (strchr(letters, 'o'))
		vm_meta_set_ours(r->meta, id, true);
	if (strchr(letters, 'h'))
		vm_meta_set_held(r->meta, id, true);
	return read_its_mark(r, node, id);
}

static int read_file(struct reader *r, const xmlNode *node)
{
	struct vm_meta *meta = r->meta;
	struct vm_meta_file file = { .number = 0 };
	vs_autofree char *letters = NULL;
	int ret;

	if ((ret = charge(r, FILE_COST)) < 0 ||
	    (ret = get_number(r, node, "k", VM_META_SERIAL_MAX, &file.number)) < 0 ||
	    (ret = get_number(r, node, "i", UINT64_MAX, &file.ino)) < 0 ||
	    (ret = get_number(r, node, "z", UINT64_MAX, &file.size)) < 0 ||
	    (ret = get_time(r, node, "m", &file.mtime_ns)) < 0 ||
	    (ret = get_number(r, node, "u", VM_META_SERIAL_MAX, &file.beneath)) < 0 ||
	    (ret = get_number(r, node, "g", UINT64_MAX, &file.sum)) < 0 ||
	    (ret = get_number(r, node, "c", UINT64_MAX, &file.survived)) < 0 ||
	    (ret = get_attr(r, node, "x", &letters)) < 0)
		return ret;
	file.alone = letters && strchr(letters, 'a');
	file.raw = letters && strchr(letters, 'r');
	file.empty = letters && strchr(letters, 'e');
	meta->files = xreallocarray(meta->files, meta->n_files + 1, sizeof(*meta->files));
	meta->files[meta->n_files++] = file;
	return 0;
}

static int by_number(const void *a, const void *b)
{
	const struct vm_meta_file *x = a, *y = b;

	return (x->number > y->number) - (x->number < y->number);
}

/* What one stands on has a smaller number: so nothing stands on itself. */
static int settle_files(struct reader *r, const xmlNode *node)
{
	struct vm_meta *meta = r->meta;

	if (meta->n_files)
		qsort(meta->files, meta->n_files, sizeof(*meta->files), by_number);
	for (size_t i = 0; i < meta->n_files; i++)
		if (!meta->files[i].number || (i && meta->files[i - 1].number == meta->files[i].number))
			return bad(r, node, "has a file with no number of its own");
	for (size_t i = 0; i < meta->n_files; i++)
		if (meta->files[i].beneath && (meta->files[i].beneath >= meta->files[i].number || !vm_meta_file(meta, meta->files[i].beneath)))
			return bad(r, node, "has a file that stands on one which is not there");
	return 0;
}

static int read_made(struct reader *r, const xmlNode *node)
{
	vs_autofree char *path = NULL;
	struct vm_meta_made made = { .path = NULL };
	int ret;

	if ((ret = charge(r, MADE_COST)) < 0 ||
	    (ret = need_attr(r, node, "p", &path)) < 0 ||
	    (ret = get_number(r, node, "i", UINT64_MAX, &made.ino)) < 0)
		return ret;
	if (xmlHasNsProp(node, (const xmlChar *)"b", NULL) && (ret = get_time(r, node, "b", &made.born_ns)) < 0)
		return ret;
	made.path = path;
	vm_meta_add_made(r->meta, &made);
	return 0;
}

static bool is_among(const struct vm_meta_file *files, size_t n, uint64_t number)
{
	for (size_t i = 0; i < n; i++)
		if (files[i].number == number)
			return true;
	return false;
}

/* The files come before the snapshots. One may be named more than once: earlier versions named what several disks share for each of them. */
static int read_attested(struct reader *r, const xmlNode *node, const struct vm_meta_id *id)
{
	vs_autofree struct vm_meta_file *files = xcalloc(r->meta->n_files, sizeof(*files));
	vs_autofree char *value = NULL;
	size_t n = 0;
	int ret;

	if ((ret = get_attr(r, node, "v", &value)) < 0)
		return ret;
	for (const char *s = value; s && *s; s += *s == ',') {
		const struct vm_meta_file *file;
		uint64_t number;

		if (!take_number(&s, VM_META_SERIAL_MAX, &number) || (*s && *s != ','))
			return bad(r, node, "has a list of numbers that is none");
		file = vm_meta_file(r->meta, number);
		if (!file)
			return bad(r, node, "is vouched for with a file that is not there");
		if (!is_among(files, n, number))
			files[n++] = *file;
	}
	if (n)
		vm_meta_set_attested(r->meta, id, files, n);
	return 0;
}

/* The target of "vda:3", whose colon is at @colon. Gives. Earlier versions wrote it as it is. */
static char *target_of(const char *item, const char *colon)
{
	vs_autofree char *escaped = xstrndup(item, (size_t)(colon - item));
	char *target;

	return vm_name_unescape(escaped, &target) == 0 ? target : vs_steal(escaped);
}

/* "vda:3 vdb:4" */
static int read_frozen(struct reader *r, const xmlNode *node, const struct vm_meta_id *id)
{
	vs_autofree char *value = NULL;
	char *save = NULL;
	int ret;

	if ((ret = get_attr(r, node, "p", &value)) < 0)
		return ret;
	for (char *item = value ? strtok_r(value, " ", &save) : NULL; item; item = strtok_r(NULL, " ", &save)) {
		const char *colon = strrchr(item, ':');
		const char *s = colon ? colon + 1 : "";
		const struct vm_meta_file *file;
		vs_autofree char *target = NULL;
		uint64_t number;
		bool spoilt;

		if (!take_number(&s, VM_META_SERIAL_MAX, &number) || colon == item)
			return bad(r, node, "has a list of what it froze that is none");
		spoilt = *s == '!';
		if (s[spoilt])
			return bad(r, node, "has a list of what it froze that is none");
		target = target_of(item, colon);
		file = vm_meta_file(r->meta, number);
		if (!file && (number || !spoilt))
			return bad(r, node, "froze a file that is not there");
		if (file)
			vm_meta_set_frozen(r->meta, id, target, file);
		vm_meta_set_spoilt(r->meta, id, target, spoilt);
	}
	return 0;
}

/* "vda:4711 vdb:12" */
static int read_shown(struct reader *r, const xmlNode *node, const struct vm_meta_id *id)
{
	vs_autofree char *value = NULL;
	char *save = NULL;
	int ret;

	if ((ret = get_attr(r, node, "w", &value)) < 0)
		return ret;
	for (char *item = value ? strtok_r(value, " ", &save) : NULL; item; item = strtok_r(NULL, " ", &save)) {
		const char *colon = strrchr(item, ':');
		const char *s = colon ? colon + 1 : "";
		vs_autofree char *target = NULL;
		uint64_t sum;

		if (!take_number(&s, UINT64_MAX, &sum) || *s || colon == item)
			return bad(r, node, "has a list of what it shows that is none");
		target = target_of(item, colon);
		vm_meta_set_shows(r->meta, id, target, sum);
	}
	return 0;
}

static int read_nv(struct reader *r, const xmlNode *node, const struct vm_meta_id *id)
{
	vs_autofree char *what = NULL, *path = NULL;
	struct vm_meta_nv nv = { .what = NULL };
	int ret;

	if ((ret = charge(r, NV_COST)) < 0 ||
	    (ret = need_attr(r, node, "w", &what)) < 0 ||
	    (ret = need_attr(r, node, "p", &path)) < 0 ||
	    (ret = get_number(r, node, "i", UINT64_MAX, &nv.ino)) < 0 ||
	    (ret = get_number(r, node, "z", UINT64_MAX, &nv.size)) < 0 ||
	    (ret = get_time(r, node, "m", &nv.mtime_ns)) < 0 ||
	    (ret = get_number(r, node, "g", UINT64_MAX, &nv.sum)) < 0)
		return ret;
	nv.what = what;
	nv.path = path;
	vm_meta_set_nv(r->meta, id, &nv);
	return 0;
}

static int read_snapshot(struct reader *r, const xmlNode *node)
{
	vs_autofree char *name = NULL;
	vs_autofree char *letters = NULL;
	struct vm_meta_id id = { .name = NULL };
	int ret;

	if ((ret = charge(r, SNAPSHOT_COST)) < 0 ||
	    (ret = need_attr(r, node, "n", &name)) < 0 ||
	    (ret = get_time(r, node, "t", &id.created_ns)) < 0 ||
	    (ret = need_attr(r, node, "is", &letters)) < 0)
		return ret;
	id.name = name;
	if ((ret = read_facts(r, node, letters, &id)) < 0 ||
	    (ret = read_attested(r, node, &id)) < 0)
		return ret;
	ret = read_frozen(r, node, &id);
	if (ret == 0)
		ret = read_shown(r, node, &id);
	for (const xmlNode *q = next_element(node->children, "q"); ret == 0 && q; q = next_element(q->next, "q"))
		ret = read_nv(r, q, &id);
	return ret;
}

static int read_version(struct reader *r, const xmlNode *node)
{
	uint64_t version;
	int ret;

	if ((ret = get_number(r, node, "version", UINT32_MAX, &version)) < 0)
		return ret;
	if (version == 0)
		return bad(r, node, "has no version");
	if (version > VERSION)
		return vs_err_set(r->err, -EOPNOTSUPP, "our facts in the metadata are of version %" PRIu64 ", written by a newer "
				  "virt-snapfs; this one knows version %d", version, VERSION);
	return 0;
}

/* What nobody knows may be what somebody holds. */
static int check_children(struct reader *r, const xmlNode *node)
{
	for (const xmlNode *child = node->children; child; child = child->next)
		if (child->type == XML_ELEMENT_NODE && !is_element(child, "f") && !is_element(child, "l") && !is_element(child, "b") &&
		    !is_element(child, "s"))
			return bad(r, child, "is not known here");
	return 0;
}

static int read_each(struct reader *r, const xmlNode *node, const char *name, int (*read)(struct reader *r, const xmlNode *node))
{
	int ret = 0;

	for (const xmlNode *e = next_element(node->children, name); ret == 0 && e; e = next_element(e->next, name))
		ret = read(r, e);
	return ret;
}

static int read_meta(struct reader *r, const xmlNode *node)
{
	int ret;

	if (!is_element(node, "facts"))
		return bad(r, node, "is not <facts>");
	if ((ret = read_version(r, node)) < 0 ||
	    (ret = check_children(r, node)) < 0 ||
	    (ret = get_number(r, node, "serial", VM_META_SERIAL_MAX, &r->meta->serial)) < 0 ||
	    (ret = get_attr(r, node, "policy", &r->meta->policy)) < 0 ||
	    (ret = get_attr(r, node, "of", &r->meta->of)) < 0 ||
	    (ret = get_attr(r, node, "on", &r->meta->on)) < 0 ||
	    (ret = read_each(r, node, "f", read_file)) < 0 ||
	    (ret = settle_files(r, node)) < 0 ||
	    (ret = read_each(r, node, "l", read_made)) < 0 ||
	    (ret = read_each(r, node, "b", read_numbered_mark)) < 0)
		return ret;
	return read_each(r, node, "s", read_snapshot);
}

static int read_root(const xmlNode *element, struct vm_meta **out, struct vs_err *err)
{
	struct reader r = { .meta = vm_meta_new(), .budget = VM_META_MAX, .err = err };
	int ret = read_meta(&r, element);

	drop_marks(&r);
	if (ret < 0)
		vm_meta_free(r.meta);
	else
		*out = r.meta;
	return ret;
}

/* ---------------------------------------------------------------- reading: text */

static void init_parser(void)
{
	xmlInitParser();
}

static bool has_document_type(const char *text, size_t len)
{
	return memmem(text, len, "<!DOCTYPE", strlen("<!DOCTYPE")) != NULL;
}

int vm_meta_parse(const char *text, size_t len, struct vm_meta **out, struct vs_err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	const xmlNode *root;
	xmlDoc *doc;
	int ret;

	if (len > READ_MAX)
		return vs_err_set(err, -E2BIG, "our facts in the metadata are larger than %d bytes", VM_META_MAX);
	if (has_document_type(text, len))
		return vs_err_set(err, -EINVAL, "our facts in the metadata bring a document type");
	pthread_once(&once, init_parser);
	doc = xmlReadMemory(text, (int)len, NULL, "UTF-8", XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
	root = doc ? xmlDocGetRootElement(doc) : NULL;
	if (root && !xmlGetIntSubset(doc))
		ret = read_root(root, out, err);
	else
		ret = vs_err_set(err, -EINVAL, "our facts in the metadata are not well-formed XML");
	xmlFreeDoc(doc);
	return ret;
}
