/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The picture `chain`: each disk's layers as `git log --graph` draws commits, the newest on top, so that a chain of two
 * hundred stays as narrow as one of two and only branches take room:
 *
 *	vda
 *	●   /images/web01.wed   qcow2  20 GiB  1.2 GiB  active
 *	○   /images/web01.tue   qcow2  20 GiB  3.9 GiB
 *	│     frozen at tuesday, wednesday
 *	│ ○ /images/web01.try   qcow2  20 GiB  140 MiB
 *	├─╯   left over: no snapshot or disk of web01 uses it
 *	○   /images/base.raw    raw    20 GiB  2.1 GiB
 *	      frozen at monday
 *	      also needed by domain 'db' (disk vda)
 *
 * A layer with several overlays draws the first one's branch (the one that leads to an active layer, or else the
 * longest) straight above itself and every other one a column further right, closed by ├─╯. The walk runs on data that
 * came from images: a loop among the layers cannot hang it (each layer is drawn once) and what no walk from a base
 * reaches is listed at the end.
 */
#include <errno.h>
#include <string.h>

#include "show.h"
#include "text.h"
#include "vm/util/mem.h"

#define WRAP 100 /* columns at which a list of names goes on in the next line */
#define MAX_BRANCH 24 /* columns further right than this are not drawn but the same as the last */

/* A line is either a layer (its graph and the layer) or a remark below one. */
struct line {
	char *graph;
	const struct vm_layer *layer; /* NULL: a remark */
	char *remark;
};

struct picture {
	const struct vm_domain *domain;
	const struct vm_snapshot **by_shown; /* the domain's snapshots, by shown name */
	struct node {
		int trunk;   /* the overlay drawn straight above, -1 = none */
		int overlay; /* the first that stands on it, -1 = none */
		int beside;  /* the next that stands on the same layer, -1 = none */
		bool drawn;
	} * nodes; /* as domain->layers */
	struct line *lines;
	size_t n_lines, room;
};

/* ---------------------------------------------------------------- lines */

static void add_line(struct picture *p, char *graph, const struct vm_layer *layer, char *remark)
{
	XGROW(p->lines, p->n_lines, p->room);
	p->lines[p->n_lines++] = (struct line){graph, layer, remark};
}

static char *graph_of(unsigned branch, const char *end)
{
	char bars[MAX_BRANCH * sizeof("│ ") + 1] = "";

	for (unsigned i = 0; i < branch; i++)
		strcat(bars, "│ ");
	return xasprintf("%s%s", bars, end);
}

static void put_text(FILE *out, const char *s)
{
	sf_show_put(out, s, false);
}

/* One or more remarks: "@what a, b, c", wrapped. */
static void remark_list(struct picture *p, unsigned branch, const char *below, const char *what, char *const *names,
			size_t n)
{
	for (size_t i = 0; i < n;) {
		char *text;
		size_t len, width = strlen(what);
		FILE *out = xmemopen(&text, &len);

		fputs(what, out);
		do {
			fputc(' ', out);
			put_text(out, names[i]);
			width += sf_show_width(names[i++]) + 2;
			if (i < n)
				fputc(',', out);
		} while (i < n && width + sf_show_width(names[i]) < WRAP);
		xmemclose(out);
		add_line(p, graph_of(branch, below), NULL, text);
		what = " ";
	}
}

static void remark(struct picture *p, unsigned branch, const char *below, const char *text)
{
	add_line(p, graph_of(branch, below), NULL, sf_show_dup(text, false));
}

/* ---------------------------------------------------------------- what is said about a layer */

static int compare_shown(const void *left, const void *right)
{
	return strcmp((*(const struct vm_snapshot *const *)left)->shown, (*(const struct vm_snapshot *const *)right)->shown);
}

static void sort_snapshots(struct picture *p)
{
	size_t n = p->domain->n_snapshots;

	p->by_shown = xcalloc(n, sizeof(*p->by_shown));
	for (size_t i = 0; i < n; i++)
		p->by_shown[i] = &p->domain->snapshots[i];
	qsort(p->by_shown, n, sizeof(*p->by_shown), compare_shown);
}

