/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * show.h: bytes, times and sizes as people read them. All pure, all safe on hostile input.
 *
 * Names that reach fs/ as *shown* are printable already. Paths, reasons and error texts are not: they may hold any
 * byte. What is not printable UTF-8 in them leaves here as %XX, so that no terminal obeys an image and JSON stays valid.
 */
#ifndef VS_SHOW_H
#define VS_SHOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Bytes of the printable UTF-8 character at @s (terminated), 0 where there is none: control characters (C0, DEL, C1),
 * overlong forms, surrogates and stray bytes. */
size_t sf_show_char(const char *s);

/* Is every character of it one that sf_show_char() accepts? */
bool sf_show_clean(const char *s);

/* Writes @s, what is not printable as %XX; @spaces: blanks too, for columns. */
void sf_show_put(FILE *out, const char *s, bool spaces);

/* The same as a string. Gives. */
char *sf_show_dup(const char *s, bool spaces);

/* Columns that printable UTF-8 takes; one for each character. */
size_t sf_show_width(const char *s);

#define SF_SHOW_TIME 40
/* Local time with its offset: 2026-11-16T02:00:01+00:00. */
void sf_show_time(char out[SF_SHOW_TIME], int64_t time_ns);

#define SF_SHOW_SIZE 24
/* 512 B, 1.2 GiB, 20 GiB: at most three figures, binary units. */
void sf_show_size(char out[SF_SHOW_SIZE], uint64_t bytes);

#endif
