/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/inventory/build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "vm/meta/journal.h"
#include "vm/meta/made.h"
#include "vm/model/names.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define ASK_AGAIN_NS (60 * VM_NS_PER_S)

struct volume {
	char *path;     /* NULL: libvirt does not know */
	bool elsewhere; /* it does, and it is no file of this host */
	int64_t asked_ns;
};

static void volume_free(void *thing)
{
	struct volume *v = thing;

	free(v->path);
	free(v);
}

void vm_build_cache_fini(struct vm_build_cache *cache)
{
	vm_gates_memo_fini(&cache->around);
	vm_gates_memo_fini(&cache->wide);
	vm_strmap_clear(&cache->volumes, volume_free);
	*cache = (struct vm_build_cache){0};
}

/* ---------------------------------------------------------------- sources */

/* Asks libvirt where a volume lies. Gives; NULL where it does not know, or says that it is no file of this host. */
static char *ask_volume(virConnectPtr conn, const char *pool_name, const char *volume, bool *elsewhere)
{
	virStoragePoolPtr pool = virStoragePoolLookupByName(conn, pool_name);
	virStorageVolPtr vol = pool ? virStorageVolLookupByName(pool, volume) : NULL;
	char *path = vol ? virStorageVolGetPath(vol) : NULL;

	if (vol)
		virStorageVolFree(vol);
	if (pool)
		virStoragePoolFree(pool);
	if (path)
		*elsewhere = path[0] != '/';
	if (path && path[0] == '/')
		return path;
	free(path);
	return NULL;
}

static struct volume *volume_of(struct vm_build *sk, const struct vm_xml_source *source)
{
	struct vm_strmap *volumes = &sk->cache->volumes;
	vs_autofree char *key = xasprintf("%s\n%s", source->pool, source->volume);
	struct volume *v = vm_strmap_get(volumes, key);

	if (v)
		return v;
	v = xcalloc(1, sizeof(*v));
	vm_strmap_put(volumes, key, v);
	return v;
}

/* A pool that was stopped takes its volumes' paths with it, but not the files: what was known stays. */
static const char *volume_path(struct vm_build *sk, const struct vm_xml_source *source)
{
	struct volume *v = volume_of(sk, source);
	int64_t now_ns = vm_steady_ns();
	char *path;

	if (!v->asked_ns || v->asked_ns < sk->cache->stale_ns || now_ns - v->asked_ns > ASK_AGAIN_NS) {
		path = ask_volume(vm_conn_ptr(sk->conn), source->pool, source->volume, &v->elsewhere);
		v->asked_ns = now_ns;
		if (path && v->path && !strcmp(path, v->path)) {
			free(path);
		} else if (path) {
			free(v->path);
			v->path = path;
		}
	}
	return v->path;
}

const char *vm_build_path(struct vm_build *sk, const struct vm_xml_source *source)
{
	return source->type == VM_SOURCE_VOLUME ? volume_path(sk, source) : source->path;
}

/* Images of these formats stand on nothing. */
static bool stands_alone(const char *format)
{
	static const char *const formats[] = {"raw", "iso", "bochs", "cloop", "dmg", "vdi", "vpc", "vhdx", "luks", "ploop", "fat", "dir"};

	for (size_t i = 0; format && i < VS_ARRAY_LEN(formats); i++)
		if (!strcmp(format, formats[i]))
			return true;
	return false;
}

int vm_build_file(struct vm_build *sk, const struct vm_xml_source *source, struct q2_gate *gate)
{
	int i = vm_chains_path(&sk->chains, vm_build_path(sk, source), source->format, gate);

	if (i != VM_NO_FILE && source->format == Q2_FORMAT_NONE && !stands_alone(source->format_name))
		sk->chains.fact[i].opaque = source->format_name ?
			vm_arena_printf(&sk->arena, "is of format '%s', which is not read here", source->format_name) :
			"has no format recorded";
	return i;
}

