/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * handle.h: what an open file or directory holds, behind `fh`.
 *
 * A directory keeps the tree that it lists, a text what it said when it was opened, an image its place among the open
 * images, a made file its images and its layout, one of now/ its part in a backup job. All handles are in one list, because an unmount that is forced sends no release, and because what happens to
 * a domain's jobs concerns those who have them open.
 */
#ifndef VS_HANDLE_H
#define VS_HANDLE_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "answer.h"
#include "fuse_api.h"
#include "image.h"
#include "made.h"
#include "now.h"
#include "pages.h"
#include "text.h"

struct sf_handle {
	/* immutable once it is open */
	enum sf_kind kind;
	char *uuid;        /* of a file: its domain's */
	uint64_t *reads;   /* of an image, or of a made file: sf_place_reads() */
	size_t n_reads;
	struct sf_image *image;
	struct sf_made_file *made;
	struct sf_now *now;
	struct sf_pages *pages; /* of a text that is hollow */
	struct sf_key dir;
	/* of a directory of what is made: what it lists of its tree. The kernel reads a directory with one request at a time */
	struct sf_made_name *names;
	size_t n_names;
	/* atomic */
	atomic_uint edition; /* of an image: which one it reads (image.h) */
	/* guarded by the list's lock */
	struct sf_text *text;              /* NULL: opened for writing only. Another one after a write */
	struct sf_answer answer;           /* where that begins */
	char *uncounted;                   /* of retain.plan: the policy that it was made of, if it does not say yet what that frees */
	struct sf_tree *tree;              /* of a directory; another one after rewinddir(3). Of pages: what they are made of */
	uint64_t tried;                    /* a hash of the last text that was written */
	int failed;                        /* a write through it failed with this errno (negative), so no other one is done */
	bool changed;                      /* of `jobs`: they are other ones than when it was opened */
	struct fuse_pollhandle *waiting;   /* of `jobs`: somebody polls it */
	LIST_ENTRY(sf_handle) link;
};

struct sf_handles {
	/* borrowed */
	struct sf_world *world;
	struct sf_images *images;
	struct sf_mades *mades;
	pthread_mutex_t lock;
	LIST_HEAD(, sf_handle) all; /* guarded by lock */
};

void sf_handles_init(struct sf_handles *handles, struct sf_world *world, struct sf_images *images, struct sf_mades *mades);
/* Closes what is still open: after the last request. */
void sf_handles_close_all(struct sf_handles *handles);
void sf_handles_fini(struct sf_handles *handles);

/* Each gives a handle. */
struct sf_handle *sf_handle_open_dir(struct sf_handles *handles, const struct sf_key *dir, struct sf_tree *tree);
struct sf_handle *sf_handle_open_image(struct sf_handles *handles, const struct sf_place *place);
struct sf_handle *sf_handle_open_made(struct sf_handles *handles, const struct sf_place *place);
struct sf_handle *sf_handle_open_now(struct sf_handles *handles, const struct sf_place *place);
/* @reads: with its text. */
struct sf_handle *sf_handle_open_text(struct sf_handles *handles, const struct sf_place *place, bool reads);
/* One that is made in pages, of @tree. */
struct sf_handle *sf_handle_open_pages(struct sf_handles *handles, const struct sf_place *place, struct sf_tree *tree);
/* One that was made already, which is taken. */
struct sf_handle *sf_handle_open_given(struct sf_handles *handles, const struct sf_place *place, struct sf_text *text);
void sf_handle_close(struct sf_handles *handles, struct sf_handle *handle);

/* The tree that this directory lists, as a reference; @rewind: the current one from now on. */
struct sf_tree *sf_handle_tree(struct sf_handles *handles, struct sf_handle *handle, bool rewind);

/* The names of a directory of what is made, of *n, in the tree that it lists; @rewind as above. */
const struct sf_made_name *sf_handle_names(struct sf_handle *handle, const struct sf_place *dir, bool rewind, size_t *n);

/* What a read of *size bytes at @off gets: the text, as a reference, where in it (*at) and how much (*size). NULL: the file was
 * opened for writing only. */
struct sf_text *sf_handle_read(struct sf_handles *handles, struct sf_handle *handle, uint64_t off, size_t *size, size_t *at);
/* The offset of its end, for lseek(2). False: it was opened for writing only. */
bool sf_handle_end(struct sf_handles *handles, struct sf_handle *handle, uint64_t *end);
/* A write at @off was answered, which moved the file's position by @moved bytes (0: it failed): who reads on gets @text, which is
 * taken, from its beginning. NULL: what it said before. */
void sf_handle_answer(struct sf_handles *handles, struct sf_handle *handle, struct sf_text *text, uint64_t off, size_t moved);

/* retain.plan: what it says is of @policy, which is taken, and is to be counted by who reads it. */
void sf_handle_set_uncounted(struct sf_handles *handles, struct sf_handle *handle, char *policy);
/* Is there such a policy? Gives *policy, if that is not NULL, and forgets it, and *plain, the text. */
bool sf_handle_uncounted(struct sf_handles *handles, struct sf_handle *handle, char **policy, struct sf_text **plain);
/* Who reads on gets @text instead of @plain; or, where that is NULL, @policy is uncounted again. Neither, if others have written meanwhile. Takes
 * both. */
void sf_handle_recount(struct sf_handles *handles, struct sf_handle *handle, const struct sf_text *plain, struct sf_text *text, char *policy);

/* Is this to be written? 0; -ECANCELED: a write through this handle has failed before; or what that one failed with, if it was the same
 * text: Python, when it closes a file, writes once more what could not be written, and reports the second error. */
int sf_handle_refusal(struct sf_handles *handles, struct sf_handle *handle, const char *text, size_t len);
/* What was to be written last has failed with that errno (negative). */
void sf_handle_fail(struct sf_handles *handles, struct sf_handle *handle, int rc);

/* poll(2) on `jobs`: have they changed since they were opened? Takes @waiting (may be NULL), to be told when they do. */
bool sf_handle_poll(struct sf_handles *handles, struct sf_handle *handle, struct fuse_pollhandle *waiting);
/* The jobs of that domain changed. Says whether somebody waits to hear of it. */
bool sf_handles_jobs_changed(struct sf_handles *handles, const char *uuid);
/* The notifier: tells those who wait and have reason to wake. */
void sf_handles_wake(struct sf_handles *handles);

#endif
