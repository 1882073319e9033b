/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * Callbacks can be on their way in libvirt's event thread while we deregister them. What they are given is therefore not
 * the connection but a small box with a reference for every registration; closing takes the kick out of the box.
 */
#include "vm/libvirt/conn.h"

#include <errno.h>
#include <libxml/uri.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "vm/libvirt/virterr.h"
#include "vm/util/mem.h"

#define KEEPALIVE_S 5
#define KEEPALIVE_COUNT 3

struct box {
	atomic_uint refs;
	atomic_bool closed; /* the other side has gone */
	atomic_bool told;   /* a reference is on_close()'s */

	pthread_mutex_t lock; /* guards the rest; kick is called under it, so that none is running after close */
	void (*kick)(void *opaque);
	void *opaque;
	struct vm_hints hints;
};

struct vm_conn {
	virConnectPtr ptr;
	struct box *box;
	int domain_events[8], pool_events[2];
	size_t n_domain_events, n_pool_events;
};

/* ---------------------------------------------------------------- the box */

static struct box *box_new(const struct vm_conn_options *options)
{
	struct box *box = xcalloc(1, sizeof(*box));

	atomic_init(&box->refs, 1);
	atomic_init(&box->closed, false);
	pthread_mutex_init(&box->lock, NULL);
	box->kick = options->kick;
	box->opaque = options->opaque;
	return box;
}

static struct box *box_ref(struct box *box)
{
	atomic_fetch_add(&box->refs, 1);
	return box;
}

/* Also what libvirt calls when it drops a registration. */
static void box_unref(void *opaque)
{
	struct box *box = opaque;

	if (atomic_fetch_sub(&box->refs, 1) != 1)
		return;
	pthread_mutex_destroy(&box->lock);
	free(box);
}

static void add_hint(struct vm_hints *hints, const char *uuid)
{
	if (vm_hints_name(hints, uuid))
		return;
	if (hints->n == VS_ARRAY_LEN(hints->uuids))
		hints->all = true;
	else
		memcpy(hints->uuids[hints->n++], uuid, VIR_UUID_STRING_BUFLEN);
}

/* @uuid: the domain that it is about, or NULL for anything else. */
static void hint(struct box *box, const char *uuid, bool pools)
{
	pthread_mutex_lock(&box->lock);
	if (uuid)
		add_hint(&box->hints, uuid);
	box->hints.pools |= pools;
	if (box->kick)
		box->kick(box->opaque);
	pthread_mutex_unlock(&box->lock);
}

/* ---------------------------------------------------------------- callbacks, one for each shape that libvirt has */

static void on_domain(virDomainPtr dom, void *opaque)
{
	char uuid[VIR_UUID_STRING_BUFLEN];

	hint(opaque, dom && virDomainGetUUIDString(dom, uuid) == 0 ? uuid : NULL, false);
}

static int on_lifecycle(virConnectPtr c, virDomainPtr dom, int event, int detail, void *opaque)
{
	(void)c;
	(void)event;
	(void)detail;
	on_domain(dom, opaque);
	return 0;
}

static void on_block_job(virConnectPtr c, virDomainPtr dom, const char *disk, int type, int status, void *opaque)
{
	(void)c;
	(void)disk;
	(void)type;
	(void)status;
	on_domain(dom, opaque);
}

static void on_metadata(virConnectPtr c, virDomainPtr dom, int type, const char *uri, void *opaque)
{
	(void)c;
	(void)type;
	(void)uri;
	on_domain(dom, opaque);
}

static void on_device(virConnectPtr c, virDomainPtr dom, const char *alias, void *opaque)
{
	(void)c;
	(void)alias;
	on_domain(dom, opaque);
}

static void on_disk_change(virConnectPtr c, virDomainPtr dom, const char *from, const char *to, const char *alias,
			   int reason, void *opaque)
{
	(void)c;
	(void)from;
	(void)to;
	(void)alias;
	(void)reason;
	on_domain(dom, opaque);
}

