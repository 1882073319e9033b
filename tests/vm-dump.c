/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * vm-dump: the inventory that vm/ has of a source, as text. A debugging and testing aid.
 *
 *     vm-dump [--watch SECONDS] [--refresh SECONDS] [--ro] [--allow DIR]... [URI | IMAGE...]
 *
 * Prints the first inventory; with --watch also every one that differs from it, until the time is over (and `refresh:` lines
 * where vm_refresh() failed), and in the end the logs.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "vm/vm.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned changes; /* how often the callback was called */

static void count_change(void *opaque)
{
	(void)opaque;
	pthread_mutex_lock(&lock);
	changes++;
	pthread_mutex_unlock(&lock);
}

static void print_list(const char *what, char *const *list)
{
	for (; list && *list; list++)
		printf("        %s %s\n", what, *list);
}

static void print_disk(const struct vm_disk *d)
{
	printf("      disk %s file=%s state=%s size=%" PRIu64 " created=%" PRId64 " ino=%016" PRIx64 " format=%s guard=%d%d watched=%u%s%s\n",
	       d->target, d->file ? d->file : "-", vm_state_name(d->state), d->size, d->created_ns, d->ino,
	       d->format == Q2_FORMAT_NONE ? "-" : q2_format_name(d->format), d->guard, d->guard_top, d->watched, d->reason ? " : " : "",
	       d->reason ? d->reason : "");
	if (d->snapshot)
		printf("        entry id=%s disk_size=%" PRIu64 "\n", d->snapshot->id, d->snapshot->disk_size);
	print_list("chain", d->chain);
}

static void print_snapshot(const struct vm_snapshot *s)
{
	printf("    snapshot %s kind=%s state=%s memory=%d recorded=%d current=%d present=%d created=%" PRId64
	       " parent=%s xml=%s(%zu)%s%s\n",
	       s->shown, vm_kind_name(s->kind), vm_state_name(s->state), s->memory, s->recorded, s->current, s->present,
	       s->created_ns, s->parent ? s->parent : "-", s->xml_file ? s->xml_file : "-", s->xml_len,
	       s->reason ? " : " : "", s->reason ? s->reason : "");
	for (size_t i = 0; i < s->n_disks; i++)
		print_disk(&s->disks[i]);
}

static void print_layer(size_t i, const struct vm_layer *l)
{
	printf("    layer %zu %s format=%s size=%" PRIu64 " below=%d%s%s%s%s\n", i, l->path,
	       l->format == Q2_FORMAT_NONE ? "-" : q2_format_name(l->format), l->virtual_size, l->below,
	       l->active ? " active" : "", l->error ? " missing" : "", l->note ? " : " : "", l->note ? l->note : "");
	print_list("user", l->users);
	print_list("snapshot", l->snapshots);
}

static void print_domain(const struct vm_domain *d)
{
	printf("  domain %s uuid=%s state=%s ino=%016" PRIx64 " changed=%" PRId64 "\n", d->dir, d->uuid, d->state, d->ino,
	       d->changed_ns);
	for (size_t i = 0; i < d->n_disks; i++)
		printf("    now %s top=%d source=%s%s%s%s%s\n", d->disks[i].target, d->disks[i].top,
		       d->disks[i].source ? d->disks[i].source : "-", d->disks[i].note ? " : " : "",
		       d->disks[i].note ? d->disks[i].note : "", d->disks[i].job ? " job=" : "",
		       d->disks[i].job ? d->disks[i].job : "");
	for (size_t i = 0; i < d->n_snapshots; i++)
		print_snapshot(&d->snapshots[i]);
	for (size_t i = 0; i < d->n_layers; i++)
		print_layer(i, &d->layers[i]);
}

static void print_inventory(const struct vm_inventory *inv)
{
	printf("picture %" PRIu64 " with %zu domains\n", inv->serial, inv->n_domains);
	for (size_t i = 0; i < inv->n_domains; i++)
		print_domain(inv->domains[i]);
	fflush(stdout);
}

static void print_logs(const struct vm_inventory *inv)
{
	for (size_t i = 0; i < inv->n_domains; i++) {
		int64_t changed_ns;
		size_t len;
		char *text;

		vm_log_text(inv->domains[i]->log, &text, &len, &changed_ns);
		printf("log of %s:\n%s", inv->domains[i]->dir, text);
		free(text);
	}
}

static void watch(struct vm *vm, double seconds)
{
	struct vm_inventory *inv = vm_inventory_get(vm);
	uint64_t serial = inv->serial;
	int last = 0;

	vm_inventory_put(inv);
	for (double t = 0; t < seconds; t += 0.2) {
		int r = vm_refresh(vm, 200);

		if (r != last)
			printf("refresh: %s\n", r ? strerror(-r) : "ok");
		last = r;
		inv = vm_inventory_get(vm);
		if (inv->serial != serial)
			print_inventory(inv);
		serial = inv->serial;
		vm_inventory_put(inv);
		fflush(stdout);
		usleep(200000);
	}
}

struct args {
	struct vm_options options;
	const char **sources, **allow;
	double seconds;
};

static void parse(int argc, char **argv, struct args *args)
{
	size_t n_sources = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--watch") && i + 1 < argc)
			args->seconds = atof(argv[++i]);
		else if (!strcmp(argv[i], "--refresh") && i + 1 < argc)
			args->options.refresh_s = atof(argv[++i]);
		else if (!strcmp(argv[i], "--allow") && i + 1 < argc)
			args->allow[args->options.n_allow_paths++] = argv[++i];
		else if (!strcmp(argv[i], "--ro"))
			args->options.read_only = true;
		else
			args->sources[n_sources++] = argv[i];
	}
	args->options.allow_paths = args->allow;
	args->options.images = args->sources;
	if (n_sources == 1 && strstr(args->sources[0], ":/"))
		args->options.uri = args->sources[0];
	else
		args->options.n_images = n_sources;
}

static int run(const struct args *args)
{
	struct vs_err err = {0};
	struct vm_inventory *inv;
	struct vm *vm;
	int r = vm_open(&args->options, &vm, &err);

	if (r < 0) {
		fprintf(stderr, "vm-dump: %s\n", vs_err_text(&err, r));
		return 1;
	}
	inv = vm_inventory_get(vm);
	print_inventory(inv);
	vm_inventory_put(inv);
	if (args->seconds > 0)
		watch(vm, args->seconds);
	inv = vm_inventory_get(vm);
	if (vm_close(vm) < 0)
		_exit(1);
	print_logs(inv);
	vm_inventory_put(inv);
	printf("%u changes\n", changes);
	return 0;
}

int main(int argc, char **argv)
{
	struct args args = {
		.options = { .refresh_s = 1, .changed = count_change, .to_stderr = true },
		.sources = calloc((size_t)argc, sizeof(char *)), .allow = calloc((size_t)argc, sizeof(char *)),
	};
	int status = 1;

	if (args.sources && args.allow) {
		parse(argc, argv, &args);
		status = run(&args);
	}
	free(args.sources);
	free(args.allow);
	return status;
}
