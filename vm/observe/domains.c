/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/observe-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/libvirt/virterr.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

/* ---------------------------------------------------------------- life */

static void domain_free(struct vm_known_domain *d)
{
	vm_strmap_clear(&d->by_name, vm_known_snapshot_free);
	vm_known_jobs_free(d->jobs, d->n_jobs);
	vm_job_ask_free(d->asking);
	vm_xml_domain_free(d->now);
	vm_xml_domain_free(d->config);
	vm_meta_free(d->meta);
	vm_meta_free(d->config_meta);
	vm_log_unref(d->log);
	vm_gate_memo_fini(&d->gate);
	free(d->unknown);
	free(d->current);
	free(d->list);
	free(d->name);
	free(d->uuid);
	free(d);
}

static void drop_domain(void *thing)
{
	domain_free(thing);
}

void vm_known_init(struct vm_known *known, struct vm_log_shelf *shelf, struct vm_job_asker *asker)
{
	*known = (struct vm_known){ .shelf = shelf, .asker = asker };
}

void vm_known_fini(struct vm_known *known)
{
	vm_strmap_clear(&known->by_uuid, drop_domain);
	free(known->domains);
	*known = (struct vm_known){0};
}

static struct vm_known_domain *domain_of(struct vm_known *known, const char *uuid, const char *name)
{
	struct vm_known_domain *d = vm_strmap_get(&known->by_uuid, uuid);

	if (d)
		return d;
	d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	d->uuid = strdup(uuid);
	d->name = strdup(name);
	d->state = "no state";
	d->log = vm_log_shelf_take(known->shelf, uuid, name);
	if (!d->uuid || !d->name || !d->log || vm_strmap_put(&known->by_uuid, uuid, d) < 0) {
		domain_free(d);
		return NULL;
	}
	known->changed = true;
	return d;
}

/* ---------------------------------------------------------------- one domain: definition, state */

static const char *state_text(int state)
{
	switch (state) {
	case VIR_DOMAIN_RUNNING: return "running";
	case VIR_DOMAIN_BLOCKED: return "idle";
	case VIR_DOMAIN_PAUSED: return "paused";
	case VIR_DOMAIN_SHUTDOWN: return "in shutdown";
	case VIR_DOMAIN_SHUTOFF: return "shut off";
	case VIR_DOMAIN_CRASHED: return "crashed";
	case VIR_DOMAIN_PMSUSPENDED: return "pmsuspended";
	default: return "no state";
	}
}

void vm_ask_refused(struct vm_ask *ask)
{
	struct vs_err err = {0};

	if (vm_virterr_set(&err, "libvirt does not tell all about this domain") == -ENOENT) {
		ask->gone = true;
		return;
	}
	ask->failed = true;
	free(ask->d->unknown);
	ask->d->unknown = xstrdup(err.msg);
	if (!ask->d->refused && vm_conn_alive(ask->conn))
		vm_log(ask->d->log, "%s", err.msg);
}

static void ask_state(struct vm_ask *ask)
{
	const char *text;
	int state, reason;

	if (virDomainGetState(ask->dom, &state, &reason, 0) < 0) {
		vm_ask_refused(ask);
		return;
	}
	text = state_text(state);
	if (strcmp(text, ask->d->state))
		ask->known->changed = true;
	ask->d->state = text;
}

/* The first that can be read. */
static struct vm_meta *parse_meta(const struct vm_xml_domain *domain)
{
	struct vm_meta *meta = NULL;

	for (char **text = domain ? domain->metadata : NULL; text && *text; text++)
		if (vm_meta_parse(*text, strlen(*text), &meta, NULL) == 0)
			return meta;
	return NULL;
}

/* Parses the text of a definition if it is another one than before. True: it is. */
static bool new_definition(struct vm_known_domain *d, const char *text, uint64_t *hash, struct vm_xml_domain **out,
			   struct vm_meta **meta)
{
	uint64_t now = vm_known_hash(text);
	struct vm_xml_domain *parsed = NULL;
	struct vs_err err = {0};
	int r;

	if (now == *hash && *out)
		return false;
	r = vm_xml_domain_parse(text, &parsed, &err);
	*hash = now;
	vm_xml_domain_free(*out);
	*out = r < 0 ? NULL : parsed;
	vm_meta_free(*meta);
	*meta = parse_meta(*out);
	if (r < 0)
		vm_log(d->log, "its definition cannot be read: %s", vs_err_text(&err, r));
	return true;
}

