/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * The libvirt source: a connection that may go away, and an inventory that does not.
 *
 *   connected ── a look fails and the connection is dead ──► away: every domain's log says so, the inventory stays
 *   away ── nothing is tried before `retry_ns`; then connect, wait twice as long after every failure (0.5 s .. 30 s)
 *        ── connected again ──► every domain's log says so, and nothing that was known is taken for granted
 */
#include <errno.h>
#include <string.h>

#include "vm/inventory/poll.h"
#include "vm/inventory/source.h"
#include "vm/libvirt/conn.h"
#include "vm/libvirt/events.h"
#include "vm/util/clock.h"
#include "vm/util/mem.h"

#define RETRY_MIN_NS (VM_NS_PER_S / 2)
#define RETRY_MAX_NS (30 * VM_NS_PER_S)

struct libvirt_source {
	struct vm_source source;
	/* immutable after open */
	char *uri;
	bool read_only;
	void (*kick)(void *opaque);
	void *opaque;

	struct vm_poll *poll;
	struct vm_conn *conn;      /* NULL while away */
	bool fresh;                /* conn has not been looked at yet */
	bool opened;               /* there was a connection once */
	int64_t retry_ns, wait_ns; /* while away: when to try again (steady clock), and how long to wait after that */
};

static int connect_now(struct libvirt_source *s, struct vs_err *err)
{
	struct vm_conn_options options = { .uri = s->uri, .read_only = s->read_only, .kick = s->kick, .opaque = s->opaque };
	int r = vm_conn_open(&options, &s->conn, err);

	if (r < 0)
		return r;
	s->fresh = true;
	if (s->opened)
		vm_poll_say(s->poll, "libvirt is back");
	s->opened = true;
	s->wait_ns = RETRY_MIN_NS;
	s->source.due_ns = 0;
	return 0;
}

static void wait_longer(struct libvirt_source *s)
{
	s->retry_ns = s->source.due_ns = vm_steady_ns() + s->wait_ns;
	s->wait_ns = s->wait_ns * 2 < RETRY_MAX_NS ? s->wait_ns * 2 : RETRY_MAX_NS;
}

/* The first connection's failure is the caller's to report; later ones are waited out. */
static int ensure_connected(struct libvirt_source *s, struct vs_err *err)
{
	int r;

	if (s->conn)
		return 0;
	if (s->opened && vm_steady_ns() < s->retry_ns)
		return vs_err_set(err, -EHOSTDOWN, "libvirt is away");
	r = connect_now(s, err);
	if (r == 0 || !s->opened)
		return r;
	wait_longer(s);
	return -EHOSTDOWN;
}

static void lose_connection(struct libvirt_source *s)
{
	vm_conn_close(vs_steal(s->conn));
	vm_poll_say(s->poll, "libvirt is away: what is shown is as it was last known");
	s->wait_ns = RETRY_MIN_NS;
	wait_longer(s);
}

static int libvirt_look(struct vm_source *source, const struct vm_inventory *prev, struct vm_inventory **out,
			struct vs_err *err)
{
	struct libvirt_source *s = (struct libvirt_source *)source;
	const struct vm_wish wish = { source->closely, source->about, source->first, &source->hurry, &source->asked };
	int r = ensure_connected(s, err);

	if (r < 0)
		return r;
	source->caught_up = prev && vm_poll_is_behind(s->poll);
	r = vm_poll_once(s->poll, s->conn, s->fresh, &wish, prev, out, err);
	s->source.due_ns = r >= 0 && vm_poll_is_behind(s->poll) ? vm_steady_ns() : 0;
	if (r >= 0)
		s->fresh = false;
	else if (!vm_conn_alive(s->conn) && prev)
		lose_connection(s);
	return r;
}

static void libvirt_close(struct vm_source *source)
{
	struct libvirt_source *s = (struct libvirt_source *)source;

	vm_conn_close(s->conn);
	vm_poll_free(s->poll);
	vm_events_stop();
	free(s->uri);
	free(s);
}

static const struct vm_source_ops libvirt_ops = { libvirt_look, libvirt_close };

int vm_source_libvirt(const struct vm_options *options, struct vm_store *store, void (*kick)(void *opaque), void *opaque,
		      struct vm_source **out, struct vs_err *err)
{
	struct libvirt_source *s;
	int r = vm_events_start(err);

	if (r < 0)
		return r;
	s = xcalloc(1, sizeof(*s));
	s->uri = xstrdup_or_null(options->uri);
	s->poll = vm_poll_new(options, store);
	s->source.ops = &libvirt_ops;
	s->read_only = options->read_only;
	s->kick = kick;
	s->opaque = opaque;
	s->wait_ns = RETRY_MIN_NS;
	*out = &s->source;
	return 0;
}
