/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * utf8.h: bytes that may be anything, made fit to be printed or to stand in XML.
 *
 * A character is what RFC 3629 allows (no overlong forms, no surrogates, nothing above U+10FFFF), less the two that XML 1.0
 * forbids: U+FFFE and U+FFFF. Pure; any thread.
 */
#ifndef VS_VM_UTIL_UTF8_H
#define VS_VM_UTIL_UTF8_H

#include "qcow2/base.h"

/* Bytes of the character at @p, of which @room bytes may be looked at; 0: there is none. */
size_t vm_utf8_len(const char *p, size_t room);

/* Nothing but characters? */
bool vm_utf8_valid(const char *text);

/*
 * Gives a copy of @text (@len bytes) in which control bytes (0..31, 127), bytes that are no character, and the characters of @also
 * are %XX, in upper case. If `%` is one of them, vm_name_unescape() brings the text back.
 */
char *vm_utf8_escape(const char *text, size_t len, const char *also);

/* The longest beginning of @text, at most @max bytes, that cuts no character. */
size_t vm_utf8_fit(const char *text, size_t len, size_t max);
/* Gives that beginning for a message: escaped, and with "..." where something is missing. */
char *vm_utf8_excerpt(const char *text, size_t len, size_t max);

#endif
