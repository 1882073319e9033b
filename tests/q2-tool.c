/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * q2-tool: qcow2/qcow2.h on the command line, for the suites.
 *
 * It answers for one state of one image (its present content, or one snapshot) what a program that uses the library
 * would be told: the bytes, the extents, the holes. On failure "ERRNO-NAME: message" goes to stderr and the exit
 * status is 1; 2 is a usage error. Nothing is printed for a state that failed half-way but what came before.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "qcow2/qcow2.h"

#define PIECE (512 * 1024)

static const char usage_text[] =
	"usage: q2-tool info|whole IMAGE\n"
	"       q2-tool cat|map|extents|report|allocated|compressed|verify|size|layers IMAGE\n"
	"       q2-tool read IMAGE OFFSET LENGTH\n"
	"       q2-tool torture IMAGE\n"
	"       q2-tool export|export-torture|changes IMAGE     as a qcow2 file; as what is changed since another state\n"
	"       q2-tool copy|copy-torture IMAGE --snapshot-index N     with all its snapshots, as a qcow2 file\n"
	"       q2-tool usage IMAGE [INDEX...]    what each snapshot takes, and what those with these indices do together\n"
	"options: --format raw|qcow2           of IMAGE, default qcow2\n"
	"         --snapshot-index N | --id ID | --name NAME    default: the present content\n"
	"         --allow DIR                  what IMAGE may name beside its own directory; repeatable\n"
	"         --strict                     not even its own directory\n"
	"         --guard                      hold QEMU's lock byte 201 on frozen layers\n"
	"         --cache BYTES                limit of each cache, default 8 MiB\n"
	"         --before-index N             export, changes: since that snapshot of IMAGE, -1: its present content\n"
	"         --before IMAGE               export, changes: since the present content of that image\n"
	"         --backing NAME               export: how it names what it stands on\n"
	"         --present                    copy: the present content, where nobody writes; else the newest snapshot\n"
	"         --work UNITS                 limit of each question, default 67108864 as in the mount; 0: none\n"
	"         --live                       usage: somebody may be writing to IMAGE\n"
	"         --threads N --reads N --seed N    torture, default 4, 500 each, 1\n";

struct options {
	const char *command, *image;
	enum q2_format format;
	long snapshot_idx; /* -1: unset */
	const char *id, *name;
	const char *before, *backing;
	long before_idx; /* -2: unset */
	struct q2_gate *gate;
	bool strict, guard, present, live;
	char **rest; /* what follows IMAGE */
	size_t cache_bytes;
	unsigned threads, reads, seed;
	uint64_t off, len, work;
};

static void die(int code, const struct vs_err *err)
{
	/* one number, two names: ours is the one in qcow2.h */
	const char *name = code == -ENOTSUP ? "ENOTSUP" : strerrorname_np(-code);

	fflush(stdout);
	fprintf(stderr, "%s: %s\n", name ? name : "?", vs_err_text(err, code));
	exit(1);
}

/* For what the library promises in its header and did not keep. */
static void broken(const char *what, uint64_t off)
{
	fflush(stdout);
	fprintf(stderr, "BROKEN-PROMISE: %s at offset %" PRIu64 "\n", what, off);
	exit(1);
}

static void *xmalloc(size_t len)
{
	void *p = malloc(len);

	if (!p)
		die(-ENOMEM, NULL);
	return p;
}

/* The bytes of a name as the contract shows them, so that one line stays one line. */
static void put_name(const char *key, const char *s)
{
	printf(" %s=", key);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c <= ' ' || c == '%' || c >= 0x7f)
			printf("%%%02X", c);
		else
			putchar(c);
	}
}

/* ---------------------------------------------------------------- which state */

static struct q2_info *read_info(const struct options *o)
{
	struct vs_err err = {0};
	struct q2_file *file;
	struct q2_info *info;
	int r;

