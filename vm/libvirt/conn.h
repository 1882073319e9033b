/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * conn.h: one open libvirt connection, with the events that it sends as hints.
 *
 * An event never carries a fact here: it names a domain that is worth a closer look, and kicks. Facts are asked for
 * afterwards. Threads: one, except that kick() is called from libvirt's event thread until vm_conn_close() returns.
 */
#ifndef VS_VM_LIBVIRT_CONN_H
#define VS_VM_LIBVIRT_CONN_H

#include <libvirt/libvirt.h>

#include "qcow2/qcow2.h"

struct vm_conn;

struct vm_conn_options {
	const char *uri; /* NULL: libvirt's default */
	bool read_only;  /* falls back to a full connection where the driver has no other kind */
	void (*kick)(void *opaque);
	void *opaque;
};

/* vm_events_start() comes first. May take as long as libvirtd does. Gives *out. */
int vm_conn_open(const struct vm_conn_options *options, struct vm_conn **out, struct vs_err *err);
void vm_conn_close(struct vm_conn *conn);

/* A connection and nothing around it, as vm_conn_open() makes it: of the caller's own, but for an embedded driver, of which there is one.
 * virConnectClose() it. NULL: it cannot be had, and libvirt's last error says why. */
virConnectPtr vm_conn_plain(const char *uri, bool read_only);
/* Is libvirt's driver this very process, so that nothing goes on in it when the process has gone? */
bool vm_conn_is_in_process(virConnectPtr ptr);

/* Which libvirt this is, however its URI was spelled: the plain URI, without what leads to the same daemon. Gives; NULL: not known. */
char *vm_conn_identity(virConnectPtr ptr);

/* Where the QEMU driver of this connection, or of one with that URI, keeps what is its own and no XML names. Gives; NULL: not known. */
char *vm_conn_state_dir(virConnectPtr ptr);
char *vm_conn_state_dir_of(const char *uri);
/* Where it writes down what it knows. All NULL where that is not known. */
struct vm_conn_dirs {
	char *definitions; /* DOMAIN.xml */
	char *records;     /* DOMAIN/SNAPSHOT.xml */
	char *saves;       /* DOMAIN.save */
	char *checkpoints; /* DOMAIN/CHECKPOINT.xml */
	char *pools;       /* POOL.xml */
};
void vm_conn_dirs(virConnectPtr ptr, struct vm_conn_dirs *out);
void vm_conn_dirs_of(const char *uri, struct vm_conn_dirs *out);
void vm_conn_dirs_fini(struct vm_conn_dirs *dirs);
#define vm_conn_autodirs vs_cleanup(vm_conn_dirs_fini)

virConnectPtr vm_conn_ptr(struct vm_conn *conn); /* borrowed */
/* False once the other side has gone: everything obtained through it is dead. */
bool vm_conn_alive(struct vm_conn *conn);

/* What was hinted at since the last call. */
struct vm_hints {
	bool all;   /* too many to tell */
	bool pools; /* something about storage */
	size_t n;
	char uuids[32][VIR_UUID_STRING_BUFLEN];
};
void vm_conn_hints(struct vm_conn *conn, struct vm_hints *out);
bool vm_hints_name(const struct vm_hints *hints, const char *uuid);

#endif
