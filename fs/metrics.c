/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "metrics.h"

#include <string.h>

#include "vm/util/mem.h"

#define PREFIX "virt_snapfs_"
#define STATES (VM_STALE + 1)
#define KINDS 2

/* @unit: NULL, or what the name ends with. */
static void head(FILE *out, const char *name, const char *type, const char *unit, const char *help)
{
	fprintf(out, "# TYPE " PREFIX "%s %s\n", name, type);
	if (unit)
		fprintf(out, "# UNIT " PREFIX "%s %s\n", name, unit);
	fprintf(out, "# HELP " PREFIX "%s %s\n", name, help);
}

/* Shown names have no control bytes; what the format wants to be escaped is these two. */
static void put_label(FILE *out, const char *value)
{
	for (; *value; value++) {
		if (*value == '\\' || *value == '"')
			putc('\\', out);
		putc(*value, out);
	}
}

/* @more: further labels, as they are, each with a comma before it. */
static void domain_line(FILE *out, const char *name, const struct vm_domain *d, const char *more)
{
	fprintf(out, PREFIX "%s{domain=\"", name);
	put_label(out, d->dir);
	fprintf(out, "\"%s} ", more);
}

static void put_seconds(FILE *out, int64_t ns)
{
	fprintf(out, "%lld.%03lld\n", (long long)(ns / 1000000000), (long long)(ns % 1000000000 / 1000000));
}

/* ---------------------------------------------------------------- of each domain */

typedef void of_domain(FILE *out, struct vm *vm, const struct vm_domain *d);

static void snapshots(FILE *out, struct vm *vm, const struct vm_domain *d)
{
	size_t n[KINDS][STATES] = {{0}};

	(void)vm;
	for (size_t i = 0; i < d->n_snapshots; i++)
		if (!d->snapshots[i].present)
			n[d->snapshots[i].kind][d->snapshots[i].state]++;
	for (int kind = 0; kind < KINDS; kind++)
		for (int state = 0; state < STATES; state++) {
			vs_autofree char *labels = xasprintf(",kind=\"%s\",state=\"%s\"", vm_kind_name((enum vm_kind)kind), vm_state_name((enum vm_state)state));

			domain_line(out, "snapshots", d, labels);
			fprintf(out, "%zu\n", n[kind][state]);
		}
}

static void held(FILE *out, struct vm *vm, const struct vm_domain *d)
{
	size_t n = 0;

	(void)vm;
	for (size_t i = 0; i < d->n_snapshots; i++)
		n += d->snapshots[i].held;
	domain_line(out, "snapshots_held", d, "");
	fprintf(out, "%zu\n", n);
}

/* They are sorted by time. */
static void timestamps(FILE *out, const char *name, const struct vm_domain *d, bool newest)
{
	const struct vm_snapshot *found = NULL;

	for (size_t i = 0; i < d->n_snapshots; i++)
		if (!d->snapshots[i].present && (newest || !found))
			found = &d->snapshots[i];
	if (!found)
		return;
	domain_line(out, name, d, "");
	put_seconds(out, found->created_ns);
}

static void oldest(FILE *out, struct vm *vm, const struct vm_domain *d)
{
	(void)vm;
	timestamps(out, "snapshot_oldest_timestamp_seconds", d, false);
}

static void newest(FILE *out, struct vm *vm, const struct vm_domain *d)
{
	(void)vm;
	timestamps(out, "snapshot_newest_timestamp_seconds", d, true);
}

static void depth(FILE *out, struct vm *vm, const struct vm_domain *d)
{
	(void)vm;
	for (size_t i = 0; i < d->n_disks; i++) {
		vs_autofree char *label = xasprintf(",disk=\"%s\"", d->disks[i].target);
		size_t n = 0;

		for (int l = d->disks[i].top; l >= 0 && n < VM_CHAIN_MAX; l = d->layers[l].below)
			n++;
		if (!n)
			continue;
		domain_line(out, "chain_depth", d, label);
		fprintf(out, "%zu\n", n);
	}
}

static void jobs(FILE *out, struct vm *vm, const struct vm_domain *d)
{
	size_t n = 0;

	(void)vm;
	for (size_t i = 0; i < d->n_disks; i++)
		n += d->disks[i].job != NULL;
	domain_line(out, "jobs", d, "");
	fprintf(out, "%zu\n", n);
}

static void commands(FILE *out, struct vm *vm, const struct vm_domain *d)
{
	struct vm_tally tallies[VM_TALLIES];
	int64_t created_ns;

	vm_tallies(vm, d->uuid, tallies, &created_ns);
	for (size_t i = 0; i < VM_TALLIES; i++)
		for (int failed = 0; failed < 2; failed++) {
			vs_autofree char *labels = xasprintf(",command=\"%s\",outcome=\"%s\"", tallies[i].command, failed ? "failed" : "ok");

			domain_line(out, "commands_total", d, labels);
			fprintf(out, "%llu\n", (unsigned long long)(failed ? tallies[i].failed : tallies[i].ok));
		}
}