	r = q2_file_open(o->image, &file, &err);
	if (r < 0)
		die(r, &err);
	r = q2_info_read(file, o->format, &info, &err);
	if (r < 0)
		die(r, &err);
	q2_file_close(file);
	return info;
}

static const struct q2_snapshot *choose(const struct options *o, const struct q2_info *info)
{
	struct vs_err err = {0};

	for (size_t i = 0; i < info->n_snapshots; i++) {
		const struct q2_snapshot *s = &info->snapshots[i];

		if (o->snapshot_idx == (long)i || (o->id && !strcmp(o->id, s->id)) ||
		    (o->name && !strcmp(o->name, s->name)))
			return s;
	}
	die(vs_err_set(&err, -ENOENT, "no such snapshot in '%s'", o->image), &err);
	return NULL;
}

/* One open state and all that it stands on. */
struct state {
	struct q2_cache *cache;
	struct q2_view *view;
	uint64_t size, limit;
};

static void state_open(const struct options *o, struct state *s)
{
	struct q2_view_spec spec = {.path = o->image, .format = o->format, .gate = o->gate, .guard = o->guard};
	struct vs_err err = {0};
	struct q2_info *info = NULL;
	int r;

	if (!o->strict) {
		r = q2_gate_allow_file(o->gate, o->image, o->format);
		if (r < 0)
			die(r, NULL);
	}
	s->cache = q2_cache_new(o->cache_bytes, o->cache_bytes);
	if (!s->cache)
		die(-ENOMEM, NULL);
	if (o->snapshot_idx >= 0 || o->id || o->name) {
		info = read_info(o);
		spec.snapshot = choose(o, info);
	}
	r = q2_view_open(s->cache, &spec, &s->view, &err);
	if (r < 0)
		die(r, &err);
	q2_info_free(info);
	s->size = q2_view_size(s->view);
	s->limit = o->work;
}

static void state_close(struct state *s)
{
	q2_view_close(s->view);
	q2_cache_free(s->cache);
}

/* Exactly @len bytes, all of them inside the disk. */
static void read_all(struct state *s, void *buf, size_t len, uint64_t guest_off)
{
	struct vs_err err = {0};
	ssize_t n = q2_view_read(s->view, buf, len, guest_off, NULL, &err);

	if (n < 0)
		die((int)n, &err);
	if ((size_t)n != len)
		broken("a read was cut short inside the disk", guest_off);
}

/* ---------------------------------------------------------------- commands */

static void cmd_info(const struct options *o)
{
	struct q2_info *info = read_info(o);

	printf("format=%s size=%" PRIu64 " version=%u cluster_bits=%u crypt=%u\n", q2_format_name(info->format),
	       info->size, info->version, info->cluster_bits, info->crypt_method);
	printf("zstd=%d extended_l2=%d data_file_raw=%d dirty=%d corrupt=%d\n", info->zstd, info->extended_l2,
	       info->data_file_raw, info->dirty, info->corrupt);
	if (info->backing_name) {
		printf("backing");
		put_name("name", info->backing_name);
		put_name("format", info->backing_format ? info->backing_format : "");
		putchar('\n');
	}
	if (info->data_file) {
		printf("data-file");
		put_name("name", info->data_file);
		putchar('\n');
	}
	if (info->unsupported) {
		printf("unsupported");
		put_name("reason", info->unsupported);
		putchar('\n');
	}
	for (size_t i = 0; i < info->n_snapshots; i++) {
		const struct q2_snapshot *s = &info->snapshots[i];

		printf("snapshot %zu", i);
		put_name("id", s->id);
		put_name("name", s->name);
		printf(" date=%" PRIu32 ".%09" PRIu32 " clock=%" PRIu64 " vmstate=%" PRIu64 " disk=%" PRIu64 "%s\n",
		       s->date_sec, s->date_nsec, s->vm_clock_nsec, s->vm_state_size, s->disk_size,
		       s->has_disk_size ? "" : " (current)");
	}
	q2_info_free(info);
}

