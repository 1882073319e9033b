/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/observe/observe-priv.h"

#include <errno.h>
#include <string.h>

#include "vm/libvirt/checkpoint.h"
#include "vm/libvirt/dom.h"
#include "vm/libvirt/virterr.h"
#include "vm/util/clock.h"
#include "vm/util/log.h"
#include "vm/util/mem.h"

#define CHECKPOINTS_UP_TO 50 /* domains: then all are asked for their checkpoints at every look */
#define CHECKPOINT_TURNS 16
#define ASK_ALL_UP_TO 50 /* domains: then all are asked at every look, whatever libvirt's own files say */
#define OWN_TURNS 256
#define TELLS_NOT "libvirt does not tell all about this domain"

/* ---------------------------------------------------------------- life */

static void domain_free(struct vm_observed_domain *d)
{
	for (size_t i = 0; i < d->n_list; i++)
		vm_observed_snapshot_free(d->list[i]);
	vm_observed_jobs_free(d->jobs, d->n_jobs);
	vm_ask_free(d->asking_definition);
	vm_ask_free(d->asking_jobs);
	vm_xml_domain_free(d->now);
	vm_xml_domain_free(d->config);
	vm_meta_free(d->meta);
	vm_meta_free(d->config_meta);
	vm_xml_domain_free(d->saved);
	free(d->saved_problem);
	vm_checkpoints_free(d->checkpoints);
	vm_log_unref(d->log);
	vm_gates_memo_fini(&d->gate);
	free(d->unknown);
	free(d->current);
	vm_untold_fini(&d->untold);
	free(d->list);
	for (size_t i = 0; i < d->n_once; i++)
		free(d->once[i].path);
	free(d->once);
	free(d->name);
	free(d->uuid);
	free(d);
}

static void drop_domain(void *thing)
{
	domain_free(thing);
}

void vm_observe_init(struct vm_observed *observed, struct vm_log_shelf *shelf, struct vm_asker *asker)
{
	*observed = (struct vm_observed){ .shelf = shelf, .asker = asker };
}

void vm_observe_fini(struct vm_observed *observed)
{
	vm_strmap_clear(&observed->by_uuid, drop_domain);
	free(observed->domains);
	vm_own_dirs_fini(&observed->own);
	vm_untold_fini(&observed->untold);
	vm_conn_dirs_fini(&observed->dirs);
	*observed = (struct vm_observed){0};
}

static struct vm_observed_domain *domain_of(struct vm_observed *observed, const char *uuid, const char *name)
{
	struct vm_observed_domain *d = vm_strmap_get(&observed->by_uuid, uuid);

	if (d)
		return d;
	d = xcalloc(1, sizeof(*d));
	d->uuid = xstrdup(uuid);
	d->name = xstrdup(name);
	d->state = "no state";
	d->log = vm_log_shelf_take(observed->shelf, uuid, name);
	vm_strmap_put(&observed->by_uuid, uuid, d);
	observed->changed = observed->regrouped = true;
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

void vm_observe_unknown(struct vm_observe *observe, const char *why)
{
	observe->failed = true;
	free(observe->d->unknown);
	observe->d->unknown = xstrdup(why);
	if (!observe->d->refused && vm_conn_alive(observe->conn))
		vm_log_warn(observe->d->log, "%s", why);
}

void vm_observe_refused(struct vm_observe *observe)
{
	struct vs_err err = {0};

	if (vm_virterr_set(&err, TELLS_NOT) == -ENOENT)
		observe->gone = true;
	else
		vm_observe_unknown(observe, err.msg);
}

static void ask_state(struct vm_observe *observe)
{
	const char *text;
	int state, reason;

	if (virDomainGetState(observe->dom, &state, &reason, 0) < 0) {
		vm_observe_refused(observe);
		return;
	}
	text = state_text(state);
	if (strcmp(text, observe->d->state))
		observe->observed->changed = true;
	observe->d->state = text;
}

/* The first that can be read. */
static struct vm_meta *parse_meta(const struct vm_xml_domain *domain)
{
	struct vm_meta *meta = NULL;

	for (char **text = domain ? domain->metadata : NULL; text && *text; text++)
		if (vm_meta_parse(*text, strlen(*text), &meta, NULL) == 0) {
			vm_meta_adopt(meta, domain->uuid);
			return meta;
		}
	return NULL;
}

/* Parses the text of a definition if it is another one than before. True: it is. */
static bool new_definition(struct vm_observed_domain *d, const char *text, uint64_t *hash, struct vm_xml_domain **out,
			   struct vm_meta **meta)
{
	uint64_t now = vm_strmap_hash(text); /* enough to tell that it is not the one it was */
	struct vm_xml_domain *parsed = NULL;
	struct vs_err err = {0};
	int r;