static bool is_internal(const struct picture *p, char *shown)
{
	const struct vm_snapshot wanted = {.shown = shown}, *key = &wanted, **found;

	found = bsearch(&key, p->by_shown, p->domain->n_snapshots, sizeof(key), compare_shown);
	return found && (*found)->kind == VM_INTERNAL;
}

/* Internal snapshots are stored in a layer, external ones froze it: two lists out of one. */
static void remark_snapshots(struct picture *p, unsigned branch, const char *below, char *const *names)
{
	size_t n = 0, n_stored = 0, n_frozen = 0;
	vs_autofree char **sorted = NULL;

	while (names && names[n])
		n++;
	if (!n)
		return;
	sorted = xcalloc(n, sizeof(*sorted));
	for (size_t i = 0; i < n; i++) {
		if (is_internal(p, names[i]))
			sorted[n_stored++] = names[i];
		else
			sorted[n - ++n_frozen] = names[i];
	}
	for (size_t i = 0; i < n_frozen / 2; i++) { /* they went in from the end */
		char *swap = sorted[n_stored + i];

		sorted[n_stored + i] = sorted[n - 1 - i];
		sorted[n - 1 - i] = swap;
	}
	remark_list(p, branch, below, "frozen at", sorted + n_stored, n_frozen);
	remark_list(p, branch, below, "holds", sorted, n_stored);
}

/* Somebody has defined the domain on a snapshot's own image. */
static bool is_frozen(const struct picture *p, const struct vm_layer *layer)
{
	for (size_t i = 0; layer->snapshots && layer->snapshots[i]; i++)
		if (!is_internal(p, layer->snapshots[i]))
			return true;
	return false;
}

/* A snapshot in all but the record, as `adopt` says. Of an image without libvirt there are no records, and what many stand on is a template. */
static bool is_unrecorded(const struct picture *p, int idx)
{
	const struct vm_domain *d = p->domain;
	const struct vm_layer *layer = &d->layers[idx];
	size_t above = 0, beneath = 0;

	for (size_t i = 0; i < d->n_layers; i++)
		above += d->layers[i].below == idx;
	for (size_t i = 0; above == 1 && i < d->n_disks; i++)
		for (size_t l = (size_t)d->disks[i].top, n = 0; l < d->n_layers && n < VM_CHAIN_MAX; l = (size_t)d->layers[l].below, n++)
			beneath += d->layers[l].below == idx;
	return beneath && !layer->active && !layer->error && !(layer->users && layer->users[0]) && d->state && strcmp(d->state, "image") != 0 &&
	       !is_frozen(p, layer);
}

static void draw_layer(struct picture *p, int idx, unsigned branch)
{
	const struct vm_layer *layer = &p->domain->layers[idx];
	const char *below = layer->below >= 0 ? "│" : " ";
	bool spoils = layer->active && is_frozen(p, layer);
	size_t n_users = 0, n_bitmaps;

	p->nodes[idx].drawn = true;
	add_line(p, graph_of(branch, layer->error ? "✗" : layer->ends || layer->rival || spoils ? "!" : layer->active ? "●" : "○"), layer, NULL);
	remark_snapshots(p, branch, below, layer->snapshots);
	while (layer->users && layer->users[n_users])
		n_users++;
	remark_list(p, branch, below, "also needed by", layer->users, n_users);
	n_bitmaps = 0;
	while (layer->bitmaps && layer->bitmaps[n_bitmaps])
		n_bitmaps++;
	remark_list(p, branch, below, "has bitmap", layer->bitmaps, n_bitmaps);
	if (is_unrecorded(p, idx))
		remark(p, branch, below, "no snapshot froze it");
	if (layer->note)
		remark(p, branch, below, layer->note);
	else if (layer->error)
		remark(p, branch, below, layer->error == -ENOENT ? "missing" : strerror(-layer->error));
	if (spoils)
		remark(p, branch, below, "the domain writes to what a snapshot froze: its disk should be an overlay on that");
	if (layer->rival)
		remark_list(p, branch, below, "also written by", (char *[]){layer->rival}, 1);
}

/* ---------------------------------------------------------------- the walk */

static void draw_branch(struct picture *p, int root, unsigned branch);