static void on_pool_lifecycle(virConnectPtr c, virStoragePoolPtr pool, int event, int detail, void *opaque)
{
	(void)c;
	(void)pool;
	(void)event;
	(void)detail;
	hint(opaque, NULL, true);
}

static void on_pool(virConnectPtr c, virStoragePoolPtr pool, void *opaque)
{
	(void)c;
	(void)pool;
	hint(opaque, NULL, true);
}

static void on_close(virConnectPtr c, int reason, void *opaque)
{
	struct box *box = opaque;

	(void)c;
	(void)reason;
	atomic_store(&box->closed, true);
	hint(box, NULL, false);
}

/* ---------------------------------------------------------------- open and close */

/* A driver that lacks an event is no reason to fail: there is always the poll. */
static void listen_domains(struct vm_conn *conn)
{
	static const struct {
		int id;
		virConnectDomainEventGenericCallback cb;
	} events[] = {
		{ VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle) },
		{ VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, VIR_DOMAIN_EVENT_CALLBACK(on_block_job) },
		{ VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, VIR_DOMAIN_EVENT_CALLBACK(on_metadata) },
		{ VIR_DOMAIN_EVENT_ID_DISK_CHANGE, VIR_DOMAIN_EVENT_CALLBACK(on_disk_change) },
		{ VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, VIR_DOMAIN_EVENT_CALLBACK(on_device) },
		{ VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, VIR_DOMAIN_EVENT_CALLBACK(on_device) },
	};
	_Static_assert(VS_ARRAY_LEN(events) <= VS_ARRAY_LEN(((struct vm_conn *)0)->domain_events), "room for all");

	for (size_t i = 0; i < VS_ARRAY_LEN(events); i++) {
		int id = virConnectDomainEventRegisterAny(conn->ptr, NULL, events[i].id, events[i].cb, box_ref(conn->box),
							  box_unref);

		if (id < 0)
			box_unref(conn->box);
		else
			conn->domain_events[conn->n_domain_events++] = id;
	}
}

static void listen_pools(struct vm_conn *conn)
{
	static const struct {
		int id;
		virConnectStoragePoolEventGenericCallback cb;
	} events[] = {
		{ VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, VIR_STORAGE_POOL_EVENT_CALLBACK(on_pool_lifecycle) },
		{ VIR_STORAGE_POOL_EVENT_ID_REFRESH, VIR_STORAGE_POOL_EVENT_CALLBACK(on_pool) },
	};
	_Static_assert(VS_ARRAY_LEN(events) <= VS_ARRAY_LEN(((struct vm_conn *)0)->pool_events), "room for all");

	for (size_t i = 0; i < VS_ARRAY_LEN(events); i++) {
		int id = virConnectStoragePoolEventRegisterAny(conn->ptr, NULL, events[i].id, events[i].cb,
							       box_ref(conn->box), box_unref);

		if (id < 0)
			box_unref(conn->box);
		else
			conn->pool_events[conn->n_pool_events++] = id;
	}
}

static void end_telling(void *opaque)
{
	struct box *box = opaque;

	if (atomic_exchange(&box->told, false))
		box_unref(box);
}

static void listen_close(struct vm_conn *conn)
{
	atomic_store(&box_ref(conn->box)->told, true);
	if (virConnectRegisterCloseCallback(conn->ptr, on_close, conn->box, end_telling) < 0)
		end_telling(conn->box);
}

/* Where the server is asked and has gone, libvirt keeps the registration: it ends with the call then, or with the connection. A driver that does not
 * know this callback has taken it and never drops it. */
static void listen_close_no_more(struct vm_conn *conn)
{
	if (virConnectUnregisterCloseCallback(conn->ptr, on_close) == 0)
		end_telling(conn->box);
}

/*
 * An embedded driver is this process itself, and each virConnectOpen() registers it once more, for which libvirt has room some twenty
 * times. So there is one connection, which everybody shares: its calls come from any thread, and none waits for another's.
 */
