/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
#include "base.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

int vs_err_set(struct vs_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	assert(code < 0);
	if (!err)
		return code;
	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	return code;
}

void vs_err_prefix(struct vs_err *err, const char *fmt, ...)
{
	char prefix[VS_ERR_MAX];
	size_t n, room;
	va_list ap;

	if (!err || !err->code)
		return;
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof(prefix) - 2, fmt, ap);
	va_end(ap);
	strcat(prefix, ": ");
	n = strlen(prefix);
	room = sizeof(err->msg) - n - 1;
	memmove(err->msg + n, err->msg, strnlen(err->msg, room) + 1);
	err->msg[sizeof(err->msg) - 1] = '\0';
	memcpy(err->msg, prefix, n);
}

const char *vs_err_text(const struct vs_err *err, int code)
{
	if (err && err->code && err->msg[0])
		return err->msg;
	return strerror(code < 0 ? -code : code);
}
