/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * names.h: how names are shown: escaped, unique, and short enough for a file name.
 *
 * A name in libvirt or in a qcow2 table is any bytes without NUL. Shown, `%`, `/`, `~`, control bytes (0..31, 127), bytes
 * that are no valid UTF-8 and a leading `.` are `%XX` in upper-case hex; everything else stays. So a shown name without
 * `~` tells its raw name, and a `~` always starts what was added to tell bearers of one name apart.
 *
 * Source: README.md, "The tree". Pure: no I/O, no state; any thread.
 */
#ifndef VS_VM_MODEL_NAMES_H
#define VS_VM_MODEL_NAMES_H

#include "vm/model/types.h"

#define VM_NAME_MAX 255 /* bytes of a file name, Linux's NAME_MAX */

/* Gives the escaped form of @raw (any bytes; an empty name stays empty). */
char *vm_name_escape(const char *raw);

/* Undoes vm_name_escape() and vm_name_for_table(), for look-ups. -EINVAL: a `%` without two hex digits, or %00. Gives *raw. */
int vm_name_unescape(const char *shown, char **raw);

/* For sentences: control bytes and bytes that are no valid UTF-8 become %XX, all else (also `/` and `%`) stays. Gives. */
char *vm_name_printable(const char *text);

/* One snapshot that wants a shown name. */
struct vm_name_in {
	const char *name;  /* raw */
	const char *id;    /* raw qcow2 id of its (first) table entry; NULL for external snapshots, which have none */
	size_t suffix_len; /* see vm_name_suffix_len(); the shown name fits into VM_NAME_MAX - suffix_len bytes */
	bool force_id;     /* shown with its id even where it is unique: an image source's entry named "current" */
};

/* The longest of ".TARGET.img" over @targets, and ".xml": the bytes that must still fit behind a snapshot's shown name. */
size_t vm_name_suffix_len(const char *const *targets, size_t n_targets);

/*
 * The shown names of all snapshots of one domain, in the order of @in (which decides who is `~2`). A name is shown plain
 * where one snapshot bears it; else every bearer that has an id becomes `name~<id>`, as do empty names and those with
 * force_id. What would be too long is cut between characters and ends in `~<id>` too (in 8 hex digits of a hash of the
 * name for those without an id). Equal results get `~2`, `~3`... All answers differ. Gives every out[i].
 * O(n) even where 65,536 entries bear one name and one id.
 */
void vm_names_shown(const struct vm_name_in *in, size_t n, char **out);

/* Directory names for domains (raw names), or for image sources (stems); equal ones become `~2`, `~3`... in order. As above. */
void vm_names_dirs(const char *const *raw, size_t n, char **out);

/* The stem of an image path: its last component without the last extension. ".qcow2" stays whole. Gives. */
char *vm_name_stem(const char *path);

/* "monday.vda.img", "monday.xml". @shown as above, @target raw. Gives. */
char *vm_name_image_file(const char *shown, const char *target);
char *vm_name_xml_file(const char *shown);
char *vm_name_nv_file(const char *shown, const char *what); /* "nvram" */

#endif