static pthread_mutex_t embed_lock = PTHREAD_MUTEX_INITIALIZER;
static virConnectPtr embed; /* borrowed from the struct vm_conn that opened it */

static bool is_embed(const char *uri)
{
	const char *path;

	if (!uri)
		uri = getenv("LIBVIRT_DEFAULT_URI");
	path = uri ? strstr(uri, ":///embed") : NULL;
	return path && (path[9] == '\0' || path[9] == '?');
}

bool vm_conn_is_in_process(virConnectPtr ptr)
{
	vs_autofree char *uri = virConnectGetURI(ptr);

	return uri && is_embed(uri);
}

/* "socket=/run/x" of "a=b&socket=/run/x", but for where libvirt's own sockets are; NULL: there is none. Gives. */
static char *own_socket(const char *query)
{
	static const char *const usual[] = {"/run/libvirt/libvirt-sock", "/run/libvirt/libvirt-sock-ro", "/run/libvirt/virtqemud-sock",
					    "/run/libvirt/virtqemud-sock-ro"};

	while (query) {
		size_t len = strcspn(query, "&;");

		if (!strncmp(query, "socket=", strlen("socket="))) {
			vs_autofree char *path = xstrndup(query + strlen("socket="), len - strlen("socket="));
			const char *bare = !strncmp(path, "/var/run/", strlen("/var/run/")) ? path + strlen("/var") : path;

			for (size_t i = 0; i < VS_ARRAY_LEN(usual); i++)
				if (!strcmp(bare, usual[i]))
					return NULL;
			return xasprintf("socket=%s", path);
		}
		query = query[len] ? query + len + 1 : NULL;
	}
	return NULL;
}

/* Of a daemon on this host: by which transport, and with which parameters, says nothing. */
char *vm_conn_identity(virConnectPtr ptr)
{
	vs_autofree char *uri = virConnectGetURI(ptr), *socket = NULL;
	char *colon = uri ? strstr(uri, ":///") : NULL, *query = colon ? strchr(colon, '?') : NULL;
	size_t driver = colon ? strcspn(uri, "+:") : 0;

	if (!uri || !colon || is_embed(uri) || (uri[driver] == '+' && strncmp(uri + driver, "+unix:", strlen("+unix:")) != 0))
		return vs_steal(uri);
	if (query)
		*query++ = '\0';
	socket = own_socket(query);
	return xasprintf("%.*s%s%s%s", (int)driver, uri, colon, socket ? "?" : "", socket ? socket : "");
}

static virConnectPtr shared_embed(const char *uri)
{
	virConnectPtr ptr = NULL;

	if (!is_embed(uri))
		return NULL;
	pthread_mutex_lock(&embed_lock);
	if (embed && virConnectRef(embed) == 0)
		ptr = embed;
	pthread_mutex_unlock(&embed_lock);
	return ptr;
}

static void share_embed(const char *uri, virConnectPtr ptr)
{
	pthread_mutex_lock(&embed_lock);
	if (is_embed(uri))
		embed = ptr;
	pthread_mutex_unlock(&embed_lock);
}

static void unshare_embed(virConnectPtr ptr)
{
	pthread_mutex_lock(&embed_lock);
	if (embed == ptr)
		embed = NULL;
	pthread_mutex_unlock(&embed_lock);
}

/* Which host does the URI name? Its files are not those that we see under the same names. Gives; NULL: none. */
static char *host_of(const char *uri)
{
	const char *text = uri ? uri : getenv("LIBVIRT_DEFAULT_URI"), *host = text ? strstr(text, "://") : NULL;
	size_t len = host ? strcspn(host + 3, "/?#") : 0;

	return len ? xstrndup(host + 3, len) : NULL;
}

/* What the parameter @name is, as it stands in the URI. Gives; NULL: there is none. */
static char *parameter(const char *uri, const char *name)
{
	const char *at = uri ? strchr(uri, '?') : NULL;
	size_t len = strlen(name);

	while (at) {
		size_t all = strcspn(++at, "&;#");

		if (all > len && !strncmp(at, name, len) && at[len] == '=')
			return xstrndup(at + len + 1, all - len - 1);
		at = at[all] == '&' || at[all] == ';' ? at + all : NULL;
	}
	return NULL;
}