void vm_build_elsewhere(struct vm_build *sk, const struct vm_xml_source *source, const char *target, const char *owner)
{
	bool lost = source->type == VM_SOURCE_VOLUME && !volume_of(sk, source)->elsewhere; /* it may be any file, of whatever format */

	if (source->type == VM_SOURCE_NONE || vm_build_path(sk, source) || (!lost && stands_alone(source->format_name)))
		return;
	vm_drafts_unknown(&sk->set, -EPERM, lost ? "libvirt does not tell where it lies" : "it is no file of this host that can be looked at", "%s, whose disk %s is a %s of format %s,",
			  owner, target, source->text ? source->text : "remote image",
			  source->format_name ? source->format_name : "unknown");
}

const char *vm_build_unsupported(struct vm_build *sk, const struct vm_xml_source *source)
{
	if (source->unsupported)
		return source->unsupported;
	if (source->type == VM_SOURCE_NONE)
		return "the drive is empty";
	if (!vm_build_path(sk, source))
		return vm_arena_printf(&sk->arena, "libvirt does not find the %s", source->text ? source->text : "image");
	return NULL;
}

bool vm_build_same(const struct vm_build *sk, int a, int b)
{
	const struct q2_stamp *x, *y;

	if (a == b || a == VM_NO_FILE || b == VM_NO_FILE)
		return a == b;
	x = &sk->chains.fact[a].stamp;
	y = &sk->chains.fact[b].stamp;
	return (x->dev || x->ino) && x->dev == y->dev && x->ino == y->ino;
}

/* ---------------------------------------------------------------- gates */

static void add_volumes_of(struct vm_build *sk, struct vm_gates_list *list, const struct vm_xml_domain *domain)
{
	for (size_t i = 0; domain && i < domain->n_disks; i++) {
		const struct vm_xml_source *source = &domain->disks[i].source;
		const char *path = source->type == VM_SOURCE_VOLUME ? vm_build_path(sk, source) : NULL;

		if (path)
			vm_gates_list_file(list, path, source->format);
	}
}

/* All that libvirt's XML names for this domain. The live definition comes first: of formats that contradict each other the
 * first one counts. */
static void add_domain(struct vm_build *sk, struct vm_gates_list *list, const struct vm_observed_domain *k)
{
	if (k->now)
		vm_gates_list_files(list, k->now->files, k->now->n_files);
	add_volumes_of(sk, list, k->now);
	if (k->config)
		vm_gates_list_files(list, k->config->files, k->config->n_files);
	add_volumes_of(sk, list, k->config);
	if (k->saved)
		vm_gates_list_files(list, k->saved->files, k->saved->n_files);
	add_volumes_of(sk, list, k->saved);
	vm_gates_list_files(list, k->once, k->n_once);
	for (size_t i = 0; i < k->n_list; i++) {
		const struct vm_xml_snapshot *xml = k->list[i]->record;

		if (!xml)
			continue;
		vm_gates_list_files(list, xml->files, xml->n_files);
		add_volumes_of(sk, list, xml->domain);
	}
}

/* What every domain's images may name: asked once a look, for there may be a thousand volumes and a thousand domains. */
static struct q2_gate *gate_around(struct vm_build *sk)
{
	struct vm_gates_list list = {0};
	struct q2_gate *gate;

	for (size_t i = 0; i < sk->n_allow_paths; i++)
		vm_gates_list_dir(&list, sk->allow_paths[i]);
	vm_gates_list_pools(&list, sk->pools);
	gate = vm_gates_list_gate(&list, &sk->cache->around);
	vm_gates_list_fini(&list);
	return gate;
}

static struct q2_gate *domain_gate(struct vm_build *sk, struct vm_observed_domain *k)
{
	struct vm_gates_list list = {0};
	struct q2_gate *gate;

	list.also = sk->around;
	add_domain(sk, &list, k);
	gate = vm_gates_list_gate(&list, &k->gate);
	vm_gates_list_fini(&list);
	return gate;
}