/* Of an earlier mount nothing is known but what it took and is still there. */
static void since_create(FILE *out, struct vm *vm, const struct vm_domain *d)
{
	struct vm_tally tallies[VM_TALLIES];
	struct timespec now;
	int64_t created_ns, age_ns;

	vm_tallies(vm, d->uuid, tallies, &created_ns);
	for (size_t i = 0; i < d->n_snapshots; i++)
		if (d->snapshots[i].ours && d->snapshots[i].created_ns > created_ns)
			created_ns = d->snapshots[i].created_ns;
	if (!created_ns)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	age_ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec - created_ns;
	domain_line(out, "last_create_age_seconds", d, "");
	put_seconds(out, age_ns > 0 ? age_ns : 0);
}

static const struct {
	const char *name, *type, *unit, *help;
	of_domain *each;
} families[] = {
	{"snapshots", "gauge", NULL, "Snapshots, by kind and state.", snapshots},
	{"snapshots_held", "gauge", NULL, "Snapshots that are held.", held},
	{"snapshot_oldest_timestamp_seconds", "gauge", "seconds", "When the oldest snapshot was taken.", oldest},
	{"snapshot_newest_timestamp_seconds", "gauge", "seconds", "When the newest snapshot was taken.", newest},
	{"chain_depth", "gauge", NULL, "Layers of a disk, the active one included.", depth},
	{"jobs", "gauge", NULL, "Disks that a block job is at work on, whoever's it is.", jobs},
	{"commands", "counter", NULL, "Commands that have ended, by outcome.", commands},
	{"last_create_age_seconds", "gauge", "seconds", "Time since the last snapshot was taken through ctl.", since_create},
};

/* ---------------------------------------------------------------- of the process */

static void number(FILE *out, const char *name, uint64_t value)
{
	fprintf(out, PREFIX "%s %llu\n", name, (unsigned long long)value);
}

static void process(FILE *out, struct sf_metrics *metrics, const struct sf_views *views, const struct sf_tree *tree)
{
	struct q2_cache_stats stats;

	q2_cache_stats(views->cache, &stats);
	head(out, "domains", "gauge", NULL, "Domains, or images, that are shown.");
	number(out, "domains", tree->n_dirs);
	head(out, "read_bytes", "counter", "bytes", "Bytes of images, and of what is made of them, that were read.");
	number(out, "read_bytes_total", atomic_load(&metrics->read_bytes));
	head(out, "spliced_bytes", "counter", "bytes", "Those of them that were handed on without a copy, by what kept the image still.");
	number(out, "spliced_bytes_total{by=\"lock\"}", atomic_load(&metrics->spliced_bytes[SF_BY_LOCK]));
	number(out, "spliced_bytes_total{by=\"lease\"}", atomic_load(&metrics->spliced_bytes[SF_BY_LEASE]));
	head(out, "leases", "gauge", NULL, "Open snapshots whose files have a lease.");
	number(out, "leases", atomic_load(&views->leases.held));
	head(out, "lease_breaks", "counter", NULL, "Leases that were given up for somebody who wanted to write.");
	number(out, "lease_breaks_total", atomic_load(&views->leases.breaks));
	head(out, "cache_bytes", "gauge", "bytes", "Memory that caches hold.");
	number(out, "cache_bytes{cache=\"tables\"}", stats.table_bytes);
	number(out, "cache_bytes{cache=\"clusters\"}", stats.cluster_bytes);
	head(out, "cluster_cache_hits", "counter", NULL, "Decompressed clusters that were found in the cache.");
	number(out, "cluster_cache_hits_total", stats.cluster_hits);
	head(out, "cluster_cache_misses", "counter", NULL, "Compressed clusters that had to be decompressed.");
	number(out, "cluster_cache_misses_total", stats.cluster_misses);
}

struct sf_text *sf_metrics_text(struct sf_metrics *metrics, struct vm *vm, const struct sf_views *views, const struct sf_tree *tree)
{
	vs_autofree char *data = NULL;
	size_t len;
	FILE *out = xmemopen(&data, &len);

	for (size_t i = 0; i < VS_ARRAY_LEN(families); i++) {
		head(out, families[i].name, families[i].type, families[i].unit, families[i].help);
		for (size_t k = 0; k < tree->n_dirs; k++)
			families[i].each(out, vm, tree->dirs[k]->domain);
	}
	process(out, metrics, views, tree);
	fputs("# EOF\n", out);
	xmemclose(out);
	atomic_store(&metrics->len, len);
	return sf_text_new(data, len, tree->inventory->built_ns);
}