static void ask_definition(struct vm_ask *ask)
{
	struct vm_known_domain *d = ask->d;
	vs_autofree char *now = virDomainGetXMLDesc(ask->dom, 0);
	vs_autofree char *config = NULL;
	bool news;

	if (!now) {
		vm_ask_refused(ask);
		return;
	}
	if (d->running) {
		config = virDomainGetXMLDesc(ask->dom, VIR_DOMAIN_XML_INACTIVE);
		if (!config) { /* what the next start will use is not known: not that there is nothing */
			vm_ask_refused(ask);
			return;
		}
	}
	news = new_definition(d, now, &d->now_hash, &d->now, &d->meta);
	if (config) {
		news = new_definition(d, config, &d->config_hash, &d->config, &d->config_meta) || news;
	} else if (d->config) {
		vm_xml_domain_free(vs_steal(d->config));
		vm_meta_free(vs_steal(d->config_meta));
		news = true;
	}
	if (news)
		ask->known->changed = ask->closer = true;
}

/* ---------------------------------------------------------------- all domains */

static void rename_domain(struct vm_ask *ask, const char *name)
{
	char *copy = strcmp(ask->d->name, name) ? strdup(name) : NULL;

	if (!copy)
		return;
	free(ask->d->name);
	ask->d->name = copy;
	ask->known->changed = ask->closer = true;
}

/* False: the connection is gone. */
static bool look_at(struct vm_known *known, struct vm_conn *conn, const struct vm_hints *hints, virDomainPtr dom,
		    size_t *first)
{
	struct vm_ask ask = { .known = known, .conn = conn, .dom = dom };
	char uuid[VIR_UUID_STRING_BUFLEN];
	bool running = virDomainGetID(dom) != (unsigned)-1;

	if (virDomainGetUUIDString(dom, uuid) < 0)
		return true;
	ask.d = domain_of(known, uuid, virDomainGetName(dom));
	if (!ask.d)
		return true;
	ask.closer = vm_hints_name(hints, uuid);
	rename_domain(&ask, virDomainGetName(dom));
	if (ask.d->running != running)
		known->changed = ask.closer = true;
	ask.d->running = running;
	ask_state(&ask);
	if (!ask.gone && !ask.failed)
		ask_definition(&ask);
	if (!ask.gone && !ask.failed)
		vm_ask_jobs(&ask);
	if (!ask.gone && !ask.failed)
		vm_ask_snapshots(&ask, *first);
	if (ask.failed && !vm_conn_alive(conn))
		return false;
	if (!ask.failed && ask.d->unknown) {
		free(vs_steal(ask.d->unknown));
		known->changed = true;
	}
	known->changed |= ask.failed != ask.d->refused;
	ask.d->refused = ask.failed;
	if (!ask.gone)
		ask.d->seen = known->look;
	*first += ask.d->n_list;
	return true;
}

static bool still_there(void *thing, void *opaque)
{
	struct vm_known_domain *d = thing;
	struct vm_known *known = opaque;

	if (d->seen == known->look)
		return true;
	vm_log(d->log, "the domain disappeared");
	vm_log_shelf_leave(known->shelf, d->uuid, vs_steal(d->log));
	domain_free(d);
	known->changed = true;
	return false;
}

static bool add_to_list(void *thing, void *opaque)
{
	struct vm_known *known = opaque;

	known->domains[known->n_domains++] = thing;
	return true;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct vm_known_domain *const *)a)->name, (*(struct vm_known_domain *const *)b)->name);
}

static int list_domains(struct vm_known *known)
{
	free(known->domains);
	known->n_domains = 0;
	known->domains = calloc(known->by_uuid.n + 1, sizeof(*known->domains));
	if (!known->domains)
		return -ENOMEM;
	vm_strmap_filter(&known->by_uuid, add_to_list, known);
	qsort(known->domains, known->n_domains, sizeof(*known->domains), by_name);
	return 0;
}

int vm_known_look(struct vm_known *known, struct vm_conn *conn, const struct vm_hints *hints, struct vs_err *err)
{
	virDomainPtr *doms = NULL;
	size_t first = 0;
	bool alive = true;
	int n = virConnectListAllDomains(vm_conn_ptr(conn), &doms, 0);

	if (n < 0) {
		vm_virterr_set(err, "cannot list the domains");
		return vm_conn_alive(conn) ? vm_virterr_code() : -EHOSTDOWN;
	}
	known->look++;
	known->changed = known->jobs = false;
	for (int i = 0; i < n; i++) {
		alive = alive && look_at(known, conn, hints, doms[i], &first);
		virDomainFree(doms[i]);
	}
	free(doms);
	if (!alive || !vm_conn_alive(conn))
		return vs_err_set(err, -EHOSTDOWN, "the connection to libvirt broke off");
	vm_strmap_filter(&known->by_uuid, still_there, known);
	known->n_snapshots = first;
	known->turn = known->turn + VM_KNOWN_TURNS < first ? known->turn + VM_KNOWN_TURNS : 0;
	return list_domains(known);
}