	if (now == *hash && *out)
		return false;
	r = vm_xml_domain_parse(text, &parsed, &err);
	*hash = now;
	vm_xml_domain_free(*out);
	*out = r < 0 ? NULL : parsed;
	if (meta) {
		vm_meta_free(*meta);
		*meta = parse_meta(*out);
	}
	if (r < 0)
		vm_log_warn(d->log, "its definition cannot be read: %s", vs_err_text(&err, r));
	return true;
}

#define ONCE_MAX 1000

/* Its images stay what they are when it is shut off, and the definition for its next start does not tell what they stand on. */
void vm_observed_remember(struct vm_observed_domain *d, const struct vm_xml_file *files, size_t n)
{
	for (size_t i = 0; i < n && d->n_once < ONCE_MAX; i++) {
		const struct vm_xml_file *file = &files[i];
		size_t k = 0;

		while (k < d->n_once && strcmp(d->once[k].path, file->path) != 0)
			k++;
		if (k < d->n_once)
			continue;
		d->once = xreallocarray(d->once, d->n_once + 1, sizeof(*d->once));
		d->once[d->n_once++] = (struct vm_xml_file){ xstrdup(file->path), file->format };
	}
}

struct definition {
	char *now, *config; /* config: of one that runs */
	int r;
	struct vs_err err;
};

static void definition_free(void *opaque)
{
	struct definition *said = opaque;

	free(said->now);
	free(said->config);
	free(said);
}

/* Where there is no second one, it is not known what the next start will use: not that there is nothing. */
static void ask_running(virDomainPtr dom, void *opaque)
{
	struct definition *said = opaque;

	said->r = 0;
	said->now = dom ? virDomainGetXMLDesc(dom, 0) : NULL;
	said->config = said->now ? virDomainGetXMLDesc(dom, VIR_DOMAIN_XML_INACTIVE) : NULL;
	if (!said->config)
		said->r = vm_virterr_set(&said->err, TELLS_NOT);
}

static void take_definition(void *opaque, const void *answer)
{
	const struct definition *said = answer;
	struct definition *heard = opaque;

	free(heard->now);
	free(heard->config);
	*heard = (struct definition){ xstrdup_or_null(said->now), xstrdup_or_null(said->config), said->r, said->err };
}

static const struct vm_question running_definition = { 1500, ask_running, take_definition, definition_free };

/* Is it for that domain that all this is looked at? Its command waits for it, too. */
static bool is_about(const struct vm_observed *observed, const char *uuid)
{
	return observed->about && !strcmp(observed->about, uuid);
}

/* One that does not run has no QEMU to wait for. */
static void hear_definition(struct vm_observe *observe, struct definition *heard)
{
	struct vm_observed_domain *d = observe->d;
	int r;

	if (!d->running) {
		vm_ask_free(vs_steal(d->asking_definition));
		heard->now = virDomainGetXMLDesc(observe->dom, 0);
		heard->r = heard->now ? 0 : vm_virterr_set(&heard->err, TELLS_NOT);
		return;
	}
	r = vm_ask(&d->asking_definition, observe->observed->asker, d->uuid, &running_definition, is_about(observe->observed, d->uuid),
		   xcalloc(1, sizeof(struct definition)), heard);
	if (r < 0)
		heard->r = vs_err_set(&heard->err, r, TELLS_NOT ": it has not answered yet%s", r == -EAGAIN ? ", nor have others" : "");
}

static void take_texts(struct vm_observe *observe, const struct definition *said)
{
	struct vm_observed_domain *d = observe->d;
	bool news = new_definition(d, said->now, &d->now_hash, &d->now, &d->meta);

	if (d->running && news && d->now)
		vm_observed_remember(d, d->now->files, d->now->n_files);
	if (said->config) {
		news = new_definition(d, said->config, &d->config_hash, &d->config, &d->config_meta) || news;
	} else if (d->config) {
		vm_xml_domain_free(vs_steal(d->config));
		vm_meta_free(vs_steal(d->config_meta));
		news = true;
	}
	if (news)
		observe->observed->changed = observe->closer = true;
}

static void ask_definition(struct vm_observe *observe)
{
	struct definition *heard = xcalloc(1, sizeof(struct definition));

	hear_definition(observe, heard);
	if (heard->r == -ENOENT)
		observe->gone = true;
	else if (heard->r < 0)
		vm_observe_unknown(observe, heard->err.msg);
	else
		take_texts(observe, heard);
	definition_free(heard);
}

static void forget_saved(struct vm_observe *observe)
{
	if (observe->d->saved || observe->d->saved_problem)
		observe->observed->changed = observe->closer = true;
	vm_xml_domain_free(vs_steal(observe->d->saved));
	free(vs_steal(observe->d->saved_problem));
}

/* A managed save names files of its own, whatever the definition has come to say since. */
static void ask_saved(struct vm_observe *observe)
{
	struct vm_observed_domain *d = observe->d;
	int has = d->running ? 0 : virDomainHasManagedSaveImage(observe->dom, 0);
	vs_autofree char *unlisted = has == 0 && !d->running ? vm_dom_unlisted_save(observe->dom, observe->observed->dirs.saves) : NULL;
	vs_autofree char *text = has > 0 ? virDomainManagedSaveGetXMLDesc(observe->dom, 0) : NULL;
	struct vs_err err = {0};

	if (has < 0 && vm_virterr_code() != -EOPNOTSUPP) {
		vm_observe_refused(observe);
		return;
	}
	if (has > 0 && !text)
		vm_virterr_set(&err, "its managed save cannot be read");
	if (unlisted)
		vs_err_set(&err, -EPERM, "'%s' is there and libvirt does not list it (start libvirtd anew, or take the file away)", unlisted);
	if ((has <= 0 && !unlisted) || (has > 0 && !text && virDomainHasManagedSaveImage(observe->dom, 0) == 0)) {
		forget_saved(observe);
		return;
	}
	if (text && !new_definition(d, text, &d->saved_hash, &d->saved, NULL))
		return;
	if (text && !d->saved)
		vs_err_set(&err, -EINVAL, "the definition in its managed save cannot be read");
	if (!text && d->saved_problem && !strcmp(d->saved_problem, err.msg))
		return;
	if (!text)
		forget_saved(observe);
	free(d->saved_problem);
	d->saved_problem = d->saved ? NULL : xstrdup(err.msg);
	observe->observed->changed = observe->closer = true;
}

static bool same_names(char **a, char **b)
{
	for (; *a && *b && !strcmp(*a, *b); a++)
		b++;
	return !*a && !*b;
}

/* They change as seldom as backups are made, and nothing is refused because of what was seen here: on large connections a domain is asked in its turn. */
static void ask_checkpoints(struct vm_observe *observe)
{
	const struct vm_observed *observed = observe->observed;
	struct vm_observed_domain *d = observe->d;
	char **names;

	if (d->checkpoints && !observe->closer && observed->n_domains > CHECKPOINTS_UP_TO &&
	    vm_strmap_hash(d->uuid) % CHECKPOINT_TURNS != observed->look % CHECKPOINT_TURNS)
		return;
	if (vm_checkpoints(observe->dom, &names, NULL) < 0)
		return;
	if (d->checkpoints && same_names(d->checkpoints, names)) { /* of which a draft may borrow */
		vm_checkpoints_free(names);
		return;
	}
	observe->observed->changed = true;
	vm_checkpoints_free(d->checkpoints);
	d->checkpoints = names;
}

/* ---------------------------------------------------------------- all domains */

static void rename_domain(struct vm_observe *observe, const char *name)
{
	if (!strcmp(observe->d->name, name))
		return;
	free(observe->d->name);
	observe->d->name = xstrdup(name);
	observe->observed->changed = observe->observed->regrouped = observe->closer = true;
}

/* ---------------------------------------------------------------- whom libvirt's own files spare the questions */

/* What libvirt's files say of it now, as far as that counts for anything. */
static void look_at_own_files(struct vm_observe *observe, struct vm_own_files *now)
{
	const struct vm_observed *observed = observe->observed;
	struct vm_observed_domain *d = observe->d;

	*now = (struct vm_own_files){ .known = false };
	if (observed->n_listed <= ASK_ALL_UP_TO || observed->own_lies || d->running)
		return;
	vm_own_files_look(&observed->own, d->name, observed->began_ns, observed->closely ? NULL : &d->own, now);
	if (now->known && (!now->settled || !vm_own_files_same(&d->own, now)))
		observe->closer = true; /* which of its records was written they do not say */
}

/* Libvirt would say what it said. */
static bool is_told(const struct vm_observe *observe, const struct vm_own_files *now)
{
	const struct vm_observed_domain *d = observe->d;

	return d->own_tell && !observe->closer && vm_own_files_same(&d->own, now);
}

static bool is_its_turn(const struct vm_observe *observe)
{
	return vm_strmap_hash(observe->d->uuid) % OWN_TURNS == observe->observed->look % OWN_TURNS;
}

/* All that libvirt can say of it is known, and its files say the same. */
static bool tells(const struct vm_observe *observe, const struct vm_own_files *now)
{
	const struct vm_observed_domain *d = observe->d;
	const char **names;
	bool complete = !observe->gone && !observe->failed && now->known && now->settled && d->now && !d->running && !strcmp(d->state, "shut off") && !d->saved &&
			!d->saved_problem && !d->n_jobs && !d->asking_jobs && d->checkpoints;

	for (size_t i = 0; complete && i < d->n_list; i++)
		complete = d->list[i]->record && !d->list[i]->problem;
	if (!complete || (d->own_tell && vm_own_files_same(&d->own, now)))
		return complete;
	names = xcalloc(d->n_list + 1, sizeof(*names));
	for (size_t i = 0; i < d->n_list; i++)
		names[i] = d->list[i]->name;
	complete = vm_own_files_say(&observe->observed->own, d->name, d->uuid, d->now, names, d->n_list);
	free(names);
	return complete;
}

/* It was asked although its files said that nothing has happened: were they right? */
static void check_own_files(struct vm_observe *observe, uint64_t now_hash, uint64_t names_hash)
{
	struct vm_observed_domain *d = observe->d;
	struct vm_own_files now;

	if (observe->gone || observe->failed)
		return;
	if (d->now_hash == now_hash && d->names_hash == names_hash) {
		d->own_suspect = false;
		return;
	}
	vm_own_files_look(&observe->observed->own, d->name, vm_now_ns(), NULL, &now);
	if (!vm_own_files_same(&d->own, &now) || d->running)
		return;
	if (!d->own_suspect) { /* it may have been written between the look at them and the question */
		d->own_suspect = true;
		return;
	}
	vm_log_warn(d->log, "libvirt has changed it without a trace in its own files, which are not gone by any more");
	observe->observed->own_lies = true;
}

/* ---------------------------------------------------------------- one domain */

static void ask(struct vm_observe *observe, size_t first)
{
	ask_state(observe);
	if (!observe->gone && !observe->failed)
		ask_definition(observe);
	if (!observe->gone && !observe->failed)
		ask_saved(observe);
	if (!observe->gone && !observe->failed)
		vm_observe_jobs(observe);
	if (!observe->gone && !observe->failed)
		ask_checkpoints(observe);
	if (!observe->gone && !observe->failed)
		vm_observe_records(observe, first);
}

/* False: the connection is gone. */
static bool look_at_domain(struct vm_observe *observe, const char *name, size_t first)
{
	struct vm_observed *observed = observe->observed;
	struct vm_observed_domain *d = observe->d;
	const uint64_t now_hash = d->now_hash, names_hash = d->names_hash;
	bool running = virDomainGetID(observe->dom) != (unsigned)-1, told;
	struct vm_own_files own;

	rename_domain(observe, name);
	if (d->running != running)
		observed->changed = observe->closer = true;
	d->running = running;
	look_at_own_files(observe, &own);
	told = is_told(observe, &own);
	if (told && !observed->closely && !is_its_turn(observe)) {
		d->seen = observed->look;
		d->own = own;
		return true;
	}
	ask(observe, first);
	if (observe->failed && !vm_conn_alive(observe->conn))
		return false;
	if (told)
		check_own_files(observe, now_hash, names_hash);
	d->own_tell = tells(observe, &own);
	d->own = own;
	if (!observe->failed && d->unknown) {
		free(vs_steal(d->unknown));
		observed->changed = true;
	}
	observed->changed |= observe->failed != d->refused;
	d->refused = observe->failed;
	if (!observe->gone)
		d->seen = observed->look;
	return true;
}

/* False: the connection is gone. */
static bool look_at(struct vm_observed *observed, struct vm_conn *conn, const struct vm_hints *hints, virDomainPtr dom,
		    size_t *first)
{
	struct vm_observe observe = { .observed = observed, .conn = conn, .dom = dom };
	char uuid[VIR_UUID_STRING_BUFLEN];
	bool alive, others = observed->changed;

	if (virDomainGetUUIDString(dom, uuid) < 0)
		return true;
	observed->changed = false;
	observe.d = domain_of(observed, uuid, virDomainGetName(dom));
	observe.closer = vm_hints_name(hints, uuid) || is_about(observed, uuid);
	alive = look_at_domain(&observe, virDomainGetName(dom), *first);
	observe.d->changed = observed->changed;
	observed->changed |= others;
	*first += observe.d->n_list;
	return alive;
}

static bool still_there(void *thing, void *opaque)
{
	struct vm_observed_domain *d = thing;
	struct vm_observed *observed = opaque;

	if (d->seen == observed->look)
		return true;
	vm_log(d->log, "the domain disappeared");
	vm_log_shelf_leave(observed->shelf, d->uuid, vs_steal(d->log));
	domain_free(d);
	observed->changed = observed->regrouped = true;
	return false;
}

static bool add_to_list(void *thing, void *opaque)
{
	struct vm_observed *observed = opaque;

	observed->domains[observed->n_domains++] = thing;
	return true;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct vm_observed_domain *const *)a)->name, (*(struct vm_observed_domain *const *)b)->name);
}