/* ---------------------------------------------------------------- drawing */

static void name_dirs(struct vm_build *sk)
{
	size_t n = sk->observed->n_domains;
	const char **names = vm_arena_calloc(&sk->arena, n, sizeof(*names));
	char **dirs = vm_arena_calloc(&sk->arena, n, sizeof(*dirs));

	for (size_t i = 0; i < n; i++)
		names[i] = sk->observed->domains[i]->name;
	vm_names_dirs(names, n, dirs);
	for (size_t i = 0, k = 0; i < n; i++)
		if (k < sk->set.n && sk->place[k] == i)
			sk->set.drafts[k++].dir = vm_arena_take(&sk->arena, dirs[i]);
		else
			free(dirs[i]);
}

static void choose(struct vm_build *sk)
{
	size_t n = sk->observed->n_domains;

	sk->place = vm_arena_calloc(&sk->arena, n, sizeof(*sk->place));
	for (size_t i = 0; i < n; i++)
		if (!sk->some || sk->some[i])
			sk->place[sk->set.n++] = i;
}

struct begun {
	struct vm_build *sk;
	struct vm_draft *d;
	size_t room;
};

/* Only what says itself that it stands on something does: it may be empty still, or half made. */
static enum q2_format format_of(const char *path)
{
	vs_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	char magic[4];

	if (fd < 0)
		return Q2_FORMAT_QCOW2;
	return pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && !memcmp(magic, "QFI\xfb", 4) ? Q2_FORMAT_QCOW2 : Q2_FORMAT_RAW;
}

/* The very file that was made, and none that has its name now. */
static bool add_begun(const char *text, void *opaque)
{
	struct begun *b = opaque;
	struct vm_draft *d = b->d;
	struct vm_made made;
	int file;

	if (!vm_made_parse(text, &made) || vm_made_is_there(&made) == 0)
		return true;
	file = vm_chains_path(&b->sk->chains, vm_arena_strdup(&b->sk->arena, made.path), format_of(made.path), d->gate);
	if (b->sk->chains.fact[file].error == -ENOENT)
		return true;
	VM_ARENA_GROW(&b->sk->arena, d->begun, d->n_begun, b->room);
	d->begun[d->n_begun++] = file;
	return true;
}

/* What a command has made that has not ended: somebody may have come to use it. */
static void draw_begun(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d)
{
	const struct vm_journal journal = { sk->store, k->uuid, NULL };
	struct begun b = { .sk = sk, .d = d };

	vm_journal_each(&journal, "make", add_begun, &b);
}

/* Layers of our own making, which the domain may have left since. */
static void draw_own_made(struct vm_build *sk, const struct vm_meta *meta, struct vm_draft *d)
{
	d->own_made = vm_arena_calloc(&sk->arena, meta->n_made, sizeof(*d->own_made));
	for (size_t i = 0; i < meta->n_made; i++) {
		int file = vm_chains_path(&sk->chains, meta->made[i].path, Q2_FORMAT_QCOW2, d->gate);

		if (sk->chains.fact[file].error != -ENOENT &&
		    vm_meta_is_made(&meta->made[i], sk->chains.fact[file].stamp.ino, sk->chains.fact[file].stamp.btime_ns))
			d->own_made[d->n_own_made++] = file;
	}
}

static bool has_metadata(const struct vm_xml_domain *xml)
{
	return xml && xml->metadata && xml->metadata[0];
}

/* It has no metadata of ours, be it some that cannot be read, and all was read that could say whose it is. */
static bool has_none(const struct vm_observed_domain *k)
{
	bool known = k->now && !k->unknown && (!k->running || k->config) && !has_metadata(k->now) && !has_metadata(k->config);

	for (size_t i = 0; known && i < k->n_list; i++)
		known = k->list[i]->record && !k->list[i]->problem;
	return known;
}

/* ---------------------------------------------------------------- copies of what it has beside its disks */

