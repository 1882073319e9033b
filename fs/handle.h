/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * handle.h: what an open file or directory holds, behind `fh`.
 *
 * A directory keeps the tree that it lists, a text what it said when it was opened, an image its place among the open
 * images. All handles are in one list, because an unmount that is forced sends no release.
 */
#ifndef VS_HANDLE_H
#define VS_HANDLE_H

#include "tree.h"

struct sf_fs;

struct sf_handle {
	/* immutable */
	enum sf_kind kind;
	struct sf_text *text;   /* of a text: owned */
	struct sf_image *image; /* of an image: a reference */
	struct sf_key dir;      /* of a directory */
	/* guarded by the list's lock */
	struct sf_tree *tree; /* of a directory; another one after rewinddir(3) */
	struct sf_handle *next, **link;
};

struct sf_handles {
	struct sf_fs *fs; /* borrowed */
	pthread_mutex_t lock;
	struct sf_handle *first; /* guarded by lock */
};

void sf_handles_init(struct sf_handles *handles, struct sf_fs *fs);
void sf_handles_fini(struct sf_handles *handles);

/* Each gives *out. -ENOMEM. */
int sf_handle_open_dir(struct sf_handles *handles, const struct sf_key *dir, struct sf_tree *tree,
		       struct sf_handle **out);
int sf_handle_open_text(struct sf_handles *handles, const struct sf_place *place, struct sf_handle **out);
int sf_handle_open_image(struct sf_handles *handles, const struct sf_key *key, struct sf_handle **out);
void sf_handle_close(struct sf_handles *handles, struct sf_handle *handle);

/* The tree that this directory lists, as a reference; @rewind: the current one from now on. */
struct sf_tree *sf_handle_tree(struct sf_handles *handles, struct sf_handle *handle, bool rewind);

#endif