static void list_domains(struct vm_observed *observed)
{
	free(observed->domains);
	observed->n_domains = 0;
	observed->domains = xcalloc(observed->by_uuid.n + 1, sizeof(*observed->domains));
	vm_strmap_filter(&observed->by_uuid, add_to_list, observed);
	qsort(observed->domains, observed->n_domains, sizeof(*observed->domains), by_name);
}

/* Of this connection: it may be a new one. */
static void find_own_files(struct vm_observed *observed, struct vm_conn *conn)
{
	vs_autofree char *uri = virConnectGetURI(vm_conn_ptr(conn));

	vm_own_dirs_set(&observed->own, uri);
	observed->own_lies = false;
	vm_conn_dirs_fini(&observed->dirs);
	vm_conn_dirs(vm_conn_ptr(conn), &observed->dirs);
}

struct listed {
	struct vm_observed *observed;
	virConnectPtr conn;
	bool met; /* one of its domains has its definition where they are looked for */
};

/* Is there such a domain, now that its file was seen? */
static bool is_listed(void *opaque, const char *name)
{
	struct listed *listed = opaque;
	struct vm_observed_domain key = { .name = (char *)name }, *at = &key;
	virDomainPtr dom;

	if (listed->observed->n_domains &&
	    bsearch(&at, listed->observed->domains, listed->observed->n_domains, sizeof(at), by_name))
		return listed->met = true;
	dom = virDomainLookupByName(listed->conn, name);
	if (!dom)
		return false;
	virDomainFree(dom);
	return true; /* it has come meanwhile: the next look has it */
}