static void cmd_whole(const struct options *o)
{
	struct q2_work work = {.limit = o->work};
	struct q2_file *f;
	struct vs_err err = {0};
	int rc = q2_file_open(o->image, &f, &err);

	if (rc == 0)
		rc = q2_file_whole(f, &work, &err);
	if (rc < 0)
		die(rc, &err);
	q2_file_close(f);
	puts("whole");
}

static void put_usage(const char *what, const struct q2_usage_snapshot *u)
{
	printf("%s holds=%" PRIu64 " only=%" PRIu64 " frees=%" PRId64 "\n", what, u->holds, u->only, u->frees);
}

static void cmd_usage(const struct options *o)
{
	struct q2_info *info = read_info(o);
	bool *goes = calloc(info->n_snapshots + 1, sizeof(*goes));
	struct q2_work work = {.limit = o->work};
	struct q2_usage_spec spec = {.info = info, .goes = goes, .live = o->live, .work = &work};
	struct vs_err err = {0};
	struct q2_usage *usage = NULL;
	struct q2_file *f = NULL;
	int r = goes ? q2_file_open(o->image, &f, &err) : -ENOMEM;

	for (char **idx = o->rest; r == 0 && *idx; idx++)
		if (strtoul(*idx, NULL, 0) < info->n_snapshots)
			goes[strtoul(*idx, NULL, 0)] = true;
	if (r == 0)
		r = q2_usage_read(f, &spec, &usage, &err);
	if (r < 0)
		die(r, &err);
	put_usage("present", &usage->present);
	for (size_t i = 0; i < usage->n_snapshots; i++)
		put_usage(info->snapshots[i].id, &usage->snapshots[i]);
	printf("together=%" PRId64 " used=%" PRIu64 " compact=%" PRIu64 "\n", usage->together, usage->used, usage->compact);
	free(usage);
	free(goes);
	q2_file_close(f);
	q2_info_free(info);
}

static void cmd_cat(struct state *s)
{
	char *buf = xmalloc(PIECE);

	for (uint64_t off = 0; off < s->size; off += PIECE) {
		size_t len = s->size - off < PIECE ? (size_t)(s->size - off) : PIECE;

		read_all(s, buf, len, off);
		if (fwrite(buf, 1, len, stdout) != len)
			die(-EIO, NULL);
	}
	if (q2_view_read(s->view, buf, 1, s->size, NULL, NULL) != 0)
		broken("a read at the end did not return 0", s->size);
	free(buf);
}

static void cmd_read(const struct options *o, struct state *s)
{
	struct vs_err err = {0};
	char *buf = xmalloc(o->len ? o->len : 1);
	ssize_t n = q2_view_read(s->view, buf, o->len, o->off, NULL, &err);

	if (n < 0)
		die((int)n, &err);
	fwrite(buf, 1, (size_t)n, stdout);
	free(buf);
}

static int64_t seek(struct state *s, uint64_t off, int whence, struct vs_err *err)
{
	struct q2_work work = {.limit = s->limit};

	return q2_view_seek(s->view, off, whence, &work, err);
}

/* What lseek(2) will tell cp and tar. */
static void cmd_map(struct state *s)
{
	struct vs_err err = {0};
	uint64_t off = 0;

	while (off < s->size) {
		int64_t data = seek(s, off, SEEK_DATA, &err), hole;

		if (data == -ENXIO) {
			printf("%" PRIu64 " %" PRIu64 " zero\n", off, s->size - off);
			break;
		}
		if (data < 0)
			die((int)data, &err);
		if ((uint64_t)data < off || (uint64_t)data >= s->size)
			broken("SEEK_DATA left the disk", off);
		if ((uint64_t)data > off)
			printf("%" PRIu64 " %" PRIu64 " zero\n", off, (uint64_t)data - off);
		hole = seek(s, (uint64_t)data, SEEK_HOLE, &err);
		if (hole < 0)
			die((int)hole, &err);
		if (hole <= data || (uint64_t)hole > s->size)
			broken("SEEK_HOLE did not move on", (uint64_t)data);
		printf("%" PRIu64 " %" PRIu64 " data\n", (uint64_t)data, (uint64_t)(hole - data));
		off = (uint64_t)hole;
	}
	if (seek(s, s->size, SEEK_DATA, NULL) != -ENXIO || seek(s, s->size, SEEK_HOLE, NULL) != -ENXIO)
		broken("lseek at the end is not ENXIO", s->size);
}