/* Is that the path of the QEMU driver of a daemon on this very system (or of this process), whatever other parameters it has? By other ways ("+ssh", "+ext")
 * files of the same names may be another one's. */
static bool is_path(const char *uri, const char *path)
{
	const char *at = uri ? strstr(uri, ":///") : NULL;
	size_t driver = at ? (size_t)(at - uri) : 0, len = at ? strcspn(at + 3, "?#") : 0;
	bool local = (driver == 4 && !strncmp(uri, "qemu", 4)) || (driver == 9 && !strncmp(uri, "qemu+unix", 9));

	return local && len == strlen(path) && !strncmp(at + 3, path, len);
}

/* Is there a socket= that is not the one of this user's own daemon? */
static bool has_other_socket(const char *uri)
{
	static const char *const usual[] = {"libvirt-sock", "virtqemud-sock"};
	const char *run = getenv("XDG_RUNTIME_DIR");
	vs_autofree char *path = parameter(uri, "socket");

	for (size_t i = 0; path && run && i < VS_ARRAY_LEN(usual); i++) {
		vs_autofree char *own = xasprintf("%s/libvirt/%s", run, usual[i]);

		if (!strcmp(path, own))
			return false;
	}
	return path;
}

char *vm_conn_state_dir_of(const char *uri)
{
	const char *query = uri ? strchr(uri, '?') : NULL, *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	vs_autofree char *root = parameter(uri, "root"), *other = parameter(uri, "name");
	bool any = has_other_socket(uri);
	vs_autofree char *socket = query ? own_socket(query + 1) : NULL; /* of a daemon that may have others */

	if (is_path(uri, "/embed") && root) {
		vs_autofree char *plain = xmlURIUnescapeString(root, 0, NULL);

		return plain ? xasprintf("%s/lib", plain) : NULL;
	}
	if (other)
		return NULL;
	if (is_path(uri, "/system") && !socket)
		return xstrdup("/var/lib/libvirt");
	if (is_path(uri, "/session") && !any && config && config[0])
		return xasprintf("%s/libvirt/qemu", config);
	if (is_path(uri, "/session") && !any && home)
		return xasprintf("%s/.config/libvirt/qemu", home);
	return NULL;
}

char *vm_conn_state_dir(virConnectPtr ptr)
{
	vs_autofree char *uri = virConnectGetURI(ptr);

	return vm_conn_state_dir_of(uri);
}

void vm_conn_dirs_fini(struct vm_conn_dirs *dirs)
{
	free(dirs->definitions);
	free(dirs->records);
	free(dirs->saves);
	free(dirs->checkpoints);
	free(dirs->pools);
	*dirs = (struct vm_conn_dirs){0};
}

/* @path without its last component, which may be a link. */
static char *parent_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return xstrndup(path, slash ? (size_t)(slash - path) : strlen(path));
}

void vm_conn_dirs_of(const char *uri, struct vm_conn_dirs *out)
{
	vs_autofree char *state = vm_conn_state_dir_of(uri), *parent = state ? parent_of(state) : NULL, *config = NULL, *qemu = NULL;

	*out = (struct vm_conn_dirs){0};
	if (!state)
		return;
	qemu = is_path(uri, "/session") ? xstrdup(state) : xasprintf("%s/qemu", state);
	if (is_path(uri, "/system"))
		config = xstrdup("/etc/libvirt");
	else
		config = is_path(uri, "/session") ? vs_steal(parent) : xasprintf("%s/etc", parent);
	out->definitions = xasprintf("%s/qemu", config);
	out->records = xasprintf("%s/snapshot", qemu);
	out->saves = xasprintf("%s/save", qemu);
	out->checkpoints = xasprintf("%s/checkpoint", qemu);
	out->pools = xasprintf("%s/storage", config);
}