static uint64_t sum_of_names(const struct vm_observed *observed)
{
	uint64_t h = observed->n_domains;

	for (size_t i = 0; i < observed->n_domains; i++)
		h = vm_ino(h, observed->domains[i]->name);
	return h;
}

/* Definitions that libvirt has and does not list. Where it has some and not one of these lies there the directory is another daemon's (whose socket is seen in a
 * container, say). */
static void look_for_lost(struct vm_observed *observed, struct vm_conn *conn)
{
	struct listed listed = { observed, vm_conn_ptr(conn), false };
	bool news = vm_untold_look(&observed->untold, observed->dirs.definitions, sum_of_names(observed), is_listed, &listed);

	if (news && observed->untold.n && !listed.met && virConnectListAllDomains(listed.conn, NULL, VIR_CONNECT_LIST_DOMAINS_PERSISTENT) > 0)
		vm_untold_disbelieve(&observed->untold);
	if (news)
		observed->changed = observed->regrouped = true;
}

int vm_observe_poll(struct vm_observed *observed, struct vm_conn *conn, const struct vm_hints *hints, struct vs_err *err)
{
	virDomainPtr *doms = NULL;
	size_t first = 0;
	bool alive = true;
	int n = virConnectListAllDomains(vm_conn_ptr(conn), &doms, 0);

	if (n < 0) {
		vm_virterr_set(err, "cannot list the domains");
		return vm_conn_alive(conn) ? vm_virterr_code() : -EHOSTDOWN;
	}
	observed->look++;
	observed->n_listed = (size_t)n;
	observed->n_unread = observed->n_asked = 0;
	observed->changed = observed->jobs = observed->regrouped = false;
	if (hints->all)
		find_own_files(observed, conn);
	observed->began_ns = vm_now_ns();
	vm_own_dirs_look(&observed->own, observed->began_ns);
	for (int i = 0; i < n; i++) {
		alive = alive && look_at(observed, conn, hints, doms[i], &first);
		virDomainFree(doms[i]);
	}
	free(doms);
	if (!alive || !vm_conn_alive(conn))
		return vs_err_set(err, -EHOSTDOWN, "the connection to libvirt broke off");
	vm_strmap_filter(&observed->by_uuid, still_there, observed);
	observed->n_snapshots = first;
	observed->turn = observed->turn + VM_OBSERVE_TURNS < first ? observed->turn + VM_OBSERVE_TURNS : 0;
	list_domains(observed);
	look_for_lost(observed, conn);
	return 0;
}