static void next_extent(struct state *s, uint64_t off, uint64_t len, struct q2_extent *e)
{
	struct vs_err err = {0};
	int r = q2_view_extent(s->view, off, len, NULL, e, &err);

	if (r < 0)
		die(r, &err);
	if (e->guest_off != off)
		broken("an extent does not start where it was asked for", off);
	if (e->len < 1 || e->len > len)
		broken("an extent's length is not 1..len", off);
	if ((e->kind == Q2_ZERO) != (e->file == NULL))
		broken("an extent's file does not fit its kind", off);
	if (e->depth >= q2_view_depth(s->view))
		broken("an extent's depth is no layer", off);
}

static void cmd_extents(struct state *s)
{
	static const char *const kinds[] = {[Q2_DATA] = "data", [Q2_ZERO] = "zero", [Q2_COMPRESSED] = "compressed"};
	struct q2_extent e;

	for (uint64_t off = 0; off < s->size; off += e.len) {
		next_extent(s, off, s->size - off, &e);
		printf("%" PRIu64 " %" PRIu64 " %s depth=%u", e.guest_off, e.len, kinds[e.kind], e.depth);
		if (e.file)
			printf(" host=%" PRIu64 " max=%" PRIu32 " file=%s", e.host_off, e.max_len, e.file->path);
		putchar('\n');
	}
	if (q2_view_extent(s->view, s->size, 1, NULL, &e, NULL) != -ENXIO)
		broken("an extent at the end is not ENXIO", s->size);
}

/* The map says where each byte is: fetch it from there by hand and compare with what a read says. */
static void cmd_verify(struct state *s)
{
	char *told = xmalloc(PIECE), *found = xmalloc(PIECE);
	struct q2_extent e;

	for (uint64_t off = 0; off < s->size; off += e.len) {
		size_t len;

		next_extent(s, off, s->size - off < PIECE ? s->size - off : PIECE, &e);
		len = (size_t)e.len;
		read_all(s, told, len, off);
		memset(found, 0, len);
		if (e.kind == Q2_COMPRESSED)
			continue;
		if (e.kind == Q2_DATA && e.file->ops->pread(e.file, found, len, e.host_off) < 0)
			broken("an extent's bytes cannot be read", off);
		if (memcmp(told, found, len))
			broken("a read and the map disagree", off);
	}
	free(told);
	free(found);
}

/* ---------------------------------------------------------------- torture */

struct torture {
	struct state *state;
	const char *whole;
	unsigned reads, seed;
};

static void *torture_thread(void *arg)
{
	const struct torture *t = arg;
	unsigned seed = t->seed;
	char *buf = xmalloc(PIECE);

	for (unsigned i = 0; i < t->reads; i++) {
		uint64_t size = t->state->size;
		uint64_t off = (((uint64_t)(unsigned)rand_r(&seed) << 31) | (unsigned)rand_r(&seed)) % size;
		/* mostly small and unaligned, as file systems ask; sometimes large */
		size_t len = 1 + (size_t)rand_r(&seed) % (rand_r(&seed) % 8 ? 8192 : PIECE);
		size_t want = len < size - off ? len : (size_t)(size - off);
		struct vs_err err = {0};
		ssize_t n = q2_view_read(t->state->view, buf, len, off, NULL, &err);

		if (n < 0)
			die((int)n, &err);
		if ((size_t)n != want)
			broken("a random read has the wrong length", off);
		if (memcmp(buf, t->whole + off, want))
			broken("a random read differs from the sequential one", off);
	}
	free(buf);
	return NULL;
}