static bool lies_beside(const char *path, const char *other)
{
	const char *end = other ? strrchr(other, '/') : NULL;
	size_t len = end ? (size_t)(end - other) + 1 : 0;

	return len && !strncmp(path, other, len) && !strchr(path + len, '/');
}

static bool names_dir_of(const struct vm_xml_domain *xml, const char *path)
{
	size_t len = xml && xml->tpm_source ? strlen(xml->tpm_source) : 0;

	return xml && (lies_beside(path, xml->nvram) || (len && !strncmp(path, xml->tpm_source, len)));
}

/* No byte of a file is served but beside one that libvirt's XML names for this domain, or where libvirt keeps its TPM: ".../swtpm/UUID/tpm2/". */
static bool may_be_nv(const void *opaque, const struct vm_draft_snapshot *s, const char *path)
{
	const struct vm_observed_domain *k = opaque;
	vs_autofree char *tpm = xasprintf("/swtpm/%s/tpm", k->uuid);
	bool may = path[0] == '/' && !strstr(path, "/../") && (names_dir_of(k->now, path) || names_dir_of(k->config, path));

	for (size_t i = 0; !may && i < k->n_list; i++) {
		const struct vm_xml_snapshot *xml = k->list[i]->record;

		may = xml && !strcmp(k->list[i]->name, s->name) && path[0] == '/' && !strstr(path, "/../") && names_dir_of(xml->domain, path);
	}
	return may || (path[0] == '/' && !strstr(path, "/../") && (k->now ? k->now->has_tpm : false) && strstr(path, tpm));
}

/* What a definition says of its firmware is needed like a disk. */
static void draw_firmware(struct vm_build *sk, const struct vm_xml_domain *xml, struct vm_draft *d)
{
	const char *paths[] = { xml ? xml->nvram : NULL, xml ? xml->loader : NULL, xml ? xml->nvram_template : NULL };

	for (size_t i = 0; i < VS_ARRAY_LEN(paths); i++) {
		sk->chains.loose = i; /* what all firmware is made of */
		if (!paths[i] || paths[i][0] != '/' || access(paths[i], F_OK) < 0)
			continue;
		VM_ARENA_GROW(&sk->arena, d->beside, d->n_beside, d->beside_room);
		d->beside[d->n_beside++] = (struct vm_fact_beside){ vm_chains_path(&sk->chains, paths[i], Q2_FORMAT_RAW, d->gate),
								    i ? "its firmware" : "its firmware variables" };
	}
	sk->chains.loose = false;
}

/* The live definition and the configured one may differ: what has been said last counts. */
static void draw_meta(struct vm_build *sk, const struct vm_observed_domain *k, struct vm_draft *d)
{
	const struct vm_meta *found = vm_meta_newer(k->meta, k->config_meta);
	struct vm_meta *best = vm_store_best(sk->store, k->uuid, found);

	if (best && !found && has_none(k))
		vm_draft_disown(d, &sk->chains, best, sk->store);
	if (best) {
		vm_draft_meta(d, best, &sk->arena);
		vm_draft_nv(d, best, &sk->chains, &sk->arena, may_be_nv, k);
		draw_own_made(sk, best, d);
	}
	draw_begun(sk, k, d);
	draw_firmware(sk, k->now, d);
	draw_firmware(sk, k->config, d);
	draw_firmware(sk, k->saved, d);
	vm_build_mentions(sk, k, d);
	d->nv_paths[0] = k->now ? k->now->nvram : NULL;
	d->nv_paths[1] = k->config ? k->config->nvram : NULL;
	d->nv_paths[2] = k->saved ? k->saved->nvram : NULL;
}