/* What stands on @idx besides its trunk: each a column further right, and closed. */
static void draw_side_branches(struct picture *p, int idx, unsigned branch)
{
	for (int o = p->nodes[idx].overlay; o >= 0; o = p->nodes[o].beside) {
		if (o == p->nodes[idx].trunk || p->nodes[o].drawn)
			continue;
		draw_branch(p, o, branch < MAX_BRANCH ? branch + 1 : branch);
		add_line(p, graph_of(branch, "├─╯"), NULL, xstrdup(""));
	}
}

/* The layers from @root, which is not drawn yet, up along the trunk: found from there, printed from the top down. What is trunk to
 * a layer stands on that one, so the way down is `below`, and no memory grows with how deep branches lie in branches. */
static void draw_branch(struct picture *p, int root, unsigned branch)
{
	int top = root;

	p->nodes[root].drawn = true;
	while (p->nodes[top].trunk >= 0 && !p->nodes[p->nodes[top].trunk].drawn) {
		top = p->nodes[top].trunk;
		p->nodes[top].drawn = true;
	}
	for (int i = top;; i = p->domain->layers[i].below) {
		draw_side_branches(p, i, branch);
		draw_layer(p, i, branch);
		if (i == root)
			return;
	}
}

static int base_of(const struct vm_domain *d, int idx)
{
	for (size_t steps = 0; d->layers[idx].below >= 0 && steps < d->n_layers; steps++)
		idx = d->layers[idx].below;
	return idx;
}

/* How high a branch is, and whether it ends in an active layer: that one is the trunk. */
static size_t weight(const struct vm_domain *d, int idx)
{
	return d->layers[idx].active ? d->n_layers + 1 : 1;
}

/* Links overlays under what they stand on, then lets every layer tell those beneath it how much stands on it. */
static void link_layers(struct picture *p)
{
	const struct vm_domain *d = p->domain;
	vs_autofree size_t *best = xcalloc(d->n_layers, sizeof(*best));

	p->nodes = xcalloc(d->n_layers, sizeof(*p->nodes));
	for (size_t i = 0; i < d->n_layers; i++) {
		p->nodes[i].trunk = p->nodes[i].overlay = p->nodes[i].beside = -1;
		p->nodes[i].drawn = d->layers[i].beside;
	}
	for (size_t i = d->n_layers; i-- > 0;) {
		int below = d->layers[i].below;

		if (below < 0)
			continue;
		p->nodes[i].beside = p->nodes[below].overlay;
		p->nodes[below].overlay = (int)i;
	}
	for (size_t i = 0; i < d->n_layers; i++) {
		size_t here = weight(d, (int)i), steps = 0;

		for (int o = (int)i; d->layers[o].below >= 0 && steps++ < d->n_layers; o = d->layers[o].below) {
			if (best[d->layers[o].below] >= here)
				break;
			best[d->layers[o].below] = here++;
			p->nodes[d->layers[o].below].trunk = o;
		}
	}
}

/* ---------------------------------------------------------------- printing */

static void put_padded(FILE *out, const char *s, size_t width)
{
	size_t here = sf_show_width(s);

	fprintf(out, "%s%*s", s, (int)(here < width ? width - here : 0), "");
}

static void sizes_of(const struct vm_layer *layer, char virtual_size[SF_SHOW_SIZE], char allocated[SF_SHOW_SIZE])
{
	strcpy(virtual_size, "-");
	strcpy(allocated, "-");
	if (layer->virtual_size)
		sf_show_size(virtual_size, layer->virtual_size);
	if (layer->error != -ENOENT)
		sf_show_size(allocated, layer->allocated);
}

/* The path is as wide as it is; what comes after it lines up within a disk. */
static void put_layer(FILE *out, const struct line *line, size_t graph_width, size_t path_width)
{
	char virtual_size[SF_SHOW_SIZE], allocated[SF_SHOW_SIZE];
	vs_autofree char *path = sf_show_dup(line->layer->path, false);
	const char *format = line->layer->format == Q2_FORMAT_NONE ? "-" : q2_format_name(line->layer->format);

	sizes_of(line->layer, virtual_size, allocated);
	put_padded(out, line->graph, graph_width);
	put_padded(out, path, path_width);
	fprintf(out, "  %-5s  %8s  %8s%s\n", format, virtual_size, allocated, line->layer->active ? "  active" : "");
}