void vm_conn_dirs(virConnectPtr ptr, struct vm_conn_dirs *out)
{
	vs_autofree char *uri = virConnectGetURI(ptr);

	vm_conn_dirs_of(uri, out);
}

static virConnectPtr connect_to(const char *uri, bool read_only, struct vs_err *err)
{
	virConnectPtr ptr = shared_embed(uri);
	vs_autofree char *host = host_of(uri);

	if (ptr)
		return ptr;
	if (host) {
		vs_err_set(err, -EOPNOTSUPP, "'%s' names the host '%s', and the images that are read and written are files of this one: mount it there",
			   uri ? uri : getenv("LIBVIRT_DEFAULT_URI"), host);
		return NULL;
	}
	ptr = read_only ? virConnectOpenReadOnly(uri) : virConnectOpen(uri);
	if (!ptr)
		vm_virterr_set(err, "%s", uri ? uri : "libvirt's default connection");
	if (!ptr && read_only)
		ptr = virConnectOpen(uri);
	if (!ptr && geteuid() != 0 && err && strstr(err->msg, "Permission denied")) {
		const struct vs_err said = *err;

		vs_err_set(err, -EACCES, "%s: this libvirt lets root and, as a rule, the group 'libvirt' in", said.msg);
	}
	if (!ptr && err && strstr(err->msg, "Failed to connect socket") && strstr(err->msg, strerror(ENOENT))) {
		const struct vs_err said = *err;

		vs_err_set(err, said.code, "%s: is libvirtd, or virtqemud, running?", said.msg);
	}
	if (!ptr)
		return NULL;
	virConnectSetKeepAlive(ptr, KEEPALIVE_S, KEEPALIVE_COUNT);
	return ptr;
}

virConnectPtr vm_conn_plain(const char *uri, bool read_only)
{
	return connect_to(uri, read_only, NULL);
}

int vm_conn_open(const struct vm_conn_options *options, struct vm_conn **out, struct vs_err *err)
{
	struct vs_err why = {0};
	virConnectPtr ptr = connect_to(options->uri, options->read_only, &why);
	struct vm_conn *conn;

	if (!ptr)
		return vs_err_set(err, why.code, "%s", why.msg);
	conn = xcalloc(1, sizeof(*conn));
	conn->ptr = ptr;
	conn->box = box_new(options);
	share_embed(options->uri, conn->ptr);
	listen_close(conn);
	listen_domains(conn);
	listen_pools(conn);
	*out = conn;
	return 0;
}

void vm_conn_close(struct vm_conn *conn)
{
	if (!conn)
		return;
	pthread_mutex_lock(&conn->box->lock);
	conn->box->kick = NULL;
	pthread_mutex_unlock(&conn->box->lock);
	for (size_t i = 0; i < conn->n_domain_events; i++)
		virConnectDomainEventDeregisterAny(conn->ptr, conn->domain_events[i]);
	for (size_t i = 0; i < conn->n_pool_events; i++)
		virConnectStoragePoolEventDeregisterAny(conn->ptr, conn->pool_events[i]);
	listen_close_no_more(conn);
	unshare_embed(conn->ptr);
	virConnectClose(conn->ptr);
	box_unref(conn->box);
	free(conn);
}

virConnectPtr vm_conn_ptr(struct vm_conn *conn)
{
	return conn->ptr;
}

bool vm_conn_alive(struct vm_conn *conn)
{
	return !atomic_load(&conn->box->closed) && virConnectIsAlive(conn->ptr) != 0;
}

void vm_conn_hints(struct vm_conn *conn, struct vm_hints *out)
{
	pthread_mutex_lock(&conn->box->lock);
	*out = conn->box->hints;
	conn->box->hints = (struct vm_hints){0};
	pthread_mutex_unlock(&conn->box->lock);
}

bool vm_hints_name(const struct vm_hints *hints, const char *uuid)
{
	if (hints->all)
		return true;
	for (size_t i = 0; i < hints->n; i++)
		if (!strcmp(hints->uuids[i], uuid))
			return true;
	return false;
}
