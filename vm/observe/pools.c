/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/pools.h"

#include <errno.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>

#include "vm/libvirt/conn.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"
#include "vm/util/strmap.h"
#include "vm/xml/xml.h"

#define LIST_AGAIN_NS (60 * VM_NS_PER_S)

static void pool_fini(struct vm_pool *p)
{
	for (size_t i = 0; i < p->n_volumes; i++)
		free(p->volumes[i]);
	free(p->volumes);
	free(p->name);
	free(p->dir);
}

static void add_problem(struct vm_pools *pools, const char *sentence)
{
	pools->problems = xreallocarray(pools->problems, pools->n_problems + 1, sizeof(*pools->problems));
	pools->problems[pools->n_problems++] = xstrdup(sentence);
}

/* "what: libvirt's sentence", of the call that has just failed. */
static void add_refusal(struct vm_pools *pools, const char *what)
{
	struct vs_err err = {0};

	vm_virterr_set(&err, "%s", what);
	add_problem(pools, err.msg);
}

static void drop_problems(struct vm_pools *pools)
{
	for (size_t i = 0; i < pools->n_problems; i++)
		free(pools->problems[i]);
	free(vs_steal(pools->problems));
	pools->n_problems = 0;
}

static void drop_pools(struct vm_pools *pools)
{
	drop_problems(pools);
	for (size_t i = 0; i < pools->n; i++)
		pool_fini(&pools->pools[i]);
	free(pools->pools);
	pools->pools = NULL;
	pools->n = 0;
}

void vm_pools_fini(struct vm_pools *pools)
{
	drop_pools(pools);
	free(pools->names);
	free(pools->definitions);
	vm_untold_fini(&pools->untold);
	*pools = (struct vm_pools){0};
}

void vm_pools_connected(struct vm_pools *pools, virConnectPtr conn)
{
	vm_conn_autodirs struct vm_conn_dirs dirs;

	vm_conn_dirs(conn, &dirs);
	free(pools->definitions);
	pools->definitions = vs_steal(dirs.pools);
}

/* ---------------------------------------------------------------- one pool */

static bool holds_files(const char *type)
{
	static const char *const types[] = { "dir", "fs", "netfs", "vstorage" };

	for (size_t i = 0; i < VS_ARRAY_LEN(types); i++)
		if (type && !strcmp(type, types[i]))
			return true;
	return false;
}

static void read_volumes(struct vm_pools *pools, virStoragePoolPtr pool, struct vm_pool *p)
{
	virStorageVolPtr *vols = NULL;
	int n = virStoragePoolListAllVolumes(pool, &vols, 0);

	if (n < 0) {
		vs_autofree char *what = xasprintf("the volumes of storage pool '%s'", virStoragePoolGetName(pool));

		add_refusal(pools, what);
		return;
	}
	p->volumes = xcalloc((size_t)n + 1, sizeof(*p->volumes));
	for (int i = 0; i < n; i++) {
		char *path = virStorageVolGetPath(vols[i]);

		if (!path) {
			vs_autofree char *what = xasprintf("volume '%s' of storage pool '%s'", virStorageVolGetName(vols[i]),
							   virStoragePoolGetName(pool));

			add_refusal(pools, what);
		} else if (path[0] == '/') {
			p->volumes[p->n_volumes++] = path;
		} else { /* no file of this host */
			free(path);
		}
		virStorageVolFree(vols[i]);
	}
	free(vols);
}

/* False: nothing there that an image could stand on. Of one that is not active libvirt does not list the volumes; those of a pool of files are where they are,
 * unless that is not mounted. */
static bool read_pool(struct vm_pools *pools, virStoragePoolPtr pool, bool active, struct vm_pool *p)
{
	vs_autofree char *xml = virStoragePoolGetXMLDesc(pool, 0);
	struct vm_xml_pool *parsed = NULL;
	vs_autofree char *what = xasprintf("storage pool '%s'", virStoragePoolGetName(pool));
	struct vs_err err = {0};
	bool useful;
	int r;

	*p = (struct vm_pool){0};
	if (!xml) {
		add_refusal(pools, what);
		return false;
	}
	r = vm_xml_pool_parse(xml, &parsed, &err);
	if (r < 0) {
		vs_autofree char *sentence = xasprintf("%s: %s", what, vs_err_text(&err, r));

		add_problem(pools, sentence);
		return false;
	}
	p->name = vs_steal(parsed->name);
	p->active = active;
	if (!holds_files(parsed->type) && p->active)
		read_volumes(pools, pool, p);
	else if (holds_files(parsed->type) && parsed->target)
		p->dir = vs_steal(parsed->target);
	vm_xml_pool_free(parsed);
	useful = p->dir || p->n_volumes;
	if (!useful)
		pool_fini(p);
	return useful;
}

/* ---------------------------------------------------------------- all of them */

static int by_name(const void *a, const void *b)
{
	virStoragePoolPtr x = *(virStoragePoolPtr const *)a, y = *(virStoragePoolPtr const *)b;

	return strcmp(virStoragePoolGetName(x), virStoragePoolGetName(y));
}

struct listed {
	virConnectPtr conn;
	virStoragePoolPtr *list; /* sorted by name; those that were active come first */
	int n, n_active;
	bool met; /* one of them has its definition where they are looked for */
};

/* The names, each with its end of line, and an empty line after the active ones. Gives. */
static char *names_of(const struct listed *listed)
{
	char *names;
	size_t len;
	FILE *f = xmemopen(&names, &len);

	for (int i = 0; i < listed->n; i++)
		fprintf(f, "%s%s\n", i == listed->n_active ? "\n" : "", virStoragePoolGetName(listed->list[i]));
	xmemclose(f);
	return names;
}