/* What libvirt did not tell of it. */
static void draw_unknown(struct vm_build *sk, const struct vm_observed_domain *k, const struct vm_draft *d)
{
	if (!k->now || k->unknown)
		vm_drafts_unknown(&sk->set, -EPERM, k->unknown ? k->unknown : "its definition cannot be read", "domain '%s'", d->dir);
	else if (k->running && !k->config)
		vm_drafts_unknown(&sk->set, -EPERM, "the definition for its next start cannot be read", "domain '%s'", d->dir);
	if (k->saved_problem)
		vm_drafts_unknown(&sk->set, -EPERM, k->saved_problem, "the managed save of domain '%s'", d->dir);
	for (size_t i = 0; i < k->n_list; i++)
		if (!k->list[i]->unread && (!k->list[i]->record || k->list[i]->problem))
			vm_drafts_unknown(&sk->set, -EPERM, k->list[i]->problem ? k->list[i]->problem : "its record cannot be read",
					  "snapshot '%s' of domain '%s'", k->list[i]->name, d->dir);
}

static void draw_domain(struct vm_build *sk, struct vm_observed_domain *k, struct vm_draft *d)
{
	d->name = k->name;
	d->uuid = k->uuid;
	d->state = k->state;
	d->running = k->running;
	d->checkpoints = k->checkpoints;
	d->log = k->log;
	d->gate = domain_gate(sk, k);
	vm_log_rename(k->log, d->dir);
	vm_build_disks(sk, k, d);
	vm_build_snapshots(sk, k, d);
	draw_meta(sk, k, d);
	draw_unknown(sk, k, d);
}

void vm_build_draw(struct vm_build *sk)
{
	size_t n;

	vm_arena_init(&sk->arena);
	vm_chains_init(&sk->chains, sk->files, sk->round);
	sk->set = (struct vm_drafts){ .arena = &sk->arena, .chains = &sk->chains, .memory = sk->memory,
				      .ask_locks = sk->observed->jobs };
	choose(sk);
	n = sk->set.n;
	vm_chains_ask(&sk->chains, n);
	sk->set.drafts = vm_arena_calloc(&sk->arena, n, sizeof(*sk->set.drafts));
	sk->extra_room = 3 * n; /* see build-disks.c */
	sk->set.extra = sk->extra = vm_arena_calloc(&sk->arena, sk->extra_room, sizeof(*sk->extra));
	sk->around = gate_around(sk);
	name_dirs(sk);
	for (size_t i = 0; i < n; i++) {
		sk->chains.asker = (int)i;
		draw_domain(sk, sk->observed->domains[sk->place[i]], &sk->set.drafts[i]);
	}
	sk->chains.asker = -1;
	for (size_t i = 0; i < sk->observed->untold.n; i++) {
		vs_autofree char *why = xasprintf("'%s/%s.xml' lies among libvirt's definitions and libvirt lists no such domain, as where it could not read it (start libvirtd "
						  "anew, or take the file away)", sk->observed->dirs.definitions, sk->observed->untold.names[i]);

		vm_drafts_unknown(&sk->set, -EPERM, why, "domain '%s'", sk->observed->untold.names[i]);
	}
	if (sk->observed->untold.code) {
		vs_autofree char *why = xasprintf("libvirt's definitions in '%s' cannot be listed: %s", sk->observed->dirs.definitions, strerror(-sk->observed->untold.code));

		vm_drafts_unknown(&sk->set, sk->observed->untold.code, why, "a domain that libvirt does not list");
	}
	if (sk->observed->n_unread) /* one phrase for all of them */
		vm_drafts_unknown(&sk->set, -EPERM, "its record has not been read yet", "one of %zu snapshots", sk->observed->n_unread);
	vm_chains_groups(&sk->chains);
	vm_surroundings_draw(&(struct vm_surroundings){ .set = &sk->set, .dirs = sk->dirs, .pools = sk->pools, .wide = &sk->cache->wide,
							.allow_paths = sk->allow_paths, .n_allow_paths = sk->n_allow_paths,
							.others = sk->files, .drawn = sk->some_owners, .shared = &sk->shared });
}

void vm_build_fini(struct vm_build *sk)
{
	vm_chains_fini(&sk->chains);
	vm_arena_fini(&sk->arena);
}
