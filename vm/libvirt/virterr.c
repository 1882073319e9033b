/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "vm/libvirt/virterr.h"

#include <errno.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <string.h>

static const struct {
	int code;
	int err;
} table[] = {
	{ VIR_ERR_NO_MEMORY, ENOMEM },
	{ VIR_ERR_NO_SUPPORT, EOPNOTSUPP },
	{ VIR_ERR_NO_CONNECT, EHOSTDOWN },
	{ VIR_ERR_INVALID_CONN, EHOSTDOWN },
	{ VIR_ERR_INVALID_ARG, EINVAL },
	{ VIR_ERR_OPERATION_FAILED, EIO },
	{ VIR_ERR_OPERATION_DENIED, EACCES },
	{ VIR_ERR_XML_ERROR, EINVAL },
	{ VIR_ERR_RPC, EHOSTDOWN },
	{ VIR_ERR_NO_DOMAIN, ENOENT },
	{ VIR_ERR_AUTH_FAILED, EACCES },
	{ VIR_ERR_AUTH_CANCELLED, EACCES },
	{ VIR_ERR_NO_STORAGE_POOL, ENOENT },
	{ VIR_ERR_NO_STORAGE_VOL, ENOENT },
	{ VIR_ERR_OPERATION_INVALID, EINVAL },
	{ VIR_ERR_CONFIG_UNSUPPORTED, EOPNOTSUPP },
	{ VIR_ERR_OPERATION_TIMEOUT, ETIMEDOUT },
	{ VIR_ERR_NO_DOMAIN_SNAPSHOT, ENOENT },
	{ VIR_ERR_SNAPSHOT_REVERT_RISKY, EPERM },
	{ VIR_ERR_OPERATION_ABORTED, ECANCELED },
	{ VIR_ERR_AUTH_UNAVAILABLE, EACCES },
	{ VIR_ERR_NO_DOMAIN_METADATA, ENOENT },
	{ VIR_ERR_BLOCK_COPY_ACTIVE, EBUSY },
	{ VIR_ERR_OPERATION_UNSUPPORTED, EOPNOTSUPP },
	{ VIR_ERR_ARGUMENT_UNSUPPORTED, EOPNOTSUPP },
	{ VIR_ERR_AGENT_UNRESPONSIVE, EAGAIN },
	{ VIR_ERR_RESOURCE_BUSY, EBUSY },
	{ VIR_ERR_ACCESS_DENIED, EACCES },
};

/* Some codes say too little by themselves: one carries an errno, others hide QEMU's image lock or a full file system. */
static int errno_of(const virError *e)
{
	if (e->code == VIR_ERR_SYSTEM_ERROR)
		switch (e->int1) {
		case ECONNRESET: /* of libvirt's connection with QEMU, say, which was killed */
		case EPIPE:
		case ENOENT: /* a file or a socket: that no domain or snapshot is there has codes of its own */
		case 0:
			return EIO;
		default:
			return e->int1 > 0 ? e->int1 : EIO;
		}
	if (e->code == VIR_ERR_INTERNAL_ERROR && e->message && strstr(e->message, "Failed to get \"write\" lock"))
		return EBUSY;
	if ((e->code == VIR_ERR_INTERNAL_ERROR || e->code == VIR_ERR_OPERATION_FAILED) && e->message &&
	    strstr(e->message, "No space left on device"))
		return ENOSPC;
	for (size_t i = 0; i < VS_ARRAY_LEN(table); i++)
		if (table[i].code == e->code)
			return table[i].err;
	return EIO;
}

int vm_virterr_code(void)
{
	virErrorPtr e = virGetLastError();

	return e && e->code != VIR_ERR_OK ? -errno_of(e) : -EIO;
}

int vm_virterr_set(struct vs_err *err, const char *fmt, ...)
{
	virErrorPtr e = virGetLastError();
	char what[VS_ERR_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return vs_err_set(err, vm_virterr_code(), "%s: %s", what,
			  e && e->message ? e->message : "libvirt gives no reason");
}