static bool same_pool(const struct vm_pool *a, const struct vm_pool *b)
{
	if (strcmp(a->name, b->name) || a->active != b->active || !a->dir != !b->dir || (a->dir && strcmp(a->dir, b->dir)) ||
	    a->n_volumes != b->n_volumes)
		return false;
	for (size_t i = 0; i < a->n_volumes; i++)
		if (strcmp(a->volumes[i], b->volumes[i]))
			return false;
	return true;
}

static bool same_pools(const struct vm_pools *a, const struct vm_pools *b)
{
	if (a->n != b->n || a->n_problems != b->n_problems)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (!same_pool(&a->pools[i], &b->pools[i]))
			return false;
	return true;
}

static void read_pools(struct vm_pools *pools, const struct listed *listed, bool *changed)
{
	struct vm_pools next = { .listed_ns = vm_steady_ns() };

	next.pools = xcalloc((size_t)listed->n + 1, sizeof(*next.pools));
	next.names = names_of(listed);
	for (int i = 0; i < listed->n; i++)
		next.n += read_pool(&next, listed->list[i], i < listed->n_active, &next.pools[next.n]);
	for (size_t i = 0; i < pools->untold.n; i++) {
		vs_autofree char *sentence = xasprintf("'%s/%s.xml' lies among libvirt's definitions of pools and libvirt lists no such pool, as where it could not read it (start libvirtd "
						       "anew, or take the file away)", pools->definitions, pools->untold.names[i]);

		add_problem(&next, sentence);
	}
	if (pools->untold.code) {
		vs_autofree char *sentence = xasprintf("libvirt's definitions of pools in '%s' cannot be listed: %s", pools->definitions, strerror(-pools->untold.code));

		add_problem(&next, sentence);
	}
	*changed = !same_pools(pools, &next);
	drop_pools(pools);
	free(pools->names);
	next.definitions = pools->definitions;
	next.untold = pools->untold;
	*pools = next;
}

static bool is_listed(void *opaque, const char *name)
{
	struct listed *listed = opaque;
	virStoragePoolPtr pool;

	for (int i = 0; i < listed->n; i++)
		if (!strcmp(virStoragePoolGetName(listed->list[i]), name))
			return listed->met = true;
	pool = virStoragePoolLookupByName(listed->conn, name);
	if (pool)
		virStoragePoolFree(pool);
	return pool;
}

/* As that of domains does. */
static bool look_for_lost(struct vm_pools *pools, const char *names, struct listed *listed)
{
	bool news = vm_untold_look(&pools->untold, pools->definitions, vm_strmap_hash(names), is_listed, listed);

	if (news && pools->untold.n && !listed->met && virConnectListAllStoragePools(listed->conn, NULL, VIR_CONNECT_LIST_STORAGE_POOLS_PERSISTENT) > 0)
		vm_untold_disbelieve(&pools->untold);
	return news;
}

static void listed_fini(struct listed *listed)
{
	for (int i = 0; i < listed->n; i++)
		virStoragePoolFree(listed->list[i]);
	free(listed->list);
}

/* Negative errno: it cannot be listed, and libvirt's last error says why. All are listed first, then the active ones: what is
 * started or stopped in between is there in any case. */
static int list_pools(virConnectPtr conn, struct listed *listed)
{
	virStoragePoolPtr *active = NULL, *all = NULL;
	int n, m;

	*listed = (struct listed){ .conn = conn };
	m = virConnectListAllStoragePools(conn, &all, 0);
	if (m < 0)
		return vm_virterr_code();
	n = virConnectListAllStoragePools(conn, &active, VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE);
	listed->list = xcalloc((size_t)(n < 0 ? 0 : n) + (size_t)m + 1, sizeof(*listed->list));
	for (int i = 0; i < n; i++)
		listed->list[listed->n++] = active[i];
	listed->n_active = listed->n;
	qsort(listed->list, (size_t)listed->n, sizeof(*listed->list), by_name);
	for (int i = 0; i < m; i++) {
		if (listed->n_active && bsearch(&all[i], listed->list, (size_t)listed->n_active, sizeof(*all), by_name))
			virStoragePoolFree(all[i]);
		else
			listed->list[listed->n++] = all[i];
	}
	if (n >= 0) /* whatever is asked of a pool forgets the error */
		qsort(listed->list + listed->n_active, (size_t)(listed->n - listed->n_active), sizeof(*listed->list), by_name);
	free(active);
	free(all);
	return n < 0 ? vm_virterr_code() : 0;
}

int vm_pools_poll(struct vm_pools *pools, virConnectPtr conn, bool force, bool *changed)
{
	vs_cleanup(listed_fini) struct listed listed;
	vs_autofree char *names = NULL;
	int r = list_pools(conn, &listed);

	*changed = false;
	if (r == -EOPNOTSUPP)
		return 0;
	if (r < 0) {
		*changed = !pools->n_problems;
		drop_problems(pools);
		add_refusal(pools, "the storage pools cannot be listed");
		free(vs_steal(pools->names)); /* to be read anew when it can be listed again */
		return r;
	}
	names = names_of(&listed);
	force |= look_for_lost(pools, names, &listed);
	if (force || !pools->names || strcmp(pools->names, names) || vm_steady_ns() - pools->listed_ns > LIST_AGAIN_NS)
		read_pools(pools, &listed, changed);
	return 0;
}
