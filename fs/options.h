/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copyright (C) 2026 The virt-snapfs authors */
/*
 * options.h: the command line, as CONTRACT "Mounting" and virt-snapfs(8) describe it.
 *
 * Parsing is pure but for user and group names (uid=, gid=) and the working directory. Errors: -EINVAL, with a sentence
 * that names the word it is about, or that of a working directory that is not there any more; the caller ends with status 2.
 */
#ifndef VS_OPTIONS_H
#define VS_OPTIONS_H

#include <stdio.h>
#include <sys/types.h>

#include "qcow2/qcow2.h"

enum sf_cache_mode { SF_CACHE_AUTO, SF_CACHE_NONE, SF_CACHE_KERNEL };

struct sf_options {
	bool help, version; /* nothing else counts then */
	bool foreground, debug;
	bool read_only;     /* `ro` */
	bool allow_other, default_permissions;
	uid_t uid; /* of images, texts and directories */
	gid_t gid;
	mode_t umask;
	double refresh_s;
	unsigned bandwidth_mib; /* MiB/s, 0 = no limit */
	enum sf_cache_mode cache;
	bool leases;            /* `lease=on`: on images that nobody writes to, while they are read */
	unsigned max_read;      /* bytes that the kernel asks for in one request, at most */
	bool list_qcow2, list_diff, list_now; /* directories of what is made are listed */
	bool remount;           /* asked for, and not to be had */
	char *uri;              /* NULL: no URI was given */
	char **images;          /* absolute paths, none twice */
	size_t n_images;
	char **allow_paths;     /* absolute */
	size_t n_allow_paths;
	char *mountpoint;       /* absolute */
	char *mount_options;    /* "noexec,noatime": mount(8)'s own that the kernel is to hear of; or NULL */
};

/* Gives what @out points to, also when it fails: sf_options_fini(). */
int sf_options_parse(int argc, char **argv, struct sf_options *out, struct vs_err *err);
void sf_options_fini(struct sf_options *options);

void sf_options_help(FILE *out);

#endif
