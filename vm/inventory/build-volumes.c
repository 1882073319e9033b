/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Images that no domain names and that stand on something: volumes in storage pools, and files that lie beside the
 * images of domains. They are looked at for one reason: what they stand on is needed by them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/inventory/build.h"
#include "vm/model/names.h"

struct found {
	const char *path, *pool;
};

struct volumes {
	struct vm_build *sk;
	struct vm_strmap nodes; /* images that are known already */
	struct vm_strmap dirs;  /* directories that were looked at */
	const char *pool;       /* of the directory that is being looked at; NULL: it is none's */
	struct found *list;
	size_t n, room;
	struct q2_gate *gate;
};

/* False: it was there before. */
static bool mark_node(struct volumes *v, uint64_t dev, uint64_t ino)
{
	char key[48];

	snprintf(key, sizeof(key), "%" PRIx64 ":%" PRIx64, dev, ino);
	return !vm_strmap_get(&v->nodes, key) && vm_strmap_put(&v->nodes, key, v) == 0;
}

static void note_file(const char *path, void *opaque)
{
	struct volumes *v = opaque;
	struct stat st;

	if (stat(path, &st) || !mark_node(v, st.st_dev, st.st_ino))
		return;
	if (v->n == v->room) {
		size_t room = v->room ? v->room * 2 : 32;
		struct found *list = vm_arena_calloc(&v->sk->arena, room, sizeof(*list));

		if (!list)
			return;
		if (v->n)
			memcpy(list, v->list, v->n * sizeof(*list));
		v->list = list;
		v->room = room;
	}
	v->list[v->n++] = (struct found){ vm_arena_strdup(&v->sk->arena, path), v->pool };
}

static void scan(struct volumes *v, const char *dir, const char *pool)
{
	struct vs_err err = {0};
	int r;

	if (vm_strmap_get(&v->dirs, dir) || vm_strmap_put(&v->dirs, dir, v) < 0)
		return;
	v->pool = pool;
	r = vm_dirs_list(v->sk->dirs, dir, note_file, v);
	if (r == 0 || r == -ENOENT || r == -ENOTDIR)
		return;
	vs_err_set(&err, r, "the directory cannot be listed: %s", strerror(-r));
	vm_build_unknown(v->sk, r, err.msg, "an image in '%s'", dir);
}

/* The directory of an image; not /dev, where nothing lies that could be an overlay without our knowing. */
static void scan_beside(struct volumes *v, const char *path)
{
	vs_autofree char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (!slash || slash == dir || !strncmp(path, "/dev/", 5))
		return;
	*slash = '\0';
	scan(v, dir, NULL);
}

/* Everything that any domain's gate allows, since nothing is served through this one. */
static struct q2_gate *wide_gate(struct vm_build *sk)
{
	struct vm_gates_list list = {0};
	struct q2_gate *gate;

	for (size_t i = 0; i < sk->chains.n; i++)
		vm_gates_list_file(&list, sk->chains.fact[i].path, Q2_FORMAT_NONE);
	for (size_t i = 0; i < sk->n_allow_paths; i++)
		vm_gates_list_dir(&list, sk->allow_paths[i]);
	for (size_t i = 0; i < sk->pools->n; i++)
		if (sk->pools->pools[i].dir)
			vm_gates_list_dir(&list, sk->pools->pools[i].dir);
	gate = vm_gates_list_gate(&list, &sk->cache->wide);
	vm_gates_list_fini(&list);
	return gate;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct found *)a)->path, ((const struct found *)b)->path);
}

static const char *shown_name(struct vm_build *sk, const struct found *f)
{
	const char *slash = strrchr(f->path, '/');
	char *shown = vm_name_printable(f->pool && slash ? slash + 1 : f->path);

	if (!shown)
		sk->arena.failed = true;
	return shown ? vm_arena_own(&sk->arena, shown, free) : "";
}

static void add_volumes(struct volumes *v)
{
	struct vm_build *sk = v->sk;
	struct vm_fact_volume *out = vm_arena_calloc(&sk->arena, v->n, sizeof(*out));
	size_t n = 0;

	for (size_t i = 0; out && i < v->n; i++) {
		const struct found *f = &v->list[i];
		struct vm_header *file = vm_headers_top(sk->files, f->path, Q2_FORMAT_QCOW2);

		if (!file || file->code == -ENOENT || (file->info && !file->info->backing_name && !file->info->data_file))
			continue; /* it stands on nothing */
		out[n++] = (struct vm_fact_volume){
			.pool = f->pool, .name = shown_name(sk, f),
			.file = vm_chains_path(&sk->chains, f->path, Q2_FORMAT_QCOW2, v->gate),
		};
	}
	sk->set.volumes = out;
	sk->set.n_volumes = n;
}

void vm_build_volumes(struct vm_build *sk)
{
	struct volumes v = { .sk = sk };
	size_t n_known = sk->chains.n;

	for (size_t i = 0; i < n_known; i++)
		if (sk->chains.file[i]->found)
			mark_node(&v, sk->chains.fact[i].stamp.dev, sk->chains.fact[i].stamp.ino);
	for (size_t i = 0; i < sk->pools->n; i++)
		if (sk->pools->pools[i].dir)
			scan(&v, sk->pools->pools[i].dir, sk->pools->pools[i].name);
	for (size_t i = 0; i < n_known; i++)
		scan_beside(&v, sk->chains.fact[i].path);
	v.gate = wide_gate(sk);
	if (!v.gate)
		sk->arena.failed = true;
	else if (v.n)
		qsort(v.list, v.n, sizeof(*v.list), by_path);
	if (v.gate)
		add_volumes(&v);
	vm_strmap_clear(&v.nodes, NULL);
	vm_strmap_clear(&v.dirs, NULL);
}
