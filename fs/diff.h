/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * diff.h: what became different from one tree to its successor. Pure.
 */
#ifndef VS_DIFF_H
#define VS_DIFF_H

#include "place.h"

enum sf_what {
	SF_NAME_GONE,    /* @name in @parent: its thing is not in the new tree at all */
	SF_NAME_MOVED,   /* @name in @parent stands for nothing or for another thing; @thing lives on elsewhere */
	SF_ATTR_CHANGED, /* attributes of @thing */
	SF_DATA_CHANGED, /* attributes and content, as far as can be told: other files, or files that were written */
};

struct sf_change {
	enum sf_what what;
	struct sf_key parent; /* of names */
	const char *name;     /* of names; borrowed from the old tree */
	struct sf_key thing;
};

/* Calls @emit for each change, the names of a directory before its attributes. */
void sf_tree_diff(const struct sf_tree *before, const struct sf_tree *after,
		  void (*emit)(void *opaque, const struct sf_change *change), void *opaque);

#endif
