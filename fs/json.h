/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/* json.h: what the files for programs have in common. Each lets go of what it adds to, or nothing: json-c copies keys and owns values. */
#ifndef VS_JSON_H
#define VS_JSON_H

#include <json-c/json.h>
#include <stdio.h>

#include "vm/vm.h"

/* What is not printable as %XX; NULL is null. */
void sf_json_add_text(struct json_object *o, const char *key, const char *text);
void sf_json_add_bool(struct json_object *o, const char *key, bool value);
struct json_object *sf_json_domain(const struct vm_domain *d);
/* Prints and frees a value, as json-c would at that depth. */
void sf_json_print(FILE *out, struct json_object *o, int depth);

#endif