static void cmd_torture(const struct options *o, struct state *s)
{
	pthread_t *threads;
	struct torture *t;
	char *whole;

	if (!s->size || s->size > (1U << 30))
		return;
	cmd_verify(s);
	threads = xmalloc(o->threads * sizeof(*threads));
	t = xmalloc(o->threads * sizeof(*t));
	whole = xmalloc(s->size);
	for (uint64_t off = 0; off < s->size; off += PIECE)
		read_all(s, whole + off, s->size - off < PIECE ? (size_t)(s->size - off) : PIECE, off);
	for (unsigned i = 0; i < o->threads; i++) {
		t[i] = (struct torture){.state = s, .whole = whole, .reads = o->reads, .seed = o->seed * 1000 + i};
		if (pthread_create(&threads[i], NULL, torture_thread, &t[i]))
			die(-EAGAIN, NULL);
	}
	for (unsigned i = 0; i < o->threads; i++)
		pthread_join(threads[i], NULL);
	free(whole);
	free(threads);
	free(t);
}

/* ---------------------------------------------------------------- made images */

struct made {
	struct state *state, *before; /* before: NULL for a whole one */
	struct q2_export *x;
	struct q2_copy *copy; /* instead */
};

static uint64_t made_size(const struct made *m)
{
	return m->copy ? q2_copy_size(m->copy) : q2_export_size(m->x);
}

static void made_read(const struct made *m, void *buf, size_t len, uint64_t off)
{
	struct q2_view *before = m->before ? m->before->view : NULL;
	struct vs_err err = {0};
	ssize_t n = m->copy ? q2_copy_read(m->copy, m->state->view, buf, len, off, NULL, &err) :
			      q2_export_read(m->x, m->state->view, before, buf, len, off, NULL, &err);

	if (n < 0)
		die((int)n, &err);
	if ((size_t)n != len)
		broken("a read was cut short inside the made file", off);
}

static void cmd_export(const struct made *m)
{
	uint64_t size = made_size(m);
	char *buf = xmalloc(PIECE);

	for (uint64_t off = 0; off < size; off += PIECE) {
		size_t len = size - off < PIECE ? (size_t)(size - off) : PIECE;

		made_read(m, buf, len, off);
		if (fwrite(buf, 1, len, stdout) != len)
			die(-EIO, NULL);
	}
	free(buf);
}

/* Any place, at any size, in any order: the same bytes as from the beginning to the end. */
static void cmd_export_torture(const struct options *o, const struct made *m)
{
	uint64_t size = made_size(m);
	unsigned seed = o->seed;
	char *whole, *buf = xmalloc(PIECE);

	if (size > 1U << 28)
		return;
	whole = xmalloc(size);
	made_read(m, whole, size, 0);
	for (unsigned i = 0; i < o->reads; i++) {
		uint64_t off = (((uint64_t)(unsigned)rand_r(&seed) << 31) | (unsigned)rand_r(&seed)) % size;
		size_t len = 1 + (size_t)rand_r(&seed) % (rand_r(&seed) % 8 ? 8192 : PIECE);

		len = len < size - off ? len : (size_t)(size - off);
		made_read(m, buf, len, off);
		if (memcmp(buf, whole + off, len))
			broken("a random read of the made file differs from the sequential one", off);
	}
	free(buf);
	free(whole);
}

static int put_change(void *opaque, uint64_t guest_off, uint64_t len, bool zero)
{
	(void)opaque;
	printf("%" PRIu64 " %" PRIu64 " %s\n", guest_off, len, zero ? "zero" : "data");
	return 0;
}