static void put_lines(FILE *out, const struct picture *p)
{
	size_t graph_width = 0, path_width = 0;

	for (size_t i = 0; i < p->n_lines; i++) {
		const struct line *line = &p->lines[i];
		size_t graph = sf_show_width(line->graph) + 1;
		size_t path = line->layer ? sf_show_width(line->layer->path) : 0;

		graph_width = graph > graph_width ? graph : graph_width;
		path_width = path > path_width ? path : path_width;
	}
	for (size_t i = 0; i < p->n_lines; i++) {
		const struct line *line = &p->lines[i];

		if (line->layer) {
			put_layer(out, line, graph_width, path_width);
		} else if (*line->remark) {
			put_padded(out, line->graph, graph_width);
			fprintf(out, "  %s\n", line->remark);
		} else {
			fprintf(out, "%s\n", line->graph);
		}
	}
}

static void drop_lines(struct picture *p)
{
	for (size_t i = 0; i < p->n_lines; i++) {
		free(p->lines[i].graph);
		free(p->lines[i].remark);
	}
	p->n_lines = 0;
}

static void put_line(FILE *out, const char *before, const char *text)
{
	fputs(before, out);
	put_text(out, text);
	fputc('\n', out);
}

static void put_disk_heading(FILE *out, const struct vm_disk_now *disk)
{
	fputc('\n', out);
	put_text(out, disk->target);
	if (disk->top < 0 && disk->source) {
		fputs("  ", out);
		put_text(out, disk->source);
	}
	if (disk->job) {
		fputs("  job: ", out);
		put_text(out, disk->job);
	}
	fputc('\n', out);
	if (disk->note)
		put_line(out, "  ", disk->note);
	if (disk->doubt)
		put_line(out, "  ", disk->doubt);
}

static void put_disk(FILE *out, struct picture *p, const struct vm_disk_now *disk)
{
	int base;

	put_disk_heading(out, disk);
	if (disk->top < 0 || (size_t)disk->top >= p->domain->n_layers)
		return;
	base = base_of(p->domain, disk->top);
	if (p->nodes[base].drawn) {
		fputs("  stands on the same base as a disk above\n", out);
		return;
	}
	draw_branch(p, base, 0);
	put_lines(out, p);
	drop_lines(p);
}

/* Layers that no disk of the domain stands on now; first whole trees, then whatever hangs on nothing. */
static void put_rest(FILE *out, struct picture *p)
{
	const struct vm_domain *d = p->domain;

	for (int loose = 0; loose < 2; loose++)
		for (size_t i = 0; i < d->n_layers; i++)
			if (!p->nodes[i].drawn && (loose || d->layers[i].below < 0))
				draw_branch(p, (int)i, 0);
	if (p->n_lines)
		fputs("\nunder no disk\n", out);
	put_lines(out, p);
	drop_lines(p);
}

static void put_checkpoints(FILE *out, const struct vm_domain *d)
{
	if (d->checkpoints && d->checkpoints[0])
		fputs("\ncheckpoints, from which the incremental backups of some backup program go on\n", out);
	for (char **name = d->checkpoints; name && *name; name++)
		put_line(out, "  ", *name);
}

/* Until it is known what stands on which image, nothing is merged or removed. */
static void put_unknowns(FILE *out, const struct vm_domain *d)
{
	if (d->unknowns && d->unknowns[0])
		fputs("\nnot known, so commands merge and remove nothing that may be needed\n", out);
	for (char **phrase = d->unknowns; phrase && *phrase; phrase++)
		put_line(out, "? ", *phrase);
}

void sf_chain_render(FILE *out, const struct vm_domain *d)
{
	struct picture p = {.domain = d};

	sort_snapshots(&p);
	link_layers(&p);
	put_text(out, d->name);
	put_line(out, ": ", d->state);
	for (size_t i = 0; i < d->n_disks; i++)
		put_disk(out, &p, &d->disks[i]);
	put_rest(out, &p);
	put_checkpoints(out, d);
	put_unknowns(out, d);
	fputs("\n● written by this domain   ○ frozen   ✗ missing, unreadable   ! odd\n", out);
	free(p.by_shown);
	free(p.nodes);
	free(p.lines);
}