static void cmd_made(const struct options *o, struct state *s)
{
	struct q2_export_spec spec = {.view = s->view, .backing_name = o->backing ? o->backing : "before"};
	struct vs_err err = {0};
	struct state before;
	struct made m = {.state = s};
	int r = 0;

	if (o->before_idx > -2) {
		struct options other = *o;

		other.snapshot_idx = o->before_idx;
		other.id = other.name = NULL;
		if (o->before)
			other.image = o->before;
		state_open(&other, &before);
		m.before = &before;
		spec.before = before.view;
	}
	if (!strcmp(o->command, "changes")) {
		r = q2_view_changes(s->view, spec.before, NULL, put_change, NULL, &err);
		if (r < 0)
			die(r, &err);
	} else {
		r = q2_export_new(&spec, &m.x, &err);
		if (r < 0)
			die(r, &err);
		if (!strcmp(o->command, "export"))
			cmd_export(&m);
		else
			cmd_export_torture(o, &m);
		q2_export_free(m.x);
	}
	if (m.before)
		state_close(m.before);
}

static void cmd_copy(const struct options *o, struct state *s)
{
	struct q2_work work = {.limit = o->work};
	const struct q2_copy_spec spec = {.view = s->view, .present = o->present, .work = &work};
	struct vs_err err = {0};
	struct made m = {.state = s};
	int r = q2_copy_new(&spec, &m.copy, &err);

	if (r < 0)
		die(r, &err);
	if (!strcmp(o->command, "copy"))
		cmd_export(&m);
	else
		cmd_export_torture(o, &m);
	q2_copy_free(m.copy);
}

/* ---------------------------------------------------------------- main */

static void cmd_numbers(const struct options *o, struct state *s)
{
	struct q2_work work = {.limit = s->limit};
	struct vs_err err = {0};
	uint64_t bytes;
	int r;

	if (!strcmp(o->command, "size")) {
		printf("%" PRIu64 "\n", s->size);
	} else if (!strcmp(o->command, "layers")) {
		for (size_t i = 0; i < q2_view_depth(s->view); i++)
			printf("%s\n", q2_view_path(s->view, i));
	} else if (!strcmp(o->command, "allocated")) {
		r = q2_view_allocated(s->view, &work, &bytes, &err);
		if (r < 0)
			die(r, &err);
		printf("%" PRIu64 "\n", bytes);
	} else {
		r = q2_view_has_compressed(s->view, &work, &err);
		if (r < 0)
			die(r, &err);
		printf("%d\n", r);
	}
}

/* All that a comparison needs beside the bytes. */
static void cmd_report(struct state *s)
{
	struct options o = {.command = "size"};

	cmd_numbers(&o, s);
	o.command = "allocated";
	cmd_numbers(&o, s);
	puts("map");
	cmd_map(s);
	puts("extents");
	cmd_extents(s);
}

static int usage(void)
{
	fputs(usage_text, stderr);
	return 2;
}

static bool parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"format", required_argument, NULL, 'f'},  {"snapshot-index", required_argument, NULL, 'i'},
		{"id", required_argument, NULL, 'd'},      {"name", required_argument, NULL, 'n'},
		{"allow", required_argument, NULL, 'a'},   {"strict", no_argument, NULL, 's'},
		{"guard", no_argument, NULL, 'g'},         {"present", no_argument, NULL, 'P'},
		{"cache", required_argument, NULL, 'c'},
		{"threads", required_argument, NULL, 't'}, {"reads", required_argument, NULL, 'r'},
		{"seed", required_argument, NULL, 'e'},    {"work", required_argument, NULL, 'w'},
		{"before", required_argument, NULL, 'B'},  {"before-index", required_argument, NULL, 'b'},
		{"backing", required_argument, NULL, 'k'}, {"live", no_argument, NULL, 'l'},
		{NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'f':
			o->format = q2_format_from_name(optarg);
			break;
		case 'i':
			o->snapshot_idx = atol(optarg);
			break;
		case 'd':
			o->id = optarg;
			break;
		case 'n':
			o->name = optarg;
			break;
		case 'a':
			if (q2_gate_allow_dir(o->gate, optarg) < 0)
				die(-ENOMEM, NULL);
			break;
		case 's':
			o->strict = true;
			break;
		case 'P':
			o->present = true;
			break;
		case 'g':
			o->guard = true;
			break;
		case 'l':
			o->live = true;
			break;
		case 'c':
			o->cache_bytes = strtoul(optarg, NULL, 0);
			break;
		case 't':
			o->threads = (unsigned)atoi(optarg);
			break;
		case 'r':
			o->reads = (unsigned)atoi(optarg);
			break;
		case 'w':
			o->work = strtoul(optarg, NULL, 0);
			break;
		case 'B':
			o->before = optarg;
			o->before_idx = -1;
			break;
		case 'b':
			o->before_idx = atol(optarg);
			break;
		case 'k':
			o->backing = optarg;
			break;
		case 'e':
			o->seed = (unsigned)atoi(optarg);
			break;
		default:
			return false;
		}
	}
	if (argc - optind < 2 || o->format == Q2_FORMAT_NONE)
		return false;
	o->command = argv[optind];
	o->image = argv[optind + 1];
	o->rest = argv + optind + 2;
	if (!strcmp(o->command, "usage"))
		return true;
	if (strcmp(o->command, "read"))
		return argc - optind == 2;
	if (argc - optind != 4)
		return false;
	o->off = strtoull(argv[optind + 2], NULL, 0);
	o->len = strtoull(argv[optind + 3], NULL, 0);
	return true;
}

static bool one_of(const char *s, const char *list)
{
	const char *hit = strstr(list, s);

	return hit && hit[strlen(s)] == ' ';
}

int main(int argc, char **argv)
{
	struct options o = {.format = Q2_FORMAT_QCOW2,
			    .snapshot_idx = -1,
			    .before_idx = -2,
			    .cache_bytes = 8 << 20,
			    .work = 1 << 26,
			    .threads = 4,
			    .reads = 500,
			    .seed = 1,
			    .gate = q2_gate_new()};
	struct state s;

	if (!o.gate)
		die(-ENOMEM, NULL);
	if (!parse_options(argc, argv, &o))
		return usage();
	if (!strcmp(o.command, "info") || !strcmp(o.command, "whole") || !strcmp(o.command, "usage")) {
		(!strcmp(o.command, "usage") ? cmd_usage : strcmp(o.command, "info") ? cmd_whole : cmd_info)(&o);
		q2_gate_unref(o.gate);
		return 0;
	}
	if (!one_of(o.command, "cat map extents report verify read torture size layers allocated compressed export export-torture changes copy copy-torture "))
		return usage();
	state_open(&o, &s);
	if (!strcmp(o.command, "cat"))
		cmd_cat(&s);
	else if (!strcmp(o.command, "map"))
		cmd_map(&s);
	else if (!strcmp(o.command, "extents"))
		cmd_extents(&s);
	else if (!strcmp(o.command, "report"))
		cmd_report(&s);
	else if (!strcmp(o.command, "verify"))
		cmd_verify(&s);
	else if (!strcmp(o.command, "read"))
		cmd_read(&o, &s);
	else if (!strcmp(o.command, "torture"))
		cmd_torture(&o, &s);
	else if (strstr(o.command, "copy"))
		cmd_copy(&o, &s);
	else if (strstr(o.command, "export") || !strcmp(o.command, "changes"))
		cmd_made(&o, &s);
	else
		cmd_numbers(&o, &s);
	state_close(&s);
	q2_gate_unref(o.gate);
	if (fflush(stdout))
		die(-errno, NULL);
	return 0;
}
